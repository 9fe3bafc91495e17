//! Repeated requests: the second one under the same key publishes nothing and gets the first one's result.

use std::collections::{HashMap, VecDeque};

use crate::Time;
use crate::broker::Remembered;
use crate::channel::ChannelName;
use crate::hub::{Completion, Receipt};

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
    /// When it was first used; a line in `ages` with another time is of an earlier use that failed.
    since: Time,
    /// Of payload and channels: another message under the same key is a conflict.
    digest: u64,
    state: State,
}

impl Entry {
    /// Is the first request still on its way?
    fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending(_) | State::Accepted)
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

impl Claim {
    /// The claim of a message with these channels, of which there is at least one.
    pub fn new<'a>(
        key: &str,
        payload: u64,
        mut channels: impl Iterator<Item = &'a ChannelName> + Clone,
    ) -> Option<Self> {
        let of_channels = channels.clone().map(|name| digest(name.as_bytes()));
        let mixed = of_channels.fold(payload, |mixed, name| mix(mixed ^ name));
        Some(Self {
            scope: (channels.next()?.clone(), key.into()),
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
    /// Keys with the time they were first used, oldest first.
    ages: VecDeque<(Time, Scope)>,
    window: Time,
    limit: usize,
}

impl Keys {
    /// Keys are known for `window` milliseconds, at most `limit` of them.
    pub fn new(window: Time, limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            ages: VecDeque::new(),
            window,
            limit,
        }
    }

    /// Learns of keys from before the restart, oldest first.
    pub fn remember(&mut self, all: Vec<Remembered>) {
        for one in all {
            let channels = one.places.iter().map(|(name, _)| name);
            let Some(claim) = Claim::new(&one.key, one.digest, channels) else {
                continue;
            };
            self.insert(claim, one.time, State::Remembered(one.position, one.places));
        }
    }

    fn insert(&mut self, claim: Claim, since: Time, state: State) {
        self.ages.push_back((since, claim.scope.clone()));
        let digest = claim.digest;
        let entry = Entry { since, digest, state };
        self.entries.insert(claim.scope, entry);
    }

    /// What is known about a key; a new one is now pending.
    pub fn claim(&mut self, claim: &Claim, now: Time) -> Known {
        self.forget(now, CHORES);
        let known = self.entries.get(&claim.scope);
        // An old one may still be there: others were forgotten before it.
        match known.filter(|entry| entry.is_pending() || entry.since.saturating_add(self.window) > now) {
            None => {
                self.insert(claim.clone(), now, State::Pending(Vec::new()));
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
        match self.entries.remove(scope) {
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
        let (mut pending, mut looked) = (0, 0);
        while self.ages.len() > pending {
            let (since, scope) = &self.ages[0];
            if since.saturating_add(self.window) > now && self.ages.len() <= self.limit {
                return false;
            }
            if looked == most {
                // If all are pending, they will be later as well.
                return pending < most;
            }
            looked += 1;
            match self.entries.get(scope) {
                Some(entry) if entry.is_pending() && entry.since == *since => {
                    // Goes to the end of the line, under its old time.
                    self.ages.rotate_left(1);
                    pending += 1;
                }
                Some(entry) if entry.since == *since => {
                    self.entries.remove(scope);
                    self.ages.pop_front();
                }
                _ => {
                    self.ages.pop_front();
                }
            }
        }
        false
    }

    /// When the oldest key will be forgotten.
    pub fn deadline(&self) -> Option<Time> {
        self.ages
            .front()
            .map(|(since, _)| since.saturating_add(self.window))
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
