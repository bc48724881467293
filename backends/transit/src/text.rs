//! How bytes travel: base64, PEM, and the versioned form `vault:v1:…` of ciphertexts and signatures.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use daypass_contract::{BackendError, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

const PREFIX: &str = "vault:v";

/// How a signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Marshaling {
    /// ECDSA as ASN.1; all in standard base64.
    #[default]
    #[serde(alias = "")]
    Asn1,
    /// ECDSA as two numbers of fixed length (RFC 7515); all in URL-safe base64 without padding.
    Jws,
}

impl Marshaling {
    /// `vault:vN:` and the bytes.
    pub(crate) fn write(self, version: u64, bytes: &[u8]) -> String {
        let text = match self {
            Self::Asn1 => STANDARD.encode(bytes),
            Self::Jws => URL_SAFE_NO_PAD.encode(bytes),
        };
        format!("{PREFIX}{version}:{text}")
    }

    /// The version and the bytes of what [`Self::write`] wrote. `field` is where it came from.
    pub(crate) fn read(self, field: &str, text: &[u8]) -> Result<(u64, Vec<u8>), BackendError> {
        let refuse = |problem: &str| BackendError::field(field, problem);
        let text = std::str::from_utf8(text).map_err(|_| refuse("is not text"))?;
        let rest = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| refuse("no prefix: it begins with \"vault:v\" and a version"))?;
        let (version, encoded) = rest
            .split_once(':')
            .ok_or_else(|| refuse("no version: it is \"vault:v\", a version, \":\" and base64"))?;
        let version = version
            .parse()
            .ok()
            .filter(|version| *version > 0 && !rest.starts_with('+'))
            .ok_or_else(|| refuse("version number could not be decoded"))?;
        let bytes = match self {
            Self::Asn1 => STANDARD.decode(encoded),
            Self::Jws => URL_SAFE_NO_PAD.decode(encoded),
        };
        let bytes = bytes.map_err(|_| refuse("could not decode base64"))?;
        Ok((version, bytes))
    }
}

/// Decodes a field that holds standard base64.
pub(crate) fn decode(field: &str, text: &Secret) -> Result<Secret, BackendError> {
    STANDARD
        .decode(text.expose())
        .map(Secret::new)
        .map_err(|_| BackendError::field(field, "must be base64"))
}

/// The same for a field that may be missing, which counts as empty.
pub(crate) fn decode_or_empty(field: &str, text: Option<&Secret>) -> Result<Secret, BackendError> {
    text.map_or_else(|| Ok(Secret::new([])), |text| decode(field, text))
}

/// Standard base64 of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> Secret {
    Secret::new(STANDARD.encode(bytes))
}

/// One PEM block without a line break at its end.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, letter) in STANDARD.encode(der).char_indices() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str("\n-----END ");
    text.push_str(label);
    text.push_str("-----");
    text
}

/// Reads one element of DER with `tag`: its content, and what follows it.
pub(crate) fn der(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (octets, rest) = rest.split_at_checked(long & 0x7f)?;
            if octets.len() > 4 {
                return None;
            }
            let length = octets
                .iter()
                .fold(0, |length, octet| length << 8 | usize::from(*octet));
            (length, rest)
        }
    };
    (*found == tag).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(version in 1u64.., bytes: Vec<u8>) {
            for form in [Marshaling::Asn1, Marshaling::Jws] {
                let text = form.write(version, &bytes);
                prop_assert_eq!(form.read("f", text.as_bytes()).unwrap(), (version, bytes.clone()));
            }
        }

        #[test]
        fn nothing_that_is_read_panics_or_is_quoted(text in "(vault:v)?[0-9+-]{0,3}:?[ -~]{0,40}") {
            if let Err(error) = Marshaling::Asn1.read("ciphertext", text.as_bytes()) {
                let canary = text.len() > 12 && error.to_string().contains(&text);
                prop_assert!(!canary, "{}", error);
            }
        }

        #[test]
        fn reading_der_never_panics(bytes: Vec<u8>) {
            if let Some((content, rest)) = der(&bytes, 0x30) {
                prop_assert!(content.len() + rest.len() < bytes.len());
            }
        }
    }

    #[test]
    fn what_is_not_versioned_text_is_refused_with_the_reason() {
        let cases = [
            ("foo", "no prefix"),
            ("vault:v1", "no version"),
            ("vault:vx:AAAA", "version number"),
            ("vault:v+1:AAAA", "version number"),
            ("vault:v-1:AAAA", "version number"),
            ("vault:v0:AAAA", "version number"),
            ("vault:v1:!!", "base64"),
            ("vault:v99999999999999999999:AAAA", "version number"),
        ];
        for (text, want) in cases {
            let error = Marshaling::Asn1.read("ciphertext", text.as_bytes());
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with("field \"ciphertext\": "), "{error}");
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
