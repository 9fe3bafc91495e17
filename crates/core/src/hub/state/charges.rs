//! Who answers for what the hub's tables keep: visitors for channels and patterns that only they name, and for their members.

use std::sync::Arc;

use super::{Entry, Full, State, name_cost};
use crate::channel::{ChannelId, ChannelName};
use crate::hub::{ListenError, VisitorStats};
use crate::pattern::Pattern;
use crate::publication::Message;
use crate::quota::{LEAST_BYTES, LEAST_ENTRIES, OverQuota, Payer, Quota, Spent};

/// What visitors have of the hub's tables.
#[derive(Debug, Default)]
pub(super) struct Charges {
    channels: Quota,
    name_bytes: Quota,
    patterns: Quota,
    members: Quota,
    queued: Quota,
}

/// What a message costs while it waits for the store, besides its payload and names, in bytes.
const QUEUED_OVERHEAD: usize = 256;

impl State {
    /// Somebody needs a channel that exists. Whatever the site's own code has named is charged to nobody from then on.
    pub(super) fn charge(&mut self, id: ChannelId, payer: Payer) -> Result<(), Full> {
        let Some(entry) = self.entries.get(id.slot as usize) else {
            return Ok(());
        };
        match (entry.payer, payer) {
            (Payer::SITE, _) | (_, Payer::NOBODY) => return Ok(()),
            (_, Payer::SITE) => self.release(id),
            (Payer::NOBODY, _) => {
                let cost = name_cost(&entry.channel.name);
                self.charge_name(payer, cost)?;
            }
            // Whoever named it first answers for it until nobody needs it: who comes later cannot make room for another one.
            _ => return Ok(()),
        }
        if let Some(entry) = self.entries.get_mut(id.slot as usize) {
            entry.payer = payer;
        }
        Ok(())
    }

    /// Somebody needs a channel that is about to be made.
    pub(super) fn charge_name(&mut self, payer: Payer, cost: usize) -> Result<(), Full> {
        let parts = self.options.parts;
        let number = parts.of(self.options.channels, LEAST_ENTRIES);
        let bytes = parts.of(self.names_room(), LEAST_BYTES);
        let over = |spent: OverQuota| Full::Quota(spent);
        self.charges.channels.take(payer, 1, number).map_err(|spent| {
            over(spent.of("channels that the site has not published in (limits.channels)"))
        })?;
        self.charges.name_bytes.take(payer, cost, bytes).map_err(|spent| {
            self.charges.channels.give_back(payer, 1);
            over(spent.of(
                "bytes of names of channels that the site has not published in (half of limits.log_memory)",
            ))
        })
    }

    /// Nobody needs a channel for now: whoever answered for it has its part back.
    pub(super) fn release(&mut self, id: ChannelId) {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return;
        };
        let payer = entry.payer;
        if payer != Payer::SITE {
            entry.payer = Payer::NOBODY;
        }
        let cost = name_cost(&entry.channel.name);
        self.forget_charge(payer, cost);
    }

    pub(super) fn forget_charge(&mut self, payer: Payer, cost: usize) {
        self.charges.channels.give_back(payer, 1);
        self.charges.name_bytes.give_back(payer, cost);
    }

    /// A channel that was forgotten is charged to nobody.
    pub(super) fn release_forgotten(&mut self, entry: &Entry) {
        self.forget_charge(entry.payer, name_cost(&entry.channel.name));
    }

    /// A shard has its first listener on a pattern. Returns its number.
    pub(in crate::hub) fn listen_pattern(
        &mut self,
        payer: Payer,
        shard: u8,
        pattern: &Arc<Pattern>,
    ) -> Result<u32, ListenError> {
        let (limit, weight) = (self.options.patterns, pattern.weight());
        let part = self.options.parts.of(limit, LEAST_ENTRIES);
        let known = self.patterns.find(pattern).map_or(Payer::NOBODY, |own| own.payer);
        let payer = match (known, payer) {
            (Payer::SITE, _) => Payer::SITE,
            (known, Payer::SITE) => {
                self.charges.patterns.give_back(known, weight);
                Payer::SITE
            }
            (Payer::NOBODY, payer) => {
                let taken = self.charges.patterns.take(payer, weight, part);
                taken.map_err(|spent| spent.of("patterns (limits.patterns_total)"))?;
                payer
            }
            (known, _) => known,
        };
        let trimmed = (self.trimmed, self.trimmed_news);
        let Some(id) = self.patterns.listen(pattern, shard, trimmed, limit) else {
            self.charges.patterns.give_back(payer, weight);
            return Err(ListenError::TooManyPatterns(limit));
        };
        if let Some(listened) = self.patterns.get_mut(id) {
            listened.payer = payer;
        }
        Ok(id)
    }

    /// A shard listens to a pattern no more: if nobody does, it gives way to whoever needs room, and is charged to nobody.
    pub(in crate::hub) fn unlisten_pattern(&mut self, id: u32, shard: u8, now: crate::Time) {
        self.patterns.unlisten(id, shard, now);
        if let Some(listened) = self.patterns.get_mut(id).filter(|own| own.shards == 0) {
            let payer = std::mem::replace(&mut listened.payer, Payer::NOBODY);
            self.charges.patterns.give_back(payer, listened.pattern.weight());
        }
    }

    /// See [`Hub::is_published`](crate::hub::Hub::is_published).
    pub(in crate::hub) fn is_published(&self, name: &ChannelName) -> bool {
        let entry = self.find(name);
        let offset = match (entry, &self.broker) {
            (Some(entry), _) => entry.offset,
            (None, Some(broker)) if self.is_stored(name) => {
                broker.channel(name).map_or(0, |known| known.offset)
            }
            (None, _) => 0,
        };
        let by_the_site = entry.is_some_and(|entry| entry.payer == Payer::SITE);
        offset > 0 && (by_the_site || !self.namespace_of(name).anonymous_publish)
    }

    /// Another member is about to be kept.
    pub(super) fn charge_member(&mut self, payer: Payer) -> Result<(), OverQuota> {
        let part = self
            .options
            .parts
            .of(self.options.presence.members, LEAST_ENTRIES);
        let taken = self.charges.members.take(payer, 1, part);
        taken.map_err(|spent| spent.of("members (presence.members)"))
    }

    /// Members are gone.
    pub(in crate::hub) fn release_members(&mut self, payers: impl IntoIterator<Item = Payer>) {
        for payer in payers {
            self.charges.members.give_back(payer, 1);
        }
    }

    /// A message is about to be stored in these channels: the store keeps their names for as long as it keeps a history, so
    /// visitors may not bring it new ones without end.
    pub(in crate::hub) fn check_stored(&mut self, payer: Payer, ids: &[ChannelId]) -> Result<(), OverQuota> {
        let mut entries = ids.iter().filter_map(|id| self.channel(*id));
        let is_new = entries.any(|entry| entry.channel.is_stored() && entry.offset == 0);
        let (true, true, Some(broker)) = (payer.is_visitor(), is_new, &self.broker) else {
            return Ok(());
        };
        let part = self.options.parts.of(self.names_room(), LEAST_BYTES);
        let most = part.together(payer);
        if broker.names_bytes() <= most {
            return Ok(());
        }
        let spent = self.charges.name_bytes.refuse(Spent::All(most));
        Err(spent
            .of("bytes of names of stored channels, those of the site included (half of limits.log_memory)"))
    }

    /// A message is about to wait for the store: one is allowed in any case, so that a large one can be published at all.
    pub(in crate::hub) fn charge_queued(&mut self, message: &Message) -> Result<(), OverQuota> {
        let mut part = self.options.parts.of(self.options.queue, LEAST_BYTES);
        let cost = queued_cost(message);
        part.one = part.one.max(cost);
        part.anonymous = part.anonymous.max(cost);
        part.visitors = part.visitors.max(cost);
        let taken = self.charges.queued.take(message.payer, cost, part);
        taken.map_err(|spent| spent.of("bytes of publications waiting for the disk"))
    }

    /// A message waits for the store no more: this payer has so many bytes back.
    pub(in crate::hub) fn release_queued(&mut self, (payer, cost): (Payer, usize)) {
        self.charges.queued.give_back(payer, cost);
    }

    pub(super) fn visitor_stats(&self) -> VisitorStats {
        VisitorStats {
            channels: self.charges.channels.usage(),
            name_bytes: self.charges.name_bytes.usage(),
            patterns: self.charges.patterns.usage(),
            members: self.charges.members.usage(),
            queued_bytes: self.charges.queued.usage(),
            keys: self.keys.usage(),
        }
    }
}

/// Who answers for a message while it waits for the store, and for how many bytes.
pub(in crate::hub) fn queued(message: &Message) -> (Payer, usize) {
    (message.payer, queued_cost(message))
}

fn queued_cost(message: &Message) -> usize {
    let names: usize = message.channels.iter().map(|name| name.as_bytes().len()).sum();
    message.payload.bytes().len() + names + QUEUED_OVERHEAD
}
