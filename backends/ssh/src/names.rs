//! [`Names`]: a list that the Vault API writes as one text with commas.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names without duplicates, in the order given. Read from text with commas or from a list; written as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// The names in `items`, each of which may itself hold several.
    pub(crate) fn of<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names = Vec::new();
        for name in items.into_iter().flat_map(|item| item.split(',')) {
            let name = name.trim();
            if !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Self(names)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.iter().any(|known| known == name)
    }

    /// Whether `*` is among them, which stands for every name.
    pub(crate) fn all(&self) -> bool {
        self.contains("*")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<String> {
        self.0
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.join(","))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrList)
    }
}

struct TextOrList;

impl<'de> Visitor<'de> for TextOrList {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names, separated by commas")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Names, E> {
        Ok(Names::of([text]))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Names, A::Error> {
        let mut texts: Vec<String> = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(Names::of(texts.iter().map(String::as_str)))
    }
}

impl JsonSchema for Names {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Names".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Reads a flag, where `""` is how some clients leave it out.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Flag;
    impl Visitor<'_> for Flag {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true or false")
        }

        fn visit_bool<E: de::Error>(self, flag: bool) -> Result<bool, E> {
            Ok(flag)
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<bool, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
            Ok(false)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
            match text {
                "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true),
                "" | "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false),
                other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
            }
        }
    }
    deserializer.deserialize_any(Flag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_from_text_and_from_lists() {
        let cases = [
            (r#""a,b""#, "a,b"),
            (r#"" a , ,b,a""#, "a,b"),
            (r#"["a","b,c"]"#, "a,b,c"),
            (r#""""#, ""),
            ("null", ""),
        ];
        for (json, want) in cases {
            let names: Names = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_value(&names).unwrap(), want, "{json}");
        }
        assert!(serde_json::from_str::<Names>("{}").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(texts in proptest::collection::vec(".{0,8}", 0..6)) {
            let names = Names::of(texts.iter().map(String::as_str));
            let written = serde_json::to_string(&names).unwrap();
            prop_assert_eq!(serde_json::from_str::<Names>(&written).unwrap(), names);
        }
    }
}
