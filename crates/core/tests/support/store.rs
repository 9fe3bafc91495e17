//! Short words for tests of a hub with a store. Channels that begin with `d` are durable, those with `b` buffered.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::{Arc, Mutex};

use cometserver_core::fanout::{Fanout, Progress, ReaderId, Step};
use cometserver_core::hub::{
    Answer, Delete, History, HistoryQuery, Hub, Later, Options, Published, ReadLimits,
};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::publication::{Message, Publication};

use crate::broker::TestBroker;
use crate::support::{name, namespace, options, pattern, step};

/// So many publications are kept of each channel.
pub(crate) const KEEP: usize = 9;

/// The options of a hub with a store.
pub(crate) fn stored_options(incarnation: u32) -> Options {
    let of = |text: &str, durability| ((*pattern(text)).clone(), Arc::new(namespace(KEEP, durability)));
    let namespaces = Namespaces {
        listed: vec![of("d**", Durability::Committed), of("b**", Durability::Buffered)],
        fallback: Arc::new(namespace(KEEP, Durability::Memory)),
    };
    Options {
        namespaces,
        incarnation,
        ..options()
    }
}

/// A hub begins on what is stored.
pub(crate) fn open(broker: &Arc<TestBroker>, incarnation: u32) -> Arc<Hub> {
    Arc::new(Hub::with_broker(stored_options(incarnation), broker.clone()))
}

/// The server is killed and starts again.
pub(crate) fn restart(broker: &Arc<TestBroker>, incarnation: u32) -> Arc<Hub> {
    broker.restart(incarnation);
    open(broker, incarnation)
}

/// Publishes, without a commit.
pub(crate) fn send(hub: &Hub, message: Message) -> Published {
    hub.publish(message, 10, &mut || Box::new(|_| {})).unwrap()
}

/// Everything that waits is committed.
pub(crate) fn commit(hub: &Hub, broker: &TestBroker) {
    hub.commit(broker.batch(usize::MAX, 0), 10);
}

/// Publishes and commits.
pub(crate) fn store(hub: &Hub, broker: &TestBroker, channel: &str, text: &str) {
    send(hub, Message::text(name(channel), text));
    commit(hub, broker);
}

/// The same, to be retained.
pub(crate) fn store_value(hub: &Hub, broker: &TestBroker, channel: &str, text: &str) {
    let mut message = Message::text(name(channel), text);
    message.retain = true;
    send(hub, message);
    commit(hub, broker);
}

/// The answer to a question, which has to come from the store; with how many reads.
pub(crate) fn ask<T: Send + 'static>(
    broker: &TestBroker,
    question: impl FnOnce(&mut dyn FnMut() -> Later<T>) -> Answer<T>,
) -> (T, usize) {
    let slot = Arc::new(Mutex::new(None));
    let answer = question(&mut || {
        let slot = slot.clone();
        Box::new(move |answer| *slot.lock().unwrap() = answer.ok())
    });
    assert!(matches!(answer, Answer::Later), "it is not known at once");
    let mut reads = 0;
    loop {
        if let Some(answer) = slot.lock().unwrap().take() {
            return (answer, reads);
        }
        assert!(broker.answer(0), "it is never answered");
        reads += 1;
    }
}

/// A retained value from the store.
pub(crate) fn value(hub: &Arc<Hub>, broker: &TestBroker, channel: &str) -> Option<Arc<Publication>> {
    ask(broker, |later| hub.retained(&name(channel), later)).0
}

/// A history from the store.
pub(crate) fn history(hub: &Arc<Hub>, broker: &TestBroker, channel: &str, query: HistoryQuery) -> History {
    ask(broker, |later| hub.history(&name(channel), query, 10, later))
        .0
        .unwrap()
}

/// Deletes something of a durable channel.
pub(crate) fn delete(hub: &Hub, broker: &TestBroker, channel: &str, what: Delete) -> usize {
    let count = Arc::new(Mutex::new(None));
    let answer = hub.delete(&name(channel), what, 10, &mut || {
        let count = count.clone();
        Box::new(move |answer| *count.lock().unwrap() = answer.ok())
    });
    assert!(matches!(answer, Ok(Answer::Later)));
    assert_eq!(*count.lock().unwrap(), None, "not before it is committed");
    commit(hub, broker);
    let count = count.lock().unwrap().take();
    count.unwrap()
}

/// Everything that comes next, what has to be fetched included.
pub(crate) fn read(hub: &Hub, broker: &TestBroker, fanout: &mut Fanout, reader: ReaderId) -> Vec<Step> {
    let mut steps = Vec::new();
    let limits = ReadLimits {
        items: 2,
        bytes: 1 << 20,
    };
    for _ in 0..1_000 {
        match fanout.next(reader, limits, &mut steps) {
            Progress::More => {}
            Progress::Live => return steps,
            Progress::Cold(fetch) => {
                let page = Arc::new(Mutex::new(None));
                let slot = page.clone();
                hub.fetch(fetch, Box::new(move |page| *slot.lock().unwrap() = page.ok()));
                broker.answer(0);
                fanout.fetched(reader, page.lock().unwrap().take().unwrap());
            }
        }
    }
    panic!("it never becomes live")
}

pub(crate) fn words(steps: &[Step]) -> Vec<String> {
    steps.iter().map(step).collect()
}
