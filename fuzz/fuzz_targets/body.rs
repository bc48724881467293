//! Request bodies: any JSON object fits a typed request or is refused, and no error quotes a value.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use daypass_contract::{Body, Secret};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::{Map, Number, Value};

const TEXT: &str = "hunter2";
const NUMBER: u64 = 8_675_309;

/// One field of each kind that the requests of the API have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what is decoded is not looked at")]
struct Everything {
    name: Option<String>,
    password: Option<Secret>,
    #[serde(default)]
    flag: bool,
    count: Option<u64>,
    offset: Option<i32>,
    ratio: Option<f64>,
    #[serde(default, with = "daypass_contract::duration::option")]
    ttl: Option<Duration>,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    options: Options,
    kind: Option<Kind>,
    #[serde(default)]
    numbers: Vec<u8>,
    pair: Option<(u16, String)>,
    letter: Option<char>,
    any: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code, reason = "what is decoded is not looked at")]
struct Options {
    cas: Option<u64>,
    inner: Option<Box<Options>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "what is decoded is not looked at")]
enum Kind {
    ServiceToken,
    Batch,
    Sized { bits: u32 },
}

/// Puts a mark on every value; names of fields may be quoted.
fn mark(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) if number.is_u64() => *number = Number::from(NUMBER),
        Value::Number(number) => *number = Number::from(-i64::try_from(NUMBER).unwrap_or(0)),
        Value::String(text) => text.insert_str(text.floor_char_boundary(text.len() / 2), TEXT),
        Value::Array(values) => values.iter_mut().for_each(mark),
        Value::Object(fields) => fields.values_mut().for_each(mark),
    }
}

fuzz_target!(|input: &[u8]| {
    let Ok(mut value) = serde_json::from_slice::<Value>(input) else {
        return;
    };
    let Value::Object(fields) = &value else {
        return;
    };
    drop(Body::new(fields.clone()).decode::<Everything>());
    let plain = value.to_string();
    if plain.contains(TEXT) || plain.contains(&NUMBER.to_string()) {
        return;
    }
    mark(&mut value);
    let Value::Object(fields) = value else {
        return;
    };
    if let Err(error) = Body::new(fields).decode::<Everything>() {
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains(TEXT) && !shown.contains(&NUMBER.to_string()),
            "{shown}"
        );
    }
});
