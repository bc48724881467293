//! Parts of requests that both versions read.

use std::borrow::Cow;

use daypass_contract::BackendError;
use daypass_contract::body::SAFE;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// A field that was sent, where `null` counts as its type's default: with `serde(default)`, `None`
/// means that it was not sent.
pub(crate) fn sent<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(|value| Some(value.unwrap_or_default()))
}

/// A duration in whole seconds, which may be negative: `3600`, `"1h30m"`, `"-1s"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) i64);

/// A hundred years, so that no end lies beyond what can be written.
const LONGEST: i64 = 100 * 365 * 86_400;

impl Seconds {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(0));
        }
        let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
        let seconds = daypass_contract::parse_duration(text)?.as_secs();
        Some(Self(sign * i64::try_from(seconds).ok()?))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Seconds(i64),
            Text(String),
        }
        let seconds = match Wire::deserialize(deserializer) {
            Ok(Wire::Seconds(seconds)) => Some(Self(seconds)),
            Ok(Wire::Text(text)) => Self::parse(&text),
            Err(_) => None,
        };
        let seconds = seconds.ok_or_else(|| {
            de::Error::custom(format!(
                "{SAFE}expected a duration such as 3600, \"1h30m\" or \"7d\""
            ))
        })?;
        if seconds.0 > LONGEST {
            let problem = format!("{SAFE}must not be longer than a hundred years");
            return Err(de::Error::custom(problem));
        }
        Ok(seconds)
    }
}

impl JsonSchema for Seconds {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration" })
    }
}

/// How many names a list may have: a limit that is missing or not positive is none.
pub(crate) fn limit(asked: Option<i64>) -> usize {
    asked
        .filter(|limit| *limit > 0)
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

/// What to list: the keys below `path` under `root`.
pub(crate) fn prefix(root: &str, path: &str) -> String {
    if path.is_empty() {
        root.to_owned()
    } else {
        format!("{root}{}/", path.trim_end_matches('/'))
    }
}

/// Refuses a path that a list could not show as what it is.
pub(crate) fn check_path(path: &str) -> Result<(), BackendError> {
    if path.split('/').any(str::is_empty) {
        return Err(BackendError::InvalidRequest(
            "path of a secret: must not have an empty segment (two \"/\" in a row)".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_as_durations_are_and_may_be_negative() {
        let cases = [
            ("3600", Some(3600)),
            ("\"1h30m\"", Some(5400)),
            ("\"1500ms\"", Some(1)),
            ("\"-1s\"", Some(-1)),
            ("-1", Some(-1)),
            ("0", Some(0)),
            ("\"\"", Some(0)),
            ("\"36500d\"", Some(LONGEST)),
            ("\"36501d\"", None),
            ("\"--1s\"", None),
            ("\"soon\"", None),
            ("[]", None),
            ("18446744073709551615", None),
        ];
        for (json, want) in cases {
            let got = serde_json::from_str::<Seconds>(json).ok();
            assert_eq!(got.map(|seconds| seconds.0), want, "{json}");
        }
    }
}
