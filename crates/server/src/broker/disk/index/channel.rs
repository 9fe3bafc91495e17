//! A channel as the log knows it: where its publications are.

use std::collections::VecDeque;

use cometserver_core::Time;
use cometserver_core::broker::StoredChannel;
use cometserver_core::channel::ChannelName;
use cometserver_core::namespace::Bounds;

/// Where a publication is: 24 bytes, as there are millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its position.
    pub(crate) position: u64,
    /// The number of the segment.
    pub(crate) segment: u32,
    /// Where the record begins in it.
    pub(crate) offset: u32,
    /// The channel's share of the record, in bytes: all of it if it is in no other channel.
    pub(crate) weight: u32,
    /// When it was published, in seconds since 1970, rounded up: it is kept for up to a second longer than it must.
    pub(crate) time: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its name.
    pub(crate) name: ChannelName,
    /// Identity of its history.
    pub(crate) epoch: u64,
    /// Counts the channels of this start.
    pub(crate) made: u64,
    /// The newest offset.
    pub(crate) offset: u64,
    /// The position of the newest publication, kept or not.
    pub(crate) last: u64,
    /// The position of the newest that is gone.
    pub(crate) gone: u64,
    /// The position of the newest that its bounds, the ceiling or a deletion took from the history.
    pub(crate) floor: u64,
    /// The newest segment that something of it was copied forward to; 0: none.
    pub(crate) copied: u32,
    /// The newest segment whose records say what the newest offset is.
    pub(crate) anchor: u32,
    /// Does the hub have it?
    pub(crate) open: bool,
    /// So many batches on their way name it: it is not forgotten now.
    pub(crate) pending: u32,
    /// Is an entry about its age waiting?
    pub(crate) scheduled: bool,
    /// The retained value, in the history or not.
    pub(crate) retained: Option<Entry>,
    /// The history in the order of positions.
    pub(crate) entries: VecDeque<Entry>,
    /// What the entries take on disk.
    pub(crate) bytes: u64,
    /// What of the history is kept.
    pub(crate) bounds: Bounds,
    /// Of which version of the configuration the bounds are.
    pub(crate) version: u32,
    /// The next channel whose name has the same hash.
    pub(super) next: u32,
}

impl Channel {
    pub(super) fn new(name: ChannelName, epoch: u64, made: u64, bounds: Bounds, version: u32) -> Self {
        Self {
            name,
            epoch,
            made,
            offset: 0,
            last: 0,
            gone: 0,
            floor: 0,
            copied: 0,
            anchor: 0,
            open: false,
            pending: 0,
            scheduled: false,
            retained: None,
            entries: VecDeque::new(),
            bytes: 0,
            bounds,
            version,
            next: u32::MAX,
        }
    }

    /// Nothing of it is kept.
    pub(crate) fn keeps_nothing(&self) -> bool {
        self.entries.is_empty() && self.retained.is_none()
    }

    /// Nobody has it, and nothing of it is kept: it may be forgotten.
    pub(crate) fn is_idle(&self) -> bool {
        !self.open && self.pending == 0 && self.keeps_nothing()
    }

    /// What the operator sees of it.
    pub(crate) fn stored(&self) -> StoredChannel {
        StoredChannel {
            name: self.name.clone(),
            number: self.made,
            epoch: self.epoch,
            offset: self.offset,
            publications: self.entries.len(),
            bytes: self.bytes as usize,
            retained: self.retained.map_or(0, |entry| entry.position),
        }
    }

    /// The history after a position, up to another.
    pub(crate) fn between(&self, after: u64, until: u64) -> impl DoubleEndedIterator<Item = &Entry> {
        let from = self.entries.partition_point(|entry| entry.position <= after);
        let to = self.entries.partition_point(|entry| entry.position <= until);
        self.entries.range(from..to.max(from))
    }

    /// The entry of the history at a position.
    pub(crate) fn entry(&self, position: u64) -> Option<&Entry> {
        self.index_of(position).map(|index| &self.entries[index])
    }

    /// The positions of what it keeps in a segment.
    pub(crate) fn in_segment(&self, segment: u32) -> Vec<u64> {
        let kept = self
            .entries
            .iter()
            .chain(&self.retained)
            .filter(|entry| entry.segment == segment);
        kept.map(|entry| entry.position).collect()
    }

    /// Is it in the history?
    pub(crate) fn has(&self, position: u64) -> bool {
        self.index_of(position).is_some()
    }

    /// Are the bounds exceeded?
    pub(super) fn is_beyond_bounds(&self, now: Time) -> bool {
        let Some(oldest) = self.entries.front() else {
            return false;
        };
        self.entries.len() > self.bounds.count
            || self.bytes > self.bounds.bytes as u64
            || (u64::from(oldest.time) * 1000).saturating_add(self.bounds.age) <= now
    }

    /// When the oldest entry is too old, in seconds since 1970.
    pub(super) fn expires(&self) -> Option<u32> {
        let oldest = self.entries.front()?;
        let due = u64::from(oldest.time).saturating_add(self.bounds.age.div_ceil(1000));
        // What lasts beyond 2106 lasts.
        u32::try_from(due).ok()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        // By a quarter, not to the double: these are most of the memory.
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact((self.entries.len() / 4).max(4));
        }
        self.bytes += u64::from(entry.weight);
        self.entries.push_back(entry);
    }

    /// Takes out the oldest entry; that it is gone is for the index to note.
    pub(super) fn pop_oldest(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= u64::from(entry.weight);
        self.floor = self.floor.max(entry.position);
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        Some(entry)
    }

    pub(super) fn remove(&mut self, position: u64) -> Option<Entry> {
        let index = self.index_of(position)?;
        let entry = self.entries.remove(index)?;
        self.bytes -= u64::from(entry.weight);
        Some(entry)
    }

    pub(super) fn replace(&mut self, entry: Entry) {
        if let Some(index) = self.index_of(entry.position) {
            self.bytes += u64::from(entry.weight);
            self.bytes -= u64::from(self.entries[index].weight);
            self.entries[index] = entry;
        }
    }

    pub(super) fn recount(&mut self) {
        self.bytes = self.entries.iter().map(|entry| u64::from(entry.weight)).sum();
    }

    fn index_of(&self, position: u64) -> Option<usize> {
        self.entries
            .binary_search_by_key(&position, |entry| entry.position)
            .ok()
    }
}
