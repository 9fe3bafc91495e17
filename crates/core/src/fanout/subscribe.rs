//! Subscriptions that come and go after a reader has begun.

use std::sync::Arc;

use super::{Begin, CatchUp, CatchUpFrom, CatchUpTarget, Fanout, ReaderId, Target, Wants};
use crate::Time;
use crate::channel::{Channel, ChannelName};
use crate::hub::{ListenError, concerns};
use crate::pattern::Pattern;
use crate::position::{Position, Source};

/// How a subscription stands that was just asked for. Each has the channel or pattern as the readers share it.
#[derive(Debug)]
pub enum Standing {
    /// An announcement with [`Step::Subscribed`](super::Step::Subscribed) was queued: they come in the order of these calls.
    Due(Target),
    /// It stood already, and nothing is owed: it can be announced at once, with [`Fanout::position`].
    Stands(Target),
}

impl Fanout {
    /// Subscribes a reader that has begun. It is behind until the subscription has caught up and was announced with
    /// [`Step::Subscribed`](super::Step::Subscribed). A channel already subscribed to begins nowhere else, and costs nothing
    /// lasting: see [`Standing`].
    ///
    /// # Errors
    /// [`ListenError`]; nothing changed.
    pub fn subscribe(
        &mut self,
        reader: ReaderId,
        name: &ChannelName,
        begin: Begin,
        wants: Wants,
        now: Time,
    ) -> Result<Standing, ListenError> {
        let slot = self.slot(reader, name, now)?;
        let channel = self.slots[slot as usize].channel.clone();
        let (id, durability) = (channel.id, channel.durability);
        let catch_up = CatchUpTarget::Channel(id);
        let own = self.readers[reader as usize]
            .subscriptions
            .iter()
            .find(|s| s.slot == slot);
        let (known, active) = (own.is_some(), own.is_some_and(|s| s.active));
        let target = Target::Channel(channel);
        // While something is owed, a cursor would hide it from a client that is cut off then.
        if active && !self.owes(reader) {
            return Ok(Standing::Stands(target));
        }
        if !known {
            self.attach(reader, slot, wants.presence, false);
        }
        let trimmed = self.hub.trimmed(id);
        let from = match begin {
            _ if known => CatchUpFrom::Nothing,
            Begin::Now if wants.retained => CatchUpFrom::Retained,
            Begin::Now => CatchUpFrom::Nothing,
            Begin::Earliest => CatchUpFrom::Earliest(Position {
                durable: trimmed.durable,
                memory: trimmed.memory.memory,
            }),
            Begin::At(start) => {
                let lost = start.lost_memory && concerns(Source::Memory, durability)
                    || start.lost_durable && concerns(Source::Durable, durability);
                // Members are in memory, whatever the durability of the channel.
                CatchUpFrom::Lost(start.position, lost, start.lost_memory && wants.presence)
            }
        };
        let since = self.slots[slot as usize].since;
        self.queue(reader, catch_up, from, since);
        Ok(Standing::Due(target))
    }

    /// The same for a pattern.
    ///
    /// # Errors
    /// [`ListenError`]; nothing changed.
    pub fn subscribe_pattern(
        &mut self,
        reader: ReaderId,
        pattern: &Arc<Pattern>,
        begin: Begin,
        wants: Wants,
    ) -> Result<Standing, ListenError> {
        let id = self.pattern_slot(reader, pattern)?;
        let catch_up = CatchUpTarget::Pattern(id);
        let own = self.readers[reader as usize].patterns.iter().find(|p| p.id == id);
        let (known, active) = (own.is_some(), own.is_some_and(|p| p.active));
        let target = Target::Pattern(self.patterns[&id].pattern.clone());
        if active && !self.owes(reader) {
            return Ok(Standing::Stands(target));
        }
        if !known {
            self.attach_pattern(reader, id, wants, false);
        }
        let trimmed = self.hub.pattern_trimmed(id);
        let from = match begin {
            Begin::Now => CatchUpFrom::Nothing,
            _ if known => CatchUpFrom::Nothing,
            Begin::Earliest => CatchUpFrom::Earliest(Position {
                durable: trimmed.durable,
                memory: trimmed.memory.memory,
            }),
            Begin::At(start) => CatchUpFrom::Lost(
                start.position,
                start.lost_memory && self.hub.may_hold(pattern, false)
                    || start.lost_durable && self.hub.may_hold(pattern, true),
                start.lost_memory && wants.presence,
            ),
        };
        let since = self.patterns[&id].since;
        self.queue(reader, catch_up, from, since);
        Ok(Standing::Due(target))
    }

    fn queue(&mut self, reader: ReaderId, target: CatchUpTarget, from: CatchUpFrom, since: Position) {
        let position = self.position(reader);
        let entry = &mut self.readers[reader as usize];
        entry.at = position;
        entry.live = false;
        let queued = entry
            .rare
            .as_ref()
            .and_then(|rare| rare.catch_up.back())
            .map(|last| last.until);
        // Not the one with the higher sequence: a position read from the store alone is no cut through the order.
        let until = position.max(since).max(queued.unwrap_or_default());
        // The first page now holds what did not begin with the oldest kept.
        entry.rare().forgive_stored = false;
        entry.rare().catch_up.push_back(CatchUp {
            target,
            from,
            until,
            announce: true,
        });
    }

    /// Ends a subscription; was there one?
    pub fn unsubscribe(&mut self, reader: ReaderId, name: &ChannelName, now: Time) -> Option<Arc<Channel>> {
        let slot = self.slot_of(name)?;
        let index = self.readers[reader as usize]
            .subscriptions
            .iter()
            .position(|s| s.slot == slot)?;
        let channel = self.slots[slot as usize].channel.clone();
        self.detach(reader, index, now);
        self.drop_catch_up(reader, CatchUpTarget::Channel(channel.id));
        Some(channel)
    }

    /// Ends a subscription to a pattern; was there one?
    pub fn unsubscribe_pattern(&mut self, reader: ReaderId, pattern: &Pattern, now: Time) -> bool {
        let Some(id) = self.by_pattern.get(pattern).copied() else {
            return false;
        };
        let patterns = &mut self.readers[reader as usize].patterns;
        let Some(index) = patterns.iter().position(|p| p.id == id) else {
            return false;
        };
        patterns.swap_remove(index);
        self.detach_pattern(reader, id, now);
        self.drop_catch_up(reader, CatchUpTarget::Pattern(id));
        true
    }

    fn drop_catch_up(&mut self, reader: ReaderId, target: CatchUpTarget) {
        if let Some(rare) = &mut self.readers[reader as usize].rare {
            rare.catch_up.retain(|catch_up| catch_up.target != target);
            rare.forgotten
                .retain(|(pattern, _)| target != CatchUpTarget::Pattern(*pattern));
        }
    }
}
