//! What a reader makes the server hold, in bytes.

use super::{CatchUp, Fanout, Reader, ReaderId};
use crate::broker::Page;

/// A subscription to a channel costs so many bytes besides the channel's name: its places in the tables of its shard and, if
/// nobody else needs the channel, in those of the hub.
const SUBSCRIPTION: usize = 512;

/// A subscription to a pattern, besides its text.
const PATTERN: usize = 512;

impl Fanout {
    /// Bytes that a reader makes the server hold: its subscriptions with their names, what it has yet to catch up with, and
    /// what was fetched from the store for it. A name that others listen to as well counts for each of them.
    pub fn weight(&self, reader: ReaderId) -> usize {
        let entry = &self.readers[reader as usize];
        let rare = entry.rare.as_ref().map_or(0, |rare| {
            size_of_val(&**rare)
                + rare.catch_up.capacity() * size_of::<CatchUp>()
                + size_of_val(&*rare.forgiven)
                + size_of_val(&*rare.forgotten)
                + rare.page.as_ref().map_or(0, page_bytes)
        });
        size_of::<Reader>() + entry.subscribed_bytes + rare
    }

    pub(super) fn subscription_bytes(name: usize) -> usize {
        SUBSCRIPTION + name
    }

    pub(super) fn pattern_bytes(text: usize) -> usize {
        PATTERN + text
    }
}

fn page_bytes(page: &Page) -> usize {
    let stored = page.stored.iter();
    stored
        .map(|stored| size_of_val(stored) + stored.body.payload_len())
        .sum()
}
