//! A stop in good order: what was in memory goes on with the next start, and nothing of it passes for what it is not.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/store.rs"]
mod store;
#[path = "support/hub.rs"]
mod support;

use std::convert::Infallible;
use std::sync::Arc;

use broker::TestBroker;
use cometserver_core::cursor::Cursor;
use cometserver_core::fanout::{Begin, Fanout, Wants};
use cometserver_core::hub::{Delete, HistoryQuery, Hub, Options};
use cometserver_core::kept::{FORMER, Kept, Piece, TakeUpError};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::position::Position;
use cometserver_core::publication::Message;
use proptest::prelude::*;
use store::{open, read, stored_options, words};
use support::{
    delete, history, name, namespace, options, pattern, publish, publish_message, read_on, retained, round,
    shard, word,
};

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// What a hub hands over when it stops.
fn stop(hub: &Hub) -> Kept {
    hub.close();
    let mut kept = Kept::default();
    let added: Result<(), Infallible> = hub.keep(|piece| {
        kept.add(piece);
        Ok(())
    });
    added.unwrap();
    kept
}

/// The next start in memory, under another mark.
fn start(incarnation: u32, kept: Kept, now: u64) -> Arc<Hub> {
    let mut hub = Hub::new(Options {
        incarnation,
        ..options()
    });
    hub.take_up(kept, now).unwrap();
    Arc::new(hub)
}

fn restart(hub: &Hub, incarnation: u32, now: u64) -> Arc<Hub> {
    start(incarnation, stop(hub), now)
}

/// What a reader of these channels, and of this pattern, is told that comes with a cursor.
fn told(hub: &Arc<Hub>, fanout: &mut Fanout, cursor: &Cursor, by_pattern: bool, wants: Wants) -> Vec<String> {
    round(fanout);
    let reader = fanout.open(1, None);
    if by_pattern {
        fanout.add_pattern(reader, &pattern("*"), wants).unwrap();
    } else {
        for channel in CHANNELS {
            fanout.add(reader, &name(channel), wants, 10).unwrap();
        }
    }
    fanout.begin(reader, Begin::At(hub.resolve(cursor)), false);
    let told = read_on(fanout, reader);
    fanout.close(reader, 10);
    told
}

#[test]
fn whoever_comes_back_after_a_stop_reads_on_and_is_told_of_no_gap() {
    let hub = Arc::new(Hub::new(options()));
    publish(&hub, "a", "1", 10);
    let cursor = hub.cursor(hub.now());
    publish(&hub, "a", "2", 10);
    let before = publish(&hub, "b", "3", 10);
    let hub = restart(&hub, 8, 20);
    let mut fanout = shard(&hub);
    for by_pattern in [false, true] {
        assert_eq!(
            told(&hub, &mut fanout, &cursor, by_pattern, Wants::default()),
            ["2", "3"],
            "{by_pattern}"
        );
    }
    let after = publish(&hub, "b", "4", 20);
    assert_eq!(after.places[0].offset, 2);
    assert_eq!(after.places[0].channel.epoch, before.places[0].channel.epoch);
    assert_eq!(
        told(&hub, &mut fanout, &cursor, false, Wants::default()),
        ["2", "3", "4"]
    );
    // And once more: a cursor of the first start is known by the third.
    let hub = restart(&hub, 9, 30);
    assert_eq!(
        told(&hub, &mut shard(&hub), &cursor, false, Wants::default()),
        ["2", "3", "4"]
    );
}

#[test]
fn a_cursor_of_what_the_hub_that_stopped_never_had_is_a_gap() {
    let hub = Arc::new(Hub::new(options()));
    publish(&hub, "a", "1", 10);
    let kept = stop(&hub);
    let one = start(8, kept.clone(), 20);
    let early = hub.cursor(hub.now());
    publish(&one, "a", "lost", 20);
    let late = one.cursor(one.now());
    // The same is taken up again, as if somebody had put a copy back.
    let other = start(9, kept, 20);
    publish(&other, "a", "2", 20);
    publish(&other, "a", "3", 20);
    let mut fanout = shard(&other);
    assert!(other.resolve(&late).lost_memory, "of another start");
    let told = |fanout: &mut _, cursor| told(&other, fanout, cursor, false, Wants::default());
    assert_eq!(told(&mut fanout, &late)[..3], ["gap a", "gap b", "gap c"]);
    assert!(!other.resolve(&early).lost_memory);
    assert_eq!(told(&mut fanout, &early), ["2", "3"]);
    // Beyond what the first one had reached.
    let mut beyond = early;
    beyond.position.memory += 1;
    assert!(other.resolve(&beyond).lost_memory);
}

#[test]
fn whoever_watches_members_is_told_that_all_of_them_left() {
    let hub = Arc::new(Hub::new(options()));
    let mut fanout = shard(&hub);
    let reader = fanout.open(1, None);
    fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
    let channel = hub.listen(0, &name("a"), 10).unwrap().channel.id;
    hub.join(channel, "ann", None, 10);
    let cursor = hub.cursor(hub.now());
    let hub = restart(&hub, 8, 20);
    let mut fanout = shard(&hub);
    assert_eq!(hub.members(&name("a"), 10).count, 0);
    let watching = Wants {
        presence: true,
        ..Wants::default()
    };
    let gaps = ["presence gap a", "presence gap b", "presence gap c"];
    assert_eq!(told(&hub, &mut fanout, &cursor, false, watching), gaps);
    assert_eq!(
        told(&hub, &mut fanout, &cursor, true, watching),
        ["presence gap *"]
    );
    let empty: [&str; 0] = [];
    assert_eq!(
        told(&hub, &mut fanout, &cursor, false, Wants::default()),
        empty,
        "whoever does not watch is told nothing"
    );
    // Once.
    let now = hub.cursor(hub.now());
    assert_eq!(told(&hub, &mut fanout, &now, false, watching), empty);
}

#[test]
fn values_keys_and_lost_histories_are_taken_up() {
    let hub = Arc::new(Hub::new(options()));
    let start_of_all = hub.cursor(hub.now());
    let mut value = Message::text(name("a"), "value");
    value.retain = true;
    publish_message(&hub, value, 10);
    for text in ["1", "2", "3", "4"] {
        publish(&hub, "a", text, 100);
    }
    hub.tick(1_000);
    let mut keyed = Message::text(name("b"), "once");
    keyed.idempotency_key = Some("key".into());
    let first = publish_message(&hub, keyed.clone(), 1_000);
    publish(&hub, "c", "deleted", 1_000);
    delete(&hub, "c", Delete::History, 1_000);
    let hub = restart(&hub, 8, 1_000);
    assert_eq!(
        retained(&hub, "a").map(|value| word(&value)),
        Some("value".into())
    );
    let kept = history(&hub, "a", HistoryQuery::default(), 1_000).unwrap();
    let kept: Vec<String> = kept.publications.iter().map(|one| word(one)).collect();
    assert_eq!(kept, ["2", "3", "4"]);
    let again = publish_message(&hub, keyed.clone(), 1_000);
    assert!(again.duplicate);
    assert_eq!((again.at, again.places[0].offset), (first.at, 1));
    assert_eq!(again.places[0].channel.epoch, first.places[0].channel.epoch);
    let mut other = keyed;
    other.payload = Message::text(name("b"), "other").payload;
    assert!(hub.publish(other, 1_000, &mut || panic!()).is_err(), "a conflict");
    // What was gone before is still told.
    let mut fanout = shard(&hub);
    let told = told(&hub, &mut fanout, &start_of_all, false, Wants::default());
    assert_eq!(told, ["gap a", "value", "gap a", "2", "3", "4", "once", "gap c"]);
    // A value outlives its neighbours, and leaves when another one comes.
    let mut next = Message::text(name("a"), "next");
    next.retain = true;
    publish_message(&hub, next, 1_000);
    assert_eq!(retained(&hub, "a").map(|value| word(&value)), Some("next".into()));
}

#[test]
fn what_has_grown_too_old_meanwhile_is_gone_and_said_to_be() {
    let mut bounded = namespace(3, Durability::Memory);
    bounded.history.age = 1_000;
    let options = |incarnation| Options {
        namespaces: Namespaces::uniform(bounded.clone()),
        incarnation,
        ..options()
    };
    let hub = Arc::new(Hub::new(options(7)));
    let cursor = hub.cursor(hub.now());
    publish(&hub, "a", "old", 10);
    publish(&hub, "b", "new", 900);
    let kept = stop(&hub);
    let mut hub = Hub::new(options(8));
    hub.take_up(kept, 1_500).unwrap();
    let hub = Arc::new(hub);
    let mut fanout = shard(&hub);
    assert_eq!(
        told(&hub, &mut fanout, &cursor, false, Wants::default()),
        ["gap a", "new"]
    );
    assert_eq!(
        told(&hub, &mut fanout, &cursor, true, Wants::default()),
        ["gap *", "new"]
    );
}

#[test]
fn a_closed_hub_publishes_and_deletes_nothing_in_memory() {
    let hub = Arc::new(Hub::new(options()));
    publish(&hub, "a", "1", 10);
    hub.close();
    let refused = hub.publish(Message::text(name("a"), "2"), 10, &mut || panic!());
    assert!(refused.is_err());
    let refused = hub.delete(&name("a"), Delete::History, 10, &mut || panic!());
    assert!(refused.is_err());
    assert_eq!(stop(&hub).publications.len(), 1);
}

#[test]
fn beside_a_store_both_go_on_and_another_store_is_refused() {
    let broker = TestBroker::new(9);
    let hub = open(&broker, 1);
    let cursor = hub.cursor(hub.now());
    let mut both = Message::text(name("m"), "both");
    both.channels.push(name("d"));
    store::send(&hub, both);
    store::commit(&hub, &broker);
    publish(&hub, "m", "memory", 10);
    store::store(&hub, &broker, "d", "stored");
    let kept = stop(&hub);
    broker.restart(2);
    let mut hub = Hub::with_broker(stored_options(2), broker.clone());
    hub.take_up(kept.clone(), 10).unwrap();
    let hub = Arc::new(hub);
    let mut fanout = shard(&hub);
    let start = hub.resolve(&cursor);
    assert!(!start.lost_memory && !start.lost_durable);
    for by_pattern in [false, true] {
        let reader = fanout.open(1, None);
        if by_pattern {
            fanout
                .add_pattern(reader, &pattern("*"), Wants::default())
                .unwrap();
        } else {
            for channel in ["d", "m"] {
                fanout.add(reader, &name(channel), Wants::default(), 10).unwrap();
            }
        }
        fanout.begin(reader, Begin::At(start), false);
        let told = words(&read(&hub, &broker, &mut fanout, reader));
        assert_eq!(told, ["both", "memory", "stored"], "{by_pattern}");
    }
    // The store has gone on without it, or was another one.
    store::store(&hub, &broker, "d", "later");
    broker.restart(3);
    let mut hub = Hub::with_broker(stored_options(3), broker.clone());
    assert_eq!(hub.take_up(kept.clone(), 10), Err(TakeUpError::OtherLog));
    let mut hub = Hub::with_broker(stored_options(3), TestBroker::new(5));
    assert_eq!(hub.take_up(kept.clone(), 10), Err(TakeUpError::OtherLog));
    let mut hub = Hub::new(Options {
        incarnation: 3,
        ..options()
    });
    assert_eq!(hub.take_up(kept, 10), Err(TakeUpError::OtherLog));
    assert!(hub.resolve(&cursor).lost_memory);
}

#[test]
fn a_channel_that_moves_between_memory_and_the_store_tells_a_gap() {
    let broker = TestBroker::new(9);
    let uniform = |durability, incarnation| Options {
        namespaces: Namespaces::uniform(namespace(9, durability)),
        incarnation,
        ..options()
    };
    for (mark, from, to) in [
        (11, Durability::Memory, Durability::Committed),
        (21, Durability::Committed, Durability::Memory),
    ] {
        broker.restart(mark);
        let hub = Arc::new(Hub::with_broker(uniform(from, mark), broker.clone()));
        let cursor = hub.cursor(hub.now());
        store::send(&hub, Message::text(name("a"), "lost"));
        store::commit(&hub, &broker);
        let kept = stop(&hub);
        broker.restart(mark + 1);
        let mut hub = Hub::with_broker(uniform(to, mark + 1), broker.clone());
        hub.take_up(kept, 10).unwrap();
        let hub = Arc::new(hub);
        let mut fanout = shard(&hub);
        let reader = fanout.open(1, None);
        fanout.add(reader, &name("a"), Wants::default(), 10).unwrap();
        fanout.begin(reader, Begin::At(hub.resolve(&cursor)), false);
        let told = words(&read(&hub, &broker, &mut fanout, reader));
        assert_eq!(told, ["gap a"], "{from:?} {to:?}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_and_nothing_of_it_is_taken() {
    let hub = Arc::new(Hub::new(options()));
    publish(&hub, "a", "1", 10);
    publish(&hub, "a", "2", 10);
    let good = stop(&hub);
    let wrong: [fn(&mut Kept); 6] = [
        |kept| kept.publications.reverse(),
        |kept| kept.publications[1].places[0].channel = 7,
        |kept| kept.channels.push(kept.channels[0].clone()),
        |kept| kept.head.visible.memory = 1,
        |kept| kept.head.visible.memory = u64::MAX,
        |kept| {
            kept.publications
                .iter_mut()
                .for_each(|one| one.places[0].is_value = true)
        },
    ];
    for wrong in wrong {
        let mut kept = good.clone();
        wrong(&mut kept);
        let mut hub = Hub::new(Options {
            incarnation: 8,
            ..options()
        });
        assert!(matches!(
            hub.take_up(kept, 10),
            Err(TakeUpError::Contradiction(_))
        ));
        assert_eq!(hub.now(), Position::default());
        assert_eq!(hub.stats().channels, 0);
    }
    let mut hub = Hub::new(options());
    assert_eq!(hub.take_up(good, 10), Err(TakeUpError::SameMark));
}

#[test]
fn former_starts_are_known_up_to_a_number_of_them() {
    let mut hub = Arc::new(Hub::new(options()));
    let first = hub.cursor(hub.now());
    for incarnation in 0..FORMER as u32 {
        assert!(!hub.resolve(&first).lost_memory, "{incarnation}");
        hub = restart(&hub, 1_000 + incarnation, 10);
    }
    assert!(!hub.resolve(&first).lost_memory);
    hub = restart(&hub, 10_000, 10);
    assert!(hub.resolve(&first).lost_memory);
    assert_eq!(stop(&hub).head.former.len(), FORMER);
}

#[test]
fn handing_over_a_million_bytes_of_publications_holds_the_lock_for_short_strides() {
    let mut wide = options();
    wide.namespaces = Namespaces::uniform(namespace(100_000, Durability::Memory));
    let hub = Arc::new(Hub::new(wide));
    for number in 0..20_000 {
        publish(&hub, &format!("a{}", number % 5_000), "x", 10);
    }
    let before = hub.longest_hold().steps;
    let mut publications = 0;
    hub.close();
    let kept: Result<(), Infallible> = hub.keep(|piece| {
        publications += usize::from(matches!(piece, Piece::Publication(_)));
        Ok(())
    });
    kept.unwrap();
    assert_eq!(publications, 20_000);
    assert!(
        hub.longest_hold().steps <= before.max(4_000),
        "{:?}",
        hub.longest_hold()
    );
}

/// Something that happens to a hub.
#[derive(Clone, Debug)]
enum Event {
    Publish { channels: Vec<usize>, retain: bool },
    Delete(usize, bool),
    Pass(u64),
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (prop::collection::vec(0..3usize, 1..3), any::<bool>())
            .prop_map(|(channels, retain)| Event::Publish { channels, retain }),
        1 => (0..3usize, any::<bool>()).prop_map(|(channel, all)| Event::Delete(channel, all)),
        2 => (1..200u64).prop_map(Event::Pass),
        1 => Just(Event::Restart),
    ];
    prop::collection::vec(event, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After any number of restarts in good order every cursor that was ever given is answered as by a hub that never
    /// stopped. (Where nothing is gone by age alone while it stands still.)
    #[test]
    fn a_hub_that_was_restarted_answers_every_cursor_like_one_that_was_not(
        events in events(),
        has_window in any::<bool>(),
    ) {
        // Either nothing leaves the window, or all of it at once: in between the one that goes on trims a little later. And it
        // never forgets a channel: otherwise it may tell gaps that were none.
        let window = if has_window { 1 << 40 } else { 0 };
        let options = |incarnation| Options { incarnation, window, forget_after: 1 << 40, ..options() };
        let steady = Arc::new(Hub::new(options(1)));
        let mut stopping = Arc::new(Hub::new(options(2)));
        let mut cursors = vec![(steady.cursor(steady.now()), stopping.cursor(stopping.now()))];
        let (mut now, mut incarnation) = (1_000, 2);
        for (number, event) in events.iter().enumerate() {
            match event {
                Event::Publish { channels, retain } => {
                    let mut message = Message::text(name("x"), &number.to_string());
                    message.channels = channels.iter().map(|index| name(CHANNELS[*index])).collect();
                    message.retain = *retain;
                    let one = publish_message(&steady, message.clone(), now);
                    let two = publish_message(&stopping, message, now);
                    let offsets = |receipt: &cometserver_core::hub::Receipt| -> Vec<u64> {
                        receipt.places.iter().map(|place| place.offset).collect()
                    };
                    prop_assert_eq!(offsets(&one), offsets(&two));
                }
                Event::Delete(channel, all) => {
                    let what = if *all { Delete::History } else { Delete::Retained };
                    let one = delete(&steady, CHANNELS[*channel], what, now);
                    let two = delete(&stopping, CHANNELS[*channel], what, now);
                    prop_assert_eq!(one, two);
                }
                Event::Pass(time) => {
                    now += time;
                    steady.tick(now);
                    stopping.tick(now);
                }
                Event::Restart => {
                    incarnation += 1;
                    let kept = stop(&stopping);
                    let mut hub = Hub::new(options(incarnation));
                    hub.take_up(kept, now).unwrap();
                    stopping = Arc::new(hub);
                }
            }
            cursors.push((steady.cursor(steady.now()), stopping.cursor(stopping.now())));
        }
        steady.tick(now);
        stopping.tick(now);
        let mut fanouts = (shard(&steady), shard(&stopping));
        for (one, two) in &cursors {
            for by_pattern in [false, true] {
                let wants = Wants::default();
                let expected = told(&steady, &mut fanouts.0, one, by_pattern, wants);
                let found = told(&stopping, &mut fanouts.1, two, by_pattern, wants);
                prop_assert_eq!(found, expected);
            }
        }
        for channel in CHANNELS {
            let value = |hub| retained(hub, channel).map(|value| word(&value));
            prop_assert_eq!(value(&stopping), value(&steady));
        }
        prop_assert_eq!(stopping.stats().log_bytes, steady.stats().log_bytes);
        prop_assert_eq!(stopping.stats().publications, steady.stats().publications);
    }
}
