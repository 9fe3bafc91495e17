//! What a WebSocket client says, and what it is answered.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use cometserver_core::action::Action;
use cometserver_core::fanout::{Target, Wants};
use cometserver_core::hub::{Completion, HistoryQuery, Published, Start};
use cometserver_core::protocol::native::command::{self, Command, Publish};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::Payload;

use super::Shard;
use super::held::{presence_wish, target_member, too_many};
use crate::api::{self, Refused};
use crate::metrics::{Door, DropReason, Refusal};
use crate::websocket::{self, Event, Limits, Opcode, close_reply, code};
use crate::wire::Format;

/// What came in one read, taken out of the decoder's hands.
enum Came {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Close(Option<u16>),
}

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
        let mut decoder = std::mem::take(&mut socket.decoder);
        let mut came = Vec::new();
        let decoded = decoder.decode(bytes, Limits { max_message: most }, &mut |event| {
            came.push(match event {
                Event::Text(text) => Came::Text(text.to_owned()),
                Event::Binary(bytes) => Came::Binary(bytes.to_vec()),
                Event::Ping(payload) => Came::Ping(payload.to_vec()),
                Event::Pong(_) => return ControlFlow::Continue(()),
                Event::Close(code, _) => Came::Close(code),
            });
            ControlFlow::Continue(())
        });
        socket.decoder = decoder;
        let generation = self.connections[slot].generation;
        let mut out = Vec::new();
        for event in came {
            match event {
                Came::Text(text) => self.command(slot, &text, None, &mut out),
                Came::Binary(bytes) => self.binary_command(slot, &bytes, &mut out),
                Came::Ping(payload) => websocket::frame(Opcode::Pong, &payload, &mut out),
                Came::Close(code) => {
                    close_reply(code, &mut out);
                    self.say_last(slot, &out);
                    return;
                }
            }
        }
        if let Err(failure) = decoded {
            let reason = if failure.code == code::TOO_BIG {
                DropReason::Limit
            } else {
                DropReason::Protocol
            };
            self.metrics().drops.of(reason).add(1);
            websocket::close(failure.code, failure.reason, &mut out);
            self.say_last(slot, &out);
            return;
        }
        if !out.is_empty() && !self.send(slot, &out) {
            return;
        }
        if self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.generation == generation)
        {
            self.read_on(slot);
        }
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
            self.note_reply(slot, name.as_bytes(), false, id);
            self.fanout.subscribe(reader, &name, begin, wants, self.wall)?;
            if join {
                let channel = self
                    .fanout
                    .channels(reader)
                    .find(|channel| channel.name == name)
                    .map(|channel| channel.id);
                if let Some(channel) = channel {
                    self.join(slot, channel);
                }
            }
        }
        for pattern in patterns {
            let wants = Wants {
                public_only: !grant.covers(Action::Subscribe, &pattern),
                ..wants
            };
            self.note_reply(slot, pattern.as_bytes(), true, id);
            self.fanout.subscribe_pattern(reader, &pattern, begin, wants)?;
        }
        self.read_on_soon(slot);
        Ok(())
    }

    /// The answer comes when the subscription has caught up.
    fn note_reply(&mut self, slot: usize, target: &[u8], pattern: bool, id: Option<&str>) {
        if let Some(socket) = self.connections[slot]
            .subscriber()
            .and_then(|s| s.socket.as_mut())
            && let Some(id) = id
        {
            socket.replies.push((target.into(), pattern, id.into()));
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
        let Some(socket) = &mut subscriber.socket else {
            return;
        };
        let at = socket
            .replies
            .iter()
            .position(|(own, kind, _)| **own == *name && *kind == pattern);
        let id = at.map(|at| socket.replies.remove(at).2);
        let mut open = self.opening("subscribed", id.as_deref());
        open.push(b',');
        target_member(target, &mut open);
        if let Target::Channel(channel) = target {
            let query = HistoryQuery {
                since: None,
                limit: 1,
                reverse: true,
            };
            let offset = self
                .hub
                .history(&channel.name, query, self.wall)
                .map_or(0, |history| history.offset);
            open.extend_from_slice(
                format!(",\"offset\":{offset},\"epoch\":\"{}\"", channel.epoch).as_bytes(),
            );
            let members = self.hub.member_count(channel.id);
            if members > 0 {
                open.extend_from_slice(format!(",\"members\":{members}").as_bytes());
            }
        }
        self.encoder.object(format, &open, None, out);
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
        }
        for text in command.patterns() {
            let pattern = api::pattern(text.as_bytes(), &self.settings)?;
            self.fanout.unsubscribe_pattern(reader, &pattern, self.wall);
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
        self.send(slot, &out);
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
        let Some(reader) = self.reader_of(slot) else {
            return Ok(());
        };
        // Whatever the new token does not cover ends here.
        let lost: Vec<_> = self
            .fanout
            .channels(reader)
            .filter(|channel| !grant.allows(Action::Subscribe, &channel.name, &channel.namespace()))
            .map(|channel| channel.name.clone())
            .collect();
        if !lost.is_empty() {
            return Err(Refused::new(
                403,
                "forbidden",
                "the token does not cover what this connection listens to",
            ));
        }
        let patterns: Vec<_> = self.fanout.patterns(reader).cloned().collect();
        if patterns
            .iter()
            .any(|pattern| !grant.covers(Action::Subscribe, pattern))
        {
            return Err(Refused::new(
                403,
                "forbidden",
                "the token does not cover this connection's patterns",
            ));
        }
        let mut open = self.opening("authorized", id);
        if let Some(user) = &grant.user {
            open.extend_from_slice(b",\"user\":");
            native::json_string(user, &mut open);
        }
        if let Some(expires) = grant.expires {
            open.extend_from_slice(format!(",\"expires\":{}", expires / 1000).as_bytes());
        }
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.grant = grant;
        }
        self.reply(slot, &open, out);
        self.schedule(slot);
        Ok(())
    }
}
