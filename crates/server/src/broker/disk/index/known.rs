//! Channels as the hub opens, closes and lists them, and how those that nobody has are forgotten in time.

use cometserver_core::broker::{Known, StoredChannel};
use cometserver_core::channel::ChannelName;

use super::{Channel, Index, Slot};

/// A list looks at so many channels at most.
const LOOK_AT: usize = 4096;

impl Index {
    /// The hub has the channel from now on.
    pub(crate) fn open(&mut self, name: &ChannelName) -> Known {
        let slot = self.ensure(name.realm(), name.as_bytes(), None);
        let channel = &mut self.channels[slot as usize];
        channel.open = true;
        let known = Known {
            epoch: channel.epoch,
            offset: channel.offset,
            position: if channel.offset == 0 {
                channel.gone
            } else {
                channel.last
            },
            retained: channel.retained.map_or(0, |entry| entry.position),
        };
        self.idle.remove(&(channel.last, slot));
        known
    }

    /// The hub no longer has it. If it never published, nothing remembers it.
    pub(crate) fn close(&mut self, name: &ChannelName) {
        let Some(slot) = self.find(name.realm(), name.as_bytes()) else {
            return;
        };
        self.channels[slot as usize].open = false;
        self.settle_idle(slot);
    }

    /// A closed channel with nothing kept waits to be forgotten; one that never published is forgotten at once.
    pub(crate) fn settle_idle(&mut self, slot: Slot) {
        let Some(channel) = self.channels.get(slot as usize) else {
            return;
        };
        if !channel.is_idle() {
            return;
        }
        if channel.offset == 0 && channel.last == 0 {
            self.forget(slot);
        } else {
            self.idle.insert((channel.last, slot));
        }
    }

    /// Forgets the idle channels beyond `limit`, those first that have been quiet for longest, at most `steps` of them.
    /// Are there more?
    pub(crate) fn bound_idle(&mut self, limit: usize, steps: usize) -> bool {
        for _ in 0..steps {
            if self.idle.len() <= limit {
                return false;
            }
            let Some((_, slot)) = self.idle.pop_first() else {
                return false;
            };
            self.forget(slot);
        }
        true
    }

    /// What the operator sees of a channel.
    pub(crate) fn stored(&self, name: &ChannelName) -> Option<StoredChannel> {
        let slot = self.find(name.realm(), name.as_bytes())?;
        self.get(slot).map(Channel::stored)
    }

    /// The channels that keep something, in the order in which they were made. Not all of them if too many keep nothing.
    pub(crate) fn list(&self, after: u64, limit: usize) -> (Vec<StoredChannel>, Option<u64>) {
        let (mut found, mut reached) = (Vec::new(), after);
        for (looked, (made, slot)) in self.by_made.range(after + 1..).enumerate() {
            if looked == LOOK_AT {
                return (found, Some(reached));
            }
            let channel = &self.channels[*slot as usize];
            if channel.keeps_nothing() {
                reached = *made;
                continue;
            }
            if found.len() == limit.max(1) {
                return (found, Some(reached));
            }
            found.push(channel.stored());
            reached = *made;
        }
        (found, None)
    }
}
