//! Questions about channels: their retained values, and which there are. What is stored, the store is asked for.

use std::sync::Arc;

use super::Hub;
use super::state::{Entry, State, name_steps};
use crate::broker::{BrokerError, Fetch, Page, StoredChannel, Want};
use crate::channel::{Channel, ChannelId, ChannelName};
use crate::pattern::Pattern;
use crate::position::Position;
use crate::publication::Publication;

/// So many retained values are fetched at a time: each may be as large as a message may be.
pub(crate) const VALUES: usize = 16;

/// To look at the value of a channel takes so many steps, besides looking its name up.
const LOOKED_UP: usize = 4;

/// A pattern that matches little must not look at a million channels for one page of a list.
const LOOK_AT: usize = 20_000;

/// So many channels are looked at in one hold of the lock.
const STRIDE: usize = 256;

/// The names of one page of a list are compared with its pattern for so many steps, a few milliseconds.
const COMPARED: usize = 100_000;

/// A piece of the store's list counts as so many, also if it is shorter: what it looked at is not known.
const FRUITLESS: usize = LOOK_AT / 16;

/// From this number on a list of channels goes on among those of the store. Both lists count far below it, and numbers up to
/// twice as much survive JavaScript.
const STORED: u64 = 1 << 52;

/// What a question is answered with.
#[derive(Debug)]
pub enum Answer<T> {
    /// At once.
    Ready(T),
    /// The completion will be called, from any thread, the hub not locked.
    Later,
}

impl<T> Answer<T> {
    /// The answer, if it came at once.
    pub fn ready(self) -> Option<T> {
        match self {
            Answer::Ready(answer) => Some(answer),
            Answer::Later => None,
        }
    }
}

/// How a question is answered that had to wait for the store.
pub type Later<T> = Box<dyn FnOnce(Result<T, BrokerError>) + Send>;

/// A channel as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSummary {
    /// Its name.
    pub name: ChannelName,
    /// Given as `after`, [`Hub::channels`] goes on behind it.
    pub number: u64,
    /// Identity of its history.
    pub epoch: u64,
    /// The newest offset.
    pub offset: u64,
    /// How many publications are kept.
    pub publications: usize,
    /// Bytes that they take: of memory, or of a durable channel in the store.
    pub bytes: usize,
    /// Does anybody listen?
    pub listened: bool,
    /// The members, if it has presence.
    pub members: usize,
    /// Is there a retained value? [`Hub::retained_values`] has it.
    pub retained: bool,
}

/// What is known of a retained value.
pub(crate) enum Value {
    /// Memory has it.
    Here(Arc<Publication>),
    /// The store has it, at this position.
    Stored(u64),
    /// There is none.
    None,
}

/// Values that are being fetched, a few at a time.
struct Values {
    names: Vec<ChannelName>,
    found: Vec<Option<Arc<Publication>>>,
    /// Which of them the store has to be asked for.
    missing: Vec<usize>,
}

impl Hub {
    /// The retained value of a channel.
    pub fn retained(
        self: &Arc<Self>,
        name: &ChannelName,
        later: &mut dyn FnMut() -> Later<Option<Arc<Publication>>>,
    ) -> Answer<Option<Arc<Publication>>> {
        let value = self.state_for(std::slice::from_ref(name)).value_of(name);
        match value {
            Value::Here(value) => Answer::Ready(Some(value)),
            Value::None => Answer::Ready(None),
            Value::Stored(_) => {
                let values = Values {
                    names: vec![name.clone()],
                    found: vec![None],
                    missing: vec![0],
                };
                let one = later();
                self.fetch_values(
                    values,
                    Box::new(|values| one(values.map(|mut values| values.pop().flatten()))),
                );
                Answer::Later
            }
        }
    }

    /// The retained values of several channels, in their order.
    pub fn retained_values(
        self: &Arc<Self>,
        names: Vec<ChannelName>,
        later: &mut dyn FnMut() -> Later<Vec<Option<Arc<Publication>>>>,
    ) -> Answer<Vec<Option<Arc<Publication>>>> {
        let (mut found, mut missing) = (Vec::with_capacity(names.len()), Vec::new());
        {
            let mut state = self.state_for(&names);
            for (index, name) in names.iter().enumerate() {
                state.steps += LOOKED_UP + name_steps(name);
                if !state.has_time() {
                    drop(state);
                    state = self.state_for_long();
                }
                found.push(match state.value_of(name) {
                    Value::Here(value) => Some(value),
                    Value::None => None,
                    Value::Stored(_) => {
                        missing.push(index);
                        None
                    }
                });
            }
        }
        if missing.is_empty() {
            return Answer::Ready(found);
        }
        // The next to be asked for are at the end.
        missing.reverse();
        let values = Values {
            names,
            found,
            missing,
        };
        self.fetch_values(values, later());
        Answer::Later
    }

    fn fetch_values(self: &Arc<Self>, mut values: Values, later: Later<Vec<Option<Arc<Publication>>>>) {
        let asked = values
            .missing
            .split_off(values.missing.len().saturating_sub(VALUES));
        let fetch = Fetch {
            want: Want::Retained,
            channels: asked.iter().map(|index| values.names[*index].clone()).collect(),
            until: self.now().durable,
            bytes: usize::MAX,
            ..Fetch::default()
        };
        let (hub, until) = (self.clone(), fetch.until);
        let fetched = move |page: Result<Page, BrokerError>| {
            let page = match page {
                Ok(page) => page,
                Err(error) => return later(Err(error)),
            };
            {
                let mut state = hub.state_for_long();
                state.open_page(&page);
                for index in asked {
                    state.steps += LOOKED_UP + name_steps(&values.names[index]);
                    match state.value_of(&values.names[index]) {
                        Value::Here(value) => values.found[index] = Some(value),
                        // It was replaced while it was fetched, and memory has let go the new one already.
                        Value::Stored(position) if position > until => values.missing.push(index),
                        Value::Stored(position) => {
                            let value = state.value_in(&page, position);
                            if value.is_none() && state.is_being_replaced(&values.names[index], until) {
                                // Its successor is stored, and the hub about to be told.
                                values.missing.push(index);
                            }
                            values.found[index] = value;
                        }
                        Value::None => {}
                    }
                }
            }
            if values.missing.is_empty() {
                later(Ok(values.found));
            } else {
                hub.fetch_values(values, later);
            }
        };
        self.fetch(fetch, Box::new(fetched));
    }

    /// Is there a retained value in a channel that is listened to?
    pub(crate) fn has_retained(&self, channel: ChannelId) -> bool {
        let state = self.state();
        state
            .channel(channel)
            .is_some_and(|entry| !matches!(entry.value(), Value::None))
    }

    /// The retained value of a channel that is listened to, as of `until`: what came later is not for whoever asks.
    pub(crate) fn retained_until(&self, channel: ChannelId, until: Position) -> Value {
        let state = self.state();
        match state.channel(channel).map_or(Value::None, Entry::value) {
            Value::Here(value) if !until.covers(value.source, value.at) => Value::None,
            Value::Stored(position) if position > until.durable => Value::None,
            value => value,
        }
    }

    /// The same with a page that had to be fetched.
    pub(crate) fn retained_fetched(
        &self,
        channel: ChannelId,
        until: Position,
        page: &Page,
    ) -> Option<Arc<Publication>> {
        match self.retained_until(channel, until) {
            Value::Here(value) => Some(value),
            Value::Stored(position) => {
                let mut state = self.state_for_long();
                state.open_page(page);
                state.value_in(page, position)
            }
            Value::None => None,
        }
    }

    /// Channels that a pattern matches, from the first after `after`: those in memory in the order in which they were made,
    /// then those of the store. At most `limit`; the second value is where to go on, if there is more. A page may be short,
    /// or empty.
    pub fn channels(
        &self,
        pattern: Option<&Pattern>,
        after: u64,
        limit: usize,
    ) -> (Vec<ChannelSummary>, Option<u64>) {
        let limit = limit.max(1);
        let mut found = Vec::new();
        let mut from = 0;
        match after.checked_sub(STORED) {
            Some(after) => from = after,
            None => {
                let next = self.summaries(pattern, after, limit, &mut found);
                if next.is_some() {
                    return (found, next);
                }
            }
        }
        let Some(broker) = &self.broker else {
            return (found, None);
        };
        let (mut looked, mut left) = (0, COMPARED);
        while found.len() < limit && looked < LOOK_AT && left > 0 {
            let (stored, next) = broker.channels(from, STRIDE.min(limit - found.len()));
            looked += stored.len().max(FRUITLESS);
            let matching = stored.into_iter().filter(|stored| {
                left = left.saturating_sub(steps(pattern, &stored.name));
                pattern.is_none_or(|pattern| pattern.matches_name(&stored.name))
            });
            let matching: Vec<StoredChannel> = matching.collect();
            let mut state = self.state_for_long();
            state.steps += 4 * matching.len();
            found.extend(
                matching
                    .into_iter()
                    .filter_map(|stored| state.stored_summary(stored)),
            );
            match next {
                Some(next) => from = next,
                None => return (found, None),
            }
        }
        (found, Some(STORED + from))
    }

    /// Channels of which the store has nothing to tell. Returns where to go on, if there are more. Names are compared without
    /// the lock.
    fn summaries(
        &self,
        pattern: Option<&Pattern>,
        mut after: u64,
        limit: usize,
        found: &mut Vec<ChannelSummary>,
    ) -> Option<u64> {
        let (mut looked, mut left) = (0, COMPARED);
        loop {
            let channels = self.state_for_long().made_after(after);
            let mut matching = Vec::new();
            for (made, channel) in channels {
                if left == 0 || found.len() + matching.len() == limit {
                    break;
                }
                (after, looked) = (made, looked + 1);
                left = left.saturating_sub(steps(pattern, &channel.name));
                if pattern.is_none_or(|pattern| pattern.matches_name(&channel.name)) {
                    matching.push((made, channel.id));
                }
            }
            let mut state = self.state_for_long();
            let more = state.made.range(after + 1..).next().is_some();
            state.steps += 8 * matching.len();
            let listed = matching.into_iter();
            found.extend(listed.filter_map(|(made, id)| state.summary(made, id)));
            drop(state);
            if !more {
                return None;
            }
            if found.len() == limit || looked >= LOOK_AT || left == 0 {
                return Some(after);
            }
        }
    }
}

/// What it takes to compare a name with a pattern, if there is one.
fn steps(pattern: Option<&Pattern>, name: &ChannelName) -> usize {
    pattern.map_or(1, |pattern| pattern.steps(name.as_bytes().len()))
}

impl State {
    fn value_of(&self, name: &ChannelName) -> Value {
        match (self.find(name), &self.broker) {
            (Some(entry), _) => entry.value(),
            (None, Some(broker)) if self.is_stored(name) => {
                Value::stored(broker.channel(name).map_or(0, |channel| channel.retained))
            }
            (None, _) => Value::None,
        }
    }

    /// Does the store have a newer value than this, of which the hub has not been told yet?
    fn is_being_replaced(&self, name: &ChannelName, until: u64) -> bool {
        let stored = self.broker.as_ref().and_then(|broker| broker.channel(name));
        stored.is_some_and(|channel| channel.retained > until)
    }

    /// A retained value in what was fetched.
    fn value_in(&self, page: &Page, position: u64) -> Option<Arc<Publication>> {
        let stored = page.stored.iter().find(|stored| stored.position == position)?;
        self.revive(stored).map(Arc::new)
    }

    /// The next channels in the order in which they were made.
    fn made_after(&mut self, after: u64) -> Vec<(u64, Arc<Channel>)> {
        self.steps += STRIDE;
        let next = self.made.range(after + 1..).take(STRIDE);
        next.filter_map(|(made, id)| Some((*made, self.channel(*id)?.channel.clone())))
            .collect()
    }

    /// A channel, unless the store has something to tell of it.
    fn summary(&self, made: u64, id: ChannelId) -> Option<ChannelSummary> {
        let entry = self.channel(id)?;
        let store = self.broker.as_ref().filter(|_| entry.channel.is_stored());
        let stored = store.and_then(|broker| broker.channel(&entry.channel.name));
        if stored.is_some_and(|stored| stored.keeps()) {
            return None;
        }
        Some(entry.summary(made))
    }

    fn stored_summary(&self, stored: StoredChannel) -> Option<ChannelSummary> {
        let entry = self.find(&stored.name);
        if entry.is_some_and(|entry| !entry.channel.is_stored()) {
            // By now it is in memory, and listed there.
            return None;
        }
        Some(ChannelSummary {
            number: STORED + stored.number,
            epoch: stored.epoch,
            offset: stored.offset,
            publications: stored.publications,
            bytes: stored.bytes,
            listened: entry.is_some_and(|entry| entry.shards != 0),
            members: entry.map_or(0, Entry::members),
            retained: stored.retained != 0,
            name: stored.name,
        })
    }
}

impl Entry {
    fn value(&self) -> Value {
        match self.log.retained() {
            Some(value) => Value::Here(value.clone()),
            None => Value::stored(self.retained),
        }
    }

    fn members(&self) -> usize {
        self.presence.as_ref().map_or(0, |presence| presence.count())
    }

    fn summary(&self, number: u64) -> ChannelSummary {
        ChannelSummary {
            name: self.channel.name.clone(),
            number,
            epoch: self.channel.epoch,
            offset: self.offset,
            publications: self.log.len(),
            bytes: self.log.bytes(),
            listened: self.shards != 0,
            members: self.members(),
            retained: !matches!(self.value(), Value::None),
        }
    }
}

impl Value {
    fn stored(position: u64) -> Self {
        match position {
            0 => Value::None,
            position => Value::Stored(position),
        }
    }
}
