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

/// The first period of a lease and the most it can come to with renewals.
pub fn clamp(wish: TtlWish, limits: Limits) -> (Duration, Duration) {
    let some = |ttl: Option<Duration>| ttl.filter(|ttl| !ttl.is_zero());
    let max = some(wish.max).map_or(limits.max, |max| max.min(limits.max));
    let ttl = some(wish.asked)
        .or(some(wish.default))
        .unwrap_or(limits.default);
    (ttl.min(max), max)
}

/// When a lease ends that is renewed now by `increment`, never beyond `max_ends_at`.
pub fn renewed_end(
    now: SystemTime,
    increment: Duration,
    max_ends_at: Option<SystemTime>,
) -> SystemTime {
    let end = now + increment;
    max_ends_at.map_or(end, |max| end.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

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
