//! Durable channels: what is not in memory comes from the store, and nothing shows before it is committed.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/store.rs"]
mod store;
#[path = "support/hub.rs"]
mod support;

use std::sync::{Arc, Mutex};

use broker::TestBroker;
use cometserver_core::broker::{BrokerError, Committed, Outcome};
use cometserver_core::fanout::{Begin, Progress, Wants};
use cometserver_core::hub::{
    Answer, Delete, HistoryQuery, Hub, Options, PublishError, Published, ReadLimits, Start,
};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::publication::{Message, Publication};
use store::{
    ask, commit, delete, history, open, read, restart, send, store, store_value, stored_options, words,
};
use support::{name, namespace, pattern, publish, shard, word};

fn texts(publications: &[Arc<Publication>]) -> Vec<String> {
    publications.iter().map(|publication| word(publication)).collect()
}

fn numbers(hub: &Hub, broker: &TestBroker, channel: &str, count: u32) {
    for n in 1..=count {
        store(hub, broker, channel, &n.to_string());
    }
}

#[test]
fn a_history_comes_from_the_store_page_by_page_in_both_directions() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let seen = hub.now();
    numbers(&hub, &broker, "d", 5);
    publish(&hub, "m", "x", 10);
    for restarted in [false, true] {
        let hub = if restarted {
            restart(&broker, 2)
        } else {
            hub.clone()
        };
        let query = HistoryQuery {
            limit: 2,
            ..HistoryQuery::default()
        };
        let first = history(&hub, &broker, "d", query);
        assert_eq!(texts(&first.publications), ["1", "2"]);
        assert_eq!((first.offset, first.gap, first.at.durable), (5, false, 2));
        let since = |position| {
            Some(Start {
                position,
                ..Start::default()
            })
        };
        let next = HistoryQuery {
            since: since(first.at),
            limit: 10,
            reverse: false,
        };
        let rest = history(&hub, &broker, "d", next);
        assert_eq!(texts(&rest.publications), ["3", "4", "5"]);
        assert_eq!(rest.at, hub.now(), "up to now");
        assert_eq!(rest.publications[0].places[0].offset, 3);
        let newest = HistoryQuery {
            since: since(seen),
            reverse: true,
            ..query
        };
        let newest = history(&hub, &broker, "d", newest);
        assert_eq!(texts(&newest.publications), ["5", "4"]);
        assert_eq!((newest.gap, newest.at), (false, hub.now()));
        let answer = hub.history(
            &name("d"),
            HistoryQuery {
                since: since(hub.now()),
                ..query
            },
            10,
            &mut || panic!("there is nothing to ask for"),
        );
        let nothing = answer.ready().unwrap().unwrap();
        assert_eq!(
            (nothing.publications.len(), nothing.gap, nothing.offset),
            (0, false, 5)
        );
    }
}

#[test]
fn a_history_says_what_is_gone_and_what_was_never_there() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    numbers(&hub, &broker, "d", 12);
    let since = |durable, lost_durable| HistoryQuery {
        since: Some(Start {
            position: cometserver_core::Position { durable, memory: 0 },
            lost_durable,
            lost_memory: false,
        }),
        ..HistoryQuery::default()
    };
    let gap = |query| history(&hub, &broker, "d", query).gap;
    assert!(gap(since(2, false)) && !gap(since(3, false)) && gap(since(4, true)));
    assert!(!gap(HistoryQuery::default()), "it asked for what is kept");
    let unknown = |query| {
        hub.history(&name("d/never"), query, 10, &mut || panic!("nobody has it"))
            .ready()
            .unwrap()
    };
    assert!(unknown(HistoryQuery::default()).is_none());
    assert!(!unknown(since(3, false)).unwrap().gap);
    // What was in a channel that is not even known by name may have been in this one.
    store(&hub, &broker, "d/lost", "x");
    broker.expire(&name("d/lost"), 1);
    hub.tick(1_000);
    hub.tick(2_000);
    assert!(!broker.is_open(&name("d/lost")));
    let lost = |query| history(&hub, &broker, "d/lost", query);
    assert!(lost(since(12, false)).gap);
    let answer = hub.history(&name("d/lost"), since(13, false), 10, &mut || {
        panic!("it has seen it")
    });
    assert!(!answer.ready().unwrap().unwrap().gap);
}

#[test]
fn a_history_with_a_hole_says_that_something_is_gone() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    numbers(&hub, &broker, "d", 6);
    broker.lose(&name("d"), 3);
    for (limit, reverse, gap) in [
        (9, false, true),
        (9, true, true),
        (2, false, false),
        (3, true, false),
    ] {
        let query = HistoryQuery {
            limit,
            reverse,
            ..HistoryQuery::default()
        };
        assert_eq!(history(&hub, &broker, "d", query).gap, gap, "{limit} {reverse}");
    }
}

#[test]
fn an_answer_about_a_stored_history_is_bounded_in_bytes() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let large = "x".repeat(200 << 10);
    for text in [&large, "small", &large] {
        store(&hub, &broker, "d", text);
    }
    let lengths = |reverse| {
        let query = HistoryQuery {
            reverse,
            ..HistoryQuery::default()
        };
        let history = history(&hub, &broker, "d", query);
        let lengths = history.publications.iter().map(|p| p.body.payload_len());
        (lengths.collect::<Vec<_>>(), history.at.durable)
    };
    assert_eq!(lengths(false), (vec![200 << 10, 5], 2));
    assert_eq!(lengths(true), (vec![200 << 10, 5], 3));
}

#[test]
fn what_is_deleted_is_gone_when_that_is_committed_and_who_had_not_read_it_is_told() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let mut fanout = shard(&hub);
    let start = Begin::At(Start {
        position: hub.now(),
        ..Start::default()
    });
    store_value(&hub, &broker, "d", "1");
    store(&hub, &broker, "d", "2");
    assert_eq!(delete(&hub, &broker, "d", Delete::Retained), 1);
    assert_eq!(delete(&hub, &broker, "d", Delete::Retained), 0);
    let value = hub.retained(&name("d"), &mut || panic!("there is none"));
    assert!(matches!(value, Answer::Ready(None)));
    assert_eq!(delete(&hub, &broker, "d", Delete::History), 2);
    assert_eq!(hub.stats().publications, 0, "nor is it in memory");
    store(&hub, &broker, "d", "3");
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("d"), Wants::default(), 10).unwrap();
    fanout.begin(reader, start, false);
    assert_eq!(words(&read(&hub, &broker, &mut fanout, reader)), ["gap d", "3"]);
    assert_eq!(
        texts(&history(&hub, &broker, "d", HistoryQuery::default()).publications),
        ["3"]
    );
    let answer = hub.delete(&name("d/never"), Delete::History, 10, &mut || {
        panic!("nobody has it")
    });
    assert_eq!(answer.unwrap().ready(), Some(0));
    broker.refuse(true);
    let refused = hub.delete(&name("d"), Delete::History, 10, &mut || panic!("it is not taken"));
    assert!(matches!(refused, Err(BrokerError::Unavailable(_))));
}

#[test]
fn a_deletion_that_fails_forgets_nothing() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    store_value(&hub, &broker, "d", "1");
    let failed = Arc::new(Mutex::new(None));
    hub.delete(&name("d"), Delete::History, 10, &mut || {
        let failed = failed.clone();
        Box::new(move |answer| *failed.lock().unwrap() = Some(answer))
    })
    .unwrap();
    hub.commit(broker.batch(1, 1), 10);
    assert!(matches!(
        *failed.lock().unwrap(),
        Some(Err(BrokerError::Unknown(_)))
    ));
    let value = hub.retained(&name("d"), &mut || panic!("memory has it"));
    assert!(value.ready().unwrap().is_some());
}

#[test]
fn channels_are_listed_each_once_be_they_in_memory_or_stored() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    for n in 0..5 {
        store(&hub, &broker, &format!("d/{n}"), "x");
    }
    store_value(&hub, &broker, "d/1", "y");
    let hub = restart(&broker, 2);
    for n in 0..5 {
        publish(&hub, &format!("m/{n}"), "x", 10);
    }
    // One that is stored and listened to, and one that is listened to only.
    hub.listen(0, &name("d/2"), 10).unwrap();
    hub.listen(0, &name("d/quiet"), 10).unwrap();
    for limit in [1, 2, 3, 100] {
        let (mut found, mut after) = (Vec::new(), Some(0));
        while let Some(from) = after {
            let (page, next) = hub.channels(None, from, limit);
            assert!(page.len() <= limit && next.is_none_or(|next| next > from && next < 1 << 53));
            found.extend(page);
            after = next;
        }
        let names: Vec<_> = found
            .iter()
            .map(|c| String::from_utf8_lossy(c.name.as_bytes()).into_owned())
            .collect();
        let expected = "m/0 m/1 m/2 m/3 m/4 d/quiet d/0 d/1 d/2 d/3 d/4";
        assert_eq!(names.join(" "), expected, "limit {limit}");
        let of = |name: &str| &found[names.iter().position(|own| own == name).unwrap()];
        assert_eq!(
            (of("d/1").offset, of("d/1").publications, of("d/1").retained),
            (2, 2, true)
        );
        assert!(of("d/2").listened && of("d/quiet").listened && !of("d/1").listened);
        assert!(!of("d/2").retained && of("d/1").bytes > 0);
    }
    let (found, next) = hub.channels(Some(&pattern("*/1")), 0, 100);
    assert_eq!((found.len(), next), (2, None));
}

#[test]
fn a_buffered_publisher_is_answered_at_once_up_to_a_bound() {
    let broker = TestBroker::new(9);
    let hub = Hub::with_broker(
        Options {
            buffered: 100,
            ..stored_options(1)
        },
        broker.clone(),
    );
    let answered = Arc::new(Mutex::new(0));
    let publish = |channels: &[&str]| {
        let mut message = Message::text(name(channels[0]), &"x".repeat(60));
        message.channels = channels.iter().map(|channel| name(channel)).collect();
        let published = hub.publish(message, 10, &mut || {
            let answered = answered.clone();
            Box::new(move |_| *answered.lock().unwrap() += 1)
        });
        published.unwrap()
    };
    assert!(matches!(publish(&["b"]), Published::Accepted));
    assert_eq!(hub.now().durable, 0, "nothing shows before it is committed");
    assert!(
        matches!(publish(&["b"]), Published::Pending),
        "120 bytes would wait"
    );
    commit(&hub, &broker);
    assert_eq!(*answered.lock().unwrap(), 1);
    assert!(
        matches!(publish(&["b", "d"]), Published::Pending),
        "the strictest wins"
    );
    commit(&hub, &broker);
    assert!(matches!(publish(&["m", "b"]), Published::Accepted));
    hub.commit(broker.batch(1, 1), 10);
    assert_eq!(hub.stats().lost, 1, "answered, and then not stored");
    assert_eq!(*answered.lock().unwrap(), 2);
    assert_eq!((hub.now().durable, hub.now().memory), (3, 0));
}

#[test]
fn a_failed_submission_leaves_no_trace() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let mut message = Message::text(name("d"), "x");
    message.channels.push(name("m"));
    message.retain = true;
    for failing in [true, false] {
        let told = Arc::new(Mutex::new(None));
        hub.publish(message.clone(), 10, &mut || {
            let told = told.clone();
            Box::new(move |result| *told.lock().unwrap() = Some(result))
        })
        .unwrap();
        hub.commit(broker.batch(1, u32::from(failing)), 10);
        let told = told.lock().unwrap().take().unwrap();
        if failing {
            assert!(matches!(told, Err(PublishError::Broker(BrokerError::Unknown(_)))));
            assert_eq!((hub.now(), hub.stats().publications), Default::default());
            assert!(matches!(
                hub.retained(&name("m"), &mut || panic!()),
                Answer::Ready(None)
            ));
        } else {
            let offsets: Vec<u64> = told.unwrap().places.iter().map(|place| place.offset).collect();
            assert_eq!(offsets, [1, 1], "each channel counts for itself");
        }
    }
}

#[test]
fn a_channel_is_closed_when_it_is_forgotten_and_never_while_something_of_it_waits() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    send(&hub, Message::text(name("d"), "1"));
    let mut now = 0;
    let mut pass = || {
        for _ in 0..3 {
            now += 1_000_000;
            hub.tick(now);
        }
    };
    pass();
    assert!(broker.is_open(&name("d")), "its submission waits");
    commit(&hub, &broker);
    assert_eq!(hub.now().durable, 1);
    pass();
    assert!(!broker.is_open(&name("d")));
    let (answer, _) = ask(&broker, |later| {
        hub.history(&name("d"), HistoryQuery::default(), 10, later)
    });
    assert_eq!(texts(&answer.unwrap().publications), ["1"]);
    assert!(broker.is_open(&name("d")), "it is found again");
    hub.delete(&name("d"), Delete::History, 10, &mut || Box::new(|_| {}))
        .unwrap();
    pass();
    assert!(broker.is_open(&name("d")), "its deletion waits");
    commit(&hub, &broker);
    pass();
    assert!(!broker.is_open(&name("d")));
    publish(&hub, "m", "x", 10);
    assert!(
        !broker.is_open(&name("m")),
        "what is in memory is none of its concern"
    );
}

#[test]
fn what_a_channel_in_memory_still_keeps_is_shown_in_one_that_was_forgotten_and_made_again() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let start = Begin::At(Start {
        position: hub.now(),
        ..Start::default()
    });
    let mut message = Message::text(name("m"), "both");
    message.channels.push(name("d"));
    send(&hub, message);
    commit(&hub, &broker);
    hub.tick(1_000);
    hub.tick(2_000);
    assert!(!broker.is_open(&name("d")), "forgotten");
    let mut fanout = shard(&hub);
    for with_pattern in [false, true] {
        let reader = fanout.open(1, None);
        fanout.add(reader, &name("d"), Wants::default(), 10).unwrap();
        if with_pattern {
            fanout
                .add_pattern(reader, &pattern("other/*"), Wants::default())
                .unwrap();
        }
        fanout.begin(reader, start, false);
        assert_eq!(words(&read(&hub, &broker, &mut fanout, reader)), ["both"]);
    }
}

#[test]
fn a_gap_is_told_before_what_another_channel_has_kept_of_one_that_was_forgotten_and_made_again() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let start = Begin::At(Start {
        position: hub.now(),
        ..Start::default()
    });
    store(&hub, &broker, "d/1", "lost");
    let mut message = Message::text(name("m"), "both");
    message.channels.push(name("d/1"));
    send(&hub, message);
    commit(&hub, &broker);
    hub.tick(1_000);
    hub.tick(2_000);
    assert!(!broker.is_open(&name("d/1")), "forgotten");
    store(&hub, &broker, "d/1", "lost as well");
    assert_eq!(delete(&hub, &broker, "d/1", Delete::History), 3);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout
        .add_pattern(reader, &pattern("d/*"), Wants::default())
        .unwrap();
    fanout.begin(reader, start, false);
    assert_eq!(
        words(&read(&hub, &broker, &mut fanout, reader)),
        ["gap d/1", "both", "gap d/1"]
    );
}

#[test]
fn a_late_subscription_is_not_shown_what_preceded_something_that_was_read_from_the_store() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let mut fanout = shard(&hub);
    // The shard listens to it from the beginning.
    let other = fanout.open(1, None);
    fanout.add(other, &name("m"), Wants::default(), 10).unwrap();
    let start = Begin::At(Start {
        position: hub.now(),
        ..Start::default()
    });
    publish(&hub, "m", "before", 10);
    store(&hub, &broker, "d", "1");
    publish(&hub, "m", "after", 10);
    store(&hub, &broker, "d", "2");
    hub.tick(1_000);
    let reader = fanout.open(2, None);
    fanout.add(reader, &name("d"), Wants::default(), 10).unwrap();
    fanout.begin(reader, start, false);
    let mut steps = Vec::new();
    let limits = ReadLimits {
        items: 1,
        bytes: 1_000,
    };
    while steps.is_empty() {
        if let Progress::Cold(fetch) = fanout.next(reader, limits, &mut steps) {
            let page = Arc::new(Mutex::new(None));
            let slot = page.clone();
            hub.fetch(fetch, Box::new(move |page| *slot.lock().unwrap() = page.ok()));
            broker.answer(0);
            fanout.fetched(reader, page.lock().unwrap().take().unwrap());
        }
    }
    let first = fanout.position(reader);
    fanout
        .subscribe(
            reader,
            &name("m"),
            Begin::At(Start {
                position: first,
                ..Start::default()
            }),
            Wants::default(),
            10,
        )
        .unwrap();
    fanout.round(|_, _, _, _| {});
    steps.extend(read(&hub, &broker, &mut fanout, reader));
    assert_eq!(words(&steps), ["1", "subscribed m", "after", "2"]);
}

#[test]
fn what_was_committed_without_the_hub_knowing_of_it_is_read_from_the_store() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("d"), Wants::default(), 10).unwrap();
    fanout.begin(reader, Begin::Now, false);
    store(&hub, &broker, "d", "1");
    fanout.round(|_, _, _, _| {});
    let mut value = Message::text(name("d"), "2");
    value.retain = true;
    for message in [
        value,
        Message::text(name("d"), "3"),
        Message::text(name("d"), "4"),
    ] {
        send(&hub, message);
    }
    let mut batch = broker.batch(3, 0);
    // The hub does not recognise one, and of another it is not even told.
    batch.remove(1);
    batch[0] = Committed {
        ticket: 999,
        result: Ok(Outcome::Published {
            position: 2,
            offsets: vec![2],
        }),
    };
    hub.commit(batch, 10);
    assert_eq!(hub.now().durable, 4);
    assert!(fanout.round(|_, _, _, _| panic!("it reads for itself")).lagged);
    assert_eq!(words(&read(&hub, &broker, &mut fanout, reader)), ["2", "3", "4"]);
    assert_eq!(word(&store::value(&hub, &broker, "d").unwrap()), "2");
}

#[test]
fn without_a_store_everything_is_kept_in_memory() {
    for reloaded in [false, true] {
        let hub = Arc::new(Hub::new(stored_options(1)));
        if reloaded {
            hub.set_namespaces(stored_options(1).namespaces);
        }
        for n in 1..=3 {
            publish(&hub, "d", &n.to_string(), 10);
        }
        hub.tick(1_000);
        hub.tick(2_000);
        let kept = support::history(&hub, "d", HistoryQuery::default(), 2_000).unwrap();
        assert_eq!(texts(&kept.publications), ["1", "2", "3"]);
        assert_eq!(support::delete(&hub, "d", Delete::History, 2_000), 3);
    }
}

#[test]
fn the_store_is_told_of_other_bounds() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    numbers(&hub, &broker, "d", 4);
    hub.set_namespaces(Namespaces::uniform(namespace(2, Durability::Committed)));
    store(&hub, &broker, "d", "5");
    let kept = history(&hub, &broker, "d", HistoryQuery::default());
    assert_eq!(texts(&kept.publications), ["4", "5"]);
}
