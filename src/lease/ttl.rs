//! How long a lease lasts: everybody's opinion, and the least of all caps.

use std::time::{Duration, SystemTime};

use daypass_contract::TtlWish;

/// What a mount, or the system where the mount has no opinion, allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For a request and a role that say nothing.
    pub default: Duration,
    /// At most, renewals included.
    pub max: Duration,
}

/// Longer than anything lasts, and short enough that every instant reached by it can be written.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `ttl` after `now`; a hundred years at most, so that no wish of a caller overflows.
pub(super) fn end_of(now: SystemTime, ttl: Duration) -> SystemTime {
    now + ttl.min(LONGEST)
}

/// The first period of a lease and the most it can come to with renewals.
pub fn clamp(wish: TtlWish, limits: Limits) -> (Duration, Duration) {
    let some = |ttl: Option<Duration>| ttl.filter(|ttl| !ttl.is_zero());
    let max = some(wish.max).map_or(limits.max, |max| max.min(limits.max));
    let ttl = some(wish.asked)
        .or(some(wish.default))
        .unwrap_or(limits.default);
    (ttl.min(max).min(LONGEST), max.min(LONGEST))
}

/// When a lease ends that is renewed now by `increment`, never beyond `max_ends_at`.
pub fn renewed_end(
    now: SystemTime,
    increment: Duration,
    max_ends_at: Option<SystemTime>,
) -> SystemTime {
    let end = end_of(now, increment);
    max_ends_at.map_or(end, |max| end.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wish_overflows() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let limits = Limits {
            default: Duration::from_secs(60),
            max: Duration::MAX,
        };
        let wish = TtlWish {
            asked: Some(Duration::MAX),
            ..TtlWish::default()
        };
        let (ttl, max) = clamp(wish, limits);
        assert_eq!(
            (now + ttl, now + max),
            (end_of(now, LONGEST), now + LONGEST)
        );
        assert_eq!(renewed_end(now, Duration::MAX, None), now + LONGEST);
        let soon = now + Duration::from_secs(1);
        assert_eq!(renewed_end(now, Duration::MAX, Some(soon)), soon);
    }

    #[test]
    fn the_least_cap_wins_and_zero_is_no_opinion() {
        let s = Duration::from_secs;
        let limits = Limits {
            default: s(3600),
            max: s(7200),
        };
        let cases = [
            // name                        asked          role default    role max       want ttl, max
            ("nobody has an opinion", None, None, None, (3600, 7200)),
            ("the caller asks for less", Some(60), None, None, (60, 7200)),
            (
                "the role caps the caller",
                Some(90),
                None,
                Some(30),
                (30, 30),
            ),
            (
                "the mount caps the role",
                Some(9000),
                None,
                Some(9000),
                (7200, 7200),
            ),
            ("the role speaks first", None, Some(10), None, (10, 7200)),
            ("zero says nothing", Some(0), Some(0), Some(0), (3600, 7200)),
            ("a default above a cap", None, None, Some(60), (60, 60)),
        ];
        for (name, asked, default, max, want) in cases {
            let wish = TtlWish {
                asked: asked.map(s),
                default: default.map(s),
                max: max.map(s),
            };
            assert_eq!(clamp(wish, limits), (s(want.0), s(want.1)), "{name}");
        }
    }
}
