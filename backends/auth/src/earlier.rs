//! Field names of earlier versions of the Vault API, which clients still send.
//!
//! A request may use either name; where it uses both, the present one holds. An answer shows a field
//! under its earlier name too if the request that last set it used that, as OpenBao does.

use std::collections::BTreeSet;

use daypass_contract::Body;
use serde_json::{Map, Value};

/// Earlier names, each with the present one.
pub(crate) type Names = [(&'static str, &'static str)];

/// The same request under present names.
pub(crate) fn translate(names: &Names, body: &Body) -> Body {
    let mut fields = body.fields().clone();
    for (earlier, present) in names {
        if let Some(value) = fields.remove(*earlier)
            && !is_given(&fields, present)
        {
            fields.insert((*present).to_owned(), value);
        }
    }
    Body::new(fields)
}

/// Keeps in `used` the earlier names that were used when their fields were last set, now by `body`.
pub(crate) fn remember(names: &Names, body: &Body, used: &mut BTreeSet<String>) {
    for (earlier, present) in names {
        if is_given(body.fields(), earlier) {
            used.insert((*earlier).to_owned());
        } else if is_given(body.fields(), present) {
            used.remove(*earlier);
        }
    }
}

/// What to show besides `view`: its fields under the names in `used`.
pub(crate) fn shown(
    names: &Names,
    used: &BTreeSet<String>,
    view: &Map<String, Value>,
) -> Map<String, Value> {
    names
        .iter()
        .filter(|(earlier, _)| used.contains(*earlier))
        .filter_map(|(earlier, present)| Some(((*earlier).to_owned(), view.get(*present)?.clone())))
        .collect()
}

fn is_given(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAMES: &Names = &[("policies", "token_policies"), ("period", "token_period")];

    #[test]
    fn the_present_name_holds_and_the_earlier_one_is_remembered() {
        let cases = [
            // sent, what it means, what was used then
            (
                json!({"policies": "a"}),
                json!({"token_policies": "a"}),
                vec!["policies"],
            ),
            (
                json!({"token_policies": "b"}),
                json!({"token_policies": "b"}),
                vec![],
            ),
            (
                json!({"policies": "a", "token_policies": "b"}),
                json!({"token_policies": "b"}),
                vec!["policies"],
            ),
            (
                json!({"policies": "a", "token_policies": null}),
                json!({"token_policies": "a"}),
                vec!["policies"],
            ),
            (
                json!({"policies": null, "period": 1}),
                json!({"token_policies": null, "token_period": 1}),
                vec!["period"],
            ),
            (json!({"other": 1}), json!({"other": 1}), vec![]),
        ];
        for (sent, means, want) in cases {
            let body = Body::new(sent.as_object().unwrap().clone());
            let translated = translate(NAMES, &body);
            assert_eq!(json!(translated.fields()), means, "{sent}");
            let mut used = BTreeSet::new();
            remember(NAMES, &body, &mut used);
            assert_eq!(used.iter().collect::<Vec<_>>(), want, "{sent}");
        }
    }

    #[test]
    fn a_field_is_shown_under_the_name_it_was_set_by() {
        let mut used = BTreeSet::from(["policies".to_owned()]);
        let view = json!({"token_policies": ["a"], "token_period": 0});
        let view = view.as_object().unwrap();
        assert_eq!(json!(shown(NAMES, &used, view)), json!({"policies": ["a"]}));
        let now = json!({"token_policies": "b"});
        let body = Body::new(now.as_object().unwrap().clone());
        remember(NAMES, &body, &mut used);
        assert!(shown(NAMES, &used, view).is_empty());
    }
}
