use std::fs;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::audit::testing::{StillClock, keys, lines, open, paths, put};
use crate::audit::{AuditLog, Options};

/// A copy of a log of three files, of four records and a checkpoint each.
fn log() -> tempfile::TempDir {
    static FILES: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        log.unlock(&keys(1)).unwrap();
        for file in 0..3 {
            for record in 0..4 {
                put(&log, &format!("event {file}/{record}"));
            }
            if file < 2 {
                log.rotate().unwrap();
            }
        }
        drop(log);
        let read = |path: PathBuf| (path.file_name().unwrap().into(), fs::read(&path).unwrap());
        paths(dir.path()).into_iter().map(read).collect()
    });
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &*FILES {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn key(seed: u8) -> PublicKey {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unlock(&keys(seed)).unwrap()
}

/// Changes the lines of one file.
fn edit(dir: &Path, file: usize, change: impl FnOnce(&mut Vec<String>)) {
    let path = &paths(dir)[file];
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    lines.push(String::new());
    fs::write(path, lines.join("\n")).unwrap();
}

/// The finding as `file:line record: what`.
fn finding(dir: &Path, expect: &Expect) -> String {
    match verify(dir, expect) {
        Err(VerifyError::Finding(finding)) => {
            let file = paths(dir).iter().position(|path| *path == finding.file);
            let file = file.unwrap() + 1;
            format!(
                "{file}:{} {:?}: {:?}",
                finding.line,
                finding.seq.unwrap_or(0),
                finding.what
            )
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn an_untouched_log_is_whole() {
    let dir = log();
    let report = verify(
        dir.path(),
        &Expect {
            keys: vec![key(2), key(1)],
            seq: Some(15),
            ..Expect::default()
        },
    )
    .unwrap();
    let want = Report {
        files: 3,
        records: 15,
        first_seq: 1,
        head: report.head,
        checkpoints: 3,
        signed_to: 15,
        signed_by: vec![key(1)],
        half_line: 0,
    };
    assert_eq!(report, want);
    let expect = Expect {
        head: Some(report.head),
        ..Expect::default()
    };
    assert_eq!(verify(dir.path(), &expect).unwrap(), want);
}

#[test]
fn each_kind_of_tampering_is_found_at_its_line() {
    type Change = fn(&mut Vec<String>);
    let cases: [(&str, usize, Change, &str); 21] = [
        (
            "a value",
            1,
            |l| l[1] = l[1].replace("1/1", "9/9"),
            "2:2 7: Changed",
        ),
        (
            "a value in the first record",
            0,
            |l| l[0] = l[0].replace("0/0", "9/9"),
            "1:1 1: Changed",
        ),
        (
            "the last of a file",
            0,
            |l| l[3] = l[3].replace("0/3", "9/9"),
            "1:4 4: Changed",
        ),
        (
            "the last but the checkpoint",
            2,
            |l| l[3] = l[3].replace("2/3", "9"),
            "3:4 14: Changed",
        ),
        (
            "a time",
            1,
            |l| l[2] = l[2].replace("21:30", "21:31"),
            "2:3 8: Changed",
        ),
        (
            "a type",
            1,
            |l| l[2] = l[2].replace("\"type\":\"event", "\"type\":\"tneve"),
            "2:3 8: Changed",
        ),
        ("a link", 1, |l| l[2] = relink(&l[2]), "2:3 8: Changed"),
        (
            "the link of the first record",
            0,
            |l| l[0] = relink(&l[0]),
            "1:1 1: Changed",
        ),
        (
            "a checkpoint's link",
            2,
            |l| l[4] = relink(&l[4]),
            "3:5 15: Changed",
        ),
        (
            "a checkpoint's time",
            2,
            |l| l[4] = l[4].replace("21:30", "21:31"),
            "3:5 15: Changed",
        ),
        (
            "a number",
            1,
            |l| l[2] = l[2].replace("\"seq\":8", "\"seq\":18"),
            "2:3 18: Changed",
        ),
        (
            "a removed record",
            1,
            |l| drop(l.remove(2)),
            "2:3 9: Removed { from: 8, to: 8 }",
        ),
        (
            "removed records",
            1,
            |l| drop(l.drain(1..4)),
            "2:2 10: Removed { from: 7, to: 9 }",
        ),
        (
            "a file's removed start",
            1,
            |l| drop(l.drain(..2)),
            "2:1 8: Removed { from: 6, to: 7 }",
        ),
        (
            "a file's removed end",
            1,
            |l| l.truncate(2),
            "3:1 11: Removed { from: 8, to: 10 }",
        ),
        (
            "the log's removed start",
            0,
            |l| drop(l.remove(0)),
            "1:1 2: Removed { from: 1, to: 1 }",
        ),
        (
            "an emptied file",
            1,
            Vec::clear,
            "3:1 11: Removed { from: 6, to: 10 }",
        ),
        ("swapped records", 1, |l| l.swap(1, 2), "2:2 8: Moved"),
        (
            "a repeated record",
            1,
            |l| l.insert(2, l[1].clone()),
            "2:3 7: Moved",
        ),
        ("half a line", 1, |l| l[2].truncate(40), "2:3 0: Malformed"),
        (
            "spaces",
            1,
            |l| l[2] = l[2].replace("\"event\":{", "\"event\": [{"),
            "2:3 0: Malformed",
        ),
    ];
    for (name, file, change, want) in cases {
        let dir = log();
        edit(dir.path(), file, change);
        assert_eq!(finding(dir.path(), &Expect::default()), want, "{name}");
    }
}

/// The line with one digit of its `prev` changed.
fn relink(line: &str) -> String {
    let mut bytes = line.as_bytes().to_vec();
    let at = bytes.len() - 10;
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_missing_file_is_found_unless_the_caller_knows_what_was_before() {
    let dir = log();
    let whole = verify(dir.path(), &Expect::default()).unwrap();
    let mut files = paths(dir.path());
    let first = verify_files(&files[..1], &Expect::default()).unwrap();
    let gap = verify_files(&[files[0].clone(), files[2].clone()], &Expect::default());
    assert!(
        gap.unwrap_err()
            .to_string()
            .contains("records 6 to 10 were removed")
    );
    fs::remove_file(files.remove(0)).unwrap();
    let want = "1:1 6: Removed { from: 1, to: 5 }";
    assert_eq!(finding(dir.path(), &Expect::default()), want);
    let mut expect = Expect {
        after: Some(first.head),
        ..Expect::default()
    };
    let rest = verify(dir.path(), &expect).unwrap();
    assert_eq!(
        (rest.first_seq, rest.records, rest.head),
        (6, 10, whole.head)
    );
    expect.after = Some(Head {
        hash: Hash::default(),
        ..first.head
    });
    assert_eq!(finding(dir.path(), &expect), "1:1 6: Changed");
    fs::remove_file(files.remove(0)).unwrap();
    fs::remove_file(files.remove(0)).unwrap();
    let nothing = verify(dir.path(), &Expect::default());
    assert!(matches!(nothing, Err(VerifyError::Nothing(_))));
}

#[test]
fn a_cut_end_is_seen_only_by_who_knows_how_far_the_log_reached() {
    let dir = log();
    let head = verify(dir.path(), &Expect::default()).unwrap().head;
    edit(dir.path(), 2, |lines| lines.truncate(3));
    let report = verify(dir.path(), &Expect::default()).unwrap();
    assert_eq!((report.head.seq, report.signed_to), (13, 10));
    let by_seq = Expect {
        seq: Some(15),
        ..Expect::default()
    };
    let by_head = Expect {
        head: Some(head),
        ..Expect::default()
    };
    for expect in [by_seq, by_head] {
        let want = "3:3 13: CutOff { expected: 15 }";
        assert_eq!(finding(dir.path(), &expect), want);
    }
}

#[test]
fn half_a_line_is_told_at_the_very_end_and_wrong_elsewhere() {
    let dir = log();
    let path = paths(dir.path()).pop().unwrap();
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() - 1]).unwrap();
    let report = verify(dir.path(), &Expect::default()).unwrap();
    assert_eq!(report.head.seq, 14);
    assert!(report.half_line > 100);
    let path = paths(dir.path()).remove(0);
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() - 1]).unwrap();
    assert_eq!(finding(dir.path(), &Expect::default()), "1:5 0: Malformed");
}

#[test]
fn a_chain_written_anew_has_no_signature_or_a_foreign_one() {
    let expect = Expect {
        keys: vec![key(1)],
        ..Expect::default()
    };
    let original = log();
    let original = verify(original.path(), &expect).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let forged = open(dir.path());
    put(&forged, "forged");
    drop(forged);
    assert_eq!(finding(dir.path(), &expect), "1:1 1: Unsigned");

    let forged = open(dir.path());
    let foreign = forged.unlock(&keys(2)).unwrap();
    drop(forged);
    let report = verify(dir.path(), &Expect::default()).unwrap();
    assert_eq!(report.signed_by, [foreign]);
    let want = format!("1:2 2: ForeignKey({foreign:?})");
    assert_eq!(finding(dir.path(), &expect), want);

    let forged = open(dir.path());
    for _ in 0..20 {
        put(&forged, "forged");
    }
    drop(forged);
    let expect = Expect {
        head: Some(original.head),
        ..Expect::default()
    };
    assert_eq!(finding(dir.path(), &expect), "1:15 15: NotExpected");
}

#[test]
fn a_log_begun_again_after_seal_names_every_key_that_signed() {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), Options::default(), Arc::new(StillClock)).unwrap();
    put(&log, "x");
    let one = log.unlock(&keys(1)).unwrap();
    log.seal().unwrap();
    put(&log, "x");
    let two = log.unlock(&keys(2)).unwrap();
    let report = verify(dir.path(), &Expect::default()).unwrap();
    assert_eq!(report.signed_by, [one, two]);
}

proptest! {
    #[test]
    fn a_changed_byte_is_found_at_its_line(file in 0..3_usize, at in 0.0..1.0_f64, flip in 1..=255_u8) {
        let dir = log();
        let path = &paths(dir.path())[file];
        let mut bytes = fs::read(path).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
            reason = "a share of a small length")]
        let at = (bytes.len() as f64 * at) as usize;
        let line = bytes[..at].split(|byte| *byte == b'\n').count();
        bytes[at] ^= flip;
        fs::write(path, bytes).unwrap();
        match verify(dir.path(), &Expect::default()) {
            Err(VerifyError::Finding(finding)) => {
                prop_assert_eq!(&finding.file, path);
                prop_assert_eq!(finding.line, line as u64, "{}", finding);
            }
            // The last line of all is vouched for by nothing but itself: broken, it signs nothing.
            Ok(report) => prop_assert!(file == 2 && line == 5 && report.signed_to < 15),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn no_text_makes_verification_fail_but_by_a_finding(text in "(\\PC|\n){0,200}") {
        let dir = log();
        let path = paths(dir.path()).pop().unwrap();
        fs::write(path, text).unwrap();
        let outcome = verify(dir.path(), &Expect::default());
        prop_assert!(matches!(outcome, Ok(_) | Err(VerifyError::Finding(_))));
        prop_assert!(lines(dir.path()).len() >= 10);
    }
}
