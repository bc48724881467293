//! [`Secret`]: the one type that may hold what grants access.
//!
//! **Invariant:** a `Secret` has no `Display`, `Debug`, `Serialize`, `Clone` or `PartialEq`, and its
//! memory is wiped when it is dropped. It leaves only through [`Secret::expose`], which names the act
//! at the place where it happens, or through [`reveal`], the serializer used at the edge.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, ser};
use subtle::ConstantTimeEq as _;
use zeroize::optimization_barrier;

/// Bytes that grant access: a password, a private key, a token, the value of a stored secret.
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes ownership of `bytes`; they are wiped when this value is dropped.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, or `None` where it is not UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// A second copy, for the rare place that needs one. Not `Clone`, so that copies are visible.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Compares in time that depends on the lengths alone.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.0.as_slice().ct_eq(other).into()
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // `Vec`'s own `zeroize` writes byte by byte, which shows where every answer is a secret. This is
        // one fill of all that was ever allocated, which the barrier keeps from being optimized away.
        self.0.clear();
        self.0.resize(self.0.capacity(), 0);
        optimization_barrier(self.0.as_slice());
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password" })
    }
}

/// Serializes a secret's text, for `#[serde(serialize_with = "daypass_contract::reveal")]` on a field of
/// a response. The result goes to the caller the decision was made for, and nowhere else.
///
/// # Errors
/// Fails when the secret is not UTF-8.
pub fn reveal<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    match secret.expose_str() {
        Some(text) => serializer.serialize_str(text),
        None => Err(ser::Error::custom("secret is not text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reaches_json_only_through_reveal() {
        #[derive(serde::Serialize)]
        struct Answer {
            #[serde(serialize_with = "reveal")]
            password: Secret,
        }
        let answer = Answer {
            password: Secret::new("hunter2"),
        };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"password":"hunter2"}"#
        );
    }

    #[test]
    fn comparison_tells_equal_from_different_and_from_a_prefix() {
        let secret = Secret::new("hunter2");
        assert!(secret.ct_eq(b"hunter2"));
        assert!(!secret.ct_eq(b"hunter3"));
        assert!(!secret.ct_eq(b"hunter"));
    }
}
