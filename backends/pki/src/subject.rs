//! Whom a certificate names: the names of a request or a CSR, checked against the role.

use std::net::IpAddr;

use daypass_certs::{Csr, San, SpiffeId, Subject, glob};
use daypass_contract::BackendError;

use crate::names;
use crate::role::{Role, SpiffeRule};

/// The names that a request gives.
pub(crate) struct Asked<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) alt_names: &'a [String],
    pub(crate) ip_sans: &'a [String],
    pub(crate) uri_sans: &'a [String],
    pub(crate) serial_number: &'a str,
    pub(crate) exclude_cn_from_sans: bool,
}

/// The names of a certificate.
pub(crate) struct Names {
    pub(crate) subject: Subject,
    pub(crate) sans: Vec<San>,
}

/// What every certificate of a role says of its subject.
pub(crate) fn of_role(role: &Role) -> Subject {
    Subject {
        countries: role.country.clone(),
        organizations: role.organization.clone(),
        organizational_units: role.ou.clone(),
        localities: role.locality.clone(),
        provinces: role.province.clone(),
        street_addresses: role.street_address.clone(),
        postal_codes: role.postal_code.clone(),
        common_name: None,
        serial_number: None,
    }
}

/// The names that `asked`, or the CSR where the role says so, may have.
pub(crate) fn names(
    role: &Role,
    asked: &Asked<'_>,
    csr: Option<&Csr>,
) -> Result<Names, BackendError> {
    let spiffe = role.spiffe()?;
    if spiffe.is_some() && !asked.common_name.is_empty() {
        let problem = "an X.509-SVID has no name but its SPIFFE ID: leave it out";
        return Err(BackendError::field("common_name", problem));
    }
    let from_csr = csr
        .filter(|_| role.use_csr_common_name && spiffe.is_none())
        .and_then(|csr| csr.subject.common_name());
    let common_name = from_csr
        .or_else(|| Some(asked.common_name.to_owned()))
        .filter(|name| !name.is_empty());
    let mut sans = match csr.filter(|_| role.use_csr_sans) {
        Some(csr) if csr.has_other_sans => {
            let problem =
                "asks for names other than DNS, mail, address and URI, which are not issued";
            return Err(BackendError::field("csr", problem));
        }
        Some(csr) => csr.sans.clone(),
        None => sans(asked.alt_names, asked.ip_sans, asked.uri_sans)?,
    };
    match &common_name {
        Some(name) => {
            if !common_name_allowed(role, name) {
                return Err(not_allowed("common_name", "by its domains and flags"));
            }
            if !asked.exclude_cn_from_sans {
                sans.extend(san_of(name));
            }
        }
        None if role.require_cn && spiffe.is_none() => {
            let problem =
                "is required, here or in the CSR, unless the role sets require_cn to false";
            return Err(BackendError::field("common_name", problem));
        }
        None => {}
    }
    check_sans(role, &sans, spiffe.as_ref())?;
    dedup(&mut sans);

    let serial_number = Some(asked.serial_number.to_owned()).filter(|text| !text.is_empty());
    if let Some(text) = &serial_number
        && !role
            .allowed_serial_numbers
            .iter()
            .any(|pattern| glob(pattern, text))
    {
        return Err(not_allowed("serial_number", "by allowed_serial_numbers"));
    }
    let subject = Subject {
        common_name,
        serial_number,
        ..of_role(role)
    };
    Ok(Names { subject, sans })
}

fn common_name_allowed(role: &Role, name: &str) -> bool {
    if matches!(role.cn_validations.as_slice(), [only] if only == "disabled") {
        return true;
    }
    let kind = if name.contains('@') {
        "email"
    } else {
        "hostname"
    };
    let kind_allowed =
        role.cn_validations.is_empty() || role.cn_validations.iter().any(|known| known == kind);
    kind_allowed && names::allowed(role, name)
}

/// The alternative name that a common name stands for, where it is one.
fn san_of(common_name: &str) -> Option<San> {
    let san = if common_name.contains('@') {
        San::Email(common_name.to_owned())
    } else {
        San::Dns(common_name.to_owned())
    };
    san.check().is_ok().then_some(san)
}

/// The alternative names of a request.
pub(crate) fn sans(
    alt_names: &[String],
    ip_sans: &[String],
    uri_sans: &[String],
) -> Result<Vec<San>, BackendError> {
    let mut sans = Vec::new();
    for name in alt_names {
        sans.push(if name.contains('@') {
            San::Email(name.clone())
        } else {
            San::Dns(name.clone())
        });
    }
    for address in ip_sans {
        let address = address.parse::<IpAddr>();
        let problem = "expected IP addresses, such as 192.0.2.1 or 2001:db8::1";
        sans.push(San::Ip(
            address.map_err(|_| BackendError::field("ip_sans", problem))?,
        ));
    }
    sans.extend(uri_sans.iter().cloned().map(San::Uri));
    for san in &sans {
        let field = match san {
            San::Dns(_) | San::Email(_) => "alt_names",
            San::Ip(_) => "ip_sans",
            San::Uri(_) => "uri_sans",
        };
        san.check().map_err(crate::error::in_field(field))?;
    }
    dedup(&mut sans);
    Ok(sans)
}

fn dedup(sans: &mut Vec<San>) {
    let mut unique: Vec<San> = Vec::with_capacity(sans.len());
    for san in sans.drain(..) {
        if !unique.contains(&san) {
            unique.push(san);
        }
    }
    *sans = unique;
}

fn check_sans(role: &Role, sans: &[San], spiffe: Option<&SpiffeRule>) -> Result<(), BackendError> {
    let networks = role.networks()?;
    for san in sans {
        match san {
            San::Dns(name) | San::Email(name) if !names::allowed(role, name) => {
                return Err(not_allowed("alt_names", "by its domains and flags"));
            }
            San::Ip(_) if !role.allow_ip_sans => {
                return Err(not_allowed("ip_sans", "by allow_ip_sans"));
            }
            San::Ip(address) => {
                let inside = networks.iter().any(|network| network.contains(*address));
                if !networks.is_empty() && !inside {
                    return Err(not_allowed("ip_sans", "by allowed_ip_sans_cidr"));
                }
            }
            San::Uri(uri) if spiffe.is_none() => {
                if !role
                    .allowed_uri_sans
                    .iter()
                    .any(|pattern| glob(pattern, uri))
                {
                    return Err(not_allowed("uri_sans", "by allowed_uri_sans"));
                }
            }
            San::Dns(_) | San::Email(_) | San::Uri(_) => {}
        }
    }
    match spiffe {
        Some(rule) => check_spiffe(rule, sans),
        None => Ok(()),
    }
}

/// Exactly one URI, a SPIFFE ID of the trust domain, with an allowed path.
fn check_spiffe(rule: &SpiffeRule, sans: &[San]) -> Result<(), BackendError> {
    let mut uris = Vec::new();
    for san in sans {
        let field = match san {
            San::Uri(uri) => {
                uris.push(uri);
                continue;
            }
            San::Dns(_) => continue,
            San::Email(_) => "alt_names",
            San::Ip(_) => "ip_sans",
        };
        let problem = "an X.509-SVID has its SPIFFE ID and DNS names only";
        return Err(BackendError::field(field, problem));
    }
    let &[uri] = uris.as_slice() else {
        let problem = "this role issues X.509-SVIDs: exactly one SPIFFE ID is needed";
        return Err(BackendError::field("uri_sans", problem));
    };
    let id: SpiffeId = uri
        .parse()
        .map_err(|error: daypass_certs::spiffe::SpiffeError| {
            BackendError::field("uri_sans", error.to_string())
        })?;
    if *id.trust_domain() != rule.trust_domain {
        return Err(not_allowed("uri_sans", "by its trust_domain"));
    }
    if !rule.paths.iter().any(|pattern| pattern.matches(&id)) {
        return Err(not_allowed("uri_sans", "by allowed_spiffe_paths"));
    }
    Ok(())
}

fn not_allowed(field: &str, why: &str) -> BackendError {
    BackendError::field(field, format!("is not allowed by the role ({why})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_is_checked_by_its_kind() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&["email", "hostname"], "a.example.org", true),
            (&["email", "hostname"], "me@a.example.org", true),
            (&["email", "hostname"], "evil.com", false),
            (&["hostname"], "a.example.org", true),
            (&["hostname"], "me@a.example.org", false),
            (&["email"], "a.example.org", false),
            (&["email"], "me@a.example.org", true),
            (&[], "a.example.org", true),
            (&["disabled"], "Anything at all", true),
        ];
        for (validations, name, want) in cases {
            let role = Role {
                allowed_domains: vec!["example.org".into()],
                allow_subdomains: true,
                cn_validations: validations.iter().map(|&text| text.into()).collect(),
                ..Role::default()
            };
            assert_eq!(
                common_name_allowed(&role, name),
                *want,
                "{validations:?} {name}"
            );
        }
    }

    #[test]
    fn a_common_name_becomes_an_alternative_name_where_it_is_one() {
        let cases = [
            ("a.example.org", Some(San::Dns("a.example.org".into()))),
            ("me@example.org", Some(San::Email("me@example.org".into()))),
            ("Example Ltd", None),
        ];
        for (name, want) in cases {
            assert_eq!(san_of(name), want, "{name}");
        }
    }

    #[test]
    fn each_name_is_there_once() {
        let names = ["a.org", "b.org", "a.org"].map(str::to_owned);
        let got = sans(&names, &["::1".into(), "0:0::1".into()], &[])
            .ok()
            .unwrap();
        let dns = |name: &str| San::Dns(name.into());
        let address = San::Ip(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(got, [dns("a.org"), dns("b.org"), address]);
    }
}
