//! One shard's readers: who is told of a publication, and what comes next for those who are behind.
//!
//! A reader is a cursor. While it is *live* its cursor moves with the shard's: each round tells it of what concerns it. A reader
//! that could not be written to, or starts from an older cursor, or subscribes late, is *behind*: it reads page by page,
//! through the same hub, until it has caught up. Nothing waits here but positions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

use crate::Time;
use crate::broker::{Fetch, Page, Want};
use crate::channel::{Channel, ChannelId, ChannelName};
use crate::few::Few;
use crate::hub::{
    Hub, Item, ListenError, Read, ReadLimits, Selected, Selection, Start, VALUES, Value, concerns,
};
use crate::log::Trimmed;
use crate::names::Names;
use crate::namespace::Namespace;
use crate::pattern::Pattern;
use crate::position::{Position, Source};
use crate::publication::{Body, Publication};

/// A channel without readers is listened to for so long: the next long poll then finds everything in place.
const LINGER: Time = 5_000;

/// At most so many publications are handled in a round, then whoever is ready is written to.
const ROUND: usize = 1024;

/// A reader's handle within its shard.
pub type ReaderId = u32;

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// With what becomes visible from now on.
    #[default]
    Now,
    /// With the oldest kept.
    Earliest,
    /// After a cursor.
    At(Start),
}

/// What a subscription wants beside publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The news about members.
    pub presence: bool,
    /// The retained value first, if there is no cursor.
    pub retained: bool,
    /// Patterns only: only channels whose namespace is public.
    pub public_only: bool,
}

/// One thing to write for a reader that is behind.
#[derive(Debug)]
pub enum Step {
    /// A publication, as seen in one of its places; with the position to give as cursor, if it may carry one.
    Publication(Arc<Publication>, usize, Option<Position>),
    /// Something is gone, of a channel or of a pattern; of its presence only, if so flagged.
    Gap(Target, bool, Option<Position>),
    /// A subscription has caught up. It is the last step of its page, and has to carry [`Fanout::position`] as its cursor:
    /// with an older one the client would be shown again what caught it up.
    Subscribed(Target),
}

/// What a subscription is to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A channel.
    Channel(Arc<Channel>),
    /// A pattern.
    Pattern(Arc<Pattern>),
}

/// How a reader that was behind stands now.
#[derive(Debug)]
pub enum Progress {
    /// There may be more: write this, and ask again.
    More,
    /// It has caught up.
    Live,
    /// The store has to be asked, see [`Fanout::fetched`].
    Cold(Fetch),
}

/// What a round did.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// There is more: go on after writing.
    pub more: bool,
    /// All readers are behind now: the shard was too late.
    pub lagged: bool,
}

struct Slot {
    channel: Arc<Channel>,
    /// Rounds tell of what becomes visible after this.
    since: Position,
    /// The newest publication of the channel, per source: who has read that far has nothing to catch up.
    last: Position,
    /// Reader, and index of its subscription.
    readers: Few<(ReaderId, u32)>,
    idle: bool,
}

struct PatternSlot {
    pattern: Arc<Pattern>,
    since: Position,
    readers: Vec<ReaderId>,
}

struct Subscription {
    slot: u32,
    /// Its index among the slot's readers.
    index: u32,
    presence: bool,
    /// Not yet while it catches up.
    active: bool,
}

struct PatternSubscription {
    id: u32,
    wants: Wants,
    active: bool,
}

/// What a late subscription still has to show.
struct CatchUp {
    target: CatchUpTarget,
    from: CatchUpFrom,
    /// The reader's position when it subscribed: from here on it is served with all others.
    until: Position,
    /// It is told when it is done; the retained value at the start of a connection is not announced.
    announce: bool,
}

impl CatchUp {
    fn is_retained(&self) -> bool {
        matches!(self.from, CatchUpFrom::Retained)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum CatchUpTarget {
    Channel(ChannelId),
    Pattern(u32),
}

enum CatchUpFrom {
    Retained,
    Position(Position),
    /// The oldest kept: what is gone before that is not told.
    Earliest(Position),
    /// A gap notice first: of the messages, of the news about members, or of both.
    Lost(Position, bool, bool),
    Nothing,
}

/// What few readers have.
#[derive(Default)]
struct Rare {
    catch_up: VecDeque<CatchUp>,
    lost_memory: bool,
    lost_durable: bool,
    /// What was gone before a reader began with the oldest kept: it is not told.
    forgiven: Vec<(CatchUpTarget, Trimmed)>,
    /// The same of what the store says is gone in the first page of all.
    forgive_stored: bool,
    /// Up to where it was told, of which patterns, that the store may have forgotten something.
    forgotten: Vec<(u32, u64)>,
    session: Option<Box<str>>,
    /// What was fetched from the store for the next page.
    page: Option<Page>,
}

#[repr(C)]
struct Reader {
    // First what a round looks at, side by side: readers are many more than the processor's cache holds.
    tag: u32,
    live: bool,
    /// Everything up to here was handed out; a live reader has got whatever the shard has seen as well.
    at: Position,
    /// The last publication it was told of in a round, where there may be several ways to it.
    told: u64,
    rare: Option<Box<Rare>>,
    subscriptions: Vec<Subscription>,
    patterns: Vec<PatternSubscription>,
}

impl Reader {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// See the module.
pub struct Fanout {
    hub: Arc<Hub>,
    shard: u8,
    seen: Position,
    by_name: Names,
    /// By the number of the channel's place in the hub: who is listened to keeps it.
    by_place: FxHashMap<u32, u32>,
    slots: Slab<Slot>,
    by_pattern: HashMap<Arc<Pattern>, u32>,
    patterns: FxHashMap<u32, PatternSlot>,
    readers: Slab<Reader>,
    round: Vec<Arc<Publication>>,
    items: Vec<Item>,
    idle: VecDeque<(Time, u32, ChannelId)>,
    subscriptions: usize,
    pattern_subscriptions: usize,
}

impl Fanout {
    /// The readers of a shard, which has been attached to the hub.
    pub fn new(hub: Arc<Hub>, shard: u8) -> Self {
        let seen = hub.now();
        Self {
            hub,
            shard,
            seen,
            by_name: Names::default(),
            by_place: FxHashMap::default(),
            slots: Slab::new(),
            by_pattern: HashMap::new(),
            patterns: FxHashMap::default(),
            readers: Slab::new(),
            round: Vec::new(),
            items: Vec::new(),
            idle: VecDeque::new(),
            subscriptions: 0,
            pattern_subscriptions: 0,
        }
    }

    /// Everything up to here has been told to live readers.
    pub fn seen(&self) -> Position {
        self.seen
    }

    /// How many subscriptions there are: to channels, and to patterns.
    pub fn subscriptions(&self) -> (usize, usize) {
        (self.subscriptions, self.pattern_subscriptions)
    }

    /// A new reader; `tag` is given back with everything that concerns it. It is told nothing before [`Fanout::begin`].
    pub fn open(&mut self, tag: u32, session: Option<&str>) -> ReaderId {
        let rare = session.map(|session| {
            Box::new(Rare {
                session: Some(session.into()),
                ..Rare::default()
            })
        });
        self.readers.insert(Reader {
            tag,
            at: self.seen,
            told: 0,
            live: false,
            subscriptions: Vec::new(),
            patterns: Vec::new(),
            rare,
        }) as ReaderId
    }

    /// Adds a channel before the reader begins.
    ///
    /// # Errors
    /// [`ListenError`]; nothing changed.
    pub fn add(
        &mut self,
        reader: ReaderId,
        name: &ChannelName,
        wants: Wants,
        now: Time,
    ) -> Result<(), ListenError> {
        let slot = self.slot(name, now)?;
        self.attach(reader, slot, wants.presence, true);
        Ok(())
    }

    /// Adds a pattern before the reader begins.
    ///
    /// # Errors
    /// [`ListenError`]; nothing changed.
    pub fn add_pattern(
        &mut self,
        reader: ReaderId,
        pattern: &Arc<Pattern>,
        wants: Wants,
    ) -> Result<(), ListenError> {
        let id = self.pattern_slot(pattern)?;
        self.attach_pattern(reader, id, wants, true);
        Ok(())
    }

    /// The reader begins. Returns whether it is live at once; if not, ask [`Fanout::next`].
    pub fn begin(&mut self, reader: ReaderId, begin: Begin, retained: bool) -> bool {
        let frontier = self.frontier(reader);
        match begin {
            Begin::Now => {
                self.readers[reader as usize].at = frontier;
                if retained {
                    self.queue_retained(reader, frontier);
                }
            }
            Begin::Earliest => {
                let forgiven = self.trimmed_now(reader);
                let entry = &mut self.readers[reader as usize];
                entry.at = Position::default();
                let rare = entry.rare();
                rare.forgiven = forgiven;
                rare.forgive_stored = true;
            }
            Begin::At(start) => {
                let entry = &mut self.readers[reader as usize];
                entry.at = start.position;
                if start.lost_memory || start.lost_durable {
                    let rare = entry.rare();
                    rare.lost_memory = start.lost_memory;
                    rare.lost_durable = start.lost_durable;
                }
            }
        }
        let live = begin != Begin::Earliest && self.has_nothing_to_catch_up(reader);
        self.readers[reader as usize].live = live;
        live
    }

    fn has_nothing_to_catch_up(&self, reader: ReaderId) -> bool {
        let entry = &self.readers[reader as usize];
        if let Some(rare) = &entry.rare
            && (!rare.catch_up.is_empty() || rare.lost_memory || rare.lost_durable)
        {
            return false;
        }
        let at = entry.at;
        (entry.patterns.is_empty() || at.reaches(self.frontier(reader)))
            && entry
                .subscriptions
                .iter()
                .all(|s| at.reaches(self.slots[s.slot as usize].last))
    }

    /// As far as rounds have told of everything: a reader behind this reads for itself.
    fn frontier(&self, reader: ReaderId) -> Position {
        let entry = &self.readers[reader as usize];
        let exact = entry
            .subscriptions
            .iter()
            .filter(|s| s.active)
            .map(|s| self.slots[s.slot as usize].since);
        let patterns = entry
            .patterns
            .iter()
            .filter(|p| p.active)
            .filter_map(|p| self.patterns.get(&p.id));
        exact
            .chain(patterns.map(|slot| slot.since))
            .chain([self.seen])
            .max_by_key(|p| p.sequence())
            .unwrap_or_default()
    }

    fn queue_retained(&mut self, reader: ReaderId, until: Position) {
        let channels: Vec<ChannelId> = self.readers[reader as usize]
            .subscriptions
            .iter()
            .map(|s| self.slots[s.slot as usize].channel.id)
            .filter(|id| self.hub.has_retained(*id))
            .collect();
        for id in channels {
            self.readers[reader as usize].rare().catch_up.push_back(CatchUp {
                target: CatchUpTarget::Channel(id),
                from: CatchUpFrom::Retained,
                until,
                announce: false,
            });
        }
    }

    fn trimmed_now(&self, reader: ReaderId) -> Vec<(CatchUpTarget, Trimmed)> {
        let entry = &self.readers[reader as usize];
        let channels = entry.subscriptions.iter().map(|s| {
            let id = self.slots[s.slot as usize].channel.id;
            (CatchUpTarget::Channel(id), self.hub.trimmed(id))
        });
        let patterns = entry
            .patterns
            .iter()
            .map(|p| (CatchUpTarget::Pattern(p.id), self.hub.pattern_trimmed(p.id)));
        channels.chain(patterns).collect()
    }

    /// Subscribes a reader that has begun. It is behind until the subscription has caught up and was announced with
    /// [`Step::Subscribed`]. A channel already subscribed to is announced again and begins nowhere else.
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
    ) -> Result<(), ListenError> {
        let slot = self.slot(name, now)?;
        let channel = self.slots[slot as usize].channel.id;
        let known = self.readers[reader as usize]
            .subscriptions
            .iter()
            .any(|s| s.slot == slot);
        if !known {
            self.attach(reader, slot, wants.presence, false);
        }
        let trimmed = self.hub.trimmed(channel);
        let from = match begin {
            _ if known => CatchUpFrom::Nothing,
            Begin::Now if wants.retained => CatchUpFrom::Retained,
            Begin::Now => CatchUpFrom::Nothing,
            Begin::Earliest => CatchUpFrom::Earliest(Position {
                durable: trimmed.durable,
                memory: trimmed.memory.memory,
            }),
            Begin::At(start) => {
                let durability = self.slots[slot as usize].channel.durability;
                let lost = start.lost_memory && concerns(Source::Memory, durability)
                    || start.lost_durable && concerns(Source::Durable, durability);
                // Members are in memory, whatever the durability of the channel.
                CatchUpFrom::Lost(start.position, lost, start.lost_memory && wants.presence)
            }
        };
        let since = self.slots[slot as usize].since;
        self.queue(reader, CatchUpTarget::Channel(channel), from, since);
        Ok(())
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
    ) -> Result<(), ListenError> {
        let id = self.pattern_slot(pattern)?;
        let known = self.readers[reader as usize].patterns.iter().any(|p| p.id == id);
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
                start.lost_memory || start.lost_durable,
                start.lost_memory && wants.presence,
            ),
        };
        let since = self.patterns[&id].since;
        self.queue(reader, CatchUpTarget::Pattern(id), from, since);
        Ok(())
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

    /// The reader is gone.
    pub fn close(&mut self, reader: ReaderId, now: Time) {
        while let Some(last) = self.readers[reader as usize].subscriptions.len().checked_sub(1) {
            self.detach(reader, last, now);
        }
        for pattern in std::mem::take(&mut self.readers[reader as usize].patterns) {
            self.detach_pattern(reader, pattern.id, now);
        }
        self.readers.remove(reader as usize);
    }

    /// How many subscriptions a reader has: to channels, and to patterns.
    pub fn counts(&self, reader: ReaderId) -> (usize, usize) {
        let entry = &self.readers[reader as usize];
        (entry.subscriptions.len(), entry.patterns.len())
    }

    /// The channels a reader is subscribed to.
    pub fn channels(&self, reader: ReaderId) -> impl Iterator<Item = &Arc<Channel>> {
        let entry = &self.readers[reader as usize];
        entry
            .subscriptions
            .iter()
            .map(|s| &self.slots[s.slot as usize].channel)
    }

    /// The channels a reader is subscribed to, each with what holds for it now and whether the news about its members are
    /// wanted: after [`Hub::set_namespaces`] it may no longer be allowed all of them. Patterns see to that themselves, as
    /// far as they are [`Wants::public_only`].
    pub fn namespaces(
        &self,
        reader: ReaderId,
    ) -> impl Iterator<Item = (&Arc<Channel>, Arc<Namespace>, bool)> {
        let entry = &self.readers[reader as usize];
        entry.subscriptions.iter().map(|s| {
            let channel = &self.slots[s.slot as usize].channel;
            (channel, channel.namespace(), s.presence)
        })
    }

    /// The patterns a reader is subscribed to, and what it wants of each.
    pub fn patterns(&self, reader: ReaderId) -> impl Iterator<Item = (&Arc<Pattern>, Wants)> {
        let entry = &self.readers[reader as usize];
        entry
            .patterns
            .iter()
            .filter_map(|p| self.patterns.get(&p.id).map(|slot| (&slot.pattern, p.wants)))
    }

    /// Is it told of what happens in rounds?
    pub fn is_live(&self, reader: ReaderId) -> bool {
        self.readers[reader as usize].live
    }

    /// Everything up to here has been handed out to it.
    pub fn position(&self, reader: ReaderId) -> Position {
        let entry = &self.readers[reader as usize];
        if !entry.live {
            return entry.at;
        }
        entry.at.max(self.seen)
    }

    /// The reader could be handed things of a round up to `at` only; from there it reads on by itself.
    ///
    /// `at` is the position of the last one, or where the shard stood before the round, if there was none; a reader that
    /// began after that does not go back.
    pub fn stall(&mut self, reader: ReaderId, at: Position) {
        let entry = &mut self.readers[reader as usize];
        entry.at = entry.at.max(at);
        entry.live = false;
    }

    /// Tells live readers of what became visible: `tell(tag, reader, publication, place)`.
    pub fn round(&mut self, mut tell: impl FnMut(u32, ReaderId, &Arc<Publication>, usize)) -> Round {
        let mut publications = std::mem::take(&mut self.round);
        let collected = self.hub.collect(self.shard, ROUND, &mut publications);
        if collected.lagged {
            self.lag();
        }
        for publication in &publications {
            self.tell(publication, &mut tell);
        }
        publications.clear();
        self.round = publications;
        self.seen = collected.until;
        Round {
            more: collected.more,
            lagged: collected.lagged,
        }
    }

    fn lag(&mut self) {
        let seen = self.seen;
        for (_, reader) in &mut self.readers {
            if reader.live {
                reader.live = false;
                reader.at = reader.at.max(seen);
            }
        }
        // What a slot knows to be the newest may be outdated now.
        let visible = self.hub.now();
        for (_, slot) in &mut self.slots {
            slot.last = visible;
        }
    }

    fn tell(
        &mut self,
        publication: &Arc<Publication>,
        tell: &mut impl FnMut(u32, ReaderId, &Arc<Publication>, usize),
    ) {
        let news = publication.body.is_presence();
        let excluded = excluded_session(publication);
        let several = publication.places.len() > 1 || publication.places.iter().any(|p| p.patterns.is_some());
        let (source, at, sequence) = (publication.source, publication.at, publication.sequence());
        for (index, place) in publication.places.iter().enumerate() {
            let Some(slot) = self.by_place.get(&place.channel.id.slot) else {
                continue;
            };
            let slot = &mut self.slots[*slot as usize];
            if slot.channel.id != place.channel.id {
                continue;
            }
            slot.last = slot.last.advanced(source, at);
            for (id, subscription) in slot.readers.iter() {
                let reader = &mut self.readers[*id as usize];
                if !reader.live || reader.at.covers(source, at) {
                    continue;
                }
                if news && !reader.subscriptions[*subscription as usize].presence {
                    continue;
                }
                if several && std::mem::replace(&mut reader.told, sequence) == sequence {
                    continue;
                }
                if excluded.is_some() && reader.rare.as_ref().and_then(|r| r.session.as_deref()) == excluded {
                    continue;
                }
                tell(reader.tag, *id, publication, index);
            }
        }
        for (index, place) in publication.places.iter().enumerate() {
            let Some(patterns) = &place.patterns else { continue };
            // Once for all readers: it is behind a lock of its own.
            let public = place.channel.is_public();
            for pattern in patterns.iter() {
                let Some(slot) = self.patterns.get(pattern) else {
                    continue;
                };
                for id in &slot.readers {
                    let reader = &mut self.readers[*id as usize];
                    if !reader.live || reader.at.covers(source, at) || reader.told == sequence {
                        continue;
                    }
                    let wanted = reader.patterns.iter().any(|p| {
                        p.id == *pattern && (p.wants.presence || !news) && (public || !p.wants.public_only)
                    });
                    if !wanted
                        || excluded.is_some()
                            && reader.rare.as_ref().and_then(|r| r.session.as_deref()) == excluded
                    {
                        continue;
                    }
                    reader.told = sequence;
                    tell(reader.tag, *id, publication, index);
                }
            }
        }
    }

    /// What comes next for a reader that is behind, at most one page of it.
    pub fn next(&mut self, reader: ReaderId, limits: ReadLimits, out: &mut Vec<Step>) -> Progress {
        if self.readers[reader as usize].live {
            return Progress::Live;
        }
        self.tell_lost(reader, out);
        let frontier = self.frontier(reader);
        let entry = &self.readers[reader as usize];
        match entry.rare.as_ref().and_then(|rare| rare.catch_up.front()) {
            Some(catch_up) if !entry.at.reaches(catch_up.until) => {
                let until = catch_up.until;
                match self.page(reader, until, limits, out) {
                    Ok(_) => Progress::More,
                    Err(fetch) => Progress::Cold(fetch),
                }
            }
            Some(_) => match self.catch_up(reader, limits, out) {
                None => Progress::More,
                Some(fetch) => Progress::Cold(fetch),
            },
            None => match self.page(reader, frontier, limits, out) {
                Ok(true) => Progress::More,
                Ok(false) => {
                    let entry = &mut self.readers[reader as usize];
                    entry.live = true;
                    if let Some(rare) = &mut entry.rare {
                        // Whoever has caught up keeps no room for what was in the way.
                        rare.forgiven = Vec::new();
                        rare.forgotten = Vec::new();
                        rare.catch_up = VecDeque::new();
                        if rare.session.is_none() && rare.page.is_none() && !rare.forgive_stored {
                            entry.rare = None;
                        }
                    }
                    Progress::Live
                }
                Err(fetch) => Progress::Cold(fetch),
            },
        }
    }

    /// The store's answer to [`Progress::Cold`]; ask [`Fanout::next`] again.
    pub fn fetched(&mut self, reader: ReaderId, page: Page) {
        if let Some(entry) = self.readers.get_mut(reader as usize) {
            entry.rare().page = Some(page);
        }
    }

    /// Would its position, given as a cursor now, hide something that it has not been shown yet: a retained value, a
    /// late subscription's past, the news that a source was lost?
    pub fn owes(&self, reader: ReaderId) -> bool {
        let rare = self.readers[reader as usize].rare.as_ref();
        rare.is_some_and(|rare| !rare.catch_up.is_empty() || rare.lost_memory || rare.lost_durable)
    }

    /// Gives up what [`Fanout::owes`] says is still owed, and returns whose it was: they have to be told of a gap.
    pub fn give_up(&mut self, reader: ReaderId) -> Vec<Target> {
        let entry = &mut self.readers[reader as usize];
        let owed = entry
            .rare
            .as_mut()
            .map(|rare| std::mem::take(&mut rare.catch_up))
            .unwrap_or_default();
        owed.into_iter()
            .filter_map(|catch_up| self.target(catch_up.target))
            .collect()
    }

    /// Another incarnation of a source is a gap for that source's channels.
    fn tell_lost(&mut self, reader: ReaderId, out: &mut Vec<Step>) {
        let entry = &mut self.readers[reader as usize];
        let Some(rare) = &mut entry.rare else { return };
        let (memory, durable) = (
            std::mem::take(&mut rare.lost_memory),
            std::mem::take(&mut rare.lost_durable),
        );
        if !memory && !durable {
            return;
        }
        let (at, first) = (entry.at, out.len());
        // Who subscribed late began at a place of its own.
        for subscription in entry.subscriptions.iter().filter(|s| s.active) {
            let channel = &self.slots[subscription.slot as usize].channel;
            let durability = channel.durability;
            let target = || Target::Channel(channel.clone());
            if memory && concerns(Source::Memory, durability)
                || durable && concerns(Source::Durable, durability)
            {
                out.push(Step::Gap(target(), false, None));
            }
            // Members are in memory, whatever the durability of the channel.
            if memory && subscription.presence {
                out.push(Step::Gap(target(), true, None));
            }
        }
        for pattern in entry.patterns.iter().filter(|p| p.active) {
            if let Some(slot) = self.patterns.get(&pattern.id) {
                let target = || Target::Pattern(slot.pattern.clone());
                out.push(Step::Gap(target(), false, None));
                if memory && pattern.wants.presence {
                    out.push(Step::Gap(target(), true, None));
                }
            }
        }
        // The cursor no longer tells of the loss: only the last notice carries it.
        if let Some(Step::Gap(_, _, cursor)) = out[first..].last_mut() {
            *cursor = Some(at);
        }
    }

    /// Reads a page for all active subscriptions. Is there more?
    fn page(
        &mut self,
        reader: ReaderId,
        until: Position,
        limits: ReadLimits,
        out: &mut Vec<Step>,
    ) -> Result<bool, Fetch> {
        let entry = &mut self.readers[reader as usize];
        let page = entry.rare.as_mut().and_then(|rare| rare.page.take());
        let forgive = entry
            .rare
            .as_mut()
            .is_some_and(|rare| std::mem::take(&mut rare.forgive_stored));
        let from = entry.at;
        let channels: Vec<Selected> = entry
            .subscriptions
            .iter()
            .filter(|s| s.active)
            .map(|s| Selected {
                channel: self.slots[s.slot as usize].channel.id,
                presence: s.presence,
            })
            .collect();
        let patterns: Vec<(u32, bool)> = entry
            .patterns
            .iter()
            .filter(|p| p.active)
            .map(|p| (p.id, p.wants.presence))
            .collect();
        let selection = Selection {
            channels: &channels,
            patterns: &patterns,
        };
        let page = page.filter(|page| self.answers(page, &selection, from));
        let mut items = std::mem::take(&mut self.items);
        let read = match &page {
            Some(page) => self
                .hub
                .read_fetched(&selection, from, until, limits, page, &mut items),
            None => self.hub.read(&selection, from, until, limits, &mut items),
        };
        let mut begun = Vec::new();
        for item in items.drain(..) {
            if self.is_news(reader, &item) && !(forgive && is_stored_before(&item, &mut begun)) {
                self.show(reader, item, None, out);
            }
        }
        self.items = items;
        match read {
            Read::Page { reached, more } => {
                self.readers[reader as usize].at = reached;
                Ok(more)
            }
            Read::Cold(fetch) => {
                self.readers[reader as usize].rare().forgive_stored = forgive;
                Err(fetch)
            }
        }
    }

    /// Was this page fetched for what is read now? The reader may have subscribed to something else meanwhile.
    fn answers(&self, page: &Page, selection: &Selection<'_>, from: Position) -> bool {
        let Some(asked) = &page.asked else { return true };
        let channels = selection
            .channels
            .iter()
            .filter_map(|s| self.by_place.get(&s.channel.slot));
        let channels = channels.map(|slot| &self.slots[*slot as usize].channel);
        let names = channels
            .filter(|channel| channel.is_stored())
            .map(|channel| &channel.name);
        let patterns = selection
            .patterns
            .iter()
            .filter_map(|(id, _)| self.patterns.get(id));
        asked.want == Want::Oldest
            && asked.after == from.durable
            && asked.channels.iter().eq(names)
            && asked.patterns.iter().eq(patterns.map(|slot| &slot.pattern))
    }

    /// Shows what a late subscription has missed, without cursors. Returns what has to be fetched.
    fn catch_up(&mut self, reader: ReaderId, limits: ReadLimits, out: &mut Vec<Step>) -> Option<Fetch> {
        let rare = self.readers[reader as usize].rare();
        let mut page = rare.page.take();
        let mut catch_up = rare.catch_up.pop_front()?;
        let forgive = matches!(catch_up.from, CatchUpFrom::Earliest(_));
        let from = match catch_up.from {
            CatchUpFrom::Nothing => None,
            CatchUpFrom::Retained => {
                if let Err(fetch) = self.show_retained(reader, &catch_up, &mut page, out) {
                    self.readers[reader as usize].rare().catch_up.push_front(catch_up);
                    return Some(fetch);
                }
                None
            }
            CatchUpFrom::Position(position) | CatchUpFrom::Earliest(position) => Some(position),
            CatchUpFrom::Lost(position, messages, news) => {
                let told = [(messages, false), (news, true)]
                    .into_iter()
                    .filter(|(lost, _)| *lost);
                out.extend(told.filter_map(|(_, presence)| {
                    let target = self.target(catch_up.target)?;
                    Some(Step::Gap(target, presence, None))
                }));
                Some(position)
            }
        };
        if let Some(from) = from {
            let presence = self.wants_presence(reader, catch_up.target);
            let (channels, patterns) = match catch_up.target {
                CatchUpTarget::Channel(channel) => (vec![Selected { channel, presence }], vec![]),
                CatchUpTarget::Pattern(id) => (vec![], vec![(id, presence)]),
            };
            let selection = Selection {
                channels: &channels,
                patterns: &patterns,
            };
            let page = page.filter(|page| self.answers(page, &selection, from));
            let mut items = std::mem::take(&mut self.items);
            let read = match &page {
                Some(page) => {
                    self.hub
                        .read_fetched(&selection, from, catch_up.until, limits, page, &mut items)
                }
                None => self
                    .hub
                    .read(&selection, from, catch_up.until, limits, &mut items),
            };
            let mut begun = Vec::new();
            for item in items.drain(..) {
                if self.is_news(reader, &item) && !(forgive && is_stored_before(&item, &mut begun)) {
                    self.show(reader, item, Some(catch_up.target), out);
                }
            }
            self.items = items;
            let again = match read {
                Read::Page { more: false, .. } => None,
                Read::Page { reached, more: true } => Some((CatchUpFrom::Position(reached), None)),
                Read::Cold(fetch) if forgive => Some((CatchUpFrom::Earliest(from), Some(fetch))),
                Read::Cold(fetch) => Some((CatchUpFrom::Position(from), Some(fetch))),
            };
            if let Some((position, fetch)) = again {
                catch_up.from = position;
                self.readers[reader as usize].rare().catch_up.push_front(catch_up);
                return fetch;
            }
        }
        if catch_up.announce {
            self.activate(reader, catch_up.target);
            out.extend(self.target(catch_up.target).map(Step::Subscribed));
        }
        None
    }

    /// Shows the retained value with which a channel begins, or says what has to be fetched for that.
    fn show_retained(
        &mut self,
        reader: ReaderId,
        catch_up: &CatchUp,
        page: &mut Option<Page>,
        out: &mut Vec<Step>,
    ) -> Result<(), Fetch> {
        let CatchUpTarget::Channel(id) = catch_up.target else {
            return Ok(());
        };
        let until = catch_up.until;
        let value = match self.hub.retained_until(id, until) {
            Value::None => None,
            Value::Here(value) => Some(value),
            Value::Stored(_) => {
                let name = self.name_of(id);
                let page = page.as_ref().filter(|page| {
                    page.asked.as_ref().is_some_and(|asked| {
                        asked.want == Want::Retained
                            && asked.until == until.durable
                            && name.is_some_and(|name| asked.channels.contains(name))
                    })
                });
                match page {
                    Some(page) => self.hub.retained_fetched(id, until, page),
                    None => return Err(self.fetch_retained(reader, id, until)),
                }
            }
        };
        let rare = self.readers[reader as usize].rare();
        // The values of several channels come together.
        if rare.catch_up.front().is_some_and(CatchUp::is_retained) {
            rare.page = page.take();
        }
        if let Some(value) = value.filter(|value| !self.is_excluded(reader, value)) {
            let place = value.place_in(id).unwrap_or(0);
            out.push(Step::Publication(value, place, None));
        }
        Ok(())
    }

    /// What to fetch for a channel that begins with its retained value, and for those that come next and do as well.
    fn fetch_retained(&self, reader: ReaderId, first: ChannelId, until: Position) -> Fetch {
        let queued = self.readers[reader as usize]
            .rare
            .iter()
            .flat_map(|rare| &rare.catch_up);
        let next = queued
            .take_while(|next| next.is_retained() && next.until == until)
            .filter_map(|next| match next.target {
                CatchUpTarget::Channel(id) => Some(id),
                CatchUpTarget::Pattern(_) => None,
            })
            .filter(|id| matches!(self.hub.retained_until(*id, until), Value::Stored(_)));
        let names = std::iter::once(first).chain(next).take(VALUES);
        Fetch {
            want: Want::Retained,
            channels: names.filter_map(|id| self.name_of(id).cloned()).collect(),
            until: until.durable,
            ..Fetch::default()
        }
    }

    fn name_of(&self, id: ChannelId) -> Option<&ChannelName> {
        let slot = &self.slots[*self.by_place.get(&id.slot)? as usize];
        (slot.channel.id == id).then_some(&slot.channel.name)
    }

    fn wants_presence(&self, reader: ReaderId, target: CatchUpTarget) -> bool {
        let entry = &self.readers[reader as usize];
        match target {
            CatchUpTarget::Channel(id) => entry
                .subscriptions
                .iter()
                .any(|s| s.presence && self.slots[s.slot as usize].channel.id == id),
            CatchUpTarget::Pattern(id) => entry.patterns.iter().any(|p| p.wants.presence && p.id == id),
        }
    }

    fn activate(&mut self, reader: ReaderId, target: CatchUpTarget) {
        let entry = &mut self.readers[reader as usize];
        match target {
            CatchUpTarget::Channel(id) => {
                let slots = &self.slots;
                let mut own = entry.subscriptions.iter_mut();
                if let Some(s) = own.find(|s| slots[s.slot as usize].channel.id == id) {
                    s.active = true;
                }
            }
            CatchUpTarget::Pattern(id) => {
                if let Some(p) = entry.patterns.iter_mut().find(|p| p.id == id) {
                    p.active = true;
                }
            }
        }
    }

    fn target(&self, target: CatchUpTarget) -> Option<Target> {
        match target {
            CatchUpTarget::Channel(id) => {
                let slot = &self.slots[*self.by_place.get(&id.slot)? as usize];
                (slot.channel.id == id).then(|| Target::Channel(slot.channel.clone()))
            }
            CatchUpTarget::Pattern(id) => Some(Target::Pattern(self.patterns.get(&id)?.pattern.clone())),
        }
    }

    /// That the store may have forgotten something is told once, not with each page.
    fn is_news(&mut self, reader: ReaderId, item: &Item) -> bool {
        let Item::Forgotten { pattern, until, .. } = item else {
            return true;
        };
        let Some(id) = self.by_pattern.get(pattern) else {
            return false;
        };
        let told = &mut self.readers[reader as usize].rare().forgotten;
        match told.iter_mut().find(|(own, _)| own == id) {
            Some((_, up_to)) => std::mem::replace(up_to, *until.max(up_to)) < *until,
            None => {
                told.push((*id, *until));
                true
            }
        }
    }

    /// Turns an item into a step, unless it is of no concern to this reader. What catches a subscription up is shown as seen
    /// there and carries no cursor.
    fn show(&self, reader: ReaderId, item: Item, catch_up: Option<CatchUpTarget>, out: &mut Vec<Step>) {
        let entry = &self.readers[reader as usize];
        let cursor = catch_up.is_none();
        match item {
            Item::Publication { publication, at } => {
                if self.is_excluded(reader, &publication) {
                    return;
                }
                if let Some(place) = self.place_for(entry, &publication, catch_up) {
                    out.push(Step::Publication(publication, place, cursor.then_some(at)));
                }
            }
            Item::Forgotten { pattern, at, .. } => {
                out.push(Step::Gap(Target::Pattern(pattern), false, cursor.then_some(at)));
            }
            Item::Gap {
                channel,
                pattern,
                presence,
                lost,
                at,
            } => {
                let forgiven = entry.rare.as_ref().is_some_and(|rare| {
                    rare.forgiven.iter().any(|(target, trimmed)| {
                        let same = match target {
                            CatchUpTarget::Channel(id) => channel.as_ref().is_some_and(|c| c.id == *id),
                            CatchUpTarget::Pattern(id) => {
                                let slot = self.patterns.get(id);
                                pattern
                                    .as_ref()
                                    .is_some_and(|p| slot.is_some_and(|s| s.pattern == *p))
                            }
                        };
                        same && match lost.0 {
                            Source::Durable => lost.1.durable <= trimmed.durable,
                            Source::Memory => lost.1.memory <= trimmed.memory.memory,
                        }
                    })
                });
                // The store names channels that a pattern matches: not those that this reader may not see.
                let visible = channel.as_ref().is_none_or(|channel| {
                    self.sees(entry, channel, presence, catch_up)
                        || self.sees_by_pattern(entry, channel, presence, catch_up)
                });
                let target = channel.map(Target::Channel).or(pattern.map(Target::Pattern));
                if visible && !forgiven {
                    out.extend(target.map(|target| Step::Gap(target, presence, cursor.then_some(at))));
                }
            }
        }
    }

    fn is_excluded(&self, reader: ReaderId, publication: &Publication) -> bool {
        let excluded = excluded_session(publication);
        let rare = self.readers[reader as usize].rare.as_ref();
        excluded.is_some() && rare.and_then(|r| r.session.as_deref()) == excluded
    }

    /// In which of its places does this reader see the publication?
    fn place_for(
        &self,
        reader: &Reader,
        publication: &Publication,
        catch_up: Option<CatchUpTarget>,
    ) -> Option<usize> {
        let news = publication.body.is_presence();
        let mut places = publication.places.iter();
        let exact = places.position(|place| self.sees(reader, &place.channel, news, catch_up));
        let mut places = publication.places.iter();
        exact
            .or_else(|| places.position(|place| self.sees_by_pattern(reader, &place.channel, news, catch_up)))
    }

    /// Does it see this channel by name: one that has caught up, or the one that is catching up right now?
    fn sees(&self, reader: &Reader, channel: &Channel, news: bool, catch_up: Option<CatchUpTarget>) -> bool {
        if catch_up.is_some_and(|own| own != CatchUpTarget::Channel(channel.id)) {
            return false;
        }
        reader.subscriptions.iter().any(|s| {
            (s.active || catch_up.is_some())
                && (s.presence || !news)
                && self.slots[s.slot as usize].channel.id == channel.id
        })
    }

    fn sees_by_pattern(
        &self,
        reader: &Reader,
        channel: &Channel,
        news: bool,
        catch_up: Option<CatchUpTarget>,
    ) -> bool {
        reader.patterns.iter().any(|p| {
            catch_up.map_or(p.active, |own| own == CatchUpTarget::Pattern(p.id))
                && (p.wants.presence || !news)
                && allowed(p.wants, channel)
                && self
                    .patterns
                    .get(&p.id)
                    .is_some_and(|slot| slot.pattern.matches_name(&channel.name))
        })
    }

    fn slot_of(&self, name: &ChannelName) -> Option<u32> {
        self.by_name
            .find(name, |slot| self.slots[slot as usize].channel.name == *name)
    }

    fn slot(&mut self, name: &ChannelName, now: Time) -> Result<u32, ListenError> {
        if let Some(slot) = self.slot_of(name) {
            return Ok(slot);
        }
        let listening = self.hub.listen(self.shard, name, now)?;
        let channel = listening.channel;
        let slot = self.slots.insert(Slot {
            channel: channel.clone(),
            since: listening.since,
            last: listening.last,
            readers: Few::default(),
            idle: false,
        }) as u32;
        self.by_name.insert(name, slot);
        self.by_place.insert(channel.id.slot, slot);
        Ok(slot)
    }

    fn attach(&mut self, reader: ReaderId, slot: u32, presence: bool, active: bool) {
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
        self.subscriptions += 1;
    }

    fn detach(&mut self, reader: ReaderId, index: usize, now: Time) {
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
        let slot = &mut self.slots[gone.slot as usize];
        if slot.readers.is_empty() && !slot.idle {
            slot.idle = true;
            self.idle.push_back((now, gone.slot, slot.channel.id));
        }
    }

    fn pattern_slot(&mut self, pattern: &Arc<Pattern>) -> Result<u32, ListenError> {
        if let Some(id) = self.by_pattern.get(pattern) {
            return Ok(*id);
        }
        let (id, since) = self.hub.listen_pattern(self.shard, pattern)?;
        self.by_pattern.insert(pattern.clone(), id);
        self.patterns.insert(
            id,
            PatternSlot {
                pattern: pattern.clone(),
                since,
                readers: Vec::new(),
            },
        );
        Ok(id)
    }

    fn attach_pattern(&mut self, reader: ReaderId, id: u32, wants: Wants, active: bool) {
        let entry = &mut self.readers[reader as usize];
        if entry.patterns.iter().any(|p| p.id == id) {
            return;
        }
        entry.patterns.push(PatternSubscription { id, wants, active });
        if let Some(slot) = self.patterns.get_mut(&id) {
            slot.readers.push(reader);
        }
        self.pattern_subscriptions += 1;
    }

    fn detach_pattern(&mut self, reader: ReaderId, id: u32, now: Time) {
        let Some(slot) = self.patterns.get_mut(&id) else {
            return;
        };
        if let Some(at) = slot.readers.iter().position(|other| *other == reader) {
            slot.readers.swap_remove(at);
            self.pattern_subscriptions -= 1;
        }
        if slot.readers.is_empty() {
            let pattern = slot.pattern.clone();
            self.patterns.remove(&id);
            self.by_pattern.remove(&pattern);
            self.hub.unlisten_pattern(self.shard, id, now);
        }
    }

    /// Stops listening to channels that have had no reader for a while. Returns when to call again.
    pub fn rest(&mut self, now: Time) -> Option<Time> {
        while let Some((since, slot, channel)) = self.idle.front().copied() {
            if since.saturating_add(LINGER) > now {
                return Some(since.saturating_add(LINGER));
            }
            self.idle.pop_front();
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
            self.by_name.remove(&entry.channel.name, slot);
            self.by_place.remove(&channel.slot);
            self.hub.unlisten(self.shard, channel, now);
        }
        None
    }
}

fn excluded_session(publication: &Publication) -> Option<&str> {
    match &publication.body {
        Body::Message {
            attributes: Some(attributes),
            ..
        } => attributes.exclude_session.as_deref(),
        _ => None,
    }
}

/// Is it a gap of which the store told, before the first that it keeps? `begun` holds the channels of what came so far.
fn is_stored_before(item: &Item, begun: &mut Vec<ChannelId>) -> bool {
    match item {
        Item::Publication { publication, .. } => {
            begun.extend(publication.places.iter().map(|place| place.channel.id));
            false
        }
        Item::Gap {
            channel: Some(channel),
            lost: (Source::Durable, _),
            ..
        } => channel.is_stored() && !begun.contains(&channel.id),
        Item::Forgotten { .. } => true,
        Item::Gap { .. } => false,
    }
}

fn allowed(wants: Wants, channel: &Channel) -> bool {
    !wants.public_only || channel.is_public()
}
