//! Other namespaces hold for channels that exist as well.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use broker::TestBroker;
use cometserver_core::fanout::{Begin, Wants};
use cometserver_core::hub::Hub;
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use support::{history, name, namespace, options, pattern, publish, read_on, round, shard};

fn private() -> Namespace {
    Namespace {
        public: false,
        ..namespace(3, Durability::Memory)
    }
}

/// `a` and what begins with it is private from now on.
fn close(hub: &Arc<Hub>) {
    hub.set_namespaces(Namespaces {
        listed: vec![((*pattern("a**")).clone(), Arc::new(private()))],
        fallback: Arc::new(namespace(3, Durability::Memory)),
    });
}

#[test]
fn a_channel_that_exists_is_closed_to_those_who_come_and_shown_to_those_who_ask_again() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    for channel in ["a", "b"] {
        fanout.add(reader, &name(channel), Wants::default(), 10).unwrap();
    }
    fanout.begin(reader, Begin::Now, false);
    publish(&hub, "a/unheard", "1", 10);
    close(&hub);
    for (channel, public) in [("a", false), ("a/unheard", false), ("a/new", false), ("b", true)] {
        assert_eq!(hub.namespace_of(&name(channel)).public, public, "{channel}");
    }
    let seen: Vec<(Vec<u8>, bool, bool)> = fanout
        .namespaces(reader)
        .map(|(channel, namespace, presence)| (channel.name.as_bytes().to_vec(), namespace.public, presence))
        .collect();
    assert_eq!(
        seen,
        [(b"a".to_vec(), false, false), (b"b".to_vec(), true, false)]
    );
}

#[test]
fn a_pattern_without_a_grant_sees_a_channel_only_as_long_as_it_is_public() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let wants = Wants {
        public_only: true,
        ..Wants::default()
    };
    let reader = fanout.open(1, None);
    fanout.add_pattern(reader, &pattern("**"), wants).unwrap();
    fanout.begin(reader, Begin::Now, false);
    publish(&hub, "a", "before", 10);
    assert_eq!(round(&mut fanout), [(1, "before".into())]);
    close(&hub);
    publish(&hub, "a", "after", 10);
    publish(&hub, "b", "public", 10);
    assert_eq!(round(&mut fanout), [(1, "public".into())]);
    let late = fanout.open(2, None);
    fanout.add_pattern(late, &pattern("**"), wants).unwrap();
    fanout.begin(late, Begin::Earliest, false);
    assert_eq!(
        read_on(&mut fanout, late),
        ["public"],
        "nor what was published before"
    );
}

#[test]
fn other_bounds_hold_for_what_is_kept() {
    let hub = Arc::new(Hub::new(options()));
    let bounds = |count, age| {
        Namespaces::uniform(Namespace {
            history: Bounds {
                count,
                age,
                ..Bounds::default()
            },
            ..namespace(3, Durability::Memory)
        })
    };
    let kept =
        |now| history(&hub, "a", Default::default(), now).map_or(0, |history| history.publications.len());
    for text in ["1", "2", "3"] {
        publish(&hub, "a", text, 10);
    }
    hub.tick(100);
    assert_eq!(kept(100), 3);
    hub.set_namespaces(bounds(2, 3_600_000));
    assert_eq!(kept(100), 2);
    // Earlier than was said when it was published; then not that early after all.
    hub.set_namespaces(bounds(2, 5_000));
    hub.set_namespaces(bounds(2, 9_000));
    assert_eq!(hub.tick(8_000).map(|next| next <= 10_100), Some(true));
    assert_eq!(kept(8_000), 2);
    hub.tick(9_010);
    assert_eq!(kept(9_010), 0);
}

#[test]
fn all_channels_are_looked_at_however_many_there_are() {
    let hub = Arc::new(Hub::new(options()));
    for n in 0..5_000 {
        publish(&hub, &format!("a{n}"), "x", 10);
    }
    close(&hub);
    let public = (0..5_000).filter(|n| hub.namespace_of(&name(&format!("a{n}"))).public);
    assert_eq!(public.count(), 0);
}

#[test]
fn a_channel_keeps_its_durability() {
    let hub = Hub::with_broker(options(), TestBroker::new(3));
    publish(&hub, "a", "1", 10);
    hub.set_namespaces(Namespaces::uniform(Namespace {
        durability: Durability::Committed,
        ..private()
    }));
    let held = hub.namespace_of(&name("a"));
    assert_eq!((held.public, held.durability), (false, Durability::Memory));
    assert_eq!(hub.namespace_of(&name("new")).durability, Durability::Committed);
}
