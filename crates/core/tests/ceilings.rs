//! At a ceiling the largest share gives way first, and it is counted; loss is never silent.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::fanout::{Begin, Wants};
use cometserver_core::hub::{Delete, Hub, ListenError, Options, PublishError};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::position::Position;
use cometserver_core::publication::Message;
use support::{
    delete, history, name, namespace, options, publish, publish_message, read_on, retained, round, shard,
};

/// How many publications of a channel are kept.
fn kept(hub: &Arc<Hub>, channel: &str) -> usize {
    history(hub, channel, Default::default(), 10).map_or(0, |history| history.publications.len())
}

fn nothing_but_the_window() -> Options {
    let namespaces = Namespaces::uniform(namespace(0, Durability::Memory));
    Options {
        namespaces,
        window: 10_000,
        ..options()
    }
}

#[test]
fn a_flood_shortens_its_own_window_and_not_that_of_others() {
    let hub = Arc::new(Hub::new(Options {
        window_bytes: 100_000,
        ..nothing_but_the_window()
    }));
    for n in 0..10 {
        publish(&hub, "quiet", &n.to_string(), 10);
    }
    for n in 0..2_000 {
        publish(&hub, "flood", &n.to_string(), 10);
    }
    assert_eq!(kept(&hub, "quiet"), 10);
    assert!(hub.stats().window_bytes <= 100_000 + 1_000);
    assert!(hub.stats().trimmed_early > 1_000);
}

#[test]
fn the_realm_with_the_most_gives_way_and_is_named() {
    let namespaces = Namespaces::uniform(namespace(1_000, Durability::Memory));
    let hub = Arc::new(Hub::new(Options {
        namespaces,
        log_memory: 100_000,
        ..options()
    }));
    for n in 0..50 {
        publish(&hub, "mine", &n.to_string(), 10);
    }
    let flood = ChannelName::in_realm(Realm(9), "flood").unwrap();
    for n in 0..2_000 {
        publish_message(&hub, Message::text(flood.clone(), &n.to_string()), 10);
    }
    assert_eq!(kept(&hub, "mine"), 50);
    assert!(hub.stats().log_bytes <= 100_000);
    let early = hub.trimmed_early();
    assert!(early[&9] > 1_000);
    assert_eq!(early.get(&0).copied().unwrap_or_default(), 0);
}

#[test]
fn every_channel_keeps_a_minimum_of_its_window() {
    let hub = Arc::new(Hub::new(Options {
        window_bytes: 1_000,
        ..nothing_but_the_window()
    }));
    for n in 0..100 {
        publish(&hub, "a", &n.to_string(), 10);
    }
    assert!(kept(&hub, "a") >= 16, "{}", kept(&hub, "a"));
    assert!(kept(&hub, "a") <= 32, "{}", kept(&hub, "a"));
}

#[test]
fn there_is_a_limit_of_channels_and_idle_ones_make_room() {
    let hub = Arc::new(Hub::new(Options {
        channels: 3,
        ..options()
    }));
    for channel in ["a", "b", "c"] {
        publish(&hub, channel, "x", 10);
    }
    let refused = hub.publish(Message::text(name("d"), "x"), 10, &mut || panic!("refused"));
    assert_eq!(refused.unwrap_err(), PublishError::TooManyChannels(3));
    assert_eq!(
        hub.listen(0, &name("d"), 10).unwrap_err(),
        ListenError::TooManyChannels(3)
    );
    delete(&hub, "a", Delete::History, 10);
    publish(&hub, "d", "x", 10);
    assert_eq!(hub.stats().channels, 3);
}

#[test]
fn a_cursor_from_before_a_forgotten_channel_is_a_gap_and_a_later_one_is_not() {
    let hub = Arc::new(Hub::new(nothing_but_the_window()));
    let mut fanout = shard(&hub);
    publish(&hub, "a", "1", 10);
    for now in [20_000, 30_000, 40_000] {
        hub.tick(now);
    }
    assert_eq!(hub.stats().channels, 0);
    let after = hub.now();
    for (position, expected) in [(Position::default(), vec!["gap a"]), (after, vec![])] {
        let reader = fanout.open(1, None);
        fanout.add(reader, &name("a"), Wants::default(), 40_000).unwrap();
        fanout.begin(reader, Begin::At(hub.resolve(&hub.cursor(position))), false);
        assert_eq!(read_on(&mut fanout, reader), expected);
    }
}

#[test]
fn a_channel_that_was_only_listened_to_is_forgotten_when_the_last_listener_is_gone() {
    let hub = Arc::new(Hub::new(options()));
    let id = hub.listen(0, &name("a"), 10).unwrap().channel.id;
    // Longer than idle channels stay.
    hub.tick(2_000);
    assert_eq!(hub.stats().channels, 1);
    hub.unlisten(0, id, 2_000);
    hub.tick(2_099);
    assert_eq!(hub.stats().channels, 1, "not at once: it may come back");
    hub.tick(2_100);
    assert_eq!(hub.stats().channels, 0);
}

#[test]
fn retained_values_count_as_long_as_they_are_kept_and_give_way_at_the_ceiling() {
    let namespaces = Namespaces::uniform(namespace(0, Durability::Memory));
    let hub = Arc::new(Hub::new(Options {
        namespaces,
        log_memory: 100_000,
        ..options()
    }));
    let retain = |channel: &str, text: &str, now| {
        let mut message = Message::text(name(channel), text);
        message.retain = true;
        publish_message(&hub, message, now);
    };
    retain("mine", "small", 10);
    hub.tick(100);
    assert!(kept(&hub, "mine") == 0 && retained(&hub, "mine").is_some());
    assert!(
        hub.stats().log_bytes > 0,
        "it has outlived its history, and is kept"
    );
    for n in 0..1_000 {
        let now = 200 * (n + 1);
        retain(&format!("flood {n}"), &"x".repeat(1_000), now);
        hub.tick(now + 100);
    }
    let stats = hub.stats();
    assert!(stats.log_bytes <= 100_000, "{}", stats.log_bytes);
    assert!(stats.publications <= 100, "{}", stats.publications);
    assert!(stats.trimmed_early >= 900, "{}", stats.trimmed_early);
    assert!(
        stats.channels <= 110,
        "who has nothing left is forgotten: {}",
        stats.channels
    );
    assert!(retained(&hub, "mine").is_some(), "the largest gave way");
    retain("mine", "other", 300_000);
    delete(&hub, "mine", Delete::Retained, 300_000);
    for n in 0..1_000 {
        delete(&hub, &format!("flood {n}"), Delete::History, 300_000);
    }
    hub.tick(400_000);
    hub.tick(500_000);
    assert_eq!((hub.stats().log_bytes, hub.stats().publications), (0, 0));
}

#[test]
fn long_names_are_refused_before_they_push_out_what_others_keep() {
    let hub = Arc::new(Hub::new(Options {
        log_memory: 100_000,
        ..options()
    }));
    for n in 0..3 {
        publish(&hub, "mine", &n.to_string(), 10);
    }
    let long = |n: usize| name(&format!("{n} {}", "x".repeat(8_000)));
    let mut refused = None;
    for n in 0..100 {
        if let Err(error) = hub.listen(0, &long(n), 10) {
            refused.get_or_insert((n, error));
        }
    }
    assert_eq!(refused, Some((6, ListenError::TooManyChannels(7))));
    assert_eq!(kept(&hub, "mine"), 3);
    assert!(hub.stats().log_bytes <= 100_000);
    assert!(hub.listen(0, &name("short"), 10).is_ok());
    // A channel that nobody needs makes room.
    let id = hub.listen(0, &long(0), 10).unwrap().channel.id;
    hub.unlisten(0, id, 10);
    assert!(hub.listen(0, &long(99), 10).is_ok());
}

#[test]
fn a_message_for_several_channels_is_published_in_all_or_none() {
    let hub = Arc::new(Hub::new(Options {
        channels: 1,
        ..options()
    }));
    let mut message = Message::text(name("a"), "x");
    message.channels.push(name("b"));
    let refused = hub.publish(message, 10, &mut || panic!("refused"));
    assert_eq!(refused.unwrap_err(), PublishError::TooManyChannels(1));
    assert_eq!(hub.stats().publications, 0);
}

#[test]
fn what_a_ceiling_took_before_a_reader_came_to_it_is_told_though_more_is_gone_beyond() {
    let hub = Arc::new(Hub::new(Options {
        log_memory: 8_000,
        ..nothing_but_the_window()
    }));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
    fanout.begin(reader, Begin::Now, false);
    let before = hub.now();
    publish(&hub, "a", "1", 10);
    assert_eq!(round(&mut fanout), [(1, "1".into())]);
    fanout.stall(reader, before);
    // The shard has not seen this when the channel loses it, with what the reader still had to read; others keep it.
    publish(&hub, "a", &"x".repeat(3_000), 10);
    let mut both = Message::text(name("a"), "2");
    both.channels.push(name("b"));
    publish_message(&hub, both, 10);
    publish(&hub, "a", &"x".repeat(4_500), 10);
    assert_eq!(
        read_on(&mut fanout, reader).first().map(String::as_str),
        Some("gap a")
    );
}
