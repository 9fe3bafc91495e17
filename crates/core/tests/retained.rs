//! The retained value of a channel outlives its history, and is replaced by the next one.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/store.rs"]
mod store;
#[path = "support/hub.rs"]
mod support;

use std::sync::{Arc, Mutex};

use broker::TestBroker;
use cometserver_core::fanout::{Begin, Progress, Step, Target, Wants};
use cometserver_core::hub::{Delete, Hub};
use cometserver_core::publication::Message;
use support::{
    delete, history, name, options, publish, publish_message, read_on, retained, round, shard, word,
};

fn retain(hub: &Arc<Hub>, channel: &str, text: &str) {
    let mut message = Message::text(name(channel), text);
    message.retain = true;
    publish_message(hub, message, 10);
}

fn value(hub: &Arc<Hub>, channel: &str) -> Option<String> {
    retained(hub, channel).map(|publication| word(&publication))
}

#[test]
fn it_outlives_its_history_and_the_next_one_replaces_it() {
    let hub = Arc::new(Hub::new(options()));
    retain(&hub, "a", "old");
    for n in 0..10 {
        publish(&hub, "a", &n.to_string(), 10);
    }
    hub.tick(100);
    hub.tick(100_000_000);
    assert_eq!(value(&hub, "a").as_deref(), Some("old"));
    retain(&hub, "a", "new");
    assert_eq!(value(&hub, "a").as_deref(), Some("new"));
    assert_eq!(value(&hub, "b"), None);
}

#[test]
fn who_begins_now_is_shown_it_first_if_it_wants_to() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    retain(&hub, "a", "value");
    publish(&hub, "a", "later", 10);
    let wants = Wants {
        retained: true,
        ..Wants::default()
    };
    for (retained, expected) in [(true, vec!["value"]), (false, vec![])] {
        let reader = fanout.open(1, None);
        fanout.add(reader, &name("a"), wants, 10).unwrap();
        fanout.begin(reader, Begin::Now, retained);
        assert_eq!(read_on(&mut fanout, reader), expected);
    }
    let reader = fanout.open(1, None);
    fanout.begin(reader, Begin::Now, true);
    fanout
        .subscribe(reader, &name("a"), Begin::Now, wants, 10)
        .unwrap();
    assert_eq!(read_on(&mut fanout, reader), ["value", "subscribed a"]);
}

#[test]
fn it_is_not_shown_to_the_session_it_was_not_meant_for() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let mut message = Message::text(name("a"), "value");
    message.retain = true;
    message.attributes_mut().exclude_session = Some("me".into());
    publish_message(&hub, message, 10);
    for (session, expected) in [("me", vec![]), ("you", vec!["value"])] {
        let reader = fanout.open(1, Some(session));
        fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
        fanout.begin(reader, Begin::Now, true);
        assert_eq!(read_on(&mut fanout, reader), expected);
    }
}

#[test]
fn forgetting_it_leaves_the_history_and_forgetting_the_history_takes_it_along() {
    let hub = Arc::new(Hub::new(options()));
    retain(&hub, "a", "value");
    publish(&hub, "a", "2", 10);
    assert_eq!(delete(&hub, "a", Delete::Retained, 10), 1);
    assert_eq!(value(&hub, "a"), None);
    assert_eq!(
        history(&hub, "a", Default::default(), 10)
            .unwrap()
            .publications
            .len(),
        2
    );
    retain(&hub, "a", "value");
    assert_eq!(delete(&hub, "a", Delete::History, 10), 3);
    assert_eq!(value(&hub, "a"), None);
    assert!(
        history(&hub, "a", Default::default(), 10)
            .unwrap()
            .publications
            .is_empty()
    );
    assert_eq!(hub.stats().publications, 0);
}

#[test]
fn an_outlived_value_counts_when_the_history_is_deleted() {
    let hub = Arc::new(Hub::new(options()));
    retain(&hub, "a", "value");
    for n in 0..4 {
        publish(&hub, "a", &n.to_string(), 10);
    }
    hub.tick(100);
    assert_eq!(hub.stats().publications, 4, "three and the value");
    assert_eq!(delete(&hub, "a", Delete::History, 100), 4);
}

/// Everything wanted.
const WANTS: Wants = Wants {
    retained: true,
    presence: false,
    public_only: false,
};

#[test]
fn a_stored_value_is_found_after_a_restart_and_when_memory_has_let_it_go() {
    let broker = TestBroker::new(9);
    let hub = store::open(&broker, 1);
    store::store_value(&hub, &broker, "d", "value");
    assert_eq!(value(&hub, "d").as_deref(), Some("value"), "memory has it");
    for n in 0..20 {
        store::store(&hub, &broker, "d", &n.to_string());
    }
    let hub = store::restart(&broker, 2);
    for _ in 0..2 {
        let found = store::value(&hub, &broker, "d").unwrap();
        assert_eq!(word(&found), "value");
        assert_eq!(found.places[0].offset, 1);
    }
    store::store_value(&hub, &broker, "d", "new");
    assert_eq!(value(&hub, "d").as_deref(), Some("new"));
    assert_eq!(value(&hub, "d/never"), None);
}

#[test]
fn a_value_that_is_being_replaced_is_never_none() {
    let broker = TestBroker::new(9);
    store::store_value(&store::open(&broker, 1), &broker, "d", "old");
    let hub = store::restart(&broker, 2);
    let mut message = Message::text(name("d"), "new");
    message.retain = true;
    store::send(&hub, message);
    let stored = broker.batch(usize::MAX, 0);
    let slot = Arc::new(Mutex::new(None));
    let _ = hub.retained(&name("d"), &mut || {
        let slot = slot.clone();
        Box::new(move |answer| *slot.lock().unwrap() = Some(answer.unwrap()))
    });
    assert!(broker.answer(0));
    assert!(
        slot.lock().unwrap().is_none(),
        "the hub has not been told of the new one"
    );
    hub.commit(stored, 10);
    broker.answer(0);
    let value = slot.lock().unwrap().take().unwrap();
    assert_eq!(value.map(|value| word(&value)).as_deref(), Some("new"));
}

#[test]
fn many_stored_values_come_a_few_at_a_time_each_in_its_place() {
    let broker = TestBroker::new(9);
    let hub = store::open(&broker, 1);
    let mut both = Message::text(name("d/0"), "both");
    both.channels.push(name("d/1"));
    both.retain = true;
    store::send(&hub, both);
    store::commit(&hub, &broker);
    for n in 2..40 {
        store::store_value(&hub, &broker, &format!("d/{n}"), &n.to_string());
    }
    store::delete(&hub, &broker, "d/1", Delete::Retained);
    let hub = store::restart(&broker, 2);
    retain(&hub, "m", "memory");
    let names: Vec<_> = (0..40)
        .map(|n| name(&format!("d/{n}")))
        .chain([name("m"), name("d")])
        .collect();
    let (values, reads) = store::ask(&broker, |later| hub.retained_values(names, later));
    assert_eq!(reads, 3);
    let words: Vec<Option<String>> = values.iter().map(|v| v.as_ref().map(|v| word(v))).collect();
    let mut expected: Vec<Option<String>> = (0..40).map(|n| Some(n.to_string())).collect();
    // It was that of two channels, of which one has none any more.
    expected[0] = Some("both".into());
    expected[1] = None;
    expected.extend([Some("memory".into()), None]);
    assert_eq!(words, expected);
}

#[test]
fn who_begins_now_is_shown_stored_values_first_and_nothing_twice() {
    let broker = TestBroker::new(9);
    let hub = store::open(&broker, 1);
    for channel in ["d1", "d2", "d3"] {
        store::store_value(&hub, &broker, channel, &format!("value of {channel}"));
    }
    let hub = store::restart(&broker, 2);
    let mut fanout = shard(&hub);
    retain(&hub, "m", "value of m");
    let reader = fanout.open(1, None);
    for channel in ["d1", "m", "d2", "d3"] {
        fanout.add(reader, &name(channel), WANTS, 10).unwrap();
    }
    assert!(!fanout.begin(reader, Begin::Now, true));
    assert!(fanout.owes(reader), "its cursor would hide them");
    // While the store is asked, one is replaced, and one is deleted.
    let mut steps = Vec::new();
    let limits = cometserver_core::hub::ReadLimits {
        items: 10,
        bytes: 1_000,
    };
    let Progress::Cold(fetch) = fanout.next(reader, limits, &mut steps) else {
        panic!("it is in the store")
    };
    assert_eq!(fetch.channels.len(), 3, "all at once");
    let page = Arc::new(Mutex::new(None));
    let slot = page.clone();
    hub.fetch(fetch, Box::new(move |page| *slot.lock().unwrap() = page.ok()));
    broker.answer(0);
    store::store_value(&hub, &broker, "d1", "new value of d1");
    store::delete(&hub, &broker, "d2", Delete::Retained);
    fanout.fetched(reader, page.lock().unwrap().take().unwrap());
    while !fanout.is_live(reader) {
        let next = fanout.next(reader, limits, &mut steps);
        assert!(!matches!(next, Progress::Cold(_)), "one page has them all");
    }
    assert_eq!(store::words(&steps), ["value of m", "value of d3"]);
    assert_eq!(
        round(&mut fanout),
        [(1, "new value of d1".into())],
        "the new one comes live, and only that"
    );
    assert!(matches!(steps[1], Step::Publication(_, _, None)));
    assert!(!fanout.owes(reader));
}

#[test]
fn a_late_subscription_begins_with_the_stored_value_and_who_gives_up_is_told_whose() {
    let broker = TestBroker::new(9);
    let hub = store::open(&broker, 1);
    store::store_value(&hub, &broker, "d", "value");
    let hub = store::restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.begin(reader, Begin::Now, false);
    fanout
        .subscribe(reader, &name("d"), Begin::Now, WANTS, 10)
        .unwrap();
    store::store(&hub, &broker, "d", "live");
    let words = store::words(&store::read(&hub, &broker, &mut fanout, reader));
    assert_eq!(words, ["value", "subscribed d"]);
    assert_eq!(round(&mut fanout), [(1, "live".into())]);

    let reader = fanout.open(2, None);
    fanout.add(reader, &name("d"), WANTS, 10).unwrap();
    fanout.begin(reader, Begin::Now, true);
    let limits = cometserver_core::hub::ReadLimits {
        items: 10,
        bytes: 1_000,
    };
    assert!(matches!(
        fanout.next(reader, limits, &mut Vec::new()),
        Progress::Cold(_)
    ));
    assert!(fanout.owes(reader));
    let owed = fanout.give_up(reader);
    assert!(matches!(&owed[..], [Target::Channel(channel)] if channel.name == name("d")));
    assert!(!fanout.owes(reader));
    assert!(store::read(&hub, &broker, &mut fanout, reader).is_empty());
}

#[test]
fn a_stored_value_is_not_shown_to_the_session_it_was_not_meant_for() {
    let broker = TestBroker::new(9);
    let hub = store::open(&broker, 1);
    let mut message = Message::text(name("d"), "value");
    message.retain = true;
    message.attributes_mut().exclude_session = Some("me".into());
    store::send(&hub, message);
    store::commit(&hub, &broker);
    let hub = store::restart(&broker, 2);
    let mut fanout = shard(&hub);
    for (session, expected) in [("me", 0), ("you", 1)] {
        let reader = fanout.open(1, Some(session));
        fanout.add(reader, &name("d"), WANTS, 10).unwrap();
        fanout.begin(reader, Begin::Now, true);
        assert_eq!(store::read(&hub, &broker, &mut fanout, reader).len(), expected);
    }
}

#[test]
fn stored_values_larger_than_a_page_are_all_shown_whatever_order_they_were_stored_in() {
    let broker = TestBroker::new(9);
    let hub = store::open(&broker, 1);
    // Half of what a reader of these tests takes at a time; the last one stored is the first one listened to.
    let large = "x".repeat(600 << 10);
    let channels = ["d/5", "d/4", "d/3", "d/2", "d/1"];
    for channel in channels.iter().rev() {
        store::store_value(&hub, &broker, channel, &format!("{channel}{large}"));
    }
    let hub = store::restart(&broker, 2);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    for channel in channels {
        fanout.add(reader, &name(channel), WANTS, 10).unwrap();
    }
    fanout.begin(reader, Begin::Now, true);
    let words = store::words(&store::read(&hub, &broker, &mut fanout, reader));
    let first: Vec<&str> = words.iter().map(|word| &word[..3]).collect();
    assert_eq!(first, channels);
}
