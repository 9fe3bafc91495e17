//! What is damaged at the end of a log is told, and not taken for what a crash left half written: after a stop in good order and
//! after `kill -9`. So is what was answered and never written.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use cometserver::broker::disk::DiskOptions;
use cometserver::broker::disk::format::reach::{REACH_FILE, SLOT, SLOTS};
use cometserver::broker::disk::inspect::inspect;
use cometserver_core::broker::{Broker, BrokerError, Delete, Fetch};
use cometserver_core::namespace::{Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use rig::{Log, NOW, Unsynced, bounded, name, segments, unbounded};
use sim::SimDisk;
use tempfile::TempDir;

/// So many publications there are before the end is damaged; the one at position p says p.
const MANY: u64 = 40;

/// So many damages are tried.
const DAMAGES: u64 = 1_000;

const CHANNELS: [&str; 2] = ["a", "b"];

/// The files of a folder with what is in them.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = entries.map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    files.filter(|(name, _)| name != "lock").collect()
}

fn folder_of(files: &Files) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn open(folder: &Path, namespaces: Namespaces) -> Log {
    Log::on(Arc::new(Unsynced), folder, DiskOptions::default(), namespaces)
}

fn channel_of(position: u64) -> &'static str {
    CHANNELS[position as usize % 2]
}

/// A log as it is after a stop in good order, and after `kill -9`: what was written is there, and nobody closed it.
fn stopped_and_killed(segment: u64) -> [Files; 2] {
    let options = DiskOptions {
        segment,
        ..DiskOptions::default()
    };
    let mut log = Log::new(options, unbounded());
    for position in 1..=MANY {
        log.publish(
            &[channel_of(position)],
            &format!("{position} {}", "x".repeat(position as usize * 7 % 90)),
        );
        log.settle();
    }
    let killed = files(&log.folder);
    log.log.shut_down();
    [files(&log.folder), killed]
}

/// Which history a channel has, and how far it has come.
fn standing(log: &Log, channel: &str) -> (u64, u64) {
    let channel = log.log.channel(&name(channel)).unwrap();
    (channel.epoch, channel.offset)
}

/// Numbers that are the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    /// Damages the last third of the newest segment. What was done, to be read by who has to mend it.
    fn damage(&mut self, files: &mut Files) -> String {
        let newest = files.keys().rfind(|name| name.ends_with(".log")).unwrap().clone();
        let bytes = files.get_mut(&newest).unwrap();
        let length = bytes.len();
        let at = length - 1 - self.below((length / 3).max(1));
        let some = 1 + self.below(40);
        match self.below(6) {
            0 => {
                let bit = self.below(8);
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} of {length} in {newest}")
            }
            1 => {
                bytes.truncate(at);
                format!("{newest} cut from {length} to {at}")
            }
            2 => {
                let inserted: Vec<u8> = (0..some).map(|_| self.below(256) as u8).collect();
                bytes.splice(at..at, inserted);
                format!("{some} bytes inserted at {at} of {length} in {newest}")
            }
            3 => {
                let end = (at + some).min(length);
                bytes.drain(at..end);
                format!("bytes {at} to {end} of {length} taken out of {newest}")
            }
            4 => {
                bytes[at..].fill(0);
                format!("zeros from {at} of {length} in {newest}")
            }
            _ => {
                files.remove(&newest);
                format!("{newest} removed")
            }
        }
    }
}

/// Which publications are not there. Each of them is told to whoever has not seen it.
fn told_losses(log: &Log, what: &str) -> Vec<u64> {
    let mut lost = Vec::new();
    for channel in CHANNELS {
        let (found, gap) = log.history(channel, 0);
        for (position, text) in &found {
            let said = text.split(' ').next().unwrap();
            assert_eq!(said, position.to_string(), "{what}");
        }
        for position in (1..=MANY).filter(|position| channel_of(*position) == channel) {
            if !found.iter().any(|(at, _)| *at == position) {
                assert!(
                    gap >= Some(position),
                    "{what}: {position} is lost in silence: {gap:?}"
                );
                lost.push(position);
            }
        }
        let (_, gap) = log.history(channel, log.log.position());
        assert_eq!(gap, None, "{what}: who has seen everything has lost nothing");
    }
    lost.sort_unstable();
    lost
}

#[test]
fn nothing_at_the_end_of_a_log_is_cut_off_in_silence() {
    let folders = [stopped_and_killed(1 << 20), stopped_and_killed(900)];
    let epochs = folders.each_ref().map(|[stopped, _]| {
        let folder = folder_of(stopped);
        let log = open(folder.path(), unbounded());
        CHANNELS.map(|channel| standing(&log, channel).0)
    });
    let (mut losses, mut harmless) = (0, 0);
    for number in 0..DAMAGES {
        let mut chance = Chance(number);
        let of = chance.below(2);
        let mut files = folders[of][chance.below(2)].clone();
        let mut what = format!("{number}: {}", chance.damage(&mut files));
        if chance.below(4) == 0 && files.keys().any(|name| name.ends_with(".log")) {
            what = format!("{what}, {}", chance.damage(&mut files));
        }
        let folder = folder_of(&files);
        let report = inspect(folder.path(), &unbounded(), NOW).unwrap();
        let mut log = open(folder.path(), unbounded());
        let lost = told_losses(&log, &what);
        if lost.is_empty() {
            harmless += 1;
        } else {
            losses += 1;
            assert!(
                report.damaged > 0,
                "{what}: {lost:?} are lost, and the check says whole"
            );
            assert!(log.log.stats().damaged > 0, "{what}");
        }
        // What was given is not given again, and after another start it is all the same.
        log.publish(&CHANNELS, "at the end");
        log.settle();
        assert!(log.log.position() > MANY, "{what}");
        for (channel, epoch_before) in CHANNELS.into_iter().zip(epochs[of]) {
            let (epoch, offset) = standing(&log, channel);
            assert!(
                epoch != epoch_before || offset > MANY / 2,
                "{what}: offset {offset} is given again"
            );
        }
        if number % 8 == 0 {
            log.reopen();
            let (found, _) = log.history("a", MANY);
            assert_eq!(found.len(), 1, "{what}");
            log.reopen_after(|_| {});
            for position in &lost {
                let (_, gap) = log.history(channel_of(*position), position - 1);
                assert!(gap >= Some(*position), "{what}: it was told once, and is no more");
            }
        }
    }
    assert!(losses > DAMAGES / 2 && harmless > 0, "{losses} and {harmless}");
}

#[test]
fn what_was_on_its_way_when_the_server_was_killed_is_no_damage() {
    let [_, killed] = stopped_and_killed(1 << 20);
    let newest = killed
        .keys()
        .rfind(|name| name.ends_with(".log"))
        .unwrap()
        .clone();
    for number in 0..64 {
        let mut chance = Chance(number);
        let mut files = killed.clone();
        // What a record begins with, and not all of it; or what a file is extended by.
        let bytes = files.get_mut(&newest).unwrap();
        let from = bytes.len() / 2;
        let some = 1 + chance.below(200);
        let left: Vec<u8> = match number % 2 {
            0 => bytes[from..from + some].to_vec(),
            _ => vec![0; some],
        };
        bytes.extend(left);
        let folder = folder_of(&files);
        let report = inspect(folder.path(), &unbounded(), NOW).unwrap();
        assert_eq!((report.damaged, report.position), (0, MANY));
        assert_eq!(report.segments[0].torn, some as u64);
        let log = open(folder.path(), unbounded());
        assert!(told_losses(&log, "torn").is_empty());
        assert_eq!(log.log.stats().damaged, 0);
        assert_eq!(log.history("a", 0).1, None, "nobody is told of anything");
    }
}

#[test]
fn when_the_file_that_says_how_far_the_log_reaches_is_damaged_little_is_left_in_doubt() {
    for files in stopped_and_killed(1 << 20) {
        // One of its slots: another says nearly as much.
        for slot in SLOTS {
            let mut damaged = files.clone();
            damaged.get_mut(REACH_FILE).unwrap()[slot + SLOT / 2] ^= 1;
            let newest = damaged
                .keys()
                .rfind(|name| name.ends_with(".log"))
                .unwrap()
                .clone();
            let bytes = damaged.get_mut(&newest).unwrap();
            bytes.truncate(bytes.len() - 400);
            let folder = folder_of(&damaged);
            let log = open(folder.path(), unbounded());
            assert!(log.log.stats().damaged > 0);
            assert!(
                log.log.position() >= MANY - 1,
                "but for the last batch it is known"
            );
            assert!(log.history("a", MANY - 4).1.is_some());
        }
        // All of it: then everybody is told, as nobody can know.
        for is_removed in [true, false] {
            let mut damaged = files.clone();
            match is_removed {
                true => drop(damaged.remove(REACH_FILE)),
                false => damaged.get_mut(REACH_FILE).unwrap().fill(7),
            }
            let folder = folder_of(&damaged);
            let report = inspect(folder.path(), &unbounded(), NOW).unwrap();
            assert!(report.is_end_unknown && report.damaged == 1);
            let mut log = open(folder.path(), unbounded());
            assert_eq!(log.texts("a").len() as u64, MANY / 2);
            for channel in ["a", "b", "never"] {
                assert_eq!(log.history(channel, MANY).1, Some(MANY + 1), "{channel}");
                assert_eq!(log.history(channel, MANY + 1).1, None, "{channel}");
            }
            log.reopen();
            assert_eq!(log.log.stats().damaged, 0, "it is written again");
        }
    }
}

/// Channels in `quick/` are answered early, but for some.
fn quick() -> Namespaces {
    let with = |durability| {
        Arc::new(Namespace {
            durability,
            ..(*unbounded().fallback).clone()
        })
    };
    let pattern = |text: &str| Pattern::new(text, 64).unwrap();
    let mut namespaces = unbounded();
    namespaces.listed = vec![
        (pattern("quick/safe/*"), with(Durability::Committed)),
        (pattern("quick/**"), with(Durability::Buffered)),
    ];
    namespaces
}

/// Two on a channel that is answered early and two on one that is not.
fn quick_log(options: DiskOptions) -> Log {
    let mut log = Log::new(options, quick());
    for channel in ["quick/a", "kept", "quick/a", "kept"] {
        log.publish(&[channel], "x");
        log.settle();
    }
    log
}

/// Of these channels, whoever stood at a position is told of a gap up to another; of the others nobody is.
fn assert_told(log: &Log, stood: u64, told: Option<u64>, concerned: &[&str], others: &[&str]) {
    for channel in concerned {
        assert_eq!(log.history(channel, stood).1, told, "{channel}");
    }
    for channel in others {
        assert_eq!(log.history(channel, stood).1, None, "{channel}");
    }
    let of_pattern = |text: &str| {
        let fetch = Fetch {
            patterns: vec![Arc::new(Pattern::new(text, 64).unwrap())],
            after: stood,
            until: log.log.position(),
            limit: 10,
            bytes: 1 << 20,
            ..Fetch::default()
        };
        let page = log.fetch(fetch);
        let is_known = page.gaps.is_empty() && page.forgotten <= stood;
        assert!(is_known, "where it was is known: {:?}", page.gaps);
        page.lost.first().map(|lost| lost.position)
    };
    assert_eq!(of_pattern("**"), told);
    assert_eq!(of_pattern("quick/*"), told);
    assert_eq!(of_pattern("quick/safe/*"), None);
    assert_eq!(of_pattern("kept*"), None);
}

const CONCERNED: [&str; 2] = ["quick/a", "quick/never written to"];
const OTHERS: [&str; 3] = ["kept", "quick/safe/a", "never written to"];

#[test]
fn what_may_have_been_answered_and_never_written_is_told_after_a_stop_that_was_not_in_order() {
    let log = quick_log(DiskOptions::default());
    let killed = files(&log.folder);
    let mark = log.log.mark();
    log.log.shut_down();
    let stopped = files(&log.folder);

    let folder = folder_of(&stopped);
    let log = open(folder.path(), quick());
    assert_eq!(log.log.position(), 4);
    assert_told(&log, 4, None, &CONCERNED, &OTHERS);

    // Whatever is configured meanwhile.
    for namespaces in [quick(), unbounded()] {
        let folder = folder_of(&killed);
        let mut log = open(folder.path(), namespaces);
        assert_eq!(log.log.stats().damaged, 0);
        for _ in 0..2 {
            assert!(log.log.knows(mark, 4) && !log.log.knows(mark, 5));
            assert_told(&log, 4, Some(5), &CONCERNED, &OTHERS);
            assert_told(&log, 5, None, &CONCERNED, &OTHERS);
            log.reopen();
        }
        log.publish(&["quick/a", "kept"], "y");
        log.settle();
        assert_eq!(log.log.position(), 6);
        assert_eq!(log.log.channel(&name("quick/a")).unwrap().offset, 3);
        let (found, gap) = log.history("quick/a", 4);
        assert_eq!((found.len(), gap), (1, Some(5)));
        assert_eq!(log.history("kept", 0).1, None);
    }
}

#[test]
fn such_a_loss_is_told_when_the_segment_that_says_it_has_been_cleared_away() {
    let small = || DiskOptions {
        segment: 600,
        garbage: 2_000,
        ..DiskOptions::default()
    };
    let log = quick_log(small());
    let folder = folder_of(&files(&log.folder));
    let mut namespaces = quick();
    let one = bounded(1, 1 << 20, 1 << 50).fallback;
    namespaces.listed.push((Pattern::new("busy", 64).unwrap(), one));
    let mut log = Log::on(Arc::new(Unsynced), folder.path(), small(), namespaces);
    let mut old = segments(&log.folder);
    while old.iter().any(|path| path.exists()) {
        log.publish(&["busy"], &"x".repeat(100));
        log.settle();
        old.retain(|path| path.exists());
    }
    for _ in 0..2 {
        for channel in CONCERNED {
            assert_eq!(log.history(channel, 4).1, Some(5), "{channel}");
        }
        for channel in OTHERS {
            assert_eq!(log.history(channel, 4).1, None, "{channel}");
        }
        log.reopen();
    }
}

#[test]
fn what_is_answered_early_since_a_reload_is_told_as_well() {
    let log = Log::new(DiskOptions::default(), unbounded());
    log.log.configure(&quick());
    let inspected = |log: &Log| inspect(&log.folder, &unbounded(), NOW).unwrap();
    // Written down without anybody publishing anything.
    log.wait_until(|_| {
        let report = inspected(&log);
        let mut records = report.segments[0].records.iter();
        records.any(|(kind, count)| *kind == cometserver::broker::disk::format::Kind::Buffered && *count > 0)
    });
    let folder = folder_of(&files(&log.folder));
    let log = open(folder.path(), unbounded());
    assert_told(&log, 0, Some(1), &CONCERNED, &OTHERS);
}

#[test]
fn what_was_taken_and_then_refused_by_the_disk_is_told_with_the_next_publication() {
    let disk = SimDisk::default();
    let folder = Path::new("/log");
    let mut log = Log::on(Arc::new(disk.clone()), folder, DiskOptions::default(), quick());
    let publish = |log: &mut Log, channel: &str| {
        log.publish(&[channel], "x");
        log.settle().remove(0).1
    };
    for channel in ["quick/a", "kept", "quick/a", "kept"] {
        publish(&mut log, channel).unwrap();
    }
    disk.set_full(true);
    let refused = publish(&mut log, "kept");
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))), "{refused:?}");
    disk.set_full(false);
    publish(&mut log, "kept").unwrap();
    assert_eq!(log.log.position(), 5, "its publisher knows that it was refused");
    disk.set_full(true);
    assert!(publish(&mut log, "quick/a").is_err());
    disk.set_full(false);
    log.delete("kept", Delete::Retained);
    log.settle();
    publish(&mut log, "kept").unwrap();
    assert_eq!(log.log.position(), 7);
    for _ in 0..2 {
        assert_told(&log, 5, Some(6), &CONCERNED, &[]);
        assert_eq!(log.history("quick/a", 6).1, None);
        assert_eq!(log.history("kept", 0).1, None);
        log.reopen();
    }
    // If there is no next one, the next start tells.
    disk.set_full(true);
    assert!(publish(&mut log, "quick/a").is_err());
    log.reopen_after(|_| disk.set_full(false));
    assert_eq!(log.history("quick/a", 7).1, Some(8));
    assert_eq!(log.history("kept", 0).1, None);
}
