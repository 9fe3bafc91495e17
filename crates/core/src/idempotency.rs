//! Repeated requests: the second one under the same key publishes nothing and gets the first one's result.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::Time;
use crate::channel::ChannelName;
use crate::hub::{Completion, Receipt};
use crate::publication::Message;

/// A large odd number without a pattern: the fraction of the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Tells payloads under one key apart, in every process alike. It keeps nobody out: whoever makes two payloads that agree
/// fools himself.
pub fn digest(payload: &[u8]) -> u64 {
    let mut digest = payload.len() as u64;
    for chunk in payload.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let mixed = u128::from(digest ^ u64::from_le_bytes(word)) * u128::from(MULTIPLIER);
        digest = (mixed as u64 ^ (mixed >> 64) as u64).wrapping_add(MULTIPLIER);
    }
    digest
}

/// The scope of a key: realm and channel (the first one of the message), and the key itself.
type Scope = (ChannelName, Box<str>);

enum State {
    /// The first request has not been answered yet; these wait for it.
    Pending(Vec<Completion>),
    Done(Receipt),
}

struct Entry {
    /// When it was first used; a line in `ages` with another time is of an earlier use that failed.
    since: Time,
    /// Of the payload: another payload under the same key is a conflict. Keyed at random, so nobody makes two that agree.
    digest: u64,
    state: State,
}

/// What is known about a key.
pub enum Known {
    /// Nothing: go on, and call [`Keys::done`] or [`Keys::failed`] afterwards.
    New,
    /// Published before, with this result.
    Done(Receipt),
    /// The first request is still on its way; [`Keys::wait`] for it.
    Pending,
    /// The key was used with another payload.
    Conflict,
}

/// The keys of the last few minutes.
pub struct Keys {
    entries: HashMap<Scope, Entry>,
    /// Keys with the time they were first used, oldest first.
    ages: VecDeque<(Time, Scope)>,
    hasher: RandomState,
    window: Time,
    limit: usize,
}

impl Keys {
    /// Keys are known for `window` milliseconds, at most `limit` of them.
    pub fn new(window: Time, limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            ages: VecDeque::new(),
            hasher: RandomState::new(),
            window,
            limit,
        }
    }

    /// What is known about the key of this message; a new one is now pending.
    pub fn claim(&mut self, message: &Message, key: &str, now: Time) -> Known {
        self.forget(now);
        let scope = (message.channels[0].clone(), Box::from(key));
        let digest = self.hasher.hash_one((message.payload.bytes(), &message.channels));
        match self.entries.get(&scope) {
            None => {
                self.ages.push_back((now, scope.clone()));
                self.entries.insert(
                    scope,
                    Entry {
                        since: now,
                        digest,
                        state: State::Pending(Vec::new()),
                    },
                );
                Known::New
            }
            Some(entry) if entry.digest != digest => Known::Conflict,
            Some(Entry {
                state: State::Done(receipt),
                ..
            }) => Known::Done(Receipt {
                duplicate: true,
                ..receipt.clone()
            }),
            Some(_) => Known::Pending,
        }
    }

    /// The request waits for the result of the first one.
    pub fn wait(&mut self, channel: &ChannelName, key: &str, completion: Completion) {
        if let Some(Entry {
            state: State::Pending(waiting),
            ..
        }) = self.entries.get_mut(&(channel.clone(), Box::from(key)))
        {
            waiting.push(completion);
        }
    }

    /// The first request was published; returns who waited for that.
    pub fn done(&mut self, channel: &ChannelName, key: &str, receipt: &Receipt) -> Vec<Completion> {
        match self.entries.get_mut(&(channel.clone(), Box::from(key))) {
            Some(entry) => match std::mem::replace(&mut entry.state, State::Done(receipt.clone())) {
                State::Pending(waiting) => waiting,
                State::Done(_) => Vec::new(),
            },
            None => Vec::new(),
        }
    }

    /// The first request failed: the key is free again. Returns who waited for it.
    pub fn failed(&mut self, channel: &ChannelName, key: &str) -> Vec<Completion> {
        match self.entries.remove(&(channel.clone(), Box::from(key))) {
            Some(Entry {
                state: State::Pending(waiting),
                ..
            }) => waiting,
            _ => Vec::new(),
        }
    }

    /// Forgets what is older than the window, and the oldest above the limit; a pending one is never forgotten.
    pub fn forget(&mut self, now: Time) {
        let mut pending = 0;
        while self.ages.len() > pending {
            let (since, scope) = &self.ages[0];
            if since.saturating_add(self.window) > now && self.ages.len() <= self.limit {
                break;
            }
            match self.entries.get(scope) {
                Some(Entry {
                    state: State::Pending(_),
                    since: own,
                    ..
                }) if own == since => {
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
