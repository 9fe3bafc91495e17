//! The hub's one order of visibility: every publication that some log still keeps, by sequence.
//!
//! It is an index, not a second queue: an entry leaves with the last log that keeps it. A shard copies out what lies between
//! its own mark and the newest; a pattern resumes by reading on from its cursor.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::position::Position;
use crate::publication::Publication;
use crate::tidy::Tidy;

/// Below so many entries it is not worth while to close the holes.
const COMPACT_FROM: usize = 64;

#[derive(Debug)]
struct Entry {
    /// Its stamp; it stays when the publication leaves, so that the entries remain sorted.
    at: Position,
    /// How many logs, and retained slots, keep it. A hole has none.
    keepers: u32,
    publication: Option<Arc<Publication>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Order {
    entries: VecDeque<Entry>,
    holes: usize,
    /// The newest sequence that left.
    trimmed: u64,
    /// Index of the oldest entry that may still be within the live window.
    window: usize,
}

impl Order {
    /// Appends the newest publication, kept by so many logs.
    pub fn push(&mut self, publication: Arc<Publication>, keepers: u32) {
        debug_assert!(
            self.entries
                .back()
                .is_none_or(|last| last.at.sequence() < publication.sequence())
        );
        let at = publication.at;
        self.entries.push_back(Entry {
            at,
            keepers,
            publication: Some(publication),
        });
    }

    /// One place less keeps this publication.
    pub fn release(&mut self, sequence: u64) {
        let Ok(at) = self.find(sequence) else { return };
        let entry = &mut self.entries[at];
        if entry.keepers > 1 {
            entry.keepers -= 1;
            return;
        }
        if entry.publication.take().is_some() {
            entry.keepers = 0;
            self.holes += 1;
            self.trimmed = self.trimmed.max(sequence);
        }
        while self
            .entries
            .front()
            .is_some_and(|first| first.publication.is_none())
        {
            self.entries.pop_front();
            self.holes -= 1;
            self.window = self.window.saturating_sub(1);
        }
        self.entries.tidy();
        if self.entries.len() > COMPACT_FROM && self.holes * 2 > self.entries.len() {
            let before = self
                .entries
                .range(..self.window)
                .filter(|entry| entry.publication.is_some())
                .count();
            self.entries.retain(|entry| entry.publication.is_some());
            self.holes = 0;
            self.window = before;
        }
    }

    /// The oldest publication within the live window.
    pub fn window_front(&self) -> Option<&Arc<Publication>> {
        self.entries
            .range(self.window..)
            .find_map(|entry| entry.publication.as_ref())
    }

    /// Goes past the holes before [`Order::window_front`], so that they are looked at once only.
    pub fn skip_holes(&mut self) {
        while self
            .entries
            .get(self.window)
            .is_some_and(|entry| entry.publication.is_none())
        {
            self.window += 1;
        }
    }

    /// [`Order::window_front`] leaves the live window; it stays in the order.
    pub fn leave_window(&mut self) {
        while let Some(entry) = self.entries.get(self.window) {
            self.window += 1;
            if entry.publication.is_some() {
                break;
            }
        }
    }

    /// Something that nobody here ever had has this sequence: whoever has not read that far has missed it.
    pub fn pass_over(&mut self, sequence: u64) {
        self.trimmed = self.trimmed.max(sequence);
    }

    /// The newest sequence that left: whoever has not read that far may have missed something.
    pub fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// Publications with a sequence above `sequence`, oldest first.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Arc<Publication>> {
        let from = self.first_after(sequence);
        self.entries
            .range(from..)
            .filter_map(|entry| entry.publication.as_ref())
    }

    /// Publications that `position` may not cover, oldest first: what it covers of one source lies between them.
    pub fn beyond(&self, position: Position) -> impl Iterator<Item = &Arc<Publication>> {
        let from = self.entries.partition_point(|entry| position.reaches(entry.at));
        self.entries
            .range(from..)
            .filter_map(|entry| entry.publication.as_ref())
    }

    /// How many memory publications became visible before the durable one at this position, at least: of those that any log
    /// still keeps it is said exactly whether they did.
    pub fn memory_before(&self, durable: u64) -> u64 {
        let after = self.entries.partition_point(|entry| entry.at.durable < durable);
        let before = after.checked_sub(1).and_then(|last| self.entries.get(last));
        before.map_or(0, |last| last.at.memory)
    }

    /// How many publications are kept.
    pub fn len(&self) -> usize {
        self.entries.len() - self.holes
    }

    /// Is nothing kept?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The usual reader is nearly up to date, and there are hardly any holes near the end: guess before searching.
    fn first_after(&self, sequence: u64) -> usize {
        let Some(last) = self.entries.back() else { return 0 };
        let behind = last.at.sequence().saturating_sub(sequence);
        let guess = self
            .entries
            .len()
            .saturating_sub(usize::try_from(behind).unwrap_or(usize::MAX));
        let is_after = |at: usize| {
            self.entries
                .get(at)
                .is_none_or(|entry| entry.at.sequence() > sequence)
        };
        if is_after(guess) && (guess == 0 || !is_after(guess - 1)) {
            return guess;
        }
        self.entries
            .partition_point(|entry| entry.at.sequence() <= sequence)
    }

    fn find(&self, sequence: u64) -> Result<usize, usize> {
        match self.entries.front() {
            Some(first) if first.at.sequence() == sequence => Ok(0),
            _ => self
                .entries
                .binary_search_by_key(&sequence, |entry| entry.at.sequence()),
        }
    }
}

impl Tidy for Order {
    fn filled(&self) -> (usize, usize) {
        self.entries.filled()
    }

    fn keep(&mut self, entries: usize) {
        self.entries.keep(entries);
    }
}
