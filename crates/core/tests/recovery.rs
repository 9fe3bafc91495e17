//! A reader that comes back gets what it missed once and in order, or is told of a gap.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::fanout::{Begin, Standing, Step, Wants};
use cometserver_core::hub::{Delete, HistoryQuery, Hub, ReadLimits, Start};
use cometserver_core::position::Position;
use cometserver_core::publication::Message;
use support::{delete, history, name, options, pattern, publish, publish_message, read_on, round, shard};

fn several(channels: &[&str], text: &str) -> Message {
    let mut message = Message::text(name(channels[0]), text);
    message.channels = channels.iter().map(|channel| name(channel)).collect();
    message
}

#[test]
fn a_reader_that_returns_gets_what_it_missed_and_then_goes_on_live() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let seen = publish(&hub, "a", "1", 10).at;
    publish(&hub, "a", "2", 10);
    publish(&hub, "b", "not mine", 10);
    publish(&hub, "a", "3", 10);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
    let start = hub.resolve(&hub.cursor(seen).to_string().parse().unwrap());
    assert!(!fanout.begin(reader, Begin::At(start), true), "it is behind");
    assert_eq!(read_on(&mut fanout, reader), ["2", "3"]);
    publish(&hub, "a", "4", 10);
    assert_eq!(round(&mut fanout), [(1, "4".into())]);
}

#[test]
fn what_bounds_have_trimmed_is_told_as_a_gap_before_what_follows() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    for n in 1..=6 {
        publish(&hub, "a", &n.to_string(), 10);
    }
    hub.tick(100);
    let begin = |fanout: &mut cometserver_core::fanout::Fanout, begin| {
        let reader = fanout.open(1, None);
        fanout.add(reader, &name("a"), Wants::default(), 100).unwrap();
        fanout.begin(reader, begin, false);
        read_on(fanout, reader)
    };
    let at = |memory| Begin::At(hub.resolve(&hub.cursor(Position { durable: 0, memory })));
    assert_eq!(begin(&mut fanout, at(1)), ["gap a", "4", "5", "6"]);
    assert_eq!(begin(&mut fanout, at(2)), ["gap a", "4", "5", "6"]);
    assert_eq!(
        begin(&mut fanout, at(3)),
        ["4", "5", "6"],
        "it had seen what is gone"
    );
    assert_eq!(
        begin(&mut fanout, Begin::Earliest),
        ["4", "5", "6"],
        "it asked for no more"
    );
}

#[test]
fn two_channels_that_lost_the_same_publication_are_each_told_wherever_the_client_is_cut() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    publish_message(&hub, several(&["a", "b"], "1"), 10);
    for channel in ["a", "b"] {
        delete(&hub, channel, Delete::History, 10);
    }
    let mut cursor = Position::default();
    let mut gaps = Vec::new();
    // Cut after each frame.
    for _ in 0..2 {
        let reader = fanout.open(1, None);
        for channel in ["a", "b"] {
            fanout.add(reader, &name(channel), Wants::default(), 10).unwrap();
        }
        fanout.begin(reader, Begin::At(hub.resolve(&hub.cursor(cursor))), false);
        let mut steps = Vec::new();
        fanout.next(
            reader,
            ReadLimits {
                items: 10,
                bytes: 1000,
            },
            &mut steps,
        );
        let of: Vec<String> = steps.iter().map(support::step).collect();
        gaps.extend(of.get(gaps.len()).cloned());
        if let Some(Step::Gap(_, _, Some(at))) = steps.first() {
            cursor = *at;
        }
        fanout.close(reader, 10);
    }
    assert_eq!(gaps, ["gap a", "gap b"]);
}

#[test]
fn a_gap_is_told_before_what_another_channel_or_the_retained_slot_has_kept() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    publish(&hub, "a", "1", 10);
    publish_message(&hub, several(&["a", "b"], "2"), 10);
    delete(&hub, "a", Delete::History, 10);
    let reader = fanout.open(1, None);
    for channel in ["a", "b"] {
        fanout.add(reader, &name(channel), Wants::default(), 10).unwrap();
    }
    fanout.begin(reader, Begin::At(Default::default()), false);
    assert_eq!(read_on(&mut fanout, reader), ["gap a", "2"]);

    publish(&hub, "c", "1", 10);
    let mut kept = Message::text(name("c"), "2");
    kept.retain = true;
    publish_message(&hub, kept, 10);
    for n in 3..=7 {
        publish(&hub, "c", &n.to_string(), 10);
    }
    hub.tick(100);
    let reader = fanout.open(2, None);
    fanout.add(reader, &name("c"), Wants::default(), 100).unwrap();
    fanout.begin(reader, Begin::At(Default::default()), false);
    assert_eq!(
        read_on(&mut fanout, reader),
        ["gap c", "2", "gap c", "5", "6", "7"]
    );
}

#[test]
fn a_pattern_that_came_after_the_last_publication_is_told_when_that_is_trimmed() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    publish(&hub, "a/1", "lost", 10);
    let reader = fanout.open(1, None);
    fanout
        .add_pattern(reader, &pattern("a/*"), Wants::default())
        .unwrap();
    delete(&hub, "a/1", Delete::History, 10);
    fanout.begin(reader, Begin::At(Default::default()), false);
    assert_eq!(read_on(&mut fanout, reader), ["gap a/*"]);
}

#[test]
fn a_pattern_reads_nothing_of_another_realm() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    publish(&hub, "a/1", "mine", 10);
    let other = ChannelName::in_realm(Realm(3), "a/1").unwrap();
    publish_message(&hub, Message::text(other, "not mine"), 10);
    let reader = fanout.open(1, None);
    fanout
        .add_pattern(reader, &pattern("a/*"), Wants::default())
        .unwrap();
    fanout.begin(reader, Begin::Earliest, false);
    assert_eq!(read_on(&mut fanout, reader), ["mine"]);
    let (channels, _) = hub.channels(Some(&pattern("**")), 0, 10);
    assert_eq!(channels.len(), 1, "nor is it listed");
}

#[test]
fn a_reader_that_began_ahead_of_its_shard_does_not_go_back_when_it_stalls() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    // Somebody else makes the shard listen to another channel, and it has something to collect.
    let other = fanout.open(1, None);
    fanout.add(other, &name("b"), Wants::default(), 10).unwrap();
    fanout.begin(other, Begin::Now, false);
    let before = fanout.seen();
    publish(&hub, "b", "x", 10);
    publish(&hub, "a", "seen elsewhere", 10);
    let reader = fanout.open(2, None);
    fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
    assert!(fanout.begin(reader, Begin::Now, false));
    publish(&hub, "a", "next", 10);
    assert_eq!(round(&mut fanout), [(1, "x".into()), (2, "next".into())]);
    // Nothing of the round could be written.
    fanout.stall(reader, before);
    assert_eq!(read_on(&mut fanout, reader), ["next"]);
}

#[test]
fn a_late_subscription_is_caught_up_without_cursors_before_it_is_announced() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
    fanout.begin(reader, Begin::Now, false);
    let since = hub.now();
    publish(&hub, "a", "1", 10);
    publish(&hub, "b", "2", 10);
    round(&mut fanout);
    let begin = Begin::At(hub.resolve(&hub.cursor(since)));
    fanout
        .subscribe(reader, &name("b"), begin, Wants::default(), 10)
        .unwrap();
    publish(&hub, "b", "3", 10);
    publish(&hub, "a", "4", 10);
    round(&mut fanout);
    let mut steps = Vec::new();
    while !fanout.is_live(reader) {
        fanout.next(
            reader,
            ReadLimits {
                items: 1,
                bytes: 1000,
            },
            &mut steps,
        );
    }
    let words: Vec<String> = steps.iter().map(support::step).collect();
    let announced = words.iter().position(|word| word == "subscribed b").unwrap();
    assert!(words[..announced].contains(&"2".into()));
    assert_eq!(words[announced + 1..], ["3", "4"]);
    for step in &steps[..announced] {
        assert!(
            !matches!(step, Step::Publication(p, place, Some(_)) if p.places[*place].channel.name == name("b"))
        );
    }
}

#[test]
fn an_answer_about_history_is_bounded_in_bytes_and_its_cursor_says_where_to_go_on() {
    let hub = Arc::new(Hub::new(options()));
    let large = "x".repeat(200 << 10);
    for text in [&large, "small", &large] {
        publish(&hub, "a", text, 10);
    }
    publish(&hub, "b", &"y".repeat(2 << 20), 10);
    let ask = |since: Option<Position>, reverse| {
        let since = since.map(|position| Start {
            position,
            ..Start::default()
        });
        let query = HistoryQuery {
            since,
            limit: 10,
            reverse,
        };
        let history = history(&hub, "a", query, 10).unwrap();
        let offset = |p: &Arc<cometserver_core::Publication>| p.places[0].offset;
        (
            history.publications.iter().map(offset).collect::<Vec<_>>(),
            history.at,
        )
    };
    let (first, at) = ask(None, false);
    assert_eq!(first, [1, 2]);
    let (second, at) = ask(Some(at), false);
    assert_eq!(second, [3]);
    assert_eq!(at, hub.now());
    assert_eq!(ask(None, true).0, [3, 2]);
    let alone = history(&hub, "b", HistoryQuery::default(), 10).unwrap();
    assert_eq!(alone.publications.len(), 1, "one in any case");
}

#[test]
fn a_publication_carries_when_its_message_was_accepted_and_news_about_members_do_not() {
    let hub = Arc::new(Hub::new(options()));
    hub.attach(0, Box::new(|| {}));
    let a = hub.listen(0, &name("a"), 10).unwrap().channel.id;
    let mut message = Message::text(name("a"), "1");
    message.accepted = 1_234_567;
    publish_message(&hub, message, 10);
    hub.join(a, "ann", None, 10);
    let mut seen = Vec::new();
    hub.collect(0, 10, &mut seen);
    let accepted: Vec<u64> = seen.iter().map(|publication| publication.accepted).collect();
    assert_eq!(accepted, [1_234_567, 0]);
}

#[test]
fn to_subscribe_again_to_what_stands_costs_nothing_lasting() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.begin(reader, Begin::Now, true);
    let again = |fanout: &mut cometserver_core::fanout::Fanout| {
        let channel = fanout.subscribe(reader, &name("a"), Begin::Earliest, Wants::default(), 10);
        let pattern = fanout.subscribe_pattern(reader, &pattern("p/*"), Begin::Earliest, Wants::default());
        (channel.unwrap(), pattern.unwrap())
    };
    let due = again(&mut fanout);
    assert!(matches!(due, (Standing::Due(_), Standing::Due(_))), "{due:?}");
    // While something is owed, an announcement of its own comes behind it: its cursor must not hide that.
    let due = again(&mut fanout);
    assert!(matches!(due, (Standing::Due(_), Standing::Due(_))), "{due:?}");
    let expected = ["subscribed a", "subscribed p/*", "subscribed a", "subscribed p/*"];
    assert_eq!(read_on(&mut fanout, reader), expected);
    let weight = fanout.weight(reader);
    for _ in 0..1000 {
        let stands = again(&mut fanout);
        assert!(
            matches!(stands, (Standing::Stands(_), Standing::Stands(_))),
            "{stands:?}"
        );
        assert!(fanout.is_live(reader));
        assert_eq!(fanout.weight(reader), weight, "it costs nothing lasting");
    }
    publish(&hub, "a", "1", 10);
    assert_eq!(round(&mut fanout), [(1, "1".into())]);
}
