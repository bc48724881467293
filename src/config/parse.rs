//! Makes a [`Config`] of parsed files: every key that exists is named here, once.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use toml::de::DeValue;

use super::Kinds;
use super::check;
use super::model::{
    AuditDevice, AuditSettings, ClientAuth, Config, LeaseSettings, Limits, ListenAddress, Listener,
    LogFormat, LogLevel, LogSettings, Mount, Policy, Quota, Resource, SealSettings, Setting,
    StorageSettings, Tls,
};
use super::read::{Node, Problems, Read, Source, Table, kind, parse};
use super::secret::{SecretRef, holds_a_password, names_a_secret};

/// Reads all files as one configuration. Answers a value whenever it can, even after problems.
pub(super) fn config(
    sources: &[Source],
    main: &Path,
    kinds: &Kinds,
    problems: &Problems,
) -> Option<Config> {
    let parsed: Vec<_> = sources
        .iter()
        .filter_map(|source| Some((source, parse(source, problems)?)))
        .collect();
    // What a file that could not be read would have said is not worth guessing about.
    if !problems.is_empty() {
        return None;
    }
    let files = Files {
        main,
        problems,
        tops: parsed
            .iter()
            .map(|(source, entries)| Table::top(source, problems, entries))
            .collect(),
    };
    let config = read(&files, kinds);
    for top in &files.tops {
        top.report_unknown();
    }
    if let Some(config) = &config {
        check::config(config, problems);
    }
    config
}

/// All files together.
struct Files<'a> {
    main: &'a Path,
    problems: &'a Problems,
    tops: Vec<Table<'a>>,
}

impl<'a> Files<'a> {
    /// A section or value that may stand in one file only.
    fn one(&self, name: &'static str) -> Option<Node<'a>> {
        let mut found: Option<Node<'a>> = None;
        for node in self.tops.iter().filter_map(|top| top.node(name)) {
            match &found {
                Some(first) => node.problem(format!("is already given at {}", first.place())),
                None => found = Some(node),
            }
        }
        found
    }

    fn section<R>(&self, name: &'static str, read: impl FnOnce(&Table<'a>) -> R) -> Option<R> {
        self.one(name)?.table(read)
    }

    fn required<R>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Table<'a>) -> Option<R>,
    ) -> Option<R> {
        let Some(node) = self.one(name) else {
            self.problems
                .file(self.main, format!("[{name}] is required"));
            return None;
        };
        node.table(read).flatten()
    }

    /// The elements of a list of tables, over all files.
    fn every<R>(&self, name: &'static str, read: impl Fn(&Table<'a>) -> Option<R>) -> Vec<R> {
        self.tops
            .iter()
            .filter_map(|top| top.node(name))
            .flat_map(|list| list.elements())
            .filter_map(|element| element.table(&read).flatten())
            .collect()
    }
}

fn read(files: &Files<'_>, kinds: &Kinds) -> Option<Config> {
    let trust_domain = files
        .one("trust_domain")
        .and_then(|node| trust_domain(&node));
    let listeners = files.every("listeners", listener);
    let storage = files.required("storage", |table| {
        Some(StorageSettings {
            path: table.required("path")?,
        })
    });
    let seal = files.required("seal", seal);
    let audit = files.required("audit", |table| {
        let rotate_bytes = table.or("rotate_bytes", 256 << 20);
        let device_dirs = match (table.node("device_dirs"), &storage) {
            (Some(node), _) => each(&node),
            (None, Some(storage)) => vec![storage.path.join("audit-devices")],
            (None, None) => Vec::new(),
        };
        let device_addresses = table
            .node("device_addresses")
            .map_or_else(Vec::new, |node| each(&node));
        Some(AuditSettings {
            path: table.required("path")?,
            rotate_bytes,
            device_dirs,
            device_addresses,
        })
    });
    let log = files.section("log", log).unwrap_or(LogSettings {
        format: LogFormat::Json,
        level: LogLevel::Info,
    });
    let limits = files.section("limits", limits).unwrap_or_default();
    let leases = files.section("leases", leases).unwrap_or_default();
    let audit_devices = files.every("audit_devices", audit_device);
    let mut mounts = files.every("mounts", |table| mount(table, "", &kinds.secrets));
    mounts.extend(files.every("auth", |table| mount(table, AUTH, &kinds.auth)));
    let policies = files.every("policies", policy);
    let quotas = files.every("quotas", quota);
    if !files.tops.iter().any(|top| top.node("listeners").is_some()) {
        files
            .problems
            .file(files.main, "at least one [[listeners]] is required");
    }
    Some(Config {
        trust_domain,
        listeners,
        storage: storage?,
        seal: seal?,
        audit: audit?,
        log,
        limits,
        leases,
        audit_devices,
        mounts,
        policies,
        quotas,
    })
}

/// The elements of a list that are valid; what is wrong with the others is noted.
fn each<T: Read>(list: &Node<'_>) -> Vec<T> {
    list.elements().iter().filter_map(T::read).collect()
}

/// Its type and options are looked at by the module that knows them.
fn audit_device(table: &Table<'_>) -> Option<AuditDevice> {
    let path = table.required::<String>("path");
    let kind = table.required("type");
    Some(AuditDevice {
        path: path?.trim_end_matches('/').to_owned(),
        kind: kind?,
        description: table.or("description", String::new()),
        options: table.or("options", BTreeMap::new()),
        origin: table.origin(),
    })
}

/// A trust domain name (SPIFFE-ID §2.1).
fn trust_domain(node: &Node<'_>) -> Option<String> {
    let name = String::read(node)?;
    let valid = name.len() <= 255
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte)
        });
    if !valid {
        node.problem(
            "expected a name such as \"prod.example.org\": at most 255 of a-z, 0-9, \".\", \"-\", \"_\"",
        );
        return None;
    }
    Some(name)
}

fn listener(table: &Table<'_>) -> Option<Listener> {
    let address = table
        .required_node("address")
        .and_then(|node| address(&node));
    let tls = table.node("tls");
    let origin = table.origin();
    let tls = match tls.as_ref().map(|node| (node, node.value)) {
        None | Some((_, DeValue::Boolean(false))) => None,
        Some((node, DeValue::Table(_))) => Some(node.table(tls_identity).flatten()?),
        Some((node, value)) => {
            node.problem(format!(
                "expected a table with cert_file and key_file, or false; found {}",
                kind(value)
            ));
            return None;
        }
    };
    let address = address?;
    match (&address, &tls) {
        (ListenAddress::Unix(_), Some(_)) => {
            table
                .node("tls")?
                .problem("a Unix socket has no TLS: remove this");
        }
        (ListenAddress::Tcp(_), None) if !address.is_local() => {
            let problem = "is required: without TLS, tokens and secrets cross the network in clear \
                           text; add [listeners.tls] or listen on 127.0.0.1";
            match table.node("tls") {
                Some(node) => node.problem(problem),
                None => table.problem("tls", problem),
            }
        }
        (ListenAddress::Tcp(_), None) if table.node("tls").is_none() => {
            table.problem(
                "tls",
                "is required: add [listeners.tls], or say \"tls = false\" for this loopback address",
            );
        }
        _ => {}
    }
    Some(Listener {
        address,
        tls,
        origin,
    })
}

fn address(node: &Node<'_>) -> Option<ListenAddress> {
    let text = String::read(node)?;
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            node.problem("expected \"unix:/path\"");
            return None;
        }
        return Some(ListenAddress::Unix(node.resolve(path)));
    }
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty()
            && (bracketed || !host.contains(':'))
            && !host.contains('/')
            && port.parse::<u16>().is_ok()
    });
    if !valid {
        node.problem("expected \"host:port\" or \"unix:/path\"");
        return None;
    }
    Some(ListenAddress::Tcp(text))
}

fn tls_identity(table: &Table<'_>) -> Option<Tls> {
    let cert_file = table.required("cert_file");
    let key_file = table.required("key_file");
    let client_ca_file = table.optional("client_ca_file");
    let client_auth = table
        .node("client_auth")
        .and_then(|node| {
            node.one_of(&[
                ("none", ClientAuth::None),
                ("request", ClientAuth::Request),
                ("optional", ClientAuth::Optional),
                ("required", ClientAuth::Required),
            ])
        })
        .unwrap_or(ClientAuth::Request);
    let judges = matches!(client_auth, ClientAuth::Optional | ClientAuth::Required);
    if judges && client_ca_file.is_none() && table.node("client_ca_file").is_none() {
        table.problem(
            "client_ca_file",
            "is required where client_auth is \"optional\" or \"required\"",
        );
    }
    if !judges && let Some(node) = table.node("client_ca_file") {
        node.problem("has no effect: set client_auth to \"optional\" or \"required\"");
    }
    Some(Tls {
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_auth,
    })
}

fn seal(table: &Table<'_>) -> Option<SealSettings> {
    let path = table.node("path");
    let key_file = table
        .required_node("type")?
        .one_of(&[("shamir", false), ("key-file", true)]);
    match (key_file?, path) {
        (true, Some(path)) => Some(SealSettings::KeyFile {
            path: Read::read(&path)?,
        }),
        (true, None) => {
            table.problem("path", "is required for type \"key-file\"");
            None
        }
        (false, Some(path)) => {
            path.problem("belongs to type \"key-file\"; \"shamir\" has none");
            None
        }
        (false, None) => Some(SealSettings::Shamir),
    }
}

fn log(table: &Table<'_>) -> LogSettings {
    let format = table
        .node("format")
        .and_then(|node| node.one_of(&[("json", LogFormat::Json), ("text", LogFormat::Text)]));
    let level = table.node("level").and_then(|node| {
        let levels = [
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Info,
            LogLevel::Debug,
            LogLevel::Trace,
        ];
        node.one_of(&levels.map(|level| (level.as_str(), level)))
    });
    LogSettings {
        format: format.unwrap_or(LogFormat::Json),
        level: level.unwrap_or(LogLevel::Info),
    }
}

fn limits(table: &Table<'_>) -> Limits {
    let usual = Limits::default();
    Limits {
        max_body_bytes: table.or("max_body_bytes", usual.max_body_bytes),
        request_timeout: table.or("request_timeout", usual.request_timeout),
        max_connections: table.or("max_connections", usual.max_connections),
        max_concurrent_requests: table.or("max_concurrent_requests", usual.max_concurrent_requests),
        max_headers: table.or("max_headers", usual.max_headers),
        max_header_bytes: table.or("max_header_bytes", usual.max_header_bytes),
        header_timeout: table.or("header_timeout", usual.header_timeout),
        shutdown_grace: table.or("shutdown_grace", usual.shutdown_grace),
    }
}

fn leases(table: &Table<'_>) -> LeaseSettings {
    let usual = LeaseSettings::default();
    let max_ttl = table.or("max_ttl", usual.max_ttl);
    let default_ttl = table.optional("default_ttl");
    if default_ttl.is_some_and(|default_ttl| default_ttl > max_ttl) {
        table.problem("default_ttl", "is longer than max_ttl allows");
    }
    LeaseSettings {
        default_ttl: default_ttl.unwrap_or(usual.default_ttl.min(max_ttl)),
        max_ttl,
        revoke_concurrency: table.or("revoke_concurrency", usual.revoke_concurrency),
    }
}

/// Where `[[auth]]` is mounted.
pub(super) const AUTH: &str = "auth/";

/// A mount whose path is below `base`.
fn mount(table: &Table<'_>, base: &str, kinds: &[&str]) -> Option<Mount> {
    let path = table.required_node("path").and_then(|node| {
        let path = String::read(&node)?;
        let path = path.trim_end_matches('/');
        if !is_path(path) {
            node.problem("expected a path such as \"team-a/db\", without a slash at the start");
            return None;
        }
        if base.is_empty() && format!("{path}/").starts_with(AUTH) {
            node.problem("auth methods are declared as [[auth]], with a path below auth/");
            return None;
        }
        Some(format!("{base}{path}/"))
    });
    let backend = table
        .required_node("type")
        .and_then(|node| node.known_name("mount type", kinds));
    let description = table.or("description", String::new());
    let options = table.or("options", BTreeMap::new());
    let default_lease_ttl = table.optional("default_lease_ttl");
    let max_lease_ttl = table.optional("max_lease_ttl");
    if let (Some(default), Some(max)) = (default_lease_ttl, max_lease_ttl)
        && default > max
    {
        table.problem("default_lease_ttl", "is longer than max_lease_ttl allows");
    }
    let resources = table
        .node("set")
        .map_or_else(Vec::new, |node| resources(&node));
    Some(Mount {
        path: path?,
        backend: backend?,
        description,
        options,
        default_lease_ttl,
        max_lease_ttl,
        resources,
        origin: table.origin(),
    })
}

fn is_path(path: &str) -> bool {
    path.split('/').all(|segment| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && !segment
                .chars()
                .any(|c| c.is_control() || c == '*' || c == '+')
    })
}

fn resources(set: &Node<'_>) -> Vec<Resource> {
    set.entries()
        .into_iter()
        .filter_map(|(path, node)| {
            if !is_path(&path) {
                node.problem("expected a path below the mount, such as \"roles/readonly\"");
                return None;
            }
            Some(Resource {
                path,
                fields: settings(&node)?,
                origin: node.origin(),
            })
        })
        .collect()
}

fn settings(table: &Node<'_>) -> Option<BTreeMap<String, Setting>> {
    let entries = table.entries();
    let count = entries.len();
    let fields: BTreeMap<String, Setting> = entries
        .into_iter()
        .filter_map(|(name, node)| {
            let setting = setting(&name, &node)?;
            Some((name, setting))
        })
        .collect();
    (fields.len() == count).then_some(fields)
}

/// A value for the field `name`; the elements of a list are values for it as well.
fn setting(name: &str, node: &Node<'_>) -> Option<Setting> {
    Some(match node.value {
        DeValue::String(text) => return text_setting(name, text, node),
        DeValue::Boolean(flag) => Setting::Plain(Value::from(*flag)),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
            if number.is_none() {
                node.problem("does not fit into 64 bits");
            }
            Setting::Plain(Value::from(number?))
        }
        DeValue::Float(number) => {
            let number = number.as_str().replace('_', "").parse::<f64>().ok();
            let number = number.filter(|number| number.is_finite());
            if number.is_none() {
                node.problem("is not a number that JSON can hold");
            }
            Setting::Plain(Value::from(number?))
        }
        DeValue::Datetime(_) => {
            node.problem("the API takes instants as text: put it in quotes");
            return None;
        }
        DeValue::Array(_) => {
            let elements = node.elements();
            let count = elements.len();
            let items: Vec<Setting> = elements
                .iter()
                .filter_map(|element| setting(name, element))
                .collect();
            (items.len() == count).then_some(Setting::List(items))?
        }
        DeValue::Table(_) => Setting::Table(settings(node)?),
    })
}

fn text_setting(name: &str, text: &str, node: &Node<'_>) -> Option<Setting> {
    match SecretRef::parse(text, &node.resolve("")) {
        Some(Ok(reference)) => Some(Setting::Reference(reference)),
        Some(Err(problem)) => {
            node.problem(problem);
            None
        }
        None if !text.is_empty() && (names_a_secret(name) || holds_a_password(text)) => {
            node.problem(
                "a secret must not stand in this file: write \"env:NAME\" or \"file:/path\" instead",
            );
            None
        }
        None => Some(Setting::Plain(Value::from(text))),
    }
}

fn policy(table: &Table<'_>) -> Option<Policy> {
    let name = table.required_node("name").and_then(|node| {
        let name = String::read(&node)?;
        if name == "root" {
            node.problem("\"root\" is built in and cannot be declared");
            return None;
        }
        if name != name.to_lowercase() || !is_path(&name) {
            node.problem("expected a name in lower case");
            return None;
        }
        Some(name)
    });
    let rules = match (table.node("rules"), table.node("file")) {
        (Some(rules), None) => String::read(&rules),
        (None, Some(file)) => {
            let path: std::path::PathBuf = Read::read(&file)?;
            std::fs::read_to_string(&path)
                .map_err(|error| {
                    file.problem(format!("{} cannot be read: {error}", path.display()));
                })
                .ok()
        }
        (Some(rules), Some(_)) => {
            rules.problem("is given together with \"file\": keep one of them");
            None
        }
        (None, None) => {
            table.problem("rules", "is required, or \"file\" in its place");
            None
        }
    };
    Some(Policy {
        name: name?,
        rules: rules?,
        origin: table.origin(),
    })
}

fn quota(table: &Table<'_>) -> Option<Quota> {
    let name = table.required("name");
    let path = table
        .node("path")
        .map_or(Some(String::new()), |node| String::read(&node));
    let rate_per_second = table.required("rate_per_second");
    let burst = table.required("burst");
    Some(Quota {
        name: name?,
        path: path?,
        rate_per_second: rate_per_second?,
        burst: burst?,
        origin: table.origin(),
    })
}
