//! What is on the disk of a login's records when it writes, and when its token leaves: by approle, which
//! counts uses itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use daypass_contract::Operation::{Read, Write};
use daypass_contract::{Peer, Secret};
use serde_json::{Value, json};

use crate::audit::testing::Disk;
use crate::audit::{AuditLog, Options};
use crate::engine::testing::{World, request};
use crate::engine::{Answer, Body, Failure, Request, Settings};

struct Robots {
    world: World,
    disk: Arc<Disk>,
    body: Value,
}

impl Robots {
    /// A role with a secret id, and a log on a disk that obeys the test.
    async fn new(token_type: &str, uses: u64) -> Self {
        let disk = Arc::<Disk>::default();
        let on_disk = Arc::clone(&disk);
        let world = World::with_log(Settings::default(), move |dir, _| -> Arc<AuditLog> {
            on_disk.open(dir, Options::default())
        })
        .await;
        let enable = json!({ "type": "approle" });
        world.ask(Write, "sys/auth/approle", enable).await.unwrap();
        let role = json!({ "token_type": token_type, "secret_id_num_uses": uses });
        let path = "auth/approle/role/robot";
        world.ask(Write, path, role).await.unwrap();
        let path = "auth/approle/role/robot/role-id";
        let role_id = data(world.ask(Read, path, json!({})).await.unwrap());
        let path = "auth/approle/role/robot/secret-id";
        let secret_id = data(world.ask(Write, path, json!({})).await.unwrap());
        let body = json!({
            "role_id": role_id["role_id"],
            "secret_id": secret_id["secret_id"],
        });
        Self { world, disk, body }
    }

    fn request(&self) -> Request {
        request(None, Write, "auth/approle/login", self.body.clone())
    }

    /// A login that waits for the disk; gives it once it does.
    async fn held(&self, request: Request) -> tokio::task::JoinHandle<Result<Answer, Failure>> {
        self.disk.hold(true);
        let before = self.disk.syncs.load(Ordering::SeqCst);
        let plane = Arc::clone(&self.world.plane);
        let login = self
            .world
            .plane
            .tasks
            .spawn(async move { plane.serve(request).await });
        while self.disk.syncs.load(Ordering::SeqCst) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        login
    }

    fn writes(&self) -> usize {
        self.world.storage.writes.load(Ordering::SeqCst)
    }
}

fn data(answer: Answer) -> Value {
    match answer.body {
        Body::Data(data) => serde_json::from_slice(data.expose()).unwrap(),
        _ => panic!("no data"),
    }
}

#[tokio::test]
async fn a_login_writes_nothing_before_its_record_is_on_the_disk() {
    let cases = [
        // name                                token      uses  logged in before  wrapped
        ("its token", "service", 0, true, false),
        ("the entity of its first login", "batch", 0, false, false),
        ("a use of the secret id", "batch", 5, true, false),
        ("the wrapping of its token", "batch", 0, true, true),
    ];
    for (name, token_type, uses, before, wrapped) in cases {
        for fails in [false, true] {
            let robots = Robots::new(token_type, uses).await;
            if before {
                robots.world.plane.serve(robots.request()).await.unwrap();
            }
            let writes = robots.writes();
            let mut request = robots.request();
            request.wrap_ttl = wrapped.then_some(Duration::from_secs(60));
            let login = robots.held(request).await;
            assert_eq!(robots.writes(), writes, "{name}");
            robots.disk.sync_fails.store(fails, Ordering::SeqCst);
            robots.disk.hold(false);
            let answer = login.await.unwrap();
            if fails {
                assert!(matches!(answer, Err(Failure::Internal(_))), "{name}");
                assert_eq!(robots.writes(), writes, "{name}");
            } else {
                assert!(answer.is_ok(), "{name}");
                assert!(robots.writes() > writes, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_batch_token_leaves_after_one_sync_that_has_both_records() {
    let robots = Robots::new("batch", 0).await;
    robots.world.plane.serve(robots.request()).await.unwrap();
    let (writes, syncs) = (robots.writes(), robots.disk.syncs.load(Ordering::SeqCst));
    let request = robots.request();
    let id = request.id.clone();
    let login = robots.held(request).await;
    // Whatever it could do without the disk, it has done by then.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!(!login.is_finished());
    let kinds: Vec<_> = robots
        .world
        .records_of(&id)
        .iter()
        .map(|record| record["type"].clone())
        .collect();
    assert_eq!(kinds, ["request", "response"]);
    robots.disk.hold(false);
    let answer = login.await.unwrap().unwrap();
    assert_eq!(robots.disk.syncs.load(Ordering::SeqCst), syncs + 1);
    assert_eq!(
        robots.disk.synced.load(Ordering::SeqCst),
        robots.disk.written.load(Ordering::SeqCst)
    );
    assert_eq!(robots.writes(), writes);
    let Body::Auth(auth) = answer.body else {
        panic!("a login gives a token")
    };
    let token = Secret::new(auth.client_token.expose());
    let engine = robots.world.engine();
    let principal = engine.authenticate(&token).await.unwrap().unwrap();
    let admitted = engine.admit(principal, &Peer::default()).await;
    assert!(admitted.unwrap().is_some());

    let login = robots.held(robots.request()).await;
    robots.disk.sync_fails.store(true, Ordering::SeqCst);
    robots.disk.hold(false);
    let answer = login.await.unwrap();
    assert!(
        matches!(answer, Err(Failure::Internal(_))),
        "a token left without its records"
    );
}
