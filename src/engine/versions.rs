//! Which releases have served this store, and since when.

use std::time::SystemTime;

use daypass_contract::{Batch, millis};
use serde::{Deserialize, Serialize};

use super::answer::Failure;
use super::plane::Engine;

const PREFIX: &str = "core/versions/";
/// More releases than one store will see.
const MOST: usize = 10_000;

/// The first start of a release over this store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Such as `1.2.3`.
    pub version: String,
    /// When it first opened the store.
    pub installed_at: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(with = "millis")]
    installed_at: SystemTime,
}

impl Engine {
    /// Notes that `version` serves this store, where nobody noted it before.
    pub(super) async fn note_version(&self, version: &str) -> Result<(), Failure> {
        let key = format!("{PREFIX}{version}");
        if self.barrier.get(&key).await?.is_some() {
            return Ok(());
        }
        let record = Record {
            installed_at: self.clock.now(),
        };
        // Where another node was faster, its note is as good.
        let batch = Batch::new().put_json(key, &record)?;
        self.barrier.apply(batch).await?;
        Ok(())
    }

    /// The releases that have served this store, oldest first.
    ///
    /// # Errors
    /// [`Failure::Internal`] where a record is damaged.
    pub async fn versions(&self) -> Result<Vec<Release>, Failure> {
        let mut releases = Vec::new();
        for (key, entry) in self.barrier.entries(PREFIX, None, MOST).await? {
            let record: Record = entry.decode()?;
            releases.push(Release {
                version: key.strip_prefix(PREFIX).unwrap_or(&key).to_owned(),
                installed_at: record.installed_at,
            });
        }
        releases.sort_by_key(|release| release.installed_at);
        Ok(releases)
    }
}
