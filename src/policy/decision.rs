//! The decision about one request, and its proof.
//!
//! **Invariant:** a [`Grant`] is made here and nowhere else, from a rule that grants or from an endpoint
//! that is declared open to anyone. Whoever holds one need not ask again, and cannot copy it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::Access;
use daypass_contract::route::Endpoint;
use serde_json::{Map, Value};

use super::acl::{Acl, Permissions, Verdict};
use super::parameters::Refusal;
use super::rule::Capability;

/// What a caller wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// From the API's root, mount included: `secret/data/app`.
    pub path: &'a str,
    /// See [`Capability::needed`].
    pub capability: Capability,
    /// Whether the endpoint is for administrators and needs `sudo` besides ([`Access::Sudo`]).
    pub sudo: bool,
    /// The fields of the body, or of the query of a read.
    pub fields: Option<&'a Map<String, Value>>,
    /// For how long the caller wants the answer wrapped, where at all.
    pub wrap_ttl: Option<Duration>,
}

/// Proof that one action was allowed. Moved along with the action, and into its audit record.
#[derive(Debug)]
pub struct Grant {
    path: Box<str>,
    capability: Capability,
    basis: Basis,
}

#[derive(Debug)]
enum Basis {
    /// The endpoint is open to anyone.
    Public,
    /// The policy `root` is attached.
    Root,
    /// A rule grants it.
    Rule(Arc<Permissions>),
}

impl Grant {
    /// What it is for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What may be done there.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// The pattern of the rule that grants it, where one does.
    pub fn pattern(&self) -> Option<&str> {
        match &self.basis {
            Basis::Public | Basis::Root => None,
            Basis::Rule(rule) => Some(&rule.pattern),
        }
    }

    /// The policies that determined it; none where anyone may.
    pub fn policies(&self) -> impl Iterator<Item = &str> {
        let (root, rule) = match &self.basis {
            Basis::Public => (None, None),
            Basis::Root => (Some("root"), None),
            Basis::Rule(rule) => (None, Some(rule.sources(self.capability))),
        };
        root.into_iter().chain(rule.into_iter().flatten())
    }
}

/// Why an action was not allowed: for the log and for who asks for an explanation. Callers are told
/// [`Denial::MESSAGE`] and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Denial {
    /// What is missing or in the way.
    pub reason: Reason,
    /// The pattern of the rule that decided; none where no rule is about the path.
    pub pattern: Option<String>,
    /// The policies which that rule comes from.
    pub policies: Vec<String>,
}

impl Denial {
    /// What a caller is told.
    pub const MESSAGE: &'static str = "permission denied";

    fn no_rule() -> Self {
        Self {
            reason: Reason::NoRule,
            pattern: None,
            policies: Vec::new(),
        }
    }

    fn by<'a>(reason: Reason, rule: &Permissions, policies: impl Iterator<Item = &'a str>) -> Self {
        Self {
            reason,
            pattern: Some(rule.pattern.to_string()),
            policies: policies.map(str::to_owned).collect(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reason,
            pattern,
            policies,
        } = self;
        write!(f, "{reason}")?;
        match pattern {
            Some(pattern) => write!(f, " by rule \"{pattern}\" of {}", policies.join(", ")),
            None => Ok(()),
        }
    }
}

/// What is missing or in the way of an action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No rule is about the path.
    #[error("no rule is about this path")]
    NoRule,
    /// It is denied explicitly.
    #[error("denied")]
    Denied,
    /// The rule that counts does not grant this capability.
    #[error("{0} is not granted")]
    NotGranted(Capability),
    /// The answer must be wrapped for a duration within these bounds, and the caller did not ask for it.
    #[error("wrapping {} is required", Bounds(*.min, *.max))]
    Wrapping {
        /// At least this long.
        min: Option<Duration>,
        /// At most this long.
        max: Option<Duration>,
    },
    /// A field is missing.
    #[error("field \"{0}\" is required")]
    FieldMissing(String),
    /// A field, or its value, is denied.
    #[error("field \"{0}\" or its value is denied")]
    FieldDenied(String),
    /// Others fields are allowed, or other values of this one.
    #[error("field \"{0}\" or its value is not allowed")]
    FieldNotAllowed(String),
}

struct Bounds(Option<Duration>, Option<Duration>);

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(Some(min), Some(max)) => write!(f, "for {min:?} to {max:?}"),
            Self(Some(min), None) => write!(f, "for at least {min:?}"),
            Self(None, Some(max)) => write!(f, "for at most {max:?}"),
            Self(None, None) => Ok(()),
        }
    }
}

/// Decides what a principal with these policies may do.
///
/// # Errors
/// [`Denial`] unless a rule grants it and none denies it.
pub fn decide(acl: &Acl, ask: &Ask<'_>) -> Result<Grant, Denial> {
    let list = ask.capability == Capability::List;
    let path = ask.path.trim_start_matches('/');
    let looked_up = match path {
        // Vault's listings are of paths that end in a slash, whether the caller writes it or not.
        path if list && !path.is_empty() && !path.ends_with('/') => Cow::Owned(format!("{path}/")),
        path => Cow::Borrowed(path),
    };
    let grant = |basis| Grant {
        path: path.into(),
        capability: ask.capability,
        basis,
    };
    match acl.find(&looked_up, list) {
        Verdict::Denied(rule) => Err(Denial::by(
            Reason::Denied,
            rule,
            rule.sources(Capability::Deny),
        )),
        _ if acl.root => Ok(grant(Basis::Root)),
        Verdict::Silent => Err(Denial::no_rule()),
        Verdict::Ruled(rule) => match obstacle(rule, ask) {
            None => Ok(grant(Basis::Rule(Arc::clone(rule)))),
            Some(reason) => Err(Denial::by(reason, rule, rule.all_sources())),
        },
    }
}

/// The grant to call an endpoint that is declared open to anyone: health, a login, a CRL.
///
/// # Errors
/// [`Denial`] where the endpoint is not declared so.
pub fn decide_public<H>(endpoint: &Endpoint<H>, path: &str) -> Result<Grant, Denial> {
    match endpoint.access {
        Access::Anyone => Ok(Grant {
            path: path.into(),
            capability: Capability::needed(endpoint.operation, true),
            basis: Basis::Public,
        }),
        Access::Policy | Access::Sudo => Err(Denial::no_rule()),
    }
}

/// What about `ask` the rule does not grant.
fn obstacle(rule: &Permissions, ask: &Ask<'_>) -> Option<Reason> {
    let lacks = |capability| !rule.capabilities.contains(capability);
    if lacks(ask.capability) {
        return Some(Reason::NotGranted(ask.capability));
    }
    if ask.sudo && lacks(Capability::Sudo) {
        return Some(Reason::NotGranted(Capability::Sudo));
    }
    let (min, max) = (rule.min_wrapping_ttl, rule.max_wrapping_ttl);
    let outside = match ask.wrap_ttl {
        None => min.is_some() || max.is_some(),
        Some(ttl) => min.is_some_and(|min| ttl < min) || max.is_some_and(|max| ttl > max),
    };
    if outside {
        return Some(Reason::Wrapping { min, max });
    }
    // As in Vault, neither a delete nor a list has fields that a policy could restrict.
    if matches!(ask.capability, Capability::Delete | Capability::List) {
        return None;
    }
    let refusal = rule.restrictions.check(ask.fields).err()?;
    Some(match refusal {
        Refusal::Missing(field) => Reason::FieldMissing(field),
        Refusal::Denied(field) => Reason::FieldDenied(field),
        Refusal::NotAllowed(field) => Reason::FieldNotAllowed(field),
    })
}

#[cfg(test)]
mod tests {
    use daypass_contract::Operation;
    use daypass_contract::route::Routes;
    use serde_json::json;

    use super::*;
    use crate::policy::Policy;

    fn acl(text: &str) -> Acl {
        Acl::compile(&[Arc::new(Policy::parse("p", text).unwrap())])
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

    #[test]
    fn a_grant_says_what_it_is_for_and_why() {
        let one = r#"path "kv/*" { capabilities = ["read"] }"#;
        let two = r#"path "kv/*" { capabilities = ["read", "update"] }"#;
        let three = r#"path "kv/*" { capabilities = ["update"] } path "k*" { policy = "read" }"#;
        let policies = [("one", one), ("two", two), ("three", three)]
            .map(|(name, text)| Arc::new(Policy::parse(name, text).unwrap()));
        let acl = Acl::compile(&policies);
        let grant = decide(&acl, &ask("kv/a", Capability::Read)).unwrap();
        assert_eq!(grant.path(), "kv/a");
        assert_eq!(grant.capability(), Capability::Read);
        assert_eq!(grant.pattern(), Some("kv/*"));
        assert_eq!(grant.policies().collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn a_denial_explains_without_quoting_a_value() {
        let acl = acl(r#"
            path "a" { capabilities = ["update"] denied_parameters = { "pin" = ["hunter2"] } }
            path "b" { capabilities = ["update"] allowed_parameters = { "pin" = ["1234"] } }
            path "c" { capabilities = ["update"] required_parameters = ["pin"] }
            path "d" { capabilities = ["read"] min_wrapping_ttl = 60 max_wrapping_ttl = "1h" }
            path "e" { policy = "deny" }
        "#);
        let pin = json!({ "pin": "hunter2" });
        let cases = [
            (
                "a",
                true,
                "field \"pin\" or its value is denied by rule \"a\" of p",
            ),
            (
                "b",
                true,
                "field \"pin\" or its value is not allowed by rule \"b\" of p",
            ),
            ("c", false, "field \"pin\" is required by rule \"c\" of p"),
            ("d", false, "update is not granted by rule \"d\" of p"),
            ("e", true, "denied by rule \"e\" of p"),
            ("f", true, "no rule is about this path"),
        ];
        for (path, with_pin, want) in cases {
            let ask = Ask {
                fields: pin.as_object().filter(|_| with_pin),
                ..ask(path, Capability::Update)
            };
            assert_eq!(decide(&acl, &ask).unwrap_err().to_string(), want);
        }
        let read = decide(&acl, &ask("d", Capability::Read))
            .unwrap_err()
            .to_string();
        assert_eq!(
            read,
            "wrapping for 60s to 3600s is required by rule \"d\" of p"
        );
    }

    #[test]
    fn a_rule_that_asks_for_wrapping_grants_nothing_unwrapped() {
        let acl = acl(r#"
            path "min" { capabilities = ["read"] min_wrapping_ttl = 60 }
            path "max" { capabilities = ["read"] max_wrapping_ttl = 60 }
        "#);
        let cases = [
            ("min", None, false),
            ("min", Some(59), false),
            ("min", Some(60), true),
            ("max", None, false),
            ("max", Some(60), true),
            ("max", Some(61), false),
        ];
        for (path, seconds, want) in cases {
            let ask = Ask {
                wrap_ttl: seconds.map(Duration::from_secs),
                ..ask(path, Capability::Read)
            };
            assert_eq!(decide(&acl, &ask).is_ok(), want, "{path} {seconds:?}");
        }
    }

    #[test]
    fn the_shorter_wrapping_of_two_policies_holds() {
        let acl = Acl::compile(&[
            Arc::new(
                Policy::parse("p", r#"path "a" { policy = "read" max_wrapping_ttl = 60 }"#)
                    .unwrap(),
            ),
            Arc::new(
                Policy::parse("q", r#"path "a" { policy = "read" max_wrapping_ttl = 9 }"#).unwrap(),
            ),
        ]);
        let wrapped = |seconds| Ask {
            wrap_ttl: Some(Duration::from_secs(seconds)),
            ..ask("a", Capability::Read)
        };
        assert!(decide(&acl, &wrapped(10)).is_err());
        assert!(decide(&acl, &wrapped(9)).is_ok());
    }

    #[test]
    fn only_what_is_declared_public_is() {
        let mut routes = Routes::default();
        for access in [Access::Anyone, Access::Policy, Access::Sudo] {
            let endpoint = routes.add::<(), ()>(Operation::Read, "a", "Reads.", ());
            endpoint.access = access;
            match decide_public(endpoint, "sys/a") {
                Ok(grant) => {
                    assert_eq!(access, Access::Anyone);
                    assert_eq!((grant.path(), grant.policies().count()), ("sys/a", 0));
                }
                Err(_) => assert_ne!(access, Access::Anyone),
            }
        }
    }

    #[test]
    fn a_write_needs_create_or_update() {
        assert_eq!(
            Capability::needed(Operation::Write, false),
            Capability::Create
        );
        assert_eq!(
            Capability::needed(Operation::Write, true),
            Capability::Update
        );
        assert_eq!(
            Capability::needed(Operation::Patch, false),
            Capability::Patch
        );
    }

    #[test]
    fn nobody_is_granted_the_capability_to_be_denied() {
        let acl = acl(r#"path "a" { policy = "deny" } path "*" { policy = "sudo" }"#);
        assert!(decide(&acl, &ask("a", Capability::Deny)).is_err());
        assert!(decide(&acl, &ask("b", Capability::Deny)).is_err());
    }
}
