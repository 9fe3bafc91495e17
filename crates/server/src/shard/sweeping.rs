//! What concerns every connection, some of them at a time: others are served meanwhile.

use super::Shard;
use crate::connection::State;

/// Steps of a sweep before the loop looks for others.
const SWEEP: u32 = 512;

/// Steps of a connection that is sent away, or looked at; its subscriptions count besides.
const CONNECTION: u32 = 2;

/// Memberships that end before the loop looks for others.
const MEMBERSHIPS: usize = 256;

/// Subscriptions that are looked at in a step.
const SUBSCRIPTIONS: usize = 8;

impl Shard {
    /// Goes on with what concerns every connection.
    pub(super) fn sweep(&mut self) {
        self.reviewing = self.sweep_from(self.reviewing, Self::review);
        self.leaving = self.sweep_from(self.leaving, Self::leave);
        self.let_members_go();
    }

    /// Takes members that have gone out of channels.
    fn let_members_go(&mut self) {
        for _ in 0..MEMBERSHIPS {
            let Some((user, channels)) = self.left.front_mut() else {
                return;
            };
            match channels.pop() {
                Some(channel) => self.hub.leave(channel, user, self.wall),
                None => drop(self.left.pop_front()),
            }
        }
    }

    /// Does something with the next connections; returns where to go on.
    fn sweep_from(&mut self, from: Option<usize>, each: fn(&mut Self, usize)) -> Option<usize> {
        let mut slot = from?;
        let mut steps = 0;
        while steps < SWEEP {
            if slot >= self.connections.capacity() {
                return None;
            }
            if self.connections.contains(slot) {
                steps += self.turn(|shard| {
                    shard.turn.charge(CONNECTION);
                    each(shard, slot);
                });
            }
            slot += 1;
        }
        Some(slot)
    }

    /// Other settings hold: may it still listen to what it does?
    fn review(&mut self, slot: usize) {
        let State::Reading(subscriber) = &self.connections[slot].state else {
            return;
        };
        let (channels, _) = self.fanout.counts(subscriber.reader);
        self.turn.charge_each(channels / SUBSCRIPTIONS);
        if !self.end_if_disowned(slot) {
            self.end_if_disallowed(slot);
        }
    }

    /// The server goes away: it is told when to come back.
    fn leave(&mut self, slot: usize) {
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
                self.read(slot);
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
