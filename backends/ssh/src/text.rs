//! PEM and DER, as far as private keys need them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daypass_contract::Secret;

/// A PEM block with lines of 64 characters and a line break at its end.
pub(crate) fn pem(label: &str, der: &[u8]) -> Secret {
    let encoded = Secret::new(STANDARD.encode(der));
    let mut text = Vec::with_capacity(encoded.len() * 66 / 64 + 2 * label.len() + 64);
    text.extend_from_slice(format!("-----BEGIN {label}-----\n").as_bytes());
    for line in encoded.expose().chunks(64) {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
    Secret::new(text)
}

/// One value in DER.
pub(crate) fn der(tag: u8, content: &[u8]) -> Secret {
    let length = content.len().to_be_bytes();
    let digits: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    // With room for all of it, so that no copy is left behind by growing.
    let mut bytes = Vec::with_capacity(content.len() + digits.len() + 2);
    bytes.push(tag);
    match (content.len(), digits.len()) {
        (..=127, _) => bytes.push(digits.first().copied().unwrap_or(0)),
        (_, count) => {
            bytes.push(0x80 | u8::try_from(count).unwrap_or(0x7f));
            bytes.extend_from_slice(&digits);
        }
    }
    bytes.extend_from_slice(content);
    Secret::new(bytes)
}

/// A positive integer in DER, from its digits in base 256, the highest first.
pub(crate) fn der_integer(digits: &[u8]) -> Secret {
    let zeros = digits.iter().take_while(|byte| **byte == 0).count();
    let digits = digits.get(zeros..).unwrap_or_default();
    match digits.first() {
        Some(..0x80) => der(0x02, digits),
        _ => der(0x02, Secret::new([&[0], digits].concat()).expose()),
    }
}

/// The content of the DER value with this tag at the start of `bytes`, and what follows it.
pub(crate) fn read_der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |length, digit| {
            length.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_as_short_as_they_can_be_and_positive() {
        let cases: [(&[u8], &[u8]); 5] = [
            (&[], &[2, 1, 0]),
            (&[0, 0], &[2, 1, 0]),
            (&[0x7f], &[2, 1, 0x7f]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 0, 1, 2], &[2, 2, 1, 2]),
        ];
        for (digits, want) in cases {
            assert_eq!(der_integer(digits).expose(), want, "{digits:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content in proptest::collection::vec(any::<u8>(), 0..700), rest: [u8; 3]) {
            let written = [der(0x30, &content).expose(), &rest].concat();
            prop_assert_eq!(read_der(&written, 0x30), Some((&content[..], &rest[..])));
        }

        #[test]
        fn anything_may_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read_der(&bytes, 0x30);
        }
    }
}
