//! What patterns match among many channels: looked up stretch by stretch, in the order of positions.

use super::{FEW, Gather, MAX_GAPS, STEPS};
use crate::broker::disk::index::{Index, Slot, first_of, stretch};
use crate::broker::disk::shared::Shared;

/// A page ends after about so many steps, also if it has found little: the next one goes on. That is some milliseconds.
const PAGE_STEPS: usize = 1 << 15;

impl Gather<'_> {
    /// Have more than a few channels changed since the beginning?
    pub(super) fn is_changed_by_many(&mut self, shared: &Shared) -> bool {
        let since = (self.fetch.after, Slot::MAX);
        let changed = shared.index().changed_since(since, FEW + 1).count();
        self.looked += changed;
        changed > FEW
    }

    /// Looks up what lies behind the beginning, until the page is full or was work enough.
    pub(super) fn in_order(&mut self, shared: &Shared, now: u64) {
        let (after, until) = (self.fetch.after, self.fetch.until);
        let (mut next, begun) = (after.saturating_add(1), self.looked);
        while next <= until {
            let found = shared.index().stretch_from(next);
            let Some((before, last, slots)) = found.filter(|(before, ..)| *before < until) else {
                break;
            };
            self.stretch(shared, &slots, (before.max(after), last.min(until)), now);
            let newest = self.found.last_key_value();
            let is_full = self.found.len() >= self.limit && newest.is_some_and(|(at, _)| *at <= last);
            if is_full || self.looked - begun >= PAGE_STEPS {
                self.horizon = last;
                break;
            }
            next = last + 1;
        }
        // At last: what was trimmed meanwhile was not found.
        self.gone_in_order(shared);
    }

    /// Takes what the channels have between two positions.
    fn stretch(&mut self, shared: &Shared, slots: &[Slot], between: (u64, u64), now: u64) {
        let mut slots = slots.iter().peekable();
        while slots.peek().is_some() {
            let mut index = shared.index();
            let mut steps = 0;
            while steps < STEPS
                && let Some(slot) = slots.peek()
                && let Some(more) = self.part(&mut index, **slot, between, now)
            {
                steps += 1 + more;
                slots.next();
            }
            self.looked += steps;
        }
    }

    /// Takes what one of them has. Returns as [`Gather::channel`] does.
    fn part(&mut self, index: &mut Index, slot: Slot, (after, until): (u64, u64), now: u64) -> Option<usize> {
        let is_wanted = index.get(slot).is_some_and(|channel| self.matches(channel));
        // What is named has been looked at.
        if !is_wanted || self.seen.contains(&slot) {
            return Some(0);
        }
        if !index.trim(slot, now, &mut { STEPS }) {
            return None;
        }
        let Some(channel) = index.get(slot) else {
            return Some(0);
        };
        let mut steps = 0;
        for entry in channel.between(after, until) {
            steps += 1;
            if !self.take(index, *entry) {
                break;
            }
        }
        if steps > 0 {
            self.slots.push(slot);
        }
        Some(steps)
    }

    /// Whose publications are gone up to where the page reaches. Of the others that is told by the page that reaches it:
    /// what they keep lies behind.
    fn gone_in_order(&mut self, shared: &Shared) {
        let first = stretch(self.fetch.after.saturating_add(1));
        let (mut since, begun) = (None, self.looked);
        loop {
            let index = shared.index();
            let reaches = self.end();
            let some: Vec<(u64, Slot)> = index.gone_since(since, first, STEPS).collect();
            if some.is_empty() {
                return;
            }
            for (number, slot) in some {
                if number > stretch(reaches) {
                    return;
                }
                let is_next = since.is_some_and(|(before, _)| before < number);
                if is_next && self.looked - begun >= PAGE_STEPS {
                    self.horizon = self.horizon.min(first_of(number) - 1);
                    return;
                }
                since = Some((number, slot));
                self.looked += 1;
                self.gone(&index, slot, reaches);
            }
        }
    }

    fn gone(&mut self, index: &Index, slot: Slot, reaches: u64) {
        let Some(channel) = index.get(slot) else { return };
        let gone = channel.gone;
        // What was forgotten is told of everybody.
        let is_told = gone <= self.fetch.after || gone > reaches || gone <= index.forgotten;
        if is_told || self.seen.contains(&slot) || !self.matches(channel) {
            return;
        }
        if self.gaps.len() < MAX_GAPS {
            self.gaps.push((channel.name.clone(), gone));
        } else {
            self.forgotten = self.forgotten.max(gone);
        }
    }
}
