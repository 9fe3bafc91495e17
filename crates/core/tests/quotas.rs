//! A few visitors cannot exhaust what all share: the site's own code has room, and so has a visitor who took nothing yet.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::channel::ChannelName;
use cometserver_core::fanout::{Begin, Fanout, ReaderId, Wants};
use cometserver_core::hub::{Delete, Hub, ListenError, Options, PublishError, Published};
use cometserver_core::namespace::{Durability, Namespace, Namespaces};
use cometserver_core::publication::Message;
use cometserver_core::quota::{OverQuota, Parts, Payer};
use support::{delete, name, namespace, options, pattern, publish, publish_message, shard};

/// A visitor at some address.
fn visitor(number: u64) -> Payer {
    Payer::anonymous(number << 8)
}

/// A table of 1,000 of each: one visitor may take 100, all without a token 500, and with those who have one 750.
fn small() -> Options {
    Options {
        channels: 1_000,
        patterns: 1_000,
        idempotency_keys: 1_000,
        presence: cometserver_core::presence::Limits {
            grace: 20,
            members: 1_000,
            ..Default::default()
        },
        parts: Parts { one: 10, all: 50 },
        ..options()
    }
}

fn reader(fanout: &mut Fanout, payer: Payer) -> ReaderId {
    let reader = fanout.open(1, None);
    fanout.charge(reader, payer);
    fanout.begin(reader, Begin::Now, false);
    reader
}

/// Subscribes to invented names until that is refused; returns how many there are.
fn invent(
    fanout: &mut Fanout,
    payer: Payer,
    most: usize,
    length: usize,
) -> (ReaderId, usize, Option<ListenError>) {
    let reader = reader(fanout, payer);
    for n in 0..most {
        let text = format!("{payer:?} {n} {}", "x".repeat(length));
        if let Err(error) = fanout.subscribe(reader, &name(&text), Begin::Now, Wants::default(), 10) {
            return (reader, n, Some(error));
        }
    }
    (reader, most, None)
}

#[test]
fn invented_channels_leave_room_for_the_site_and_for_another_visitor() {
    let hub = Arc::new(Hub::new(small()));
    let mut fanout = shard(&hub);
    for n in 0..4 {
        let (_, made, error) = invent(&mut fanout, visitor(n), 1_000, 0);
        assert_eq!(made, 100);
        let error = error.unwrap();
        assert!(matches!(
            error,
            ListenError::Quota(OverQuota::One { most: 100, .. })
        ));
        assert!(error.to_string().contains("limits.one_visitor"), "{error}");
    }
    assert_eq!(
        invent(&mut fanout, visitor(7), 5, 0).1,
        5,
        "another one finds room"
    );
    for n in 8..20 {
        invent(&mut fanout, visitor(n), 100, 0);
    }
    let (_, made, error) = invent(&mut fanout, visitor(21), 1, 0);
    assert!(matches!(
        error,
        Some(ListenError::Quota(OverQuota::All { most: 500, .. }))
    ));
    assert_eq!((made, hub.stats().channels), (0, 500));
    assert_eq!(hub.stats().visitors.channels.taken, 500);
    // Whoever has a token finds room beside them, and all of them leave some.
    for n in 0..20 {
        invent(&mut fanout, Payer::known(n << 8), 100, 0);
    }
    assert_eq!(hub.stats().channels, 750);
    for n in 0..250 {
        publish(&hub, &format!("site {n}"), "x", 10);
    }
    assert_eq!(hub.stats().channels, 1_000);
    assert!(hub.stats().visitors.channels.refused >= 4);
}

#[test]
fn long_names_leave_room_for_the_site_and_for_another_visitor() {
    let hub = Arc::new(Hub::new(Options {
        log_memory: 16 << 20,
        parts: Parts { one: 5, all: 50 },
        ..options()
    }));
    let mut fanout = shard(&hub);
    for n in 0..20 {
        let (_, made, error) = invent(&mut fanout, visitor(n), 1_000, 8_000);
        assert!(made < 60, "{made} of 8 KiB");
        assert!(matches!(error, Some(ListenError::Quota(_))));
        let (_, another, _) = invent(&mut fanout, visitor(100 + n), 1, 0);
        assert!(another == 1 || n > 8, "another visitor finds room beside {n}");
    }
    let taken = hub.stats().visitors.name_bytes.taken;
    assert!(taken <= 4 << 20, "{taken}");
    for n in 0..200 {
        publish(&hub, &format!("site {n} {}", "x".repeat(8_000)), "x", 10);
    }
}

#[test]
fn a_channel_in_which_the_site_publishes_costs_its_listeners_nothing() {
    let hub = Arc::new(Hub::new(small()));
    let mut fanout = shard(&hub);
    let crowd = reader(&mut fanout, visitor(1));
    for n in 0..300 {
        let channel = format!("room {n}");
        fanout
            .subscribe(crowd, &name(&channel), Begin::Now, Wants::default(), 10)
            .unwrap();
        publish(&hub, &channel, "x", 10);
    }
    assert_eq!(hub.stats().visitors.channels.taken, 0);
    // Known before anybody came, and named by the site's own listener afterwards.
    publish(&hub, "known", "x", 10);
    let own = reader(&mut fanout, Payer::SITE);
    for channel in ["known", "watched"] {
        fanout
            .subscribe(crowd, &name(channel), Begin::Now, Wants::default(), 10)
            .unwrap();
    }
    assert_eq!(hub.stats().visitors.channels.taken, 1);
    fanout
        .subscribe(own, &name("watched"), Begin::Now, Wants::default(), 10)
        .unwrap();
    assert_eq!(hub.stats().visitors.channels.taken, 0);
}

#[test]
fn what_visitors_had_is_given_back_when_they_leave_ten_times_over() {
    let hub = Arc::new(Hub::new(small()));
    let mut fanout = shard(&hub);
    for round in 0..10_u64 {
        let now = 10 + round * 100_000;
        let mut readers = Vec::new();
        for n in 0..10 {
            let (reader, _, _) = invent(&mut fanout, visitor(n), 1_000, 10);
            let mut patterns = 0;
            while fanout
                .subscribe_pattern(
                    reader,
                    &pattern(&format!("{n} {patterns}/*")),
                    Begin::Now,
                    Wants::default(),
                )
                .is_ok()
            {
                patterns += 1;
            }
            readers.push(reader);
        }
        let taken = hub.stats().visitors;
        assert_eq!(
            (taken.channels.taken, taken.patterns.taken),
            (500, 500),
            "round {round}"
        );
        for reader in readers {
            fanout.close(reader, now);
        }
        // Each does a part of it at a time.
        while fanout.rest(now + 10_000).is_some_and(|at| at <= now + 10_000) {}
        while hub.tick(now + 10_000).is_some_and(|at| at <= now + 10_000) {}
        let taken = hub.stats().visitors;
        assert_eq!(
            (taken.channels.taken, taken.patterns.taken),
            (0, 0),
            "round {round}"
        );
        assert_eq!(taken.name_bytes.taken, 0);
        while hub.tick(now + 80_000).is_some_and(|at| at <= now + 80_000) {}
        assert_eq!(
            (hub.stats().channels, hub.stats().patterns),
            (0, 0),
            "round {round}"
        );
    }
}

#[test]
fn whoever_named_a_channel_first_answers_for_it_while_others_listen() {
    let hub = Arc::new(Hub::new(small()));
    let mut fanout = shard(&hub);
    let (first, made, _) = invent(&mut fanout, visitor(1), 100, 0);
    assert_eq!(made, 100);
    // Another one listens to the same: to leave them to it makes no room for more.
    hub.attach(1, Box::new(|| {}));
    let mut other = Fanout::new(hub.clone(), 1);
    let second = reader(&mut other, visitor(2));
    for n in 0..100 {
        let same = format!("{:?} {n} ", visitor(1));
        other
            .subscribe(second, &name(&same), Begin::Now, Wants::default(), 10)
            .unwrap();
    }
    fanout.close(first, 10);
    fanout.rest(100_000);
    let again = reader(&mut fanout, visitor(1));
    let more = fanout.subscribe(again, &name("more"), Begin::Now, Wants::default(), 10);
    assert!(matches!(more, Err(ListenError::Quota(OverQuota::One { .. }))));
    other.close(second, 100_000);
    other.rest(200_000);
    fanout
        .subscribe(again, &name("more"), Begin::Now, Wants::default(), 10)
        .unwrap();
}

#[test]
fn a_question_about_history_makes_no_channel_the_sites() {
    let broker = broker::TestBroker::new(3);
    let namespaces = Namespaces::uniform(namespace(3, Durability::Committed));
    let hub = Arc::new(Hub::with_broker(
        Options {
            namespaces,
            ..small()
        },
        broker,
    ));
    let mut fanout = shard(&hub);
    let cursor = hub.cursor(hub.now());
    for n in 0..300 {
        let query = cometserver_core::hub::HistoryQuery {
            since: Some(hub.resolve(&cursor)),
            ..Default::default()
        };
        let asked = name(&format!("{:?} {n} ", visitor(1)));
        let _ = hub.history(&asked, query, 10, &mut || Box::new(|_| {}));
    }
    assert_eq!(invent(&mut fanout, visitor(1), 300, 0).1, 100);
}

#[test]
fn patterns_leave_room_for_the_site_and_for_another_visitor() {
    let hub = Arc::new(Hub::new(small()));
    let mut fanout = shard(&hub);
    let listen = |fanout: &mut Fanout, payer: Payer, number: u64| {
        let reader = reader(fanout, payer);
        let mut made = 0;
        for n in 0..20 {
            let text = pattern(&format!("{payer:?}{number}/{n}/*"));
            match fanout.subscribe_pattern(reader, &text, Begin::Now, Wants::default()) {
                Ok(_) => made += 1,
                Err(error) => assert!(matches!(error, ListenError::Quota(_)), "{error}"),
            }
        }
        made
    };
    let flood: usize = (0..500).map(|n| listen(&mut fanout, visitor(1), n)).sum();
    assert_eq!(flood, 100);
    assert_eq!(
        listen(&mut fanout, visitor(2), 0),
        20,
        "another visitor finds room"
    );
    for n in 0..500 {
        listen(&mut fanout, visitor(10 + n), n);
    }
    assert_eq!(hub.stats().patterns, 500);
    let own: usize = (0..25).map(|n| listen(&mut fanout, Payer::SITE, n)).sum();
    assert_eq!(own, 500);
}

#[test]
fn a_pattern_that_the_site_listens_to_is_charged_to_nobody() {
    let hub = Arc::new(Hub::new(small()));
    let mut fanout = shard(&hub);
    let (guest, own) = (reader(&mut fanout, visitor(1)), reader(&mut fanout, Payer::SITE));
    let shared = pattern("shared/*");
    fanout
        .subscribe_pattern(guest, &shared, Begin::Now, Wants::default())
        .unwrap();
    assert_eq!(hub.stats().visitors.patterns.taken, 1);
    fanout
        .subscribe_pattern(own, &shared, Begin::Now, Wants::default())
        .unwrap();
    assert_eq!(hub.stats().visitors.patterns.taken, 0);
    fanout.close(own, 10);
    fanout.close(guest, 10);
    let guest = reader(&mut fanout, visitor(1));
    fanout
        .subscribe_pattern(guest, &shared, Begin::Now, Wants::default())
        .unwrap();
    assert_eq!(
        hub.stats().visitors.patterns.taken,
        1,
        "it is the visitor's alone again"
    );
}

#[test]
fn members_of_one_visitor_are_bounded_and_those_of_the_site_are_not() {
    let hub = Arc::new(Hub::new(small()));
    shard(&hub);
    let id = hub.listen(0, &name("a"), 10).unwrap().channel.id;
    let join = |payer: Payer, from: usize, to: usize| {
        (from..to)
            .filter(|n| {
                hub.join_for((&format!("{payer:?} {n}"), payer), id, None, 10)
                    .is_ok()
            })
            .count()
    };
    assert_eq!(join(visitor(1), 0, 1_000), 100);
    assert_eq!(
        join(visitor(1), 0, 100),
        100,
        "who is a member already may come again"
    );
    assert_eq!(join(visitor(2), 0, 10), 10);
    let all: usize = (3..20).map(|n| join(visitor(n), 0, 100)).sum();
    assert_eq!(all, 500 - 110);
    assert_eq!(join(Payer::SITE, 0, 2_000), 2_000);
    assert_eq!(hub.stats().visitors.members.taken, 500);
    // Within the grace they are still there; afterwards their part is free.
    for n in 0..100 {
        for _ in 0..2 {
            hub.leave(id, &format!("{:?} {n}", visitor(1)), 20);
        }
    }
    assert_eq!(join(visitor(1), 1_000, 1_001), 0);
    hub.tick(41);
    assert_eq!(hub.stats().visitors.members.taken, 400);
    assert_eq!(join(visitor(1), 1_000, 1_200), 100);
}

fn keyed(channel: &str, key: &str, payer: Payer) -> Message {
    let mut message = Message::text(name(channel), "x");
    message.idempotency_key = Some(key.into());
    message.payer = payer;
    message
}

#[test]
fn a_flood_of_keys_makes_the_server_forget_the_floods_own() {
    let hub = Arc::new(Hub::new(small()));
    let is_known =
        |channel: &str, key: &str, payer| publish_message(&hub, keyed(channel, key, payer), 10).duplicate;
    for n in 0..400 {
        assert!(!is_known("site", &n.to_string(), Payer::SITE));
    }
    assert!(!is_known("guests", "good", visitor(2)));
    for n in 0..5_000 {
        assert!(!is_known("guests", &format!("flood {n}"), visitor(1)));
    }
    assert_eq!(hub.stats().keys, 501);
    assert!(is_known("guests", "good", visitor(2)), "another visitor's");
    assert!(is_known("guests", "flood 4999", visitor(1)), "the flood's newest");
    // From many addresses they forget each other's.
    for n in 0..5_000 {
        is_known("guests", &format!("more {n}"), visitor(10 + n % 100));
    }
    assert_eq!(
        hub.stats().visitors.keys.taken,
        500,
        "the part of those without a token"
    );
    for n in 150..400 {
        assert!(is_known("site", &n.to_string(), Payer::SITE), "{n}");
    }
    assert!(hub.stats().keys <= 1_001);
}

/// More than a key weighs here whose message is in a hundred channels: that is known when it is published.
const HEAVY: usize = 20;

#[test]
fn long_keys_and_those_of_many_channels_use_up_a_part_as_several_do() {
    let flood = |message: &dyn Fn(u64) -> Message| {
        let hub = Arc::new(Hub::new(small()));
        for n in 0..2_000 {
            publish_message(&hub, message(n), 10);
        }
        assert!(
            hub.stats().visitors.keys.taken <= 500 + HEAVY,
            "{:?}",
            hub.stats().visitors
        );
        hub.stats().keys
    };
    let short = flood(&|n| keyed("guests", &n.to_string(), visitor(n % 100)));
    let long = flood(&|n| keyed("guests", &format!("{n} {}", "k".repeat(1_000)), visitor(n % 100)));
    assert_eq!((short, long), (500, 100), "a kilobyte weighs four keys more");
    let many = flood(&|n| Message {
        channels: (0..100).map(|at| name(&format!("guests {at}"))).collect(),
        ..keyed("guests", &n.to_string(), visitor(n % 100))
    });
    assert!(many < short / 4, "{many}");
}

#[test]
fn visitors_who_may_publish_take_their_part_of_the_channels() {
    let guests = Namespace {
        anonymous_publish: true,
        ..namespace(3, Durability::Memory)
    };
    let hub = Arc::new(Hub::new(Options {
        namespaces: Namespaces::uniform(guests),
        ..small()
    }));
    let say = |payer: Payer, channel: &ChannelName, now| {
        let mut message = Message::text(channel.clone(), "x");
        message.payer = payer;
        hub.publish(message, now, &mut || panic!("memory does not wait"))
    };
    let made = |payer: Payer| {
        (0..300)
            .filter(|n| say(payer, &name(&format!("{payer:?} {n}")), 10).is_ok())
            .count()
    };
    assert_eq!((made(visitor(1)), made(visitor(2))), (100, 100));
    let refused = say(visitor(1), &name("one more"), 10).unwrap_err();
    assert!(matches!(
        refused,
        PublishError::Quota(OverQuota::One { most: 100, .. })
    ));
    // Refused for one of its channels, it leaves none behind.
    let mut both = Message::text(name("of nobody"), "x");
    both.payer = visitor(3);
    both.channels
        .extend((0..100).map(|n| name(&format!("of nobody {n}"))));
    assert!(hub.publish(both, 10, &mut || panic!("refused")).is_err());
    assert_eq!(hub.stats().visitors.channels.taken, 200);
    // What the site answers to is its own from then on.
    assert!(matches!(
        say(Payer::SITE, &name(&format!("{:?} 0", visitor(1))), 10),
        Ok(Published::Visible(_))
    ));
    assert!(say(visitor(1), &name("one more"), 10).is_ok());
}

#[test]
fn what_visitors_have_waiting_for_the_store_leaves_room_for_the_site() {
    let broker = broker::TestBroker::new(3);
    let namespaces = Namespaces::uniform(namespace(3, Durability::Committed));
    let hub = Arc::new(Hub::with_broker(
        Options {
            namespaces,
            queue: 10 << 20,
            ..small()
        },
        broker.clone(),
    ));
    let say = |payer: Payer, size: usize| {
        let mut message = Message::text(name("a"), &"x".repeat(size));
        message.payer = payer;
        hub.publish(message, 10, &mut || Box::new(|_| {})).is_ok()
    };
    for round in 0..3 {
        let taken = |number: u64| (0..200).filter(|_| say(visitor(number), 100_000)).count();
        assert_eq!((taken(1), taken(2)), (10, 10), "round {round}");
        let rest: usize = (3..20).map(taken).sum();
        assert_eq!(rest, 32, "half of all is for visitors");
        assert!(say(Payer::SITE, 3 << 20), "the site's own code has room");
        assert!(hub.stats().visitors.queued_bytes.taken <= 5 << 20);
        // Some of it fails, and counts no longer either.
        while broker.waiting() > 0 {
            hub.commit(broker.batch(10, 3), 10);
        }
        assert_eq!(hub.stats().visitors.queued_bytes.taken, 0);
        assert!(
            say(visitor(1), 8 << 20),
            "one message larger than any part is taken"
        );
        assert!(!say(visitor(2), 1), "but alone");
        assert!(!say(visitor(1), 1));
        while broker.waiting() > 0 {
            hub.commit(broker.batch(10, 0), 10);
        }
        broker.refuse(true);
        assert!(!say(visitor(1), 1));
        broker.refuse(false);
        assert_eq!(
            hub.stats().visitors.queued_bytes.taken,
            0,
            "what was not taken does not count"
        );
    }
}

#[test]
fn channels_that_nobody_publishes_in_are_forgotten_soon_and_never_pile_up() {
    let hub = Arc::new(Hub::new(Options {
        forget_after: 60_000,
        ..options()
    }));
    shard(&hub);
    publish(&hub, "was used", "x", 10);
    hub.tick(100);
    delete(&hub, "was used", Delete::History, 100);
    for n in 0..20_000 {
        let listening = hub.listen_for(visitor(n % 7), 0, &name(&n.to_string()), 100);
        hub.unlisten(0, listening.unwrap().channel.id, 100);
        assert!(hub.stats().channels <= 4_100, "{}", hub.stats().channels);
    }
    // A bounded piece at a time.
    for now in 1_100..1_105 {
        hub.tick(now);
    }
    assert_eq!(hub.stats().channels, 1, "one that was used stays for its time");
    hub.tick(60_099);
    assert_eq!(hub.stats().channels, 1);
    hub.tick(60_100);
    assert_eq!(hub.stats().channels, 0);
}

#[test]
fn what_is_refused_again_and_again_leaves_nothing_behind() {
    let broker = broker::TestBroker::new(3);
    let guests = Namespace {
        anonymous_publish: true,
        ..namespace(3, Durability::Committed)
    };
    let hub = Arc::new(Hub::with_broker(
        Options {
            namespaces: Namespaces::uniform(guests),
            ..small()
        },
        broker.clone(),
    ));
    broker.refuse(true);
    for n in 0..1_000 {
        let mut message = Message::text(name(&format!("{}", n % 200)), "x");
        message.payer = visitor(1);
        assert!(hub.publish(message, 10, &mut || Box::new(|_| {})).is_err());
        assert_eq!(hub.stats().visitors.channels.taken, 0);
    }
    hub.tick(1_010);
    assert_eq!(
        (hub.stats().channels, hub.stats().visitors.name_bytes.taken),
        (0, 0)
    );
}

#[test]
fn visitors_bring_the_store_so_many_names_and_the_site_more() {
    let broker = broker::TestBroker::new(3);
    let guests = Namespace {
        anonymous_publish: true,
        ..namespace(3, Durability::Committed)
    };
    let hub = Arc::new(Hub::with_broker(
        Options {
            namespaces: Namespaces::uniform(guests),
            log_memory: 1 << 20,
            ..small()
        },
        broker.clone(),
    ));
    let mut now = 10;
    let mut say = |payer: Payer, channel: String| {
        let mut message = Message::text(name(&channel), "x");
        message.payer = payer;
        let said = hub.publish(message, now, &mut || Box::new(|_| {}));
        hub.commit(broker.batch(1, 0), now);
        // Long enough for the hub to forget the channel: the store does not.
        now += 1_000;
        hub.tick(now);
        hub.tick(now + 500);
        said
    };
    let long = |who: &str, n: usize| format!("{who} {n} {}", "x".repeat(8_000));
    let taken = (0..200)
        .filter(|n| say(visitor(*n as u64), long("guest", *n)).is_ok())
        .count();
    assert!((25..=33).contains(&taken), "a quarter of 1 MiB: {taken}");
    assert!(matches!(
        say(visitor(1), long("guest", 999)),
        Err(PublishError::Quota(OverQuota::All { .. }))
    ));
    assert!(
        say(visitor(1), long("guest", 0)).is_ok(),
        "what is stored already takes more"
    );
    assert!((0..60).all(|n| say(Payer::SITE, long("site", n)).is_ok()));
}

#[test]
fn keys_of_those_without_a_token_push_out_no_key_of_those_with_one() {
    let hub = Hub::new(small());
    let is_known =
        |channel: &str, key: &str, payer| publish_message(&hub, keyed(channel, key, payer), 10).duplicate;
    assert!(!is_known("user", "mine", Payer::known(1 << 8)));
    for address in 0..20 {
        for n in 0..100 {
            assert!(!is_known("crowd", &format!("{address} {n}"), visitor(address)));
        }
    }
    assert_eq!(hub.stats().visitors.keys.taken, 501);
    assert!(is_known("user", "mine", Payer::known(1 << 8)));
    // Also where those with a token have taken all that visitors may.
    for user in 2..20 {
        for n in 0..100 {
            assert!(!is_known(
                "users",
                &format!("{user} {n}"),
                Payer::known(user << 8)
            ));
        }
    }
    assert_eq!(hub.stats().visitors.keys.taken, 750);
    for n in 0..100 {
        assert!(!is_known("crowd", &format!("again {n}"), visitor(30)));
    }
    assert!(hub.stats().visitors.keys.taken <= 751);
    assert!(is_known("users", "19 0", Payer::known(19 << 8)));
}

#[test]
fn a_message_to_a_channel_without_a_use_and_a_new_one_makes_room_without_taking_its_own() {
    let hub = Hub::new(options());
    let named = |n: u64| name(&format!("named {n}"));
    // One more than may be there before a new one makes the oldest give way.
    for n in 0..4_097 {
        let id = hub.listen_for(visitor(n), 0, &named(n), 10).unwrap().channel.id;
        hub.unlisten(0, id, 10);
    }
    let mut message = Message::text(named(0), "x");
    message.channels.extend([named(1), name("new")]);
    message.payer = visitor(7);
    let published = hub.publish(message, 11, &mut || panic!("memory does not wait"));
    assert!(matches!(published, Ok(Published::Visible(_))), "{published:?}");
    assert_eq!(hub.stats().channels, 4_098);
}
