use std::fs;
use std::path::Path;

use async_trait::async_trait;
use daypass_conformance::{ManualClock, SeededEntropy};
use daypass_contract::Entropy;
use proptest::prelude::*;

use super::*;
use crate::audit::line::Line;
use crate::audit::testing::{Disk, lines, paths, put};
use crate::audit::{Follower, Options};
use crate::storage::memory::{InMemory, open_barrier};

const KEY: &str = "core/audit/cursor/test";

/// What a destination got, and how it behaves.
struct Destination {
    got: Vec<(Instant, String)>,
    now: Instant,
    trouble: Option<Trouble>,
    /// Trouble of confirmations.
    doubt: Option<Trouble>,
    settle: Duration,
    most: usize,
    calls: u32,
}

struct FakeSink(Arc<Mutex<Destination>>);

#[async_trait]
impl Sink for FakeSink {
    async fn open(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    async fn send(&mut self, lines: &[&str]) -> Result<usize, Trouble> {
        let mut to = self.0.lock().unwrap();
        to.calls += 1;
        if let Some(trouble) = &to.trouble {
            return Err(trouble.clone());
        }
        let (now, sent) = (to.now, lines.len().min(to.most));
        to.got
            .extend(lines[..sent].iter().map(|line| (now, (*line).to_owned())));
        Ok(sent)
    }

    async fn confirm(&mut self) -> Result<(), Trouble> {
        self.0.lock().unwrap().doubt.clone().map_or(Ok(()), Err)
    }

    fn settles_after(&self) -> Duration {
        self.0.lock().unwrap().settle
    }
}

/// A log, a store and a destination, which outlive couriers.
struct World {
    dir: tempfile::TempDir,
    log: Arc<AuditLog>,
    barrier: Arc<Barrier>,
    clock: Arc<ManualClock>,
    to: Arc<Mutex<Destination>>,
    start: Instant,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let log = AuditLog::open(
            dir.path(),
            Options::default(),
            Arc::<ManualClock>::clone(&clock),
        )
        .unwrap();
        Self::over(dir, log, clock).await
    }

    async fn over(dir: tempfile::TempDir, log: Arc<AuditLog>, clock: Arc<ManualClock>) -> Self {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let (storage, time) = (
            Arc::new(InMemory::default()),
            Arc::<ManualClock>::clone(&clock),
        );
        let start = Instant::now();
        Self {
            dir,
            log,
            barrier: open_barrier(storage, time, entropy).await.unwrap(),
            clock,
            to: Arc::new(Mutex::new(Destination {
                got: Vec::new(),
                now: start,
                trouble: None,
                doubt: None,
                settle: Duration::ZERO,
                most: usize::MAX,
                calls: 0,
            })),
            start,
        }
    }

    /// A courier as a start of the server makes it.
    async fn courier(&self) -> Courier {
        let parts = Parts {
            name: "test".into(),
            log: Arc::clone(&self.log),
            barrier: Arc::clone(&self.barrier),
            key: KEY.into(),
            clock: Arc::<ManualClock>::clone(&self.clock),
            sink: Box::new(FakeSink(Arc::clone(&self.to))),
            cursor: self.stored().await.unwrap_or_default(),
        };
        Courier::new(parts, Shared::default())
    }

    async fn stored(&self) -> Option<Cursor> {
        let entry = self.barrier.get(KEY).await.unwrap()?;
        Some(entry.decode::<Stored>().unwrap().cursor().unwrap())
    }

    async fn stored_seq(&self) -> u64 {
        self.stored().await.map_or(0, |cursor| cursor.head.seq)
    }

    fn put(&self, records: u64) {
        for _ in 0..records {
            put(&self.log, "x");
        }
    }

    fn to(&self) -> std::sync::MutexGuard<'_, Destination> {
        self.to.lock().unwrap()
    }

    /// One step, so many milliseconds after the start.
    async fn step(&self, courier: &mut Courier, milliseconds: u64) -> Duration {
        let now = self.start + Duration::from_millis(milliseconds);
        self.to().now = now;
        courier.step(now).await
    }

    /// Numbers of the records that the destination got.
    fn got(&self) -> Vec<u64> {
        let to = self.to();
        let seq = |line: &str| Line::parse(line.as_bytes()).unwrap().seq;
        to.got.iter().map(|(_, line)| seq(line)).collect()
    }
}

#[tokio::test]
async fn records_are_sent_once_in_order_and_as_they_stand_in_the_log() {
    let world = World::new().await;
    let mut courier = world.courier().await;
    world.put(3);
    assert_eq!(world.step(&mut courier, 0).await, POLL);
    world.log.rotate().unwrap();
    world.put(2);
    world.to().most = 1;
    assert_eq!(world.step(&mut courier, 100).await, Duration::ZERO);
    world.step(&mut courier, 100).await;
    world.step(&mut courier, 200).await;
    let sent: Vec<String> = world
        .to()
        .got
        .iter()
        .map(|(_, line)| line.clone())
        .collect();
    assert_eq!(sent, lines(world.dir.path()));
    assert_eq!(sent.len(), 5);
}

#[tokio::test]
async fn a_crash_between_delivery_and_cursor_repeats_and_never_skips() {
    let world = World::new().await;
    world.put(3);
    let mut courier = world.courier().await;
    world.step(&mut courier, 0).await;
    assert_eq!(world.got(), [1, 2, 3]);
    assert_eq!(world.stored_seq().await, 0);
    // Crash: nothing is said any more.
    let mut courier = world.courier().await;
    world.step(&mut courier, 500).await;
    assert_eq!(world.got(), [1, 2, 3, 1, 2, 3]);
    world.step(&mut courier, 1500).await;
    assert_eq!(world.stored_seq().await, 3);
    world.put(1);
    let mut courier = world.courier().await;
    world.step(&mut courier, 1600).await;
    assert_eq!(world.got(), [1, 2, 3, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_destination_that_is_away_is_tried_less_and_less_and_gets_everything() {
    let world = World::new().await;
    let mut courier = world.courier().await;
    world.to().trouble = Some(Trouble::certain("away"));
    world.put(1);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..10 {
        let calls = world.to().calls;
        world.step(&mut courier, now).await;
        assert_eq!(world.to().calls, calls + 1);
        let from = now;
        // It looks in between, for its metrics, and sends nothing.
        while world.to().calls == calls + 1 {
            world.put(1);
            let wait = world.step(&mut courier, now).await;
            assert!(wait <= LOOK);
            if world.to().calls == calls + 1 {
                now += u64::try_from(wait.as_millis()).unwrap();
                let due = courier.retry_at.unwrap();
                if world.start + Duration::from_millis(now) >= due {
                    break;
                }
            }
        }
        pauses.push(now - from);
    }
    assert_eq!(
        pauses,
        [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
    );
    let status = courier.status.get();
    assert_eq!(status.error.as_deref(), Some("away"));
    assert!(status.failing_since.is_some());
    assert_eq!(status.lag_records, world.log.head().unwrap().seq);
    world.to().trouble = None;
    world.step(&mut courier, now).await;
    world.step(&mut courier, now).await;
    let all: Vec<u64> = (1..=world.log.head().unwrap().seq).collect();
    assert_eq!(world.got(), all);
    let status = courier.status.get();
    assert_eq!((status.error, status.failing_since), (None, None));
    assert_eq!((status.lag_records, status.lag), (0, Duration::ZERO));
    // The next trouble begins with short pauses again.
    world.to().trouble = Some(Trouble::certain("away"));
    world.put(1);
    assert_eq!(
        world.step(&mut courier, now).await,
        Duration::from_millis(250)
    );
}

#[tokio::test]
async fn what_a_connection_lost_is_sent_again_and_what_settled_is_not() {
    let world = World::new().await;
    world.to().settle = Duration::from_secs(3);
    let mut courier = world.courier().await;
    world.put(2);
    world.step(&mut courier, 0).await;
    world.step(&mut courier, 1000).await;
    world.put(2);
    world.step(&mut courier, 1100).await;
    assert_eq!(world.stored_seq().await, 0);
    for at in [2000, 3000] {
        world.step(&mut courier, at).await;
    }
    assert_eq!(world.stored_seq().await, 0);
    // Confirmed for the first time at 1000, so certain from 4000 on; the other two from 5000 on.
    world.step(&mut courier, 4000).await;
    assert_eq!(world.stored_seq().await, 2);
    world.to().doubt = Some(Trouble::uncertain("closed"));
    world.step(&mut courier, 5000).await;
    world.to().doubt = None;
    assert_eq!(courier.status.get().lag_records, 2);
    world.step(&mut courier, 5250).await;
    assert_eq!(world.got(), [1, 2, 3, 4, 3, 4]);
    for at in [6250, 7250, 8250] {
        world.step(&mut courier, at).await;
        assert_eq!(world.stored_seq().await, 2);
    }
    world.step(&mut courier, 9250).await;
    assert_eq!(world.stored_seq().await, 4);
}

#[tokio::test]
async fn no_cursor_passes_what_the_disk_does_not_have() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let log = disk.open(dir.path(), Options::default());
    let world = World::over(dir, log, Arc::default()).await;
    let mut courier = world.courier().await;
    world.put(1);
    world.step(&mut courier, 0).await;
    world.step(&mut courier, 1000).await;
    assert_eq!(world.stored_seq().await, 1);
    disk.sync_fails
        .store(true, std::sync::atomic::Ordering::SeqCst);
    world.put(1);
    world.step(&mut courier, 2000).await;
    assert_eq!(world.got(), [1, 2]);
    world.step(&mut courier, 3000).await;
    assert_eq!(world.stored_seq().await, 1);
}

#[tokio::test]
async fn files_that_were_moved_away_leave_a_record_of_the_gap() {
    let world = World::new().await;
    let mut courier = world.courier().await;
    world.put(2);
    world.step(&mut courier, 0).await;
    world.step(&mut courier, 1000).await;
    drop(courier);
    world.put(2);
    world.log.rotate().unwrap();
    world.put(2);
    fs::remove_file(&paths(world.dir.path())[0]).unwrap();
    let mut courier = world.courier().await;
    for at in [2000, 2100, 2200] {
        world.step(&mut courier, at).await;
    }
    assert_eq!(world.got(), [1, 2, 5, 6, 7]);
    let last = world.to().got.last().unwrap().1.clone();
    let event = r#""event":{"what":"audit.device.gap","path":"test","details":{"what":"files were moved away","first":"3","last":"4"}}"#;
    assert!(last.contains(event), "{last}");
}

#[tokio::test]
async fn a_device_far_behind_is_an_alarm() {
    let world = World::new().await;
    let mut courier = world.courier().await;
    world.to().trouble = Some(Trouble::certain("away"));
    world.put(1);
    world.step(&mut courier, 0).await;
    assert!(!courier.status.get().alarm);
    world.clock.advance(ALARM_AFTER + Duration::from_secs(1));
    world.step(&mut courier, 10).await;
    let status = courier.status.get();
    assert!(status.alarm);
    assert_eq!(status.lag, ALARM_AFTER + Duration::from_secs(1));
    world.to().trouble = None;
    world.step(&mut courier, 60_000).await;
    assert!(!courier.status.get().alarm);
}

#[tokio::test]
async fn it_runs_until_it_is_stopped_and_stores_how_far_it_got() {
    let world = World::new().await;
    world.put(5);
    let stop = CancellationToken::new();
    let running = world.courier().await.run(stop.clone());
    let stopping = async {
        while world.got().len() < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(running, stopping);
    assert_eq!(world.stored_seq().await, 5);
}

/// What happens to a device, one after the other.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Records(u64),
    Rotation,
    Time(u64),
    /// Records do not get there.
    Away,
    /// The connection ends, and with it what was not settled.
    Lost,
    Well,
    /// The server is killed and starts again.
    Crash,
    Takes(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..20_u64).prop_map(Happening::Records),
        1 => Just(Happening::Rotation),
        6 => prop_oneof![Just(10), Just(300), Just(1000), Just(2500)].prop_map(Happening::Time),
        1 => Just(Happening::Away),
        1 => Just(Happening::Lost),
        2 => Just(Happening::Well),
        1 => Just(Happening::Crash),
        1 => (1..5_usize).prop_map(Happening::Takes),
    ]
}

async fn plays(happenings: &[Happening]) {
    let world = World::new().await;
    let settle = Duration::from_secs(2);
    world.to().settle = settle;
    let mut courier = world.courier().await;
    let mut now = 0;
    for happening in happenings {
        match *happening {
            Happening::Records(count) => world.put(count),
            Happening::Rotation => world.log.rotate().unwrap(),
            Happening::Time(milliseconds) => now += milliseconds,
            Happening::Away => world.to().trouble = Some(Trouble::certain("away")),
            Happening::Lost => {
                let mut to = world.to();
                let kept = to.now.checked_sub(settle);
                to.got
                    .retain(|(at, _)| kept.is_some_and(|kept| *at <= kept));
                to.trouble = Some(Trouble::uncertain("lost"));
                to.doubt = Some(Trouble::uncertain("lost"));
            }
            Happening::Well => {
                let mut to = world.to();
                // A connection that ended is noticed before there is another.
                if to.doubt.take().is_some() {
                    drop(to);
                    courier.failed(world.start, Trouble::uncertain("lost"));
                    to = world.to();
                }
                to.trouble = None;
            }
            Happening::Crash => {
                world.to().doubt = None;
                courier = world.courier().await;
            }
            Happening::Takes(most) => world.to().most = most,
        }
        world.step(&mut courier, now).await;
    }
    {
        let mut to = world.to();
        if to.doubt.take().is_some() {
            drop(to);
            courier.failed(world.start, Trouble::uncertain("lost"));
            to = world.to();
        }
        (to.trouble, to.most) = (None, usize::MAX);
    }
    for _ in 0..8 {
        now += 31_000;
        world.step(&mut courier, now).await;
    }
    let newest = world.log.head().unwrap().seq;
    let mut reached = 0;
    for seq in world.got() {
        assert!(seq <= reached + 1, "{seq} follows on {reached}");
        reached = reached.max(seq);
    }
    assert_eq!(reached, newest);
    assert_eq!(world.stored_seq().await, newest);
    assert_eq!(all(world.dir.path()), newest);
}

/// How many records a log has.
fn all(dir: &Path) -> u64 {
    let mut follower = Follower::after(dir, 0);
    std::iter::from_fn(|| follower.next_line().unwrap())
        .map(|_| 1)
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_happens_every_record_arrives_in_order(happenings in prop::collection::vec(happening(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(plays(&happenings));
    }
}
