//! Clearing away the oldest segment: what is still kept of it is copied to the end of the log, then it is removed.
//!
//! Always the oldest: then whatever was deleted or forgotten later says so in a newer segment, and nothing comes back. What is
//! written goes through the writer, in small batches between those of publishers.

use std::collections::HashSet;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use cometserver_core::channel::ChannelName;
use cometserver_core::idempotency;

use super::format::Header;
use super::format::Publication;
use super::format::body::{self, Body};
use super::format::header::{HEADER, file_name};
use super::index::{Channel, Index, Slot};
use super::keeper::for_each_slot;
use super::queue::{Chore, Upkeep};
use super::scan::{Piece, Scan};
use super::shared::{Shared, count};

/// About so many bytes are copied at once.
const PORTION: usize = 1 << 20;

/// About so many bytes what is written of a channel takes.
const RECORD: usize = 64;

/// So many channels are looked at while the index is locked once.
const STRIDE: usize = 256;

struct Clearing<'a> {
    shared: &'a Shared,
    segment: u32,
    keys_since: u64,
    /// Channels that the segment names: it may be the last to know how they stand.
    named: HashSet<Slot>,
    /// A part of it could not be read: it may have named others.
    is_damaged: bool,
    steps: Vec<Upkeep>,
    bytes: usize,
}

/// Clears away the oldest segment, unless it is the one that is written to. Its length in bytes, if that could be done.
pub(crate) fn clear_oldest(shared: &Shared) -> Option<u64> {
    let _tidying = shared
        .tidying
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let oldest = {
        let index = shared.index();
        let first = index
            .segments
            .first_key_value()
            .filter(|_| index.segments.len() > 1);
        first.map(|(number, segment)| (*number, segment.file.clone(), segment.seed, segment.length))
    };
    let (segment, file, seed, length) = oldest?;
    let mut clearing = Clearing {
        shared,
        segment,
        keys_since: shared
            .now()
            .saturating_sub(shared.options.idempotency.as_millis() as u64),
        named: HashSet::new(),
        is_damaged: false,
        steps: Vec::new(),
        bytes: 0,
    };
    let mut scan = Scan::new(&*file, seed, HEADER as u32, length);
    while let Some(piece) = scan.next() {
        match piece {
            Piece::Record { offset, body, .. } if !clearing.record(offset, body) => return None,
            Piece::Record { .. } => {}
            Piece::Damage { .. } => clearing.is_damaged = true,
        }
        if shared.bell.is_closed() {
            return None;
        }
    }
    (clearing.send() && clearing.remove()).then_some(u64::from(length))
}

/// Begins another segment, so that the one that is written to becomes one that can be cleared away. Could it be done?
pub(crate) fn seal(shared: &Shared) -> bool {
    let (done, wait) = sync_channel(1);
    let steps = vec![Upkeep::Seal];
    shared.queue.push_chore(Chore { steps, done });
    matches!(wait.recv(), Ok(Ok(())))
}

impl Clearing<'_> {
    fn record(&mut self, offset: u32, record: &[u8]) -> bool {
        match body::decode(record) {
            Some(Body::Publication(publication)) => self.publication(offset, record, &publication),
            Some(Body::Key(key)) if key.time >= self.keys_since => {
                self.push(Upkeep::Copy(record.to_vec()), record.len())
            }
            Some(Body::Deleted(deleted)) => {
                let channel = deleted.channel;
                self.named
                    .extend(self.shared.index().find(channel.realm, channel.name));
                true
            }
            Some(Body::Channel(channel)) => {
                self.named
                    .extend(self.shared.index().find(channel.realm, channel.name));
                true
            }
            Some(_) => true,
            None => {
                self.is_damaged = true;
                true
            }
        }
    }

    fn publication(&mut self, offset: u32, record: &[u8], publication: &Publication<'_>) -> bool {
        let mut is_kept = false;
        let index = self.shared.index();
        for place in publication.places() {
            let Some(slot) = index.find(place.realm, place.name) else {
                continue;
            };
            self.named.insert(slot);
            let kept = index.kept_at(slot, publication.position);
            is_kept |=
                kept.is_some_and(|(entry, ..)| (entry.segment, entry.offset) == (self.segment, offset));
        }
        drop(index);
        let key = publication.key().filter(|_| publication.time >= self.keys_since);
        let key = key.zip(publication.payload()).map(|(key, payload)| {
            let mut record = Vec::new();
            publication.put_key(&mut record, key, idempotency::digest(payload));
            record
        });
        match (is_kept, key) {
            (true, key) => {
                let step = Upkeep::Keep {
                    body: Bytes::copy_from_slice(record),
                    segment: self.segment,
                    offset,
                    key,
                };
                self.push(step, record.len())
            }
            (false, Some(key)) => {
                let length = key.len();
                self.push(Upkeep::Copy(key), length)
            }
            (false, None) => true,
        }
    }

    fn push(&mut self, step: Upkeep, bytes: usize) -> bool {
        self.steps.push(step);
        self.bytes += bytes;
        self.bytes < PORTION || self.send()
    }

    /// What was collected is written and safe.
    fn send(&mut self) -> bool {
        let steps = std::mem::take(&mut self.steps);
        let bytes = std::mem::take(&mut self.bytes);
        if steps.is_empty() {
            return true;
        }
        let (done, wait) = sync_channel(1);
        self.shared.queue.push_chore(Chore { steps, done });
        count(&self.shared.counters.copied, bytes as u64);
        matches!(wait.recv(), Ok(Ok(())))
    }

    /// Nothing that is kept is in the segment any more.
    fn remove(&mut self) -> bool {
        self.lose_rest();
        if self.is_damaged {
            self.note_damage();
        }
        let named: Vec<Slot> = self.named.drain().collect();
        if !self.write_channels(&named) || !self.write_floors(&named) {
            return false;
        }
        self.steps.push(Upkeep::Remove(self.segment));
        if !self.send() {
            return false;
        }
        self.shared.index().remove_segment(self.segment);
        let path = self.shared.folder.join(file_name(self.segment));
        let removed = self.shared.disk.remove(&path);
        if let Err(error) = removed.and_then(|()| self.shared.disk.sync_folder(&self.shared.folder)) {
            tracing::error!(%error, path = %path.display(), "a segment could not be removed: the next start does it");
        }
        count(&self.shared.counters.removed, 1);
        true
    }

    /// What could not be read of it is lost.
    fn lose_rest(&self) {
        let segment = self.segment;
        let places = |index: &Index| index.segments.get(&segment).map_or(0, |segment| segment.places);
        if places(&self.shared.index()) == 0 {
            return;
        }
        let mut found: Vec<(Slot, u64)> = Vec::new();
        for_each_slot(self.shared, |index, slot, _, _| {
            let kept = index.get(slot).map(|channel| channel.in_segment(segment));
            found.extend(kept.into_iter().flatten().map(|position| (slot, position)));
            true
        });
        let mut lost = 0;
        for some in found.chunks(STRIDE) {
            let mut index = self.shared.index();
            for (slot, position) in some {
                // It may have been forgotten meanwhile.
                let kept = index.kept_at(*slot, *position);
                if kept.is_some_and(|(entry, ..)| entry.segment == segment) {
                    index.lose(*slot, *position);
                    lost += 1;
                }
            }
        }
        count(&self.shared.counters.damaged, lost);
        tracing::error!(
            segment,
            publications = lost,
            "publications in a damaged part of the log are lost"
        );
    }

    /// The damaged part may have named any channel of which no later segment speaks, and any that is no longer known: what is
    /// noted in memory of the one and the other would end with this start.
    fn note_damage(&mut self) {
        let (segment, named) = (self.segment, &mut self.named);
        for_each_slot(self.shared, |index, slot, _, _| {
            let of_it = |channel: &Channel| channel.last > 0 && channel.anchor <= segment;
            if index.get(slot).is_some_and(of_it) {
                named.insert(slot);
            }
            true
        });
        let (next, position) = {
            let index = self.shared.index();
            let next = index.segments.range(segment + 1..).next();
            (next.map(|(_, next)| next.file.clone()), index.position)
        };
        let until = next.and_then(|file| {
            let mut header = [0; HEADER];
            let read = file.read_at(&mut header, 0).ok()?;
            Some(Header::decode(&header[..read]).ok()?.first.saturating_sub(1))
        });
        let mut index = self.shared.index();
        index.forgotten = index.forgotten.max(until.unwrap_or(position));
    }

    /// What only this segment says of channels that are still of interest is written again; the others are forgotten.
    fn write_channels(&mut self, named: &[Slot]) -> bool {
        let mut names: Vec<ChannelName> = Vec::new();
        let grace = self.shared.options.idle_grace.as_millis() as u64;
        let forgets = self.shared.now().saturating_sub(self.shared.began) >= grace;
        for slots in named.chunks(STRIDE) {
            let mut index = self.shared.index();
            for slot in slots {
                match index.get(*slot) {
                    Some(channel) if channel.anchor > self.segment => {}
                    Some(channel) if forgets && channel.is_idle() && channel.copied <= self.segment => {
                        index.forget(*slot);
                    }
                    Some(channel) => names.push(channel.name.clone()),
                    None => {}
                }
            }
        }
        names
            .into_iter()
            .all(|name| self.push(Upkeep::State(name), RECORD))
    }

    /// What has been trimmed ends with this segment, but copies of what was older, made while it was kept, are in newer ones:
    /// found without their neighbours they would be a history with a hole.
    fn write_floors(&mut self, named: &[Slot]) -> bool {
        named.chunks(STRIDE).all(|slots| {
            let index = self.shared.index();
            let channels = slots.iter().filter_map(|slot| index.get(*slot));
            let copied = channels.filter(|channel| channel.floor > 0 && channel.copied > self.segment);
            let names: Vec<ChannelName> = copied.map(|channel| channel.name.clone()).collect();
            drop(index);
            names
                .into_iter()
                .all(|name| self.push(Upkeep::Trimmed(name), RECORD))
        })
    }
}
