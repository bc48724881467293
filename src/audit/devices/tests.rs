use std::fs;
use std::time::Duration;

use daypass_conformance::{ManualClock, SeededEntropy};
use daypass_contract::Entropy;

use super::*;
use crate::audit::testing::{lines, put};
use crate::audit::{AuditLog, Options};
use crate::config::{Origin, Place};
use crate::storage::memory::{InMemory, open_barrier};

/// A log and a store, which outlive the devices over them.
struct World {
    dir: tempfile::TempDir,
    log: Arc<AuditLog>,
    barrier: Arc<Barrier>,
    clock: Arc<ManualClock>,
    stop: CancellationToken,
    tasks: TaskTracker,
    devices: Devices,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let time: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let log_dir = dir.path().join("audit");
        let log = AuditLog::open(&log_dir, Options::default(), Arc::clone(&time)).unwrap();
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let storage = Arc::new(InMemory::default());
        let barrier = open_barrier(storage, time, entropy).await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let devices = devices(&dir, &log, &barrier, &clock, &stop, &tasks);
        devices.start(&[]).await.unwrap();
        Self {
            dir,
            log,
            barrier,
            clock,
            stop,
            tasks,
            devices,
        }
    }

    /// The server stops and starts, with this configuration.
    async fn restart(&mut self, declared: &[config::AuditDevice]) {
        self.stop().await;
        (self.stop, self.tasks) = (CancellationToken::new(), TaskTracker::new());
        let Self {
            dir,
            log,
            barrier,
            clock,
            stop,
            tasks,
            ..
        } = self;
        self.devices = devices(dir, log, barrier, clock, stop, tasks);
        self.devices.start(declared).await.unwrap();
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn enable(&self, path: &str, file: &str) -> Result<(), String> {
        let device = device(path, file);
        let enabled = self.devices.enable(device).await;
        enabled.map_err(|error| error.to_string())
    }

    async fn disable(&self, path: &str) -> Result<(), String> {
        let disabled = self.devices.disable(path).await;
        disabled.map_err(|error| error.to_string())
    }

    async fn names(&self) -> Vec<String> {
        let devices = self.devices.list().await;
        devices.into_iter().map(|view| view.device.path).collect()
    }

    /// What a device wrote, once it has everything.
    async fn text(&self, path: &str, file: &str) -> Vec<String> {
        let newest = self.log.head().unwrap().seq;
        loop {
            let devices = self.devices.list().await;
            let view = devices.iter().find(|view| view.device.path == path);
            if view.unwrap().status.delivered >= newest {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let text = fs::read_to_string(self.dir.path().join("devices").join(file)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn log_lines(&self) -> Vec<String> {
        lines(&self.dir.path().join("audit"))
    }
}

fn devices(
    dir: &tempfile::TempDir,
    log: &Arc<AuditLog>,
    barrier: &Arc<Barrier>,
    clock: &Arc<ManualClock>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Devices {
    Devices::new(
        Arc::clone(log),
        Arc::clone(barrier),
        Arc::<ManualClock>::clone(clock),
        DeviceRules {
            dirs: vec![dir.path().join("devices")],
            addresses: Vec::new(),
            private: vec![dir.path().join("audit")],
        },
        stop.clone(),
        tasks.clone(),
    )
}

fn device(path: &str, file: &str) -> Device {
    Device {
        path: path.into(),
        kind: "file".into(),
        description: String::new(),
        options: BTreeMap::from([("file_path".into(), file.into())]),
        local: false,
    }
}

fn declared(path: &str, file: &Path) -> config::AuditDevice {
    let place = Place {
        file: "daypass.toml".into(),
        line: 1,
        column: 1,
    };
    config::AuditDevice {
        path: path.into(),
        kind: "file".into(),
        description: "declared".into(),
        options: BTreeMap::from([("file_path".into(), file.display().to_string())]),
        origin: Origin {
            place,
            key: "audit_devices[0]".into(),
        },
    }
}

#[tokio::test]
async fn a_device_gets_what_is_recorded_from_its_enabling_to_its_disabling() {
    let world = World::new().await;
    put(&world.log, "before");
    world.enable("siem/", "a.log").await.unwrap();
    put(&world.log, "during");
    assert_eq!(world.text("siem", "a.log").await, world.log_lines()[1..]);
    assert!(world.log_lines()[1].contains("audit.device.enabled"));
    world.disable("siem/").await.unwrap();
    put(&world.log, "after");
    let seen = fs::read_to_string(world.dir.path().join("devices/a.log")).unwrap();
    assert!(!seen.contains("after"));
    assert_eq!(world.names().await, [""; 0]);
    assert_eq!(
        world.barrier.keys("core/audit/", None, 9).await.unwrap(),
        [""; 0]
    );
    // It is as if it never was.
    world.disable("siem").await.unwrap();
    world.enable("siem", "a.log").await.unwrap();
    let text = world.text("siem", "a.log").await;
    assert!(!text.iter().any(|line| line.contains("\"after\"")));
}

#[tokio::test]
async fn a_device_goes_on_after_a_restart_where_it_was() {
    let mut world = World::new().await;
    world.enable("siem", "a.log").await.unwrap();
    put(&world.log, "one");
    world.text("siem", "a.log").await;
    world.stop().await;
    put(&world.log, "while it is stopped");
    world.log.rotate().unwrap();
    world.restart(&[]).await;
    put(&world.log, "two");
    assert_eq!(world.names().await, ["siem"]);
    // Nothing twice: the stop was an orderly one.
    assert_eq!(world.text("siem", "a.log").await, world.log_lines());
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let world = World::new().await;
    world.enable("a/b", "a.log").await.unwrap();
    for (path, file, want) in [
        ("a/b/", "b.log", "path already in use"),
        ("local", "b.log", "path already in use"),
        ("b", "a.log", "the device a/b/ writes to this file"),
        ("b", "/etc/daypass.log", "audit.device_dirs"),
        ("b", "missing/b.log", "cannot be opened"),
        ("b//c", "b.log", "path of an audit device"),
        ("b/../c", "b.log", "path of an audit device"),
        ("b*", "b.log", "path of an audit device"),
        ("", "b.log", "path of an audit device"),
    ] {
        let refused = world.enable(path, file).await.unwrap_err();
        assert!(refused.contains(want), "{path} {file}: {refused}");
    }
    assert!(
        world
            .disable("local")
            .await
            .unwrap_err()
            .contains("always on")
    );
    for number in 1..MOST {
        let name = format!("d{number}");
        world.enable(&name, &name).await.unwrap();
    }
    assert!(
        world
            .enable("more", "more")
            .await
            .unwrap_err()
            .contains("the most")
    );
}

#[tokio::test]
async fn a_declared_device_is_managed_and_lives_by_the_file_alone() {
    let mut world = World::new().await;
    let elsewhere = world.dir.path().join("elsewhere/siem.log");
    world.enable("siem", "a.log").await.unwrap();
    world.text("siem", "a.log").await;
    // Declared now: it is taken over where it was.
    let file = declared("siem", &elsewhere);
    world.restart(std::slice::from_ref(&file)).await;
    let view = world.devices.list().await.remove(0);
    assert!(view.managed);
    assert_eq!(view.device.description, "declared");
    let refused = world.disable("siem").await.unwrap_err();
    assert!(refused.contains("configuration file"), "{refused}");
    assert!(world.enable("siem", "b.log").await.is_err());
    put(&world.log, "one");
    while !fs::read_to_string(&elsewhere).is_ok_and(|text| text.contains("\"one\"")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.restart(&[]).await;
    assert_eq!(world.names().await, [""; 0]);
    assert_eq!(
        world.barrier.keys("core/audit/", None, 9).await.unwrap(),
        [""; 0]
    );
}

#[tokio::test]
async fn a_device_that_is_not_allowed_any_more_is_shown_with_the_reason() {
    let mut world = World::new().await;
    let socket = Device {
        kind: "socket".into(),
        options: BTreeMap::from([("address".into(), "127.0.0.1:9".into())]),
        ..device("siem", "")
    };
    let batch = Batch::new()
        .put_json(format!("{DEVICES}siem"), &socket)
        .unwrap();
    world.barrier.apply(batch).await.unwrap();
    world.restart(&[]).await;
    let error = loop {
        let view = world.devices.list().await.remove(0);
        if let Some(error) = view.status.error {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(error.contains("audit.device_addresses"), "{error}");
    world.disable("siem").await.unwrap();
}
