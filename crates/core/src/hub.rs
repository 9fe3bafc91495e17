//! The door: publish, listen, read on from a cursor, history, presence.
//!
//! The hub is shared behind one mutex. A publisher holds it to append, a shard once a round to copy out references, a
//! subscriber to learn where it stands: nobody while encoding, writing or waiting.

mod answers;
mod ask;
mod held;
mod history;
mod housekeeping;
mod keeping;
mod read;
mod state;
mod submit;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::Time;
use crate::broker::{Broker, Fetch, Fetched, Page};
use crate::channel::{ChannelId, ChannelName};
use crate::cursor::{Cursor, Marks};
use crate::few::Few;
use crate::idempotency::Keyed;
use crate::kept::Former;
use crate::log::Trimmed;
use crate::namespace::{Durability, Namespaces};
use crate::pattern::Pattern;
use crate::position::{Position, Source};
use crate::publication::{Message, Publication};
use crate::quota::{OverQuota, Parts, Payer};
use crate::tidy::Table;

pub use crate::broker::Delete;
pub use answers::{
    Collected, Completion, ListenError, Listening, Members, PublishError, Published, Receipt, Start, Stats,
    VisitorStats,
};
pub use ask::{Answer, ChannelSummary, Later};
pub(crate) use ask::{VALUES, Value};
use held::Held;
pub use held::Hold;
pub use history::{HISTORY_LIMIT, History, HistoryQuery};
pub use read::{Item, Limits as ReadLimits, Read, Selected, Selection};
use read::{Verdicts, Work};
use state::{Full, State};

/// So many channels are looked at, when namespaces change, before the lock is given back.
const RENEWED: usize = 1024;

/// To read so many channels in memory is never long.
const FEW_CHANNELS: usize = 16;

/// So many pieces of housekeeping are done in one go: whoever does it has more to do.
const PIECES: usize = 64;

/// Shards are told apart by a bit each.
pub const MAX_SHARDS: usize = 64;

/// The hub's own bounds, and what chance and the clock gave it at the start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces in order.
    pub namespaces: Namespaces,
    /// How long everything is kept for present and returning readers, in milliseconds.
    pub window: Time,
    /// What the window may keep beyond the bounds of the namespaces, in bytes, all channels together.
    pub window_bytes: usize,
    /// What all logs together may keep in memory, in bytes; retained values that outlived the rest of theirs included, and
    /// the names of channels, which may take half of it: beyond that, idle channels are forgotten, or new ones refused.
    pub log_memory: usize,
    /// Above so many channels the idle ones are forgotten at once.
    pub channels: usize,
    /// An idle channel is forgotten after so many milliseconds.
    pub forget_after: Time,
    /// How many patterns there may be, all connections together; see [`Pattern::weight`].
    pub patterns: usize,
    /// How long an idempotency key is known, in milliseconds.
    pub idempotency_window: Time,
    /// How many idempotency keys are known.
    pub idempotency_keys: usize,
    /// Publishers in [`Durability::Buffered`] namespaces are answered at once while at most so many bytes wait for the store
    /// (payloads, names, attributes, keys): so much may be lost that was answered.
    pub buffered: usize,
    /// So many bytes of publications may wait for the store, of which visitors may take their parts.
    pub queue: usize,
    /// The bounds of presence.
    pub presence: crate::presence::Limits,
    /// What visitors may take of `channels`, of the names' part of `log_memory`, of `patterns`, `idempotency_keys` and members.
    pub parts: Parts,
    /// The incarnation of memory: random, new at each start.
    pub incarnation: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: Namespaces::default(),
            window: 10_000,
            window_bytes: 64 << 20,
            log_memory: 256 << 20,
            channels: 1_000_000,
            forget_after: 60_000,
            patterns: 10_000,
            idempotency_window: 300_000,
            idempotency_keys: 100_000,
            buffered: 1 << 20,
            queue: 64 << 20,
            presence: crate::presence::Limits::default(),
            parts: Parts::default(),
            incarnation: 0,
        }
    }
}

struct Shard {
    /// Has it been told, and not yet looked?
    awake: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// See the module.
pub struct Hub {
    state: Mutex<State>,
    /// How many wait for the lock; whoever holds it may look.
    waiting: Arc<AtomicUsize>,
    /// See [`Hub::readings_that_gave_way`].
    gave_way: AtomicU64,
    work_clock: OnceLock<fn() -> u64>,
    shards: [OnceLock<Shard>; MAX_SHARDS],
    broker: Option<Arc<dyn Broker>>,
    marks: Marks,
    /// Incarnations of memory before this one that it goes on from, oldest first.
    former: Vec<Former>,
    /// When housekeeping is due, as far as the housekeeper knows; `u64::MAX`: never.
    deadline: AtomicU64,
    housekeeper: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Hub {
    /// A hub that keeps everything in memory.
    pub fn new(options: Options) -> Self {
        Self::build(options, None)
    }

    /// A hub with a store for durable namespaces.
    pub fn with_broker(options: Options, broker: Arc<dyn Broker>) -> Self {
        Self::build(options, Some(broker))
    }

    fn build(mut options: Options, broker: Option<Arc<dyn Broker>>) -> Self {
        match &broker {
            Some(broker) => broker.configure(&options.namespaces),
            None => options.namespaces = options.namespaces.in_memory(),
        }
        let marks = Marks {
            durable: broker.as_ref().map_or(0, |broker| broker.mark()),
            memory: options.incarnation,
        };
        let waiting = Arc::new(AtomicUsize::new(0));
        Self {
            state: Mutex::new(State::new(options, broker.clone(), waiting.clone())),
            waiting,
            gave_way: AtomicU64::new(0),
            work_clock: OnceLock::new(),
            shards: [const { OnceLock::new() }; MAX_SHARDS],
            broker,
            marks,
            former: Vec::new(),
            deadline: AtomicU64::new(u64::MAX),
            housekeeper: OnceLock::new(),
        }
    }

    /// A shard, and how to wake it. Shards are numbered in the order of attachment by the caller, below [`MAX_SHARDS`].
    pub fn attach(&self, shard: u8, wake: Box<dyn Fn() + Send + Sync>) {
        {
            let mut state = self.state();
            let visible = state.visible;
            state.seen.push((shard, visible));
        }
        let _ = self.shards[shard as usize].set(Shard {
            awake: AtomicBool::new(true),
            wake,
        });
    }

    /// How to tell the housekeeper that [`Hub::tick`] is due earlier than it was told.
    pub fn set_housekeeper(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let _ = self.housekeeper.set(wake);
    }

    /// The shard is about to wait: from now on it has to be woken. Collect once more afterwards.
    pub fn sleep(&self, shard: u8) {
        if let Some(shard) = self.shards[shard as usize].get() {
            shard.awake.store(false, Ordering::SeqCst);
        }
    }

    /// The shard runs: nobody needs to wake it.
    pub fn stay_awake(&self, shard: u8) {
        if let Some(shard) = self.shards[shard as usize].get() {
            shard.awake.store(true, Ordering::SeqCst);
        }
    }

    fn wake(&self, audience: u64) {
        let mut rest = audience;
        while rest != 0 {
            let shard = rest.trailing_zeros();
            rest &= rest - 1;
            if let Some(shard) = self.shards[shard as usize].get()
                && !shard.awake.swap(true, Ordering::SeqCst)
            {
                (shard.wake)();
            }
        }
    }

    /// The cursor of a position.
    pub fn cursor(&self, position: Position) -> Cursor {
        Cursor {
            marks: self.marks,
            position,
        }
    }

    /// Under which histories positions count.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// The newest visible position: "now".
    pub fn now(&self) -> Position {
        self.state().visible
    }

    /// Where a client with this cursor begins.
    pub fn resolve(&self, cursor: &Cursor) -> Start {
        let visible = self.now();
        let mut start = Start {
            position: cursor.position,
            lost_memory: false,
            lost_durable: false,
        };
        let former = || {
            self.former
                .iter()
                .find(|former| former.mark == cursor.marks.memory)
        };
        let issued = match cursor.marks.memory == self.marks.memory {
            true => Some(visible.memory),
            false => former().map(|former| former.until),
        };
        if issued.is_none_or(|until| cursor.position.memory > until) {
            start.lost_memory = true;
            start.position.memory = 0;
        }
        let known = match &self.broker {
            _ if cursor.marks.durable == self.marks.durable => cursor.position.durable <= visible.durable,
            Some(broker) => broker.knows(cursor.marks.durable, cursor.position.durable),
            None => false,
        };
        if !known {
            start.lost_durable = true;
            start.position.durable = 0;
        }
        start
    }

    /// Publishes. A memory publication is visible when this returns; for a durable one `later` is asked for a completion.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was published.
    pub fn publish(
        &self,
        message: Message,
        now: Time,
        later: &mut dyn FnMut() -> Completion,
    ) -> Result<Published, PublishError> {
        if message.channels.is_empty() {
            return Err(PublishError::NoChannel);
        }
        let keyed = Keyed::of(&message);
        // Opened first, so that a refusal is told before anything is stored.
        let (mut state, opened, now) = self.open_all((&message.channels, message.payer), now);
        let claim;
        (state, claim) = self.claim_of(state, keyed, opened.as_deref().ok());
        let known = claim
            .as_ref()
            .and_then(|claim| state.answer_known(claim, message.payer, now, later));
        if let Some(answer) = known {
            // Nothing is published in what was opened for it.
            opened
                .iter()
                .flat_map(|ids| ids.iter())
                .for_each(|id| state.maybe_idle(*id, now));
            let deadline = state.deadline();
            drop(state);
            self.due(deadline);
            return answer;
        }
        let scope = claim.map(|claim| claim.scope);
        let result = opened.map_err(PublishError::from).and_then(|ids| {
            let published = match state.durability(&ids) {
                Durability::Memory if state.closed => Err(state::closed().into()),
                Durability::Memory => Ok(state.publish_memory(message, &ids, now)),
                durability => state.submit(message, &ids, scope.as_ref(), durability, now, later),
            };
            ids.iter().for_each(|id| state.maybe_idle(*id, now));
            published
        });
        if let Some(scope) = &scope {
            // Nobody can wait while the lock was held.
            match &result {
                Ok((Published::Visible(receipt), _)) => drop(state.keys.done(scope, receipt)),
                Ok((Published::Accepted, _)) => state.keys.accepted(scope),
                Ok((Published::Pending, _)) => {}
                Err(_) => drop(state.keys.failed(scope)),
            }
        }
        let deadline = state.append_deadline(now);
        let crowded = state.enforce_ceilings();
        drop(state);
        self.due(deadline);
        let (published, audience) = result?;
        self.wake(audience);
        if crowded {
            self.make_room();
        }
        Ok(published)
    }

    /// Opens channels to publish in, each once and in their order, compared with all patterns. The lock is given back where
    /// there are many or long names, and what takes long to compare is compared without it.
    fn open_all(
        &self,
        (names, payer): (&[ChannelName], Payer),
        time: Time,
    ) -> (Held<'_>, Result<Few<ChannelId>, Full>, Time) {
        let (mut ids, mut next) = (Few::default(), 0);
        let mut state = self.state_for(names);
        loop {
            let now = state.clock(time);
            let opened = state.open_some((names, payer), (&mut next, &mut ids), now);
            let mut behind = match opened {
                Ok(()) if next == names.len() => match state.compare(&ids) {
                    None => return (state, Ok(ids), now),
                    behind => behind,
                },
                Ok(()) => None,
                Err(full) if full.is_to_be_tried_again() => None,
                Err(full) => {
                    ids.iter().for_each(|id| state.maybe_idle(*id, now));
                    return (state, Err(full), now);
                }
            };
            drop(state);
            if let Some(behind) = &mut behind {
                behind.run();
            }
            state = self.state_for_long();
            if let Some(behind) = behind {
                state.compared(behind, now);
            }
            if !state.are_open(&ids) {
                // What nobody needed was forgotten meanwhile.
                ids.iter().for_each(|id| state.maybe_idle(*id, now));
                (ids, next) = (Few::default(), 0);
            }
        }
    }

    /// What is left of making room after an append, done by whoever needed it.
    fn make_room(&self) {
        loop {
            if !self.state_for_long().enforce_ceilings() {
                break;
            }
        }
    }

    /// A shard has its first listener on a channel, which is made if need be: the site's own code.
    ///
    /// # Errors
    /// [`ListenError::TooManyChannels`].
    pub fn listen(&self, shard: u8, name: &ChannelName, now: Time) -> Result<Listening, ListenError> {
        self.listen_for(Payer::SITE, shard, name, now)
    }

    /// The same for whoever answers for the channel as long as nobody else does.
    ///
    /// # Errors
    /// [`ListenError::TooManyChannels`], [`ListenError::Quota`].
    pub fn listen_for(
        &self,
        payer: Payer,
        shard: u8,
        name: &ChannelName,
        now: Time,
    ) -> Result<Listening, ListenError> {
        let mut state = self.state_for(std::slice::from_ref(name));
        let now = state.clock(now);
        let id = loop {
            match state.open(name, payer, now) {
                Ok(id) => break id,
                Err(full) if full.is_to_be_tried_again() => {
                    drop(state);
                    state = self.state_for_long();
                }
                Err(full) => return Err(full.into()),
            }
        };
        let since = state.visible;
        let entry = state.channel_mut(id).expect("just opened");
        entry.shards |= 1 << shard;
        entry.idle = state::BUSY;
        let channel = entry.channel.clone();
        let last = state.channel(id).map_or(since, |entry| state.last_of(entry));
        Ok(Listening { channel, since, last })
    }

    /// A shard has no listener on a channel any more.
    pub fn unlisten(&self, shard: u8, channel: ChannelId, now: Time) {
        let mut state = self.state();
        let now = state.clock(now);
        if let Some(entry) = state.channel_mut(channel) {
            entry.shards &= !(1 << shard);
        }
        state.maybe_idle(channel, now);
        let deadline = state.deadline();
        drop(state);
        self.due(deadline);
    }

    /// A shard has its first listener on a pattern: the site's own code. Returns the pattern's number, and since when it
    /// concerns the shard.
    ///
    /// # Errors
    /// [`ListenError::TooManyPatterns`].
    pub fn listen_pattern(&self, shard: u8, pattern: &Arc<Pattern>) -> Result<(u32, Position), ListenError> {
        self.listen_pattern_for(Payer::SITE, shard, pattern)
    }

    /// The same for whoever answers for the pattern as long as nobody else does.
    ///
    /// # Errors
    /// [`ListenError::TooManyPatterns`], [`ListenError::Quota`].
    pub fn listen_pattern_for(
        &self,
        payer: Payer,
        shard: u8,
        pattern: &Arc<Pattern>,
    ) -> Result<(u32, Position), ListenError> {
        let mut state = self.state();
        state.steps += pattern.as_bytes().len() / 64;
        let id = state.listen_pattern(payer, shard, pattern)?;
        let (visible, deadline) = (state.visible, state.deadline());
        drop(state);
        // Where there are many, those without listeners linger shorter.
        self.due(deadline);
        Ok((id, visible))
    }

    /// A shard has no listener on a pattern any more.
    pub fn unlisten_pattern(&self, shard: u8, id: u32, now: Time) {
        let mut state = self.state();
        let now = state.clock(now);
        state.unlisten_pattern(id, shard, now);
        let deadline = state.deadline();
        drop(state);
        self.due(deadline);
    }

    /// Copies out, for a shard, what became visible since the last time and concerns it, at most `limit` publications.
    pub fn collect(&self, shard: u8, limit: usize, out: &mut Vec<Arc<Publication>>) -> Collected {
        self.state().collect(shard, limit, out)
    }

    /// Reads on for one client: what lies after `from`, at most up to `until`. See [`Read`].
    pub fn read(
        &self,
        selection: &Selection<'_>,
        from: Position,
        until: Position,
        limits: ReadLimits,
        out: &mut Vec<Item>,
    ) -> Read {
        self.read_page(selection, from, until, limits, None, out)
    }

    /// The same with a page that had to be fetched, see [`Read::Cold`].
    pub fn read_fetched(
        &self,
        selection: &Selection<'_>,
        from: Position,
        until: Position,
        limits: ReadLimits,
        page: &Page,
        out: &mut Vec<Item>,
    ) -> Read {
        self.read_page(selection, from, until, limits, Some(page), out)
    }

    fn read_page(
        &self,
        selection: &Selection<'_>,
        from: Position,
        until: Position,
        limits: ReadLimits,
        page: Option<&Page>,
        out: &mut Vec<Item>,
    ) -> Read {
        let before = out.len();
        let mut verdicts = Verdicts::default();
        loop {
            let is_short = selection.patterns.is_empty() && selection.channels.len() <= FEW_CHANNELS;
            let mut state = match page {
                None if is_short => self.state(),
                _ => self.state_for_long(),
            };
            if let Some(page) = page {
                state.open_page(page);
            }
            let mut work = Work::new(&verdicts);
            let read = state.read(selection, (from, until), limits, page, (&mut work, out));
            let Work {
                steps,
                unknown,
                gave_way,
                ..
            } = work;
            state.steps += steps;
            drop(state);
            if gave_way {
                self.gave_way.fetch_add(1, Ordering::Relaxed);
            }
            if unknown.is_empty() {
                return read;
            }
            out.truncate(before);
            verdicts.learn(unknown);
        }
    }

    /// How often a reading has ended early so far because others waited for the lock. Whoever sees this grow while reading the
    /// past lets some time pass before going on: the lock is free to be taken at once in between.
    pub fn readings_that_gave_way(&self) -> u64 {
        self.gave_way.load(Ordering::Relaxed)
    }

    /// Asks the store for what [`Read::Cold`] names.
    pub fn fetch(&self, fetch: Fetch, fetched: Fetched) {
        let asked = Arc::new(fetch.clone());
        let fetched: Fetched = Box::new(move |page| {
            fetched(page.map(|page| Page {
                asked: Some(asked),
                ..page
            }));
        });
        match &self.broker {
            Some(broker) => broker.read(fetch, fetched),
            None => fetched(Ok(Page {
                reached: fetch.until,
                ..Page::default()
            })),
        }
    }

    /// See [`Namespaces::may_hold`].
    pub(crate) fn may_hold(&self, pattern: &Pattern, stored: bool) -> bool {
        self.state().options.namespaces.may_hold(pattern, stored)
    }

    /// What has been let go of a channel so far: who begins with the oldest kept is not told of it.
    pub fn trimmed(&self, channel: ChannelId) -> Trimmed {
        self.state()
            .channel(channel)
            .map(|entry| entry.log.trimmed)
            .unwrap_or_default()
    }

    /// The same of the news about its members.
    pub fn trimmed_news(&self, channel: ChannelId) -> Trimmed {
        let state = self.state();
        let entry = state.channel(channel);
        entry.map_or_else(Trimmed::default, |entry| entry.trimmed_news(state.left))
    }

    /// The same of the news about members of a pattern's channels.
    pub fn pattern_trimmed_news(&self, pattern: u32) -> Trimmed {
        self.state()
            .patterns
            .get(pattern)
            .map(|entry| entry.trimmed_news)
            .unwrap_or_default()
    }

    /// What has been let go of a pattern's channels so far.
    pub fn pattern_trimmed(&self, pattern: u32) -> Trimmed {
        self.state()
            .patterns
            .get(pattern)
            .map(|entry| entry.trimmed)
            .unwrap_or_default()
    }

    /// The newest offset of a channel that is listened to.
    pub fn offset(&self, channel: ChannelId) -> u64 {
        self.state().channel(channel).map_or(0, |entry| entry.offset)
    }

    /// Has the site's own code published in this channel? Where visitors may publish as well, only as far as memory knows.
    pub fn is_published(&self, name: &ChannelName) -> bool {
        self.state().is_published(name)
    }

    /// A connection of a user became a member of a channel that is listened to: the site's own code. Returns the number of
    /// members.
    pub fn join(&self, channel: ChannelId, user: &str, info: Option<Bytes>, now: Time) -> usize {
        self.join_for((user, Payer::SITE), channel, info, now)
            .unwrap_or_default()
    }

    /// The same for whoever answers for the member for as long as it is kept.
    ///
    /// # Errors
    /// [`OverQuota`]: the payer has as many as it may have; nothing changed.
    pub fn join_for(
        &self,
        who: (&str, Payer),
        channel: ChannelId,
        info: Option<Bytes>,
        now: Time,
    ) -> Result<usize, OverQuota> {
        let mut state = self.state();
        let now = state.clock(now);
        while let Some(mut behind) = state.compare(&[channel]) {
            drop(state);
            behind.run();
            state = self.state_for_long();
            state.compared(behind, now);
        }
        let (count, audience) = state.join(channel, who, info, now)?;
        let deadline = state.deadline();
        let crowded = state.enforce_ceilings();
        drop(state);
        self.due(deadline);
        self.wake(audience);
        if crowded {
            self.make_room();
        }
        Ok(count)
    }

    /// A connection of a user is a member no longer.
    pub fn leave(&self, channel: ChannelId, user: &str, now: Time) {
        let mut state = self.state();
        let now = state.clock(now);
        state.leave(channel, user, now);
        let deadline = state.deadline();
        drop(state);
        self.due(deadline);
    }

    /// The members of a channel, at most `limit` of them by name, and how many there are.
    pub fn members(&self, name: &ChannelName, limit: usize) -> Members {
        let mut state = self.state_for_long();
        let presence = state.find(name).and_then(|entry| entry.presence.as_ref());
        let found = Members {
            members: presence.map_or_else(Vec::new, |presence| presence.first(limit)),
            count: presence.map_or(0, |presence| presence.count()),
            at: state.visible,
        };
        state.steps += 2 * found.members.len();
        found
    }

    /// How many members a channel has.
    pub fn member_count(&self, channel: ChannelId) -> usize {
        let state = self.state();
        state
            .channel(channel)
            .and_then(|entry| entry.presence.as_ref())
            .map_or(0, |presence| presence.count())
    }

    /// The namespace whose rules hold for a name now: who may do what. How much a channel keeps was settled when it was made.
    pub fn namespace_of(&self, name: &ChannelName) -> Arc<crate::namespace::Namespace> {
        self.state().namespace_of(name)
    }

    /// Other namespaces hold from now on, for channels that exist as well, when this returns. Whoever listens to one may have
    /// lost the right to: see [`Fanout::namespaces`](crate::fanout::Fanout::namespaces). A channel that exists keeps its
    /// durability: its history does not move.
    pub fn set_namespaces(&self, namespaces: Namespaces) {
        let namespaces = match &self.broker {
            Some(broker) => {
                broker.configure(&namespaces);
                namespaces
            }
            None => namespaces.in_memory(),
        };
        self.state().set_namespaces(namespaces);
        let mut after = Some(0);
        while let Some(next) = after {
            // The lock is given back in between: there may be a million channels.
            let mut state = self.state_for_long();
            after = state.renew_namespaces(next, RENEWED);
            let deadline = state.deadline();
            drop(state);
            self.due(deadline);
        }
    }

    /// Can it keep anything in a store? Without one every namespace counts as `memory`.
    pub fn has_store(&self) -> bool {
        self.broker.is_some()
    }

    /// Figures for the operator.
    pub fn stats(&self) -> Stats {
        self.state().stats()
    }

    /// How full the hub's tables are.
    pub fn tables(&self) -> Vec<Table> {
        self.state().tables()
    }

    /// Publications that left early, by realm.
    pub fn trimmed_early(&self) -> HashMap<u16, u64> {
        self.state().trimmed_early.clone()
    }

    /// Does what is due: lets go what has grown old, announces who left, forgets the idle. Returns when to call again, which
    /// may be at once; none: not before something happens (the housekeeper is woken then).
    pub fn tick(&self, now: Time) -> Option<Time> {
        let (mut audience, mut next) = (0, None);
        for _ in 0..PIECES {
            let mut state = self.state_for_long();
            let now = state.clock(now);
            let ticked = state.tick(now);
            audience |= ticked.audience;
            next = if ticked.more { Some(now) } else { state.deadline() };
            self.deadline.store(next.unwrap_or(u64::MAX), Ordering::SeqCst);
            drop(state);
            if let Some(mut behind) = ticked.behind {
                behind.run();
                self.state_for_long().compared(behind, now);
            }
            if !ticked.more {
                break;
            }
        }
        self.wake(audience);
        next
    }

    /// Something may be due earlier than the housekeeper knows.
    fn due(&self, deadline: Option<Time>) {
        let Some(deadline) = deadline else { return };
        if deadline < self.deadline.load(Ordering::Relaxed) {
            self.deadline.fetch_min(deadline, Ordering::SeqCst);
            if let Some(wake) = self.housekeeper.get() {
                wake();
            }
        }
    }
}

/// What a source's loss means for a channel: does it concern its publications?
pub(crate) fn concerns(source: Source, durability: Durability) -> bool {
    match source {
        Source::Memory => !durability.is_stored(),
        Source::Durable => durability.is_stored(),
    }
}
