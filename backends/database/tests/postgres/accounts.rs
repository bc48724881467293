//! Accounts: made, renewed, ended, in good times and in bad.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_conformance::{Postgres, PostgresOptions};
use daypass_contract::{BackendError, Clock as _, Operation, Planned, Presence, Revocation, Terms};
use serde_json::{Value, json};

use crate::{CREATION, Fixture, account};

fn seconds_up(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_works_until_it_is_revoked() {
    let fixture = Fixture::new().await;
    let issued = fixture.issue().await.unwrap();
    let username = issued.data["username"].as_str().unwrap();
    assert!(username.starts_with("v-token-te-app-"), "{username}");
    assert!(issued.renewable && issued.data["password"].as_str().unwrap().len() >= 24);
    assert!(fixture.works(&issued.data));
    assert!(
        !issued
            .handle
            .as_json()
            .contains(issued.data["password"].as_str().unwrap())
    );

    assert_eq!(
        fixture.revoke(&issued.handle).await.unwrap(),
        Revocation::Revoked
    );
    assert_eq!(fixture.login(&issued.data).await, Err("28P01".into()));
    assert_eq!(
        fixture.revoke(&issued.handle).await.unwrap(),
        Revocation::AlreadyGone
    );
    // The default statements drop the role, so no login had to be tried but ours.
    let (username, _) = account(&issued);
    assert_eq!(fixture.refused_logins(&username), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_ends_open_sessions_and_waits_for_their_end() {
    let fixture = Fixture::new().await;
    let issued = fixture.issue().await.unwrap();
    let (username, password) = account(&issued);
    let mut session = fixture
        .server
        .psql(&username, &password, "postgres")
        .args(["--command", "SELECT pg_sleep(600)"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let sessions = format!("pg_stat_activity WHERE usename = '{username}'");
    while fixture.count(&sessions) == 0 {}

    fixture.revoke(&issued.handle).await.unwrap();
    assert_eq!(
        fixture.count("pg_stat_activity WHERE query ~ '^SELECT pg_sleep'"),
        0
    );
    assert!(!session.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_account_owns_in_two_databases_is_handed_over() {
    let fixture = Fixture::new().await;
    hands_over_what_is_owned(&fixture, "root").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_no_superuser_is_enough() {
    let server = Postgres::start();
    server.query(
        "CREATE ROLE maker LOGIN CREATEROLE PASSWORD 'maker-password'; \
         GRANT CREATE ON DATABASE postgres TO maker",
    );
    let fixture = Fixture::on(server).await;
    let maker = json!({"username": "maker", "password": "maker-password"});
    fixture.mounted.write("config/pg", maker).await.unwrap();
    let sql = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'; GRANT maker TO \"{{name}}\"";
    fixture.role(json!({"creation_statements": sql})).await;
    hands_over_what_is_owned(&fixture, "maker").await;
}

async fn hands_over_what_is_owned(fixture: &Fixture, owner: &str) {
    let server = &fixture.server;
    server.query("CREATE DATABASE other");
    for database in ["postgres", "other"] {
        server.query_in(database, "GRANT CREATE ON SCHEMA public TO PUBLIC");
    }
    let issued = fixture.issue().await.unwrap();
    let (username, password) = account(&issued);
    for database in ["postgres", "other"] {
        let sql = "CREATE TABLE kept (n int); GRANT SELECT ON kept TO PUBLIC";
        server
            .query_as(&username, &password, database, sql)
            .unwrap();
    }
    let mut session = server
        .psql(&username, &password, "other")
        .args(["--command", "SELECT pg_sleep(600)"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while fixture.count(&format!("pg_stat_activity WHERE usename = '{username}'")) == 0 {}

    assert_eq!(
        fixture.revoke(&issued.handle).await.unwrap(),
        Revocation::Revoked
    );
    assert!(!session.wait().unwrap().success());
    for database in ["postgres", "other"] {
        let sql = "SELECT tableowner FROM pg_tables WHERE tablename = 'kept'";
        assert_eq!(server.query_in(database, sql), owner, "{database}");
    }
    assert_eq!(
        fixture.count(&format!("pg_roles WHERE rolname = '{username}'")),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_knows_the_end_of_the_lease_and_its_renewals() {
    let fixture = Fixture::new().await;
    let issued = fixture.issue().await.unwrap();
    let (username, _) = account(&issued);
    let end = || -> u64 {
        let sql = "SELECT extract(epoch FROM rolvaliduntil)::bigint FROM pg_roles WHERE rolname";
        let text = fixture.server.query(&format!("{sql} = '{username}'"));
        text.parse().unwrap()
    };
    assert_eq!(end(), seconds_up(issued.terms.ends_at));

    let longer = fixture.mounted.lasting(Duration::from_secs(7200));
    let backend = &fixture.mounted.backend;
    backend.renew(&issued.handle, longer).await.unwrap();
    assert_eq!(end(), seconds_up(longer.ends_at));

    let past = fixture.host.clock.now() - Duration::from_secs(2);
    let ended = Terms {
        ttl: Duration::ZERO,
        ends_at: past,
    };
    backend.renew(&issued.handle, ended).await.unwrap();
    assert!(
        !fixture.works(&issued.data),
        "the database ends it by itself"
    );

    fixture.revoke(&issued.handle).await.unwrap();
    let error = backend.renew(&issued.handle, longer).await.unwrap_err();
    assert!(matches!(error, BackendError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_fails_leaves_nothing() {
    let fixture = Fixture::new().await;
    let cases = [
        (
            "GRANT ALL ON TABLE absent TO \"{{name}}\"",
            "SQLSTATE 42P01: relation \"absent\"",
        ),
        ("SELEKT '{{password}}'", "SQLSTATE 42601: syntax error"),
        ("SELECT 1/0", "SQLSTATE 22012: division by zero"),
        // The message would hold what stands for the password.
        (
            "SELECT '{{password}}'::int",
            "SQLSTATE 22P02; the message quotes the statement",
        ),
    ];
    for (second, want) in cases {
        fixture
            .role(json!({"creation_statements": [CREATION, second]}))
            .await;
        let error = fixture.issue().await.unwrap_err();
        assert!(
            matches!(error, BackendError::Refused { .. }),
            "{second}: {error}"
        );
        assert!(error.to_string().contains(want), "{second}: {error}");
        assert_eq!(
            fixture.count("pg_roles WHERE rolname LIKE 'v-%'"),
            0,
            "{second}"
        );
    }
    // The sessions are as good as before.
    fixture.role(json!({"creation_statements": CREATION})).await;
    fixture.issue().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_statements_of_the_role_are_proved_too() {
    let fixture = Fixture::new().await;
    fixture.server.query(
        "CREATE TABLE late (name text);
        CREATE FUNCTION open_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            EXECUTE format('ALTER ROLE %I LOGIN', NEW.name); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER open_late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION open_late()",
    );
    let drop =
        "REVOKE ALL ON DATABASE postgres FROM \"{{name}}\"; DROP ROLE IF EXISTS \"{{name}}\"";
    let cases = [
        ("drops", drop, Ok(0)),
        (
            "leaves a role that cannot log in",
            "SELECT '{{name}}'",
            Ok(1),
        ),
        (
            "opens it again",
            "ALTER ROLE \"{{name}}\" LOGIN",
            Err("can still log in"),
        ),
        (
            // At the commit, behind the back of whoever looks before it.
            "opens it again late",
            "INSERT INTO late VALUES ('{{name}}')",
            Err("can still log in"),
        ),
        (
            "fails",
            "DROP ROLE \"{{username}}x\"",
            Err("SQLSTATE 42704"),
        ),
    ];
    for (name, sql, want) in cases {
        fixture.role(json!({"revocation_statements": sql})).await;
        let issued = fixture.issue().await.unwrap();
        // The lease keeps the statements it was made with.
        fixture.role(json!({"revocation_statements": []})).await;
        let (username, _) = account(&issued);
        let result = fixture.revoke(&issued.handle).await;
        match want {
            Ok(left) => {
                assert_eq!(result.unwrap(), Revocation::Revoked, "{name}");
                let roles = format!("pg_roles WHERE rolname = '{username}'");
                assert_eq!(fixture.count(&roles), left, "{name}");
                // A login was tried as a part of the revocation, and refused.
                assert_eq!(fixture.refused_logins(&username), 1, "{name}");
                // What was issued is tried too. The server answers so to a role that may not log in
                // once it knows the password, and to one that is not there whatever the password.
                let want = if left == 0 { "28P01" } else { "28000" };
                let login = fixture.login(&issued.data).await;
                assert_eq!(login, Err(want.into()), "{name}");
            }
            Err(want) => {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(want), "{name}: {error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_for_a_creation_whose_answer_was_lost() {
    let fixture = Fixture::new().await;
    let slow = [CREATION, "SELECT pg_sleep(0.7)"];
    fixture.role(json!({"creation_statements": slow})).await;
    let Planned::Leased(plan) = fixture
        .mounted
        .plan(Operation::Read, "creds/app", Value::Null)
        .await
        .unwrap()
    else {
        panic!("creds are leased");
    };
    let handle = plan.handle.clone();
    let issuing = plan.issue(fixture.mounted.lasting(Duration::from_secs(60)));
    let cut = tokio::time::timeout(Duration::from_millis(250), issuing).await;
    assert!(cut.is_err(), "it was still under way");
    assert_eq!(
        fixture.count("pg_roles WHERE rolname LIKE 'v-%'"),
        0,
        "not committed yet"
    );

    // Either the server noticed that we are gone, or it went on: nothing is left in both cases.
    fixture.revoke(&handle).await.unwrap();
    assert_eq!(
        fixture.count("pg_locks WHERE locktype = 'advisory'"),
        0,
        "nothing is under way"
    );
    assert_eq!(fixture.count("pg_roles WHERE rolname LIKE 'v-%'"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_made_at_once_with_grants_on_one_table_do_not_collide() {
    let fixture = Fixture::new().await;
    fixture.server.query("CREATE TABLE shared (n int)");
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{{name}}\"";
    fixture
        .role(json!({"creation_statements": [CREATION, grant]}))
        .await;
    let issue = || async { fixture.issue().await };
    let (a, b, c, d) = tokio::join!(issue(), issue(), issue(), issue());
    let issued = [a, b, c, d].map(Result::unwrap);
    let revoke = |i: usize| fixture.revoke(&issued[i].handle);
    let revoked = tokio::join!(revoke(0), revoke(1), revoke(2), revoke(3));
    for result in [revoked.0, revoked.1, revoked.2, revoked.3] {
        assert_eq!(result.unwrap(), Revocation::Revoked);
    }
    assert_eq!(fixture.count("pg_roles WHERE rolname LIKE 'v-%'"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_never_sees_a_password_unless_it_is_told_to() {
    let server = Postgres::start_with(&PostgresOptions {
        settings: vec![("log_statement", "all")],
        ..PostgresOptions::default()
    });
    let fixture = Fixture::on(server).await;
    fixture
        .mounted
        .write("rotate-root/pg", Value::Null)
        .await
        .unwrap();
    let hashed = fixture.issue().await.unwrap();
    assert!(fixture.works(&hashed.data));
    fixture
        .mounted
        .write("config/pg", json!({"password_authentication": "password"}))
        .await
        .unwrap();
    let plain = fixture.issue().await.unwrap();
    assert!(fixture.works(&plain.data));

    let log = fixture.server.log();
    assert!(log.contains("SCRAM-SHA-256$4096:"));
    assert!(!log.contains(&account(&hashed).1));
    assert!(
        log.contains(&account(&plain).1),
        "else this test would prove nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_creation_that_was_cut_off_is_said() {
    let mut fixture = Fixture::new().await;
    let slow = [CREATION, "SELECT pg_sleep(60)"];
    fixture.role(json!({"creation_statements": slow})).await;

    // The server gives up: nothing was made.
    let short = json!({"request_timeout": "2s"});
    fixture.mounted.write("config/pg", short).await.unwrap();
    let error = fixture.issue().await.unwrap_err();
    assert!(matches!(error, BackendError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("57014"), "{error}");

    // The server goes away: who knows.
    let long = json!({"request_timeout": "60s"});
    fixture.mounted.write("config/pg", long).await.unwrap();
    let issuing = fixture
        .mounted
        .plan(Operation::Read, "creds/app", Value::Null);
    let Planned::Leased(plan) = issuing.await.unwrap() else {
        panic!("creds are leased");
    };
    let handle = plan.handle.clone();
    #[expect(clippy::disallowed_methods, reason = "a test's task is awaited below")]
    let issuing = tokio::spawn(plan.issue(fixture.mounted.lasting(Duration::from_secs(60))));
    while fixture.count("pg_locks WHERE locktype = 'advisory'") == 0 {}
    fixture.server.stop();
    let error = issuing.await.unwrap().err().unwrap();
    assert!(matches!(error, BackendError::Indeterminate(_)), "{error:?}");
    fixture.server.start_again();
    assert_eq!(
        fixture.revoke(&handle).await.unwrap(),
        Revocation::AlreadyGone
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_from_an_answer() {
    let mut fixture = Fixture::new().await;
    let issued = fixture.issue().await.unwrap();
    fixture.server.stop();
    let backend = Arc::clone(&fixture.mounted.backend);
    let longer = fixture.mounted.lasting(Duration::from_secs(7200));
    let handle = &issued.handle;
    for error in [
        fixture.issue().await.unwrap_err(),
        backend.renew(handle, longer).await.unwrap_err(),
        backend.revoke(handle).await.unwrap_err(),
        backend.verify(handle).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, BackendError::Unavailable { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("Connection refused"), "{error}");
    }
    fixture.server.start_again();
    assert_eq!(backend.verify(handle).await.unwrap(), Presence::Present);
    assert_eq!(fixture.revoke(handle).await.unwrap(), Revocation::Revoked);
    assert_eq!(backend.verify(handle).await.unwrap(), Presence::Absent);

    backend.close().await;
}
