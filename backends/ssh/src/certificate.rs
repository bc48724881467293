//! [`Certificate`]: what is signed, byte by byte (OpenSSH's PROTOCOL.certkeys).
//!
//! ssh-key can build certificates too, but checks each one in debug builds with cryptography of its own,
//! which we do not compile in.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::BackendError;
use ssh_key::certificate::{CertType, OptionsMap};
use ssh_key::encoding::{self, Encode as _};
use ssh_key::public::KeyData;

use crate::internal;
use crate::key::{KeyPair, RsaHash};

/// A certificate that is not signed yet.
pub(crate) struct Certificate {
    pub(crate) nonce: [u8; 32],
    pub(crate) key: KeyData,
    pub(crate) serial: u64,
    pub(crate) kind: CertType,
    pub(crate) key_id: String,
    /// Empty means: good for everybody.
    pub(crate) principals: Vec<String>,
    /// Seconds since the epoch.
    pub(crate) valid_after: u64,
    /// Seconds since the epoch; from then on it is not valid.
    pub(crate) valid_before: u64,
    pub(crate) critical_options: BTreeMap<String, String>,
    pub(crate) extensions: BTreeMap<String, String>,
}

impl Certificate {
    /// Signs it: one line, as `ssh` reads it from a file.
    pub(crate) fn sign(self, ca: &KeyPair, hash: RsaHash) -> Result<String, BackendError> {
        let algorithm = self.key.algorithm().to_certificate_type();
        let mut bytes = Vec::with_capacity(1024);
        self.encode(&algorithm, ca.public(), &mut bytes)
            .map_err(internal)?;
        let signature = ca.sign(&bytes, hash)?;
        signature.encode(&mut bytes).map_err(internal)?;
        Ok(format!("{algorithm} {}\n", STANDARD.encode(bytes)))
    }

    fn encode(self, algorithm: &str, ca: &KeyData, to: &mut Vec<u8>) -> encoding::Result<()> {
        algorithm.encode(to)?;
        self.nonce.as_slice().encode(to)?;
        // A public key is its algorithm and then what the certificate repeats.
        let key = self.key.encode_vec()?;
        let skipped = self.key.algorithm().as_str().encoded_len()?;
        to.extend_from_slice(key.get(skipped..).ok_or(encoding::Error::Length)?);
        self.serial.encode(to)?;
        self.kind.encode(to)?;
        self.key_id.encode(to)?;
        self.principals.encode(to)?;
        self.valid_after.encode(to)?;
        self.valid_before.encode(to)?;
        OptionsMap(self.critical_options).encode(to)?;
        OptionsMap(self.extensions).encode(to)?;
        // Reserved.
        "".encode(to)?;
        ca.encode_prefixed(to)
    }
}

#[cfg(test)]
mod tests {
    use daypass_conformance::SeededEntropy;
    use proptest::prelude::*;
    use ssh_key::PublicKey;

    use super::*;
    use crate::key::Kind;

    fn any_map() -> impl Strategy<Value = BTreeMap<String, String>> {
        // An option without a name has no place in the format.
        proptest::collection::btree_map("[a-z@.-]{1,12}", ".{0,12}", 0..4)
    }

    proptest! {
        #[test]
        fn what_is_signed_is_what_is_read(
            serial: u64,
            key_id in ".{0,20}",
            principals in proptest::collection::vec(".{0,12}", 0..5),
            valid_after in 0_u64..1 << 40,
            lasts in 0_u64..1 << 30,
            critical_options in any_map(),
            extensions in any_map(),
            host: bool,
        ) {
            let entropy = SeededEntropy::new(serial);
            let ca = KeyPair::generate(Kind::Ed25519, &entropy).unwrap();
            let key = KeyPair::generate(Kind::Ed25519, &entropy).unwrap();
            let kind = if host { CertType::Host } else { CertType::User };
            let certificate = Certificate {
                nonce: [7; 32],
                key: key.public().clone(),
                serial,
                kind,
                key_id: key_id.clone(),
                principals: principals.clone(),
                valid_after,
                valid_before: valid_after + lasts,
                critical_options: critical_options.clone(),
                extensions: extensions.clone(),
            };
            let line = certificate.sign(&ca, RsaHash::Sha256).unwrap();
            let read = ssh_key::Certificate::from_openssh(&line).unwrap();
            prop_assert_eq!(read.nonce(), [7; 32]);
            prop_assert_eq!(read.public_key(), key.public());
            prop_assert_eq!(read.signature_key(), ca.public());
            prop_assert_eq!(read.serial(), serial);
            prop_assert_eq!(read.cert_type(), kind);
            prop_assert_eq!(read.key_id(), key_id);
            prop_assert_eq!(read.valid_principals(), principals);
            prop_assert_eq!(read.valid_after(), valid_after);
            prop_assert_eq!(read.valid_before(), valid_after + lasts);
            prop_assert_eq!(&read.critical_options().0, &critical_options);
            prop_assert_eq!(&read.extensions().0, &extensions);
        }

        /// Keys come from callers: what is read of a damaged one can be certified, or is refused.
        #[test]
        fn a_damaged_key_is_certified_or_refused(at in 0_usize..51, with: u8) {
            let entropy = SeededEntropy::new(1);
            let ca = KeyPair::generate(Kind::Ed25519, &entropy).unwrap();
            let mut bytes = PublicKey::from(ca.public().clone()).to_bytes().unwrap();
            bytes[at] = with;
            let line = format!("ssh-ed25519 {}", STANDARD.encode(bytes));
            if let Ok(key) = PublicKey::from_openssh(&line) {
                let certificate = Certificate {
                    nonce: [0; 32],
                    key: key.key_data().clone(),
                    serial: 1,
                    kind: CertType::User,
                    key_id: String::new(),
                    principals: vec!["bob".into()],
                    valid_after: 0,
                    valid_before: 1,
                    critical_options: BTreeMap::new(),
                    extensions: BTreeMap::new(),
                };
                prop_assert!(certificate.sign(&ca, RsaHash::Sha256).is_ok());
            }
        }
    }
}
