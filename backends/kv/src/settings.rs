//! What a mount and each key of it can be set to; the stricter or the shorter of both holds.

use serde::{Deserialize, Serialize};

use crate::instant::Instant;
use crate::request::Seconds;

/// How many versions a key keeps where neither it nor its mount says.
const DEFAULT_MAX_VERSIONS: u64 = 10;

/// The settings of a mount or of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Versions to keep; 0 for no opinion.
    pub(crate) max_versions: u32,
    /// Whether a write of data must name the version it replaces.
    pub(crate) cas_required: bool,
    /// Whether a write of metadata must name the metadata version it replaces.
    pub(crate) metadata_cas_required: bool,
    /// Seconds after which a version is deleted; 0 for no opinion, and for a mount -1 for never.
    pub(crate) delete_version_after: i64,
}

/// A request to set some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) max_versions: Option<u32>,
    pub(crate) cas_required: Option<bool>,
    pub(crate) metadata_cas_required: Option<bool>,
    pub(crate) delete_version_after: Option<Seconds>,
}

impl Settings {
    /// Sets what `change` names and leaves the rest.
    pub(crate) fn apply(&mut self, change: &Change) {
        self.max_versions = change.max_versions.unwrap_or(self.max_versions);
        self.cas_required = change.cas_required.unwrap_or(self.cas_required);
        self.metadata_cas_required = change
            .metadata_cas_required
            .unwrap_or(self.metadata_cas_required);
        if let Some(Seconds(seconds)) = change.delete_version_after {
            self.delete_version_after = seconds.max(-1);
        }
    }

    /// How many versions a key with `self` keeps on a mount with `mount`.
    pub(crate) fn versions_kept(&self, mount: &Self) -> u64 {
        match self.max_versions.max(mount.max_versions) {
            0 => DEFAULT_MAX_VERSIONS,
            most => u64::from(most),
        }
    }

    /// When a version made `now` is deleted, on a mount with `mount`.
    pub(crate) fn deleted_at(&self, mount: &Self, now: Instant) -> Option<Instant> {
        if mount.delete_version_after < 0 {
            return None;
        }
        let opinions = [self.delete_version_after, mount.delete_version_after];
        let least = opinions.into_iter().filter(|after| *after > 0).min()?;
        now.after(least)
    }

    /// The duration as Go writes it, which is how the Vault API answers it: `1h0m0s`.
    pub(crate) fn delete_version_after(&self) -> String {
        let sign = if self.delete_version_after < 0 {
            "-"
        } else {
            ""
        };
        let seconds = self.delete_version_after.unsigned_abs();
        let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        match (hours, minutes) {
            (0, 0) => format!("{sign}{rest}s"),
            (0, _) => format!("{sign}{minutes}m{rest}s"),
            _ => format!("{sign}{hours}h{minutes}m{rest}s"),
        }
    }
}

impl Change {
    /// Whether it names nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Advice about what the mount overrides.
    pub(crate) fn warnings(&self, mount: &Settings) -> Vec<String> {
        [
            ("cas_required", self.cas_required, mount.cas_required),
            (
                "metadata_cas_required",
                self.metadata_cas_required,
                mount.metadata_cas_required,
            ),
        ]
        .into_iter()
        .filter(|(_, asked, mandated)| *asked == Some(false) && *mandated)
        .map(|(name, _, _)| {
            format!(
                "\"{name}\" set to false, but is mandated by backend config. This value will be \
                 ignored."
            )
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn settings(max_versions: u32, delete_version_after: i64) -> Settings {
        Settings {
            max_versions,
            delete_version_after,
            ..Settings::default()
        }
    }

    #[test]
    fn the_larger_number_of_versions_is_kept() {
        for (key, mount, want) in [(0, 0, 10), (3, 0, 3), (0, 3, 3), (2, 5, 5), (5, 2, 5)] {
            let got = settings(key, 0).versions_kept(&settings(mount, 0));
            assert_eq!(got, want, "{key} {mount}");
        }
    }

    #[test]
    fn the_earlier_end_holds_unless_the_mount_says_never() {
        let now = Instant::of(SystemTime::UNIX_EPOCH).unwrap();
        let cases = [
            (0, 0, None),
            (60, 0, Some(60)),
            (0, 60, Some(60)),
            (90, 60, Some(60)),
            (60, 90, Some(60)),
            (60, -1, None),
            (0, -1, None),
        ];
        for (key, mount, want) in cases {
            let got = settings(0, key).deleted_at(&settings(0, mount), now);
            assert_eq!(
                got,
                want.and_then(|after| now.after(after)),
                "{key} {mount}"
            );
        }
    }

    #[test]
    fn durations_are_answered_as_go_writes_them() {
        let cases = [
            (0, "0s"),
            (1, "1s"),
            (60, "1m0s"),
            (3600, "1h0m0s"),
            (90_061, "25h1m1s"),
            (-1, "-1s"),
        ];
        for (seconds, want) in cases {
            assert_eq!(settings(0, seconds).delete_version_after(), want);
        }
    }
}
