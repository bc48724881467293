//! [`Serial`]: a certificate's serial number, written as the Vault API does (`1a:2b:…`).

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::CertError;

/// A positive serial number of at most 20 octets (RFC 5280, section 4.1.2.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A new serial number: the time in milliseconds, then 112 random bits.
    ///
    /// Its first 6 octets grow with time, so that records kept under it are appended to an index instead of
    /// being spread over it; nobody can guess the rest (the CA/Browser Forum asks for 64 bits).
    pub fn new(now: SystemTime, random: [u8; 14]) -> Self {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let [_, _, time @ ..] = milliseconds.to_be_bytes();
        let mut octets = Vec::with_capacity(20);
        octets.extend(time);
        octets.extend(random);
        // Positive in every millennium, and never zero.
        if let Some(first) = octets.first_mut() {
            *first &= 0x7f;
            *first |= u8::from(*first == 0);
        }
        Self(octets)
    }

    /// The number as it stands in a certificate, where it may be.
    ///
    /// # Errors
    /// [`CertError::Malformed`] where it is zero or longer than 20 octets.
    pub fn from_be_bytes(bytes: &[u8]) -> Result<Self, CertError> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = bytes.get(zeros..).unwrap_or_default();
        if digits.is_empty() || digits.len() > 20 {
            return Err(CertError::Malformed(
                "a serial number must be positive and at most 20 octets long",
            ));
        }
        Ok(Self(digits.to_vec()))
    }

    /// Big-endian, without leading zeros.
    pub fn as_be_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Lower-case hexadecimal octets with colons between them.
impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads hexadecimal octets with colons, with hyphens or with nothing between them, in either case.
impl FromStr for Serial {
    type Err = CertError;

    fn from_str(text: &str) -> Result<Self, CertError> {
        const ERROR: CertError =
            CertError::Malformed("a serial number is written as hexadecimal octets: 1a:2b:3c");
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| !b":-".contains(byte))
            .map(|byte| {
                char::from(byte)
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
            })
            .collect::<Option<_>>()
            .ok_or(ERROR)?;
        let (pairs, odd) = digits.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(ERROR);
        }
        let octets: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        Self::from_be_bytes(&octets)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn later_serials_sort_after_earlier_ones_as_text_and_as_number() {
        let at =
            |seconds, random| Serial::new(UNIX_EPOCH + Duration::from_secs(seconds), [random; 14]);
        let (early, late) = (at(1_790_000_000, 0xff), at(1_790_000_001, 0));
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
        assert_eq!(early.as_be_bytes().len(), 20);
    }

    proptest! {
        #[test]
        fn a_new_serial_is_positive_and_keeps_112_random_bits(millis in any::<u64>(), random in any::<[u8; 14]>()) {
            let now = UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH);
            let serial = Serial::new(now, random);
            prop_assert_eq!(serial.as_be_bytes().len(), 20);
            prop_assert!(serial.as_be_bytes()[0] < 0x80 && serial.as_be_bytes()[0] > 0);
            prop_assert_eq!(&serial.as_be_bytes()[6..], &random[..]);
        }

        #[test]
        fn text_reads_back(bytes in proptest::collection::vec(any::<u8>(), 1..=20)) {
            if let Ok(serial) = Serial::from_be_bytes(&bytes) {
                let text = serial.to_string();
                prop_assert_eq!(&text.parse::<Serial>().unwrap(), &serial);
                prop_assert_eq!(&text.replace(':', "-").to_uppercase().parse::<Serial>().unwrap(), &serial);
                prop_assert_eq!(&text.replace(':', "").parse::<Serial>().unwrap(), &serial);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,64}") {
            let _ = text.parse::<Serial>();
        }
    }
}
