//! Tokens and accessors: any text is told apart by its form, and only an intact token is one.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use daypass_contract::Entropy;
use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "only a part of the module is used here")]
#[path = "../../src/identity/token.rs"]
mod token;

use token::{Accessor, TokenId, TokenText};

/// Whatever the input holds, over and over.
struct Given<'a>(&'a [u8]);

impl Entropy for Given<'_> {
    fn fill(&self, target: &mut [u8]) {
        let bytes = self.0.iter().cycle().chain(std::iter::repeat(&0));
        target
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }
}

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        if let TokenText::Service(id) = TokenText::parse(text) {
            assert_eq!((text.len(), id.as_str().len()), (58, 24));
        }
        if let Ok(accessor) = text.parse::<Accessor>() {
            assert_eq!(accessor.as_str(), text);
            assert!(matches!(TokenText::parse(text), TokenText::Chosen));
            assert_eq!(accessor.id().accessor(), accessor);
        }
    }
    let millis = input
        .iter()
        .fold(0_u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte));
    let id = TokenId::new(UNIX_EPOCH + Duration::from_millis(millis), &Given(input));
    let secret = TokenText::generate(&id, &Given(input));
    let text = secret.expose_str().expect("a token is text");
    assert!(matches!(TokenText::parse(text), TokenText::Service(found) if found == id));
    // One character changed, wherever: no longer a token.
    let at = 4 + usize::try_from(millis % 54).unwrap_or(0);
    let other = if text.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    let mut altered = text.to_owned();
    altered.replace_range(at..=at, other);
    assert!(matches!(TokenText::parse(&altered), TokenText::Chosen));
});
