//! Long polls: read until there is something, held until there is, answered once.

use cometserver_core::fanout::{Progress, Step};
use cometserver_core::hub::ReadLimits;
use cometserver_core::protocol::native;
use cometserver_core::{Cursor, Position};

use super::reading::PAGE;
use super::{KEPT, Shard};
use crate::connection::State;
use crate::http::Version;
use crate::http::cors::Cors;
use crate::http::response::{Head, Terms, chunk, last_chunk};
use crate::metrics::Transport;
use crate::round::Share;
use crate::wire::Format;

/// An answer made of a round's frames has at most so many bytes, or one publication; of more the poll reads a page itself.
const FROM_ROUND: usize = 256 << 10;

/// A poll's answer, which most polls of a round share.
#[derive(Debug, Default)]
pub(super) struct Answer {
    key: Option<(Share, Position, Terms)>,
    bytes: Vec<u8>,
}

impl Answer {
    /// The frames it was made of are gone.
    pub(super) fn forget(&mut self) {
        self.key = None;
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
        }
    }
}

impl Shard {
    /// Reads for a poll until there is something, or nothing left: then it is held. Present values belong to no cursor, so
    /// that no later poll could ask for the rest of them: an answer with more than a page of them is sent page by page, as
    /// the client takes it.
    pub(super) fn read_poll(&mut self, slot: usize) {
        let now = self.now;
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, limit, is_early) = (subscriber.reader, subscriber.limit, subscriber.reads_from > now);
        if is_early {
            self.schedule(slot);
            return;
        }
        subscriber.reads_from = 0;
        let has_begun = subscriber.answering;
        let mut steps = std::mem::take(&mut subscriber.gathered);
        let mut bytes: usize = steps.iter().map(Step::size).sum();
        loop {
            let read = steps.len();
            let items = limit.saturating_sub(read).max(1);
            let progress = self.fanout.next(reader, ReadLimits { items, ..PAGE }, &mut steps);
            self.turn.charge(1);
            bytes += steps[read..].iter().map(Step::size).sum::<usize>();
            let is_full = bytes >= PAGE.bytes || steps.len() >= PAGE.items;
            match progress {
                Progress::Live => break,
                // A page of what it has missed is an answer; with its cursor it asks for the next.
                Progress::More if !self.fanout.owes(reader) && (has_begun || !steps.is_empty()) => break,
                Progress::More if is_full => {
                    self.answer_part(slot, steps);
                    return;
                }
                // Many values, or a pattern that matches nothing for long: others have their turn first.
                Progress::More if self.turn.is_spent() => {
                    self.gather(slot, steps);
                    self.read_on_soon(slot);
                    return;
                }
                Progress::More => {}
                // Present values that are not in memory: with those that are they make one answer.
                Progress::Cold(fetch) => {
                    self.gather(slot, steps);
                    self.fetch(slot, fetch);
                    return;
                }
            }
        }
        let ends = self.connections[slot]
            .subscriber()
            .map_or(0, |subscriber| subscriber.ends);
        // What was answered to its publisher before this poll came must be in it, even if this shard has yet to tell of it.
        let is_late = self.hub.now().sequence() != self.fanout.seen().sequence();
        if steps.is_empty() && !has_begun && (ends > now || is_late) {
            self.schedule(slot);
            return;
        }
        self.answer_with(slot, steps);
    }

    /// Answers a poll with what was read for it.
    pub(super) fn answer_with(&mut self, slot: usize, steps: Vec<Step>) {
        let items = self.write_items(slot, steps);
        self.answer_poll(slot, &items);
    }

    /// The members of a poll's list, each followed by a comma.
    fn write_items(&mut self, slot: usize, steps: Vec<Step>) -> Vec<u8> {
        let mut items = Vec::new();
        let delivered = steps
            .iter()
            .filter(|step| matches!(step, Step::Publication(..)))
            .count();
        self.metrics()
            .deliveries
            .of(Transport::Poll)
            .add(delivered as u64);
        for step in steps {
            self.write_step(slot, Format::Poll, step, &mut items);
        }
        self.turn.charge_bytes(items.len());
        items
    }

    /// Sends a page of a poll's present values, its head before the first; the next one is read when the client has taken it.
    fn answer_part(&mut self, slot: usize, steps: Vec<Step>) {
        let items = self.write_items(slot, steps);
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let has_begun = std::mem::replace(&mut subscriber.answering, true);
        let mut out = Vec::with_capacity(items.len() + 512);
        let mut content: &[u8] = b",";
        if !has_begun {
            if subscriber.terms.version == Version::Http10 {
                subscriber.terms = subscriber.terms.closing();
            }
            // Until all present values are shown the position stays: this is the cursor that the answer ends with.
            let cursor = self.hub.cursor(self.fanout.position(subscriber.reader));
            poll_head(&mut out, subscriber.terms, &subscriber.cors, cursor).stream();
            content = LIST;
        }
        let version = subscriber.terms.version;
        for piece in [content, items.strip_suffix(b",").unwrap_or(&items)] {
            write_piece(version, piece, &mut out);
        }
        drop(items);
        if self.send(slot, &out) {
            self.schedule(slot);
            self.read_on_soon(slot);
        }
    }

    /// Answers a poll whose time is over, with what there is for it.
    pub(super) fn answer_early(&mut self, slot: usize) {
        let steps = self.last_steps(slot);
        self.answer_with(slot, steps);
    }

    /// Keeps what a poll's answer holds so far.
    fn gather(&mut self, slot: usize, steps: Vec<Step>) {
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.gathered = steps;
        }
    }

    /// A poll was told of something in a round: it is answered with its share.
    pub(super) fn answer_poll_from_round(&mut self, slot: usize, share: &Share, before: Position) {
        let limit = self.connections[slot]
            .subscriber()
            .map_or(0, |subscriber| subscriber.limit);
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, terms, plain) = (
            subscriber.reader,
            subscriber.terms,
            subscriber.cors == Cors::default() && subscriber.retry.is_none(),
        );
        let count = self.frames.count(share);
        let bytes: usize = self.frames.slices(Format::Poll, share).map(<[u8]>::len).sum();
        if count > limit || count > 1 && bytes > FROM_ROUND {
            // More than it wants, or an answer holds: it reads for itself, a page up to its limit.
            self.fanout.stall(reader, before);
            self.read_poll(slot);
            return;
        }
        self.delivered[Transport::Poll as usize] += count as u64;
        let position = self.fanout.position(reader);
        let made =
            self.answer.key.as_ref().is_some_and(|(of, at, on)| {
                self.frames.is_same(of, share) && *at == position && *on == terms
            });
        if !plain || !made {
            let mut items = Vec::new();
            for slice in self.frames.slices(Format::Poll, share) {
                items.extend_from_slice(slice);
            }
            let mut bytes = std::mem::take(&mut self.answer.bytes);
            bytes.clear();
            let cursor = self.hub.cursor(position);
            self.poll_answer(slot, &items, cursor, &mut bytes);
            self.answer.bytes = bytes;
            self.answer.key = plain.then_some((*share, position, terms));
        }
        self.release_reader(slot);
        self.connections[slot].state = State::Http;
        let bytes = std::mem::take(&mut self.answer.bytes);
        self.send_answer(slot, &bytes, terms);
        self.answer.bytes = bytes;
    }

    pub(super) fn poll_answer(&mut self, slot: usize, items: &[u8], cursor: Cursor, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let mut body = Vec::with_capacity(items.len() + 96);
        body.extend_from_slice(LIST);
        body.extend_from_slice(items.strip_suffix(b",").unwrap_or(items));
        write_end(subscriber.retry, cursor, &mut body);
        poll_head(out, subscriber.terms, &subscriber.cors, cursor).body(&body);
    }

    /// The end of an answer that was sent page by page.
    fn poll_end(&mut self, slot: usize, items: &[u8], cursor: Cursor, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let mut end = Vec::with_capacity(items.len() + 96);
        if let Some(items) = items.strip_suffix(b",") {
            end.push(b',');
            end.extend_from_slice(items);
        }
        write_end(subscriber.retry, cursor, &mut end);
        let version = subscriber.terms.version;
        write_piece(version, &end, out);
        if version == Version::Http11 {
            last_chunk(out);
        }
    }

    /// Answers a poll; without anything to show and nothing new since its `If-None-Match` with 304.
    pub(super) fn answer_poll(&mut self, slot: usize, items: &[u8]) {
        let Some(cursor) = self.last_cursor(slot) else {
            return;
        };
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let terms = subscriber.terms;
        let conditional = subscriber.conditional;
        let mut out = Vec::new();
        if subscriber.answering {
            self.poll_end(slot, items, cursor, &mut out);
        } else if items.is_empty() && conditional {
            let cors = subscriber.cors.clone();
            // The next one may start here: on a quiet channel an old cursor would one day be too old.
            cors.write(Head::new(&mut out, terms, 304))
                .header("Cache-Control", "private, no-cache")
                .header("ETag", entity_tag(cursor))
                .no_body();
        } else {
            self.poll_answer(slot, items, cursor, &mut out);
        }
        self.release_reader(slot);
        self.connections[slot].state = State::Http;
        self.send_answer(slot, &out, terms);
    }

    pub(super) fn send_poll_away(&mut self, slot: usize, after: u64) {
        let draining = self.draining;
        let steps = self.last_steps(slot);
        let Some(cursor) = self.last_cursor(slot) else {
            return;
        };
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        if draining {
            subscriber.terms = subscriber.terms.closing();
        }
        if !steps.is_empty() || subscriber.answering {
            subscriber.retry = Some(after);
            self.answer_with(slot, steps);
            return;
        }
        let (terms, cors) = (subscriber.terms, subscriber.cors.clone());
        let mut out = Vec::new();
        come_back_later(after, cursor, terms, &cors, &mut out);
        self.release_reader(slot);
        self.connections[slot].state = State::Http;
        self.send_answer(slot, &out, terms);
    }
}

/// How the answer to a poll begins.
const LIST: &[u8] = b"{\"publications\":[";

/// The head of an answer to a poll, but for what says how long it is.
fn poll_head<'o>(out: &'o mut Vec<u8>, terms: Terms, cors: &Cors, cursor: Cursor) -> Head<'o> {
    cors.write(Head::new(out, terms, 200))
        .header("Content-Type", "application/json")
        // May be kept, must be asked about: an interval poll then costs a 304.
        .header("Cache-Control", "private, no-cache")
        .header("ETag", entity_tag(cursor))
}

/// How it ends: when to come back, if it found no place, and the cursor for the next one.
fn write_end(retry: Option<u64>, cursor: Cursor, body: &mut Vec<u8>) {
    body.push(b']');
    if let Some(after) = retry {
        body.extend_from_slice(b",\"retry_ms\":");
        native::json_number(after, body);
    }
    body.extend_from_slice(b",\"cursor\":\"");
    cursor.write(body);
    body.extend_from_slice(b"\"}");
}

/// A piece of an answer that is sent page by page: a client of HTTP/1.0 knows no chunks, for it the connection ends.
fn write_piece(version: Version, piece: &[u8], out: &mut Vec<u8>) {
    match version {
        Version::Http11 => chunk(piece, out),
        Version::Http10 => out.extend_from_slice(piece),
    }
}

/// A cursor as the value of `ETag`.
pub(super) fn entity_tag(cursor: Cursor) -> Vec<u8> {
    let mut tag = b"\"".to_vec();
    cursor.write(&mut tag);
    tag.push(b'"');
    tag
}

/// The answer to a poll for which there is no place.
pub(super) fn come_back_later(after: u64, cursor: Cursor, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
    let mut body = b"{\"publications\":[],\"retry_ms\":".to_vec();
    native::json_number(after, &mut body);
    body.extend_from_slice(b",\"cursor\":\"");
    cursor.write(&mut body);
    body.extend_from_slice(b"\"}");
    let head = cors.write(Head::new(out, terms, 200));
    head.header("Content-Type", "application/json")
        .header("Cache-Control", "no-store")
        .body(&body);
}
