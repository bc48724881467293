//! What kv v2 does to the tree of a secret: merge patches and the outline of its keys.

use serde_json::{Map, Value};

/// Applies a merge patch (RFC 7396): `null` removes, an object goes deeper, all else replaces.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (name, change) in patch {
        if change.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), change);
        }
    }
}

/// Replaces every value by `null` and keeps the names, `depth` levels of them; 0 keeps all levels.
pub(crate) fn outline(value: &mut Value, depth: i64) {
    let Value::Object(fields) = value else {
        *value = Value::Null;
        return;
    };
    for value in fields.values_mut() {
        match value {
            Value::Object(inner) if !inner.is_empty() && (depth == 0 || depth > 1) => {
                outline(value, (depth - 1).max(0));
            }
            _ => *value = Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn merging_follows_the_rfc() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ];
        for (mut target, patch, want) in cases {
            let name = format!("{target} with {patch}");
            merge(&mut target, patch);
            assert_eq!(target, want, "{name}");
        }
    }

    #[test]
    fn an_outline_keeps_names_to_a_depth() {
        let secret = json!({"a": "s", "b": {"c": 1, "d": {"e": [1], "f": {}}}, "g": null});
        let all = json!({"a": null, "b": {"c": null, "d": {"e": null, "f": null}}, "g": null});
        let two = json!({"a": null, "b": {"c": null, "d": null}, "g": null});
        let one = json!({"a": null, "b": null, "g": null});
        for (depth, want) in [
            (0, &all),
            (1, &one),
            (2, &two),
            (3, &all),
            (9, &all),
            (-1, &one),
        ] {
            let mut got = secret.clone();
            outline(&mut got, depth);
            assert_eq!(&got, want, "{depth}");
        }
    }
}
