//! [`San`]: one subject alternative name, checked before it is encoded.

use std::fmt;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;

use crate::der::{Der, context};
use crate::error::CertError;

/// A subject alternative name (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum San {
    /// A host name; the leftmost label may be or hold a `*`.
    Dns(String),
    /// A mail address.
    Email(String),
    /// An address.
    Ip(IpAddr),
    /// A URI with a scheme.
    Uri(String),
}

impl San {
    /// The name as x509-parser read it, or `None` where it is of a kind that is not used here.
    pub(crate) fn from_parsed(name: &GeneralName<'_>) -> Option<Self> {
        match name {
            GeneralName::DNSName(dns) => Some(Self::Dns((*dns).to_owned())),
            GeneralName::RFC822Name(email) => Some(Self::Email((*email).to_owned())),
            GeneralName::URI(uri) => Some(Self::Uri((*uri).to_owned())),
            GeneralName::IPAddress(octets) => <[u8; 4]>::try_from(*octets)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*octets).map(IpAddr::from))
                .ok()
                .map(Self::Ip),
            _ => None,
        }
    }

    /// Refuses what would not be a name of its kind.
    ///
    /// # Errors
    /// [`CertError::Unacceptable`], which names the rule.
    pub fn check(&self) -> Result<(), CertError> {
        let problem = match self {
            Self::Dns(name) if !is_dns(name) => "a DNS SAN must be a host name",
            Self::Email(address) if !is_email(address) => {
                "an email SAN must be local@host in ASCII"
            }
            Self::Uri(uri) if !is_uri(uri) => "a URI SAN must be absolute and in ASCII",
            _ => return Ok(()),
        };
        Err(CertError::unacceptable(problem))
    }

    pub(crate) fn encode(&self, der: &mut Der) {
        match self {
            Self::Email(address) => der.value(context(1), address.as_bytes()),
            Self::Dns(name) => der.value(context(2), name.as_bytes()),
            Self::Uri(uri) => der.value(context(6), uri.as_bytes()),
            Self::Ip(IpAddr::V4(address)) => der.value(context(7), &address.octets()),
            Self::Ip(IpAddr::V6(address)) => der.value(context(7), &address.octets()),
        }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Email(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

/// A host name in the preferred syntax (RFC 1034, section 3.5, as RFC 1123 relaxes it). Underscores are
/// let through, because service names in private networks have them.
fn is_dns(name: &str) -> bool {
    let is_label = |(index, label): (usize, &str)| {
        let allowed = |b: u8| {
            b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || (b == b'*' && index == 0)
        };
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().filter(|b| *b == b'*').count() <= 1
            && label.bytes().all(allowed)
    };
    name.len() <= 253 && name.split('.').enumerate().all(is_label)
}

fn is_email(address: &str) -> bool {
    let Some((local, host)) = address.rsplit_once('@') else {
        return false;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    (1..=64).contains(&local.len())
        && local.bytes().all(allowed)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && !host.contains('*')
        && is_dns(host)
}

/// An absolute URI (RFC 3986): a scheme, then characters that URIs have.
fn is_uri(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return false;
    };
    let in_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    let in_rest = |b: u8| b.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&b);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(in_scheme)
        && !rest.is_empty()
        && uri.len() <= 2048
        && rest.bytes().all(in_rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_kind() {
        let dns = |text: &str| San::Dns(text.into());
        let email = |text: &str| San::Email(text.into());
        let uri = |text: &str| San::Uri(text.into());
        let cases = [
            (dns("localhost"), true),
            (dns("a.example.com"), true),
            (dns("*.example.com"), true),
            (dns("w*.example.com"), true),
            (dns("_svc._tcp.example.com"), true),
            (dns("a.*.example.com"), false),
            (dns("**.example.com"), false),
            (dns(""), false),
            (dns("a..b"), false),
            (dns("a."), false),
            (dns("-a.b"), false),
            (dns("a b"), false),
            (dns("größe.de"), false),
            (dns("a\0.example.com"), false),
            (dns(&"a".repeat(64)), false),
            (dns(&["a".repeat(50).as_str(); 6].join(".")), false),
            (email("a.b@example.com"), true),
            (email("a@b@example.com"), false),
            (email("@example.com"), false),
            (email("a@*.example.com"), false),
            (email("a..b@example.com"), false),
            (uri("spiffe://td/a"), true),
            (uri("urn:x:y"), true),
            (uri("/relative"), false),
            (uri("http://a b"), false),
            (uri(":x"), false),
            (San::Ip("::1".parse().unwrap()), true),
        ];
        for (san, want) in cases {
            assert_eq!(san.check().is_ok(), want, "{san}");
        }
    }
}
