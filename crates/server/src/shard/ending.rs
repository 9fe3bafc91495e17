//! How held requests end: sent away, not allowed any more, released.

use cometserver_core::action::Action;
use cometserver_core::namespace::Namespace;

use super::Shard;
use crate::connection::State;
use crate::http::response::last_chunk;
use crate::metrics::{DropReason, Transport};
use crate::round::Share;
use crate::shared::ConnectionId;
use crate::websocket::{close, code};
use crate::wire::Format;

impl Shard {
    /// The server goes away, or cannot go on: the client is told when to come back, and the request ends.
    pub(super) fn send_away(&mut self, slot: usize) {
        let after = self.retry_after();
        if self.draining {
            self.metrics().drops.of(DropReason::Drain).add(1);
        }
        self.end(slot, after, code::RESTART, "come back later");
    }

    /// Ends a held request of any kind, in its own way.
    pub(super) fn end(&mut self, slot: usize, after: u64, close_code: u16, reason: &str) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if format == Format::Poll {
            self.send_poll_away(slot, after);
            return;
        }
        let is_socket = subscriber.socket.is_some();
        let unopened = subscriber.unopened;
        let mut out = Vec::new();
        for step in self.last_steps(slot) {
            self.write_step(slot, format, step, &mut out);
        }
        let own = unopened.map(|own| own.cursor);
        let cursor = own.unwrap_or_else(|| self.hub.cursor(self.fanout.position(reader)));
        self.encoder.reconnect(format, after, cursor, &mut out);
        if is_socket {
            close(close_code, reason, &mut out);
        } else if matches!(format, Format::SseChunked | Format::LinesChunked) {
            last_chunk(&mut out);
        }
        if !self.send(slot, &out) {
            return;
        }
        self.release_reader(slot);
        // Whatever the client said during the stream was not kept: another request could not be told from it.
        self.finish(slot);
    }

    /// Other settings hold: ends what was opened with a key or token secret that is gone. Is it?
    pub(super) fn end_if_disowned(&mut self, slot: usize) -> bool {
        let State::Reading(subscriber) = &self.connections[slot].state else {
            return false;
        };
        let is_upheld = self.settings.access.upholds(&subscriber.grant);
        if !is_upheld {
            self.metrics().drops.of(DropReason::Expired).add(1);
            // They are many, and all will ask the site for another token.
            let after = self.retry_after();
            self.end(slot, after, code::POLICY, "key or token secret removed");
        }
        !is_upheld
    }

    /// Other namespaces hold: ends what listens to a channel that it may not listen to any more, or sees members that it
    /// may not see. Patterns show what is public now, and no more, by themselves.
    pub(super) fn end_if_disallowed(&mut self, slot: usize) {
        let State::Reading(subscriber) = &self.connections[slot].state else {
            return;
        };
        let grant = &subscriber.grant;
        let allowed = |channel: &cometserver_core::Channel, namespace: &Namespace, presence: bool| {
            grant.allows(Action::Subscribe, &channel.name, namespace)
                && (!presence
                    || namespace.presence && grant.allows(Action::Presence, &channel.name, namespace))
        };
        let mut subscriptions = self.fanout.namespaces(subscriber.reader);
        let is_allowed =
            subscriptions.all(|(channel, namespace, presence)| allowed(channel, &namespace, presence));
        drop(subscriptions);
        if !is_allowed {
            self.metrics().drops.of(DropReason::Expired).add(1);
            self.end(slot, 0, code::POLICY, "not allowed any more");
        }
    }

    /// Gives back everything that a reader holds; its connection stays.
    pub(super) fn release_reader(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if !matches!(connection.state, State::Reading(_)) {
            return;
        }
        let generation = connection.generation;
        let State::Reading(mut subscriber) = std::mem::replace(&mut connection.state, State::Http) else {
            return;
        };
        connection.share = Share::default();
        self.settings.access.closed(&subscriber.grant);
        if let Some(member) = &subscriber.member
            && !subscriber.joined.is_empty()
        {
            let joined = std::mem::take(&mut subscriber.joined);
            self.left.push_back((member.user.clone(), joined));
        }
        self.release_hold(subscriber.route, subscriber.place);
        if let Some((held_as, holder)) = &subscriber.held_as {
            let own = ConnectionId {
                shard: self.id,
                slot: slot as u32,
                generation,
            };
            self.shared.forget_held(*held_as, *holder, own);
        }
        self.fanout.close(subscriber.reader, self.wall);
        self.count_as(slot, Transport::Http);
    }
}
