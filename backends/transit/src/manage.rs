//! Keys: made, read, configured, rotated, trimmed, exported and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{BackendError, Call, Keys as Names, Reply};

use crate::Transit;
use crate::keys::Change;
use crate::kind::Kind;
use crate::material::{Export, Material};
use crate::record::{Record, check_period};
use crate::wire::{
    ConfigRequest, CreateRequest, ExportRequest, ExportView, KeyView, ListRequest, NameRequest,
    Revealed, TrimRequest,
};

/// What a new key is to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewKey {
    pub(crate) kind: Kind,
    pub(crate) derived: bool,
    pub(crate) convergent: bool,
    pub(crate) exportable: bool,
    pub(crate) allow_plaintext_backup: bool,
    pub(crate) auto_rotate_period: Duration,
    pub(crate) key_size: usize,
}

impl NewKey {
    fn check(&self) -> Result<(), BackendError> {
        let refuse = |field: &str, problem: String| Err(BackendError::field(field, problem));
        let name = self.kind.name();
        if self.convergent && !self.derived {
            return refuse(
                "convergent_encryption",
                "convergent encryption requires derivation to be enabled".into(),
            );
        }
        if self.derived && !self.kind.derives() {
            let problem = format!("key derivation not supported for keys of type {name}");
            return refuse("derived", problem);
        }
        if self.convergent && self.kind.cipher().is_none() {
            let problem = format!("convergent encryption not supported for keys of type {name}");
            return refuse("convergent_encryption", problem);
        }
        match (self.kind, self.key_size) {
            (Kind::Hmac, 32..=512) => Ok(()),
            (Kind::Hmac, _) => refuse(
                "key_size",
                "an HMAC key has between 32 and 512 bytes".into(),
            ),
            (_, 0) => Ok(()),
            _ => refuse("key_size", format!("is not valid for algorithm {name}")),
        }
    }
}

impl Transit {
    pub(crate) async fn list(
        self: Arc<Self>,
        _: Call,
        request: ListRequest,
    ) -> Result<Reply<Names>, BackendError> {
        let limit = request.limit.filter(|limit| *limit > 0);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let after = request.after.as_deref();
        Reply::keys(self.keys.list(after, limit.unwrap_or(usize::MAX)).await?)
    }

    pub(crate) async fn read(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<KeyView>, BackendError> {
        let key = self.keys.find(&request.name).await?;
        let key = key.ok_or(BackendError::NotFound)?;
        Reply::data(&KeyView::of(&request.name, &key.record))
    }

    /// A key that is there already is answered as it is.
    pub(crate) async fn create(
        self: Arc<Self>,
        call: Call,
        request: CreateRequest,
    ) -> Result<Reply<KeyView>, BackendError> {
        let name = &request.name;
        let new = NewKey {
            kind: request.kind,
            derived: request.derived,
            convergent: request.convergent_encryption,
            exportable: request.exportable,
            allow_plaintext_backup: request.allow_plaintext_backup,
            auto_rotate_period: check_period(request.auto_rotate_period.unwrap_or_default())?,
            key_size: request.key_size,
        };
        new.check()?;
        let made = match self.keys.find(name).await? {
            Some(_) => false,
            None => self.make(name, &new, call.now).await?,
        };
        let key = self.keys.find(name).await?.ok_or(BackendError::NotFound)?;
        let reply = Reply::data(&KeyView::of(name, &key.record))?;
        Ok(if made {
            reply
        } else {
            reply.warn(format!("key {name} already existed and was not changed"))
        })
    }

    /// Makes a key; `false` where another request was faster.
    pub(crate) async fn make(
        &self,
        name: &str,
        new: &NewKey,
        now: SystemTime,
    ) -> Result<bool, BackendError> {
        check_name(name)?;
        new.check()?;
        let material = self.generator.generate(new.kind, new.key_size).await?;
        let mut record = Record {
            id: self.new_id(),
            kind: new.kind,
            key_size: new.key_size,
            derived: new.derived,
            convergent: new.convergent,
            exportable: new.exportable,
            allow_plaintext_backup: new.allow_plaintext_backup,
            deletion_allowed: false,
            auto_rotate_period: new.auto_rotate_period,
            min_decryption_version: 1,
            min_encryption_version: 0,
            min_available_version: 0,
            latest_version: 0,
            versions: BTreeMap::new(),
        };
        record.add(public_key(&record, &material)?, now);
        self.keys.create(name, &record, &[(1, material)]).await
    }

    pub(crate) fn new_id(&self) -> String {
        hex::encode(self.entropy().bytes::<16>())
    }

    pub(crate) async fn configure(
        self: Arc<Self>,
        _: Call,
        request: ConfigRequest,
    ) -> Result<Reply<KeyView>, BackendError> {
        let name = &request.name;
        let changed = self.keys.change(name, |record| {
            let warnings = record.configure(request.settings())?;
            Ok(Change {
                added: None,
                gone: Vec::new(),
                value: warnings,
            })
        });
        let (record, warnings) = changed.await?.ok_or_else(|| {
            BackendError::InvalidRequest(format!("no existing key named {name} could be found"))
        })?;
        let reply = Reply::data(&KeyView::of(name, &record))?;
        Ok(warnings.into_iter().fold(reply, Reply::warn))
    }

    pub(crate) async fn rotate(
        self: Arc<Self>,
        call: Call,
        request: NameRequest,
    ) -> Result<Reply<KeyView>, BackendError> {
        let record = self.rotate_if(&request.name, call.now, |_| true).await?;
        let record = record.ok_or_else(key_not_found)?;
        Reply::data(&KeyView::of(&request.name, &record))
    }

    /// Adds a version where the key, as it is when that is written, is `due`.
    async fn rotate_if(
        &self,
        name: &str,
        now: SystemTime,
        due: impl Fn(&Record) -> bool + Send + Sync,
    ) -> Result<Option<Record>, BackendError> {
        let Some((seen, _)) = self.keys.load(name).await? else {
            return Ok(None);
        };
        if !due(&seen) {
            return Ok(Some(seen));
        }
        let material = self.generator.generate(seen.kind, seen.key_size).await?;
        let public_key = public_key(&seen, &material)?;
        let changed = self.keys.change(name, |record| {
            if record.id != seen.id {
                return Err(BackendError::InvalidRequest(
                    "the key was replaced by another of its name; try again".into(),
                ));
            }
            let rotates = due(record);
            if rotates {
                record.add(public_key.clone(), now);
            }
            Ok(Change {
                added: rotates.then_some(&material),
                gone: Vec::new(),
                value: (),
            })
        });
        Ok(changed.await?.map(|(record, ())| record))
    }

    /// Rotates the keys that are due, and answers when the next one is, or `latest` before that.
    pub(crate) async fn rotate_due(
        &self,
        now: SystemTime,
        latest: SystemTime,
    ) -> Result<SystemTime, BackendError> {
        let mut next = latest;
        let mut failure = None;
        for name in self.keys.list(None, usize::MAX).await? {
            let due = |record: &Record| record.rotates_at().is_some_and(|at| at <= now);
            match self.rotate_if(&name, now, due).await {
                Ok(record) => {
                    let at = record.and_then(|record| record.rotates_at());
                    next = next.min(at.unwrap_or(latest));
                }
                // The others are due all the same.
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            None => Ok(next),
            Some(error) => Err(error),
        }
    }

    pub(crate) async fn trim(
        self: Arc<Self>,
        _: Call,
        request: TrimRequest,
    ) -> Result<Reply<KeyView>, BackendError> {
        let changed = self.keys.change(&request.name, |record| {
            Ok(Change {
                added: None,
                gone: record.trim(request.min_available_version)?,
                value: (),
            })
        });
        let (record, ()) = changed.await?.ok_or_else(key_not_found)?;
        Reply::data(&KeyView::of(&request.name, &record))
    }

    pub(crate) async fn delete(
        self: Arc<Self>,
        _: Call,
        request: NameRequest,
    ) -> Result<Reply<()>, BackendError> {
        let name = &request.name;
        let refuse = |problem: &str| {
            BackendError::InvalidRequest(format!("error deleting policy {name}: {problem}"))
        };
        let deleted = self.keys.delete(name, |record| {
            if record.deletion_allowed {
                return Ok(());
            }
            Err(refuse(
                "deletion is not allowed for this key; set deletion_allowed by its config first",
            ))
        });
        if !deleted.await? {
            return Err(refuse("could not delete key; not found"));
        }
        Ok(Reply::nothing())
    }

    pub(crate) async fn export(
        self: Arc<Self>,
        _: Call,
        request: ExportRequest,
    ) -> Result<Reply<ExportView>, BackendError> {
        let what = match request.what.as_str() {
            "encryption-key" => Export::Encryption,
            "signing-key" => Export::Signing,
            "hmac-key" => Export::Hmac,
            "public-key" => Export::Public,
            _ => {
                return Err(BackendError::InvalidRequest(
                    "invalid export type: must be encryption-key, signing-key, hmac-key or public-key"
                        .into(),
                ));
            }
        };
        let key = self.keys.find(&request.name).await?;
        let record = &key.as_ref().ok_or(BackendError::NotFound)?.record;
        if !record.exportable && what != Export::Public {
            return Err(BackendError::InvalidRequest(
                "private key material is not exportable".into(),
            ));
        }
        let all = record.versions.range(record.min_decryption_version..);
        let numbers: Vec<u64> = match request.version.as_deref() {
            None | Some("") => all.map(|(number, _)| *number).collect(),
            Some("latest") => vec![record.latest_version],
            Some(number) => {
                let number: u64 = number
                    .parse()
                    .map_err(|_| BackendError::field("version", "invalid key version"))?;
                if number < record.min_decryption_version || !record.versions.contains_key(&number)
                {
                    let problem = "version does not exist or cannot be found";
                    return Err(BackendError::field("version", problem));
                }
                vec![number]
            }
        };
        let mut keys = BTreeMap::new();
        for number in numbers {
            let material = self.keys.material(record, number).await?;
            keys.insert(number, Revealed(material.export(what)?));
        }
        Reply::data(&ExportView {
            name: request.name,
            kind: record.kind,
            keys,
        })
    }
}

/// What the record keeps of `material`: the public key, unless each context has its own.
fn public_key(record: &Record, material: &Material) -> Result<Option<String>, BackendError> {
    if record.derived {
        return Ok(None);
    }
    material.public_key()
}

fn key_not_found() -> BackendError {
    BackendError::InvalidRequest("key not found".into())
}

/// Letters, digits and `_`, and within also `-` and `.`: as in the Vault API.
pub(crate) fn check_name(name: &str) -> Result<(), BackendError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let inner = |byte: u8| word(byte) || byte == b'-' || byte == b'.';
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if name.len() > 256
        || !bytes.iter().all(|byte| inner(*byte))
        || !ends
            .into_iter()
            .all(|end| end.is_some_and(|end| word(*end)))
    {
        return Err(BackendError::field(
            "name",
            "must be at most 256 letters, digits and \"_\", with \"-\" and \".\" only within",
        ));
    }
    Ok(())
}
