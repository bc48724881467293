//! Checks that look at more than one value, or outside the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::error::Origin;
use super::model::{Config, LeaseSettings, ListenAddress, Listener, Mount, SealSettings, Setting};
use super::read::Problems;
use super::secret::read_private;

/// Paths that the server itself answers.
const RESERVED: [&str; 4] = ["auth/token/", "cubbyhole/", "identity/", "sys/"];

/// Notes what does not go together in `config`, and what it refers to and cannot be read.
pub(super) fn config(config: &Config, problems: &Problems) {
    mount_paths(&config.mounts, problems);
    for mount in &config.mounts {
        lease_times(mount, config.leases, problems);
        for resource in &mount.resources {
            for (name, setting) in &resource.fields {
                references(&resource.origin, name, setting, problems);
            }
        }
    }
    let devices = config.audit_devices.iter();
    unique(
        devices.map(|device| ("path", device.path.clone(), &device.origin)),
        problems,
    );
    let policies = config.policies.iter();
    let quotas = config.quotas.iter();
    let listeners = config.listeners.iter();
    unique(
        policies.map(|policy| ("name", policy.name.clone(), &policy.origin)),
        problems,
    );
    unique(
        quotas.map(|quota| ("name", quota.name.clone(), &quota.origin)),
        problems,
    );
    unique(
        listeners.map(|listener| ("address", address(listener), &listener.origin)),
        problems,
    );
    for listener in &config.listeners {
        tls_files(listener, problems);
    }
    // A key file that does not exist yet is made at initialisation.
    if let SealSettings::KeyFile { path } = &config.seal
        && path.exists()
        && let Err(error) = read_private(path)
    {
        problems.file(path, format!("as the seal's key: {error}"));
    }
}

/// One mount answers each request: none is another's path, or lies within another.
fn mount_paths(mounts: &[Mount], problems: &Problems) {
    let mut seen: Vec<&Mount> = Vec::new();
    for mount in mounts {
        let path = mount.path.as_str();
        let report = |problem: String| problems.push(mount.origin.error("path", problem));
        if let Some(reserved) = RESERVED.iter().find(|reserved| path.starts_with(*reserved)) {
            report(format!("\"{reserved}\" is the server's own"));
        }
        let clash = seen
            .iter()
            .find(|other| path.starts_with(&other.path) || other.path.starts_with(path));
        match clash {
            Some(other) if other.path == path => {
                report(format!(
                    "\"{path}\" is already mounted at {}",
                    other.origin.place
                ));
            }
            Some(other) => report(format!(
                "\"{path}\" overlaps \"{}\" at {}",
                other.path, other.origin.place
            )),
            None => seen.push(mount),
        }
    }
}

/// The server's maximum holds for every mount. A mount's own pair was compared where it was read.
fn lease_times(mount: &Mount, leases: LeaseSettings, problems: &Problems) {
    for (field, ttl) in [
        ("default_lease_ttl", mount.default_lease_ttl),
        ("max_lease_ttl", mount.max_lease_ttl),
    ] {
        if ttl.is_some_and(|ttl| ttl > leases.max_ttl) {
            problems.push(
                mount
                    .origin
                    .error(field, "is longer than leases.max_ttl allows"),
            );
        }
    }
}

fn unique<'a>(
    names: impl Iterator<Item = (&'static str, String, &'a Origin)>,
    problems: &Problems,
) {
    let mut seen: BTreeMap<String, &Origin> = BTreeMap::new();
    for (field, name, origin) in names {
        if let Some(first) = seen.get(&name) {
            let problem = format!("\"{name}\" is already declared at {}", first.place);
            problems.push(origin.error(field, problem));
        } else {
            seen.insert(name, origin);
        }
    }
}

fn address(listener: &Listener) -> String {
    match &listener.address {
        ListenAddress::Tcp(address) => address.clone(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn tls_files(listener: &Listener, problems: &Problems) {
    let Some(tls) = &listener.tls else { return };
    let readable = |field: &str, path: &Path| {
        if let Err(error) = File::open(path) {
            let problem = format!("{} cannot be read: {error}", path.display());
            problems.push(listener.origin.error(field, problem));
        }
    };
    readable("tls.cert_file", &tls.cert_file);
    if let Some(path) = &tls.client_ca_file {
        readable("tls.client_ca_file", path);
    }
    if let Err(error) = read_private(&tls.key_file) {
        problems.push(listener.origin.error("tls.key_file", error.to_string()));
    }
}

/// Reads every reference once, so that a missing secret shows now and not at its first use.
fn references(origin: &Origin, field: &str, setting: &Setting, problems: &Problems) {
    match setting {
        Setting::Plain(_) => {}
        Setting::Reference(reference) => {
            if let Err(error) = reference.resolve() {
                problems.push(origin.error(field, error.to_string()));
            }
        }
        Setting::List(items) => items
            .iter()
            .for_each(|item| references(origin, field, item, problems)),
        Setting::Table(fields) => fields.iter().for_each(|(name, item)| {
            references(origin, &format!("{field}.{name}"), item, problems);
        }),
    }
}
