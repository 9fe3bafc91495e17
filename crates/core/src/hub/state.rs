//! What the hub's lock guards: the channels, and what is made of them; who is forgotten, what time it is.

mod append;
mod charges;
mod compare;
mod keep;
mod trim;

pub(super) use compare::Behind;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use self::charges::Charges;
pub(super) use self::charges::queued;
use super::held::{HOLD, Hold};
use super::submit::Submitted;
use super::{ListenError, Options, PublishError, Stats};
use crate::Time;
use crate::broker::{Broker, BrokerError, Page};
use crate::channel::{Channel, ChannelId, ChannelName};
use crate::few::Few;
use crate::idempotency::Keys;
use crate::log::{Log, Trimmed};
use crate::names::Names;
use crate::namespace::{Namespace, Namespaces};
use crate::order::Order;
use crate::paged::Paged;
use crate::position::Position;
use crate::presence::Presence;
use crate::quota::{LEAST_ENTRIES, OverQuota, Payer};
use crate::registry::{COUNTED, Matches, Patterns};
use crate::shares::{Share, Shares};
use crate::tidy::{Table, Tidy};

/// What a channel's name costs besides its bytes: its allocation, and its places in the tables. What else a channel costs is
/// bounded by their number. So a million channels with names of 70 bytes fit into the defaults.
const NAME_OVERHEAD: usize = 64;

/// A channel in memory that keeps anything costs so many bytes besides its name and its publications: its places in the tables,
/// its log and its shares. Measured: 340 bytes with names of 12 bytes, half a million channels of one publication each.
const KEPT_CHANNEL: usize = 352;

/// Names may take this part of the memory of all logs: they must not push out everybody's history.
const NAMES_PART: usize = 2;

/// So many idle channels are forgotten in one hold of the lock.
const FORGOTTEN_AT_ONCE: usize = 256;

/// So many bytes of a name are hashed in a step.
const HASHED: usize = 64;

/// Forgetting a channel takes so many steps: it leaves several tables.
const FORGOTTEN: usize = 8;

/// A channel in which nothing was ever published stays for so long when nobody needs it, in milliseconds.
const UNUSED_STAY: Time = 1_000;

/// No more than about so many idle channels wait for their time to be forgotten.
const IDLE: usize = 65_536;

/// Of more than so many of these, each new channel makes a few give way: they come as fast as visitors can invent names.
const UNUSED: usize = 4_096;
const UNUSED_AT_ONCE: usize = 2;

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
    /// The positions of the newest publication that the hub was told of, per source; see [`State::last_of`].
    last: Position,
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
    /// Who answers for it.
    payer: Payer,
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

/// There is no room for one more channel.
pub(super) enum Full {
    /// There are too many.
    Channels {
        /// This many.
        number: usize,
        /// There may be room all the same: not all idle ones have been looked at in this hold of the lock.
        again: bool,
    },
    /// Its payer may have no more.
    Quota(OverQuota),
}

impl Full {
    /// Is it worth another hold of the lock?
    pub(super) fn is_to_be_tried_again(&self) -> bool {
        matches!(self, Self::Channels { again: true, .. })
    }
}

impl From<Full> for PublishError {
    fn from(full: Full) -> Self {
        match full {
            Full::Channels { number, .. } => PublishError::TooManyChannels(number),
            Full::Quota(over) => PublishError::Quota(over),
        }
    }
}

impl From<Full> for ListenError {
    fn from(full: Full) -> Self {
        match full {
            Full::Channels { number, .. } => ListenError::TooManyChannels(number),
            Full::Quota(over) => ListenError::Quota(over),
        }
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
    /// The store has published up to here what the hub was not told of: it may be in any stored channel.
    pub(super) passed_over: u64,
    /// How far each shard has seen.
    pub(super) seen: Vec<(u8, Position)>,
    names: Names,
    pub(super) entries: Paged<Entry>,
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
    /// Where all members left, of whom nothing was announced: with the stop before this start.
    pub(super) left: Trimmed,
    /// Tells apart which namespaces are stored; none: that changed while the hub ran.
    pub(super) durabilities: Option<u64>,
    /// Nothing is published in memory any more: what there is has been handed over.
    pub(super) closed: bool,
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
    charges: Charges,
    /// When the oldest entry of a channel grows too old.
    expiring: BinaryHeap<Reverse<(Time, ChannelId)>>,
    /// Channels that nobody needs, by the time since when; looked at lazily.
    idle: VecDeque<(Time, ChannelId)>,
    /// Those of them in which nothing was ever published.
    unused: VecDeque<(Time, ChannelId)>,
    /// When presence of a channel has something to announce; looked at lazily.
    pub(super) presence_due: BinaryHeap<Reverse<(Time, ChannelId)>>,
    pub(super) last_time: Time,
    /// What the clock said last, and is the hub's time on its way there after a jump?
    clock: Time,
    catching_up: bool,
    published: u64,
    /// Messages that were answered when they were taken, and could then not be stored.
    pub(super) lost: u64,
    /// What a channel has let go in this hold of the lock, of which its patterns have not been told yet.
    untold: Option<compare::Untold>,
    /// What has been done in this hold of the lock, in steps.
    pub(super) steps: usize,
    /// The longest hold so far.
    pub(super) longest: Hold,
    /// Somebody panicked while changing this: it is not to be kept over a restart.
    pub(super) is_broken: bool,
    /// How many wait for the lock that this is behind.
    waiting: Arc<AtomicUsize>,
}

impl State {
    pub(super) fn new(options: Options, broker: Option<Arc<dyn Broker>>, waiting: Arc<AtomicUsize>) -> Self {
        let durable = broker.as_ref().map_or(0, |broker| broker.position());
        let part = options.parts.of(options.idempotency_keys, LEAST_ENTRIES);
        let mut keys = Keys::new(options.idempotency_window, options.idempotency_keys, part);
        if let Some(broker) = &broker {
            keys.remember(broker.remembered());
        }
        let visible = Position { durable, memory: 0 };
        let durabilities = keep::durabilities(&options.namespaces);
        Self {
            options,
            broker,
            visible,
            hot_from: durable,
            passed_over: 0,
            seen: Vec::new(),
            names: Names::default(),
            entries: Paged::default(),
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
            left: Trimmed::default(),
            durabilities: Some(durabilities),
            closed: false,
            trimmed_early: HashMap::new(),
            submitted: FxHashMap::default(),
            awaited: FxHashMap::default(),
            ticket: 0,
            window: Shares::default(),
            memory: Shares::with_overhead(KEPT_CHANNEL),
            names_bytes: 0,
            charges: Charges::default(),
            expiring: BinaryHeap::new(),
            idle: VecDeque::new(),
            unused: VecDeque::new(),
            presence_due: BinaryHeap::new(),
            last_time: 0,
            clock: 0,
            catching_up: false,
            published: 0,
            lost: 0,
            untold: None,
            steps: 0,
            longest: Hold::default(),
            is_broken: false,
            waiting,
        }
    }

    /// May more be done in this hold of the lock? If not, it is given back first.
    pub(super) fn has_time(&self) -> bool {
        self.steps < HOLD
    }

    /// Does anybody wait for the lock?
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
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

    /// The positions of a channel's newest publication, per source; or later ones, where it is not known.
    pub(super) fn last_of(&self, entry: &Entry) -> Position {
        let mut last = entry.last;
        if entry.channel.is_stored() {
            last.durable = last.durable.max(self.passed_over);
        }
        last
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
        if self.durabilities != Some(keep::durabilities(&namespaces)) {
            self.durabilities = None;
        }
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
        for (made, id) in &found {
            self.renew_namespace(*id);
            if !self.has_time() {
                return Some(*made);
            }
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
        // Each rule may have to be compared.
        let rules = self.options.namespaces.listed.iter();
        let length = entry.channel.name.as_bytes().len();
        self.steps += 2 + rules.map(|(rule, _)| rule.steps(length)).sum::<usize>();
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
        if self.settle(id, now) {
            self.expire_next(id, now);
        }
    }

    /// Finds a channel, or makes it, for whoever pays until [`State::maybe_idle`] finds that nobody needs it: until that is
    /// asked, it is not forgotten.
    pub(super) fn open(&mut self, name: &ChannelName, payer: Payer, now: Time) -> Result<ChannelId, Full> {
        self.steps += name_steps(name);
        if let Some(id) = self.find_id(name) {
            self.charge(id, payer)?;
            // Whoever makes room for the next name does not take this one.
            self.entries[id.slot as usize].idle = BUSY;
            return Ok(id);
        }
        self.charge_name(payer, name_cost(name))?;
        if self.unused.len() > UNUSED {
            self.forget_unused(Time::MAX, UNUSED_AT_ONCE);
        }
        if self.idle.len() > IDLE {
            self.forget_idle(now, false);
        }
        if !self.has_room(name) {
            let again = self.forget_idle(now, true);
            if !self.has_room(name) {
                self.forget_charge(payer, name_cost(name));
                return Err(Full::Channels {
                    number: self.entries.len(),
                    again,
                });
            }
        }
        let id = self.make(name);
        self.entries[id.slot as usize].payer = payer;
        Ok(id)
    }

    /// May there be one more channel, of this name?
    fn has_room(&self, name: &ChannelName) -> bool {
        let names = self.names_bytes + name_cost(name);
        self.entries.len() < self.options.channels && names <= self.names_room()
    }

    /// What all names together may take, in bytes.
    fn names_room(&self) -> usize {
        self.options.log_memory / NAMES_PART
    }

    /// Finds a channel, or makes it, be there too many or not: what is stored has to be shown.
    pub(super) fn open_stored(&mut self, name: &ChannelName, now: Time) -> ChannelId {
        self.steps += name_steps(name);
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
        let generation = self.generation;
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
        let memory = gone.max(self.forgotten_news).max(self.left).memory.memory;
        let of = |number: usize| ChannelId {
            slot: number as u32,
            generation,
        };
        let number = self.entries.insert_with(|number| Entry {
            channel: Arc::new(Channel::new(of(number), name.clone(), epoch, namespace.clone())),
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
            payer: Payer::NOBODY,
            idle: BUSY,
        });
        let id = of(number);
        self.names_bytes += name_cost(name);
        self.names.insert(name, id.slot);
        self.made.insert(self.made_next, id);
        id
    }

    /// Opens the channels of a message from the name `next` on, each once, for as long as the hold of the lock lasts; those
    /// before were opened in other holds. Whether they are idle has to be asked afterwards.
    ///
    /// # Errors
    /// [`Full`]: there is no room for the name `next`, or a channel may no longer be charged to whoever pays.
    pub(super) fn open_some(
        &mut self,
        (names, payer): (&[ChannelName], Payer),
        (next, ids): (&mut usize, &mut Few<ChannelId>),
        now: Time,
    ) -> Result<(), Full> {
        self.steps += ids.len() / COUNTED;
        for id in ids.iter() {
            // Others that were done with it meanwhile have given it free.
            self.charge(*id, payer)?;
            self.entries[id.slot as usize].idle = BUSY;
        }
        while let Some(name) = names.get(*next).filter(|_| self.has_time()) {
            let id = self.open(name, payer, now)?;
            self.steps += ids.len() / HASHED;
            if !ids.contains(&id) {
                ids.push(id);
            }
            *next += 1;
        }
        Ok(())
    }

    /// Are all these channels still there?
    pub(super) fn are_open(&self, ids: &[ChannelId]) -> bool {
        ids.iter().all(|id| self.channel(*id).is_some())
    }

    /// If nobody needs the channel, it may be forgotten, and is charged to nobody.
    pub(super) fn maybe_idle(&mut self, id: ChannelId, now: Time) {
        let awaited = self.awaited.contains_key(&id);
        let forgotten = self.forgotten_news;
        let Some(entry) = self.channel_mut(id) else { return };
        if entry.log.is_empty() && entry.presence.is_none() {
            // It keeps nothing, so its shares are nothing.
            entry.shares = None;
        }
        if awaited || !entry.is_idle() {
            entry.idle = BUSY;
            return;
        }
        if entry.idle == BUSY {
            entry.idle = now;
            match entry.is_unused(forgotten) {
                true => self.unused.push_back((now, id)),
                false => self.idle.push_back((now, id)),
            }
        }
        self.release(id);
    }

    /// Forgets channels that have been idle for long enough; all idle ones if there are too many. Is it to go on in another
    /// hold of the lock?
    pub(super) fn forget_idle(&mut self, now: Time, all: bool) -> bool {
        let mut left = self.forget_unused(if all { Time::MAX } else { now }, FORGOTTEN_AT_ONCE);
        if left == 0 {
            return true;
        }
        while let Some((since, id)) = self.idle.front().copied() {
            // Of very many some go before their time: what they cost besides their names is counted nowhere.
            let is_due =
                all || self.idle.len() > IDLE || since.saturating_add(self.options.forget_after) <= now;
            if !is_due {
                return false;
            }
            if left == 0 || !self.has_time() {
                return true;
            }
            self.idle.pop_front();
            self.idle.tidy();
            self.steps += 1;
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
        false
    }

    /// Forgets channels in which nothing was ever published, when they have been idle for a moment: nothing of them can be
    /// missed. At most `left`; returns how many more there may have been.
    fn forget_unused(&mut self, now: Time, mut left: usize) -> usize {
        let stay = UNUSED_STAY.min(self.options.forget_after);
        while let Some((since, id)) = self.unused.front().copied() {
            if left == 0 || since.saturating_add(stay) > now {
                break;
            }
            self.unused.pop_front();
            self.unused.tidy();
            self.steps += 1;
            left -= 1;
            let awaited = self.awaited.contains_key(&id);
            let is_idle = |entry: &Entry| entry.idle == since && entry.is_idle();
            if !awaited && self.channel(id).is_some_and(is_idle) {
                self.forget(id);
            }
        }
        left
    }

    pub(super) fn forget_due(&self) -> Option<Time> {
        let stays = [
            (&self.idle, self.options.forget_after),
            (&self.unused, UNUSED_STAY.min(self.options.forget_after)),
        ];
        let dues = stays.map(|(queue, stay)| Some(queue.front()?.0.saturating_add(stay)));
        dues.into_iter().flatten().min()
    }

    fn forget(&mut self, id: ChannelId) {
        self.tell_patterns();
        self.steps += FORGOTTEN;
        let entry = self.entries.remove(id.slot as usize);
        self.names_bytes -= name_cost(&entry.channel.name);
        self.release_forgotten(&entry);
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

    /// Something of the channel waits for the store, or for a comparison: it is not forgotten.
    pub(super) fn await_store(&mut self, id: ChannelId) {
        *self.awaited.entry(id).or_default() += 1;
        if let Some(entry) = self.channel_mut(id) {
            entry.idle = BUSY;
        }
    }

    /// The store has answered, or the comparison is done.
    pub(super) fn answered(&mut self, id: ChannelId, now: Time) {
        if let Some(count) = self.awaited.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(&id);
                self.awaited.tidy();
                self.maybe_idle(id, now);
            }
        }
    }

    /// Returns the number of members, and the shards that have something to deliver.
    pub(super) fn join(
        &mut self,
        id: ChannelId,
        (user, payer): (&str, Payer),
        info: Option<Bytes>,
        now: Time,
    ) -> Result<(usize, u64), OverQuota> {
        let limits = self.options.presence;
        let Some(entry) = self.channel(id) else {
            return Ok((0, 0));
        };
        let is_new = entry.presence.as_ref().is_none_or(|presence| !presence.has(user));
        if is_new {
            self.charge_member(payer)?;
        }
        let Some(entry) = self.channel_mut(id) else {
            return Ok((0, 0));
        };
        let presence = entry.presence.get_or_insert_default();
        let news = presence.join((user, payer), info, now, &limits);
        let (count, due) = (presence.count(), presence.ask());
        self.presence_due.extend(due.map(|at| Reverse((at, id))));
        let audience = news.map_or(0, |body| self.append_memory(&[id], body, 0, now).1);
        Ok((count, audience))
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
            visitors: self.visitor_stats(),
        }
    }
}

impl State {
    /// How full the hub's tables are.
    pub(super) fn tables(&self) -> Vec<Table> {
        let counted = |name, entries| Table {
            name,
            entries,
            room: entries,
        };
        let mut tables = vec![
            Table::of("channels", &self.entries),
            Table::of("names", &self.names),
            counted("made", self.made.len()),
            Table::of("order", &self.order),
            Table::of("submitted", &self.submitted),
            Table::of("awaited", &self.awaited),
            counted("window_shares", self.window.listed()),
            counted("memory_shares", self.memory.listed()),
            Table::of("expiring", &self.expiring),
            Table::of("idle", &self.idle),
            Table::of("unused", &self.unused),
            Table::of("presence_due", &self.presence_due),
        ];
        tables.extend(self.keys.tables());
        tables.extend(self.patterns.tables());
        tables
    }
}

/// What is refused once the hub is closed.
pub(super) fn closed() -> BrokerError {
    BrokerError::Unavailable("the server is stopping".into())
}

fn name_cost(name: &ChannelName) -> usize {
    name.as_bytes().len() + NAME_OVERHEAD
}

/// What it takes to look a name up: it is hashed.
pub(super) fn name_steps(name: &ChannelName) -> usize {
    1 + name.as_bytes().len() / HASHED
}

impl Entry {
    /// Was nothing ever published here, as far as is known, and did only visitors name it? Then it can be forgotten without
    /// a trace: nothing has gone that is not `forgotten` already.
    fn is_unused(&self, forgotten: Trimmed) -> bool {
        let news = self.presence.as_ref().map(|presence| presence.news.trimmed);
        let has_lost = news.is_some_and(|news| forgotten.max(news) != forgotten);
        self.offset == 0 && self.payer != Payer::SITE && !has_lost
    }

    /// What is gone of the news about its members; `left`: all members did.
    pub(super) fn trimmed_news(&self, left: Trimmed) -> Trimmed {
        let presence = self.presence.as_ref();
        presence.map_or(left, |presence| presence.news.trimmed.max(left))
    }

    fn is_idle(&self) -> bool {
        self.shards == 0 && self.log.is_empty() && self.presence.as_ref().is_none_or(|p| p.is_empty())
    }
}
