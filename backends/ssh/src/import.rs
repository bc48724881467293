//! Private keys that others made, as `ssh-keygen` and OpenSSL write them.

use daypass_contract::{BackendError, Secret};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::{Mpint, PrivateKey};

use crate::key::KeyPair;
use crate::text::{der, der_integer};

/// Reads an unencrypted private key: OpenSSH's form, PKCS#8, SEC 1 or PKCS#1, in PEM.
pub(crate) fn private_key(text: &Secret) -> Result<KeyPair, BackendError> {
    let refused = |problem: &str| BackendError::field("private_key", problem);
    let none =
        || refused("must be an Ed25519, ECDSA or RSA key in the form of ssh-keygen or in PEM");
    let text = text.expose().trim_ascii();
    if !text.starts_with(b"-----BEGIN OPENSSH PRIVATE KEY-----") {
        let der = PrivateKeyDer::from_pem_slice(text).map_err(|_| none())?;
        return KeyPair::from_der(der.secret_der()).ok_or_else(none);
    }
    // What ssh-key reads ends with a line break; what clients send often lost it.
    let text = Secret::new([text, b"\n"].concat());
    let key = PrivateKey::from_openssh(text.expose()).map_err(|_| none())?;
    match key.key_data() {
        KeypairData::Encrypted(_) => Err(refused(
            "is protected by a passphrase: remove it first (ssh-keygen -p -N '')",
        )),
        KeypairData::Ed25519(pair) => {
            let seed = Secret::new(pair.private.to_bytes());
            KeyPair::from_ed25519(seed.expose(), &pair.public.0).ok_or_else(none)
        }
        KeypairData::Ecdsa(pair) => {
            let (scalar, point) = (pair.private_key_bytes(), pair.public_key_bytes());
            KeyPair::from_ecdsa(pair.curve(), scalar, point).ok_or_else(none)
        }
        KeypairData::Rsa(pair) => {
            let der = rsa(pair).ok_or_else(none)?;
            KeyPair::from_der(der.expose()).ok_or_else(none)
        }
        _ => Err(none()),
    }
}

/// The `RSAPrivateKey` (RFC 8017, A.1.2) of an OpenSSH key, which lacks two of its numbers.
fn rsa(pair: &RsaKeypair) -> Option<Secret> {
    let (public, private) = (pair.public(), pair.private());
    let d = digits(private.d())?;
    let parts = [
        &[0],
        digits(public.n())?,
        digits(public.e())?,
        d,
        digits(private.p())?,
        digits(private.q())?,
        remainder(d, decrement(digits(private.p())?).expose())?.expose(),
        remainder(d, decrement(digits(private.q())?).expose())?.expose(),
        digits(private.iqmp())?,
    ]
    .map(der_integer);
    let all: Vec<&[u8]> = parts.iter().map(Secret::expose).collect();
    Some(der(0x30, Secret::new(all.concat()).expose()))
}

fn digits(number: &Mpint) -> Option<&[u8]> {
    number.as_positive_bytes()
}

/// An odd number less one.
fn decrement(odd: &[u8]) -> Secret {
    let mut digits = odd.to_vec();
    if let Some(last) = digits.last_mut() {
        *last &= 0xfe;
    }
    Secret::new(digits)
}

/// `number` modulo `modulus`, both in base 256, the highest digit first. `None` where that is zero.
/// It takes time that depends on both: for the import of a key, which an operator does once.
fn remainder(number: &[u8], modulus: &[u8]) -> Option<Secret> {
    modulus.iter().find(|digit| **digit != 0)?;
    // One digit more than the modulus, for the bit that is shifted in.
    let modulus = Secret::new([&[0], modulus].concat());
    let mut rest = vec![0_u8; modulus.len()];
    for bit in number
        .iter()
        .flat_map(|digit| (0..8).rev().map(move |at| digit >> at & 1))
    {
        let mut carry = bit;
        for digit in rest.iter_mut().rev() {
            let next = *digit >> 7;
            *digit = *digit << 1 | carry;
            carry = next;
        }
        if rest.as_slice() >= modulus.expose() {
            let mut borrow = false;
            for (digit, less) in rest.iter_mut().rev().zip(modulus.expose().iter().rev()) {
                let (once, first) = digit.overflowing_sub(*less);
                let (twice, second) = once.overflowing_sub(u8::from(borrow));
                *digit = twice;
                borrow = first || second;
            }
        }
    }
    Some(Secret::new(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_remainder_is_the_remainder(number: u128, modulus in 1_u64..) {
            let rest = remainder(&number.to_be_bytes(), &modulus.to_be_bytes()).unwrap();
            let rest = rest.expose().iter().fold(0_u128, |all, digit| all << 8 | u128::from(*digit));
            prop_assert_eq!(rest, number % u128::from(modulus));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(-----BEGIN [A-Z ]{0,30}-----\n)?[A-Za-z0-9+/=\n-]{0,200}") {
            prop_assert!(private_key(&Secret::new(text)).is_err());
        }
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        assert!(remainder(&[5], &[0, 0]).is_none());
        assert!(remainder(&[5], &[]).is_none());
    }
}
