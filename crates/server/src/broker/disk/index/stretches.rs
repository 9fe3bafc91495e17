//! Which channels have something where, by stretches of positions: whoever reads what many channels have, in the order of
//! positions, need not look at all of them for each page.

use std::collections::{BTreeMap, BTreeSet};

use super::{Index, Slot};

/// So many positions make a stretch: few, as a page looks at whole ones (here about 16 channels for each publication of a page,
/// if all are in different channels); many, as each costs 4 bytes for each of its channels (a byte a publication of a thousand
/// channels).
const STRETCH: u64 = 4096;

/// So many channels of a stretch may be noted in vain, beside as many as have something there.
const SLACK: usize = 64;

/// See the module.
#[derive(Default)]
pub(super) struct Stretches {
    /// By number; only those in which something is kept.
    kept: BTreeMap<u64, Stretch>,
    /// Where the newest lies that is gone of a channel, unless it is among what was forgotten.
    gone: BTreeSet<(u64, Slot)>,
}

#[derive(Default)]
struct Stretch {
    /// Whoever has something here; some perhaps twice, some perhaps no longer.
    slots: Vec<Slot>,
    /// Publications of histories, counted once for each of their channels.
    count: usize,
}

/// In which stretch a position lies.
pub(crate) fn stretch(position: u64) -> u64 {
    position / STRETCH
}

/// The first position of a stretch.
pub(crate) fn first_of(stretch: u64) -> u64 {
    stretch * STRETCH
}

/// The last one.
fn end(stretch: u64) -> u64 {
    first_of(stretch) + (STRETCH - 1)
}

impl Index {
    /// A publication has come to a channel's history, whose newest was at `before`.
    pub(super) fn note_kept(&mut self, slot: Slot, position: u64, before: Option<u64>) {
        let number = stretch(position);
        let stretch_of = self.stretches.kept.entry(number).or_default();
        stretch_of.count += 1;
        if before.is_none_or(|before| stretch(before) != number) {
            stretch_of.slots.push(slot);
        }
    }

    /// A publication has left a channel's history.
    pub(super) fn note_left(&mut self, position: u64) {
        let number = stretch(position);
        let Some(stretch) = self.stretches.kept.get_mut(&number) else {
            return;
        };
        stretch.count = stretch.count.saturating_sub(1);
        if stretch.count == 0 {
            self.stretches.kept.remove(&number);
        } else if stretch.slots.len() > 2 * stretch.count + SLACK {
            // As many have left as are looked at now.
            stretch.slots.sort_unstable();
            stretch.slots.dedup();
            let channels = &self.channels;
            let (after, until) = (first_of(number).saturating_sub(1), end(number));
            stretch.slots.retain(|slot| {
                let channel = channels.get(*slot as usize);
                channel.is_some_and(|channel| channel.between(after, until).next().is_some())
            });
        }
    }

    /// Of a channel something up to this position is gone.
    pub(crate) fn raise_gone(&mut self, slot: Slot, gone: u64) {
        let Some(channel) = self.channels.get_mut(slot as usize) else {
            return;
        };
        let before = channel.gone;
        if gone <= before {
            return;
        }
        channel.gone = gone;
        let (old, new) = (stretch(before), stretch(gone));
        if old != new {
            self.stretches.gone.remove(&(old, slot));
        }
        if gone > self.forgotten && (old != new || before <= self.forgotten) {
            self.stretches.gone.insert((new, slot));
        }
    }

    /// The channel is no longer known.
    pub(super) fn forget_gone(&mut self, slot: Slot, gone: u64) {
        self.stretches.gone.remove(&(stretch(gone), slot));
    }

    /// The first stretch at or behind a position in which something is kept: the position before it, its last one, and
    /// the channels that may have something there, in no order, some perhaps twice.
    pub(crate) fn stretch_from(&self, position: u64) -> Option<(u64, u64, Vec<Slot>)> {
        let (number, stretch) = self.stretches.kept.range(stretch(position)..).next()?;
        let slots = stretch.slots.clone();
        Some((first_of(*number).saturating_sub(1), end(*number), slots))
    }

    /// Channels of which the newest that is gone lies behind (`stretch`, `slot`) in the order of stretches, at most `limit`.
    pub(crate) fn gone_since(
        &self,
        since: Option<(u64, Slot)>,
        first: u64,
        limit: usize,
    ) -> impl Iterator<Item = (u64, Slot)> {
        let from = match since {
            Some(since) => std::ops::Bound::Excluded(since),
            None => std::ops::Bound::Included((first, 0)),
        };
        let range = self.stretches.gone.range((from, std::ops::Bound::Unbounded));
        range.take(limit).copied()
    }
}
