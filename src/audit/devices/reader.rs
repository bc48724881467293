//! Reads the log for one device and notices where it is not whole.
//!
//! **Invariant:** every record that is there is given, in order. What is not there, because its file was moved
//! away or the chain was begun anew, is told as a [`Gap`] and never passed over in silence.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::audit::error::AuditError;
use crate::audit::line::{Hash, Head, Line};
use crate::audit::tail::{Follower, Place};

/// Records and bytes that are in memory at a time, for one device.
const MOST_RECORDS: usize = 500;
const MOST_BYTES: usize = 1 << 20;

/// How far a device has the log: its last record, and where the next one begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) head: Head,
    /// Spares a search. Not trusted: what stands there must follow on `head`.
    pub(super) place: Option<Place>,
}

/// A cursor as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    head: String,
    place: Option<Place>,
}

impl From<&Cursor> for Stored {
    fn from(cursor: &Cursor) -> Self {
        Self {
            head: cursor.head.to_string(),
            place: cursor.place,
        }
    }
}

impl Stored {
    /// The cursor, where it has the form of one.
    pub(super) fn cursor(&self) -> Option<Cursor> {
        Some(Cursor {
            head: self.head.parse().ok()?,
            place: self.place,
        })
    }
}

/// A line of the log, and the cursor of a device that has it.
pub(super) struct Record {
    pub(super) line: String,
    pub(super) cursor: Cursor,
}

impl Record {
    /// When it was written.
    pub(super) fn time(&self) -> Option<SystemTime> {
        let line = Line::parse(self.line.as_bytes())?;
        OffsetDateTime::parse(line.time, &Rfc3339)
            .ok()
            .map(Into::into)
    }
}

/// What is missing between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// These records are not there any more.
    Missing { first: u64, last: u64 },
    /// The log is not the one that the cursor was in: it is read from its first record.
    Replaced { after: u64 },
    /// This record does not follow on the one before.
    Broken { at: u64 },
}

/// What was read at once.
#[derive(Default)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    pub(super) gaps: Vec<Gap>,
}

/// Reads records after a cursor.
pub(super) struct Reader {
    dir: PathBuf,
    follower: Follower,
    head: Head,
    /// The follower was put at the cursor's place, which the next line is to prove.
    placed: bool,
    /// The cursor was stored by an earlier run; the log may have been exchanged since.
    fresh: bool,
    gaps: Vec<Gap>,
}

impl Reader {
    /// Reads on after `cursor` in the log in `dir`, whose last record is `newest`. `fresh`: the cursor is
    /// from an earlier run.
    pub(super) fn open(
        dir: &Path,
        cursor: &Cursor,
        newest: u64,
        fresh: bool,
    ) -> Result<Self, AuditError> {
        let mut reader = Self {
            dir: dir.into(),
            follower: Follower::after(dir, cursor.head.seq),
            head: cursor.head,
            placed: false,
            fresh,
            gaps: Vec::new(),
        };
        if fresh && newest < cursor.head.seq {
            reader.begin_anew();
        } else if let Some(place) = cursor.place
            && let Some(follower) = Follower::at(dir, place)?
        {
            reader.follower = follower;
            reader.placed = true;
        }
        Ok(reader)
    }

    fn begin_anew(&mut self) {
        self.gaps.push(Gap::Replaced {
            after: self.head.seq,
        });
        self.follower = Follower::after(&self.dir, 0);
        self.head = Head::default();
        self.fresh = false;
    }

    /// The next records, as many as fit.
    pub(super) fn read(&mut self) -> Result<Found, AuditError> {
        let mut found = Found::default();
        let mut bytes = 0;
        while found.records.len() < MOST_RECORDS && bytes < MOST_BYTES {
            let Some(line) = self.follower.next_line()? else {
                break;
            };
            let Some(head) = self.follow(&line) else {
                continue;
            };
            self.head = head;
            bytes += line.len();
            let cursor = Cursor {
                head,
                place: self.follower.place(),
            };
            found.records.push(Record { line, cursor });
        }
        found.gaps.append(&mut self.gaps);
        Ok(found)
    }

    /// The head after `line`; `None` where the follower was put elsewhere instead.
    fn follow(&mut self, line: &str) -> Option<Head> {
        let hash = Hash::of(line.as_bytes());
        let next = self.head.seq.saturating_add(1);
        let Some(parsed) = Line::parse(line.as_bytes()) else {
            // Damaged or edited by hand: handed on as it is, for whoever looks at the device to see.
            return Some(Head { seq: next, hash });
        };
        let follows = parsed.seq == next && parsed.prev == self.head.hash;
        if !follows && self.placed {
            self.placed = false;
            self.follower = Follower::after(&self.dir, self.head.seq);
            return None;
        }
        if !follows && self.fresh && parsed.seq == next {
            self.begin_anew();
            return None;
        }
        self.placed = false;
        self.fresh = false;
        if parsed.seq > next {
            self.gaps.push(Gap::Missing {
                first: next,
                last: parsed.seq - 1,
            });
        } else if !follows {
            self.gaps.push(Gap::Broken { at: parsed.seq });
        }
        Some(Head {
            seq: parsed.seq,
            hash,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit::testing::{lines, open, paths, put};

    fn read(dir: &Path, cursor: &Cursor, newest: u64) -> Found {
        let mut reader = Reader::open(dir, cursor, newest, true).unwrap();
        reader.read().unwrap()
    }

    fn texts(found: Found) -> Vec<String> {
        found
            .records
            .into_iter()
            .map(|record| record.line)
            .collect()
    }

    /// Nine records in three files.
    fn nine(dir: &Path) -> Vec<String> {
        let log = open(dir);
        for record in 1..=9 {
            put(&log, &record.to_string());
            if record % 3 == 0 && record < 9 {
                log.rotate().unwrap();
            }
        }
        lines(dir)
    }

    #[test]
    fn every_cursor_leads_to_the_records_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let all = nine(dir.path());
        let cursors: Vec<Cursor> = read(dir.path(), &Cursor::default(), 9)
            .records
            .into_iter()
            .map(|record| record.cursor)
            .collect();
        for (index, cursor) in cursors.iter().enumerate() {
            let stored = serde_json::to_string(&Stored::from(cursor)).unwrap();
            let stored: Stored = serde_json::from_str(&stored).unwrap();
            assert_eq!(stored.cursor().as_ref(), Some(cursor));
            // With its place, without one, and with one that is another's.
            for place in [cursor.place, None, cursors[4].place] {
                let cursor = Cursor {
                    place,
                    ..cursor.clone()
                };
                let found = read(dir.path(), &cursor, 9);
                assert_eq!(found.gaps, []);
                assert_eq!(texts(found), all[index + 1..], "{cursor:?}");
            }
        }
    }

    #[test]
    fn files_that_were_moved_away_are_told_as_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let all = nine(dir.path());
        let mut cursor = read(dir.path(), &Cursor::default(), 9).records[1]
            .cursor
            .clone();
        for path in paths(dir.path()).iter().take(2) {
            fs::remove_file(path).unwrap();
        }
        for _ in 0..2 {
            let found = read(dir.path(), &cursor, 9);
            assert_eq!(found.gaps, [Gap::Missing { first: 3, last: 6 }]);
            assert_eq!(texts(found), all[6..]);
            cursor.place = None;
        }
    }

    #[test]
    fn a_log_that_was_begun_anew_is_read_from_its_first_record() {
        let dir = tempfile::tempdir().unwrap();
        nine(dir.path());
        let cursor = read(dir.path(), &Cursor::default(), 9).records[4]
            .cursor
            .clone();
        for path in paths(dir.path()) {
            fs::remove_file(path).unwrap();
        }
        let log = open(dir.path());
        // Another chain, first shorter than the cursor and then longer.
        for count in 1..=8 {
            put(&log, "other");
            let found = read(dir.path(), &cursor, count);
            if count == 5 {
                // Nothing follows on the cursor yet: there is nothing to compare.
                assert_eq!(texts(found).len(), 0);
                continue;
            }
            assert_eq!(found.gaps, [Gap::Replaced { after: 5 }], "{count}");
            assert_eq!(texts(found), lines(dir.path()), "{count}");
        }
    }

    #[test]
    fn a_line_that_was_changed_does_not_hold_up_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        nine(dir.path());
        let path = &paths(dir.path())[1];
        for (from, to) in [
            ("\"what\":\"5\"", "\"what\":\"x\""),
            ("{\"seq\":5", "[\"seq\":5"),
        ] {
            let text = fs::read_to_string(path).unwrap().replacen(from, to, 1);
            fs::write(path, text).unwrap();
            let found = read(dir.path(), &Cursor::default(), 9);
            assert_eq!(found.gaps, [Gap::Broken { at: 6 }]);
            assert_eq!(texts(found), lines(dir.path()));
        }
    }

    #[test]
    fn a_long_log_is_read_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        for _ in 0..=MOST_RECORDS {
            put(&log, "x");
        }
        let mut reader = Reader::open(dir.path(), &Cursor::default(), 0, false).unwrap();
        assert_eq!(reader.read().unwrap().records.len(), MOST_RECORDS);
        assert_eq!(reader.read().unwrap().records.len(), 1);
        assert_eq!(reader.read().unwrap().records.len(), 0);
        for _ in 0..12 {
            put(&log, &"x".repeat(100_000));
        }
        assert_eq!(reader.read().unwrap().records.len(), 11);
    }
}
