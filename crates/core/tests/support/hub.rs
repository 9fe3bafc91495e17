//! Short words for tests that drive a hub by hand.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;

use cometserver_core::channel::ChannelName;
use cometserver_core::fanout::{Fanout, Progress, ReaderId, Step, Target};
use cometserver_core::hub::{Delete, History, HistoryQuery, Hub, Options, Published, ReadLimits, Receipt};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::{Body, Message, Publication};

pub(crate) fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

pub(crate) fn pattern(text: &str) -> Arc<Pattern> {
    Arc::new(Pattern::new(text, 100).unwrap())
}

/// One namespace for all channels: public, with presence, and a history of so many.
pub(crate) fn namespace(count: usize, durability: Durability) -> Namespace {
    Namespace {
        public: true,
        presence: true,
        history: Bounds {
            count,
            ..Bounds::default()
        },
        durability,
        ..Namespace::default()
    }
}

/// Small bounds, all in memory: a history of three, a live window of 50 ms.
pub(crate) fn options() -> Options {
    Options {
        namespaces: Namespaces::uniform(namespace(3, Durability::Memory)),
        window: 50,
        forget_after: 100,
        incarnation: 7,
        ..Options::default()
    }
}

pub(crate) fn publish(hub: &Hub, channel: &str, text: &str, now: u64) -> Receipt {
    publish_message(hub, Message::text(name(channel), text), now)
}

pub(crate) fn publish_message(hub: &Hub, message: Message, now: u64) -> Receipt {
    match hub
        .publish(message, now, &mut || panic!("memory does not wait"))
        .unwrap()
    {
        Published::Visible(receipt) => receipt,
        published => panic!("memory does not wait: {published:?}"),
    }
}

/// The history of a channel in memory.
pub(crate) fn history(hub: &Arc<Hub>, channel: &str, query: HistoryQuery, now: u64) -> Option<History> {
    let answer = hub.history(&name(channel), query, now, &mut || panic!("memory does not wait"));
    answer.ready().unwrap()
}

/// Deletes something of a channel in memory.
pub(crate) fn delete(hub: &Hub, channel: &str, what: Delete, now: u64) -> usize {
    let answer = hub.delete(&name(channel), what, now, &mut || panic!("memory does not wait"));
    answer.unwrap().ready().unwrap()
}

/// The retained value of a channel in memory.
pub(crate) fn retained(hub: &Arc<Hub>, channel: &str) -> Option<Arc<Publication>> {
    let answer = hub.retained(&name(channel), &mut || panic!("memory does not wait"));
    answer.ready().unwrap()
}

/// What a publication says, in a word.
pub(crate) fn word(publication: &Publication) -> String {
    match &publication.body {
        Body::Message { payload, .. } => String::from_utf8(payload.bytes().to_vec()).unwrap(),
        Body::Join { user, .. } => format!("+{user}"),
        Body::Leave { user } => format!("-{user}"),
        Body::Members { count } => format!("={count}"),
    }
}

/// What a step says, in a word.
pub(crate) fn step(step: &Step) -> String {
    let target = |target: &Target| match target {
        Target::Channel(channel) => String::from_utf8_lossy(channel.name.as_bytes()).into_owned(),
        Target::Pattern(pattern) => String::from_utf8_lossy(pattern.as_bytes()).into_owned(),
    };
    match step {
        Step::Publication(publication, _, _) => word(publication),
        Step::Gap(of, false, _) => format!("gap {}", target(of)),
        Step::Gap(of, true, _) => format!("presence gap {}", target(of)),
        Step::Subscribed(of) => format!("subscribed {}", target(of)),
    }
}

/// A shard of a hub.
pub(crate) fn shard(hub: &Arc<Hub>) -> Fanout {
    hub.attach(0, Box::new(|| {}));
    Fanout::new(hub.clone(), 0)
}

/// Everything that comes next for a reader, until it is live.
pub(crate) fn read_on(fanout: &mut Fanout, reader: ReaderId) -> Vec<String> {
    let mut steps = Vec::new();
    let limits = ReadLimits {
        items: 10,
        bytes: 1 << 20,
    };
    for _ in 0..1_000 {
        match fanout.next(reader, limits, &mut steps) {
            Progress::More => {}
            Progress::Live => return steps.iter().map(step).collect(),
            Progress::Cold(_) => panic!("nothing is cold here"),
        }
    }
    panic!("it never becomes live")
}

/// A round: who is told what.
pub(crate) fn round(fanout: &mut Fanout) -> Vec<(u32, String)> {
    let mut told = Vec::new();
    while fanout
        .round(|tag, _, publication, _| told.push((tag, word(publication))))
        .more
    {}
    told
}
