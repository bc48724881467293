//! Signed SSH certificates: the certificate half of the Vault `ssh` API. A mount holds the keys of one or
//! more CAs; servers trust a CA, roles say for whom and for how long it signs.
//!
//! One-time passwords, the other half, are refused with the reason: they need a helper on each host.
//!
//! # Invariants
//!
//! * **A CA's private key never leaves** the sealed store and the memory that signs with it.
//! * **Nobody is allowed by default.** A role that lists no user signs for none, and no certificate is
//!   good for every user or host unless its role says so by name (`allow_empty_principals`).
//! * **No node signs by what has been deleted**: each request reads the list of issuers; only keys, which
//!   never change, are cached.
//! * **Nothing is leased.** A certificate ends by itself; nothing ends it earlier.

use std::sync::Arc;

use daypass_contract::{
    Backend, BackendError, BackendRoutes, Effect, Handle, Host, Operation, Presence, Revocability,
    Revocation, async_trait,
};

mod certificate;
mod import;
mod issuers;
mod key;
mod keygen;
mod names;
mod role;
mod rules;
mod sign;
mod text;

#[cfg(test)]
mod tests;

use issuers::Cache;
use keygen::Keygen;

/// A mount that signs certificates.
struct Ssh {
    host: Host,
    keygen: Keygen,
    cache: Cache,
}

/// Opens a mount.
///
/// # Errors
/// None: storage is read when it is needed.
#[expect(
    clippy::unused_async,
    reason = "every backend opens this way; others read storage or connect"
)]
pub async fn open(host: Host) -> Result<Arc<dyn Backend>, BackendError> {
    Ok(Arc::new(Ssh {
        keygen: Keygen::new(Arc::clone(&host.entropy)),
        cache: Cache::default(),
        host,
    }))
}

/// Something that cannot fail, or a bug, or a damaged record.
fn internal(error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    BackendError::Internal(error.into())
}

fn not_leased<T>() -> Result<T, BackendError> {
    Err(BackendError::Unsupported(
        "certificates are not leased: they end by themselves".into(),
    ))
}

#[async_trait]
impl Backend for Ssh {
    fn routes(self: Arc<Self>) -> BackendRoutes {
        use Operation::{Delete, List, Read, Write};
        use daypass_contract::Access::Anyone;
        let mut routes = BackendRoutes::default();
        let r = &mut routes;
        let s = &self;

        let ca = "config/ca";
        r.answer(s, Read, ca, "Reads the default CA.", Self::read_ca);
        r.answer(
            s,
            Write,
            ca,
            "Makes or imports a CA, which becomes the default.",
            Self::write_ca,
        );
        r.answer(s, Delete, ca, "Deletes every CA.", Self::delete_cas);
        let default = "config/issuers";
        r.answer(
            s,
            Read,
            default,
            "Says which CA is the default.",
            Self::read_default,
        );
        r.answer(
            s,
            Write,
            default,
            "Chooses the default CA.",
            Self::write_default,
        );
        r.answer(s, List, "issuers", "Lists the CAs.", Self::list_issuers);
        for pattern in ["issuers/import", "issuers/import/{issuer_name}"] {
            r.answer(
                s,
                Write,
                pattern,
                "Makes or imports a CA.",
                Self::import_issuer,
            );
        }
        let issuer = "issuer/{issuer_ref}";
        r.answer(s, Read, issuer, "Reads a CA.", Self::read_issuer);
        r.answer(s, Write, issuer, "Names a CA.", Self::name_issuer);
        r.answer(s, Delete, issuer, "Deletes a CA.", Self::delete_issuer);
        for pattern in ["public_key", "issuer/{issuer_ref}/public_key"] {
            let summary = "The public key of a CA, for TrustedUserCAKeys and known_hosts.";
            r.answer(s, Read, pattern, summary, Self::public_key).access = Anyone;
        }

        let role = "roles/{name}";
        r.answer(s, List, "roles", "Lists roles.", Self::list_roles);
        r.answer(s, Read, role, "Reads a role.", Self::read_role);
        r.answer(s, Write, role, "Writes a role.", Self::write_role);
        r.answer(s, Delete, role, "Deletes a role.", Self::delete_role);

        let signing = "Signs a public key.";
        r.answer(s, Write, "sign/{role}", signing, Self::sign)
            .effect = Effect::Change;
        let issuing = "Makes a key pair and signs its public key.";
        r.answer(s, Write, "issue/{role}", issuing, Self::issue)
            .effect = Effect::Change;
        routes
    }

    fn revocability(&self) -> Revocability {
        Revocability::ExpiryOnly
    }

    async fn exists(&self, path: &str) -> Result<bool, BackendError> {
        match path.strip_prefix("roles/") {
            Some(name) => Ok(role::load(&*self.host.store, name).await?.is_some()),
            None => Ok(true),
        }
    }

    async fn revoke(&self, _: &Handle) -> Result<Revocation, BackendError> {
        not_leased()
    }

    async fn verify(&self, _: &Handle) -> Result<Presence, BackendError> {
        not_leased()
    }
}
