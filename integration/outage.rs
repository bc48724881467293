//! PostgreSQL goes away while leases end: they wait where everybody can see them, nothing else slows
//! down, and they are gone soon after it is back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::{PATIENCE, database, tools, wait_for};

/// Leases that end during the outage.
const LEASES: usize = 20;
/// How long a kv read may take meanwhile, on a machine with other work.
const QUICK: Duration = Duration::from_millis(500);
/// How soon after an outage what waited is gone.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn leases_that_end_during_an_outage_wait_in_sight_and_end_soon_after() {
    if tools::skipped(&["postgresql"]) {
        return;
    }
    let mut postgres = database::postgres();
    let server = Server::start("");
    let root = server.root();
    root.write("sys/mounts/secret", &json!({"type": "kv"}));
    root.write("secret/app", &json!({"k": "v"}));
    database::mount(&root, &postgres, "5s");
    let leases: Vec<String> = (0..LEASES)
        .map(|_| root.read("database/creds/app").text("/lease_id"))
        .collect();
    assert_eq!(database::issued(&postgres).len(), LEASES);
    postgres.stop();

    let lookup = |lease: &str| {
        root.call(
            "POST",
            "sys/leases/lookup",
            Some(&json!({ "lease_id": lease })),
        )
    };
    let mut slowest = Duration::ZERO;
    wait_for("every lease waits for the upstream", PATIENCE, || {
        let began = Instant::now();
        assert_eq!(root.read("secret/app").data()["k"], "v");
        slowest = slowest.max(began.elapsed());
        let waiting = |lease: &String| {
            let found = lookup(lease);
            assert_eq!(found.status, 200, "a lease was dropped: {found}");
            found.data()["state"] == "revoking" && found.data()["upstream_away_since"].is_string()
        };
        leases.iter().all(waiting).then_some(())
    });
    assert!(slowest < QUICK, "a kv read took {slowest:?}");
    // At least one was tried, and says why it is still there.
    let tried = |lease: &&String| lookup(lease).data()["trouble"]["reason"].is_string();
    wait_for("the reason is told", PATIENCE, || {
        leases.iter().find(tried).map(|_| ())
    });
    let refused = root.call("GET", "database/creds/app", None);
    assert_eq!(refused.status, 503, "{refused}");
    // A revocation by hand answers that it is not done, instead of succeeding.
    let revoked = root.call(
        "PUT",
        "sys/leases/revoke",
        Some(&json!({"lease_id": leases[0]})),
    );
    assert_eq!(revoked.status, 202, "{revoked}");
    assert_ne!(revoked.body["warnings"], Value::Null);

    postgres.start_again();
    assert_eq!(database::issued(&postgres).len(), LEASES);
    wait_for("what waited is gone", SOON, || {
        database::issued(&postgres).is_empty().then_some(())
    });
    wait_for("so are the leases", SOON, || {
        root.list("sys/leases/lookup/database/creds/app/")
            .is_empty()
            .then_some(())
    });
    assert_eq!(root.read("database/creds/app").status, 200);
    server.verify_audit();
}
