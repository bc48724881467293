//! What the tests of the control plane share: a store that crashes, an upstream that fails and hangs
//! when told, a backend over it that is registered beside the real ones, and a world made of these.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daypass_conformance::{ManualClock, SeededEntropy};
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Call, Clock, Credential, Handle, Host, Json, Keys,
    Operation, Plan, Planned, Presence, Reply, Revision, Revocability, Revocation, Secret, Terms,
    TtlWish, async_trait,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::registry::BackendKind;
use super::{
    Answer, Body, ControlPlane, Declarations, Engine, Failure, NewMount, Parts, Quotas, Request,
    Settings,
};
use crate::audit::{self, AuditLog};
use crate::identity::Principal;
use crate::lease::{LeaseId, LeaseRecord, Limits};
use crate::storage::memory::{InMemory, open_barrier};
use crate::storage::seal::{Keeper, Seal};
use crate::storage::{Barrier, Range, Row, Storage, StorageError, WriteBatch};

/// A store whose process dies: from some write on nothing is written any more. The last write may have
/// been kept although its caller was told that it failed.
#[derive(Default)]
pub(crate) struct Crashing {
    inner: InMemory,
    /// Writes until the crash; none is planned at `u64::MAX`.
    left: AtomicU64,
    keep_last: AtomicBool,
    reads_fail: AtomicBool,
    pub(crate) writes: AtomicUsize,
    /// What the next write of a key with that beginning waits for.
    gate: Mutex<Option<(&'static str, Arc<Semaphore>)>>,
    /// Writes that wait at the gate.
    pub(crate) held: AtomicUsize,
}

impl Crashing {
    pub(crate) fn crash_after(&self, writes: u64, keep_last: bool) {
        self.keep_last.store(keep_last, Ordering::SeqCst);
        self.left.store(writes, Ordering::SeqCst);
    }

    pub(crate) fn heal(&self) {
        self.left.store(u64::MAX, Ordering::SeqCst);
        self.reads_fail.store(false, Ordering::SeqCst);
    }

    /// Lets the next write of a key that begins with `prefix` wait for the semaphore that is given back.
    pub(crate) fn hold_write(&self, prefix: &'static str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some((prefix, Arc::clone(&gate)));
        gate
    }

    async fn pass_gate(&self, batch: &WriteBatch) {
        let concerned = |prefix: &str| {
            let mut keys = batch.writes.iter().map(crate::storage::RowWrite::key);
            keys.any(|key| key.starts_with(prefix))
        };
        let gate = self
            .gate
            .lock()
            .unwrap()
            .take_if(|(prefix, _)| concerned(prefix));
        if let Some((_, gate)) = gate {
            self.held.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
        }
    }

    pub(crate) fn fail_reads(&self) {
        self.reads_fail.store(true, Ordering::SeqCst);
    }

    fn readable(&self) -> Result<(), StorageError> {
        if self.reads_fail.load(Ordering::SeqCst) {
            return Err(StorageError::Unavailable("told to fail".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Storage for Crashing {
    async fn get(&self, key: &str) -> Result<Option<Row>, StorageError> {
        self.readable()?;
        self.inner.get(key).await
    }

    async fn rows(&self, range: Range) -> Result<Vec<(String, Row)>, StorageError> {
        self.readable()?;
        self.inner.rows(range).await
    }

    async fn keys(&self, range: Range) -> Result<Vec<String>, StorageError> {
        self.readable()?;
        self.inner.keys(range).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StorageError> {
        self.readable()?;
        self.inner.list(prefix, after, limit).await
    }

    async fn apply(&self, batch: WriteBatch) -> Result<Revision, StorageError> {
        self.pass_gate(&batch).await;
        let died = || Err(StorageError::Unavailable("the process is dead".into()));
        let left = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                u64::MAX => Some(u64::MAX),
                left => Some(left.saturating_sub(1)),
            })
            .unwrap_or_default();
        match left {
            0 => return died(),
            1 => {
                if self.keep_last.load(Ordering::SeqCst) {
                    self.inner.apply(batch).await?;
                }
                return died();
            }
            _ => {}
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.apply(batch).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

/// How the upstream answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Nothing gets through.
    Away,
    /// What is sent is done, its answer lost.
    Mute,
    /// Understands and says no.
    Refusing,
}

/// What the fake backend issues on: it outlives the server that uses it.
#[derive(Default)]
pub(crate) struct Upstream {
    state: Mutex<State>,
    barrier: Mutex<Option<Arc<Barrier>>>,
    /// Calls that reached a handler of the backend.
    pub(crate) handled: AtomicUsize,
    /// Calls of `revoke`.
    pub(crate) revocations: AtomicUsize,
    /// How many run at a time, and the most there were.
    running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
    /// What `issue` waits for, where a test holds it.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// What `revoke` waits for, where a test holds it.
    revoke_gate: Mutex<Option<Arc<Semaphore>>>,
    /// `issue` calls that wait at the gate.
    pub(crate) waiting: AtomicUsize,
    /// Whether a backend over it opens.
    broken: AtomicBool,
    /// Calls of `verify`.
    pub(crate) verifications: AtomicUsize,
    /// Revocations of these names panic.
    pub(crate) panics: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct State {
    live: BTreeSet<String>,
    ever: BTreeSet<String>,
    unleased: Vec<String>,
    mood: Mood,
}

static UPSTREAMS: Mutex<BTreeMap<String, Arc<Upstream>>> = Mutex::new(BTreeMap::new());

impl Upstream {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// Names of the credentials that open something.
    pub(crate) fn live(&self) -> BTreeSet<String> {
        self.state().live.clone()
    }

    /// Every credential ends by itself.
    pub(crate) fn end_all(&self) {
        self.state().live.clear();
    }

    /// Names of all credentials there ever were.
    pub(crate) fn ever(&self) -> BTreeSet<String> {
        self.state().ever.clone()
    }

    /// Credentials that were made before their lease was durable.
    pub(crate) fn unleased(&self) -> Vec<String> {
        self.state().unleased.clone()
    }

    /// Lets `issue` wait until the semaphore that is given back has permits.
    pub(crate) fn hold_issue(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// Lets `revoke` wait until the semaphore that is given back has permits.
    pub(crate) fn hold_revoke(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.revoke_gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    async fn leased(&self, name: &str) -> bool {
        let barrier = self.barrier.lock().unwrap().clone();
        let Some(barrier) = barrier else { return true };
        let leases = barrier.entries("lease/r/", None, 100_000).await.unwrap();
        let quoted = format!("\"{name}\"");
        leases
            .iter()
            .any(|(_, entry)| entry.value.expose_str().unwrap().contains(&quoted))
    }

    async fn make(&self, name: String) -> Result<(), BackendError> {
        if !self.leased(&name).await {
            self.state().unleased.push(name.clone());
        }
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
        }
        self.answer(|state| {
            state.ever.insert(name.clone());
            state.live.insert(name);
        })
    }

    fn answer<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, BackendError> {
        let mut state = self.state();
        match state.mood {
            Mood::Well => Ok(act(&mut state)),
            Mood::Away => Err(BackendError::Unavailable {
                retry_after: None,
                source: "connection refused".into(),
            }),
            Mood::Mute => {
                act(&mut state);
                Err(BackendError::Indeterminate("connection lost".into()))
            }
            Mood::Refusing => Err(BackendError::Refused {
                reason: "not today".into(),
            }),
        }
    }
}

/// The kind `fake`: option `upstream` says which.
pub(super) const KIND: BackendKind = BackendKind {
    name: "fake",
    class: super::registry::Class::Secrets,
    summary: "For tests",
    open: |host| Box::pin(async move { open(host) }),
};

fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    let name = host.options.get("upstream").cloned().unwrap_or_default();
    let upstream = UPSTREAMS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(name)
        .or_default()
        .clone();
    if upstream.broken.load(Ordering::SeqCst) {
        return Err(BackendError::InvalidRole("told not to open".into()));
    }
    Ok(Arc::new(Fake { upstream, host }))
}

struct Fake {
    upstream: Arc<Upstream>,
    host: Host,
}

#[derive(Deserialize, JsonSchema)]
struct CredsRequest {
    #[serde(rename = "role")]
    _role: String,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    ttl: Option<Duration>,
    #[serde(default, with = "daypass_contract::duration::option")]
    #[schemars(with = "Option<String>")]
    max_ttl: Option<Duration>,
}

#[derive(Serialize, JsonSchema)]
struct Creds {
    name: String,
    password: String,
}

#[derive(Deserialize, JsonSchema)]
struct ConfigRequest {
    #[serde(rename = "password")]
    _password: Secret,
    #[serde(default, rename = "size")]
    _size: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
struct NameRequest {
    name: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FakeHandle {
    pub(crate) name: String,
}

#[async_trait]
impl Backend for Fake {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        let mut routes = BackendRoutes::default();
        routes.plan(&self, Operation::Read, "creds/{role}", "Issues.", creds);
        routes.answer(&self, Operation::Write, "config", "Configures.", config);
        routes.answer(&self, Operation::Read, "items/{name}", "Reads.", item);
        routes.answer(&self, Operation::List, "items", "Lists.", items);
        routes.answer(&self, Operation::Write, "items/{name}", "Writes.", item);
        routes.answer(&self, Operation::Read, "fail/{name}", "Fails.", fail);
        routes.answer(&self, Operation::Write, "fail/{name}", "Fails.", fail);
        routes
    }

    fn revocability(&self) -> Revocability {
        Revocability::Immediate
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path {
            "items/new" => Ok(false),
            "fail/exists" => Err(BackendError::Internal("told to fail".into())),
            _ => Ok(true),
        }
    }

    async fn renew(&self, handle: &Handle, _: Terms) -> Result<(), BackendError> {
        let FakeHandle { name } = handle.decode()?;
        let live = self.upstream.answer(|state| state.live.contains(&name))?;
        tokio::task::yield_now().await;
        if live {
            return Ok(());
        }
        Err(BackendError::Refused {
            reason: "no such credential".into(),
        })
    }

    async fn revoke(&self, handle: &Handle) -> Result<Revocation, BackendError> {
        let FakeHandle { name } = handle.decode()?;
        let upstream = &self.upstream;
        upstream.revocations.fetch_add(1, Ordering::SeqCst);
        assert!(
            !upstream
                .panics
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&name),
            "told to panic"
        );
        let gate = upstream.revoke_gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        let running = upstream.running.fetch_add(1, Ordering::SeqCst) + 1;
        upstream.most_running.fetch_max(running, Ordering::SeqCst);
        tokio::task::yield_now().await;
        upstream.running.fetch_sub(1, Ordering::SeqCst);
        let was_there = upstream.answer(|state| state.live.remove(&name))?;
        Ok(if was_there {
            Revocation::Revoked
        } else {
            Revocation::AlreadyGone
        })
    }

    async fn verify(&self, handle: &Handle) -> Result<Presence, BackendError> {
        let FakeHandle { name } = handle.decode()?;
        self.upstream.verifications.fetch_add(1, Ordering::SeqCst);
        let live = self.upstream.answer(|state| state.live.contains(&name))?;
        Ok(if live {
            Presence::Present
        } else {
            Presence::Absent
        })
    }
}

async fn creds(
    fake: Arc<Fake>,
    _: Call,
    request: CredsRequest,
) -> Result<Planned<Creds>, BackendError> {
    fake.upstream.handled.fetch_add(1, Ordering::SeqCst);
    let name = format!("v-{}", hex::encode((*fake.host.entropy).bytes::<8>()));
    let ttl = TtlWish {
        asked: request.ttl,
        default: None,
        max: request.max_ttl,
    };
    let handle = Handle::encode(&FakeHandle { name: name.clone() })?;
    let upstream = Arc::clone(&fake.upstream);
    Ok(Planned::Leased(Plan::new(
        handle,
        ttl,
        move |_| async move {
            upstream.make(name.clone()).await?;
            let password = format!("canary-password-of-{name}");
            Ok(Credential {
                data: Json::of(&Creds { name, password })?,
                warnings: Vec::new(),
            })
        },
    )))
}

async fn config(fake: Arc<Fake>, _: Call, _: ConfigRequest) -> Result<Reply<()>, BackendError> {
    fake.upstream.handled.fetch_add(1, Ordering::SeqCst);
    Ok(Reply::nothing())
}

async fn item(fake: Arc<Fake>, _: Call, _: NameRequest) -> Result<Reply<Value>, BackendError> {
    fake.upstream.handled.fetch_add(1, Ordering::SeqCst);
    Reply::data(&json!({ "value": "canary-item" }))
}

async fn items(
    fake: Arc<Fake>,
    _: Call,
    _: daypass_contract::ListRequest,
) -> Result<Reply<Keys>, BackendError> {
    fake.upstream.handled.fetch_add(1, Ordering::SeqCst);
    Reply::keys(vec!["a".into()])
}

async fn fail(fake: Arc<Fake>, _: Call, request: NameRequest) -> Result<Reply<()>, BackendError> {
    fake.upstream.handled.fetch_add(1, Ordering::SeqCst);
    Err(match request.name.as_str() {
        "refused" => BackendError::Refused {
            reason: "no".into(),
        },
        "away" => BackendError::Unavailable {
            retry_after: None,
            source: "no route".into(),
        },
        "missing" => BackendError::NotFound,
        "unsupported" => BackendError::Unsupported("not here".into()),
        "role" => BackendError::InvalidRole("role is not valid".into()),
        "panic" => panic!("told to panic"),
        _ => BackendError::Internal("told to fail".into()),
    })
}

/// A control plane made of memory, with everything around it that outlives it.
pub(crate) struct World {
    pub(crate) storage: Arc<Crashing>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) entropy: Arc<SeededEntropy>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) settings: Settings,
    /// The text of a root token.
    pub(crate) root: String,
    pub(crate) log: tempfile::TempDir,
    name: String,
}

/// The lease times of a [`World`].
pub(crate) const LIMITS: Limits = Limits {
    default: Duration::from_secs(3600),
    max: Duration::from_secs(86_400),
};

impl World {
    /// With a fake mount at `fake/`.
    pub(crate) async fn new() -> Self {
        let settings = Settings {
            ttl: LIMITS,
            settle: Duration::from_millis(200),
            ..Settings::default()
        };
        Self::with(settings).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        Self::with_log(settings, |dir, clock| {
            AuditLog::open(dir, audit::Options::default(), clock).unwrap()
        })
        .await
    }

    /// With the audit log that `open` opens in a folder.
    pub(crate) async fn with_log(
        settings: Settings,
        open: impl FnOnce(&Path, Arc<ManualClock>) -> Arc<AuditLog>,
    ) -> Self {
        static WORLDS: AtomicUsize = AtomicUsize::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let storage = Arc::new(Crashing::default());
        storage.heal();
        let clock = Arc::new(ManualClock::default());
        let entropy = Arc::new(SeededEntropy::new(7));
        let barrier = open_barrier(
            Arc::<Crashing>::clone(&storage),
            Arc::<ManualClock>::clone(&clock),
            Arc::<SeededEntropy>::clone(&entropy),
        )
        .await
        .unwrap();
        let name = format!("world-{number}");
        let upstream = Arc::new(Upstream::default());
        *upstream.barrier.lock().unwrap() = Some(Arc::clone(&barrier));
        UPSTREAMS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), Arc::clone(&upstream));
        let log = tempfile::tempdir().unwrap();
        let audit = open(log.path(), Arc::clone(&clock));
        let mut world = Self {
            plane: control_plane(
                &barrier,
                &audit,
                &clock,
                &entropy,
                &settings,
                Declarations::default(),
            ),
            storage,
            clock,
            entropy,
            barrier,
            upstream,
            audit,
            settings,
            root: String::new(),
            log,
            name,
        };
        let engine = world.plane.open().await.unwrap();
        let (root, _) = engine.create_root_token("root", None).await.unwrap();
        world.root = root.expose_str().unwrap().to_owned();
        world.mount("fake").await.unwrap();
        world
    }

    pub(crate) fn engine(&self) -> Arc<Engine> {
        self.plane.engine().unwrap()
    }

    /// Mounts a fake at `path`, over this world's upstream.
    pub(crate) async fn mount(&self, path: &str) -> Result<(), Failure> {
        self.mount_over(path, &self.name).await
    }

    /// Mounts a fake at `path`, over the upstream of that name, which is given back.
    pub(crate) async fn mount_over(&self, path: &str, upstream: &str) -> Result<(), Failure> {
        let new = NewMount {
            path: path.into(),
            kind: "fake".into(),
            description: String::new(),
            options: BTreeMap::from([("upstream".into(), upstream.into())]),
            config: super::MountConfig::default(),
            managed: false,
        };
        self.engine().enable_mount(new).await.map(drop)
    }

    /// A second upstream of this world, by name.
    pub(crate) fn other_upstream(&self) -> (String, Arc<Upstream>) {
        let name = format!("{}-other", self.name);
        let upstream = Arc::new(Upstream::default());
        UPSTREAMS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), Arc::clone(&upstream));
        (name, upstream)
    }

    /// Forgets the server as a crash would: nothing that it still tries is kept.
    pub(crate) async fn crash(&mut self, declarations: Declarations) {
        self.storage.crash_after(0, false);
        let old = Arc::clone(&self.plane);
        old.abandon().await;
        self.storage.heal();
        self.plane = control_plane(
            &self.barrier,
            &self.audit,
            &self.clock,
            &self.entropy,
            &self.settings,
            declarations,
        );
        self.plane.open().await.unwrap();
    }

    /// Starts the server over a store that dies after some writes. Gives whether it came up.
    pub(crate) async fn crash_while_opening(
        &mut self,
        declarations: Declarations,
        writes: u64,
    ) -> bool {
        self.plane.abandon().await;
        let plane = control_plane(
            &self.barrier,
            &self.audit,
            &self.clock,
            &self.entropy,
            &self.settings,
            declarations,
        );
        self.storage.crash_after(writes, true);
        let opened = plane.open().await.is_ok();
        plane.abandon().await;
        self.storage.heal();
        opened
    }

    /// A request with the root token.
    pub(crate) async fn ask(
        &self,
        operation: Operation,
        path: &str,
        body: Value,
    ) -> Result<Answer, Failure> {
        self.ask_as(Some(&self.root), operation, path, body).await
    }

    pub(crate) async fn ask_as(
        &self,
        token: Option<&str>,
        operation: Operation,
        path: &str,
        body: Value,
    ) -> Result<Answer, Failure> {
        let request = request(token, operation, path, body);
        self.plane.serve(request).await
    }

    /// Issues from `mount`; gives the lease and the credential's name.
    pub(crate) async fn issue(
        &self,
        token: Option<&str>,
        mount: &str,
        ttl: u64,
    ) -> Result<(LeaseId, String), Failure> {
        let path = format!("{mount}/creds/role");
        let answer = self
            .ask_as(token, Operation::Read, &path, json!({ "ttl": ttl }))
            .await?;
        let Body::Lease(data, lease) = &answer.body else {
            panic!("not a lease");
        };
        let data: Value = serde_json::from_slice(data.expose()).unwrap();
        Ok((
            LeaseId::from_text(&lease.id),
            data["name"].as_str().unwrap().to_owned(),
        ))
    }

    /// Creates a token through the API; gives its text and accessor.
    pub(crate) async fn token(
        &self,
        parent: &str,
        body: Value,
    ) -> Result<(String, String), Failure> {
        let answer = self
            .ask_as(Some(parent), Operation::Write, "auth/token/create", body)
            .await?;
        let Body::Auth(auth) = &answer.body else {
            panic!("not a token");
        };
        Ok((
            auth.client_token.expose_str().unwrap().to_owned(),
            auth.accessor.clone(),
        ))
    }

    pub(crate) async fn principal(&self, token: &str) -> Option<Principal> {
        self.engine()
            .tokens
            .authenticate(&Secret::new(token))
            .await
            .unwrap()
    }

    /// All lease records, by the name of their credential.
    pub(crate) async fn leases(&self) -> BTreeMap<String, (LeaseId, LeaseRecord)> {
        let leases = &self.engine().leases;
        let mut found = BTreeMap::new();
        for id in leases.under("", None, 1_000_000).await.unwrap() {
            if let Some(record) = leases.get(&id).await.unwrap() {
                let FakeHandle { name } = record.handle.decode().unwrap();
                found.insert(name, (id, record));
            }
        }
        found
    }

    /// Waits until nothing on any agenda is due; gives up after `patience`.
    pub(crate) async fn settled_within(&self, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            self.engine().wake_queues();
            if self.due().await == 0 {
                return true;
            }
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn settled(&self) {
        assert!(
            self.settled_within(Duration::from_secs(20)).await,
            "work is stuck"
        );
    }

    /// How many places on the agenda are due.
    pub(crate) async fn due(&self) -> usize {
        let now = daypass_contract::millis::of(self.clock.now());
        let keys = self.barrier.keys("due/", None, 1_000_000).await.unwrap();
        keys.iter()
            .filter(|key| {
                let at = key.split('/').nth(2).unwrap();
                u64::from_str_radix(at, 16).unwrap() <= now
            })
            .count()
    }

    /// Lines of the audit log.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.log_text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn log_text(&self) -> String {
        let mut paths: Vec<_> = std::fs::read_dir(self.log.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap() != "audit.lock")
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .collect()
    }

    /// The records of one request.
    pub(crate) fn records_of(&self, id: &str) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line["request"]["id"] == id);
        lines
    }
}

/// A request as the API hands it over.
pub(crate) fn request(
    token: Option<&str>,
    operation: Operation,
    path: &str,
    body: Value,
) -> Request {
    Request {
        status_only: false,
        id: uuid::Uuid::new_v4().to_string(),
        operation,
        path: path.into(),
        token: token.map(Secret::new),
        fields: match body {
            Value::Object(fields) => fields,
            _ => Map::new(),
        },
        peer: daypass_contract::Peer::default(),
        wrap_ttl: None,
        own: false,
    }
}

fn control_plane(
    barrier: &Arc<Barrier>,
    audit: &Arc<AuditLog>,
    clock: &Arc<ManualClock>,
    entropy: &Arc<SeededEntropy>,
    settings: &Settings,
    declarations: Declarations,
) -> Arc<ControlPlane> {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    ControlPlane::new(Parts {
        seal: Keeper::new(Arc::clone(barrier), Seal::Shamir),
        barrier: Arc::clone(barrier),
        audit: Arc::clone(audit),
        clock,
        entropy: Arc::<SeededEntropy>::clone(entropy),
        settings: settings.clone(),
        system: crate::api::system_routes(),
        declarations,
        quotas: Quotas::default(),
    })
}
