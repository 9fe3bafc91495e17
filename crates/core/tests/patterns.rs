//! Who listens to a pattern sees every channel that matches, each publication once.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::fanout::{Begin, Wants};
use cometserver_core::hub::{Hub, ListenError, Options};
use cometserver_core::namespace::{Durability, Namespace, Namespaces};
use cometserver_core::publication::Message;
use support::{name, namespace, options, pattern, publish, publish_message, read_on, round, shard};

#[test]
fn a_publication_that_several_ways_lead_to_is_told_once() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("a/1"), Wants::default(), 10).unwrap();
    for text in ["a/*", "**"] {
        fanout
            .add_pattern(reader, &pattern(text), Wants::default())
            .unwrap();
    }
    let before = hub.now();
    fanout.begin(reader, Begin::Now, false);
    let mut message = Message::text(name("a/1"), "1");
    message.channels.extend([name("a/2"), name("b")]);
    publish_message(&hub, message, 10);
    publish(&hub, "c", "2", 10);
    assert_eq!(round(&mut fanout), [(1, "1".into()), (1, "2".into())]);
    fanout.close(reader, 10);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("a/1"), Wants::default(), 10).unwrap();
    fanout
        .add_pattern(reader, &pattern("**"), Wants::default())
        .unwrap();
    fanout.begin(reader, Begin::At(hub.resolve(&hub.cursor(before))), false);
    assert_eq!(
        read_on(&mut fanout, reader),
        ["1", "2"],
        "and once when it is read again"
    );
}

#[test]
fn a_pattern_without_a_grant_sees_public_channels_only() {
    let private = Namespace {
        public: false,
        ..namespace(3, Durability::Memory)
    };
    let namespaces = Namespaces {
        listed: vec![((*pattern("secret/*")).clone(), Arc::new(private))],
        fallback: Arc::new(namespace(3, Durability::Memory)),
    };
    let hub = Arc::new(Hub::new(Options {
        namespaces,
        ..options()
    }));
    let mut fanout = shard(&hub);
    let wants = Wants {
        public_only: true,
        ..Wants::default()
    };
    let reader = fanout.open(1, None);
    fanout.add_pattern(reader, &pattern("**"), wants).unwrap();
    fanout.begin(reader, Begin::Now, false);
    let before = hub.now();
    publish(&hub, "secret/1", "secret", 10);
    publish(&hub, "open", "open", 10);
    assert_eq!(round(&mut fanout), [(1, "open".into())]);
    fanout.stall(reader, before);
    let again = fanout.open(2, None);
    fanout.add_pattern(again, &pattern("**"), wants).unwrap();
    fanout.begin(again, Begin::Earliest, false);
    assert_eq!(read_on(&mut fanout, again), ["open"]);
}

#[test]
fn equal_patterns_are_one_and_there_is_a_limit() {
    let hub = Arc::new(Hub::new(Options {
        patterns: 2,
        ..options()
    }));
    let mut fanout = shard(&hub);
    for tag in 0..10 {
        let reader = fanout.open(tag, None);
        for text in ["a/*", "b/*"] {
            fanout
                .add_pattern(reader, &pattern(text), Wants::default())
                .unwrap();
        }
    }
    assert_eq!(hub.stats().patterns, 2);
    let reader = fanout.open(99, None);
    let refused = fanout.add_pattern(reader, &pattern("c/*"), Wants::default());
    assert_eq!(refused, Err(ListenError::TooManyPatterns(2)));
}

#[test]
fn ten_thousand_patterns_that_do_not_match_leave_no_trace_in_a_publication() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    for n in 0..10_000 {
        fanout
            .add_pattern(reader, &pattern(&format!("room/{n}/*")), Wants::default())
            .unwrap();
    }
    fanout.begin(reader, Begin::Now, false);
    let receipt = publish(&hub, "room/none/1", "x", 10);
    assert!(receipt.places[0].patterns.is_none());
    let receipt = publish(&hub, "room/77/1", "y", 10);
    assert_eq!(receipt.places[0].patterns.as_ref().map(|ids| ids.len()), Some(1));
    assert_eq!(round(&mut fanout), [(1, "y".into())]);
}
