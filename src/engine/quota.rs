//! Rate limits per path, declared in the configuration.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};

use super::answer::Failure;
use crate::config;

/// The declared limits. A request counts against the one with the longest matching path.
#[derive(Default)]
pub struct Quotas {
    /// Longest path first.
    limits: ArcSwap<Vec<Arc<Limit>>>,
}

struct Limit {
    name: String,
    path: String,
    /// Rate (its bits) and burst, as declared.
    numbers: (u64, u64),
    bucket: DefaultDirectRateLimiter,
}

impl Quotas {
    /// Full buckets for the declared quotas. The configuration has checked that rates are above zero.
    pub fn new(declared: Vec<config::Quota>) -> Self {
        let quotas = Self::default();
        quotas.replace(declared);
        quotas
    }

    /// Declares others instead. A limit that stays as it was keeps its bucket. Gives the names of those
    /// that are new, other than before, or gone.
    pub fn replace(&self, declared: Vec<config::Quota>) -> Vec<String> {
        let before = self.limits.load_full();
        let mut changed: Vec<String> = before
            .iter()
            .filter(|limit| declared.iter().all(|quota| quota.name != limit.name))
            .map(|limit| limit.name.clone())
            .collect();
        let mut limits: Vec<Arc<Limit>> = declared
            .into_iter()
            .filter_map(|quota| {
                let numbers = (quota.rate_per_second.to_bits(), quota.burst);
                let same = |limit: &&Arc<Limit>| {
                    limit.name == quota.name && limit.path == quota.path && limit.numbers == numbers
                };
                if let Some(limit) = before.iter().find(same) {
                    return Some(Arc::clone(limit));
                }
                changed.push(quota.name.clone());
                let period = Duration::try_from_secs_f64(1.0 / quota.rate_per_second).ok()?;
                let burst = NonZeroU32::new(u32::try_from(quota.burst).unwrap_or(u32::MAX))?;
                let rate = governor::Quota::with_period(period)?.allow_burst(burst);
                Some(Arc::new(Limit {
                    name: quota.name,
                    path: quota.path,
                    numbers,
                    bucket: RateLimiter::direct(rate),
                }))
            })
            .collect();
        limits.sort_by_key(|limit| std::cmp::Reverse(limit.path.len()));
        self.limits.store(Arc::new(limits));
        changed
    }

    /// Counts a request for `path`.
    ///
    /// # Errors
    /// [`Failure::TooMany`] where it comes too soon.
    pub fn check(&self, path: &str) -> Result<(), Failure> {
        let limits = self.limits.load();
        let Some(limit) = limits.iter().find(|limit| path.starts_with(&limit.path)) else {
            return Ok(());
        };
        limit.bucket.check().map_err(|until| Failure::TooMany {
            quota: limit.name.clone(),
            retry_after: until.wait_time_from(DefaultClock::default().now()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(name: &str, path: &str, rate_per_second: f64, burst: u64) -> config::Quota {
        let place = config::Place {
            file: "test".into(),
            line: 1,
            column: 1,
        };
        let origin = config::Origin {
            place,
            key: name.into(),
        };
        config::Quota {
            name: name.into(),
            path: path.into(),
            rate_per_second,
            burst,
            origin,
        }
    }

    #[test]
    fn the_longest_path_counts_and_an_empty_bucket_says_when_to_come_back() {
        let quotas = Quotas::new(vec![
            quota("all", "", 0.01, 2),
            quota("secrets", "secret/", 0.01, 1),
        ]);
        assert!(quotas.check("secret/a").is_ok());
        match quotas.check("secret/b") {
            Err(Failure::TooMany { quota, retry_after }) => {
                assert_eq!(quota, "secrets");
                assert!(retry_after > Duration::from_secs(60), "{retry_after:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!(quotas.check("pki/ca").is_ok());
        assert!(quotas.check("pki/ca").is_ok());
        assert!(quotas.check("pki/ca").is_err());

        // What stays as it was keeps its bucket, empty as it is.
        let changed = quotas.replace(vec![
            quota("all", "", 0.01, 2),
            quota("pki", "pki/", 0.01, 1),
        ]);
        assert_eq!(changed, ["secrets", "pki"]);
        assert!(quotas.check("pki/ca").is_ok());
        assert!(quotas.check("pki/ca").is_err());
        assert!(quotas.check("secret/a").is_err());
    }
}
