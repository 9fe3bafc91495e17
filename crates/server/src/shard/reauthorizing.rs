//! Another token for a WebSocket.

use cometserver_core::action::Action;
use cometserver_core::fanout::Wants;
use cometserver_core::grant::Grant;
use cometserver_core::pattern::Pattern;
use cometserver_core::protocol::native::command::Command;
use cometserver_core::protocol::native::{self};

use super::Shard;
use crate::api::Refused;

impl Shard {
    /// Another token for this connection: a token that is about to expire is replaced without a reconnection.
    pub(super) fn authorize_again(
        &mut self,
        slot: usize,
        command: &Command<'_>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let token = command
            .token
            .as_deref()
            .ok_or_else(|| Refused::bad("`token` is missing"))?
            .trim_ascii();
        let grant = self
            .settings
            .access
            .grant(Some(token), self.wall)
            .map_err(|denied| Refused::new(401, denied.code(), denied.to_string()))?;
        self.check_replacement(slot, &grant)?;
        let mut open = self.opening("authorized", id);
        if let Some(user) = &grant.user {
            open.extend_from_slice(b",\"user\":");
            native::json_string(user, &mut open);
        }
        if let Some(expires) = grant.expires_by_token() {
            open.extend_from_slice(format!(",\"expires\":{expires}").as_bytes());
        }
        if let Some(subscriber) = self.connections[slot].subscriber() {
            if subscriber.grant.user != grant.user {
                // It is a member nowhere: the next time it joins it does so under its new name.
                subscriber.member = None;
            }
            let is_sites = grant.is_sites();
            let access = &self.settings.access;
            access.opened(&grant);
            access.closed(&subscriber.grant);
            subscriber.grant = grant;
            self.show_key(slot, is_sites);
        }
        self.reply(slot, &open, out);
        self.schedule(slot);
        Ok(())
    }

    /// Refuses a token that does not allow all that its connection has: what it has is never taken away silently.
    pub(super) fn check_replacement(&mut self, slot: usize, grant: &Grant) -> Result<(), Refused> {
        let forbidden = |detail: &'static str| Err(Refused::new(403, "forbidden", detail));
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return Ok(());
        };
        if !subscriber.joined.is_empty() && subscriber.grant.user != grant.user {
            return forbidden("the token is of another user, and this connection is a member somewhere");
        }
        let reader = subscriber.reader;
        let Some(socket) = &subscriber.socket else {
            return Ok(());
        };
        let mut channels = self.fanout.channels(reader);
        if channels.any(|channel| !grant.allows(Action::Subscribe, &channel.name, &channel.namespace())) {
            return forbidden("the token does not cover what this connection listens to");
        }
        let lacks = |pattern: &Pattern, wants: &Wants| {
            !wants.public_only && !grant.covers(Action::Subscribe, pattern)
                || wants.presence && !grant.covers(Action::Presence, pattern)
        };
        if socket
            .patterns
            .iter()
            .any(|(pattern, wants)| lacks(pattern, wants))
        {
            return forbidden("the token does not cover this connection's patterns");
        }
        let mut watched = self
            .fanout
            .channels(reader)
            .filter(|channel| socket.watched.contains(&channel.id));
        if watched.any(|channel| !grant.allows(Action::Presence, &channel.name, &channel.namespace())) {
            return forbidden("the token does not allow to see the members that this connection sees");
        }
        Ok(())
    }
}
