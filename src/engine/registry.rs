//! Every kind of backend there is. Adding one is a line here.

use std::sync::Arc;

use daypass_contract::{Backend, BackendError, BoxFuture, Host};

/// A backend on its way.
pub(super) type Opening = BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>>;

/// One kind of backend.
pub struct BackendKind {
    /// What `type` says.
    pub name: &'static str,
    /// For lists and help.
    pub summary: &'static str,
    /// Makes an instance for one mount.
    pub open: fn(Host) -> Opening,
}

/// The kinds, by name.
pub fn kinds() -> &'static [BackendKind] {
    &[
        BackendKind {
            name: "database",
            summary: "Dynamic database credentials",
            open: |host| Box::pin(async { daypass_database::open(host).await }),
        },
        BackendKind {
            name: "kv",
            summary: "Versioned secrets",
            open: |host| Box::pin(async { daypass_kv::open(host).await }),
        },
        BackendKind {
            name: "pki",
            summary: "X.509 certificates and SVIDs",
            open: |host| Box::pin(async { Ok(daypass_pki::open(host).await? as _) }),
        },
        #[cfg(test)]
        super::testing::KIND,
    ]
}
