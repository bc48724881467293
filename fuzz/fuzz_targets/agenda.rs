//! Keys of the agenda, whose subjects are lease ids: what is read back is what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "only a part of the module is used here")]
#[path = "../../src/storage/agenda.rs"]
mod agenda;

// The first line is the name of a queue, the rest a key.
fuzz_target!(|text: &str| {
    let (queue, key) = text.split_once('\n').unwrap_or(("m1", text));
    let Some((at, subject)) = agenda::parse(queue, key) else {
        return;
    };
    let written = agenda::key(queue, at, subject);
    assert!(written.starts_with(&agenda::prefix(queue)));
    assert_eq!(agenda::parse(queue, &written), Some((at, subject)));
});
