//! What a WebSocket client says, and what it is answered.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use cometserver_core::action::Action;
use cometserver_core::channel::ChannelId;
use cometserver_core::fanout::{Target, Wants};
use cometserver_core::grant::Grant;
use cometserver_core::hub::{Completion, HistoryQuery, Published, Start};
use cometserver_core::pattern::Pattern;
use cometserver_core::protocol::native::command::{self, Command, Publish};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::Payload;

use super::Shard;
use super::held::{presence_wish, target_member, too_many};
use crate::api::{self, Refused};
use crate::connection::{Reply, Said};
use crate::metrics::{Door, DropReason, Refusal};
use crate::websocket::{self, Event, Limits, Opcode, close_reply, code};
use crate::wire::Format;

/// So many subscriptions may be catching up at a time before the client's next commands are looked at.
const CATCHING_UP: usize = 64;

/// Room for commands that a connection keeps.
const FEW: usize = 4;

impl Shard {
    /// Bytes of a WebSocket client.
    pub(super) fn socket_came(&mut self, slot: usize, bytes: &mut [u8]) {
        let most = self
            .settings
            .config
            .limits
            .message_size
            .saturating_mul(2)
            .saturating_add(64 << 10);
        let now = self.now;
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let Some(socket) = &mut subscriber.socket else {
            return;
        };
        socket.heard = now;
        let said = &mut socket.said;
        let decoded = socket
            .decoder
            .decode(bytes, Limits { max_message: most }, &mut |event| {
                said.push_back(match event {
                    Event::Text(text) => Said::Text(text.to_owned()),
                    Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
                    Event::Ping(payload) => Said::Ping(payload.to_vec()),
                    Event::Pong(_) => return ControlFlow::Continue(()),
                    Event::Close(code, _) => Said::Close(code),
                });
                ControlFlow::Continue(())
            });
        if let Err(failure) = decoded {
            said.push_back(Said::Broke(failure.code, failure.reason));
        }
        self.obey(slot);
    }

    /// Does what was said, as far as answers can be sent and subscriptions catch up; the rest waits.
    pub(super) fn obey(&mut self, slot: usize) {
        let mut out = Vec::new();
        loop {
            let blocked = self.connections[slot].is_blocked();
            let socket = self.connections[slot]
                .subscriber()
                .and_then(|subscriber| subscriber.socket.as_mut());
            let Some(socket) = socket else { return };
            if blocked || out.len() >= super::requests::ANSWERS || socket.replies.len() >= CATCHING_UP {
                break;
            }
            match socket.said.pop_front() {
                None => {
                    // Who sends a thousand commands at once does not keep their room.
                    socket.said.shrink_to(FEW);
                    break;
                }
                Some(Said::Text(text)) => self.command(slot, &text, None, &mut out),
                Some(Said::Binary(bytes)) => self.binary_command(slot, &bytes, &mut out),
                Some(Said::Ping(payload)) => websocket::frame(Opcode::Pong, &payload, &mut out),
                Some(Said::Close(code)) => {
                    close_reply(code, &mut out);
                    return self.say_last(slot, &out);
                }
                Some(Said::Broke(code, reason)) => {
                    let limit = code == code::TOO_BIG;
                    let drop = if limit {
                        DropReason::Limit
                    } else {
                        DropReason::Protocol
                    };
                    self.metrics().drops.of(drop).add(1);
                    websocket::close(code, reason, &mut out);
                    return self.say_last(slot, &out);
                }
            }
        }
        if !out.is_empty() && !self.send(slot, &out) {
            return;
        }
        self.read_on(slot);
    }

    /// The last bytes of a WebSocket: its reader is gone with them.
    fn say_last(&mut self, slot: usize, out: &[u8]) {
        if self.send(slot, out) {
            self.release_reader(slot);
            self.finish(slot);
        }
    }

    /// A header with its length before it, and the payload behind it.
    fn binary_command(&mut self, slot: usize, bytes: &[u8], out: &mut Vec<u8>) {
        let parts = bytes.split_first_chunk::<4>().and_then(|(length, rest)| {
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (head, payload) = rest.split_at_checked(length)?;
            Some((std::str::from_utf8(head).ok()?, payload))
        });
        match parts {
            Some((head, payload)) => self.command(slot, head, Some(payload), out),
            None => {
                let refused = Refused::bad(
                    "a binary frame has 4 bytes of length, so many bytes of a JSON header, and the payload",
                );
                self.refuse(slot, None, &refused, out);
            }
        }
    }

    fn command(&mut self, slot: usize, text: &str, payload: Option<&[u8]>, out: &mut Vec<u8>) {
        let mut command = match Command::parse(text) {
            Ok(command) => command,
            Err(error) => {
                let refused = Refused::bad(format!("not a command: {error}"));
                return self.refuse(slot, None, &refused, out);
            }
        };
        let id: Option<Box<str>> = command.id.map(|id| id.get().into());
        let done = match command.kind {
            "subscribe" => self.subscribe(slot, &mut command, id.as_deref(), out),
            "unsubscribe" => self.unsubscribe(slot, &mut command, id.as_deref(), out),
            "publish" => self.socket_publish(slot, text, payload, id.as_deref(), out),
            "presence" => self.socket_presence(slot, &command, id.as_deref(), out),
            "history" => self.socket_history(slot, &command, id.as_deref(), out),
            "authorize" => self.authorize_again(slot, &command, id.as_deref(), out),
            "ping" => {
                let open = self.opening("pong", id.as_deref());
                self.reply(slot, &open, out);
                Ok(())
            }
            _ => Err(Refused::bad(
                "`type` is one of subscribe, unsubscribe, publish, presence, history, authorize and ping",
            )),
        };
        if let Err(refused) = done {
            self.refuse(slot, id.as_deref(), &refused, out);
        }
    }

    /// `{"type":KIND,"id":…`
    fn opening(&self, kind: &str, id: Option<&str>) -> Vec<u8> {
        let mut open = b"{\"type\":\"".to_vec();
        open.extend_from_slice(kind.as_bytes());
        open.push(b'"');
        if let Some(id) = id {
            open.extend_from_slice(b",\"id\":");
            open.extend_from_slice(id.as_bytes());
        }
        open
    }

    fn reply(&mut self, slot: usize, open: &[u8], out: &mut Vec<u8>) {
        let format = self.connections[slot]
            .subscriber()
            .map_or(Format::WebSocketText, |s| s.format);
        self.encoder.object(format, open, None, out);
    }

    fn refuse(&mut self, slot: usize, id: Option<&str>, refused: &Refused, out: &mut Vec<u8>) {
        if let Some(refusal) = Refusal::from_code(refused.code) {
            self.metrics().refused.of(refusal).add(1);
        }
        let mut open = self.opening("error", id);
        open.extend_from_slice(b",\"code\":");
        native::json_string(refused.code, &mut open);
        open.extend_from_slice(b",\"message\":");
        native::json_string(&refused.detail, &mut open);
        self.reply(slot, &open, out);
    }

    fn subscribe(
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
                    if join {
                        self.join(slot, channel);
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

    /// The answer comes when the subscription has caught up.
    fn note_reply(&mut self, slot: usize, target: &[u8], pattern: bool, id: Option<&str>, presence: bool) {
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
    fn note_watched(&mut self, slot: usize, channel: ChannelId) {
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut())
            && !socket.watched.contains(&channel)
        {
            socket.watched.push(channel);
        }
    }

    /// The same for a pattern, of which the first command counts: a repeated one changes nothing.
    fn note_pattern(&mut self, slot: usize, pattern: Arc<Pattern>, wants: Wants) {
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut())
            && socket.patterns.iter().all(|(own, _)| *own != pattern)
        {
            socket.patterns.push((pattern, wants));
        }
    }

    /// A subscription ended before it had caught up: nothing is said about it.
    fn forget_replies(&mut self, slot: usize, target: &[u8], pattern: bool) {
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

    fn unsubscribe(
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

    fn socket_publish(
        &mut self,
        slot: usize,
        text: &str,
        payload: Option<&[u8]>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let mut publish: Publish<'_> =
            serde_json::from_str(text).map_err(|error| Refused::bad(error.to_string()))?;
        publish.id = None;
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return Ok(());
        };
        let grant = subscriber.grant.clone();
        if publish.echo == Some(false) {
            let session = subscriber
                .session
                .clone()
                .ok_or_else(|| Refused::bad("`echo` needs a `session` in the URL of the connection"))?;
            publish.exclude_session = Some(session.into());
        }
        let limits = api::limits(&self.settings);
        let mut message = match payload {
            None => publish.into_message(&limits)?,
            Some(bytes) => {
                let kind = command::kind(publish.kind.as_deref().unwrap_or("binary"))?;
                command::check_size(bytes.len(), &limits)?;
                let nothing = serde_json::value::RawValue::from_string("null".into())
                    .map_err(|error| Refused::bad(error.to_string()))?;
                publish.kind = None;
                publish.data = Some(&nothing);
                let mut message = publish.into_message(&limits)?;
                message.payload = Payload::new(kind, Bytes::copy_from_slice(bytes))
                    .map_err(|error| Refused::bad(error.to_string()))?;
                message
            }
        };
        api::authorize_publish(&self.hub, &mut message, &grant)?;
        self.check_rate(slot, &grant)?;
        let published = self
            .hub
            .publish(message, self.wall, &mut || self.socket_completion(slot, id))?;
        self.metrics().publications.of(Door::WebSocket).add(1);
        if let Published::Visible(receipt) = published
            && id.is_some()
        {
            let mut open = self.opening("published", id);
            open.push(b',');
            api::receipt_members(&receipt, &self.hub, &mut open);
            self.reply(slot, &open, out);
        }
        Ok(())
    }

    /// The answer to a publication that has to wait for the store.
    fn socket_completion(&self, slot: usize, id: Option<&str>) -> Completion {
        let (shared, connection) = (self.shared.clone(), self.id_of(slot));
        let id: Option<Box<str>> = id.map(Box::from);
        Box::new(move |result| {
            let mail = crate::shared::Mail::SocketPublished(connection, id, result);
            shared.mailboxes[connection.shard as usize].send(mail);
        })
    }

    /// The store has answered a publisher on a WebSocket.
    pub(super) fn socket_published(
        &mut self,
        connection: crate::shared::ConnectionId,
        id: Option<&str>,
        result: Result<cometserver_core::hub::Receipt, cometserver_core::hub::PublishError>,
    ) {
        let Some(slot) = self.slot_of(connection) else {
            return;
        };
        if self.reader_of(slot).is_none() {
            return;
        }
        let mut out = Vec::new();
        match result {
            Ok(receipt) if id.is_some() => {
                let mut open = self.opening("published", id);
                open.push(b',');
                api::receipt_members(&receipt, &self.hub, &mut open);
                self.reply(slot, &open, &mut out);
            }
            Ok(_) => {}
            Err(error) => self.refuse(slot, id, &Refused::from(error), &mut out),
        }
        if self.send(slot, &out) {
            self.read_on_soon(slot);
        }
    }

    fn one_channel(
        &mut self,
        slot: usize,
        command: &Command<'_>,
        action: Action,
    ) -> Result<cometserver_core::ChannelName, Refused> {
        let name = command
            .channel
            .as_deref()
            .ok_or_else(|| Refused::bad("`channel` is missing"))?;
        let name = command::channel_name(name.as_bytes(), &api::limits(&self.settings))?;
        let namespace = self.hub.namespace_of(&name);
        match self.connections[slot].subscriber() {
            Some(subscriber) if !subscriber.grant.allows(action, &name, &namespace) => {
                Err(api::lacking(&subscriber.grant, action))
            }
            _ => Ok(name),
        }
    }

    fn socket_presence(
        &mut self,
        slot: usize,
        command: &Command<'_>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let name = self.one_channel(slot, command, Action::Presence)?;
        let mut open = self.opening("presence", id);
        open.push(b',');
        let limit = command.limit.unwrap_or(api::MEMBERS);
        api::presence_members(&self.hub, &name, limit, &mut open);
        self.reply(slot, &open, out);
        Ok(())
    }

    fn socket_history(
        &mut self,
        slot: usize,
        command: &Command<'_>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let name = self.one_channel(slot, command, Action::History)?;
        let since = match command.since.as_deref() {
            None | Some("earliest") => None,
            Some("now") => Some(Start {
                position: self.hub.now(),
                ..Start::default()
            }),
            Some(text) => match api::begin(&self.hub, text)? {
                cometserver_core::fanout::Begin::At(start) => Some(start),
                _ => None,
            },
        };
        let query = HistoryQuery {
            since,
            limit: command.limit.unwrap_or(0),
            reverse: command.reverse == Some(true),
        };
        let mut open = self.opening("history", id);
        open.push(b',');
        api::history_members(&self.hub, &name, query, self.wall, &mut open);
        self.reply(slot, &open, out);
        Ok(())
    }

    /// Another token for this connection: a token that is about to expire is replaced without a reconnection.
    fn authorize_again(
        &mut self,
        slot: usize,
        command: &Command<'_>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let token = command
            .token
            .as_deref()
            .ok_or_else(|| Refused::bad("`token` is missing"))?;
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
        if let Some(expires) = grant.expires {
            open.extend_from_slice(format!(",\"expires\":{}", expires / 1000).as_bytes());
        }
        if let Some(subscriber) = self.connections[slot].subscriber() {
            if subscriber.grant.user != grant.user {
                // It is a member nowhere: the next time it joins it does so under its new name.
                subscriber.member = None;
            }
            subscriber.grant = grant;
        }
        self.reply(slot, &open, out);
        self.schedule(slot);
        Ok(())
    }

    /// Refuses a token that does not allow all that its connection has: what it has is never taken away silently.
    fn check_replacement(&mut self, slot: usize, grant: &Grant) -> Result<(), Refused> {
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
