//! Audit devices: files, syslog and sockets that follow the local log.
//!
//! Each device has a task of its own that reads the log's files and remembers how far it got. A device that is
//! away falls behind and catches up; no request ever waits for one. The records are the log's own lines.
//!
//! # Invariants
//!
//! * A record leaves the server only after it is in the local log, and counts as delivered only when its sink
//!   confirmed it: at least once, in order, across restarts.
//! * A device is either declared in the configuration, which the API cannot change, or made by the API, within
//!   what the configuration allows ([`DeviceRules`]).

mod courier;
mod datagram;
mod file;
mod reader;
mod sink;
mod stream;
mod target;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use daypass_contract::{BackendError, Batch, Clock};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::courier::Status;
use self::courier::{Courier, Shared, forget_metrics};
use self::reader::{Cursor, Stored};
use self::sink::{Barred, Sink};
pub use self::target::DeviceRules;
use self::target::Target;
use super::error::AuditError;
use super::log::{AuditLog, Kind};
use super::record::Event;
use crate::config::{self, Config, ConfigError};
use crate::storage::{Barrier, StorageError};

/// The local log itself, among the devices.
pub const LOCAL: &str = "local";

/// As many devices there may be.
const MOST: usize = 32;
/// The longest path of a device, in bytes.
const LONGEST_PATH: usize = 128;

/// Devices that the API made, by their path.
const DEVICES: &str = "core/audit/device/";
/// How far each device got, by its path.
const CURSORS: &str = "core/audit/cursor/";

/// A device, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name among the devices, without a slash at the end.
    pub path: String,
    /// `file`, `syslog` or `socket`.
    pub kind: String,
    /// For people.
    pub description: String,
    /// As they were given.
    pub options: BTreeMap<String, String>,
    /// Part of the Vault API; every device is local to its server.
    pub local: bool,
}

/// A device that runs, and how it is doing.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// The device.
    pub device: Device,
    /// Whether the configuration declares it.
    pub managed: bool,
    /// How it is doing.
    pub status: Status,
}

/// Why a device was not changed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Correct the request or the configuration.
    #[error("{0}")]
    Refused(String),
    /// Look at the store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Look at the log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A record has no JSON form: a bug.
    #[error(transparent)]
    Encoding(#[from] BackendError),
}

/// The devices of one server, while it is unsealed.
pub struct Devices {
    log: Arc<AuditLog>,
    barrier: Arc<Barrier>,
    clock: Arc<dyn Clock>,
    rules: DeviceRules,
    stop: CancellationToken,
    tasks: TaskTracker,
    running: Mutex<BTreeMap<String, Running>>,
}

struct Running {
    device: Device,
    managed: bool,
    /// `None` where it cannot run.
    target: Option<Target>,
    status: Shared,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Devices {
    /// No devices yet. They run on `tasks` until `stop`.
    pub fn new(
        log: Arc<AuditLog>,
        barrier: Arc<Barrier>,
        clock: Arc<dyn Clock>,
        rules: DeviceRules,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        describe_metrics();
        Self {
            log,
            barrier,
            clock,
            rules,
            stop,
            tasks,
            running: Mutex::new(BTreeMap::new()),
        }
    }

    /// Starts the devices that the API made and those the configuration declares, which win.
    ///
    /// # Errors
    /// [`DeviceError`] where they cannot be read. A device that cannot run is listed with the reason.
    pub async fn start(&self, declared: &[config::AuditDevice]) -> Result<(), DeviceError> {
        let mut running = self.running.lock().await;
        let mut cursors = self.cursors().await?;
        for device in declared {
            let target = Target::declared(&device.kind, &device.options, base(device));
            let cursor = cursors.remove(&device.path);
            let device = Device {
                path: device.path.clone(),
                kind: device.kind.clone(),
                description: device.description.clone(),
                options: device.options.clone(),
                local: true,
            };
            self.run(&mut running, device, true, target, cursor).await?;
        }
        let stored = self.barrier.entries(DEVICES, None, MOST * 2).await?;
        for (key, entry) in stored {
            let device: Device = match entry.decode() {
                Ok(device) => device,
                Err(error) => {
                    tracing::error!(key, %error, "audit device cannot be read");
                    continue;
                }
            };
            if running.contains_key(&device.path) {
                tracing::info!(device = device.path, "audit device is declared now");
                self.barrier.apply(Batch::new().delete(key)).await?;
                continue;
            }
            let target = Target::asked(&device.kind, &device.options, &self.rules)
                .and_then(|target| alone(&running, target));
            let cursor = cursors.remove(&device.path);
            self.run(&mut running, device, false, target, cursor)
                .await?;
        }
        // What was declared once and is no longer begins anew if it ever comes back.
        let mut batch = Batch::new();
        for path in cursors.into_keys() {
            forget_metrics(&path);
            batch = batch.delete(format!("{CURSORS}{path}"));
        }
        if !batch.writes.is_empty() {
            self.barrier.apply(batch).await?;
        }
        Ok(())
    }

    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, DeviceError> {
        let stored = self.barrier.entries(CURSORS, None, MOST * 4).await?;
        let cursor = |(key, entry): (String, daypass_contract::Entry)| {
            let path = key.strip_prefix(CURSORS)?.to_owned();
            let cursor = entry.decode::<Stored>().ok()?.cursor();
            if cursor.is_none() {
                tracing::error!(
                    device = path,
                    "cursor cannot be read: all records are sent again"
                );
            }
            Some((path, cursor.unwrap_or_default()))
        };
        Ok(stored.into_iter().filter_map(cursor).collect())
    }

    /// Starts a device where its cursor is, or at the log's end.
    async fn run(
        &self,
        running: &mut BTreeMap<String, Running>,
        device: Device,
        managed: bool,
        target: Result<Target, String>,
        cursor: Option<Cursor>,
    ) -> Result<(), DeviceError> {
        let cursor = match cursor {
            Some(cursor) => cursor,
            None => self.begin(&device, &target).await?,
        };
        let sink: Box<dyn Sink> = match &target {
            Ok(target) => sink::of(target),
            Err(reason) => {
                tracing::error!(device = device.path, reason, "audit device cannot run");
                Box::new(Barred(reason.clone()))
            }
        };
        self.spawn(running, device, managed, target.ok(), sink, cursor);
        Ok(())
    }

    /// Notes that a device begins with what is recorded from now on.
    async fn begin(
        &self,
        device: &Device,
        target: &Result<Target, String>,
    ) -> Result<Cursor, DeviceError> {
        let cursor = Cursor {
            head: self.log.head()?,
            place: None,
        };
        let to = target.as_ref().map(Target::describe).unwrap_or_default();
        self.log.append(
            Kind::Event,
            &Event {
                what: "audit.device.enabled",
                path: Some(&device.path),
                details: &[("type", &device.kind), ("to", &to)],
                ..Event::default()
            },
        )?;
        let key = format!("{CURSORS}{}", device.path);
        let batch = Batch::new().put_json(key, &Stored::from(&cursor))?;
        self.barrier.apply(batch).await?;
        Ok(cursor)
    }

    fn spawn(
        &self,
        running: &mut BTreeMap<String, Running>,
        device: Device,
        managed: bool,
        target: Option<Target>,
        sink: Box<dyn Sink>,
        cursor: Cursor,
    ) {
        let status = Shared::default();
        let parts = courier::Parts {
            name: device.path.clone(),
            log: Arc::clone(&self.log),
            barrier: Arc::clone(&self.barrier),
            key: format!("{CURSORS}{}", device.path),
            clock: Arc::clone(&self.clock),
            sink,
            cursor,
        };
        let stop = self.stop.child_token();
        let courier = Courier::new(parts, status.clone());
        let task = self.tasks.spawn(courier.run(stop.clone()));
        let path = device.path.clone();
        let device = Running {
            device,
            managed,
            target,
            status,
            stop,
            task,
        };
        running.insert(path, device);
    }

    /// Makes a device that gets what is recorded from now on.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] where the path is taken, the options are not understood or not allowed, or
    /// the device cannot be opened.
    pub async fn enable(&self, mut device: Device) -> Result<(), DeviceError> {
        device.path = device.path.trim_matches('/').to_owned();
        check_path(&device.path)?;
        let mut running = self.running.lock().await;
        if device.path == LOCAL || running.contains_key(&device.path) {
            return Err(DeviceError::Refused("path already in use".into()));
        }
        if running.len() >= MOST {
            return Err(DeviceError::Refused(format!(
                "there are {MOST} audit devices already, which is the most"
            )));
        }
        let target = Target::asked(&device.kind, &device.options, &self.rules)
            .and_then(|target| alone(&running, target))
            .map_err(DeviceError::Refused)?;
        let mut sink = sink::of(&target);
        sink.open().await.map_err(|trouble| {
            DeviceError::Refused(format!(
                "the device cannot be opened ({}): {}",
                target.describe(),
                trouble.reason
            ))
        })?;
        let target = Ok(target);
        let cursor = self.begin(&device, &target).await?;
        let batch = Batch::new().put_json(format!("{DEVICES}{}", device.path), &device)?;
        self.barrier.apply(batch).await?;
        self.spawn(&mut running, device, false, target.ok(), sink, cursor);
        Ok(())
    }

    /// Stops a device that the API made and forgets it. Nothing happens where there is none.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] for the local log and for declared devices.
    pub async fn disable(&self, path: &str) -> Result<(), DeviceError> {
        let path = path.trim_matches('/');
        if path == LOCAL {
            return Err(DeviceError::Refused(
                "the local log is always on: without it there is no answer".into(),
            ));
        }
        let mut running = self.running.lock().await;
        match running.get(path) {
            None => return Ok(()),
            Some(device) if device.managed => {
                return Err(DeviceError::Refused(format!(
                    "audit device {path}/ is declared in the configuration file: change it there"
                )));
            }
            Some(_) => {}
        }
        let event = Event {
            what: "audit.device.disabled",
            path: Some(path),
            ..Event::default()
        };
        self.log.append(Kind::Event, &event)?;
        // The record of it goes first: what a crash leaves behind then is a cursor without a device.
        let batch = Batch::new().delete(format!("{DEVICES}{path}"));
        self.barrier.apply(batch).await?;
        if let Some(device) = running.remove(path) {
            device.stop.cancel();
            // One that panicked has stopped too.
            let _ = device.task.await;
        }
        let batch = Batch::new().delete(format!("{CURSORS}{path}"));
        self.barrier.apply(batch).await?;
        forget_metrics(path);
        Ok(())
    }

    /// All devices, by their path.
    pub async fn list(&self) -> Vec<DeviceView> {
        let running = self.running.lock().await;
        let view = |device: &Running| DeviceView {
            device: device.device.clone(),
            managed: device.managed,
            status: device.status.get(),
        };
        running.values().map(view).collect()
    }
}

/// The target, where no device that runs writes to the same file.
fn alone(running: &BTreeMap<String, Running>, target: Target) -> Result<Target, String> {
    let clashes = |other: &&Running| other.target.as_ref().is_some_and(|t| t.clashes(&target));
    match running.values().find(clashes) {
        Some(other) => Err(format!(
            "option \"file_path\": the device {}/ writes to this file",
            other.device.path
        )),
        None => Ok(target),
    }
}

/// What is wrong with the devices that a configuration declares.
pub fn check(config: &Config) -> Vec<ConfigError> {
    let mut problems = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    for device in &config.audit_devices {
        if check_path(&device.path).is_err() || device.path == LOCAL {
            problems.push(device.origin.error(
                "path",
                "expected a path such as \"siem\", without a slash at the end; \"local\" is the local log",
            ));
        }
        match Target::declared(&device.kind, &device.options, base(device)) {
            Ok(target) if targets.iter().any(|other| other.clashes(&target)) => {
                let problem = "another device writes to this file";
                problems.push(device.origin.error("options", problem));
            }
            Ok(target) if target.writes_below(&config.audit.path) => {
                let problem = "the folder of the audit log is its own";
                problems.push(device.origin.error("options", problem));
            }
            Ok(target) => targets.push(target),
            Err(problem) => problems.push(device.origin.error("", problem)),
        }
    }
    if config.audit_devices.len() > MOST {
        let problem = format!("there are more than {MOST} audit devices");
        problems.extend(
            config
                .audit_devices
                .last()
                .map(|last| last.origin.error("", problem)),
        );
    }
    problems
}

/// The folder that a declared device's relative path is meant from.
fn base(device: &config::AuditDevice) -> &Path {
    device.origin.place.file.parent().unwrap_or(Path::new(""))
}

fn check_path(path: &str) -> Result<(), DeviceError> {
    let strange = |segment: &str| {
        matches!(segment, "" | "." | "..")
            || segment
                .chars()
                .any(|c| c.is_control() || c == '*' || c == '+')
    };
    if path.len() > LONGEST_PATH || path.split('/').any(strange) {
        return Err(DeviceError::Refused(format!(
            "path of an audit device: expected at most {LONGEST_PATH} bytes such as \"siem\", without \"*\" and \"+\""
        )));
    }
    Ok(())
}

fn describe_metrics() {
    metrics::describe_gauge!(
        "daypass_audit_device_lag_records",
        "Records of the local log that an audit device was not sent yet"
    );
    metrics::describe_gauge!(
        "daypass_audit_device_lag_seconds",
        "Age of the oldest record that an audit device was not sent yet"
    );
    metrics::describe_gauge!(
        "daypass_audit_device_alarm",
        "1 while an audit device is more than 100,000 records or 15 minutes behind"
    );
    metrics::describe_counter!(
        "daypass_audit_device_records_total",
        "Records sent, repetitions included, by audit device"
    );
    metrics::describe_counter!(
        "daypass_audit_device_failures_total",
        "Tries to reach an audit device that failed"
    );
    metrics::describe_counter!(
        "daypass_audit_device_missed_records_total",
        "Records whose files were moved away before an audit device had them"
    );
}

#[cfg(test)]
mod tests;
