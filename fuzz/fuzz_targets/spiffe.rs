//! SPIFFE IDs, trust domains and path patterns: what is read is printed as it was.
#![no_main]

use daypass_certs::{PathPattern, SpiffeId, TrustDomain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
        let again = SpiffeId::new(id.trust_domain().clone(), id.path());
        assert_eq!(again.as_ref(), Ok(&id));
        if let Ok(pattern) = id.path().parse::<PathPattern>() {
            assert!(pattern.matches(&id), "{text}");
        }
    }
    if let Ok(domain) = TrustDomain::new(text) {
        assert_eq!(domain.as_str(), text);
        assert_eq!(domain.id().to_string().parse(), Ok(domain.id()));
    }
    drop(text.parse::<PathPattern>());
});
