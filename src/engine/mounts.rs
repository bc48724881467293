//! The mount table: a path, a configured backend, its routes, and the worker that ends its leases.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use daypass_contract::{
    Backend, BackendError, BackendRoutes, Batch, Clock, Host, Secret, System, TokenType, millis,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::answer::Failure;
use super::passwords::Passwords;
use super::plane::Engine;
use super::registry::{self, Class};
use super::revoke::LeaseReaper;
use super::unopened::Unopened;
use crate::lease::{LeaseId, Limits, Queue};

const PREFIX: &str = "core/mount/";
/// Mounts read from storage at a time; also the most there may be.
const MOST_MOUNTS: usize = 10_000;
/// Leases read from an index at a time.
const PAGE: usize = 500;
/// Between two maintenance runs of a mount that failed.
const MAINTAIN_AGAIN: Duration = Duration::from_mins(1);

/// What is stored about a mount.
#[derive(Clone, Serialize, Deserialize)]
pub struct MountRecord {
    /// Never changes; names the mount's storage and its queue.
    pub id: String,
    /// Where it answers, without slashes at the ends.
    pub path: String,
    /// The kind of backend.
    #[serde(rename = "type")]
    pub kind: String,
    /// Names the mount in policies and logs of the Vault API.
    pub accessor: String,
    /// For people.
    pub description: String,
    /// What the backend was opened with.
    pub options: BTreeMap<String, String>,
    /// What can be tuned.
    pub config: MountConfig,
    /// Declared in the configuration file: the API does not change it.
    #[serde(default)]
    pub managed: bool,
    /// Being disabled: it answers nothing any more.
    #[serde(default)]
    pub leaving: bool,
}

/// What can be tuned about a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountConfig {
    /// Instead of the system's default lease time.
    #[serde(
        with = "daypass_contract::duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub default_lease_ttl: Option<Duration>,
    /// Instead of the system's longest lease time.
    #[serde(
        with = "daypass_contract::duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub max_lease_ttl: Option<Duration>,
    /// The kind of token that logins make where the role says nothing.
    #[serde(default)]
    pub token_type: TokenType,
}

/// A mount to be enabled.
pub struct NewMount {
    /// See [`MountRecord::path`].
    pub path: String,
    /// See [`MountRecord::kind`].
    pub kind: String,
    /// See [`MountRecord::description`].
    pub description: String,
    /// See [`MountRecord::options`].
    pub options: BTreeMap<String, String>,
    /// See [`MountRecord::config`].
    pub config: MountConfig,
    /// See [`MountRecord::managed`].
    pub managed: bool,
}

/// A mount that answers.
pub struct Mount {
    record: RwLock<Arc<MountRecord>>,
    /// What issues.
    pub backend: Arc<dyn Backend>,
    /// What it answers to.
    pub routes: BackendRoutes,
    /// What ends its leases.
    pub queue: Arc<Queue>,
    /// Why its backend does not open, where it does not.
    pub(super) unopened: Option<String>,
    /// Requests that its backend works on, also before it was opened anew.
    calls: TaskTracker,
    stop: CancellationToken,
}

impl Mount {
    /// What is stored about it.
    pub fn record(&self) -> Arc<MountRecord> {
        Arc::clone(&self.record.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lease times it allows.
    pub fn limits(&self, system: Limits) -> Limits {
        limits(&self.record().config, system)
    }

    /// To be held while the backend works on a request: before the mount's storage is deleted, all are
    /// waited for, and none is let in any more.
    pub(super) fn enter(&self) -> Result<TaskTrackerToken, Failure> {
        let entered = self.calls.token();
        if self.calls.is_closed() {
            return Err(Failure::Unavailable("the mount is being disabled".into()));
        }
        Ok(entered)
    }

    fn replace(&self, record: MountRecord) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
    }
}

fn limits(config: &MountConfig, system: Limits) -> Limits {
    let max = config.max_lease_ttl.unwrap_or(system.max);
    Limits {
        default: config.default_lease_ttl.unwrap_or(system.default).min(max),
        max,
    }
}

/// The mounts by path.
#[derive(Default)]
pub struct Mounts {
    table: ArcSwap<BTreeMap<String, Arc<Mount>>>,
    /// One change at a time, so that memory and storage agree.
    changing: tokio::sync::Mutex<()>,
}

impl Mounts {
    /// The mount that `path` lies in, and the rest of the path below it.
    pub fn find<'p>(&self, path: &'p str) -> Option<(Arc<Mount>, &'p str)> {
        let table = self.table.load();
        let ends = path
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        // Mounts do not overlap, so the first that fits is the only one.
        for end in ends {
            let (head, rest) = path.split_at_checked(end)?;
            if let Some(mount) = table.get(head) {
                return Some((Arc::clone(mount), rest.strip_prefix('/').unwrap_or(rest)));
            }
        }
        None
    }

    /// The mount at exactly `path`.
    pub fn at(&self, path: &str) -> Option<Arc<Mount>> {
        self.table.load().get(path.trim_matches('/')).cloned()
    }

    /// The mount with that id.
    pub fn by_id(&self, id: &str) -> Option<Arc<Mount>> {
        self.table
            .load()
            .values()
            .find(|mount| mount.record().id == id)
            .cloned()
    }

    /// All mounts in the order of their paths.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        self.table.load().values().cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Mount>>)) {
        let mut table = BTreeMap::clone(&self.table.load());
        change(&mut table);
        self.table.store(Arc::new(table));
    }
}

impl Engine {
    /// Opens every stored mount. One that does not open keeps its place and its leases; see [`Unopened`].
    pub(super) async fn open_mounts(self: &Arc<Self>) -> Result<(), Failure> {
        for (key, entry) in self.barrier.entries(PREFIX, None, MOST_MOUNTS).await? {
            let record: MountRecord = serde_json::from_slice(entry.value.expose())
                .map_err(|_| Failure::Internal(format!("mount record {key} is not valid")))?;
            let (path, leaving) = (record.path.clone(), record.leaving);
            let mount = match self.open_backend(&record).await {
                Ok(backend) => self.start_mount(record, backend, None, TaskTracker::new()),
                Err(error) => {
                    tracing::error!(mount = path, %error, "mount does not open");
                    let reason = error.to_string();
                    let stand_in = Arc::new(Unopened::new(reason.clone()));
                    self.start_mount(record, stand_in, Some(reason), TaskTracker::new())
                }
            };
            if leaving {
                tracing::warn!(
                    mount = path,
                    "mount was being disabled; disable it again to finish"
                );
            }
            self.mounts.change(|table| drop(table.insert(path, mount)));
        }
        Ok(())
    }

    async fn open_backend(&self, record: &MountRecord) -> Result<Arc<dyn Backend>, Failure> {
        let kind = registry::kinds()
            .iter()
            .find(|kind| kind.name == record.kind)
            .ok_or_else(|| Failure::Invalid(format!("unknown backend type \"{}\"", record.kind)))?;
        let host = Host {
            store: self.barrier.view(format!("mount/{}/", record.id)),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            system: Arc::new(MountSystem {
                passwords: self.passwords.clone(),
                limits: limits(&record.config, self.settings.ttl),
            }),
            options: record.options.clone(),
        };
        Ok((kind.open)(host).await?)
    }

    /// A mount with its workers running.
    fn start_mount(
        self: &Arc<Self>,
        record: MountRecord,
        backend: Arc<dyn Backend>,
        unopened: Option<String>,
        calls: TaskTracker,
    ) -> Arc<Mount> {
        let mount = Arc::new(Mount {
            routes: Arc::clone(&backend).routes(),
            queue: Queue::new(
                record.id.clone(),
                Arc::clone(&self.barrier),
                Arc::clone(&self.clock),
                self.settings.revoke_concurrency,
            ),
            record: RwLock::new(Arc::new(record)),
            backend,
            unopened,
            calls,
            stop: self.stop.child_token(),
        });
        let reaper = Arc::new(LeaseReaper::new(self, &mount));
        self.workers
            .spawn(Arc::clone(&mount.queue).run(reaper, mount.stop.clone()));
        self.workers
            .spawn(maintain(Arc::clone(&mount), Arc::clone(&self.clock)));
        mount
    }

    /// Enables a mount.
    pub async fn enable_mount(self: &Arc<Self>, new: NewMount) -> Result<Arc<Mount>, Failure> {
        let path = new.path.trim_matches('/').to_owned();
        check_path(&path)?;
        let (kind, options) = kind_and_options(&new.kind, new.options, Class::of(&path))?;
        let _change = self.mounts.changing.lock().await;
        self.check_free(&path)?;
        let random: [u8; 4] = self.entropy.bytes();
        let record = MountRecord {
            id: format!(
                "{:012x}{}",
                millis::of(self.clock.now()),
                hex::encode(random)
            ),
            accessor: format!("{kind}_{}", hex::encode(random)),
            path: path.clone(),
            kind,
            description: new.description,
            options,
            config: new.config,
            managed: new.managed,
            leaving: false,
        };
        let backend = self.open_backend(&record).await?;
        if let Err(error) = self.store_mount(&record).await {
            backend.close().await;
            return Err(error);
        }
        let mount = self.start_mount(record, backend, None, TaskTracker::new());
        self.mounts
            .change(|table| drop(table.insert(path, Arc::clone(&mount))));
        Ok(mount)
    }

    /// Changes what can be tuned.
    pub async fn tune_mount(
        self: &Arc<Self>,
        path: &str,
        tune: impl FnOnce(&mut MountRecord),
    ) -> Result<(), Failure> {
        let _change = self.mounts.changing.lock().await;
        let mount = self.mounts.at(path).ok_or_else(|| no_mount(path))?;
        let mut record = MountRecord::clone(&mount.record());
        tune(&mut record);
        if let (Some(default), Some(max)) =
            (record.config.default_lease_ttl, record.config.max_lease_ttl)
            && default > max
        {
            return Err(Failure::Invalid(
                "field \"default_lease_ttl\": is longer than max_lease_ttl".into(),
            ));
        }
        let reopen = mount.unopened.is_some()
            || record.options != mount.record().options
            || record.config != mount.record().config;
        if !reopen {
            self.store_mount(&record).await?;
            mount.replace(record);
            return Ok(());
        }
        // What a backend was opened with has changed: open it anew, then let the old one go.
        let backend = self.open_backend(&record).await?;
        if let Err(error) = self.store_mount(&record).await {
            backend.close().await;
            return Err(error);
        }
        let path = record.path.clone();
        let fresh = self.start_mount(record, backend, None, mount.calls.clone());
        self.mounts.change(|table| drop(table.insert(path, fresh)));
        mount.stop.cancel();
        mount.backend.close().await;
        Ok(())
    }

    /// Moves a mount. Its leases and its storage stay what they are.
    pub async fn remount(self: &Arc<Self>, from: &str, to: &str) -> Result<(), Failure> {
        let to = to.trim_matches('/').to_owned();
        check_path(&to)?;
        if Class::of(from.trim_matches('/')) != Class::of(&to) {
            return Err(Failure::Invalid(
                "field \"to\": auth methods are mounted below auth/, and nothing else is".into(),
            ));
        }
        let _change = self.mounts.changing.lock().await;
        let mount = self.mounts.at(from).ok_or_else(|| {
            Failure::Invalid("field \"from\": there is no mount at this path".into())
        })?;
        self.check_free(&to)?;
        let mut record = MountRecord::clone(&mount.record());
        let from = std::mem::replace(&mut record.path, to.clone());
        self.store_mount(&record).await?;
        mount.replace(record);
        self.mounts.change(|table| {
            table.remove(&from);
            table.insert(to, mount);
        });
        Ok(())
    }

    /// Disables a mount: first it answers nothing any more, then its leases are revoked, and only when
    /// none is left its storage is deleted.
    pub async fn disable_mount(self: &Arc<Self>, path: &str) -> Result<(), Failure> {
        let _change = self.mounts.changing.lock().await;
        let Some(mount) = self.mounts.at(path) else {
            return Ok(());
        };
        let mut record = MountRecord::clone(&mount.record());
        record.leaving = true;
        self.store_mount(&record).await?;
        mount.replace(record.clone());
        mount.calls.close();
        self.revoke_tokens_of_mount(&record.id).await?;
        self.settle(&mount).await?;
        // What still runs may write, and would leave rows that belong to nobody.
        if tokio::time::timeout(self.settings.settle, mount.calls.wait())
            .await
            .is_err()
        {
            return Err(Failure::Unavailable(
                "requests to this mount are still worked on; it answers no others. Disable it again to \
                 finish"
                    .into(),
            ));
        }
        mount.stop.cancel();
        self.mounts.change(|table| drop(table.remove(&record.path)));
        mount.backend.close().await;
        if Class::of(&record.path) == Class::Auth {
            self.identity.forget_mount(&record.accessor).await?;
        }
        // The mount's own record goes last: a crash before that leaves a mount that can be disabled again.
        let prefix = format!("mount/{}/", record.id);
        loop {
            let keys = self.barrier.keys(&prefix, None, 500).await?;
            if keys.is_empty() {
                break;
            }
            let batch = keys.into_iter().fold(Batch::new(), Batch::delete);
            self.barrier.apply(batch).await?;
        }
        self.barrier
            .apply(Batch::new().delete(format!("{PREFIX}{}", record.id)))
            .await?;
        Ok(())
    }

    /// Revokes every lease of a mount and waits until none is left.
    async fn settle(&self, mount: &Mount) -> Result<(), Failure> {
        let id = mount.record().id.clone();
        let mut after = None;
        loop {
            let page = self.leases.of_mount(&id, after.as_ref(), PAGE).await?;
            let Some(last) = page.last().cloned() else {
                break;
            };
            after = Some(last);
            let ids: Vec<LeaseId> = page.into_iter().map(|(_, id)| id).collect();
            self.leases
                .mark_all_revoking(&ids, self.clock.now())
                .await?;
            mount.queue.wake();
        }
        let deadline = tokio::time::Instant::now() + self.settings.settle;
        loop {
            let left = self.leases.of_mount(&id, None, PAGE).await?;
            let Some((_, first)) = left.first() else {
                return Ok(());
            };
            if tokio::time::Instant::now() >= deadline {
                let trouble = self
                    .leases
                    .get(first)
                    .await?
                    .and_then(|record| record.trouble);
                let reason =
                    trouble.map_or_else(|| "work in progress".into(), |trouble| trouble.reason);
                return Err(Failure::Unavailable(format!(
                    "leases of this mount are not revoked yet ({reason}); they are retried, and the mount \
                     answers nothing meanwhile. Disable it again to finish, or forget them with \
                     sys/leases/revoke-force"
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn store_mount(&self, record: &MountRecord) -> Result<(), Failure> {
        let bytes =
            serde_json::to_vec(record).map_err(|_| Failure::Internal("mount record".into()))?;
        self.barrier
            .apply(Batch::new().put(format!("{PREFIX}{}", record.id), Secret::new(bytes)))
            .await?;
        Ok(())
    }

    fn check_free(&self, path: &str) -> Result<(), Failure> {
        let overlaps = |other: &str| {
            other == path
                || other
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with('/'))
                || path
                    .strip_prefix(other)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        match self
            .mounts
            .all()
            .iter()
            .map(|mount| mount.record())
            .find(|other| overlaps(&other.path))
        {
            Some(other) => Err(Failure::Invalid(format!(
                "path is already in use at {}/",
                other.path
            ))),
            None => Ok(()),
        }
    }
}

/// Calls the backend when it wants to be called.
async fn maintain(mount: Arc<Mount>, clock: Arc<dyn Clock>) {
    loop {
        let now = clock.now();
        // A stop interrupts it as a crash would: what it does must survive that anyway.
        let maintained = tokio::select! {
            () = mount.stop.cancelled() => return,
            maintained = mount.backend.maintain(now) => maintained,
        };
        let pause = match maintained {
            Ok(Some(next)) => next
                .duration_since(now)
                .unwrap_or_default()
                .max(Duration::from_secs(1)),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(mount = mount.record().path, %error, "maintenance failed");
                MAINTAIN_AGAIN
            }
        };
        tokio::select! {
            () = mount.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn no_mount(path: &str) -> Failure {
    Failure::Invalid(format!("no mount at {}/", path.trim_matches('/')))
}

fn check_path(path: &str) -> Result<(), Failure> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if path.is_empty() || path.len() > 256 || !path.split('/').all(plain) {
        return Err(Failure::Invalid(
            "field \"path\": must be segments of letters, digits, \"-\", \"_\" and \".\", joined by \"/\"".into(),
        ));
    }
    let mut segments = path.split('/');
    match (segments.next(), segments.next()) {
        (Some(reserved @ ("sys" | "cubbyhole" | "identity")), _) => Err(Failure::Invalid(format!(
            "field \"path\": \"{reserved}/\" is reserved"
        ))),
        (Some("auth"), None | Some("token")) => Err(Failure::Invalid(
            "field \"path\": \"auth/token/\" is reserved".into(),
        )),
        _ => Ok(()),
    }
}

/// Names under which the Vault API knows a kind with options of its own.
fn kind_and_options(
    kind: &str,
    mut options: BTreeMap<String, String>,
    class: Class,
) -> Result<(String, BTreeMap<String, String>), Failure> {
    let kind = match kind {
        "kv-v2" => {
            options.insert("version".into(), "2".into());
            "kv"
        }
        "kv-v1" | "generic" => {
            options.insert("version".into(), "1".into());
            "kv"
        }
        other => other,
    };
    let fitting = || {
        registry::kinds()
            .iter()
            .filter(move |kind| kind.class == class)
    };
    if fitting().any(|known| known.name == kind) {
        return Ok((kind.to_owned(), options));
    }
    let names = || fitting().map(|kind| kind.name);
    let hint = daypass_contract::body::nearest(kind, names()).map_or_else(
        || format!("known are {}", names().collect::<Vec<_>>().join(", ")),
        |name| format!("did you mean \"{name}\"?"),
    );
    Err(Failure::Invalid(format!(
        "field \"type\": no such backend; {hint}"
    )))
}

/// What a mount may ask of the control plane.
struct MountSystem {
    passwords: Passwords,
    limits: Limits,
}

#[async_trait]
impl System for MountSystem {
    async fn generate_password(&self, policy: &str) -> Result<Secret, BackendError> {
        match self.passwords.generate(policy).await {
            Ok(Some(password)) => Ok(password),
            Ok(None) => Err(BackendError::InvalidRole(format!(
                "there is no password policy \"{policy}\""
            ))),
            Err(failure) => Err(BackendError::Internal(failure.to_string().into())),
        }
    }

    fn max_ttl(&self) -> Duration {
        self.limits.max
    }

    fn default_ttl(&self) -> Duration {
        self.limits.default
    }
}
