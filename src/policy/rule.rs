//! What a policy says: rules, each a path pattern with the capabilities it grants or denies and the
//! conditions under which it grants them.
//!
//! **Invariant:** a set of capabilities that holds [`Capability::Deny`] holds nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use daypass_contract::Operation;
use serde_json::Value;

/// What a rule lets a caller do on a path, in the order in which they are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Write what does not exist yet.
    Create,
    /// Read.
    Read,
    /// Write what exists, or what has no notion of existing.
    Update,
    /// Change a part of what exists.
    Patch,
    /// Delete.
    Delete,
    /// List names.
    List,
    /// Besides another capability: use what only administrators may.
    Sudo,
    /// Nothing, whatever else grants it.
    Deny,
}

impl Capability {
    /// Every capability.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Read,
        Self::Update,
        Self::Patch,
        Self::Delete,
        Self::List,
        Self::Sudo,
        Self::Deny,
    ];

    /// What `operation` needs. A write needs `create` where the target does not exist and `update` where it
    /// does, or where it has no notion of existing.
    pub fn needed(operation: Operation, target_exists: bool) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::List => Self::List,
            Operation::Write if target_exists => Self::Update,
            Operation::Write => Self::Create,
            Operation::Patch => Self::Patch,
            Operation::Delete => Self::Delete,
        }
    }

    /// Its name in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Sudo => "sudo",
            Self::Deny => "deny",
        }
    }

    /// The capability of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of capabilities. `deny` drives out all others.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u8);

impl Capabilities {
    /// Every capability but `deny`: what the policy `root` grants.
    pub const ALL: Self = Self(!Capability::Deny.bit());

    /// Whether `capability` is in the set.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & capability.bit() != 0
    }

    /// Whether the set is `deny`.
    pub fn denies(self) -> bool {
        self.contains(Capability::Deny)
    }

    /// Whether the set holds anything but `deny`.
    pub fn grants(self) -> bool {
        self.0 != 0 && !self.denies()
    }

    /// What either set holds; `deny` where either is.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let both = Self(self.0 | other.0);
        if both.denies() {
            return Self(Capability::Deny.bit());
        }
        both
    }

    /// The members, in the order of [`Capability`].
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL
            .into_iter()
            .filter(move |c| self.contains(*c))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let sets = capabilities.into_iter().map(|c| Self(c.bit()));
        sets.fold(Self::default(), Self::union)
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Values by the lower-cased name of a request field; no values stand for any value, and the name `*` for
/// any field.
pub type Parameters = BTreeMap<String, Vec<Value>>;

/// Which paths a rule is about: `a/b` itself, `a/*` whatever begins with `a/`, and in either `+` any
/// one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Reads a pattern. One leading `/` is dropped, as paths are counted from the API's root.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix('/').unwrap_or(text);
        if text.contains("+*") {
            return Err("\"+*\" is not a pattern: use \"+/*\" or \"*\"");
        }
        // Read as it stands, either of these would match nothing, and a deny would silently be none.
        if text.starts_with('/') {
            return Err("paths do not begin with two slashes");
        }
        if text.contains("{{") {
            return Err(
                "templates are not supported, and read as they stand would match nothing: write \
                 a policy for each identity, with its id or name in place of {{…}}",
            );
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written, without a leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How it matches.
    pub(super) fn kind(&self) -> Kind<'_> {
        let text = self.0.as_str();
        // A `+` that only begins a segment does not stand for one, but moves the rule to this list all
        // the same, and with that its rank among the rules that match.
        if text == "+" || text.starts_with("+/") || text.contains("/+") {
            return match text.strip_suffix('*') {
                Some(prefix) => Kind::Segments(prefix, End::Open),
                None => Kind::Segments(text, End::Closed),
            };
        }
        text.strip_suffix('*')
            .map_or(Kind::Exact(text), Kind::Prefix)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a pattern matches, with the text it does it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// That path.
    Exact(&'a str),
    /// Every path that begins so.
    Prefix(&'a str),
    /// Segment by segment, `+` being any.
    Segments(&'a str, End),
}

/// Whether a path may go on after the last segment of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// It may: the pattern ends in `*`.
    Open,
    /// It may not.
    Closed,
}

/// One `path` block.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which paths it is about.
    pub pattern: Pattern,
    /// What it grants there, or `deny`.
    pub capabilities: Capabilities,
    /// The fields a request may have, where there are any.
    pub allowed_parameters: Parameters,
    /// The fields, or values of fields, a request may not have.
    pub denied_parameters: Parameters,
    /// The lower-cased names of the fields a request must have.
    pub required_parameters: Vec<String>,
    /// The answer must be wrapped, for at least this long.
    pub min_wrapping_ttl: Option<Duration>,
    /// The answer must be wrapped, for at most this long.
    pub max_wrapping_ttl: Option<Duration>,
}

/// A named list of rules. The policy `root`, which grants everything, is made by
/// [`builtin::root`](super::builtin::root) and cannot be written.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) name: Arc<str>,
    pub(super) text: String,
    pub(super) rules: Vec<Rule>,
    pub(super) root: bool,
}

impl Policy {
    /// Its name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its rules, in the order of the text.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether it grants everything.
    pub fn is_root(&self) -> bool {
        self.root
    }
}

impl fmt::Display for Rule {
    /// HCL that reads as this rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pattern,
            capabilities,
            allowed_parameters,
            denied_parameters,
            required_parameters,
            min_wrapping_ttl,
            max_wrapping_ttl,
        } = self;
        writeln!(f, "path {} {{", Quoted(pattern.as_str()))?;
        let names = capabilities.iter().map(|c| format!("\"{c}\""));
        writeln!(
            f,
            "  capabilities = [{}]",
            names.collect::<Vec<_>>().join(", ")
        )?;
        for (name, parameters) in [
            ("allowed_parameters", allowed_parameters),
            ("denied_parameters", denied_parameters),
        ] {
            if parameters.is_empty() {
                continue;
            }
            writeln!(f, "  {name} = {{")?;
            for (field, values) in parameters {
                writeln!(f, "    {} = {}", Quoted(field), Listed(values))?;
            }
            writeln!(f, "  }}")?;
        }
        if !required_parameters.is_empty() {
            let names = required_parameters.iter().map(|n| Quoted(n).to_string());
            let names = names.collect::<Vec<_>>().join(", ");
            writeln!(f, "  required_parameters = [{names}]")?;
        }
        for (name, ttl) in [
            ("min_wrapping_ttl", min_wrapping_ttl),
            ("max_wrapping_ttl", max_wrapping_ttl),
        ] {
            if let Some(ttl) = ttl {
                writeln!(f, "  {name} = \"{}ms\"", ttl.as_millis())?;
            }
        }
        writeln!(f, "}}")
    }
}

/// A string as HCL and JSON both read it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Value::from(self.0))
    }
}

struct Listed<'a>(&'a [Value]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<_> = self.0.iter().map(Value::to_string).collect();
        write!(f, "[{}]", values.join(", "))
    }
}
