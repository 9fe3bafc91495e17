//! One core's connections: read what came, tell live readers what became visible, flush each dirty connection once. THE loop.
//!
//! A shard is one thread with one event loop. It owns its connections and their readers; what it shares with others is in
//! [`Shared`]. Sockets are registered once, for both directions, by edges.

mod ceiling;
mod clock;
mod ending;
mod fetching;
mod held;
mod membership;
mod payer;
mod polls;
mod publishing;
mod reading;
mod reauthorizing;
mod receiving;
mod requests;
mod rounds;
mod seed_wire;
mod sending;
mod sessions;
mod socket_commands;
mod subscribing;
mod visitors;
mod waiting;
mod wish;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cometserver_core::Time;
use cometserver_core::fanout::{Fanout, ReaderId, Step};
use cometserver_core::hub::Hub;
use mio::{Events, Poll, Token};
use slab::Slab;

use crate::connection::{Connection, State};
use crate::listener::Role;
use crate::memory::Holders;
use crate::metrics::{DropReason, Label, ShardMetrics, Subscription, Transport};
use crate::round::RoundFrames;
use crate::shared::{Accepted, ConnectionId, Mail, Settings, Shared, wall_clock};
use crate::timer::{self, Wheel};
use crate::wire::Encoder;

use clock::Clock;
use sending::STUCK;

/// The mailbox's waker among the tokens of connections.
pub const WAKER: Token = Token(usize::MAX);

/// Events taken from the system at a time.
const EVENTS: usize = 1024;

/// Room for what is read from a socket. One for all connections: what is whole is used from here.
const INPUT: usize = 64 << 10;

/// Room that a buffer keeps after a large answer.
const KEPT: usize = 256 << 10;

/// See the module.
pub struct Shard {
    id: u8,
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    settings: Arc<Settings>,
    fanout: Fanout,
    poll: Poll,
    connections: Slab<Connection>,
    generation: u32,
    wheel: Wheel,
    clock: Clock,
    /// What it showed last: milliseconds since the shard started, pauses left out. Never goes back.
    now: u64,
    /// Milliseconds since 1970.
    wall: Time,
    frames: RoundFrames,
    encoder: Encoder,
    /// Connections that get something in this round.
    dirty: Vec<u32>,
    /// Connections that read on by themselves and could be written to.
    behind: VecDeque<ConnectionId>,
    /// Connections whose turn ended before everything that came from them was used.
    unread: Vec<ConnectionId>,
    input: Vec<u8>,
    out: Vec<u8>,
    steps: Vec<Step>,
    mail: Vec<Mail>,
    /// Polls woken in this round are answered from here: the answer, for which frames, at which position.
    answer: polls::Answer,
    bytes_sent: u64,
    bytes_received: u64,
    /// Publications written in rounds, by transport; counted once per turn of the loop.
    delivered: [u64; Transport::ALL.len()],
    counted_subscriptions: (usize, usize),
    draining: bool,
    /// Connections that hold much.
    holders: Holders,
    /// What readers wait for from the store.
    fetches: fetching::Fetches,
    /// How many questions were asked: each has a number of its own.
    questions: u64,
}

impl Shard {
    /// A shard that serves what comes to its mailbox, woken by a waker registered with `poll` as [`WAKER`].
    pub fn new(id: u8, shared: Arc<Shared>, poll: Poll) -> Self {
        let hub = shared.hub.clone();
        let waking = shared.clone();
        hub.attach(id, Box::new(move || waking.mailboxes[id as usize].wake()));
        Self {
            id,
            settings: shared.settings(),
            fanout: Fanout::new(hub.clone(), id),
            hub,
            shared,
            poll,
            connections: Slab::new(),
            generation: 0,
            wheel: Wheel::new(0),
            clock: Clock::new(),
            now: 0,
            wall: wall_clock(),
            frames: RoundFrames::default(),
            encoder: Encoder::default(),
            dirty: Vec::new(),
            behind: VecDeque::new(),
            unread: Vec::new(),
            input: vec![0; INPUT],
            out: Vec::new(),
            steps: Vec::new(),
            mail: Vec::new(),
            answer: polls::Answer::default(),
            bytes_sent: 0,
            bytes_received: 0,
            delivered: [0; Transport::ALL.len()],
            counted_subscriptions: (0, 0),
            draining: false,
            holders: Holders::default(),
            fetches: fetching::Fetches::default(),
            questions: 0,
        }
    }

    /// Runs until the server has drained.
    ///
    /// # Errors
    /// The system's event queue failed: nothing can be served any more.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.hub.stay_awake(self.id);
            self.look_at_clocks(timeout);
            for event in &events {
                if event.token() == WAKER {
                    continue;
                }
                let slot = event.token().0;
                if event.is_writable() {
                    self.writable(slot);
                }
                if event.is_read_closed()
                    && let Some(connection) = self.connections.get_mut(slot)
                {
                    connection.ending = true;
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable(slot);
                }
                self.relieve();
            }
            self.take_up_unread();
            self.open_mail();
            self.expire();
            self.rounds();
            self.pump();
            self.rest();
            if self.draining && self.connections.is_empty() {
                return Ok(());
            }
        }
    }

    /// How long to wait for events: not at all if there is something to do.
    fn timeout(&mut self) -> Option<Duration> {
        if !self.behind.is_empty() || !self.unread.is_empty() {
            return Some(Duration::ZERO);
        }
        self.hub.sleep(self.id);
        // What became visible before others knew that we sleep has woken nobody.
        if self.hub.now().sequence() != self.fanout.seen().sequence() {
            self.hub.stay_awake(self.id);
            self.look_at_clocks(Some(Duration::ZERO));
            self.rounds();
            self.pump();
            return Some(Duration::ZERO);
        }
        let rest = self.fanout.rest(self.wall).map(|at| at.saturating_sub(self.wall));
        let timers = self.wheel.next_deadline().map(|at| at.saturating_sub(self.now));
        rest.into_iter().chain(timers).min().map(Duration::from_millis)
    }

    /// Looks at the clocks after having meant to wait for so long at most.
    fn look_at_clocks(&mut self, waited: Option<Duration>) {
        self.now = self.clock.look(waited);
        self.wall = wall_clock();
    }

    fn metrics(&self) -> &ShardMetrics {
        self.shared.metrics.shard(self.id as usize)
    }

    fn open_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.mail);
        self.shared.mailboxes[self.id as usize].take(&mut mail);
        for letter in mail.drain(..) {
            match letter {
                Mail::Accepted(accepted) => self.accepted(accepted),
                Mail::Answered(id, number, part) => self.answered(id, number, part),
                Mail::Fetched(id, page) => self.fetched(id, page),
                Mail::Superseded(id) => self.superseded(id),
                Mail::Relieve => self.shared.memory.looks(self.id),
                Mail::Reloaded => self.reloaded(),
                Mail::Drain => self.drain(),
            }
            self.relieve();
        }
        self.mail = mail;
    }

    fn accepted(&mut self, accepted: Accepted) {
        let Accepted {
            mut socket,
            door,
            peer,
            is_counted,
            refusal,
        } = accepted;
        self.generation = self.generation.wrapping_add(1);
        let entry = self.connections.vacant_entry();
        let slot = entry.key();
        let prepared = socket
            .prepare(self.settings.config.limits.pending_bytes)
            .and_then(|()| socket.register(self.poll.registry(), Token(slot)));
        let connection = entry.insert(Connection::new(socket, self.generation, door, peer, is_counted));
        connection.refusal = refusal;
        let metrics = self.shared.metrics.shard(self.id as usize);
        if refusal.is_some() {
            metrics.drops.of(DropReason::Limit).add(1);
        }
        metrics.connections.of(Transport::Http).add(1);
        metrics.connections_total.add(1);
        if let Err(error) = prepared {
            tracing::debug!(%error, "an accepted connection was gone at once");
            self.remove(slot);
            return;
        }
        let time = self.millis(self.settings.config.limits.request_time);
        self.set_deadline(slot, self.now.saturating_add(time));
        self.weigh(slot);
        if self.shared.memory.is_over()
            && self.shared.memory.largest().is_none()
            && self.role(slot) == Role::Public
        {
            // Nobody holds much: they are too many.
            self.connections[slot].crowded = Some(ceiling::WHY);
        }
        // What came before the registration shows as an edge of it: nothing has to be read now.
    }

    fn millis(&self, duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }

    /// Something has to be done about a connection at `at`. Pushing it back costs nothing.
    fn set_deadline(&mut self, slot: usize, at: u64) {
        let connection = &mut self.connections[slot];
        connection.deadline = at;
        if at < connection.timer {
            connection.timer = at;
            let token = timer::Token {
                slot: slot as u32,
                generation: connection.generation,
            };
            self.wheel.schedule(token, at);
        }
    }

    fn expire(&mut self) {
        if self.wheel.next_deadline().is_none_or(|at| at > self.now) {
            return;
        }
        let mut due = Vec::new();
        let connections = &mut self.connections;
        self.wheel.expire(self.now, |token| {
            let connection = connections
                .get_mut(token.slot as usize)
                .filter(|c| c.generation == token.generation)?;
            if connection.timer > self.now {
                // An earlier entry has come up already and took this one's place.
                return None;
            }
            if connection.deadline > self.now {
                connection.timer = connection.deadline;
                return (connection.deadline != u64::MAX).then_some(connection.deadline);
            }
            connection.timer = u64::MAX;
            due.push(token.slot as usize);
            None
        });
        for slot in due {
            self.overdue(slot);
        }
    }

    /// A connection's deadline has come.
    fn overdue(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.deadline = u64::MAX;
        if connection.stuck != 0 && self.now.saturating_sub(connection.stuck) >= STUCK {
            self.drop_for(slot, DropReason::Slow);
            return;
        }
        match &connection.state {
            State::Reading(_) => self.tend(slot),
            State::Waiting(_) => {
                self.give_up(slot);
                self.watch_blocked(slot);
            }
            State::Lingering => self.remove(slot),
            State::Fresh | State::Http | State::Seed(_) => {
                let half = !connection.input.is_empty();
                if half {
                    self.drop_for(slot, DropReason::Timeout);
                } else {
                    self.finish(slot);
                    self.watch_blocked(slot);
                }
            }
        }
    }

    fn role(&self, slot: usize) -> Role {
        self.shared.doors[self.connections[slot].door].role
    }

    fn id_of(&self, slot: usize) -> ConnectionId {
        ConnectionId {
            shard: self.id,
            slot: slot as u32,
            generation: self.connections[slot].generation,
        }
    }

    fn slot_of(&self, id: ConnectionId) -> Option<usize> {
        let slot = id.slot as usize;
        self.connections
            .get(slot)
            .filter(|connection| connection.generation == id.generation)
            .map(|_| slot)
    }

    /// Counters and channels nobody needs any more.
    fn rest(&mut self) {
        self.fanout.rest(self.wall);
        self.out.clear();
        self.out.shrink_to(KEPT);
        let metrics = self.metrics();
        for (n, counter) in [
            (self.bytes_sent, &metrics.bytes_sent),
            (self.bytes_received, &metrics.bytes_received),
        ] {
            if n > 0 {
                counter.add(n);
            }
        }
        for (transport, _) in Transport::ALL {
            let delivered = self.delivered[*transport as usize];
            if delivered > 0 {
                metrics.deliveries.of(*transport).add(delivered);
            }
        }
        let (now, before) = (self.fanout.subscriptions(), self.counted_subscriptions);
        for (kind, now, before) in [
            (Subscription::Exact, now.0, before.0),
            (Subscription::Pattern, now.1, before.1),
        ] {
            let counter = metrics.subscriptions.of(kind);
            match now.checked_sub(before) {
                Some(0) => {}
                Some(more) => counter.add(more as u64),
                None => counter.sub((before - now) as u64),
            }
        }
        self.counted_subscriptions = now;
        (self.bytes_sent, self.bytes_received) = (0, 0);
        self.delivered = Default::default();
    }

    fn reloaded(&mut self) {
        self.settings = self.shared.settings();
        self.end_disallowed();
    }

    /// The server is going away: nothing new, and everybody is told when to come back.
    fn drain(&mut self) {
        // What was answered to its publisher goes out first: the next server may not have it.
        self.rounds();
        self.draining = true;
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            match &self.connections[slot].state {
                // It is told what became of its publications first.
                State::Reading(subscriber)
                    if subscriber
                        .socket
                        .as_ref()
                        .is_some_and(|socket| !socket.waiting.is_empty()) => {}
                // Its answer has begun: the rest of it belongs to no cursor.
                State::Reading(subscriber) if subscriber.answering => {}
                State::Reading(_) => self.send_away(slot),
                State::Fresh | State::Http if self.connections[slot].input.is_empty() => {
                    // A request that came in time is answered, also if it lies in the socket yet.
                    self.readable(slot);
                    if let Some(connection) = self.connections.get(slot)
                        && matches!(connection.state, State::Fresh | State::Http)
                        && connection.input.is_empty()
                    {
                        self.finish(slot);
                    }
                }
                _ => {}
            }
        }
    }

    /// The reader of a connection, if it has one.
    fn reader_of(&mut self, slot: usize) -> Option<ReaderId> {
        self.connections
            .get_mut(slot)?
            .subscriber()
            .map(|subscriber| subscriber.reader)
    }
}
