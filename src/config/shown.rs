//! A configuration as the API shows it: names and numbers, no secret and no reference to one.

use serde_json::{Value, json};

use super::model::{ClientAuth, Config, ListenAddress, Listener, LogFormat, SealSettings};

impl Config {
    /// Itself in the words of `sys/config/state/sanitized`. What is written below mounts is named only.
    pub fn sanitized(&self) -> Value {
        let (seal_type, seal_path) = match &self.seal {
            SealSettings::Shamir => ("shamir", None),
            SealSettings::KeyFile { path } => ("key_file", Some(path)),
        };
        json!({
            "trust_domain": self.trust_domain,
            "listeners": self.listeners.iter().map(listener).collect::<Vec<_>>(),
            "storage": { "type": "embedded", "path": self.storage.path },
            "seals": [{ "type": seal_type, "path": seal_path, "disabled": false }],
            "audit": { "path": self.audit.path, "rotate_bytes": self.audit.rotate_bytes },
            "log_level": self.log.level.as_str(),
            "log_format": match self.log.format {
                LogFormat::Json => "json",
                LogFormat::Text => "text",
            },
            "default_lease_ttl": self.leases.default_ttl.as_secs(),
            "max_lease_ttl": self.leases.max_ttl.as_secs(),
            "limits": {
                "max_body_bytes": self.limits.max_body_bytes,
                "request_timeout": self.limits.request_timeout.as_secs(),
                "max_connections": self.limits.max_connections,
                "max_concurrent_requests": self.limits.max_concurrent_requests,
                "max_headers": self.limits.max_headers,
                "max_header_bytes": self.limits.max_header_bytes,
                "header_timeout": self.limits.header_timeout.as_secs(),
                "shutdown_grace": self.limits.shutdown_grace.as_secs(),
            },
            "audit_devices": self.audit_devices.iter().map(|device| json!({
                "path": device.path,
                "type": device.kind,
            })).collect::<Vec<_>>(),
            "mounts": self.mounts.iter().map(|mount| json!({
                "path": mount.path,
                "type": mount.backend,
                "set": mount.resources.iter().map(|resource| &resource.path).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "policies": self.policies.iter().map(|policy| &policy.name).collect::<Vec<_>>(),
            "quotas": self.quotas.iter().map(|quota| json!({
                "name": quota.name,
                "path": quota.path,
                "rate_per_second": quota.rate_per_second,
                "burst": quota.burst,
            })).collect::<Vec<_>>(),
        })
    }
}

fn listener(listener: &Listener) -> Value {
    let (kind, address) = match &listener.address {
        ListenAddress::Tcp(address) => ("tcp", address.clone()),
        ListenAddress::Unix(path) => ("unix", path.display().to_string()),
    };
    let tls = listener.tls.as_ref().map(|tls| {
        json!({
            "cert_file": tls.cert_file,
            "client_ca_file": tls.client_ca_file,
            "client_auth": match tls.client_auth {
                ClientAuth::None => "none",
                ClientAuth::Request => "request",
                ClientAuth::Optional => "optional",
                ClientAuth::Required => "required",
            },
        })
    });
    json!({ "type": kind, "config": {
        "address": address,
        "tls_disable": tls.is_none(),
        "tls": tls,
    }})
}
