//! Rate limits per path and client address: declared in the configuration, or written over the API.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, RateLimiter};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::engine::answer::Failure;

/// Client addresses with a bucket of their own; of more, those that are full again are forgotten.
const MOST_ADDRESSES: usize = 65_536;
/// Paths that no limit is for: who is asked whether it lives, and how it is opened.
pub(crate) const EXEMPT: [&str; 5] = [
    "sys/generate-root/attempt",
    "sys/generate-root/update",
    "sys/health",
    "sys/seal-status",
    "sys/unseal",
];

/// A rate limit, as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Names it.
    pub name: String,
    /// Requests below this path count; all if it is empty.
    pub path: String,
    /// Requests of one client address in an interval.
    pub rate: f64,
    /// See [`RateLimit::rate`].
    #[serde(with = "daypass_contract::duration")]
    pub interval: Duration,
    /// How long an address is kept out after its bucket was empty; zero for until there is room again.
    #[serde(with = "daypass_contract::duration")]
    pub block_interval: Duration,
}

impl From<config::Quota> for RateLimit {
    fn from(quota: config::Quota) -> Self {
        // A bucket of `burst` that fills at the declared rate.
        let burst = f64::from(u32::try_from(quota.burst).unwrap_or(u32::MAX));
        Self {
            name: quota.name,
            path: quota.path,
            rate: burst,
            interval: Duration::try_from_secs_f64(burst / quota.rate_per_second)
                .unwrap_or(Duration::MAX),
            block_interval: Duration::ZERO,
        }
    }
}

/// A limit with its buckets.
struct Limiter {
    limit: RateLimit,
    buckets: DefaultKeyedRateLimiter<Option<IpAddr>>,
    /// Until when addresses are kept out.
    blocked: Cache<Option<IpAddr>, Instant>,
}

/// A set of rate limits. A request counts against the one with the longest matching path.
#[derive(Default)]
pub(crate) struct RateLimits {
    /// Longest path first.
    limiters: Vec<Arc<Limiter>>,
}

impl RateLimits {
    /// These limits instead: full buckets, but for one that stays as it was. One whose rate is not above zero
    /// is left out; whoever takes a limit in has checked that.
    pub(crate) fn replaced_by(&self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        let kept = |limit: RateLimit| {
            let same = self.limiters.iter().find(|limiter| limiter.limit == limit);
            same.map(Arc::clone)
                .or_else(|| limiter(limit).map(Arc::new))
        };
        let mut limiters: Vec<Arc<Limiter>> = limits.into_iter().filter_map(kept).collect();
        limiters.sort_by_key(|limiter| std::cmp::Reverse(limiter.limit.path.len()));
        Self { limiters }
    }

    /// The limits, in the order of their names.
    pub(crate) fn all(&self) -> Vec<RateLimit> {
        let mut all: Vec<RateLimit> = self
            .limiters
            .iter()
            .map(|limiter| limiter.limit.clone())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Counts a request for `path` from `address`.
    ///
    /// # Errors
    /// [`Failure::TooMany`] where it comes too soon.
    pub(crate) fn check(&self, path: &str, address: Option<IpAddr>) -> Result<(), Failure> {
        let fitting = |limiter: &&Arc<Limiter>| path.starts_with(&limiter.limit.path);
        let Some(limiter) = self.limiters.iter().find(fitting) else {
            return Ok(());
        };
        if EXEMPT.contains(&path) {
            return Ok(());
        }
        let key = address.map(|address| address.to_canonical());
        let too_many = |retry_after| Failure::TooMany {
            quota: limiter.limit.name.clone(),
            retry_after,
        };
        let now = Instant::now();
        if let Some(until) = limiter.blocked.get(&key)
            && until > now
        {
            return Err(too_many(until - now));
        }
        if limiter.buckets.len() > MOST_ADDRESSES {
            limiter.buckets.retain_recent();
        }
        limiter.buckets.check_key(&key).map_err(|until| {
            let block = limiter.limit.block_interval;
            if block.is_zero() {
                return too_many(until.wait_time_from(DefaultClock::default().now()));
            }
            limiter.blocked.insert(key, now + block);
            too_many(block)
        })
    }
}

fn limiter(limit: RateLimit) -> Option<Limiter> {
    let period = Duration::try_from_secs_f64(limit.interval.as_secs_f64() / limit.rate).ok()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float to integer cast saturates, and a bucket holds at least one"
    )]
    let burst = NonZeroU32::new(limit.rate.ceil().max(1.0) as u32)?;
    let rate = governor::Quota::with_period(period)?.allow_burst(burst);
    Some(Limiter {
        limit,
        buckets: RateLimiter::keyed(rate),
        blocked: Cache::new(MOST_ADDRESSES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, path: &str, rate: f64, block: u64) -> RateLimit {
        RateLimit {
            name: name.into(),
            path: path.into(),
            rate,
            interval: Duration::from_secs(200),
            block_interval: Duration::from_secs(block),
        }
    }

    fn refusal(result: Result<(), Failure>) -> (String, Duration) {
        match result {
            Err(Failure::TooMany { quota, retry_after }) => (quota, retry_after),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_longest_path_counts_and_an_empty_bucket_says_when_to_come_back() {
        let limits = RateLimits::default().replaced_by([
            limit("all", "", 2.0, 0),
            limit("secrets", "secret/", 1.0, 0),
        ]);
        let check = |path| limits.check(path, None);
        check("secret/a").unwrap();
        let (quota, retry_after) = refusal(check("secret/b"));
        assert_eq!(quota, "secrets");
        assert!(retry_after > Duration::from_secs(60), "{retry_after:?}");
        check("pki/ca").unwrap();
        check("pki/ca").unwrap();
        assert_eq!(refusal(check("pki/ca")).0, "all");
        check("sys/health").unwrap();
    }

    #[test]
    fn each_address_has_a_bucket_and_may_be_kept_out() {
        let limits = RateLimits::default().replaced_by([limit("all", "", 1.0, 1000)]);
        let check = |address: &str| limits.check("a", Some(address.parse().unwrap()));
        check("10.0.0.1").unwrap();
        check("10.0.0.2").unwrap();
        for _ in 0..2 {
            let retry_after = refusal(check("::ffff:10.0.0.1")).1;
            assert!(retry_after > Duration::from_secs(900), "{retry_after:?}");
        }
    }

    #[test]
    fn a_limit_that_stays_keeps_its_buckets() {
        let limits =
            RateLimits::default().replaced_by([limit("all", "", 1.0, 0), limit("a", "a/", 1.0, 0)]);
        limits.check("b", None).unwrap();
        limits.check("a/", None).unwrap();
        let later = limits.replaced_by([limit("all", "", 1.0, 0), limit("a", "a/", 2.0, 0)]);
        refusal(later.check("b", None));
        later.check("a/", None).unwrap();
    }

    #[test]
    fn a_declared_quota_is_a_bucket_that_fills_at_its_rate() {
        let place = config::Place {
            file: "test".into(),
            line: 1,
            column: 1,
        };
        let quota = config::Quota {
            name: "q".into(),
            path: String::new(),
            rate_per_second: 5.0,
            burst: 20,
            origin: config::Origin {
                place,
                key: "q".into(),
            },
        };
        let limit = RateLimit::from(quota);
        assert_eq!((limit.rate, limit.interval), (20.0, Duration::from_secs(4)));
    }
}
