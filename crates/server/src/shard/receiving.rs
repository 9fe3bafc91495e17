//! Reading from a connection, and cutting what came into requests.

use std::borrow::Cow;
use std::io::ErrorKind;

use super::Shard;
use crate::connection::{Awaits, State};
use crate::http::response::CONTINUE;
use crate::http::{self, Limits, Parse};
use crate::listener::Role;
use crate::metrics::{Refusal, Transport};
use crate::seed::{self, Detect};
use crate::shared::ConnectionId;

/// Steps of a request, its body, its names and a refusal aside.
const REQUEST: u32 = 2;

/// So many bytes of answers are collected before a client's further requests wait for it to take them.
pub(super) const ANSWERS: usize = 256 << 10;

/// A publish request in JSON wraps its payload: base64 and escapes may make it so much longer, and some room around it.
pub(super) const WRAPPING: usize = 2;

pub(super) const ROOM: usize = 64 << 10;

impl Shard {
    /// Something came, or the peer went. Who waits for another turn has it in the order of those who do.
    pub(super) fn readable(&mut self, slot: usize) {
        match self.connections.get_mut(slot) {
            Some(connection) if connection.unread => connection.readable = true,
            Some(connection) if connection.is_busy => {
                connection.readable = true;
                self.soon(slot);
            }
            _ => self.read(slot),
        }
    }

    /// Reads what came, for as long as the turn goes: who sends faster than we read must not keep us.
    pub(super) fn read(&mut self, slot: usize) {
        let mut input = std::mem::take(&mut self.input);
        self.read_all(slot, &mut input);
        self.input = input;
    }

    pub(super) fn read_all(&mut self, slot: usize, input: &mut [u8]) {
        loop {
            let Some(connection) = self.connections.get_mut(slot) else {
                return;
            };
            connection.readable = true;
            if self.turn.is_spent() {
                return self.soon(slot);
            }
            if connection.ended || !self.may_read(slot) {
                return;
            }
            if !self.may_grow(slot) {
                self.soon(slot);
                return;
            }
            let connection = &mut self.connections[slot];
            match connection.socket.read(input) {
                Ok(0) => {
                    connection.ended = true;
                    connection.readable = false;
                    self.peer_ended(slot);
                    return;
                }
                Ok(read) => {
                    self.bytes_received += read as u64;
                    self.turn.charge(1);
                    self.turn.charge_bytes(read);
                    let generation = connection.generation;
                    // Less than asked for: the next edge tells when there is more.
                    let drained = read < input.len();
                    connection.readable = !drained;
                    self.came(slot, &mut input[..read]);
                    if self.slot_is(slot, generation) {
                        self.weigh(slot);
                    }
                    match self.connections.get(slot) {
                        // There is an end still to be read.
                        Some(connection) if connection.generation == generation && connection.ending => {
                            continue;
                        }
                        Some(connection) if connection.generation == generation => {}
                        _ => return,
                    }
                    if drained {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.readable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broke(slot, &error);
                    return;
                }
            }
        }
    }

    /// Gives those their turn again who had more to say than fits into one, until others have waited for long enough: the
    /// rest of them come first the next time.
    pub(super) fn take_up_unread(&mut self) {
        let mut pass = self.unread.pass(usize::MAX, false);
        while let Some(id) = self.unread.next(&mut pass) {
            let Some(slot) = self.slot_of(id) else { continue };
            self.connections[slot].unread = false;
            let work = self.turn(|shard| shard.take_up(id, slot));
            self.settle_turn(id, pass.worked(work));
        }
    }

    /// A connection's turn is over: what it holds by now is noted, and room made if it is too much.
    pub(super) fn settle_turn(&mut self, id: ConnectionId, is_busy: bool) {
        if let Some(slot) = self.slot_of(id) {
            self.connections[slot].is_busy = is_busy;
            self.weigh(slot);
        }
        self.relieve();
    }

    fn slot_is(&self, slot: usize, generation: u32) -> bool {
        self.connections
            .get(slot)
            .is_some_and(|connection| connection.generation == generation)
    }

    fn take_up(&mut self, id: ConnectionId, slot: usize) {
        let connection = &mut self.connections[slot];
        if connection.has_said() && !connection.is_blocked() {
            self.obey(slot);
            return;
        }
        if connection.has_requests() && !connection.is_blocked() {
            let kept = std::mem::take(&mut connection.input);
            self.feed(slot, Cow::Owned(kept));
        }
        // Without requests left the rest is for the socket; the next turn, if this one ended for want of room.
        let rest = self.slot_of(id).map(|slot| &self.connections[slot]);
        if rest.is_some_and(|connection| connection.readable && !connection.has_requests()) {
            self.read(slot);
        }
    }

    /// Sees to it that what a connection has kept, or left in its socket, is used in the next turn: there will be no
    /// edge for it. Never at once, as who asks is still busy with the request before.
    pub(super) fn go_on(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if connection.has_requests() || connection.readable || connection.has_said() {
            self.soon(slot);
        }
    }

    /// The connection has its next turn when all others have had theirs.
    pub(super) fn soon(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.connections[slot].unread, true) {
            self.unread.push(self.id_of(slot), self.connections[slot].is_busy);
        }
    }

    /// A connection is not read from while an answer waits to be sent, or to be known: that bounds what it may ask for.
    pub(super) fn may_read(&self, slot: usize) -> bool {
        let connection = &self.connections[slot];
        match &connection.state {
            State::Lingering => true,
            State::Waiting(_) => false,
            // What a held client sends meanwhile is kept, within bounds; a WebSocket's is used.
            State::Reading(subscriber) if subscriber.socket.is_none() => {
                connection.input.len() <= self.settings.config.limits.head
            }
            State::Reading(subscriber) => {
                !connection.is_blocked()
                    && subscriber
                        .socket
                        .as_ref()
                        .is_none_or(|socket| socket.said.is_empty())
            }
            // What is already here comes first.
            State::Http => !connection.is_blocked() && !connection.has_requests(),
            _ => !connection.is_blocked(),
        }
    }

    pub(super) fn peer_ended(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        match &connection.state {
            // Half-closed after its request, as `nc` and old clients do: it still wants the answer.
            State::Waiting(_) => {}
            State::Reading(subscriber) if subscriber.answering => {}
            State::Http if connection.has_requests() => {}
            State::Fresh | State::Http | State::Seed(_) if connection.is_blocked() => {
                connection.closing = true
            }
            _ => self.remove(slot),
        }
    }

    pub(super) fn came(&mut self, slot: usize, bytes: &mut [u8]) {
        let connection = &mut self.connections[slot];
        match &mut connection.state {
            State::Lingering => {}
            State::Reading(subscriber) if subscriber.socket.is_some() => self.socket_came(slot, bytes),
            // The next request of a client that does not wait for the answer to this one; or anything on a stream.
            State::Reading(subscriber) if subscriber.format == crate::wire::Format::Poll => {
                connection.input.extend_from_slice(bytes);
            }
            State::Reading(_) => {}
            _ if connection.input.is_empty() => self.feed(slot, Cow::Borrowed(bytes)),
            _ => {
                let mut whole = std::mem::take(&mut connection.input);
                whole.extend_from_slice(bytes);
                self.feed(slot, Cow::Owned(whole));
            }
        }
    }

    pub(super) fn http_limits(&self) -> Limits {
        let limits = &self.settings.config.limits;
        // A batch shares the room of a few messages at the largest size; of small ones it may hold very many.
        let body = limits.message_size.saturating_mul(WRAPPING).saturating_add(ROOM);
        Limits {
            head: limits.head,
            headers: http::HEADERS,
            body,
        }
    }

    /// Uses up bytes that form requests; keeps the rest, without a copy if they are a buffer already.
    pub(super) fn feed(&mut self, slot: usize, bytes: Cow<'_, [u8]>) {
        if matches!(self.connections[slot].state, State::Fresh) && !self.detect(slot, &bytes) {
            self.connections[slot].input = bytes.into_owned();
            return;
        }
        if matches!(self.connections[slot].state, State::Seed(_)) {
            self.seed_came(slot, bytes);
            return;
        }
        let limits = self.http_limits();
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let mut at = 0;
        let generation = self.connections[slot].generation;
        // The first in any case: a turn that is spent would come back to it for ever.
        while at < bytes.len() && out.len() < ANSWERS && (at == 0 || !self.turn.is_spent()) {
            let mut progress = std::mem::take(&mut self.connections[slot].progress);
            let parsed = http::parse(&bytes[at..], &mut progress, &limits);
            self.connections[slot].progress = progress;
            match parsed {
                Ok(Parse::Complete { request, consumed }) => {
                    at += consumed;
                    self.connections[slot].awaits = Awaits::Request;
                    let before = out.len();
                    self.turn.charge(REQUEST);
                    self.turn.charge_bytes(consumed);
                    self.handle(slot, &request, &mut out);
                    self.turn.charge_bytes(out.len().saturating_sub(before));
                }
                Ok(Parse::Incomplete { wants_continue, .. }) => {
                    if wants_continue {
                        out.extend_from_slice(CONTINUE);
                    }
                    self.await_rest(slot);
                    break;
                }
                Err(reject) => {
                    let origins = self.settings.access.origins(self.role(slot));
                    reject.answer(&origins.cors_of_head(&bytes[at..]), &mut out);
                    if let Some(refusal) = Refusal::from_code(reject.code) {
                        self.metrics().refused.of(refusal).add(1);
                    }
                    self.connections[slot].closing = true;
                }
            }
            match self.connections.get(slot) {
                Some(connection) if connection.generation == generation => {
                    if !matches!(connection.state, State::Http) || connection.closing {
                        break;
                    }
                }
                _ => {
                    self.out = out;
                    return;
                }
            }
        }
        let connection = &mut self.connections[slot];
        if at < bytes.len() && !connection.closing {
            // A WebSocket's first frames may come right behind its handshake.
            connection.input = match bytes {
                Cow::Borrowed(bytes) => bytes[at..].to_vec(),
                Cow::Owned(mut bytes) => {
                    bytes.drain(..at);
                    bytes
                }
            };
        } else if matches!(connection.state, State::Http) {
            connection.closing |= connection.ended;
            self.await_request(slot);
        }
        if !self.connections[slot].closing {
            self.write_opening(slot, &mut out);
        }
        if matches!(self.connections[slot].state, State::Http) {
            self.part_from_visitor(slot);
        }
        let there = out.is_empty() || self.send(slot, &out);
        self.out = out;
        if !there {
            return;
        }
        self.stay_with_visitor(slot);
        if self.connections[slot].closing {
            self.close_if_sent(slot);
        } else if matches!(self.connections[slot].state, State::Reading(_)) {
            self.begin_reading(slot);
        } else if self.connections[slot].has_requests() && !self.connections[slot].is_blocked() {
            self.soon(slot);
        }
    }

    /// A part of a request has come. Its deadline is set once: who sends a byte now and then does not have for ever.
    pub(super) fn await_rest(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let awaits = if connection.progress.is_in_body() {
            Awaits::Body
        } else {
            Awaits::Head
        };
        if connection.awaits != awaits {
            connection.awaits = awaits;
            let time = self.millis(self.settings.config.limits.request_time);
            self.set_deadline(slot, self.now.saturating_add(time));
        }
    }

    /// A connection between two requests.
    pub(super) fn await_request(&mut self, slot: usize) {
        let time = self.millis(self.settings.config.limits.idle_time);
        self.set_deadline(slot, self.now.saturating_add(time));
    }

    /// Tells HTTP from the seed's protocol by the first bytes, on doors where both are spoken.
    pub(super) fn detect(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let detected = match self.role(slot) {
            // The seed's protocol has no word for what a connection is told that is to be refused.
            Role::Backend if self.connections[slot].refusal.is_none() => seed::looks_like_http(bytes),
            _ => Detect::Http,
        };
        match detected {
            Detect::Http => self.connections[slot].state = State::Http,
            Detect::Seed => {
                self.connections[slot].state = State::Seed(0);
                self.count_as(slot, Transport::Seed);
            }
            Detect::Undecided => return false,
        }
        true
    }
}
