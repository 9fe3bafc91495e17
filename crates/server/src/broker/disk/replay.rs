//! What the records of the log mean, read in the order in which they were written.

use std::collections::{BTreeMap, BTreeSet};

use cometserver_core::Time;
use cometserver_core::broker::{Delete, Remembered};
use cometserver_core::idempotency;

use super::format::body::{self, Body, IN_HISTORY, IS_RETAINED};
use super::format::{Channel, Concerned, Deleted, Key, Loss, Opening, Place, Publication, Trimmed};
use super::index::{Entry, Index, Slot};
use super::plan::{seconds, weight};

/// A stretch of the log that cannot be read.
#[derive(Clone, Copy, Debug)]
struct Lost {
    /// In this segment; what later ones say of a channel is true.
    segment: u32,
    /// The position reached before it.
    after: u64,
    /// The position reached behind it.
    until: u64,
}

/// See the module.
pub(crate) struct Replay {
    /// What is known so far.
    pub(crate) index: Index,
    /// Segments that no longer belong to the log.
    pub(crate) removed: BTreeSet<u32>,
    /// Publications of which it is known that they are lost.
    pub(crate) lost: u64,
    /// No publication of the segment being read has this position or a later one: a newer segment gave them to others.
    pub(crate) given_up: u64,
    /// Whose publishers were answered early when the log was last written; none if it does not say.
    pub(crate) buffered: Option<Concerned>,
    /// Keys in force, by position.
    keys: BTreeMap<u64, Remembered>,
    /// Keys from before this are no longer in force.
    keys_since: Time,
    forgotten: u64,
    /// Damage behind which nothing has said yet what position was reached.
    pending: Option<u32>,
    damage: Vec<Lost>,
    /// Publications named by the next ones of their channels: if they are not there, something is gone.
    links: Vec<(Slot, u64)>,
}

impl Replay {
    /// Into an empty index.
    pub(crate) fn new(index: Index, keys_since: Time) -> Self {
        Self {
            index,
            removed: BTreeSet::new(),
            lost: 0,
            given_up: u64::MAX,
            buffered: None,
            keys: BTreeMap::new(),
            keys_since,
            forgotten: 0,
            pending: None,
            damage: Vec::new(),
            links: Vec::new(),
        }
    }

    /// A stretch of this segment, or all of it, cannot be read.
    pub(crate) fn damaged(&mut self, segment: u32) {
        self.pending = Some(segment);
    }

    /// Nothing is lost before this position but what was removed: the log begins here.
    pub(crate) fn begins_at(&mut self, position: u64) {
        self.index.position = self.index.position.max(position);
    }

    /// The log reached this position at the point that is being read.
    pub(crate) fn reached(&mut self, position: u64, segment: u32) {
        let after = self.index.position;
        if self.pending.is_some() || position > after {
            let until = position.max(after);
            self.damage.push(Lost {
                segment: self.pending.take().unwrap_or(segment.saturating_sub(1)),
                after,
                until,
            });
            self.lost += until - after;
            self.forgotten = self.forgotten.max(until);
            self.index.position = until;
        }
    }

    /// Takes a record of a segment. Does it make sense?
    pub(crate) fn record(&mut self, segment: u32, offset: u32, length: u32, body: &[u8]) -> bool {
        let Some(body) = body::decode(body) else {
            return false;
        };
        match body {
            Body::Publication(publication) => self.publication(segment, offset, length, &publication),
            Body::Mark(start) => {
                self.reached(start.position, segment);
                self.index.note_mark(start.mark, start.position);
                self.buffered = start.buffered;
            }
            Body::Deleted(deleted) => self.deleted(segment, &deleted),
            Body::Channel(channel) => {
                self.channel(segment, &channel);
            }
            Body::Opening(opening) => self.opening(segment, opening),
            Body::Removed { segment, forgotten } => {
                self.removed.insert(segment);
                self.forgotten = self.forgotten.max(forgotten);
            }
            Body::Key(key) => self.key(&key),
            Body::Trimmed(trimmed) => self.trimmed(segment, &trimmed),
            Body::Buffered(concerned) => self.buffered = Some(concerned),
            Body::Lost(loss) => {
                self.reached(loss.position.saturating_sub(1), segment);
                self.index.position = self.index.position.max(loss.position);
                self.index.losses.note(loss);
            }
        }
        true
    }

    fn opening(&mut self, segment: u32, opening: Opening) {
        self.reached(opening.position, segment);
        self.forgotten = self.forgotten.max(opening.forgotten);
        self.index.marks = opening.marks;
        self.index.losses.known = opening.losses;
        self.buffered = opening.buffered;
    }

    fn publication(&mut self, segment: u32, offset: u32, length: u32, publication: &Publication<'_>) {
        let position = publication.position;
        if !publication.kept {
            if position <= self.index.position || position >= self.given_up {
                // What was given up and could not be cut off.
                return;
            }
            self.reached(position - 1, segment);
            self.index.position = position;
        }
        let count = publication.places().filter(|place| place.state != 0).count();
        let entry = Entry {
            position,
            segment,
            offset,
            weight: weight(length, count),
            time: seconds(publication.time),
        };
        for place in publication.places() {
            self.place(&place, entry, publication.kept);
        }
        if publication.time >= self.keys_since
            && let (Some(key), Some(payload)) = (publication.key(), publication.payload())
            && let Some(places) = publication.names()
        {
            self.keys.insert(
                position,
                Remembered {
                    key: key.into(),
                    digest: idempotency::digest(payload),
                    time: publication.time,
                    position,
                    places,
                },
            );
        }
    }

    fn place(&mut self, place: &Place<'_>, entry: Entry, kept: bool) {
        if kept && place.state == 0 {
            return;
        }
        let slot = self.slot(place.realm.0, place.name, place.epoch);
        let Some(channel) = self.index.get_mut(slot) else {
            return;
        };
        let follows = channel
            .entries
            .back()
            .is_some_and(|last| last.position == place.previous);
        if place.previous > channel.gone && !follows {
            self.links.push((slot, place.previous));
        }
        if kept {
            channel.copied = channel.copied.max(entry.segment);
        }
        let is_newest = channel.retained.is_none_or(|own| own.position <= entry.position);
        if place.state & IS_RETAINED != 0 && is_newest {
            self.set_retained(slot, Some(entry));
        }
        if place.state & IN_HISTORY != 0 {
            self.index.restore(slot, entry);
        } else {
            self.index.raise_gone(slot, entry.position);
        }
        // A copy says nothing of what was newer when it was made.
        let anchor = if kept { 0 } else { entry.segment };
        self.index.raise(slot, place.offset, entry.position, anchor);
    }

    /// While the log is read the retained value is not counted: [`Index::finish`] does.
    fn set_retained(&mut self, slot: Slot, entry: Option<Entry>) {
        if let Some(channel) = self.index.get_mut(slot) {
            channel.retained = entry;
        }
    }

    /// The channel of this name and epoch. Of another epoch: the one that was has been forgotten.
    fn slot(&mut self, realm: u16, name: &[u8], epoch: u64) -> Slot {
        let realm = cometserver_core::channel::Realm(realm);
        if let Some(slot) = self.index.find(realm, name)
            && self.index.get(slot).is_some_and(|channel| channel.epoch != epoch)
        {
            self.set_retained(slot, None);
            self.index.forget(slot);
        }
        self.index.ensure(realm, name, Some(epoch))
    }

    fn channel(&mut self, segment: u32, channel: &Channel<'_>) -> Slot {
        let slot = self.slot(channel.realm.0, channel.name, channel.epoch);
        self.index.raise(slot, channel.offset, channel.last, segment);
        self.index.raise_gone(slot, channel.gone);
        slot
    }

    fn deleted(&mut self, segment: u32, deleted: &Deleted<'_>) {
        self.reached(deleted.position, segment);
        let slot = self.channel(segment, &deleted.channel);
        if deleted.what == Delete::History {
            // First the value, which is not counted yet.
            self.set_retained(slot, None);
            self.index.clear(slot);
            return;
        }
        // Had it left the history, that has been noted with it.
        if let Some(channel) = self.index.get_mut(slot) {
            channel.retained.take_if(|entry| entry.position <= deleted.value);
        }
    }

    fn trimmed(&mut self, segment: u32, trimmed: &Trimmed<'_>) {
        // What was there may be damaged: it is not given again, or it would count as trimmed.
        self.reached(trimmed.floor, segment);
        let slot = self.index.find(trimmed.realm, trimmed.name);
        if let Some(channel) = slot.and_then(|slot| self.index.get_mut(slot))
            && channel.epoch == trimmed.epoch
        {
            channel.floor = channel.floor.max(trimmed.floor);
        }
    }

    fn key(&mut self, key: &Key<'_>) {
        if key.time >= self.keys_since
            && let Some(places) = key.places()
        {
            self.keys.insert(
                key.position,
                Remembered {
                    key: key.key.into(),
                    digest: key.digest,
                    time: key.time,
                    position: key.position,
                    places,
                },
            );
        }
    }

    /// Everything has been read: histories are sorted and trimmed, losses noted, among them one of the channels in `doubt`.
    /// Returns the keys in force, oldest first, and that loss.
    pub(crate) fn finish(&mut self, now: Time, doubt: Concerned) -> (Vec<Remembered>, Option<Loss>) {
        self.reached(self.index.position, 0);
        let lost = (doubt != Concerned::Nobody).then(|| {
            self.index.position += 1;
            Loss {
                position: self.index.position,
                concerned: doubt,
            }
        });
        if let Some(loss) = lost.clone() {
            self.index.losses.note(loss);
        }
        let slots = self.index.slots() as Slot;
        for slot in 0..slots {
            if self.index.get(slot).is_some() {
                self.index.finish(slot, &self.removed);
                self.index.drop_to_floor(slot);
            }
        }
        for (slot, previous) in std::mem::take(&mut self.links) {
            if self.index.get(slot).is_some_and(|channel| !channel.has(previous)) {
                self.index.raise_gone(slot, previous);
            }
        }
        for slot in 0..slots {
            self.note_damage(slot);
            if self.index.get(slot).is_some() {
                self.index.trim(slot, now, &mut { usize::MAX });
                self.index.settle_idle(slot);
            }
        }
        self.index.forgotten = self.index.forgotten.max(self.forgotten);
        (std::mem::take(&mut self.keys).into_values().collect(), lost)
    }

    /// Something of this channel may have been in a damaged part, if nothing that was written later says how it stood. Then
    /// offsets go on behind all that it could have had: none is given to two publications.
    fn note_damage(&mut self, slot: Slot) {
        let Some(channel) = self.index.get(slot) else {
            return;
        };
        let is_unproven = |lost: &&Lost| channel.last <= lost.after && channel.anchor <= lost.segment;
        let (mut offset, mut gone) = (channel.offset, channel.gone);
        for lost in self.damage.iter().filter(is_unproven) {
            offset += lost.until - lost.after;
            gone = gone.max(lost.until);
        }
        if gone == channel.gone || offset == channel.offset {
            return;
        }
        let anchor = channel.anchor;
        self.index.raise(slot, offset, gone, anchor);
        self.index.raise_gone(slot, gone);
    }
}
