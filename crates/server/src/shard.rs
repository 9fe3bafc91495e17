//! One core's connections: read what came, tell live readers what became visible, flush each dirty connection once. THE loop.
//!
//! A shard is one thread with one event loop. It owns its connections and their readers; what it shares with others is in
//! [`Shared`]. Sockets are registered once, for both directions, by edges.

mod beginning;
mod ceiling;
mod clock;
mod ending;
mod fetching;
mod held;
mod looking_back;
mod membership;
mod payer;
mod polls;
mod publishing;
mod queue;
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
mod sweeping;
mod turn;
mod visitors;
mod waiting;
mod wish;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cometserver_core::fanout::{Fanout, ReaderId, Step};
use cometserver_core::hub::Hub;
use cometserver_core::tidy::TidySlab;
use cometserver_core::{ChannelId, Time};
use mio::event::Event;
use mio::{Events, Poll, Token};
use slab::Slab;

use crate::connection::{Connection, State};
use crate::listener::Role;
use crate::memory::Holders;
use crate::metrics::{DropReason, Label, ShardMetrics, Subscription, Transport};
use crate::round::RoundFrames;
use crate::shared::{Accepted, ConnectionId, Mail, Settings, Shared, patience, wall_clock};
use crate::timer::{self, Wheel};
use crate::wire::Encoder;

use clock::Clock;
use queue::{Queue, is_busy};
use turn::{BETWEEN, Turn};

/// The mailbox's waker among the tokens of connections.
pub const WAKER: Token = Token(usize::MAX);

/// Events taken from the system at a time.
const EVENTS: usize = 1024;

/// Room for what is read from a socket. One for all connections: what is whole is used from here.
const INPUT: usize = 64 << 10;

/// So many letters, and deadlines, are looked at before the loop looks for others.
const LETTERS: usize = 256;

/// Steps of a letter or a deadline.
const LETTER: u32 = 2;

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
    behind: Queue,
    /// Connections whose turn ended before everything that came from them was used.
    unread: Queue,
    /// Until when busy readers that are behind rest.
    resting: Instant,
    input: Vec<u8>,
    out: Vec<u8>,
    steps: Vec<Step>,
    /// What came by mail and has not been looked at yet.
    mail: VecDeque<Mail>,
    letters: Vec<Mail>,
    /// Connections whose deadline has come.
    due: VecDeque<timer::Token>,
    /// Where it goes on to be seen whether connections may still listen to what they do; none: all were seen.
    reviewing: Option<usize>,
    /// Where it goes on to send connections away; none: there is no need, or all were.
    leaving: Option<usize>,
    /// Members that have gone, and where they were: they leave some of it at a time.
    left: VecDeque<(Box<str>, Vec<ChannelId>)>,
    turn: Turn,
    /// There is more to tell of than the last round has told.
    rounds_left: bool,
    /// The most publications of the next round.
    round_size: usize,
    /// Polls woken in this round are answered from here: the answer, for which frames, at which position.
    answer: polls::Answer,
    bytes_sent: u64,
    bytes_received: u64,
    /// Publications written in rounds, by transport; counted once per turn of the loop.
    delivered: [u64; Transport::ALL.len()],
    counted_subscriptions: (usize, usize),
    draining: bool,
    connections_room: TidySlab,
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
            behind: Queue::default(),
            unread: Queue::default(),
            resting: Instant::now(),
            input: vec![0; INPUT],
            out: Vec::new(),
            steps: Vec::new(),
            mail: VecDeque::new(),
            letters: Vec::new(),
            due: VecDeque::new(),
            reviewing: None,
            leaving: None,
            left: VecDeque::new(),
            turn: Turn::new(),
            rounds_left: false,
            round_size: rounds::ROUND,
            answer: polls::Answer::default(),
            bytes_sent: 0,
            bytes_received: 0,
            delivered: [0; Transport::ALL.len()],
            counted_subscriptions: (0, 0),
            draining: false,
            connections_room: TidySlab::default(),
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
                self.happened(event);
                self.relieve();
                self.round_if_due();
            }
            self.take_up_unread();
            self.open_mail();
            self.expire();
            self.sweep();
            self.rounds();
            self.pump();
            self.rest();
            if self.draining && self.connections.is_empty() {
                return Ok(());
            }
        }
    }

    /// Something happened to a connection: it has a turn.
    fn happened(&mut self, event: &Event) {
        let slot = event.token().0;
        if event.is_read_closed()
            && let Some(connection) = self.connections.get_mut(slot)
        {
            connection.ending = true;
        }
        let work = self.turn(|shard| {
            if event.is_writable() {
                shard.writable(slot);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                shard.readable(slot);
            }
        });
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.is_busy |= is_busy(work);
        }
    }

    /// How long to wait for events: not at all if there is something to do.
    fn timeout(&mut self) -> Option<Duration> {
        let rest = self.readers_rest();
        let has_no_reader = match rest {
            Some(_) => self.behind.has_no_quick(),
            None => self.behind.is_empty(),
        };
        let idle = has_no_reader
            && self.unread.is_empty()
            && self.mail.is_empty()
            && self.due.is_empty()
            && self.reviewing.is_none()
            && self.leaving.is_none()
            && self.left.is_empty()
            && !self.rounds_left;
        if !idle {
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
        let fanout = self.fanout.rest(self.wall).map(|at| at.saturating_sub(self.wall));
        let timers = self.wheel.next_deadline().map(|at| at.saturating_sub(self.now));
        let due = fanout.into_iter().chain(timers).map(Duration::from_millis);
        due.chain(rest.filter(|_| !self.behind.is_empty())).min()
    }

    /// Looks at the clocks after having meant to wait for so long at most.
    fn look_at_clocks(&mut self, waited: Option<Duration>) {
        self.turn.look(Instant::now());
        self.now = self.clock.look(waited);
        self.wall = wall_clock();
    }

    fn metrics(&self) -> &ShardMetrics {
        self.shared.metrics.shard(self.id as usize)
    }

    /// Looks at what came by mail, so much of it that others do not have to wait for long.
    fn open_mail(&mut self) {
        self.shared.mailboxes[self.id as usize].take(&mut self.letters);
        self.mail.extend(self.letters.drain(..));
        let mut work = 0;
        for _ in 0..LETTERS {
            if work >= BETWEEN {
                break;
            }
            let Some(letter) = self.mail.pop_front() else {
                break;
            };
            let about = match &letter {
                Mail::Answered(id, ..) | Mail::Fetched(id, _) => Some(*id),
                _ => None,
            };
            let took = self.turn(|shard| {
                shard.turn.charge(LETTER);
                match letter {
                    Mail::Accepted(accepted) => shard.accepted(accepted),
                    Mail::Answered(id, number, part) => shard.answered(id, number, part),
                    Mail::Fetched(id, page) => shard.fetched(id, page),
                    Mail::Superseded(id) => shard.superseded(id),
                    Mail::Renewed(id) => shard.renewed(id),
                    Mail::Relieve => shard.shared.memory.looks(shard.id),
                    Mail::Reloaded => shard.reloaded(),
                    Mail::Drain => shard.drain(),
                }
            });
            work += took;
            if let Some(slot) = about.and_then(|id| self.slot_of(id)) {
                self.connections[slot].is_busy |= is_busy(took);
            }
            self.relieve();
            self.round_if_due();
        }
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
            .prepare(
                self.settings.config.limits.pending_bytes,
                patience(self.settings.config.held.heartbeat),
            )
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
            self.connections[slot].came_late = true;
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
        if self.wheel.next_deadline().is_some_and(|at| at <= self.now) {
            self.collect_due();
        }
        for _ in 0..LETTERS {
            let Some(token) = self.due.pop_front() else { break };
            let slot = token.slot as usize;
            let is_due = self
                .connections
                .get(slot)
                .is_some_and(|c| c.generation == token.generation && c.deadline <= self.now);
            if is_due {
                self.turn(|shard| {
                    shard.turn.charge(LETTER);
                    shard.overdue(slot);
                });
            }
        }
    }

    /// Collects the connections whose deadline has come.
    fn collect_due(&mut self) {
        let (connections, due) = (&mut self.connections, &mut self.due);
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
            due.push_back(token);
            None
        });
    }

    /// A connection's deadline has come.
    fn overdue(&mut self, slot: usize) {
        let patience = self.patience();
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.deadline = u64::MAX;
        if connection.stuck != 0 && self.now.saturating_sub(connection.stuck) >= patience {
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
            // Whole requests wait for their turn, or for room for their answers: that is not the client's fault.
            State::Http if connection.has_requests() => {
                self.await_request(slot);
                self.watch_blocked(slot);
            }
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
        self.reviewing = Some(0);
    }

    /// The server is going away: nothing new, and everybody is told when to come back.
    fn drain(&mut self) {
        // What was answered to its publisher goes out first: the next server may not have it.
        let now = self.hub.now().sequence();
        while self.fanout.seen().sequence() < now {
            self.rounds();
        }
        self.draining = true;
        self.leaving = Some(0);
    }

    /// The reader of a connection, if it has one.
    fn reader_of(&mut self, slot: usize) -> Option<ReaderId> {
        self.connections
            .get_mut(slot)?
            .subscriber()
            .map(|subscriber| subscriber.reader)
    }
}
