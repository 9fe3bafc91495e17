//! What a fetch wants is looked up in the index: some channels at a time, so that nobody waits long for its lock.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cometserver_core::broker::{Fetch, Lost, Want, Whose};
use cometserver_core::channel::ChannelName;

use super::index::{Channel, Entry, Index, Slot};
use super::io::DiskFile;
use super::shared::{Shared, count};

mod in_order;

/// At most so many publications are fetched at once, whatever was asked for.
const MAX_PAGE: usize = 4096;

/// About so many steps are made while the lock is held once.
const STEPS: usize = 2048;

/// If no more channels than these have changed since the beginning, a pattern looks at each of them; else at what there is in the
/// order of positions, so that a page costs about what it returns.
const FEW: usize = 2048;

/// So many channels found by a pattern are named in a page's gaps; beyond, `forgotten` speaks for them.
const MAX_GAPS: usize = 1024;

/// A publication found: read from the file also if it is removed meanwhile.
pub(crate) struct Found {
    /// The file.
    pub(crate) file: Arc<dyn DiskFile>,
    /// With what the checks of its records begin.
    pub(crate) seed: u32,
    /// Where it is.
    pub(crate) entry: Entry,
}

/// See the module.
pub(crate) struct Gather<'a> {
    fetch: &'a Fetch,
    limit: usize,
    found: BTreeMap<u64, Found>,
    /// There is more than the limit.
    is_full: bool,
    slots: Vec<Slot>,
    seen: HashSet<Slot>,
    /// Channels of which something after the beginning is gone, with the newest.
    pub(crate) gaps: Vec<(ChannelName, u64)>,
    /// See [`Page::forgotten`](cometserver_core::broker::Page::forgotten).
    pub(crate) forgotten: u64,
    /// What was answered and never written, of the channels and patterns.
    pub(crate) lost: Vec<Lost>,
    /// What lies behind has not been looked at.
    horizon: u64,
    ends_at: u64,
    /// Channels and publications looked at.
    looked: usize,
}

impl<'a> Gather<'a> {
    /// Nothing looked up yet.
    pub(crate) fn new(fetch: &'a Fetch) -> Self {
        Self {
            fetch,
            limit: match fetch.want {
                Want::Retained => usize::MAX,
                Want::Oldest | Want::Newest => fetch.limit.clamp(1, MAX_PAGE),
            },
            found: BTreeMap::new(),
            is_full: false,
            slots: Vec::new(),
            seen: HashSet::new(),
            gaps: Vec::new(),
            forgotten: 0,
            lost: Vec::new(),
            horizon: u64::MAX,
            ends_at: 0,
            looked: 0,
        }
    }

    /// Looks everything up.
    pub(crate) fn run(&mut self, shared: &Shared) {
        let now = shared.now();
        let mut names = self.fetch.channels.iter().peekable();
        while names.peek().is_some() {
            let mut index = shared.index();
            let mut steps = 0;
            while steps < STEPS
                && let Some(name) = names.peek()
                && let Some(more) = self.named(&mut index, name, now)
            {
                steps += 1 + more;
                names.next();
            }
            self.looked += steps;
        }
        if self.fetch.want != Want::Retained {
            self.look_for_losses(shared);
            self.patterns(shared, now);
            // At last: who was forgotten meanwhile was not found.
            self.forgotten = self.forgotten.max(shared.index().forgotten);
        }
        self.ends_at = self.end();
        if self.fetch.want == Want::Oldest && self.ends_at < u64::MAX {
            // What else was found comes again with the page that reaches it.
            self.found.split_off(&(self.ends_at + 1));
        }
        count(&shared.counters.looked, self.looked as u64);
    }

    /// What was found, in the order asked for.
    pub(crate) fn take_found(&mut self) -> Vec<Found> {
        let found = std::mem::take(&mut self.found).into_values();
        match self.fetch.want {
            Want::Newest => found.rev().collect(),
            Want::Oldest | Want::Retained => found.collect(),
        }
    }

    /// The channels that were found.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How far everything found reaches.
    pub(crate) fn complete_until(&self) -> u64 {
        self.ends_at
    }

    fn end(&self) -> u64 {
        let Fetch {
            want, after, until, ..
        } = *self.fetch;
        match want {
            Want::Oldest => {
                let last = self.found.last_key_value().filter(|_| self.is_full);
                last.map_or(until, |(at, _)| *at).min(self.horizon)
            }
            Want::Newest if self.is_full => self.found.first_key_value().map_or(after, |(at, _)| *at - 1),
            Want::Retained => until,
            Want::Newest => after,
        }
    }

    /// Looks up a channel by name. Returns the steps that it took; none: see [`Gather::channel`].
    fn named(&mut self, index: &mut Index, name: &ChannelName, now: u64) -> Option<usize> {
        let slot = index.find(name.realm(), name.as_bytes());
        match (slot, self.fetch.want) {
            (Some(slot), Want::Retained) => self.retained(index, slot),
            (Some(slot), _) => return self.channel(index, slot, now),
            (None, Want::Retained) => {}
            (None, _) if index.forgotten > self.fetch.after => {
                self.gaps.push((name.clone(), index.forgotten));
            }
            (None, _) => {}
        }
        Some(0)
    }

    /// Whether a channel is known makes no difference: what was lost may have been its first.
    fn look_for_losses(&mut self, shared: &Shared) {
        let index = shared.index();
        let losses = index.losses.between(self.fetch.after, self.fetch.until);
        for loss in losses {
            let (position, concerned) = (loss.position, &loss.concerned);
            let names = self.fetch.channels.iter();
            let names = names.filter(|name| concerned.concerns(name));
            let patterns = self.fetch.patterns.iter();
            let patterns = patterns.filter(|pattern| concerned.may_concern(pattern));
            let named = names.map(|name| Whose::Channel(name.clone()));
            let all = named.chain(patterns.map(|pattern| Whose::Pattern(pattern.clone())));
            self.lost.extend(all.map(|whose| Lost { whose, position }));
        }
    }

    fn retained(&mut self, index: &Index, slot: Slot) {
        let channel = index.get(slot);
        let entry = channel.and_then(|channel| channel.retained);
        if let Some(entry) = entry.filter(|entry| entry.position <= self.fetch.until) {
            self.slots.push(slot);
            self.take(index, entry);
        }
    }

    /// Looks up the channels that the patterns match. Only those that have changed since the beginning can matter.
    fn patterns(&mut self, shared: &Shared, now: u64) {
        if self.fetch.patterns.is_empty() {
            return;
        }
        if self.fetch.want == Want::Oldest && self.is_changed_by_many(shared) {
            self.in_order(shared, now);
            return;
        }
        let mut since = (self.fetch.after, Slot::MAX);
        loop {
            let mut index = shared.index();
            let changed: Vec<(u64, Slot)> = index.changed_since(since, STEPS / 2).collect();
            if changed.is_empty() {
                return;
            }
            let mut steps = 0;
            for (at, slot) in changed {
                steps += 1;
                if index.get(slot).is_some_and(|channel| self.matches(channel)) {
                    let Some(more) = self.channel(&mut index, slot, now) else {
                        break;
                    };
                    steps += more;
                }
                since = (at, slot);
                if steps >= STEPS {
                    break;
                }
            }
            self.looked += steps;
        }
    }

    fn matches(&self, channel: &Channel) -> bool {
        let mut patterns = self.fetch.patterns.iter();
        patterns.any(|pattern| pattern.matches_name(&channel.name))
    }

    /// Takes what is wanted of a channel's history. Returns the steps that it took; none if there was so much to be trimmed that
    /// others have to have the index before it is looked at again.
    fn channel(&mut self, index: &mut Index, slot: Slot, now: u64) -> Option<usize> {
        // A channel that publishes while it is looked for is met again.
        if self.seen.contains(&slot) {
            return Some(0);
        }
        if !index.trim(slot, now, &mut { STEPS }) {
            return None;
        }
        self.seen.insert(slot);
        let Some(channel) = index.get(slot) else {
            return Some(0);
        };
        self.slots.push(slot);
        let Fetch {
            want, after, until, ..
        } = *self.fetch;
        if channel.gone > after {
            if self.gaps.len() < MAX_GAPS || self.fetch.channels.contains(&channel.name) {
                self.gaps.push((channel.name.clone(), channel.gone));
            } else {
                self.forgotten = self.forgotten.max(channel.gone);
            }
        }
        let mut steps = 0;
        let mut take = |entry: &Entry| {
            steps += 1;
            self.take(index, *entry)
        };
        let history = channel.between(after, until);
        match want {
            Want::Newest => history.rev().all(&mut take),
            Want::Oldest | Want::Retained => history.into_iter().all(&mut take),
        };
        Some(steps)
    }

    /// Takes one if it belongs to the page. Can there be more behind it?
    fn take(&mut self, index: &Index, entry: Entry) -> bool {
        if self.found.len() >= self.limit && !self.found.contains_key(&entry.position) {
            self.is_full = true;
            let worst = match self.fetch.want {
                Want::Newest => self.found.first_entry(),
                Want::Oldest | Want::Retained => self.found.last_entry(),
            };
            let Some(worst) = worst else {
                return false;
            };
            let is_worse = match self.fetch.want {
                Want::Newest => entry.position < *worst.key(),
                Want::Oldest | Want::Retained => entry.position > *worst.key(),
            };
            if is_worse {
                return false;
            }
            worst.remove();
        }
        if let Some(segment) = index.segments.get(&entry.segment) {
            let found = Found {
                file: segment.file.clone(),
                seed: segment.seed,
                entry,
            };
            self.found.insert(entry.position, found);
        }
        true
    }
}
