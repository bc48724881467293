//! [`Instant`]: a point in time as the Vault API writes it, RFC 3339 in UTC with as many digits of
//! the second as it has, down to nanoseconds.

use std::time::SystemTime;

use daypass_contract::BackendError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// A point in time between the years 1970 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(OffsetDateTime);

impl Instant {
    /// The same point in time.
    pub(crate) fn of(now: SystemTime) -> Result<Self, BackendError> {
        now.duration_since(SystemTime::UNIX_EPOCH)
            .ok()
            .and_then(|since| Duration::try_from(since).ok())
            .and_then(|since| OffsetDateTime::UNIX_EPOCH.checked_add(since))
            .map(Self)
            .ok_or_else(|| BackendError::Internal("the clock is out of range".into()))
    }

    /// `seconds` later, or `None` past the year 9999.
    pub(crate) fn after(self, seconds: i64) -> Option<Self> {
        self.0.checked_add(Duration::seconds(seconds)).map(Self)
    }

    /// Its text; empty for none, as the Vault API has it.
    pub(crate) fn text(at: Option<Self>) -> String {
        at.and_then(|at| at.0.format(&Rfc3339).ok())
            .unwrap_or_default()
    }
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.format(&Rfc3339).map_err(ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Self)
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instant_is_written_with_the_digits_it_has_and_read_back() {
        let cases = [
            (0, "2026-01-01T00:00:00Z"),
            (500_000_000, "2026-01-01T00:00:00.5Z"),
            (123_456_789, "2026-01-01T00:00:00.123456789Z"),
            (1_000, "2026-01-01T00:00:00.000001Z"),
        ];
        for (nanos, want) in cases {
            let time = SystemTime::UNIX_EPOCH + Duration::new(1_767_225_600, nanos);
            let instant = Instant::of(time).unwrap();
            assert_eq!(Instant::text(Some(instant)), want);
            let stored = serde_json::to_string(&instant).unwrap();
            assert_eq!(serde_json::from_str::<Instant>(&stored).unwrap(), instant);
        }
        assert_eq!(Instant::text(None), "");
    }

    #[test]
    fn an_instant_that_cannot_be_written_does_not_exist() {
        let now = Instant::of(SystemTime::UNIX_EPOCH).unwrap();
        assert!(now.after(i64::MAX).is_none());
        assert!(Instant::of(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).is_err());
        assert!(Instant::of(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)).is_err());
    }
}
