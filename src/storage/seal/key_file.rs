//! Unsealing by a key in a file, without people. As safe as the file: for development, and for machines
//! whose disk and backups are protected otherwise.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use daypass_contract::{Entropy, Secret};
use uuid::Uuid;

use super::SealError;
use crate::memory::LockedKey;
use crate::storage::StorageError;
use crate::storage::barrier::SEAL;
use crate::storage::keyring::{cipher, open, seal};

/// 64 hex digits, and what an editor leaves around them.
const MAX_FILE_BYTES: u64 = 128;

/// Reads the key. The file must be readable to its owner alone.
pub(super) fn read(path: &Path) -> Result<LockedKey<32>, SealError> {
    let file = File::open(path).map_err(|error| failure(path, &error))?;
    let mode = file
        .metadata()
        .map_err(|error| failure(path, &error))?
        .mode();
    if mode & 0o077 != 0 {
        return refuse(
            path,
            "other users may read it: chmod 600 it, and replace the key if they did",
        );
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
    let text = Secret::new(bytes);
    read.map_err(|error| failure(path, &error))?;
    let mut decoded = true;
    let key = LockedKey::fill(|bytes| {
        decoded = hex::decode_to_slice(text.expose().trim_ascii(), bytes).is_ok();
    });
    if !decoded {
        return refuse(path, "it must hold 64 hex digits (`openssl rand -hex 32`)");
    }
    Ok(key)
}

/// Writes a fresh key, where the file does not exist; one that exists is used as it is.
pub(super) fn read_or_generate(
    path: &Path,
    entropy: &dyn Entropy,
) -> Result<LockedKey<32>, SealError> {
    let create = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match create {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return read(path),
        Err(error) => return Err(failure(path, &error)),
    };
    let key = LockedKey::<32>::fill(|bytes| entropy.fill(bytes));
    let text = Secret::new(hex::encode(key.expose()));
    // Durable before anything is sealed with it.
    file.write_all(text.expose())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(|error| failure(path, &error))?;
    crate::storage::embedded::sync_file_and_directory(path)?;
    Ok(key)
}

/// The root key, sealed by the key of the file, for the seal's record.
pub(super) fn wrap(
    key: &LockedKey<32>,
    root: &LockedKey<32>,
    cluster: Uuid,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, StorageError> {
    seal(
        &cipher(key)?,
        Vec::new(),
        &aad(cluster),
        root.expose(),
        entropy,
    )
}

/// The root key again; `None` where the file holds another key than the one it was wrapped with.
pub(super) fn unwrap(
    key: &LockedKey<32>,
    wrapped: &[u8],
    cluster: Uuid,
) -> Result<Option<LockedKey<32>>, StorageError> {
    let root = open(&cipher(key)?, &aad(cluster), wrapped).map(Secret::new);
    Ok(root.and_then(|root| LockedKey::copy_of(root.expose())))
}

/// The file does not open this store.
pub(super) fn wrong_key(path: &Path) -> SealError {
    SealError::KeyFile {
        path: path.to_owned(),
        reason: "it does not hold the key that this store was initialized with, or the store's \
                 record core/seal was altered"
            .to_owned(),
    }
}

fn aad(cluster: Uuid) -> Vec<u8> {
    [SEAL.as_bytes(), cluster.as_bytes()].concat()
}

fn refuse<T>(path: &Path, reason: &str) -> Result<T, SealError> {
    Err(SealError::KeyFile {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

fn failure(path: &Path, error: &io::Error) -> SealError {
    SealError::KeyFile {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
