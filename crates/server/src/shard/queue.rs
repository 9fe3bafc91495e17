//! Connections that wait for their turn: whoever had a short one last comes before those who make all others wait.

use std::collections::VecDeque;

use super::turn::BETWEEN;
use crate::shared::ConnectionId;

/// Work of a turn, in steps, from which on a connection counts as busy: about a quarter of a millisecond.
const BUSY: u32 = 64;

/// See the module. Both kinds in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    quick: VecDeque<ConnectionId>,
    busy: VecDeque<ConnectionId>,
}

/// One look through a queue: who is in it when it begins, until there was so much work that others are to be looked for.
#[derive(Debug)]
pub(super) struct Pass {
    quick: usize,
    busy: usize,
    /// Has none of the busy ones had a turn yet? One has in any case, however many quick ones there are.
    owes: bool,
    work: u32,
}

impl Queue {
    pub(super) fn push(&mut self, id: ConnectionId, is_busy: bool) {
        match is_busy {
            true => self.busy.push_back(id),
            false => self.quick.push_back(id),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.quick.is_empty() && self.busy.is_empty()
    }

    /// Is there nobody in it but busy ones?
    pub(super) fn has_no_quick(&self) -> bool {
        self.quick.is_empty()
    }

    /// A look at no more than `most` of either kind; of the busy ones at none if they `rest`.
    pub(super) fn pass(&self, most: usize, rest: bool) -> Pass {
        Pass {
            quick: self.quick.len().min(most),
            busy: if rest { 0 } else { self.busy.len().min(most) },
            owes: true,
            work: 0,
        }
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, pass: &mut Pass) -> Option<ConnectionId> {
        let goes_on = pass.work < BETWEEN;
        if goes_on && pass.quick > 0 {
            pass.quick -= 1;
            return self.quick.pop_front();
        }
        if pass.busy > 0 && (goes_on || pass.owes) {
            pass.busy -= 1;
            pass.owes = false;
            return self.busy.pop_front();
        }
        None
    }
}

impl Pass {
    /// A turn took so much work; was the connection busy?
    pub(super) fn worked(&mut self, work: u32) -> bool {
        self.work = self.work.saturating_add(work);
        is_busy(work)
    }
}

/// Is a connection busy whose turn was so much work?
pub(super) fn is_busy(work: u32) -> bool {
    work >= BUSY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId {
            shard: 0,
            slot,
            generation: 1,
        }
    }

    /// Who has a turn in one pass in which each turn is so much work.
    fn served(queue: &mut Queue, work: u32) -> Vec<u32> {
        let mut pass = queue.pass(usize::MAX, false);
        let mut served = Vec::new();
        while let Some(id) = queue.next(&mut pass) {
            served.push(id.slot);
            pass.worked(work);
        }
        served
    }

    #[test]
    fn quick_ones_come_first_and_each_once_in_a_pass() {
        let mut queue = Queue::default();
        for slot in 0..6 {
            queue.push(id(slot), slot % 2 == 0);
        }
        assert_eq!(served(&mut queue, 1), [1, 3, 5, 0, 2, 4]);
        assert!(queue.is_empty());
    }

    #[test]
    fn busy_ones_that_rest_stay_where_they_are() {
        let mut queue = Queue::default();
        for slot in 0..4 {
            queue.push(id(slot), slot < 2);
        }
        let mut pass = queue.pass(usize::MAX, true);
        let quick = std::iter::from_fn(|| queue.next(&mut pass)).map(|id| id.slot);
        assert_eq!(quick.collect::<Vec<_>>(), [2, 3]);
        assert!(queue.has_no_quick() && !queue.is_empty());
        assert_eq!(served(&mut queue, 1), [0, 1]);
    }

    #[test]
    fn a_pass_ends_after_so_much_work_and_one_busy_one_has_a_turn_in_any_case() {
        let mut queue = Queue::default();
        for slot in 0..4 {
            queue.push(id(slot), slot >= 2);
        }
        assert_eq!(served(&mut queue, BETWEEN), [0, 2]);
        assert_eq!(served(&mut queue, BETWEEN), [1, 3]);
        assert!(queue.is_empty());
    }
}
