//! Long polls: read until there is something, held until there is, answered once.

use cometserver_core::fanout::{Progress, Step};
use cometserver_core::hub::ReadLimits;
use cometserver_core::protocol::native;
use cometserver_core::{Cursor, Position};

use super::Shard;
use super::reading::PAGE;
use crate::connection::State;
use crate::http::cors::Cors;
use crate::http::response::{Head, Terms};
use crate::metrics::Transport;
use crate::round::Share;
use crate::wire::Format;

/// At most so many present values are shown at the beginning of a poll, whatever its `limit`.
pub(super) const MOST_OWED: usize = 1000;

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
    }
}

impl Shard {
    /// Reads for a poll until there is something, or nothing left: then it is held.
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
        let mut steps = std::mem::take(&mut subscriber.gathered);
        loop {
            let items = limit.saturating_sub(steps.len()).max(1);
            let progress = self.fanout.next(reader, ReadLimits { items, ..PAGE }, &mut steps);
            let owes = self.fanout.owes(reader);
            match progress {
                Progress::Live => break,
                // A page of what it has missed is an answer; with its cursor it asks for the next.
                Progress::More if !owes && !steps.is_empty() => break,
                // Its present values belong to no cursor: all of them, or the news which are missing.
                Progress::More if owes && steps.len() >= MOST_OWED => {
                    let missing = self.fanout.give_up(reader);
                    steps.extend(missing.into_iter().map(|target| Step::Gap(target, false, None)));
                    break;
                }
                Progress::More if owes => {}
                // A pattern that matches nothing for long: others have their turn first.
                Progress::More => {
                    self.gather(slot, steps);
                    self.read_on_soon(slot);
                    return;
                }
                Progress::Cold(_) if !steps.is_empty() && !owes => break,
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
        if steps.is_empty() && (ends > now || is_late) {
            self.schedule(slot);
            return;
        }
        self.answer_with(slot, steps);
    }

    /// Answers a poll with what was read for it.
    pub(super) fn answer_with(&mut self, slot: usize, steps: Vec<Step>) {
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
        self.answer_poll(slot, &items);
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
        if count > limit {
            // More than it wants: it reads for itself, up to its limit.
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
        body.extend_from_slice(b"{\"publications\":[");
        body.extend_from_slice(items.strip_suffix(b",").unwrap_or(items));
        body.push(b']');
        if let Some(after) = subscriber.retry {
            body.extend_from_slice(b",\"retry_ms\":");
            native::json_number(after, &mut body);
        }
        body.extend_from_slice(b",\"cursor\":\"");
        cursor.write(&mut body);
        body.extend_from_slice(b"\"}");
        let head = subscriber.cors.write(Head::new(out, subscriber.terms, 200));
        head.header("Content-Type", "application/json")
            // May be kept, must be asked about: an interval poll then costs a 304.
            .header("Cache-Control", "private, no-cache")
            .header("ETag", entity_tag(cursor))
            .body(&body);
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
        if items.is_empty() && conditional {
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
        if !steps.is_empty() {
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
