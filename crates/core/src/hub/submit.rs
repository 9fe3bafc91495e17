//! What the store has been given, and what becomes of it.

use std::sync::Arc;

use super::held::Held;
use super::state::{Behind, State, closed, name_steps, queued};
use super::{Answer, Completion, Hub, Later, PublishError, Published, Receipt};
use crate::Time;
use crate::broker::{BrokerError, Committed, Delete, Deletion, Outcome, Submission};
use crate::channel::{ChannelId, ChannelName};
use crate::few::Few;
use crate::idempotency::{Claim, Keyed, Known, Scope};
use crate::namespace::Durability;
use crate::position::Position;
use crate::publication::{Body, Message, Place, Places};
use crate::quota::Payer;
use crate::registry::COUNTED;
use crate::tidy::Tidy;

/// To look at a channel, and ask the store for it, takes so many steps besides looking its name up.
const REFRESHED: usize = 4;

/// What waits for the store's answer. Its channels are not forgotten meanwhile.
pub(super) enum Submitted {
    Publication {
        message: Arc<Message>,
        /// Those of its channels that are stored, in the order submitted.
        awaited: Few<ChannelId>,
        /// When it was submitted: the time that is stored, so that live and from the store it is the same.
        time: Time,
        /// Its idempotency key.
        scope: Option<Scope>,
        /// None: the publisher has been answered.
        completion: Option<Completion>,
    },
    Deletion {
        channel: ChannelId,
        what: Delete,
        completion: Later<usize>,
    },
}

/// Who is to be told what, once the hub is not locked.
#[derive(Default)]
struct Answers {
    published: Vec<(Completion, Result<Receipt, PublishError>)>,
    deleted: Vec<(Later<usize>, Result<usize, BrokerError>)>,
    audience: u64,
    /// What was deleted in the store, and is to leave memory now.
    deleting: Option<(ChannelId, Delete)>,
}

/// Steps of a key that is forgotten to make room: it is looked for in several trees.
const KEY: usize = 4;

impl Hub {
    /// Forgets something of a channel. The answer is how many publications are gone, a retained value included; of a durable
    /// channel that is for the store to say, and gone they are when it does.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`]: the store does not take it; nothing is forgotten.
    pub fn delete(
        &self,
        name: &ChannelName,
        what: Delete,
        now: Time,
        later: &mut dyn FnMut() -> Later<usize>,
    ) -> Result<Answer<usize>, BrokerError> {
        let mut state = self.state_for(std::slice::from_ref(name));
        let now = state.clock(now);
        let answer = if state.is_stored(name) {
            state.submit_deletion(name, what, now, later)
        } else if state.closed {
            Err(closed())
        } else {
            let (channel, until) = (state.find_id(name), state.visible);
            drop(state);
            let deleted = channel.map_or(0, |channel| self.delete_in(channel, what, until, now));
            state = self.state();
            Ok(Answer::Ready(deleted))
        };
        let deadline = state.deadline();
        drop(state);
        self.due(deadline);
        answer
    }

    /// What a message claims that carries a key; its channels are given if they are open, each once and in their order. What is
    /// stored of them decides, if anything is: it is all that the store remembers. Where they could not be opened, and have
    /// to be looked up, the lock is given back in between.
    pub(super) fn claim_of<'a>(
        &'a self,
        mut state: Held<'a>,
        keyed: Option<Keyed>,
        channels: Option<&[ChannelId]>,
    ) -> (Held<'a>, Option<Claim>) {
        let Some(keyed) = keyed else {
            return (state, None);
        };
        state.steps += keyed.channels.len() / COUNTED;
        if let Some(ids) = channels {
            let stored: Vec<bool> = ids.iter().map(|id| state.keeps_in_store(*id)).collect();
            return (state, keyed.claim(&stored));
        }
        let mut stored = Vec::with_capacity(keyed.channels.len());
        for name in keyed.names() {
            if !state.has_time() {
                drop(state);
                state = self.state_for_long();
            }
            state.steps += name_steps(name);
            stored.push(state.is_stored(name));
        }
        (state, keyed.claim(&stored))
    }

    /// Forgets what memory has of a channel, and had at `until`.
    fn delete_in(&self, channel: ChannelId, what: Delete, until: Position, now: Time) -> usize {
        let mut deleted = 0;
        loop {
            let (count, more) = self.state_for_long().delete_in(channel, what, until, now);
            deleted += count;
            if !more {
                return deleted;
            }
        }
    }

    /// The broker tells what became of submissions and deletions, in the order of its positions.
    pub fn commit(&self, batch: Vec<Committed>, now: Time) {
        let mut answers = Answers::default();
        let mut state = self.state_for_long();
        let now = state.clock(now);
        for committed in batch {
            // Nobody else tells of the store, so the order stays the same where the lock is given back in between.
            if !state.has_time() {
                drop(state);
                state = self.state_for_long();
            }
            if let Some(missed) = state.missed(&committed) {
                let mut after = Some(0);
                while let Some(next) = after {
                    after = state.refresh_some(next);
                    if after.is_some() {
                        drop(state);
                        state = self.state_for_long();
                    }
                }
                answers.audience |= state.pass_over(missed);
            }
            while let Some(mut behind) = state.compare_committed(&committed, now) {
                drop(state);
                behind.run();
                state = self.state_for_long();
                state.compared(behind, now);
            }
            state.committed(committed, &mut answers, now);
            while let Some((channel, what)) = answers.deleting.take() {
                let until = state.visible;
                drop(state);
                self.delete_in(channel, what, until, now);
                state = self.state_for_long();
                state.answered(channel, now);
            }
        }
        let deadline = state.append_deadline(now);
        let crowded = state.enforce_ceilings();
        drop(state);
        self.due(deadline);
        self.wake(answers.audience);
        if crowded {
            self.make_room();
        }
        for (completion, result) in answers.published {
            completion(result);
        }
        for (completion, result) in answers.deleted {
            completion(result);
        }
    }
}

impl State {
    /// The answer to a message whose idempotency key was used before; none: it was not, and is now.
    pub(super) fn answer_known(
        &mut self,
        claim: &Claim,
        payer: Payer,
        now: Time,
        later: &mut dyn FnMut() -> Completion,
    ) -> Option<Result<Published, PublishError>> {
        let known = self.keys.claim(claim, payer, now);
        self.steps += KEY * self.keys.take_work();
        Some(match known {
            Known::New => return None,
            Known::Done(receipt) => Ok(Published::Visible(receipt)),
            Known::Remembered(position, places) => {
                Ok(Published::Visible(self.remembered(position, &places, now)))
            }
            Known::Accepted => Ok(Published::Accepted),
            Known::Conflict => Err(PublishError::Conflict),
            Known::Pending => {
                self.keys.wait(&claim.scope, later());
                Ok(Published::Pending)
            }
        })
    }

    /// Several channels with different durability: the strictest wins.
    pub(super) fn durability(&self, channels: &[ChannelId]) -> Durability {
        let entries = channels.iter().filter_map(|id| self.channel(*id));
        entries
            .map(|entry| entry.channel.durability)
            .max()
            .unwrap_or_default()
    }

    /// Is the history of this open channel in the store?
    fn keeps_in_store(&self, id: ChannelId) -> bool {
        self.channel(id).is_some_and(|entry| entry.channel.is_stored())
    }

    /// Is the history of this channel in the store, or will it be?
    pub(super) fn is_stored(&self, name: &ChannelName) -> bool {
        match self.find(name) {
            Some(entry) => entry.channel.is_stored(),
            None => self.options.namespaces.of(name).durability.is_stored(),
        }
    }

    /// The answer to the repetition of what was published before the restart.
    pub(super) fn remembered(&mut self, position: u64, places: &[(ChannelName, u64)], now: Time) -> Receipt {
        let mut found = Vec::with_capacity(places.len());
        for (name, offset) in places {
            let id = self.open_stored(name, now);
            found.extend(self.channel(id).map(|entry| Place {
                channel: entry.channel.clone(),
                offset: *offset,
                patterns: None,
            }));
        }
        Receipt {
            places: Places::from(found),
            // Nothing of this incarnation of memory preceded it.
            at: Position {
                durable: position,
                memory: 0,
            },
            duplicate: true,
        }
    }

    pub(super) fn publish_memory(
        &mut self,
        message: Message,
        channels: &[ChannelId],
        now: Time,
    ) -> (Published, u64) {
        let accepted = message.accepted;
        let (receipt, audience) = self.append_memory(channels, Body::from(message), accepted, now);
        (Published::Visible(receipt), audience)
    }

    /// Hands a message to the store.
    pub(super) fn submit(
        &mut self,
        message: Message,
        channels: &[ChannelId],
        scope: Option<&Scope>,
        durability: Durability,
        now: Time,
        later: &mut dyn FnMut() -> Completion,
    ) -> Result<(Published, u64), PublishError> {
        let Some(broker) = self.broker.clone() else {
            return Ok(self.publish_memory(message, channels, now));
        };
        let mut awaited = Few::default();
        let mut names = Vec::with_capacity(channels.len());
        for id in channels {
            if let Some(entry) = self.channel(*id).filter(|entry| entry.channel.is_stored()) {
                awaited.push(*id);
                names.push(entry.channel.name.clone());
            }
        }
        self.check_stored(message.payer, channels)?;
        self.charge_queued(&message)?;
        let ticket = self.next_ticket();
        let message = Arc::new(message);
        let waiting = broker.publish(Submission {
            ticket,
            message: message.clone(),
            channels: names,
            time: now,
        });
        if waiting.is_err() {
            self.release_queued(queued(&message));
        }
        let waiting = waiting?;
        let accepted = durability == Durability::Buffered && waiting <= self.options.buffered;
        for id in awaited.iter() {
            self.await_store(*id);
        }
        let submitted = Submitted::Publication {
            message,
            awaited,
            time: now,
            scope: scope.cloned(),
            completion: (!accepted).then(later),
        };
        self.submitted.insert(ticket, submitted);
        let published = if accepted {
            Published::Accepted
        } else {
            Published::Pending
        };
        Ok((published, 0))
    }

    fn submit_deletion(
        &mut self,
        name: &ChannelName,
        what: Delete,
        now: Time,
        later: &mut dyn FnMut() -> Later<usize>,
    ) -> Result<Answer<usize>, BrokerError> {
        let Some(broker) = self.broker.clone() else {
            return Ok(Answer::Ready(0));
        };
        if self.find_id(name).is_none() && broker.channel(name).is_none() {
            return Ok(Answer::Ready(0));
        }
        let channel = self.open_stored(name, now);
        let ticket = self.next_ticket();
        broker.delete(Deletion {
            ticket,
            channel: name.clone(),
            what,
        })?;
        self.await_store(channel);
        let submitted = Submitted::Deletion {
            channel,
            what,
            completion: later(),
        };
        self.submitted.insert(ticket, submitted);
        Ok(Answer::Later)
    }

    /// See [`State::compare`]: of the channels that a publication is about to appear in.
    fn compare_committed(&mut self, committed: &Committed, now: Time) -> Option<Behind> {
        if self.patterns.is_empty() || !matches!(committed.result, Ok(Outcome::Published { .. })) {
            return None;
        }
        let Some(Submitted::Publication { message, awaited, .. }) = self.submitted.get(&committed.ticket)
        else {
            return None;
        };
        if message.channels.len() == 1 && awaited.len() == 1 {
            let only = awaited[0];
            return self.compare(&[only]);
        }
        let message = message.clone();
        let ids: Vec<ChannelId> = message
            .channels
            .iter()
            .map(|name| self.open_stored(name, now))
            .collect();
        self.compare(&ids)
    }

    fn committed(&mut self, committed: Committed, answers: &mut Answers, now: Time) {
        let Committed { ticket, result } = committed;
        let submitted = self.submitted.remove(&ticket);
        self.submitted.tidy();
        match submitted {
            Some(Submitted::Publication {
                message,
                awaited,
                time,
                scope,
                completion,
            }) => {
                self.release_queued(queued(&message));
                let result = match result {
                    Ok(Outcome::Published { position, offsets }) if position > self.visible.durable => {
                        let stored = awaited.iter().copied().zip(offsets.iter().copied());
                        let (receipt, shards) = self.append_durable(message, position, stored, (time, now));
                        answers.audience |= shards;
                        Ok(receipt)
                    }
                    result => Err(PublishError::Broker(no_outcome(result))),
                };
                for id in awaited.iter() {
                    self.answered(*id, now);
                }
                self.answer_publishers(scope, completion, result, answers);
            }
            Some(Submitted::Deletion {
                channel,
                what,
                completion,
            }) => {
                let result = match result {
                    Ok(Outcome::Deleted { count, .. }) => {
                        // Whatever memory has of it was committed before.
                        answers.deleting = Some((channel, what));
                        Ok(count)
                    }
                    result => {
                        self.answered(channel, now);
                        Err(no_outcome(result))
                    }
                };
                answers.deleted.push((completion, result));
            }
            None => {}
        }
    }

    fn answer_publishers(
        &mut self,
        scope: Option<Scope>,
        completion: Option<Completion>,
        result: Result<Receipt, PublishError>,
        answers: &mut Answers,
    ) {
        let waiting = match (&scope, &result) {
            (Some(scope), Ok(receipt)) => self.keys.done(scope, receipt),
            (Some(scope), Err(_)) => self.keys.failed(scope),
            (None, _) => Vec::new(),
        };
        for repeated in waiting {
            let result = result.as_ref().map(Receipt::repeated).map_err(Clone::clone);
            answers.published.push((repeated, result));
        }
        match completion {
            Some(completion) => answers.published.push((completion, result)),
            None => self.lost += u64::from(result.is_err()),
        }
    }

    /// Up to where the store has published, before or with this, what the hub knows nothing about: another hub's, something
    /// that was lost, or the hub was wrong.
    fn missed(&self, committed: &Committed) -> Option<u64> {
        let Ok(Outcome::Published { position, .. }) = &committed.result else {
            return None;
        };
        let known = matches!(
            self.submitted.get(&committed.ticket),
            Some(Submitted::Publication { .. })
        );
        // What there is no publication for is in the store nevertheless.
        let missed = if known { position - 1 } else { *position };
        (missed > self.visible.durable).then_some(missed)
    }

    /// Asks the store again for what it keeps of some of the channels, in the order they were made: what it has published
    /// without the hub may be in any of them. Returns where to go on in another hold of the lock.
    fn refresh_some(&mut self, mut after: u64) -> Option<u64> {
        let broker = self.broker.clone()?;
        while self.has_time() {
            let (made, id) = self.made.range(after + 1..).next()?;
            (after, self.steps) = (*made, self.steps + REFRESHED);
            let id = *id;
            let Some(entry) = self.channel(id).filter(|entry| entry.channel.is_stored()) else {
                continue;
            };
            let steps = name_steps(&entry.channel.name);
            let known = broker.channel(&entry.channel.name);
            self.steps += steps;
            if let (Some(entry), Some(known)) = (self.channel_mut(id), known) {
                entry.offset = known.offset;
                entry.retained = known.retained;
            }
        }
        Some(after)
    }

    /// The store has published up to this position what the hub knows nothing about. Everybody reads it from there, and it may
    /// be in any channel: see [`State::last_of`]. Returns the shards concerned: all.
    fn pass_over(&mut self, position: u64) -> u64 {
        self.visible.durable = position;
        self.hot_from = position;
        self.passed_over = position;
        self.order.pass_over(self.visible.sequence());
        u64::MAX
    }
}

fn no_outcome(result: Result<Outcome, BrokerError>) -> BrokerError {
    match result {
        Err(error) => error,
        Ok(_) => BrokerError::Unknown("the store answered something else".into()),
    }
}
