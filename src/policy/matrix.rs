//! The authorization matrix: decisions on record, and an evaluator written a second time, naively.
//!
//! `testdata/policy/*.hcl` are policies and `*.cases` what they decide; `openbao.json` is what OpenBao
//! answered to random policies (see `record_openbao.py` beside it).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Acl, Ask, Capability, Denial, Grant, Policy, Reason, builtin, capabilities, decide};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/policy")
}

fn parse(name: &str, text: &str) -> Arc<Policy> {
    Arc::new(Policy::parse(name, text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}")))
}

fn ask(path: &str, capability: Capability) -> Ask<'_> {
    Ask {
        path,
        capability,
        sudo: false,
        fields: None,
        wrap_ttl: None,
    }
}

/// Everything in `testdata/policy` with that ending: stem and text.
fn files(ending: &str) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(testdata())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let chosen = entries.filter(|path| path.extension().is_some_and(|e| e == ending));
    let read = |path: PathBuf| {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (stem, std::fs::read_to_string(path).unwrap())
    };
    chosen.map(read).collect()
}

#[test]
fn every_case_on_file_is_decided_as_written() {
    let mut policies: BTreeMap<String, Arc<Policy>> = files("hcl")
        .iter()
        .map(|(name, text)| (name.clone(), parse(name, text)))
        .collect();
    policies.insert("root".into(), Arc::new(builtin::root()));
    policies.insert("default".into(), parse("default", builtin::DEFAULT_TEXT));
    let mut decided = 0;
    for (file, text) in files("cases") {
        let mut acl = Acl::compile(&[]);
        for (line, text) in text.lines().enumerate() {
            let place = format!("{file}.cases:{}: {text}", line + 1);
            let words: Vec<_> = text.split_whitespace().collect();
            match *words.as_slice() {
                [] | ["#", ..] => {}
                ["with", ref names @ ..] => {
                    let named = names.iter().map(|name| Arc::clone(&policies[*name]));
                    acl = Acl::compile(&named.collect::<Vec<_>>());
                }
                [want, operation, path, ref more @ ..] => {
                    let (sudo, capability) = match operation.strip_prefix("sudo-") {
                        Some(capability) => (true, capability),
                        None => (false, operation),
                    };
                    let (fields, by) = match *more {
                        [fields, ref by @ ..] if fields.starts_with('{') => (Some(fields), by),
                        ref by => (None, by),
                    };
                    let fields =
                        fields.map(|f| serde_json::from_str::<Map<_, _>>(f).expect(&place));
                    let capability = Capability::named(capability).expect(&place);
                    let ask = Ask {
                        sudo,
                        fields: fields.as_ref(),
                        ..ask(path, capability)
                    };
                    let (got, policies) = match decide(&acl, &ask) {
                        Ok(grant) => ("allow", grant.policies().map(str::to_owned).collect()),
                        Err(denial) => ("deny", denial.policies),
                    };
                    assert_eq!(got, want, "{place}");
                    if !by.is_empty() {
                        assert_eq!(policies, by, "{place}");
                    }
                    decided += 1;
                }
                _ => panic!("{place}: expected a decision, an operation and a path"),
            }
        }
    }
    assert!(decided > 100, "the files hold {decided} cases");
}

#[derive(Deserialize)]
struct Record {
    worlds: Vec<World>,
}

#[derive(Deserialize)]
struct World {
    policies: BTreeMap<String, String>,
    #[serde(default)]
    capabilities: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    requests: Vec<Request>,
}

/// Operation, path, fields, and whether it was allowed.
#[derive(Deserialize)]
struct Request(String, String, Option<Map<String, Value>>, bool);

/// OpenBao decides as we do, except where adding a slash or listing would get around a deny.
#[test]
fn openbao_decides_the_same_unless_a_deny_would_be_evaded() {
    let other = std::env::var_os("DAYPASS_OPENBAO_RECORD").map(PathBuf::from);
    let path = other
        .as_ref()
        .map_or_else(|| testdata().join("openbao.json"), PathBuf::clone);
    let record: Record = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut same, mut stricter) = (0, 0);
    for world in &record.worlds {
        let policies: Vec<_> = world
            .policies
            .iter()
            .map(|(n, text)| parse(n, text))
            .collect();
        let acl = Acl::compile(&policies);
        for (path, want) in &world.capabilities {
            let got = capabilities(&acl, path);
            if got == *want {
                same += 1;
                continue;
            }
            let only = if want.contains(&"list".to_owned()) {
                ["list"]
            } else {
                ["deny"]
            };
            assert!(
                got == ["deny"] || got == only,
                "{path} {want:?} {:#?}",
                world.policies
            );
            assert!(
                would_evade(&policies, path),
                "{path} {want:?} {:#?}",
                world.policies
            );
            stricter += 1;
        }
        for Request(operation, path, fields, want) in &world.requests {
            let ask = Ask {
                fields: fields.as_ref(),
                ..ask(path, Capability::named(operation).unwrap())
            };
            let got = decide(&acl, &ask);
            if got.is_ok() == *want {
                same += 1;
                continue;
            }
            let context = format!(
                "{operation} {path} {fields:?} {got:?} {:#?}",
                world.policies
            );
            assert_eq!(
                got.map(drop).map_err(|denial| denial.reason),
                Err(Reason::Denied),
                "{context}"
            );
            assert!(would_evade(&policies, path), "{context}");
            stricter += 1;
        }
    }
    println!("{same} the same, {stricter} stricter");
    if other.is_none() {
        assert_eq!((same, stricter), (2676, 3));
    }
}

/// Whether `path` with another number of slashes at its end is denied.
fn would_evade(policies: &[Arc<Policy>], path: &str) -> bool {
    let bare = path.trim_end_matches('/');
    let with_slash = format!("{bare}/");
    let forms = [path, bare, &with_slash];
    forms
        .iter()
        .any(|form| naive::best(policies, form).denies())
}

/// The rules of precedence once more, by sorting all rules that match. Knows nothing of parameters.
mod naive {
    use std::cmp::Reverse;

    use super::*;
    use crate::policy::Capabilities;

    /// The patterns for exactly `path`, the one that counts first.
    pub(super) fn ranked<'a>(policies: &'a [Arc<Policy>], path: &str) -> Vec<&'a str> {
        let rules = policies.iter().flat_map(|policy| policy.rules());
        let patterns = rules.map(|rule| rule.pattern.as_str());
        let mut matching: Vec<_> = patterns.filter(|pattern| fits(pattern, path)).collect();
        matching.sort_by_key(|pattern| {
            let plus = pattern
                .split('/')
                .filter(|part| part.trim_end_matches('*') == "+")
                .count();
            let segmented = is_segmented(pattern);
            let glob = pattern.ends_with('*');
            let body = pattern.strip_suffix('*').unwrap_or(pattern);
            let first = if segmented {
                body.find('+').unwrap()
            } else {
                body.len()
            };
            let exact = !glob && !segmented;
            Reverse((exact, first, !glob, Reverse(plus), body.len(), body))
        });
        matching
    }

    /// The capabilities for exactly `path`.
    pub(super) fn best(policies: &[Arc<Policy>], path: &str) -> Capabilities {
        let ranked = ranked(policies, path);
        ranked
            .first()
            .map_or(Capabilities::default(), |winner| of(policies, winner))
    }

    /// The capabilities of all rules with that pattern.
    fn of(policies: &[Arc<Policy>], pattern: &str) -> Capabilities {
        let rules = policies.iter().flat_map(|policy| policy.rules());
        let chosen = rules.filter(|rule| rule.pattern.as_str() == pattern);
        let all: Vec<_> = chosen.flat_map(|rule| rule.capabilities.iter()).collect();
        all.into_iter().collect()
    }

    fn is_segmented(pattern: &str) -> bool {
        pattern
            .split('/')
            .enumerate()
            .any(|(i, part)| part == "+" || i > 0 && part.starts_with('+'))
    }

    pub(super) fn fits(pattern: &str, path: &str) -> bool {
        if !is_segmented(pattern) {
            return match pattern.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == pattern,
            };
        }
        // Rewritten to a pattern that has the path's own words for `+`, it must fit as it stands.
        let words: Vec<_> = path.split('/').collect();
        let parts: Vec<_> = pattern.split('/').collect();
        if parts.len() > words.len() {
            return false;
        }
        let filled: Vec<_> = parts
            .iter()
            .zip(&words)
            .map(|(part, word)| if *part == "+" { *word } else { *part })
            .collect();
        let filled = filled.join("/");
        match filled.strip_suffix('*').filter(|_| pattern.ends_with('*')) {
            Some(prefix) => path.starts_with(prefix),
            None => path == filled,
        }
    }

    /// The whole decision, without parameters.
    pub(super) fn allows(policies: &[Arc<Policy>], path: &str, capability: Capability) -> bool {
        let list = capability == Capability::List;
        let bare = path.trim_end_matches('/');
        let asked = if list && path == bare {
            format!("{path}/")
        } else {
            path.to_owned()
        };
        // Every form that is as long as what is asked for, or shorter.
        let mut forms = vec![asked];
        while let Some(shorter) = forms.last().and_then(|form| form.strip_suffix('/')) {
            forms.push(shorter.to_owned());
        }
        let is_exact = |path: &str| {
            let mut rules = policies.iter().flat_map(|policy| policy.rules());
            rules.any(|rule| {
                rule.pattern.as_str() == path && !is_segmented(path) && !path.ends_with('*')
            })
        };
        let any_fits = |path: &str| {
            let mut rules = policies.iter().flat_map(|policy| policy.rules());
            rules.any(|rule| fits(rule.pattern.as_str(), path))
        };
        let first = &forms[0];
        let shorter = first.strip_suffix('/').unwrap_or(first);
        let chosen = if list && !is_exact(first) && (is_exact(shorter) || !any_fits(first)) {
            shorter
        } else {
            first
        };
        let denies = |pattern: &str| of(policies, pattern).denies();
        let evaded = forms.iter().any(|form| {
            let mut counting = ranked(policies, form);
            counting.retain(|pattern| !(list && denies(pattern) && fits(pattern, chosen)));
            counting.first().is_some_and(|pattern| denies(pattern))
        });
        !evaded && best(policies, chosen).contains(capability)
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "ab", "+", "+", "+b", "b+", ""]);
    let end = prop::sample::select(vec!["", "", "*", "/*", "/", "/+", "/a*"]);
    (prop::collection::vec(part, 1..4), end)
        .prop_map(|(parts, end)| parts.join("/") + end)
        .prop_filter("+* is refused, // never matches", |text| {
            !text.contains("+*") && !text.starts_with('/')
        })
}

fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "ab", "aa", "+b", "a"]);
    let end = prop::sample::select(vec!["", "", "/", "//"]);
    (prop::collection::vec(part, 1..4), end).prop_map(|(parts, end)| parts.join("/") + end)
}

fn rule_text() -> impl Strategy<Value = String> {
    let granted = prop::sample::subsequence(Capability::ALL[..7].to_vec(), 0..=7);
    let granted = prop_oneof![3 => granted, 1 => Just(vec![Capability::Deny])];
    (pattern(), granted).prop_map(|(pattern, granted)| {
        let names: Vec<_> = granted.iter().map(|c| c.name()).collect();
        format!("path {pattern:?} {{ capabilities = {names:?} }}\n")
    })
}

fn policy_set() -> impl Strategy<Value = Vec<Arc<Policy>>> {
    let texts = prop::collection::vec(prop::collection::vec(rule_text(), 1..6), 1..4);
    texts.prop_map(|texts| {
        let named = texts.iter().enumerate();
        named
            .map(|(i, rules)| parse(&format!("p{i}"), &rules.concat()))
            .collect()
    })
}

fn denying_policy() -> impl Strategy<Value = Arc<Policy>> {
    prop::collection::vec(pattern(), 1..6).prop_map(|patterns| {
        let rules = patterns
            .iter()
            .map(|p| format!("path {p:?} {{ capabilities = [\"deny\"] }}\n"));
        parse("denying", &rules.collect::<String>())
    })
}

const VERBS: [Capability; 6] = [
    Capability::Create,
    Capability::Read,
    Capability::Update,
    Capability::Patch,
    Capability::Delete,
    Capability::List,
];

fn allowed(acl: &Acl, path: &str, capability: Capability) -> bool {
    decide(acl, &ask(path, capability)).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn compiled_decides_as_the_naive_evaluator(policies in policy_set(), path in path()) {
        let acl = Acl::compile(&policies);
        for verb in VERBS {
            let want = naive::allows(&policies, &path, verb);
            prop_assert_eq!(allowed(&acl, &path, verb), want, "{} {}", verb, path);
        }
    }

    #[test]
    fn deny_wins_for_every_verb(policies in policy_set(), path in path()) {
        let acl = Acl::compile(&policies);
        if naive::best(&policies, &path).denies() {
            let denying = naive::ranked(&policies, &path)[0];
            for verb in VERBS.into_iter().filter(|verb| *verb != Capability::List) {
                prop_assert!(!allowed(&acl, &path, verb), "{} {}", verb, path);
            }
            prop_assert!(!acl.granted(&path).grants());
            let other = match path.strip_suffix('/') {
                Some(bare) => bare.to_owned(),
                None => format!("{path}/"),
            };
            if !path.ends_with('/') {
                for verb in VERBS.into_iter().filter(|verb| *verb != Capability::List) {
                    prop_assert!(!allowed(&acl, &other, verb), "{} {}", verb, other);
                }
            }
            // Only what is more specific than the rule that denies is listed, where both meet.
            if !naive::fits(denying, &other) && !path.ends_with("//") {
                prop_assert!(!allowed(&acl, &path, Capability::List), "list {}", path);
                prop_assert!(!allowed(&acl, &other, Capability::List), "list {}", other);
            }
        }
    }

    #[test]
    fn what_is_granted_is_what_is_decided(policies in policy_set(), path in path()) {
        let acl = Acl::compile(&policies);
        let granted = acl.granted(&path);
        for verb in VERBS.into_iter().filter(|verb| *verb != Capability::List) {
            prop_assert_eq!(granted.contains(verb), allowed(&acl, &path, verb), "{}", verb);
        }
    }

    #[test]
    fn a_mount_is_known_wherever_something_in_it_is_allowed(policies in policy_set(), path in path()) {
        let acl = Acl::compile(&policies);
        if let Some((mount, _)) = path.split_once('/') {
            let some = VERBS.iter().any(|verb| allowed(&acl, &path, *verb));
            let known = acl.reaches(&format!("{mount}/"));
            prop_assert!(known || !some);
        }
    }

    #[test]
    fn a_policy_that_only_denies_never_grants_more(
        policies in policy_set(), denying in denying_policy(), path in path(),
    ) {
        let before = Acl::compile(&policies);
        let after = Acl::compile(&[policies, vec![denying]].concat());
        for verb in VERBS {
            prop_assert!(!allowed(&after, &path, verb) || allowed(&before, &path, verb));
        }
    }

    #[test]
    fn the_order_of_policies_does_not_matter(policies in policy_set(), path in path()) {
        let reversed: Vec<_> = policies.iter().rev().cloned().collect();
        let (one, other) = (Acl::compile(&policies), Acl::compile(&reversed));
        prop_assert_eq!(capabilities(&one, &path), capabilities(&other, &path));
    }

    #[test]
    fn capabilities_tell_what_is_decided(policies in policy_set(), path in path()) {
        let acl = Acl::compile(&policies);
        let names = capabilities(&acl, &path);
        let named = |verb: &Capability| names.contains(&verb.name());
        for verb in VERBS {
            // Vault looks where a listing would, of paths with a slash, also for the other verbs.
            if path.ends_with('/') == (verb == Capability::List) {
                prop_assert_eq!(named(&verb), allowed(&acl, &path, verb), "{}", verb);
            }
        }
    }
}

fn granted_by(grant: &Grant) -> Vec<&str> {
    grant.policies().collect()
}

#[test]
fn root_may_do_everything_that_no_other_policy_denies() {
    let root = Arc::new(builtin::root());
    let acl = Acl::compile(&[Arc::clone(&root)]);
    let sudo = Ask {
        sudo: true,
        ..ask("sys/raw/a", Capability::Delete)
    };
    let grant = decide(&acl, &sudo).unwrap();
    assert_eq!(granted_by(&grant), ["root"]);
    assert_eq!(capabilities(&acl, "sys/raw/a"), ["root"]);

    let no_raw = parse("no-raw", r#"path "sys/raw/*" { policy = "deny" }"#);
    let acl = Acl::compile(&[root, no_raw]);
    let denial: Denial = decide(&acl, &sudo).unwrap_err();
    assert_eq!(denial.to_string(), "denied by rule \"sys/raw/*\" of no-raw");
    assert!(allowed(&acl, "sys/mounts", Capability::Read));
}

#[test]
fn a_policy_that_is_merely_called_root_grants_what_it_says() {
    let acl = Acl::compile(&[parse("root", r#"path "a" { policy = "read" }"#)]);
    assert!(allowed(&acl, "a", Capability::Read));
    assert!(!allowed(&acl, "a", Capability::Update));
}
