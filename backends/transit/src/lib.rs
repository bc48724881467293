//! Cryptography as a service: keys that never leave unless they may, and what they do for callers who
//! must not have them: encrypt, decrypt, sign, verify, authenticate.
//!
//! Shapes, names and statuses are those of the Vault API; where it is stricter, `docs/backends/transit.md`
//! says so. All cryptography is aws-lc-rs.
//!
//! # Invariants
//!
//! * **A key leaves only by consent.** Its secrets are exported where `exportable` says so, and sealed in
//!   a backup where `allow_plaintext_backup` says so too. Neither can be taken back.
//! * **No version is lost and none comes back.** A change is written on
//!   condition of what it was decided upon.
//! * **Nothing is leased.** What was encrypted or signed is not issued; there is nothing to revoke.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Effect, Entropy, Handle, Host, Operation, Presence,
    Revocability, Revocation, async_trait,
};

mod backup;
mod batch;
mod encryption;
mod hash;
mod keys;
mod kind;
mod manage;
mod material;
mod record;
mod signing;
mod text;
mod version;
mod wire;

#[cfg(test)]
mod tests;

use keys::Keys;
use material::Generator;

/// How often keys are asked whether they rotate.
const MAINTENANCE: Duration = Duration::from_secs(3600);

/// A mount of this backend.
struct Transit {
    keys: Keys,
    generator: Generator,
    host: Host,
    /// Whether encrypting with a key that is not there makes it.
    upsert: bool,
}

/// Opens a mount. With the option `disable_upsert` set to `true`, encrypting never makes a key.
///
/// # Errors
/// [`BackendError::InvalidRole`] where that option has another value than `true` or `false`.
#[expect(
    clippy::unused_async,
    reason = "every backend opens this way; others read storage or connect"
)]
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    let upsert = match host.options.get("disable_upsert").map(String::as_str) {
        None | Some("" | "false") => true,
        Some("true") => false,
        Some(_) => {
            return Err(BackendError::InvalidRole(
                "mount option \"disable_upsert\": must be \"true\" or \"false\"".into(),
            ));
        }
    };
    Ok(Arc::new(Transit {
        keys: Keys::new(Arc::clone(&host.store)),
        generator: Generator::new(Arc::clone(&host.entropy)),
        host,
        upsert,
    }))
}

impl Transit {
    fn entropy(&self) -> &dyn Entropy {
        &*self.host.entropy
    }
}

#[async_trait]
impl Backend for Transit {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        let mut routes = BackendRoutes::default();
        let r = &mut routes;
        let key = "keys/{name}";
        r.answer(&self, List, "keys", "Lists keys.", Self::list);
        r.answer(&self, Read, key, "Reads a key.", Self::read);
        r.answer(&self, Write, key, "Makes a key.", Self::create);
        r.answer(
            &self,
            Delete,
            key,
            "Deletes a key with all versions.",
            Self::delete,
        );
        r.answer(
            &self,
            Write,
            "keys/{name}/config",
            "Sets what a key may do.",
            Self::configure,
        );
        r.answer(
            &self,
            Write,
            "keys/{name}/rotate",
            "Adds a version to a key.",
            Self::rotate,
        );
        r.answer(
            &self,
            Write,
            "keys/{name}/trim",
            "Removes old versions of a key.",
            Self::trim,
        );
        for pattern in ["export/{type}/{name}", "export/{type}/{name}/{version}"] {
            r.answer(&self, Read, pattern, "Exports a key.", Self::export);
        }
        // Its first call makes the key that seals backups.
        r.answer(
            &self,
            Read,
            "backup/{name}",
            "Backs a key up, sealed.",
            Self::backup,
        )
        .effect = Effect::Change;
        for pattern in ["restore", "restore/{name}"] {
            r.answer(
                &self,
                Write,
                pattern,
                "Restores a key from a backup.",
                Self::restore,
            );
        }
        let encrypts = r.answer(
            &self,
            Write,
            "encrypt/{name}",
            "Encrypts with a key.",
            Self::encrypt,
        );
        if !self.upsert {
            encrypts.effect = Effect::Observe;
        }
        self.observing_routes(r);
        routes
    }

    fn revocability(&self) -> Revocability {
        Revocability::BestEffort {
            reason:
                "what a key encrypted or signed is not leased: raise min_decryption_version or \
                     delete the key"
                    .into(),
        }
    }

    /// Only encrypting creates what it names; as in the Vault API, making a key needs `update`.
    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path.strip_prefix("encrypt/") {
            Some(name) => Ok(self.keys.find(name.trim_end_matches('/')).await?.is_some()),
            None => Ok(true),
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        not_leased()
    }

    async fn maintain(&self, now: SystemTime) -> Result<Option<SystemTime>, BackendError> {
        self.rotate_due(now, now + MAINTENANCE).await.map(Some)
    }
}

impl Transit {
    /// The routes that write in form and change nothing: one record in the audit log suffices.
    fn observing_routes(self: &Arc<Self>, routes: &mut BackendRoutes) {
        use Operation::Write;
        macro_rules! observe {
            ($summary:literal, $handler:ident, [$($pattern:literal),+]) => {
                $(routes.answer(self, Write, $pattern, $summary, Self::$handler).effect = Effect::Observe;)+
            };
        }
        observe!("Decrypts with a key.", decrypt, ["decrypt/{name}"]);
        observe!(
            "Encrypts anew with a key's latest version.",
            rewrap,
            ["rewrap/{name}"]
        );
        observe!(
            "Makes a random key, encrypted with a key.",
            data_key,
            ["datakey/{plaintext}/{name}"]
        );
        observe!(
            "Makes random bytes.",
            random,
            ["random", "random/{urlbytes}", "random/{source}/{urlbytes}"]
        );
        observe!("Hashes.", hash, ["hash", "hash/{urlalgorithm}"]);
        observe!(
            "Authenticates with a key.",
            hmac,
            ["hmac/{name}", "hmac/{name}/{urlalgorithm}"]
        );
        observe!(
            "Signs with a key.",
            sign,
            ["sign/{name}", "sign/{name}/{urlalgorithm}"]
        );
        observe!(
            "Verifies a signature or an HMAC.",
            verify_claim,
            ["verify/{name}", "verify/{name}/{urlalgorithm}"]
        );
    }
}

fn not_leased<T>() -> Result<T, BackendError> {
    Err(BackendError::Unsupported(
        "what a key made is not leased".into(),
    ))
}
