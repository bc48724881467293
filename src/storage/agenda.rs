//! The agenda: what ends when, on disk, in one queue per mount and one for tokens.
//!
//! An entry is a key without a value, `due/<queue>/<milliseconds, 16 hex digits>/<subject>`, so that a
//! range over a queue gives what is due first. A queue of its own per mount keeps one mount's backlog
//! from standing before another's.

use std::time::SystemTime;

use daypass_contract::millis;

/// Where `subject` stands in `queue` if it is due at `at`.
pub fn key(queue: &str, at: SystemTime, subject: &str) -> String {
    format!("due/{queue}/{:016x}/{subject}", millis::of(at))
}

/// What all keys of `queue` begin with.
pub fn prefix(queue: &str) -> String {
    format!("due/{queue}/")
}

/// When and what, read back from a key of `queue`.
pub fn parse<'a>(queue: &str, key: &'a str) -> Option<(SystemTime, &'a str)> {
    let rest = key
        .strip_prefix("due/")?
        .strip_prefix(queue)?
        .strip_prefix('/')?;
    let (at, subject) = rest.split_once('/')?;
    Some((millis::at(u64::from_str_radix(at, 16).ok()?), subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_time_and_read_back() {
        let early = key("m1", millis::at(9), "database/creds/a/1");
        let late = key("m1", millis::at(10_000_000_000_000), "database/creds/a/0");
        assert!(early < late);
        assert_eq!(
            parse("m1", &early),
            Some((millis::at(9), "database/creds/a/1"))
        );
        assert_eq!(parse("m", &early), None);
        assert!(early.starts_with(&prefix("m1")));
    }
}
