//! Policies compiled for deciding: which rule is the one that counts for a path.
//!
//! Vault's precedence, exactly. A rule for just that path wins. Otherwise the longest prefix rule and all
//! matching rules with `+` compete, and the winner is the one, in this order, whose first `+` or `*`
//! comes later; that does not end in `*`; that has fewer `+`; that is longer; that sorts later. Rules of
//! the same pattern are one rule, whatever policies they come from.
//!
//! One thing goes beyond Vault, and only ever refuses more: **adding a slash or listing does not get around a
//! deny.** The router takes `a/b/` for `a/b`. So
//! * nothing but listing is allowed on `a/b/` where it is denied on `a/b`;
//! * a rule that denies one of the two and is not about the other at all denies listing both: `path "a/b"` and
//!   `path "a/b/*"` each deny listing `a/b`. A rule that is about both and denies (`a/*`, `*`) gives way to a
//!   more specific one, as ever: "deny all but" works.
//!
//! **Invariant:** another rule that denies never makes anything allowed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::parameters::Restrictions;
use super::rule::{Capabilities, Capability, End, Kind, Policy, Rule};

/// What a set of policies amounts to. Made when a policy changes, not when it is used.
#[derive(Debug)]
pub struct Acl {
    /// Whether one of the policies is `root`.
    pub(super) root: bool,
    /// The rules of all policies.
    rules: Table,
}

/// What the rules say about a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    /// No rule is about it.
    Silent,
    /// This rule denies it.
    Denied(&'a Arc<Permissions>),
    /// This rule says what is granted.
    Ruled(&'a Arc<Permissions>),
}

impl Acl {
    /// Compiles what `policies` say together. Their order does not matter.
    pub fn compile(policies: &[Arc<Policy>]) -> Self {
        Self {
            root: policies.iter().any(|policy| policy.is_root()),
            rules: Table::new(policies),
        }
    }

    /// The rule that counts for `path` (no leading `/`). `list` adds what Vault adds for a listing: a rule for
    /// just `a/b`, or where no rule is about `a/b/` any about `a/b`, counts for `a/b/`.
    pub(super) fn find(&self, path: &str, list: bool) -> Verdict<'_> {
        let here = self.rules.best(path);
        let Some(bare) = path.strip_suffix('/') else {
            // Nearly every path: a single lookup.
            return Verdict::of(here);
        };
        let below = self.rules.best(bare);
        let (chosen, form) = match (here, below) {
            (Some(Match::Exact(_)), _) => (here, path),
            (_, Some(Match::Exact(_))) | (None, _) if list => (below, bare),
            _ => (here, path),
        };
        // Of slashes that are repeated, none or one is what a rule would be written for.
        let plain = path.trim_end_matches('/');
        let one_slash = path.get(..=plain.len()).unwrap_or(path);
        let outranked = |found: &Match<'_>| list && found.denies() && found.is_about(form);
        let mut others = [path, bare, one_slash, plain]
            .into_iter()
            .filter_map(|other| {
                let mut matching = self.rules.matching(other);
                matching.find(|found| !outranked(found))
            });
        Verdict::of(others.find(Match::denies).or(chosen))
    }

    /// What is granted on `path`, before parameters are looked at.
    pub fn granted(&self, path: &str) -> Capabilities {
        match self.find(path.trim_start_matches('/'), false) {
            Verdict::Denied(_) => Capabilities::default(),
            _ if self.root => Capabilities::ALL,
            Verdict::Silent => Capabilities::default(),
            Verdict::Ruled(rule) => rule.capabilities,
        }
    }

    /// Whether a rule grants something at or below `prefix`, which ends in a slash: what a caller must have to
    /// be told that a mount exists.
    pub fn reaches(&self, prefix: &str) -> bool {
        // The listing of the mount itself is also granted by a rule without the slash.
        let here = self.find(prefix, true);
        self.root
            || matches!(here, Verdict::Ruled(rule) if rule.capabilities.grants())
            || self.rules.grants_below(prefix)
    }
}

impl<'a> Verdict<'a> {
    fn of(found: Option<Match<'a>>) -> Self {
        match found {
            None => Self::Silent,
            Some(found) if found.denies() => Self::Denied(found.rule()),
            Some(found) => Self::Ruled(found.rule()),
        }
    }
}

/// What the names of `sys/capabilities` are for `path`: sorted, `["deny"]` where there are none, `["root"]`
/// for the policy `root`.
pub fn capabilities(acl: &Acl, path: &str) -> Vec<&'static str> {
    let path = path.trim_start_matches('/');
    let only_list = matches!(acl.find(path, false), Verdict::Denied(_));
    let granted = match acl.find(path, true) {
        Verdict::Denied(_) => return vec!["deny"],
        _ if acl.root && !only_list => return vec!["root"],
        _ if acl.root => Capabilities::ALL,
        Verdict::Silent => Capabilities::default(),
        Verdict::Ruled(rule) => rule.capabilities,
    };
    let allowed = |capability: &Capability| !only_list || *capability == Capability::List;
    let mut names: Vec<_> = granted
        .iter()
        .filter(allowed)
        .map(Capability::name)
        .collect();
    if names.is_empty() {
        names.push("deny");
    }
    names.sort_unstable();
    names
}

/// The rules of all policies for one pattern.
#[derive(Debug)]
pub(super) struct Permissions {
    /// As it was written.
    pub(super) pattern: Box<str>,
    pub(super) capabilities: Capabilities,
    pub(super) restrictions: Restrictions,
    pub(super) min_wrapping_ttl: Option<Duration>,
    pub(super) max_wrapping_ttl: Option<Duration>,
    /// Which policy contributes which capabilities.
    sources: Vec<(Arc<str>, Capabilities)>,
}

impl Permissions {
    fn new(rule: &Rule) -> Self {
        Self {
            pattern: rule.pattern.as_str().into(),
            capabilities: rule.capabilities,
            restrictions: Restrictions::of(rule),
            min_wrapping_ttl: rule.min_wrapping_ttl,
            max_wrapping_ttl: rule.max_wrapping_ttl,
            sources: Vec::new(),
        }
    }

    fn add(&mut self, rule: &Rule) {
        self.capabilities = self.capabilities.union(rule.capabilities);
        self.restrictions.add(Restrictions::of(rule));
        // As in Vault, the shorter of two limits holds, of either kind.
        let shorter = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        self.min_wrapping_ttl = shorter(self.min_wrapping_ttl, rule.min_wrapping_ttl);
        self.max_wrapping_ttl = shorter(self.max_wrapping_ttl, rule.max_wrapping_ttl);
    }

    fn add_source(&mut self, policy: &Policy, capabilities: Capabilities) {
        // A policy may have several blocks for one path, and may be attached twice.
        let known = self
            .sources
            .iter_mut()
            .find(|(known, _)| **known == *policy.name);
        match known {
            Some((_, all)) => *all = all.union(capabilities),
            None => self.sources.push((Arc::clone(&policy.name), capabilities)),
        }
    }

    /// The policies that contribute `capability`.
    pub(super) fn sources(&self, capability: Capability) -> impl Iterator<Item = &str> {
        let sources = self.sources.iter();
        sources
            .filter(move |(_, capabilities)| capabilities.contains(capability))
            .map(|(policy, _)| &**policy)
    }

    /// Every policy that has a rule for the pattern.
    pub(super) fn all_sources(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|(policy, _)| &**policy)
    }
}

/// Rules by how they match.
#[derive(Debug)]
struct Table {
    exact: HashMap<Box<str>, Arc<Permissions>>,
    /// Sorted, so that the longest prefix of a path is found by bisection.
    prefixes: Vec<Prefix>,
    /// The one that wins over those after it first.
    segments: Vec<Segments>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<str>,
    /// The longest of the others that this one begins with.
    shorter: Option<usize>,
    rule: Arc<Permissions>,
}

#[derive(Debug)]
struct Segments {
    /// What the pattern is when split at `/`.
    parts: Box<[Box<str>]>,
    rank: Rank,
    rule: Arc<Permissions>,
}

/// Which of several matching rules counts: the greatest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Where the first `+` or the final `*` is, in bytes.
    first_wildcard: usize,
    end: End,
    wildcards: Reverse<usize>,
    /// Without the final `*`, in bytes.
    length: usize,
    text: Box<str>,
}

/// The rule that counts for a path, by how it matches.
#[derive(Clone, Copy)]
enum Match<'a> {
    Exact(&'a Arc<Permissions>),
    Prefix(&'a Prefix),
    Segments(&'a Segments),
}

impl<'a> Match<'a> {
    fn rule(self) -> &'a Arc<Permissions> {
        match self {
            Self::Exact(rule) => rule,
            Self::Prefix(prefix) => &prefix.rule,
            Self::Segments(segments) => &segments.rule,
        }
    }

    fn denies(&self) -> bool {
        self.rule().capabilities.denies()
    }

    fn is_about(self, path: &str) -> bool {
        match self {
            Self::Exact(rule) => *rule.pattern == *path,
            Self::Prefix(prefix) => path.starts_with(&*prefix.text),
            Self::Segments(segments) => segments.matches(path),
        }
    }
}

impl Table {
    fn new(policies: &[Arc<Policy>]) -> Self {
        let mut by_pattern: BTreeMap<&str, (Kind<'_>, Permissions)> = BTreeMap::new();
        for policy in policies {
            for rule in policy.rules() {
                let pattern = rule.pattern.as_str();
                let (_, permissions) = by_pattern
                    .entry(pattern)
                    .and_modify(|(_, permissions)| permissions.add(rule))
                    .or_insert_with(|| (rule.pattern.kind(), Permissions::new(rule)));
                permissions.add_source(policy, rule.capabilities);
            }
        }
        let mut table = Self {
            exact: HashMap::new(),
            prefixes: Vec::new(),
            segments: Vec::new(),
        };
        for (kind, permissions) in by_pattern.into_values() {
            let rule = Arc::new(permissions);
            match kind {
                Kind::Exact(path) => {
                    table.exact.insert(path.into(), rule);
                }
                Kind::Prefix(text) => table.prefixes.push(Prefix {
                    text: text.into(),
                    shorter: None,
                    rule,
                }),
                Kind::Segments(text, end) => table.segments.push(Segments::new(text, end, rule)),
            }
        }
        table.prefixes.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        table.link_prefixes();
        table.segments.sort_unstable_by(|a, b| b.rank.cmp(&a.rank));
        table
    }

    fn grants_below(&self, prefix: &str) -> bool {
        let exact = self
            .exact
            .iter()
            .filter(|(path, _)| path.starts_with(prefix));
        // Of those that hold for all that is below, the longest counts.
        let longer = self
            .prefixes
            .iter()
            .filter(|Prefix { text, .. }| text.starts_with(prefix));
        let prefixes = longer.chain(self.longest_prefix(prefix));
        let segments = self.segments.iter().filter(|rule| rule.reaches(prefix));
        let mut rules = exact
            .map(|(_, rule)| rule)
            .chain(prefixes.map(|prefix| &prefix.rule))
            .chain(segments.map(|segments| &segments.rule));
        rules.any(|rule| rule.capabilities.grants())
    }

    /// Sets every [`Prefix::shorter`]. Sorted, a text comes after those it begins with, and everything in
    /// between begins with them too.
    fn link_prefixes(&mut self) {
        let mut open: Vec<(usize, Box<str>)> = Vec::new();
        for (index, prefix) in self.prefixes.iter_mut().enumerate() {
            while open
                .pop_if(|(_, text)| !prefix.text.starts_with(&**text))
                .is_some()
            {}
            prefix.shorter = open.last().map(|(index, _)| *index);
            open.push((index, prefix.text.clone()));
        }
    }

    /// The rule that counts for exactly `path`.
    fn best(&self, path: &str) -> Option<Match<'_>> {
        self.matching(path).next()
    }

    /// The rules for exactly `path`, the one that counts first.
    fn matching(&self, path: &str) -> impl Iterator<Item = Match<'_>> {
        let exact = self.exact.get(path).map(Match::Exact);
        let mut prefix = self.longest_prefix(path);
        let segments = self.segments.iter();
        let mut segments = segments.filter(move |rule| rule.matches(path)).peekable();
        let others = std::iter::from_fn(move || match (prefix, segments.peek()) {
            (Some(longest), next) if next.is_none_or(|next| longest.outranks(next)) => {
                prefix = longest.shorter.and_then(|index| self.prefixes.get(index));
                Some(Match::Prefix(longest))
            }
            _ => segments.next().map(Match::Segments),
        });
        exact.into_iter().chain(others)
    }

    fn longest_prefix(&self, path: &str) -> Option<&Prefix> {
        // Whatever `path` begins with sorts before it, and so does all that begins with that in turn.
        let after = self
            .prefixes
            .partition_point(|prefix| *prefix.text <= *path);
        let mut candidate = self.prefixes.get(after.checked_sub(1)?)?;
        while !path.starts_with(&*candidate.text) {
            candidate = self.prefixes.get(candidate.shorter?)?;
        }
        Some(candidate)
    }
}

impl Prefix {
    fn outranks(&self, other: &Segments) -> bool {
        let Rank {
            first_wildcard,
            end,
            wildcards,
            length,
            text,
        } = &other.rank;
        let own = self.text.len();
        (own, End::Open, Reverse(0), own, &self.text)
            > (*first_wildcard, *end, *wildcards, *length, text)
    }
}

impl Segments {
    fn new(text: &str, end: End, rule: Arc<Permissions>) -> Self {
        let parts: Box<[Box<str>]> = text.split('/').map(Box::from).collect();
        let rank = Rank {
            first_wildcard: text.find('+').unwrap_or(text.len()),
            end,
            wildcards: Reverse(parts.iter().filter(|part| &***part == "+").count()),
            length: text.len(),
            text: text.into(),
        };
        Self { parts, rank, rule }
    }

    /// Whether it matches anything that begins with `prefix`, which ends in a slash.
    fn reaches(&self, prefix: &str) -> bool {
        let last = self.parts.len().saturating_sub(1);
        let mut parts = self.parts.iter().enumerate();
        for segment in prefix.strip_suffix('/').unwrap_or(prefix).split('/') {
            match parts.next() {
                Some((_, part)) if &**part == "+" || &**part == segment => {}
                Some((index, part)) if index == last && self.rank.end == End::Open => {
                    return segment.starts_with(&**part);
                }
                Some(_) => return false,
                None => return self.rank.end == End::Open,
            }
        }
        parts.next().is_some() || self.rank.end == End::Open
    }

    fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        let last = self.parts.len().saturating_sub(1);
        let all = self.parts.iter().enumerate().all(|(index, part)| {
            segments.next().is_some_and(|segment| {
                let open = self.rank.end == End::Open && index == last;
                &**part == "+" || &**part == segment || (open && segment.starts_with(&**part))
            })
        });
        all && (self.rank.end == End::Open || segments.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_to_whoever_has_something_below_it() {
        let cases = [
            // pattern    mount     want
            ("kv/a", "kv/", true),
            ("kv/", "kv/", true),
            ("kv", "kv/", true),
            ("kv2/a", "kv/", false),
            ("kv*", "kv/", true),
            ("k*", "kv/", true),
            ("kv/a*", "kv/", true),
            ("*", "kv/", true),
            ("l*", "kv/", false),
            ("+/a", "kv/", true),
            ("+", "kv/", true),
            ("+/*", "kv/", true),
            ("+/a", "team/kv/", false),
            ("+/k*", "team/kv/", true),
            ("+/l*", "team/kv/", false),
            ("team/+/a", "team/kv/", true),
            ("team/+", "team/kv/", true),
            ("team/+", "team/kv/a/", false),
            ("team/+/a/b", "team/other/kv/", false),
            ("te+m/a", "team/", false),
        ];
        for (pattern, mount, want) in cases {
            for (grant, want) in [("\"read\"", want), ("\"deny\"", false), ("", false)] {
                let text = format!("path \"{pattern}\" {{ capabilities = [{grant}] }}");
                let acl = Acl::compile(&[Arc::new(Policy::parse("p", &text).unwrap())]);
                assert_eq!(acl.reaches(mount), want, "{pattern} {mount} {grant}");
            }
        }
        let text = r#"path "k*" { policy = "read" } path "kv/*" { policy = "deny" }"#;
        let acl = Acl::compile(&[Arc::new(Policy::parse("p", text).unwrap())]);
        assert!(acl.reaches("ku/") && !acl.reaches("kv/"));
    }

    #[test]
    fn what_is_granted_is_what_capabilities_tell() {
        let text = r#"path "a" { policy = "read" } path "b" { policy = "deny" }"#;
        let acl = Acl::compile(&[Arc::new(Policy::parse("p", text).unwrap())]);
        let granted = |path| {
            acl.granted(path)
                .iter()
                .map(Capability::name)
                .collect::<Vec<_>>()
        };
        assert_eq!(granted("/a"), ["read", "list"]);
        assert!(granted("b").is_empty() && granted("c").is_empty());
        let root = Acl::compile(&[Arc::new(crate::policy::builtin::root())]);
        assert_eq!(root.granted("c").iter().count(), 7);
    }
}
