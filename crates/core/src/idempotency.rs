//! Repeated requests: the second one under the same key publishes nothing and gets the first one's result.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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
    /// Counts the keys in the order in which they were first used.
    number: u64,
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
}

/// A request under a key.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The key in its scope: the first of the message's channels that is stored, or else the first.
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
        Self {
            key,
            digest: payload,
            channels: once.map(|name| (name.clone(), digest(name.as_bytes()))).collect(),
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
        let all = self.channels.into_iter().enumerate();
        let mut counted = all.filter(|(at, _)| counts(*at)).map(|(_, channel)| channel);
        let (first, first_digest) = counted.next()?;
        let others = counted.map(|(_, name)| name);
        let mixed = std::iter::once(first_digest)
            .chain(others)
            .fold(self.digest, |mixed, name| mix(mixed ^ name));
        Some(Claim {
            scope: (first, self.key),
            digest: mixed,
        })
    }
}

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

/// The keys of the last few minutes.
pub struct Keys {
    entries: HashMap<Scope, Entry>,
    /// Keys with the time they were first used, by their numbers: oldest first.
    ages: BTreeMap<u64, (Time, Scope)>,
    /// The numbers of those that visitors use, and of those that each of them does.
    of_visitors: BTreeSet<u64>,
    by_visitor: FxHashMap<Payer, BTreeSet<u64>>,
    next: u64,
    window: Time,
    limit: usize,
    part: Part,
    /// Keys of visitors that were forgotten before their time.
    early: u64,
}

impl Keys {
    /// Keys are known for `window` milliseconds, at most `limit` of them, of which visitors may take a part: a flood of
    /// theirs makes the server forget their own keys.
    pub fn new(window: Time, limit: usize, part: Part) -> Self {
        Self {
            entries: HashMap::new(),
            ages: BTreeMap::new(),
            of_visitors: BTreeSet::new(),
            by_visitor: FxHashMap::default(),
            next: 0,
            window,
            limit,
            part,
            early: 0,
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

    fn insert(&mut self, claim: Claim, payer: Payer, since: Time, state: State) {
        // A log may tell of two uses of a key that was free in between.
        self.remove(&claim.scope);
        let number = self.next;
        self.next += 1;
        self.ages.insert(number, (since, claim.scope.clone()));
        if payer.is_visitor() {
            self.of_visitors.insert(number);
            self.by_visitor.entry(payer).or_default().insert(number);
        }
        let entry = Entry {
            number,
            digest: claim.digest,
            payer,
            state,
        };
        self.entries.insert(claim.scope, entry);
    }

    /// Forgets a key with all that is noted of it.
    fn remove(&mut self, scope: &Scope) -> Option<Entry> {
        let entry = self.entries.remove(scope)?;
        self.ages.remove(&entry.number);
        if entry.payer.is_visitor() {
            self.of_visitors.remove(&entry.number);
            if let Some(own) = self.by_visitor.get_mut(&entry.payer) {
                own.remove(&entry.number);
                if own.is_empty() {
                    self.by_visitor.remove(&entry.payer);
                }
            }
        }
        Some(entry)
    }

    /// Makes room for another key of a visitor, if its part or that of all visitors is used up: the oldest of them goes
    /// that is settled.
    fn make_room(&mut self, payer: Payer) {
        if !payer.is_visitor() {
            return;
        }
        let own = self.by_visitor.get(&payer);
        let crowded = match own.filter(|own| own.len() >= self.part.one) {
            Some(own) => Some(own),
            None if self.of_visitors.len() >= self.part.visitors => Some(&self.of_visitors),
            None => None,
        };
        let Some(crowded) = crowded else { return };
        let settled = |number: &u64| {
            let (_, scope) = self.ages.get(number)?;
            self.entries.get(scope)?.is_settled().then(|| scope.clone())
        };
        if let Some(scope) = crowded.iter().find_map(settled) {
            self.remove(&scope);
            self.early += 1;
        }
    }

    /// What is known about a key; a new one is now pending.
    pub fn claim(&mut self, claim: &Claim, payer: Payer, now: Time) -> Known {
        self.forget(now, CHORES);
        let known = self.entries.get(&claim.scope);
        // An old one may still be there: others were forgotten before it.
        match known.filter(|entry| !entry.is_settled() || !self.is_old(entry, now)) {
            None => {
                self.make_room(payer);
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
        match self.entries.get_mut(scope) {
            Some(entry) => match std::mem::replace(&mut entry.state, State::Done(receipt.clone())) {
                State::Pending(waiting) => waiting,
                _ => Vec::new(),
            },
            None => Vec::new(),
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
    /// `most` are looked at; is there more to forget?
    pub fn forget(&mut self, now: Time, most: usize) -> bool {
        let (mut from, mut pending) = (0, 0);
        for _ in 0..most {
            let Some((number, (since, scope))) = self.ages.range(from..).next() else {
                return false;
            };
            if since.saturating_add(self.window) > now && self.ages.len() <= self.limit {
                return false;
            }
            if since.saturating_add(self.window) > now && self.ages.len() <= self.limit {
                return false;
            }
            from = number + 1;
            if self.entries.get(scope).is_some_and(Entry::is_settled) {
                let scope = scope.clone();
                self.remove(&scope);
                self.entries.tidy();
            } else {
                pending += 1;
            }
        }
        // If all are pending, they will be later as well.
        pending < most
    }

    fn is_old(&self, entry: &Entry, now: Time) -> bool {
        let first_used = self.ages.get(&entry.number);
        first_used.is_none_or(|(since, _)| since.saturating_add(self.window) <= now)
    }

    /// When the oldest key will be forgotten.
    pub fn deadline(&self) -> Option<Time> {
        let (_, (since, _)) = self.ages.first_key_value()?;
        Some(since.saturating_add(self.window))
    }

    /// How many of them visitors use, and how many of theirs were forgotten before their time.
    pub fn usage(&self) -> Usage {
        Usage {
            taken: self.of_visitors.len(),
            refused: self.early,
        }
    }

    /// How full its tables are.
    pub fn tables(&self) -> [Table; 1] {
        [Table::of("keys", &self.entries)]
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
