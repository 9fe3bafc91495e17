//! Subscriptions of a WebSocket: begun, caught up, ended.

use std::sync::Arc;

use cometserver_core::action::Action;
use cometserver_core::channel::{ChannelId, ChannelName};
use cometserver_core::fanout::{ReaderId, Target, Wants};
use cometserver_core::pattern::Pattern;
use cometserver_core::protocol::native::command::{self, Command};

use super::Shard;
use super::reading::target_member;
use super::wish::{presence_wish, too_many};
use crate::api::{self, Refused};
use crate::connection::Reply;
use crate::wire::Format;

impl Shard {
    pub(super) fn subscribe(
        &mut self,
        slot: usize,
        command: &mut Command<'_>,
        id: Option<&str>,
        _out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let limits = api::limits(&self.settings);
        let (join, watch) = presence_wish(command.presence.as_deref())?;
        let begin = api::begin(&self.hub, command.since.as_deref().unwrap_or("now"))?;
        let names = command.channels();
        let names = names
            .iter()
            .map(|name| command::channel_name(name.as_bytes(), &limits))
            .collect::<Result<Vec<_>, _>>()?;
        let patterns = command.patterns();
        let patterns = patterns
            .iter()
            .map(|text| api::pattern(text.as_bytes(), &self.settings).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() && patterns.is_empty() {
            return Err(Refused::bad("name a `channel` or a `pattern` to subscribe to"));
        }
        let info = command
            .info
            .map(|info| self.member_info(info.get()))
            .transpose()?;
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return Ok(());
        };
        let (reader, grant, session) = (
            subscriber.reader,
            subscriber.grant.clone(),
            subscriber.session.clone(),
        );
        let most = (
            self.settings.config.limits.subscriptions,
            self.settings.config.limits.patterns,
        );
        let have = self.fanout.counts(reader);
        if have.0 + names.len() > most.0 || have.1 + patterns.len() > most.1 {
            return Err(too_many(most.0, most.1));
        }
        for name in &names {
            self.authorize_channel(name, &grant, watch)?;
        }
        self.authorize_pattern_presence(&patterns, &grant, watch)?;
        let payer = self.payer(slot, &grant);
        self.fanout.charge(reader, payer);
        if join {
            let member = self.new_membership(slot, &grant, session.as_deref(), info);
            if let Some(subscriber) = self.connections[slot].subscriber() {
                match &mut subscriber.member {
                    Some(own) if member.info.is_some() => own.info = member.info,
                    Some(_) => {}
                    none => *none = Some(member),
                }
            }
        }
        let wants = Wants {
            presence: watch,
            retained: command.retained != Some(false),
            public_only: false,
        };
        for name in names {
            let is_known = join && self.fanout.channels(reader).any(|known| known.name == name);
            self.fanout.subscribe(reader, &name, begin, wants, self.wall)?;
            self.note_reply(slot, name.as_bytes(), false, id, watch);
            if watch {
                let channel = self
                    .fanout
                    .channels(reader)
                    .find(|channel| channel.name == name)
                    .map(|channel| channel.id);
                if let Some(channel) = channel {
                    self.note_watched(slot, channel);
                    if join && let Err(over) = self.join(slot, payer, channel) {
                        if !is_known {
                            self.take_back(slot, reader, &name, channel);
                        }
                        return Err(over.into());
                    }
                }
            }
        }
        for pattern in patterns {
            let wants = Wants {
                public_only: !grant.covers(Action::Subscribe, &pattern),
                ..wants
            };
            self.fanout.subscribe_pattern(reader, &pattern, begin, wants)?;
            self.note_reply(slot, pattern.as_bytes(), true, id, watch);
            self.note_pattern(slot, pattern, wants);
        }
        self.read_on_soon(slot);
        Ok(())
    }

    /// Ends a subscription that was only just begun: its client is told why.
    fn take_back(&mut self, slot: usize, reader: ReaderId, name: &ChannelName, channel: ChannelId) {
        self.forget_replies(slot, name.as_bytes(), false);
        self.fanout.unsubscribe(reader, name, self.wall);
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut()) {
            socket.watched.retain(|own| *own != channel);
        }
    }

    /// The answer comes when the subscription has caught up.
    pub(super) fn note_reply(
        &mut self,
        slot: usize,
        target: &[u8],
        pattern: bool,
        id: Option<&str>,
        presence: bool,
    ) {
        let socket = self.connections[slot]
            .subscriber()
            .and_then(|s| s.socket.as_mut());
        if let Some(socket) = socket
            && (id.is_some() || presence)
        {
            socket.replies.push(Reply {
                target: target.into(),
                pattern,
                id: id.map(Box::from),
                presence,
            });
        }
    }

    /// What another token has to allow as well, see [`Shard::authorize_again`].
    pub(super) fn note_watched(&mut self, slot: usize, channel: ChannelId) {
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut())
            && !socket.watched.contains(&channel)
        {
            socket.watched.push(channel);
        }
    }

    /// The same for a pattern, of which the first command counts: a repeated one changes nothing.
    pub(super) fn note_pattern(&mut self, slot: usize, pattern: Arc<Pattern>, wants: Wants) {
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut())
            && socket.patterns.iter().all(|(own, _)| *own != pattern)
        {
            socket.patterns.push((pattern, wants));
        }
    }

    /// A subscription ended before it had caught up: nothing is said about it.
    pub(super) fn forget_replies(&mut self, slot: usize, target: &[u8], pattern: bool) {
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut()) {
            socket
                .replies
                .retain(|reply| *reply.target != *target || reply.pattern != pattern);
        }
    }

    /// A subscription has caught up.
    pub(super) fn write_subscribed(
        &mut self,
        slot: usize,
        format: Format,
        target: &Target,
        out: &mut Vec<u8>,
    ) {
        let (name, pattern) = match target {
            Target::Channel(channel) => (channel.name.as_bytes(), false),
            Target::Pattern(pattern) => (pattern.as_bytes(), true),
        };
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let reader = subscriber.reader;
        let Some(socket) = &mut subscriber.socket else {
            return;
        };
        let at = socket
            .replies
            .iter()
            .position(|reply| *reply.target == *name && reply.pattern == pattern);
        let reply = at.map(|at| socket.replies.remove(at));
        if socket.replies.is_empty() {
            // The room for a thousand of them is not kept.
            socket.replies = Vec::new();
        }
        let id = reply.as_ref().and_then(|reply| reply.id.as_deref());
        let mut open = self.opening("subscribed", id);
        open.push(b',');
        target_member(target, &mut open);
        if let Target::Channel(channel) = target {
            let offset = self.hub.offset(channel.id);
            open.extend_from_slice(
                format!(",\"offset\":{offset},\"epoch\":\"{}\"", channel.epoch).as_bytes(),
            );
            if reply.is_some_and(|reply| reply.presence) {
                let members = self.hub.member_count(channel.id);
                open.extend_from_slice(format!(",\"members\":{members}").as_bytes());
            }
        }
        // With it nothing of the catch-up is shown again to a client that is cut off from here on.
        let cursor = self.fanout.position(reader);
        self.encoder
            .object(format, &open, Some(self.hub.cursor(cursor)), out);
    }

    pub(super) fn unsubscribe(
        &mut self,
        slot: usize,
        command: &mut Command<'_>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let limits = api::limits(&self.settings);
        let Some(reader) = self.reader_of(slot) else {
            return Ok(());
        };
        for name in command.channels() {
            let name = command::channel_name(name.as_bytes(), &limits)?;
            self.forget_replies(slot, name.as_bytes(), false);
            let Some(channel) = self.fanout.unsubscribe(reader, &name, self.wall) else {
                continue;
            };
            let (hub, wall) = (self.hub.clone(), self.wall);
            let Some(subscriber) = self.connections[slot].subscriber() else {
                return Ok(());
            };
            if let Some(at) = subscriber.joined.iter().position(|own| *own == channel.id)
                && let Some(member) = &subscriber.member
            {
                subscriber.joined.swap_remove(at);
                hub.leave(channel.id, &member.user, wall);
            }
            if let Some(socket) = &mut subscriber.socket {
                socket.watched.retain(|own| *own != channel.id);
            }
        }
        for text in command.patterns() {
            let pattern = api::pattern(text.as_bytes(), &self.settings)?;
            self.forget_replies(slot, pattern.as_bytes(), true);
            self.fanout.unsubscribe_pattern(reader, &pattern, self.wall);
            let subscriber = self.connections[slot].subscriber();
            if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut()) {
                socket.patterns.retain(|(own, _)| **own != pattern);
            }
        }
        let open = self.opening("unsubscribed", id);
        self.reply(slot, &open, out);
        Ok(())
    }
}
