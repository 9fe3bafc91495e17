//! What a WebSocket client says, and what it is answered.

use std::ops::ControlFlow;

use bytes::Bytes;
use cometserver_core::action::Action;
use cometserver_core::hub::{HISTORY_LIMIT, HistoryQuery};
use cometserver_core::protocol::native::command::{self, Command};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::Payload;

use super::Shard;
use super::receiving::ANSWERS;
use crate::api::{self, Refused};
use crate::connection::{Said, Voice, parts};
use crate::metrics::{Door, DropReason};
use crate::question::{self, Outcome, Progress, Reply};
use crate::websocket::{self, Event, Limits, Opcode, close_reply, code};
use crate::wire::Format;

/// Room for commands that a connection keeps.
const FEW: usize = 4;

/// So many frames are taken out of what came in a step.
const EVENTS: usize = 64;

/// What a client is told that goes on asking for what is refused (`limits.refusals`).
const REFUSED_TOO_OFTEN: &str = "too many refused commands one after another";

/// What became of the next thing that was said.
pub(super) enum Next {
    /// It was done, or some of it: on to the next.
    Heard,
    /// There is nothing that may be done now.
    Nothing,
    /// What was answered is the last that the client is told.
    Last,
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
        subscriber.heard = now.max(1);
        let mut decoder = std::mem::take(&mut socket.decoder);
        let mut events = 0;
        let decoded = decoder.decode(bytes, Limits { max_message: most }, &mut |event| {
            events += 1;
            socket.keep(match event {
                Event::Text(text) => Said::Text(text.to_owned()),
                Event::Binary(bytes) => Said::Binary(bytes.to_vec()),
                Event::Ping(payload) => Said::Ping(payload.to_vec()),
                Event::Pong(_) => return ControlFlow::Continue(()),
                Event::Close(code, _) => Said::Close(code),
            });
            ControlFlow::Continue(())
        });
        socket.decoder = decoder;
        if let Err(failure) = decoded {
            socket.keep(Said::Broke(failure.code, failure.reason));
        }
        self.turn.charge_each(events / EVENTS);
        self.obey(slot);
    }

    /// Does what was said, as far as the turn goes, answers can be sent and subscriptions catch up; the rest waits.
    pub(super) fn obey(&mut self, slot: usize) {
        let mut out = Vec::new();
        while !self.turn.is_spent() && out.len() < ANSWERS && !self.connections[slot].is_blocked() {
            let before = out.len();
            let next = self.obey_next(slot, &mut out);
            self.turn.charge_bytes(out.len() - before);
            match next {
                Next::Heard => {}
                Next::Nothing => break,
                Next::Last => return self.say_last(slot, &out),
            }
        }
        if !out.is_empty() && !self.send(slot, &out) {
            return;
        }
        self.read_on(slot);
        // Where the kernel took all that was answered, nothing else would bring up what was said next.
        self.go_on(slot);
    }

    /// Does the next thing that was said, or more of one that names many.
    fn obey_next(&mut self, slot: usize, out: &mut Vec<u8>) -> Next {
        let socket = self.connections[slot]
            .subscriber()
            .and_then(|subscriber| subscriber.socket.as_mut());
        let Some(socket) = socket else {
            return Next::Nothing;
        };
        if let Some(listing) = socket.listing.take() {
            return self.go_through(slot, listing, out);
        }
        let Some(said) = socket.hear() else {
            if socket.said.is_empty() {
                // Who sends a thousand commands at once does not keep their room.
                socket.said.shrink_to(FEW);
            }
            return Next::Nothing;
        };
        self.turn.charge(1);
        self.turn.charge_bytes(said.bytes());
        match said {
            Said::Text(text) => self.command(slot, &text, None, out),
            Said::Binary(bytes) => self.binary_command(slot, &bytes, out),
            Said::Ping(payload) => {
                websocket::frame(Opcode::Pong, &payload, out);
                Next::Heard
            }
            Said::Close(code) => {
                close_reply(code, out);
                Next::Last
            }
            Said::Broke(code, reason) => {
                let drop = match code {
                    code::TOO_BIG => DropReason::Limit,
                    _ => DropReason::Protocol,
                };
                self.metrics().drops.of(drop).add(1);
                websocket::close(code, reason, out);
                Next::Last
            }
        }
    }

    /// The last bytes of a WebSocket: its reader is gone with them.
    pub(super) fn say_last(&mut self, slot: usize, out: &[u8]) {
        if self.send(slot, out) {
            self.release_reader(slot);
            self.finish(slot);
        }
    }

    /// A header with its length before it, and the payload behind it.
    fn binary_command(&mut self, slot: usize, bytes: &[u8], out: &mut Vec<u8>) -> Next {
        match parts(bytes) {
            Some((head, payload)) => self.command(slot, head, Some(payload), out),
            None => {
                let refused = Refused::bad(
                    "a binary frame has 4 bytes of length, so many bytes of a JSON header, and the payload",
                );
                self.refuse(slot, None, &refused, out)
            }
        }
    }

    fn command(&mut self, slot: usize, text: &str, payload: Option<&[u8]>, out: &mut Vec<u8>) -> Next {
        let command = match Command::parse(text) {
            Ok(command) => command,
            Err(error) => {
                let refused = Refused::bad(format!("not a command: {error}"));
                return self.refuse(slot, None, &refused, out);
            }
        };
        let id: Option<Box<str>> = command.id.map(|id| id.get().into());
        let id = id.as_deref();
        let kind = command.kind.clone();
        let done = match &*kind {
            "subscribe" => match self.subscription(slot, &command) {
                Ok(listing) => return self.go_through(slot, listing, out),
                Err(refused) => Err(refused),
            },
            "unsubscribe" => match self.unsubscription(&command) {
                Ok(listing) => return self.go_through(slot, listing, out),
                Err(refused) => Err(refused),
            },
            "publish" => self.socket_publish(slot, command, payload, id, out),
            "presence" => self.socket_presence(slot, &command, id, out),
            "history" => self.socket_history(slot, &command, id, out),
            "authorize" => self.authorize_again(slot, &command, id, out),
            "ping" => {
                let open = self.opening("pong", id);
                self.reply(slot, &open, out);
                Ok(())
            }
            _ => Err(Refused::bad(
                "`type` is one of subscribe, unsubscribe, publish, presence, history, authorize and ping",
            )),
        };
        self.done(slot, id, done, out)
    }

    /// A command was obeyed, or is refused.
    pub(super) fn done(
        &mut self,
        slot: usize,
        id: Option<&str>,
        done: Result<(), Refused>,
        out: &mut Vec<u8>,
    ) -> Next {
        match done {
            Ok(()) => {
                self.judge(slot, false);
                Next::Heard
            }
            Err(refused) => self.refuse(slot, id, &refused, out),
        }
    }

    /// `{"type":KIND,"id":…`
    pub(super) fn opening(&self, kind: &str, id: Option<&str>) -> Vec<u8> {
        let mut open = b"{\"type\":\"".to_vec();
        open.extend_from_slice(kind.as_bytes());
        open.push(b'"');
        if let Some(id) = id {
            open.extend_from_slice(b",\"id\":");
            open.extend_from_slice(id.as_bytes());
        }
        open
    }

    pub(super) fn reply(&mut self, slot: usize, open: &[u8], out: &mut Vec<u8>) {
        let format = self.connections[slot]
            .subscriber()
            .map_or(Format::WebSocketText, |s| s.format);
        self.encoder.object(format, open, None, out);
    }

    fn refuse(&mut self, slot: usize, id: Option<&str>, refused: &Refused, out: &mut Vec<u8>) -> Next {
        refused.count(self.metrics());
        let mut open = self.opening("error", id);
        open.extend_from_slice(b",\"code\":");
        native::json_string(refused.code, &mut open);
        open.extend_from_slice(b",\"message\":");
        native::json_string(&refused.detail, &mut open);
        self.reply(slot, &open, out);
        if !self.judge(slot, true) {
            return Next::Heard;
        }
        websocket::close(code::POLICY, REFUSED_TOO_OFTEN, out);
        Next::Last
    }

    fn socket_publish(
        &mut self,
        slot: usize,
        command: Command<'_>,
        payload: Option<&[u8]>,
        id: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let mut publish = command.into_publish()?;
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
        let names = publish.names(&limits)?;
        self.may_publish(slot, &names, &grant)?;
        let mut message = match payload {
            None => publish.into_message(names, &limits)?,
            Some(bytes) => {
                let kind = command::kind(publish.kind.as_deref().unwrap_or("binary"))?;
                command::check_size(bytes.len(), &limits)?;
                let nothing = serde_json::value::RawValue::from_string("null".into())
                    .map_err(|error| Refused::bad(error.to_string()))?;
                publish.kind = None;
                publish.data = Some(&nothing);
                let mut message = publish.into_message(names, &limits)?;
                message.payload = Payload::new(kind, Bytes::copy_from_slice(bytes), limits.json_depth)
                    .map_err(|error| Refused::bad(error.to_string()))?;
                message
            }
        };
        api::sign(&mut message, &grant);
        message.payer = self.payer(slot, &grant);
        let progress = question::publish(message, &self.asker(slot))?;
        self.metrics().publications.of(Door::WebSocket).add(1);
        self.settle_command(slot, "published", id, progress, out)
    }

    /// Answers the command whose question was the last one asked, or puts it aside.
    fn settle_command(
        &mut self,
        slot: usize,
        kind: &'static str,
        id: Option<&str>,
        progress: Progress,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        match progress {
            Progress::Done(outcome) => self.write_outcome(slot, kind, id, outcome?, out),
            Progress::Waits(question) => {
                let voice = Voice::Command(kind, id.map(Box::from));
                self.put_aside(slot, self.questions, question, voice);
            }
        }
        Ok(())
    }

    fn write_outcome(&mut self, slot: usize, kind: &str, id: Option<&str>, reply: Reply, out: &mut Vec<u8>) {
        // Nobody asked to be told of a publication without one.
        if id.is_none() && kind == "published" {
            return;
        }
        // Only what is an object can be asked for here.
        let Reply::Object(_, members) = reply else { return };
        let mut open = self.opening(kind, id);
        open.push(b',');
        open.extend_from_slice(members.strip_prefix(b"{").unwrap_or(&members));
        self.reply(slot, &open, out);
    }

    /// The store has answered a command.
    pub(super) fn answer_command(&mut self, slot: usize, kind: &str, id: Option<&str>, outcome: Outcome) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let next = match outcome {
            Ok(reply) => {
                self.write_outcome(slot, kind, id, reply, &mut out);
                Next::Heard
            }
            Err(refused) => self.refuse(slot, id, &refused, &mut out),
        };
        self.turn.charge_bytes(out.len());
        let is_sent = match next {
            Next::Last => {
                self.say_last(slot, &out);
                false
            }
            _ => out.is_empty() || self.send(slot, &out),
        };
        self.out = out;
        if !is_sent {
            return;
        }
        if self.draining && self.connections[slot].is_waiting_for_nothing() {
            self.send_away(slot);
            return;
        }
        self.read_on_soon(slot);
        self.go_on(slot);
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
        self.afford(slot)?;
        let since = question::since(command.since.as_deref(), &self.asker(slot))?;
        let query = HistoryQuery {
            since,
            limit: command.limit.unwrap_or(HISTORY_LIMIT),
            reverse: command.reverse == Some(true),
        };
        let progress = question::history(name, query, &self.asker(slot));
        self.settle_command(slot, "history", id, progress, out)
    }
}
