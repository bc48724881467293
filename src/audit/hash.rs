//! Keyed hashes, which stand in the log for what must not be read there.
//!
//! The same value has the same hash as long as the key is the same, so a leaked value can be looked
//! for (`sys/audit-hash`) although no value can be read. Without the key a short secret would be found
//! by trying; with it, only the server can try.
//!
//! **Invariant:** of a JSON document, only its structure, the names of its fields, `true`, `false` and
//! `null` are left in clear. Numbers are hashed too (a PIN is one), as the text `serde_json` gives them.
//! The caller may name top-level fields to be left as they are.

use std::fmt;

use aws_lc_rs::hmac;
use serde::Serialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Hashed data longer than this, in bytes, is replaced by one hash of the whole: a hash is much longer
/// than the number it replaces, and a record is bounded.
const MAX_HASHED: usize = 1 << 20;

/// What is written while there is no key.
const SEALED: &str = "sealed";

/// A value's keyed hash, `hmac-sha256:<hex>`, or `sealed` where there was no key yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Hashed(String);

impl Hashed {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A JSON document whose values are keyed hashes.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct HashedJson(Box<RawValue>);

impl HashedJson {
    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

/// Makes keyed hashes.
pub struct Hasher(Option<hmac::Key>);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// Hashes under `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Some(hmac::Key::new(hmac::HMAC_SHA256, key)))
    }

    /// Has no key yet: omits every value.
    pub fn sealed() -> Self {
        Self(None)
    }

    /// The keyed hash of `value`.
    pub fn hash(&self, value: &[u8]) -> Hashed {
        Hashed(match &self.0 {
            None => SEALED.into(),
            Some(key) => format!("hmac-sha256:{}", hex::encode(hmac::sign(key, value))),
        })
    }

    /// `json` with each string and number replaced by its keyed hash. The values of the top-level
    /// fields named in `clear` are left as they are: name only fields whose meaning the server knows,
    /// never where callers choose the names.
    ///
    /// What is not JSON, or is nested deeper than 127 levels, or would become longer than 1 MiB, is
    /// replaced as a whole by the hash of its bytes.
    pub fn hash_json(&self, json: &[u8], clear: &[&str]) -> HashedJson {
        let mut output = Vec::with_capacity(512);
        let mut input = serde_json::Deserializer::from_slice(json);
        let mut transcoder = Transcoder {
            hasher: self,
            clear,
            output: &mut output,
        };
        let value = Value {
            transcoder: &mut transcoder,
            level: Level::Top,
        };
        let hashed = value
            .deserialize(&mut input)
            .and_then(|()| input.end())
            .ok()
            .and_then(|()| String::from_utf8(output).ok())
            .and_then(|text| RawValue::from_string(text).ok());
        HashedJson(hashed.unwrap_or_else(|| self.hash_whole(json)))
    }

    fn hash_whole(&self, json: &[u8]) -> Box<RawValue> {
        // A short text always has a JSON form; the default is `null`.
        serde_json::value::to_raw_value(&self.hash(json)).unwrap_or_default()
    }
}

struct Transcoder<'a> {
    hasher: &'a Hasher,
    clear: &'a [&'a str],
    output: &'a mut Vec<u8>,
}

impl Transcoder<'_> {
    fn push<E: de::Error>(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        if self.output.len() > MAX_HASHED {
            return Err(E::custom("too long"));
        }
        serde_json::to_writer(&mut *self.output, value).map_err(|_| E::custom("not encodable"))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Top,
    Hashed,
    Clear,
}

/// One value to be written to the output.
struct Value<'a, 'b> {
    transcoder: &'a mut Transcoder<'b>,
    level: Level,
}

impl Value<'_, '_> {
    fn leaf<E: de::Error>(self, text: &str, value: &(impl Serialize + ?Sized)) -> Result<(), E> {
        match self.level {
            Level::Clear => self.transcoder.push(value),
            Level::Top | Level::Hashed => {
                let hash = self.transcoder.hasher.hash(text.as_bytes());
                self.transcoder.push(&hash)
            }
        }
    }

    fn below(&self) -> Level {
        match self.level {
            Level::Top | Level::Hashed => Level::Hashed,
            Level::Clear => Level::Clear,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.transcoder.push(&())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.transcoder.push(&value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.leaf(&value.to_string(), &value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.leaf(&value.to_string(), &value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        let text = serde_json::to_string(&value).map_err(|_| E::custom("not encodable"))?;
        self.leaf(&text, &value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        self.leaf(value, value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let level = self.below();
        let transcoder = self.transcoder;
        let mut separator = b'[';
        loop {
            let start = transcoder.output.len();
            transcoder.output.push(separator);
            let element = Value {
                transcoder: &mut *transcoder,
                level,
            };
            if seq.next_element_seed(element)?.is_none() {
                transcoder.output.truncate(start);
                break;
            }
            separator = b',';
        }
        if separator == b'[' {
            transcoder.output.push(b'[');
        }
        transcoder.output.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let below = self.below();
        let top = self.level == Level::Top;
        let transcoder = self.transcoder;
        let mut separator = b'{';
        loop {
            let start = transcoder.output.len();
            transcoder.output.push(separator);
            let Some(named) = map.next_key_seed(Key(&mut *transcoder))? else {
                transcoder.output.truncate(start);
                break;
            };
            transcoder.output.push(b':');
            let level = if top && named { Level::Clear } else { below };
            map.next_value_seed(Value {
                transcoder: &mut *transcoder,
                level,
            })?;
            separator = b',';
        }
        if separator == b'{' {
            transcoder.output.push(b'{');
        }
        transcoder.output.push(b'}');
        Ok(())
    }
}

/// The name of a field; says whether it is one of those whose values are left in clear.
struct Key<'a, 'b>(&'a mut Transcoder<'b>);

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<bool, E> {
        self.0.push(name)?;
        Ok(self.0.clear.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value as Json, json};

    use super::*;

    fn hasher() -> Hasher {
        Hasher::new(&[7; 32])
    }

    fn hashed(value: &Json, clear: &[&str]) -> Json {
        let text = hasher().hash_json(value.to_string().as_bytes(), clear);
        serde_json::from_str(text.as_str()).unwrap()
    }

    #[test]
    fn a_hash_depends_on_the_value_and_the_key_alone() {
        let (one, other) = (Hasher::new(&[1; 32]), Hasher::new(&[2; 32]));
        assert_eq!(one.hash(b"hunter2"), Hasher::new(&[1; 32]).hash(b"hunter2"));
        assert_ne!(one.hash(b"hunter2"), one.hash(b"hunter3"));
        assert_ne!(one.hash(b"hunter2"), other.hash(b"hunter2"));
        // RFC 4231, test case 1, whose key of 20 bytes HMAC pads with zeros as ours is here.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let want = "hmac-sha256:b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(Hasher::new(&key).hash(b"Hi There").as_str(), want);
    }

    #[test]
    fn values_are_hashed_and_structure_is_kept() {
        let hash = |text: &str| hasher().hash(text.as_bytes()).0;
        let cases = [
            (json!({}), json!({})),
            (json!([]), json!([])),
            (json!([[], {}]), json!([[], {}])),
            (json!("a"), json!(hash("a"))),
            (json!(""), json!(hash(""))),
            (json!({"pin": 1234}), json!({"pin": hash("1234")})),
            (
                json!({"n": -1, "f": 1.5}),
                json!({"n": hash("-1"), "f": hash("1.5")}),
            ),
            (json!({"t": true, "n": null}), json!({"t": true, "n": null})),
            (
                json!({"a": {"b": ["c", "d"]}}),
                json!({"a": {"b": [hash("c"), hash("d")]}}),
            ),
            (json!({"q\"\n": "é\u{0}"}), json!({"q\"\n": hash("é\u{0}")})),
        ];
        for (value, want) in cases {
            assert_eq!(hashed(&value, &[]), want, "{value}");
        }
        // An escaped text is the same text.
        let escaped = hasher().hash_json(br#""\u0061""#, &[]);
        assert_eq!(escaped.as_str(), format!("\"{}\"", hash("a")));
    }

    #[test]
    fn named_fields_are_clear_at_the_top_only() {
        let value = json!({"ttl": "1h", "data": {"ttl": "secret"}, "roles": ["a", {"n": 1}]});
        let got = hashed(&value, &["ttl", "roles"]);
        let secret = hasher().hash(b"secret").0;
        let want = json!({"ttl": "1h", "data": {"ttl": secret}, "roles": ["a", {"n": 1}]});
        assert_eq!(got, want);
        let got = hashed(&json!([{"ttl": "secret"}]), &["ttl"]);
        assert_eq!(got, json!([{"ttl": secret}]));
    }

    #[test]
    fn what_cannot_be_taken_apart_is_one_hash() {
        let deep = format!("{}\"x\"{}", "[".repeat(200), "]".repeat(200));
        let wide = format!("[{}1]", "1,".repeat(100_000));
        for text in [
            "",
            "{",
            "hunter2",
            r#"{"a":"b"} x"#,
            "\"\u{1}\"",
            &deep,
            &wide,
        ] {
            let got = hasher().hash_json(text.as_bytes(), &[]);
            let want = format!("\"{}\"", hasher().hash(text.as_bytes()).as_str());
            assert_eq!(got.as_str(), want, "{text:.20}");
        }
        assert!(
            hasher()
                .hash_json(b"[\"\xff\"]", &[])
                .as_str()
                .starts_with("\"hmac-")
        );
    }

    #[test]
    fn before_unseal_values_are_omitted() {
        let sealed = Hasher::sealed();
        assert_eq!(sealed.hash(b"hunter2").as_str(), "sealed");
        let data = sealed.hash_json(br#"{"password":"hunter2","n":1,"t":true}"#, &[]);
        assert_eq!(
            data.as_str(),
            r#"{"password":"sealed","n":"sealed","t":true}"#
        );
        assert_eq!(sealed.hash_json(b"hunter2", &[]).as_str(), r#""sealed""#);
    }

    /// The rule as one reads it, with a tree.
    fn rule(value: Json) -> Json {
        match value {
            Json::String(text) => json!(hasher().hash(text.as_bytes())),
            Json::Number(number) => json!(hasher().hash(number.to_string().as_bytes())),
            Json::Array(items) => items.into_iter().map(rule).collect(),
            Json::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, rule(value)));
                Json::Object(fields.collect::<Map<_, _>>())
            }
            other => other,
        }
    }

    fn leaves(value: &Json, found: &mut Vec<String>) {
        match value {
            Json::String(text) => found.push(text.clone()),
            Json::Array(items) => items.iter().for_each(|item| leaves(item, found)),
            Json::Object(fields) => fields.values().for_each(|item| leaves(item, found)),
            _ => {}
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<i32>().prop_map(|eighths| Json::from(f64::from(eighths) / 8.0)),
            ".*".prop_map(Json::from),
            "secret-[a-z0-9]{12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
                prop::collection::hash_map(".*", inner, 0..8)
                    .prop_map(|fields| Json::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_is_readable_and_the_structure_is(value in any_json()) {
            let got = hashed(&value, &[]);
            let mut found = Vec::new();
            leaves(&got, &mut found);
            for leaf in found {
                prop_assert!(leaf.len() == 76 && leaf.starts_with("hmac-sha256:"), "{}", leaf);
            }
            prop_assert_eq!(got, rule(value));
        }

        #[test]
        fn any_bytes_become_json(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let got = hasher().hash_json(&bytes, &[]);
            prop_assert!(serde_json::from_str::<Json>(got.as_str()).is_ok());
        }
    }
}
