//! Finds a table's entries by channel name without keeping the names again: numbers, hashed by the name their owner keeps.

use std::hash::{BuildHasher, RandomState};

use crate::channel::ChannelName;
use crate::tidy::Tidy;

/// The number of an empty cell: no table has so many entries.
const EMPTY: u32 = u32::MAX;

/// The first size of a shelf.
const FIRST: usize = 8;

/// The table is in so many parts, a power of two, each of which grows by itself: to double all of a large one at once would have
/// everybody wait for that.
const SHELVES: usize = 32;

/// A number, with the part of its name's hash that says where it belongs: so the table grows without asking for names.
#[derive(Clone, Copy, Debug)]
struct Cell {
    hash: u32,
    number: u32,
}

/// See the module. The hash is keyed at random, since names come from outside: so the shelves fill alike.
#[derive(Debug)]
pub(crate) struct Names {
    hasher: RandomState,
    shelves: Box<[Shelf; SHELVES]>,
    len: usize,
}

/// A part of the table: open addressing with linear probing.
#[derive(Debug, Default)]
struct Shelf {
    /// As many as a power of two, or none.
    cells: Vec<Cell>,
    len: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shelves: Box::new([const { Shelf::EMPTY }; SHELVES]),
            len: 0,
        }
    }
}

impl Names {
    /// The number of a name; `is_called` says whether a number's entry has that name.
    pub(crate) fn find(&self, name: &ChannelName, is_called: impl Fn(u32) -> bool) -> Option<u32> {
        let hash = self.hash(name);
        self.shelves[Self::shelf(hash)].find(hash, is_called)
    }

    /// Adds a name that is not there yet.
    pub(crate) fn insert(&mut self, name: &ChannelName, number: u32) {
        debug_assert!(number != EMPTY, "no table has so many entries");
        let hash = self.hash(name);
        self.shelves[Self::shelf(hash)].insert(Cell { hash, number });
        self.len += 1;
    }

    /// Takes a name away, with its number.
    pub(crate) fn remove(&mut self, name: &ChannelName, number: u32) {
        let hash = self.hash(name);
        if self.shelves[Self::shelf(hash)].remove(hash, number) {
            self.len -= 1;
        }
    }

    fn hash(&self, name: &ChannelName) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    /// The shelf of what has this hash: by its upper bits, the place there is by the lower ones.
    fn shelf(hash: u32) -> usize {
        hash as usize >> (u32::BITS - SHELVES.ilog2())
    }
}

impl Shelf {
    const EMPTY: Self = Self {
        cells: Vec::new(),
        len: 0,
    };

    fn find(&self, hash: u32, is_called: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let cell = self.cells[at];
            if cell.number == EMPTY {
                return None;
            }
            if cell.hash == hash && is_called(cell.number) {
                return Some(cell.number);
            }
            at = (at + 1) & mask;
        }
    }

    fn insert(&mut self, cell: Cell) {
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            self.resize((self.cells.len() * 2).max(FIRST));
        }
        self.put(cell);
        self.len += 1;
    }

    /// Was it there?
    fn remove(&mut self, hash: u32, number: u32) -> bool {
        let Some(mask) = self.cells.len().checked_sub(1) else {
            return false;
        };
        let mut hole = hash as usize & mask;
        while self.cells[hole].number != number {
            if self.cells[hole].number == EMPTY {
                return false;
            }
            hole = (hole + 1) & mask;
        }
        // Whatever follows without a gap moves up, if it may lie before where it is.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell.number == EMPTY {
                break;
            }
            let home = cell.hash as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole].number = EMPTY;
        self.len -= 1;
        if self.cells.len() > FIRST && self.len * 8 < self.cells.len() {
            self.resize(self.cells.len() / 2);
        }
        true
    }

    fn put(&mut self, cell: Cell) {
        let mask = self.cells.len() - 1;
        let mut at = cell.hash as usize & mask;
        while self.cells[at].number != EMPTY {
            at = (at + 1) & mask;
        }
        self.cells[at] = cell;
    }

    fn resize(&mut self, size: usize) {
        let empty = Cell {
            hash: 0,
            number: EMPTY,
        };
        for cell in std::mem::replace(&mut self.cells, vec![empty; size]) {
            if cell.number != EMPTY {
                self.put(cell);
            }
        }
    }
}

impl Tidy for Names {
    fn filled(&self) -> (usize, usize) {
        (self.len, self.shelves.iter().map(|shelf| shelf.cells.len()).sum())
    }

    /// It follows by itself what is in it.
    fn keep(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_grows_a_part_at_a_time() {
        let mut names = Names::default();
        for n in 0..10_000 {
            let before = names.filled().1;
            names.insert(&ChannelName::new(format!("channel {n}")).unwrap(), n);
            let grown = names.filled().1 - before;
            assert!(grown <= FIRST || grown <= names.len / 8, "{grown} at {n}");
        }
        assert_eq!(names.filled().0, 10_000);
    }

    proptest! {
            #[test]
            fn names_are_found_as_in_a_map(steps in proptest::collection::vec((any::<bool>(), 0u32..60), 0..400)) {
                let name = |n: u32| ChannelName::new(format!("channel {n}")).unwrap();
                let (mut names, mut map) = (Names::default(), HashMap::new());
                for (insert, n) in steps {
                    if insert && !map.contains_key(&n) {
                        map.insert(n, ());
                        names.insert(&name(n), n);
                    } else if !insert {
                        map.remove(&n);
                        names.remove(&name(n), n);
                    }
                    for n in 0..60 {
                        let found = names.find(&name(n), |number| number == n);
                        prop_assert_eq!(found, map.get(&n).map(|()| n));
                    }
                    prop_assert_eq!(names.len, map.len());
    for shelf in &*names.shelves {
                        prop_assert!(shelf.cells.len() <= FIRST || shelf.cells.len() <= 16 * shelf.len.max(1));
                    }
                    prop_assert_eq!(names.filled().0, map.len());
                }
            }
        }
}
