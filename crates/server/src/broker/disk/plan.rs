//! A batch on its way: positions and offsets are given and records laid out, then, when they are safe, taken into the index.

use std::sync::mpsc::SyncSender;

use cometserver_core::Time;
use cometserver_core::broker::{BrokerError, Committed, Delete, Deletion, Outcome, Submission};
use cometserver_core::channel::ChannelName;
use rustc_hash::FxHashMap;

use super::format::body::{self, Body, IN_HISTORY, IS_RETAINED};
use super::format::{Channel, Deleted, Place, Trimmed, frame};
use super::index::{Entry, Index, Slot};
use super::keeper;
use super::queue::{Batch, Chore, Request, Upkeep};
use super::shared::Shared;

/// So many requests are looked up, or taken into the index, while its lock is held once.
const STRIDE: usize = 256;

/// With each publication so many older ones are trimmed at most, more than come: the keeper does the rest.
const TRIMMED: usize = 16;

/// A share below this would be less than what has to be read to learn how long a record is.
const MIN_WEIGHT: u32 = 32;

/// How a channel stands after the requests laid out so far.
struct Ahead {
    epoch: u64,
    offset: u64,
    last: u64,
    gone: u64,
    retained: u64,
}

/// Where a request's record is.
#[derive(Clone, Copy)]
struct Record {
    offset: u32,
    length: u32,
}

enum Effect {
    Published {
        ticket: u64,
        position: u64,
        time: Time,
        retain: bool,
        record: Record,
        places: Vec<(Slot, u64)>,
    },
    Deleted {
        ticket: u64,
        slot: Option<Slot>,
        what: Delete,
        value: u64,
        is_written: bool,
        /// So many publications are gone already.
        count: usize,
    },
    Kept {
        record: Record,
        places: Vec<(Slot, Entry)>,
    },
    State(Slot),
}

/// A request with what the index knows of its channels; of a publication also its offsets, once they are given.
enum Looked {
    Publish(Submission, Vec<(Slot, u64)>),
    Delete(Deletion, Option<Slot>),
}

/// See the module.
pub(crate) struct Plan {
    effects: Vec<Effect>,
    ahead: FxHashMap<Slot, Ahead>,
    done: Option<SyncSender<Result<(), BrokerError>>>,
    position: u64,
    number: u32,
}

/// The buffer with what is needed to lay out records in it.
struct Layout<'a> {
    buffer: &'a mut Vec<u8>,
    seed: u32,
    base: u32,
}

impl Layout<'_> {
    fn record(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Record {
        let start = frame::begin(self.buffer);
        put(self.buffer);
        let offset = self.base + start as u32;
        let length = frame::finish(self.buffer, start, self.seed, offset);
        Record { offset, length }
    }
}

impl Plan {
    /// Lays out a batch behind what is in the buffer, whose first byte will be at `base` in the segment of this seed and number, and
    /// after this position.
    pub(crate) fn new(
        shared: &Shared,
        batch: Batch,
        buffer: &mut Vec<u8>,
        (seed, base, number): (u32, u32, u32),
        position: u64,
    ) -> Self {
        let mut plan = Self {
            effects: Vec::with_capacity(batch.requests.len()),
            ahead: FxHashMap::default(),
            done: None,
            position,
            number,
        };
        let mut layout = Layout { buffer, seed, base };
        if let Some(chore) = batch.chore {
            plan.lay_out_chore(shared, chore, &mut layout);
        }
        let mut requests = batch.requests.into_iter().peekable();
        while requests.peek().is_some() {
            let looked = plan.look_up(&mut shared.index(), requests.by_ref().take(STRIDE));
            for request in looked {
                match request {
                    Looked::Publish(submission, slots) => plan.publish(&mut layout, &submission, slots),
                    Looked::Delete(deletion, slot) => plan.delete(&mut layout, &deletion, slot),
                }
            }
        }
        plan
    }

    fn look_up(&mut self, index: &mut Index, requests: impl Iterator<Item = Request>) -> Vec<Looked> {
        let mut looked = Vec::with_capacity(STRIDE);
        for request in requests {
            looked.push(match request {
                Request::Publish(submission) => {
                    let slots = submission.channels.iter().map(|name| {
                        let slot = index.ensure(name.realm(), name.as_bytes(), None);
                        self.pin(index, slot);
                        (slot, 0)
                    });
                    let slots = slots.collect();
                    Looked::Publish(submission, slots)
                }
                Request::Delete(deletion) => {
                    let slot = index.find(deletion.channel.realm(), deletion.channel.as_bytes());
                    if let Some(slot) = slot {
                        self.pin(index, slot);
                    }
                    Looked::Delete(deletion, slot)
                }
            });
        }
        looked
    }

    /// The channel stays where it is until this batch is through.
    fn pin(&mut self, index: &mut Index, slot: Slot) {
        self.ahead.entry(slot).or_insert_with(|| {
            let channel = index.get_mut(slot).expect("found or made under the same lock");
            channel.pending += 1;
            Ahead {
                epoch: channel.epoch,
                offset: channel.offset,
                // What may have been forgotten comes before the first one.
                last: if channel.offset == 0 {
                    channel.gone
                } else {
                    channel.last
                },
                gone: channel.gone,
                retained: channel.retained.map_or(0, |entry| entry.position),
            }
        });
    }

    fn ahead(&mut self, slot: Slot) -> &mut Ahead {
        self.ahead.get_mut(&slot).expect("pinned when it was looked up")
    }

    fn publish(&mut self, layout: &mut Layout<'_>, submission: &Submission, mut given: Vec<(Slot, u64)>) {
        self.position += 1;
        let position = self.position;
        let retain = submission.message.retain;
        let mut put = |places: &[Place<'_>]| {
            layout.record(|to| {
                body::put_publication(to, position, submission.time, places, &submission.message);
            })
        };
        let record = match (&mut given[..], &submission.channels[..]) {
            // Nearly always, and then without a list.
            ([only], [name]) => put(&[self.place(only, name, retain)]),
            (all, names) => {
                let places = all.iter_mut().zip(names);
                let places: Vec<_> = places.map(|(one, name)| self.place(one, name, retain)).collect();
                put(&places)
            }
        };
        self.effects.push(Effect::Published {
            ticket: submission.ticket,
            position,
            time: submission.time,
            retain,
            record,
            places: given,
        });
    }

    /// Gives the newest position its place in a channel, and the offset there.
    fn place<'a>(&mut self, given: &mut (Slot, u64), name: &'a ChannelName, retain: bool) -> Place<'a> {
        let (slot, position) = (given.0, self.position);
        let ahead = self.ahead(slot);
        ahead.offset += 1;
        given.1 = ahead.offset;
        if retain {
            ahead.retained = position;
        }
        Place {
            epoch: ahead.epoch,
            offset: ahead.offset,
            previous: std::mem::replace(&mut ahead.last, position),
            state: IN_HISTORY | if retain { IS_RETAINED } else { 0 },
            realm: name.realm(),
            name: name.as_bytes(),
        }
    }

    fn delete(&mut self, layout: &mut Layout<'_>, deletion: &Deletion, slot: Option<Slot>) {
        let (position, what) = (self.position, deletion.what);
        let (mut value, mut is_written) = (0, false);
        if let Some(slot) = slot {
            let ahead = self.ahead(slot);
            value = ahead.retained;
            if ahead.last > 0 && (value > 0 || what == Delete::History) {
                is_written = true;
                ahead.retained = 0;
                if what == Delete::History {
                    ahead.gone = ahead.last;
                }
                let channel = channel_state(&deletion.channel, ahead);
                layout.record(|to| {
                    body::put_deleted(
                        to,
                        &Deleted {
                            position,
                            what,
                            value,
                            channel,
                        },
                    );
                });
            }
        }
        self.effects.push(Effect::Deleted {
            ticket: deletion.ticket,
            slot,
            what,
            value,
            is_written,
            count: 0,
        });
    }

    fn lay_out_chore(&mut self, shared: &Shared, chore: Chore, layout: &mut Layout<'_>) {
        self.done = Some(chore.done);
        for step in chore.steps {
            match step {
                Upkeep::Keep {
                    body,
                    segment,
                    offset,
                    key,
                } => {
                    self.keep(shared, layout, &body, (segment, offset), key);
                }
                Upkeep::Copy(body) => {
                    layout.record(|to| to.extend_from_slice(&body));
                }
                Upkeep::State(name) => {
                    let mut index = shared.index();
                    if let Some(slot) = index.find(name.realm(), name.as_bytes()) {
                        self.pin(&mut index, slot);
                        drop(index);
                        let ahead = self.ahead(slot);
                        let state = channel_state(&name, ahead);
                        layout.record(|to| body::put_channel_state(to, &state));
                        self.effects.push(Effect::State(slot));
                    }
                }
                Upkeep::Trimmed(name) => {
                    let index = shared.index();
                    let slot = index.find(name.realm(), name.as_bytes());
                    let channel = slot.and_then(|slot| index.get(slot));
                    let (realm, name) = (name.realm(), name.as_bytes());
                    let trimmed = channel.map(|channel| Trimmed {
                        epoch: channel.epoch,
                        floor: channel.floor,
                        realm,
                        name,
                    });
                    drop(index);
                    if let Some(trimmed) = trimmed {
                        layout.record(|to| body::put_trimmed(to, &trimmed));
                    }
                }
                // The writer has begun another segment for it.
                Upkeep::Seal => {}
                Upkeep::Remove(segment) => {
                    let forgotten = shared.index().forgotten;
                    layout.record(|to| body::put_removed(to, segment, forgotten));
                }
            }
        }
    }

    fn keep(
        &mut self,
        shared: &Shared,
        layout: &mut Layout<'_>,
        record: &[u8],
        at: (u32, u32),
        key: Option<Vec<u8>>,
    ) {
        let Some(Body::Publication(publication)) = body::decode(record) else {
            return;
        };
        let mut states = Vec::with_capacity(publication.count);
        let mut places = Vec::new();
        let mut index = shared.index();
        for place in publication.places() {
            let mut state = 0;
            if let Some(slot) = index.find(place.realm, place.name)
                && let Some((entry, in_history, is_retained)) = index.kept_at(slot, publication.position)
                && (entry.segment, entry.offset) == at
            {
                state = if in_history { IN_HISTORY } else { 0 } | if is_retained { IS_RETAINED } else { 0 };
                self.pin(&mut index, slot);
                places.push((slot, entry));
            }
            states.push(state);
        }
        drop(index);
        if places.is_empty() {
            if let Some(key) = key {
                layout.record(|to| to.extend_from_slice(&key));
            }
            return;
        }
        let record = layout.record(|to| publication.put_kept(to, &states));
        self.effects.push(Effect::Kept { record, places });
    }

    /// The position that the log reaches with it.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Is a publication in it whose publisher may have been told that it is taken?
    pub(crate) fn concerns(&self, index: &Index) -> bool {
        let buffered = &index.losses.buffered;
        self.effects.iter().any(|effect| match effect {
            Effect::Published { places, .. } => places.iter().any(|(slot, _)| {
                let channel = index.get(*slot);
                channel.is_some_and(|channel| buffered.concerns(&channel.name))
            }),
            _ => false,
        })
    }

    /// All of it is safe, and the segment now so long: it is taken into the index. Returns the answers.
    pub(crate) fn apply(self, shared: &Shared, length: u32) -> Vec<Committed> {
        let mut committed = Vec::with_capacity(self.effects.len());
        let now = shared.now();
        let number = self.number;
        let mut effects = self.effects.into_iter().peekable();
        shared.index().grow_segment(number, length);
        while let Some(mut first) = effects.next() {
            first.prepare(shared);
            let mut index = shared.index();
            committed.extend(first.apply(&mut index, number, now));
            for _ in 1..STRIDE {
                let Some(effect) = effects.next_if(|effect| !effect.clears()) else {
                    break;
                };
                committed.extend(effect.apply(&mut index, number, now));
            }
        }
        let pinned: Vec<Slot> = self.ahead.into_keys().collect();
        unpin(shared, &pinned);
        ring(shared);
        if let Some(done) = self.done {
            let _ = done.try_send(Ok(()));
        }
        committed
    }

    /// Nothing of it happened.
    pub(crate) fn fail(self, shared: &Shared, error: &BrokerError) -> Vec<Committed> {
        if let Some(done) = &self.done {
            let _ = done.try_send(Err(error.clone()));
        }
        self.refuse(shared, error, true)
    }

    /// Nothing of it happened, and what makes room is tried again: only the publications are answered.
    pub(crate) fn fail_publications(self, shared: &Shared, error: &BrokerError) -> Vec<Committed> {
        self.refuse(shared, error, false)
    }

    fn refuse(self, shared: &Shared, error: &BrokerError, deletions: bool) -> Vec<Committed> {
        let pinned: Vec<Slot> = self.ahead.into_keys().collect();
        unpin(shared, &pinned);
        let tickets = self.effects.iter().filter_map(|effect| match effect {
            Effect::Published { ticket, .. } => Some(*ticket),
            Effect::Deleted { ticket, .. } => Some(*ticket).filter(|_| deletions),
            Effect::Kept { .. } | Effect::State(_) => None,
        });
        let failed = |ticket| Committed {
            ticket,
            result: Err(error.clone()),
        };
        tickets.map(failed).collect()
    }
}

impl Effect {
    /// Does it forget a whole history?
    fn clears(&self) -> bool {
        matches!(self, Effect::Deleted { what, .. } if *what == Delete::History)
    }

    /// What would be too much while the index is locked once: most of a history to be forgotten, its oldest first.
    fn prepare(&mut self, shared: &Shared) {
        if let Effect::Deleted {
            slot: Some(slot),
            what: Delete::History,
            count,
            ..
        } = self
        {
            // First the value: whether it had outlived its neighbours cannot be seen later.
            let value = shared.index().release_retained(*slot);
            *count += usize::from(value.is_some_and(|(_, outside)| outside));
            while let gone @ 1.. = shared.index().clear_some(*slot, keeper::STEPS) {
                *count += gone;
            }
        }
    }

    fn apply(self, index: &mut Index, number: u32, now: Time) -> Option<Committed> {
        match self {
            Effect::Published {
                ticket,
                position,
                time,
                retain,
                record,
                places,
            } => {
                index.position = position;
                let mut entry = Entry {
                    position,
                    segment: number,
                    offset: record.offset,
                    weight: 0,
                    time: seconds(time),
                };
                entry.weight = weight(record.length, places.len());
                for (slot, offset) in &places {
                    index.append(*slot, *offset, entry, retain);
                    index.trim(*slot, now.max(time), &mut { TRIMMED });
                }
                let outcome = Outcome::Published {
                    position,
                    offsets: places.into_iter().map(|(_, offset)| offset).collect(),
                };
                Some(Committed {
                    ticket,
                    result: Ok(outcome),
                })
            }
            Effect::Deleted {
                ticket,
                slot,
                what,
                value,
                is_written,
                count: before,
            } => {
                if let Some(channel) = slot.filter(|_| is_written).and_then(|slot| index.get_mut(slot)) {
                    channel.anchor = number;
                }
                let (count, gone) = slot.map_or((0, 0), |slot| delete(index, slot, what, value));
                Some(Committed {
                    ticket,
                    result: Ok(Outcome::Deleted {
                        count: before + count,
                        gone,
                    }),
                })
            }
            Effect::Kept { record, places } => {
                let weight = weight(record.length, places.len());
                for (slot, entry) in places {
                    index.relocate(slot, &entry, number, record.offset, weight);
                }
                None
            }
            Effect::State(slot) => {
                if let Some(channel) = index.get_mut(slot) {
                    channel.anchor = number;
                }
                None
            }
        }
    }
}

/// Forgets something of a channel. How many publications are gone that were kept, and the newest of its own that is gone.
pub(crate) fn delete(index: &mut Index, slot: Slot, what: Delete, value: u64) -> (usize, u64) {
    let retained = index.get(slot).and_then(|channel| channel.retained);
    let count = match what {
        Delete::Retained => match retained.filter(|entry| entry.position == value) {
            Some(_) => {
                index.release_retained(slot);
                1
            }
            None => 0,
        },
        Delete::History => {
            let outside = index.release_retained(slot).is_some_and(|(_, outside)| outside);
            let count = index.clear(slot);
            // Whatever else it ever had was gone before.
            let last = index.get(slot).map_or(0, |channel| channel.last);
            index.raise_gone(slot, last);
            count + usize::from(outside)
        }
    };
    (count, index.get(slot).map_or(0, |channel| channel.gone))
}

/// Wakes the keeper if there is something for it to do.
fn ring(shared: &Shared) {
    let (deadline, has_work) = {
        let index = shared.index();
        (index.next_deadline(), keeper::has_work(&index, shared))
    };
    if has_work {
        shared.bell.ring();
    } else if let Some(deadline) = deadline {
        shared.bell.due(deadline);
    }
}

/// A channel's share of a record.
pub(crate) fn weight(length: u32, places: usize) -> u32 {
    (length / places.max(1) as u32).max(MIN_WEIGHT).min(length)
}

/// When, for an entry: rounded up, so that nothing is forgotten too early.
pub(crate) fn seconds(time: Time) -> u32 {
    u32::try_from(time.div_ceil(1000)).unwrap_or(u32::MAX)
}

fn unpin(shared: &Shared, slots: &[Slot]) {
    for some in slots.chunks(STRIDE) {
        let mut index = shared.index();
        for slot in some {
            if let Some(channel) = index.get_mut(*slot) {
                channel.pending -= 1;
            }
            index.settle_idle(*slot);
        }
    }
}

fn channel_state<'a>(name: &'a ChannelName, ahead: &Ahead) -> Channel<'a> {
    Channel {
        epoch: ahead.epoch,
        offset: ahead.offset,
        last: ahead.last,
        gone: ahead.gone,
        realm: name.realm(),
        name: name.as_bytes(),
    }
}
