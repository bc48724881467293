//! Templates of claims: JSON with `{{…}}` where a value belongs.
//!
//! **Invariant:** a value never becomes part of the text. The template is parsed as JSON once, with a mark
//! where each value goes, and values are put into the tree; nothing an entity is called can add a claim.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::{millis, parse_duration};
use serde_json::{Map, Value};

use crate::identity::{Alias, IdentityError, Standing};

/// Claims that no template may set.
const RESERVED: [&str; 10] = [
    "iat",
    "aud",
    "exp",
    "iss",
    "sub",
    "namespace",
    "nonce",
    "auth_time",
    "at_hash",
    "c_hash",
];
/// Begins the text of a mark. JSON text cannot hold it but escaped, and that is refused.
const MARK: char = '\u{1}';
const LONGEST: usize = 64 * 1024;

/// A template that was found good.
pub(super) struct Template {
    tree: Map<String, Value>,
    directives: Vec<Directive>,
}

/// What stands between `{{` and `}}`.
#[derive(Clone, Debug, PartialEq)]
enum Directive {
    EntityId,
    EntityName,
    Metadata(Option<String>),
    GroupNames,
    GroupIds,
    Alias(String, Field),
    Now(Option<(bool, Duration)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Field {
    Id,
    Name,
    Metadata(Option<String>),
    CustomMetadata(Option<String>),
}

/// The text of a template that was given as it is or in base64.
pub(super) fn text_of(given: &str) -> String {
    let decoded = STANDARD.decode(given.trim()).ok();
    decoded
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| given.to_owned())
}

impl Template {
    /// Reads a template; an empty one has no claims.
    pub(super) fn parse(text: &str) -> Result<Self, IdentityError> {
        let refuse = |problem: &str| Err(IdentityError::invalid(problem));
        if text.trim().is_empty() {
            return Ok(Self {
                tree: Map::new(),
                directives: Vec::new(),
            });
        }
        if text.len() > LONGEST {
            return refuse("field \"template\": must be at most 64 KiB");
        }
        if text.contains("\\u0001") || text.contains(MARK) {
            return refuse("error parsing template: it contains the control character U+0001");
        }
        let mut directives = Vec::new();
        let mut marked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, after)) = after.split_once("}}") else {
                return refuse("error parsing template: unbalanced templating characters");
            };
            let Some(directive) = Directive::parse(inside.trim()) else {
                return refuse(
                    "error parsing template: no value could be found for one of the template directives",
                );
            };
            marked.push_str(before);
            // Escaped, so that it is a mark only where a whole value belongs.
            marked.push_str("\"\\u0001");
            marked.push_str(&directives.len().to_string());
            marked.push('"');
            directives.push(directive);
            rest = after;
        }
        marked.push_str(rest);
        let tree = match serde_json::from_str(&marked) {
            Ok(Value::Object(tree)) => tree,
            Ok(_) => return refuse("error parsing template JSON: it must be an object"),
            Err(error) => {
                return Err(IdentityError::invalid(format!(
                    "error parsing template JSON: not valid in line {}; a directive stands for a whole value, \
                     without quotes",
                    error.line()
                )));
            }
        };
        let reserved = tree.keys().find(|key| RESERVED.contains(&key.as_str()));
        if let Some(reserved) = reserved {
            return Err(IdentityError::invalid(format!(
                "top level key {reserved:?} not allowed. Restricted keys: {}",
                RESERVED.join(", ")
            )));
        }
        if has_marked_key(&tree) {
            return refuse("error parsing template JSON: a directive cannot be a key");
        }
        Ok(Self { tree, directives })
    }

    /// The claims for an entity.
    pub(super) fn fill(self, standing: &Standing, now: SystemTime) -> Map<String, Value> {
        let Self {
            mut tree,
            directives,
        } = self;
        let values: Vec<Value> = directives
            .iter()
            .map(|directive| directive.value(standing, now))
            .collect();
        for value in tree.values_mut() {
            fill(value, &values);
        }
        tree
    }
}

fn has_marked_key(tree: &Map<String, Value>) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::Object(fields) => has_marked_key(fields),
            Value::Array(items) => items.iter().any(within),
            _ => false,
        }
    }
    tree.iter()
        .any(|(key, value)| key.contains(MARK) || within(value))
}

fn fill(value: &mut Value, values: &[Value]) {
    match value {
        Value::String(text) => {
            let mark = text
                .strip_prefix(MARK)
                .and_then(|mark| mark.parse::<usize>().ok());
            if let Some(filled) = mark.and_then(|mark| values.get(mark)) {
                *value = filled.clone();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, values)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill(field, values)),
        _ => {}
    }
}

impl Directive {
    fn parse(text: &str) -> Option<Self> {
        if let Some(time) = text.strip_prefix("time.now") {
            if time.is_empty() {
                return Some(Self::Now(None));
            }
            let (later, by) = match time.strip_prefix(".plus.") {
                Some(by) => (true, by),
                None => (false, time.strip_prefix(".minus.")?),
            };
            return Some(Self::Now(Some((later, parse_duration(by)?))));
        }
        let entity = text.strip_prefix("identity.entity.")?;
        match entity {
            "id" => return Some(Self::EntityId),
            "name" => return Some(Self::EntityName),
            "metadata" => return Some(Self::Metadata(None)),
            "groups.names" => return Some(Self::GroupNames),
            "groups.ids" => return Some(Self::GroupIds),
            _ => {}
        }
        if let Some(key) = entity.strip_prefix("metadata.") {
            return Some(Self::Metadata(Some(key.to_owned())));
        }
        let (accessor, field) = entity.strip_prefix("aliases.")?.split_once('.')?;
        let field = match field {
            "id" => Field::Id,
            "name" => Field::Name,
            "metadata" => Field::Metadata(None),
            "custom_metadata" => Field::CustomMetadata(None),
            field => match field.strip_prefix("metadata.") {
                Some(key) => Field::Metadata(Some(key.to_owned())),
                None => {
                    Field::CustomMetadata(Some(field.strip_prefix("custom_metadata.")?.to_owned()))
                }
            },
        };
        Some(Self::Alias(accessor.to_owned(), field))
    }

    fn value(&self, standing: &Standing, now: SystemTime) -> Value {
        match self {
            Self::EntityId => standing.id.clone().into(),
            Self::EntityName => standing.name.clone().into(),
            Self::Metadata(key) => pairs(&standing.metadata, key.as_deref()),
            Self::GroupNames => {
                let names = standing.groups.iter().map(|group| group.name.clone());
                names.collect::<Vec<_>>().into()
            }
            Self::GroupIds => standing.group_ids().collect::<Vec<_>>().into(),
            Self::Alias(accessor, field) => {
                let alias = standing.alias_at(accessor);
                let text = |text: fn(&Alias) -> &String| {
                    alias.map(text).cloned().unwrap_or_default().into()
                };
                let none = BTreeMap::new();
                match field {
                    Field::Id => text(|alias| &alias.id),
                    Field::Name => text(|alias| &alias.name),
                    Field::Metadata(key) => {
                        pairs(alias.map_or(&none, |alias| &alias.metadata), key.as_deref())
                    }
                    Field::CustomMetadata(key) => {
                        let custom = alias.map_or(&none, |alias| &alias.custom_metadata);
                        pairs(custom, key.as_deref())
                    }
                }
            }
            Self::Now(shift) => {
                let at = match shift {
                    None => Some(now),
                    Some((true, by)) => now.checked_add(*by),
                    Some((false, by)) => now.checked_sub(*by),
                };
                (millis::of(at.unwrap_or(now)) / 1000).into()
            }
        }
    }
}

/// All pairs, or the value of one key; `""` where there is none.
fn pairs(pairs: &BTreeMap<String, String>, key: Option<&str>) -> Value {
    match key {
        Some(key) => pairs.get(key).cloned().unwrap_or_default().into(),
        None => pairs
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.clone())))
            .collect::<Map<_, _>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::identity::StandingGroup;

    fn standing(name: &str, team: &str) -> Standing {
        Standing {
            id: "id-1".into(),
            name: name.into(),
            disabled: false,
            policies: Vec::new(),
            metadata: BTreeMap::from([("team".into(), team.into())]),
            owner: None,
            environment: None,
            ends_at: None,
            groups: vec![StandingGroup {
                id: "g".into(),
                name: "ops".into(),
                metadata: BTreeMap::new(),
                direct: true,
            }],
            aliases: Vec::new(),
            vouched: Vec::new(),
        }
    }

    #[test]
    fn directives_become_typed_values() {
        let text = r#"{"n": {{identity.entity.name}}, "all": {{ identity.entity.metadata }},
            "in": {"team": {{identity.entity.metadata.team}}, "x": [{{identity.entity.id}}, 1]},
            "g": {{identity.entity.groups.names}}, "gi": {{identity.entity.groups.ids}},
            "now": {{time.now}}, "later": {{time.now.plus.30s}}, "none": {{identity.entity.metadata.zz}},
            "al": {{identity.entity.aliases.a_b.name}}, "am": {{identity.entity.aliases.a_b.metadata}}}"#;
        let now = millis::at(100_000);
        let claims = Template::parse(text)
            .unwrap()
            .fill(&standing("ci", "a\"b"), now);
        let want = json!({"n": "ci", "all": {"team": "a\"b"}, "in": {"team": "a\"b", "x": ["id-1", 1]},
            "g": ["ops"], "gi": ["g"], "now": 100, "later": 130, "none": "", "al": "", "am": {}});
        assert_eq!(Value::Object(claims), want);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "nope",
            "[]",
            "{\"a\": {{identity.nope}}}",
            "{\"a\": {{identity.entity.name}",
            "{\"a\": \"pre-{{identity.entity.name}}\"}",
            "{{{identity.entity.name}}: 1}",
            "{\"x\": {{{identity.entity.name}}: 1}}",
            "{\"iss\": 1}",
            "{\"sub\": {{identity.entity.name}}}",
            "{\"a\": \"\\u00010\"}",
            "{\"a\": {{time.now.plus.soon}}}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert_eq!(text_of("eyJhIjogMX0="), "{\"a\": 1}");
    }

    proptest! {
        #[test]
        fn no_value_adds_a_claim(name in "\\PC{0,24}", team in "[\"{},:\\\\\u{1}0-9a-z]{0,24}") {
            let text = r#"{"n": {{identity.entity.name}}, "t": {{identity.entity.metadata.team}}}"#;
            let standing = standing(&name, &team);
            let claims = Template::parse(text).unwrap().fill(&standing, millis::at(0));
            prop_assert_eq!(Value::Object(claims), json!({"n": name, "t": team}));
        }
    }
}
