//! Splitting the root key among people, and putting it together again.
//!
//! A share is 32 bytes and then its number, as Vault and OpenBao write it. One share alone, where one
//! suffices, is the key itself. Shamir's scheme cannot tell a wrong share from a right one: whoever
//! combines must check the result.

use std::convert::Infallible;

use daypass_contract::{Entropy, Secret};
use rand_core::{TryCryptoRng, TryRng};
use vsss_rs::Gf256;

use super::{SealError, invalid};
use crate::memory::LockedKey;

const KEY_BYTES: usize = 32;

/// How long a share is, where `threshold` of them make the key.
pub(super) fn share_bytes(threshold: u8) -> usize {
    if threshold == 1 {
        KEY_BYTES
    } else {
        KEY_BYTES + 1
    }
}

/// Refuses what cannot be a share, where `threshold` of them make the key.
pub(super) fn check_length(share: &Secret, threshold: u8) -> Result<(), SealError> {
    let wanted = share_bytes(threshold);
    if share.len() == wanted {
        return Ok(());
    }
    Err(invalid(&format!(
        "a share of this store has {wanted} bytes; this one has {}",
        share.len()
    )))
}

/// `shares` pieces of `key`, any `threshold` of which give it back. `None` where the numbers do not fit.
pub(super) fn split(
    key: &LockedKey<KEY_BYTES>,
    shares: u8,
    threshold: u8,
    entropy: &dyn Entropy,
) -> Option<Vec<Secret>> {
    if (shares, threshold) == (1, 1) {
        return Some(vec![Secret::new(key.expose())]);
    }
    let (threshold, limit) = (threshold.into(), shares.into());
    let mut split = Gf256::split_bytes(threshold, limit, key.expose(), Random(entropy)).ok()?;
    // The crate puts the number first, Vault last.
    for share in &mut split {
        share.rotate_left(1);
    }
    Some(split.into_iter().map(Secret::new).collect())
}

/// The key that these shares make, right or wrong. `None` where they make none: too few, of different
/// length, or two with one number.
pub(super) fn combine(shares: &[Secret]) -> Option<LockedKey<KEY_BYTES>> {
    if let [only] = shares {
        return LockedKey::copy_of(only.expose());
    }
    let turned = |share: &Secret| {
        let mut share = share.expose().to_vec();
        // The number, from the end to the front.
        let one = 1.min(share.len());
        share.rotate_right(one);
        share
    };
    // These copies are wiped as every freed block is.
    let shares: Vec<_> = shares.iter().map(turned).collect();
    let key = Secret::new(Gf256::combine_bytes(shares).ok()?);
    LockedKey::copy_of(key.expose())
}

/// Our source of randomness in the form that the splitting crate asks for.
struct Random<'a>(&'a dyn Entropy);

impl TryRng for Random<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(self.0.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(self.0.bytes()))
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(target);
        Ok(())
    }
}

impl TryCryptoRng for Random<'_> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::testing::Counting;

    fn key(byte: u8) -> LockedKey<32> {
        LockedKey::fill(|bytes| bytes.fill(byte))
    }

    proptest! {
        #[test]
        fn any_threshold_of_the_shares_makes_the_key_and_fewer_do_not(
            byte: u8,
            (shares, threshold) in (2..=12_u8).prop_flat_map(|shares| (Just(shares), 2..=shares)),
            start: usize,
        ) {
            let key = key(byte);
            let mut split = split(&key, shares, threshold, &Counting).unwrap();
            prop_assert_eq!(split.len(), usize::from(shares));
            prop_assert!(split.iter().all(|share| share.len() == share_bytes(threshold)));
            split.rotate_left(start % usize::from(shares));
            split.truncate(threshold.into());
            let combined = combine(&split).unwrap();
            prop_assert_eq!(combined.expose(), key.expose());
            split.truncate(usize::from(threshold) - 1);
            if let Some(wrong) = combine(&split) {
                prop_assert_ne!(wrong.expose(), key.expose());
            }
        }
    }

    #[test]
    fn one_share_of_one_is_the_key() {
        let split = split(&key(5), 1, 1, &Counting).unwrap();
        assert_eq!(split[0].expose(), [5; 32]);
        assert_eq!(combine(&split).unwrap().expose(), &[5; 32]);
    }

    #[test]
    fn the_most_shares_possible_combine() {
        let mut split = split(&key(5), 255, 255, &Counting).unwrap();
        assert_eq!(combine(&split).unwrap().expose(), &[5; 32]);
        split.pop();
        assert_ne!(combine(&split).unwrap().expose(), &[5; 32]);
    }

    /// Computed by hand in GF(2^8) modulo x^8+x^4+x^3+x+1 (Vault's field): f(x) = 0x53 + 0xCA x, so
    /// f(1) = 0x99 and f(2) = 0xDC; the number stands last.
    #[test]
    fn shares_are_in_vaults_field_and_order() {
        let share = |value: u8, number: u8| {
            let mut bytes = vec![value; 32];
            bytes.push(number);
            Secret::new(bytes)
        };
        let key = combine(&[share(0x99, 1), share(0xdc, 2)]).unwrap();
        assert_eq!(key.expose(), &[0x53; 32]);
    }

    #[test]
    fn shares_that_make_no_key_are_refused() {
        let share = |bytes: &[u8]| Secret::new(bytes);
        let cases = [
            ("none", vec![]),
            ("empty", vec![share(&[]), share(&[])]),
            ("one number twice", vec![share(&[1; 33]), share(&[1; 33])]),
            ("number zero", vec![share(&[0; 33]), share(&[1; 33])]),
            ("lengths differ", vec![share(&[1; 33]), share(&[2; 32])]),
            ("too short", vec![share(&[1; 20]), share(&[2; 20])]),
        ];
        for (name, shares) in cases {
            assert!(combine(&shares).is_none(), "{name}");
        }
    }
}
