//! What was answered and never written: whoever has seen less of a channel that it may have been in is told of a gap there.

use cometserver_core::channel::ChannelName;
use cometserver_core::namespace::Namespaces;
use cometserver_core::pattern::Pattern;

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

    /// The same of what this pattern matches.
    pub(crate) fn of_pattern(&self, pattern: &Pattern) -> u64 {
        let mut newest_first = self.known.iter().rev();
        let loss = newest_first.find(|loss| loss.concerned.may_concern(pattern));
        loss.map_or(0, |loss| loss.position)
    }
}
