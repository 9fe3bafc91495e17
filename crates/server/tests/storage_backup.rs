//! Copies: made under load, looked at, read back; and a log of each format version that was ever shipped opens.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;

use std::fs;
use std::path::{Path, PathBuf};

use cometserver::broker::disk::backup::{BackupError, backup, replace, restore};
use cometserver::broker::disk::format::Kind;
use cometserver::broker::disk::inspect::inspect;
use cometserver::broker::disk::{DiskOptions, OpenError};
use cometserver_core::broker::{Broker, Delete};
use rig::{Log, NOW, name, segments, unbounded};

fn small() -> DiskOptions {
    DiskOptions {
        segment: 2_000,
        ..DiskOptions::default()
    }
}

fn open(folder: &Path) -> Log {
    let disk = std::sync::Arc::new(cometserver::broker::disk::io::RealDisk);
    Log::on(disk, folder, small(), unbounded())
}

#[test]
fn a_copy_made_under_load_is_the_log_as_it_was_at_one_moment() {
    let mut log = Log::new(small(), unbounded());
    for position in 1..=100 {
        log.publish(&["a"], &position.to_string());
        log.settle();
    }
    let folder = tempfile::tempdir().unwrap();
    let (copy, back) = (folder.path().join("copy"), folder.path().join("back"));
    let copied = std::thread::scope(|scope| {
        let (disk, copy) = (log.log.clone(), copy.clone());
        let copying = scope.spawn(move || disk.backup(&copy).unwrap());
        for position in 101..=600 {
            log.publish(&["a"], &position.to_string());
        }
        copying.join().unwrap()
    });
    log.settle();
    assert!(copied.position >= 100 && copied.segments > 2);
    assert!(matches!(log.log.backup(&copy), Err(BackupError::NotEmpty { .. })));
    let report = restore(&copy, &back, false).unwrap();
    assert_eq!((report.position, report.damaged), (copied.position, 0));
    assert!(matches!(
        restore(&copy, &back, false),
        Err(BackupError::NotEmpty { .. })
    ));

    let restored = open(&back);
    let texts = restored.texts("a");
    assert_eq!(texts.len() as u64, copied.position);
    assert!(
        texts
            .iter()
            .enumerate()
            .all(|(index, text)| *text == (index + 1).to_string())
    );
    let mark = log.log.mark();
    assert!(restored.log.knows(mark, copied.position));
    assert!(
        !restored.log.knows(mark, copied.position + 1),
        "a cursor from after the copy is told of a gap"
    );
    log.reopen();
    assert!(
        !restored.log.knows(log.log.mark(), 1),
        "so is one from after the next start"
    );
}

#[test]
fn a_damaged_copy_is_refused_unless_one_insists() {
    let mut log = Log::new(small(), unbounded());
    for position in 1..=100 {
        log.publish(&["a"], &position.to_string());
        log.settle();
    }
    assert!(
        matches!(
            backup(&log.folder, Path::new("/nowhere")),
            Err(BackupError::Lock(_))
        ),
        "it is open"
    );
    log.log.shut_down();
    let folder = tempfile::tempdir().unwrap();
    let (copy, back) = (folder.path().join("copy"), folder.path().join("back"));
    backup(&log.folder, &copy).unwrap();
    let second = segments(&copy)[1].clone();
    let mut bytes = fs::read(&second).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&second, bytes).unwrap();
    assert!(matches!(
        restore(&copy, &back, false),
        Err(BackupError::Damaged { damaged: 1, .. })
    ));
    assert!(!back.exists());
    restore(&copy, &back, true).unwrap();
    let (found, gap) = open(&back).history("a", 0);
    assert!(found.len() >= 98 && gap.is_some());
}

#[test]
fn an_interrupted_copy_never_passes_for_a_whole_one() {
    let mut log = Log::new(small(), unbounded());
    for position in 1..=100 {
        log.publish(&["a"], &position.to_string());
        log.settle();
    }
    let folder = tempfile::tempdir().unwrap();
    let (copy, back) = (folder.path().join("copy"), folder.path().join("back"));
    // A segment that is not there stops it half way.
    let missing = segments(&log.folder)[1].clone();
    let hidden = missing.with_extension("hidden");
    fs::rename(&missing, &hidden).unwrap();
    assert!(matches!(log.log.backup(&copy), Err(BackupError::File { .. })));
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left of it"
    );
    fs::rename(&hidden, &missing).unwrap();
    // What a machine that stops leaves is removed by the next one.
    let partial = folder.path().join("copy.partial");
    fs::create_dir(&partial).unwrap();
    fs::copy(&missing, partial.join("0000000001.log")).unwrap();
    log.log.backup(&copy).unwrap();
    assert!(!partial.exists());
    let is_refused = |from: &Path| {
        let refused =
            |error: BackupError| matches!(error, BackupError::Unreadable(OpenError::Incomplete { .. }));
        assert!(inspect(from, &unbounded(), NOW).is_err());
        restore(from, &back, true).err().is_some_and(refused) && !back.exists()
    };
    fs::rename(&copy, &partial).unwrap();
    assert!(is_refused(&partial));
    fs::rename(&partial, &copy).unwrap();
    fs::remove_file(copy.join("store")).unwrap();
    assert!(is_refused(&copy));
}

#[test]
fn a_log_is_as_it_was_until_what_replaces_it_is_complete() {
    let mut log = Log::new(small(), unbounded());
    for position in 1..=100 {
        log.publish(&["a"], &position.to_string());
        log.settle();
    }
    log.log.shut_down();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    backup(&log.folder, &at("copy")).unwrap();
    backup(&log.folder, &at("log")).unwrap();
    fs::write(at("log").join("own"), "").unwrap();
    // A folder in the place of a file: the copy is looked at, but cannot be read back.
    fs::create_dir(at("copy").join("0000000000.log")).unwrap();
    let left = || -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert!(replace(&at("copy"), &at("log"), &at("log.old-1"), true).is_err());
    assert_eq!(left(), ["copy", "log"]);
    assert!(at("log").join("own").exists());
    fs::remove_dir(at("copy").join("0000000000.log")).unwrap();
    // What a machine that stopped half way has left is no hindrance.
    fs::create_dir(at("log.restoring")).unwrap();
    fs::copy(at("copy").join("store"), at("log.restoring").join("store")).unwrap();
    replace(&at("copy"), &at("log"), &at("log.old-1"), false).unwrap();
    assert_eq!(left(), ["copy", "log", "log.old-1"]);
    assert!(at("log.old-1").join("own").exists() && !at("log").join("own").exists());
    assert_eq!(open(&at("log")).texts("a").len(), 100);
}

#[test]
fn who_looks_sees_everything_and_changes_nothing() {
    let mut log = Log::new(small(), unbounded());
    for position in 1..=50 {
        log.publish(&[["a", "b"][position % 2]], &position.to_string());
        log.settle();
    }
    log.delete("b", Delete::History);
    log.settle();
    let before: Vec<Vec<u8>> = segments(&log.folder)
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let report = inspect(&log.folder, &unbounded(), NOW).unwrap();
    assert_eq!(
        (
            report.position,
            report.publications,
            report.channels,
            report.damaged
        ),
        (50, 25, 2, 0)
    );
    assert!(report.live_bytes > 0 && report.live_bytes < report.bytes);
    let count = |kind| -> u64 {
        let records = report.segments.iter().flat_map(|segment| &segment.records);
        records
            .filter(|(own, _)| *own == kind)
            .map(|(_, count)| count)
            .sum()
    };
    assert_eq!(
        (count(Kind::Publication), count(Kind::Deleted), count(Kind::Mark)),
        (50, 1, 1)
    );
    assert_eq!(report.segments[0].positions.unwrap().0, 1);
    let newest = segments(&log.folder).pop().unwrap();
    log.log.shut_down();
    let mut torn = fs::read(&newest).unwrap();
    torn.extend_from_slice(&[7; 9]);
    fs::write(&newest, &torn).unwrap();
    let report = inspect(&log.folder, &unbounded(), NOW).unwrap();
    assert_eq!(report.segments.last().unwrap().torn, 9);
    assert!(fs::read(&newest).unwrap() == torn, "not even what a crash left");
    let first = segments(&log.folder).remove(0);
    assert!(fs::read(first).unwrap() == before[0]);
}

/// What the fixture of version 1 was made of; run with `--ignored` to make one of a new version, never to change an old one.
fn fill(log: &mut Log) {
    for position in 1..=12 {
        log.publish(&[["a", "b"][position % 2]], &format!("publication {position}"));
        log.settle();
    }
    log.retain("value", "retained");
    log.submit(
        |message| {
            message.channels = vec![name("a"), name("value")];
            message.idempotency_key = Some("key".into());
            message.attributes_mut().event = Some("event".into());
        },
        "in both",
    );
    log.delete("b", Delete::History);
    log.settle();
    log.publish(&["b"], "after");
    log.settle();
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-v1")
}

#[test]
#[ignore = "writes the fixture"]
fn make_the_fixture() {
    let mut log = Log::new(
        DiskOptions {
            segment: 700,
            ..DiskOptions::default()
        },
        unbounded(),
    );
    fill(&mut log);
    log.log.shut_down();
    backup(&log.folder, &fixture()).unwrap();
}

#[test]
fn a_log_of_format_version_1_opens() {
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("log");
    let report = restore(&fixture(), &back, false).unwrap();
    assert!(report.segments.len() > 1);
    let mut log = open(&back);
    assert_eq!(log.log.position(), 15);
    let mut expected: Vec<String> = (1..=6).map(|half| format!("publication {}", half * 2)).collect();
    expected.push("in both".into());
    assert_eq!(log.texts("a"), expected);
    assert_eq!(log.history("b", 0), (vec![(15, "after".into())], Some(11)));
    assert_eq!(log.value("value").as_deref(), Some("retained"));
    assert_eq!(log.log.channel(&name("b")).unwrap().offset, 7);
    let remembered = log.log.remembered();
    assert_eq!((remembered.len(), &*remembered[0].key), (1, "key"));
    log.publish(&["a"], "and on");
    log.settle();
    assert_eq!(log.texts("a").last().unwrap(), "and on");
}
