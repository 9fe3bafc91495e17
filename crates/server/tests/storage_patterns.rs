//! What a pattern reads from the log among many channels: everything once, in order, at a cost that is about what it returns.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;

use std::collections::BTreeSet;
use std::sync::Arc;

use cometserver::broker::disk::DiskOptions;
use cometserver_core::broker::{Broker, Delete, Fetch};
use cometserver_core::channel::ChannelName;
use cometserver_core::pattern::Pattern;
use rig::{Log, bounded, name, unbounded};

/// Reads all that a pattern matches, page by page: positions, channels with a gap, the most that was looked at for a page.
fn walk(log: &Log, pattern: &str) -> (Vec<u64>, Vec<ChannelName>, u64, u64) {
    let until = log.log.position();
    let (mut found, mut gaps, mut forgotten) = (Vec::new(), Vec::new(), 0);
    let (mut after, mut most, mut looked) = (0, 0, log.log.stats().looked);
    while after < until {
        let page = log.fetch(Fetch {
            patterns: vec![Arc::new(Pattern::new(pattern, 64).unwrap())],
            after,
            until,
            limit: 256,
            bytes: 1 << 20,
            ..Fetch::default()
        });
        assert!(page.reached > after, "a page goes on");
        found.extend(page.stored.iter().map(|stored| stored.position));
        gaps.extend(page.gaps.into_iter().map(|(name, _)| name));
        forgotten = page.forgotten.max(forgotten);
        after = page.reached;
        let now = log.log.stats().looked;
        most = most.max(now - looked);
        looked = now;
    }
    (found, gaps, forgotten, most)
}

/// So many channels, with one publication each.
fn publish_in_many(log: &mut Log, count: usize) {
    for number in 0..count {
        log.publish(&[&format!("c/{number}")], "x");
    }
    log.settle();
}

#[test]
fn a_pattern_from_far_back_costs_about_what_it_returns() {
    let mut looked = Vec::new();
    for count in [8_000, 32_000] {
        let mut log = Log::new(DiskOptions::default(), unbounded());
        publish_in_many(&mut log, count);
        for _ in 0..2 {
            let before = log.log.stats().looked;
            let (found, gaps, forgotten, _) = walk(&log, "**");
            assert!(found.into_iter().eq(1..=count as u64), "each, in order");
            assert_eq!((gaps, forgotten), (vec![], 0));
            looked.push(log.log.stats().looked - before);
            log.reopen();
        }
    }
    // Four times as many channels: not sixteen times as much.
    assert!(
        looked[2] < 6 * looked[0] && looked[3] < 6 * looked[1],
        "{looked:?}"
    );
}

#[test]
fn a_page_of_a_pattern_that_matches_nothing_is_bounded_too() {
    let mut log = Log::new(DiskOptions::default(), unbounded());
    publish_in_many(&mut log, 80_000);
    let (found, _, _, most) = walk(&log, "none/*");
    assert_eq!(found, [0; 0]);
    assert!(most < 40_000, "{most}");
}

#[test]
fn a_pattern_from_far_back_is_told_of_each_channel_that_has_lost_something_and_of_no_other() {
    let mut log = Log::new(DiskOptions::default(), bounded(1, 1 << 20, 1 << 50));
    // What some of them keep lies before what others have lost.
    for round in 0..3 {
        for number in (0..4_000).filter(|number| number % (round + 1) == 0) {
            log.publish(&[&format!("c/{number}")], "x");
        }
        log.settle();
    }
    log.delete("c/1", Delete::History);
    log.settle();
    for _ in 0..2 {
        let (found, gaps, forgotten, _) = walk(&log, "**");
        // The newest of each channel, but of one.
        assert_eq!(found.len(), 3_999);
        assert!(found.is_sorted());
        assert_eq!(forgotten, 0);
        let told: BTreeSet<ChannelName> = gaps.into_iter().collect();
        let lost = (0..4_000).filter(|number| number % 2 == 0 || number % 3 == 0 || *number == 1);
        assert!(told == lost.map(|number| name(&format!("c/{number}"))).collect());
        log.reopen();
    }
}
