//! HTTP: one file per resource; errors become statuses in one place.
//!
//! A resource file declares its endpoints with `routes(&mut SystemRoutes)` and translates; what it
//! declares is served by [`crate::engine::ControlPlane::serve`] like the routes of any backend.

mod auth_token;
mod auth_token_create;
mod auth_token_roles;
mod cubbyhole;
mod envelope;
mod error;
mod identity_alias;
mod identity_entity;
mod identity_group;
mod identity_lookup;
mod identity_oidc;
mod key_holder;
mod listener;
mod openapi;
mod service;
mod sys_audit;
mod sys_capabilities;
mod sys_config;
mod sys_counters;
mod sys_generate_root;
mod sys_health;
mod sys_host_info;
mod sys_internal;
mod sys_leases;
mod sys_metrics;
mod sys_mounts;
mod sys_plugins;
mod sys_policies;
mod sys_quotas;
mod sys_rekey;
mod sys_rotate;
mod sys_locked_users;
mod sys_seal;
mod sys_tools;
mod sys_wrapping;
mod sys_state;
#[cfg(test)]
mod tests;
mod unserved;

pub use listener::{ClientCertificates, Identity, Listener, ListenerError, Loaded, TlsFiles};
pub use openapi::document;
pub use service::{HttpLimits, Service};

use crate::engine::SystemRoutes;

/// Every system endpoint there is.
pub fn system_routes() -> SystemRoutes {
    let mut routes = SystemRoutes::default();
    sys_health::routes(&mut routes);
    sys_seal::routes(&mut routes);
    sys_rotate::routes(&mut routes);
    sys_rekey::routes(&mut routes);
    sys_generate_root::routes(&mut routes);
    sys_mounts::routes(&mut routes);
    sys_policies::routes(&mut routes);
    sys_capabilities::routes(&mut routes);
    sys_leases::routes(&mut routes);
    sys_internal::routes(&mut routes);
    sys_audit::routes(&mut routes);
    sys_metrics::routes(&mut routes);
    sys_wrapping::routes(&mut routes);
    sys_tools::routes(&mut routes);
    sys_counters::routes(&mut routes);
    sys_locked_users::routes(&mut routes);
    sys_quotas::routes(&mut routes);
    cubbyhole::routes(&mut routes);
    sys_state::routes(&mut routes);
    sys_host_info::routes(&mut routes);
    sys_plugins::routes(&mut routes);
    sys_config::routes(&mut routes);
    auth_token::routes(&mut routes);
    identity_entity::routes(&mut routes);
    identity_alias::routes(&mut routes);
    identity_group::routes(&mut routes);
    identity_lookup::routes(&mut routes);
    identity_oidc::routes(&mut routes);
    auth_token_create::routes(&mut routes);
    auth_token_roles::routes(&mut routes);
    routes
}

/// An instant as the Vault API writes it.
fn rfc3339(at: std::time::SystemTime) -> String {
    let at = time::OffsetDateTime::from(at);
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default()
}

/// A duration as Go writes it, in whole seconds: `48h0m0s`, `90s` as `1m30s`.
fn go_duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}
