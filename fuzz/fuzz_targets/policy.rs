//! Policies: what is read is printed and read again as the same rules, and deciding never panics.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::json;

#[allow(
    dead_code,
    unused_imports,
    reason = "only the public part of the module is used here"
)]
#[path = "../../src/policy/mod.rs"]
mod policy;

use policy::{Acl, Ask, Capability, Policy, capabilities, decide};

fuzz_target!(|text: &str| {
    let Ok(read) = Policy::parse("fuzz", text) else {
        return;
    };
    let printed: String = read.rules().iter().map(ToString::to_string).collect();
    let again =
        Policy::parse("fuzz", &printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_eq!(again.rules(), read.rules(), "{printed}");

    // Alone and together with itself as another policy: the same, as rules of one pattern are one.
    let read = Arc::new(read);
    let acl = Acl::compile(&[Arc::clone(&read)]);
    let both = Acl::compile(&[Arc::clone(&read), Arc::new(again)]);
    let fields = json!({ "ttl": "1h", "policies": ["a", 1, null, { "b": true }] });
    for rule in read.rules().iter().take(16) {
        let matching = rule.pattern.as_str().replace('+', "x").replace('*', "y/z");
        for path in [
            matching.clone(),
            format!("{matching}/"),
            format!("/{matching}//"),
        ] {
            for capability in Capability::ALL {
                let ask = Ask {
                    path: &path,
                    capability,
                    sudo: false,
                    fields: fields.as_object(),
                    wrap_ttl: None,
                };
                let decided = decide(&acl, &ask);
                assert_eq!(decided.is_ok(), decide(&both, &ask).is_ok(), "{path}");
                if let Err(denial) = &decided {
                    drop(denial.to_string());
                }
                if decided.is_ok() && capability != Capability::List {
                    assert!(acl.granted(&path).contains(capability), "{path}");
                }
            }
            assert_eq!(capabilities(&acl, &path), capabilities(&both, &path));
            acl.reaches(&format!("{path}/"));
        }
    }
});
