//! A place in the hub's order of visibility.

use std::cmp::Ordering;

/// One of the two ordered sources of publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Survives restarts: its positions go on where they stopped.
    Durable,
    /// One incarnation per start of the server; its positions go on where a stop in good order left them.
    Memory,
}

/// How far somebody has read, or when something became visible: one position per source.
///
/// Positions count from 1; 0 is before everything. Stamped at the moment of visibility a position covers everything shown
/// before it, whatever channels a client listens to, and is the same for every subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The last position read in the durable source.
    pub durable: u64,
    /// The last position read in memory.
    pub memory: u64,
}

impl Position {
    /// The number of publications up to here. Among positions stamped at visibility it is a total order without holes.
    pub fn sequence(self) -> u64 {
        self.durable + self.memory
    }

    /// The part of it that counts in `source`.
    pub fn in_source(self, source: Source) -> u64 {
        match source {
            Source::Durable => self.durable,
            Source::Memory => self.memory,
        }
    }

    /// Is something stamped `at`, from `source`, already covered by this position?
    pub fn covers(self, source: Source, at: Position) -> bool {
        at.in_source(source) <= self.in_source(source)
    }

    /// The position after having read what is stamped `at` from `source` as well.
    #[must_use]
    pub fn advanced(self, source: Source, at: Position) -> Self {
        match source {
            Source::Durable => Self {
                durable: self.durable.max(at.durable),
                ..self
            },
            Source::Memory => Self {
                memory: self.memory.max(at.memory),
                ..self
            },
        }
    }

    /// The later of both, per source.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            durable: self.durable.max(other.durable),
            memory: self.memory.max(other.memory),
        }
    }

    /// Has whoever stands here read everything up to `other`?
    pub fn reaches(self, other: Self) -> bool {
        self.durable >= other.durable && self.memory >= other.memory
    }

    /// Which of two stamped things became visible first?
    ///
    /// Something read back from disk no longer knows how many memory publications preceded it. It need not: a memory
    /// publication knows which durable ones preceded *it*, and that decides.
    pub fn visibility(a: (Source, Position), b: (Source, Position)) -> Ordering {
        match (a.0, b.0) {
            (Source::Durable, Source::Durable) => a.1.durable.cmp(&b.1.durable),
            (Source::Memory, Source::Memory) => a.1.memory.cmp(&b.1.memory),
            (Source::Durable, Source::Memory) if a.1.durable <= b.1.durable => Ordering::Less,
            (Source::Durable, Source::Memory) => Ordering::Greater,
            (Source::Memory, Source::Durable) => Self::visibility(b, a).reverse(),
        }
    }
}
