//! A disk with little room: waste is given back without needing any, deletions are taken, and it heals by itself.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cometserver::broker::disk::format::reach::REACH_FILE;
use cometserver::broker::disk::io::Disk;
use cometserver::broker::disk::{DiskLog, DiskOptions};
use cometserver_core::broker::{Broker, Delete, Outcome};
use cometserver_core::namespace::{Durability, Namespace, Namespaces};
use rig::{Log, PATIENCE, bounded, name};
use sim::{Fault, SimDisk};

/// One message, in bytes.
const MESSAGE: usize = 1_000;

fn tiny() -> DiskOptions {
    DiskOptions {
        segment: 4096,
        garbage: 8192,
        batch: 2048,
        ..DiskOptions::default()
    }
}

/// A segment that no small disk has room for, as by default.
fn huge() -> DiskOptions {
    DiskOptions::default()
}

fn open(disk: &SimDisk, options: DiskOptions, keep: usize) -> Log {
    let namespaces = bounded(keep, 1 << 40, 1 << 50);
    Log::on(Arc::new(disk.clone()), Path::new("/log"), options, namespaces)
}

/// Publishes one. Was it taken?
fn publish(log: &mut Log, channel: &str) -> bool {
    log.publish(&[channel], &"x".repeat(MESSAGE));
    log.settle()[0].1.is_ok()
}

/// Publishes until it is taken, which nobody helps with.
fn publish_in_the_end(log: &mut Log, channel: &str) {
    let end = Instant::now() + PATIENCE;
    while !publish(log, channel) {
        assert!(Instant::now() < end, "never again: {:?}", log.log.stats());
        std::thread::yield_now();
    }
}

/// Publishes to one channel after the other until it is refused a few times. Those that took it.
fn fill(log: &mut Log, prefix: &str) -> Vec<String> {
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0.. {
        let channel = format!("{prefix}/{number}");
        match publish(log, &channel) {
            true => taken.push(channel),
            false => refused += 1,
        }
        if refused == 5 {
            break;
        }
        assert!(number < 10_000, "it is never full");
    }
    taken
}

#[test]
fn a_log_that_is_nearly_all_waste_goes_on_where_the_disk_says_how_small_it_is() {
    let disk = SimDisk::default();
    disk.set_capacity(Some(8 << 20));
    let mut log = open(&disk, huge(), 5);
    for number in 0..20_000 {
        assert!(publish(&mut log, "a"), "{number}: {:?}", log.log.stats());
    }
    assert_eq!(log.texts("a").len(), 5);
    disk.crash(|_| 0);
    log.reopen();
    assert_eq!(log.texts("a").len(), 5);
    assert_eq!(log.log.channel(&name("a")).unwrap().offset, 20_000);
}

#[test]
fn a_log_that_is_nearly_all_waste_goes_on_where_nobody_tells_it_of_its_quota() {
    let disk = SimDisk::default();
    disk.set_quota(6 << 20);
    let mut log = open(&disk, huge(), 5);
    for _ in 0..20_000 {
        publish_in_the_end(&mut log, "a");
    }
    assert_eq!(log.texts("a").len(), 5);
    disk.crash(|_| 0);
    log.reopen();
    assert_eq!(log.texts("a").len(), 5);
    publish_in_the_end(&mut log, "a");
}

#[test]
fn on_a_disk_as_full_as_can_be_a_deletion_is_taken_and_stays() {
    for left in (0..4_200).step_by(97) {
        let disk = SimDisk::default();
        disk.set_capacity(Some(200_000));
        let mut log = open(&disk, tiny(), 5);
        for _ in 0..20 {
            assert!(publish(&mut log, "a"));
        }
        disk.take_all_but(left);
        let taken = fill(&mut log, "other");
        for channel in taken.iter().map(String::as_str).chain(["a"]) {
            log.delete(channel, Delete::History);
            let answer = &log.settle()[0].1;
            assert!(
                matches!(answer, Ok(Outcome::Deleted { count: 1.., .. })),
                "{left}: {channel}: {answer:?}"
            );
        }
        disk.crash(|below| (left * 7 + 3) % below);
        log.reopen();
        for channel in taken.iter().map(String::as_str).chain(["a"]) {
            assert_eq!(log.texts(channel), Vec::<String>::new(), "{left}: {channel}");
        }
        publish_in_the_end(&mut log, "a");
    }
}

#[test]
fn what_is_deleted_makes_room_on_a_disk_that_others_have_filled() {
    for is_told in [true, false] {
        let disk = SimDisk::default();
        match is_told {
            true => disk.set_capacity(Some(300_000)),
            false => disk.set_quota(300_000),
        }
        let mut log = open(&disk, tiny(), 5);
        for number in 0..60 {
            assert!(publish(&mut log, &format!("first/{number}")));
        }
        disk.take_all_but(60_000);
        let kept = fill(&mut log, "kept");
        let (deleted, kept) = kept.split_at(kept.len() / 2);
        for channel in deleted {
            log.delete(channel, Delete::History);
        }
        let answers = log.settle();
        let refused = answers.iter().find(|(_, answer)| answer.is_err());
        assert_eq!(refused, None, "{is_told}: {:?}", log.log.stats());
        publish_in_the_end(&mut log, "new");
        for channel in kept {
            assert_eq!(log.texts(channel).len(), 1, "{channel}");
        }
    }
}

#[test]
fn a_small_disk_is_a_ceiling_as_storage_max_size_is() {
    let disk = SimDisk::default();
    disk.set_capacity(Some(8 << 20));
    let mut log = open(&disk, huge(), usize::MAX);
    for number in 0..20_000 {
        assert!(publish(&mut log, "a"), "{number}: {:?}", log.log.stats());
    }
    let stats = log.log.stats();
    assert!(stats.trimmed_for_ceiling > 0, "{stats:?}");
    assert!(log.texts("a").len() > 1_000);
}

#[test]
fn clearing_away_ends_where_all_that_is_left_is_how_channels_stand() {
    let disk = SimDisk::default();
    disk.set_capacity(Some(1 << 20));
    let mut log = open(
        &disk,
        DiskOptions {
            idle_grace: Duration::from_secs(600),
            ..huge()
        },
        1,
    );
    // Nothing is kept of them, but their offsets are.
    for number in 0..4_000 {
        let channel = format!("{number}/{}", "n".repeat(100));
        log.publish(&[&channel], "x");
        log.delete(&channel, Delete::History);
    }
    log.settle();
    let before = log.log.stats().removed_segments;
    for _ in 0..500 {
        publish(&mut log, "a");
    }
    let stats = log.log.stats();
    assert!(stats.removed_segments - before < 20, "{stats:?}");
}

/// Everybody is answered early.
fn buffered() -> Namespaces {
    Namespaces::uniform(Namespace {
        durability: Durability::Buffered,
        ..(*bounded(100, 1 << 40, 1 << 50).fallback).clone()
    })
}

#[test]
fn a_loss_that_finds_no_room_to_be_written_down_is_told_after_a_stop_in_good_order_too() {
    let disk = SimDisk::default();
    let mut log = Log::on(
        Arc::new(disk.clone()),
        Path::new("/log"),
        DiskOptions::default(),
        buffered(),
    );
    assert!(publish(&mut log, "a"));
    let seen = log.log.position();
    // Its end is not waited for: what was answered last may be lost.
    disk.crash(|_| 0);
    disk.set_full(true);
    log.reopen();
    assert!(log.log.unwritten().is_some());
    let told = log.history("a", seen).1;
    assert_eq!(told, Some(seen + 1));
    // Nobody asked while it was full: it is stopped, and started when there is room.
    log.reopen_after(|_| disk.set_full(false));
    assert!(log.log.unwritten().is_none());
    assert_eq!(log.history("a", seen).1, told);
    log.reopen();
    assert_eq!(log.history("a", seen).1, told, "it is written down now");
    assert_eq!(log.history("a", seen + 1).1, None, "once");
}

#[test]
fn a_start_without_room_for_how_far_the_log_reaches_harms_nothing() {
    for left in (64..12_000).step_by(331) {
        let disk = SimDisk::default();
        disk.set_capacity(Some(left));
        let mut log = open(&disk, tiny(), 5);
        let taken = publish(&mut log, "a");
        assert!(!taken || log.log.unwritten().is_none(), "{left}");
        match left % 2 {
            0 => disk.crash(|below| (left * 7 + 3) % below),
            _ => log.log.shut_down(),
        }
        disk.set_capacity(None);
        log.reopen();
        assert_eq!(log.log.stats().damaged, 0, "{left}");
        publish_in_the_end(&mut log, "a");
        let texts = log.texts("a");
        disk.crash(|_| 0);
        log.reopen();
        assert_eq!((log.texts("a"), log.log.stats().damaged), (texts, 0), "{left}");
    }
}

#[test]
fn without_the_file_that_says_how_far_the_log_reaches_a_full_disk_takes_deletions_all_the_same() {
    let options = || DiskOptions {
        segment: 64 << 10,
        ..DiskOptions::default()
    };
    for left in (0..12_000).step_by(397) {
        let disk = SimDisk::default();
        disk.set_capacity(Some(1 << 20));
        let mut log = open(&disk, options(), 5);
        for number in 0..100 {
            assert!(publish(&mut log, &format!("{number}")));
        }
        log.reopen_after(|folder| {
            disk.remove(&folder.join(REACH_FILE)).unwrap();
            disk.sync_folder(folder).unwrap();
            disk.take_all_but(left);
        });
        assert_eq!(log.log.unwritten().is_some(), left < 8_000, "{left}");
        log.delete("7", Delete::History);
        let answer = &log.settle()[0].1;
        assert!(
            matches!(answer, Ok(Outcome::Deleted { count: 1, .. })),
            "{left}: {answer:?}"
        );
        disk.crash(|below| (left * 7 + 3) % below);
        log.reopen();
        assert_eq!(log.texts("7"), Vec::<String>::new(), "{left}");
        assert_eq!(log.log.stats().damaged, 0, "{left}: it is written again");
        assert_eq!(log.texts("8").len(), 1, "{left}");
    }
}

#[test]
fn each_step_of_a_start_may_find_the_disk_full_and_be_the_last_before_a_crash() {
    let mut unwritten = 0;
    for step in 1..20 {
        let disk = SimDisk::default();
        let mut log = open(&disk, tiny(), 5);
        for _ in 0..8 {
            assert!(publish(&mut log, "a"));
        }
        let texts = log.texts("a");
        log.log.shut_down();
        disk.fail_in(step, Fault::Full);
        let namespaces = bounded(5, 1 << 40, 1 << 50);
        let opened = DiskLog::open_on(Arc::new(disk.clone()), Path::new("/log"), tiny(), &namespaces);
        if let Ok(opened) = &opened {
            unwritten += usize::from(opened.unwritten().is_some());
        }
        // It ends before another begins, and nothing that it does then counts.
        disk.fail_in(1, Fault::Crash);
        drop(opened);
        disk.crash(|below| (step as usize * 7 + 3) % below);
        log.reopen();
        assert_eq!((log.texts("a"), log.log.stats().damaged), (texts, 0), "{step}");
        publish_in_the_end(&mut log, "a");
    }
    assert!(unwritten > 3, "the file `reach` is written in several steps");
}
