//! What the hub's lock guards: the channels, their order, and everything that changes with an append.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use slab::Slab;

use super::submit::Submitted;
use super::{Collected, Delete, Options, PublishError, Receipt, Stats};
use crate::Time;
use crate::broker::{Broker, Page};
use crate::channel::{Channel, ChannelId, ChannelName};
use crate::idempotency::Keys;
use crate::log::{Log, Trimmed};
use crate::names::Names;
use crate::namespace::{Bounds, Durability, Namespace, Namespaces};
use crate::order::Order;
use crate::position::{Position, Source};
use crate::presence::Presence;
use crate::publication::{Body, Message, Place, Places, Publication};
use crate::registry::{Matches, Patterns};
use crate::shares::{Share, Shares};

/// How much of the housekeeping an append does on its way: at least as much as an append makes.
const CHORES: usize = 2;

/// A shard copies out about so many bytes at a time: it lays them end to end, once per format.
const ROUND_BYTES: usize = 4 << 20;

/// The live window keeps at least so many publications of a channel, whatever the others do.
pub(super) const WINDOW_MINIMUM: usize = 16;

/// What outlives the live window by nothing.
const NOTHING: Bounds = Bounds {
    count: 0,
    bytes: 0,
    age: 0,
};

/// What a channel's name costs besides its bytes: its allocation, and its places in the tables. What else a channel costs is
/// bounded by their number. So a million channels with names of 70 bytes fit into the defaults.
const NAME_OVERHEAD: usize = 64;

/// Names may take this part of the memory of all logs: they must not push out everybody's history.
const NAMES_PART: usize = 2;

/// A clock that jumps further than this is not believed at once: expiry would empty every history.
const CLOCK_JUMP: Time = 3_600_000;

/// What the hub knows of one channel.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) channel: Arc<Channel>,
    /// The channel's namespace, where no other lock is needed to read it.
    namespace: Arc<Namespace>,
    pub(super) log: Log,
    /// The newest message's offset.
    pub(super) offset: u64,
    /// The positions of the newest publication, per source.
    pub(super) last: Position,
    /// The shards with listeners, a bit each.
    pub(super) shards: u64,
    pub(super) presence: Option<Box<Presence>>,
    /// The patterns that match, as far as it was compared with them.
    matches: Matches,
    /// Its shares; none while it keeps nothing.
    shares: Option<Box<EntryShares>>,
    /// For which time it is in the heap of what grows old, if it is; what else the heap has of it is outdated.
    expiring: Option<Time>,
    /// The position of the retained value in the store, whether memory has it or not; 0: there is none.
    pub(super) retained: u64,
    /// Its number in the order in which channels were made.
    made: u64,
    /// Since when it is idle; [`BUSY`]: it is not.
    pub(super) idle: Time,
}

/// A channel's share in the live window, and in all memory of logs.
#[derive(Debug, Default)]
struct EntryShares {
    window: Share,
    memory: Share,
}

/// The time since when a channel is idle that is not.
pub(super) const BUSY: Time = Time::MAX;

/// There are too many channels, this many.
pub(super) struct Full(pub(super) usize);

impl From<Full> for PublishError {
    fn from(full: Full) -> Self {
        PublishError::TooManyChannels(full.0)
    }
}

/// See the module.
pub(super) struct State {
    pub(super) options: Options,
    /// Keeps the histories of durable channels; it is told which of them the hub has.
    pub(super) broker: Option<Arc<dyn Broker>>,
    /// The newest visible position.
    pub(super) visible: Position,
    /// Durable publications up to here may have left memory: the store has to be asked for them.
    pub(super) hot_from: u64,
    /// How far each shard has seen.
    pub(super) seen: Vec<(u8, Position)>,
    names: Names,
    pub(super) entries: Slab<Entry>,
    generation: u32,
    /// Channels in the order they were made, for listing.
    pub(super) made: BTreeMap<u64, ChannelId>,
    made_next: u64,
    pub(super) order: Order,
    pub(super) patterns: Patterns,
    pub(super) keys: Keys,
    /// The newest that any log has let go.
    pub(super) trimmed: Trimmed,
    /// The same of the news about members.
    pub(super) trimmed_news: Trimmed,
    /// The newest that a forgotten channel had let go: an older cursor on an unknown channel is a gap.
    forgotten: Trimmed,
    /// The same of the news about members.
    forgotten_news: Trimmed,
    /// Publications that left early, by realm.
    pub(super) trimmed_early: HashMap<u16, u64>,
    /// What the store has not answered yet, by ticket.
    pub(super) submitted: FxHashMap<u64, Submitted>,
    /// The channels of these, with how many there are of each: they are not forgotten.
    pub(super) awaited: FxHashMap<ChannelId, u32>,
    ticket: u64,
    window: Shares,
    memory: Shares,
    /// What the names of all channels keep in memory, in bytes; part of the same ceiling.
    names_bytes: usize,
    /// When the oldest entry of a channel grows too old.
    expiring: BinaryHeap<Reverse<(Time, ChannelId)>>,
    /// Channels that nobody needs, by the time since when; looked at lazily.
    idle: VecDeque<(Time, ChannelId)>,
    /// When presence of a channel has something to announce; looked at lazily.
    pub(super) presence_due: BinaryHeap<Reverse<(Time, ChannelId)>>,
    pub(super) last_time: Time,
    /// What the clock said last, and is the hub's time on its way there after a jump?
    clock: Time,
    catching_up: bool,
    published: u64,
    /// Messages that were answered when they were taken, and could then not be stored.
    pub(super) lost: u64,
}

impl State {
    pub(super) fn new(options: Options, broker: Option<Arc<dyn Broker>>) -> Self {
        let durable = broker.as_ref().map_or(0, |broker| broker.position());
        let mut keys = Keys::new(options.idempotency_window, options.idempotency_keys);
        if let Some(broker) = &broker {
            keys.remember(broker.remembered());
        }
        let visible = Position { durable, memory: 0 };
        Self {
            options,
            broker,
            visible,
            hot_from: durable,
            seen: Vec::new(),
            names: Names::default(),
            entries: Slab::new(),
            generation: 0,
            made: BTreeMap::new(),
            made_next: 0,
            order: Order::default(),
            patterns: Patterns::default(),
            keys,
            trimmed: Trimmed::default(),
            trimmed_news: Trimmed::default(),
            forgotten: Trimmed::default(),
            forgotten_news: Trimmed::default(),
            trimmed_early: HashMap::new(),
            submitted: FxHashMap::default(),
            awaited: FxHashMap::default(),
            ticket: 0,
            window: Shares::default(),
            memory: Shares::default(),
            names_bytes: 0,
            expiring: BinaryHeap::new(),
            idle: VecDeque::new(),
            presence_due: BinaryHeap::new(),
            last_time: 0,
            clock: 0,
            catching_up: false,
            published: 0,
            lost: 0,
        }
    }

    /// The time, never going back. When it jumps ahead by more than an hour while something is kept, it stands still, and
    /// then runs twice as fast until it has caught up, or the clock has come back.
    ///
    /// A machine that slept, or whose clock was set, must not lose every history at once. A hub that nobody called for
    /// long is no such machine: [`State::deadline`] asks to be called in between, as long as something is kept.
    pub(super) fn clock(&mut self, now: Time) -> Time {
        let passed = now.saturating_sub(self.clock);
        let came_back = now < self.clock && now <= self.last_time.saturating_add(CLOCK_JUMP);
        self.clock = now;
        if passed > CLOCK_JUMP && self.last_time != 0 && !self.order.is_empty() {
            self.catching_up = true;
        } else if self.catching_up && self.last_time < now && !came_back {
            self.last_time = now.min(self.last_time.saturating_add(passed.saturating_mul(2)));
            self.catching_up = self.last_time < now;
        } else {
            self.catching_up = false;
            self.last_time = self.last_time.max(now);
        }
        self.last_time
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    pub(super) fn channel(&self, id: ChannelId) -> Option<&Entry> {
        self.entries
            .get(id.slot as usize)
            .filter(|entry| entry.channel.id == id)
    }

    pub(super) fn channel_mut(&mut self, id: ChannelId) -> Option<&mut Entry> {
        self.entries
            .get_mut(id.slot as usize)
            .filter(|entry| entry.channel.id == id)
    }

    pub(super) fn find(&self, name: &ChannelName) -> Option<&Entry> {
        let slot = self.slot_of(name)?;
        self.entries.get(slot as usize)
    }

    pub(super) fn find_id(&self, name: &ChannelName) -> Option<ChannelId> {
        self.find(name).map(|entry| entry.channel.id)
    }

    fn slot_of(&self, name: &ChannelName) -> Option<u32> {
        self.names
            .find(name, |slot| self.entries[slot as usize].channel.name == *name)
    }

    pub(super) fn namespace_of(&self, name: &ChannelName) -> Arc<Namespace> {
        match self.find(name) {
            Some(entry) => entry.namespace.clone(),
            None => self.options.namespaces.of(name).clone(),
        }
    }

    pub(super) fn set_namespaces(&mut self, namespaces: Namespaces) {
        self.options.namespaces = namespaces;
    }

    /// Looks at so many channels, in the order they were made, and puts those into another namespace for which another one
    /// holds now. Returns where to go on.
    pub(super) fn renew_namespaces(&mut self, after: u64, limit: usize) -> Option<u64> {
        let found: Vec<(u64, ChannelId)> = self
            .made
            .range(after + 1..)
            .take(limit)
            .map(|(made, id)| (*made, *id))
            .collect();
        for (_, id) in &found {
            self.renew_namespace(*id);
        }
        found
            .last()
            .filter(|_| found.len() == limit)
            .map(|(made, _)| *made)
    }

    fn renew_namespace(&mut self, id: ChannelId) {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return;
        };
        let mut namespace = self.options.namespaces.of(&entry.channel.name).clone();
        if namespace.durability != entry.channel.durability {
            namespace = Arc::new(Namespace {
                durability: entry.channel.durability,
                ..(*namespace).clone()
            });
        }
        if namespace == entry.namespace {
            return;
        }
        entry.namespace = namespace.clone();
        entry.channel.set_namespace(namespace);
        let now = self.last_time;
        self.settle(id, now);
        self.expire_next(id, now);
    }

    /// Finds a channel, or makes it.
    pub(super) fn open(&mut self, name: &ChannelName, now: Time) -> Result<ChannelId, Full> {
        if let Some(id) = self.find_id(name) {
            return Ok(id);
        }
        if !self.has_room(name) {
            self.forget_idle(now, true);
            if !self.has_room(name) {
                return Err(Full(self.entries.len()));
            }
        }
        Ok(self.make(name))
    }

    /// May there be one more channel, of this name?
    fn has_room(&self, name: &ChannelName) -> bool {
        let names = self.names_bytes + name_cost(name);
        self.entries.len() < self.options.channels && names <= self.options.log_memory / NAMES_PART
    }

    /// Finds a channel, or makes it, be there too many or not: what is stored has to be shown.
    pub(super) fn open_stored(&mut self, name: &ChannelName, now: Time) -> ChannelId {
        match self.find_id(name) {
            Some(id) => id,
            None => {
                let id = self.make(name);
                self.maybe_idle(id, now);
                id
            }
        }
    }

    /// Finds or makes the channels of what was fetched: a pattern finds some in the store that nobody has named since the start.
    pub(super) fn open_page(&mut self, page: &Page) {
        let now = self.last_time;
        let stored = page.stored.iter().flat_map(|stored| &stored.places);
        for (name, _) in stored.chain(&page.gaps) {
            self.open_stored(name, now);
        }
    }

    fn make(&mut self, name: &ChannelName) -> ChannelId {
        let namespace = self.options.namespaces.of(name).clone();
        let store = self.broker.as_ref().filter(|_| namespace.durability.is_stored());
        let stored = store.map(|broker| broker.open(name));
        self.generation = self.generation.wrapping_add(1);
        let slot = self.entries.vacant_entry();
        let id = ChannelId {
            slot: slot.key() as u32,
            generation: self.generation,
        };
        self.made_next += 1;
        // Of a channel in memory: the incarnation, and its number in it.
        let made = u64::from(self.options.incarnation) << 32 | self.made_next & u64::from(u32::MAX);
        let epoch = stored.map_or(made, |stored| stored.epoch);
        // Whoever comes from before what was forgotten has something to be told, though the channel looks new. Of a stored
        // history that is for the store to say.
        let (gone, last) = match stored {
            Some(stored) => (Trimmed::default(), stored.position),
            None => (self.forgotten, self.forgotten.max(self.forgotten_news).durable),
        };
        let memory = gone.max(self.forgotten_news).memory.memory;
        slot.insert(Entry {
            channel: Arc::new(Channel::new(id, name.clone(), epoch, namespace.clone())),
            namespace,
            log: Log::new(gone),
            offset: stored.map_or(0, |stored| stored.offset),
            last: Position {
                durable: last,
                memory,
            },
            shards: 0,
            // What was gone before is remembered, even before there are members again.
            presence: (self.forgotten_news != Trimmed::default())
                .then(|| Box::new(Presence::new(self.forgotten_news))),
            matches: Matches::default(),
            shares: None,
            expiring: None,
            retained: stored.map_or(0, |stored| stored.retained),
            made: self.made_next,
            idle: BUSY,
        });
        self.names_bytes += name_cost(name);
        self.names.insert(name, id.slot);
        self.made.insert(self.made_next, id);
        id
    }

    /// All or none of the channels of a message.
    pub(super) fn open_all(
        &mut self,
        names: &[ChannelName],
        now: Time,
    ) -> Result<Vec<ChannelId>, PublishError> {
        let mut ids = Vec::with_capacity(names.len());
        for name in names {
            let id = self.open(name, now)?;
            self.maybe_idle(id, now);
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        // To make room for the last, the first may have been forgotten: nobody needed them yet.
        if ids.iter().any(|id| self.channel(*id).is_none()) {
            return Err(Full(self.entries.len()).into());
        }
        Ok(ids)
    }

    /// Appends a publication of the memory source: it is visible.
    pub(super) fn append_memory(
        &mut self,
        channels: &[ChannelId],
        body: Body,
        accepted: u64,
        now: Time,
    ) -> (Receipt, u64) {
        let at = Position {
            memory: self.visible.memory + 1,
            ..self.visible
        };
        let counted = !body.is_presence();
        let mut places = Vec::with_capacity(channels.len());
        for id in channels {
            if let Some(entry) = self.channel_mut(*id) {
                let offset = if counted { entry.offset + 1 } else { 0 };
                places.push((*id, offset));
            }
        }
        self.append(Source::Memory, at, &places, (body, accepted), now)
    }

    /// Appends what the broker committed, with the offsets in those of its channels that it was stored in: it is visible.
    pub(super) fn append_durable(
        &mut self,
        message: &Message,
        position: u64,
        offsets: &[(ChannelName, u64)],
        now: Time,
    ) -> (Receipt, u64) {
        let at = Position {
            durable: position,
            ..self.visible
        };
        let mut places: Vec<(ChannelId, u64)> = Vec::with_capacity(message.channels.len());
        for name in &message.channels {
            // Opened when it was submitted; if it was forgotten meanwhile, it is made again, beyond the limit if need be.
            let id = self.open_stored(name, now);
            if places.iter().any(|(other, _)| *other == id) {
                continue;
            }
            // A channel in memory, beside a durable one in the same message, counts on by itself.
            let counted = self.channel(id).filter(|entry| !entry.channel.is_stored());
            let stored = offsets.iter().find(|(other, _)| other == name);
            let offset = match (counted, stored) {
                (Some(entry), _) => entry.offset + 1,
                (None, Some((_, offset))) => *offset,
                // It has become durable meanwhile, but this is not in its history.
                (None, None) => continue,
            };
            places.push((id, offset));
        }
        let body = Body::Message {
            payload: message.payload.clone(),
            attributes: message.attributes.clone(),
            retain: message.retain,
        };
        self.append(Source::Durable, at, &places, (body, message.accepted), now)
    }

    fn append(
        &mut self,
        source: Source,
        at: Position,
        channels: &[(ChannelId, u64)],
        (body, accepted): (Body, u64),
        now: Time,
    ) -> (Receipt, u64) {
        let mut audience = 0;
        let mut places = Vec::with_capacity(channels.len());
        for (id, offset) in channels {
            let patterns = self.matches(*id);
            for pattern in patterns.iter().flat_map(|ids| ids.iter()) {
                audience |= self.patterns.get(*pattern).map_or(0, |listened| listened.shards);
            }
            let Some(entry) = self.channel_mut(*id) else {
                continue;
            };
            audience |= entry.shards;
            places.push(Place {
                channel: entry.channel.clone(),
                offset: *offset,
                patterns,
            });
        }
        let places = Places::from(places);
        let publication = Arc::new(Publication {
            source,
            at,
            time: now,
            accepted,
            places,
            audience,
            body,
        });
        self.visible = at;
        self.published += 1;
        self.keep(&publication);
        for (shard, seen) in &mut self.seen {
            // A shard that has seen everything and is not concerned needs no visit.
            if audience & (1u64 << *shard) == 0 && seen.sequence() + 1 == at.sequence() {
                *seen = at;
            }
        }
        for _ in 0..CHORES {
            if !self.slide(now) {
                break;
            }
        }
        self.enforce_ceilings();
        (
            Receipt {
                places: publication.places.clone(),
                at,
                duplicate: false,
            },
            audience,
        )
    }

    /// Puts a publication into the logs of its channels, and into the order.
    fn keep(&mut self, publication: &Arc<Publication>) {
        let size = publication.size();
        let position = publication.at.durable;
        let presence = publication.body.is_presence();
        let retain = matches!(publication.body, Body::Message { retain: true, .. });
        let mut keepers = publication.places.len() as u32;
        let mut replaced = Vec::new();
        for place in publication.places.iter() {
            let id = place.channel.id;
            let realm = place.channel.name.realm();
            let Some(entry) = self.entries.get_mut(id.slot as usize) else {
                continue;
            };
            entry.last = entry.last.advanced(publication.source, publication.at);
            entry.idle = BUSY;
            if presence {
                entry
                    .presence
                    .get_or_insert_default()
                    .news
                    .push(publication.clone());
            } else {
                entry.offset = place.offset;
                entry.log.push(publication.clone());
                if retain {
                    if entry.channel.is_stored() {
                        entry.retained = position;
                    }
                    keepers += 1;
                    replaced.extend(
                        entry
                            .log
                            .retain(publication.clone())
                            .map(|(old, gone)| (id, old, gone)),
                    );
                }
                if entry.expiring.is_none()
                    && let Some(at) = entry.log.expires(&entry.namespace.history)
                {
                    entry.expiring = Some(at);
                    self.expiring.push(Reverse((at, id)));
                }
            }
            let shares = entry.shares.get_or_insert_default();
            self.window.grow(realm, id, &mut shares.window, size);
            self.memory.grow(realm, id, &mut shares.memory, size);
        }
        self.order.push(publication.clone(), keepers);
        for (id, old, gone) in replaced {
            self.let_go_retained(id, &old, gone);
        }
    }

    /// The patterns that match a channel, brought up to date only when their table has changed.
    fn matches(&mut self, id: ChannelId) -> Option<Arc<[u32]>> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        self.patterns.update(&entry.channel.name, &mut entry.matches);
        entry.matches.ids.clone()
    }

    /// Copies out what lies between a shard's mark and the newest.
    pub(super) fn collect(&mut self, shard: u8, limit: usize, out: &mut Vec<Arc<Publication>>) -> Collected {
        let visible = self.visible;
        let trimmed = self.order.trimmed();
        let Some(seen) = self
            .seen
            .iter_mut()
            .find(|(own, _)| *own == shard)
            .map(|(_, seen)| seen)
        else {
            return Collected {
                until: visible,
                more: false,
                lagged: false,
            };
        };
        if seen.sequence() == visible.sequence() {
            return Collected {
                until: visible,
                more: false,
                lagged: false,
            };
        }
        let lagged = trimmed > seen.sequence();
        if lagged {
            *seen = visible;
            return Collected {
                until: visible,
                more: false,
                lagged,
            };
        }
        let bit = 1u64 << shard;
        let (mut taken, mut bytes) = (0, 0);
        for publication in self.order.after(seen.sequence()) {
            if taken == limit || bytes >= ROUND_BYTES {
                return Collected {
                    until: *seen,
                    more: true,
                    lagged,
                };
            }
            *seen = publication.at;
            if publication.audience & bit != 0 {
                out.push(publication.clone());
                taken += 1;
                bytes += publication.size();
            }
        }
        *seen = visible;
        Collected {
            until: visible,
            more: false,
            lagged,
        }
    }

    /// One publication leaves the live window, if its time has come.
    pub(super) fn slide(&mut self, now: Time) -> bool {
        self.order.skip_holes();
        let Some(publication) = self.order.window_front().cloned() else {
            return false;
        };
        if publication.time.saturating_add(self.options.window) > now {
            return false;
        }
        let sequence = publication.sequence();
        self.order.leave_window();
        for place in publication.places.iter() {
            let id = place.channel.id;
            let Some(entry) = self
                .entries
                .get_mut(id.slot as usize)
                .filter(|e| e.channel.id == id)
            else {
                continue;
            };
            let mut freed = entry.log.unprotect_through(sequence);
            if let Some(presence) = &mut entry.presence {
                freed += presence.news.unprotect_through(sequence);
            }
            if let Some(shares) = &mut entry.shares {
                self.window
                    .shrink(place.channel.name.realm(), &mut shares.window, freed);
            }
            self.settle(id, now);
        }
        true
    }

    /// When the next publication leaves the live window.
    pub(super) fn slide_due(&self) -> Option<Time> {
        let next = self.order.window_front()?;
        Some(next.time.saturating_add(self.options.window))
    }

    /// Trims a channel to its bounds.
    pub(super) fn settle(&mut self, id: ChannelId, now: Time) {
        loop {
            let Some(entry) = self.channel_mut(id) else { return };
            let bounds = memory_bounds(&entry.namespace);
            if !entry.log.is_over(&bounds, now) {
                break;
            }
            self.trim(id);
        }
        loop {
            let Some(entry) = self.channel_mut(id) else { return };
            let Some(presence) = &mut entry.presence else {
                break;
            };
            if !presence.news.is_over(&NOTHING, now) {
                break;
            }
            self.trim_news(id);
        }
        self.maybe_idle(id, now);
    }

    /// Lets the oldest publication of a channel go.
    fn trim(&mut self, id: ChannelId) -> bool {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return false;
        };
        let protected = entry.log.protected_bytes();
        let Some((publication, retained)) = entry.log.trim() else {
            return false;
        };
        let freed = protected - entry.log.protected_bytes();
        self.let_go(id, &publication, freed, !retained);
        true
    }

    fn trim_news(&mut self, id: ChannelId) -> bool {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return false;
        };
        let Some(presence) = &mut entry.presence else {
            return false;
        };
        let protected = presence.news.protected_bytes();
        let Some((publication, _)) = presence.news.trim() else {
            return false;
        };
        let freed = protected - presence.news.protected_bytes();
        self.let_go(id, &publication, freed, true);
        true
    }

    /// A log let a publication go; it is gone unless the log keeps it as the retained value.
    fn let_go(&mut self, id: ChannelId, publication: &Arc<Publication>, protected: usize, gone: bool) {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return;
        };
        let realm = entry.channel.name.realm();
        if let Some(shares) = &mut entry.shares {
            self.window.shrink(realm, &mut shares.window, protected);
            if gone {
                self.memory.shrink(realm, &mut shares.memory, publication.size());
            }
        }
        if gone {
            self.note_gone(id, publication);
        }
        self.order.release(publication.sequence());
    }

    /// A publication is not the retained value any more, and gone if it had outlived its neighbours.
    fn let_go_retained(&mut self, id: ChannelId, publication: &Arc<Publication>, gone: bool) {
        if gone {
            if let Some(entry) = self.entries.get_mut(id.slot as usize) {
                let realm = entry.channel.name.realm();
                if let Some(shares) = &mut entry.shares {
                    self.memory.shrink(realm, &mut shares.memory, publication.size());
                }
            }
            self.note_gone(id, publication);
        }
        self.order.release(publication.sequence());
    }

    /// What a log has let go, its channel's patterns have lost as well. Of a durable channel it is still in the store, which
    /// says itself what is gone; a channel in memory is never read from there, whatever its publications were stored for.
    fn note_gone(&mut self, id: ChannelId, publication: &Publication) {
        let (source, at) = (publication.source, publication.at);
        let news = publication.body.is_presence();
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return;
        };
        if source == Source::Durable && entry.channel.is_stored() {
            self.hot_from = self.hot_from.max(at.durable);
            return;
        }
        match &mut entry.presence {
            Some(presence) if news => presence.news.trimmed.note(source, at),
            _ => entry.log.trimmed.note(source, at),
        }
        // Patterns that came after the channel's last publication are among those that match now.
        let patterns = self.matches(id);
        for pattern in patterns.iter().flat_map(|ids| ids.iter()) {
            if let Some(listened) = self.patterns.get_mut(*pattern) {
                let trimmed = if news {
                    &mut listened.trimmed_news
                } else {
                    &mut listened.trimmed
                };
                trimmed.note(source, at);
            }
        }
        let trimmed = if news {
            &mut self.trimmed_news
        } else {
            &mut self.trimmed
        };
        trimmed.note(source, at);
    }

    /// At a ceiling the largest share gives way first.
    fn enforce_ceilings(&mut self) {
        let share_of: for<'a> fn(&'a mut Slab<Entry>, ChannelId) -> Option<&'a mut Share> = |entries, id| {
            entries
                .get_mut(id.slot as usize)
                .filter(|e| e.channel.id == id)
                .and_then(|e| Some(&mut e.shares.as_mut()?.window))
        };
        while self.window.total() > self.options.window_bytes {
            let Some(id) = self.window.largest(&mut self.entries, share_of) else {
                break;
            };
            let entry = &mut self.entries[id.slot as usize];
            let realm = entry.channel.name.realm();
            let mut freed = 0;
            // A few at a time, so that a channel stays the largest for a while and is not looked up for each.
            for _ in 0..WINDOW_MINIMUM {
                freed += entry.log.unprotect_oldest(WINDOW_MINIMUM).unwrap_or(0);
                if let Some(presence) = &mut entry.presence {
                    freed += presence.news.unprotect_oldest(WINDOW_MINIMUM).unwrap_or(0);
                }
            }
            if freed == 0 {
                // Every large channel is at its minimum: the ceiling of all logs is the one that holds then.
                break;
            }
            if let Some(shares) = &mut entry.shares {
                self.window.shrink(realm, &mut shares.window, freed);
            }
            let before = entry.log.len();
            self.settle(id, self.last_time);
            self.count_early(id, before);
        }
        let share_of: for<'a> fn(&'a mut Slab<Entry>, ChannelId) -> Option<&'a mut Share> = |entries, id| {
            entries
                .get_mut(id.slot as usize)
                .filter(|e| e.channel.id == id)
                .and_then(|e| Some(&mut e.shares.as_mut()?.memory))
        };
        while self.memory.total() + self.names_bytes > self.options.log_memory {
            let Some(id) = self.memory.largest(&mut self.entries, share_of) else {
                break;
            };
            let before = self.entries[id.slot as usize].log.len();
            if !self.trim(id) && !self.trim_news(id) && !self.release_outlived(id) {
                break;
            }
            self.count_early(id, before);
        }
    }

    /// Lets the retained value go that has outlived its neighbours: it is all that is left of the largest channel.
    fn release_outlived(&mut self, id: ChannelId) -> bool {
        let released = self
            .channel_mut(id)
            .and_then(|entry| entry.log.release_retained());
        let Some((old, gone)) = released else { return false };
        self.let_go_retained(id, &old, gone);
        if let Some(entry) = self.channel(id) {
            let realm = entry.channel.name.realm().0;
            *self.trimmed_early.entry(realm).or_default() += 1;
        }
        self.maybe_idle(id, self.last_time);
        true
    }

    fn count_early(&mut self, id: ChannelId, before: usize) {
        if let Some(entry) = self.channel(id) {
            let count = before.saturating_sub(entry.log.len()) as u64;
            let realm = entry.channel.name.realm().0;
            *self.trimmed_early.entry(realm).or_default() += count;
        }
    }

    /// Lets go what has grown older than its namespace allows. Returns false when nothing is due.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let Some(Reverse((at, id))) = self.expiring.peek().copied() else {
            return false;
        };
        if at > now {
            return false;
        }
        self.expiring.pop();
        if self.channel(id).is_none_or(|entry| entry.expiring != Some(at)) {
            return true;
        }
        self.settle(id, now);
        self.expire_next(id, now);
        true
    }

    /// Puts a channel into the heap of what grows old, for the time when its oldest entry will be.
    fn expire_next(&mut self, id: ChannelId, now: Time) {
        let window = self.options.window;
        let Some(entry) = self.channel_mut(id) else { return };
        // What is old enough but within the live window goes when it leaves that.
        let next = entry
            .log
            .expires(&entry.namespace.history)
            .map(|next| if next <= now { now + window } else { next });
        if next == entry.expiring && next.is_some_and(|next| next > now) {
            return;
        }
        entry.expiring = next;
        self.expiring.extend(next.map(|next| Reverse((next, id))));
    }

    pub(super) fn expire_due(&self) -> Option<Time> {
        self.expiring.peek().map(|Reverse((at, _))| *at)
    }

    /// Nobody needs the channel: it may be forgotten.
    pub(super) fn maybe_idle(&mut self, id: ChannelId, now: Time) {
        let awaited = self.awaited.contains_key(&id);
        let Some(entry) = self.channel_mut(id) else { return };
        if entry.log.is_empty() && entry.presence.is_none() {
            // It keeps nothing, so its shares are nothing.
            entry.shares = None;
        }
        if awaited || !entry.is_idle() {
            entry.idle = BUSY;
        } else if entry.idle == BUSY {
            entry.idle = now;
            self.idle.push_back((now, id));
        }
    }

    /// Forgets channels that have been idle for long enough; all idle ones if there are too many.
    pub(super) fn forget_idle(&mut self, now: Time, all: bool) {
        let mut left = 1024;
        while let Some((since, id)) = self.idle.front().copied() {
            if left == 0 || !all && since.saturating_add(self.options.forget_after) > now {
                return;
            }
            self.idle.pop_front();
            let awaited = self.awaited.contains_key(&id);
            // It was needed in between, and is queued again when it no longer is.
            let Some(entry) = self.channel_mut(id).filter(|e| e.idle == since) else {
                continue;
            };
            if !awaited && entry.is_idle() {
                left -= 1;
                self.forget(id);
            } else {
                entry.idle = BUSY;
            }
        }
    }

    pub(super) fn forget_due(&self) -> Option<Time> {
        self.idle
            .front()
            .map(|(since, _)| since.saturating_add(self.options.forget_after))
    }

    fn forget(&mut self, id: ChannelId) {
        let entry = self.entries.remove(id.slot as usize);
        self.names_bytes -= name_cost(&entry.channel.name);
        self.names.remove(&entry.channel.name, id.slot);
        self.forgotten = self.forgotten.max(entry.log.trimmed);
        if let Some(presence) = &entry.presence {
            self.forgotten_news = self.forgotten_news.max(presence.news.trimmed);
        }
        self.made.remove(&entry.made);
        if entry.channel.is_stored()
            && let Some(broker) = &self.broker
        {
            broker.close(&entry.channel.name);
        }
    }

    /// Something of the channel waits for the store.
    pub(super) fn await_store(&mut self, id: ChannelId) {
        *self.awaited.entry(id).or_default() += 1;
        if let Some(entry) = self.channel_mut(id) {
            entry.idle = BUSY;
        }
    }

    /// The store has answered.
    pub(super) fn answered(&mut self, id: ChannelId, now: Time) {
        if let Some(count) = self.awaited.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(&id);
                self.maybe_idle(id, now);
            }
        }
    }

    pub(super) fn delete(&mut self, name: &ChannelName, what: Delete, now: Time) -> usize {
        match self.find_id(name) {
            Some(id) => self.delete_in(id, what, now),
            None => 0,
        }
    }

    /// Forgets something of a channel, as far as it is in memory; of a stored one when the store has.
    pub(super) fn delete_in(&mut self, id: ChannelId, what: Delete, now: Time) -> usize {
        let mut deleted = 0;
        let released = self.channel_mut(id).and_then(|entry| {
            entry.retained = 0;
            entry.log.release_retained()
        });
        if let Some((old, gone)) = released {
            deleted += usize::from(gone || what == Delete::Retained);
            self.let_go_retained(id, &old, gone);
        }
        if what == Delete::History {
            while self.trim(id) {
                deleted += 1;
            }
        }
        self.maybe_idle(id, now);
        deleted
    }

    pub(super) fn join(&mut self, id: ChannelId, user: &str, info: Option<Bytes>, now: Time) -> (usize, u64) {
        let limits = self.options.presence;
        let Some(entry) = self.channel_mut(id) else {
            return (0, 0);
        };
        let presence = entry.presence.get_or_insert_default();
        let news = presence.join(user, info, now, &limits);
        let (count, due) = (presence.count(), presence.ask());
        self.presence_due.extend(due.map(|at| Reverse((at, id))));
        let audience = news.map_or(0, |body| self.append_memory(&[id], body, 0, now).1);
        (count, audience)
    }

    pub(super) fn leave(&mut self, id: ChannelId, user: &str, now: Time) {
        let limits = self.options.presence;
        let Some(presence) = self.channel_mut(id).and_then(|entry| entry.presence.as_mut()) else {
            return;
        };
        presence.leave(user, now, &limits);
        let due = presence.ask();
        self.presence_due.extend(due.map(|at| Reverse((at, id))));
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            channels: self.entries.len(),
            patterns: self.patterns.len(),
            log_bytes: self.memory.total() + self.names_bytes,
            window_bytes: self.window.total(),
            publications: self.order.len(),
            published: self.published,
            trimmed_early: self.trimmed_early.values().sum(),
            keys: self.keys.len(),
            lost: self.lost,
        }
    }
}

fn name_cost(name: &ChannelName) -> usize {
    name.as_bytes().len() + NAME_OVERHEAD
}

/// What memory keeps of a channel beyond the live window: nothing, where the store keeps the history.
fn memory_bounds(namespace: &Namespace) -> Bounds {
    match namespace.durability {
        Durability::Memory => namespace.history,
        Durability::Buffered | Durability::Committed => NOTHING,
    }
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.shards == 0 && self.log.is_empty() && self.presence.as_ref().is_none_or(|p| p.is_empty())
    }
}
