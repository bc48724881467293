//! [`Record`]: what is kept of a key besides its material, and the rules about its versions. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use daypass_contract::BackendError;
use serde::{Deserialize, Serialize};

use crate::kind::Kind;

/// The shortest period after which a key may rotate by itself.
const SHORTEST_PERIOD: Duration = Duration::from_secs(3600);

/// The record of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Names the key's material in storage, so that a key deleted and made again under one name
    /// never meets the material of its predecessor.
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// Bytes of an HMAC key; 0 for others.
    pub(crate) key_size: usize,
    pub(crate) derived: bool,
    pub(crate) convergent: bool,
    pub(crate) exportable: bool,
    pub(crate) allow_plaintext_backup: bool,
    pub(crate) deletion_allowed: bool,
    /// Zero: never.
    #[serde(with = "daypass_contract::duration")]
    pub(crate) auto_rotate_period: Duration,
    pub(crate) min_decryption_version: u64,
    /// 0: no bound, the latest is used.
    pub(crate) min_encryption_version: u64,
    /// Set by trimming: versions before it are gone. 0 before the first trimming.
    pub(crate) min_available_version: u64,
    pub(crate) latest_version: u64,
    pub(crate) versions: BTreeMap<u64, VersionInfo>,
}

/// What is kept of a version besides its material.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionInfo {
    #[serde(with = "daypass_contract::millis")]
    pub(crate) created_at: SystemTime,
    /// PEM, or base64 for Ed25519; `None` where there is none or it depends on a context.
    pub(crate) public_key: Option<String>,
}

/// A change of a key's settings; `None` leaves what is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) min_decryption_version: Option<i64>,
    pub(crate) min_encryption_version: Option<i64>,
    pub(crate) deletion_allowed: Option<bool>,
    pub(crate) exportable: Option<bool>,
    pub(crate) allow_plaintext_backup: Option<bool>,
    pub(crate) auto_rotate_period: Option<Duration>,
}

impl Record {
    /// Adds a version, which becomes the latest.
    pub(crate) fn add(&mut self, public_key: Option<String>, now: SystemTime) {
        self.latest_version += 1;
        let version = VersionInfo {
            created_at: now,
            public_key,
        };
        self.versions.insert(self.latest_version, version);
    }

    /// The version to encrypt, sign or authenticate with, where 0 asks for the latest.
    pub(crate) fn version_for_use(&self, asked: i64) -> Result<u64, BackendError> {
        let refuse = |problem: String| Err(BackendError::field("key_version", problem));
        let Ok(asked) = u64::try_from(asked) else {
            return refuse("requested version for encryption is negative".into());
        };
        if asked == 0 {
            return Ok(self.latest_version);
        }
        if asked > self.latest_version {
            return refuse(format!(
                "requested version is higher than the latest key version, {}",
                self.latest_version
            ));
        }
        let least = self.min_encryption_version.max(self.min_available_version);
        if asked < least {
            return refuse(format!(
                "requested version is less than the minimum encryption key version, {least}"
            ));
        }
        Ok(asked)
    }

    /// Whether what `version` made may still be opened or verified. `field` is where it was named.
    pub(crate) fn check_version(&self, field: &str, version: u64) -> Result<(), BackendError> {
        if version > self.latest_version {
            return Err(BackendError::field(field, "version is too new"));
        }
        if version < self.min_decryption_version.max(self.min_available_version) {
            return Err(BackendError::field(
                field,
                "ciphertext or signature version is disallowed by policy (too old)",
            ));
        }
        Ok(())
    }

    /// Changes settings, and answers advice.
    pub(crate) fn configure(&mut self, wish: Settings) -> Result<Vec<String>, BackendError> {
        let mut warnings = Vec::new();
        if let Some(asked) = wish.min_decryption_version {
            let field = "min_decryption_version";
            let least = self.bound(field, asked)?;
            if least == 0 {
                warnings.push("versions are numbered from 1: min_decryption_version is 1".into());
            }
            self.min_decryption_version = least.max(1);
            if self.min_decryption_version < self.min_available_version {
                let problem = format!(
                    "must be at least {}: older versions were trimmed",
                    self.min_available_version
                );
                return Err(BackendError::field(field, problem));
            }
        }
        if let Some(asked) = wish.min_encryption_version {
            self.min_encryption_version = self.bound("min_encryption_version", asked)?;
        }
        if (1..self.min_decryption_version).contains(&self.min_encryption_version) {
            return Err(BackendError::field(
                "min_encryption_version",
                format!(
                    "min encryption version of {} must be greater than or equal to min decryption version of {}",
                    self.min_encryption_version, self.min_decryption_version
                ),
            ));
        }
        self.deletion_allowed = wish.deletion_allowed.unwrap_or(self.deletion_allowed);
        for (name, asked, setting) in [
            ("exportable", wish.exportable, &mut self.exportable),
            (
                "allow_plaintext_backup",
                wish.allow_plaintext_backup,
                &mut self.allow_plaintext_backup,
            ),
        ] {
            if asked == Some(false) && *setting {
                warnings.push(format!(
                    "{name} cannot be unset: the key may have left already"
                ));
            }
            *setting |= asked == Some(true);
        }
        if let Some(period) = wish.auto_rotate_period {
            self.auto_rotate_period = check_period(period)?;
        }
        Ok(warnings)
    }

    fn bound(&self, field: &str, asked: i64) -> Result<u64, BackendError> {
        let Ok(asked) = u64::try_from(asked) else {
            return Err(BackendError::field(field, "cannot be negative"));
        };
        if asked > self.latest_version {
            let problem = format!(
                "cannot be {asked}, latest key version is {}",
                self.latest_version
            );
            return Err(BackendError::field(field, problem));
        }
        Ok(asked)
    }

    /// Forgets versions before `asked`, and answers which.
    pub(crate) fn trim(&mut self, asked: i64) -> Result<Vec<u64>, BackendError> {
        let field = "min_available_version";
        let least = self.bound(field, asked)?;
        let refuse = |problem| Err(BackendError::field(field, problem));
        if least < self.min_available_version {
            return refuse("minimum available version cannot be decremented");
        }
        if self.min_encryption_version == 0 {
            return refuse(
                "minimum available version cannot be set when minimum encryption version is not set",
            );
        }
        if least > self.min_encryption_version {
            return refuse(
                "minimum available version cannot be greater than minimum encryption version",
            );
        }
        if least > self.min_decryption_version {
            return refuse(
                "minimum available version cannot be greater than minimum decryption version",
            );
        }
        self.min_available_version = least;
        let kept = self.versions.split_off(&least);
        let gone = std::mem::replace(&mut self.versions, kept);
        Ok(gone.into_keys().collect())
    }

    /// When it rotates by itself.
    pub(crate) fn rotates_at(&self) -> Option<SystemTime> {
        let latest = self.versions.get(&self.latest_version)?;
        if self.auto_rotate_period.is_zero() {
            return None;
        }
        latest.created_at.checked_add(self.auto_rotate_period)
    }
}

/// Zero for never, or at least an hour.
pub(crate) fn check_period(period: Duration) -> Result<Duration, BackendError> {
    if !period.is_zero() && period < SHORTEST_PERIOD {
        return Err(BackendError::field(
            "auto_rotate_period",
            "auto rotate period must be 0 to disable or at least an hour",
        ));
    }
    Ok(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(latest: u64, decrypt: u64, encrypt: u64, available: u64) -> Record {
        let mut record = Record {
            id: String::new(),
            kind: Kind::Aes256,
            key_size: 0,
            derived: false,
            convergent: false,
            exportable: false,
            allow_plaintext_backup: false,
            deletion_allowed: false,
            auto_rotate_period: Duration::ZERO,
            min_decryption_version: decrypt,
            min_encryption_version: encrypt,
            min_available_version: available,
            latest_version: 0,
            versions: BTreeMap::new(),
        };
        for _ in 0..latest {
            record.add(None, SystemTime::UNIX_EPOCH);
        }
        record.versions = record.versions.split_off(&available);
        record
    }

    #[test]
    fn a_version_is_chosen_by_what_is_asked_and_allowed() {
        // latest, least to decrypt, least to encrypt, least there, asked, want
        let cases = [
            (3, 1, 0, 0, 0, Some(3)),
            (3, 1, 0, 0, 1, Some(1)),
            (3, 1, 0, 0, 4, None),
            (3, 1, 0, 0, -1, None),
            (3, 1, 2, 0, 1, None),
            (3, 1, 2, 0, 2, Some(2)),
            (3, 2, 2, 2, 1, None),
            (3, 2, 2, 2, 0, Some(3)),
        ];
        for (latest, decrypt, encrypt, available, asked, want) in cases {
            let record = record(latest, decrypt, encrypt, available);
            assert_eq!(
                record.version_for_use(asked).ok(),
                want,
                "{asked} of {record:?}"
            );
        }
    }

    #[test]
    fn an_old_or_unknown_version_opens_nothing() {
        let record = record(4, 3, 0, 2);
        for (version, want) in [(1, false), (2, false), (3, true), (4, true), (5, false)] {
            assert_eq!(
                record.check_version("ciphertext", version).is_ok(),
                want,
                "{version}"
            );
        }
    }

    #[test]
    fn settings_keep_versions_in_order() {
        // least to decrypt, least to encrypt, want
        let cases = [
            (Some(1), None, true),
            (Some(0), None, true),
            (Some(4), None, true),
            (Some(5), None, false),
            (Some(-1), None, false),
            (None, Some(4), true),
            (None, Some(0), true),
            (None, Some(5), false),
            (None, Some(-1), false),
            (Some(3), Some(2), false),
            (Some(3), Some(3), true),
            (Some(3), Some(0), true),
        ];
        for (min_decryption_version, min_encryption_version, want) in cases {
            let wish = Settings {
                min_decryption_version,
                min_encryption_version,
                ..Settings::default()
            };
            assert_eq!(record(4, 1, 0, 0).configure(wish).is_ok(), want, "{wish:?}");
        }
        let lower = Settings {
            min_decryption_version: Some(1),
            ..Settings::default()
        };
        assert!(record(4, 3, 3, 3).configure(lower).is_err(), "trimmed");
    }

    #[test]
    fn what_may_leave_stays_so_and_periods_have_a_least() {
        let mut record = record(1, 1, 0, 0);
        let wish = |exportable, seconds| Settings {
            exportable,
            auto_rotate_period: Some(Duration::from_secs(seconds)),
            ..Settings::default()
        };
        assert!(record.configure(wish(Some(true), 3600)).unwrap().is_empty());
        assert_eq!(
            record.rotates_at(),
            Some(SystemTime::UNIX_EPOCH + SHORTEST_PERIOD)
        );
        assert_eq!(record.configure(wish(Some(false), 0)).unwrap().len(), 1);
        assert!(record.exportable && record.rotates_at().is_none());
        assert!(record.configure(wish(None, 3599)).is_err());
    }

    #[test]
    fn trimming_forgets_what_no_setting_allows() {
        // least to decrypt, least to encrypt, least there, asked, want
        type Case = (u64, u64, u64, i64, Option<&'static [u64]>);
        let cases: &[Case] = &[
            (3, 3, 0, 3, Some(&[1, 2])),
            (3, 3, 2, 3, Some(&[2])),
            (3, 3, 3, 3, Some(&[])),
            (3, 3, 0, 0, Some(&[])),
            (3, 3, 3, 2, None),
            (3, 0, 0, 2, None),
            (2, 3, 0, 3, None),
            (3, 3, 0, 4, None),
            (4, 4, 0, 9, None),
            (3, 3, 0, -1, None),
        ];
        for (decrypt, encrypt, available, asked, want) in cases {
            let mut record = record(4, *decrypt, *encrypt, *available);
            let got = record.trim(*asked).ok();
            assert_eq!(got.as_deref(), *want, "{asked} of {record:?}");
        }
    }
}
