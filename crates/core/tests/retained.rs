//! The retained value of a channel outlives its history, and is replaced by the next one.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::fanout::{Begin, Wants};
use cometserver_core::hub::{Delete, Hub};
use cometserver_core::publication::Message;
use support::{delete, history, name, options, publish, publish_message, read_on, retained, shard, word};

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
