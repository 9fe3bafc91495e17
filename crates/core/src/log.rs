//! One channel's publications, bounded: the only place where a publication waits.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Time;
use crate::namespace::Bounds;
use crate::position::{Position, Source};
use crate::publication::Publication;

/// The newest that a log has let go, per source: a cursor before it is a gap, any other is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// The durable position of the newest durable publication that left.
    pub durable: u64,
    /// The stamp of the newest memory publication that left.
    pub memory: Position,
}

impl Trimmed {
    /// Takes note that this one left.
    pub fn note(&mut self, source: Source, at: Position) {
        match source {
            Source::Durable => self.durable = self.durable.max(at.durable),
            Source::Memory if at.memory > self.memory.memory => self.memory = at,
            Source::Memory => {}
        }
    }

    /// The newer of both, per source.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let mut both = self;
        both.note(
            Source::Durable,
            Position {
                durable: other.durable,
                memory: 0,
            },
        );
        both.note(Source::Memory, other.memory);
        both
    }

    /// Where a reader that stands at `position` has to be told of a gap: the last place in each source that it can no
    /// longer read. Not one notice for both, at the later place: that would let what lies between pass unseen.
    pub fn gaps_after(&self, position: Position) -> impl Iterator<Item = (Source, Position)> + use<> {
        let at = Position {
            durable: self.durable,
            memory: 0,
        };
        let durable = (self.durable > position.durable).then_some((Source::Durable, at));
        let memory = (self.memory.memory > position.memory).then_some((Source::Memory, self.memory));
        durable.into_iter().chain(memory)
    }
}

/// See the module. The entries are in the order of visibility.
#[derive(Debug, Default)]
pub struct Log {
    entries: VecDeque<Arc<Publication>>,
    /// Memory that the entries keep, in bytes, the retained one outside them not counted.
    bytes: usize,
    /// The newest publication flagged so; trimming steps over it.
    retained: Option<Arc<Publication>>,
    /// Entries from this sequence on are within the live window: the bounds do not touch them yet.
    protected_from: u64,
    /// Memory that the protected entries keep, in bytes.
    protected_bytes: usize,
    /// The newest that left and that nobody else can be asked for; whoever trims takes note of it.
    pub trimmed: Trimmed,
}

impl Log {
    /// A log of a channel about which nothing is known before `trimmed`.
    pub fn new(trimmed: Trimmed) -> Self {
        Self {
            trimmed,
            ..Self::default()
        }
    }

    /// Appends what has just become visible; it is protected.
    pub fn push(&mut self, publication: Arc<Publication>) {
        let size = publication.size();
        self.bytes += size;
        self.protected_bytes += size;
        self.entries.push_back(publication);
    }

    /// Makes this the retained value; returns the one it replaces, as [`Log::release_retained`] does.
    pub fn retain(&mut self, publication: Arc<Publication>) -> Option<(Arc<Publication>, bool)> {
        let previous = self.release_retained();
        self.retained = Some(publication);
        previous
    }

    /// Forgets the retained value, and returns it with whether it had outlived its neighbours: then it is now gone.
    pub fn release_retained(&mut self) -> Option<(Arc<Publication>, bool)> {
        let outside = self.retained_outside().is_some();
        self.retained.take().map(|released| (released, outside))
    }

    /// The retained value.
    pub fn retained(&self) -> Option<&Arc<Publication>> {
        self.retained.as_ref()
    }

    /// The retained value, if it is older than every entry.
    fn retained_outside(&self) -> Option<&Arc<Publication>> {
        let first = self.entries.front().map_or(u64::MAX, |entry| entry.sequence());
        self.retained
            .as_ref()
            .filter(|retained| retained.sequence() < first)
    }

    /// What lies after a position, oldest first. A retained value that outlived its neighbours is among it.
    pub fn beyond(&self, position: Position) -> impl Iterator<Item = &Arc<Publication>> {
        self.retained_outside()
            .into_iter()
            .filter(move |p| !position.covers(p.source, p.at))
            .chain(self.entries_beyond(position))
    }

    /// The entries after a position, oldest first, without a retained value that outlived its neighbours. What the position
    /// reaches is not looked at.
    pub fn entries_beyond(&self, position: Position) -> impl DoubleEndedIterator<Item = &Arc<Publication>> {
        let covered = |p: &Arc<Publication>| position.reaches(p.at);
        let from = match self.entries.back() {
            Some(last) if covered(last) => self.entries.len(),
            _ => self.entries.partition_point(covered),
        };
        self.entries
            .range(from..)
            .filter(move |p| !position.covers(p.source, p.at))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing kept at all, not even a retained value?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.retained.is_none()
    }

    /// Bytes of memory that the entries keep.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory kept for the live window.
    pub fn protected_bytes(&self) -> usize {
        self.protected_bytes
    }

    /// Ends the protection of the entries up to this sequence. Returns the bytes that lost it.
    pub fn unprotect_through(&mut self, sequence: u64) -> usize {
        let from = self
            .entries
            .partition_point(|entry| entry.sequence() < self.protected_from);
        let mut freed = 0;
        for entry in self.entries.range(from..) {
            if entry.sequence() > sequence {
                break;
            }
            freed += entry.size();
        }
        self.protected_from = self.protected_from.max(sequence + 1);
        self.protected_bytes -= freed;
        freed
    }

    /// Ends the protection of the oldest protected entry, if more than `keep` are protected. Returns its bytes.
    pub fn unprotect_oldest(&mut self, keep: usize) -> Option<usize> {
        let from = self
            .entries
            .partition_point(|entry| entry.sequence() < self.protected_from);
        if self.entries.len() - from <= keep {
            return None;
        }
        let sequence = self.entries[from].sequence();
        Some(self.unprotect_through(sequence))
    }

    /// Is the oldest entry outside the bounds, and not protected?
    pub fn is_over(&self, bounds: &Bounds, now: Time) -> bool {
        self.entries.front().is_some_and(|first| {
            first.sequence() < self.protected_from
                && (self.entries.len() > bounds.count
                    || self.bytes > bounds.bytes
                    || first.time.saturating_add(bounds.age) <= now)
        })
    }

    /// When the oldest entry grows too old.
    pub fn expires(&self, bounds: &Bounds) -> Option<Time> {
        self.entries
            .front()
            .map(|first| first.time.saturating_add(bounds.age))
    }

    /// Lets the oldest entry go, whatever protects it. Returns it with whether it is kept as the retained value.
    pub fn trim(&mut self) -> Option<(Arc<Publication>, bool)> {
        let first = self.entries.pop_front()?;
        let size = first.size();
        self.bytes -= size;
        if first.sequence() >= self.protected_from {
            self.protected_bytes -= size;
        }
        if self.entries.capacity() > 32 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
        let retained = self.retained.as_ref().is_some_and(|r| Arc::ptr_eq(r, &first));
        Some((first, retained))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publication::{Body, Places};

    fn log(count: u64) -> Log {
        let mut log = Log::default();
        for memory in 1..=count {
            log.push(Arc::new(Publication {
                source: Source::Memory,
                at: Position { durable: 0, memory },
                time: 0,
                accepted: 0,
                places: Places::from(Vec::new()),
                audience: 0,
                body: Body::Members { count: 0 },
            }));
        }
        log
    }

    #[test]
    fn who_has_read_nearly_everything_costs_what_is_left() {
        let log = log(1_000);
        let position = Position {
            durable: 0,
            memory: 998,
        };
        let left = log.entries_beyond(position);
        assert_eq!(left.size_hint().1, Some(2), "the rest is not even looked at");
        assert_eq!(left.count(), 2);
    }
}
