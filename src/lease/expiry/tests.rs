use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use daypass_conformance::{ManualClock, SeededEntropy};
use daypass_contract::{Batch, Secret};

use super::*;
use crate::storage::memory::{InMemory, open_barrier};

/// Removes subjects from the agenda; `bad-…` fails, `panic-…` panics, all wait while `away`.
#[derive(Default)]
struct Removes {
    barrier: Mutex<Option<Arc<Barrier>>>,
    queue: &'static str,
    at: Mutex<Option<SystemTime>>,
    away: AtomicBool,
    tries: AtomicUsize,
    running: AtomicUsize,
    most_running: AtomicUsize,
    gone: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Reaper for Removes {
    async fn reap(&self, subject: &str) -> Result<Reaped, StorageError> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        assert!(!subject.starts_with("panic"), "told to panic");
        if subject.starts_with("bad") {
            return Err(StorageError::Unavailable("damaged".into()));
        }
        if self.away.load(Ordering::SeqCst) {
            return Ok(Reaped::UpstreamAway);
        }
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        let (barrier, at) = (
            self.barrier.lock().unwrap().clone().unwrap(),
            self.at.lock().unwrap().unwrap(),
        );
        barrier
            .apply(Batch::new().delete(agenda::key(self.queue, at, subject)))
            .await?;
        self.gone.lock().unwrap().insert(subject.to_owned());
        Ok(Reaped::Settled)
    }
}

struct Bench {
    clock: Arc<ManualClock>,
    barrier: Arc<Barrier>,
    queue: Arc<Queue>,
    reaper: Arc<Removes>,
    stop: CancellationToken,
}

impl Bench {
    async fn new(concurrency: usize) -> Self {
        let clock = Arc::new(ManualClock::default());
        let barrier = open_barrier(
            Arc::new(InMemory::new()),
            Arc::<ManualClock>::clone(&clock),
            Arc::new(SeededEntropy::new(3)),
        )
        .await
        .unwrap();
        let reaper = Arc::new(Removes {
            barrier: Mutex::new(Some(Arc::clone(&barrier))),
            queue: "q",
            at: Mutex::new(Some(clock.now() + Duration::from_secs(10))),
            ..Removes::default()
        });
        let queue = Queue::new(
            "q".into(),
            Arc::clone(&barrier),
            Arc::<ManualClock>::clone(&clock),
            concurrency,
        );
        Self {
            clock,
            barrier,
            queue,
            reaper,
            stop: CancellationToken::new(),
        }
    }

    async fn put(&self, subject: &str) {
        let at = self.reaper.at.lock().unwrap().unwrap();
        self.barrier
            .apply(Batch::new().put(agenda::key("q", at, subject), Secret::new([])))
            .await
            .unwrap();
    }

    /// Runs the worker until `done`, which must be soon.
    async fn until(&self, done: impl Fn(&Removes) -> bool) {
        let reaper: Arc<dyn Reaper> = Arc::<Removes>::clone(&self.reaper);
        let running = Arc::clone(&self.queue).run(reaper, self.stop.clone());
        let watching = async {
            for _ in 0..5000 {
                if done(&self.reaper) {
                    self.stop.cancel();
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.stop.cancel();
            false
        };
        let ((), reached) = tokio::join!(running, watching);
        assert!(reached, "the worker is stuck");
    }
}

fn gone(count: usize) -> impl Fn(&Removes) -> bool {
    move |reaper| reaper.gone.lock().unwrap().len() == count
}

#[tokio::test]
async fn nothing_ends_early_and_all_that_is_due_ends() {
    let bench = Bench::new(4).await;
    for subject in ["a", "b", "c"] {
        bench.put(subject).await;
    }
    bench.until(|_| true).await;
    assert_eq!(bench.reaper.tries.load(Ordering::SeqCst), 0);
    let bench = Bench {
        stop: CancellationToken::new(),
        ..bench
    };
    bench.clock.advance(Duration::from_secs(10));
    bench.until(gone(3)).await;
}

#[tokio::test]
async fn no_more_run_at_a_time_than_allowed() {
    let bench = Bench::new(8).await;
    for number in 0..200 {
        bench.put(&format!("s{number:03}")).await;
    }
    bench.clock.advance(Duration::from_secs(10));
    bench.until(gone(200)).await;
    let most = bench.reaper.most_running.load(Ordering::SeqCst);
    assert!((5..=8).contains(&most), "{most}");
}

#[tokio::test]
async fn what_cannot_be_settled_holds_up_nobody() {
    let bench = Bench::new(4).await;
    // They sort before the others, and there are more of them than run at a time.
    for number in 0..3 {
        bench.put(&format!("bad-{number}")).await;
        bench.put(&format!("panic-{number}")).await;
    }
    bench.put("well").await;
    bench.clock.advance(Duration::from_secs(10));
    bench.until(gone(1)).await;
}

#[tokio::test]
async fn an_upstream_that_is_away_is_probed_with_one_at_a_time() {
    let bench = Bench::new(4).await;
    for number in 0..100 {
        bench.put(&format!("s{number:03}")).await;
    }
    bench.reaper.away.store(true, Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(10));
    let away = async {
        while bench.queue.health() == QueueHealth::Well {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(bench.reaper.tries.load(Ordering::SeqCst) <= 5);
        bench.reaper.away.store(false, Ordering::SeqCst);
        bench.queue.wake();
    };
    tokio::join!(away, bench.until(gone(100)));
    assert_eq!(bench.queue.health(), QueueHealth::Well);
}

#[tokio::test]
async fn what_is_put_on_the_agenda_is_expected_in_time() {
    let bench = Bench::new(4).await;
    let adding = async {
        // The worker found nothing and sleeps.
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.put("late").await;
        bench.clock.advance(Duration::from_secs(10));
        bench.queue.expect(bench.clock.now());
    };
    tokio::join!(adding, bench.until(gone(1)));
}

#[tokio::test]
async fn many_that_end_at_once_are_spread() {
    const MANY: u32 = 400;
    let bench = Bench::new(64).await;
    for number in 0..MANY {
        bench.put(&format!("s-{number:03}")).await;
    }
    bench.clock.advance(Duration::from_secs(11));
    let started = std::time::Instant::now();
    bench.until(gone(MANY as usize)).await;
    let least = (EVERY * (MANY - 1)).saturating_sub(CATCH_UP);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
}
