//! Names of roles and users: one spelling each.

use daypass_contract::BackendError;
use serde::{Deserialize, Deserializer};

/// Longer names are nobody's.
const LONGEST: usize = 255;

/// For `#[serde(deserialize_with = "…")]`: case does not tell names apart, as in the Vault API.
pub(crate) fn lower<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(|name| name.to_ascii_lowercase())
}

/// Refuses a new name that could mean something else in a path, a policy or a template.
///
/// # Errors
/// [`BackendError::InvalidRequest`] with the rule.
pub(crate) fn check(field: &str, name: &str) -> Result<(), BackendError> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = name.as_bytes();
    let ends_in_words = [bytes.first(), bytes.last()]
        .iter()
        .all(|end| end.is_some_and(|byte| word(*byte)));
    let plain = bytes
        .iter()
        .all(|byte| word(*byte) || b"-.@".contains(byte));
    if ends_in_words && plain && name.len() <= LONGEST {
        return Ok(());
    }
    Err(BackendError::field(
        field,
        "must be letters, digits, \"_\", and between them also \"-\", \".\" or \"@\"",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_mean_something_else() {
        for name in ["a", "web-1", "ann@example.org", "a_b", "_", "9"] {
            assert!(check("name", name).is_ok(), "{name}");
        }
        let long = "a".repeat(256);
        for name in [
            "", "-a", "a-", ".", "..", "a/b", "a b", "a*", "+", "a+b", "é", "a\n", "{{x}}", &long,
        ] {
            assert!(check("name", name).is_err(), "{name}");
        }
    }
}
