//! [`Metadata`]: key-value pairs in any of the forms that clients send.

use std::borrow::Cow;
use std::collections::BTreeMap;

use daypass_contract::body::SAFE;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

/// `{"a": "b"}` as an object or, as hvac and the CLI send it, as text; or `a=b,c=d`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Metadata(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Text(String),
            Pairs(Vec<String>),
            Object(BTreeMap<String, String>),
        }
        let pair = |text: &str| {
            let (name, value) = text.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let parsed = match Wire::deserialize(deserializer) {
            Ok(Wire::Object(fields)) => Some(fields),
            Ok(Wire::Pairs(pairs)) => pairs.iter().map(|text| pair(text)).collect(),
            Ok(Wire::Text(text)) if text.trim().is_empty() => Some(BTreeMap::new()),
            Ok(Wire::Text(text)) if text.trim_start().starts_with('{') => {
                serde_json::from_str(&text).ok()
            }
            Ok(Wire::Text(text)) => text.split(',').map(pair).collect(),
            Err(_) => None,
        };
        parsed.map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{SAFE}expected a JSON object of texts, or pairs such as team=web,env=prod"
            ))
        })
    }
}

impl JsonSchema for Metadata {
    fn schema_name() -> Cow<'static, str> {
        "Metadata".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use daypass_contract::Body;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize)]
    struct Request {
        metadata: Metadata,
    }

    #[test]
    fn metadata_comes_as_text_of_json_as_pairs_or_as_an_object() {
        let want = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".into(), "d".into())]);
        let decode = |value| {
            let body = Body::new(json!({"metadata": value}).as_object().unwrap().clone());
            body.decode::<Request>().map(|request| request.metadata.0)
        };
        for value in [
            json!(r#"{"a": "b", "c": "d"}"#),
            json!("a=b, c=d"),
            json!(["a=b", "c=d"]),
            json!({"a": "b", "c": "d"}),
        ] {
            assert_eq!(decode(value.clone()).unwrap(), want, "{value}");
        }
        assert_eq!(decode(json!("")).unwrap(), BTreeMap::new());
        for value in [
            json!("hunter2"),
            json!("{hunter2"),
            json!({"a": {"hunter2": 1}}),
            json!(["hunter2"]),
            json!(7),
        ] {
            let error = decode(value).unwrap_err().to_string();
            assert!(
                error.starts_with("field \"metadata\": expected a JSON object"),
                "{error}"
            );
        }
    }
}
