//! SPIFFE IDs and trust domains (SPIFFE-ID standard), and patterns over their paths.
//!
//! **Invariant:** a [`SpiffeId`] or [`TrustDomain`] that exists is valid, and its text is its only spelling:
//! equal identities have equal text.

use std::fmt;
use std::str::FromStr;

use crate::certificate::Certificate;
use crate::glob::glob;
use crate::profile::KeyUsage;
use crate::san::San;

/// Longest SPIFFE ID, in bytes.
const LONGEST_ID: usize = 2048;

/// Why text is not a SPIFFE ID, trust domain or path pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// It does not begin with `spiffe://`.
    #[error("a SPIFFE ID begins with \"spiffe://\"")]
    Scheme,
    /// The whole is too long.
    #[error("a SPIFFE ID has at most 2048 bytes")]
    Length,
    /// The trust domain is empty, too long or holds another character.
    #[error("a trust domain has 1 to 255 characters out of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// A segment of the path is empty, `.`, `..` or holds another character.
    #[error(
        "each path segment has characters out of a-z, A-Z, 0-9, '.', '-' and '_', is not empty and \
         not \".\" or \"..\"; there is no trailing slash"
    )]
    Path,
    /// A pattern for paths is not one.
    #[error(
        "a path pattern begins with \"/\"; \"*\" stands for part of a segment, and \"**\", as the last \
         segment, for all the rest"
    )]
    Pattern,
}

/// Why a certificate is not an X.509-SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Not exactly one URI SAN.
    #[error("an X.509-SVID has exactly one URI SAN")]
    UriSans,
    /// The URI SAN is no SPIFFE ID.
    #[error("the URI SAN is not a SPIFFE ID: {0}")]
    Id(#[from] SpiffeError),
    /// A leaf must name a workload, not a trust domain.
    #[error("a leaf's SPIFFE ID has a path")]
    NoPath,
    /// A CA certificate cannot authenticate.
    #[error("a CA certificate is not a leaf")]
    IsCa,
    /// The key usage is absent or not that of a leaf.
    #[error("a leaf's key usage includes digitalSignature, and neither keyCertSign nor cRLSign")]
    KeyUsage,
}

/// The name of a trust domain: what is between `spiffe://` and the path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Reads a bare name (`example.org`).
    ///
    /// # Errors
    /// [`SpiffeError::TrustDomain`].
    pub fn new(name: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(name.to_owned()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which its CA certificates carry.
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.clone(),
            path: String::new(),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::new(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://trust-domain/path`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or segments each with its leading slash.
    path: String,
}

impl SpiffeId {
    /// The ID with this path (empty, or beginning with `/`) in `trust_domain`.
    ///
    /// # Errors
    /// [`SpiffeError::Path`], [`SpiffeError::Length`].
    pub fn new(trust_domain: TrustDomain, path: &str) -> Result<Self, SpiffeError> {
        if !path.is_empty() {
            let segments = path.strip_prefix('/').ok_or(SpiffeError::Path)?;
            if !segments.split('/').all(is_segment) {
                return Err(SpiffeError::Path);
            }
        }
        if "spiffe://".len() + trust_domain.0.len() + path.len() > LONGEST_ID {
            return Err(SpiffeError::Length);
        }
        Ok(Self {
            trust_domain,
            path: path.to_owned(),
        })
    }

    /// The trust domain it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash; empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The identity in an X.509-SVID, after checking that the certificate is one. Neither its signature
    /// nor its validity is looked at.
    ///
    /// # Errors
    /// [`SvidError`], by the rule that is broken.
    pub fn of_svid(certificate: &Certificate) -> Result<Self, SvidError> {
        let mut uris = certificate.sans().iter().filter_map(|san| match san {
            San::Uri(uri) => Some(uri),
            San::Dns(_) | San::Email(_) | San::Ip(_) => None,
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(SvidError::UriSans);
        };
        let id: Self = uri.parse()?;
        if certificate.is_ca() {
            return Err(SvidError::IsCa);
        }
        if id.path.is_empty() {
            return Err(SvidError::NoPath);
        }
        let usage = certificate.key_usage();
        if !usage.contains(KeyUsage::DIGITAL_SIGNATURE)
            || usage.contains(KeyUsage::KEY_CERT_SIGN)
            || usage.contains(KeyUsage::CRL_SIGN)
        {
            return Err(SvidError::KeyUsage);
        }
        Ok(id)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > LONGEST_ID {
            return Err(SpiffeError::Length);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Self::new(TrustDomain::new(name)?, path)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which paths a role may issue: `/ns/*/sa/web`, `/ci/**`.
///
/// `*` stands for any part of one segment and never crosses a `/`; `**`, as the last segment, stands for one
/// or more whole segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<String>,
    and_below: bool,
}

impl PathPattern {
    /// Whether the ID's path is one of those meant. An ID without a path never is.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        let Some(path) = id.path.strip_prefix('/') else {
            return false;
        };
        let mut path = path.split('/');
        self.segments
            .iter()
            .all(|pattern| path.next().is_some_and(|segment| glob(pattern, segment)))
            && path.next().is_some() == self.and_below
    }
}

impl FromStr for PathPattern {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let rest = text.strip_prefix('/').ok_or(SpiffeError::Pattern)?;
        let mut segments: Vec<String> = rest.split('/').map(str::to_owned).collect();
        let and_below = segments.last().is_some_and(|last| last == "**");
        if and_below {
            segments.pop();
        }
        let valid =
            |segment: &String| !segment.contains("**") && is_segment(&segment.replace('*', "x"));
        if !segments.iter().all(valid) {
            return Err(SpiffeError::Pattern);
        }
        Ok(Self {
            segments,
            and_below,
        })
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_read_as_the_standard_says() {
        use SpiffeError::{Length, Path, Scheme, TrustDomain};
        let longest_path = format!("/{}", "a".repeat(2048 - 12));
        let longest = format!("spiffe://td{longest_path}");
        let too_long = format!("{longest}a");
        let cases = [
            ("spiffe://example.org", Ok(("example.org", ""))),
            ("spiffe://example.org/a", Ok(("example.org", "/a"))),
            (
                "spiffe://ex_am-ple.0rg/A/b.c/_-",
                Ok(("ex_am-ple.0rg", "/A/b.c/_-")),
            ),
            ("spiffe://td/...", Ok(("td", "/..."))),
            (&longest, Ok(("td", &longest_path))),
            (&too_long, Err(Length)),
            ("", Err(Scheme)),
            ("SPIFFE://td/a", Err(Scheme)),
            ("https://td/a", Err(Scheme)),
            ("spiffe:/td/a", Err(Scheme)),
            ("spiffe://", Err(TrustDomain)),
            ("spiffe:///a", Err(TrustDomain)),
            ("spiffe://Example.org/a", Err(TrustDomain)),
            ("spiffe://td:8080/a", Err(TrustDomain)),
            ("spiffe://user@td/a", Err(TrustDomain)),
            ("spiffe://t%64/a", Err(TrustDomain)),
            ("spiffe://td?x/a", Err(TrustDomain)),
            ("spiffe://td#x", Err(TrustDomain)),
            ("spiffe://td/", Err(Path)),
            ("spiffe://td/a/", Err(Path)),
            ("spiffe://td//a", Err(Path)),
            ("spiffe://td/.", Err(Path)),
            ("spiffe://td/a/../b", Err(Path)),
            ("spiffe://td/a%20b", Err(Path)),
            ("spiffe://td/a?b", Err(Path)),
            ("spiffe://td/a#b", Err(Path)),
            ("spiffe://td/ä", Err(Path)),
        ];
        for (text, want) in cases {
            let id = text.parse::<SpiffeId>();
            let got = id
                .as_ref()
                .map(|id| (id.trust_domain().as_str(), id.path()));
            assert_eq!(got, want.as_ref().map(|parts| *parts), "{text}");
        }
        let long_domain = format!("spiffe://{}/a", "a".repeat(256));
        assert_eq!(long_domain.parse::<SpiffeId>(), Err(TrustDomain));
    }

    #[test]
    fn a_path_pattern_never_crosses_a_segment_unless_it_says_so() {
        let cases = [
            ("/ns/*/sa/web", "/ns/prod/sa/web", true),
            ("/ns/*/sa/web", "/ns/prod/x/sa/web", false),
            ("/ns/*/sa/web", "/ns/prod/sa/web/x", false),
            ("/ci/**", "/ci/a/b/c", true),
            ("/ci/**", "/ci/a", true),
            ("/ci/**", "/ci", false),
            ("/**", "/anything/goes", true),
            ("/**", "", false),
            ("/web-*", "/web-1", true),
            ("/web-*", "/web-1/admin", false),
            ("/web", "/webx", false),
        ];
        let domain = TrustDomain::new("td").unwrap();
        for (pattern, path, want) in cases {
            let id = SpiffeId::new(domain.clone(), path).unwrap();
            let pattern: PathPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&id), want, "{pattern:?} {path}");
        }
        for bad in [
            "", "web", "/", "/a/", "/a//b", "/a/**/b", "/a**", "/..", "/a b", "*",
        ] {
            assert_eq!(
                bad.parse::<PathPattern>(),
                Err(SpiffeError::Pattern),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_valid_id_reads_back_as_itself(
            name in "[a-z0-9._-]{1,40}",
            segments in proptest::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,12}", 0..6),
        ) {
            let path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
            let text = format!("spiffe://{name}{path}");
            let id: SpiffeId = text.parse().unwrap();
            prop_assert_eq!(id.to_string(), text);
            prop_assert_eq!(id.trust_domain().as_str(), name);
            prop_assert_eq!(id.path(), path);
        }

        #[test]
        fn whatever_is_accepted_has_one_spelling(text in "(spiffe://)?[a-zA-Z0-9/._%:@?#-]{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
                prop_assert!(!id.path().ends_with('/') && !id.path().contains("//"));
            }
        }

        #[test]
        fn a_pattern_without_stars_matches_only_itself(a in "/[a-z]{1,3}(/[a-z]{1,3}){0,2}", b in "/[a-z]{1,3}(/[a-z]{1,3}){0,2}") {
            let pattern: PathPattern = a.parse().unwrap();
            let id = SpiffeId::new(TrustDomain::new("td").unwrap(), &b).unwrap();
            prop_assert_eq!(pattern.matches(&id), a == b);
        }
    }
}
