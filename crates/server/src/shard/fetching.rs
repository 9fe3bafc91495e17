//! What readers fetch from the store: a few pages at a time, as each is memory until its reader has used it.

use std::collections::VecDeque;

use cometserver_core::broker::{BrokerError, Fetch, Page};

use super::Shard;
use super::reading::PAGE;
use crate::shared::{ConnectionId, Mail};

/// All pages on their way together may take this part of `limits.memory`.
const PART: usize = 8;

/// The bounds of how many are on their way to one shard at a time.
const AT_ONCE: (usize, usize) = (2, 256);

/// What readers of one shard wait for.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// How many the store was asked for, and has not answered.
    asked: usize,
    /// Those it will be asked for next.
    waiting: VecDeque<(ConnectionId, Fetch)>,
}

impl Shard {
    /// Fetches a page for a reader: when those before it have come, so that many who come back at once do not have all their
    /// pages in memory at once.
    pub(super) fn fetch(&mut self, slot: usize, fetch: Fetch) {
        let id = self.id_of(slot);
        let until = self.now + self.shared.patience;
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.fetching = until;
        }
        let deadline = self.connections[slot].deadline.min(until);
        self.set_deadline(slot, deadline);
        self.fetches.waiting.push_back((id, fetch));
        self.fetch_next();
    }

    /// So many pages may be on their way at a time.
    fn fetches_at_once(&self) -> usize {
        let page = PAGE.bytes + self.settings.config.limits.message_size;
        let all = self.shared.memory.limit() / PART / page / self.shared.mailboxes.len();
        all.clamp(AT_ONCE.0, AT_ONCE.1)
    }

    fn fetch_next(&mut self) {
        while self.fetches.asked < self.fetches_at_once()
            && let Some((id, fetch)) = self.fetches.waiting.pop_front()
        {
            let waits = self
                .slot_of(id)
                .and_then(|slot| self.connections[slot].subscriber());
            if waits.is_none_or(|subscriber| subscriber.fetching == 0) {
                continue;
            }
            self.fetches.asked += 1;
            self.metrics().cold_reads.add(1);
            let shared = self.shared.clone();
            self.hub.fetch(
                fetch,
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
