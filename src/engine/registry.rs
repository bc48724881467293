//! Every kind of backend there is. Adding one is a line here.

use std::sync::Arc;

use daypass_contract::{Backend, BackendError, BoxFuture, Host};

/// One kind of backend.
pub struct BackendKind {
    /// What `type` says.
    pub name: &'static str,
    /// For lists and help.
    pub summary: &'static str,
    /// Makes an instance for one mount.
    pub open: fn(Host) -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>>,
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
            open: |host| Box::pin(async { daypass_pki::open(host).await }),
        },
    ]
}
