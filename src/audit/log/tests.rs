use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::*;
use crate::audit::testing::{Disk, StillClock, keys, lines, open, paths, put};
use crate::audit::{Expect, Report, verify};

fn whole(dir: &Path) -> Report {
    verify(dir, &Expect::default()).unwrap()
}

fn small(rotate_at_bytes: u64) -> Options {
    Options {
        rotate_at_bytes,
        ..Options::default()
    }
}

#[test]
fn the_chain_goes_on_across_restarts_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let log = open(dir);
    assert_eq!(put(&log, "one").seq(), 1);
    assert_eq!(put(&log, "two").seq(), 2);
    drop(log);
    let log = open(dir);
    assert_eq!(put(&log, "three").seq(), 3);
    log.rotate().unwrap();
    // Nothing was written since: there is nothing to rotate.
    log.rotate().unwrap();
    assert_eq!(put(&log, "four").seq(), 4);
    let head = log.head().unwrap();
    drop(log);
    // A crash may come between the making of a file and its first line.
    let log = open(dir);
    log.rotate().unwrap();
    drop(log);
    let log = open(dir);
    assert_eq!(log.head().unwrap(), head);
    assert_eq!(put(&log, "five").seq(), 5);
    let report = whole(dir);
    assert_eq!((report.files, report.records, report.first_seq), (3, 5, 1));
    assert_eq!(report.head, log.head().unwrap());
    let first: Value = serde_json::from_str(&lines(dir)[0]).unwrap();
    assert_eq!(first["time"], "2026-11-23T21:30:00.000001Z");
    assert_eq!(first["event"]["what"], "one");
}

#[test]
fn what_a_crash_leaves_of_the_last_lines_is_cut_to_whole_records() {
    let source = tempfile::tempdir().unwrap();
    let log = open(source.path());
    for what in ["one", "two", "three"] {
        put(&log, what);
    }
    drop(log);
    let path = paths(source.path()).remove(0);
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        let crashed = tempfile::tempdir().unwrap();
        let dir = crashed.path();
        let copy = dir.join(path.file_name().unwrap());
        fs::write(&copy, &bytes[..length]).unwrap();
        let kept = bytes[..length].split_inclusive(|byte| *byte == b'\n');
        let (whole_lines, half): (Vec<_>, Vec<_>) = kept.partition(|line| line.ends_with(b"\n"));
        let half = half.concat().len();
        drop(open(dir));
        let want = whole_lines.len() + usize::from(half > 0);
        assert_eq!(lines(dir).len(), want, "cut to {length}");
        whole(dir);
        if half > 0 {
            let last: Value = serde_json::from_str(lines(dir).last().unwrap()).unwrap();
            assert_eq!(last["event"]["what"], "audit.recovered");
            assert_eq!(last["event"]["details"]["dropped_bytes"], half.to_string());
        }
    }
}

#[test]
fn an_end_that_no_crash_leaves_is_not_built_upon() {
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 4] = [
        ("last line is not a record", |dir| {
            let path = paths(dir).pop().unwrap();
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"{}\n").unwrap();
        }),
        ("last record is not the one before", |dir| {
            fs::write(crate::audit::files::path(dir, 9), "").unwrap();
        }),
        ("though a newer file follows", |dir| {
            let path = paths(dir).pop().unwrap();
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"half").unwrap();
            fs::write(crate::audit::files::path(dir, 3), "").unwrap();
        }),
        ("the files before it are missing", |dir| {
            fs::remove_file(paths(dir).pop().unwrap()).unwrap();
            fs::write(crate::audit::files::path(dir, 3), "").unwrap();
        }),
    ];
    for (want, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        put(&log, "one");
        put(&log, "two");
        drop(log);
        damage(dir.path());
        let opened = AuditLog::open(dir.path(), Options::default(), Arc::new(StillClock));
        let error = opened.err().unwrap();
        assert!(matches!(error, AuditError::Damaged { .. }), "{want}");
        assert!(error.to_string().contains(want), "{want}: {error}");
    }
}

#[test]
fn two_servers_do_not_write_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let second = AuditLog::open(dir.path(), Options::default(), Arc::new(StillClock));
    assert!(matches!(second, Err(AuditError::InUse { .. })));
    drop(log);
    open(dir.path());
}

#[test]
fn a_record_that_does_not_fit_on_the_disk_fails_and_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let log = disk.open(dir.path(), Options::default());
    put(&log, "one");
    let event = Event::default();
    for taken in [0, 1, 20] {
        disk.short_write.store(taken + 1, Ordering::SeqCst);
        let outcome = log.append(Kind::Event, &event);
        assert!(matches!(outcome, Err(AuditError::NotWritten(_))), "{taken}");
    }
    disk.full.store(true, Ordering::SeqCst);
    let outcome = log.append(Kind::Event, &event);
    assert!(matches!(outcome, Err(AuditError::NotWritten(_))));
    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(put(&log, "two").seq(), 2);
    drop(log);
    assert_eq!(whole(dir.path()).records, 2);
}

#[test]
fn a_write_that_cannot_be_undone_ends_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let log = disk.open(dir.path(), Options::default());
    put(&log, "one");
    disk.cut_fails.store(true, Ordering::SeqCst);
    disk.short_write.store(9, Ordering::SeqCst);
    for _ in 0..2 {
        let outcome = log.append(Kind::Event, &Event::default());
        assert!(matches!(outcome, Err(AuditError::Broken(_))));
    }
    assert!(matches!(log.close(), Err(AuditError::Broken(_))));
    drop(log);
    // The next start cuts off the half line, as after a crash.
    drop(open(dir.path()));
    assert_eq!(whole(dir.path()).records, 2);
}

#[tokio::test]
async fn a_failed_sync_is_told_to_all_who_wait_and_ends_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let log = disk.open(dir.path(), Options::default());
    let before = put(&log, "before");
    log.durable(before).await.unwrap();
    disk.sync_fails.store(true, Ordering::SeqCst);
    let (one, two) = (put(&log, "one"), put(&log, "two"));
    let (first, second) = tokio::join!(log.durable(one), log.durable(two));
    assert!(matches!(first, Err(AuditError::Broken(_))));
    assert!(matches!(second, Err(AuditError::Broken(_))));
    // The disk is well again; what it lost is lost all the same.
    disk.sync_fails.store(false, Ordering::SeqCst);
    assert!(log.durable(one).await.is_err());
    let later = log.append(Kind::Event, &Event::default());
    assert!(matches!(later, Err(AuditError::Broken(_))));
    assert!(log.rotate().is_err());
    log.durable(before).await.unwrap();
}

#[tokio::test]
async fn durable_means_synced_and_those_who_wait_share_an_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let log = disk.open(dir.path(), Options::default());
    disk.hold(true);
    let mut tasks = tokio::task::JoinSet::new();
    let append = |tasks: &mut tokio::task::JoinSet<()>| {
        let (log, disk) = (Arc::clone(&log), Arc::clone(&disk));
        tasks.spawn(async move {
            let position = put(&log, "x");
            let end = disk.written.load(Ordering::SeqCst);
            log.durable(position).await.unwrap();
            assert!(disk.synced.load(Ordering::SeqCst) >= end);
        });
    };
    append(&mut tasks);
    while disk.syncs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // These come while a sync runs that does not cover them.
    for _ in 0..63 {
        append(&mut tasks);
    }
    while log.head().unwrap().seq < 64 {
        tokio::task::yield_now().await;
    }
    assert!(tasks.try_join_next().is_none());
    disk.hold(false);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 2);
}

#[test]
fn eight_threads_write_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.unlock(&keys(1)).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut last = None;
                for _ in 0..10_000 {
                    let position = put(&log, "x");
                    assert!(last < Some(position));
                    last = Some(position);
                }
            });
        }
    });
    drop(log);
    let report = whole(dir.path());
    assert_eq!(report.records - report.checkpoints, 80_000);
    assert!(report.checkpoints >= 80);
    assert_eq!(report.signed_to, report.head.seq);
}

#[test]
fn checkpoints_come_by_number_on_unlock_on_rotation_on_seal_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_every: 3,
        checkpoint_after: Duration::from_secs(3600),
        ..Options::default()
    };
    let log = AuditLog::open(dir.path(), options, Arc::new(StillClock)).unwrap();
    let checkpoints = || {
        let kinds = lines(dir.path()).into_iter().enumerate();
        let signed = kinds.filter(|(_, line)| line.contains(r#""type":"checkpoint""#));
        signed.map(|(at, _)| at + 1).collect::<Vec<_>>()
    };
    for _ in 0..4 {
        put(&log, "sealed");
    }
    assert_eq!(checkpoints(), [0; 0]);
    let key = log.unlock(&keys(1)).unwrap();
    assert_eq!(checkpoints(), [5]);
    for _ in 0..3 {
        put(&log, "x");
    }
    assert_eq!(checkpoints(), [5, 9]);
    log.checkpoint().unwrap();
    assert_eq!(checkpoints(), [5, 9], "nothing to sign");
    put(&log, "x");
    log.rotate().unwrap();
    assert_eq!(checkpoints(), [5, 9, 11]);
    put(&log, "x");
    log.seal().unwrap();
    assert_eq!(checkpoints(), [5, 9, 11, 13]);
    for _ in 0..4 {
        put(&log, "sealed");
    }
    assert_eq!(log.unlock(&keys(1)).unwrap(), key);
    put(&log, "x");
    log.close().unwrap();
    assert_eq!(checkpoints(), [5, 9, 11, 13, 18, 20]);
    let closed = log.append(Kind::Event, &Event::default());
    assert!(matches!(closed, Err(AuditError::Closed)));
    assert_eq!(whole(dir.path()).signed_by, [key]);
}

#[test]
fn a_quiet_log_is_signed_and_a_large_one_rotated_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        rotate_at_bytes: 1000,
        checkpoint_after: Duration::from_millis(1),
        ..Options::default()
    };
    let log = AuditLog::open(dir.path(), options, Arc::new(StillClock)).unwrap();
    log.unlock(&keys(1)).unwrap();
    let until = |what: &str, reached: &dyn Fn() -> bool| {
        let end = Instant::now() + Duration::from_secs(30);
        while !reached() {
            assert!(Instant::now() < end, "{what}");
            thread::yield_now();
        }
    };
    put(&log, "x");
    until("signed", &|| log.head().unwrap().seq == 2);
    for _ in 0..10 {
        put(&log, "x");
    }
    until("rotated", &|| paths(dir.path()).len() > 1);
    drop(log);
    let report = whole(dir.path());
    assert_eq!(report.records - report.checkpoints, 11);
}

#[test]
fn a_new_file_is_begun_only_after_the_old_one_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let log = disk.open(dir.path(), Options::default());
    log.unlock(&keys(1)).unwrap();
    put(&log, "one");
    log.rotate().unwrap();
    let written = disk.written.load(Ordering::SeqCst);
    assert_eq!(disk.synced.load(Ordering::SeqCst), written);
    put(&log, "two");
    disk.sync_fails.store(true, Ordering::SeqCst);
    assert!(matches!(log.rotate(), Err(AuditError::Broken(_))));
    assert_eq!(paths(dir.path()).len(), 2);
}

#[test]
fn hashes_are_keyed_while_the_log_is_unlocked() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert_eq!(log.hasher().hash(b"x").as_str(), "sealed");
    log.unlock(&keys(1)).unwrap();
    assert_eq!(log.hasher().hash(b"x"), Hasher::new(&[1; 32]).hash(b"x"));
    log.seal().unwrap();
    assert_eq!(log.hasher().hash(b"x").as_str(), "sealed");
}

#[test]
fn a_rotation_that_fails_leaves_the_log_in_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    put(&log, "one");
    let in_the_way = crate::audit::files::path(dir.path(), 2);
    fs::create_dir(&in_the_way).unwrap();
    assert!(matches!(log.rotate(), Err(AuditError::Io { .. })));
    fs::remove_dir(&in_the_way).unwrap();
    put(&log, "two");
    log.rotate().unwrap();
    put(&log, "three");
    drop(log);
    let report = whole(dir.path());
    assert_eq!((report.files, report.records), (2, 3));
}

#[test]
fn a_record_that_is_too_long_is_refused_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let long = "x".repeat(crate::audit::line::MAX_LINE);
    let event = Event {
        what: &long,
        ..Event::default()
    };
    let outcome = log.append(Kind::Event, &event);
    assert!(matches!(outcome, Err(AuditError::Encoding)));
    // One that just fits must be readable again, by the next start too.
    let event = Event {
        what: long.get(600..).unwrap(),
        ..Event::default()
    };
    log.append(Kind::Event, &event).unwrap();
    drop(log);
    put(&open(dir.path()), "next");
    assert_eq!(whole(dir.path()).records, 2);
}

const CRASH_DIR: &str = "DAYPASS_TEST_AUDIT_CRASH_DIR";

/// The child of the test below, which runs it in a process of its own; by itself it does nothing.
#[test]
fn crash_child() {
    let Ok(dir) = std::env::var(CRASH_DIR) else {
        return;
    };
    let log = AuditLog::open(Path::new(&dir), small(20_000), Arc::new(StillClock)).unwrap();
    log.unlock(&keys(1)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let log = Arc::clone(&log);
            tasks.spawn(async move {
                loop {
                    let what = format!("{:032x}", uuid::Uuid::new_v4().as_u128());
                    let position = put(&log, &what);
                    log.durable(position).await.unwrap();
                    println!("durable {} {what}", position.seq());
                }
            });
        }
        tasks.join_next().await;
    });
}

#[test]
fn what_was_durable_survives_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut durable = BTreeMap::new();
    for round in 1..=6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "audit::log::tests::crash_child", "--nocapture"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledge = |line: String| {
            let mut words = line.split(' ').skip_while(|word| *word != "durable");
            if let (Some(_), Some(seq), Some(what)) = (words.next(), words.next(), words.next()) {
                durable.insert(seq.parse::<u64>().unwrap(), what.to_owned());
            }
        };
        for line in output.by_ref().take(40 * round) {
            acknowledge(line.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        output.map_while(Result::ok).for_each(acknowledge);
    }
    drop(open(dir.path()));
    assert!(whole(dir.path()).files > 1);
    let lines = lines(dir.path());
    assert!(durable.len() > 600, "{}", durable.len());
    for (seq, what) in durable {
        let line = &lines[usize::try_from(seq).unwrap() - 1];
        // The last line of a killed child's output may itself be cut.
        assert!(line.contains(&what), "record {seq}");
    }
}
