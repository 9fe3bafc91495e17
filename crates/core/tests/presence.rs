//! Members come and go, and who asked for it is told once.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::fanout::{Begin, Fanout, Wants};
use cometserver_core::hub::{Hub, Options};
use cometserver_core::presence::Limits;
use cometserver_core::{ChannelId, Position};
use support::{history, name, options, pattern, publish, read_on, round, shard};

const WATCH: Wants = Wants {
    presence: true,
    retained: false,
    public_only: false,
};

fn watched(options: Options) -> (Arc<Hub>, Fanout, ChannelId) {
    let hub = Arc::new(Hub::new(options));
    let mut fanout = shard(&hub);
    for (tag, wants) in [(1, WATCH), (2, Wants::default())] {
        let reader = fanout.open(tag, None);
        fanout.add(reader, &name("a"), wants, 10).unwrap();
        fanout.begin(reader, Begin::Now, false);
    }
    let id = hub.listen(0, &name("a"), 10).unwrap().channel.id;
    (hub, fanout, id)
}

fn limits(announce: usize) -> Options {
    Options {
        presence: Limits {
            grace: 20,
            announce,
            ..Limits::default()
        },
        ..options()
    }
}

#[test]
fn only_who_asked_is_told_and_a_return_within_the_grace_is_no_news() {
    let (hub, mut fanout, a) = watched(limits(10));
    assert_eq!(hub.join(a, "ann", None, 10), 1);
    assert_eq!(
        hub.join(a, "ann", None, 10),
        1,
        "another connection of the same user"
    );
    assert_eq!(round(&mut fanout), [(1, "+ann".into())]);
    hub.leave(a, "ann", 11);
    hub.leave(a, "ann", 12);
    hub.tick(31);
    hub.join(a, "ann", None, 31);
    hub.tick(1_000);
    assert_eq!(round(&mut fanout), []);
    hub.leave(a, "ann", 1_000);
    assert_eq!(
        hub.members(&name("a"), 10).members.len(),
        1,
        "within the grace it is still there"
    );
    assert_eq!(
        hub.tick(1_019),
        Some(1_020),
        "the hub asks to be called when the grace ends"
    );
    hub.tick(1_020);
    assert_eq!(round(&mut fanout), [(1, "-ann".into())]);
    assert_eq!(hub.members(&name("a"), 10).members.len(), 0);
}

#[test]
fn news_are_no_history_and_take_no_offset() {
    let (hub, _, a) = watched(limits(10));
    hub.join(a, "ann", None, 10);
    assert_eq!(publish(&hub, "a", "1", 10).places[0].offset, 1);
    assert_eq!(
        history(&hub, "a", Default::default(), 10)
            .unwrap()
            .publications
            .len(),
        1
    );
}

#[test]
fn a_crowd_is_counted_and_the_count_is_right_after_it_had_shrunk_and_grown_again() {
    let (hub, mut fanout, a) = watched(limits(2));
    let told = |fanout: &mut Fanout| {
        round(fanout)
            .into_iter()
            .map(|(_, word)| word)
            .collect::<Vec<_>>()
    };
    for user in ["a", "b", "c", "d"] {
        hub.join(a, user, None, 10);
    }
    assert_eq!(told(&mut fanout), ["+a", "+b"]);
    hub.tick(1_010);
    assert_eq!(told(&mut fanout), ["=4"]);
    for user in ["b", "c", "d"] {
        hub.leave(a, user, 2_000);
    }
    hub.tick(2_020);
    hub.tick(3_100);
    assert_eq!(told(&mut fanout).last().map(String::as_str), Some("=1"));
    for user in ["b", "c", "d"] {
        hub.join(a, user, None, 4_000);
    }
    assert_eq!(told(&mut fanout), ["+b"]);
    hub.tick(5_000);
    assert_eq!(told(&mut fanout), ["=4"], "four again, and that is news");
}

#[test]
fn lost_news_are_a_gap_of_the_members_only() {
    let (hub, mut fanout, a) = watched(limits(10));
    hub.join(a, "ann", None, 10);
    round(&mut fanout);
    hub.tick(100);
    let start = Begin::At(hub.resolve(&hub.cursor(Position::default())));
    for (wants, expected) in [(WATCH, vec!["presence gap a"]), (Wants::default(), vec![])] {
        let reader = fanout.open(3, None);
        fanout.add(reader, &name("a"), wants, 100).unwrap();
        fanout.begin(reader, start, false);
        assert_eq!(read_on(&mut fanout, reader), expected);
    }
    let reader = fanout.open(4, None);
    fanout.add_pattern(reader, &pattern("*"), WATCH).unwrap();
    fanout.begin(reader, start, false);
    assert_eq!(read_on(&mut fanout, reader), ["presence gap *"]);
}

#[test]
fn who_begins_with_the_oldest_kept_is_not_told_of_news_lost_before() {
    let (hub, mut fanout, a) = watched(limits(10));
    hub.join(a, "ann", None, 10);
    round(&mut fanout);
    hub.tick(100);
    let by_name = fanout.open(3, None);
    fanout.add(by_name, &name("a"), WATCH, 100).unwrap();
    let by_pattern = fanout.open(4, None);
    fanout.add_pattern(by_pattern, &pattern("*"), WATCH).unwrap();
    for reader in [by_name, by_pattern] {
        fanout.begin(reader, Begin::Earliest, false);
        assert_eq!(read_on(&mut fanout, reader), [""; 0]);
    }
    let late = fanout.open(5, None);
    fanout.begin(late, Begin::Now, false);
    fanout
        .subscribe(late, &name("a"), Begin::Earliest, WATCH, 100)
        .unwrap();
    assert_eq!(read_on(&mut fanout, late), ["subscribed a"]);
}

#[test]
fn a_channel_forgotten_and_made_again_still_knows_that_news_were_lost() {
    let hub = Arc::new(Hub::new(limits(10)));
    let mut fanout = shard(&hub);
    let a = hub.listen(1, &name("a"), 10).unwrap().channel.id;
    hub.join(a, "ann", None, 10);
    hub.leave(a, "ann", 10);
    hub.unlisten(1, a, 10);
    for now in [40, 100, 500, 1_000] {
        hub.tick(now);
    }
    assert_eq!(hub.stats().channels, 0);
    let reader = fanout.open(3, None);
    fanout.add(reader, &name("a"), WATCH, 1_000).unwrap();
    fanout.begin(
        reader,
        Begin::At(hub.resolve(&hub.cursor(Position::default()))),
        false,
    );
    assert_eq!(read_on(&mut fanout, reader), ["presence gap a"]);
}

#[test]
fn of_a_crowd_the_first_by_name_are_listed_and_all_are_counted() {
    let (hub, _, a) = watched(limits(10));
    for n in (0..50).rev() {
        hub.join(a, &format!("user {n:02}"), None, 10);
    }
    let found = hub.members(&name("a"), 3);
    let names: Vec<&str> = found.members.iter().map(|(user, _)| &**user).collect();
    assert_eq!(names, ["user 00", "user 01", "user 02"]);
    assert_eq!(found.count, 50);
    assert_eq!(hub.members(&name("a"), 0).members.len(), 0);
    assert_eq!(hub.members(&name("a"), 1_000).members.len(), 50);
    assert_eq!(hub.members(&name("nobody"), 3).count, 0);
}
