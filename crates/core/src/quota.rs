//! What visitors may take of a table that all share: each of them a part, and all together a part, so that nobody's flood
//! takes the room of the site's own code, nor that of the other visitors.

use rustc_hash::FxHashMap;
use thiserror::Error;

/// In a table of no size to speak of one visitor may take so many entries, if that is no more than a quarter.
pub const LEAST_ENTRIES: usize = 16;

/// The same of bytes.
pub const LEAST_BYTES: usize = 64 << 10;

/// When an account's table is this much larger than it need be, it is made smaller.
const SPARSE: usize = 8;

/// Who answers for an entry of a shared table. The hub knows no addresses: whoever calls it makes the numbers, which nobody
/// outside may be able to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Payer(u64);

impl Payer {
    /// The site's own code. It is not counted: what it takes is bounded by the table alone.
    pub const SITE: Self = Self(0);

    /// Nobody for now: nobody uses the entry, and it gives way to whoever needs room.
    pub(crate) const NOBODY: Self = Self(2);

    /// A visitor whom the site does not know: an address, or a connection where there is none.
    pub fn anonymous(key: u64) -> Self {
        Self(key | 1)
    }

    /// A visitor who shows a token.
    pub fn known(key: u64) -> Self {
        Self((key | 4) & !1)
    }

    /// Is it not the site's own code?
    pub(crate) fn is_visitor(self) -> bool {
        self != Self::SITE && self != Self::NOBODY
    }

    /// Is it a visitor without a token?
    pub(crate) fn is_anonymous(self) -> bool {
        self.0 & 1 == 1
    }
}

/// The parts of every shared table, in per cent of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// What one visitor may take.
    pub one: usize,
    /// What all visitors without a token may take together. With those who show one they may take half of the rest as well.
    pub all: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self { one: 2, all: 50 }
    }
}

impl Parts {
    /// What that comes to in a table of `limit` entries; one visitor may always take `least` if that is no more than a
    /// quarter, and one entry in any case.
    pub fn of(self, limit: usize, least: usize) -> Part {
        let per_cent = |part: usize| (limit as u128 * part.min(100) as u128).div_ceil(100) as usize;
        let anonymous = per_cent(self.all);
        Part {
            one: per_cent(self.one).max(least.min(limit / 4)).max(1),
            anonymous,
            visitors: anonymous + (limit - anonymous) / 2,
        }
    }
}

/// The parts of one table, in its own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What one visitor may take.
    pub one: usize,
    /// What all visitors without a token may take together.
    pub anonymous: usize,
    /// What these and those with a token may take together.
    pub visitors: usize,
}

impl Part {
    /// What payers of this kind, and those who are known less, may take together.
    pub fn together(&self, payer: Payer) -> usize {
        match payer.is_anonymous() {
            true => self.anonymous,
            false => self.visitors,
        }
    }
}

/// Whose part is used up, and how much that is. The table's own text says of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// The visitor's own.
    One(usize),
    /// That of all visitors.
    All(usize),
}

/// A visitor's part of a table is used up, or that of all.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OverQuota {
    /// One visitor may take no more.
    #[error(
        "this visitor has {most} {of}, all that limits.one_visitor allows: leave some first, or come with a token of your own"
    )]
    One {
        /// How much.
        most: usize,
        /// Of what.
        of: &'static str,
    },
    /// All visitors may take no more.
    #[error("visitors have {most} {of}, all that limits.all_visitors allows: come back later")]
    All {
        /// How much.
        most: usize,
        /// Of what.
        of: &'static str,
    },
}

impl Spent {
    /// The error that says of what.
    pub fn of(self, of: &'static str) -> OverQuota {
        match self {
            Self::One(most) => OverQuota::One { most, of },
            Self::All(most) => OverQuota::All { most, of },
        }
    }
}

/// How much visitors have of a table, and how often one was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What all visitors have, in the table's own unit.
    pub taken: usize,
    /// How often a visitor was refused more.
    pub refused: u64,
}

/// What visitors have of one shared table. Whoever has nothing is not kept: it is no larger than the table.
#[derive(Debug, Default)]
pub struct Quota {
    accounts: FxHashMap<Payer, usize>,
    anonymous: usize,
    visitors: usize,
    refused: u64,
}

impl Quota {
    /// A payer takes so much more.
    ///
    /// # Errors
    /// [`Spent`]; nothing changed.
    pub fn take(&mut self, payer: Payer, amount: usize, part: Part) -> Result<(), Spent> {
        if !payer.is_visitor() {
            return Ok(());
        }
        let own = self.accounts.get(&payer).copied().unwrap_or_default();
        let (all, most) = match payer.is_anonymous() {
            true => (self.anonymous, part.anonymous.min(part.visitors)),
            false => (self.visitors, part.visitors),
        };
        let spent = if own + amount > part.one {
            Some(Spent::One(part.one))
        } else if all + amount > most || self.visitors + amount > part.visitors {
            Some(Spent::All(most))
        } else {
            None
        };
        if let Some(spent) = spent {
            self.refused += 1;
            return Err(spent);
        }
        self.accounts.insert(payer, own + amount);
        self.visitors += amount;
        if payer.is_anonymous() {
            self.anonymous += amount;
        }
        Ok(())
    }

    /// Notes that a visitor was refused for another reason than its own account.
    pub fn refuse(&mut self, spent: Spent) -> Spent {
        self.refused += 1;
        spent
    }

    /// A payer gives back so much of what it took.
    pub fn give_back(&mut self, payer: Payer, amount: usize) {
        if !payer.is_visitor() {
            return;
        }
        let Some(own) = self.accounts.get_mut(&payer) else {
            return;
        };
        debug_assert!(*own >= amount, "nobody gives back what it does not have");
        *own = own.saturating_sub(amount);
        if *own == 0 {
            self.accounts.remove(&payer);
            if self.accounts.capacity() > SPARSE * self.accounts.len().max(LEAST_ENTRIES) {
                self.accounts.shrink_to(2 * self.accounts.len());
            }
        }
        self.visitors = self.visitors.saturating_sub(amount);
        if payer.is_anonymous() {
            self.anonymous = self.anonymous.saturating_sub(amount);
        }
    }

    /// What one payer has.
    pub fn of(&self, payer: Payer) -> usize {
        self.accounts.get(&payer).copied().unwrap_or_default()
    }

    /// Figures for the operator.
    pub fn usage(&self) -> Usage {
        Usage {
            taken: self.visitors,
            refused: self.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_visitor_takes_its_part_and_all_of_them_leave_room_for_the_site() {
        let part = Parts { one: 10, all: 50 }.of(100, 0);
        let mut quota = Quota::default();
        for key in 0..10 {
            let payer = Payer::anonymous(key << 8);
            let taken = (0..100)
                .take_while(|_| quota.take(payer, 1, part).is_ok())
                .count();
            assert_eq!(taken, if key < 5 { 10 } else { 0 }, "visitor {key}");
        }
        assert_eq!(quota.take(Payer::anonymous(0), 1, part), Err(Spent::One(10)));
        assert_eq!(quota.take(Payer::anonymous(9 << 8), 1, part), Err(Spent::All(50)));
        // Whom the site knows finds room beside them, and leaves some as well.
        for key in 0..10 {
            let payer = Payer::known(key << 8);
            let taken = (0..100)
                .take_while(|_| quota.take(payer, 1, part).is_ok())
                .count();
            assert_eq!(
                taken,
                [10, 10, 5, 0, 0, 0, 0, 0, 0, 0][key as usize],
                "user {key}"
            );
        }
        assert_eq!(quota.usage().taken, 75);
        for _ in 0..1_000 {
            assert_eq!(quota.take(Payer::SITE, 1, part), Ok(()));
        }
        for key in 0..10 {
            for payer in [Payer::anonymous(key << 8), Payer::known(key << 8)] {
                quota.give_back(payer, quota.of(payer));
            }
        }
        assert_eq!((quota.usage().taken, quota.anonymous), (0, 0));
        assert!(quota.accounts.is_empty());
    }

    #[test]
    fn the_part_of_a_small_table_is_at_least_one_entry_and_never_more_than_the_table() {
        for limit in 0..300 {
            for (one, all) in [(1, 1), (2, 50), (100, 100), (50, 10)] {
                let part = Parts { one, all }.of(limit, LEAST_ENTRIES);
                assert!(part.one >= 1 && part.one <= limit.max(1), "{limit} {part:?}");
                assert!(
                    part.anonymous <= part.visitors && part.visitors <= limit,
                    "{limit} {part:?}"
                );
                assert!(part.one >= LEAST_ENTRIES.min(limit / 4), "{limit} {part:?}");
            }
        }
    }

    #[test]
    fn accounts_of_those_who_left_take_no_room() {
        let part = Parts { one: 100, all: 100 }.of(1 << 20, 0);
        let mut quota = Quota::default();
        let mut room = Vec::new();
        for _ in 0..10 {
            for key in 0..10_000 {
                quota.take(Payer::anonymous(key << 1), 1, part).unwrap();
            }
            for key in 0..10_000 {
                quota.give_back(Payer::anonymous(key << 1), 1);
            }
            room.push(quota.accounts.capacity());
        }
        assert!(
            room.iter().all(|left| *left <= SPARSE * LEAST_ENTRIES),
            "{room:?}"
        );
    }
}
