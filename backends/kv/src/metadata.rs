//! [`Metadata`]: what is kept of a key besides its values, and the rules by which its versions come
//! and go. Pure: storing is `v2`'s.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use daypass_contract::BackendError;
use serde::{Deserialize, Serialize};

use crate::instant::Instant;
use crate::settings::Settings;

/// The record of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) created_at: Instant,
    pub(crate) updated_at: Instant,
    /// The number of the latest version; 0 before the first.
    pub(crate) current_version: u64,
    /// Set by pruning: every version before it is gone. 0 before the first pruning.
    pub(crate) oldest_version: u64,
    /// Counts the writes of settings and custom metadata; 0 for a key made by a write of data.
    pub(crate) writes: u64,
    pub(crate) settings: Settings,
    pub(crate) custom: BTreeMap<String, String>,
    pub(crate) versions: BTreeMap<u64, Version>,
}

/// What is kept of one version besides its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) created_at: Instant,
    /// From then on it is not readable; it can be undeleted.
    pub(crate) deleted_at: Option<Instant>,
    /// Its value is no longer stored.
    pub(crate) destroyed: bool,
}

impl Version {
    /// Whether its value may be read at `now`.
    pub(crate) fn is_readable(&self, now: Instant) -> bool {
        !self.destroyed && !self.is_deleted(now)
    }

    fn is_deleted(&self, now: Instant) -> bool {
        self.deleted_at.is_some_and(|at| at <= now)
    }

    fn delete(&mut self, now: Instant) {
        if self.is_readable(now) {
            self.deleted_at = Some(now);
        }
    }
}

impl Metadata {
    /// The record of a key that has no version yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            created_at: now,
            updated_at: now,
            current_version: 0,
            oldest_version: 0,
            writes: 0,
            settings: Settings::default(),
            custom: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    /// The version `asked` for, or the latest where that is not a positive number.
    pub(crate) fn version(&self, asked: i64) -> Option<(u64, &Version)> {
        let number = match u64::try_from(asked) {
            Ok(number) if number > 0 => number,
            _ => self.current_version,
        };
        self.versions.get(&number).map(|version| (number, version))
    }

    /// Refuses a write of data that was decided upon an older version.
    pub(crate) fn check(&self, mount: &Settings, cas: Option<i64>) -> Result<(), BackendError> {
        let problem = match cas {
            Some(cas) if u64::try_from(cas) == Ok(self.current_version) => return Ok(()),
            Some(_) => "check-and-set parameter did not match the current version",
            None if mount.cas_required || self.settings.cas_required => {
                "check-and-set parameter required for this call"
            }
            None => return Ok(()),
        };
        Err(BackendError::InvalidRequest(problem.into()))
    }

    /// The same for a write of metadata.
    pub(crate) fn check_metadata(
        &self,
        mount: &Settings,
        cas: Option<i64>,
    ) -> Result<(), BackendError> {
        let is_new = self.writes == 0 && self.current_version == 0;
        let problem = match cas {
            Some(cas) if u64::try_from(cas) == Ok(self.writes) => return Ok(()),
            Some(_) if is_new => "metadata_cas must be 0 when creating new metadata",
            Some(_) => "metadata check-and-set parameter does not match the current version",
            None if mount.metadata_cas_required || self.settings.metadata_cas_required => {
                "metadata check-and-set parameter required for this call"
            }
            None => return Ok(()),
        };
        Err(BackendError::InvalidRequest(problem.into()))
    }

    /// Adds a version, which becomes the latest, and answers the numbers of those it pushes out.
    pub(crate) fn add(&mut self, mount: &Settings, now: Instant) -> Vec<u64> {
        self.current_version += 1;
        self.updated_at = now;
        let version = Version {
            created_at: now,
            deleted_at: self.settings.deleted_at(mount, now),
            destroyed: false,
        };
        self.versions.insert(self.current_version, version);

        let kept = self.settings.versions_kept(mount);
        if self.current_version - self.oldest_version < kept {
            return Vec::new();
        }
        self.oldest_version = self.current_version - kept + 1;
        let kept = self.versions.split_off(&self.oldest_version);
        let pruned = std::mem::replace(&mut self.versions, kept);
        pruned.into_keys().collect()
    }

    /// Makes the latest version unreadable.
    pub(crate) fn delete_latest(&mut self, now: Instant) {
        if let Some(version) = self.versions.get_mut(&self.current_version) {
            version.delete(now);
        }
    }

    /// Makes versions unreadable; those that do not exist are passed over, here and below.
    pub(crate) fn delete(&mut self, numbers: &[i64], now: Instant) {
        self.each(numbers, |_, version| version.delete(now));
    }

    /// Makes versions readable again, as if they were made `now`.
    pub(crate) fn undelete(&mut self, numbers: &[i64], mount: &Settings, now: Instant) {
        let deleted_at = self.settings.deleted_at(mount, now);
        self.each(numbers, |_, version| {
            if !version.destroyed {
                version.deleted_at = deleted_at;
            }
        });
    }

    /// Marks versions as destroyed, and answers those whose value must go.
    pub(crate) fn destroy(&mut self, numbers: &[i64]) -> Vec<u64> {
        let mut destroyed = Vec::new();
        self.each(numbers, |number, version| {
            version.destroyed = true;
            destroyed.push(number);
        });
        destroyed
    }

    fn each(&mut self, numbers: &[i64], mut act: impl FnMut(u64, &mut Version)) {
        for number in numbers.iter().filter_map(|n| u64::try_from(*n).ok()) {
            if let Some(version) = self.versions.get_mut(&number) {
                act(number, version);
            }
        }
    }
}

const MAX_CUSTOM_KEYS: usize = 64;
const CUSTOM_KEY_BYTES: RangeInclusive<usize> = 1..=128;
const CUSTOM_VALUE_BYTES: RangeInclusive<usize> = 1..=512;

/// Refuses custom metadata beyond what the Vault API allows.
pub(crate) fn check_custom(custom: &BTreeMap<String, String>) -> Result<(), BackendError> {
    let refuse = |problem: String| {
        let text = format!("custom_metadata validation failed: {problem}");
        Err(BackendError::InvalidRequest(text))
    };
    let given = custom.len();
    if given > MAX_CUSTOM_KEYS {
        return refuse(format!(
            "payload must contain at most {MAX_CUSTOM_KEYS} keys, provided {given}"
        ));
    }
    for (key, value) in custom {
        let (length, most) = (key.len(), CUSTOM_KEY_BYTES.end());
        if !CUSTOM_KEY_BYTES.contains(&length) {
            return refuse(format!(
                "length of a key is {length} but must be 0 < len(key) <= {most}"
            ));
        }
        if !is_printable(key) {
            return refuse("a key contains unprintable characters".into());
        }
        let (length, most) = (value.len(), CUSTOM_VALUE_BYTES.end());
        if !CUSTOM_VALUE_BYTES.contains(&length) {
            return refuse(format!(
                "length of value for key {key:?} is {length} but must be 0 < len(value) <= {most}"
            ));
        }
        if !is_printable(value) {
            return refuse(format!(
                "value for key {key:?} contains unprintable characters"
            ));
        }
    }
    Ok(())
}

fn is_printable(text: &str) -> bool {
    text.chars()
        .all(|c| c == ' ' || !(c.is_control() || c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_metadata_has_limits() {
        let of = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let many = |n: usize| (0..n).map(|i| (i.to_string(), "x".to_owned())).collect();
        let cases: [(&str, BTreeMap<String, String>, Option<&str>); 12] = [
            ("none", BTreeMap::new(), None),
            ("64 keys", many(64), None),
            ("65 keys", many(65), Some("at most 64 keys, provided 65")),
            ("128 bytes", of(&"k".repeat(128), "v"), None),
            (
                "129 bytes",
                of(&"k".repeat(129), "v"),
                Some("length of a key is 129"),
            ),
            ("no key", of("", "v"), Some("length of a key is 0")),
            ("512 bytes", of("k", &"v".repeat(512)), None),
            (
                "513 bytes",
                of("k", &"v".repeat(513)),
                Some("for key \"k\" is 513"),
            ),
            ("no value", of("k", ""), Some("for key \"k\" is 0")),
            ("words", of("a key", "ein Schlüssel"), None),
            ("bell in key", of("k\u{7}", "v"), Some("a key contains")),
            (
                "newline in value",
                of("k", "v\n"),
                Some("value for key \"k\" contains"),
            ),
        ];
        for (name, custom, want) in cases {
            let got = check_custom(&custom).map_err(|error| error.to_string());
            match (got, want) {
                (Ok(()), None) => {}
                (Err(text), Some(want)) => assert!(text.contains(want), "{name}: {text}"),
                (got, want) => panic!("{name}: {got:?}, not {want:?}"),
            }
        }
    }
}
