//! Histories while the log is being read: copied publications come later than their neighbours.

use std::collections::{BTreeSet, VecDeque};

use super::{Entry, Index, Slot};

impl Index {
    /// Puts a publication among a channel's history again while the log is being read; [`Index::finish`] sorts.
    pub(crate) fn restore(&mut self, slot: Slot, entry: Entry) {
        self.count(&entry);
        self.channels[slot as usize].push(entry);
        self.publications += 1;
    }

    /// What was restored is in order from now on, each publication once (where it was found last), and nothing of it in one
    /// of the segments `removed`.
    pub(crate) fn finish(&mut self, slot: Slot, removed: &BTreeSet<u32>) {
        let mut entries = std::mem::take(&mut self.channels[slot as usize].entries);
        let is_sorted = entries.iter().is_sorted_by(|a, b| a.position < b.position);
        if !is_sorted || !removed.is_empty() {
            entries
                .make_contiguous()
                .sort_by_key(|entry| (entry.position, entry.segment, entry.offset));
            let mut gone: Vec<u64> = Vec::new();
            let mut kept: VecDeque<Entry> = VecDeque::with_capacity(entries.len());
            for entry in entries {
                if removed.contains(&entry.segment) {
                    gone.push(entry.position);
                    self.uncount(&entry);
                    self.publications -= 1;
                    continue;
                }
                // Copied forward, so not gone.
                gone.pop_if(|last| *last == entry.position);
                if kept.back().is_some_and(|last| last.position == entry.position)
                    && let Some(older) = kept.pop_back()
                {
                    self.uncount(&older);
                    self.publications -= 1;
                }
                kept.push_back(entry);
            }
            entries = kept;
            self.raise_gone(slot, gone.last().copied().unwrap_or(0));
        }
        let mut before = None;
        for entry in &entries {
            self.note_kept(slot, entry.position, before);
            before = Some(entry.position);
        }
        let channel = &mut self.channels[slot as usize];
        channel.retained.take_if(|entry| removed.contains(&entry.segment));
        channel.entries = entries;
        channel.recount();
        if let Some(retained) = channel.retained.take() {
            // A copy of it may have been found later.
            let found = channel.entry(retained.position).copied();
            match found {
                Some(entry) => channel.retained = Some(entry),
                None => {
                    channel.retained = Some(retained);
                    self.count(&retained);
                }
            }
        }
        self.schedule(slot);
    }
}
