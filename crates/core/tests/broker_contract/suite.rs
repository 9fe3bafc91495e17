//! What every broker promises the hub, as one suite: each broker is held against the same functions.
//!
//! A broker under test gives a [`Rig`]: how to submit, how to wait for what becomes of it, how to read. Then
//! `contract!(rig())` makes a test of every promise.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cometserver_core::broker::{
    Broker, BrokerError, Delete, Deletion, Fetch, Outcome, Page, Submission, Want,
};
use cometserver_core::channel::ChannelName;
use cometserver_core::idempotency;
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::{Body, Message};

/// How the suite drives a broker. It begins with an empty store that was configured with [`namespaces`].
pub(crate) trait Rig {
    fn broker(&self) -> &dyn Broker;
    /// Everything taken so far has been answered: the answers since the last call, in the order given.
    fn settle(&mut self) -> Vec<(u64, Result<Outcome, BrokerError>)>;
    /// Waits for the answer to a read, which must not come at once.
    fn read(&mut self, fetch: Fetch) -> Page;
    /// The same store, opened again, and configured again.
    fn reopen(&mut self);
    /// What time it is, in milliseconds: nothing published now may grow too old, nor its key.
    fn now(&self) -> u64 {
        1_000
    }
}

/// Each channel keeps so many publications.
pub(crate) const KEEP: usize = 5;

/// What holds for the channels of the suite: nothing grows too old, or too large.
pub(crate) fn namespaces() -> Namespaces {
    Namespaces::uniform(Namespace {
        history: Bounds {
            count: KEEP,
            bytes: 1 << 30,
            age: 1 << 50,
        },
        durability: Durability::Committed,
        ..Namespace::default()
    })
}

/// Makes a test of every promise: `contract!(rig())` in a module of its own, beside `#[macro_use] mod suite`.
macro_rules! contract {
    ($rig:expr) => {
        contract!($rig =>
            positions_and_offsets_rise_by_one,
            pages_are_in_order_bounded_and_complete,
            pages_come_newest_first_if_asked_for_so,
            what_is_gone_is_said_to_be_gone,
            everything_goes_on_after_a_restart,
            a_channel_keeps_its_identity_from_the_moment_it_is_opened,
            the_retained_value_outlives_its_history_and_the_next_one_replaces_it,
            retained_values_come_as_far_as_the_bytes_allow_and_one_in_any_case,
            what_is_deleted_is_gone_and_said_to_be_gone,
            a_deletion_has_its_place_among_the_submissions,
            channels_are_listed_in_the_order_in_which_they_were_made_each_once,
            a_channel_without_anything_kept_may_be_forgotten_but_its_loss_is_not,
            keys_are_remembered_after_a_restart,
        );
    };
    ($rig:expr => $($promise:ident),+ $(,)?) => {
        $(#[test] fn $promise() { super::suite::$promise(&mut $rig); })+
    };
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn pattern(text: &str) -> Arc<Pattern> {
    Arc::new(Pattern::new(text, 99).unwrap())
}

fn open(rig: &dyn Rig, channels: &[&str]) {
    for channel in channels {
        rig.broker().open(&name(channel));
    }
}

fn message(ticket: u64, channels: &[&str]) -> Message {
    let mut message = Message::text(name(channels[0]), &format!("message {ticket}"));
    message.channels = channels.iter().map(|channel| name(channel)).collect();
    message
}

fn submit(rig: &dyn Rig, ticket: u64, message: Message) {
    let channels = message.channels.clone();
    let waiting = rig.broker().publish(Submission {
        ticket,
        message: Arc::new(message),
        channels,
        time: rig.now() + ticket,
    });
    assert!(waiting.unwrap() >= 9, "its own payload waits as well");
}

fn publish(rig: &dyn Rig, ticket: u64, channels: &[&str]) {
    submit(rig, ticket, message(ticket, channels));
}

fn retain(rig: &dyn Rig, ticket: u64, channels: &[&str]) {
    let mut message = message(ticket, channels);
    message.retain = true;
    submit(rig, ticket, message);
}

fn delete(rig: &dyn Rig, ticket: u64, channel: &str, what: Delete) {
    let channel = name(channel);
    rig.broker()
        .delete(Deletion {
            ticket,
            channel,
            what,
        })
        .unwrap();
}

fn published(position: u64, offsets: &[u64]) -> Result<Outcome, BrokerError> {
    let offsets = offsets.to_vec();
    Ok(Outcome::Published { position, offsets })
}

fn deleted(count: usize, gone: u64) -> Result<Outcome, BrokerError> {
    Ok(Outcome::Deleted { count, gone })
}

fn fetch(channels: &[&str], after: u64, until: u64, limit: usize) -> Fetch {
    Fetch {
        channels: channels.iter().map(|channel| name(channel)).collect(),
        after,
        until,
        limit,
        bytes: 1 << 20,
        ..Fetch::default()
    }
}

fn positions(page: &Page) -> Vec<u64> {
    page.stored.iter().map(|stored| stored.position).collect()
}

/// The retained value's position, of a channel that has one up to `until`.
fn value(rig: &mut dyn Rig, channel: &str, until: u64) -> Option<u64> {
    let page = rig.read(Fetch {
        want: Want::Retained,
        ..fetch(&[channel], 0, until, 0)
    });
    assert!(page.gaps.is_empty());
    assert!(page.stored.len() <= 1);
    page.stored.first().map(|stored| {
        assert!(stored.places.iter().any(|(own, _)| *own == name(channel)));
        stored.position
    })
}

pub(crate) fn positions_and_offsets_rise_by_one(rig: &mut dyn Rig) {
    let channels: [&[&str]; 7] = [
        &["a"],
        &["b"],
        &["a", "b"],
        &["a"],
        &["b", "c"],
        &["c"],
        &["a", "b", "c"],
    ];
    open(rig, &["a", "b", "c"]);
    let (mut position, mut offsets) = (rig.broker().position(), HashMap::<&str, u64>::new());
    for (ticket, channels) in channels.iter().enumerate() {
        publish(rig, ticket as u64, channels);
    }
    let answers = rig.settle();
    assert_eq!(answers.len(), channels.len(), "each submission is answered once");
    for (ticket, result) in answers {
        let Outcome::Published {
            position: at,
            offsets: given,
        } = result.unwrap()
        else {
            panic!("it was no deletion")
        };
        position += 1;
        assert_eq!(at, position);
        let places = channels[ticket as usize];
        assert_eq!(given.len(), places.len());
        for (channel, offset) in places.iter().zip(given) {
            let last = offsets.entry(channel).or_default();
            *last += 1;
            assert_eq!(offset, *last, "{channel}");
        }
    }
    assert_eq!(rig.broker().position(), position);
    for (channel, offset) in offsets {
        let known = rig.broker().channel(&name(channel)).unwrap();
        assert_eq!(known.offset, offset);
    }
    assert!(rig.broker().channel(&name("never")).is_none());
}

pub(crate) fn pages_are_in_order_bounded_and_complete(rig: &mut dyn Rig) {
    open(rig, &["a", "b", "c"]);
    for ticket in 0..12 {
        publish(rig, ticket, [&["a"], &["b"], &["c"]][ticket as usize % 3]);
    }
    rig.settle();
    let (mut after, mut seen) = (0, Vec::new());
    while after < 10 {
        let page = rig.read(fetch(&["a", "c"], after, 10, 2));
        assert!(page.stored.len() <= 2, "the limit holds");
        assert!(
            page.reached > after && page.reached <= 10,
            "a page goes on, and not beyond what was asked"
        );
        for stored in &page.stored {
            assert!(stored.position > after && stored.position <= page.reached);
            assert!(
                seen.last().is_none_or(|last| *last < stored.position),
                "in the order of positions"
            );
            assert_eq!(stored.time, rig.now() + stored.position - 1);
            assert!(matches!(&stored.body, Body::Message { payload, .. }
                if **payload.bytes() == *format!("message {}", stored.position - 1).as_bytes()));
            seen.push(stored.position);
        }
        assert!(page.gaps.is_empty(), "nothing was lost: {:?}", page.gaps);
        after = page.reached;
    }
    assert_eq!(seen, [1, 3, 4, 6, 7, 9, 10]);
    let all = Fetch {
        patterns: vec![pattern("*")],
        ..fetch(&["a"], 0, 12, 100)
    };
    let page = rig.read(all.clone());
    assert_eq!(page.stored.len(), 12, "each once, though two ways lead to it");
    assert_eq!(page.reached, 12);
    for (bytes, at_most) in [(0, 1), (20, 3)] {
        let page = rig.read(Fetch { bytes, ..all.clone() });
        assert!((1..=at_most).contains(&page.stored.len()), "of {bytes} bytes");
        assert_eq!(Some(page.reached), positions(&page).last().copied());
    }
    let nothing = rig.read(fetch(&["a"], 10, 12, 100));
    assert_eq!((nothing.stored.len(), nothing.reached), (0, 12));
}

pub(crate) fn pages_come_newest_first_if_asked_for_so(rig: &mut dyn Rig) {
    open(rig, &["a", "b"]);
    for ticket in 0..8 {
        publish(rig, ticket, [&["a"], &["b"]][ticket as usize % 2]);
    }
    rig.settle();
    let newest = |until| Fetch {
        want: Want::Newest,
        ..fetch(&["a"], 1, until, 2)
    };
    let page = rig.read(newest(6));
    assert_eq!(positions(&page), [5, 3], "a: 1, 3, 5, 7");
    assert!(page.reached >= 1 && page.reached < 3, "{}", page.reached);
    let page = rig.read(newest(page.reached));
    assert!(page.stored.is_empty(), "the first lies before `after`");
    assert_eq!(page.reached, 1);
    let one = rig.read(Fetch {
        limit: 100,
        bytes: 0,
        ..newest(8)
    });
    assert_eq!(positions(&one), [7]);
    assert!(one.reached < 7 && one.reached >= 5);
}

pub(crate) fn what_is_gone_is_said_to_be_gone(rig: &mut dyn Rig) {
    let many = KEEP as u64 + 4;
    open(rig, &["a", "b"]);
    for ticket in 0..many {
        publish(rig, ticket, &["a"]);
    }
    publish(rig, many, &["b"]);
    rig.settle();
    let page = rig.read(fetch(&["a", "b"], 0, many + 1, 100));
    assert_eq!(
        page.gaps,
        [(name("a"), 4)],
        "the newest that is gone, of the channel that lost it"
    );
    assert_eq!(page.stored.first().map(|stored| stored.position), Some(5));
    let newest = rig.read(Fetch {
        want: Want::Newest,
        ..fetch(&["a", "b"], 0, many + 1, 2)
    });
    assert_eq!(newest.gaps, [(name("a"), 4)]);
    let page = rig.read(fetch(&["a", "b"], 4, many + 1, 100));
    assert!(page.gaps.is_empty(), "nothing after this is gone");
    let page = rig.read(fetch(&["b"], 0, many + 1, 100));
    assert!(
        page.gaps.is_empty(),
        "another channel's loss is none of this reader's concern"
    );
    let page = rig.read(Fetch {
        patterns: vec![pattern("*")],
        ..fetch(&[], 0, many + 1, 100)
    });
    assert!(page.gaps.contains(&(name("a"), 4)) || page.forgotten >= 4);
}

pub(crate) fn everything_goes_on_after_a_restart(rig: &mut dyn Rig) {
    let first = rig.broker().open(&name("a"));
    for ticket in 0..2 {
        publish(rig, ticket, &["a"]);
    }
    retain(rig, 2, &["a"]);
    rig.settle();
    let old = rig.broker().mark();
    rig.reopen();
    assert_ne!(rig.broker().mark(), old, "each start has its own mark");
    assert_eq!(rig.broker().position(), 3);
    assert!(rig.broker().knows(old, 3), "issued before the restart");
    assert!(!rig.broker().knows(old, 4), "never issued under that mark");
    assert!(
        !rig.broker().knows(old ^ 0x5555_5555, 1),
        "a mark of another history"
    );
    let again = rig.broker().open(&name("a"));
    assert_eq!(again.epoch, first.epoch);
    assert_eq!((again.offset, again.position, again.retained), (3, 3, 3));
    publish(rig, 9, &["a"]);
    assert_eq!(rig.settle(), [(9, published(4, &[4]))]);
    assert!(!rig.broker().knows(old, 4), "position 4 belongs to the new mark");
    assert!(rig.broker().knows(rig.broker().mark(), 4));
    assert_eq!(positions(&rig.read(fetch(&["a"], 0, 4, 100))), [1, 2, 3, 4]);
    assert_eq!(value(rig, "a", 4), Some(3));
}

pub(crate) fn a_channel_keeps_its_identity_from_the_moment_it_is_opened(rig: &mut dyn Rig) {
    let known = rig.broker().open(&name("a"));
    assert_eq!((known.offset, known.retained), (0, 0));
    let stored = rig.broker().channel(&name("a")).unwrap();
    assert_eq!(
        (stored.epoch, stored.offset, stored.publications),
        (known.epoch, 0, 0)
    );
    publish(rig, 0, &["a"]);
    rig.settle();
    assert_eq!(rig.broker().channel(&name("a")).unwrap().epoch, known.epoch);
    delete(rig, 1, "a", Delete::History);
    publish(rig, 2, &["a"]);
    assert_eq!(
        rig.settle()[1],
        (2, published(2, &[2])),
        "offsets go on when everything was deleted"
    );
    assert_eq!(rig.broker().channel(&name("a")).unwrap().epoch, known.epoch);
    rig.broker().close(&name("a"));
    let again = rig.broker().open(&name("a"));
    assert_eq!((again.epoch, again.offset), (known.epoch, 2), "something is kept");
    assert_ne!(rig.broker().open(&name("b")).epoch, known.epoch);
}

pub(crate) fn the_retained_value_outlives_its_history_and_the_next_one_replaces_it(rig: &mut dyn Rig) {
    open(rig, &["a", "b"]);
    retain(rig, 0, &["a", "b"]);
    let many = KEEP as u64 + 1;
    for ticket in 1..=many {
        publish(rig, ticket, &["a"]);
    }
    rig.settle();
    let until = many + 1;
    assert_eq!(value(rig, "a", until), Some(1));
    assert_eq!(value(rig, "never", until), None);
    let both = rig.read(Fetch {
        want: Want::Retained,
        ..fetch(&["a", "b"], 0, until, 1)
    });
    assert_eq!(positions(&both), [1], "once, though it is that of both");
    let page = rig.read(fetch(&["a"], 0, until, 100));
    assert_eq!(page.stored.len(), KEEP, "it is no longer part of the history");
    assert_eq!(page.gaps, [(name("a"), 2)]);
    assert_eq!(rig.broker().channel(&name("a")).unwrap().retained, 1);
    rig.reopen();
    open(rig, &["a", "b"]);
    assert_eq!(value(rig, "a", until), Some(1));
    retain(rig, 99, &["a"]);
    rig.settle();
    assert_eq!(
        value(rig, "a", until),
        None,
        "the one that was is replaced, the new one comes live"
    );
    assert_eq!(value(rig, "a", until + 1), Some(until + 1));
    assert_eq!(
        value(rig, "b", until + 1),
        Some(1),
        "that of the other channel is still the same"
    );
}

pub(crate) fn retained_values_come_as_far_as_the_bytes_allow_and_one_in_any_case(rig: &mut dyn Rig) {
    let channels = ["a", "b", "c"];
    open(rig, &channels);
    for (ticket, channel) in channels.iter().enumerate() {
        retain(rig, ticket as u64 + 1, &[channel]);
    }
    rig.settle();
    let of_size = |bytes| Fetch {
        want: Want::Retained,
        bytes,
        ..fetch(&channels, 0, 3, 0)
    };
    // Each has nine bytes.
    for (bytes, expected) in [
        (1, &[1][..]),
        (9, &[1]),
        (18, &[1, 2]),
        (27, &[1, 2, 3]),
        (99, &[1, 2, 3]),
    ] {
        let page = rig.read(of_size(bytes));
        assert_eq!(positions(&page), expected, "{bytes} bytes");
        assert_eq!(page.reached, expected.len() as u64, "{bytes} bytes");
    }
}

pub(crate) fn what_is_deleted_is_gone_and_said_to_be_gone(rig: &mut dyn Rig) {
    open(rig, &["a", "b"]);
    retain(rig, 0, &["a"]);
    publish(rig, 1, &["a", "b"]);
    delete(rig, 2, "a", Delete::Retained);
    delete(rig, 3, "a", Delete::Retained);
    let answers = rig.settle();
    assert!(matches!(answers[2], (2, Ok(Outcome::Deleted { count: 1, .. }))));
    assert!(matches!(answers[3], (3, Ok(Outcome::Deleted { count: 0, .. }))));
    assert_eq!(value(rig, "a", 2), None);
    assert_eq!(rig.broker().channel(&name("a")).unwrap().retained, 0);
    assert_eq!(
        positions(&rig.read(fetch(&["a"], 0, 2, 100))),
        [1, 2],
        "the history is whole"
    );
    // A value that outlives what is deleted counts.
    retain(rig, 4, &["a"]);
    for ticket in 5..5 + KEEP as u64 {
        publish(rig, ticket, &["a"]);
    }
    let newest = 3 + KEEP as u64;
    delete(rig, 99, "a", Delete::History);
    assert_eq!(rig.settle().last(), Some(&(99, deleted(KEEP + 1, newest))));
    assert_eq!(value(rig, "a", newest), None);
    for reopened in [false, true] {
        if reopened {
            rig.reopen();
            open(rig, &["a", "b"]);
        }
        let page = rig.read(fetch(&["a", "b"], 1, newest, 100));
        assert_eq!(positions(&page), [2], "the other channel has kept it");
        assert_eq!(page.gaps, [(name("a"), newest)], "reopened: {reopened}");
        let page = rig.read(fetch(&["a"], newest, newest, 100));
        assert!(page.gaps.is_empty());
    }
    publish(rig, 100, &["a"]);
    assert!(
        matches!(rig.settle()[..], [(100, Ok(Outcome::Published { position, .. }))] if position == newest + 1)
    );
    assert_eq!(
        positions(&rig.read(fetch(&["a"], newest, newest + 1, 9))),
        [newest + 1]
    );
}

pub(crate) fn a_deletion_has_its_place_among_the_submissions(rig: &mut dyn Rig) {
    open(rig, &["a"]);
    publish(rig, 0, &["a"]);
    delete(rig, 1, "a", Delete::History);
    retain(rig, 2, &["a"]);
    delete(rig, 3, "a", Delete::Retained);
    let answers = rig.settle();
    let order: Vec<u64> = answers.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(order, [0, 1, 2, 3]);
    assert_eq!(answers[1].1, deleted(1, 1));
    assert_eq!(answers[2].1, published(2, &[2]), "a deletion takes no position");
    assert_eq!(
        positions(&rig.read(fetch(&["a"], 1, 2, 9))),
        [2],
        "it was published afterwards"
    );
    assert_eq!(value(rig, "a", 2), None);
    assert_eq!(rig.broker().position(), 2);
}

pub(crate) fn channels_are_listed_in_the_order_in_which_they_were_made_each_once(rig: &mut dyn Rig) {
    let names = ["d", "a", "c", "b", "e"];
    open(rig, &names);
    for (ticket, channel) in names[..4].iter().enumerate() {
        publish(rig, ticket as u64, &[channel]);
        rig.settle();
    }
    retain(rig, 9, &["c"]);
    rig.settle();
    rig.broker().close(&name("a"));
    for reopened in [false, true] {
        if reopened {
            rig.reopen();
        }
        let (mut after, mut listed) = (Some(0), Vec::new());
        while let Some(from) = after {
            let (found, next) = rig.broker().channels(from, 2);
            assert!(found.len() <= 2);
            assert!(next.is_none_or(|next| next > from && next < 1 << 52));
            listed.extend(found);
            after = next;
        }
        let order: Vec<&[u8]> = listed.iter().map(|channel| channel.name.as_bytes()).collect();
        assert_eq!(order, [b"d", b"a", b"c", b"b"], "nothing is kept of the last one");
        for channel in &listed {
            assert_eq!(rig.broker().channel(&channel.name).as_ref(), Some(channel));
            assert!(channel.bytes > 0);
        }
        assert_eq!(
            (listed[2].offset, listed[2].publications, listed[2].retained),
            (2, 2, 5)
        );
    }
}

pub(crate) fn a_channel_without_anything_kept_may_be_forgotten_but_its_loss_is_not(rig: &mut dyn Rig) {
    let old = rig.broker().open(&name("x/a"));
    open(rig, &["b"]);
    publish(rig, 0, &["x/a"]);
    publish(rig, 1, &["x/a"]);
    publish(rig, 2, &["b"]);
    delete(rig, 3, "x/a", Delete::History);
    rig.settle();
    rig.broker().close(&name("x/a"));
    for reopened in [false, true] {
        if reopened {
            rig.reopen();
        }
        let page = rig.read(fetch(&["x/a"], 1, 3, 9));
        assert!(page.stored.is_empty());
        let gap = page.gaps.iter().find(|(channel, _)| *channel == name("x/a"));
        assert!(
            gap.is_some_and(|(_, gone)| *gone >= 2),
            "who has seen the first only is told"
        );
        let page = rig.read(Fetch {
            patterns: vec![pattern("x/*")],
            ..fetch(&[], 1, 3, 9)
        });
        let named: BTreeSet<&ChannelName> = page.gaps.iter().map(|(channel, _)| channel).collect();
        assert!(
            page.forgotten >= 2 || named.contains(&name("x/a")),
            "a pattern as well"
        );
        assert!(page.forgotten <= 3);
    }
    let again = rig.broker().open(&name("x/a"));
    assert!(again.position >= 2, "what may have been forgotten");
    assert!(
        again.epoch != old.epoch || again.offset == 2,
        "a history goes on, or is another"
    );
    let page = rig.read(fetch(&["x/a"], 1, 3, 9));
    assert!(
        page.gaps.iter().any(|(_, gone)| *gone >= 2),
        "opened again it is still told"
    );
}

pub(crate) fn keys_are_remembered_after_a_restart(rig: &mut dyn Rig) {
    assert!(rig.broker().remembered().is_empty());
    open(rig, &["a", "b"]);
    let with_key = |ticket, key: &str, channels: &[&str]| {
        let mut message = message(ticket, channels);
        message.idempotency_key = Some(key.into());
        message
    };
    submit(rig, 0, with_key(0, "first", &["b", "a"]));
    submit(rig, 1, with_key(1, "second", &["a"]));
    // The key outlives the publication.
    for ticket in 2..2 + KEEP as u64 {
        publish(rig, ticket, &["a"]);
        publish(rig, ticket, &["b"]);
    }
    rig.settle();
    rig.reopen();
    let remembered = rig.broker().remembered();
    let of = |at: usize| {
        let one = &remembered[at];
        let places: Vec<(&[u8], u64)> = one
            .places
            .iter()
            .map(|(n, offset)| (n.as_bytes(), *offset))
            .collect();
        (&*one.key, one.position, one.time - rig.now(), places)
    };
    assert_eq!(remembered.len(), 2);
    assert_eq!(of(0), ("first", 1, 0, vec![(&b"b"[..], 1), (&b"a"[..], 1)]));
    assert_eq!(of(1), ("second", 2, 1, vec![(&b"a"[..], 2)]));
    assert_eq!(remembered[1].digest, idempotency::digest(b"message 1"));
}
