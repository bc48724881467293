//! The form of one line: how it is written, read and hashed.
//!
//! ```json
//! {"seq":7,"time":"2026-11-23T21:30:00.123456Z","type":"event",…,"prev":"<hex SHA-256>"}
//! ```
//!
//! **Invariant:** `prev` is the SHA-256 of the previous line's bytes without its newline, and 32 zero
//! bytes for the first line of all, so that `sha256sum` and a text editor suffice to check a chain.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use serde::Serialize;
use time::OffsetDateTime;

/// The longest line, in bytes. Hashed data is cut far below it, so only a bug reaches it.
pub(super) const MAX_LINE: usize = 4 << 20;

const TYPE: &[u8] = br#"","type":""#;
const PREV: &[u8] = br#","prev":""#;
const TIME_LEN: usize = "2026-11-23T21:30:00.123456Z".len();

/// The SHA-256 of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of a line, given without its newline.
    pub(super) fn of(line: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, line).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text.as_bytes())
            .map(Self)
            .ok_or_else(|| "a hash is 64 lower-case hexadecimal digits".into())
    }
}

/// A place in the chain: a record's number and its hash. Kept elsewhere, it proves later that nothing
/// up to here was changed or cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The record's number; 0 before the first one.
    pub seq: u64,
    /// Its hash; zero before the first one.
    pub hash: Hash,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (seq, hash) = text
            .split_once(':')
            .ok_or("a head is written <seq>:<hash>, as `audit verify` prints it")?;
        Ok(Self {
            seq: seq
                .parse()
                .map_err(|_| "the part of a head before `:` is a record number")?,
            hash: hash.parse()?,
        })
    }
}

/// A time as lines carry it: RFC 3339, UTC, microseconds.
pub(super) fn stamp(time: SystemTime) -> String {
    let nanoseconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(0));
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond()
    )
}

/// A body without its braces, ready to stand between a line's head and its `prev`. `None` where it is
/// not an object, has no JSON form, or is too long.
pub(super) fn fields(body: &impl Serialize) -> Option<Vec<u8>> {
    let mut json = Vec::with_capacity(1024);
    serde_json::to_writer(&mut json, body).ok()?;
    if json.first() != Some(&b'{') || json.pop() != Some(b'}') || json.len() > MAX_LINE - 512 {
        return None;
    }
    if json.len() == 1 {
        json.clear();
    } else if let Some(brace) = json.first_mut() {
        *brace = b',';
    }
    Some(json)
}

/// Writes a line, without its newline, into the empty `line`.
pub(super) fn write(
    line: &mut Vec<u8>,
    seq: u64,
    time: &str,
    kind: &str,
    fields: &[u8],
    prev: &Hash,
) {
    let mut digits = [0; 64];
    // Writing to a Vec does not fail, nor does encoding 32 bytes into 64.
    let _ = write!(line, r#"{{"seq":{seq},"time":"{time}","type":"{kind}""#);
    let _ = hex::encode_to_slice(prev.0, &mut digits);
    for part in [fields, PREV, &digits, br#""}"#] {
        line.extend_from_slice(part);
    }
}

/// A line taken apart. Only the form that [`write`] gives is accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) seq: u64,
    pub(super) time: &'a str,
    pub(super) kind: &'a str,
    pub(super) prev: Hash,
}

impl<'a> Line<'a> {
    /// Reads a line, given without its newline.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(br#"{"seq":"#)?;
        let (digits, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b',')?)?;
        let seq: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        if seq.to_string().as_bytes() != digits {
            return None;
        }
        let (time, rest) = rest
            .strip_prefix(br#","time":""#)?
            .split_at_checked(TIME_LEN)?;
        let rest = rest.strip_prefix(TYPE)?;
        let (kind, rest) = rest.split_at_checked(rest.iter().position(|byte| *byte == b'"')?)?;
        let rest = rest.strip_prefix(b"\"")?.strip_suffix(br#""}"#)?;
        let (rest, prev) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let fields = rest.strip_suffix(PREV)?;
        if !matches!(fields.first(), None | Some(b',')) {
            return None;
        }
        Some(Self {
            seq,
            time: std::str::from_utf8(time).ok()?,
            kind: std::str::from_utf8(kind).ok()?,
            prev: Hash(from_hex(prev)?),
        })
    }
}

/// Exactly `N` bytes from lower-case hexadecimal digits: one value has one form.
pub(super) fn from_hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(seq: u64, kind: &str, fields: &[u8]) -> Vec<u8> {
        let mut line = Vec::new();
        let time = stamp(UNIX_EPOCH + Duration::from_micros(1_795_469_400_123_456));
        write(&mut line, seq, &time, kind, fields, &Hash::of(b"before"));
        line
    }

    #[test]
    fn a_line_has_the_documented_form_and_is_read_back() {
        let line = written(7, "event", br#","event":{"what":"x"}"#);
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            format!(
                r#"{{"seq":7,"time":"2026-11-23T21:30:00.123456Z","type":"event","event":{{"what":"x"}},"prev":"{}"}}"#,
                Hash::of(b"before")
            )
        );
        let want = Line {
            seq: 7,
            time: "2026-11-23T21:30:00.123456Z",
            kind: "event",
            prev: Hash::of(b"before"),
        };
        assert_eq!(Line::parse(&line), Some(want));
        assert!(Line::parse(&written(u64::MAX, "event", b"")).is_some());
    }

    #[test]
    fn any_other_form_of_a_line_is_refused() {
        let line = String::from_utf8(written(7, "event", b"")).unwrap();
        let cases = [
            ("space", line.replace(":7", ": 7")),
            ("leading zero", line.replace(":7", ":07")),
            ("sign", line.replace(":7", ":+7")),
            ("capitals", line.to_uppercase()),
            ("short time", line.replace("56Z", "Z")),
            ("no type", line.replace("type", "tipe")),
            ("cut", line.replace("\"}", "\"")),
            ("empty", String::new()),
            ("short prev", line.replace("\"prev\":\"", "\"prev\":\"0")),
        ];
        for (name, case) in cases {
            assert_eq!(Line::parse(case.as_bytes()), None, "{name}: {case}");
        }
    }

    #[test]
    fn only_an_object_can_be_a_body() {
        #[derive(Serialize)]
        struct Empty {}
        assert_eq!(fields(&Empty {}), Some(Vec::new()));
        assert_eq!(
            fields(&serde_json::json!({"a": 1})),
            Some(br#","a":1"#.to_vec())
        );
        assert_eq!(fields(&"text"), None);
        assert_eq!(fields(&[1]), None);
        let long = "x".repeat(MAX_LINE);
        assert_eq!(fields(&serde_json::json!({ "a": long })), None);
    }

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let head = Head {
            seq: 12,
            hash: Hash::of(b"line"),
        };
        assert_eq!(head.to_string().parse(), Ok(head));
        assert!("12".parse::<Head>().is_err());
        assert!("x:00".parse::<Head>().is_err());
        let capitals = head.to_string().to_uppercase();
        assert!(capitals.parse::<Head>().is_err());
    }
}
