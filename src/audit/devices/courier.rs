//! [`Courier`]: carries the log to one device, record by record, for as long as the server is unsealed.
//!
//! # Invariants
//!
//! * **At least once, in order.** The stored cursor passes a record only after its sink confirmed it. Whatever
//!   happens in between (a failure, a crash), the record is sent again, and all after it.
//! * **Never ahead of the log.** A cursor is stored only for records that the disk has: a record that a crash of
//!   the machine took away from the log is written anew under the same number, and is sent then.
//! * **Nobody waits for a device.** It reads files that are there anyway.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use daypass_contract::{Batch, Clock};
use metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;

use super::reader::{Cursor, Gap, Reader, Record, Stored};
use super::sink::{Sink, Trouble};
use crate::audit::error::AuditError;
use crate::audit::log::{AuditLog, Kind, Position};
use crate::audit::record::Event;
use crate::storage::Barrier;

/// How often an idle device looks for new records.
const POLL: Duration = Duration::from_millis(100);
/// How often what was sent is confirmed.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// How often the metrics of a device in trouble are brought up to date.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long what runs may take when the server stops.
const GRACE: Duration = Duration::from_secs(3);
/// A device that is so far behind is an alarm.
const ALARM_RECORDS: u64 = 100_000;
const ALARM_AFTER: Duration = Duration::from_secs(15 * 60);

/// How a device is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The last record that was sent.
    pub delivered: u64,
    /// The last record that need not be sent again.
    pub confirmed: u64,
    /// Records that were not sent yet.
    pub lag_records: u64,
    /// The age of the oldest of them.
    pub lag: Duration,
    /// Since when nothing gets through.
    pub failing_since: Option<SystemTime>,
    /// Why not.
    pub error: Option<String>,
    /// It needs an operator.
    pub alarm: bool,
}

/// A device's status, shared with whoever asks for it.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Status>>);

impl Shared {
    pub(super) fn get(&self) -> Status {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// What a courier is made of.
pub(super) struct Parts {
    /// The device's path.
    pub(super) name: String,
    pub(super) log: Arc<AuditLog>,
    pub(super) barrier: Arc<Barrier>,
    /// Where its cursor is stored.
    pub(super) key: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) cursor: Cursor,
}

/// Carries records to one device.
pub(super) struct Courier {
    parts: Parts,
    status: Shared,
    reader: Option<Reader>,
    /// No record was read since the cursor was loaded.
    fresh: bool,
    /// Read and not sent.
    pending: VecDeque<Record>,
    delivered: Cursor,
    confirmed: Cursor,
    /// What was sent by when, and is not old enough yet to be confirmed.
    settling: VecDeque<(Instant, Cursor)>,
    confirm_at: Option<Instant>,
    behind_since: Option<SystemTime>,
    failures: u32,
    failing_since: Option<SystemTime>,
    error: Option<String>,
    retry_at: Option<Instant>,
    alarm: bool,
}

impl Courier {
    pub(super) fn new(parts: Parts, status: Shared) -> Self {
        let cursor = parts.cursor.clone();
        status.set(Status {
            delivered: cursor.head.seq,
            confirmed: cursor.head.seq,
            ..Status::default()
        });
        Self {
            parts,
            status,
            reader: None,
            fresh: true,
            pending: VecDeque::new(),
            delivered: cursor.clone(),
            confirmed: cursor,
            settling: VecDeque::new(),
            confirm_at: None,
            behind_since: None,
            failures: 0,
            failing_since: None,
            error: None,
            retry_at: None,
            alarm: false,
        }
    }

    /// Carries records until `stop`; then stores how far it got.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = {
                let step = self.step(Instant::now());
                tokio::pin!(step);
                tokio::select! {
                    wait = &mut step => wait,
                    () = stop.cancelled() => {
                        // What is half sent is finished, but a destination that hangs does not hold up the end.
                        let _ = tokio::time::timeout(GRACE, step).await;
                        break;
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        let last = async {
            if self.failing_since.is_none() {
                let _ = self.confirm(Instant::now()).await;
            }
        };
        let _ = tokio::time::timeout(GRACE, last).await;
    }

    /// Does what is to be done at `now`, and says how long it may wait before the next step.
    pub(super) async fn step(&mut self, now: Instant) -> Duration {
        if let Some(at) = self.retry_at
            && at > now
        {
            self.tell();
            return (at - now).min(LOOK);
        }
        let wait = match self.advance(now).await {
            Ok(wait) => wait,
            Err(trouble) => self.failed(now, trouble),
        };
        self.tell();
        wait
    }

    async fn advance(&mut self, now: Instant) -> Result<Duration, Trouble> {
        // First: a confirmation counts for what was sent before `now`.
        if self.confirm_at.is_some_and(|at| at <= now) {
            self.confirm(now).await?;
        }
        if self.pending.is_empty() && self.newest() > self.delivered.head.seq || self.fresh {
            self.read().await?;
        }
        if !self.pending.is_empty() {
            self.send().await?;
            self.confirm_at.get_or_insert(now + CONFIRM_EVERY);
        }
        let more = !self.pending.is_empty() || self.newest() > self.delivered.head.seq;
        Ok(if more { Duration::ZERO } else { POLL })
    }

    /// The last record of the log. Of a log that failed nothing is known; what it wrote is still there.
    fn newest(&self) -> u64 {
        let head = self.parts.log.head();
        head.map_or(self.delivered.head.seq, |head| head.seq)
    }

    async fn read(&mut self) -> Result<(), Trouble> {
        let (dir, newest) = (self.parts.log.dir().to_owned(), self.newest());
        let (reader, cursor, fresh) = (self.reader.take(), self.delivered.clone(), self.fresh);
        let reading = tokio::task::spawn_blocking(move || {
            let mut reader = match reader {
                Some(reader) => reader,
                None => Reader::open(&dir, &cursor, newest, fresh)?,
            };
            let found = reader.read()?;
            Ok::<_, AuditError>((reader, found))
        });
        let (reader, found) = reading
            .await
            .map_err(Trouble::certain)?
            .map_err(Trouble::certain)?;
        for gap in found.gaps {
            self.tell_gap(gap);
        }
        if !found.records.is_empty() {
            self.pending.extend(found.records);
        }
        self.fresh = false;
        self.reader = Some(reader);
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Trouble> {
        let lines: Vec<&str> = self
            .pending
            .iter()
            .map(|record| record.line.as_str())
            .collect();
        let sent = self.parts.sink.send(&lines).await?;
        for record in self.pending.drain(..sent.min(self.pending.len())) {
            self.delivered = record.cursor;
        }
        counter!("daypass_audit_device_records_total", "device" => self.parts.name.clone())
            .increment(sent as u64);
        self.recovered();
        Ok(())
    }

    /// Asks the sink for what was sent before `now`, and stores how far that is certain.
    async fn confirm(&mut self, now: Instant) -> Result<(), Trouble> {
        self.parts.sink.confirm().await?;
        if self
            .settling
            .back()
            .map_or(&self.confirmed, |(_, last)| last)
            != &self.delivered
        {
            self.settling.push_back((now, self.delivered.clone()));
        }
        let settle = self.parts.sink.settles_after();
        let settled = self
            .settling
            .iter()
            .take_while(|(at, _)| *at + settle <= now)
            .count();
        let reached = settled
            .checked_sub(1)
            .and_then(|last| self.settling.get(last));
        if let Some((_, cursor)) = reached {
            match self.store(cursor).await {
                Ok(()) => {
                    self.confirmed = cursor.clone();
                    self.settling.drain(..settled);
                }
                // It is tried again at the next confirmation; until then a crash only repeats more.
                Err(error) => {
                    tracing::error!(device = self.parts.name, error, "cursor cannot be stored");
                }
            }
        }
        let done = self.confirmed == self.delivered;
        self.confirm_at = (!done).then(|| now + CONFIRM_EVERY);
        Ok(())
    }

    async fn store(&self, cursor: &Cursor) -> Result<(), String> {
        let position = Position::of(cursor.head.seq);
        let durable = self.parts.log.durable(position).await;
        durable.map_err(|error| error.to_string())?;
        let batch = Batch::new()
            .put_json(&self.parts.key, &Stored::from(cursor))
            .map_err(|error| error.to_string())?;
        let stored = self.parts.barrier.apply(batch).await;
        stored.map(drop).map_err(|error| error.to_string())
    }

    fn failed(&mut self, now: Instant, trouble: Trouble) -> Duration {
        let Trouble { reason, uncertain } = trouble;
        if uncertain {
            self.delivered = self.confirmed.clone();
            self.pending.clear();
            self.settling.clear();
            self.reader = None;
            self.confirm_at = None;
        }
        self.failures = self.failures.saturating_add(1);
        let wait = pause(self.failures);
        self.retry_at = Some(now + wait);
        if self.failing_since.is_none() {
            self.failing_since = Some(self.parts.clock.now());
            tracing::warn!(
                device = self.parts.name,
                reason,
                "audit device takes no records; they wait in the log"
            );
        }
        counter!("daypass_audit_device_failures_total", "device" => self.parts.name.clone())
            .increment(1);
        self.error = Some(reason);
        wait.min(LOOK)
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.retry_at = None;
        self.error = None;
        if self.failing_since.take().is_some() {
            tracing::info!(device = self.parts.name, "audit device takes records again");
        }
    }

    fn tell_gap(&self, gap: Gap) {
        let name = &self.parts.name;
        let (what, first, last) = match gap {
            Gap::Missing { first, last } => ("files were moved away", first, last),
            Gap::Replaced { after } => ("the log was begun anew", after, after),
            Gap::Broken { at } => ("a record does not follow on the one before", at, at),
        };
        tracing::error!(
            device = name,
            what,
            first,
            last,
            "audit device misses records"
        );
        if matches!(gap, Gap::Missing { .. }) {
            counter!("daypass_audit_device_missed_records_total", "device" => name.clone())
                .increment(last.saturating_sub(first) + 1);
        }
        let (first, last) = (first.to_string(), last.to_string());
        let event = Event {
            what: "audit.device.gap",
            path: Some(name),
            details: &[("what", what), ("first", &first), ("last", &last)],
            ..Event::default()
        };
        if let Err(error) = self.parts.log.append(Kind::Event, &event) {
            tracing::error!(device = name, %error, "the gap cannot be recorded");
        }
    }

    /// Brings status and metrics up to date.
    fn tell(&mut self) {
        let now = self.parts.clock.now();
        let lag_records = self.newest().saturating_sub(self.delivered.head.seq);
        self.behind_since = if lag_records == 0 {
            None
        } else {
            let oldest = self.pending.front().and_then(Record::time);
            oldest.or(self.behind_since).or(Some(now))
        };
        let since = self.behind_since.unwrap_or(now);
        let lag = now.duration_since(since).unwrap_or_default();
        let alarm = lag_records > ALARM_RECORDS || lag > ALARM_AFTER;
        let name = &self.parts.name;
        if alarm != self.alarm {
            self.alarm = alarm;
            if alarm {
                tracing::error!(
                    device = name,
                    lag_records,
                    lag_seconds = lag.as_secs(),
                    reason = self.error,
                    "audit device is far behind; keep the log's files until it has them"
                );
            } else {
                tracing::info!(device = name, "audit device has caught up");
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a metric, and far below 2^52")]
        gauge!("daypass_audit_device_lag_records", "device" => name.clone())
            .set(lag_records as f64);
        gauge!("daypass_audit_device_lag_seconds", "device" => name.clone()).set(lag.as_secs_f64());
        gauge!("daypass_audit_device_alarm", "device" => name.clone()).set(if alarm {
            1.0
        } else {
            0.0
        });
        self.status.set(Status {
            delivered: self.delivered.head.seq,
            confirmed: self.confirmed.head.seq,
            lag_records,
            lag,
            failing_since: self.failing_since,
            error: self.error.clone(),
            alarm,
        });
    }
}

/// Takes a device that is no more out of the metrics, as far as they can forget.
pub(super) fn forget_metrics(name: &str) {
    for metric in [
        "daypass_audit_device_lag_records",
        "daypass_audit_device_lag_seconds",
        "daypass_audit_device_alarm",
    ] {
        gauge!(metric, "device" => name.to_owned()).set(0.0);
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let exponent = failures.saturating_sub(1).min(16);
    Duration::from_millis(250)
        .saturating_mul(1 << exponent)
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
