//! Which channels and patterns a shard listens to, and for whom.

use std::sync::Arc;

use super::{Fanout, PatternSlot, PatternSubscription, ReaderId, Slot, Subscription, Wants};
use crate::Time;
use crate::channel::ChannelName;
use crate::few::Few;
use crate::hub::ListenError;
use crate::pattern::Pattern;
use crate::quota::Payer;
use crate::tidy::Tidy;

/// A channel without readers is listened to for so long: the next long poll then finds everything in place.
const LINGER: Time = 5_000;

/// So many channels are let go of at a time: each is asked of the hub, and others want to be served meanwhile.
const RESTED: usize = 256;

impl Fanout {
    pub(super) fn slot_of(&self, name: &ChannelName) -> Option<u32> {
        self.by_name
            .find(name, |slot| self.slots[slot as usize].channel.name == *name)
    }

    pub(super) fn slot(
        &mut self,
        reader: ReaderId,
        name: &ChannelName,
        now: Time,
    ) -> Result<u32, ListenError> {
        let payer = self.readers[reader as usize].payer;
        if let Some(slot) = self.slot_of(name) {
            let known = &mut self.slots[slot as usize];
            if payer == Payer::SITE && !std::mem::replace(&mut known.is_sites, true) {
                self.hub.listen_for(payer, self.shard, name, now)?;
            }
            return Ok(slot);
        }
        let listening = self.hub.listen_for(payer, self.shard, name, now)?;
        let channel = listening.channel;
        let slot = self.slots.insert(Slot {
            channel: channel.clone(),
            since: listening.since,
            last: listening.last,
            readers: Few::default(),
            idle: false,
            is_sites: payer == Payer::SITE,
        }) as u32;
        self.by_name.insert(name, slot);
        self.by_place.insert(channel.id.slot, slot);
        Ok(slot)
    }

    pub(super) fn attach(&mut self, reader: ReaderId, slot: u32, presence: bool, active: bool) {
        let entry = &mut self.readers[reader as usize];
        if let Some(own) = entry.subscriptions.iter_mut().find(|s| s.slot == slot) {
            own.presence |= presence;
            return;
        }
        let readers = &mut self.slots[slot as usize].readers;
        let index = readers.len() as u32;
        readers.push((reader, entry.subscriptions.len() as u32));
        if entry.subscriptions.is_empty() {
            // Most readers have one subscription; a growing vector would begin with four.
            entry.subscriptions.reserve_exact(1);
        }
        entry.subscriptions.push(Subscription {
            slot,
            index,
            presence,
            active,
        });
        let name = self.slots[slot as usize].channel.name.as_bytes().len();
        self.readers[reader as usize].subscribed_bytes += Self::subscription_bytes(name);
        self.subscriptions += 1;
    }

    pub(super) fn detach(&mut self, reader: ReaderId, index: usize, now: Time) {
        let subscriptions = &mut self.readers[reader as usize].subscriptions;
        let gone = subscriptions.swap_remove(index);
        let moved_own = subscriptions.get(index).map(|moved| (moved.slot, moved.index));
        if let Some((slot, at)) = moved_own {
            self.slots[slot as usize].readers[at as usize].1 = index as u32;
        }
        let slot = &mut self.slots[gone.slot as usize];
        slot.readers.swap_remove(gone.index as usize);
        if let Some((moved, subscription)) = slot.readers.get(gone.index as usize).copied() {
            self.readers[moved as usize].subscriptions[subscription as usize].index = gone.index;
        }
        self.subscriptions -= 1;
        let name = self.slots[gone.slot as usize].channel.name.as_bytes().len();
        self.readers[reader as usize].subscribed_bytes -= Self::subscription_bytes(name);
        let slot = &mut self.slots[gone.slot as usize];
        if slot.readers.is_empty() && !slot.idle {
            slot.idle = true;
            self.idle.push_back((now, gone.slot, slot.channel.id));
        }
    }

    pub(super) fn pattern_slot(
        &mut self,
        reader: ReaderId,
        pattern: &Arc<Pattern>,
    ) -> Result<u32, ListenError> {
        let payer = self.readers[reader as usize].payer;
        if let Some(id) = self.by_pattern.get(pattern).copied() {
            let known = self.patterns.get_mut(&id);
            let is_news = known
                .is_some_and(|known| payer == Payer::SITE && !std::mem::replace(&mut known.is_sites, true));
            if is_news {
                self.hub.listen_pattern_for(payer, self.shard, pattern)?;
            }
            return Ok(id);
        }
        let (id, since) = self.hub.listen_pattern_for(payer, self.shard, pattern)?;
        self.by_pattern.insert(pattern.clone(), id);
        self.patterns.insert(
            id,
            PatternSlot {
                pattern: pattern.clone(),
                since,
                readers: Vec::new(),
                is_sites: payer == Payer::SITE,
            },
        );
        Ok(id)
    }

    pub(super) fn attach_pattern(&mut self, reader: ReaderId, id: u32, wants: Wants, active: bool) {
        let entry = &mut self.readers[reader as usize];
        if entry.patterns.iter().any(|p| p.id == id) {
            return;
        }
        entry.patterns.push(PatternSubscription { id, wants, active });
        if let Some(slot) = self.patterns.get_mut(&id) {
            slot.readers.push(reader);
            entry.subscribed_bytes += Self::pattern_bytes(slot.pattern.as_bytes().len());
        }
        self.pattern_subscriptions += 1;
    }

    pub(super) fn detach_pattern(&mut self, reader: ReaderId, id: u32, now: Time) {
        let Some(slot) = self.patterns.get_mut(&id) else {
            return;
        };
        if let Some(at) = slot.readers.iter().position(|other| *other == reader) {
            slot.readers.swap_remove(at);
            let bytes = Self::pattern_bytes(slot.pattern.as_bytes().len());
            self.readers[reader as usize].subscribed_bytes -= bytes;
            self.pattern_subscriptions -= 1;
        }
        if slot.readers.is_empty() {
            let pattern = slot.pattern.clone();
            self.patterns.remove(&id);
            self.by_pattern.remove(&pattern);
            self.patterns.tidy();
            self.by_pattern.tidy();
            self.hub.unlisten_pattern(self.shard, id, now);
        }
    }

    /// Stops listening to channels that have had no reader for a while, some at a time. Returns when to call again.
    pub fn rest(&mut self, now: Time) -> Option<Time> {
        let mut rested = 0;
        while let Some((since, slot, channel)) = self.idle.front().copied() {
            if since.saturating_add(LINGER) > now || rested == RESTED {
                return Some(since.saturating_add(LINGER));
            }
            rested += 1;
            self.idle.pop_front();
            self.idle.tidy();
            let Some(entry) = self
                .slots
                .get_mut(slot as usize)
                .filter(|e| e.channel.id == channel)
            else {
                continue;
            };
            entry.idle = false;
            if !entry.readers.is_empty() {
                continue;
            }
            let entry = self.slots.remove(slot as usize);
            self.slots_room.left(&mut self.slots);
            self.by_name.remove(&entry.channel.name, slot);
            self.by_place.remove(&channel.slot);
            self.by_place.tidy();
            self.hub.unlisten(self.shard, channel, now);
        }
        None
    }
}
