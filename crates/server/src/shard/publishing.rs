//! Publications over HTTP: one, or several in one request.

use cometserver_core::grant::Grant;
use cometserver_core::hub::{Completion, PublishError, Published, Receipt};
use cometserver_core::publication::Message;

use super::Shard;
use crate::api::{self, Refused};
use crate::connection::State;
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::response::{Head, Terms};
use crate::metrics::{Door, DropReason};
use crate::shared::{ConnectionId, Mail};

impl Shard {
    /// Publishes, and answers when it is visible.
    pub(super) fn publish(
        &mut self,
        slot: usize,
        mut message: Message,
        grant: &Grant,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        api::authorize_publish(&self.hub, &mut message, grant)?;
        self.check_rate(slot, grant)?;
        let id = self.id_of(slot);
        let shared = self.shared.clone();
        let published = self
            .hub
            .publish(message, self.wall, &mut || completion(&shared, id))?;
        self.metrics().publications.of(Door::Http).add(1);
        match published {
            Published::Visible(receipt) => api::receipt(&receipt, &self.hub, terms, cors, out),
            Published::Pending => {
                self.connections[slot].state = State::Publishing(Box::new((terms, cors.clone())));
                self.set_deadline(slot, u64::MAX);
            }
        }
        Ok(())
    }

    /// Several messages, each for itself: one that is refused does not keep the others from being published.
    pub(super) fn batch(
        &mut self,
        slot: usize,
        request: &Request<'_>,
        grant: &Grant,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let settings = self.settings.clone();
        let messages = api::batch(request, &settings)?;
        let mut body = b"{\"results\":[".to_vec();
        for (index, message) in messages.into_iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            let published = message.and_then(|mut message| {
                api::authorize_publish(&self.hub, &mut message, grant)?;
                self.check_rate(slot, grant)?;
                self.publish_now(message)
            });
            match published {
                Ok(receipt) => api::receipt_object(&receipt, &self.hub, &mut body),
                Err(refused) => {
                    self.count_refusal(refused.code);
                    refused.member(&mut body);
                }
            }
        }
        body.extend_from_slice(b"]}");
        cors.write(Head::new(out, terms, 200))
            .header("Content-Type", "application/json")
            .body(&body);
        Ok(())
    }

    /// Publishes and waits for the result, if it has to come from a store, in the shard's own time: only for several at once.
    pub(super) fn publish_now(&mut self, message: Message) -> Result<Receipt, Refused> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let published = self.hub.publish(message, self.wall, &mut || {
            let sender = sender.clone();
            Box::new(move |result| {
                // Nobody waits any more only if the shard has given up, and then nobody can be told.
                let _ = sender.send(result);
            })
        })?;
        self.metrics().publications.of(Door::Http).add(1);
        match published {
            Published::Visible(receipt) => Ok(receipt),
            Published::Pending => {
                let answered = receiver.recv_timeout(std::time::Duration::from_secs(10));
                Ok(answered.map_err(|_| Refused::unavailable("the store did not answer in time"))??)
            }
        }
    }

    pub(super) fn check_rate(&mut self, slot: usize, grant: &Grant) -> Result<(), Refused> {
        if grant.allows_everywhere(cometserver_core::action::Action::Publish) {
            return Ok(());
        }
        let rate = self.settings.config.limits.publish_rate;
        let now = self.now + 1000;
        if self.connections[slot].bucket.take(rate, now) {
            return Ok(());
        }
        self.metrics().drops.of(DropReason::Limit).add(1);
        Err(Refused {
            retry_after: Some(1),
            ..Refused::new(
                429,
                "limit_reached",
                format!("more than {rate} publications a second on one connection (limits.publish_rate)"),
            )
        })
    }

    /// The store has answered a publisher.
    pub(super) fn published(&mut self, id: ConnectionId, result: Result<Receipt, PublishError>) {
        let Some(slot) = self.slot_of(id) else { return };
        let connection = &mut self.connections[slot];
        let State::Publishing(waiting) = std::mem::replace(&mut connection.state, State::Http) else {
            return;
        };
        let (terms, cors) = *waiting;
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        match result {
            Ok(receipt) => api::receipt(&receipt, &self.hub, terms, &cors, &mut out),
            Err(error) => {
                let refused = Refused::from(error);
                self.count_refusal(refused.code);
                refused.answer(terms, &cors, &mut out);
            }
        }
        let there = self.send(slot, &out);
        self.out = out;
        if there {
            self.answered(slot, terms);
        }
    }
}

pub(super) fn completion(shared: &std::sync::Arc<crate::shared::Shared>, id: ConnectionId) -> Completion {
    let shared = shared.clone();
    Box::new(move |result| shared.mailboxes[id.shard as usize].send(Mail::Published(id, result)))
}
