//! The hub with its store and clients, and the books that are kept of what should be.

mod clients;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cometserver_core::broker::Outcome;
use cometserver_core::channel::{ChannelId, ChannelName};
use cometserver_core::fanout::Wants;
use cometserver_core::hub::{Delete, HistoryQuery, Hub, Later, Options, Published};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::presence;
use cometserver_core::publication::Message;

use crate::Op;
use crate::broker::TestBroker;
use crate::client::{Connection, Frame, Mailbox, Shard, Since, To};
use crate::ledger::{CHANNELS, Ledger, Line, Peer};
use crate::questions::Questions;

/// Two sessions, one of which several clients share.
pub(crate) const SESSIONS: [Option<&str>; 4] = [None, Some("s"), Some("s"), None];

/// The pattern that clients listen to.
const PATTERN: &str = "p/*";

/// The hub, its store, its clients, and what should be.
pub(crate) struct World {
    hub: Arc<Hub>,
    broker: Arc<TestBroker>,
    shards: [Shard; 2],
    mailbox: Mailbox,
    ledger: Ledger,
    peers: Vec<Peer>,
    connections: Vec<Option<Connection>>,
    /// How each client began, in case nothing of its first connection reaches it.
    begun: Vec<Option<(Since, Wants)>>,
    /// What waits for its commit.
    lines: HashMap<String, Line>,
    /// What was published under a key.
    keyed: Vec<(Message, Line)>,
    questions: Questions,
    /// Completions that were taken, and those that were called.
    completions: (usize, Arc<AtomicUsize>),
    starts: u32,
    members: [u32; 3],
    crowd: ChannelId,
    now: u64,
    next: u64,
}

pub(crate) fn name(text: &str) -> ChannelName {
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

/// Has it a history in the store?
pub(crate) fn is_durable(channel: &str) -> bool {
    channel.starts_with('d') || channel == "p/d"
}

fn target(index: usize) -> To {
    match index {
        4 => To::Pattern(PATTERN.into()),
        _ => To::Channel(CHANNELS[index].into()),
    }
}

fn start(broker: &Arc<TestBroker>, incarnation: u32) -> Arc<Hub> {
    let options = Options {
        namespaces: namespaces(),
        window: 50,
        window_bytes: 16_000,
        log_memory: 12_000,
        channels: 64,
        forget_after: 60,
        buffered: 1_500,
        presence: presence::Limits {
            grace: 20,
            announce: 2,
            ..presence::Limits::default()
        },
        incarnation,
        ..Options::default()
    };
    Arc::new(Hub::with_broker(options, broker.clone()))
}

/// A third shard that only has a listener: so the channel has a handle to join by.
fn crowd(hub: &Hub) -> ChannelId {
    hub.listen(2, &name("a0"), 1).unwrap().channel.id
}

impl World {
    pub(crate) fn new() -> Self {
        let broker = TestBroker::new(3);
        let hub = start(&broker, 1);
        let shards = [Shard::new(&hub, 0), Shard::new(&hub, 1)];
        let crowd = crowd(&hub);
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
            lines: HashMap::new(),
            keyed: Vec::new(),
            questions: Questions::default(),
            completions: Default::default(),
            starts: 1,
            members: [0; 3],
            crowd,
            now: 1_000,
            next: 0,
            hub,
        }
    }

    pub(crate) fn run(&mut self, op: Op) {
        match op {
            Op::Publish {
                channels,
                retain,
                exclude,
                size,
                keyed,
            } => self.publish(channels, retain, exclude, size, keyed),
            Op::Repeat { which } => self.repeat(which),
            Op::Expire { channel, count } => self.broker.expire(&name(CHANNELS[channel]), count),
            Op::History {
                channel,
                client,
                since,
                limit,
                reverse,
            } => self.ask_history(channel, client, since, limit, reverse),
            Op::Value { channel } => self.ask_value(channel),
            Op::Restart => self.restart(),
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
                self.questions.check(&self.ledger);
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
                let (channel, called) = (CHANNELS[channel], self.completions.1.clone());
                let mut taken = 0;
                let mut later = || -> Later<usize> {
                    taken += 1;
                    let called = called.clone();
                    Box::new(move |_| {
                        called.fetch_add(1, Ordering::Relaxed);
                    })
                };
                let answer = self.hub.delete(&name(channel), what, self.now, &mut later);
                if answer.unwrap().ready().is_some() {
                    self.ledger.forget_value(channel);
                }
                self.completions.0 += taken;
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

    fn publish(&mut self, channels: u8, retain: bool, exclude: bool, size: u8, keyed: bool) {
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
            durable: None,
        };
        // A key that only memory knows is lost with it.
        if keyed && channels.iter().any(|channel| is_durable(channel)) {
            message.idempotency_key = Some(self.next.to_string().into());
            self.keyed.push((message.clone(), line.clone()));
        }
        self.send(message, line);
    }

    /// A publisher that has not heard of its message, or has forgotten that it has.
    fn repeat(&mut self, which: usize) {
        if self.keyed.is_empty() {
            return;
        }
        let index = self.keyed.len() - 1 - which % self.keyed.len();
        let (message, line) = self.keyed[index].clone();
        self.send(message, line);
    }

    fn send(&mut self, message: Message, line: Line) {
        let text = std::str::from_utf8(message.payload.bytes()).unwrap().to_owned();
        let known = self.ledger.has(&text);
        let called = self.completions.1.clone();
        let mut taken = 0;
        let published = self.hub.publish(message, self.now, &mut || {
            taken += 1;
            let called = called.clone();
            Box::new(move |_| {
                called.fetch_add(1, Ordering::Relaxed);
            })
        });
        self.completions.0 += taken;
        match published.unwrap() {
            Published::Visible(receipt) => {
                assert_eq!(receipt.duplicate, known);
                if !known {
                    self.ledger.enter(Some(&text), line);
                    assert_eq!(self.ledger.lines_at(receipt.at), self.ledger.len());
                }
                assert_eq!(taken, 0);
            }
            published => {
                assert!(!known, "{text:?} is repeated, and taken again");
                assert_eq!(taken == 0, matches!(published, Published::Accepted));
                self.lines.insert(text, line);
            }
        }
    }

    fn commit(&mut self, count: usize, failing: u32) {
        let batch = self.broker.batch(count, failing);
        for committed in &batch {
            match committed.result {
                Ok(Outcome::Published { position, .. }) => {
                    let text = self.broker.text(position);
                    let line = Line {
                        durable: Some(position),
                        ..self.lines.remove(&text).unwrap()
                    };
                    self.ledger.enter(Some(&text), line);
                }
                Ok(Outcome::Deleted { .. }) => {
                    let (channel, _) = self.broker.deletion(committed.ticket);
                    self.ledger
                        .forget_value(std::str::from_utf8(channel.as_bytes()).unwrap());
                }
                Err(_) => {}
            }
        }
        self.hub.commit(batch, self.now);
        assert_eq!(self.ledger.lines_at(self.hub.now()), self.ledger.len());
    }

    /// News about members is told by the position only.
    fn news(&mut self, before: u64) {
        for _ in before..self.hub.now().memory {
            let line = Line {
                channels: vec!["a0".into()],
                news: true,
                retain: false,
                excluded: None,
                durable: None,
            };
            self.ledger.enter(None, line);
        }
    }

    /// The server is killed and starts again: what was not committed is gone, and everybody comes back.
    fn restart(&mut self) {
        for client in 0..SESSIONS.len() {
            self.connections[client] = None;
        }
        self.starts += 1;
        self.broker.restart(self.starts);
        self.hub = start(&self.broker, self.starts);
        self.shards = [Shard::new(&self.hub, 0), Shard::new(&self.hub, 1)];
        self.crowd = crowd(&self.hub);
        self.ledger.restart(self.hub.now());
        for channel in CHANNELS.iter().filter(|channel| !is_durable(channel)) {
            self.ledger.forget_value(channel);
        }
        self.mailbox.lock().unwrap().clear();
        self.lines.clear();
        self.questions = Questions::default();
        self.completions = Default::default();
        self.members = [0; 3];
    }

    fn ask_history(&mut self, channel: usize, client: usize, since: u8, limit: usize, reverse: bool) {
        let since = match self.since(client, since) {
            Since::Cursor(text) => Some(self.hub.resolve(&text.parse().unwrap())),
            _ => None,
        };
        let query = HistoryQuery {
            since,
            limit,
            reverse,
        };
        self.questions
            .history(&self.hub, CHANNELS[channel], query, self.now);
        self.questions.check(&self.ledger);
    }

    fn ask_value(&mut self, channel: usize) {
        self.questions.value(&self.hub, CHANNELS[channel], &self.ledger);
        self.questions.check(&self.ledger);
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

    /// Everything is committed, answered, told and written: everybody is live, and nothing is missing.
    pub(crate) fn settle(&mut self) {
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
            self.questions.check(&self.ledger);
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
        assert!(self.questions.is_empty(), "every question is answered");
        let (taken, called) = (self.completions.0, self.completions.1.load(Ordering::Relaxed));
        assert_eq!(taken, called, "every completion is called");
    }
}
