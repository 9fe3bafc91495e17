//! Where everything is: what the log knows in memory of segments, channels and publications.
//!
//! One mutex guards it, held for a bounded number of steps and never during input or output. Only the writer adds
//! publications; whatever else changes it (age, ceilings, compaction, damage) only takes away or moves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use cometserver_core::Time;
use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::namespace::Namespaces;
use slab::Slab;

use super::format::Concerned;
use super::io::DiskFile;

pub(crate) mod channel;
mod known;
mod losses;
mod names;
mod restore;
mod stretches;

pub(crate) use channel::{Channel, Entry};
use losses::Losses;
use names::Names;
use stretches::Stretches;
pub(crate) use stretches::{first_of, stretch};

/// So many starts are remembered: a client that comes with an older mark is told of a gap.
pub(crate) const MARKS: usize = 1024;

/// What a channel's name takes besides its bytes: its allocation, and its places in the tables.
const NAME_OVERHEAD: usize = 64;

/// A channel's place in the table; slots are used again.
pub(crate) type Slot = u32;

/// A segment of the log.
pub(crate) struct Segment {
    /// The file; whoever reads from it keeps it, also when it has been removed.
    pub(crate) file: Arc<dyn DiskFile>,
    /// With what the checks of its records begin.
    pub(crate) seed: u32,
    /// So many bytes of it count.
    pub(crate) length: u32,
    /// Bytes of what is kept in it.
    pub(crate) live: u64,
    /// How many places (a publication in a channel) are kept in it.
    pub(crate) places: u64,
}

/// See the module.
pub(crate) struct Index {
    /// The newest position.
    pub(crate) position: u64,
    /// The random mark of this start.
    pub(crate) mark: u32,
    /// The starts that are remembered, oldest first, each with the position reached then.
    pub(crate) marks: Vec<(u32, u64)>,
    /// Of channels no longer known, and in damaged parts, something up to here may be gone.
    pub(crate) forgotten: u64,
    /// What was answered and never written.
    pub(crate) losses: Losses,
    /// By number, oldest first.
    pub(crate) segments: BTreeMap<u32, Segment>,
    /// Bytes of what is kept, all segments together.
    pub(crate) live: u64,
    /// Bytes of all segments.
    pub(crate) total: u64,
    /// Publications kept, counted once for each of their channels.
    pub(crate) publications: usize,
    channels: Slab<Channel>,
    names: Names,
    /// What the channels' names take of memory.
    pub(crate) names_bytes: usize,
    /// By the position of the newest publication: what changed since some position is found without looking at the rest.
    by_last: BTreeSet<(u64, Slot)>,
    /// Which of them have something where.
    stretches: Stretches,
    /// In the order in which they were made; only those that have published.
    by_made: BTreeMap<u64, Slot>,
    /// When the oldest publication of a channel may be too old, one entry a channel (with its number, as slots are used again).
    deadlines: BinaryHeap<Reverse<(u32, Slot, u64)>>,
    /// Closed and empty channels by their newest position: the first to be forgotten.
    idle: BTreeSet<(u64, Slot)>,
    /// Beyond their bounds by more than could be trimmed at once: the keeper goes on with them.
    untrimmed: BTreeSet<Slot>,
    namespaces: Arc<Namespaces>,
    version: u32,
    made: u64,
    epochs: u32,
    /// How many publications were forgotten since it was locked, and how many at most while it was locked once.
    #[cfg(test)]
    pub(crate) popped: (usize, usize),
}

impl Index {
    /// An empty one.
    pub(crate) fn new(namespaces: Arc<Namespaces>) -> Self {
        let losses = Losses {
            buffered: Concerned::buffered(&namespaces),
            ..Losses::default()
        };
        Self {
            position: 0,
            mark: 0,
            marks: Vec::new(),
            forgotten: 0,
            losses,
            segments: BTreeMap::new(),
            live: 0,
            total: 0,
            publications: 0,
            channels: Slab::new(),
            names: Names::default(),
            names_bytes: 0,
            by_last: BTreeSet::new(),
            stretches: Stretches::default(),
            by_made: BTreeMap::new(),
            deadlines: BinaryHeap::new(),
            idle: BTreeSet::new(),
            untrimmed: BTreeSet::new(),
            namespaces,
            version: 0,
            made: 0,
            epochs: 0,
            #[cfg(test)]
            popped: (0, 0),
        }
    }

    /// Takes note of a start.
    pub(crate) fn note_mark(&mut self, mark: u32, position: u64) {
        self.marks.push((mark, position));
        if self.marks.len() > MARKS {
            self.marks.remove(0);
        }
    }

    /// Was this position ever issued under this mark? Nothing was issued under a mark beyond where the next one begins.
    pub(crate) fn knows(&self, mark: u32, position: u64) -> bool {
        match self.marks.iter().position(|(own, _)| *own == mark) {
            Some(index) => position <= self.marks.get(index + 1).map_or(self.position, |(_, at)| *at),
            // On a full disk it is not written yet.
            None => mark == self.mark && position <= self.position,
        }
    }

    /// There is this segment now.
    pub(crate) fn add_segment(&mut self, number: u32, segment: Segment) {
        self.total += u64::from(segment.length);
        self.segments.insert(number, segment);
    }

    /// A segment has become so long.
    pub(crate) fn grow_segment(&mut self, number: u32, length: u32) {
        if let Some(segment) = self.segments.get_mut(&number) {
            self.total = self.total - u64::from(segment.length) + u64::from(length);
            segment.length = length;
        }
    }

    /// The segment is gone; nothing is kept in it.
    pub(crate) fn remove_segment(&mut self, number: u32) {
        if let Some(segment) = self.segments.remove(&number) {
            self.total -= u64::from(segment.length);
        }
    }

    /// Other namespaces hold: each channel takes note when it is next touched.
    pub(crate) fn configure(&mut self, namespaces: Arc<Namespaces>) {
        self.losses.configure(&namespaces);
        self.namespaces = namespaces;
        self.version = self.version.wrapping_add(1);
    }

    /// Counts how often the namespaces changed.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// When the next publication may be too old.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.deadlines
            .peek()
            .map(|Reverse((due, ..))| u64::from(*due) * 1000)
    }

    /// How many channels are known.
    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// The slots are below this number.
    pub(crate) fn slots(&self) -> usize {
        self.channels.capacity()
    }

    /// The channel of this name.
    pub(crate) fn find(&self, realm: Realm, name: &[u8]) -> Option<Slot> {
        self.names.find(realm, name, &self.channels)
    }

    /// The channel in a slot, if there is one.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Channel> {
        self.channels.get(slot as usize)
    }

    /// The channel in a slot, to change what nothing else in the index depends on.
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Channel> {
        self.channels.get_mut(slot as usize)
    }

    /// The channel of this name, made if it is not there.
    pub(crate) fn ensure(&mut self, realm: Realm, name: &[u8], epoch: Option<u64>) -> Slot {
        if let Some(slot) = self.find(realm, name) {
            return slot;
        }
        let name = ChannelName::in_realm(realm, name).expect("a name that was valid when it was published");
        let epoch = epoch.unwrap_or_else(|| {
            self.epochs += 1;
            u64::from(self.mark) << 32 | u64::from(self.epochs)
        });
        self.made += 1;
        let bounds = self.namespaces.of(&name).history;
        self.names_bytes += name_cost(&name);
        let mut channel = Channel::new(name, epoch, self.made, bounds, self.version);
        // It may be one that was forgotten.
        channel.gone = self.forgotten;
        let slot = self.channels.insert(channel) as Slot;
        self.names.insert(slot, &mut self.channels);
        slot
    }

    /// Forgets the channel in this slot. Whoever has read less of it than there was has to be told.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.clear(slot);
        self.release_retained(slot);
        let Some(channel) = self.channels.get(slot as usize) else {
            return;
        };
        let (last, made, gone) = (channel.last, channel.made, channel.gone);
        self.names_bytes -= name_cost(&channel.name);
        self.forget_gone(slot, gone);
        self.forgotten = self.forgotten.max(last);
        self.by_last.remove(&(last, slot));
        self.idle.remove(&(last, slot));
        self.by_made.remove(&made);
        self.names.remove(slot, &mut self.channels);
        self.channels.remove(slot as usize);
    }

    /// Channels whose newest publication lies behind (`last`, `slot`) in the order of positions, at most `limit`.
    pub(crate) fn changed_since(
        &self,
        since: (u64, Slot),
        limit: usize,
    ) -> impl Iterator<Item = (u64, Slot)> {
        let after = (std::ops::Bound::Excluded(since), std::ops::Bound::Unbounded);
        self.by_last.range(after).take(limit).copied()
    }

    /// Appends a publication to a channel's history: `entry` is in `segment`, which is there.
    pub(crate) fn append(&mut self, slot: Slot, offset: u64, entry: Entry, retain: bool) {
        self.raise(slot, offset, entry.position, entry.segment);
        self.count(&entry);
        let newest = self.channels[slot as usize].entries.back();
        let before = newest.map(|newest| newest.position);
        self.note_kept(slot, entry.position, before);
        self.channels[slot as usize].push(entry);
        self.publications += 1;
        if retain {
            self.release_retained(slot);
            self.channels[slot as usize].retained = Some(entry);
        }
        self.schedule(slot);
    }

    /// The newest offset and position of a channel are these; `anchor` is the segment that says so.
    pub(crate) fn raise(&mut self, slot: Slot, offset: u64, last: u64, anchor: u32) {
        let channel = &mut self.channels[slot as usize];
        let before = channel.last;
        channel.offset = channel.offset.max(offset);
        channel.last = last.max(before);
        if offset == channel.offset {
            channel.anchor = channel.anchor.max(anchor);
        }
        if before != channel.last {
            let made = channel.made;
            let last = channel.last;
            let was_idle = self.idle.remove(&(before, slot));
            self.by_last.remove(&(before, slot));
            self.by_last.insert((last, slot));
            if before == 0 {
                self.by_made.insert(made, slot);
            }
            if was_idle {
                self.idle.insert((last, slot));
            }
        }
        if self.channels[slot as usize].is_idle() {
            return;
        }
        self.idle.remove(&(self.channels[slot as usize].last, slot));
    }

    /// Trims a channel to its bounds in so many steps at most, which are counted down. Is it within them now? If not, the
    /// keeper goes on.
    pub(crate) fn trim(&mut self, slot: Slot, now: Time, steps: &mut usize) -> bool {
        self.refresh(slot);
        let mut is_trimmed = false;
        while self.channels[slot as usize].is_beyond_bounds(now) {
            let Some(left) = steps.checked_sub(1) else {
                self.untrimmed.insert(slot);
                return false;
            };
            *steps = left;
            self.pop_oldest(slot);
            is_trimmed = true;
        }
        if is_trimmed {
            self.settle_idle(slot);
        }
        true
    }

    /// Is there a channel that has to be trimmed further?
    pub(crate) fn has_untrimmed(&self) -> bool {
        !self.untrimmed.is_empty()
    }

    /// Takes out one of them.
    pub(crate) fn take_untrimmed(&mut self) -> Option<Slot> {
        self.untrimmed.pop_first()
    }

    /// Forgets the oldest publication of a channel's history; a retained value outlives that.
    pub(crate) fn pop_oldest(&mut self, slot: Slot) -> Option<Entry> {
        let channel = &mut self.channels[slot as usize];
        let entry = channel.pop_oldest()?;
        self.raise_gone(slot, entry.position);
        self.note_left(entry.position);
        self.publications -= 1;
        #[cfg(test)]
        {
            self.popped.0 += 1;
            self.popped.1 = self.popped.1.max(self.popped.0);
        }
        if self.channels[slot as usize]
            .retained
            .is_none_or(|retained| retained.position != entry.position)
        {
            self.uncount(&entry);
        }
        Some(entry)
    }

    /// Forgets a channel's history up to its floor: what is found of it while the log is read is a copy that has outlived its
    /// neighbours.
    pub(crate) fn drop_to_floor(&mut self, slot: Slot) {
        let floor = self.channels[slot as usize].floor;
        let is_below = |channel: &Channel| {
            channel
                .entries
                .front()
                .is_some_and(|entry| entry.position <= floor)
        };
        while is_below(&self.channels[slot as usize]) {
            self.pop_oldest(slot);
        }
    }

    /// Forgets a channel's history, not its retained value. Returns how many publications are gone.
    pub(crate) fn clear(&mut self, slot: Slot) -> usize {
        self.clear_some(slot, usize::MAX)
    }

    /// The same of the oldest `most` of it.
    pub(crate) fn clear_some(&mut self, slot: Slot, most: usize) -> usize {
        let mut gone = 0;
        while gone < most && self.channels.contains(slot as usize) && self.pop_oldest(slot).is_some() {
            gone += 1;
        }
        gone
    }

    /// There is no retained value any more. Returns it, and whether it had outlived its neighbours.
    pub(crate) fn release_retained(&mut self, slot: Slot) -> Option<(Entry, bool)> {
        let channel = self.channels.get_mut(slot as usize)?;
        let entry = channel.retained.take()?;
        let outside = !channel.has(entry.position);
        if outside {
            self.raise_gone(slot, entry.position);
            self.uncount(&entry);
        }
        Some((entry, outside))
    }

    /// A publication of a channel cannot be read: it is gone, and so counts everything before it.
    pub(crate) fn lose(&mut self, slot: Slot, position: u64) {
        self.raise_gone(slot, position);
        let Some(channel) = self.channels.get_mut(slot as usize) else {
            return;
        };
        let retained = channel.retained.take_if(|entry| entry.position == position);
        if let Some(entry) = channel.remove(position) {
            self.note_left(position);
            self.publications -= 1;
            self.uncount(&entry);
        } else if let Some(entry) = retained {
            self.uncount(&entry);
        }
        self.settle_idle(slot);
    }

    /// Where a publication is kept by a channel, and as what (see `format::body::IN_HISTORY`).
    pub(crate) fn kept_at(&self, slot: Slot, position: u64) -> Option<(Entry, bool, bool)> {
        let channel = self.get(slot)?;
        let retained = channel.retained.filter(|entry| entry.position == position);
        match channel.entry(position) {
            Some(entry) => Some((*entry, true, retained.is_some())),
            None => retained.map(|entry| (entry, false, true)),
        }
    }

    /// A publication was copied: it is elsewhere now.
    pub(crate) fn relocate(&mut self, slot: Slot, old: &Entry, segment: u32, offset: u32, weight: u32) {
        let Some((current, in_history, is_retained)) = self.kept_at(slot, old.position) else {
            return;
        };
        if (current.segment, current.offset) != (old.segment, old.offset) {
            return;
        }
        let moved = Entry {
            segment,
            offset,
            weight,
            ..current
        };
        let channel = &mut self.channels[slot as usize];
        if in_history {
            channel.replace(moved);
        }
        if is_retained {
            channel.retained = Some(moved);
        }
        channel.copied = channel.copied.max(segment);
        self.uncount(&current);
        self.count(&moved);
    }

    /// Channels whose oldest publication may be too old by now are trimmed, in about so many steps. When to come again.
    pub(crate) fn expire(&mut self, now: Time, mut steps: usize) -> Option<Time> {
        while steps > 0 {
            let Reverse((due, slot, made)) = *self.deadlines.peek()?;
            if u64::from(due) * 1000 > now {
                break;
            }
            self.deadlines.pop();
            steps -= 1;
            if let Some(channel) = self.channels.get_mut(slot as usize)
                && channel.made == made
            {
                channel.scheduled = false;
                self.trim(slot, now, &mut steps);
                if self.channels.contains(slot as usize) {
                    self.schedule(slot);
                }
            }
        }
        self.next_deadline()
    }

    /// Takes up the namespaces that hold by now.
    pub(crate) fn refresh(&mut self, slot: Slot) {
        let channel = &mut self.channels[slot as usize];
        if channel.version != self.version {
            channel.version = self.version;
            channel.bounds = self.namespaces.of(&channel.name).history;
            // Shorter than it was: the entry that waits would come too late. That one finds nothing to do.
            channel.scheduled = false;
            self.schedule(slot);
        }
    }

    fn schedule(&mut self, slot: Slot) {
        let channel = &mut self.channels[slot as usize];
        if channel.scheduled {
            return;
        }
        if let Some(due) = channel.expires() {
            channel.scheduled = true;
            let made = channel.made;
            self.deadlines.push(Reverse((due, slot, made)));
        }
    }

    fn count(&mut self, entry: &Entry) {
        self.live += u64::from(entry.weight);
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.live += u64::from(entry.weight);
            segment.places += 1;
        }
    }

    fn uncount(&mut self, entry: &Entry) {
        self.live -= u64::from(entry.weight);
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.live -= u64::from(entry.weight);
            segment.places -= 1;
        }
    }
}

fn name_cost(name: &ChannelName) -> usize {
    name.as_bytes().len() + NAME_OVERHEAD
}
