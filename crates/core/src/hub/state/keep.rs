//! What is in memory alone, handed over at a stop in good order, and taken up again.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::State;
use crate::Time;
use crate::channel::{Channel, ChannelId};
use crate::hub::Receipt;
use crate::idempotency::{Claim, Settled, digest};
use crate::kept::{self, Kept, TakeUpError};
use crate::log::{Log, Trimmed};
use crate::namespace::Namespaces;
use crate::pattern::Pattern;
use crate::position::{Position, Source};
use crate::publication::{Place, Places, Publication};
use crate::quota::Payer;

/// The handle of a channel that is only named: no channel ever has it.
const NAMED: ChannelId = ChannelId {
    slot: u32::MAX,
    generation: 0,
};

/// No position comes near the end of the range: two are added up in places.
const MOST: u64 = u64::MAX / 4;

/// A publication, and of each of its places whether the history there keeps it, and whether as the value.
type KeptIn = (Arc<Publication>, Vec<(bool, bool)>);

/// Tells apart which namespaces are stored.
pub(in crate::hub) fn durabilities(namespaces: &Namespaces) -> u64 {
    let mut text = Vec::new();
    for (pattern, namespace) in &namespaces.listed {
        text.extend_from_slice(&pattern.realm().0.to_le_bytes());
        text.extend_from_slice(&(pattern.as_bytes().len() as u64).to_le_bytes());
        text.extend_from_slice(pattern.as_bytes());
        text.push(u8::from(namespace.durability.is_stored()));
    }
    text.push(u8::from(namespaces.fallback.durability.is_stored()));
    digest(&text)
}

impl State {
    pub(in crate::hub) fn forgotten(&self) -> Trimmed {
        self.forgotten
    }

    /// Channels in memory made after number `after`, of which anything is known; where to go on, if there may be more.
    pub(in crate::hub) fn kept_channels(
        &mut self,
        after: u64,
        limit: usize,
    ) -> (Vec<(ChannelId, kept::Channel)>, Option<u64>) {
        let (mut found, mut looked_at, mut last) = (Vec::new(), 0, after);
        for (made, id) in self.made.range(after + 1..).take(limit) {
            (looked_at, last) = (looked_at + 1, *made);
            let Some(entry) = self.channel(*id).filter(|entry| !entry.channel.is_stored()) else {
                continue;
            };
            let trimmed = entry.log.trimmed;
            // What was forgotten is known of every channel.
            if entry.offset == 0 && entry.log.is_empty() && self.forgotten.max(trimmed) == self.forgotten {
                continue;
            }
            let channel = kept::Channel {
                name: entry.channel.name.clone(),
                epoch: entry.channel.epoch,
                history: Some(kept::History {
                    offset: entry.offset,
                    last: entry.last,
                    trimmed,
                    of_site: entry.payer == Payer::SITE,
                }),
            };
            found.push((*id, channel));
        }
        self.steps += looked_at;
        (found, (looked_at == limit).then_some(last))
    }

    /// Messages after a sequence that a channel in memory keeps; where to go on, if there may be more.
    pub(in crate::hub) fn kept_publications(
        &mut self,
        after: u64,
        limit: usize,
    ) -> (Vec<KeptIn>, Option<u64>) {
        let (mut found, mut looked_at, mut steps, mut last) = (Vec::new(), 0, 0, after);
        for publication in self.order.after(after).take(limit) {
            (looked_at, last) = (looked_at + 1, publication.sequence());
            steps += 1 + publication.places.len();
            if publication.body.is_presence() {
                continue;
            }
            let keeps = publication.places.iter().map(|place| {
                let entry = self.channel(place.channel.id);
                let entry = entry.filter(|entry| !entry.channel.is_stored());
                entry.map_or((false, false), |entry| entry.log.keeps(publication))
            });
            let keeps: Vec<(bool, bool)> = keeps.collect();
            if keeps
                .iter()
                .any(|(in_history, is_value)| *in_history || *is_value)
            {
                found.push((publication.clone(), keeps));
            }
        }
        self.steps += steps;
        (found, (looked_at == limit).then_some(last))
    }

    /// The patterns, with what their channels have let go.
    pub(in crate::hub) fn kept_patterns(&mut self) -> Vec<kept::Listened> {
        self.steps += self.patterns.len();
        self.patterns.kept()
    }

    /// See [`Hub::take_up`](crate::hub::Hub::take_up).
    pub(in crate::hub) fn take_up(&mut self, kept: Kept, now: Time) -> Result<(), TakeUpError> {
        self.check(&kept)?;
        let now = self.clock(now);
        let head = kept.head;
        self.visible.memory = head.visible.memory + 1;
        self.left.note(Source::Memory, self.visible);
        self.trimmed = self.trimmed.max(head.trimmed);
        self.trimmed_news = self.trimmed_news.max(self.left);
        self.forgotten = self.forgotten.max(head.forgotten);
        let is_reordered = head.durabilities.is_none() || head.durabilities != self.durabilities;
        if is_reordered {
            // What was stored of a channel that is in memory now is no longer read: of whatever is not known here that may
            // be so.
            self.forgotten.note(Source::Durable, self.visible);
            self.trimmed.note(Source::Durable, self.visible);
        }
        let channels = kept
            .channels
            .into_iter()
            .map(|channel| self.take_channel(channel));
        let channels: Vec<Arc<Channel>> = channels.collect();
        for publication in kept.publications {
            self.take_publication(publication, &channels);
        }
        for key in kept.keys {
            self.take_key(key, &channels);
        }
        let before = self.order.len();
        self.settle_all(&channels, now);
        // What has grown too old meanwhile may be of any of them.
        let gone = match self.order.len() == before && !is_reordered {
            true => Trimmed::default(),
            false => self.trimmed,
        };
        for listened in kept.listened {
            self.take_pattern(&listened, gone, now);
        }
        Ok(())
    }

    /// Is it of a hub before this one, beside this store, and does it make sense?
    fn check(&self, kept: &Kept) -> Result<(), TakeUpError> {
        let (marks, visible) = (kept.head.marks, kept.head.visible);
        let is_same_log = match &self.broker {
            // Nothing of it was stored: any log may be there now.
            _ if visible.durable == 0 => true,
            Some(broker) => {
                broker.position() == visible.durable && broker.knows(marks.durable, visible.durable)
            }
            None => false,
        };
        if !is_same_log {
            return Err(TakeUpError::OtherLog);
        }
        let wrong = |what| Err(TakeUpError::Contradiction(what));
        let mut names = FxHashSet::default();
        let known = kept.channels.iter().filter(|channel| channel.history.is_some());
        if !known.map(|channel| &channel.name).all(|name| names.insert(name)) {
            return wrong("a channel comes twice");
        }
        if visible.memory > MOST || visible.durable > MOST {
            return wrong("a position");
        }
        let is_known = |place: u32| (place as usize) < kept.channels.len();
        let (mut last, mut values) = (Position::default(), FxHashSet::default());
        for publication in &kept.publications {
            let at = publication.at;
            if !at.reaches(last) || at == last || !visible.reaches(at) {
                return wrong("the order of publications");
            }
            last = at;
            for place in &publication.places {
                if !is_known(place.channel) || place.is_value && !values.insert(place.channel) {
                    return wrong("a publication's place");
                }
            }
            if publication.body.is_presence() {
                return wrong("a publication that is no message");
            }
        }
        let of_keys = kept.keys.iter().flat_map(|key| &key.places);
        if !of_keys.map(|(channel, _)| *channel).all(is_known) {
            return wrong("a key's place");
        }
        Ok(())
    }

    fn take_channel(&mut self, channel: kept::Channel) -> Arc<Channel> {
        let kept::Channel { name, epoch, history } = channel;
        let namespace = self.options.namespaces.of(&name).clone();
        let Some(history) = history else {
            return Arc::new(Channel::new(NAMED, name, epoch, namespace));
        };
        let id = self.make(&name);
        let entry = &mut self.entries[id.slot as usize];
        entry.payer = if history.of_site {
            Payer::SITE
        } else {
            Payer::NOBODY
        };
        entry.last = entry.last.max(history.last);
        if namespace.durability.is_stored() {
            // Its history begins anew in the store: what memory had is gone.
            entry.log.trimmed.note(Source::Memory, history.last);
            self.trimmed.note(Source::Memory, history.last);
            self.maybe_idle(id, self.last_time);
            return Arc::new(Channel::new(NAMED, name, epoch, namespace));
        }
        entry.channel = Arc::new(Channel::new(id, name, epoch, namespace));
        entry.log = Log::new(history.trimmed);
        entry.offset = history.offset;
        entry.channel.clone()
    }

    fn take_publication(&mut self, kept: kept::Publication, channels: &[Arc<Channel>]) {
        let places = kept.places.iter().map(|place| Place {
            channel: channels[place.channel as usize].clone(),
            offset: place.offset,
            patterns: None,
        });
        let publication = Arc::new(Publication {
            source: kept.source,
            at: kept.at,
            time: kept.time,
            accepted: 0,
            places: places.collect(),
            audience: 0,
            body: kept.body,
        });
        let (size, mut keepers) = (publication.size(), 0);
        for (place, kept) in publication.places.iter().zip(&kept.places) {
            let id = place.channel.id;
            let Some(entry) = self.entries.get_mut(id.slot as usize) else {
                continue;
            };
            if !kept.in_history && !kept.is_value {
                continue;
            }
            let (shares, realm) = (entry.shares.get_or_insert_default(), place.channel.name.realm());
            if kept.in_history {
                entry.log.push(publication.clone());
                self.window.grow(realm, id, &mut shares.window, size);
                keepers += 1;
            }
            if kept.is_value {
                entry.log.retain(publication.clone());
                keepers += 1;
            }
            self.memory.grow(realm, id, &mut shares.memory, size);
        }
        if keepers > 0 {
            self.order.push(publication, keepers);
        }
    }

    fn take_key(&mut self, key: kept::Key, channels: &[Arc<Channel>]) {
        let places = key.places.iter().map(|(channel, offset)| Place {
            channel: channels[*channel as usize].clone(),
            offset: *offset,
            patterns: None,
        });
        let places: Places = places.collect();
        // As it was claimed: under the first of its channels by name.
        let Some(first) = places.iter().map(|place| &place.channel.name).min() else {
            return;
        };
        let scope = (first.clone(), key.key);
        let receipt = Receipt {
            places,
            at: key.at,
            duplicate: false,
        };
        self.keys.take_up(Settled {
            claim: Claim {
                scope,
                digest: key.digest,
            },
            since: key.time,
            receipt,
        });
    }

    fn take_pattern(&mut self, listened: &kept::Listened, gone: Trimmed, now: Time) {
        let limit = self.options.patterns;
        let trimmed = (listened.trimmed.max(gone), self.left);
        let Ok(pattern) = Pattern::in_realm(listened.realm, &listened.text, listened.text.len()) else {
            return;
        };
        if let Some(id) = self.patterns.listen(&Arc::new(pattern), 0, trimmed, limit) {
            self.patterns.unlisten(id, 0, now);
        }
    }

    /// Lets go what the bounds no longer allow, or what has grown too old meanwhile. Nobody waits for the lock yet.
    fn settle_all(&mut self, channels: &[Arc<Channel>], now: Time) {
        while self.slide(now) {}
        for channel in channels {
            if self.settle(channel.id, now) {
                self.expire_next(channel.id, now);
            }
        }
        while self.expire(now) {}
        loop {
            self.steps = 0;
            if !self.enforce_ceilings() {
                break;
            }
        }
    }
}
