//! Username templates: what they render to is safe in every upstream, whatever the display name.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use daypass_contract::Entropy;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "only a part of the module is used here")]
#[path = "../../backends/database/src/template.rs"]
mod template;

use template::{Context, Template};

struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, target: &mut [u8]) {
        target.fill(0);
    }
}

// The first line is the display name, the rest the template.
fuzz_target!(|text: &str| {
    let (display_name, text) = text.split_once('\n').unwrap_or(("a\"; drop'é", text));
    let Ok(template) = Template::parse(text) else {
        return;
    };
    let context = Context {
        display_name,
        role_name: "role",
        now: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        entropy: &Zeros,
    };
    drop(template.must_be_unpredictable(&context));
    if let Ok(name) = template.render(&context, 63) {
        let safe = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
        assert!(
            !name.is_empty() && name.len() <= 63 && name.chars().all(safe),
            "{name}"
        );
    }
});
