//! Rounds: live readers are told of what became visible; those who are behind get a page each.

use std::time::{Duration, Instant};

use cometserver_core::Position;

use super::Shard;
use crate::connection::{Sent, State};
use crate::shared::wall_micros;

/// The most publications of a round, and the least that it may be where there are many readers: one call to the system
/// carries all that a reader gets of a round.
pub(super) const ROUND: usize = 1024;
const LEAST: usize = 16;

/// About so many times a reader is told of a publication in a round.
const TOLD: usize = 256 << 10;

/// So many connections that are behind read one page each, then the loop looks around again.
pub(super) const PUMPS: usize = 64;

/// Readers that are behind and busy rest for so long when they were in the way of others who wanted the hub: so these find it
/// free most of the time, even where the system takes the processor from whoever holds it.
const REST: Duration = Duration::from_millis(4);

impl Shard {
    /// Tells live readers of what became visible, and flushes each that is concerned. One round: what is left is for the
    /// next one, when others have been served.
    pub(super) fn rounds(&mut self) {
        let before = self.fanout.seen();
        let hub = &self.hub;
        let (frames, encoder) = (&mut self.frames, &mut self.encoder);
        let (connections, dirty) = (&mut self.connections, &mut self.dirty);
        let mut latest: *const cometserver_core::Publication = std::ptr::null();
        let mut times = Vec::new();
        let mut told = 0;
        let round = self
            .fanout
            .round_of(self.round_size, |tag, _reader, publication, place| {
                let Some(connection) = connections.get_mut(tag as usize) else {
                    return;
                };
                let State::Reading(subscriber) = &connection.state else {
                    return;
                };
                told += 1;
                if connection.share.is_empty() {
                    dirty.push(tag);
                }
                if !std::ptr::eq(latest, &raw const **publication) {
                    latest = &raw const **publication;
                    times.push(publication.accepted);
                }
                frames.give(
                    &mut connection.share,
                    subscriber.format,
                    publication,
                    place,
                    hub,
                    encoder,
                );
            });
        if round.lagged {
            self.all_behind();
        }
        let fits = (TOLD * times.len()).checked_div(told);
        self.round_size = fits.unwrap_or(ROUND).clamp(LEAST, ROUND);
        self.rounds_left = round.more;
        self.turn.round_was();
        let dirty = std::mem::take(&mut self.dirty);
        for tag in &dirty {
            self.deliver(*tag as usize, before);
        }
        self.dirty = dirty;
        self.dirty.clear();
        self.frames.clear();
        self.answer.forget();
        if !times.is_empty() {
            let wall = wall_micros();
            let metrics = self.metrics();
            // Nobody published the news about members.
            for accepted in times.into_iter().filter(|accepted| *accepted != 0) {
                metrics.publish_to_write.observe(wall.saturating_sub(accepted), 1);
            }
        }
    }

    /// A round between turns, if there were many of those since the last: publications do not wait until everybody who said
    /// something has had a turn.
    pub(super) fn round_if_due(&mut self) {
        if self.turn.wants_round() {
            self.rounds();
            self.turn.look(Instant::now());
        }
    }

    /// Writes a connection's share of the round.
    pub(super) fn deliver(&mut self, slot: usize, before: Position) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let share = std::mem::take(&mut connection.share);
        let State::Reading(subscriber) = &mut connection.state else {
            return;
        };
        let (reader, format, blocked) = (subscriber.reader, subscriber.format, connection.is_blocked());
        if format == crate::wire::Format::Poll {
            self.answer_poll_from_round(slot, &share, before);
            return;
        }
        if blocked {
            self.fanout.stall(reader, before);
            return;
        }
        let plain = self.frames.plain(format, &share);
        let sent = match plain {
            // Nearly always: one slice, one call.
            Some((bytes, _)) => connection.send_slice(bytes),
            None => connection.send_slices(self.frames.slices(format, &share)),
        };
        let written = match sent {
            Ok(written) => written,
            Err(error) => return self.broke(slot, &error),
        };
        self.bytes_sent += written as u64;
        let (total, count) = match plain {
            Some((bytes, count)) => (bytes.len(), count as usize),
            None => (
                self.frames.slices(format, &share).map(<[u8]>::len).sum(),
                self.frames.count(&share),
            ),
        };
        let transport = connection.counted;
        if written == total {
            if let State::Reading(subscriber) = &mut connection.state {
                subscriber.sent = self.now;
            }
            self.delivered[transport as usize] += count as u64;
            return;
        }
        // The peer takes no more: keep the rest of one frame; from there it reads on by itself when it can.
        let (position, rest, count) = self.frames.after(format, &share, written);
        connection.keep(rest);
        self.fanout.stall(reader, position.unwrap_or(before));
        self.delivered[transport as usize] += count as u64;
        // Even if no frame was begun and nothing is kept: it is told when there is room.
        self.sent(slot, Sent::Part);
    }

    /// The shard was too late: every reader reads on from its own cursor.
    pub(super) fn all_behind(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.read_on_soon(slot);
        }
    }

    /// Puts a connection that is behind, and can be written to, into the queue of those that read on.
    pub(super) fn read_on_soon(&mut self, slot: usize) {
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot];
        if connection.is_blocked() || connection.closing {
            return;
        }
        let Some(subscriber) = connection.subscriber() else {
            return;
        };
        if subscriber.queued || subscriber.fetching != 0 || self.fanout.is_live(subscriber.reader) {
            return;
        }
        subscriber.queued = true;
        self.behind.push(id, connection.is_busy);
    }

    /// A page each for those who are behind, until others have waited for long enough.
    pub(super) fn pump(&mut self) {
        let rest = self.readers_rest().is_some();
        let gave_way = self.hub.readings_that_gave_way();
        let mut pass = self.behind.pass(PUMPS, rest);
        while let Some(id) = self.behind.next(&mut pass) {
            let Some(slot) = self.slot_of(id) else { continue };
            if let Some(subscriber) = self.connections[slot].subscriber() {
                subscriber.queued = false;
            }
            let work = self.turn(|shard| shard.read_on(slot));
            self.settle_turn(id, pass.worked(work));
        }
        if !rest && self.hub.readings_that_gave_way() != gave_way {
            self.resting = Instant::now() + REST;
        }
    }

    /// For how long busy readers rest: others want the hub.
    pub(super) fn readers_rest(&self) -> Option<Duration> {
        let rest = self.resting.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }
}
