//! Refusing fields that nobody knows, where leaving one out could widen what is allowed.
//!
//! serde's `deny_unknown_fields` cannot do it for a [`daypass_contract::WithToken`], which reads the same
//! fields twice.

use daypass_contract::body::nearest;
use daypass_contract::{Body, BodyError};
use schemars::JsonSchema;
use serde_json::{Map, Value};

/// Refuses a field that neither `T` nor `ignored` has: a bound that nobody understood must not be dropped.
///
/// # Errors
/// Which field, and what may have been meant.
pub(crate) fn refuse_unknown<T: JsonSchema>(
    body: &Body,
    ignored: &[&str],
) -> Result<(), BodyError> {
    let schema = schemars::schema_for!(T);
    let known = schema.get("properties").and_then(Value::as_object);
    let known = || known.into_iter().flat_map(Map::keys).map(String::as_str);
    let is_known = |name: &str| ignored.contains(&name) || known().any(|known| known == name);
    let Some(name) = body.fields().keys().find(|name| !is_known(name)) else {
        return Ok(());
    };
    // A client that swaps name and value makes the name a secret.
    let is_name = name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    Err(BodyError::new(
        if is_name { name } else { "(not a name)" },
        match nearest(name, known()) {
            Some(near) => format!("is not known here; did you mean \"{near}\"?"),
            None => "is not known here".to_owned(),
        },
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Request {
        name: String,
        num_uses: u64,
    }

    #[test]
    fn a_field_nobody_knows_is_refused_with_advice() {
        let refused = |body: Value| {
            let body = Body::new(body.as_object().unwrap().clone());
            let error = refuse_unknown::<Request>(&body, &["old"]).err();
            error.map(|error| error.to_string())
        };
        assert_eq!(refused(json!({"name": 1, "num_uses": 1, "old": 1})), None);
        let cases = [
            (
                "num_use",
                "field \"num_use\": is not known here; did you mean \"num_uses\"?",
            ),
            ("colour", "field \"colour\": is not known here"),
            ("hunter2", "field \"(not a name)\": is not known here"),
        ];
        for (name, want) in cases {
            assert_eq!(refused(json!({name: 1})).as_deref(), Some(want));
        }
    }
}
