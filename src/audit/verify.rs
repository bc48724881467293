//! Proving that a log is whole: every line as it was written, none missing, none moved.
//!
//! Reads each file once, a line at a time; needs neither the server nor its keys. What it cannot see
//! without [`Expect`] is the end: whoever cuts off the last records, or rewrites all that follows the
//! last checkpoint, leaves a shorter or other chain that is whole in itself.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::checkpoint::{self, PublicKey};
use super::error::AuditError;
use super::files;
use super::line::{Hash, Head, Line, MAX_LINE};

/// What the caller knows from elsewhere about the log.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// The keys that may have signed it. Empty: any, and the report says which.
    pub keys: Vec<PublicKey>,
    /// The record before the first one given, where older files are kept elsewhere.
    pub after: Option<Head>,
    /// The log reaches at least to this record.
    pub seq: Option<u64>,
    /// The log has this record with this hash.
    pub head: Option<Head>,
}

/// A log that is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many files were read.
    pub files: usize,
    /// How many records they hold.
    pub records: u64,
    /// The number of the first one; 0 where there is none.
    pub first_seq: u64,
    /// The last one. Kept elsewhere, it is what a later `expect` needs.
    pub head: Head,
    /// How many of the records are checkpoints.
    pub checkpoints: u64,
    /// The last checkpoint's number: only up to here does a signature vouch for the log. 0: nowhere.
    pub signed_to: u64,
    /// Who signed, in order of appearance.
    pub signed_by: Vec<PublicKey>,
    /// Bytes of a half-written line at the very end: a record being written, or a crash.
    pub half_line: u64,
}

/// The first thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line in it; the first is 1.
    pub line: u64,
    /// The record's number, where the line can be read.
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: Problem,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It has not the form of a record.
    Malformed,
    /// It is not what it was when the next record, or its signature, was written.
    Changed,
    /// These records should stand before it and are nowhere.
    Removed {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// It does not stand where it was written.
    Moved,
    /// It is a checkpoint by a key that is not among the expected.
    ForeignKey(PublicKey),
    /// Nothing here is signed, though a key is expected.
    Unsigned,
    /// It has another hash than expected.
    NotExpected,
    /// It is the last one, though the log is known to reach further.
    CutOff {
        /// The record it is known to reach.
        expected: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        match self.seq {
            Some(seq) => write!(f, "record {seq} ")?,
            None => f.write_str("this line ")?,
        }
        match &self.what {
            Problem::Malformed => f.write_str("has not the form of an audit record"),
            Problem::Changed => f.write_str("was changed after it was written"),
            Problem::Removed { from, to } => {
                write!(f, "follows a gap: records {from} to {to} were removed")
            }
            Problem::Moved => f.write_str("does not stand where it was written"),
            Problem::ForeignKey(key) => write!(f, "is signed by {key}, which is not expected"),
            Problem::Unsigned => f.write_str("is the last, and none is signed by an expected key"),
            Problem::NotExpected => f.write_str("has another hash than expected"),
            Problem::CutOff { expected } => {
                write!(
                    f,
                    "is the last, but the log is known to reach record {expected}"
                )
            }
        }
    }
}

/// Why a log was not found to be whole.
#[derive(Clone, Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not.
    #[error("{0}")]
    Finding(Finding),
    /// There is nothing to verify.
    #[error("there is no audit log in {0}")]
    Nothing(PathBuf),
    /// It could not be read.
    #[error(transparent)]
    Unreadable(#[from] AuditError),
}

/// Verifies the log in `dir`.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(dir: &Path, expect: &Expect) -> Result<Report, VerifyError> {
    let files = files::list(dir).map_err(AuditError::io("list", dir))?;
    if files.is_empty() {
        return Err(VerifyError::Nothing(dir.into()));
    }
    let files: Vec<PathBuf> = files.into_iter().map(|(_, path)| path).collect();
    verify_files(&files, expect)
}

/// Verifies the files of one log, oldest first.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_files(files: &[PathBuf], expect: &Expect) -> Result<Report, VerifyError> {
    let mut lines = Lines::new(files);
    let mut report = Report {
        files: files.len(),
        head: expect.after.unwrap_or_default(),
        ..Report::default()
    };
    let mut last = Place::default();
    while let Some(text) = lines.next()? {
        let line = text.parse()?;
        if line.seq != report.head.seq + 1 || line.prev != report.head.hash {
            return Err(explain(&text, &line, report.head, last, &mut lines)?);
        }
        if line.kind == checkpoint::KIND {
            let key = checkpoint::signed_by(&text.bytes, &line)
                .ok_or_else(|| text.place.finding(Some(line.seq), Problem::Changed))?;
            if !expect.keys.is_empty() && !expect.keys.contains(&key) {
                return Err(text.place.finding(Some(line.seq), Problem::ForeignKey(key)));
            }
            if !report.signed_by.contains(&key) {
                report.signed_by.push(key);
            }
            report.checkpoints += 1;
            report.signed_to = line.seq;
        }
        if report.records == 0 {
            report.first_seq = line.seq;
        }
        report.records += 1;
        report.head = text.head(line.seq);
        if expect
            .head
            .is_some_and(|head| head.seq == line.seq && head != report.head)
        {
            return Err(text.place.finding(Some(line.seq), Problem::NotExpected));
        }
        last = text.place;
    }
    report.half_line = lines.half_line;
    let at_end = |what| Err(last.finding(Some(report.head.seq), what));
    let expected = expect.seq.max(expect.head.map(|head| head.seq));
    if let Some(expected) = expected.filter(|expected| *expected > report.head.seq) {
        return at_end(Problem::CutOff { expected });
    }
    if !expect.keys.is_empty() && report.checkpoints == 0 {
        return at_end(Problem::Unsigned);
    }
    Ok(report)
}

/// Tells what happened at the first line that does not continue the chain.
fn explain(
    text: &Text,
    line: &Line<'_>,
    head: Head,
    last: Place,
    lines: &mut Lines<'_>,
) -> Result<VerifyError, VerifyError> {
    let here = |what| Ok(text.place.finding(Some(line.seq), what));
    let expected = head.seq + 1;
    if line.prev == head.hash {
        // Rightly linked, wrongly numbered.
        return here(Problem::Changed);
    }
    if line.seq == expected {
        // Either this line's link or the line before was changed. Whoever else vouches for this line
        // decides: its own signature, or the link of the line after it.
        let vouched = if line.kind == checkpoint::KIND {
            checkpoint::signed_by(&text.bytes, line).is_some()
        } else {
            let next = lines.next()?;
            next.is_none_or(|next| {
                Line::parse(&next.bytes).is_some_and(|next| next.prev == Hash::of(&text.bytes))
            })
        };
        return match last.line {
            0 => here(Problem::Changed),
            _ if vouched => Ok(last.finding(Some(head.seq), Problem::Changed)),
            _ => here(Problem::Changed),
        };
    }
    if line.seq < expected {
        return here(Problem::Moved);
    }
    while let Some(later) = lines.next()? {
        if Line::parse(&later.bytes).is_some_and(|later| later.seq == expected) {
            return here(Problem::Moved);
        }
    }
    here(Problem::Removed {
        from: expected,
        to: line.seq - 1,
    })
}

/// Where a line stands.
#[derive(Clone, Default)]
struct Place {
    file: PathBuf,
    line: u64,
}

impl Place {
    fn finding(&self, seq: Option<u64>, what: Problem) -> VerifyError {
        VerifyError::Finding(Finding {
            file: self.file.clone(),
            line: self.line,
            seq,
            what,
        })
    }
}

/// A line and where it stands.
struct Text {
    place: Place,
    bytes: Vec<u8>,
}

impl Text {
    fn parse(&self) -> Result<Line<'_>, VerifyError> {
        Line::parse(&self.bytes)
            .filter(|_| serde_json::from_slice::<IgnoredAny>(&self.bytes).is_ok())
            .ok_or_else(|| self.place.finding(None, Problem::Malformed))
    }

    fn head(&self, seq: u64) -> Head {
        Head {
            seq,
            hash: Hash::of(&self.bytes),
        }
    }
}

/// The lines of several files, one after the other.
struct Lines<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    reader: Option<BufReader<File>>,
    place: Place,
    half_line: u64,
}

impl<'a> Lines<'a> {
    fn new(files: &'a [PathBuf]) -> Self {
        Self {
            files: files.iter(),
            reader: None,
            place: Place::default(),
            half_line: 0,
        }
    }

    fn next(&mut self) -> Result<Option<Text>, VerifyError> {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(path) = self.files.next() else {
                    return Ok(None);
                };
                let file = File::open(path).map_err(AuditError::io("open", path))?;
                self.reader = Some(BufReader::with_capacity(256 * 1024, file));
                self.place = Place {
                    file: path.clone(),
                    line: 0,
                };
                continue;
            };
            let mut bytes = Vec::with_capacity(1024);
            let limit = MAX_LINE as u64 + 1;
            let read = reader
                .take(limit)
                .read_until(b'\n', &mut bytes)
                .map_err(AuditError::io("read", &self.place.file))? as u64;
            if read == 0 {
                self.reader = None;
                continue;
            }
            self.place.line += 1;
            if bytes.last() != Some(&b'\n') {
                if read < limit && self.files.len() == 0 {
                    self.half_line = read;
                    return Ok(None);
                }
                return Err(self.place.finding(None, Problem::Malformed));
            }
            bytes.pop();
            return Ok(Some(Text {
                place: self.place.clone(),
                bytes,
            }));
        }
    }
}

#[cfg(test)]
mod tests;
