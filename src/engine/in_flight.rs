//! Requests at work at this moment, for `sys/in-flight-req`.
//!
//! Every request passes here, so entering and leaving take one short lock of one shard among many.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// More than the cores that could meet on one shard at a time.
const SHARDS: usize = 32;

/// One request at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightRequest {
    /// When it arrived.
    pub started_at: SystemTime,
    /// Where it came from.
    pub remote: Option<SocketAddr>,
    /// The whole path.
    pub path: String,
    /// The HTTP method.
    pub method: String,
}

/// The requests at work, by their ids.
#[derive(Default)]
pub struct InFlight {
    shards: [Mutex<HashMap<String, InFlightRequest>>; SHARDS],
    next: AtomicUsize,
}

/// A request is at work for as long as this lives.
pub struct Entered<'a> {
    shard: &'a Mutex<HashMap<String, InFlightRequest>>,
    id: &'a str,
}

impl InFlight {
    /// Notes a request until what this gives is dropped.
    pub fn enter<'a>(&'a self, id: &'a str, request: InFlightRequest) -> Option<Entered<'a>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let shard = self.shards.get(at)?;
        lock(shard).insert(id.to_owned(), request);
        Some(Entered { shard, id })
    }

    /// All of them.
    pub fn all(&self) -> Vec<(String, InFlightRequest)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            all.extend(
                shard
                    .iter()
                    .map(|(id, request)| (id.clone(), request.clone())),
            );
        }
        all
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        lock(self.shard).remove(self.id);
    }
}

fn lock(
    shard: &Mutex<HashMap<String, InFlightRequest>>,
) -> MutexGuard<'_, HashMap<String, InFlightRequest>> {
    // No code between lock and unlock leaves the table half changed.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_there_while_it_is_at_work() {
        let (in_flight, request) = (
            InFlight::default(),
            InFlightRequest {
                started_at: SystemTime::UNIX_EPOCH,
                remote: None,
                path: "/v1/a".into(),
                method: "GET".into(),
            },
        );
        let ids: Vec<String> = (0..3 * SHARDS).map(|number| number.to_string()).collect();
        let entered: Vec<_> = ids
            .iter()
            .map(|id| in_flight.enter(id, request.clone()).unwrap())
            .collect();
        let mut there: Vec<String> = in_flight.all().into_iter().map(|(id, _)| id).collect();
        there.sort_by_key(|id| id.parse::<usize>().unwrap());
        assert_eq!(there, ids);
        drop(entered);
        assert_eq!(in_flight.all(), []);
    }
}
