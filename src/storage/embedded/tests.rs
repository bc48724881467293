use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use bytes::Bytes;
use daypass_contract::{Batch, Secret};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::*;
use crate::memory::LockedKey;
use crate::storage::testing::{Counting, StillClock};
use crate::storage::{Barrier, RowWrite};

fn open(directory: &TempDir) -> Embedded {
    open_with(directory, Options::default()).unwrap()
}

fn open_with(directory: &TempDir, options: Options) -> Result<Embedded, StorageError> {
    Embedded::open(&directory.path().join("store"), options)
}

fn file(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("store/daypass.db")
}

fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> RowWrite {
    RowWrite::Put(key.into(), Bytes::from(value.into()))
}

fn batch(writes: impl Into<Vec<RowWrite>>) -> WriteBatch {
    WriteBatch {
        expected: Vec::new(),
        writes: writes.into(),
    }
}

async fn everything(store: &Embedded) -> Vec<(String, Row)> {
    store
        .rows(Range::prefix("", None, usize::MAX))
        .await
        .unwrap()
}

fn damage(result: Result<impl Sized, StorageError>) -> String {
    match result {
        Err(error @ StorageError::Damaged { .. }) => error.to_string(),
        Err(error) => panic!("not damaged: {error}"),
        Ok(_) => panic!("not damaged: it was answered"),
    }
}

#[tokio::test]
async fn a_store_keeps_rows_and_revisions_through_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.apply(batch([put("a", "1")])).await.unwrap();
    let last = store.apply(batch([put("b", "2")])).await.unwrap();
    let rows = everything(&store).await;
    store.close().await.unwrap();
    let answers = [
        store.get("a").await.err(),
        store.keys(Range::prefix("", None, 1)).await.err(),
        store.apply(batch([put("c", "3")])).await.err(),
        store.close().await.err(),
    ];
    for answer in answers {
        assert!(matches!(answer, Some(StorageError::Unavailable(_))));
    }

    let store = open(&directory);
    assert_eq!(everything(&store).await, rows);
    assert_eq!(store.get("b").await.unwrap().unwrap().revision, last);
    assert!(store.apply(batch([put("c", "3")])).await.unwrap().0 > last.0);
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.apply(batch([put("a", "1")])).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = directory.path().join("store");
    assert_eq!(mode(&folder), 0o700);
    let names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // The database, its log, the log's index and the lock.
    assert_eq!(names.len(), 4, "{names:?}");
    for name in names {
        assert_eq!(mode(&name), 0o600, "{}", name.display());
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let error = open_with(&directory, Options::default()).err().unwrap();
    let text = error.to_string();
    assert!(
        matches!(error, StorageError::InUse { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert!(text.contains(&format!(
        "in use by process {}; stop it first",
        std::process::id()
    )));
    store.close().await.unwrap();
    open(&directory);
}

#[tokio::test]
async fn waiting_batches_share_commits() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory));
    let mut tasks = JoinSet::new();
    for number in 0..200 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut batch = batch([put(format!("k{number}"), "v")]);
            // Every tenth cannot be written; its neighbours can.
            if number % 10 == 0 {
                batch
                    .expected
                    .push(("absent".to_owned(), Some(Revision(1))));
            }
            store.apply(batch).await.is_ok()
        });
    }
    let written = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|written| *written)
        .count();
    let statistics = store.statistics();
    assert_eq!(
        (written, statistics.batches, statistics.conflicts),
        (180, 180, 20)
    );
    assert!(statistics.commits < 60, "{statistics:?}");
    assert_eq!(everything(&store).await.len(), 180);
}

#[tokio::test]
async fn one_of_many_who_write_the_same_key_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory));
    let mut tasks = JoinSet::new();
    for number in 0..50 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut batch = batch([put("k", format!("{number}"))]);
            batch.expected.push(("k".to_owned(), None));
            store
                .apply(batch)
                .await
                .ok()
                .map(|revision| (number, revision))
        });
    }
    let winners: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    let row = store.get("k").await.unwrap().unwrap();
    assert_eq!(
        (row.value, row.revision),
        (winners[0].0.to_string().into(), winners[0].1)
    );
}

/// A cache far too small keeps readers going to the disk while the keys are written: the way a stale row
/// would get into it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_never_goes_back_behind_an_acknowledged_write() {
    const KEYS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        cache_bytes: 4 * 1024,
        max_bytes: None,
    };
    let store = Arc::new(open_with(&directory, options).unwrap());
    let acknowledged: Arc<Vec<_>> = Arc::new(
        (0..KEYS)
            .map(|_| std::sync::atomic::AtomicU64::new(0))
            .collect(),
    );
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (store, acknowledged) = (Arc::clone(&store), Arc::clone(&acknowledged));
        tasks.spawn(async move {
            for step in 0..150 {
                let number = (task * 7 + step * 11) % KEYS;
                let key = format!("k{number}");
                if task < 2 {
                    let write = if step % 5 == 4 {
                        // Too large for the cache.
                        put(key, vec![0; 8 * 1024])
                    } else {
                        put(key, vec![0; 40])
                    };
                    let revision = store.apply(batch([write])).await.unwrap();
                    let order = std::sync::atomic::Ordering::SeqCst;
                    acknowledged[number].fetch_max(revision.0, order);
                } else {
                    let before = acknowledged[number].load(std::sync::atomic::Ordering::SeqCst);
                    let row = store.get(&key).await.unwrap();
                    let found = row.map_or(0, |row| row.revision.0);
                    assert!(found >= before, "{key}: read {found} after {before}");
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn a_full_disk_refuses_whole_batches_and_stays_readable() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: Some(256 * 1024),
        ..Options::default()
    };
    let store = open_with(&directory, options).unwrap();
    let mut kept = 0;
    let error = loop {
        match store
            .apply(batch([put(format!("k{kept:03}"), vec![1; 8 * 1024])]))
            .await
        {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100);
    };
    assert!(matches!(error, StorageError::Full(_)), "{error}");
    assert!(kept > 10);
    // The first write of this batch would fit.
    let large = [put("small", "1"), put("large", vec![1; 64 * 1024])];
    assert!(matches!(
        store.apply(batch(large)).await,
        Err(StorageError::Full(_))
    ));
    assert!(store.get("small").await.unwrap().is_none());
    // It fails alone: what fits and shares its transaction is written.
    let large = batch([put("large", vec![1; 64 * 1024])]);
    let (refused, written) = tokio::join!(
        store.apply(large),
        store.apply(batch([RowWrite::Delete("k000".to_owned())])),
    );
    assert!(matches!(refused, Err(StorageError::Full(_))));
    written.unwrap();
    store
        .apply(batch([put("fits", vec![1; 4 * 1024])]))
        .await
        .unwrap();
    store.close().await.unwrap();
    assert_eq!(everything(&open(&directory)).await.len(), kept);
}

#[tokio::test]
async fn a_cut_or_foreign_file_is_refused_with_its_name_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for number in 0..200 {
        store
            .apply(batch([put(format!("k{number}"), vec![7; 500])]))
            .await
            .unwrap();
    }
    store.close().await.unwrap();
    let whole = fs::read(file(&directory)).unwrap();
    let half = &whole[..whole.len() / 2];
    let cases: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("a few bytes", &whole[..10]),
        ("less than a page", &whole[..1000]),
        ("half", half),
        ("the last page", &whole[..whole.len() - 4096]),
        ("one byte", &whole[..whole.len() - 1]),
        (
            "garbage",
            b"this is not a database, but it is long enough to look at",
        ),
    ];
    for (name, bytes) in cases {
        fs::write(file(&directory), bytes).unwrap();
        let error = damage(open_with(&directory, Options::default()));
        assert!(error.contains("daypass.db is damaged"), "{name}: {error}");
        assert!(
            error.contains("restore the directory from a backup"),
            "{name}: {error}"
        );
    }
    fs::remove_file(file(&directory)).unwrap();
    let other = Connection::open(file(&directory)).unwrap();
    other
        .execute_batch("CREATE TABLE rows (key, value, revision)")
        .unwrap();
    drop(other);
    let error = damage(open_with(&directory, Options::default()));
    assert!(error.contains("the database of another program"), "{error}");
    fs::write(file(&directory), &whole).unwrap();
    let newer = Connection::open(file(&directory)).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let error = damage(open_with(&directory, Options::default()));
    assert!(
        error.contains("it has format 99 and this program reads 1"),
        "{error}"
    );
    fs::write(file(&directory), &whole).unwrap();
    assert_eq!(everything(&open(&directory)).await.len(), 200);
}

#[tokio::test]
async fn a_backup_is_a_whole_store_and_overwrites_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store
        .apply(batch([put("a", "1"), put("b", "2")]))
        .await
        .unwrap();
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("store")).unwrap();
    store.backup(&file(&copy)).await.unwrap();
    let before = everything(&store).await;
    store.apply(batch([put("c", "3")])).await.unwrap();
    assert_eq!(
        fs::metadata(file(&copy)).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(store.backup(&file(&copy)).await.is_err());
    assert_eq!(everything(&open(&copy)).await, before);
}

/// Bits of the file are flipped one at a time: what opens gives right values, says that it is damaged, or
/// (where a key was hit) misses a row. It never gives a wrong value.
#[tokio::test]
async fn a_flipped_bit_in_the_file_never_gives_a_wrong_value() {
    const ROWS: usize = 60;
    let directory = tempfile::tempdir().unwrap();
    let root = || LockedKey::copy_of(&[3; 32]).unwrap();
    let cluster = Uuid::from_u128(1);
    let barrier = |store| Barrier::new(Arc::new(store), Arc::new(StillClock), Arc::new(Counting));
    let value = |number: usize| format!("value {number} ").repeat(20);

    let store = open(&directory);
    store
        .apply(batch([put("unused", vec![0; 100])]))
        .await
        .unwrap();
    let first = barrier(store);
    first
        .initialize(root(), cluster, Bytes::from_static(b"seal"))
        .await
        .unwrap();
    first.unseal(root(), cluster).await.unwrap();
    for number in 0..ROWS {
        let write = Batch::new().put(format!("m/{number:02}"), Secret::new(value(number)));
        first.apply(write).await.unwrap();
    }
    first.storage().close().await.unwrap();
    let whole = fs::read(file(&directory)).unwrap();

    let (mut right, mut missed, mut noticed) = (0, 0, 0);
    for step in 0..200 {
        let mut bytes = whole.clone();
        // All of the headers at the start, then all over the file.
        let position = if step < 100 {
            step
        } else {
            step * 997 % whole.len()
        };
        bytes[position] ^= 1 << (step % 8);
        fs::write(file(&directory), &bytes).unwrap();
        let store = match open_with(&directory, Options::default()) {
            Ok(store) => store,
            Err(StorageError::Damaged { .. }) => {
                noticed += 1;
                continue;
            }
            Err(error) => panic!("byte {position}: {error}"),
        };
        let second = barrier(store);
        let mut answers = vec![second.unseal(root(), cluster).await.map(|()| None)];
        for number in 0..ROWS {
            let entry = second.get(&format!("m/{number:02}")).await;
            answers.push(entry.map(|entry| Some((number, entry))));
        }
        for answer in answers {
            match answer {
                Ok(None) | Err(StorageError::Sealed) => {}
                Ok(Some((number, Some(entry)))) => {
                    assert!(
                        entry.value.ct_eq(value(number).as_bytes()),
                        "byte {position}"
                    );
                    right += 1;
                }
                Ok(Some((_, None))) => missed += 1,
                Err(StorageError::Damaged { .. }) => noticed += 1,
                Err(error) => panic!("byte {position}: {error}"),
            }
        }
        let _ = second.storage().close().await;
        // A log written while the file was damaged must not be replayed into the next one.
        for ending in ["db-wal", "db-shm"] {
            let _ = fs::remove_file(file(&directory).with_extension(ending));
        }
    }
    assert!(
        right > 0 && noticed > 50,
        "{right} right, {missed} missed, {noticed} noticed"
    );
}

const CHILD_DIRECTORY: &str = "DAYPASS_TEST_CRASH_DIRECTORY";
const CHILD_TASKS: usize = 8;

/// Not a test by itself: [`acknowledged_batches_survive_kill`] runs it in a process of its own, to kill it.
#[tokio::test]
async fn crash_child() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let store = Arc::new(Embedded::open(Path::new(&directory), Options::default()).unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..CHILD_TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut number = match store.get(&format!("last/{task}")).await.unwrap() {
                Some(row) => std::str::from_utf8(&row.value).unwrap().parse().unwrap(),
                None => 0_u64,
            };
            loop {
                number += 1;
                let writes = [
                    put(
                        format!("one/{task}/{number:08}"),
                        format!("{number}").repeat(100),
                    ),
                    put(format!("last/{task}"), number.to_string()),
                    put(format!("two/{task}/{number:08}"), ""),
                    RowWrite::Delete(format!("two/{task}/{:08}", number - 1)),
                ];
                store.apply(batch(writes)).await.unwrap();
                println!("acknowledged {task} {number}");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn acknowledged_batches_survive_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = HashMap::new();
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "storage::embedded::tests::crash_child",
                "--nocapture",
            ])
            .env(CHILD_DIRECTORY, directory.path().join("store"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut record = |line: &str| {
            let mut words = line.split(' ');
            if words.next() != Some("acknowledged") {
                return false;
            }
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            // The last line may be cut off in the middle of a number: then it names an older one.
            if let (Some(task), Some(number)) = (number(), number()) {
                let newest = acknowledged.entry(task).or_insert(0);
                *newest = number.max(*newest);
            }
            true
        };
        let mut seen = 0;
        while seen < 20 + 13 * round {
            seen += usize::from(record(&lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts as well.
        for line in lines.map_while(Result::ok) {
            record(&line);
        }

        let store = open(&directory);
        for task in 0..CHILD_TASKS as u64 {
            let last = store.get(&format!("last/{task}")).await.unwrap();
            let last = last.map_or(0, |row| {
                String::from_utf8(row.value.to_vec())
                    .unwrap()
                    .parse()
                    .unwrap()
            });
            let promised = acknowledged.get(&task).copied().unwrap_or(0);
            assert!(
                last >= promised,
                "round {round}: {promised} was acknowledged, {last} is there"
            );
            let rows = store
                .rows(Range::prefix(&format!("one/{task}/"), None, usize::MAX))
                .await
                .unwrap();
            let want: Vec<_> = (1..=last)
                .map(|number| number.to_string().repeat(100))
                .collect();
            let found: Vec<_> = rows.iter().map(|(_, row)| &row.value[..]).collect();
            assert!(
                found == want.iter().map(String::as_bytes).collect::<Vec<_>>(),
                "round {round}"
            );
            let two = store
                .keys(Range::prefix(&format!("two/{task}/"), None, usize::MAX))
                .await
                .unwrap();
            let want: Vec<_> = (last.max(1)..=last)
                .map(|number| format!("two/{task}/{number:08}"))
                .collect();
            assert_eq!(two, want, "round {round}");
        }
        store.close().await.unwrap();
    }
    assert_eq!(acknowledged.len(), CHILD_TASKS);
}
