//! Tables give back the room that a crowd needed: what grew by doubling shrinks by halving.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};

use slab::Slab;

/// Room for so many entries is always kept.
const KEPT: usize = 64;

/// A table whose room follows what is in it.
pub trait Tidy {
    /// Entries, and how many there is room for.
    fn filled(&self) -> (usize, usize);

    /// Keeps room for so many.
    fn keep(&mut self, entries: usize);

    /// Gives back room if less than a quarter of it is used: so it costs no more than the growth before it.
    #[inline]
    fn tidy(&mut self) {
        let (len, room) = self.filled();
        if room > KEPT * 4 && len < room / 4 {
            self.keep((len * 2).max(KEPT));
        }
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> Tidy for HashMap<K, V, S> {
    fn filled(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn keep(&mut self, entries: usize) {
        self.shrink_to(entries);
    }
}

impl<T> Tidy for VecDeque<T> {
    fn filled(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn keep(&mut self, entries: usize) {
        self.shrink_to(entries);
    }
}

impl<T> Tidy for Vec<T> {
    fn filled(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn keep(&mut self, entries: usize) {
        self.shrink_to(entries);
    }
}

impl<T: Ord> Tidy for BinaryHeap<T> {
    fn filled(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn keep(&mut self, entries: usize) {
        self.shrink_to(entries);
    }
}

impl<T> Tidy for Slab<T> {
    fn filled(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn keep(&mut self, _: usize) {
        self.shrink_to_fit();
    }
}

/// When a slab gives back room. Its entries keep their places, so only what lies behind the last one can be given back: that is
/// looked for whenever half of the entries have left, not with each that leaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct TidySlab {
    /// So many there were when it was looked for last, or more since.
    most: usize,
}

impl TidySlab {
    /// An entry has left.
    #[inline]
    pub fn left<T>(&mut self, slab: &mut Slab<T>) {
        self.most = self.most.max(slab.len() + 1);
        if slab.capacity() > KEPT && slab.len() <= self.most / 2 {
            self.most = slab.len();
            slab.shrink_to_fit();
        }
    }
}

/// How full a table is, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in the metrics.
    pub name: &'static str,
    /// Entries in it.
    pub entries: usize,
    /// Entries that it has room for.
    pub room: usize,
}

impl Table {
    /// What there is to be said of this one.
    pub fn of(name: &'static str, table: &impl Tidy) -> Self {
        let (entries, room) = table.filled();
        Self { name, entries, room }
    }
}
