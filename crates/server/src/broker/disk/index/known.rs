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
        let newest = if channel.offset == 0 {
            channel.gone
        } else {
            channel.last
        };
        let known = Known {
            epoch: channel.epoch,
            offset: channel.offset,
            position: newest.max(self.losses.of(name)),
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

    /// Forgets the idle channels beyond `limit`, those first that have been quiet for longest; looks at `steps` of them at
    /// most. May there be more?
    pub(crate) fn bound_idle(&mut self, limit: usize, steps: usize) -> bool {
        let beyond = self.idle.len().saturating_sub(limit);
        let quietest = self.idle.iter().take(steps).map(|(_, slot)| *slot);
        let forgotten: Vec<Slot> = quietest
            .filter(|slot| !self.has_copies(*slot))
            .take(beyond)
            .collect();
        for slot in &forgotten {
            self.forget(*slot);
        }
        !forgotten.is_empty() && forgotten.len() < beyond
    }

    /// May copies of what it has kept still be found in the log? Then it is not forgotten: at the next start they would be
    /// taken for its history.
    pub(crate) fn has_copies(&self, slot: Slot) -> bool {
        let oldest = self
            .segments
            .first_key_value()
            .map_or(u32::MAX, |(number, _)| *number);
        self.get(slot).is_some_and(|channel| channel.copied >= oldest)
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
