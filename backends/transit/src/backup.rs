//! Backups: a key with all of its versions, sealed by a key of the mount that never leaves it.
//!
//! A backup opens on the mount that made it, or on one restored from that mount's storage. It is no way
//! to another cluster; exporting is.

use std::collections::BTreeMap;
use std::sync::Arc;

use daypass_contract::{BackendError, Batch, Call, Reply, Secret, StoreError};
use serde::{Deserialize, Serialize};

use crate::Transit;
use crate::kind::Kind;
use crate::manage::check_name;
use crate::material::Material;
use crate::record::Record;
use crate::text::{self, Marshaling};
use crate::version::{self, internal};
use crate::wire::{BackupView, NameRequest, RestoreRequest, Revealed};

/// Where the mount keeps the key of its backups.
const BACKUP_KEY: &str = "backup-key";

/// Binds what is sealed to its purpose.
const PURPOSE: &[u8] = b"daypass transit backup";

/// The form of a backup.
const FORMAT: u64 = 1;

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Backup {
    name: String,
    record: Record,
    /// In base64, as they are stored.
    versions: BTreeMap<u64, Revealed>,
}

impl Transit {
    pub(crate) async fn backup(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<BackupView>, BackendError> {
        let key = self.key(&request.name).await?;
        let record = &key.record;
        let refuse = |problem: &str| Err(BackendError::InvalidRequest(problem.into()));
        if !record.exportable {
            return refuse("exporting is disallowed on the policy: set exportable by its config");
        }
        if !record.allow_plaintext_backup {
            return refuse(
                "plaintext backup is disallowed on the policy: set allow_plaintext_backup by its config",
            );
        }
        let mut versions = BTreeMap::new();
        for number in record.versions.keys() {
            let stored = self.keys.material(record, *number).await?.to_stored();
            versions.insert(*number, Revealed(text::encode(stored.expose())));
        }
        let backup = Backup {
            name: request.name,
            record: record.clone(),
            versions,
        };
        let backup = Secret::new(serde_json::to_vec(&backup).map_err(internal)?);
        let sealing = version::cipher(Kind::Aes256, self.backup_key().await?.expose())?;
        let sealed = version::seal(&sealing, self.entropy().bytes(), PURPOSE, &backup)?;
        Reply::data(&BackupView {
            backup: Marshaling::Asn1.write(FORMAT, &sealed),
        })
    }

    pub(crate) async fn restore(
        self: Arc<Self>,
        _: Call,
        request: RestoreRequest,
    ) -> Result<Reply<()>, BackendError> {
        let (format, sealed) = Marshaling::Asn1.read("backup", request.backup.expose())?;
        let refused =
            || BackendError::field("backup", "was not made by this mount, or was altered");
        if format != FORMAT {
            return Err(refused());
        }
        let opening = version::cipher(Kind::Aes256, self.backup_key().await?.expose())?;
        let opened = version::open(&opening, PURPOSE, sealed).map_err(|_| refused())?;
        let mut backup: Backup = serde_json::from_slice(opened.expose()).map_err(|_| refused())?;
        let name = request.name.unwrap_or(backup.name);
        check_name(&name)?;
        // Material of its own: what is there under the old id goes with its own key.
        backup.record.id = self.new_id();
        let mut versions = Vec::new();
        for (number, Revealed(stored)) in &backup.versions {
            let stored = text::decode("backup", stored)?;
            versions.push((*number, Material::from_stored(backup.record.kind, &stored)?));
        }
        if request.force {
            self.keys.replace(&name, &backup.record, &versions).await?;
        } else if !self.keys.create(&name, &backup.record, &versions).await? {
            return Err(BackendError::InvalidRequest(format!(
                "key \"{name}\" already exists; set force to replace it"
            )));
        }
        Ok(Reply::nothing())
    }

    /// The key that seals backups, made when it is first asked for.
    async fn backup_key(&self) -> Result<Secret, BackendError> {
        let store = &self.host.store;
        if let Some(entry) = store.get(BACKUP_KEY).await? {
            return Ok(entry.value);
        }
        let key = Secret::new(self.entropy().bytes::<32>());
        let batch = Batch::new()
            .expect(BACKUP_KEY, None)
            .put(BACKUP_KEY, key.duplicate());
        match store.apply(batch).await {
            Ok(()) => Ok(key),
            // Another request was faster; its key is the one.
            Err(StoreError::Conflict) => match store.get(BACKUP_KEY).await? {
                Some(entry) => Ok(entry.value),
                None => Err(StoreError::Conflict.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}
