//! What every broker promises the hub, as one suite: each broker is held against the same functions.
//!
//! A broker under test gives a [`Rig`]: how to submit, how to wait for what becomes of it, how to read.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use broker::TestBroker;
use cometserver_core::broker::{Broker, BrokerError, Fetch, Page, Submission};
use cometserver_core::channel::ChannelName;
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::{Body, Message};

type Outcome = Result<(u64, Vec<u64>), BrokerError>;

/// How the suite drives a broker.
trait Rig {
    fn broker(&self) -> &dyn Broker;
    /// Everything taken so far has been answered: the answers since the last call, in the order given.
    fn settle(&mut self) -> Vec<(u64, Outcome)>;
    /// Waits for the answer to a read.
    fn read(&mut self, fetch: Fetch) -> Page;
    /// The same store, opened again.
    fn reopen(&mut self);
}

struct Late {
    broker: Arc<TestBroker>,
    starts: u32,
}

impl Rig for Late {
    fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    fn settle(&mut self) -> Vec<(u64, Outcome)> {
        let mut all = Vec::new();
        while self.broker.waiting() > 0 {
            all.extend(self.broker.batch(3, 0).into_iter().map(|c| (c.ticket, c.result)));
        }
        all
    }

    fn read(&mut self, fetch: Fetch) -> Page {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        self.broker
            .read(fetch, Box::new(move |page| *slot.lock().unwrap() = Some(page)));
        assert!(
            answer.lock().unwrap().is_none(),
            "a read is never answered at once"
        );
        self.broker.answer(0);
        let page = answer.lock().unwrap().take();
        page.expect("answered").expect("readable")
    }

    fn reopen(&mut self) {
        self.starts += 1;
        self.broker.restart(self.starts);
    }
}

/// `keep`: as many publications per channel as the rig's broker keeps in these tests.
const KEEP: usize = 5;

fn late() -> Late {
    Late {
        broker: TestBroker::new(KEEP),
        starts: 1,
    }
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn submit(rig: &dyn Rig, ticket: u64, channels: &[&str]) {
    let mut message = Message::text(name(channels[0]), &format!("message {ticket}"));
    message.channels = channels.iter().map(|channel| name(channel)).collect();
    let message = Arc::new(message);
    rig.broker()
        .publish(Submission {
            ticket,
            message,
            time: 1_000 + ticket,
        })
        .unwrap();
}

fn fetch(channels: &[&str], after: u64, until: u64, limit: usize) -> Fetch {
    Fetch {
        channels: channels.iter().map(|channel| name(channel)).collect(),
        patterns: Vec::new(),
        after,
        until,
        limit,
    }
}

fn positions_and_offsets_rise_by_one(rig: &mut dyn Rig) {
    let channels: [&[&str]; 7] = [
        &["a"],
        &["b"],
        &["a", "b"],
        &["a"],
        &["b", "c"],
        &["c"],
        &["a", "b", "c"],
    ];
    for (ticket, channels) in channels.iter().enumerate() {
        submit(rig, ticket as u64, channels);
    }
    let (mut position, mut offsets) = (rig.broker().position(), HashMap::<&str, u64>::new());
    let answers = rig.settle();
    assert_eq!(answers.len(), channels.len(), "each submission is answered once");
    for (ticket, result) in answers {
        let (at, given) = result.unwrap();
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
        assert!(known.position <= position);
    }
    assert!(rig.broker().channel(&name("never")).is_none());
}

fn pages_are_in_order_bounded_and_complete(rig: &mut dyn Rig) {
    for ticket in 0..12 {
        submit(rig, ticket, [&["a"], &["b"], &["c"]][ticket as usize % 3]);
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
            assert_eq!(stored.time, 1_000 + stored.position - 1);
            assert!(matches!(&stored.body, Body::Message { payload, .. }
                if **payload.bytes() == *format!("message {}", stored.position - 1).as_bytes()));
            seen.push(stored.position);
        }
        assert!(page.gaps.is_empty(), "nothing was lost: {:?}", page.gaps);
        after = page.reached;
    }
    assert_eq!(seen, [1, 3, 4, 6, 7, 9, 10]);
    let pattern = Fetch {
        patterns: vec![Arc::new(Pattern::new("*", 9).unwrap())],
        ..fetch(&["a"], 0, 12, 100)
    };
    assert_eq!(
        rig.read(pattern).stored.len(),
        12,
        "each once, though two ways lead to it"
    );
}

fn what_is_gone_is_said_to_be_gone(rig: &mut dyn Rig) {
    let many = KEEP as u64 + 4;
    for ticket in 0..many {
        submit(rig, ticket, &["a"]);
    }
    submit(rig, many, &["b"]);
    rig.settle();
    let page = rig.read(fetch(&["a", "b"], 0, many + 1, 100));
    assert_eq!(
        page.gaps,
        [(name("a"), 4)],
        "the newest that is gone, of the channel that lost it"
    );
    assert_eq!(page.stored.first().map(|stored| stored.position), Some(5));
    let page = rig.read(fetch(&["a", "b"], 4, many + 1, 100));
    assert!(page.gaps.is_empty(), "nothing after this is gone");
    let page = rig.read(fetch(&["b"], 0, many + 1, 100));
    assert!(
        page.gaps.is_empty(),
        "another channel's loss is none of this reader's concern"
    );
}

fn everything_goes_on_after_a_restart(rig: &mut dyn Rig) {
    for ticket in 0..3 {
        submit(rig, ticket, &["a"]);
    }
    rig.settle();
    let (old, known) = (rig.broker().mark(), rig.broker().channel(&name("a")).unwrap());
    rig.reopen();
    assert_ne!(rig.broker().mark(), old, "each start has its own mark");
    assert_eq!(rig.broker().position(), 3);
    assert!(rig.broker().knows(old, 3), "issued before the restart");
    assert!(!rig.broker().knows(old, 4), "never issued under that mark");
    assert!(
        !rig.broker().knows(old ^ 0x5555_5555, 1),
        "a mark of another history"
    );
    let again = rig.broker().channel(&name("a")).unwrap();
    assert_eq!((again.epoch, again.offset, again.position), (known.epoch, 3, 3));
    submit(rig, 9, &["a"]);
    let answers = rig.settle();
    assert_eq!(answers, [(9, Ok((4, vec![4])))]);
    assert!(!rig.broker().knows(old, 4), "position 4 belongs to the new mark");
    assert!(rig.broker().knows(rig.broker().mark(), 4));
    assert_eq!(rig.read(fetch(&["a"], 0, 4, 100)).stored.len(), 4);
}

macro_rules! contract {
    ($rig:expr => $($promise:ident),+ $(,)?) => {
        $(#[test] fn $promise() { super::$promise(&mut $rig); })+
    };
}

mod the_test_broker {
    use super::late;

    contract!(late() =>
        positions_and_offsets_rise_by_one,
        pages_are_in_order_bounded_and_complete,
        what_is_gone_is_said_to_be_gone,
        everything_goes_on_after_a_restart,
    );
}

#[test]
fn a_failed_submission_is_answered_once_and_takes_no_position() {
    let broker = TestBroker::new(KEEP);
    let rig = Late {
        broker: broker.clone(),
        starts: 1,
    };
    for ticket in 0..3 {
        submit(&rig, ticket, &["a"]);
    }
    let answers = broker.batch(3, 0b010);
    assert_eq!(answers[0].result, Ok((1, vec![1])));
    assert!(matches!(answers[1].result, Err(BrokerError::Unknown(_))));
    assert_eq!(answers[2].result, Ok((2, vec![2])));
    assert_eq!(broker.waiting(), 0);
}
