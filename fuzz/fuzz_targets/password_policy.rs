//! Password policies: what is accepted makes passwords within the bounds, in bounded time.
#![no_main]

use daypass_contract::Entropy;
use libfuzzer_sys::fuzz_target;

#[allow(
    dead_code,
    unused_imports,
    reason = "only the public part of the module is used here"
)]
#[path = "../../src/policy/mod.rs"]
mod policy;

struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, target: &mut [u8]) {
        target.fill(0);
    }
}

fuzz_target!(|text: &str| {
    let Ok(policy) = policy::PasswordPolicy::parse(text) else {
        return;
    };
    let password = policy.generate(&Zeros);
    let length = password.expose_str().map(|text| text.chars().count());
    assert!(matches!(length, Some(4..=100)), "{length:?}");
});
