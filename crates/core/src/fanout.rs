//! One shard's readers: who is told of a publication, and what comes next for those who are behind.
//!
//! A reader is a cursor. While it is *live* its cursor moves with the shard's: each round tells it of what concerns it. A reader
//! that could not be written to, or starts from an older cursor, or subscribes late, is *behind*: it reads page by page,
//! through the same hub, until it has caught up. Nothing waits here but positions.

mod attachment;
mod behind;
mod rounds;
mod show;
mod subscribe;
mod weight;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use slab::Slab;

use crate::Time;
use crate::broker::{Fetch, Page};
use crate::channel::{Channel, ChannelId, ChannelName};
use crate::few::Few;
use crate::hub::{Hub, Item, ListenError, Start};
use crate::log::Trimmed;
use crate::names::Names;
use crate::namespace::Namespace;
use crate::pattern::Pattern;
use crate::position::Position;
use crate::publication::{Body, Publication};
use crate::quota::Payer;
use crate::tidy::{Table, TidySlab};

pub use subscribe::Standing;

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

impl Step {
    /// About how many bytes it takes, written or kept.
    pub fn size(&self) -> usize {
        match self {
            Step::Publication(publication, ..) => publication.size(),
            Step::Gap(target, ..) | Step::Subscribed(target) => size_of::<Step>() + target.name_len(),
        }
    }
}

/// What a subscription is to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A channel.
    Channel(Arc<Channel>),
    /// A pattern.
    Pattern(Arc<Pattern>),
}

impl Target {
    fn name_len(&self) -> usize {
        match self {
            Target::Channel(channel) => channel.name.as_bytes().len(),
            Target::Pattern(pattern) => pattern.as_bytes().len(),
        }
    }
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
    /// The site's own code has named it.
    is_sites: bool,
}

struct PatternSlot {
    pattern: Arc<Pattern>,
    since: Position,
    readers: Vec<ReaderId>,
    /// The site's own code has named it.
    is_sites: bool,
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
    /// What was gone before a reader began with the oldest kept, of the messages and of the news about members: it is not
    /// told.
    forgiven: Vec<(CatchUpTarget, Trimmed, Trimmed)>,
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
    /// Who answers for what it names first.
    payer: Payer,
    /// See [`Fanout::weight`].
    subscribed_bytes: usize,
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
    slots_room: TidySlab,
    readers_room: TidySlab,
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
            slots_room: TidySlab::default(),
            readers_room: TidySlab::default(),
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
            payer: Payer::SITE,
            subscribed_bytes: 0,
            rare,
        }) as ReaderId
    }

    /// Who answers for the channels and patterns that a reader is the first to name, from now on. If nothing is said, that is
    /// the site's own code.
    pub fn charge(&mut self, reader: ReaderId, payer: Payer) {
        self.readers[reader as usize].payer = payer;
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
        let slot = self.slot(reader, name, now)?;
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
        let id = self.pattern_slot(reader, pattern)?;
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

    fn trimmed_now(&self, reader: ReaderId) -> Vec<(CatchUpTarget, Trimmed, Trimmed)> {
        let entry = &self.readers[reader as usize];
        let channels = entry.subscriptions.iter().map(|s| {
            let id = self.slots[s.slot as usize].channel.id;
            (
                CatchUpTarget::Channel(id),
                self.hub.trimmed(id),
                self.hub.trimmed_news(id),
            )
        });
        let patterns = entry.patterns.iter().map(|p| {
            (
                CatchUpTarget::Pattern(p.id),
                self.hub.pattern_trimmed(p.id),
                self.hub.pattern_trimmed_news(p.id),
            )
        });
        channels.chain(patterns).collect()
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
        self.readers_room.left(&mut self.readers);
    }

    /// How full this shard's tables are.
    pub fn tables(&self) -> [Table; 7] {
        [
            Table::of("listened", &self.slots),
            Table::of("listened_names", &self.by_name),
            Table::of("listened_places", &self.by_place),
            Table::of("listened_patterns", &self.patterns),
            Table::of("listened_texts", &self.by_pattern),
            Table::of("readers", &self.readers),
            Table::of("unlistened", &self.idle),
        ]
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
