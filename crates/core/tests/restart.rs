//! A cursor from before a restart: what was in memory is a gap, what was stored is read on.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/store.rs"]
mod store;
#[path = "support/hub.rs"]
mod support;

use std::sync::{Arc, Mutex};

use broker::TestBroker;
use cometserver_core::fanout::{Begin, Progress, Step, Wants};
use cometserver_core::hub::{Hub, Options, ReadLimits};
use cometserver_core::publication::Message;
use store::{open, read, restart, store, store_value, words};
use support::{name, options, pattern, publish, shard};

#[test]
fn memory_channels_have_a_gap_and_stored_ones_go_on() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    store(&hub, &broker, "d", "1");
    publish(&hub, "m", "lost", 10);
    publish(&hub, "n", "lost", 10);
    let cursor = hub.cursor(hub.now()).to_string();
    store(&hub, &broker, "d", "2");
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    store(&hub, &broker, "d", "3");
    publish(&hub, "m", "new", 10);
    let start = hub.resolve(&cursor.parse().unwrap());
    assert!(start.lost_memory && !start.lost_durable);
    let reader = fanout.open(1, None);
    for channel in ["d", "m", "n"] {
        fanout.add(reader, &name(channel), Wants::default(), 10).unwrap();
    }
    fanout.begin(reader, Begin::At(start), false);
    let steps = read(&hub, &broker, &mut fanout, reader);
    assert_eq!(words(&steps), ["gap m", "gap n", "2", "3", "new"]);
    // Whoever is cut after the first notice must not come back with a cursor under the new marks.
    assert!(matches!(steps[0], Step::Gap(_, _, None)));
    assert!(matches!(steps[1], Step::Gap(_, _, Some(_))));
}

#[test]
fn who_watches_members_is_told_that_the_list_is_lost_even_where_the_history_is_stored() {
    let broker = TestBroker::new(9);
    let cursor = {
        let hub = open(&broker, 1);
        hub.cursor(hub.now())
    };
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    let wants = Wants {
        presence: true,
        ..Wants::default()
    };
    fanout.add(reader, &name("d"), wants, 10).unwrap();
    fanout.begin(reader, Begin::At(hub.resolve(&cursor)), false);
    assert_eq!(
        words(&read(&hub, &broker, &mut fanout, reader)),
        ["presence gap d"]
    );
}

#[test]
fn a_mark_or_position_that_the_store_does_not_know_is_a_gap() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    store(&hub, &broker, "d", "1");
    let known = hub.cursor(hub.now());
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let mut unknown_mark = known;
    unknown_mark.marks.durable = 99;
    let mut unknown_position = known;
    unknown_position.position.durable = 2;
    for cursor in [unknown_mark, unknown_position] {
        let start = hub.resolve(&cursor);
        assert!(start.lost_durable);
        let reader = fanout.open(1, None);
        fanout.add(reader, &name("d"), Wants::default(), 10).unwrap();
        fanout.begin(reader, Begin::At(start), false);
        assert_eq!(words(&read(&hub, &broker, &mut fanout, reader)), ["gap d", "1"]);
    }
    assert!(!hub.resolve(&known).lost_durable);
}

#[test]
fn a_pattern_finds_what_was_stored_in_channels_that_nobody_has_named_since() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let cursor = hub.cursor(hub.now());
    for n in 1..=5 {
        store(&hub, &broker, &format!("d/{n}"), &n.to_string());
    }
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout
        .add_pattern(reader, &pattern("d/*"), Wants::default())
        .unwrap();
    fanout.begin(reader, Begin::At(hub.resolve(&cursor)), false);
    let steps = read(&hub, &broker, &mut fanout, reader);
    // Nothing that it matches was in memory: the restart is no gap.
    assert_eq!(words(&steps), ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_pattern_is_told_once_of_what_the_store_has_forgotten_by_name_and_an_exact_channel_as_well() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let cursor = hub.cursor(hub.now());
    for n in 1..=7 {
        if n == 5 {
            store(&hub, &broker, "d/lost", "lost");
            broker.expire(&name("d/lost"), 1);
        }
        store(&hub, &broker, "d/kept", &n.to_string());
    }
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let start = hub.resolve(&cursor);
    let start = Begin::At(cometserver_core::hub::Start {
        lost_memory: false,
        ..start
    });
    let kept = ["1", "2", "3", "4", "5", "6", "7"].map(str::to_owned);
    let reader = fanout.open(1, None);
    fanout
        .add_pattern(reader, &pattern("d/*"), Wants::default())
        .unwrap();
    fanout.begin(reader, start, false);
    let words_of = |fanout: &mut _, reader| words(&read(&hub, &broker, fanout, reader));
    let expected = [&["gap d/*".to_owned()], &kept[..]].concat();
    assert_eq!(
        words_of(&mut fanout, reader),
        expected,
        "once, though it takes several pages"
    );
    // The same for a late subscription.
    let reader = fanout.open(2, None);
    fanout.begin(reader, Begin::Now, false);
    fanout
        .subscribe_pattern(reader, &pattern("d/*"), start, Wants::default())
        .unwrap();
    let announced = [&expected[..], &["subscribed d/*".to_owned()]].concat();
    assert_eq!(words_of(&mut fanout, reader), announced);
    // Who begins with the oldest kept has not asked for it, and who has seen it has lost nothing.
    let reader = fanout.open(3, None);
    fanout
        .add_pattern(reader, &pattern("d/*"), Wants::default())
        .unwrap();
    fanout.begin(reader, Begin::Earliest, false);
    assert_eq!(words_of(&mut fanout, reader), kept);
    for channel in ["d/lost", "d/never"] {
        let reader = fanout.open(4, None);
        fanout.add(reader, &name(channel), Wants::default(), 10).unwrap();
        fanout.begin(reader, start, false);
        assert_eq!(words_of(&mut fanout, reader), [format!("gap {channel}")]);
    }
}

#[test]
fn an_epoch_and_an_offset_are_those_of_the_store_from_the_first_moment() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let before = hub.listen(0, &name("d"), 10).unwrap().channel;
    store(&hub, &broker, "d", "1");
    let hub = restart(&broker, 2);
    let after = hub.listen(0, &name("d"), 10).unwrap().channel;
    assert_eq!(before.epoch, after.epoch);
    assert_eq!(hub.offset(after.id), 1);
    assert_eq!(hub.now().durable, 1);
}

#[test]
fn a_publication_has_the_same_time_live_and_from_the_store() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("d"), Wants::default(), 10).unwrap();
    fanout.begin(reader, Begin::Now, false);
    let message = Message::text(name("d"), "1");
    hub.publish(message, 10, &mut || Box::new(|_| {})).unwrap();
    // The store takes its time.
    hub.commit(broker.batch(9, 0), 500);
    let mut times = Vec::new();
    fanout.round(|_, _, publication, _| times.push(publication.time));
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("d"), Wants::default(), 600).unwrap();
    fanout.begin(reader, Begin::Earliest, false);
    for step in read(&hub, &broker, &mut fanout, reader) {
        if let Step::Publication(publication, ..) = step {
            times.push(publication.time);
        }
    }
    assert_eq!(times, [10, 10]);
}

#[test]
fn a_page_fetched_for_something_else_is_not_used() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let cursor = hub.cursor(hub.now());
    store(&hub, &broker, "d1", "1");
    store(&hub, &broker, "d2", "2");
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.begin(reader, Begin::Now, false);
    let start = Begin::At(hub.resolve(&cursor));
    fanout
        .subscribe(reader, &name("d1"), start, Wants::default(), 10)
        .unwrap();
    let mut steps = Vec::new();
    let limits = ReadLimits {
        items: 2,
        bytes: 1000,
    };
    let Progress::Cold(fetch) = fanout.next(reader, limits, &mut steps) else {
        panic!("it is in the store")
    };
    let page = Arc::new(Mutex::new(None));
    let slot = page.clone();
    hub.fetch(fetch, Box::new(move |page| *slot.lock().unwrap() = page.ok()));
    // While the store is asked, the client changes its mind.
    fanout.unsubscribe(reader, &name("d1"), 10);
    fanout
        .subscribe(reader, &name("d2"), start, Wants::default(), 10)
        .unwrap();
    broker.answer(0);
    fanout.fetched(reader, page.lock().unwrap().take().unwrap());
    assert_eq!(
        words(&read(&hub, &broker, &mut fanout, reader)),
        ["2", "subscribed d2"]
    );
}

#[test]
fn a_value_fetched_is_not_taken_for_a_page_of_the_history() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let cursor = hub.cursor(hub.now());
    store(&hub, &broker, "d", "1");
    store_value(&hub, &broker, "d", "2");
    store(&hub, &broker, "d", "3");
    let hub = restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.begin(reader, Begin::Now, false);
    let wants = Wants {
        retained: true,
        ..Wants::default()
    };
    fanout
        .subscribe(reader, &name("d"), Begin::Now, wants, 10)
        .unwrap();
    let limits = ReadLimits {
        items: 2,
        bytes: 1000,
    };
    let Progress::Cold(fetch) = fanout.next(reader, limits, &mut Vec::new()) else {
        panic!("it is in the store")
    };
    let page = Arc::new(Mutex::new(None));
    let slot = page.clone();
    hub.fetch(fetch, Box::new(move |page| *slot.lock().unwrap() = page.ok()));
    broker.answer(0);
    fanout.unsubscribe(reader, &name("d"), 10);
    let start = Begin::At(hub.resolve(&cursor));
    fanout.subscribe(reader, &name("d"), start, wants, 10).unwrap();
    fanout.fetched(reader, page.lock().unwrap().take().unwrap());
    assert_eq!(
        words(&read(&hub, &broker, &mut fanout, reader)),
        ["1", "2", "3", "subscribed d"]
    );
}

#[test]
fn a_history_in_memory_has_another_epoch_after_each_start() {
    let epoch = |incarnation| {
        let hub = Hub::new(Options {
            incarnation,
            ..options()
        });
        publish(&hub, "m", "x", 10).places[0].channel.epoch
    };
    assert_ne!(epoch(1), epoch(2));
}
