//! What a role makes of a request: each part of a certificate, or a refusal that names the field.
//!
//! **Invariant:** what a certificate grants is in the role. A request chooses among what the role allows; it
//! adds restrictions of its own, and removes none.

use std::collections::BTreeMap;
use std::time::Duration;

use daypass_contract::BackendError;
use ssh_key::certificate::CertType;
use ssh_key::public::KeyData;
use ssh_key::{EcdsaCurve, HashAlg};

use crate::internal;
use crate::names::Names;
use crate::role::{DISPLAY_NAME, KEY_HASH, KINDS, ROLE_NAME, Role};

/// The longest text in a certificate, in bytes.
const LONGEST_TEXT: usize = 4096;

/// OpenSSH takes no more.
const MOST_PRINCIPALS: usize = 256;

/// The critical options and extensions of a certificate, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) critical: BTreeMap<String, String>,
    pub(crate) extensions: BTreeMap<String, String>,
}

fn refused<T>(problem: &str) -> Result<T, BackendError> {
    Err(BackendError::InvalidRequest(problem.into()))
}

/// Refuses keys that the role does not allow, and those that are too weak for any.
pub(crate) fn check_key(role: &Role, key: &KeyData) -> Result<(), BackendError> {
    let (names, bits): (&[&str], u32) = match key {
        KeyData::Rsa(key) => (&["rsa", "ssh-rsa"], key.key_size()),
        KeyData::Ecdsa(key) => match key.curve() {
            EcdsaCurve::NistP256 => (&["ec", "ecdsa-sha2-nistp256"], 256),
            EcdsaCurve::NistP384 => (&["ec", "ecdsa-sha2-nistp384"], 384),
            EcdsaCurve::NistP521 => (&["ec", "ecdsa-sha2-nistp521"], 521),
        },
        KeyData::Ed25519(_) => (&["ed25519", "ssh-ed25519"], 0),
        KeyData::SkEcdsaSha2NistP256(_) => (&["ecdsa-sk"], 0),
        KeyData::SkEd25519(_) => (&["ed25519-sk"], 0),
        _ => {
            let problem = "must be a plain Ed25519, ECDSA or RSA key, or one of a security key";
            return Err(BackendError::field("public_key", problem));
        }
    };
    if matches!(key, KeyData::Rsa(_)) && !(2048..=16_384).contains(&bits) {
        let problem = "must have 2048 to 16384 bits where it is RSA";
        return Err(BackendError::field("public_key", problem));
    }
    let allowed = &role.allowed_user_key_lengths;
    if allowed.is_empty() {
        return Ok(());
    }
    let mut of_kind = allowed
        .iter()
        .filter(|(kind, _)| names.contains(&kind.as_str()))
        .peekable();
    if of_kind.peek().is_none() {
        return refused(
            "public_key failed to meet the key requirements: keys of its type are not allowed",
        );
    }
    let sized = |kind: &str| KINDS.iter().any(|(name, sized)| *name == kind && *sized);
    if of_kind.any(|(kind, sizes)| !sized(kind) || sizes.contains(&bits)) {
        Ok(())
    } else {
        refused("public_key failed to meet the key requirements: it is of an invalid size")
    }
}

pub(crate) fn cert_type(role: &Role, asked: &str) -> Result<CertType, BackendError> {
    match asked {
        "" | "user" if role.allow_user_certificates => Ok(CertType::User),
        "host" if role.allow_host_certificates => Ok(CertType::Host),
        "" | "user" => refused("cert_type 'user' is not allowed by role"),
        "host" => refused("cert_type 'host' is not allowed by role"),
        _ => refused("cert_type must be either 'user' or 'host'"),
    }
}

pub(crate) fn users(role: &Role, asked: Names) -> Result<Vec<String>, BackendError> {
    let asked = if asked.is_empty() {
        role.default_user.clone()
    } else {
        asked
    };
    let allowed = &role.allowed_users;
    principals(role, asked, allowed, |name| allowed.contains(name))
}

pub(crate) fn hosts(role: &Role, asked: Names) -> Result<Vec<String>, BackendError> {
    let allowed = &role.allowed_domains;
    principals(role, asked, allowed, |name| {
        allowed.iter().any(|domain| {
            let bare = role.allow_bare_domains && name == domain;
            bare || role.allow_subdomains && is_below(name, domain)
        })
    })
}

/// The names of a certificate, each of which the role must allow.
fn principals(
    role: &Role,
    asked: Names,
    allowed: &Names,
    is_allowed: impl Fn(&str) -> bool,
) -> Result<Vec<String>, BackendError> {
    let asked = asked.into_vec();
    if asked.is_empty() {
        if role.allow_empty_principals {
            return Ok(asked);
        }
        return refused(
            "refusing to issue unsafe, globally-valid certificate with no principals specified; set \
             valid_principals or default_user",
        );
    }
    if allowed.is_empty() {
        return refused("role is not configured to allow any principals");
    }
    if asked.len() > MOST_PRINCIPALS {
        return Err(BackendError::field(
            "valid_principals",
            format!("must be at most {MOST_PRINCIPALS}"),
        ));
    }
    if !(allowed.all() || asked.iter().all(|name| is_allowed(name))) {
        return Err(BackendError::field(
            "valid_principals",
            "names one that the role does not allow",
        ));
    }
    for name in &asked {
        check_text("valid_principals", name)?;
    }
    Ok(asked)
}

/// Whether `name` is a host below `domain`, or `*.` and such a host or the domain, which `ssh` takes for
/// every name that ends so.
fn is_below(name: &str, domain: &str) -> bool {
    let Some(labels) = name
        .strip_suffix(domain)
        .and_then(|rest| rest.strip_suffix('.'))
    else {
        return false;
    };
    let is_label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.bytes().all(allowed)
    };
    labels
        .split('.')
        .enumerate()
        .all(|(at, label)| is_label(label) || (at == 0 && label == "*"))
}

/// The options of a certificate: those asked for, among what the role allows, or its own.
pub(crate) fn options(
    role: &Role,
    kind: CertType,
    asked: Options,
) -> Result<Options, BackendError> {
    let Options {
        critical,
        extensions,
    } = asked;
    if kind == CertType::Host {
        // None is defined for hosts, and `ssh` refuses a host whose certificate has one that is critical.
        if !critical.is_empty() || !extensions.is_empty() {
            return refused("critical_options and extensions are for certificates of users");
        }
        return Ok(Options::default());
    }
    for (name, value) in critical.iter().chain(&extensions) {
        check_text("critical_options and extensions", name)?;
        check_text("critical_options and extensions", value)?;
    }
    let allowed = &role.allowed_critical_options;
    let mut all = role.default_critical_options.clone();
    for (name, value) in critical {
        let named = allowed.contains(&name);
        if !(named || allowed.is_empty() || allowed.all()) {
            return Err(BackendError::field(
                "critical_options",
                "names one that is not on the role's list of allowed ones",
            ));
        }
        if !named && all.get(&name).is_some_and(|default| *default != value) {
            return Err(BackendError::field(
                "critical_options",
                "changes one of the role's own, which only a role that names it in allowed_critical_options \
                 permits",
            ));
        }
        all.insert(name, value);
    }
    let allowed = &role.allowed_extensions;
    if !(allowed.all() || extensions.keys().all(|name| allowed.contains(name))) {
        return Err(BackendError::field(
            "extensions",
            "names one that is not on the role's list of allowed ones",
        ));
    }
    let extensions = if extensions.is_empty() {
        role.default_extensions.clone()
    } else {
        extensions
    };
    Ok(Options {
        critical: all,
        extensions,
    })
}

pub(crate) fn key_id(
    role: &Role,
    role_name: &str,
    display_name: &str,
    key: &KeyData,
    asked: Option<String>,
) -> Result<String, BackendError> {
    if let Some(asked) = asked.filter(|asked| !asked.is_empty()) {
        if !role.allow_user_key_ids {
            return refused("setting key_id is not allowed by role");
        }
        check_text("key_id", &asked)?;
        return Ok(asked);
    }
    let hash = key.fingerprint(HashAlg::Sha256);
    let hash = hex::encode(hash.as_bytes());
    if role.key_id_format.is_empty() {
        return Ok(format!("vault-{display_name}-{hash}"));
    }
    // One pass, so that a name that looks like a placeholder stays what it is.
    let mut text = String::new();
    let mut rest = role.key_id_format.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let (name, after) = after
            .split_once("}}")
            .ok_or_else(|| internal(std::fmt::Error))?;
        text.push_str(match format!("{{{{{name}}}}}").as_str() {
            DISPLAY_NAME => display_name,
            ROLE_NAME => role_name,
            KEY_HASH => &hash,
            _ => return Err(internal(std::fmt::Error)),
        });
        rest = after;
    }
    text.push_str(rest);
    check_text("key_id_format", &text)?;
    Ok(text)
}

/// Refuses texts that logs and files of names would show as something else.
fn check_text(field: &str, text: &str) -> Result<(), BackendError> {
    if text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
        return Err(BackendError::field(
            field,
            format!("must have at most {LONGEST_TEXT} bytes and no control characters"),
        ));
    }
    Ok(())
}

/// How long a certificate lasts.
pub(crate) fn lifetime(
    role: &Role,
    asked: Option<Duration>,
    default: Duration,
    max: Duration,
) -> Result<Duration, BackendError> {
    let max = role.max_ttl.unwrap_or(max).min(max);
    let Some(asked) = asked.filter(|ttl| !ttl.is_zero()) else {
        return Ok(role.ttl.unwrap_or(default).min(max));
    };
    if asked > max {
        let problem = format!("ttl is larger than maximum allowed {}", max.as_secs());
        return Err(BackendError::InvalidRequest(problem));
    }
    if asked.as_secs() == 0 {
        return Err(BackendError::field("ttl", "must be at least a second"));
    }
    Ok(asked)
}

#[cfg(test)]
mod tests;
