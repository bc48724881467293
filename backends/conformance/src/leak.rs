//! Finds a secret in text where it must not be: plain, in hex, or in base64 at any offset; and holds
//! everything that was logged, so that it can be searched.

use std::error::Error;
use std::io;
use std::sync::{Mutex, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The ways in which one secret may show up.
pub(crate) struct Needles(Vec<String>);

impl Needles {
    /// Every form of `secret` that is searched for. Of a text of several lines (a PEM key) each line
    /// of at least 8 characters counts.
    pub(crate) fn of(secret: &str) -> Self {
        let lines = secret
            .lines()
            .filter(|line| line.len() >= 8 && !line.starts_with("-----"));
        let mut forms = vec![secret.to_owned()];
        for line in lines {
            forms.push(line.to_owned());
            forms.push(hex::encode(line));
            forms.push(hex::encode_upper(line));
            for offset in 0..3 {
                let text = [&b"\0\0"[..offset], line.as_bytes()].concat();
                for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                    // The characters at either end also encode bits of the neighbours.
                    let end = encoded.len() - usize::from(text.len() % 3 != 0);
                    forms.extend(
                        encoded
                            .get((offset * 8).div_ceil(6)..end)
                            .map(str::to_owned),
                    );
                }
            }
        }
        Self(forms)
    }

    /// Whether any form occurs in `text`.
    pub(crate) fn found_in(&self, text: &str) -> bool {
        self.0.iter().any(|form| text.contains(form))
    }
}

/// Everything an error would show anyone: its text, its `Debug` form and all of its sources.
pub(crate) fn full_text(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{error:?}");
    let mut next = Some(error);
    while let Some(error) = next {
        text.push('\n');
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// A JSON document as it is written, and its texts as they are meant.
pub(crate) fn json_text(json: &str) -> String {
    fn collect(value: &Value, into: &mut String) {
        match value {
            Value::String(text) => {
                into.push('\n');
                into.push_str(text);
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    into.push('\n');
                    into.push_str(name);
                    collect(value, into);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut text = json.to_owned();
    if let Ok(value) = serde_json::from_str(json) {
        collect(&value, &mut text);
    }
    text
}

/// What this process logs from the moment of [`Logs::from_now`].
pub(crate) struct Logs {
    start: usize,
}

static CAPTURED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Logs {
    /// Captures every level of every target, `log` records included.
    pub(crate) fn from_now() -> Self {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        INSTALLED.get_or_init(|| {
            tracing_subscriber::fmt()
                .json()
                .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
                .with_span_events(FmtSpan::NEW)
                .with_writer(|| Capture)
                .finish()
                .try_init()
                .expect("the suite captures the logs itself: install no other subscriber");
        });
        Self {
            start: CAPTURED.lock().unwrap().len(),
        }
    }

    /// The records since then, but those of `silenced` targets.
    pub(crate) fn records(&self, silenced: &[&str]) -> Vec<String> {
        let captured = CAPTURED.lock().unwrap();
        String::from_utf8_lossy(&captured[self.start..])
            .lines()
            .filter(|line| {
                let record: Value = serde_json::from_str(line).unwrap_or_default();
                let target = record["target"].as_str().unwrap_or_default();
                !silenced.iter().any(|silenced| target.starts_with(silenced))
            })
            .map(json_text)
            .collect()
    }
}

struct Capture;

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        CAPTURED.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn a_secret_is_found_in_every_form() {
        let secret = "tr0ub4dor&3?>~\u{ff}";
        let needles = Needles::of(secret);
        let basic = |user: &str| STANDARD.encode(format!("{user}:{secret}!"));
        let cases = [
            ("plain", format!("password {secret} refused"), true),
            ("hex", hex::encode(secret), true),
            ("upper hex", hex::encode_upper(secret), true),
            ("base64", STANDARD.encode(secret), true),
            ("base64 for URLs", URL_SAFE.encode(secret), true),
            ("base64 after 2 bytes", basic("u"), true),
            ("base64 after 3 bytes", basic("us"), true),
            ("base64 after 4 bytes", basic("use"), true),
            ("another", STANDARD.encode("tr0ub4dor&4?>~\u{ff}"), false),
            ("nothing", String::new(), false),
        ];
        for (name, text, want) in cases {
            assert_eq!(needles.found_in(&text), want, "{name}");
        }
    }

    #[test]
    fn a_key_is_found_by_any_of_its_lines_and_in_escaped_json() {
        let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPl\nAAAABBBBCCCC\n-----END";
        let needles = Needles::of(key);
        assert!(needles.found_in("…MC4CAQAwBQYDK2VwBCIEIPl…"));
        assert!(!needles.found_in("-----BEGIN PRIVATE KEY-----"));
        let escaped = serde_json::json!({"fields": {"message": "say \"hi\""}}).to_string();
        assert!(!Needles::of("say \"hi\"").found_in(&escaped));
        assert!(Needles::of("say \"hi\"").found_in(&json_text(&escaped)));
    }
}
