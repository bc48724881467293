//! The worker that ends what is due, one per agenda queue.
//!
//! **Invariant:** an upstream that fails or hangs holds up its own queue alone. While it is away the
//! worker probes it with one revocation at a time instead of failing thousands.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use daypass_contract::{Clock, millis};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::storage::{Barrier, StorageError, agenda};

/// The longest the worker sleeps without looking at the clock again, which may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between probes of an upstream that is away, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How ending one subject went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// It is gone, or it has a new place on the agenda.
    Settled,
    /// The upstream is away; the subject keeps its place or has a new one.
    UpstreamAway,
}

/// Ends one subject of a queue.
#[async_trait]
pub trait Reaper: Send + Sync + 'static {
    /// Ends it, or gives it a new place on the agenda. `Err`: storage failed and the place is kept.
    async fn reap(&self, subject: &str) -> Result<Reaped, StorageError>;
}

/// One agenda queue and its worker.
pub struct Queue {
    name: String,
    barrier: Arc<Barrier>,
    clock: Arc<dyn Clock>,
    concurrency: usize,
    wake: Notify,
    /// When the worker looks at the agenda next, in milliseconds since the epoch.
    next_look: AtomicU64,
    away_since: AtomicU64,
}

/// What a queue's worker sees of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueHealth {
    /// The last revocation got through, or none was due.
    Well,
    /// Revocations wait for the upstream since then.
    UpstreamAway {
        /// Since when.
        since: SystemTime,
    },
}

impl Queue {
    /// A queue that ends at most `concurrency` subjects at a time.
    pub fn new(
        name: String,
        barrier: Arc<Barrier>,
        clock: Arc<dyn Clock>,
        concurrency: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            barrier,
            clock,
            concurrency: concurrency.max(1),
            wake: Notify::new(),
            next_look: AtomicU64::new(0),
            away_since: AtomicU64::new(0),
        })
    }

    /// Makes the worker look at the agenda now: something became due.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Makes the worker look at the agenda in time for something that was put on it for `at`.
    pub fn expect(&self, at: SystemTime) {
        if millis::of(at) <= self.next_look.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// What the worker sees of the upstream.
    pub fn health(&self) -> QueueHealth {
        match self.away_since.load(Ordering::Relaxed) {
            0 => QueueHealth::Well,
            since => QueueHealth::UpstreamAway {
                since: millis::at(since),
            },
        }
    }

    /// Works until `stop`; what runs then is finished first.
    pub async fn run(self: Arc<Self>, reaper: Arc<dyn Reaper>, stop: CancellationToken) {
        let mut running: JoinSet<(String, Result<Reaped, StorageError>)> = JoinSet::new();
        let mut in_flight: HashSet<String> = HashSet::new();
        let mut failures = 0_u32;
        loop {
            let limit = if failures > 0 { 1 } else { self.concurrency };
            let mut pause = LOOK_AGAIN;
            let looks = running.len() <= limit / 2;
            if looks {
                match self.due(limit, &in_flight).await {
                    Ok((subjects, next)) => {
                        for subject in subjects {
                            in_flight.insert(subject.clone());
                            let reaper = Arc::clone(&reaper);
                            running.spawn(async move {
                                let result = reaper.reap(&subject).await;
                                (subject, result)
                            });
                        }
                        pause = next.min(LOOK_AGAIN);
                        let next_look = millis::of(self.clock.now() + pause);
                        self.next_look.store(next_look, Ordering::Relaxed);
                    }
                    Err(error) => {
                        tracing::error!(queue = self.name, %error, "cannot read the agenda");
                        pause = backoff(failures.saturating_add(1));
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = running.join_next(), if !running.is_empty() => {
                    let result = match done {
                        Ok((subject, result)) => {
                            in_flight.remove(&subject);
                            result
                        }
                        // A reaper that panicked loses the name of its subject; the next look finds
                        // it on the agenda again.
                        Err(error) => {
                            tracing::error!(queue = self.name, %error, "revocation panicked");
                            if running.is_empty() { in_flight.clear(); }
                            Ok(Reaped::UpstreamAway)
                        }
                    };
                    match result {
                        Ok(Reaped::Settled) => {
                            failures = 0;
                            self.away_since.store(0, Ordering::Relaxed);
                        }
                        Ok(Reaped::UpstreamAway) | Err(_) => {
                            if let Err(error) = &result {
                                tracing::error!(queue = self.name, %error, "cannot settle what is due");
                            }
                            failures = failures.saturating_add(1);
                            let now = millis::of(self.clock.now()).max(1);
                            let _ = self.away_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                            if running.is_empty() {
                                tokio::select! {
                                    () = stop.cancelled() => break,
                                    () = tokio::time::sleep(backoff(failures)) => {}
                                }
                            }
                        }
                    }
                }
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause), if looks => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// Up to `limit` subjects that are due and not being worked on, and how long until the next.
    async fn due(
        &self,
        limit: usize,
        in_flight: &HashSet<String>,
    ) -> Result<(Vec<String>, Duration), StorageError> {
        let now = self.clock.now();
        let keys = self
            .barrier
            .keys(&agenda::prefix(&self.name), None, limit + in_flight.len())
            .await?;
        let mut subjects = Vec::new();
        for key in &keys {
            let Some((at, subject)) = agenda::parse(&self.name, key) else {
                continue;
            };
            if at > now {
                let wait = at.duration_since(now).unwrap_or_default();
                return Ok((subjects, wait + Duration::from_millis(1)));
            }
            if !in_flight.contains(subject) {
                subjects.push(subject.to_owned());
            }
        }
        // All that was read is due: look again soon. None at all: sleep until woken.
        let next = if keys.is_empty() {
            LOOK_AGAIN
        } else {
            Duration::from_millis(10)
        };
        Ok((subjects, next))
    }
}

fn backoff(failures: u32) -> Duration {
    let exponent = failures.saturating_sub(1).min(16);
    Duration::from_millis(250)
        .saturating_mul(1 << exponent)
        .min(LONGEST_PAUSE)
}
