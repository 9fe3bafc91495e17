//! What was answered and never written: whoever has seen less of a channel that it may have been in is told of a gap.

use cometserver_core::channel::ChannelName;
use cometserver_core::namespace::Namespaces;
use cometserver_core::pattern::Pattern;

use super::{Index, Slot};
use crate::broker::disk::format::{Concerned, Loss};

/// So many losses of different channels are told apart; beyond, the oldest two become one.
const MOST: usize = 8;

/// See the module.
#[derive(Default)]
pub(crate) struct Losses {
    /// Oldest first, each of other channels.
    pub(crate) known: Vec<Loss>,
    /// Whose publishers are, or were since the start, answered before their publications are safe.
    pub(crate) buffered: Concerned,
    /// Counts the changes of it.
    pub(crate) changes: u32,
}

impl Losses {
    /// Takes note of a loss, the newest. Of the same channels one is enough.
    pub(crate) fn note(&mut self, loss: Loss) {
        self.known.retain(|known| known.concerned != loss.concerned);
        self.known.push(loss);
        if self.known.len() > MOST {
            let oldest = self.known.remove(0);
            let next = &mut self.known[0];
            next.concerned = next.concerned.or(&oldest.concerned);
        }
    }

    /// Other namespaces hold; what was taken under those before may still be on its way.
    pub(super) fn configure(&mut self, namespaces: &Namespaces) {
        let all = self.buffered.or(&Concerned::buffered(namespaces));
        if all != self.buffered {
            self.buffered = all;
            self.changes += 1;
        }
    }

    /// Of a channel of this name something up to here may be missing; 0: nothing.
    pub(crate) fn of(&self, name: &ChannelName) -> u64 {
        let mut newest_first = self.known.iter().rev();
        let loss = newest_first.find(|loss| loss.concerned.concerns(name));
        loss.map_or(0, |loss| loss.position)
    }

    /// The same of what these patterns match.
    pub(crate) fn of_patterns<'a>(&self, patterns: impl Iterator<Item = &'a Pattern> + Clone) -> u64 {
        let may_concern = |loss: &&Loss| {
            patterns
                .clone()
                .any(|pattern| loss.concerned.may_concern(pattern))
        };
        let mut newest_first = self.known.iter().rev();
        newest_first.find(may_concern).map_or(0, |loss| loss.position)
    }
}

impl Index {
    /// A channel in this slot is told of what it may have lost.
    pub(crate) fn apply_losses(&mut self, slot: Slot) {
        if self.losses.known.is_empty() {
            return;
        }
        let lost = self.get(slot).map_or(0, |channel| self.losses.of(&channel.name));
        self.raise_gone(slot, lost);
    }
}
