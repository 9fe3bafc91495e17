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
    /// Nothing of it is there while the log is empty: most channels of a large site are quiet.
    kept: Option<Box<Kept>>,
    /// The newest that left and that nobody else can be asked for; whoever trims takes note of it.
    pub trimmed: Trimmed,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Arc<Publication>>,
    /// Memory that the entries keep, in bytes, the retained one outside them not counted.
    bytes: usize,
    /// The newest publication flagged so; trimming steps over it.
    retained: Option<Arc<Publication>>,
    /// Entries from this sequence on are within the live window: the bounds do not touch them yet.
    protected_from: u64,
    /// Memory that the protected entries keep, in bytes.
    protected_bytes: usize,
}

impl Kept {
    /// The retained value, if it is older than every entry.
    fn retained_outside(&self) -> Option<&Arc<Publication>> {
        let first = self.entries.front().map_or(u64::MAX, |entry| entry.sequence());
        self.retained
            .as_ref()
            .filter(|retained| retained.sequence() < first)
    }

    /// The index of the oldest protected entry.
    fn protected(&self) -> usize {
        self.entries
            .partition_point(|entry| entry.sequence() < self.protected_from)
    }

    fn unprotect_through(&mut self, sequence: u64) -> usize {
        let mut freed = 0;
        for entry in self.entries.range(self.protected()..) {
            if entry.sequence() > sequence {
                break;
            }
            freed += entry.size();
        }
        self.protected_from = self.protected_from.max(sequence + 1);
        self.protected_bytes -= freed;
        freed
    }
}

impl Log {
    /// A log of a channel about which nothing is known before `trimmed`.
    pub fn new(trimmed: Trimmed) -> Self {
        Self { kept: None, trimmed }
    }

    /// Appends what has just become visible; it is protected.
    pub fn push(&mut self, publication: Arc<Publication>) {
        let size = publication.size();
        let kept = self.kept.get_or_insert_default();
        kept.bytes += size;
        kept.protected_bytes += size;
        kept.entries.push_back(publication);
    }

    /// Makes this the retained value; returns the one it replaces, as [`Log::release_retained`] does.
    pub fn retain(&mut self, publication: Arc<Publication>) -> Option<(Arc<Publication>, bool)> {
        let previous = self.release_retained();
        self.kept.get_or_insert_default().retained = Some(publication);
        previous
    }

    /// Forgets the retained value, and returns it with whether it had outlived its neighbours: then it is now gone.
    pub fn release_retained(&mut self) -> Option<(Arc<Publication>, bool)> {
        let kept = self.kept.as_mut()?;
        let outside = kept.retained_outside().is_some();
        let released = kept.retained.take();
        self.drop_if_empty();
        released.map(|released| (released, outside))
    }

    /// The retained value.
    pub fn retained(&self) -> Option<&Arc<Publication>> {
        self.kept.as_ref()?.retained.as_ref()
    }

    /// Is this publication, which came here once, an entry still, and is it the retained value?
    pub fn keeps(&self, publication: &Arc<Publication>) -> (bool, bool) {
        let Some(kept) = &self.kept else {
            return (false, false);
        };
        let first = kept.entries.front().map_or(u64::MAX, |entry| entry.sequence());
        let is_value = kept
            .retained
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, publication));
        (publication.sequence() >= first, is_value)
    }

    /// What lies after a position, oldest first. A retained value that outlived its neighbours is among it.
    pub fn beyond(&self, position: Position) -> impl Iterator<Item = &Arc<Publication>> {
        let outside = self.kept.iter().filter_map(|kept| kept.retained_outside());
        outside
            .filter(move |p| !position.covers(p.source, p.at))
            .chain(self.entries_beyond(position))
    }

    /// The entries after a position, oldest first, without a retained value that outlived its neighbours. What the position
    /// reaches is not looked at.
    pub fn entries_beyond(&self, position: Position) -> impl DoubleEndedIterator<Item = &Arc<Publication>> {
        let covered = move |p: &Arc<Publication>| position.reaches(p.at);
        let (from, kept) = match &self.kept {
            None => (0, None),
            Some(kept) => match kept.entries.back() {
                Some(last) if covered(last) => (kept.entries.len(), Some(kept)),
                _ => (kept.entries.partition_point(covered), Some(kept)),
            },
        };
        let empty = const { &VecDeque::new() };
        let entries = kept.map_or(empty, |kept| &kept.entries);
        entries
            .range(from..)
            .filter(move |p| !position.covers(p.source, p.at))
    }

    /// All entries, oldest first, without a retained value that outlived its neighbours.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Arc<Publication>> {
        self.kept.iter().flat_map(|kept| kept.entries.iter())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.entries.len())
    }

    /// Nothing kept at all, not even a retained value?
    pub fn is_empty(&self) -> bool {
        self.kept.is_none()
    }

    /// Bytes of memory that the entries keep.
    pub fn bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes)
    }

    /// Bytes of memory kept for the live window.
    pub fn protected_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.protected_bytes)
    }

    /// Ends the protection of the entries up to this sequence. Returns the bytes that lost it.
    pub fn unprotect_through(&mut self, sequence: u64) -> usize {
        self.kept
            .as_mut()
            .map_or(0, |kept| kept.unprotect_through(sequence))
    }

    /// Ends the protection of the oldest protected entry, if more than `keep` are protected. Returns its bytes.
    pub fn unprotect_oldest(&mut self, keep: usize) -> Option<usize> {
        let kept = self.kept.as_mut()?;
        let from = kept.protected();
        if kept.entries.len() - from <= keep {
            return None;
        }
        let sequence = kept.entries[from].sequence();
        Some(kept.unprotect_through(sequence))
    }

    /// Is the oldest entry outside the bounds, and not protected?
    pub fn is_over(&self, bounds: &Bounds, now: Time) -> bool {
        self.kept.as_ref().is_some_and(|kept| {
            kept.entries.front().is_some_and(|first| {
                first.sequence() < kept.protected_from
                    && (kept.entries.len() > bounds.count
                        || kept.bytes > bounds.bytes
                        || first.time.saturating_add(bounds.age) <= now)
            })
        })
    }

    /// When the oldest entry grows too old.
    pub fn expires(&self, bounds: &Bounds) -> Option<Time> {
        let first = self.kept.as_ref()?.entries.front()?;
        Some(first.time.saturating_add(bounds.age))
    }

    /// Lets the oldest entry go, whatever protects it. Returns it with whether it is kept as the retained value.
    pub fn trim(&mut self) -> Option<(Arc<Publication>, bool)> {
        let kept = self.kept.as_mut()?;
        let first = kept.entries.pop_front()?;
        let size = first.size();
        kept.bytes -= size;
        if first.sequence() >= kept.protected_from {
            kept.protected_bytes -= size;
        }
        if kept.entries.capacity() > 32 && kept.entries.len() * 4 < kept.entries.capacity() {
            kept.entries.shrink_to(kept.entries.len() * 2);
        }
        let retained = kept.retained.as_ref().is_some_and(|r| Arc::ptr_eq(r, &first));
        self.drop_if_empty();
        Some((first, retained))
    }

    /// What comes later has a later sequence, so nothing is lost with what an empty log knows of its window.
    fn drop_if_empty(&mut self) {
        if let Some(kept) = &self.kept
            && kept.entries.is_empty()
            && kept.retained.is_none()
        {
            self.kept = None;
        }
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
