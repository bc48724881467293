//! Patterns of URIs, which never let a `*` stand for more than was meant.
//!
//! **Invariant:** a `*` stands for part of one segment of the path. A SPIFFE ID is admitted only by a pattern
//! that names its trust domain in full.

use daypass_certs::{PathPattern, SpiffeId, TrustDomain};

use super::shown::is_spiffe;
use daypass_certs::glob;

/// Which URIs are meant.
pub(super) enum UriPattern {
    /// IDs of a trust domain.
    Spiffe(TrustDomain, PathPattern),
    /// Other URIs, segment by segment.
    Other(Vec<String>),
}

impl UriPattern {
    /// Reads `spiffe://prod.example.org/ns/*/sa/web` or `https://example.org/*`.
    ///
    /// # Errors
    /// What is wrong with it, without its text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if is_spiffe(text) {
            let rest = text.strip_prefix("spiffe://");
            let rest = rest.ok_or("a SPIFFE ID begins with \"spiffe://\"")?;
            let Some((domain, path)) = rest.find('/').and_then(|at| rest.split_at_checked(at))
            else {
                return Err("a SPIFFE ID of a workload has a path: spiffe://domain/path".into());
            };
            let domain = TrustDomain::new(domain).map_err(|error| error.to_string())?;
            let path = path.parse().map_err(|error| format!("{error}"))?;
            return Ok(Self::Spiffe(domain, path));
        }
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        if scheme.is_none_or(|scheme| scheme.is_empty() || scheme.contains(['*', '/'])) {
            return Err("a pattern of URIs begins with a scheme, such as https:".into());
        }
        let segments: Vec<String> = text.split('/').map(str::to_owned).collect();
        if let [_, second, host, ..] = segments.as_slice()
            && second.is_empty()
            && host.contains('*')
        {
            return Err("a pattern of URIs names the host in full".into());
        }
        if text.contains("**") {
            return Err("\"**\" is for SPIFFE IDs only".into());
        }
        Ok(Self::Other(segments))
    }

    /// Whether `uri`, which is `id` where it is a SPIFFE ID, is meant.
    pub(super) fn admits(&self, uri: &str, id: Option<&SpiffeId>) -> bool {
        match (self, id) {
            (Self::Spiffe(domain, path), Some(id)) => {
                id.trust_domain() == domain && path.matches(id)
            }
            (Self::Other(segments), None) if !is_spiffe(uri) => {
                let mut found = uri.split('/');
                segments.iter().all(|pattern| {
                    found
                        .next()
                        .is_some_and(|segment| segment_matches(pattern, segment))
                }) && found.next().is_none()
            }
            (Self::Spiffe(..), None) | (Self::Other(_), _) => false,
        }
    }
}

/// A segment that leads elsewhere is only itself.
fn segment_matches(pattern: &str, segment: &str) -> bool {
    let elsewhere = matches!(segment, "" | "." | "..") || segment.contains('%');
    pattern == segment || (!elsewhere && glob(pattern, segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_its_segment_and_a_trust_domain_is_named_in_full() {
        let admits = |pattern: &str, uri: &str| {
            let id = uri.parse::<SpiffeId>().ok();
            UriPattern::parse(pattern).unwrap().admits(uri, id.as_ref())
        };
        let cases = [
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/a/sa/web", true),
            (
                "spiffe://td/ns/*/sa/web",
                "spiffe://td/ns/a/b/sa/web",
                false,
            ),
            ("spiffe://td/ns/*/sa/web", "spiffe://td/ns/a/sa/webx", false),
            ("spiffe://td/ns/*/sa/web", "spiffe://td2/ns/a/sa/web", false),
            ("spiffe://td/ns/*", "spiffe://td/ns/a/sa/web", false),
            ("spiffe://td/ns/**", "spiffe://td/ns/a/sa/web", true),
            ("spiffe://td/web", "SPIFFE://td/web", false),
            ("https://a/*", "https://a/x", true),
            ("https://a/*", "https://a/x/y", false),
            ("https://a/*", "https://a/..", false),
            ("https://a/*", "https://a/", false),
            ("https://a/*", "https://a/x%2fy", false),
            ("https://a/x", "https://a/x", true),
            ("urn:*", "urn:x:y", true),
            ("urn:*", "spiffe://td/a", false),
        ];
        for (pattern, uri, want) in cases {
            assert_eq!(admits(pattern, uri), want, "{pattern} {uri}");
        }
        for wrong in [
            "*",
            "*://td/a",
            "x",
            "https://a/**",
            "https://a*/x",
            ":x",
            "spiffe://*/ns/a",
            "spiffe://*.example.org/a",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:td/a",
            "SPIFFE://td/a",
            "spiffe://td/a/../b",
            "spiffe://td/**/a",
        ] {
            assert!(UriPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
