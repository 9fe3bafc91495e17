//! Every subscriber sees every publication of its channels once and in order, or is told of a gap, however things interleave.
//!
//! More cases: `PROPTEST_CASES=100000 cargo test -p cometserver-core --test interleavings`.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/client.rs"]
mod client;
#[path = "support/ledger.rs"]
mod ledger;

use std::sync::Arc;

use broker::TestBroker;
use client::{Connection, Frame, Mailbox, Shard, Since, To};
use cometserver_core::broker::Outcome;
use cometserver_core::channel::{ChannelId, ChannelName};
use cometserver_core::fanout::Wants;
use cometserver_core::hub::{Delete, Hub, Options, Published};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::presence;
use cometserver_core::publication::Message;
use ledger::{CHANNELS, Ledger, Line, Peer};
use proptest::prelude::*;

/// Two sessions, one of which several clients share.
const SESSIONS: [Option<&str>; 4] = [None, Some("s"), Some("s"), None];

/// The pattern that clients listen to.
const PATTERN: &str = "p/*";

#[derive(Clone, Debug)]
enum Op {
    Publish {
        channels: u8,
        retain: bool,
        exclude: bool,
        size: u8,
    },
    Commit {
        count: usize,
        failing: u32,
        reorder: usize,
    },
    Answer {
        which: usize,
    },
    Connect {
        client: usize,
        targets: u8,
        since: u8,
        wants: u8,
        shard: usize,
    },
    Subscribe {
        client: usize,
        target: usize,
        since: u8,
        wants: u8,
    },
    Unsubscribe {
        client: usize,
        target: usize,
    },
    Round {
        shard: usize,
        budgets: u32,
    },
    Deliver {
        client: usize,
        count: usize,
    },
    ReadOn {
        client: usize,
        items: usize,
    },
    Cut {
        client: usize,
    },
    Pass {
        time: u16,
    },
    Delete {
        channel: usize,
        all: bool,
    },
    Join {
        user: u8,
    },
    Leave {
        user: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let client = || 0..SESSIONS.len();
    prop_oneof![
        10 => (1u8..64, 0u8..8, 0u8..10, 0u8..200).prop_map(|(channels, retain, exclude, size)| {
            // Mostly one channel.
            let channels = if size < 150 { 1 << (channels % 6) } else { channels };
            Op::Publish { channels, retain: retain == 0, exclude: exclude == 0, size }
        }),
        5 => (1usize..5, any::<u32>(), 0usize..4).prop_map(|(count, failing, reorder)| {
            Op::Commit { count, failing: if failing % 4 == 0 { failing >> 2 } else { 0 }, reorder }
        }),
        4 => (0usize..3).prop_map(|which| Op::Answer { which }),
        4 => (client(), 1u8..32, any::<u8>(), 0u8..8, 0usize..2)
            .prop_map(|(client, targets, since, wants, shard)| Op::Connect { client, targets, since, wants, shard }),
        4 => (client(), 0usize..5, any::<u8>(), 0u8..8)
            .prop_map(|(client, target, since, wants)| Op::Subscribe { client, target, since, wants }),
        2 => (client(), 0usize..5).prop_map(|(client, target)| Op::Unsubscribe { client, target }),
        8 => (0usize..2, any::<u32>()).prop_map(|(shard, budgets)| Op::Round { shard, budgets }),
        8 => (client(), 1usize..6).prop_map(|(client, count)| Op::Deliver { client, count }),
        8 => (client(), 1usize..5).prop_map(|(client, items)| Op::ReadOn { client, items }),
        3 => client().prop_map(|client| Op::Cut { client }),
        5 => (0u16..80).prop_map(|time| Op::Pass { time }),
        1 => (0usize..6, any::<bool>()).prop_map(|(channel, all)| Op::Delete { channel, all }),
        2 => (0u8..3).prop_map(|user| Op::Join { user }),
        2 => (0u8..3).prop_map(|user| Op::Leave { user }),
    ]
}

struct World {
    hub: Arc<Hub>,
    broker: Arc<TestBroker>,
    shards: [Shard; 2],
    mailbox: Mailbox,
    ledger: Ledger,
    peers: Vec<Peer>,
    connections: Vec<Option<Connection>>,
    /// How each client began, in case nothing of its first connection reaches it.
    begun: Vec<Option<(Since, Wants)>>,
    lines: std::collections::HashMap<String, Line>,
    members: [u32; 3],
    crowd: ChannelId,
    now: u64,
    next: u64,
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn namespaces() -> Namespaces {
    let of = |durability, count| {
        Arc::new(Namespace {
            public: true,
            presence: true,
            history: Bounds {
                count,
                bytes: 5_000,
                age: 400,
            },
            durability,
            ..Namespace::default()
        })
    };
    let pattern = |text| Pattern::new(text, 100).unwrap();
    Namespaces {
        listed: vec![
            (pattern("d*"), of(Durability::Committed, 3)),
            (pattern("p/d"), of(Durability::Buffered, 3)),
            (pattern("a1"), of(Durability::Memory, 0)),
        ],
        fallback: of(Durability::Memory, 3),
    }
}

fn target(index: usize) -> To {
    match index {
        4 => To::Pattern(PATTERN.into()),
        _ => To::Channel(CHANNELS[index].into()),
    }
}

impl World {
    fn new() -> Self {
        let broker = TestBroker::new(3);
        let options = Options {
            namespaces: namespaces(),
            window: 50,
            window_bytes: 16_000,
            log_memory: 12_000,
            channels: 64,
            forget_after: 60,
            presence: presence::Limits {
                grace: 20,
                announce: 2,
            },
            incarnation: 7,
            ..Options::default()
        };
        let hub = Arc::new(Hub::with_broker(options, broker.clone()));
        let shards = [Shard::new(&hub, 0), Shard::new(&hub, 1)];
        // A third shard that only has a listener: so the channel has a handle to join by.
        let crowd = hub.listen(2, &name("a0"), 1).unwrap().channel.id;
        Self {
            shards,
            broker,
            mailbox: Mailbox::default(),
            ledger: Ledger::default(),
            peers: (0..SESSIONS.len())
                .map(|i| Peer::new(format!("client {i}"), SESSIONS[i].map(Into::into)))
                .collect(),
            connections: (0..SESSIONS.len()).map(|_| None).collect(),
            begun: vec![None; SESSIONS.len()],
            lines: Default::default(),
            members: [0; 3],
            crowd,
            now: 1_000,
            next: 0,
            hub,
        }
    }

    fn since(&self, client: usize, choice: u8) -> Since {
        let cursors = &self.peers[client].cursors;
        match choice % 4 {
            0 => Since::Now,
            1 => Since::Earliest,
            _ if cursors.is_empty() => Since::Now,
            // Mostly a recent one.
            _ => Since::Cursor(
                cursors[cursors.len() - 1 - usize::from(choice / 4) % cursors.len().min(20)]
                    .0
                    .clone(),
            ),
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Publish {
                channels,
                retain,
                exclude,
                size,
            } => self.publish(channels, retain, exclude, size),
            Op::Commit {
                count,
                failing,
                reorder,
            } => {
                self.broker.reorder(reorder);
                self.commit(count, failing);
            }
            Op::Answer { which } => {
                self.broker.answer(which);
                self.mail();
            }
            Op::Connect {
                client,
                targets,
                since,
                wants,
                shard,
            } => self.connect(client, targets, since, wants, shard),
            Op::Subscribe {
                client,
                target: to,
                since,
                wants,
            } => {
                let since = self.since(client, since);
                self.subscribe(client, target(to), since, wants & 2 != 0);
            }
            Op::Unsubscribe { client, target: to } => {
                let to = target(to);
                let Some(connection) = &mut self.connections[client] else {
                    return;
                };
                let going = |frame: &Frame| matches!(frame, Frame::Unsubscribed(own) if *own == to);
                if self.peers[client].targets().contains(&to) && !connection.outbox.iter().any(going) {
                    self.shards[connection.shard].unsubscribe(connection, &to, self.now);
                }
            }
            Op::Round { shard, budgets } => {
                self.round(shard, budgets);
            }
            Op::Deliver { client, count } => self.deliver(client, count),
            Op::ReadOn { client, items } => {
                self.read_on(client, items);
            }
            Op::Cut { client } => self.cut(client),
            Op::Pass { time } => self.pass(u64::from(time)),
            Op::Delete { channel, all } => {
                let what = if all { Delete::History } else { Delete::Retained };
                self.hub
                    .delete(&name(CHANNELS[channel]), what, self.now, &mut || Box::new(|_| {}))
                    .unwrap();
            }
            Op::Join { user } => {
                self.members[usize::from(user)] += 1;
                let before = self.hub.now().memory;
                self.hub.join(self.crowd, &user.to_string(), None, self.now);
                self.news(before);
            }
            Op::Leave { user } => {
                if self.members[usize::from(user)] > 0 {
                    self.members[usize::from(user)] -= 1;
                    self.hub.leave(self.crowd, &user.to_string(), self.now);
                }
            }
        }
    }

    fn publish(&mut self, channels: u8, retain: bool, exclude: bool, size: u8) {
        let channels: Vec<&str> = (0..6)
            .filter(|i| channels & (1 << i) != 0)
            .map(|i| CHANNELS[i])
            .collect();
        self.next += 1;
        let text = format!("{}{}", self.next, " ".repeat(usize::from(size) * 8));
        let mut message = Message::text(name(channels[0]), &text);
        message.channels = channels.iter().map(|channel| name(channel)).collect();
        message.retain = retain;
        if exclude {
            message.attributes_mut().exclude_session = Some("s".into());
        }
        let line = Line {
            channels: channels.iter().map(|channel| channel.to_string()).collect(),
            news: false,
            retain,
            excluded: exclude.then(|| "s".into()),
        };
        let published = self
            .hub
            .publish(message, self.now, &mut || Box::new(|_| {}))
            .unwrap();
        match published {
            Published::Visible(receipt) => {
                self.ledger.enter(Some(&text), line);
                assert_eq!(receipt.at.sequence() as usize, self.ledger.len());
            }
            Published::Pending | Published::Accepted => {
                self.lines.insert(text, line);
            }
        }
    }

    fn commit(&mut self, count: usize, failing: u32) {
        let batch = self.broker.batch(count, failing);
        let outcomes = batch.iter().filter_map(|committed| committed.result.clone().ok());
        for outcome in outcomes {
            if let Outcome::Published { position, .. } = outcome {
                let text = self.broker.text(position);
                let line = self.lines.remove(&text).unwrap();
                self.ledger.enter(Some(&text), line);
            }
        }
        self.hub.commit(batch, self.now);
        assert_eq!(self.hub.now().sequence() as usize, self.ledger.len());
    }

    /// News about members is told by the position only.
    fn news(&mut self, before: u64) {
        for _ in before..self.hub.now().memory {
            let line = Line {
                channels: vec!["a0".into()],
                news: true,
                retain: false,
                excluded: None,
            };
            self.ledger.enter(None, line);
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        let before = self.hub.now().memory;
        self.hub.tick(self.now);
        self.news(before);
        for shard in &mut self.shards {
            // Channels without readers linger for seconds, which are rare here.
            shard
                .fanout
                .rest(self.now + if time.is_multiple_of(2) { 10_000 } else { 0 });
        }
    }

    fn mail(&mut self) {
        for (number, page) in std::mem::take(&mut *self.mailbox.lock().unwrap()) {
            let mut open = self.connections.iter_mut().flatten();
            if let Some(connection) = open.find(|connection| connection.number == number) {
                connection.fetching = false;
                self.shards[connection.shard]
                    .fanout
                    .fetched(connection.reader, page);
            }
        }
    }

    fn connect(&mut self, client: usize, targets: u8, since: u8, wants: u8, shard: usize) {
        if self.connections[client].is_some() {
            return;
        }
        let first = self.begun[client].is_none();
        if first {
            let since = self.since(client, since);
            let wants = Wants {
                presence: wants & 1 != 0,
                retained: wants & 2 != 0,
                public_only: false,
            };
            for index in (0..5).filter(|i| targets & (1 << i) != 0) {
                self.peers[client].listen(target(index), &since, wants.presence, &self.ledger);
            }
            self.begun[client] = Some((since, wants));
        }
        let (begun, wants) = self.begun[client].clone().unwrap();
        let since = match &self.peers[client].cursor {
            Some(cursor) => Since::Cursor(cursor.clone()),
            None => {
                self.peers[client].begin_again(&begun, &self.ledger);
                begun
            }
        };
        let wants = Wants {
            retained: wants.retained && since == Since::Now,
            ..wants
        };
        self.next += 1;
        let (number, peer) = (self.next, &self.peers[client]);
        let shard_at = &mut self.shards[shard];
        let targets = peer.targets();
        let connection = shard_at.connect(
            number,
            shard,
            peer.session.as_deref(),
            &targets,
            (&since, wants),
            self.now,
        );
        let position = shard_at.fanout.position(connection.reader);
        if let (Since::Now, Some(opening)) = (&since, connection.outbox[0].cursor()) {
            let lines = position.sequence() as usize;
            self.peers[client].cursors.push((opening.clone(), lines));
        }
        self.connections[client] = Some(connection);
        for (to, since, presence) in self.peers[client].pending() {
            self.subscribe_now(client, to, since, presence, false);
        }
    }

    fn subscribe(&mut self, client: usize, to: To, since: Since, retained: bool) {
        // All of one client's subscriptions want the same of members: so it comes back as it was.
        let Some((_, wants)) = &self.begun[client] else {
            return;
        };
        let presence = wants.presence;
        if self.connections[client].is_some() && !self.peers[client].listens(&to) {
            self.subscribe_now(client, to, since, presence, retained);
        }
    }

    fn subscribe_now(&mut self, client: usize, to: To, since: Since, presence: bool, retained: bool) {
        let connection = self.connections[client].as_ref().unwrap();
        let wants = Wants {
            presence,
            retained,
            public_only: false,
        };
        self.shards[connection.shard].subscribe(connection, &to, &since, wants, self.now);
        self.peers[client].attempt(to, since, presence, &self.ledger);
    }

    fn round(&mut self, shard: usize, budgets: u32) -> bool {
        let before = self.shards[shard].fanout.seen();
        let connections = &mut self.connections;
        let round = self.shards[shard].fanout.round(|tag, _, publication, place| {
            let mut open = connections.iter_mut().flatten();
            let connection = open
                .find(|connection| connection.number == u64::from(tag))
                .unwrap();
            connection.round.push((publication.clone(), place));
        });
        for client in 0..SESSIONS.len() {
            let Some(connection) = &mut self.connections[client] else {
                continue;
            };
            let share = budgets >> (client * 8) & 0xff;
            // Half of the time the socket takes everything.
            let budget = if share & 0x80 != 0 {
                usize::MAX
            } else {
                (share & 7) as usize
            };
            let partial = share & 0x40 != 0;
            for frame in self.shards[connection.shard].flush(connection, before, budget, partial) {
                self.peers[client].receive(&frame, &self.ledger);
            }
        }
        round.more
    }

    fn deliver(&mut self, client: usize, count: usize) {
        let Some(connection) = &mut self.connections[client] else {
            return;
        };
        for _ in 0..count {
            let Some(frame) = connection.outbox.pop_front() else {
                break;
            };
            self.peers[client].receive(&frame, &self.ledger);
        }
    }

    fn read_on(&mut self, client: usize, items: usize) -> bool {
        let Some(connection) = &mut self.connections[client] else {
            return true;
        };
        self.shards[connection.shard].read_on(connection, items, &self.mailbox)
    }

    fn cut(&mut self, client: usize) {
        if let Some(connection) = self.connections[client].take() {
            self.shards[connection.shard]
                .fanout
                .close(connection.reader, self.now);
        }
    }

    /// Everything is committed, answered, told and written: everybody is live, and nothing is missing.
    fn settle(&mut self) {
        while self.broker.waiting() > 0 {
            self.commit(3, 0);
        }
        for client in 0..SESSIONS.len() {
            if self.begun[client].is_some() {
                self.connect(client, 0, 0, 0, client % 2);
            }
        }
        for turn in 0.. {
            assert!(turn < 2_000, "somebody never becomes live");
            while self.broker.answer(0) {}
            self.mail();
            for shard in 0..2 {
                while self.round(shard, u32::MAX) {}
            }
            let mut live = true;
            for client in 0..SESSIONS.len() {
                self.deliver(client, usize::MAX);
                live &= self.read_on(client, 2);
                let written = self.connections[client]
                    .as_ref()
                    .is_none_or(|c| c.outbox.is_empty());
                live &= written;
            }
            if live {
                break;
            }
        }
        for client in 0..SESSIONS.len() {
            if let Some(connection) = &self.connections[client] {
                assert!(self.shards[connection.shard].fanout.is_live(connection.reader));
                self.peers[client].is_complete(&self.ledger);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn everybody_sees_everything_once_and_in_order_or_is_told_of_a_gap(
        ops in proptest::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.settle();
    }
}
