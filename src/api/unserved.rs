//! Requests that are turned away or given up before there is a record of their own.
//!
//! A flood must not fill the audit log, so they are counted: the metric at once, and one event with the
//! numbers in the log of the server and of the audit, now and then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::audit::{AuditLog, Event, Kind};

/// Between two events at least. What comes in between is in the next one.
const PAUSE: Duration = Duration::from_secs(10);

/// Why a request was not served to its end.
#[derive(Clone, Copy)]
pub(super) enum Why {
    /// Too many at once.
    TooMany,
    /// It took too long. What it began goes on, and has a record where it changes something.
    TooLong,
}

/// Counts them.
pub(super) struct Unserved {
    audit: Arc<AuditLog>,
    since: Mutex<Since>,
}

/// What was counted since the last event.
#[derive(Default)]
struct Since {
    told_at: Option<Instant>,
    too_many: u64,
    too_long: u64,
}

impl Unserved {
    pub(super) fn new(audit: Arc<AuditLog>) -> Self {
        Self {
            audit,
            since: Mutex::default(),
        }
    }

    /// Counts one.
    pub(super) fn note(&self, why: Why) {
        let (label, told) = {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let label = match why {
                Why::TooMany => {
                    since.too_many += 1;
                    "too_many"
                }
                Why::TooLong => {
                    since.too_long += 1;
                    "too_long"
                }
            };
            let now = Instant::now();
            let due = since.told_at.is_none_or(|at| now - at >= PAUSE);
            let told = due.then(|| (since.too_many, since.too_long));
            if due {
                *since = Since {
                    told_at: Some(now),
                    ..Since::default()
                };
            }
            (label, told)
        };
        metrics::counter!("daypass_requests_unserved_total", "why" => label).increment(1);
        let Some((too_many, too_long)) = told else {
            return;
        };
        tracing::warn!(too_many, too_long, "requests were not served");
        let event = Event {
            what: "requests.unserved",
            details: &[
                ("too_many", &too_many.to_string()),
                ("too_long", &too_long.to_string()),
            ],
            ..Event::default()
        };
        // They were refused already: there is nothing to hold back where this fails.
        if let Err(error) = self.audit.append(Kind::Event, &event) {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }
}
