//! Where things are kept, and how roles are found.
//!
//! | Key | Value |
//! |---|---|
//! | `name/<name>` | [`Pointer`] to the role |
//! | `role/<hash of the role id>` | [`RoleRecord`] |
//! | `secret/<role key>/<hash of the secret id>` | [`SecretIdRecord`] |
//! | `accessor/<role key>/<accessor>` | [`Pointer`] to the secret id |
//! | `expiry/<end>.<role key>.<hash of the secret id>` | nothing; in order of the ends |
//! | `purge/<role key>` | nothing; the role is deleted, its secret ids are being removed |
//!
//! The record of a role lies where a login, which has the role id, finds it at once.

use aws_lc_rs::hmac;
use daypass_contract::{BackendError, Batch, Entropy, Revision, Secret, StoreError, millis};
use serde::{Deserialize, Serialize};

use super::AppRole;
use super::role::RoleRecord;
use super::secret_id::SecretIdRecord;

/// Where names of roles are.
pub(super) const NAMES: &str = "name/";
/// Where ends are.
pub(super) const EXPIRY: &str = "expiry/";
/// Where deleted roles are.
pub(super) const PURGE: &str = "purge/";

/// The hash by which something is found.
#[derive(Serialize, Deserialize)]
pub(super) struct Pointer {
    pub(super) hash: String,
}

/// A role with all that must not have changed when it is written again.
pub(super) struct FoundRole {
    pub(super) record: RoleRecord,
    /// The hash of its role id.
    pub(super) hash: String,
    pub(super) revision: Revision,
}

/// A secret id with its revision.
pub(super) struct FoundSecretId {
    pub(super) record: SecretIdRecord,
    pub(super) hash: String,
    pub(super) revision: Revision,
}

pub(super) fn name(name: &str) -> String {
    format!("{NAMES}{name}")
}

pub(super) fn role(hash: &str) -> String {
    format!("role/{hash}")
}

pub(super) fn secret_ids(role: &str) -> String {
    format!("secret/{role}/")
}

pub(super) fn secret_id(role: &str, hash: &str) -> String {
    format!("secret/{role}/{hash}")
}

pub(super) fn accessors(role: &str) -> String {
    format!("accessor/{role}/")
}

pub(super) fn accessor(role: &str, accessor: &str) -> String {
    format!("accessor/{role}/{accessor}")
}

pub(super) fn purge(role: &str) -> String {
    format!("{PURGE}{role}")
}

/// One end of a secret id, as a key has it.
pub(super) struct End {
    /// Milliseconds since the epoch.
    pub(super) at: u64,
    pub(super) role: String,
    pub(super) hash: String,
}

impl End {
    pub(super) fn key(&self) -> String {
        format!("{EXPIRY}{:016}.{}.{}", self.at, self.role, self.hash)
    }

    /// Reads the name of a key below [`EXPIRY`].
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        Some(Self {
            at: parts.next()?.parse().ok()?,
            role: parts.next()?.to_owned(),
            hash: parts.next()?.to_owned(),
        })
    }
}

/// A mark that says all by being there.
pub(super) fn nothing() -> Secret {
    Secret::new(*b"{}")
}

/// Removes a secret id with everything that leads to it, where it is still at that revision.
pub(super) fn remove(batch: Batch, role: &str, found: &FoundSecretId) -> Batch {
    let key = secret_id(role, &found.hash);
    let batch = batch
        .expect(key.clone(), Some(found.revision))
        .delete(key)
        .delete(accessor(role, &found.record.accessor));
    match found.record.ends_at {
        Some(end) => batch.delete(
            End {
                at: millis::of(end),
                role: role.to_owned(),
                hash: found.hash.clone(),
            }
            .key(),
        ),
        None => batch,
    }
}

/// 128 random bits in the form that the Vault API gives ids.
pub(super) fn random_id(entropy: &dyn Entropy) -> String {
    let hex = hex::encode(entropy.bytes::<16>());
    let mut id = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            id.push('-');
        }
        id.push(digit);
    }
    id
}

impl AppRole {
    /// The hash of a role id.
    pub(super) fn hash_role_id(&self, role_id: &str) -> String {
        self.hash(&[b"role-id", role_id.as_bytes()])
    }

    /// The hash of a secret id, which differs between roles.
    pub(super) fn hash_secret_id(&self, role: &RoleRecord, secret_id: &Secret) -> String {
        self.hash(&[b"secret-id", role.key.as_bytes(), secret_id.expose()])
    }

    /// Only the last part may hold a NUL.
    fn hash(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(part);
            context.update(&[0]);
        }
        hex::encode(context.sign().as_ref())
    }

    /// The role with that role id.
    pub(super) async fn role_with_id(
        &self,
        role_id: &str,
    ) -> Result<Option<FoundRole>, BackendError> {
        self.role_with_hash(self.hash_role_id(role_id)).await
    }

    async fn role_with_hash(&self, hash: String) -> Result<Option<FoundRole>, BackendError> {
        let Some(entry) = self.host.store.get(&role(&hash)).await? else {
            return Ok(None);
        };
        Ok(Some(FoundRole {
            record: entry.decode()?,
            revision: entry.revision,
            hash,
        }))
    }

    /// The role of that name.
    pub(super) async fn role_named(&self, named: &str) -> Result<Option<FoundRole>, BackendError> {
        crate::again::until_settled(|| async {
            let Some(entry) = self.host.store.get(&name(named)).await? else {
                return Ok(None);
            };
            let Pointer { hash } = entry.decode()?;
            match self.role_with_hash(hash).await? {
                Some(found) if found.record.name == named => Ok(Some(found)),
                // Its role id changed between the two reads.
                _ => Err(StoreError::Conflict.into()),
            }
        })
        .await
    }

    /// The role of that name, which must be there.
    pub(super) async fn need_role(&self, named: &str) -> Result<FoundRole, BackendError> {
        self.role_named(named).await?.ok_or(BackendError::NotFound)
    }

    /// The secret id with that hash, ended or not.
    pub(super) async fn secret_id_with_hash(
        &self,
        role: &str,
        hash: String,
    ) -> Result<Option<FoundSecretId>, BackendError> {
        let Some(entry) = self.host.store.get(&secret_id(role, &hash)).await? else {
            return Ok(None);
        };
        Ok(Some(FoundSecretId {
            record: entry.decode()?,
            revision: entry.revision,
            hash,
        }))
    }

    /// The secret id that an accessor stands for.
    pub(super) async fn secret_id_of_accessor(
        &self,
        role: &str,
        named: &str,
    ) -> Result<Option<FoundSecretId>, BackendError> {
        let Some(entry) = self.host.store.get(&accessor(role, named)).await? else {
            return Ok(None);
        };
        let Pointer { hash } = entry.decode()?;
        self.secret_id_with_hash(role, hash).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_ordered_as_times_are() {
        let end = |at| End {
            at,
            role: "r".into(),
            hash: "h".into(),
        };
        let keys: Vec<String> = [0, 9, 10, 1_767_225_600_000, 9_999_999_999_999]
            .into_iter()
            .map(|at| end(at).key())
            .collect();
        assert!(keys.is_sorted());
        for key in keys {
            let name = key.strip_prefix(EXPIRY).unwrap();
            assert_eq!(End::parse(name).unwrap().key(), key);
        }
        for name in ["", "a.b.c", "1.b", "1"] {
            assert!(End::parse(name).is_none(), "{name}");
        }
    }
}
