//! What a rule asks of the fields of a request.
//!
//! As Vault has it: required fields must be there; a request without fields passes otherwise; a denied field
//! or value refuses it; where any field is allowed by name, all others are refused. Values of text match
//! with a `*` at either end. One thing is stricter: a denied value is recognised in a list and whether it
//! is written as text or not (`true` and `"true"`), as whoever reads the field may take either.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::rule::{Parameters, Rule};

/// What all policies together ask of the fields of a request for one pattern.
#[derive(Debug, Default)]
pub(super) struct Restrictions {
    allowed: Parameters,
    denied: Parameters,
    required: Vec<String>,
}

/// Which field a request fails on; never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Missing(String),
    Denied(String),
    NotAllowed(String),
}

impl Restrictions {
    pub(super) fn of(rule: &Rule) -> Self {
        Self {
            allowed: rule.allowed_parameters.clone(),
            denied: rule.denied_parameters.clone(),
            required: rule.required_parameters.clone(),
        }
    }

    /// Adds what another policy asks. Fields and values that either allows are allowed, where both name
    /// any; what either denies or requires is denied or required.
    pub(super) fn add(&mut self, other: Self) {
        merge(&mut self.allowed, other.allowed);
        merge(&mut self.denied, other.denied);
        for name in other.required {
            if !self.required.contains(&name) {
                self.required.push(name);
            }
        }
    }

    pub(super) fn check(&self, fields: Option<&Map<String, Value>>) -> Result<(), Refusal> {
        let present = |name: &String| fields.is_some_and(|fields| fields.contains_key(name));
        if let Some(missing) = self.required.iter().find(|name| !present(name)) {
            return Err(Refusal::Missing(missing.clone()));
        }
        let Some(fields) = fields else {
            return Ok(());
        };
        for (name, value) in fields {
            let key = lower(name);
            let denied = self.denied.get(&*key);
            if self.denied.contains_key("*")
                || denied.is_some_and(|denied| denied.is_empty() || denies(denied, value))
            {
                return Err(Refusal::Denied(name.clone()));
            }
            let allowed = match self.allowed.get(&*key) {
                Some(values) => values.is_empty() || values.iter().any(|one| allows(one, value)),
                None => self.allowed.is_empty() || self.allowed.contains_key("*"),
            };
            if !allowed {
                return Err(Refusal::NotAllowed(name.clone()));
            }
        }
        Ok(())
    }
}

/// No values stand for any value, and go on doing so.
fn merge(into: &mut Parameters, from: Parameters) {
    for (name, values) in from {
        match into.get_mut(&name) {
            None => {
                into.insert(name, values);
            }
            Some(present) if present.is_empty() || values.is_empty() => present.clear(),
            Some(present) => present.extend(values),
        }
    }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.to_lowercase())
}

fn allows(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::String(pattern), Value::String(text)) => glob(pattern, text),
        (Value::Number(pattern), Value::Number(number)) => {
            pattern == number || pattern.as_f64() == number.as_f64()
        }
        _ => pattern == value,
    }
}

fn denies(patterns: &[Value], value: &Value) -> bool {
    if patterns.iter().any(|pattern| allows(pattern, value)) {
        return true;
    }
    if let Value::Array(values) = value {
        return values.iter().any(|value| denies(patterns, value));
    }
    let Some(text) = text(value) else {
        return false;
    };
    let pattern_texts = patterns.iter().filter_map(self::text);
    pattern_texts
        .into_iter()
        .any(|pattern| glob(&pattern, &text))
}

/// A scalar as text.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(_) | Value::Number(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// As Vault matches values: a `*` at either end stands for anything, one that is alone for itself.
fn glob(pattern: &str, text: &str) -> bool {
    if pattern.len() < 2 {
        return pattern == text;
    }
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (Some(end), Some(_)) => text.contains(end.strip_suffix('*').unwrap_or(end)),
        (None, None) => pattern == text,
    }
}
