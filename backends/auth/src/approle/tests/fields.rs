//! Endpoints for single fields.

use daypass_conformance::{Answer, Kind};
use daypass_contract::BackendError;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::fields::FIELDS;
use super::Trial;

/// Where the field is reached at the role `web`.
fn path(pattern: &str) -> String {
    pattern.replace("{role_name}", "web")
}

#[tokio::test]
async fn a_field_is_read_set_and_reset() {
    // field, as it is sent, as it is shown
    let cases = [
        (
            "bind-secret-id",
            "bind_secret_id",
            json!("false"),
            json!(false),
        ),
        (
            "bound-cidr-list",
            "bound_cidr_list",
            json!("1.2.3.4/32"),
            json!(["1.2.3.4/32"]),
        ),
        ("period", "period", json!("10"), json!(10)),
        ("policies", "policies", json!("Q,a"), json!(["a", "q"])),
        ("policies", "token_policies", json!("w"), json!(["w"])),
        (
            "secret-id-bound-cidrs",
            "secret_id_bound_cidrs",
            json!("::1"),
            json!(["::1"]),
        ),
        (
            "secret-id-num-uses",
            "secret_id_num_uses",
            json!("9"),
            json!(9),
        ),
        ("secret-id-ttl", "secret_id_ttl", json!("60s"), json!(60)),
        (
            "token-bound-cidrs",
            "token_bound_cidrs",
            json!("10.1.1.1"),
            json!(["10.1.1.1"]),
        ),
        ("token-max-ttl", "token_max_ttl", json!("1m"), json!(60)),
        ("token-num-uses", "token_num_uses", json!(4), json!(4)),
        ("token-period", "token_period", json!(4), json!(4)),
        (
            "token-policies",
            "token_policies",
            json!(["x"]),
            json!(["x"]),
        ),
        ("token-ttl", "token_ttl", json!("1m"), json!(60)),
    ];
    let changed: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.0).collect();
    let declared = FIELDS.iter().filter(|field| field.can_change);
    assert_eq!(changed.len(), declared.count());
    for (segment, name, sent, shown) in cases {
        let (trial, _) = Trial::with_role(json!({"token_bound_cidrs": "127.0.0.1"})).await;
        let path = format!("role/web/{segment}");
        let read = async || -> Answer { trial.mounted.read(&path).await.unwrap() };
        let fresh = read().await.data;
        let written = trial
            .mounted
            .write(&path, json!({name: sent, "other": 1}))
            .await;
        assert_eq!(written.unwrap().kind, Kind::Nothing, "{segment}");
        assert_eq!(read().await[name], shown, "{segment}");
        trial.mounted.delete(&path).await.unwrap();
        if segment == "token-bound-cidrs" {
            assert_eq!(read().await.data, json!({name: []}));
        } else {
            assert_eq!(read().await.data, fresh, "{segment}");
        }
        // A field of another endpoint is not taken, and none is not enough.
        for body in [
            json!({}),
            json!({name: null}),
            json!({"token_explicit_max_ttl": 1}),
        ] {
            let error = trial.mounted.write(&path, body).await.unwrap_err();
            assert!(
                error.to_string().ends_with("is required"),
                "{segment}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn a_role_that_is_not_there_has_no_fields() {
    let trial = Trial::new().await;
    for field in FIELDS {
        let path = path(field.pattern);
        let read = trial.mounted.read(&path).await;
        assert!(matches!(read, Err(BackendError::NotFound)), "{path}");
        if field.can_change {
            let written = trial
                .mounted
                .write(&path, json!({field.names[0]: "1"}))
                .await;
            assert!(written.is_err(), "{path}");
            assert_eq!(
                trial.mounted.delete(&path).await.unwrap().kind,
                Kind::Nothing
            );
        }
    }
    assert_eq!(trial.keys("role/"), 0);
}

#[test]
fn each_endpoint_describes_its_own_field() {
    let host = daypass_conformance::TestHost::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let backend = runtime.block_on(super::super::open(host.host())).unwrap();
    let routes = backend.routes();
    for field in FIELDS {
        for endpoint in routes
            .iter()
            .filter(|e| e.pattern.as_str() == field.pattern)
        {
            use daypass_contract::Operation::{Delete, Read, Write};
            let names = |schema: schemars::Schema| -> Vec<String> {
                let properties = schema.get("properties").and_then(Value::as_object);
                properties.map_or_else(Vec::new, |fields| fields.keys().cloned().collect())
            };
            let (request, response) = (names((endpoint.request)()), names((endpoint.response)()));
            match endpoint.operation {
                Write => assert_eq!(request.len(), 1 + field.names.len(), "{endpoint:?}"),
                Read => assert!(
                    response
                        .iter()
                        .any(|name| field.names.contains(&name.as_str())),
                    "{endpoint:?}"
                ),
                Delete => assert_eq!(request, ["role_name"], "{endpoint:?}"),
                other => panic!("{other:?} {endpoint:?}"),
            }
        }
    }
}

/// Any value for any field that can be changed: by its endpoint, its name there, and what is sent.
fn change() -> impl Strategy<Value = (String, &'static str, Value)> {
    let fields: Vec<_> = FIELDS.iter().filter(|field| field.can_change).collect();
    let value = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0_u64..100).prop_map(Value::from),
        "[0-9]{1,3}[smh]".prop_map(Value::from),
        "[a-zA-Z]{1,3}(,[a-z]{1,3}){0,2}".prop_map(Value::from),
        "(10|127)\\.[0-9]\\.0\\.[0-9](/(8|32))?".prop_map(Value::from),
        Just(json!([])),
        Just(json!(["10.0.0.0/8", "::1"])),
        Just(Value::Null),
    ];
    (
        prop::sample::select(fields),
        any::<prop::sample::Index>(),
        value,
    )
        .prop_map(|(field, name, value)| (path(field.pattern), *name.get(field.names), value))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn setting_a_field_is_writing_the_role_with_that_field(
        changes in prop::collection::vec(change(), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (by_field, _) = Trial::with_role(json!({})).await;
            let (by_role, _) = Trial::with_role(json!({})).await;
            for (path, name, value) in changes {
                let body = Map::from_iter([(name.to_owned(), value.clone())]);
                let body = Value::Object(body);
                let one = by_field.mounted.write(&path, body.clone()).await;
                let other = by_role.mounted.write("role/web", body).await;
                // A write of a role that says nothing is one; a write of a field is not.
                if !value.is_null() {
                    let says = |answer: Result<Answer, BackendError>| {
                        answer.map(drop).map_err(|error| error.to_string())
                    };
                    prop_assert_eq!(says(one), says(other));
                }
                prop_assert_eq!(
                    by_field.mounted.read("role/web").await.unwrap().data,
                    by_role.mounted.read("role/web").await.unwrap().data
                );
            }
            Ok(())
        })?;
    }
}
