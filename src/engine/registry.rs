//! Every kind of backend there is. Adding one is a line here.

use std::sync::Arc;

use daypass_contract::{Backend, BackendError, BoxFuture, Host};

use crate::config;

/// A backend on its way.
pub(super) type Opening = BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>>;

/// What a kind of backend is for, which decides where it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Issues or keeps secrets; mounted anywhere else.
    Secrets,
    /// Finds out who a caller is; mounted below `auth/`.
    Auth,
}

impl Class {
    /// What may be mounted at `path`, which has no leading slash.
    pub fn of(path: &str) -> Self {
        if path == "auth" || path.starts_with("auth/") {
            Self::Auth
        } else {
            Self::Secrets
        }
    }
}

/// One kind of backend.
pub struct BackendKind {
    /// What `type` says.
    pub name: &'static str,
    /// What it is for.
    pub class: Class,
    /// For lists and help.
    pub summary: &'static str,
    /// Makes an instance for one mount.
    pub open: fn(Host) -> Opening,
}

/// The kinds by name, for whoever reads a configuration.
pub fn declarable() -> config::Kinds {
    let of = |class| {
        let fitting = kinds().iter().filter(move |kind| kind.class == class);
        fitting.map(|kind| kind.name).collect()
    };
    config::Kinds {
        secrets: of(Class::Secrets),
        auth: of(Class::Auth),
    }
}

/// The kinds, by name.
pub fn kinds() -> &'static [BackendKind] {
    &[
        BackendKind {
            name: "approle",
            class: Class::Auth,
            summary: "Logins of programs by role id and secret id",
            open: |host| Box::pin(async { daypass_auth::approle::open(host).await }),
        },
        BackendKind {
            name: "database",
            class: Class::Secrets,
            summary: "Dynamic database credentials",
            open: |host| Box::pin(async { daypass_database::open(host).await }),
        },
        BackendKind {
            name: "jwt",
            class: Class::Auth,
            summary: "Tokens that an issuer signed: CI systems, clusters, clouds",
            open: |host| Box::pin(async { daypass_auth::jwt::open(host).await }),
        },
        BackendKind {
            name: "kubernetes",
            class: Class::Auth,
            summary: "Service accounts, which their cluster vouches for",
            open: |host| Box::pin(async { daypass_auth::kubernetes::open(host).await }),
        },
        BackendKind {
            name: "kv",
            class: Class::Secrets,
            summary: "Versioned secrets",
            open: |host| Box::pin(async { daypass_kv::open(host).await }),
        },
        // Clients ask for jwt logins under this name too; the browser flow is refused with a reason.
        BackendKind {
            name: "oidc",
            class: Class::Auth,
            summary: "The same as jwt; there is no browser flow",
            open: |host| Box::pin(async { daypass_auth::jwt::open(host).await }),
        },
        BackendKind {
            name: "pki",
            class: Class::Secrets,
            summary: "X.509 certificates and SVIDs",
            open: |host| Box::pin(async { Ok(daypass_pki::open(host).await? as _) }),
        },
        BackendKind {
            name: "ssh",
            class: Class::Secrets,
            summary: "Signed SSH certificates",
            open: |host| Box::pin(async { daypass_ssh::open(host).await }),
        },
        BackendKind {
            name: "transit",
            class: Class::Secrets,
            summary: "Cryptography as a service",
            open: |host| Box::pin(async { daypass_transit::open(host).await }),
        },
        BackendKind {
            name: "userpass",
            class: Class::Auth,
            summary: "Logins of people by password",
            open: |host| Box::pin(async { daypass_auth::userpass::open(host).await }),
        },
        #[cfg(test)]
        super::testing::KIND,
    ]
}
