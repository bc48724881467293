//! Rotation of a connection's own password.

use daypass_conformance::{Mounted, Postgres};
use daypass_contract::BackendError;
use serde_json::{Value, json};

use crate::{Fixture, ROOT_PASSWORD, open, real_time};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_another_node_is_seen_at_once() {
    let fixture = Fixture::new().await;
    fixture.issue().await.unwrap();
    let other = Mounted::new(open(&fixture.host).await, &fixture.host);
    other.write("rotate-root/pg", Value::Null).await.unwrap();
    // New sessions need the new password.
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name = 'daypass'";
    fixture.server.query(sql);
    fixture.issue().await.unwrap();
}

/// Each place where a rotation may be cut off, and what is found there: the record with or without the
/// next password, the database with the old or the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_survives_a_crash_after_each_step() {
    let mut fixture = Fixture::new().await;
    let first = ROOT_PASSWORD;
    let logs_in = |server: &Postgres, password: &str| {
        server
            .query_as("root", password, "postgres", "SELECT 1")
            .is_ok()
    };

    // Before anything was stored: nothing happened.
    fixture.host.store.fail_after(0);
    fixture.rotate().await.unwrap_err();
    fixture.restart().await;
    assert!(logs_in(&fixture.server, first));
    fixture.issue().await.unwrap();

    // After the next password was stored, before the database heard of it.
    fixture.mounted.backend.maintain(real_time()).await.unwrap();
    fixture.server.stop();
    let error = fixture.rotate().await.unwrap_err();
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
    fixture.restart().await;
    let again = fixture.mounted.backend.maintain(real_time()).await.unwrap();
    assert!(again.is_some(), "it will be tried again");
    fixture.server.start_again();
    assert!(logs_in(&fixture.server, first));
    fixture.issue().await.unwrap();
    assert!(
        !logs_in(&fixture.server, first),
        "the first use carried it through"
    );

    // After the database changed, before that was stored.
    fixture.host.store.fail_after(1);
    fixture.rotate().await.unwrap_err();
    fixture.restart().await;
    let again = fixture.mounted.backend.maintain(real_time()).await.unwrap();
    assert_eq!(again, None, "the scheduler carried it through");
    fixture.issue().await.unwrap();

    // To the end, twice.
    fixture.rotate().await.unwrap();
    fixture.rotate().await.unwrap();
    fixture.restart().await;
    fixture.issue().await.unwrap();

    // Nobody but the database refuses: the present password stays.
    let refused = [
        ("SELECT '{{password}}'", "did not change the password"),
        (
            "ALTER ROLE absent PASSWORD '{{password}}'",
            "SQLSTATE 42704",
        ),
    ];
    for (sql, want) in refused {
        let body = json!({"root_rotation_statements": sql});
        fixture.mounted.write("config/pg", body).await.unwrap();
        let error = fixture.rotate().await.unwrap_err().to_string();
        assert!(error.contains(want), "{sql}: {error}");
        fixture.restart().await;
        fixture.issue().await.unwrap();
    }
}
