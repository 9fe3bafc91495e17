//! What the store has been given, and what becomes of it.

use std::sync::Arc;

use super::state::State;
use super::{Completion, Hub, PublishError, Published, Receipt};
use crate::Time;
use crate::broker::{BrokerError, Committed, Outcome, Submission};
use crate::channel::{ChannelId, ChannelName};
use crate::publication::Message;

/// What waits for the store's answer.
pub(super) struct Submitted {
    message: Arc<Message>,
    /// Those of its channels that are stored, as submitted.
    channels: Vec<ChannelName>,
    /// The same by handle: they are not forgotten meanwhile.
    awaited: Vec<ChannelId>,
    completion: Completion,
}

/// Those who are to be told, and what.
type Answers = Vec<(Completion, Result<Receipt, PublishError>)>;

impl Hub {
    /// Hands a message to the store.
    pub(super) fn submit(
        &self,
        state: &mut State,
        message: &Message,
        now: Time,
        later: &mut dyn FnMut() -> Completion,
    ) -> Result<(Published, u64), PublishError> {
        let broker = self
            .broker
            .as_ref()
            .expect("only a hub with a broker has durable namespaces");
        // Opened now, so that a refusal is told before anything is stored.
        let mut awaited = state.open_all(&message.channels, now)?;
        awaited.retain(|id| state.channel(*id).is_some_and(|entry| entry.channel.is_stored()));
        if awaited.is_empty() {
            // The last of them was made again, in another namespace, while room was made for it.
            return super::publish_memory(state, message, now);
        }
        let names = awaited.iter().filter_map(|id| state.channel(*id));
        let channels: Vec<ChannelName> = names.map(|entry| entry.channel.name.clone()).collect();
        let ticket = state.next_ticket();
        let message = Arc::new(message.clone());
        broker.publish(Submission {
            ticket,
            message: message.clone(),
            channels: channels.clone(),
            time: now,
        })?;
        for id in &awaited {
            state.await_store(*id);
        }
        let submitted = Submitted {
            message,
            channels,
            awaited,
            completion: later(),
        };
        state.submitted.insert(ticket, submitted);
        Ok((Published::Pending, 0))
    }

    /// The broker tells what became of submissions, in the order of their positions.
    pub fn commit(&self, batch: Vec<Committed>, now: Time) {
        let mut answers = Answers::new();
        let mut audience = 0;
        let mut state = self.state();
        let now = state.clock(now);
        for committed in batch {
            audience |= state.committed(committed, &mut answers, now);
        }
        let deadline = state.append_deadline(now);
        drop(state);
        self.due(deadline);
        self.wake(audience);
        for (completion, result) in answers {
            completion(result);
        }
    }
}

impl State {
    fn committed(&mut self, committed: Committed, answers: &mut Answers, now: Time) -> u64 {
        let Some(submitted) = self.submitted.remove(&committed.ticket) else {
            return 0;
        };
        let message = &submitted.message;
        let mut audience = 0;
        let result = match committed.result {
            Ok(Outcome::Published { position, offsets }) => {
                let offsets: Vec<(ChannelName, u64)> =
                    submitted.channels.iter().cloned().zip(offsets).collect();
                let (receipt, shards) = self.append_durable(message, position, &offsets, now);
                audience = shards;
                Ok(receipt)
            }
            Ok(Outcome::Deleted { .. }) => {
                Err(BrokerError::Unknown("it was taken for something else".into()))
            }
            Err(error) => Err(error),
        };
        let result = result.map_err(PublishError::Broker);
        if let Some(key) = &message.idempotency_key {
            let waiting = match &result {
                Ok(receipt) => self.keys.done(&message.channels[0], key, receipt),
                Err(_) => self.keys.failed(&message.channels[0], key),
            };
            let repeated = |r: &Result<Receipt, PublishError>| {
                r.clone().map(|receipt| Receipt {
                    duplicate: true,
                    ..receipt
                })
            };
            answers.extend(
                waiting
                    .into_iter()
                    .map(|completion| (completion, repeated(&result))),
            );
        }
        answers.push((submitted.completion, result));
        for id in submitted.awaited {
            self.answered(id, now);
        }
        audience
    }
}
