//! Leases against a model: whatever is asked for, wherever the server dies and however the upstream
//! behaves, no credential is ever without a lease, nothing acknowledged is lost, and in the end the
//! upstream holds exactly what is leased.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use daypass_contract::{Clock as _, Operation};
use proptest::prelude::*;
use serde_json::json;

use crate::engine::Declarations;
use crate::engine::testing::{Mood, World};
use crate::identity::Removal;

#[derive(Clone, Debug)]
enum Step {
    Issue {
        token: usize,
        mount: usize,
        ttl: u64,
    },
    Renew {
        lease: usize,
        increment: u64,
    },
    Revoke {
        lease: usize,
    },
    RevokePrefix {
        mount: usize,
    },
    RevokeToken {
        token: usize,
    },
    Wait {
        seconds: u64,
    },
    Settle,
    Mood(Mood),
    /// The process dies at the nth write from here; some steps later it is started again.
    Crash {
        writes: u64,
        keep_last: bool,
    },
}

const MOUNTS: [&str; 2] = ["fake", "other"];
const TOKENS: usize = 3;
/// Steps that a dead process is still asked to do.
const DYING: usize = 2;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..TOKENS, 0..2_usize, prop_oneof![Just(5), Just(60), Just(3600)])
            .prop_map(|(token, mount, ttl)| Step::Issue { token, mount, ttl }),
        2 => (any::<usize>(), prop_oneof![Just(1), Just(30), Just(7200)])
            .prop_map(|(lease, increment)| Step::Renew { lease, increment }),
        2 => any::<usize>().prop_map(|lease| Step::Revoke { lease }),
        1 => (0..2_usize).prop_map(|mount| Step::RevokePrefix { mount }),
        1 => (0..TOKENS).prop_map(|token| Step::RevokeToken { token }),
        2 => prop_oneof![Just(1), Just(10), Just(61), Just(4000)]
            .prop_map(|seconds| Step::Wait { seconds }),
        2 => Just(Step::Settle),
        2 => prop_oneof![
            3 => Just(Mood::Well), 1 => Just(Mood::Away), 1 => Just(Mood::Mute), 1 => Just(Mood::Refusing),
        ].prop_map(Step::Mood),
        3 => (0..12_u64, any::<bool>())
            .prop_map(|(writes, keep_last)| Step::Crash { writes, keep_last }),
    ]
}

/// What a caller was promised of one credential.
struct Promise {
    lease: String,
    mount: usize,
    token: usize,
    /// It lasts until then at least.
    until: SystemTime,
    /// Somebody tried to revoke it: it may be gone.
    unsure: bool,
    /// Somebody was told that it is revoked: it must be gone.
    revoked: bool,
}

struct Model {
    world: World,
    tokens: Vec<String>,
    promises: BTreeMap<String, Promise>,
    dying: Option<usize>,
}

impl Model {
    async fn new() -> Self {
        let world = World::new().await;
        world.mount("other").await.unwrap();
        let mut tokens = Vec::new();
        for _ in 0..TOKENS {
            tokens.push(world.token(&world.root, json!({})).await.unwrap().0);
        }
        Self {
            world,
            tokens,
            promises: BTreeMap::new(),
            dying: None,
        }
    }

    fn nth(&self, number: usize) -> Option<String> {
        let count = self.promises.len().max(1);
        self.promises.keys().nth(number % count).cloned()
    }

    fn doubt(&mut self, concerned: impl Fn(&Promise) -> bool, revoked: bool) {
        for promise in self.promises.values_mut() {
            if concerned(promise) {
                promise.unsure = true;
                promise.revoked |= revoked;
            }
        }
    }

    async fn take(&mut self, step: Step) {
        let now = self.world.clock.now();
        match step {
            Step::Issue { token, mount, ttl } => {
                let issued = self
                    .world
                    .issue(Some(&self.tokens[token]), MOUNTS[mount], ttl)
                    .await;
                if let Ok((id, name)) = issued {
                    let promise = Promise {
                        lease: id.as_str().to_owned(),
                        mount,
                        token,
                        until: now + Duration::from_secs(ttl),
                        unsure: false,
                        revoked: false,
                    };
                    self.promises.insert(name, promise);
                }
            }
            Step::Renew { lease, increment } => {
                let Some(name) = self.nth(lease) else { return };
                let promise = self.promises.get_mut(&name).unwrap();
                let until = now + Duration::from_secs(increment);
                let body = json!({ "lease_id": promise.lease, "increment": increment });
                let answer = self
                    .world
                    .ask(Operation::Write, "sys/leases/renew", body)
                    .await;
                promise.until = match answer {
                    Ok(_) => until,
                    Err(_) => promise.until.min(until),
                };
            }
            Step::Revoke { lease } => {
                let Some(name) = self.nth(lease) else { return };
                let body = json!({ "lease_id": self.promises[&name].lease });
                let answer = self
                    .world
                    .ask(Operation::Write, "sys/leases/revoke", body)
                    .await;
                let id = self.promises[&name].lease.clone();
                self.doubt(|promise| promise.lease == id, answer.is_ok());
            }
            Step::RevokePrefix { mount } => {
                let path = format!("sys/leases/revoke-prefix/{}/creds", MOUNTS[mount]);
                let answer = self.world.ask(Operation::Write, &path, json!({})).await;
                self.doubt(|promise| promise.mount == mount, answer.is_ok());
            }
            Step::RevokeToken { token } => {
                let Some(principal) = self.principal(token).await else {
                    return;
                };
                let engine = self.world.engine();
                let revoked = engine.revoke_token(&principal, Removal::WithChildren).await;
                self.doubt(|promise| promise.token == token, revoked.is_ok());
                let fresh = self.world.token(&self.world.root, json!({})).await;
                if let (Ok(()), Ok((fresh, _))) = (revoked, fresh) {
                    // The old ones keep their number, which no step asks for any more.
                    for promise in self.promises.values_mut() {
                        if promise.token == token {
                            promise.token = usize::MAX;
                        }
                    }
                    self.tokens[token] = fresh;
                }
            }
            Step::Wait { seconds } => self.world.clock.advance(Duration::from_secs(seconds)),
            Step::Settle if self.dying.is_none() => self.world.settled().await,
            Step::Settle => {}
            Step::Mood(mood) => self.world.upstream.set_mood(mood),
            Step::Crash { writes, keep_last } => {
                if self.dying.is_none() {
                    self.world.storage.crash_after(writes, keep_last);
                    self.dying = Some(DYING);
                }
            }
        }
    }

    async fn principal(&self, token: usize) -> Option<crate::identity::TokenId> {
        self.world.principal(&self.tokens[token]).await?.token
    }

    async fn restart_when_dead(&mut self) {
        self.dying = match self.dying {
            Some(0) => {
                self.world.crash(Declarations::default()).await;
                None
            }
            Some(left) => Some(left - 1),
            None => None,
        };
    }

    /// What holds at every moment.
    async fn check(&self) {
        // In this order: what is made between the two looks has a lease before.
        let live = self.world.upstream.live();
        let leases = self.world.leases().await;
        let now_live = self.world.upstream.live();
        for name in live.intersection(&now_live) {
            assert!(leases.contains_key(name), "{name} lives without a lease");
        }
        let now = self.world.clock.now();
        for (name, promise) in &self.promises {
            if !promise.unsure && now < promise.until {
                assert!(now_live.contains(name), "{name} was promised and is gone");
                assert!(leases.contains_key(name), "the lease of {name} was lost");
            }
        }
        assert_eq!(self.world.upstream.unleased(), Vec::<String>::new());
    }

    async fn end(mut self) {
        self.world.crash(Declarations::default()).await;
        self.world.upstream.set_mood(Mood::Well);
        // Past back-off, and past the time in which an answer may be late.
        self.world.clock.advance(Duration::from_secs(3700));
        self.world.settled().await;
        self.check().await;
        let now = self.world.clock.now();
        let leases = self.world.leases().await;
        let live = self.world.upstream.live();
        assert!(
            live.iter().eq(leases.keys()),
            "upstream {live:?}, leases {:?}",
            leases.keys()
        );
        for (name, (_, record)) in &leases {
            assert_eq!(record.state(now), "active", "{name}");
        }
        for (name, promise) in &self.promises {
            assert!(
                !promise.revoked || !live.contains(name),
                "{name} was revoked and lives"
            );
        }
        self.world.clock.advance(Duration::from_secs(100_000));
        self.world.settled().await;
        assert!(self.world.upstream.live().is_empty());
        assert!(self.world.leases().await.is_empty());
        for index in ["lease/", "due/"] {
            let left = self.world.barrier.keys(index, None, 10).await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_upstream_holds_exactly_what_is_leased(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for step in steps {
                model.take(step).await;
                model.check().await;
                model.restart_when_dead().await;
            }
            model.end().await;
        });
    }
}
