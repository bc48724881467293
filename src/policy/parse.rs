//! From the text of a policy to its rules.
//!
//! **Invariant:** nothing that is written is dropped. An attribute we do not know, or know and do not
//! support, might be a restriction; the policy is refused and the complaint names the nearest valid word.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::hcl::{self, Item, Node, ParseError, Value};
use super::rule::{Capabilities, Capability, Parameters, Pattern, Policy, Rule};

/// The attributes of a `path` block.
const ATTRIBUTES: [&str; 8] = [
    "allowed_parameters",
    "capabilities",
    "comment",
    "denied_parameters",
    "max_wrapping_ttl",
    "min_wrapping_ttl",
    "policy",
    "required_parameters",
];

/// What Vault or OpenBao know and we do not.
const UNSUPPORTED: [&str; 6] = [
    "control_group",
    "expiration",
    "list_scan_response_keys_filter_path",
    "mfa_methods",
    "pagination_limit",
    "subscribe_event_types",
];

impl Policy {
    /// Reads a policy in HCL or JSON. The name is taken as it is; see
    /// [`builtin::writable_name`](super::builtin::writable_name) for names that callers choose.
    ///
    /// # Errors
    /// [`ParseError`] with the place and the fix.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        let reader = Reader { text };
        let mut rules = Vec::new();
        for item in hcl::parse(text)? {
            match item.key.as_str() {
                "path" => reader.paths(&item.node, &mut rules)?,
                "name" if item.node.text().is_some() => {}
                "name" => return Err(reader.error(&item, "\"name\" takes a text")),
                unknown => {
                    return Err(reader.unknown(&item, "attribute", unknown, &["path", "name"]));
                }
            }
        }
        Ok(Self {
            name: Arc::from(name),
            text: text.to_owned(),
            rules,
            root: false,
        })
    }
}

/// The text, for the places of complaints.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn paths(&self, node: &Node, rules: &mut Vec<Rule>) -> Result<(), ParseError> {
        let usage =
            "\"path\" takes a pattern and a block: path \"secret/*\" { capabilities = [\"read\"] }";
        let malformed = || node.at.error(self.text, usage);
        for paths in node.objects().ok_or_else(malformed)? {
            for path in paths {
                for body in path.node.objects().ok_or_else(malformed)? {
                    rules.push(self.rule(path, body)?);
                }
            }
        }
        Ok(())
    }

    fn rule(&self, path: &Item, body: &[Item]) -> Result<Rule, ParseError> {
        let pattern = Pattern::parse(&path.key).map_err(|problem| self.error(path, problem))?;
        let mut rule = Rule {
            pattern,
            capabilities: Capabilities::default(),
            allowed_parameters: Parameters::new(),
            denied_parameters: Parameters::new(),
            required_parameters: Vec::new(),
            min_wrapping_ttl: None,
            max_wrapping_ttl: None,
        };
        for (index, item) in body.iter().enumerate() {
            if body
                .iter()
                .take(index)
                .any(|earlier| earlier.key == item.key)
            {
                return Err(self.error(item, format!("\"{}\" is given twice", item.key)));
            }
            match item.key.as_str() {
                "capabilities" => {
                    let named = self.capabilities(item)?;
                    rule.capabilities = rule.capabilities.union(named);
                }
                "policy" => rule.capabilities = rule.capabilities.union(self.shorthand(item)?),
                "allowed_parameters" => {
                    rule.allowed_parameters = self.parameters(item)?;
                    // Vault ignores such values, so that a restriction which is meant does not hold.
                    if rule
                        .allowed_parameters
                        .get("*")
                        .is_some_and(|v| !v.is_empty())
                    {
                        return Err(
                            self.error(item, "\"*\" takes no values here: write \"*\" = []")
                        );
                    }
                }
                "denied_parameters" => rule.denied_parameters = self.parameters(item)?,
                "required_parameters" => {
                    for node in self.list(&item.node)? {
                        let name = self.word(node, "the name of a field")?.to_lowercase();
                        if !rule.required_parameters.contains(&name) {
                            rule.required_parameters.push(name);
                        }
                    }
                }
                "min_wrapping_ttl" => rule.min_wrapping_ttl = self.duration(item)?,
                "max_wrapping_ttl" => rule.max_wrapping_ttl = self.duration(item)?,
                "comment" => {}
                key if UNSUPPORTED.contains(&key) => {
                    return Err(self.error(item, format!("\"{key}\" is not supported: remove it")));
                }
                unknown => return Err(self.unknown(item, "attribute", unknown, &ATTRIBUTES)),
            }
        }
        if let (Some(min), Some(max)) = (rule.min_wrapping_ttl, rule.max_wrapping_ttl)
            && max < min
        {
            return Err(self.error(path, "max_wrapping_ttl is less than min_wrapping_ttl"));
        }
        if rule.capabilities.denies() {
            // Nothing is left to restrict.
            rule = Rule {
                pattern: rule.pattern,
                capabilities: rule.capabilities,
                allowed_parameters: Parameters::new(),
                denied_parameters: Parameters::new(),
                required_parameters: Vec::new(),
                min_wrapping_ttl: None,
                max_wrapping_ttl: None,
            };
        }
        Ok(rule)
    }

    fn capabilities(&self, item: &Item) -> Result<Capabilities, ParseError> {
        let names = Capability::ALL.map(Capability::name);
        let elements = self.list(&item.node)?.iter();
        let named = elements.map(|node| {
            let name = self.word(node, "the name of a capability")?;
            Capability::named(name).ok_or_else(|| {
                let problem = unknown_word("capability", name, &names);
                node.at.error(self.text, problem)
            })
        });
        named.collect()
    }

    /// The form of early policies: `policy = "read"`.
    fn shorthand(&self, item: &Item) -> Result<Capabilities, ParseError> {
        use Capability::{Create, Delete, Deny, List, Read, Sudo, Update};
        let capabilities: &[Capability] = match self.word(&item.node, "\"read\"")? {
            "deny" => &[Deny],
            "read" => &[Read, List],
            "write" => &[Create, Read, Update, Delete, List],
            "sudo" => &[Create, Read, Update, Delete, List, Sudo],
            unknown => {
                let names = ["deny", "read", "sudo", "write"];
                let problem = unknown_word("policy", unknown, &names);
                return Err(item.node.at.error(self.text, problem));
            }
        };
        Ok(capabilities.iter().copied().collect())
    }

    fn parameters(&self, item: &Item) -> Result<Parameters, ParseError> {
        let Value::Object(fields) = &item.node.value else {
            let problem = format!("\"{}\" takes {{ \"field\" = [values] }}", item.key);
            return Err(item.node.at.error(self.text, problem));
        };
        let mut parameters = Parameters::new();
        for field in fields {
            let values = self.list(&field.node)?.iter().map(|node| self.scalar(node));
            let values = values.collect::<Result<_, _>>()?;
            if parameters
                .insert(field.key.to_lowercase(), values)
                .is_some()
            {
                return Err(self.error(field, format!("\"{}\" is given twice", field.key)));
            }
        }
        Ok(parameters)
    }

    fn scalar(&self, node: &Node) -> Result<Json, ParseError> {
        match &node.value {
            Value::Bool(value) => Ok(Json::from(*value)),
            Value::Number(value) => Ok(Json::from(value.clone())),
            Value::Text(value) => Ok(Json::from(value.as_str())),
            Value::List(nodes) => nodes.iter().map(|node| self.scalar(node)).collect(),
            Value::Object(_) => {
                let problem = "expected text, a number, true, false or a list of these";
                Err(node.at.error(self.text, problem))
            }
        }
    }

    /// Seconds or a text such as `"1h"`; zero is "not said", as in Vault.
    fn duration(&self, item: &Item) -> Result<Option<Duration>, ParseError> {
        let duration = match &item.node.value {
            Value::Number(seconds) => seconds.as_u64().map(Duration::from_secs),
            Value::Text(text) => daypass_contract::parse_duration(text),
            _ => None,
        };
        match duration {
            Some(duration) if duration.subsec_nanos() % 1_000_000 == 0 => {
                Ok(Some(duration).filter(|duration| !duration.is_zero()))
            }
            _ => {
                let problem = "expected a duration such as 3600 or \"1h30m\"";
                Err(item.node.at.error(self.text, problem))
            }
        }
    }

    fn list<'n>(&self, node: &'n Node) -> Result<&'n [Node], ParseError> {
        let refuse = || node.at.error(self.text, "expected a [list]");
        node.elements().ok_or_else(refuse)
    }

    fn word<'n>(&self, node: &'n Node, wanted: &str) -> Result<&'n str, ParseError> {
        let refuse = || {
            node.at
                .error(self.text, format!("expected {wanted} in quotes"))
        };
        node.text().ok_or_else(refuse)
    }

    fn error(&self, item: &Item, problem: impl Into<String>) -> ParseError {
        item.at.error(self.text, problem)
    }

    fn unknown(&self, item: &Item, what: &str, word: &str, valid: &[&str]) -> ParseError {
        self.error(item, unknown_word(what, word, valid))
    }
}

/// `unknown attribute "capabilites": did you mean "capabilities"?`
pub(super) fn unknown_word(what: &str, word: &str, valid: &[&str]) -> String {
    // Measuring a distance takes time in proportion to the length.
    let word: String = word.chars().take(40).collect();
    let lower = word.to_lowercase();
    let scored = valid
        .iter()
        .map(|valid| (strsim::damerau_levenshtein(&lower, valid), valid));
    match scored
        .min()
        .filter(|(distance, _)| distance * 3 <= word.len())
    {
        Some((_, nearest)) => format!("unknown {what} \"{word}\": did you mean \"{nearest}\"?"),
        None => format!(
            "unknown {what} \"{word}\": expected one of {}",
            valid.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        let policy = Policy::parse("test", text);
        policy
            .unwrap_or_else(|error| panic!("{error}: {text}"))
            .rules()
            .to_vec()
    }

    /// The rules as they are printed, without the white space.
    fn printed(text: &str) -> String {
        let printed: String = rules(text).iter().map(ToString::to_string).collect();
        printed.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn policies_as_people_write_them() {
        let read = r#"path "a" { capabilities = ["read"] }"#;
        let cases = [
            (r#"path "a" { capabilities = ["read"] }"#, read),
            (r#"path "/a" { "capabilities" = ["read",], }"#, read),
            (
                r#""path" a { comment = "why" capabilities = ["read"] }"#,
                read,
            ),
            (r#"name = "x" path "a" { capabilities = ["read"] }"#, read),
            (r#"{"path": {"a": {"capabilities": ["read"]}}}"#, read),
            (r#"{"path": [{"a": [{"capabilities": ["read"]}]}]}"#, read),
            ("# nothing", ""),
            (r#"path "a" {}"#, r#"path "a" { capabilities = [] }"#),
            (
                r#"path "a" { policy = "read" } path "b" { policy = "write" }"#,
                r#"path "a" { capabilities = ["read", "list"] } path "b" { capabilities = ["create", "read", "update", "delete", "list"] }"#,
            ),
            (
                r#"path "a" { policy = "sudo" capabilities = ["patch"] }"#,
                r#"path "a" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }"#,
            ),
            (
                r#"path "a" { policy = "read" capabilities = ["deny"] min_wrapping_ttl = 5 }"#,
                r#"path "a" { capabilities = ["deny"] }"#,
            ),
            (
                r#"path "a" { capabilities = ["update"]
                     allowed_parameters { "Zip" = ["a*", 1, true, ["b"]] "*" = [] }
                     denied_parameters = { x = [] }
                     required_parameters = ["Zip", "zip"]
                     min_wrapping_ttl = 5 max_wrapping_ttl = "1h" }"#,
                r#"path "a" { capabilities = ["update"] allowed_parameters = { "*" = [] "zip" = ["a*", 1, true, ["b"]] } denied_parameters = { "x" = [] } required_parameters = ["zip"] min_wrapping_ttl = "5000ms" max_wrapping_ttl = "3600000ms" }"#,
            ),
            (
                r#"path "a" { min_wrapping_ttl = 0 max_wrapping_ttl = "0s" }"#,
                r#"path "a" { capabilities = [] }"#,
            ),
        ];
        for (text, want) in cases {
            assert_eq!(printed(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let cases = [
            (
                "foo = 1",
                "line 1, column 1: unknown attribute \"foo\": expected one of path, name",
            ),
            ("name = 1", "line 1, column 1: \"name\" takes a text"),
            (
                "path \"a\" {\n  capabilites = []\n}",
                "line 2, column 3: unknown attribute \"capabilites\": did you mean \"capabilities\"?",
            ),
            (
                "path \"a\" {\n  capabilities = [\"read\", \"upadte\"]\n}",
                "line 2, column 27: unknown capability \"upadte\": did you mean \"update\"?",
            ),
            (
                "path \"a\" { capabilities = [\"READ\"] }",
                "line 1, column 28: unknown capability \"READ\": did you mean \"read\"?",
            ),
            (
                "path \"a\" { capabilities = [\"deny\", \"scan\"] }",
                "line 1, column 36: unknown capability \"scan\": expected one of create, read, update, patch, delete, list, sudo, deny",
            ),
            (
                "path \"a\" { policy = \"wriet\" }",
                "line 1, column 21: unknown policy \"wriet\": did you mean \"write\"?",
            ),
            (
                "path \"a\" { capabilities = \"read\" }",
                "line 1, column 27: expected a [list]",
            ),
            (
                "path \"a\" { capabilities = [1] }",
                "line 1, column 28: expected the name of a capability in quotes",
            ),
            (
                "path \"a\" { control_group = {} }",
                "line 1, column 12: \"control_group\" is not supported: remove it",
            ),
            (
                "path \"a\" { policy = \"read\" policy = \"deny\" }",
                "line 1, column 28: \"policy\" is given twice",
            ),
            (
                "path \"a\" { denied_parameters = { x = [] X = [1] } }",
                "line 1, column 41: \"X\" is given twice",
            ),
            (
                "path \"a\" { allowed_parameters = { \"*\" = [1] } }",
                "line 1, column 12: \"*\" takes no values here: write \"*\" = []",
            ),
            (
                "path \"a\" { allowed_parameters = [] }",
                "line 1, column 33: \"allowed_parameters\" takes { \"field\" = [values] }",
            ),
            (
                "path \"a\" { allowed_parameters = { x = [{}] } }",
                "line 1, column 40: expected text, a number, true, false or a list of these",
            ),
            (
                "path \"a\" { min_wrapping_ttl = \"soon\" }",
                "line 1, column 31: expected a duration such as 3600 or \"1h30m\"",
            ),
            (
                "path \"a\" { min_wrapping_ttl = \"0.5ms\" }",
                "line 1, column 31: expected a duration such as 3600 or \"1h30m\"",
            ),
            (
                "path \"a\" { min_wrapping_ttl = 2 max_wrapping_ttl = 1 }",
                "line 1, column 6: max_wrapping_ttl is less than min_wrapping_ttl",
            ),
            (
                "path \"a/+*\" {}",
                "line 1, column 6: \"+*\" is not a pattern: use \"+/*\" or \"*\"",
            ),
            (
                "path \"//a\" {}",
                "line 1, column 6: paths do not begin with two slashes",
            ),
            (
                "path \"a/{{identity.entity.id}}\" {}",
                "line 1, column 6: templates are not supported, and read as they stand would match nothing: write a policy for each identity, with its id or name in place of {{…}}",
            ),
            (
                "path \"a\" \"b\" {}",
                "line 1, column 10: unknown attribute \"b\": expected one of allowed_parameters, capabilities, comment, denied_parameters, max_wrapping_ttl, min_wrapping_ttl, policy, required_parameters",
            ),
            (
                "path { capabilities = [\"read\"] }",
                "line 1, column 6: \"path\" takes a pattern and a block: path \"secret/*\" { capabilities = [\"read\"] }",
            ),
        ];
        for (text, want) in cases {
            let error = Policy::parse("test", text).unwrap_err();
            assert_eq!(error.to_string(), want, "{text}");
        }
    }

    fn values() -> impl Strategy<Value = Vec<Json>> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<i32>().prop_map(|quarters| Json::from(f64::from(quarters) / 4.0)),
            any::<String>().prop_map(Json::from),
        ];
        let value = leaf.prop_recursive(2, 6, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(Json::from)
        });
        prop::collection::vec(value, 0..3)
    }

    fn parameters() -> impl Strategy<Value = Parameters> {
        let name = any::<String>().prop_map(|name| name.to_lowercase());
        // Lower-casing twice is not always lower-casing once.
        let name = name.prop_filter("stable", |name| name.to_lowercase() == *name && name != "*");
        prop::collection::btree_map(name, values(), 0..3)
    }

    prop_compose! {
        fn rule()(
            pattern in any::<String>().prop_filter_map("pattern", |text| Pattern::parse(&text).ok()),
            capabilities in prop::sample::subsequence(Capability::ALL.to_vec(), 0..=8),
            allowed_parameters in parameters(),
            denied_parameters in parameters(),
            required_parameters in prop::collection::btree_set("[a-z\"\\\\]{0,3}", 0..3),
            ttls in prop::collection::vec(1_u64..100_000_000, 2),
        ) -> Rule {
            let capabilities: Capabilities = capabilities.into_iter().collect();
            let denies = capabilities.denies();
            let ttl = |millis: Option<&u64>| millis.filter(|_| !denies).map(|m| Duration::from_millis(*m));
            Rule {
                pattern,
                capabilities,
                allowed_parameters: if denies { Parameters::new() } else { allowed_parameters },
                denied_parameters: if denies { Parameters::new() } else { denied_parameters },
                required_parameters: required_parameters.into_iter().filter(|_| !denies).collect(),
                min_wrapping_ttl: ttl(ttls.iter().min()),
                max_wrapping_ttl: ttl(ttls.iter().max()),
            }
        }
    }

    proptest! {
        #[test]
        fn printing_and_reading_gives_the_same_rules(want in prop::collection::vec(rule(), 0..4)) {
            let text: String = want.iter().map(ToString::to_string).collect();
            let got = Policy::parse("test", &text);
            let got = got.map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            prop_assert_eq!(got.rules(), want);
        }

        #[test]
        fn any_text_is_a_policy_or_refused(
            text in r#"(path|"a"|policy|capabilities|[ ={}\[\],]|"(read|deny)"|allowed_parameters|\PC){0,30}"#,
        ) {
            drop(Policy::parse("test", &text));
        }
    }
}
