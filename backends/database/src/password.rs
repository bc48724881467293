//! Passwords for accounts, by a named policy or by default.

use daypass_contract::{BackendError, Entropy, Host, Secret};

/// 62 letters and digits and a hyphen: 24 of them hold more than 140 bits.
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
const LENGTH: usize = 24;

/// A new password, by `policy` where one is named.
///
/// # Errors
/// [`BackendError::InvalidRole`] where the policy does not exist, or makes what cannot be a password.
pub(crate) async fn generate(host: &Host, policy: Option<&str>) -> Result<Secret, BackendError> {
    let Some(policy) = policy else {
        return Ok(by_default(&*host.entropy));
    };
    let password = host.system.generate_password(policy).await?;
    if password.is_empty() || password.expose_str().is_none() {
        let reason = format!("password policy \"{policy}\" does not make text");
        return Err(BackendError::InvalidRole(reason));
    }
    Ok(password)
}

/// Has what common password checks ask for: a small and a capital letter, a digit, a hyphen, and a
/// letter at both ends, so that no shell or URL takes it for an option.
fn by_default(entropy: &dyn Entropy) -> Secret {
    // Beyond the last multiple some letters would be more likely than others.
    let fair = ALPHABET.len() * (256 / ALPHABET.len());
    loop {
        // Drawn at once: asking for each letter costs more than all the rest.
        let drawn = Secret::new(entropy.bytes::<{ LENGTH * 2 }>());
        let drawn = drawn.expose().iter().map(|byte| usize::from(*byte));
        let letters = drawn
            .filter(|number| *number < fair)
            .filter_map(|number| ALPHABET.get(number % ALPHABET.len()));
        let mut password = Vec::with_capacity(LENGTH);
        password.extend(letters.take(LENGTH).copied());
        let has = |test: fn(&u8) -> bool| password.iter().any(test);
        let letter = |end: Option<&u8>| end.is_some_and(u8::is_ascii_alphabetic);
        // Trying again keeps every password that is good enough equally likely.
        if password.len() == LENGTH
            && has(u8::is_ascii_lowercase)
            && has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_digit)
            && password.contains(&b'-')
            && letter(password.first())
            && letter(password.last())
        {
            return Secret::new(password);
        }
    }
}

#[cfg(test)]
mod tests {
    use daypass_conformance::TestHost;

    use super::*;

    #[tokio::test]
    async fn a_password_is_long_has_every_class_and_is_never_given_twice() {
        let host = TestHost::new().host();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let password = generate(&host, None).await.unwrap();
            let text = password.expose_str().unwrap().to_owned();
            assert!(text.len() == LENGTH && text.contains('-'), "{text}");
            assert!(!text.starts_with('-') && !text.ends_with('-'), "{text}");
            assert!(seen.insert(text));
        }
    }

    #[tokio::test]
    async fn a_policy_decides_where_one_is_named() {
        let host = TestHost::new().host();
        let password = generate(&host, Some("digits")).await.unwrap();
        assert_eq!(password.len(), 12);
        let error = generate(&host, Some("nope")).await.err().unwrap();
        assert!(matches!(error, BackendError::InvalidRole(_)), "{error}");
    }
}
