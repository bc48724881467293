//! The worker that ends what is due, one per agenda queue.
//!
//! **Invariants:** an upstream that fails or hangs holds up its own queue alone. While it is away the
//! worker probes it with one revocation at a time instead of failing thousands. A subject that cannot be
//! worked on (a damaged record, a bug) is set aside for a while and holds up nobody. Thousands that end
//! at once are spread over time, so that they do not take turns with requests for every core.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use daypass_contract::{Clock, millis};
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::storage::{Barrier, StorageError, agenda};

/// Between the beginnings of two subjects, on average: 8,000 a second. Ending one costs about 0.1 ms of a
/// core, so that more than half of even a small machine is left to requests.
const EVERY: Duration = Duration::from_micros(125);
/// How far the beginnings may fall behind [`EVERY`] and catch up: timers are not finer than 1 ms.
const CATCH_UP: Duration = Duration::from_millis(4);
/// How many subjects are read from the agenda at a time, as a multiple of those that run at a time.
const AHEAD: usize = 4;
/// The longest the worker sleeps without looking at the clock again, which may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Between probes of an upstream that is away, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// For how long a subject is set aside that kept its place although it was worked on.
const ASIDE: Duration = Duration::from_secs(30);
/// As many are set aside at a time; with more, the first are tried again sooner.
const MOST_ASIDE: usize = 1000;

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

    /// Notes that the upstream was heard of: it is not away any more.
    pub fn answered(&self) {
        self.away_since.store(0, Ordering::Relaxed);
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
        let mut running: JoinSet<Result<Reaped, StorageError>> = JoinSet::new();
        let mut in_flight: HashMap<Id, String> = HashMap::new();
        // Due, and not begun yet.
        let mut ahead: VecDeque<String> = VecDeque::new();
        // Ahead, in flight or set aside.
        let mut busy: HashSet<String> = HashSet::new();
        let mut aside: VecDeque<(Instant, String)> = VecDeque::new();
        let mut failures = 0_u32;
        // When the next subject may begin; at first as after a pause, as many as may catch up.
        let begun = Instant::now();
        let mut turn = begun.checked_sub(CATCH_UP).unwrap_or(begun);
        loop {
            let (limit, most_ahead) = match failures {
                0 => (self.concurrency, self.concurrency * AHEAD),
                _ => (1, 1),
            };
            let mut pause = None;
            if ahead.is_empty() && running.len() <= limit / 2 {
                while let Some(until) = aside.front().map(|(until, _)| *until)
                    && (aside.len() > MOST_ASIDE || until <= Instant::now())
                {
                    if let Some((_, subject)) = aside.pop_front() {
                        busy.remove(&subject);
                    }
                }
                // Whatever is put on the agenda from here on wakes the worker.
                self.next_look.store(u64::MAX, Ordering::Relaxed);
                match self.due(most_ahead, &busy).await {
                    Ok((subjects, next)) => {
                        busy.extend(subjects.iter().cloned());
                        ahead.extend(subjects);
                        let next = next.min(LOOK_AGAIN);
                        let next_look = millis::of(self.clock.now() + next);
                        self.next_look.store(next_look, Ordering::Relaxed);
                        pause = Some(next);
                    }
                    Err(error) => {
                        tracing::error!(queue = self.name, %error, "cannot read the agenda");
                        pause = Some(backoff(failures.saturating_add(1)));
                    }
                }
            }
            let now = Instant::now();
            turn = turn.max(now.checked_sub(CATCH_UP).unwrap_or(now));
            while running.len() < limit
                && turn <= now
                && let Some(subject) = ahead.pop_front()
            {
                turn += EVERY;
                let (reaper, name) = (Arc::clone(&reaper), subject.clone());
                let task = running.spawn(async move { reaper.reap(&name).await });
                in_flight.insert(task.id(), subject);
            }
            if !ahead.is_empty() && running.len() < limit {
                pause = Some(turn - now);
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(done) = running.join_next_with_id(), if !running.is_empty() => {
                    let (id, result) = match done {
                        Ok((id, result)) => (id, result.map_err(|error| error.to_string())),
                        Err(panicked) => (panicked.id(), Err("revocation panicked".to_owned())),
                    };
                    let subject = in_flight.remove(&id).unwrap_or_default();
                    match &result {
                        Ok(_) => drop(busy.remove(&subject)),
                        // It keeps its place at the front, where it must not stand before the others.
                        Err(error) => {
                            tracing::error!(queue = self.name, subject, error, "cannot settle what is due");
                            aside.push_back((Instant::now() + ASIDE, subject));
                        }
                    }
                    match result {
                        Ok(Reaped::Settled) => {
                            failures = 0;
                            self.away_since.store(0, Ordering::Relaxed);
                        }
                        Ok(Reaped::UpstreamAway) | Err(_) => {
                            failures = failures.max(1);
                            for subject in ahead.drain(..) {
                                busy.remove(&subject);
                            }
                            let now = millis::of(self.clock.now()).max(1);
                            let _ = self.away_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                            if running.is_empty() {
                                failures = failures.saturating_add(1);
                                tokio::select! {
                                    () = stop.cancelled() => break,
                                    () = self.wake.notified() => {}
                                    () = tokio::time::sleep(backoff(failures - 1)) => {}
                                }
                            }
                        }
                    }
                }
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// Up to `limit` subjects that are due and not busy, and how long until the next.
    async fn due(
        &self,
        limit: usize,
        busy: &HashSet<String>,
    ) -> Result<(Vec<String>, Duration), StorageError> {
        let now = self.clock.now();
        let most = limit + busy.len();
        let keys = self
            .barrier
            .keys(&agenda::prefix(&self.name), None, most)
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
            if !busy.contains(subject) && subjects.len() < limit {
                subjects.push(subject.to_owned());
            }
        }
        // All that was read is due. If there is more, look again soon; if that was all, sleep until
        // something is settled or put on the agenda.
        let next = if keys.len() < most {
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

#[cfg(test)]
mod tests;
