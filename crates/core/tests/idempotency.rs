//! A request repeated under its key publishes nothing and gets the first one's answer.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/hub.rs"]
mod support;

use std::sync::{Arc, Mutex};

use broker::TestBroker;
use cometserver_core::hub::{Completion, Hub, Options, PublishError, Published, Receipt};
use cometserver_core::idempotency::{Claim, Keys, Known};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::publication::Message;
use cometserver_core::quota::{Parts, Payer};
use support::{name, namespace, options};

fn message(key: &str, text: &str) -> Message {
    let mut message = Message::text(name("a"), text);
    message.idempotency_key = Some(key.into());
    message
}

fn at_once(hub: &Hub, key: &str, text: &str, now: u64) -> Result<Receipt, PublishError> {
    match hub.publish(message(key, text), now, &mut || panic!("memory does not wait"))? {
        Published::Visible(receipt) => Ok(receipt),
        published => panic!("memory does not wait: {published:?}"),
    }
}

type Answers = Arc<Mutex<Vec<(u32, Result<Receipt, PublishError>)>>>;

fn later(answers: &Answers, number: u32) -> impl FnMut() -> Completion + use<> {
    let answers = answers.clone();
    move || {
        let answers = answers.clone();
        Box::new(move |result| answers.lock().unwrap().push((number, result)))
    }
}

fn durable() -> (Arc<TestBroker>, Hub) {
    let broker = TestBroker::new(10);
    let namespaces = Namespaces::uniform(namespace(3, Durability::Committed));
    let options = Options {
        namespaces,
        idempotency_window: 1_000,
        ..options()
    };
    let hub = Hub::with_broker(options, broker.clone());
    (broker, hub)
}

#[test]
fn a_repetition_gets_the_first_answer_within_the_window_and_another_payload_is_a_conflict() {
    let hub = Hub::new(Options {
        idempotency_window: 1_000,
        ..options()
    });
    let first = at_once(&hub, "k", "x", 10).unwrap();
    let again = at_once(&hub, "k", "x", 1_009).unwrap();
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(first.at, again.at);
    assert_eq!(
        at_once(&hub, "k", "y", 1_009).unwrap_err(),
        PublishError::Conflict
    );
    assert!(
        !at_once(&hub, "k", "y", 1_010).unwrap().duplicate,
        "the window is over"
    );
    assert_eq!(hub.stats().published, 2);
}

#[test]
fn the_channels_of_a_repetition_may_come_in_any_order_and_more_than_once() {
    let among = |channels: &[&str]| Message {
        channels: channels.iter().map(|one| name(one)).collect(),
        ..message("k", "x")
    };
    let orders: [&[&str]; 4] = [
        &["b", "a", "c"],
        &["c", "b", "a"],
        &["a", "b", "c"],
        &["b", "c", "b", "a", "a"],
    ];
    let (broker, stored) = durable();
    for (number, order) in orders.into_iter().enumerate() {
        let at_once = Hub::new(options());
        let publish = |channels: &[&str]| match at_once.publish(among(channels), 10, &mut || panic!()) {
            Ok(Published::Visible(receipt)) => Ok(receipt.duplicate),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(publish(order), Ok(false));
        for again in orders {
            assert_eq!(publish(again), Ok(true), "{order:?}, {again:?}");
        }
        for other in [&["a", "b"][..], &["a", "b", "c", "d"]] {
            assert_eq!(
                publish(other),
                Err(PublishError::Conflict),
                "other channels are another message"
            );
        }
        // And where a store keeps it: all wait for the first.
        let published = stored.publish(among(order), 10, &mut later(&Answers::default(), number as u32));
        assert!(matches!(published, Ok(Published::Pending)));
        assert_eq!(broker.waiting(), 1, "{order:?}");
    }
}

#[test]
fn only_so_many_keys_are_known() {
    let hub = Hub::new(Options {
        idempotency_keys: 10,
        ..options()
    });
    for n in 0..100 {
        at_once(&hub, &n.to_string(), "x", 10).unwrap();
    }
    assert!(hub.stats().keys <= 11);
    assert!(
        at_once(&hub, "99", "x", 10).unwrap().duplicate,
        "the newest is among them"
    );
    assert!(!at_once(&hub, "0", "x", 10).unwrap().duplicate);
}

#[test]
fn the_second_waits_for_the_first() {
    let (broker, hub) = durable();
    let answers = Answers::default();
    for number in 0..3 {
        let published = hub
            .publish(message("k", "x"), 10, &mut later(&answers, number))
            .unwrap();
        assert!(matches!(published, Published::Pending));
    }
    assert_eq!(broker.waiting(), 1);
    assert!(answers.lock().unwrap().is_empty());
    hub.commit(broker.batch(1, 0), 10);
    let mut answers = std::mem::take(&mut *answers.lock().unwrap());
    answers.sort_by_key(|(number, _)| *number);
    let duplicates: Vec<bool> = answers
        .iter()
        .map(|(_, r)| r.as_ref().unwrap().duplicate)
        .collect();
    assert_eq!(duplicates, [false, true, true]);
}

#[test]
fn a_failure_frees_the_key_and_the_window_begins_with_the_next_use() {
    let (broker, hub) = durable();
    let answers = Answers::default();
    let publish = |now| {
        hub.publish(message("k", "x"), now, &mut later(&answers, 0))
            .unwrap()
    };
    publish(10);
    publish(10);
    hub.commit(broker.batch(1, 1), 10);
    assert_eq!(
        answers.lock().unwrap().iter().filter(|(_, r)| r.is_err()).count(),
        2,
        "both are told"
    );
    assert!(matches!(publish(900), Published::Pending));
    hub.commit(broker.batch(1, 0), 900);
    let Published::Visible(again) = publish(1_100) else {
        panic!("the key is known until 1900");
    };
    assert!(again.duplicate);
}

#[test]
fn a_refusal_frees_the_key_and_a_hung_store_does_not_keep_the_housekeeper_busy() {
    let (broker, hub) = durable();
    let answers = Answers::default();
    broker.refuse(true);
    assert!(matches!(
        hub.publish(message("k", "x"), 10, &mut later(&answers, 0)),
        Err(PublishError::Broker(_))
    ));
    broker.refuse(false);
    hub.publish(message("k", "x"), 10, &mut later(&answers, 0))
        .unwrap();
    let next = hub.tick(50_000);
    assert!(next.is_none_or(|next| next > 50_000), "{next:?}");
}

#[test]
fn a_repetition_of_what_was_accepted_is_accepted_until_it_is_visible() {
    let broker = TestBroker::new(10);
    let namespaces = Namespaces::uniform(namespace(3, Durability::Buffered));
    let options = Options {
        namespaces,
        ..options()
    };
    let hub = Hub::with_broker(options, broker.clone());
    let publish = || {
        hub.publish(message("k", "x"), 10, &mut || panic!("nobody waits"))
            .unwrap()
    };
    assert!(matches!(publish(), Published::Accepted));
    assert!(matches!(publish(), Published::Accepted));
    assert_eq!(broker.waiting(), 1);
    hub.commit(broker.batch(1, 1), 10);
    assert!(
        matches!(publish(), Published::Accepted),
        "it failed: the key is free"
    );
    hub.commit(broker.batch(1, 0), 10);
    assert!(matches!(publish(), Published::Visible(receipt) if receipt.duplicate));
}

#[test]
fn keys_are_known_after_a_restart_for_what_is_left_of_the_window() {
    let (broker, hub) = durable();
    let answers = Answers::default();
    hub.publish(message("k", "x"), 10, &mut later(&answers, 0))
        .unwrap();
    hub.commit(broker.batch(1, 0), 10);
    let before = answers.lock().unwrap().pop().unwrap().1.unwrap();
    hub.publish(message("never", "x"), 10, &mut later(&answers, 0))
        .unwrap();
    broker.restart(2);
    let options = Options {
        namespaces: Namespaces::uniform(namespace(3, Durability::Committed)),
        idempotency_window: 1_000,
        ..options()
    };
    let hub = Hub::with_broker(options, broker.clone());
    let publish = |message, now| hub.publish(message, now, &mut later(&answers, 0));
    for _ in 0..2 {
        let Ok(Published::Visible(after)) = publish(message("k", "x"), 1_009) else {
            panic!("it was published")
        };
        assert!(after.duplicate);
        assert_eq!(after.at.durable, before.at.durable);
        let of = |receipt: &Receipt| {
            let place = &receipt.places[0];
            (place.channel.name.clone(), place.channel.epoch, place.offset)
        };
        assert_eq!(of(&after), of(&before));
    }
    assert_eq!(
        publish(message("k", "y"), 1_009).unwrap_err(),
        PublishError::Conflict
    );
    let mut elsewhere = message("k", "x");
    elsewhere.channels.push(name("b"));
    assert_eq!(publish(elsewhere, 1_009).unwrap_err(), PublishError::Conflict);
    assert!(matches!(
        publish(message("never", "x"), 1_009),
        Ok(Published::Pending)
    ));
    assert!(
        matches!(publish(message("k", "x"), 1_010), Ok(Published::Pending)),
        "the window is over"
    );
    hub.commit(broker.batch(2, 0), 1_010);
    assert_eq!(hub.now().durable, 3);
}

#[test]
fn the_scope_of_a_key_is_the_same_after_a_restart_if_memory_comes_first() {
    let broker = TestBroker::new(10);
    let start = |incarnation| {
        let namespaces = Namespaces {
            listed: vec![(
                (*support::pattern("d*")).clone(),
                Arc::new(namespace(3, Durability::Committed)),
            )],
            fallback: Arc::new(namespace(3, Durability::Memory)),
        };
        let options = Options {
            namespaces,
            incarnation,
            ..options()
        };
        Hub::with_broker(options, broker.clone())
    };
    let mut message = message("k", "x");
    message.channels.extend([name("d"), name("d"), name("d2")]);
    let hub = start(1);
    hub.publish(message.clone(), 10, &mut || Box::new(|_| {}))
        .unwrap();
    hub.commit(broker.batch(1, 0), 10);
    broker.restart(2);
    let hub = start(2);
    let again = hub.publish(message, 10, &mut || panic!("it was published"));
    assert!(
        matches!(again, Ok(Published::Visible(receipt)) if receipt.duplicate && receipt.places.len() == 2)
    );
}

#[test]
fn keys_that_wait_for_the_store_do_not_keep_the_others_from_being_forgotten() {
    for payer in [Payer::SITE, Payer::anonymous(1 << 8)] {
        let parts = Parts { one: 50, all: 100 }.of(100, 0);
        let mut keys = Keys::new(1_000, 100, parts);
        let receipt = at_once(&Hub::new(options()), "k", "x", 10).unwrap();
        let claim = |key: String| Claim {
            scope: (name("a"), key.into()),
            digest: 1,
        };
        for n in 0..30 {
            assert!(matches!(
                keys.claim(&claim(format!("waits {n}")), payer, 10),
                Known::New
            ));
        }
        for n in 0..1_000 {
            let claim = claim(n.to_string());
            assert!(matches!(keys.claim(&claim, payer, 10), Known::New));
            keys.done(&claim.scope, &receipt);
        }
        assert!(keys.len() <= 101, "{} keys", keys.len());
        for n in 0..30 {
            let claim = claim(format!("waits {n}"));
            assert!(matches!(keys.claim(&claim, payer, 10), Known::Pending));
        }
        // When all are old those that wait are the only ones left.
        assert!(!keys.forget(2_000, 10_000));
        assert_eq!((keys.len(), keys.deadline()), (30, None));
    }
}
