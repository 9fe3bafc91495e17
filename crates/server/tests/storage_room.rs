//! A disk with little room: waste is given back without needing any, deletions are taken, and it heals by itself.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cometserver::broker::disk::DiskOptions;
use cometserver_core::broker::{Broker, Delete, Outcome};
use rig::{Log, PATIENCE, bounded, name};
use sim::SimDisk;

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
