//! Time and randomness as arguments, and durations as the Vault API writes them.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::body::SAFE;

/// Where the time comes from. Tests move it by hand.
pub trait Clock: Send + Sync {
    /// The present instant.
    fn now(&self) -> SystemTime;
}

/// Where randomness comes from. Production asks the cryptographic generator of the operating system.
pub trait Entropy: Send + Sync {
    /// Fills `target` with unpredictable bytes.
    fn fill(&self, target: &mut [u8]);
}

impl dyn Entropy + '_ {
    /// `N` unpredictable bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// An unbiased number below `bound`, which must not be zero.
    pub fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        // Rejects the tail of the range that would favour small numbers.
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let number = u64::from_le_bytes(self.bytes());
            if number < limit {
                return usize::try_from(number % bound).unwrap_or(usize::MAX);
            }
        }
    }
}

/// Reads a duration as the Vault API writes it: `3600`, `"3600"` (seconds), `"1h30m"`, `"1d"`, `"250ms"`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let letters = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(letters)?;
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit_seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok()
}

/// For `#[serde(with = "daypass_contract::duration")]`: written as whole seconds, read in any form of
/// [`parse_duration`].
pub mod duration {
    use super::{Deserializer, Duration, Serializer, de, read};

    /// Writes whole seconds.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.as_secs())
    }

    /// Reads seconds or text with units.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        read(deserializer)?.ok_or_else(|| de::Error::custom(super::expected()))
    }

    /// The same for an optional field, where absent, `null` and `""` mean "not said".
    pub mod option {
        use super::super::{Deserializer, Duration, Serializer, read};

        /// Writes whole seconds, or 0 for "not said", as the Vault API does.
        pub fn serialize<S: Serializer>(
            value: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            serializer.serialize_u64(value.map_or(0, |value| value.as_secs()))
        }

        /// Reads seconds or text with units.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            read(deserializer)
        }
    }
}

/// Instants as milliseconds since the Unix epoch, the form in which records and indexes keep them. For
/// `#[serde(with = "daypass_contract::millis")]`.
pub mod millis {
    use super::{Deserialize, Deserializer, Duration, Serializer, SystemTime};

    /// Milliseconds since the epoch; an instant before it counts as the epoch.
    pub fn of(at: SystemTime) -> u64 {
        at.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }

    /// The instant of so many milliseconds since the epoch.
    pub fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    /// Writes milliseconds.
    pub fn serialize<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(of(*at))
    }

    /// Reads milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(deserializer).map(at)
    }

    /// The same for an instant that may be missing.
    pub mod option {
        use super::super::{Deserialize, Deserializer, Serialize, Serializer, SystemTime};

        /// Writes milliseconds or `null`.
        pub fn serialize<S: Serializer>(
            at: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            at.map(super::of).serialize(serializer)
        }

        /// Reads milliseconds or `null`.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            Ok(Option::<u64>::deserialize(deserializer)?.map(super::at))
        }
    }
}

fn expected() -> String {
    format!("{SAFE}expected a duration such as 3600, \"1h30m\" or \"7d\"")
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Wire {
        Seconds(u64),
        Fraction(f64),
        Text(String),
    }
    // `untagged` reports failures in words of its own; ours name the fix.
    let wire =
        Option::<Wire>::deserialize(deserializer).map_err(|_| de::Error::custom(expected()))?;
    let parsed = match wire {
        None => return Ok(None),
        Some(Wire::Text(text)) if text.is_empty() => return Ok(None),
        Some(Wire::Seconds(seconds)) => Some(Duration::from_secs(seconds)),
        Some(Wire::Fraction(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        Some(Wire::Text(text)) => parse_duration(&text),
    };
    parsed
        .map(Some)
        .ok_or_else(|| de::Error::custom(expected()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    #[test]
    fn durations_are_read_as_the_vault_api_writes_them() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            ("3600", s(3600)),
            ("1h30m", s(5400)),
            ("7d", s(604_800)),
            ("250ms", Some(Duration::from_millis(250))),
            ("1.5h", s(5400)),
            ("0", s(0)),
            ("", None),
            ("h", None),
            ("5", s(5)),
            ("5x", None),
            ("-5s", None),
            ("1h30", None),
            ("99999999999999999999h", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_duration(text), want, "{text}");
        }
    }

    #[test]
    fn a_field_takes_numbers_and_text_and_explains_what_it_expects() {
        #[derive(Deserialize)]
        struct Request {
            #[serde(default, with = "duration::option")]
            ttl: Option<Duration>,
        }
        let decode = |json| Body::new(serde_json::from_str(json).unwrap()).decode::<Request>();
        for json in [
            r#"{"ttl": 60}"#,
            r#"{"ttl": "60"}"#,
            r#"{"ttl": "1m"}"#,
            r#"{"ttl": 60.0}"#,
        ] {
            assert_eq!(
                decode(json).ok().unwrap().ttl,
                Some(Duration::from_secs(60)),
                "{json}"
            );
        }
        assert_eq!(decode(r#"{"ttl": ""}"#).ok().unwrap().ttl, None);
        let error = decode(r#"{"ttl": "soon"}"#).err().unwrap().to_string();
        assert_eq!(
            error,
            "field \"ttl\": expected a duration such as 3600, \"1h30m\" or \"7d\""
        );
    }
}
