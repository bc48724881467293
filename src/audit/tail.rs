//! Reading the log as it grows: [`Follower`] for sinks and `audit tail -f`, [`summary`] for people.
//!
//! **Invariant:** a follower gives complete lines only, each once and in order, across files and across
//! restarts of the server. It never writes and takes no lock.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::AuditError;
use super::files;
use super::line::{Line, MAX_LINE};

/// Reads a log line by line, from wherever it starts to wherever the log ends by then.
pub struct Follower {
    dir: PathBuf,
    file: Option<Open>,
    /// Records up to this one are passed over.
    after: u64,
}

/// Where a follower stands: the next line begins at this offset of the file that begins with this record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    file: u64,
    offset: u64,
}

struct Open {
    first: u64,
    path: PathBuf,
    reader: BufReader<File>,
    /// Where the next line starts.
    offset: u64,
}

impl Follower {
    /// Reads from the first record after `seq`; 0 for all there are.
    pub fn after(dir: &Path, seq: u64) -> Self {
        Self {
            dir: dir.into(),
            file: None,
            after: seq,
        }
    }

    /// Reads on at `place`, without searching for it; `None` where no line begins there.
    ///
    /// # Errors
    /// [`AuditError::Io`].
    pub(super) fn at(dir: &Path, place: Place) -> Result<Option<Self>, AuditError> {
        let path = files::path(dir, place.file);
        if !path.exists() {
            return Ok(None);
        }
        let mut open = Open::new(place.file, path)?;
        if let Some(last) = place.offset.checked_sub(1) {
            let mut newline = [0];
            let read = open.reader.get_ref().read_at(&mut newline, last);
            if read.map_err(AuditError::io("read", &open.path))? == 0 || newline != *b"\n" {
                return Ok(None);
            }
        }
        open.seek(place.offset)?;
        Ok(Some(Self {
            dir: dir.into(),
            file: Some(open),
            after: 0,
        }))
    }

    /// Where the next line begins, once one was read.
    pub(super) fn place(&self) -> Option<Place> {
        self.file.as_ref().map(|open| Place {
            file: open.first,
            offset: open.offset,
        })
    }

    /// Reads from the last `lines` records on.
    ///
    /// # Errors
    /// [`AuditError::Io`].
    pub fn last(dir: &Path, lines: u64) -> Result<Self, AuditError> {
        let mut follower = Self::after(dir, 0);
        let mut missing = lines;
        let files = files::list(dir).map_err(AuditError::io("list", dir))?;
        for (first, path) in files.into_iter().rev() {
            let mut open = Open::new(first, path)?;
            let end = files::end_of(open.reader.get_ref(), missing)
                .map_err(AuditError::io("read", &open.path))?;
            open.seek(end.start)?;
            follower.file = Some(open);
            missing -= end.lines;
            if missing == 0 {
                break;
            }
        }
        Ok(follower)
    }

    /// The next line, without its newline; `None` where there is none yet.
    ///
    /// # Errors
    /// [`AuditError::Io`], [`AuditError::Damaged`].
    pub fn next_line(&mut self) -> Result<Option<String>, AuditError> {
        loop {
            let Some(open) = &mut self.file else {
                match self.next_file()? {
                    Some(next) => self.file = Some(next),
                    None => return Ok(None),
                }
                continue;
            };
            let mut line = open.next_line()?;
            if line.is_none() {
                let Some(next) = self.next_file()? else {
                    return Ok(None);
                };
                // The old file got its last line before the new one was made: look once more.
                if let Some(open) = &mut self.file {
                    line = open.next_line()?;
                }
                if line.is_none() {
                    self.file = Some(next);
                    continue;
                }
            }
            if let Some(line) = line
                && (self.after == 0
                    || Line::parse(line.as_bytes()).is_none_or(|line| line.seq > self.after))
            {
                self.after = 0;
                return Ok(Some(line));
            }
        }
    }

    /// The file after the present one, or the one to begin with.
    fn next_file(&self) -> Result<Option<Open>, AuditError> {
        let mut files = files::list(&self.dir).map_err(AuditError::io("list", &self.dir))?;
        let next = if let Some(open) = &self.file {
            files.into_iter().find(|(first, _)| *first > open.first)
        } else {
            let wanted = self.after.saturating_add(1);
            let begin = files.iter().rposition(|(first, _)| *first <= wanted);
            files.drain(begin.unwrap_or(0)..).next()
        };
        next.map(|(first, path)| Open::new(first, path)).transpose()
    }
}

impl Open {
    fn new(first: u64, path: PathBuf) -> Result<Self, AuditError> {
        let file = File::open(&path).map_err(AuditError::io("open", &path))?;
        Ok(Self {
            first,
            path,
            reader: BufReader::with_capacity(64 * 1024, file),
            offset: 0,
        })
    }

    fn seek(&mut self, offset: u64) -> Result<(), AuditError> {
        self.offset = offset;
        self.reader
            .seek(SeekFrom::Start(offset))
            .map(drop)
            .map_err(AuditError::io("read", &self.path))
    }

    fn next_line(&mut self) -> Result<Option<String>, AuditError> {
        let damaged = |what| AuditError::Damaged {
            file: self.path.clone(),
            what,
        };
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        let read = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut line)
            .map_err(AuditError::io("read", &self.path))?;
        if line.pop() == Some(b'\n') {
            self.offset += read as u64;
            return String::from_utf8(line)
                .map(Some)
                .map_err(|_| damaged("a line is not text"));
        }
        if read as u64 == limit {
            return Err(damaged("a line is too long"));
        }
        // Half a line may be completed, or cut off by a restart and written anew: read it again.
        self.seek(self.offset)?;
        Ok(None)
    }
}

/// One line of the log in words: when, what, who, the operation and path, how it ended. `None` where it
/// is not a line of the log. Whatever is not a plain word is quoted and escaped, so that nothing a
/// caller sent passes for another column or reaches a terminal as a command.
pub fn summary(line: &str) -> Option<String> {
    let parsed = Line::parse(line.as_bytes())?;
    let record: Record<'_> = serde_json::from_str(line).ok()?;
    let mut text = format!("{} {:<8}", parsed.time, parsed.kind);
    if let Some(request) = record.request {
        let auth = record.auth.unwrap_or_default();
        push(&mut text, "", &auth.display_name);
        if !auth.delegation.is_empty() {
            push(&mut text, "via=", &auth.delegation.join(","));
        }
        push(&mut text, "", &request.operation);
        push(&mut text, "", &request.path);
        push_some(&mut text, "from=", request.remote_address.as_deref());
    }
    if let Some(event) = record.event {
        push(&mut text, "", &event.what);
        push_some(&mut text, "", event.path.as_deref());
        push_some(&mut text, "lease=", event.lease_id.as_deref());
    }
    if let Some(decision) = record.decision {
        let outcome = if decision.allowed {
            "allowed"
        } else {
            "denied"
        };
        push(&mut text, "", outcome);
        push_some(&mut text, "reason=", decision.reason.as_deref());
    }
    if let Some(response) = record.response {
        push(&mut text, "", &response.status.to_string());
        let lease = response.secret.as_ref().map(|secret| &*secret.lease_id);
        push_some(&mut text, "lease=", lease);
    }
    push_some(&mut text, "error=", record.error.as_deref());
    Some(text)
}

fn push_some(text: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        push(text, name, value);
    }
}

fn push(text: &mut String, name: &str, value: &str) {
    let plain = |character: char| {
        character.escape_debug().len() == 1 && !character.is_whitespace() && character != '='
    };
    // Writing to a String does not fail.
    let _ = if !value.is_empty() && value.chars().all(plain) {
        write!(text, " {name}{value}")
    } else {
        write!(text, " {name}{value:?}")
    };
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    auth: Option<Auth<'a>>,
    #[serde(borrow)]
    request: Option<Request<'a>>,
    #[serde(borrow)]
    response: Option<Response<'a>>,
    #[serde(borrow)]
    event: Option<Event<'a>>,
    #[serde(borrow)]
    decision: Option<Decision<'a>>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    display_name: Cow<'a, str>,
    #[serde(default)]
    delegation: Vec<String>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    operation: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    remote_address: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Response<'a> {
    status: u16,
    #[serde(borrow)]
    secret: Option<Secret<'a>>,
}

#[derive(Deserialize)]
struct Secret<'a> {
    #[serde(borrow)]
    lease_id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    what: Cow<'a, str>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lease_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Decision<'a> {
    allowed: bool,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;
    use crate::audit::testing::{lines, open, paths, put};
    use crate::audit::{
        self, Decision, Hasher, Kind, Leased, Principal, RequestRecord, Response, ResponseRecord,
    };

    fn rest(follower: &mut Follower) -> Vec<String> {
        std::iter::from_fn(|| follower.next_line().unwrap()).collect()
    }

    #[test]
    fn a_follower_reads_each_line_once_across_files_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut follower = Follower::after(dir, 0);
        assert_eq!(rest(&mut follower), [""; 0]);
        let log = open(dir);
        assert_eq!(rest(&mut follower), [""; 0]);
        put(&log, "one");
        put(&log, "two");
        let mut seen = rest(&mut follower);
        assert_eq!(seen.len(), 2);
        put(&log, "three");
        log.rotate().unwrap();
        put(&log, "four");
        log.rotate().unwrap();
        seen.extend(rest(&mut follower));
        assert_eq!(seen.len(), 4);
        put(&log, "five");
        drop(log);
        // Half a line is not given; the restart cuts it off and writes another in its place.
        let path = paths(dir).pop().unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(br#"{"seq":6,"time":"2026"#).unwrap();
        seen.extend(rest(&mut follower));
        assert_eq!(seen.len(), 5);
        put(&open(dir), "seven");
        seen.extend(rest(&mut follower));
        assert_eq!(seen, lines(dir));
        assert_eq!(seen.len(), 7);
    }

    #[test]
    fn a_follower_misses_nothing_while_files_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let mut follower = Follower::after(dir.path(), 0);
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for record in 0..500 {
                    put(&log, "x");
                    if record % 5 == 0 {
                        log.rotate().unwrap();
                    }
                }
            });
            while seen.len() < 500 {
                seen.extend(rest(&mut follower));
                if let Some(at) = seen.iter().zip(1..).position(|(line, seq)| {
                    Line::parse(line.as_bytes()).is_none_or(|line| line.seq != seq)
                }) {
                    panic!("line {at} is not the next record");
                }
            }
        });
        assert_eq!(seen, lines(dir.path()));
    }

    #[test]
    fn a_follower_starts_where_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let log = open(dir);
        for record in 1..=9 {
            put(&log, &record.to_string());
            if record % 3 == 0 {
                log.rotate().unwrap();
            }
        }
        let all = lines(dir);
        for seq in 0..=9 {
            let mut follower = Follower::after(dir, seq as u64);
            assert_eq!(rest(&mut follower), all[seq..], "after {seq}");
            let mut follower = Follower::last(dir, seq as u64).unwrap();
            assert_eq!(rest(&mut follower), all[9 - seq..], "last {seq}");
        }
        assert_eq!(rest(&mut Follower::last(dir, 99).unwrap()), all);
        let mut follower = Follower::last(dir, 0).unwrap();
        put(&log, "ten");
        assert_eq!(rest(&mut follower).len(), 1);
        assert_eq!(rest(&mut Follower::after(dir, 99)), [""; 0]);
    }

    #[test]
    fn a_follower_goes_on_at_the_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let log = open(dir);
        for record in 1..=6 {
            put(&log, &record.to_string());
            if record == 3 {
                log.rotate().unwrap();
            }
        }
        let all = lines(dir);
        let mut one = Follower::after(dir, 0);
        assert_eq!(one.place(), None);
        for read in 1..=6 {
            one.next_line().unwrap().unwrap();
            let place = one.place().unwrap();
            let mut other = Follower::at(dir, place).unwrap().unwrap();
            assert_eq!(rest(&mut other), all[read..], "after {read}");
            // Not where a line begins, or where nothing is.
            for (file, offset) in [
                (place.file, place.offset - 1),
                (2, 0),
                (place.file, 1 << 40),
            ] {
                let place = Place { file, offset };
                assert!(Follower::at(dir, place).unwrap().is_none(), "{place:?}");
            }
        }
    }

    #[test]
    fn a_line_is_summed_up_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let request = audit::Request {
            id: "1",
            operation: "update",
            path: "aws/creds/deploy",
            remote_address: Some("10.0.0.1"),
            ..audit::Request::default()
        };
        let auth = Some(Principal {
            display_name: "token-ci",
            delegation: (&["agent-7", "agent-3"][..]).into(),
            ..Principal::default()
        });
        let allowed = RequestRecord {
            auth,
            request,
            decision: Some(Decision {
                allowed: true,
                ..Decision::default()
            }),
            error: None,
        };
        let hostile = RequestRecord {
            auth: None,
            request: audit::Request {
                path: "a allowed\u{1b}[2J\u{202e}",
                ..request
            },
            decision: Some(Decision {
                reason: Some("guard night forbids"),
                ..Decision::default()
            }),
            error: None,
        };
        let answered = ResponseRecord {
            auth,
            request,
            decision: allowed.decision,
            response: Response {
                status: 200,
                secret: Some(Leased {
                    lease_id: "aws/creds/deploy/x1",
                }),
                data: Some(&Hasher::sealed().hash_json(b"{}", &[])),
                ..Response::default()
            },
            error: Some("upstream refused"),
        };
        let event = audit::Event {
            what: "lease.revoked",
            path: Some("aws/creds/deploy"),
            lease_id: Some("aws/creds/deploy/x1"),
            ..audit::Event::default()
        };
        log.append(Kind::Request, &allowed).unwrap();
        log.append(Kind::Request, &hostile).unwrap();
        log.append(Kind::Response, &answered).unwrap();
        log.append(Kind::Event, &event).unwrap();
        let want = [
            "request  token-ci via=agent-7,agent-3 update aws/creds/deploy from=10.0.0.1 allowed",
            r#"request  "" update "a allowed\u{1b}[2J\u{202e}" from=10.0.0.1 denied reason="guard night forbids""#,
            "response token-ci via=agent-7,agent-3 update aws/creds/deploy from=10.0.0.1 allowed 200 \
             lease=aws/creds/deploy/x1 error=\"upstream refused\"",
            "event    lease.revoked aws/creds/deploy lease=aws/creds/deploy/x1",
        ];
        for (line, want) in lines(dir.path()).into_iter().zip(want) {
            let want = format!("2026-11-23T21:30:00.000001Z {want}");
            assert_eq!(summary(&line), Some(want));
        }
        assert_eq!(summary("not a record"), None);
    }
}
