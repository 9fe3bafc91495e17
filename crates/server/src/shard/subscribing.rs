//! Subscriptions of a WebSocket: begun, caught up, ended.

use std::collections::VecDeque;
use std::sync::Arc;

use cometserver_core::action::Action;
use cometserver_core::channel::{ChannelId, ChannelName};
use cometserver_core::fanout::{ReaderId, Standing, Target, Wants};
use cometserver_core::grant::Grant;
use cometserver_core::pattern::Pattern;
use cometserver_core::protocol::native::command::{self, Command, RequestError};

use super::Shard;
use super::reading::target_member;
use super::socket_commands::Next;
use super::wish::{presence_wish, too_many};
use crate::api::{self, Refused};
use crate::connection::{CATCHING_UP, Listed, Listing, Reply};
use crate::wire::Format;

/// Names that are read, or begun to be, in a step.
const PARSED: usize = 16;

/// Steps of a subscription that begins or ends.
const SUBSCRIBED: u32 = 2;

impl Shard {
    /// What a `subscribe` asks for. Names are counted before they are read, and nothing changes yet.
    pub(super) fn subscription(
        &mut self,
        slot: usize,
        command: &Command<'_>,
    ) -> Result<Box<Listing>, Refused> {
        let (join, watch) = presence_wish(command.presence.as_deref())?;
        let begin = api::begin(&self.hub, command.since.as_deref().unwrap_or("now"))?;
        let (names, patterns) = self.names(command)?;
        if names.is_empty() && patterns.is_empty() {
            return Err(Refused::bad("name a `channel` or a `pattern` to subscribe to"));
        }
        let info = command
            .info
            .map(|info| self.member_info(info.get()))
            .transpose()?;
        if let Some(subscriber) = self.connections[slot].subscriber() {
            let (reader, grant) = (subscriber.reader, subscriber.grant.clone());
            let limits = &self.settings.config.limits;
            let have = self.fanout.counts(reader);
            if have.0 + names.len() > limits.subscriptions || have.1 + patterns.len() > limits.patterns {
                return Err(too_many(limits.subscriptions, limits.patterns));
            }
            self.authorize_pattern_presence(patterns.iter(), &grant, watch)?;
            for pattern in &patterns {
                self.begin_in_pattern(begin, pattern, &grant)?;
            }
        }
        let wants = Wants {
            presence: watch,
            retained: command.retained != Some(false),
            public_only: false,
        };
        let join = join.then_some(info);
        Ok(self.listing(command, Listed::Subscribe { begin, wants, join }, names, patterns))
    }

    /// What an `unsubscribe` asks for.
    pub(super) fn unsubscription(&mut self, command: &Command<'_>) -> Result<Box<Listing>, Refused> {
        let (names, patterns) = self.names(command)?;
        Ok(self.listing(command, Listed::Unsubscribe, names, patterns))
    }

    fn listing(
        &self,
        command: &Command<'_>,
        does: Listed,
        names: VecDeque<ChannelName>,
        patterns: VecDeque<Arc<Pattern>>,
    ) -> Box<Listing> {
        Box::new(Listing {
            id: command.id.map(|id| id.get().into()),
            does,
            names,
            patterns,
            allowed: 0,
            settings: self.settings.clone(),
        })
    }

    /// The channels and patterns that a command names, no more than anybody may have.
    fn names(
        &mut self,
        command: &Command<'_>,
    ) -> Result<(VecDeque<ChannelName>, VecDeque<Arc<Pattern>>), Refused> {
        let settings = self.settings.clone();
        let (limits, most) = (api::limits(&settings), &settings.config.limits);
        let counted = |error| match error {
            RequestError::TooMany(_) => too_many(most.subscriptions, most.patterns),
            error => Refused::from(error),
        };
        let names = command.channels(most.subscriptions).map_err(counted)?;
        let patterns = command.patterns(most.patterns).map_err(counted)?;
        self.turn.charge_each(names.len() / PARSED + patterns.len());
        let names = names
            .iter()
            .map(|name| command::channel_name(name.as_bytes(), &limits))
            .collect::<Result<_, _>>()?;
        let patterns = patterns
            .iter()
            .map(|text| api::pattern(text.as_bytes(), &settings).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok((names, patterns))
    }

    /// Does some of what a command asks for that names many; what is left has the next turn.
    pub(super) fn go_through(&mut self, slot: usize, mut listing: Box<Listing>, out: &mut Vec<u8>) -> Next {
        let through = match listing.does {
            Listed::Subscribe { .. } => self.subscribe_some(slot, &mut listing, out),
            Listed::Unsubscribe => self.unsubscribe_some(slot, &mut listing, out),
        };
        match through {
            Ok(true) => self.done(slot, None, Ok(()), out),
            Ok(false) => {
                let subscriber = self.connections[slot].subscriber();
                if let Some(socket) = subscriber.and_then(|subscriber| subscriber.socket.as_mut()) {
                    socket.listing = Some(listing);
                }
                Next::Nothing
            }
            Err(refused) => self.done(slot, listing.id.as_deref(), Err(refused), out),
        }
    }

    /// Subscribes to what a command names, if it may be subscribed to all of it. Is that done?
    fn subscribe_some(
        &mut self,
        slot: usize,
        listing: &mut Listing,
        out: &mut Vec<u8>,
    ) -> Result<bool, Refused> {
        let Listed::Subscribe { begin, wants, join } = &listing.does else {
            return Ok(true);
        };
        let (begin, wants, join) = (*begin, *wants, join.clone());
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return Ok(true);
        };
        let (reader, grant) = (subscriber.reader, subscriber.grant.clone());
        if !Arc::ptr_eq(&listing.settings, &self.settings) {
            (listing.allowed, listing.settings) = (0, self.settings.clone());
        }
        while let Some(name) = listing.names.get(listing.allowed) {
            if self.turn.is_spent() {
                return Ok(false);
            }
            self.turn.charge(1);
            self.authorize_channel(name, &grant, wants.presence)?;
            self.begin_in_channel(begin, name, &grant)?;
            listing.allowed += 1;
        }
        let payer = self.payer(slot, &grant);
        self.fanout.charge(reader, payer);
        let joins = join.is_some();
        if let Some(info) = join {
            self.become_member(slot, &grant, info);
        }
        while !listing.names.is_empty() || !listing.patterns.is_empty() {
            if self.turn.is_spent() || self.is_catching_up(slot) {
                self.read_on_soon(slot);
                return Ok(false);
            }
            self.turn.charge(SUBSCRIBED);
            if let Some(name) = listing.names.pop_front() {
                listing.allowed -= 1;
                let begin = self.begin_in_channel(begin, &name, &grant)?;
                let before = self.fanout.counts(reader).0;
                let standing = self.fanout.subscribe(reader, &name, begin, wants, self.wall)?;
                let is_new = self.fanout.counts(reader).0 > before;
                let (Standing::Due(target) | Standing::Stands(target)) = &standing;
                if wants.presence
                    && let Target::Channel(channel) = target
                {
                    let id = channel.id;
                    self.note_watched(slot, id);
                    if joins && let Err(over) = self.join(slot, payer, id) {
                        if is_new {
                            self.take_back(slot, reader, &name, id);
                        }
                        return Err(over.into());
                    }
                }
                self.announce(slot, standing, listing.id.as_deref(), wants.presence, out);
            } else if let Some(pattern) = listing.patterns.pop_front() {
                let begin = self.begin_in_pattern(begin, &pattern, &grant)?;
                let wants = Wants {
                    public_only: !grant.covers(Action::Subscribe, &pattern),
                    ..wants
                };
                let standing = self.fanout.subscribe_pattern(reader, &pattern, begin, wants)?;
                self.announce(slot, standing, listing.id.as_deref(), wants.presence, out);
                self.note_pattern(slot, pattern, wants);
            }
        }
        self.read_on_soon(slot);
        Ok(true)
    }

    /// Ends a subscription that was only just begun: its client is told why.
    fn take_back(&mut self, slot: usize, reader: ReaderId, name: &ChannelName, channel: ChannelId) {
        self.fanout.unsubscribe(reader, name, self.wall);
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut()) {
            socket.watched.retain(|own| *own != channel);
        }
    }

    /// Gives a connection its name as a member, or another thing to show.
    fn become_member(&mut self, slot: usize, grant: &Grant, info: Option<bytes::Bytes>) {
        let session = self.connections[slot]
            .subscriber()
            .and_then(|subscriber| subscriber.session.clone());
        let member = self.new_membership(slot, grant, session.as_deref(), info);
        if let Some(subscriber) = self.connections[slot].subscriber() {
            match &mut subscriber.member {
                Some(own) if member.info.is_some() => own.info = member.info,
                Some(_) => {}
                none => *none = Some(member),
            }
        }
    }

    /// Do as many subscriptions catch up as may at a time?
    fn is_catching_up(&mut self, slot: usize) -> bool {
        let subscriber = self.connections[slot].subscriber();
        subscriber
            .and_then(|subscriber| subscriber.socket.as_ref())
            .is_some_and(|socket| socket.replies.len() >= CATCHING_UP)
    }

    /// A subscription that stands is announced at once, others when they have caught up.
    fn announce(
        &mut self,
        slot: usize,
        standing: Standing,
        id: Option<&str>,
        presence: bool,
        out: &mut Vec<u8>,
    ) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let format = subscriber.format;
        let Some(socket) = &mut subscriber.socket else {
            return;
        };
        let reply = |target| Reply {
            target,
            id: id.map(Box::from),
            presence,
        };
        match standing {
            Standing::Due(target) => socket.replies.push_back(reply(target)),
            Standing::Stands(target) => self.write_reply(slot, format, &reply(target), out),
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
    fn forget_replies(&mut self, slot: usize, target: &[u8], pattern: bool) {
        let subscriber = self.connections[slot].subscriber();
        if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut()) {
            socket
                .replies
                .retain(|reply| named(&reply.target) != (target, pattern));
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
        let subscriber = self.connections[slot].subscriber();
        let Some(socket) = subscriber.and_then(|subscriber| subscriber.socket.as_mut()) else {
            return;
        };
        // They come in the order of the commands.
        let of = named(target);
        let at = socket.replies.iter().position(|reply| named(&reply.target) == of);
        let reply = at.and_then(|at| socket.replies.remove(at));
        if socket.replies.is_empty() {
            socket.replies = VecDeque::new();
        }
        if let Some(reply) = reply {
            self.write_reply(slot, format, &reply, out);
        }
    }

    fn write_reply(&mut self, slot: usize, format: Format, reply: &Reply, out: &mut Vec<u8>) {
        let Some(reader) = self.reader_of(slot) else {
            return;
        };
        let mut open = self.opening("subscribed", reply.id.as_deref());
        open.push(b',');
        target_member(&reply.target, &mut open);
        if let Target::Channel(channel) = &reply.target {
            let offset = self.hub.offset(channel.id);
            open.extend_from_slice(
                format!(",\"offset\":{offset},\"epoch\":\"{}\"", channel.epoch).as_bytes(),
            );
            if reply.presence {
                let members = self.hub.member_count(channel.id);
                open.extend_from_slice(format!(",\"members\":{members}").as_bytes());
            }
        }
        // With it nothing of the catch-up is shown again to a client that is cut off from here on.
        let cursor = self.fanout.position(reader);
        self.encoder
            .object(format, &open, Some(self.hub.cursor(cursor)), out);
    }

    /// Unsubscribes from what a command names. Is that done?
    fn unsubscribe_some(
        &mut self,
        slot: usize,
        listing: &mut Listing,
        out: &mut Vec<u8>,
    ) -> Result<bool, Refused> {
        let Some(reader) = self.reader_of(slot) else {
            return Ok(true);
        };
        while !listing.names.is_empty() || !listing.patterns.is_empty() {
            if self.turn.is_spent() {
                return Ok(false);
            }
            self.turn.charge(SUBSCRIBED);
            if let Some(name) = listing.names.pop_front() {
                self.forget_replies(slot, name.as_bytes(), false);
                if let Some(channel) = self.fanout.unsubscribe(reader, &name, self.wall) {
                    self.forget_channel(slot, channel.id);
                }
            } else if let Some(pattern) = listing.patterns.pop_front() {
                self.forget_replies(slot, pattern.as_bytes(), true);
                self.fanout.unsubscribe_pattern(reader, &pattern, self.wall);
                let subscriber = self.connections[slot].subscriber();
                if let Some(socket) = subscriber.and_then(|s| s.socket.as_mut()) {
                    socket.patterns.retain(|(own, _)| *own != pattern);
                }
            }
        }
        let open = self.opening("unsubscribed", listing.id.as_deref());
        self.reply(slot, &open, out);
        Ok(true)
    }

    /// A channel is not listened to any more: its members are not seen, and this connection is none.
    fn forget_channel(&mut self, slot: usize, channel: ChannelId) {
        let (hub, wall) = (self.hub.clone(), self.wall);
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        if let Some(at) = subscriber.joined.iter().position(|own| *own == channel)
            && let Some(member) = &subscriber.member
        {
            subscriber.joined.swap_remove(at);
            hub.leave(channel, &member.user, wall);
        }
        if let Some(socket) = &mut subscriber.socket {
            socket.watched.retain(|own| *own != channel);
        }
    }
}

/// What a subscription is to, and whether that is a pattern.
fn named(target: &Target) -> (&[u8], bool) {
    match target {
        Target::Channel(channel) => (channel.name.as_bytes(), false),
        Target::Pattern(pattern) => (pattern.as_bytes(), true),
    }
}
