//! Which names a role allows: the rules of the Vault API for domains, subdomains, globs and wildcards.

use daypass_certs::glob;

use crate::role::Role;

/// Whether the role allows this host name or mail address, as common name or as alternative name.
pub(crate) fn allowed(role: &Role, name: &str) -> bool {
    let (host, is_email) = match name.split_once('@') {
        Some((_, host)) if host.contains('@') => return false,
        Some((_, host)) => (host, true),
        None => (name, false),
    };
    let is_wildcard = host.contains('*');
    if is_wildcard && (!role.allow_wildcard_certificates || is_email) {
        return false;
    }
    // What the rules look at: the host without its wildcard label.
    let (wildcard_label, base) = match host.split_once('.') {
        _ if !is_wildcard => (None, host),
        Some((label, base)) => (Some(label), base),
        None => (Some(host), ""),
    };
    if base.contains('*') || wildcard_label.is_some_and(|label| label.matches('*').count() != 1) {
        return false;
    }
    if role.enforce_hostnames {
        let base_is_host = base.is_empty() && is_wildcard || is_hostname(base);
        if !base_is_host || !wildcard_label.is_none_or(is_wildcard_label) {
            return false;
        }
    }
    role.allow_any_name
        || role.allow_localhost && is_local(role, base, is_wildcard)
        || role
            .allowed_domains
            .iter()
            .filter(|domain| !domain.is_empty())
            .any(|domain| in_domain(role, domain, name, base, is_email, is_wildcard))
}

fn is_local(role: &Role, base: &str, is_wildcard: bool) -> bool {
    ["localhost", "localdomain"].iter().any(|local| {
        let itself = base.eq_ignore_ascii_case(local) && (!is_wildcard || role.allow_subdomains);
        itself || role.allow_subdomains && is_below(base, local)
    })
}

fn in_domain(
    role: &Role,
    domain: &str,
    name: &str,
    base: &str,
    is_email: bool,
    is_wildcard: bool,
) -> bool {
    let bare = role.allow_bare_domains
        && (name.eq_ignore_ascii_case(domain) || is_email && base.eq_ignore_ascii_case(domain));
    let below = role.allow_subdomains
        && (is_below(base, domain) || is_wildcard && base.eq_ignore_ascii_case(domain));
    let by_glob = role.allow_glob_domains
        && domain.contains('*')
        && glob(&domain.to_ascii_lowercase(), &name.to_ascii_lowercase());
    bare || below || by_glob
}

/// Whether `host` is `something.domain`.
fn is_below(host: &str, domain: &str) -> bool {
    let Some(split) = host.len().checked_sub(domain.len()) else {
        return false;
    };
    host.split_at_checked(split).is_some_and(|(front, back)| {
        front.len() > 1 && front.ends_with('.') && back.eq_ignore_ascii_case(domain)
    })
}

/// Labels of letters, digits and inner hyphens (RFC 1123); one dot at the end is let through.
pub(crate) fn is_hostname(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && host.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `*`, `*foo`, `foo*` or `f*o` (RFC 6125, section 6.4.3).
fn is_wildcard_label(label: &str) -> bool {
    label.split_once('*').is_some_and(|(front, back)| {
        (front.is_empty() || is_label(front)) && (back.is_empty() || is_label(back))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn role(flags: &[&str], domains: &[&str]) -> Role {
        let mut role = Role {
            allow_localhost: false,
            allowed_domains: domains.iter().map(|&domain| domain.into()).collect(),
            ..Role::default()
        };
        for flag in flags {
            match *flag {
                "bare" => role.allow_bare_domains = true,
                "sub" => role.allow_subdomains = true,
                "glob" => role.allow_glob_domains = true,
                "any" => role.allow_any_name = true,
                "localhost" => role.allow_localhost = true,
                "lax" => role.enforce_hostnames = false,
                "no-wild" => role.allow_wildcard_certificates = false,
                other => panic!("{other}"),
            }
        }
        role
    }

    #[test]
    fn names_are_allowed_as_vault_allows_them() {
        let ex = &["example.com"][..];
        let cases: &[(&[&str], &[&str], &str, bool)] = &[
            // Nothing is allowed by a domain alone.
            (&[], ex, "example.com", false),
            (&[], ex, "a.example.com", false),
            // Bare.
            (&["bare"], ex, "example.com", true),
            (&["bare"], ex, "EXAMPLE.com", true),
            (&["bare"], ex, "a.example.com", false),
            (&["bare"], ex, "*.example.com", false),
            (&["bare"], ex, "user@example.com", true),
            (&["bare"], &["*.example.com"], "*.example.com", true),
            // Subdomains.
            (&["sub"], ex, "example.com", false),
            (&["sub"], ex, "a.example.com", true),
            (&["sub"], ex, "a.b.example.com", true),
            (&["sub"], ex, "badexample.com", false),
            (&["sub"], ex, ".example.com", false),
            (&["sub"], ex, "*.example.com", true),
            (&["sub"], ex, "*.a.example.com", true),
            (&["sub"], ex, "w*.example.com", true),
            (&["sub"], ex, "*", false),
            (&["sub"], ex, "a.*.example.com", false),
            (&["sub"], ex, "*.*.example.com", false),
            (&["sub"], ex, "user@a.example.com", true),
            (&["sub"], ex, "user@example.com", false),
            (&["sub"], ex, "user@*.example.com", false),
            (&["sub"], ex, "a@b@a.example.com", false),
            (&["sub", "no-wild"], ex, "*.example.com", false),
            (&["sub", "no-wild"], ex, "a.example.com", true),
            // Globs.
            (&["glob"], &["ftp*.example.com"], "ftp3.example.com", true),
            (&["glob"], &["ftp*.example.com"], "FTP3.example.com", true),
            (&["glob"], &["ftp*.example.com"], "web.example.com", false),
            (&["glob"], &["*.example.com"], "a.b.example.com", true),
            (&["glob"], ex, "example.com", false),
            (&["glob"], &["*"], "anything.org", true),
            (&[], &["*.example.com"], "a.example.com", false),
            // Localhost.
            (&["localhost"], &[], "localhost", true),
            (&["localhost"], &[], "localdomain", true),
            (&["localhost"], &[], "a.localhost", false),
            (&["localhost"], &[], "*.localhost", false),
            (&["localhost", "sub"], &[], "a.localhost", true),
            (&["localhost", "sub"], &[], "*.localdomain", true),
            (&[], &[], "localhost", false),
            // Any name, but still a host name.
            (&["any"], &[], "anything.org", true),
            (&["any"], &[], "user@anything.org", true),
            (&["any"], &[], "not a host", false),
            (&["any"], &[], "under_score.org", false),
            (&["any"], &[], "", false),
            (&["any"], &[], "-a.org", false),
            (&["any"], &[], "größe.org", false),
            (&["any"], &[], "*", true),
            (&["any"], &[], "*-.org", false),
            (&["any", "lax"], &[], "not a host", true),
            (&["any", "lax"], &[], "a.*.org", false),
            (&["any", "no-wild"], &[], "*.org", false),
            // An empty domain allows nothing.
            (&["sub", "bare", "glob"], &[""], "a", false),
            (&["sub"], &[""], "a.", false),
        ];
        for (flags, domains, name, want) in cases {
            let got = allowed(&role(flags, domains), name);
            assert_eq!(got, *want, "{flags:?} {domains:?} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_subdomain_rule_never_allows_another_domain(name in "[a-z*.@-]{0,24}") {
            let role = role(&["sub", "bare"], &["example.com"]);
            if allowed(&role, &name) {
                let host = name.rsplit('@').next().unwrap();
                prop_assert!(host == "example.com" || host.ends_with(".example.com"), "{}", name);
            }
        }

        #[test]
        fn a_flag_more_never_allows_less(name in "[a-c*.@]{0,10}", domain in "[a-c*.]{1,6}") {
            let less = role(&["bare"], &[&domain]);
            let more = role(&["bare", "sub", "glob", "localhost"], &[&domain]);
            prop_assert!(!allowed(&less, &name) || allowed(&more, &name));
        }
    }
}
