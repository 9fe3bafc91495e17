//! The ceiling of what visitors hold: weighing connections, and ending the largest holder.

use super::Shard;
use crate::api::Refused;
use crate::connection::{State, Voice};
use crate::http::cors::Cors;
use crate::http::response::Terms;
use crate::memory::{FREE, Holders, Rank, STEP};
use crate::metrics::DropReason;
use crate::shared::Mail;
use crate::websocket::{close, code};
use crate::wire::Format;

/// Why a connection is ended at the ceiling, also in a WebSocket's close frame.
pub(super) const WHY: &str =
    "the server holds as much for its visitors as limits.memory allows: come back later";

impl Shard {
    /// Notes what a connection makes the server hold by now. The site's own code is not counted.
    pub(super) fn weigh(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        let mut weight = 0;
        if !self.is_sites(slot) {
            weight += connection.weight(self.settings.config.limits.message_size);
            if let State::Reading(subscriber) = &connection.state {
                weight += self.fanout.weight(subscriber.reader);
            }
        }
        if weight.abs_diff(connection.weighed) >= STEP {
            self.set_weight(slot, weight);
        }
    }

    fn set_weight(&mut self, slot: usize, weight: usize) {
        let connection = &mut self.connections[slot];
        let before = std::mem::replace(&mut connection.weighed, weight);
        self.shared.memory.change(before, weight);
        if Holders::is_right(connection.holds, weight) {
            return;
        }
        let old = connection.holds.take();
        self.leave_holders(old);
        self.connections[slot].holds = self.holders.add(slot as u32, weight);
        self.note_largest();
    }

    /// A connection that is gone, with this weight and rank, holds nothing.
    pub(super) fn unweigh(&mut self, weight: usize, holds: Option<Rank>) {
        self.shared.memory.change(weight, 0);
        if holds.is_some() {
            self.leave_holders(holds);
            self.note_largest();
        }
    }

    fn leave_holders(&mut self, rank: Option<Rank>) {
        let moved = rank.and_then(|rank| self.holders.remove(rank));
        if let Some(moved) = moved {
            self.connections[moved as usize].holds = rank;
        }
    }

    fn note_largest(&self) {
        self.shared
            .memory
            .note_largest(self.id, self.holders.largest_weight());
    }

    /// May a connection take in more? At the ceiling nobody may who holds something already, until the largest holder is gone.
    pub(super) fn may_grow(&self, slot: usize) -> bool {
        !self.shared.memory.is_over() || self.connections[slot].weighed < FREE
    }

    /// At the ceiling the largest holders are ended, one after the other; those of another shard by that shard.
    ///
    /// Only called between two connections' turns: any may be gone after it.
    pub(super) fn relieve(&mut self) {
        while self.shared.memory.is_over()
            && let Some(shard) = self.shared.memory.largest()
        {
            if shard != self.id {
                if self.shared.memory.ask(shard) {
                    self.shared.mailboxes[usize::from(shard)].send(Mail::Relieve);
                }
                return;
            }
            let connections = &self.connections;
            let Some(slot) = self.holders.largest(|slot| connections[slot as usize].weighed) else {
                return;
            };
            self.give_way(slot as usize);
        }
    }

    /// Ends a connection that holds much: its client is told why, if anything can be said in between.
    fn give_way(&mut self, slot: usize) {
        self.metrics().drops.of(DropReason::Memory).add(1);
        self.shared.memory.note_ended();
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot];
        tracing::debug!(
            bytes = connection.weighed,
            "a connection is ended at limits.memory"
        );
        let is_held = match &connection.state {
            State::Lingering => return self.remove(slot),
            State::Reading(subscriber) if subscriber.answering => return self.remove(slot),
            State::Reading(subscriber) => Some((subscriber.format, subscriber.socket.is_some())),
            State::Fresh | State::Http | State::Seed(_) | State::Waiting(_) => None,
        };
        if connection.is_blocked() {
            return self.remove(slot);
        }
        connection.input = Vec::new();
        match is_held {
            Some((_, true)) => {
                let mut out = Vec::new();
                close(code::TRY_LATER, WHY, &mut out);
                self.say_last(slot, &out);
            }
            Some((Format::Poll, false)) => self.answer_early(slot),
            Some((_, false)) => {
                let after = self.retry_after();
                self.end(slot, after, code::TRY_LATER, WHY);
            }
            None => self.refuse_rest(slot),
        }
        if let Some(slot) = self.slot_of(id) {
            self.finish(slot);
        }
        if let Some(slot) = self.slot_of(id) {
            self.weigh(slot);
        }
    }

    /// Answers a request that is not whole yet, or waits for the store, and takes no other.
    fn refuse_rest(&mut self, slot: usize) {
        if let Some(mut waiting) = self.connections[slot].take_waiting(|_| true) {
            // Nobody knows what became of what the store has already.
            if let Voice::Http(terms, _) = &mut waiting.voice {
                *terms = terms.closing();
            }
            return self.give_up_on(slot, waiting, WHY);
        }
        let refused = Refused::unavailable(WHY);
        refused.count(self.metrics());
        let mut out = Vec::new();
        refused.answer(Terms::CLOSE, &Cors::default(), &mut out);
        self.send(slot, &out);
    }

    /// May a visitor ask for something large? While the largest holder has yet to be ended, by another shard, nobody may: an
    /// answer counts from the moment that it is asked for.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn afford(&self, slot: usize) -> Result<(), Refused> {
        match !self.is_sites(slot) && self.shared.memory.is_over() {
            true => Err(Refused::unavailable(WHY)),
            false => Ok(()),
        }
    }
}
