//! Writing DER (X.690), as far as X.509 needs it.
//!
//! **Invariant:** output is DER whatever the input: lengths and integers are minimal.

use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::error::CertError;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// `[n] IMPLICIT` of a primitive type.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// `[n]` around something constructed.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// DER under construction.
#[derive(Default)]
pub(crate) struct Der(Vec<u8>);

impl Der {
    /// What `write` writes.
    pub(crate) fn build(write: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut der = Self::default();
        write(&mut der);
        der.0
    }

    /// Appends what is DER already.
    pub(crate) fn raw(&mut self, der: &[u8]) {
        self.0.extend_from_slice(der);
    }

    /// A value of any type with these content octets.
    pub(crate) fn value(&mut self, tag: u8, content: &[u8]) {
        self.0.push(tag);
        let (header, length) = length_octets(content.len());
        self.0.extend(header.iter().skip(header.len() - length));
        self.raw(content);
    }

    /// A value whose content `write` writes.
    pub(crate) fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Self)) {
        self.0.push(tag);
        let start = self.0.len();
        write(self);
        let (header, length) = length_octets(self.0.len() - start);
        let header = header.iter().skip(header.len() - length).copied();
        self.0.splice(start..start, header);
    }

    pub(crate) fn sequence(&mut self, write: impl FnOnce(&mut Self)) {
        self.nested(SEQUENCE, write);
    }

    /// A BIT STRING of whole octets that `write` writes.
    pub(crate) fn bits(&mut self, write: impl FnOnce(&mut Self)) {
        self.nested(BIT_STRING, |der| {
            der.0.push(0);
            write(der);
        });
    }

    /// A non-negative INTEGER, given big-endian.
    pub(crate) fn unsigned(&mut self, big_endian: &[u8]) {
        let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
        let digits = big_endian.get(zeros..).unwrap_or_default();
        self.nested(INTEGER, |der| {
            if digits.first().is_none_or(|first| *first >= 0x80) {
                der.0.push(0);
            }
            der.raw(digits);
        });
    }

    /// A `Time` (RFC 5280, section 4.1.2.5): UTCTime up to 2049, GeneralizedTime from 2050.
    pub(crate) fn time(&mut self, at: SystemTime) -> Result<(), CertError> {
        let at = calendar(at)?;
        let (year, tag) = match at.year() {
            year @ 1950..=2049 => (format!("{:02}", year % 100), UTC_TIME),
            year => (format!("{year:04}"), GENERALIZED_TIME),
        };
        let text = format!(
            "{year}{:02}{:02}{:02}{:02}{:02}Z",
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        );
        self.value(tag, text.as_bytes());
        Ok(())
    }
}

/// The length octets at the end of the array, and how many they are.
fn length_octets(length: usize) -> ([u8; 9], usize) {
    let mut octets = [0; 9];
    let [_, digits @ ..] = &mut octets;
    *digits = (length as u64).to_be_bytes();
    let used = digits.iter().skip_while(|byte| **byte == 0).count().max(1);
    if length < 0x80 {
        return (octets, 1);
    }
    if let Some(first) = octets.iter_mut().rev().nth(used) {
        // At most 8 octets follow.
        *first = 0x80 | u8::try_from(used).unwrap_or(8);
    }
    (octets, used + 1)
}

/// The calendar date of an instant that X.509 can hold: from 1970 to the end of 9999.
fn calendar(at: SystemTime) -> Result<OffsetDateTime, CertError> {
    at.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| {
            CertError::unacceptable("a certificate's dates must lie between 1970 and 9999")
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lengths_and_integers_are_minimal() {
        let cases: [(&[u8], &[u8]); 5] = [
            (&[], &[2, 1, 0]),
            (&[0, 0], &[2, 1, 0]),
            (&[0x7f], &[2, 1, 0x7f]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 0, 1, 0], &[2, 2, 1, 0]),
        ];
        for (number, want) in cases {
            assert_eq!(Der::build(|der| der.unsigned(number)), want);
        }
        for (length, want) in [
            (0, vec![4, 0]),
            (127, vec![4, 127]),
            (128, vec![4, 0x81, 128]),
            (255, vec![4, 0x81, 255]),
            (256, vec![4, 0x82, 1, 0]),
            (70_000, vec![4, 0x83, 1, 0x11, 0x70]),
        ] {
            let content = vec![7; length];
            let want: Vec<u8> = want.into_iter().chain(content.iter().copied()).collect();
            assert_eq!(Der::build(|der| der.value(OCTET_STRING, &content)), want);
            assert_eq!(
                Der::build(|der| der.nested(OCTET_STRING, |der| der.raw(&content))),
                want
            );
        }
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let cases = [
            (0, Some("\u{17}\r700101000000Z")),
            (2_524_607_999, Some("\u{17}\r491231235959Z")),
            (2_524_608_000, Some("\u{18}\u{f}20500101000000Z")),
            (253_402_300_799, Some("\u{18}\u{f}99991231235959Z")),
            (253_402_300_800, None),
        ];
        for (seconds, want) in cases {
            let mut der = Der::default();
            let written = der.time(UNIX_EPOCH + Duration::from_secs(seconds));
            let got = written.ok().map(|()| String::from_utf8(der.0).unwrap());
            assert_eq!(got.as_deref(), want, "{seconds}");
        }
    }
}
