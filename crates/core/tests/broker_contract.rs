//! The test broker keeps every promise of the suite: what the hub is tested on is a broker like any other.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[macro_use]
#[path = "broker_contract/suite.rs"]
mod suite;

use std::sync::{Arc, Mutex};

use broker::TestBroker;
use cometserver_core::broker::{Broker, BrokerError, Fetch, Outcome, Page, Submission};
use cometserver_core::channel::ChannelName;
use cometserver_core::publication::Message;
use suite::Rig;

struct Late {
    broker: Arc<TestBroker>,
    starts: u32,
}

impl Rig for Late {
    fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    fn settle(&mut self) -> Vec<(u64, Result<Outcome, BrokerError>)> {
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
        self.broker.configure(&suite::namespaces());
    }
}

fn late() -> Late {
    let broker = TestBroker::new(0);
    broker.configure(&suite::namespaces());
    Late { broker, starts: 1 }
}

mod the_test_broker {
    use super::late;

    contract!(late());
}

#[test]
fn a_failed_submission_is_answered_once_and_takes_no_position() {
    let broker = late().broker;
    let name = ChannelName::new("a").unwrap();
    broker.open(&name);
    for ticket in 0..3 {
        broker
            .publish(Submission {
                ticket,
                message: Arc::new(Message::text(name.clone(), "x")),
                channels: vec![name.clone()],
                time: 1_000,
            })
            .unwrap();
    }
    let answers = broker.batch(3, 0b010);
    let published = |position| {
        Ok(Outcome::Published {
            position,
            offsets: vec![position],
        })
    };
    assert_eq!(answers[0].result, published(1));
    assert!(matches!(answers[1].result, Err(BrokerError::Unknown(_))));
    assert_eq!(answers[2].result, published(2));
    assert_eq!(broker.waiting(), 0);
}
