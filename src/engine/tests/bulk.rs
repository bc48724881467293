//! Many at once: a page of tokens or leases shares each durable write.

use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::{Clock as _, Handle, Operation};
use serde_json::json;

use crate::engine::testing::{FakeHandle, Mood, World};
use crate::identity::{NewToken, Principal, Removal, TokenKind, Validity};
use crate::lease::NewLease;

const MANY: usize = 2000;
/// Marking and removing take a few writes for each page of 500, and not one for each item.
const FEW: usize = 40;

impl World {
    async fn writes_of(&self, work: impl Future<Output = ()>) -> usize {
        let before = self.storage.writes.load(Ordering::SeqCst);
        work.await;
        self.storage.writes.load(Ordering::SeqCst) - before
    }

    async fn child(&self, parent: &Principal) -> Principal {
        let validity = Validity {
            ttl: Some(Duration::from_secs(3600)),
            ..Validity::default()
        };
        let new = NewToken {
            kind: TokenKind::Service,
            text: None,
            parent: parent.token.clone(),
            policies: vec!["default".into()],
            path: "auth/token/create".into(),
            display_name: "token".into(),
            meta: std::collections::BTreeMap::new(),
            validity,
            uses: None,
            entity_id: None,
            origin: None,
            role: None,
            bound_cidrs: Vec::new(),
        };
        self.engine().tokens.create(new).await.unwrap().1
    }

    /// A lease of `token` with a credential behind it if `live`.
    async fn lease(&self, number: usize, token: Option<&Principal>) {
        let now = self.clock.now();
        let end = now + Duration::from_secs(3600);
        let mount = self.engine().mounts.at("fake").unwrap().record().id.clone();
        let name = format!("v-{number}");
        let lease = NewLease {
            mount: &mount,
            path: "fake/creds/role",
            handle: Handle::encode(&FakeHandle { name }).unwrap(),
            token: token.and_then(|principal| principal.token.clone()),
            entity_id: None,
            issued_at: now,
            ends_at: end,
            max_ends_at: end,
            renewable: true,
        };
        let (id, _) = self.engine().leases.grant(lease).await.unwrap();
        self.engine().leases.made(&id);
    }
}

#[tokio::test]
async fn a_tree_of_tokens_goes_page_by_page() {
    let world = World::new().await;
    let (root, _) = world.token(&world.root, json!({})).await.unwrap();
    let root = world.principal(&root).await.unwrap();
    let mut tokens = vec![root.clone()];
    for number in 0..MANY {
        // One level of many, and below its first a chain of some.
        let parent = if number < MANY - 50 {
            &root
        } else {
            tokens.last().unwrap()
        };
        let child = world.child(parent).await;
        tokens.push(child);
    }
    world.lease(0, Some(&tokens[7])).await;
    world.lease(1, Some(&tokens[MANY])).await;
    let engine = world.engine();
    let id = root.token.clone().unwrap();
    let started = std::time::Instant::now();
    let writes = world
        .writes_of(async {
            engine
                .revoke_token(&id, Removal::WithChildren)
                .await
                .unwrap();
        })
        .await;
    eprintln!("{MANY} tokens: {writes} writes, {:?}", started.elapsed());
    // The chain is one page for each of its links, and two leases end.
    assert!(writes < FEW + 50 + 10, "{writes}");
    for token in &tokens {
        let id = token.token.as_ref().unwrap();
        assert!(engine.tokens.get(id).await.unwrap().is_none());
    }
    assert_eq!(world.log_text().matches("token.revoked").count(), MANY + 1);
    world.clock.advance(Duration::from_secs(60));
    world.settled().await;
    assert!(world.leases().await.is_empty());
    let left = world.barrier.keys("token/c/", None, 9).await.unwrap();
    assert_eq!(left.len(), 0, "{left:?}");
}

#[tokio::test]
async fn children_are_given_away_page_by_page() {
    let world = World::new().await;
    let (root, _) = world.token(&world.root, json!({})).await.unwrap();
    let root = world.principal(&root).await.unwrap();
    let mut children = Vec::new();
    for _ in 0..MANY {
        children.push(world.child(&root).await.token.unwrap());
    }
    let engine = world.engine();
    let id = root.token.clone().unwrap();
    let writes = world
        .writes_of(async {
            engine
                .revoke_token(&id, Removal::OrphanChildren)
                .await
                .unwrap();
        })
        .await;
    assert!(writes < FEW, "{writes}");
    for id in &children {
        let record = engine.tokens.get(id).await.unwrap().unwrap();
        assert!(record.parent.is_none() && !record.revoked);
    }
}

#[tokio::test]
async fn leases_are_forgotten_page_by_page() {
    for mood in [Mood::Well, Mood::Refusing, Mood::Away] {
        let world = World::new().await;
        for number in 0..MANY {
            world.lease(number, None).await;
        }
        let mount = world
            .engine()
            .mounts
            .at("fake")
            .unwrap()
            .record()
            .id
            .clone();
        for (limit, want) in [(usize::MAX, MANY), (MANY, MANY), (7, 7), (0, 0)] {
            let counted = world.engine().leases.count(&mount, limit).await.unwrap();
            assert_eq!(counted, want);
        }
        // Nobody is still making one.
        world.clock.advance(Duration::from_secs(60));
        world.upstream.set_mood(mood);
        let path = "sys/leases/revoke-force/fake";
        let started = std::time::Instant::now();
        let mut warnings = Vec::new();
        let writes = world
            .writes_of(Box::pin(async {
                let answer = world.ask(Operation::Write, path, json!({})).await.unwrap();
                warnings = answer.warnings;
            }))
            .await;
        eprintln!("{mood:?}: {writes} writes, {:?}", started.elapsed());
        assert!(world.leases().await.is_empty(), "{mood:?}");
        let tries = world.upstream.revocations.load(Ordering::SeqCst);
        let log = world.log_text();
        if mood == Mood::Well {
            assert!(warnings.is_empty());
            assert!(log.matches("lease.revoked").count() >= MANY);
        } else {
            assert!(warnings[0].contains("2000 leases were forgotten"));
            assert_eq!(log.matches("lease.forgotten").count(), MANY, "{mood:?}");
            assert!(writes < FEW, "{mood:?}: {writes}");
        }
        // An upstream that is away is not asked two thousand times.
        assert!(mood != Mood::Away || tries < 100, "{tries}");
        let left = world.barrier.keys("lease/", None, 9).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}
