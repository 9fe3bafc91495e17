//! A log whose files were damaged opens again, serves what is left, and says what is gone.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use cometserver::broker::disk::{DiskLog, DiskOptions, LockError, OpenError};
use cometserver_core::broker::Broker;
use cometserver_core::pattern::Pattern;
use proptest::prelude::*;
use rig::{Log, bounded, name, segments, unbounded};
use sim::SimDisk;

fn small() -> DiskOptions {
    DiskOptions {
        segment: 500,
        ..DiskOptions::default()
    }
}

fn flip(path: &Path, bit: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// Publishes `many` in turn on two channels, in several segments. Position p is "p".
fn filled(many: u64) -> Log {
    let mut log = Log::new(small(), unbounded());
    for position in 1..=many {
        log.publish(&[["a", "b"][position as usize % 2]], &position.to_string());
        log.settle();
    }
    log
}

/// Whatever was published up to `many` is there, or said to be gone.
fn check(log: &Log, many: u64) -> Vec<u64> {
    let mut lost = Vec::new();
    for (channel, rest) in [("a", 0), ("b", 1)] {
        let (found, gap) = log.history(channel, 0);
        for (position, text) in &found {
            assert_eq!(*text, position.to_string());
        }
        for position in (1..=many).filter(|position| position % 2 == rest) {
            if !found.iter().any(|(at, _)| *at == position) {
                assert!(
                    gap >= Some(position),
                    "{position} on {channel} is lost in silence: {gap:?}, {found:?}"
                );
                lost.push(position);
            }
        }
    }
    lost.sort_unstable();
    lost
}

#[test]
fn a_record_that_was_not_written_completely_is_cut_off_wherever_it_ends() {
    let mut log = filled(5);
    let mark = log.log.mark();
    // The last one is written, and the writer is killed before it is safe.
    let reach = log.folder.join("reach");
    let before = fs::read(&reach).unwrap();
    log.publish(&["a"], "6");
    log.settle();
    log.log.shut_down();
    let newest = segments(&log.folder).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    // Everything from the last publication on: only the marks of these starts follow it.
    let last = (0..whole.len() as u64)
        .rev()
        .find(|length| {
            cut(&newest, *length);
            fs::write(&reach, &before).unwrap();
            log.reopen();
            let position = log.log.position();
            log.log.shut_down();
            fs::write(&newest, &whole).unwrap();
            position < 6
        })
        .unwrap();
    for length in last.saturating_sub(40)..=last {
        cut(&newest, length);
        fs::write(&reach, &before).unwrap();
        log.reopen();
        assert!(log.log.position() <= 5);
        assert_eq!(
            log.log.stats().damaged,
            0,
            "what was never acknowledged is no damage"
        );
        assert!(!log.log.knows(mark, 6), "a cursor that was there is told");
        let position = log.log.position();
        assert!(check(&log, position).is_empty());
        log.publish(&["c"], "again");
        log.settle();
        assert_eq!(log.log.position(), position + 1);
        assert_eq!(log.texts("c"), ["again"]);
        log.log.shut_down();
        for path in segments(&log.folder) {
            if path > newest {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(&newest, &whole).unwrap();
    }
}

#[test]
fn a_missing_segment_is_a_gap_for_those_who_were_in_it() {
    let mut log = filled(30);
    let files = segments(&log.folder);
    assert!(files.len() > 3, "{files:?}");
    let middle = files[files.len() / 2].clone();
    log.reopen_after(|_| fs::remove_file(&middle).unwrap());
    let lost = check(&log, 30);
    assert!(!lost.is_empty());
    assert!(log.log.stats().damaged > 0);
    let (_, gap) = log.history("a", *lost.last().unwrap());
    assert_eq!(gap, None, "who has read beyond it is not concerned");
    // A channel that nobody knows any more may have been in it.
    let (_, gap) = log.history("never", 0);
    assert!(gap >= lost.last().copied());
    // And it stays so.
    log.reopen();
    assert_eq!(check(&log, 30), lost);
}

#[test]
fn the_oldest_segment_missing_is_told_as_well() {
    let mut log = filled(30);
    let oldest = segments(&log.folder).remove(0);
    log.reopen_after(|_| fs::remove_file(&oldest).unwrap());
    let lost = check(&log, 30);
    assert_eq!(lost.first(), Some(&1));
    assert!(log.log.stats().damaged > 0);
}

#[test]
fn a_segment_cut_off_in_the_middle_of_the_log_is_told() {
    let mut log = filled(30);
    let files = segments(&log.folder);
    let middle = files[files.len() / 2].clone();
    let length = fs::metadata(&middle).unwrap().len();
    log.reopen_after(|_| cut(&middle, length / 2));
    assert!(!check(&log, 30).is_empty());
    assert!(log.log.stats().damaged > 0);
}

#[test]
fn offsets_that_may_have_been_lost_are_not_given_again() {
    let mut log = Log::new(small(), unbounded());
    log.publish(&["quiet"], "1");
    log.settle();
    let epoch = log.log.channel(&name("quiet")).unwrap().epoch;
    for position in 2..20 {
        log.publish(&["quiet"], &position.to_string());
        log.settle();
    }
    for position in 20..40 {
        log.publish(&["busy"], &position.to_string());
        log.settle();
    }
    let files = segments(&log.folder);
    let (second, third) = (files[1].clone(), files[2].clone());
    log.reopen_after(|_| {
        fs::remove_file(second).unwrap();
        fs::remove_file(third).unwrap();
    });
    log.publish(&["quiet"], "new");
    log.settle();
    let channel = log.log.channel(&name("quiet")).unwrap();
    assert!(channel.offset > 19 || channel.epoch != epoch, "{channel:?}");
}

#[test]
fn a_publication_damaged_while_the_log_is_open_is_a_gap_and_never_garbage() {
    let log = filled(4);
    let oldest = segments(&log.folder).remove(0);
    let bytes = fs::read(&oldest).unwrap();
    // The payload of the first is one byte: its record ends with it.
    let at = bytes.windows(3).position(|window| window == b"\x01b1").unwrap() + 2;
    flip(&oldest, at as u64 * 8);
    assert_eq!(check(&log, 4), [1]);
    assert_eq!(log.log.stats().damaged, 1);
    let (_, gap) = log.history("b", 1);
    assert_eq!(gap, None);
}

#[test]
fn what_the_disk_cannot_read_is_refused_and_there_again_when_it_can() {
    let disk = SimDisk::default();
    let folder = Path::new("/log");
    let mut log = Log::on(
        Arc::new(disk.clone()),
        folder,
        DiskOptions::default(),
        unbounded(),
    );
    for position in 1..=6 {
        log.publish(&["a"], &position.to_string().repeat(3000));
        log.settle();
    }
    log.log.shut_down();
    let newest = folder.join("0000000001.log");
    for (path, from) in [
        (newest.clone(), 0),
        (newest.clone(), 4096),
        (newest, 12_288),
        (folder.join("store"), 0),
    ] {
        disk.set_unreadable(&path, Some(from));
        let refused = DiskLog::open_on(
            Arc::new(disk.clone()),
            folder,
            DiskOptions::default(),
            &unbounded(),
        );
        let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
        let says_so = refused.contains(path.to_str().unwrap()) && refused.contains("(os error 5)");
        assert!(says_so, "{from}: {refused}");
        disk.set_unreadable(&path, None);
        log.reopen();
        assert_eq!((log.texts("a").len(), log.log.stats().damaged), (6, 0), "{from}");
        log.log.shut_down();
    }
}

#[test]
fn damage_that_clearing_away_finds_is_told_after_the_next_start_too() {
    let options = DiskOptions {
        garbage: 4_000,
        ..small()
    };
    let mut log = Log::new(options, bounded(5, 1 << 20, 1 << 50));
    log.publish(&["quiet"], "1");
    log.settle();
    let epoch = log.log.channel(&name("quiet")).unwrap().epoch;
    let oldest = segments(&log.folder).remove(0);
    let bytes = fs::read(&oldest).unwrap();
    let at = bytes.windows(5).position(|window| window == b"quiet").unwrap();
    flip(&oldest, at as u64 * 8);
    // A channel of which nothing but the damaged part would have told is one of them.
    while oldest.exists() {
        log.publish(&["busy"], &"x".repeat(100));
        log.settle();
    }
    for _ in 0..2 {
        let (found, gap) = log.history("quiet", 0);
        assert!(found.is_empty() && gap >= Some(1), "{gap:?}, {found:?}");
        let quiet = log.log.channel(&name("quiet")).unwrap();
        assert_eq!((quiet.epoch, quiet.offset), (epoch, 1));
        let (_, gap) = log.history("another", 0);
        assert!(gap >= Some(1), "whatever else was there: {gap:?}");
        log.reopen();
    }
}

/// A log with two publications in one channel, of which the first has been copied to a younger segment than the second is in; and
/// that segment is lost. None: the second was copied as well, as clearing away goes on beside the test.
fn without_the_second() -> Option<(Log, u64)> {
    let mut namespaces = unbounded();
    let one = bounded(1, 1 << 20, 1 << 50).fallback;
    namespaces.listed.push((Pattern::new("busy", 64).unwrap(), one));
    let options = DiskOptions {
        garbage: 4_000,
        ..small()
    };
    let mut log = Log::new(options, namespaces);
    let publish = |log: &mut Log, channel: &str, text: &str| {
        log.publish(&[channel], &text.repeat(100));
        log.settle();
    };
    publish(&mut log, "quiet", "x");
    let oldest = segments(&log.folder).remove(0);
    while segments(&log.folder).len() < 6 {
        publish(&mut log, "busy", "x");
    }
    publish(&mut log, "quiet", "y");
    // Some segments behind the oldest: it is not cleared away along with it.
    let (newer, lost) = (segments(&log.folder).pop().unwrap(), log.log.position());
    while oldest.exists() {
        publish(&mut log, "busy", "x");
    }
    let mut is_elsewhere = false;
    log.reopen_after(|folder| {
        let has_it = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(100).any(|window| window == [b'y'; 100])
        };
        is_elsewhere = segments(folder).iter().any(|path| *path != newer && has_it(path));
        if !is_elsewhere {
            fs::remove_file(&newer).unwrap();
        }
    });
    (!is_elsewhere).then_some((log, lost))
}

#[test]
fn a_copy_does_not_prove_that_nothing_newer_was_lost() {
    let (mut log, lost) = (0..100).find_map(|_| without_the_second()).unwrap();
    let (found, gap) = log.history("quiet", 0);
    assert_eq!(found.len(), 1);
    assert!(gap >= Some(lost), "{gap:?}, {lost} is gone");
    log.publish(&["quiet"], "x");
    log.settle();
    let quiet = log.log.channel(&name("quiet")).unwrap();
    assert!(quiet.offset > 2, "no offset is given twice: {quiet:?}");
}

#[test]
fn another_version_is_refused() {
    for file in ["store", "0000000001.log"] {
        let log = filled(2);
        log.log.shut_down();
        let path = log.folder.join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 9;
        let check = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&check.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let refused = DiskLog::open(&log.folder, DiskOptions::default(), &unbounded())
            .err()
            .unwrap();
        assert!(
            matches!(refused, OpenError::Version { found: 9, .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("version 9"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
    }
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (log, other) = (filled(20), filled(20));
    log.log.shut_down();
    let files = segments(&log.folder);
    fs::copy(&segments(&other.folder)[1], &files[1]).unwrap();
    let refused = DiskLog::open(&log.folder, DiskOptions::default(), &unbounded())
        .err()
        .unwrap();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
}

#[test]
fn a_second_server_on_the_folder_is_refused_and_told_who_has_it() {
    let mut log = filled(1);
    let refused = DiskLog::open(&log.folder, DiskOptions::default(), &unbounded())
        .err()
        .unwrap();
    assert!(
        matches!(refused, OpenError::Lock(LockError::Held { .. })),
        "{refused}"
    );
    let pid = format!("pid {} on ", std::process::id());
    assert!(refused.to_string().contains(&pid), "{refused}");
    log.reopen();
    assert_eq!(log.texts("b"), ["1"]);
}

#[test]
fn a_disk_that_cannot_be_written_is_refused() {
    let disk = SimDisk::default();
    disk.set_full(true);
    let refused = DiskLog::open_on(
        Arc::new(disk),
        Path::new("/log"),
        DiskOptions::default(),
        &unbounded(),
    );
    assert!(matches!(refused.err(), Some(OpenError::File { .. })));
    // Nobody may make files there, whoever we are.
    let refused = DiskLog::open(Path::new("/proc/self/log"), DiskOptions::default(), &unbounded());
    let refused = refused.err().unwrap();
    assert!(
        matches!(refused, OpenError::File { .. } | OpenError::Lock(_)),
        "{refused}"
    );
}

#[test]
fn the_files_belong_to_the_server_alone() {
    let log = filled(1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&log.folder), 0o700);
    for entry in fs::read_dir(&log.folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_anywhere_is_survived_and_told(at in any::<u64>(), also in prop::option::of(any::<u64>())) {
        let many = 24;
        let mut log = filled(many);
        log.log.shut_down();
        let mut files = segments(&log.folder);
        files.push(log.folder.join("store"));
        let total: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len() * 8).sum();
        for at in also.into_iter().chain([at]) {
            let mut bit = at % total;
            for file in &files {
                let bits = fs::metadata(file).unwrap().len() * 8;
                if bit < bits {
                    flip(file, bit);
                    break;
                }
                bit -= bits;
            }
        }
        let mark = log.log.mark();
        log.reopen();
        let end = log.log.position();
        check(&log, end);
        for position in end + 1..=many {
            prop_assert!(!log.log.knows(mark, position), "{position} is cut off, and nobody is told");
        }
        log.publish(&["a", "b"], &(end + 1).to_string());
        prop_assert!(log.settle()[0].1.is_ok());
        log.reopen();
        let (found, _) = log.history("a", end);
        prop_assert_eq!(found, vec![(end + 1, (end + 1).to_string())]);
    }
}
