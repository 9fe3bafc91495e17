//! What visitors make the server hold, in bytes: the sum over all shards, its ceiling, and who holds most.
//!
//! Every connection of a visitor is weighed when something it holds has changed; a publication that goes out whole changes
//! nothing. Above the ceiling the largest holder is ended, then the next, on whichever shard it is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::platform;

/// A connection below this weight is nobody that could give way: an idle one weighs about half of it.
pub const FREE: usize = 4 << 10;

/// A weight is noted when it has changed by so much: the sum is wrong by less than this a connection.
pub const STEP: usize = 1 << 10;

/// The least ceiling where nobody names one.
const LEAST: u64 = 64 << 20;

/// This part of the machine's memory, where nobody names a ceiling.
const PART: u64 = 4;

/// The ceiling that the setting means, in bytes.
pub fn limit(setting: Option<usize>) -> usize {
    setting.unwrap_or_else(|| default_limit(platform::available_memory()))
}

/// The ceiling where `limits.memory` is 0, in bytes: a quarter of the memory that the machine, or the control group of the
/// process, has; at least 64 MiB, and that where the system does not tell.
fn default_limit(available: Option<u64>) -> usize {
    let part = available.map_or(0, |available| available / PART);
    usize::try_from(part.max(LEAST)).unwrap_or(usize::MAX)
}

/// The sum of all shards. One shard's counting never waits for another's.
#[derive(Debug)]
pub struct Memory {
    limit: AtomicUsize,
    held: AtomicUsize,
    /// Connections that were ended since somebody asked.
    ended: AtomicUsize,
    shards: Vec<Largest>,
}

/// What others see of a shard's holders.
#[derive(Debug, Default)]
struct Largest {
    /// The weight of the largest, rounded down to its class; 0: there is none.
    weight: AtomicUsize,
    /// It was asked to end that one, and has not looked yet.
    asked: AtomicBool,
}

impl Memory {
    /// Nothing is held yet.
    pub fn new(shards: usize, limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            shards: std::iter::repeat_with(Largest::default).take(shards).collect(),
        }
    }

    /// The ceiling, in bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Another ceiling holds from now on.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// A connection was ended at the ceiling.
    pub fn note_ended(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// How many were, since this was asked last.
    pub fn take_ended(&self) -> usize {
        self.ended.swap(0, Relaxed)
    }

    /// Is more held than may be?
    pub fn is_over(&self) -> bool {
        self.held() > self.limit()
    }

    /// Somebody holds `now` bytes who held `before`.
    pub fn change(&self, before: usize, now: usize) {
        match now.checked_sub(before) {
            Some(more) => self.held.fetch_add(more, Relaxed),
            None => self.held.fetch_sub(before - now, Relaxed),
        };
    }

    /// The weight of a shard's largest holder, see [`Holders::largest_weight`].
    pub fn note_largest(&self, shard: u8, weight: usize) {
        self.shards[usize::from(shard)].weight.store(weight, Relaxed);
    }

    /// The shard with the largest holder; none: nobody is one.
    pub fn largest(&self) -> Option<u8> {
        let weights = self.shards.iter().map(|largest| largest.weight.load(Relaxed));
        let (shard, weight) = weights.enumerate().max_by_key(|(_, weight)| *weight)?;
        (weight > 0).then_some(shard as u8)
    }

    /// Must that shard be told to look after its largest holder? Not twice before it has.
    pub fn ask(&self, shard: u8) -> bool {
        !self.shards[usize::from(shard)].asked.swap(true, Relaxed)
    }

    /// The shard looks after its largest holder now.
    pub fn looks(&self, shard: u8) {
        self.shards[usize::from(shard)].asked.store(false, Relaxed);
    }
}

/// Classes of weight: four to each doubling, from [`FREE`] on. As many as a word has bits.
const CLASSES: usize = 128;

/// So many of the largest class are compared to find the largest: of more, each is as good as the largest.
const COMPARED: usize = 64;

/// Where a holder stands in its shard's [`Holders`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    class: u8,
    index: u32,
}

/// One shard's connections that hold more than [`FREE`], by weight, to a fifth: the largest is found without looking at all.
#[derive(Debug)]
pub struct Holders {
    classes: Vec<Vec<u32>>,
    /// The classes that are not empty, a bit each.
    used: u128,
}

impl Default for Holders {
    fn default() -> Self {
        Self {
            classes: vec![Vec::new(); CLASSES],
            used: 0,
        }
    }
}

impl Holders {
    /// The class of a weight; none: it is below [`FREE`].
    pub fn class(weight: usize) -> Option<u8> {
        let log = weight.checked_ilog2().filter(|_| weight >= FREE)?;
        let quarter = weight >> (log - 2) & 3;
        let class = (log - FREE.ilog2()) as usize * 4 + quarter;
        Some(class.min(CLASSES - 1) as u8)
    }

    /// Is this the rank of a connection of that weight?
    pub fn is_right(rank: Option<Rank>, weight: usize) -> bool {
        rank.map(|rank| rank.class) == Self::class(weight)
    }

    /// Adds a connection; none: it is not heavy enough.
    pub fn add(&mut self, slot: u32, weight: usize) -> Option<Rank> {
        let class = Self::class(weight)?;
        self.used |= 1 << class;
        let members = &mut self.classes[usize::from(class)];
        members.push(slot);
        let index = members.len() as u32 - 1;
        Some(Rank { class, index })
    }

    /// Takes one out. Another one may have its place now: that one is returned.
    pub fn remove(&mut self, rank: Rank) -> Option<u32> {
        let members = &mut self.classes[usize::from(rank.class)];
        members.swap_remove(rank.index as usize);
        let moved = members.get(rank.index as usize).copied();
        if members.is_empty() {
            // What a flood needed is not kept.
            *members = Vec::new();
            self.used &= !(1 << rank.class);
        }
        moved
    }

    /// The least weight of the largest class that anybody is in; 0: nobody is in any.
    pub fn largest_weight(&self) -> usize {
        match self.used.checked_ilog2() {
            None => 0,
            Some(class) => (4 + class as usize % 4) << (class as usize / 4) << (FREE.ilog2() - 2),
        }
    }

    /// The largest by `weight`.
    pub fn largest(&self, weight: impl Fn(u32) -> usize) -> Option<u32> {
        let class = self.used.checked_ilog2()?;
        let members = self.classes[class as usize].iter().take(COMPARED);
        members.copied().max_by_key(|slot| weight(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_begins_with_the_weight_that_stands_for_it() {
        assert_eq!(Holders::class(FREE - 1), None);
        assert_eq!(Holders::class(usize::MAX), Some(CLASSES as u8 - 1));
        let mut before = None;
        for weight in (FREE..9 << 20).step_by(777) {
            let mut holders = Holders::default();
            let place = holders.add(7, weight).unwrap();
            assert!(
                Some(place.class) >= before,
                "larger ones are never in a lower class"
            );
            before = Some(place.class);
            let least = holders.largest_weight();
            assert!(
                least <= weight && weight < least + least / 4,
                "{weight} in {least}"
            );
            assert_eq!(Holders::class(least), Some(place.class));
        }
    }

    #[test]
    fn the_largest_is_found_and_nothing_is_kept_of_those_that_left() {
        let mut holders = Holders::default();
        for _ in 0..10 {
            let weights: Vec<usize> = (0..150).map(|n| n * 997 % 50_000).collect();
            let mut places: Vec<Option<Rank>> = Vec::new();
            for (slot, weight) in weights.iter().enumerate() {
                places.push(holders.add(slot as u32, *weight));
            }
            let mut left: Vec<usize> = (0..150).filter(|slot| weights[*slot] >= FREE).collect();
            while let Some(slot) = holders.largest(|slot| weights[slot as usize]) {
                let slot = slot as usize;
                assert_eq!(
                    weights[slot],
                    left.iter().map(|slot| weights[*slot]).max().unwrap()
                );
                left.retain(|other| *other != slot);
                if let Some(moved) = holders.remove(places[slot].unwrap()) {
                    places[moved as usize] = places[slot];
                }
            }
            assert!(left.is_empty());
            assert_eq!((holders.used, holders.largest_weight()), (0, 0));
            assert!(holders.classes.iter().all(|members| members.capacity() == 0));
        }
    }

    #[test]
    fn the_ceiling_is_a_quarter_of_what_there_is_and_not_too_little() {
        assert_eq!(default_limit(Some(8 << 30)), 2 << 30);
        assert_eq!(default_limit(Some(100 << 20)), 64 << 20);
        assert_eq!(default_limit(None), 64 << 20);
    }
}
