//! Checkpoints: records that sign the chain up to themselves.
//!
//! A checkpoint signs its own number, its own time and the hash of the record before it, so a valid one
//! vouches for every record before it and for itself. The signed text is
//! `daypass-audit-checkpoint-v1:<seq>:<time>:<prev in hex>`; the signature is Ed25519 (RFC 8032).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::line::{self, Hash};

/// The `type` of a checkpoint.
pub(super) const KIND: &str = "checkpoint";

/// What the log may use once the server is unsealed. Derived from the root key, so it survives restarts.
pub struct AuditKeys {
    /// Keys the hashes of secrets.
    pub hmac: Zeroizing<[u8; 32]>,
    /// The seed of the Ed25519 key that signs checkpoints.
    pub signing_seed: Zeroizing<[u8; 32]>,
}

/// The Ed25519 public key of a log, in text as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        line::from_hex(text.as_bytes())
            .map(Self)
            .ok_or_else(|| "an audit key is 64 lower-case hexadecimal digits".into())
    }
}

/// Signs checkpoints.
pub(super) struct Signer(Ed25519KeyPair);

impl Signer {
    /// The signer of these keys; `None` where the library refuses the seed, which it does not.
    pub(super) fn new(keys: &AuditKeys) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(keys.signing_seed.as_slice())
            .ok()
            .map(Self)
    }

    /// The key that verifies what this signs.
    pub(super) fn public_key(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    /// The fields of the checkpoint that will stand at `seq`.
    pub(super) fn fields(&self, seq: u64, time: &str, prev: &Hash) -> Vec<u8> {
        let signature = self.0.sign(signed_text(seq, time, prev).as_bytes());
        let (key, signature) = (self.public_key(), hex::encode(signature));
        format!(r#","key":"{key}","signature":"{signature}""#).into_bytes()
    }
}

fn signed_text(seq: u64, time: &str, prev: &Hash) -> String {
    format!("daypass-audit-checkpoint-v1:{seq}:{time}:{prev}")
}

/// Who signed the checkpoint in this line; `None` where the signature is not valid, or the line holds
/// anything that is not signed.
pub(super) fn signed_by(text: &[u8], parsed: &line::Line<'_>) -> Option<PublicKey> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        key: &'a str,
        signature: &'a str,
    }
    let Fields { key, signature } = serde_json::from_slice(text).ok()?;
    let mut only = Vec::with_capacity(text.len());
    let fields = format!(r#","key":"{key}","signature":"{signature}""#);
    line::write(
        &mut only,
        parsed.seq,
        parsed.time,
        KIND,
        fields.as_bytes(),
        &parsed.prev,
    );
    if only != text {
        return None;
    }
    let signature: [u8; 64] = line::from_hex(signature.as_bytes())?;
    let key: PublicKey = key.parse().ok()?;
    UnparsedPublicKey::new(&ED25519, key.0)
        .verify(
            signed_text(parsed.seq, parsed.time, &parsed.prev).as_bytes(),
            &signature,
        )
        .ok()
        .map(|()| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::line::Line;

    #[test]
    fn a_checkpoint_vouches_for_each_of_its_bytes() {
        let signer = Signer::new(&AuditKeys {
            hmac: Zeroizing::new([1; 32]),
            signing_seed: Zeroizing::new([2; 32]),
        })
        .unwrap();
        let (time, prev) = ("2026-11-23T21:30:00.123456Z", Hash::of(b"before"));
        let mut text = Vec::new();
        let fields = signer.fields(9, time, &prev);
        line::write(&mut text, 9, time, KIND, &fields, &prev);
        let who = |text: &[u8]| signed_by(text, &Line::parse(text)?);
        assert_eq!(who(&text), Some(signer.public_key()));
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert_eq!(who(&changed), None, "byte {at}");
        }
        let more = String::from_utf8(text).unwrap();
        let more = more.replace(r#","key""#, r#","note":"x","key""#);
        assert_eq!(who(more.as_bytes()), None);
    }
}
