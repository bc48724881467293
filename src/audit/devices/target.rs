//! Where a device writes to: its type and options, understood, and what the API may ask for.
//!
//! **Invariants:** an option that is not understood is refused. What the API asks for writes only below the
//! folders, and connects only to the addresses, that the configuration allows: whoever may enable a device
//! must not become able to write files of the server's user, or to talk to other servers in its name.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use daypass_contract::body::nearest;
use daypass_contract::parse_duration;

/// A prefix longer than this, in bytes, is refused.
const MAX_PREFIX: usize = 256;
/// The least and the most that a write may take.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);

/// Syslog facilities by their number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "security", "console", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

/// What the API may ask for.
#[derive(Clone, Debug, Default)]
pub struct DeviceRules {
    /// The folders below which a device may have its file. A relative path is meant from the first.
    pub dirs: Vec<PathBuf>,
    /// Addresses a device may send to: `host:port`, `unix:/path`.
    pub addresses: Vec<String>,
    /// The server's own folders: only a folder of `dirs` that lies in one of them may be written to.
    pub private: Vec<PathBuf>,
}

/// Where a device writes to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Stands before each record.
    pub(super) prefix: String,
    pub(super) place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File(FilePlace),
    Stdout,
    Stderr,
    /// The syslog of this machine.
    Syslog {
        facility: u8,
        tag: String,
    },
    Tcp {
        address: String,
        timeout: Duration,
    },
    Udp {
        address: String,
        timeout: Duration,
    },
    Unix {
        path: PathBuf,
        timeout: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePlace {
    pub(super) path: PathBuf,
    /// The file's permissions; `None` leaves them as they are.
    pub(super) mode: Option<u32>,
    /// The folder that it must not leave; `None` where the configuration declares it.
    pub(super) below: Option<PathBuf>,
}

/// The options of a device, each taken once.
struct Options<'a> {
    kind: &'a str,
    given: &'a BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    fn take(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        self.given
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// An option of which only one value can be honoured.
    fn only(&mut self, name: &'static str, value: &str, why: &str) -> Result<(), String> {
        match self.take(name) {
            Some(given) if !given.eq_ignore_ascii_case(value) => {
                Err(format!("option \"{name}\" can only be \"{value}\": {why}"))
            }
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<(), String> {
        let unknown = self
            .given
            .keys()
            .find(|name| !self.known.contains(&name.as_str()));
        let Some(name) = unknown else { return Ok(()) };
        Err(match nearest(name, self.known.iter().copied()) {
            Some(near) => format!("option \"{name}\" is not known; did you mean \"{near}\"?"),
            None => format!(
                "option \"{name}\" is not known to type \"{}\"; known are {}",
                self.kind,
                self.known.join(", ")
            ),
        })
    }
}

impl Target {
    /// Understands a device's type and options, as the configuration declares them. A relative path is
    /// meant from `base`.
    pub(super) fn declared(
        kind: &str,
        options: &BTreeMap<String, String>,
        base: &Path,
    ) -> Result<Self, String> {
        let mut target = Self::parse(kind, options)?;
        if let Place::File(file) = &mut target.place {
            file.path = base.join(&file.path);
        }
        Ok(target)
    }

    /// Understands what the API asks for, and refuses what it may not.
    pub(super) fn asked(
        kind: &str,
        options: &BTreeMap<String, String>,
        rules: &DeviceRules,
    ) -> Result<Self, String> {
        let mut target = Self::parse(kind, options)?;
        match &mut target.place {
            Place::File(file) => confine(file, rules)?,
            Place::Tcp { address, .. } | Place::Udp { address, .. } => allow(address, rules)?,
            Place::Unix { path, .. } => allow(&format!("unix:{}", path.display()), rules)?,
            Place::Stdout | Place::Stderr | Place::Syslog { .. } => {}
        }
        Ok(target)
    }

    fn parse(kind: &str, given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut options = Options {
            kind,
            given,
            known: Vec::new(),
        };
        let place = match kind {
            "file" => file(&mut options)?,
            "syslog" => syslog(&mut options)?,
            "socket" => socket(&mut options)?,
            "" => return Err("field \"type\" is required: file, syslog or socket".into()),
            _ => {
                return Err(
                    "field \"type\": no such audit device type; there are file, syslog and socket"
                        .into(),
                );
            }
        };
        options.only(
            "log_raw",
            "false",
            "secrets are in no record in clear, so none can be written; sys/audit-hash finds where a known \
             value occurs",
        )?;
        options.only(
            "hmac_accessor",
            "true",
            "records hold accessors as hashes; sys/audit-hash finds where a known one occurs",
        )?;
        options.only(
            "elide_list_responses",
            "false",
            "records are handed on as they are",
        )?;
        options.only("format", "json", "records are JSON")?;
        let prefix = options.take("prefix").unwrap_or_default().to_owned();
        if prefix.len() > MAX_PREFIX || prefix.chars().any(char::is_control) {
            return Err(format!(
                "option \"prefix\": expected at most {MAX_PREFIX} bytes without control characters"
            ));
        }
        options.finish()?;
        Ok(Self { prefix, place })
    }

    /// Whether both write to the same file, whose lines would be mixed.
    pub(super) fn clashes(&self, other: &Self) -> bool {
        matches!((&self.place, &other.place),
            (Place::File(one), Place::File(other)) if one.path == other.path)
    }

    /// Whether it writes a file in this folder.
    pub(super) fn writes_below(&self, folder: &Path) -> bool {
        matches!(&self.place, Place::File(file) if file.path.starts_with(folder))
    }

    /// What it writes to, for people.
    pub(super) fn describe(&self) -> String {
        match &self.place {
            Place::File(file) => file.path.display().to_string(),
            Place::Stdout => "standard output".into(),
            Place::Stderr => "standard error".into(),
            Place::Syslog { .. } => "syslog".into(),
            Place::Tcp { address, .. } => format!("tcp {address}"),
            Place::Udp { address, .. } => format!("udp {address}"),
            Place::Unix { path, .. } => format!("unix {}", path.display()),
        }
    }
}

fn file(options: &mut Options<'_>) -> Result<Place, String> {
    let (long, short) = (options.take("file_path"), options.take("path"));
    let mode = options.take("mode");
    let path = match (long, short) {
        (Some(_), Some(_)) => {
            return Err("options \"file_path\" and \"path\" mean the same: keep one".into());
        }
        (Some(path), None) | (None, Some(path)) => path,
        (None, None) => return Err("option \"file_path\" is required".into()),
    };
    let mode = match mode.map(|text| (text, u32::from_str_radix(text, 8))) {
        None => Some(0o600),
        Some((_, Ok(0))) => None,
        // No log needs to be executed.
        Some((text, Ok(mode))) if text.len() <= 5 && mode & !0o666 == 0 => Some(mode),
        Some(_) => {
            return Err(
                "option \"mode\": expected permissions to read and write in octal, such as 0600; 0000 \
                 leaves them as they are"
                    .into(),
            );
        }
    };
    match path {
        "stdout" => return Ok(Place::Stdout),
        "stderr" => return Ok(Place::Stderr),
        "discard" => return Err("option \"file_path\": a log that is discarded is none".into()),
        _ => {}
    }
    let path = PathBuf::from(path);
    if path.file_name().is_none() || path.components().any(|part| part == Component::ParentDir) {
        return Err("option \"file_path\": expected the path of a file, without \"..\"".into());
    }
    Ok(Place::File(FilePlace {
        path,
        mode,
        below: None,
    }))
}

fn syslog(options: &mut Options<'_>) -> Result<Place, String> {
    let facility = options.take("facility").unwrap_or("auth").to_lowercase();
    let facility = FACILITIES
        .iter()
        .position(|name| *name == facility)
        .and_then(|number| u8::try_from(number).ok())
        .ok_or_else(|| {
            format!(
                "option \"facility\": expected one of {}",
                FACILITIES.join(", ")
            )
        })?;
    let tag = options.take("tag").unwrap_or("daypass");
    // What ends a tag (RFC 3164, section 4.1.3) would make the record another's.
    if tag.len() > 32
        || !tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(
            "option \"tag\": expected at most 32 letters, digits, \"-\", \"_\", \".\"".into(),
        );
    }
    Ok(Place::Syslog {
        facility,
        tag: tag.into(),
    })
}

fn socket(options: &mut Options<'_>) -> Result<Place, String> {
    let address = options.take("address");
    let kind = options.take("socket_type").unwrap_or("tcp");
    let timeout = options.take("write_timeout");
    let address = address.ok_or("option \"address\" is required")?;
    let timeout = match timeout {
        None => Duration::from_secs(2),
        Some(text) => parse_duration(text)
            .filter(|timeout| TIMEOUTS.contains(timeout))
            .ok_or("option \"write_timeout\": expected a duration from 100ms to 1m")?,
    };
    if kind == "unix" {
        let path = PathBuf::from(address.strip_prefix("unix:").unwrap_or(address));
        if !path.is_absolute() {
            return Err("option \"address\": expected an absolute path".into());
        }
        return Ok(Place::Unix { path, timeout });
    }
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !valid {
        return Err("option \"address\": expected \"host:port\"".into());
    }
    let address = address.to_owned();
    match kind {
        "tcp" => Ok(Place::Tcp { address, timeout }),
        "udp" => Ok(Place::Udp { address, timeout }),
        _ => Err("option \"socket_type\": expected tcp, udp or unix".into()),
    }
}

/// Sees to it that the file lies below one of `dirs`, and notes below which.
fn confine(file: &mut FilePlace, rules: &DeviceRules) -> Result<(), String> {
    let dirs = &rules.dirs;
    let Some(first) = dirs.first() else {
        return Err(
            "option \"file_path\": the configuration lets the API write no files (audit.device_dirs is empty); \
             declare the device there"
                .into(),
        );
    };
    file.path = first.join(&file.path);
    let Some(below) = dirs.iter().find(|dir| file.path.starts_with(dir)) else {
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        return Err(format!(
            "option \"file_path\": the API may only write below {} (audit.device_dirs in the configuration)",
            names.join(", ")
        ));
    };
    let inside =
        |own: &&PathBuf| file.path.starts_with(own) && (below == *own || !below.starts_with(own));
    if let Some(own) = rules.private.iter().find(inside) {
        return Err(format!(
            "option \"file_path\": {} is the server's own",
            own.display()
        ));
    }
    file.below = Some(below.clone());
    Ok(())
}

fn allow(address: &str, rules: &DeviceRules) -> Result<(), String> {
    if rules.addresses.iter().any(|allowed| allowed == address) {
        return Ok(());
    }
    Err(
        "option \"address\": the API may only send to addresses that the configuration lists \
         (audit.device_addresses)"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(pair).collect()
    }

    fn rules() -> DeviceRules {
        DeviceRules {
            dirs: vec!["/data/audit-devices".into(), "/var/log/siem".into()],
            addresses: vec!["siem.example.org:514".into(), "unix:/run/siem".into()],
            private: vec!["/data".into(), "/var/log/siem/audit".into()],
        }
    }

    fn asked(kind: &str, pairs: &[(&str, &str)]) -> Result<String, String> {
        Target::asked(kind, &options(pairs), &rules()).map(|target| target.describe())
    }

    #[test]
    fn what_is_understood_and_allowed_has_a_place() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
        );
        let cases: [Case; 9] = [
            (
                "file",
                &[("file_path", "/var/log/siem/a.log")],
                "/var/log/siem/a.log",
            ),
            (
                "file",
                &[("path", "a.log"), ("mode", "0640")],
                "/data/audit-devices/a.log",
            ),
            (
                "file",
                &[("file_path", "stdout"), ("log_raw", "false")],
                "standard output",
            ),
            (
                "file",
                &[("file_path", "stderr"), ("hmac_accessor", "True")],
                "standard error",
            ),
            (
                "file",
                &[("file_path", "a"), ("format", "json"), ("prefix", "x: ")],
                "/data/audit-devices/a",
            ),
            ("syslog", &[], "syslog"),
            (
                "syslog",
                &[("facility", "AUTHPRIV"), ("tag", "vault")],
                "syslog",
            ),
            (
                "socket",
                &[("address", "siem.example.org:514"), ("socket_type", "udp")],
                "udp siem.example.org:514",
            ),
            (
                "socket",
                &[
                    ("address", "/run/siem"),
                    ("socket_type", "unix"),
                    ("write_timeout", "5s"),
                ],
                "unix /run/siem",
            ),
        ];
        for (kind, pairs, want) in cases {
            assert_eq!(asked(kind, pairs).as_deref(), Ok(want), "{kind} {pairs:?}");
        }
    }

    #[test]
    fn what_is_not_is_refused_with_the_reason() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
        );
        let cases: [Case; 27] = [
            ("", &[], "\"type\" is required"),
            ("kafka", &[], "no such audit device type"),
            ("file", &[], "\"file_path\" is required"),
            ("file", &[("file_path", "a"), ("path", "b")], "keep one"),
            (
                "file",
                &[("file_path", "/etc/cron.d/x")],
                "may only write below /data/audit-devices",
            ),
            (
                "file",
                &[("file_path", "/data/audit-devices/../x")],
                "without \"..\"",
            ),
            ("file", &[("file_path", "../x")], "without \"..\""),
            (
                "file",
                &[("file_path", "/data/audit-devices-not")],
                "may only write below",
            ),
            ("file", &[("file_path", "/")], "the path of a file"),
            (
                "file",
                &[("file_path", "/var/log/siem/audit/audit-1.jsonl")],
                "the server's own",
            ),
            ("file", &[("file_path", "discard")], "discarded"),
            ("file", &[("file_path", "a"), ("mode", "0700")], "\"mode\""),
            ("file", &[("file_path", "a"), ("mode", "4600")], "\"mode\""),
            ("file", &[("file_path", "a"), ("mode", "rw")], "\"mode\""),
            (
                "file",
                &[("file_path", "a"), ("log_raw", "true")],
                "in clear",
            ),
            (
                "file",
                &[("file_path", "a"), ("hmac_accessor", "false")],
                "as hashes",
            ),
            (
                "file",
                &[("file_path", "a"), ("format", "jsonx")],
                "records are JSON",
            ),
            (
                "file",
                &[("file_path", "a"), ("prefix", "a\nb")],
                "control characters",
            ),
            ("file", &[("file_pth", "a")], "is required"),
            (
                "file",
                &[("file_path", "a"), ("file_pat", "a")],
                "did you mean \"file_path\"",
            ),
            ("syslog", &[("facility", "mine")], "\"facility\""),
            ("syslog", &[("tag", "a b")], "\"tag\""),
            ("syslog", &[("address", "x")], "not known"),
            ("socket", &[], "\"address\" is required"),
            (
                "socket",
                &[("address", "169.254.169.254:80")],
                "audit.device_addresses",
            ),
            (
                "socket",
                &[("address", "/run/docker.sock"), ("socket_type", "unix")],
                "audit.device_addresses",
            ),
            (
                "socket",
                &[("address", "siem.example.org:514"), ("write_timeout", "0")],
                "\"write_timeout\"",
            ),
        ];
        for (kind, pairs, want) in cases {
            let got = asked(kind, pairs).unwrap_err();
            assert!(got.contains(want), "{kind} {pairs:?}: {got}");
        }
        let none = DeviceRules::default();
        let refused = Target::asked("file", &options(&[("file_path", "a")]), &none).unwrap_err();
        assert!(refused.contains("no files"), "{refused}");
    }

    #[test]
    fn the_configuration_may_name_any_place() {
        let base = Path::new("/etc/daypass");
        let declared = |kind, pairs: &[_]| {
            Target::declared(kind, &options(pairs), base).map(|target| target.describe())
        };
        assert_eq!(
            declared("file", &[("file_path", "/var/log/x")]).as_deref(),
            Ok("/var/log/x")
        );
        assert_eq!(
            declared("file", &[("path", "x.log")]).as_deref(),
            Ok("/etc/daypass/x.log")
        );
        assert_eq!(
            declared("socket", &[("address", "[::1]:514")]).as_deref(),
            Ok("tcp [::1]:514")
        );
        assert!(declared("file", &[("file_path", "x"), ("log_raw", "true")]).is_err());
    }
}
