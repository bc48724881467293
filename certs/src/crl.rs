//! [`Crl`]: the list of what an issuer revoked (RFC 5280, section 5).

use std::time::SystemTime;

use crate::ca::{Issuer, signed};
use crate::der::{Der, ENUMERATED, context_constructed};
use crate::error::CertError;
use crate::pem::public_pem;
use crate::profile::{extension, key_identifiers};
use crate::serial::Serial;

/// Why a certificate was revoked (RFC 5280, section 5.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Not said; left out of the list.
    #[default]
    Unspecified,
    /// Its key is known to others.
    KeyCompromise,
    /// It was replaced.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
    /// What it says is no longer true.
    PrivilegeWithdrawn,
}

impl Reason {
    const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Which certificate.
    pub serial: Serial,
    /// Since when.
    pub at: SystemTime,
    /// Why.
    pub reason: Reason,
}

/// A signed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    der: Vec<u8>,
}

impl Crl {
    /// Signs the list of everything that `issuer` revoked. `number` must be greater than that of any earlier
    /// list of this issuer.
    ///
    /// # Errors
    /// [`CertError::Unacceptable`] for dates outside 1970 to 9999, [`CertError::Crypto`].
    pub fn sign(
        issuer: &Issuer,
        number: u64,
        this_update: SystemTime,
        next_update: SystemTime,
        revoked: &[Revoked],
    ) -> Result<Self, CertError> {
        let mut dates = Ok(());
        let list = Der::build(|der| {
            der.sequence(|der| {
                der.unsigned(&[1]);
                issuer.key().encode_signature_algorithm(der);
                der.raw(issuer.certificate().subject().der());
                dates = der.time(this_update).and_then(|()| der.time(next_update));
                // RFC 5280, section 5.1.2.6: absent where there is nothing to list.
                if !revoked.is_empty() {
                    der.sequence(|der| {
                        for entry in revoked {
                            let written = entry.encode(der);
                            if dates.is_ok() {
                                dates = written;
                            }
                        }
                    });
                }
                der.nested(context_constructed(0), |der| {
                    der.sequence(|der| {
                        key_identifiers(der, None, Some(issuer.key_id()));
                        extension(der, 20, false, |der| der.unsigned(&number.to_be_bytes()));
                    });
                });
            });
        });
        dates?;
        signed(issuer.key(), &list).map(|der| Self { der })
    }

    /// The list in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The list in PEM, without a line break at the end.
    pub fn pem(&self) -> String {
        public_pem("X509 CRL", &self.der)
    }
}

impl Revoked {
    fn encode(&self, der: &mut Der) -> Result<(), CertError> {
        let mut date = Ok(());
        der.sequence(|der| {
            der.unsigned(self.serial.as_be_bytes());
            date = der.time(self.at);
            if self.reason != Reason::Unspecified {
                der.sequence(|der| {
                    extension(der, 21, false, |der| {
                        der.value(ENUMERATED, &[self.reason.code()]);
                    });
                });
            }
        });
        date
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ca::tests::{now, root};
    use crate::key::KeyAlgorithm;
    use crate::testing::{File, openssl};
    use crate::{KeyPair, Profile, San, Validity};

    #[test]
    fn openssl_reads_the_list_and_rejects_what_is_on_it() {
        for algorithm in crate::key::tests::ALL {
            let issuer = root(algorithm, None);
            let key = KeyPair::generate(KeyAlgorithm::EcP256).unwrap();
            let end = now() + Duration::from_secs(600);
            let profile = Profile {
                sans: vec![San::Dns("a".into())],
                ..Profile::leaf(Validity::until(now(), end))
            };
            let [gone, good] = [1, 2].map(|number| {
                let serial = Serial::new(now(), [number; 14]);
                issuer.sign(&profile, key.public(), &serial).unwrap()
            });
            let revoked = [Revoked {
                serial: gone.serial().clone(),
                at: now(),
                reason: Reason::KeyCompromise,
            }];
            let anchor = File::holding(issuer.certificate().pem().as_bytes());
            let [gone, good] = [gone, good].map(|leaf| File::holding(leaf.pem().as_bytes()));
            let verdicts = |crl: &Crl| {
                let crl = File::holding(crl.pem().as_bytes());
                [&gone, &good].map(|leaf| {
                    let run = std::process::Command::new("openssl")
                        .args(["verify", "-crl_check", "-x509_strict", "-CAfile", &anchor.0])
                        .args(["-CRLfile", &crl.0, &leaf.0])
                        .output()
                        .unwrap();
                    run.status.success()
                })
            };
            let empty = Crl::sign(&issuer, 1, now(), end, &[]).unwrap();
            assert_eq!(verdicts(&empty), [true, true], "{algorithm:?}");
            let full = Crl::sign(&issuer, 300, now(), end, &revoked).unwrap();
            assert_eq!(verdicts(&full), [false, true], "{algorithm:?}");

            let crl = File::holding(full.der());
            let text = openssl(&["crl", "-inform", "DER", "-in", &crl.0, "-noout", "-text"]);
            let text = String::from_utf8(text).unwrap();
            for part in [
                "CRL Number: \n                300",
                "Key Compromise",
                "Version 2",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }
}
