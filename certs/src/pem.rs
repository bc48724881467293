//! PEM (RFC 7468): reading certificates out of bundles, and writing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::{Zeroize as _, Zeroizing};

use crate::certificate::Certificate;
use crate::error::CertError;

const BEGIN: &[u8] = b"-----BEGIN ";

/// Most certificates, keys and CSRs that one text may hold.
const MOST_BLOCKS: usize = 100;

/// `der` in PEM with this label, lines of 64 characters, no line break at the end. Wiped when dropped,
/// because it may be a private key.
pub fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    Zeroizing::new(in_lines(label, &encoded))
}

/// The same of what is public, and so need not be wiped.
pub(crate) fn public_pem(label: &str, der: &[u8]) -> String {
    in_lines(label, &STANDARD.encode(der))
}

fn in_lines(label: &str, encoded: &str) -> String {
    // All at once: a text that grows leaves copies.
    let size = encoded.len() + encoded.len() / 64 + 2 * label.len() + 34;
    let mut text = String::with_capacity(size);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = encoded;
    while let Some((line, after)) = rest.split_at_checked(64.min(rest.len())) {
        if line.is_empty() {
            break;
        }
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----");
    text
}

/// Whether text is meant as PEM.
pub fn is_pem(text: &[u8]) -> bool {
    text.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// Every certificate in a PEM text, in order; other blocks are passed over.
///
/// # Errors
/// [`CertError::Malformed`] where the text is not PEM or a certificate in it cannot be read.
pub fn certificates_of(text: &[u8]) -> Result<Vec<Certificate>, CertError> {
    blocks(text)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| Certificate::from_der(&der))
        .collect()
}

/// What a PEM block says that it is, and its content, wiped when dropped.
pub(crate) type Block = (SectionKind, Zeroizing<Vec<u8>>);

/// The blocks of a PEM text, in order.
pub(crate) fn blocks(text: &[u8]) -> Result<Vec<Block>, CertError> {
    const ERROR: CertError = CertError::Malformed("is not valid PEM");
    // Otherwise the second of two texts that were joined without a line break would be passed over.
    let begins = text.windows(BEGIN.len()).enumerate();
    for (at, _) in begins.filter(|(_, window)| *window == BEGIN) {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        if !matches!(before, None | Some(b'\n' | b'\r')) {
            return Err(CertError::Malformed(
                "is not valid PEM: each -----BEGIN must begin a line",
            ));
        }
    }
    let mut blocks = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, mut der) = block.map_err(|_| ERROR)?;
        if blocks.len() == MOST_BLOCKS {
            der.zeroize();
            return Err(CertError::Malformed("holds more than 100 PEM blocks"));
        }
        blocks.push((kind, Zeroizing::new(der)));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_64_characters_and_the_text_reads_back() {
        for length in [0, 1, 47, 48, 49, 96, 500] {
            let der = vec![0xa5; length];
            let text = pem("CERTIFICATE", &der);
            assert!(text.lines().all(|line| line.len() <= 64), "{length}");
            assert!(is_pem(text.as_bytes()));
            let read = blocks(text.as_bytes()).unwrap();
            assert_eq!(read.len(), 1, "{length}");
            assert_eq!(*read[0].1, der);
        }
        assert!(!is_pem(b"hello"));
        let (one, two) = (pem("CERTIFICATE", &[1]), pem("CERTIFICATE", &[2]));
        let count = |text: String| blocks(text.as_bytes()).map(|blocks| blocks.len());
        assert_eq!(count(format!("{}\n{}", *one, *two)), Ok(2));
        assert_eq!(count(format!("{}\r\n{}", *one, *two)), Ok(2));
        assert!(count(format!("{}{}", *one, *two)).is_err(), "joined");
        assert!(count(format!("{}\n -{}", *one, *two)).is_err());
        let cut = one.replace("-----END", "");
        assert!(count(cut).is_err(), "without an end");
        assert_eq!(blocks(b"hello").unwrap().len(), 0);
    }
}
