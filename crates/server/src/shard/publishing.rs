//! Publications over HTTP: one, or several in one request.

use cometserver_core::ChannelName;
use cometserver_core::grant::Grant;
use cometserver_core::publication::Message;

use super::Shard;
use crate::api::{self, Refused};
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::response::Terms;
use crate::metrics::{Door, DropReason};
use crate::question;

/// Channels of a publication that are read in a step.
const NAMES: usize = 16;

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
        api::sign(&mut message, grant);
        message.payer = self.payer(slot, grant);
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
        let mut may = |names: &[ChannelName]| self.may_publish(slot, names, grant);
        let mut messages = api::batch(request, &settings, &mut may)?;
        let payer = self.payer(slot, grant);
        for message in messages.iter_mut().flatten() {
            api::sign(message, grant);
            message.payer = payer;
        }
        self.turn.charge_each(messages.len().min(question::AT_ONCE));
        let progress = question::batch(messages, &self.asker(slot));
        self.settle(slot, progress, terms, cors, out)
    }

    /// May it be published in these channels now? Asked before the payload is looked at; what is refused counts as well.
    pub(super) fn may_publish(
        &mut self,
        slot: usize,
        names: &[ChannelName],
        grant: &Grant,
    ) -> Result<(), Refused> {
        self.turn.charge_each(names.len() / NAMES);
        if grant.allows_everywhere(cometserver_core::action::Action::Publish) {
            return Ok(());
        }
        for name in names {
            self.turn.charge(1);
            api::authorize_publish(&self.hub, name, grant)?;
        }
        self.check_rate(slot)
    }

    fn check_rate(&mut self, slot: usize) -> Result<(), Refused> {
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
