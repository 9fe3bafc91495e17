//! Repeated requests: the second one under the same key publishes nothing and gets the first one's result.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Time;
use crate::broker::Remembered;
use crate::channel::ChannelName;
use crate::hub::{Completion, Receipt};
use crate::publication::Message;
use crate::quota::{Part, Payer, Usage};
use crate::tidy::{Table, Tidy};

/// A large odd number without a pattern: the fraction of the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Tells payloads under one key apart, in every process alike. It keeps nobody out: whoever makes two payloads that agree
/// fools himself.
pub fn digest(payload: &[u8]) -> u64 {
    let mut digest = payload.len() as u64;
    for chunk in payload.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        digest = mix(digest ^ u64::from_le_bytes(word));
    }
    digest
}

fn mix(word: u64) -> u64 {
    let wide = u128::from(word) * u128::from(MULTIPLIER);
    (wide as u64 ^ (wide >> 64) as u64).wrapping_add(MULTIPLIER)
}

/// The scope of a key (realm and channel), and the key itself.
pub type Scope = (ChannelName, Box<str>);

/// So many bytes of what a key holds weigh as much as the key itself: a part of so many keys is a part of memory as well.
const UNIT: usize = 256;

enum State {
    /// The first request is not visible yet; these wait for that.
    Pending(Vec<Completion>),
    /// The same, but its publisher was answered when it was taken, and so is whoever repeats it.
    Accepted,
    Done(Receipt),
    /// Published before the restart: at this position, in these places.
    Remembered(u64, Vec<(ChannelName, u64)>),
}

struct Entry {
    /// What it takes of the parts, in keys.
    weight: usize,
    /// Counts the keys in the order in which they were first used.
    number: u64,
    /// When it was first used.
    since: Time,
    /// Of payload and channels: another message under the same key is a conflict.
    digest: u64,
    /// Who used it first.
    payer: Payer,
    state: State,
}

impl Entry {
    fn is_settled(&self) -> bool {
        !matches!(self.state, State::Pending(_) | State::Accepted)
    }

    /// Bytes that it holds besides its scope: where the message is.
    fn held(&self) -> usize {
        match &self.state {
            State::Pending(_) | State::Accepted => 0,
            State::Done(receipt) => size_of_val(&*receipt.places),
            State::Remembered(_, places) => size_of_val(places.as_slice()),
        }
    }
}

/// What a key with this scope weighs that holds so much besides.
fn weight((channel, key): &Scope, held: usize) -> usize {
    1 + (channel.as_bytes().len() + key.len() + held) / UNIT
}

/// A request under a key.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The key in its scope: the first, by name, of the message's channels that are stored, or else of all.
    pub scope: Scope,
    /// Of the payload and of the channels that count: those that are stored, or else all.
    pub digest: u64,
}

/// A message under a key, with all that takes its length to work out: that is done before the hub is locked.
pub struct Keyed {
    key: Box<str>,
    /// Of the payload.
    digest: u64,
    /// Its channels, each once, with the digests of their names.
    pub channels: Vec<(ChannelName, u64)>,
    /// Their places in that list, by name: whoever repeats a message may list them in another order.
    by_name: Vec<usize>,
}

impl Keyed {
    /// What a message with a key may claim.
    pub fn of(message: &Message) -> Option<Self> {
        let key = message.idempotency_key.as_ref()?;
        Some(Self::new(
            key.clone(),
            digest(message.payload.bytes()),
            message.channels.iter(),
        ))
    }

    fn new<'a>(key: Box<str>, payload: u64, names: impl Iterator<Item = &'a ChannelName>) -> Self {
        let mut seen = HashSet::new();
        let once = names.filter(|name| seen.insert(*name));
        let channels: Vec<_> = once.map(|name| (name.clone(), digest(name.as_bytes()))).collect();
        let mut by_name: Vec<usize> = (0..channels.len()).collect();
        by_name.sort_unstable_by_key(|at| &channels[*at].0);
        Self {
            key,
            digest: payload,
            channels,
            by_name,
        }
    }

    /// The names of its channels, each once.
    pub fn names(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.iter().map(|(name, _)| name)
    }

    /// Its claim, if these of its channels are stored.
    pub fn claim(self, stored: &[bool]) -> Option<Claim> {
        let any = stored.contains(&true);
        let counts = |at: usize| !any || stored.get(at).copied().unwrap_or_default();
        let counted = self.by_name.iter().copied().filter(|at| counts(*at));
        let first = counted.clone().next()?;
        let mixed = counted.fold(self.digest, |mixed, at| mix(mixed ^ self.channels[at].1));
        Some(Claim {
            scope: (self.channels[first].0.clone(), self.key),
            digest: mixed,
        })
    }
}

/// A key whose publication is visible.
pub struct Settled {
    /// The request.
    pub claim: Claim,
    /// When it was made.
    pub since: Time,
    /// What came of it.
    pub receipt: Receipt,
}

/// What a key weighs at most, about: a thousand channels and the longest name. It is known only when its message is published,
/// so the parts are overdrawn by as much until the next one.
const HEAVIEST: usize = 256;

/// A claim forgets so many old keys on its way, and makes one.
const CHORES: usize = 4;

/// What is known about a key.
pub enum Known {
    /// Nothing: go on, and call [`Keys::done`], [`Keys::accepted`] or [`Keys::failed`] afterwards.
    New,
    /// Published before, with this result.
    Done(Receipt),
    /// Published before the restart: at this position, in these places.
    Remembered(u64, Vec<(ChannelName, u64)>),
    /// The first request is still on its way; [`Keys::wait`] for it.
    Pending,
    /// The first request is still on its way, but was answered already.
    Accepted,
    /// The key was used with another payload.
    Conflict,
}

/// Keys that have a part of the table together.
#[derive(Default)]
struct Group {
    /// What they weigh.
    taken: usize,
    /// The numbers of those that are settled.
    settled: BTreeSet<u64>,
}

/// The keys of the last few minutes.
pub struct Keys {
    /// In order, since a table of hashes would have all others wait whenever it grows.
    entries: BTreeMap<Arc<Scope>, Entry>,
    /// What all of them weigh.
    taken: usize,
    /// Settled keys with the time they were first used, by their numbers: oldest first. Only these may be forgotten.
    settled: BTreeMap<u64, (Time, Arc<Scope>)>,
    /// Those that visitors use, of these those without a token, and those that each of them uses.
    of_visitors: Group,
    of_anonymous: Group,
    by_visitor: FxHashMap<Payer, Group>,
    next: u64,
    window: Time,
    limit: usize,
    part: Part,
    /// Keys of visitors that were forgotten before their time.
    early: u64,
    /// Keys that were forgotten to make room, since that was asked for last.
    work: usize,
}

impl Keys {
    /// Keys are known for `window` milliseconds, at most `limit` of them, of which visitors may take a part: a flood of
    /// theirs makes the server forget their own keys. Long ones, and those of what is in many channels, count as several.
    pub fn new(window: Time, limit: usize, part: Part) -> Self {
        Self {
            entries: BTreeMap::new(),
            taken: 0,
            settled: BTreeMap::new(),
            of_visitors: Group::default(),
            of_anonymous: Group::default(),
            by_visitor: FxHashMap::default(),
            next: 0,
            window,
            limit,
            part,
            early: 0,
            work: 0,
        }
    }

    /// Learns of keys from before the restart, oldest first.
    pub fn remember(&mut self, all: Vec<Remembered>) {
        for one in all {
            let channels = one.places.iter().map(|(name, _)| name);
            let Some(claim) = Keyed::new(one.key, one.digest, channels).claim(&[]) else {
                continue;
            };
            self.insert(
                claim,
                Payer::SITE,
                one.time,
                State::Remembered(one.position, one.places),
            );
        }
    }

    /// So many keys from number `from` on, those of them whose publication is visible and that no store remembers. And where to
    /// go on, if there may be more.
    pub fn kept(&self, from: u64, limit: usize) -> (Vec<Settled>, Option<u64>) {
        let (mut found, mut looked_at, mut next) = (Vec::new(), 0, from);
        for (number, (since, scope)) in self.settled.range(from..).take(limit) {
            (looked_at, next) = (looked_at + 1, number + 1);
            if let Some(entry) = self.entries.get(scope)
                && let State::Done(receipt) = &entry.state
                && !receipt.places.iter().any(|place| place.channel.is_stored())
            {
                found.push(Settled {
                    claim: Claim {
                        scope: Scope::clone(scope),
                        digest: entry.digest,
                    },
                    since: *since,
                    receipt: receipt.clone(),
                });
            }
        }
        (found, (looked_at == limit).then_some(next))
    }

    /// Goes on with a key that [`Keys::kept`] handed over before a restart.
    pub fn take_up(&mut self, key: Settled) {
        self.insert(key.claim, Payer::NOBODY, key.since, State::Done(key.receipt));
    }

    fn insert(&mut self, claim: Claim, payer: Payer, since: Time, state: State) {
        // A log may tell of two uses of a key that was free in between.
        self.remove(&claim.scope);
        let number = self.next;
        self.next += 1;
        let scope = Arc::new(claim.scope);
        let weight = weight(&scope, 0);
        self.taken += weight;
        self.each_group(payer, |group| group.taken += weight);
        let entry = Entry {
            weight,
            number,
            since,
            digest: claim.digest,
            payer,
            state,
        };
        let is_settled = entry.is_settled();
        self.entries.insert(scope.clone(), entry);
        if is_settled {
            self.settle(&scope);
        }
    }

    /// A key is settled: from now on it may be forgotten, and what came of it is held as well.
    fn settle(&mut self, scope: &Scope) {
        let Some((scope, entry)) = self.entries.get_key_value(scope) else {
            return;
        };
        let (number, payer, since) = (entry.number, entry.payer, entry.since);
        let more = weight(scope, entry.held()).saturating_sub(entry.weight);
        self.settled.insert(number, (since, scope.clone()));
        let scope = scope.clone();
        if let Some(entry) = self.entries.get_mut(&scope) {
            entry.weight += more;
        }
        self.taken += more;
        self.each_group(payer, |group| {
            group.taken += more;
            group.settled.insert(number);
        });
    }

    /// Does something to each group that the keys of this payer belong to.
    fn each_group(&mut self, payer: Payer, mut change: impl FnMut(&mut Group)) {
        if !payer.is_visitor() {
            return;
        }
        change(&mut self.of_visitors);
        if payer.is_anonymous() {
            change(&mut self.of_anonymous);
        }
        let own = self.by_visitor.entry(payer).or_default();
        change(own);
        if own.taken == 0 {
            self.by_visitor.remove(&payer);
            self.by_visitor.tidy();
        }
    }

    /// Forgets a key with all that is noted of it.
    fn remove(&mut self, scope: &Scope) -> Option<Entry> {
        let entry = self.entries.remove(scope)?;
        self.taken -= entry.weight;
        self.settled.remove(&entry.number);
        self.each_group(entry.payer, |group| {
            group.taken -= entry.weight;
            group.settled.remove(&entry.number);
        });
        Some(entry)
    }

    /// Makes room for another key of a visitor, if its part or that of its kind is used up: the oldest of them go that are
    /// settled, until there is room for one that weighs so much. Those that are not settled are bounded by what may wait for the
    /// store.
    fn make_room(&mut self, payer: Payer, weight: usize) {
        if !payer.is_visitor() {
            return;
        }
        for _ in 0..HEAVIEST {
            let Some(scope) = self.oldest_of_crowded(payer, weight) else {
                return;
            };
            self.remove(&scope);
            self.early += 1;
            self.work += 1;
        }
    }

    /// The oldest key that makes room for one of this weight, if it needs any.
    fn oldest_of_crowded(&self, payer: Payer, weight: usize) -> Option<Arc<Scope>> {
        let (part, own) = (self.part, self.by_visitor.get(&payer));
        let is_full = |group: &Group, part: usize| group.taken + weight > part;
        let crowded = match own.filter(|own| is_full(own, part.one)) {
            Some(own) => own,
            // Whoever has no token never makes the server forget a key of those who have.
            None if payer.is_anonymous()
                && (is_full(&self.of_visitors, part.visitors)
                    || is_full(&self.of_anonymous, part.anonymous)) =>
            {
                &self.of_anonymous
            }
            None if is_full(&self.of_visitors, part.visitors) => &self.of_visitors,
            None => return None,
        };
        let number = crowded.settled.first()?;
        self.settled.get(number).map(|(_, scope)| scope.clone())
    }

    /// What is known about a key; a new one is now pending.
    pub fn claim(&mut self, claim: &Claim, payer: Payer, now: Time) -> Known {
        self.forget(now, CHORES);
        let known = self.entries.get(&claim.scope);
        // An old one may still be there: others were forgotten before it.
        match known.filter(|entry| !entry.is_settled() || !self.is_old(entry.since, now)) {
            None => {
                self.make_room(payer, weight(&claim.scope, 0));
                self.insert(claim.clone(), payer, now, State::Pending(Vec::new()));
                Known::New
            }
            Some(entry) if entry.digest != claim.digest => Known::Conflict,
            Some(entry) => match &entry.state {
                State::Done(receipt) => Known::Done(receipt.repeated()),
                State::Remembered(position, places) => Known::Remembered(*position, places.clone()),
                State::Pending(_) => Known::Pending,
                State::Accepted => Known::Accepted,
            },
        }
    }

    /// The request waits for the result of the first one.
    pub fn wait(&mut self, scope: &Scope, completion: Completion) {
        if let Some(Entry {
            state: State::Pending(waiting),
            ..
        }) = self.entries.get_mut(scope)
        {
            waiting.push(completion);
        }
    }

    /// The publisher of the first request was answered before it is visible; nobody waits for it yet.
    pub fn accepted(&mut self, scope: &Scope) {
        if let Some(entry) = self.entries.get_mut(scope) {
            entry.state = State::Accepted;
        }
    }

    /// The first request was published; returns who waited for that.
    pub fn done(&mut self, scope: &Scope, receipt: &Receipt) -> Vec<Completion> {
        let Some(entry) = self.entries.get_mut(scope) else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut entry.state, State::Done(receipt.clone()));
        self.settle(scope);
        match before {
            State::Pending(waiting) => waiting,
            _ => Vec::new(),
        }
    }

    /// The first request failed: the key is free again. Returns who waited for it.
    pub fn failed(&mut self, scope: &Scope) -> Vec<Completion> {
        match self.remove(scope) {
            Some(Entry {
                state: State::Pending(waiting),
                ..
            }) => waiting,
            _ => Vec::new(),
        }
    }

    /// Forgets what is older than the window, and the oldest above the limit; a pending one is never forgotten. At most
    /// `most` go; may there be more to forget?
    pub fn forget(&mut self, now: Time, most: usize) -> bool {
        for _ in 0..most {
            let Some((_, (since, scope))) = self.settled.first_key_value() else {
                return false;
            };
            if !self.is_old(*since, now) && self.taken <= self.limit {
                return false;
            }
            let scope = scope.clone();
            self.remove(&scope);
        }
        true
    }

    fn is_old(&self, since: Time, now: Time) -> bool {
        since.saturating_add(self.window) <= now
    }

    /// When the oldest key will be forgotten that is settled.
    pub fn deadline(&self) -> Option<Time> {
        let (_, (since, _)) = self.settled.first_key_value()?;
        Some(since.saturating_add(self.window))
    }

    /// How many keys were forgotten to make room since this was asked for last: that is work.
    pub fn take_work(&mut self) -> usize {
        std::mem::take(&mut self.work)
    }

    /// How many of them visitors use, and how many of theirs were forgotten before their time.
    pub fn usage(&self) -> Usage {
        Usage {
            taken: self.of_visitors.taken,
            refused: self.early,
        }
    }

    /// How full its tables are.
    pub fn tables(&self) -> [Table; 1] {
        [Table::of("key_visitors", &self.by_visitor)]
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is none known?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
