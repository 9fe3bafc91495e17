//! What readers fetch from the store: a few pages at a time, as each is memory until its reader has used it.

use std::collections::VecDeque;

use cometserver_core::broker::{BrokerError, Fetch, Page};
use cometserver_core::tidy::Tidy;

use super::Shard;
use super::reading::PAGE;
use crate::shared::{ConnectionId, Mail};

/// All pages on their way together may take this part of `limits.memory`.
const PART: usize = 8;

/// The bounds of how many are on their way to one shard at a time.
const AT_ONCE: (usize, usize) = (2, 256);

/// So many entries may wait whose readers have gone, besides as many as there are connections.
const GONE: usize = 64;

/// Entries that are looked at in a step.
const LOOKED_AT: usize = 64;

/// What readers of one shard wait for. Each keeps what it will ask for by itself: that goes when it does.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// How many the store was asked for, and has not answered.
    asked: usize,
    /// Whose turn it is next, and the number of the page that is meant: its reader may have gone, or be another one.
    waiting: VecDeque<(ConnectionId, u64)>,
    /// The number of the newest.
    newest: u64,
}

impl Fetches {
    fn number(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// The page with this number waits; returns how many entries were looked at. Those that nobody waits for any more leave
    /// when there are more of them than of `connections`.
    fn wait(
        &mut self,
        id: ConnectionId,
        number: u64,
        connections: usize,
        is_wanted: impl Fn(ConnectionId, u64) -> bool,
    ) -> usize {
        self.waiting.push_back((id, number));
        let waiting = self.waiting.len();
        if waiting <= 2 * connections + GONE {
            return 0;
        }
        self.waiting.retain(|(id, number)| is_wanted(*id, *number));
        self.waiting.tidy();
        waiting
    }
}

impl Shard {
    /// Fetches a page for a reader: when those before it have come, so that many who come back at once do not have all their
    /// pages in memory at once.
    pub(super) fn fetch(&mut self, slot: usize, fetch: Fetch) {
        let id = self.id_of(slot);
        let until = self.now + self.shared.patience;
        let number = self.fetches.number();
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.fetching = until;
            subscriber.fetch = Some((number, Box::new(fetch)));
        }
        let deadline = self.connections[slot].deadline.min(until);
        self.set_deadline(slot, deadline);
        let connections = &self.connections;
        let is_wanted = |id: ConnectionId, number| {
            let connection = connections.get(id.slot as usize);
            connection.is_some_and(|connection| {
                connection.generation == id.generation && connection.wants_page(number)
            })
        };
        let looked_at = self.fetches.wait(id, number, connections.len(), is_wanted);
        self.turn.charge_each(looked_at / LOOKED_AT);
        self.fetch_next();
        self.weigh(slot);
    }

    /// So many pages may be on their way at a time.
    fn fetches_at_once(&self) -> usize {
        let page = PAGE.bytes + self.settings.config.limits.message_size;
        let all = self.shared.memory.limit() / PART / page / self.shared.mailboxes.len();
        all.clamp(AT_ONCE.0, AT_ONCE.1)
    }

    fn fetch_next(&mut self) {
        while self.fetches.asked < self.fetches_at_once()
            && let Some((id, number)) = self.fetches.waiting.pop_front()
        {
            let slot = self.slot_of(id);
            let Some(fetch) = slot.and_then(|slot| self.connections[slot].take_fetch(number)) else {
                continue;
            };
            self.fetches.asked += 1;
            self.metrics().cold_reads.add(1);
            let shared = self.shared.clone();
            self.hub.fetch(
                *fetch,
                Box::new(move |page| shared.mailboxes[id.shard as usize].send(Mail::Fetched(id, page))),
            );
        }
        if self.fetches.waiting.is_empty() {
            // What a crowd needed is not kept.
            self.fetches.waiting.shrink_to(AT_ONCE.1);
        }
    }

    /// The store has answered, whether its reader is still there or not.
    pub(super) fn fetched(&mut self, id: ConnectionId, page: Result<Page, BrokerError>) {
        self.fetches.asked -= 1;
        self.give_page(id, page);
        self.fetch_next();
    }

    fn give_page(&mut self, id: ConnectionId, page: Result<Page, BrokerError>) {
        let Some(slot) = self.slot_of(id) else { return };
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        if std::mem::take(&mut subscriber.fetching) == 0 {
            return;
        }
        let reader = subscriber.reader;
        match page {
            Ok(page) => {
                self.fanout.fetched(reader, page);
                self.weigh(slot);
                self.read_on_soon(slot);
            }
            Err(error) => {
                tracing::warn!(%error, "history could not be read");
                self.leave_unread(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_whose_readers_have_gone_do_not_pile_up_and_those_who_wait_keep_their_turn() {
        let mut fetches = Fetches::default();
        let id = ConnectionId {
            shard: 0,
            slot: 1,
            generation: 1,
        };
        let mut staying = Vec::new();
        for round in 0..10_000 {
            let number = fetches.number();
            if round % 1_000 == 0 {
                staying.push(number);
            }
            fetches.wait(id, number, staying.len(), |_, number| staying.contains(&number));
            assert!(fetches.waiting.len() <= 2 * staying.len() + GONE);
        }
        let left = fetches.waiting.iter().map(|(_, number)| *number);
        let left: Vec<u64> = left.filter(|number| staying.contains(number)).collect();
        assert_eq!(left, staying);
        assert!(fetches.waiting.capacity() <= 4 * GONE);
    }
}
