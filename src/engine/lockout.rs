//! Names that were guessed at too often are locked out for a while.
//!
//! Counts are in memory: they last minutes, and a guesser cannot make the server write. A restart
//! forgets them.

use std::time::{Duration, SystemTime};

use quick_cache::sync::Cache;

/// Names with failures that are remembered; of more, the oldest are forgotten.
const NAMES: usize = 65_536;

/// When a name is locked out, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct LockoutLimits {
    /// Failures after which it is; 0 for never.
    pub threshold: u32,
    /// How long it stays so.
    pub duration: Duration,
    /// Without another failure for so long, the earlier ones are forgotten.
    pub reset: Duration,
}

impl Default for LockoutLimits {
    /// What the Vault API has.
    fn default() -> Self {
        Self {
            threshold: 5,
            duration: Duration::from_mins(15),
            reset: Duration::from_mins(15),
        }
    }
}

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last_at: SystemTime,
}

/// Who failed to log in, by mount and name.
pub(super) struct Lockout {
    limits: LockoutLimits,
    failures: Cache<(String, String), Failures>,
}

impl Lockout {
    pub(super) fn new(limits: LockoutLimits) -> Self {
        Self {
            limits,
            failures: Cache::new(NAMES),
        }
    }

    /// Whether `name` is locked out at the mount with that id.
    pub(super) fn is_locked(&self, mount: &str, name: &str, now: SystemTime) -> bool {
        self.failures
            .get(&key(mount, name))
            .is_some_and(|failures| self.locks(failures, now))
    }

    /// Counts a failure.
    pub(super) fn count(&self, mount: &str, name: &str, now: SystemTime) {
        if self.limits.threshold == 0 {
            return;
        }
        let earlier = self.failures.get(&key(mount, name)).filter(|failures| {
            let since = now.duration_since(failures.last_at).unwrap_or_default();
            since < self.limits.reset
        });
        let count = earlier
            .map_or(0, |failures| failures.count)
            .saturating_add(1);
        let failures = Failures {
            count,
            last_at: now,
        };
        self.failures.insert(key(mount, name), failures);
    }

    /// Forgets the failures of a name. Says whether it was locked out.
    pub(super) fn clear(&self, mount: &str, name: &str, now: SystemTime) -> bool {
        self.failures
            .remove(&key(mount, name))
            .is_some_and(|(_, failures)| self.locks(failures, now))
    }

    /// The mounts and names that are locked out, in order.
    pub(super) fn locked(&self, now: SystemTime) -> Vec<(String, String)> {
        let mut locked: Vec<_> = self
            .failures
            .iter()
            .filter(|(_, failures)| self.locks(*failures, now))
            .map(|(key, _)| key)
            .collect();
        locked.sort_unstable();
        locked
    }

    fn locks(&self, failures: Failures, now: SystemTime) -> bool {
        let since = now.duration_since(failures.last_at).unwrap_or_default();
        let LockoutLimits {
            threshold,
            duration,
            reset: _,
        } = self.limits;
        threshold > 0 && failures.count >= threshold && since < duration
    }
}

fn key(mount: &str, name: &str) -> (String, String) {
    (mount.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_locked_after_five_failures_and_not_for_ever() {
        let lockout = Lockout::new(LockoutLimits::default());
        let at = |minutes| SystemTime::UNIX_EPOCH + Duration::from_mins(minutes);
        for _ in 0..4 {
            lockout.count("m", "ann", at(1));
        }
        assert!(!lockout.is_locked("m", "ann", at(1)));
        lockout.count("m", "ann", at(1));
        assert!(lockout.is_locked("m", "ann", at(1)));
        assert!(!lockout.is_locked("m", "bob", at(1)) && !lockout.is_locked("n", "ann", at(1)));
        assert_eq!(lockout.locked(at(2)), [("m".to_owned(), "ann".to_owned())]);
        // While it is locked nothing is tried, so nothing is counted: it ends by itself.
        assert!(lockout.is_locked("m", "ann", at(15)) && !lockout.is_locked("m", "ann", at(16)));
        assert!(lockout.clear("m", "ann", at(2)) && !lockout.is_locked("m", "ann", at(2)));
        // Failures far apart do not add up.
        for minute in [20, 40, 60, 80, 100] {
            lockout.count("m", "ann", at(minute));
        }
        assert!(!lockout.is_locked("m", "ann", at(100)));
    }
}
