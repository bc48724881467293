//! `kill -9` at random moments while credentials are issued. What was acknowledged is there afterwards,
//! and PostgreSQL holds exactly the users that have a live lease: none is stranded, none is missing.
//!
//! The moments come from a seed that is printed; `DAYPASS_IT_SEED` repeats a run's choices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{Answer, Client};
use crate::server::Server;
use crate::{PATIENCE, database, tools, wait_for};

const KILLS: u32 = 50;
const WORKERS: usize = 3;
/// A round goes on for fewer acknowledged requests than this, and less than so long beyond them: counted in
/// work, so that a busy machine does as much of it as an idle one.
const LONGEST_ROUND: u64 = 24;
const LONGEST_DELAY_MS: u64 = 30;

/// What one worker was told is done.
#[derive(Default)]
struct Acknowledged {
    /// The newest number written to this worker's secret.
    secret: u64,
    /// Accessors of tokens that live.
    tokens: Vec<String>,
    /// Accessors of tokens that were revoked.
    revoked: Vec<String>,
    /// Leases that outlive the test, with their users.
    kept: Vec<(String, String, String)>,
    /// Users whose leases end within seconds.
    passing: usize,
    /// Requests for a kept lease whose answer never came.
    interrupted: usize,
}

/// A small generator, so that a seed repeats every choice.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let given = std::env::var("DAYPASS_IT_SEED").ok();
        let random = || u64::try_from(uuid::Uuid::new_v4().as_u128() >> 64).unwrap();
        let seed = given.map_or_else(random, |seed| seed.parse().expect("a number"));
        eprintln!("DAYPASS_IT_SEED={seed}");
        Self(seed)
    }

    /// SplitMix64.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % end
    }
}

#[test]
fn killed_at_any_moment_it_loses_nothing_and_strands_nobody() {
    if tools::skipped(&["postgresql"]) {
        return;
    }
    let postgres = database::postgres();
    let mut server = Server::start("");
    let root = server.root();
    root.write(
        "sys/mounts/secret",
        &json!({"type": "kv", "options": {"version": "2"}}),
    );
    database::mount(&root, &postgres, "2s");
    database::role(&root, "kept", "1h");

    let mut dice = Dice::new();
    let mut done: Vec<Acknowledged> = (0..WORKERS).map(|_| Acknowledged::default()).collect();
    for round in 0..KILLS {
        let requests = dice.below(LONGEST_ROUND);
        let delay = Duration::from_millis(dice.below(LONGEST_DELAY_MS));
        let client = server.root();
        let (killed, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for (number, done) in done.iter_mut().enumerate() {
                let (client, killed, count) = (&client, &killed, &acknowledged);
                scope.spawn(move || {
                    while !killed.load(Ordering::Relaxed) {
                        if work(client, number, done, count).is_err() {
                            break;
                        }
                    }
                });
            }
            wait_for("the work gets on", PATIENCE, || {
                (acknowledged.load(Ordering::Relaxed) >= requests).then_some(())
            });
            thread::sleep(delay);
            server.kill();
            killed.store(true, Ordering::Relaxed);
        });
        server.start_again();
        nothing_is_lost(&server.root(), &done, round);
    }

    let passing: usize = done.iter().map(|done| done.passing).sum();
    let kept: Vec<_> = done.iter().flat_map(|done| &done.kept).collect();
    let counts = (passing, kept.len());
    eprintln!("acknowledged: {counts:?} leases (passing, kept) in {KILLS} rounds");
    assert!(
        passing > 20 && kept.len() > 20,
        "too little work: {counts:?}"
    );

    let root = server.root();
    wait_for("leases that ended are gone", PATIENCE, || {
        root.list("sys/leases/lookup/database/creds/app/")
            .is_empty()
            .then_some(())
    });
    let mut leases: BTreeSet<_> = root
        .list("sys/leases/lookup/database/creds/kept/")
        .into_iter()
        .collect();
    let mut users = database::issued(&postgres);
    for (lease, user, _) in &kept {
        let name = lease.rsplit('/').next().unwrap();
        assert!(leases.remove(name), "lost: {lease}");
        assert!(users.remove(user), "the user of {lease} is gone");
    }
    // What is left was never acknowledged: a lease that was durable when the server was killed, with its
    // user or just before it. Never a user without a lease.
    assert!(users.len() <= leases.len(), "stranded among {users:?}");
    let interrupted: usize = done.iter().map(|done| done.interrupted).sum();
    assert!(leases.len() <= interrupted, "{leases:?}");
    for (_, user, password) in kept.iter().step_by(kept.len() / 5) {
        postgres
            .query_as(user, password, "postgres", "SELECT 1")
            .unwrap();
    }
    root.write("sys/leases/revoke-prefix/database/creds", &json!({}));
    wait_for("revoked users are gone", PATIENCE, || {
        (database::issued(&postgres) == BTreeSet::new()).then_some(())
    });
    assert_eq!(root.list("sys/leases/lookup/database/creds/kept/"), [""; 0]);
    assert!(server.stop().success());
    server.verify_audit();
}

/// One of each; ends at the first answer that does not come.
fn work(
    client: &Client,
    worker: usize,
    done: &mut Acknowledged,
    count: &AtomicU64,
) -> Result<(), reqwest::Error> {
    let succeeded = |answer: &Answer| {
        assert!((200..300).contains(&answer.status), "{answer}");
        count.fetch_add(1, Ordering::Relaxed);
    };
    let post = |path: &str, body: Value| client.send("POST", path, Some(&body));
    let next = done.secret + 1;
    let written = post(
        &format!("secret/data/{worker}"),
        json!({"data": {"number": next}}),
    )?;
    succeeded(&written);
    done.secret = next;

    let passing = client.send("GET", "database/creds/app", None)?;
    succeeded(&passing);
    done.passing += 1;

    let made = post("auth/token/create", json!({"ttl": "1h"}))?;
    succeeded(&made);
    let accessor = made.text("/auth/accessor");
    if next.is_multiple_of(2) {
        let revoked = post("auth/token/revoke-accessor", json!({"accessor": accessor}))?;
        succeeded(&revoked);
        done.revoked.push(accessor);
    } else {
        done.tokens.push(accessor);
    }

    done.interrupted += 1;
    let kept = client.send("GET", "database/creds/kept", None)?;
    succeeded(&kept);
    done.interrupted -= 1;
    done.kept.push((
        kept.text("/lease_id"),
        kept.text("/data/username"),
        kept.text("/data/password"),
    ));
    Ok(())
}

/// What was acknowledged holds, right after the start.
fn nothing_is_lost(root: &Client, done: &[Acknowledged], round: u32) {
    for (worker, done) in done.iter().enumerate() {
        if done.secret > 0 {
            let read = root.read(&format!("secret/data/{worker}"));
            let found = read.data()["data"]["number"].as_u64().unwrap();
            // The write that was killed may have been done.
            assert!(
                found == done.secret || found == done.secret + 1,
                "round {round}: secret {worker} is {found}, not {}",
                done.secret
            );
        }
        let lookup = |accessor: &String| {
            let body = json!({ "accessor": accessor });
            root.call("POST", "auth/token/lookup-accessor", Some(&body))
                .status
        };
        for accessor in done.tokens.iter().rev().take(5) {
            assert_eq!(lookup(accessor), 200, "round {round}: a token is lost");
        }
        for accessor in done.revoked.iter().rev().take(5) {
            assert_ne!(lookup(accessor), 200, "round {round}: a token is back");
        }
        for (lease, ..) in done.kept.iter().rev().take(5) {
            let body = json!({ "lease_id": lease });
            root.write("sys/leases/lookup", &body);
        }
    }
}
