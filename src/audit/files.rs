//! The files of a log: their names, their order, and reading them from the end.
//!
//! A file is named for its first record from birth, `audit-<20 digits>.jsonl`, and is never renamed:
//! the order of names is the order of records, and the last name is the file being written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const CHUNK: u64 = 64 * 1024;

/// The path of the file that begins with record `first`.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("audit-{first:020}.jsonl"))
}

/// The files of the log in `dir`, oldest first, each with the number of its first record.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let digits = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl"))
            .filter(|digits| digits.len() == 20);
        if let Some(first) = digits.and_then(|digits| digits.parse().ok()) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Where the complete lines at the end of a file are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Where the last `lines` complete lines start.
    pub(super) start: u64,
    /// How many complete lines there are from `start`.
    pub(super) lines: u64,
    /// Where the last complete line ends; what follows is half a line.
    pub(super) complete: u64,
    /// The length of the file.
    pub(super) length: u64,
}

/// Finds the last `wanted` complete lines of `file`, or all where there are fewer.
pub(super) fn end_of(file: &File, wanted: u64) -> io::Result<End> {
    let length = file.metadata()?.len();
    let mut found = End {
        start: 0,
        lines: 0,
        complete: 0,
        length,
    };
    let mut chunk_end = length;
    let mut newlines = 0;
    while chunk_end > 0 {
        let chunk_start = chunk_end.saturating_sub(CHUNK);
        let mut chunk = vec![0; usize::try_from(chunk_end - chunk_start).unwrap_or(0)];
        file.read_exact_at(&mut chunk, chunk_start)?;
        for (index, byte) in chunk.into_iter().enumerate().rev() {
            if byte != b'\n' {
                continue;
            }
            let after = chunk_start + index as u64 + 1;
            if newlines == 0 {
                found.complete = after;
            }
            if newlines == wanted {
                found.start = after;
                found.lines = wanted;
                return Ok(found);
            }
            newlines += 1;
        }
        chunk_end = chunk_start;
    }
    found.lines = newlines;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_in_the_order_of_their_records() {
        let dir = tempfile::tempdir().unwrap();
        for first in [1, 30, 200, u64::MAX] {
            fs::write(path(dir.path(), first), "").unwrap();
        }
        for other in ["audit.lock", "audit-7.jsonl", "audit-x.jsonl"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        let firsts: Vec<u64> = list(dir.path())
            .unwrap()
            .into_iter()
            .map(|file| file.0)
            .collect();
        assert_eq!(firsts, [1, 30, 200, u64::MAX]);
    }

    #[test]
    fn the_end_of_a_file_is_found_whatever_its_chunks() {
        let long = "x".repeat(usize::try_from(CHUNK).unwrap() * 2);
        let cases = [
            // text                    wanted  start  lines  end
            (String::new(), 1, 0, 0, 0),
            ("half".into(), 1, 0, 0, 0),
            ("a\n".into(), 1, 0, 1, 2),
            ("a\nb\nc\n".into(), 1, 4, 1, 6),
            ("a\nb\nc\n".into(), 2, 2, 2, 6),
            ("a\nb\nc\n".into(), 9, 0, 3, 6),
            ("a\nb\nhalf".into(), 1, 2, 1, 4),
            (format!("a\n{long}\n"), 1, 2, 1, CHUNK * 2 + 3),
            (format!("a\n{long}"), 1, 0, 1, 2),
        ];
        let dir = tempfile::tempdir().unwrap();
        for (text, wanted, start, lines, end) in cases {
            fs::write(dir.path().join("file"), &text).unwrap();
            let file = File::open(dir.path().join("file")).unwrap();
            let want = End {
                start,
                lines,
                complete: end,
                length: text.len() as u64,
            };
            assert_eq!(
                end_of(&file, wanted).unwrap(),
                want,
                "{wanted} of {text:.9}"
            );
        }
    }
}
