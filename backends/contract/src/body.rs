//! Request fields, decoded the way clients of the Vault API send them.
//!
//! A CLI sends every value as text (`max_ttl=1h`, `allow_any_name=true`, `policies=a,b`), a program
//! sends JSON types; both must reach the same typed request. [`Body::decode`] is a serde
//! deserializer that accepts either.
//!
//! **Invariant:** an error names the field and what was expected, never the value that was sent. serde's
//! own messages quote values, so [`BodyError`] drops what they carry.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde_json::{Map, Value};

/// The fields of one request: its JSON body, its query and the parameters of its path.
///
/// It has no `Debug`: any value in it may be a secret.
#[derive(Default)]
pub struct Body(Map<String, Value>);

impl Body {
    /// Wraps fields that were already parsed.
    pub fn new(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// The names and values as they came.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Sets a field, replacing what the caller sent under that name.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Reads the fields into a typed request.
    ///
    /// # Errors
    /// [`BodyError`], which names the field at fault and what it should hold.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, BodyError> {
        T::deserialize(Fields(&self.0))
    }
}

/// Why a body does not fit: the field and the expectation, never the value.
#[derive(Clone, PartialEq, Eq)]
pub struct BodyError {
    /// The path of the field, outermost first (`options.cas`); empty for the body as a whole.
    path: Vec<String>,
    problem: String,
}

impl BodyError {
    /// A problem that `problem` describes without quoting any value.
    pub fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            path: vec![field.to_owned()],
            problem: problem.into(),
        }
    }

    fn within(mut self, field: &str) -> Self {
        self.path.insert(0, field.to_owned());
        self
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "field \"{}\": {}", self.path.join("."), self.problem)
        }
    }
}

impl fmt::Debug for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for BodyError {}

impl de::Error for BodyError {
    /// Our own `Deserialize` implementations call this with fixed text; foreign ones may quote the
    /// value they were given, so only text that marks itself with [`SAFE`] is kept.
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let problem = message
            .strip_prefix(SAFE)
            .unwrap_or("is not valid")
            .to_owned();
        Self {
            path: Vec::new(),
            problem,
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self {
            path: Vec::new(),
            problem: format!("expected {expected}, found {}", kind(found)),
        }
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self {
            path: Vec::new(),
            problem: format!("expected {expected}"),
        }
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self {
            path: Vec::new(),
            problem: format!("expected {expected}, found {length} elements"),
        }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self {
            path: Vec::new(),
            problem: format!("expected one of {}", expected.join(", ")),
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        // The name of a field is not a secret, but a client that swaps name and value makes it one:
        // show it only where it looks like a name.
        let shown = if is_name(field) {
            field
        } else {
            "(not a name)"
        };
        let problem = match nearest(field, expected.iter().copied()) {
            Some(name) => format!("is not known here; did you mean \"{name}\"?"),
            None => format!("is not known here; known are {}", expected.join(", ")),
        };
        Self::new(shown, problem)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(field, "is required")
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(field, "is given twice")
    }
}

/// Marks the text of a custom serde error as free of values, so that [`BodyError`] shows it.
pub const SAFE: &str = "\u{1}";

/// The known name closest to `given`, where one is close enough to be what was meant.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= 1.max(name.len() / 3))
        .min()
        .map(|(_, name)| name)
}

fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) => "text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        Unexpected::Unit | Unexpected::Option => "null",
        _ => "something else",
    }
}

/// The fields of an object, each error tagged with the field it came from.
struct Fields<'a>(&'a Map<String, Value>);

impl<'de> de::Deserializer<'de> for Fields<'_> {
    type Error = BodyError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        visitor.visit_map(Members {
            entries: self.0.iter(),
            pending: None,
        })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Members<'a> {
    entries: serde_json::map::Iter<'a>,
    pending: Option<(&'a String, &'a Value)>,
}

impl<'de> de::MapAccess<'de> for Members<'_> {
    type Error = BodyError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, BodyError> {
        self.pending = self.entries.next();
        match self.pending {
            Some((name, _)) => seed
                .deserialize(name.as_str().into_deserializer())
                .map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, BodyError> {
        let Some((name, value)) = self.pending.take() else {
            return Err(BodyError {
                path: Vec::new(),
                problem: "value without a name".into(),
            });
        };
        seed.deserialize(Lenient(value))
            .map_err(|error| error.within(name))
    }
}

/// One value, read as the type the request asks for where its text allows that.
struct Lenient<'a>(&'a Value);

impl IntoDeserializer<'_, BodyError> for Lenient<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! number {
    ($method:ident, $visit:ident, $type:ty) => {
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
            match self.0.as_str().map(|text| text.trim().parse::<$type>()) {
                Some(Ok(number)) => visitor.$visit(number),
                _ => self.deserialize_any(visitor),
            }
        }
    };
}

impl<'de> de::Deserializer<'de> for Lenient<'_> {
    type Error = BodyError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => {
                if let Some(number) = number.as_u64() {
                    visitor.visit_u64(number)
                } else if let Some(number) = number.as_i64() {
                    visitor.visit_i64(number)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => {
                SeqDeserializer::new(items.iter().map(Lenient)).deserialize_any(visitor)
            }
            Value::Object(fields) => Fields(fields).deserialize_any(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        match (self.0.as_str(), self.0.as_u64()) {
            (Some("true" | "1" | "t" | "T" | "TRUE" | "True"), _) | (None, Some(1)) => {
                visitor.visit_bool(true)
            }
            (Some("false" | "0" | "f" | "F" | "FALSE" | "False"), _) | (None, Some(0)) => {
                visitor.visit_bool(false)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    number!(deserialize_i8, visit_i8, i8);
    number!(deserialize_i16, visit_i16, i16);
    number!(deserialize_i32, visit_i32, i32);
    number!(deserialize_i64, visit_i64, i64);
    number!(deserialize_u8, visit_u8, u8);
    number!(deserialize_u16, visit_u16, u16);
    number!(deserialize_u32, visit_u32, u32);
    number!(deserialize_u64, visit_u64, u64);
    number!(deserialize_f64, visit_f64, f64);

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        match self.0 {
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(flag) => visitor.visit_string(flag.to_string()),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        self.deserialize_string(visitor)
    }

    /// A list may come as `"a,b"`, as one bare value, or as a list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        match self.0 {
            Value::String(text) => {
                let items: Vec<Value> = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(Value::from)
                    .collect();
                SeqDeserializer::new(items.iter().map(Lenient)).deserialize_any(visitor)
            }
            Value::Number(_) | Value::Bool(_) => {
                SeqDeserializer::new(std::iter::once(Lenient(self.0))).deserialize_any(visitor)
            }
            // `null` is how a Go client sends a list that was never set.
            Value::Null => {
                visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Lenient<'_>>()))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// An object may come as `["k=v", …]`, as `"k=v"` or as an object.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        let pair = |item: &str| {
            item.split_once('=')
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        };
        let pairs: Option<Vec<(String, String)>> = match self.0 {
            Value::String(text) => text.split(',').map(pair).collect(),
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().and_then(pair))
                .collect(),
            Value::Null => Some(Vec::new()),
            _ => None,
        };
        match pairs {
            Some(pairs) => visitor.visit_map(MapDeserializer::new(pairs.into_iter())),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, BodyError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, BodyError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, BodyError> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(BodyError {
                path: Vec::new(),
                problem: "expected a name".into(),
            }),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Role {
        #[serde(default)]
        allow_any_name: bool,
        #[serde(default)]
        key_bits: u32,
        #[serde(default)]
        policies: Vec<String>,
        #[serde(default)]
        metadata: BTreeMap<String, String>,
        name: Option<String>,
        options: Option<Options>,
    }

    #[derive(Deserialize, PartialEq, Debug)]
    struct Options {
        cas: u64,
    }

    fn decode(value: Value) -> Result<Role, String> {
        let Value::Object(fields) = value else {
            panic!("an object")
        };
        Body::new(fields)
            .decode()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn text_and_json_types_give_the_same_request() {
        let typed = json!({"allow_any_name": true, "key_bits": 256, "policies": ["a", "b"],
            "metadata": {"team": "x"}, "name": "n"});
        let cases = [
            (
                "all text",
                json!({"allow_any_name": "true", "key_bits": "256", "policies": "a, b",
                "metadata": "team=x", "name": "n"}),
            ),
            (
                "pairs",
                json!({"allow_any_name": 1, "key_bits": 256, "policies": ["a", "b"],
                "metadata": ["team=x"], "name": "n"}),
            ),
        ];
        for (name, value) in cases {
            assert_eq!(decode(value), decode(typed.clone()), "{name}");
        }
        assert_eq!(
            decode(json!({"policies": null, "metadata": null})),
            decode(json!({}))
        );
    }

    #[test]
    fn an_error_names_the_field_and_never_the_value() {
        let cases = [
            (
                json!({"key_bits": "hunter2"}),
                "field \"key_bits\": expected u32, found text",
            ),
            (
                json!({"key_bits": {"a": "hunter2"}}),
                "field \"key_bits\": expected u32, found an object",
            ),
            (
                json!({"options": {"cas": "hunter2"}}),
                "field \"options.cas\": expected u64, found text",
            ),
            (json!({"options": {}}), "field \"options.cas\": is required"),
            (
                json!({"key_bit": 1}),
                "field \"key_bit\": is not known here; did you mean \"key_bits\"?",
            ),
            (
                json!({"policies": [{"a": 1}]}),
                "field \"policies\": expected a string, found an object",
            ),
        ];
        for (value, want) in cases {
            assert_eq!(decode(value).unwrap_err(), want);
        }
        let swapped = decode(json!({"s3cr3t with spaces": "x"})).unwrap_err();
        assert!(!swapped.contains("s3cr3t"), "{swapped}");
    }

    proptest! {
        #[test]
        fn no_error_ever_holds_a_value_that_was_sent(field in "[a-z_]{1,12}", tail in "[A-Z0-9]{12,24}") {
            let value = format!("CANARY{tail}");
            for body in [json!({&field: &value}), json!({&field: [&value]}), json!({&field: {"x": &value}}),
                json!({"options": {"cas": &value}}), json!({"allow_any_name": &value})] {
                if let Err(error) = decode(body) {
                    prop_assert!(!error.contains("CANARY"), "{}", error);
                }
            }
        }
    }
}
