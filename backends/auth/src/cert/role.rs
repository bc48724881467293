//! Roles: which certificates are trusted, what they must say, and what the tokens that they get are like.

use daypass_certs::{Certificate, San, certificates_of};
use daypass_contract::{BackendError, Body, TokenParameters};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::refusal::Refusal;
use super::shown::{Shown, is_spiffe};
use super::uri::UriPattern;
use crate::federated::is_open;
use crate::name;
use daypass_certs::glob;

/// Certificates in one role.
const MOST_CERTIFICATES: usize = 32;
/// The longest name that an entity is known by, in bytes. (SPIFFE IDs have a limit of their own.)
const LONGEST_NAME: usize = 512;

/// Fields of Vault's and OpenBao's for what is not here. Clients that send all fields send them empty.
pub(super) const NOT_HERE: &[&str] = &[
    "ocsp_ca_certificates",
    "ocsp_cache_size",
    "ocsp_enabled",
    "ocsp_fail_open",
    "ocsp_max_retries",
    "ocsp_query_all_servers",
    "ocsp_servers_override",
    "ocsp_this_update_max_age",
    "token_strictly_bind_ip",
];

/// Refuses to turn on what is not here.
///
/// # Errors
/// [`BackendError::Unsupported`] with what to use instead.
pub(super) fn refuse_what_is_not_here(body: &Body) -> Result<(), BackendError> {
    let is_off = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s" | "false"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    let mut fields = body.fields().iter();
    let on = fields.find(|(name, value)| NOT_HERE.contains(&name.as_str()) && !is_off(value));
    let Some((name, _)) = on else { return Ok(()) };
    let reason = if name.starts_with("ocsp") {
        "logins do not ask OCSP responders, because a login would then depend on who is on the way \
         to them: upload revocation lists to crls/, and give certificates a short life"
    } else {
        "tokens are bound to networks by token_bound_cidrs"
    };
    Err(BackendError::Unsupported(format!("{name}: {reason}")))
}

/// A role as it is stored and shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(super) struct Role {
    /// The CAs whose certificates are let in, or the certificates themselves, in PEM.
    pub(super) certificate: String,
    /// What the common name may be.
    pub(super) allowed_common_names: Vec<String>,
    /// One of the DNS names must be one of these.
    pub(super) allowed_dns_sans: Vec<String>,
    /// One of the mail addresses must be one of these.
    pub(super) allowed_email_sans: Vec<String>,
    /// Extensions that become metadata, by OID.
    pub(super) allowed_metadata_extensions: Vec<String>,
    /// The common name or one of the other names must be one of these. Deprecated.
    pub(super) allowed_names: Vec<String>,
    /// One of the organizational units must be one of these.
    pub(super) allowed_organizational_units: Vec<String>,
    /// One of the URIs must be one of these.
    pub(super) allowed_uri_sans: Vec<String>,
    /// For people and logs.
    pub(super) display_name: String,
    /// Extensions that must be there, each as `oid:value`.
    pub(super) required_extensions: Vec<String>,
    /// What the token is like.
    #[serde(flatten)]
    pub(super) token: TokenParameters,
}

/// A request to set some of it.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RoleFields {
    /// The role.
    #[serde(deserialize_with = "name::lower")]
    pub(super) name: String,
    /// The CAs whose certificates are let in, or the certificates themselves, in PEM.
    certificate: Option<String>,
    /// What the common name may be; `*` stands for anything.
    allowed_common_names: Option<Vec<String>>,
    /// One of the DNS names must be one of these; `*` stands for anything.
    allowed_dns_sans: Option<Vec<String>>,
    /// One of the mail addresses must be one of these; `*` stands for anything.
    allowed_email_sans: Option<Vec<String>>,
    /// Extensions (OIDs) that become metadata.
    allowed_metadata_extensions: Option<Vec<String>>,
    /// The common name or one of the other names must be one of these. Deprecated.
    allowed_names: Option<Vec<String>>,
    /// One of the organizational units must be one of these; `*` stands for anything.
    allowed_organizational_units: Option<Vec<String>>,
    /// One of the URIs must be one of these; `*` stands for part of a segment, and at the end of a SPIFFE ID
    /// `**` for all the rest.
    allowed_uri_sans: Option<Vec<String>>,
    /// For people and logs; the role's name where it is left out.
    display_name: Option<String>,
    /// Extensions that must be there, each as `oid:value`; `*` in a value stands for anything.
    required_extensions: Option<Vec<String>>,
}

impl Role {
    /// Takes over what a request gives.
    pub(super) fn update(&mut self, fields: RoleFields) {
        let RoleFields {
            name,
            certificate,
            allowed_common_names,
            allowed_dns_sans,
            allowed_email_sans,
            allowed_metadata_extensions,
            allowed_names,
            allowed_organizational_units,
            allowed_uri_sans,
            display_name,
            required_extensions,
        } = fields;
        set(&mut self.certificate, certificate);
        set(&mut self.allowed_common_names, allowed_common_names);
        set(&mut self.allowed_dns_sans, allowed_dns_sans);
        set(&mut self.allowed_email_sans, allowed_email_sans);
        set(
            &mut self.allowed_metadata_extensions,
            allowed_metadata_extensions,
        );
        set(&mut self.allowed_names, allowed_names);
        set(
            &mut self.allowed_organizational_units,
            allowed_organizational_units,
        );
        set(&mut self.allowed_uri_sans, allowed_uri_sans);
        set(&mut self.display_name, display_name);
        set(&mut self.required_extensions, required_extensions);
        if self.display_name.is_empty() {
            self.display_name = name;
        }
    }
}

fn set<T>(target: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *target = given;
    }
}

/// A role, and what follows from it.
pub(super) struct Trusting {
    pub(super) role: Role,
    /// CAs, or certificates that are let in themselves; never both.
    pub(super) certificates: Vec<Certificate>,
    uris: Vec<UriPattern>,
    /// OIDs, each with a pattern of its value.
    extensions: Vec<(String, String)>,
}

impl Trusting {
    /// Reads what a role says.
    ///
    /// # Errors
    /// What does not fit, naming the field.
    pub(super) fn read(role: Role) -> Result<Self, BackendError> {
        let certificates = certificates(&role.certificate)?;
        let uris = role.allowed_uri_sans.iter();
        let uris = uris
            .map(|pattern| UriPattern::parse(pattern))
            .collect::<Result<_, _>>()
            .map_err(|problem| BackendError::field("allowed_uri_sans", problem))?;
        let extensions = role.required_extensions.iter();
        let extensions = extensions
            .map(|text| text.split_once(':').filter(|(oid, _)| is_oid(oid)))
            .map(|both| both.map(|(oid, value)| (oid.to_owned(), value.to_owned())))
            .collect::<Option<_>>()
            .ok_or_else(|| {
                BackendError::field(
                    "required_extensions",
                    "each is oid:value, such as 1.2.3:web",
                )
            })?;
        if !role
            .allowed_metadata_extensions
            .iter()
            .all(|oid| is_oid(oid))
        {
            let problem = "each is an OID, such as 1.3.6.1.4.1.57264.1.1";
            return Err(BackendError::field("allowed_metadata_extensions", problem));
        }
        Ok(Self {
            role,
            certificates,
            uris,
            extensions,
        })
    }

    /// Whether everybody is let in whom a CA knows.
    pub(super) fn is_open(&self) -> bool {
        let role = &self.role;
        let lists = [
            &role.allowed_common_names,
            &role.allowed_dns_sans,
            &role.allowed_email_sans,
            &role.allowed_names,
            &role.allowed_organizational_units,
            &role.allowed_uri_sans,
        ];
        let binds = |list: &Vec<String>| !list.is_empty() && !list.iter().any(|p| is_open(p));
        self.certificates.iter().any(Certificate::is_ca)
            && !lists.into_iter().any(binds)
            && !self.extensions.iter().any(|(_, value)| !is_open(value))
    }

    /// Whether the certificate says what the role wants.
    ///
    /// # Errors
    /// [`Refusal::Constraints`].
    pub(super) fn check(&self, shown: &Shown) -> Result<(), Refusal> {
        let Role {
            allowed_common_names,
            allowed_dns_sans,
            allowed_email_sans,
            allowed_names,
            allowed_organizational_units,
            ..
        } = &self.role;
        let (mut hosts, mut mails) = (Vec::new(), Vec::new());
        for san in shown.leaf.sans() {
            match san {
                San::Dns(name) => hosts.push(name.as_str()),
                San::Email(address) => mails.push(address.as_str()),
                San::Uri(_) | San::Ip(_) => {}
            }
        }
        let common_name: Vec<&str> = [shown.common_name.as_str()]
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect();
        let units: Vec<&str> = shown.units.iter().map(String::as_str).collect();
        let names = [common_name.as_slice(), &hosts, &mails].concat();
        let fits = admit(allowed_common_names, &common_name)
            && admit(allowed_dns_sans, &hosts)
            && admit(allowed_email_sans, &mails)
            && admit(allowed_names, &names)
            && admit(allowed_organizational_units, &units)
            && self.admits_uris(shown)
            && self.extensions.iter().all(|(oid, pattern)| {
                let value = shown.extensions.get(oid);
                value.is_some_and(|value| glob(pattern, value))
            });
        if fits {
            Ok(())
        } else {
            Err(Refusal::Constraints)
        }
    }

    fn admits_uris(&self, shown: &Shown) -> bool {
        let id = shown.id.as_ref();
        self.uris.is_empty()
            || shown
                .uris()
                .any(|uri| self.uris.iter().any(|pattern| pattern.admits(uri, id)))
    }

    /// What the caller's entity is known by: the SPIFFE ID where the role says which it admits, and otherwise
    /// the common name. A CA that is trusted for common names alone cannot speak for a trust domain.
    ///
    /// # Errors
    /// [`Refusal::Nameless`].
    pub(super) fn alias(&self, shown: &Shown) -> Result<String, Refusal> {
        match &shown.id {
            Some(id) if !self.uris.is_empty() => Ok(id.to_string()),
            _ => {
                let name = &shown.common_name;
                let usable = !name.trim().is_empty()
                    && name.len() <= LONGEST_NAME
                    && !name.chars().any(char::is_control)
                    && !is_spiffe(name);
                usable.then(|| name.clone()).ok_or(Refusal::Nameless)
            }
        }
    }
}

/// Whether one of `names` is what one of `patterns` describes; without patterns, anything is.
fn admit(patterns: &[String], names: &[&str]) -> bool {
    patterns.is_empty()
        || names
            .iter()
            .any(|name| patterns.iter().any(|pattern| glob(pattern, name)))
}

fn is_oid(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.contains('.') && text.split('.').all(digits)
}

fn certificates(pem: &str) -> Result<Vec<Certificate>, BackendError> {
    let fault = |problem: &str| BackendError::field("certificate", problem);
    let read = certificates_of(pem.as_bytes());
    let read = read.map_err(|error| fault(&format!("failed to parse certificate: {error}")))?;
    if read.is_empty() {
        return Err(fault(
            "failed to parse certificate: give a CA, or the certificate itself, in PEM",
        ));
    }
    if read.len() > MOST_CERTIFICATES {
        return Err(fault("holds more than 32 certificates: make several roles"));
    }
    let authorities = read.iter().filter(|one| one.is_ca()).count();
    // What was meant as the chain of one certificate would let in everyone below it.
    if authorities != 0 && authorities != read.len() {
        return Err(fault(
            "holds CAs and other certificates: give either the CAs, or certificates that are let in \
             themselves",
        ));
    }
    Ok(read)
}
