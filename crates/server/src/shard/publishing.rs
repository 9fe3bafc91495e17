//! Publications over HTTP: one, or several in one request.

use cometserver_core::grant::Grant;
use cometserver_core::publication::Message;

use super::Shard;
use crate::api::{self, Refused};
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::response::Terms;
use crate::metrics::{Door, DropReason};
use crate::question;

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
        message.payer = self.payer(slot, grant);
        self.check_rate(slot, grant)?;
        let progress = question::publish(message, &self.asker(slot))?;
        self.metrics().publications.of(Door::Http).add(1);
        self.settle(slot, progress, terms, cors, out)
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
        let messages = messages.into_iter().map(|message| {
            let mut message = message?;
            api::authorize_publish(&self.hub, &mut message, grant)?;
            message.payer = self.payer(slot, grant);
            self.check_rate(slot, grant)?;
            Ok(message)
        });
        let messages = messages.collect();
        let (progress, taken) = question::batch(messages, &self.asker(slot));
        self.metrics().publications.of(Door::Http).add(taken as u64);
        self.settle(slot, progress, terms, cors, out)
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
}
