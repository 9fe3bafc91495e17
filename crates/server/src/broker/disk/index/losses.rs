//! What was answered and never written: whoever has seen less of a channel that it may have been in is told of a gap there.

use cometserver_core::channel::ChannelName;
use cometserver_core::namespace::Namespaces;

use crate::broker::disk::format::{Concerned, Loss};

/// So many losses are told each at its place; beyond, the oldest is told with the next one.
const MOST: usize = 64;

/// See the module.
#[derive(Default)]
pub(crate) struct Losses {
    /// Oldest first.
    pub(crate) known: Vec<Loss>,
    /// Whose publishers are, or were since the start, answered before their publications are safe.
    pub(crate) buffered: Concerned,
    /// Counts the changes of it.
    pub(crate) changes: u32,
}

impl Losses {
    /// Takes note of a loss, the newest.
    pub(crate) fn note(&mut self, loss: Loss) {
        if self
            .known
            .last()
            .is_some_and(|last| last.position >= loss.position)
        {
            // The segment in which it is written began by saying so.
            return;
        }
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

    /// What lies between two positions.
    pub(crate) fn between(&self, after: u64, until: u64) -> impl Iterator<Item = &Loss> + Clone {
        let is_between = move |loss: &&Loss| (after < loss.position) && (loss.position <= until);
        self.known.iter().filter(is_between)
    }
}
