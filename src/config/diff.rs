//! What of a changed configuration counts only from the next start on.

use std::collections::BTreeMap;

use super::model::{
    AuditSettings, Config, LeaseSettings, Limits, ListenAddress, LogFormat, SealSettings,
    StorageSettings,
};

/// The part of a configuration that a running server keeps.
///
/// Everything else (policies, mounts and what is written below them, quotas, the level of the log, certificate
/// files) a reload applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    trust_domain: Option<String>,
    /// Addresses, and whether they speak TLS.
    listeners: Vec<(ListenAddress, bool)>,
    storage: StorageSettings,
    seal: SealSettings,
    audit: AuditSettings,
    log_format: LogFormat,
    limits: Limits,
    leases: LeaseSettings,
    /// Path, type, description and options.
    audit_devices: Vec<(String, String, String, BTreeMap<String, String>)>,
}

impl Fixed {
    /// The fixed part of `config`.
    pub fn of(config: &Config) -> Self {
        // Taken apart whole, so that a new key forces a decision.
        let Config {
            trust_domain,
            listeners,
            storage,
            seal,
            audit,
            log,
            limits,
            leases,
            audit_devices,
            mounts: _,
            policies: _,
            quotas: _,
        } = config;
        Self {
            trust_domain: trust_domain.clone(),
            listeners: listeners
                .iter()
                .map(|listener| (listener.address.clone(), listener.tls.is_some()))
                .collect(),
            storage: storage.clone(),
            seal: seal.clone(),
            audit: audit.clone(),
            log_format: log.format,
            limits: *limits,
            leases: *leases,
            audit_devices: audit_devices
                .iter()
                .cloned()
                .map(|device| (device.path, device.kind, device.description, device.options))
                .collect(),
        }
    }

    /// The keys by which `other` differs.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        [
            ("trust_domain", self.trust_domain == other.trust_domain),
            ("listeners", self.listeners == other.listeners),
            ("storage", self.storage == other.storage),
            ("seal", self.seal == other.seal),
            ("audit", self.audit == other.audit),
            ("log.format", self.log_format == other.log_format),
            ("limits", self.limits == other.limits),
            ("leases", self.leases == other.leases),
            ("audit_devices", self.audit_devices == other.audit_devices),
        ]
        .into_iter()
        .filter(|(_, same)| !same)
        .map(|(key, _)| key.to_owned())
        .collect()
    }
}
