//! What a token looks like.
//!
//! `dps_` (service) or `dpb_` (batch), then base64url. A service token holds 12 bytes of id (milliseconds
//! since the epoch, then random: time-ordered, so that the records of new tokens lie side by side),
//! 24 bytes of secret and 4 bytes of checksum: `dp[sb]_[A-Za-z0-9_-]{54}` finds one in a leaked file,
//! and the checksum tells it from noise without asking the server.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use daypass_contract::{Entropy, Secret};
use serde::{Deserialize, Serialize};

const SERVICE: &str = "dps_";
pub(super) const BATCH: &str = "dpb_";
const ACCESSOR: &str = "dpa_";
const ID: usize = 12;
const SECRET: usize = 24;
const CHECKSUM: usize = 4;

/// Whether a token has a record or carries everything itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Persistent, renewable, revocable, one of a tree.
    Service,
    /// Sealed and stateless.
    Batch,
}

impl TokenKind {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Batch => "batch",
        }
    }
}

/// What a service token's record is found under. Not a secret: it opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(String);

impl TokenId {
    /// A new id, ordered by `now`.
    pub fn new(now: SystemTime, entropy: &dyn Entropy) -> Self {
        let millis = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let mut bytes = [0; ID];
        let (time, random) = bytes.split_at_mut(6);
        time.copy_from_slice(millis.to_be_bytes().last_chunk::<6>().unwrap_or(&[0; 6]));
        entropy.fill(random);
        Self(hex::encode(bytes))
    }

    /// 24 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id read back from a storage key.
    pub(crate) fn from_key(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The id that a token of an operator's own choice gets: the start of its keyed hash.
    pub(super) fn of_hash(hash: &[u8]) -> Self {
        Self(hex::encode(hash.get(..ID).unwrap_or(hash)))
    }

    /// The accessor, which names the token without being one.
    pub fn accessor(&self) -> Accessor {
        Accessor(format!("{ACCESSOR}{}", self.0))
    }
}

/// Names a token to look up, renew or revoke it; never accepted as a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accessor(String);

impl Accessor {
    /// As the API writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The token it names.
    pub fn id(&self) -> TokenId {
        TokenId(self.0.strip_prefix(ACCESSOR).unwrap_or_default().to_owned())
    }
}

impl fmt::Display for Accessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Accessor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let id = text.strip_prefix(ACCESSOR).ok_or(())?;
        if id.len() != 2 * ID
            || !id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(());
        }
        Ok(Self(text.to_owned()))
    }
}

/// A token as a client presents it.
pub enum TokenText<'a> {
    /// One of ours, with the id it carries.
    Service(TokenId),
    /// A sealed one: what follows the prefix.
    Batch(&'a str),
    /// Any other text: a token whose value an operator chose, or nothing we know.
    Chosen,
}

impl<'a> TokenText<'a> {
    /// Tells what `text` is by its form alone.
    pub fn parse(text: &'a str) -> Self {
        if let Some(sealed) = text.strip_prefix(BATCH) {
            return Self::Batch(sealed);
        }
        match text
            .strip_prefix(SERVICE)
            .and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok())
        {
            Some(bytes) if bytes.len() == ID + SECRET + CHECKSUM => {
                let (payload, sum) = bytes.split_at(ID + SECRET);
                if checksum(payload) == sum {
                    return Self::Service(TokenId::of_hash(payload));
                }
                Self::Chosen
            }
            _ => Self::Chosen,
        }
    }

    /// A new service token with the id given.
    pub fn generate(id: &TokenId, entropy: &dyn Entropy) -> Secret {
        let mut bytes = hex::decode(&id.0).unwrap_or_default();
        bytes.extend_from_slice(&entropy.bytes::<SECRET>());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Secret::new(format!("{SERVICE}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM] {
    let digest = digest(&SHA256, payload);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter;
    impl Entropy for Counter {
        fn fill(&self, target: &mut [u8]) {
            for (index, byte) in (0_u8..).zip(target) {
                *byte = index;
            }
        }
    }

    #[test]
    fn a_generated_token_is_recognised_and_a_mistyped_one_is_not() {
        let id = TokenId::new(UNIX_EPOCH + std::time::Duration::from_secs(1), &Counter);
        let secret = TokenText::generate(&id, &Counter);
        let text = secret.expose_str().unwrap();
        assert_eq!(text.len(), 4 + 54);
        assert!(matches!(TokenText::parse(text), TokenText::Service(found) if found == id));
        let mistyped = text.replace("dps_A", "dps_B");
        assert!(matches!(TokenText::parse(&mistyped), TokenText::Chosen));
        assert!(matches!(TokenText::parse("root"), TokenText::Chosen));
        assert!(matches!(
            TokenText::parse("dpb_abc"),
            TokenText::Batch("abc")
        ));
    }

    #[test]
    fn ids_are_ordered_by_time_and_accessors_are_not_tokens() {
        let at = |seconds| {
            TokenId::new(
                UNIX_EPOCH + std::time::Duration::from_secs(seconds),
                &Counter,
            )
        };
        assert!(at(1) < at(2) && at(2) < at(1_000_000_000));
        let accessor = at(1).accessor();
        assert_eq!(accessor.as_str().parse::<Accessor>().unwrap().id(), at(1));
        assert!(matches!(
            TokenText::parse(accessor.as_str()),
            TokenText::Chosen
        ));
        for wrong in ["dpa_", "dpa_zz", "x", "dpa_../../../../../etc/pass"] {
            assert!(wrong.parse::<Accessor>().is_err(), "{wrong}");
        }
    }
}
