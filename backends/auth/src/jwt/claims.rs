//! What the claims of a verified token must say: times, issuer, subject, audience, bound claims.
//!
//! The rules and texts are the Vault API's, but for one: a token without `exp` is refused, where Vault
//! would make up an end for it.

use std::time::SystemTime;

use daypass_contract::{BackendError, body::SAFE, parse_duration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::role::{ClaimsType, Role};
use daypass_certs::glob;

/// Seconds that clocks may differ by where the role does not say.
const CLOCK_SKEW: i32 = 60;

/// Seconds before its end from which a token without `nbf` and `iat` counts, where the role does not say.
const NOT_BEFORE: i32 = 150;

/// Seconds of leeway: 0 for the default, negative for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Leeway(i32);

impl Leeway {
    fn or(self, default: i32) -> f64 {
        match self.0 {
            0 => f64::from(default),
            seconds => f64::from(seconds.max(0)),
        }
    }
}

impl<'de> Deserialize<'de> for Leeway {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_i64(),
            Value::String(text) if text.is_empty() => Some(0),
            Value::String(text) => text.parse().ok().or_else(|| {
                let duration = parse_duration(&text)?;
                i64::try_from(duration.as_secs()).ok()
            }),
            _ => None,
        };
        let seconds = seconds.and_then(|seconds| i32::try_from(seconds).ok());
        seconds.map(Self).ok_or_else(|| {
            de::Error::custom(format!(
                "{SAFE}expected a duration such as 60 or \"1m\", or -1 for none"
            ))
        })
    }
}

impl JsonSchema for Leeway {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Leeway".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }
}

/// The claim that `selector` names: a JSON pointer where it begins with a slash, otherwise a name.
pub(crate) fn find<'a>(claims: &'a Value, selector: &str) -> Option<&'a Value> {
    if selector.starts_with('/') {
        claims.pointer(selector)
    } else {
        claims.get(selector)
    }
}

/// Checks everything that decides whether a token is good for `role`.
///
/// # Errors
/// The first thing that is wrong. The text names claims, which the operator needs to see in a failed
/// pipeline, and never values.
pub(crate) fn check(
    claims: &Value,
    role: &Role,
    issuer: Option<&str>,
    now: SystemTime,
) -> Result<(), BackendError> {
    times(claims, role, now)?;
    if issuer.is_some_and(|issuer| claims.get("iss").and_then(Value::as_str) != Some(issuer)) {
        return refuse("error validating token: invalid issuer (iss) claim");
    }
    let subject = claims.get("sub").filter(|subject| !subject.is_null());
    if subject.is_some_and(|subject| !subject.is_string())
        || (!role.bound_subject.is_empty()
            && subject.and_then(Value::as_str) != Some(role.bound_subject.as_str()))
    {
        return refuse("error validating token: invalid subject (sub) claim");
    }
    audience(claims, role)?;
    for (selector, bound) in &role.bound_claims {
        let Some(found) = find(claims, selector).filter(|found| !found.is_null()) else {
            return Err(BackendError::InvalidRequest(format!(
                "error validating claims: claim \"{selector}\" is missing"
            )));
        };
        if !fits(found, bound, role.bound_claims_type) {
            return Err(BackendError::InvalidRequest(format!(
                "error validating claims: claim \"{selector}\" does not match any associated bound \
                 claim values"
            )));
        }
    }
    Ok(())
}

fn refuse<T>(text: &'static str) -> Result<T, BackendError> {
    Err(BackendError::LoginFailed(text))
}

fn times(claims: &Value, role: &Role, now: SystemTime) -> Result<(), BackendError> {
    let skew = role.clock_skew_leeway.or(CLOCK_SKEW);
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let Some(ends) = date(claims, "exp")? else {
        return refuse("error validating token: no expiration time (exp) claim in token");
    };
    let issued = date(claims, "iat")?;
    let begins = date(claims, "nbf")?.or(issued);
    let begins = begins.unwrap_or(ends - role.not_before_leeway.or(NOT_BEFORE));
    if now > ends + skew {
        return refuse(
            "error validating token: invalid expiration time (exp) claim: token is expired",
        );
    }
    if now + skew < begins {
        return refuse(
            "error validating token: invalid not before (nbf) claim: token not yet valid",
        );
    }
    if issued.is_some_and(|issued| now + skew < issued) {
        return refuse(
            "error validating token: invalid issued at (iat) claim: token issued in the future",
        );
    }
    Ok(())
}

/// A NumericDate (RFC 7519 §2); zero counts as missing, as with Vault.
fn date(claims: &Value, name: &str) -> Result<Option<f64>, BackendError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64().filter(|seconds| *seconds != 0.0)),
        Some(_) => refuse("error validating token: exp, nbf and iat must be numbers"),
    }
}

fn audience(claims: &Value, role: &Role) -> Result<(), BackendError> {
    let named: Vec<&str> = match claims.get("aud") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        Some(_) => return refuse("error validating token: invalid audience (aud) claim"),
    };
    let bound = &role.bound_audiences;
    if bound.is_empty() && !named.is_empty() {
        // Made for someone else, as far as the role knows.
        return refuse("audience claim found in JWT but no audiences bound to the role");
    }
    if !bound.is_empty() && !bound.iter().any(|bound| named.contains(&bound.as_str())) {
        return refuse(
            "error validating token: invalid audience (aud) claim: audience claim does not match \
             any expected audience",
        );
    }
    Ok(())
}

/// Whether one of a claim's values is one of the bound ones.
fn fits(found: &Value, bound: &Value, kind: ClaimsType) -> bool {
    let values = |value: &Value| match value {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    };
    let (found, bound) = (values(found), values(bound));
    bound.iter().any(|bound| {
        found.iter().any(|found| match kind {
            ClaimsType::String => bound == found,
            ClaimsType::Glob => match (bound.as_str(), found.as_str()) {
                (Some(pattern), Some(text)) => glob(pattern, text),
                _ => false,
            },
        })
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_767_225_600;

    fn said(result: Result<(), BackendError>) -> String {
        result.map_or_else(|error| error.to_string(), |()| "good".into())
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.unsigned_abs())
    }

    #[test]
    fn a_token_is_good_from_its_begin_to_its_end_give_or_take() {
        let role = |skew, before| Role {
            clock_skew_leeway: Leeway(skew),
            not_before_leeway: Leeway(before),
            ..Role::default()
        };
        let (end, begin, issued) = ("token is expired", "not yet valid", "in the future");
        // skew, not_before_leeway, exp, nbf, iat relative to now, what is said.
        let cases = [
            (0, 0, Some(300), Some(-5), Some(-5), "good"),
            (0, 0, Some(300), None, Some(-5), "good"),
            (0, 0, None, Some(-5), Some(-5), "no expiration time"),
            (0, 0, Some(-59), Some(-300), Some(-300), "good"),
            (0, 0, Some(-61), Some(-300), Some(-300), end),
            (-1, 0, Some(-1), Some(-300), Some(-300), end),
            (-1, 0, Some(0), Some(0), Some(0), "good"),
            (10, 0, Some(-9), Some(-300), Some(-300), "good"),
            (10, 0, Some(-11), Some(-300), Some(-300), end),
            (0, 0, Some(300), Some(59), Some(0), "good"),
            (0, 0, Some(300), Some(61), Some(0), begin),
            (0, 0, Some(300), None, Some(61), begin),
            (0, 0, Some(300), Some(0), Some(61), issued),
            (0, 0, Some(300), Some(0), Some(59), "good"),
            (-1, 0, Some(300), Some(0), Some(1), issued),
            // Neither nbf nor iat: the last 150 seconds, or what the role says, and the skew.
            (0, 0, Some(209), None, None, "good"),
            (0, 0, Some(211), None, None, begin),
            (-1, 20, Some(19), None, None, "good"),
            (-1, 20, Some(21), None, None, begin),
            (-1, -1, Some(1), None, None, begin),
        ];
        for (at, (skew, before, exp, nbf, iat, want)) in cases.into_iter().enumerate() {
            let mut claims = json!({});
            for (name, value) in [("exp", exp), ("nbf", nbf), ("iat", iat)] {
                if let Some(value) = value {
                    claims[name] = json!(NOW + value);
                }
            }
            let got = said(check(&claims, &role(skew, before), None, now()));
            assert!(got.contains(want), "{at}: {got}");
        }
        for exp in [json!("1767229200"), json!(true), json!([1]), json!({})] {
            let got = said(check(&json!({ "exp": exp }), &role(0, 0), None, now()));
            assert!(got.contains("must be numbers"), "{got}");
        }
        let fraction = json!({"exp": 1_767_225_600.5, "iat": NOW});
        assert_eq!(said(check(&fraction, &role(-1, 0), None, now())), "good");
        assert!(
            said(check(&json!({"exp": 0}), &role(0, 0), None, now())).contains("no expiration")
        );
    }

    #[test]
    fn a_token_is_for_this_issuer_subject_and_audience() {
        let role = |subject: &str, audiences: &[&str]| Role {
            bound_subject: subject.into(),
            bound_audiences: audiences.iter().map(ToString::to_string).collect(),
            ..Role::default()
        };
        let (iss, sub, aud) = ("(iss)", "(sub)", "does not match any expected");
        let cases = [
            (json!({}), role("", &[]), None, "good"),
            (json!({"iss": "i"}), role("", &[]), Some("i"), "good"),
            (json!({"iss": "j"}), role("", &[]), Some("i"), iss),
            (json!({"iss": "i/"}), role("", &[]), Some("i"), iss),
            (json!({"iss": ["i"]}), role("", &[]), Some("i"), iss),
            (json!({}), role("", &[]), Some("i"), iss),
            (json!({"sub": "me"}), role("me", &[]), None, "good"),
            (json!({"sub": "you"}), role("me", &[]), None, sub),
            (json!({"sub": 4}), role("", &[]), None, sub),
            (json!({}), role("me", &[]), None, sub),
            (json!({"aud": "a"}), role("", &["a", "b"]), None, "good"),
            (
                json!({"aud": ["x", "b"]}),
                role("", &["a", "b"]),
                None,
                "good",
            ),
            (json!({"aud": ["x"]}), role("", &["a"]), None, aud),
            (json!({"aud": []}), role("", &["a"]), None, aud),
            (json!({}), role("", &["a"]), None, aud),
            (
                json!({"aud": "a"}),
                role("", &[]),
                None,
                "no audiences bound",
            ),
            (json!({"aud": {"a": 1}}), role("", &["a"]), None, "(aud)"),
        ];
        for (mut claims, role, issuer, want) in cases {
            claims["exp"] = json!(NOW + 60);
            claims["iat"] = json!(NOW);
            let got = said(check(&claims, &role, issuer, now()));
            assert!(got.contains(want), "{claims}: {got}");
        }
    }

    #[test]
    fn every_bound_claim_must_have_one_of_its_values() {
        use ClaimsType::{Glob, String};
        let claims = json!({
            "exp": NOW + 60, "iat": NOW,
            "repo": "octo/app", "list": ["m", "n"], "n": 3, "t": true, "s": "true", "nul": null,
            "deep": {"x": "y", "a/b": "z"}, "/odd": "q",
        });
        let cases = [
            (String, json!({"repo": "octo/app"}), true),
            (String, json!({"repo": ["x", "octo/app"]}), true),
            (String, json!({"repo": "octo/*"}), false),
            (Glob, json!({"repo": "octo/*"}), true),
            (Glob, json!({"repo": ["x*", "*/app"]}), true),
            (Glob, json!({"repo": "app*"}), false),
            (String, json!({"list": "n"}), true),
            (String, json!({"list": ["o", "n"]}), true),
            (String, json!({"list": "o"}), false),
            (Glob, json!({"list": "n*"}), true),
            (String, json!({"n": 3}), true),
            (String, json!({"n": "3"}), false),
            (String, json!({"t": true}), true),
            (String, json!({"t": "true"}), false),
            (String, json!({"s": "true"}), true),
            (Glob, json!({"n": "3"}), false),
            (String, json!({"/deep/x": "y"}), true),
            (String, json!({"/deep/a~1b": "z"}), true),
            (String, json!({"/deep/none": "z"}), false),
            (String, json!({"deep": "y"}), false),
            (String, json!({"nul": "x"}), false),
            (String, json!({"absent": "x"}), false),
            (String, json!({"repo": "octo/app", "list": "o"}), false),
            (String, json!({"repo": "octo/app", "list": "m"}), true),
        ];
        for (kind, bound, want) in cases {
            let role = Role {
                bound_claims: serde_json::from_value(bound.clone()).unwrap(),
                bound_claims_type: kind,
                ..Role::default()
            };
            let got = check(&claims, &role, None, now());
            assert_eq!(got.is_ok(), want, "{bound}");
            let said = said(got);
            assert!(!said.contains("octo") && !said.contains("y\""), "{said}");
        }
    }
}
