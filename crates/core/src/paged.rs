//! A table whose entries keep their numbers, in pages that are given back when their last entry leaves.
//!
//! One long list could give back nothing while a single late entry stays. New entries fill the oldest pages first.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

use slab::Slab;

use crate::tidy::Tidy;

/// Entries a page.
const PAGE: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Paged<T> {
    pages: Vec<Slab<T>>,
    /// Pages with room, of those that there are.
    open: BTreeSet<u32>,
    len: usize,
}

impl<T> Default for Paged<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            open: BTreeSet::new(),
            len: 0,
        }
    }
}

impl<T> Paged<T> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry that is made of its number. Returns the number.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(usize) -> T) -> usize {
        let page = match self.open.first() {
            Some(page) => *page as usize,
            None => {
                self.pages.push(Slab::new());
                self.open.insert(self.pages.len() as u32 - 1);
                self.pages.len() - 1
            }
        };
        let entries = &mut self.pages[page];
        if entries.capacity() == 0 {
            entries.reserve_exact(if page == 0 { 4 } else { PAGE });
        }
        let entry = entries.vacant_entry();
        let number = page * PAGE + entry.key();
        entry.insert(make(number));
        if entries.len() == PAGE {
            self.open.remove(&(page as u32));
        }
        self.len += 1;
        number
    }

    /// Takes an entry out.
    ///
    /// # Panics
    /// There is no such entry.
    pub(crate) fn remove(&mut self, number: usize) -> T {
        let page = number / PAGE;
        let entries = &mut self.pages[page];
        let gone = entries.remove(number % PAGE);
        self.len -= 1;
        if entries.len() == PAGE - 1 {
            self.open.insert(page as u32);
        }
        if entries.is_empty() {
            *entries = Slab::new();
            while self.pages.last().is_some_and(Slab::is_empty) {
                self.pages.pop();
                self.open.remove(&(self.pages.len() as u32));
            }
            self.pages.tidy();
        }
        gone
    }

    /// An entry by its number.
    #[inline]
    pub(crate) fn get(&self, number: usize) -> Option<&T> {
        self.pages.get(number / PAGE)?.get(number % PAGE)
    }

    /// An entry by its number, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, number: usize) -> Option<&mut T> {
        self.pages.get_mut(number / PAGE)?.get_mut(number % PAGE)
    }

    /// All entries, to change them.
    #[cfg(test)]
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flatten().map(|(_, entry)| entry)
    }
}

impl<T> Tidy for Paged<T> {
    fn filled(&self) -> (usize, usize) {
        (self.len, self.pages.iter().map(Slab::capacity).sum())
    }

    fn keep(&mut self, _: usize) {}
}

impl<T> Index<usize> for Paged<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        &self.pages[number / PAGE][number % PAGE]
    }
}

impl<T> IndexMut<usize> for Paged<T> {
    fn index_mut(&mut self, number: usize) -> &mut T {
        &mut self.pages[number / PAGE][number % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_are_found_as_in_a_map(steps in proptest::collection::vec((0u8..3, any::<usize>()), 0..3000)) {
            let (mut paged, mut map) = (Paged::default(), HashMap::new());
            for (step, value) in steps {
                if step > 0 || map.is_empty() {
                    let number = paged.insert_with(|number| (number, value));
                    prop_assert!(map.insert(number, value).is_none(), "a number is given once");
                } else {
                    let number = *map.keys().nth(value % map.len()).unwrap();
                    prop_assert_eq!(paged.remove(number), (number, map.remove(&number).unwrap()));
                    prop_assert!(paged.get(number).is_none());
                }
                prop_assert_eq!(paged.len(), map.len());
            }
            for (number, value) in &map {
                prop_assert_eq!(paged.get(*number), Some(&(*number, *value)));
                prop_assert_eq!(paged[*number].1, *value);
            }
            let all = paged.values_mut().map(|(number, value)| (*number, *value));
            prop_assert_eq!(all.collect::<HashMap<_, _>>(), map);
        }
    }

    #[test]
    fn a_late_entry_that_stays_keeps_no_more_than_its_page() {
        let mut paged = Paged::default();
        let early = paged.insert_with(|_| ());
        for _ in 0..10 {
            let crowd: Vec<usize> = (0..10_000).map(|_| paged.insert_with(|_| ())).collect();
            for number in &crowd[..9_999] {
                paged.remove(*number);
            }
            assert!(paged.filled().1 <= 2 * PAGE, "{:?}", paged.filled());
            paged.remove(crowd[9_999]);
            assert_eq!(paged.len(), 1);
            assert!(paged.pages.len() == 1 && paged.pages.capacity() <= 256);
        }
        paged.remove(early);
        assert_eq!(paged.filled(), (0, 0));
    }
}
