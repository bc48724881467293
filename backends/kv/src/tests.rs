//! Both versions as their clients see them: against the recorded answers of OpenBao, against a model,
//! and with a store that fails.

use std::sync::Arc;
use std::time::Duration;

use daypass_conformance::{Answer, Kind, Mounted, Subject, TestHost, run_unleased};
use daypass_contract::route::Found;
use daypass_contract::{Backend, BackendError, Operation, StoreError, async_trait};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

mod model;

async fn mount(version: &str) -> (TestHost, Mounted) {
    let host = TestHost::new().option("version", version);
    let backend = crate::open(host.host()).await.ok().unwrap();
    let mounted = Mounted::new(backend, &host);
    (host, mounted)
}

struct Kv(&'static str);

#[async_trait]
impl Subject for Kv {
    async fn open(&self, host: &TestHost) -> Arc<dyn Backend> {
        let host = host.clone().option("version", self.0);
        crate::open(host.host()).await.ok().unwrap()
    }

    async fn configure(&self, mounted: &Mounted) {
        let path = if self.0 == "1" { "probe" } else { "data/probe" };
        mounted
            .write(path, json!({"data": {"v": 1}}))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn both_versions_conform() {
    run_unleased(&Kv("1")).await;
    run_unleased(&Kv("2")).await;
}

#[tokio::test]
async fn the_option_names_the_version() {
    let has_config = |mounted: &Mounted| {
        let found = mounted.routes.find(Operation::Read, "config");
        matches!(found, Found::Endpoint(endpoint, _) if endpoint.pattern.as_str() == "config")
    };
    let none = crate::open(TestHost::new().host()).await.ok().unwrap();
    assert!(!has_config(&Mounted::new(none, &TestHost::new())));
    assert!(!has_config(&mount("1").await.1));
    assert!(has_config(&mount("2").await.1));
    let host = TestHost::new().option("version", "3");
    assert!(matches!(
        crate::open(host.host()).await,
        Err(BackendError::InvalidRole(_))
    ));
}

/// One line of what `record.py` wrote.
#[derive(Deserialize)]
struct Record {
    request: String,
    status: u16,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    errors: Vec<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Texts that are the peer's framework's, or name what its own command is called.
const NOT_OURS: [&str; 6] = [
    "error parsing check-and-set parameter",
    "error converting input",
    "Field validation failed",
    "1 error occurred",
    "custom_metadata validation failed",
    "Invalid path for a versioned",
];

async fn replay(version: &str, records: &str) {
    let (host, mounted) = mount(version).await;
    for line in records.lines() {
        // The peer's clock moves between requests.
        host.clock.advance(Duration::from_millis(1));
        let record: Record = serde_json::from_str(line).unwrap();
        let name = &record.request;
        let mut words = name.splitn(3, ' ');
        let operation = match words.next().unwrap() {
            "GET" => Operation::Read,
            "LIST" => Operation::List,
            "POST" | "PUT" => Operation::Write,
            "PATCH" => Operation::Patch,
            "DELETE" => Operation::Delete,
            method => panic!("{method}"),
        };
        let target = words.next().unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let body = words.next().unwrap_or("{}");
        let mut fields: Map<String, Value> = serde_json::from_str(body).unwrap();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            fields.insert(name.into(), value.into());
        }

        let answer = match mounted.routes.find(operation, path) {
            Found::Endpoint(..) => mounted.request(operation, path, fields.into()).await,
            Found::OtherOperations(_) => {
                assert_eq!(record.status, 405, "{name}");
                continue;
            }
            Found::Nothing => Err(BackendError::NotFound),
        };
        let (status, data, warnings, error) = match answer {
            Ok(answer) => {
                let status = match answer.kind {
                    Kind::Nothing if answer.warnings.is_empty() => 204,
                    Kind::Nothing | Kind::Data => 200,
                    Kind::Absent => 404,
                    Kind::Raw => panic!("{name}"),
                };
                (
                    status,
                    without_times(&answer),
                    answer.warnings,
                    String::new(),
                )
            }
            Err(BackendError::NotFound) => (404, String::new(), Vec::new(), String::new()),
            Err(BackendError::InvalidRequest(text)) => (400, String::new(), Vec::new(), text),
            Err(error) => panic!("{name}: {error}"),
        };
        assert_eq!(status, record.status, "{name}: {error}");
        let want = record.data.as_ref().map_or("", |data| data.get());
        assert_eq!(data, want, "{name}");
        let ours = |text: &&String| !NOT_OURS.iter().any(|theirs| text.contains(theirs));
        if let Some(want) = record.errors.iter().find(ours) {
            assert_eq!(&error, want, "{name}");
        }
        for want in record
            .warnings
            .iter()
            .filter(|text| text.contains("mandated"))
        {
            assert_eq!(&warnings, std::slice::from_ref(want), "{name}");
        }
    }
}

/// The answer's data, byte for byte but for its instants.
fn without_times(answer: &Answer) -> String {
    let text = String::from_utf8(answer.bytes.clone()).unwrap();
    let is_instant =
        |part: &&str| part.len() >= 20 && part.starts_with("20") && part.ends_with('Z');
    let parts = text.split('"');
    parts
        .map(|part| Some(part).filter(is_instant).map_or(part, |_| "<time>"))
        .collect::<Vec<_>>()
        .join("\"")
}

#[tokio::test]
async fn v1_answers_as_openbao_does() {
    replay("1", include_str!("../testdata/v1.jsonl")).await;
}

#[tokio::test]
async fn v2_answers_as_openbao_does() {
    replay("2", include_str!("../testdata/v2.jsonl")).await;
}

fn refusal(outcome: Result<Answer, BackendError>) -> String {
    match outcome {
        Err(BackendError::InvalidRequest(text)) => text,
        Err(error) => panic!("{error:?}"),
        Ok(answer) => panic!("{answer:?}"),
    }
}

/// Where OpenBao accepts what cannot be meant.
#[tokio::test]
async fn where_we_are_stricter_the_error_says_what_to_do() {
    let (_, kv) = mount("2").await;
    let typo = json!({"data": {"v": 1}, "options": {"cass": 1}});
    assert_eq!(
        refusal(kv.write("data/a", typo).await),
        "field \"options.cass\": is not known here; did you mean \"cas\"?"
    );
    let negative = json!({"max_versions": -1});
    assert_eq!(
        refusal(kv.write("config", negative.clone()).await),
        "field \"max_versions\": expected u32"
    );
    assert_eq!(
        refusal(kv.write("metadata/a", negative).await),
        "field \"max_versions\": expected u32"
    );
    let text = refusal(kv.write("data/a//b", json!({"data": {}})).await);
    assert!(text.contains("must not have an empty segment"), "{text}");
    let centuries = json!({"delete_version_after": "9999999h"});
    let text = refusal(kv.write("config", centuries).await);
    assert!(text.contains("a hundred years"), "{text}");
}

#[tokio::test]
async fn a_v1_secret_may_have_a_field_of_any_name() {
    let (_, kv) = mount("1").await;
    let secret =
        json!({"path": "/bin", "list": "x", "after": 1, "limit": 2, "version": "3", "": 4});
    kv.write("a", secret.clone()).await.unwrap();
    assert_eq!(kv.read("a").await.unwrap().data, secret);
    let Found::Endpoint(endpoint, _) = kv.routes.find(Operation::Write, "a") else {
        panic!("a route");
    };
    let names = ["path".to_owned(), "anything".to_owned()];
    assert_eq!(endpoint.unknown_fields(names.iter()), Vec::<String>::new());
}

#[tokio::test]
async fn the_path_of_the_request_wins_over_a_field_of_that_name() {
    let (_, kv) = mount("1").await;
    let body = json!({"path_below_mount": "other", "v": 1});
    kv.write("a", body).await.unwrap();
    assert_eq!(kv.read("a").await.unwrap().data, json!({"v": 1}));
    let (_, kv) = mount("2").await;
    let body = json!({"path": "other", "data": {"v": 1}});
    kv.write("data/a", body).await.unwrap();
    assert_eq!(
        kv.list("metadata").await.unwrap().data,
        json!({"keys": ["a"]})
    );
}

#[tokio::test]
async fn a_number_comes_back_as_it_was_sent() {
    for (version, path) in [("1", "n"), ("2", "data/n")] {
        let (_, kv) = mount(version).await;
        let numbers = r#"{"a":9007199254740993,"b":-9223372036854775808,"c":18446744073709551615,"d":0.1,"e":1e-9}"#;
        let numbers: Value = serde_json::from_str(numbers).unwrap();
        kv.write(path, json!({"data": numbers})).await.unwrap();
        let text = String::from_utf8(kv.read(path).await.unwrap().bytes).unwrap();
        assert!(text.contains(&numbers.to_string()), "{text}");
    }
}

#[tokio::test]
async fn exists_tells_create_from_update() {
    let (_, kv) = mount("1").await;
    kv.write("a/b", json!({"v": 1})).await.unwrap();
    for (path, want) in [("a/b", true), ("a", false), ("a/b/", true), ("x", false)] {
        assert_eq!(kv.backend.exists(path).await.unwrap(), want, "v1 {path}");
    }
    let (_, kv) = mount("2").await;
    kv.write("data/a/b", json!({"data": {}})).await.unwrap();
    let cases = [
        ("data/a/b", true),
        ("metadata/a/b", true),
        ("data/a", false),
        ("metadata/x", false),
        ("config", true),
        ("destroy/x", true),
    ];
    for (path, want) in cases {
        assert_eq!(kv.backend.exists(path).await.unwrap(), want, "v2 {path}");
    }
}

#[tokio::test]
async fn a_version_is_deleted_when_its_time_has_come_and_lives_again_when_undeleted() {
    let (host, kv) = mount("2").await;
    let after = json!({"delete_version_after": "90s"});
    kv.write("metadata/a", after).await.unwrap();
    let written = kv.write("data/a", json!({"data": {"v": 1}})).await.unwrap();
    assert_eq!(written["created_time"], "2026-01-01T00:00:00Z");
    assert_eq!(written["deletion_time"], "2026-01-01T00:01:30Z");
    host.clock.advance(Duration::from_millis(89_999));
    assert_eq!(kv.read("data/a").await.unwrap().kind, Kind::Data);
    host.clock.advance(Duration::from_millis(1));
    let gone = kv.read("data/a").await.unwrap();
    assert_eq!((gone.kind, &gone["data"]), (Kind::Absent, &Value::Null));

    kv.write("undelete/a", json!({"versions": [1]}))
        .await
        .unwrap();
    let back = kv.read("data/a").await.unwrap();
    assert_eq!(back["data"], json!({"v": 1}));
    assert_eq!(back["metadata"]["deletion_time"], "2026-01-01T00:03:00Z");
    let never = json!({"delete_version_after": "-1s"});
    kv.write("config", never).await.unwrap();
    kv.write("undelete/a", json!({"versions": [1]}))
        .await
        .unwrap();
    let back = kv.read("data/a").await.unwrap();
    assert_eq!(back["metadata"]["deletion_time"], "");
}

#[tokio::test]
async fn a_read_is_two_gets_and_a_write_is_one_batch() {
    let (host, kv) = mount("2").await;
    let cost = || (host.store.gets(), host.store.batches());
    let write = json!({"data": {"v": 1}});
    let before = cost();
    kv.write("data/a", write.clone()).await.unwrap();
    assert_eq!(cost(), (before.0 + 2, before.1 + 1), "write");
    let before = cost();
    kv.read("data/a").await.unwrap();
    assert_eq!(cost(), (before.0 + 2, before.1), "read");
    let before = cost();
    kv.patch("data/a", write).await.unwrap();
    assert_eq!(cost(), (before.0 + 3, before.1 + 1), "patch");
    let before = cost();
    kv.write("destroy/a", json!({"versions": [1, 2]}))
        .await
        .unwrap();
    assert_eq!(cost(), (before.0 + 1, before.1 + 1), "destroy");
    let before = cost();
    kv.write("delete/a", json!({"versions": [1, 99]}))
        .await
        .unwrap();
    assert_eq!(cost(), (before.0 + 1, before.1), "nothing to delete");
}

#[tokio::test]
async fn a_value_that_is_destroyed_or_pruned_is_no_longer_stored() {
    let (host, kv) = mount("2").await;
    let values = ["first-value", "second-value", "third-value"];
    kv.write("metadata/a", json!({"max_versions": 2}))
        .await
        .unwrap();
    for value in values {
        kv.write("data/a", json!({"data": {"v": value}}))
            .await
            .unwrap();
    }
    let stored = || values.map(|value| host.store.holds(value.as_bytes()));
    assert_eq!(stored(), [false, true, true], "pruned");
    kv.write("destroy/a", json!({"versions": [2]}))
        .await
        .unwrap();
    assert_eq!(stored(), [false, false, true], "destroyed");
    kv.delete("data/a").await.unwrap();
    assert_eq!(stored(), [false, false, true], "deleted");
    kv.delete("metadata/a").await.unwrap();
    assert_eq!(host.store.keys(), Vec::<String>::new(), "metadata deleted");
}

#[tokio::test]
async fn a_write_decides_again_when_another_was_faster_but_not_for_ever() {
    let (host, kv) = mount("2").await;
    let body = json!({"data": {"v": 1}});
    host.store.conflict(5);
    kv.write("data/a", body.clone()).await.unwrap();
    host.store.conflict(5);
    assert_eq!(
        kv.patch("data/a", body.clone()).await.unwrap()["version"],
        2
    );
    for (operation, path) in [
        (Operation::Write, "data/a"),
        (Operation::Delete, "data/a"),
        (Operation::Delete, "metadata/a"),
    ] {
        host.store.conflict(usize::MAX);
        let outcome = kv.request(operation, path, body.clone()).await;
        assert!(
            matches!(outcome, Err(BackendError::Store(StoreError::Conflict))),
            "{operation:?} {path}"
        );
    }
    host.store.heal();
    assert_eq!(kv.read("data/a").await.unwrap()["metadata"]["version"], 2);
}

#[tokio::test]
async fn of_writes_at_once_with_one_cas_one_succeeds_and_without_all_do() {
    let (_, kv) = mount("2").await;
    let kv = Arc::new(kv);
    let write = |options: Value| {
        let writers = (0..16).map(|n| {
            let kv = Arc::clone(&kv);
            let body = json!({"data": {"n": n}, "options": options});
            async move { kv.write("data/a", body).await.is_ok() }
        });
        let mut set = tokio::task::JoinSet::new();
        for writer in writers {
            set.spawn(writer);
        }
        set.join_all()
    };
    let won = write(json!({"cas": 0})).await;
    assert_eq!(won.into_iter().filter(|won| *won).count(), 1);
    let won = write(json!({})).await;
    assert_eq!(won.into_iter().filter(|won| *won).count(), 16);
    assert_eq!(kv.read("data/a").await.unwrap()["metadata"]["version"], 17);
}
