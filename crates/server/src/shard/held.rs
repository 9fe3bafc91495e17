//! Requests that are held: long polls, streams, WebSockets. How they begin, what they get, how they end.

use cometserver_core::action::Action;
use cometserver_core::broker::{BrokerError, Page};
use cometserver_core::cursor::Marks;
use cometserver_core::fanout::{Begin, Progress, Step, Target, Wants};
use cometserver_core::grant::Grant;
use cometserver_core::hub::{ListenError, ReadLimits, Start};
use cometserver_core::namespace::Namespace;
use cometserver_core::protocol::native;
use cometserver_core::{ChannelName, Cursor, Position};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Shard;
use super::requests::Parameters;
use crate::api::{self, Refused};
use crate::budget::Gateway;
use crate::connection::{Membership, State, Subscriber, WebSocketState};
use crate::endpoint::Endpoint;
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::response::{Head, Streaming, Terms, last_chunk};
use crate::listener::Role;
use crate::metrics::{DropReason, Recovery, Transport};
use crate::round::Share;
use crate::shared::{ConnectionId, Mail, Route, chance, jittered, lock, retry_after};
use crate::websocket::{Decoder, close, code, handshake};
use crate::wire::Format;

/// What a reader that is behind reads at a time: enough for few calls, little enough to keep for a slow one.
const PAGE: ReadLimits = ReadLimits {
    items: 256,
    bytes: 32 << 10,
};

/// At most so many present values are shown at the beginning of a poll, whatever its `limit`.
const MOST_OWED: usize = 1000;

/// The bounds and the default of a poll's `limit`.
const POLL_LIMIT: (u64, u64) = (256, 1000);

/// The least that a stream may ask to wait for its first heartbeat: earlier ones travel with the opening.
const LEAST_PREAMBLE_MS: u64 = 100;

/// The longest name of a session.
const MAX_SESSION: usize = 64;

/// Without a sign of life for so many heartbeats a WebSocket is taken for dead.
const SILENT_HEARTBEATS: u64 = 3;

/// A poll's answer, which most polls of a round share.
#[derive(Debug, Default)]
pub(super) struct Answer {
    key: Option<(Share, Position, Terms)>,
    bytes: Vec<u8>,
}

impl Answer {
    /// The frames it was made of are gone.
    pub(super) fn forget(&mut self) {
        self.key = None;
    }
}

/// What a client that wants to listen asks for.
struct Wish {
    channels: Vec<Listening>,
    patterns: Vec<Arc<cometserver_core::pattern::Pattern>>,
    begin: Begin,
    /// The cursor that the client came with: whoever is sent away before it was told of a loss keeps that.
    cursor: Option<Cursor>,
    retained: bool,
    join: bool,
    watch: bool,
    info: Option<bytes::Bytes>,
    session: Option<Box<str>>,
    binary: bool,
    preamble: u32,
}

/// A channel that is to be listened to, and whether its members are to be seen, and joined.
struct Listening {
    name: ChannelName,
    watch: bool,
    join: bool,
}

impl Wish {
    fn is_member(&self) -> bool {
        self.join || self.channels.iter().any(|channel| channel.join)
    }

    /// Whose poll this is, and of what: only another one of the same may take its place.
    fn identity<'a>(&'a self, grant: &'a Grant) -> impl std::hash::Hash + use<'a> {
        let mut channels: Vec<_> = self
            .channels
            .iter()
            .map(|channel| channel.name.as_bytes())
            .collect();
        let mut patterns: Vec<_> = self.patterns.iter().map(|pattern| pattern.as_bytes()).collect();
        channels.sort_unstable();
        patterns.sort_unstable();
        (&grant.user, channels, patterns)
    }

    /// What a grant gives of a pattern.
    fn wants(&self, pattern: &cometserver_core::pattern::Pattern, grant: &Grant) -> Wants {
        Wants {
            presence: self.watch,
            retained: self.retained,
            public_only: !grant.covers(Action::Subscribe, pattern),
        }
    }
}

/// How presence is wished for: `join` is both.
pub(super) fn presence_wish(text: Option<&str>) -> Result<(bool, bool), Refused> {
    match text {
        None | Some("") => Ok((false, false)),
        Some("watch") => Ok((false, true)),
        Some("join") => Ok((true, true)),
        Some(_) => Err(Refused::bad("`presence` is `join` or `watch`")),
    }
}

impl Shard {
    /// A client wants to listen. Answers with the head of a stream, or a handshake, or nothing yet for a poll.
    #[expect(clippy::too_many_arguments, reason = "all of it belongs to the request")]
    pub(super) fn open_held(
        &mut self,
        slot: usize,
        endpoint: Endpoint,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
        grant: Grant,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let wish = self.wish(endpoint, request, parameters)?;
        let accept = match endpoint {
            Endpoint::WebSocket => Some(self.check_handshake(request)?),
            _ => None,
        };
        self.authorize(&wish, &grant)?;
        for channel in &wish.channels {
            self.shared.static_files.follow(&channel.name);
        }
        if terms.head_only {
            self.stream_head(endpoint, terms, cors, out);
            return Ok(());
        }
        let gateway = gateway(parameters)?;
        let mut ends = self.ends(endpoint, parameters, gateway)?;
        let limit = api::number(parameters, "limit")?
            .unwrap_or(POLL_LIMIT.0)
            .clamp(1, POLL_LIMIT.1);
        // A poll that wants to be answered at once takes no place; neither does the site's own code.
        let immediate = endpoint == Endpoint::Poll && ends <= self.now;
        let mut route = route(endpoint).filter(|_| self.role(slot) == Role::Public && !immediate);
        // A worker of the web host waits, whoever's it is.
        let mut gateway = gateway.filter(|_| !immediate);
        let refused = self.draining || self.connections[slot].refused().is_some();
        let mut retry = None;
        if refused || !self.take_hold(route) {
            let after = self.retry_after();
            return self.turn_away(slot, endpoint, &wish, accept, after, terms, cors, out);
        }
        if let Some(full) = gateway.filter(|gateway| !self.take_gateway(*gateway)) {
            self.release_hold(route.take(), None);
            let after = self.gateway_retry(full);
            if endpoint != Endpoint::Poll {
                return self.turn_away(slot, endpoint, &wish, accept, after, terms, cors, out);
            }
            // Its worker is here already: it takes along what there is, and comes back later for the rest.
            (gateway, ends, retry) = (None, self.now, Some(after));
        }
        let min_hold = match gateway.filter(|_| endpoint == Endpoint::Poll) {
            Some(gateway) => self.millis(gateway.terms(&self.settings.config.held).min_hold),
            None => 0,
        };
        let format = if wish.binary {
            Format::WebSocketBinary
        } else {
            endpoint.format(terms.version == crate::http::Version::Http11)
        };
        let reader = self.fanout.open(slot as u32, wish.session.as_deref());
        let subscribed = self.subscribe_all(reader, &wish, &grant);
        if let Err(full) = subscribed {
            self.fanout.close(reader, self.wall);
            self.release_hold(route, gateway);
            let refused = Refused::from(full);
            if endpoint == Endpoint::Sse {
                // A browser gives up for ever after anything but a stream, and the server may have room again soon.
                self.count_refusal(refused.code);
                let after = self.retry_after();
                return self.turn_away(slot, endpoint, &wish, accept, after, terms, cors, out);
            }
            return Err(refused);
        }
        self.fanout.begin(reader, wish.begin, wish.retained);
        if min_hold > 0 {
            let at = self.fanout.position(reader);
            self.fanout.stall(reader, at);
        }
        if let Begin::At(start) = wish.begin {
            let lost = start.lost_memory || start.lost_durable;
            let recovery = if lost { Recovery::Gap } else { Recovery::Complete };
            self.metrics().recoveries.of(recovery).add(1);
        }
        if let Some(accept) = &accept {
            accept.write_head(out);
        } else if endpoint != Endpoint::Poll {
            self.stream_head(endpoint, terms, cors, out);
        }
        let member = self.membership(slot, &wish, &grant);
        let held_as = match (endpoint, &wish.session) {
            (Endpoint::WebSocket, _) | (_, None) => None,
            (_, Some(session)) => Some((
                self.held_as(endpoint, &wish, &grant, session),
                self.holder(&grant, session),
            )),
        };
        let watched = match accept {
            Some(_) => self.channels_of(reader, wish.channels.iter().filter(|channel| channel.watch)),
            None => Vec::new(),
        };
        let joined = self.channels_of(reader, wish.channels.iter().filter(|channel| channel.join));
        let patterns = accept.iter().flat_map(|_| &wish.patterns);
        let patterns = patterns.map(|pattern| (pattern.clone(), wish.wants(pattern, &grant)));
        let patterns = patterns.collect();
        let subscriber = Subscriber {
            reader,
            format,
            route,
            gateway,
            grant,
            terms,
            cors: cors.clone(),
            joined: Vec::new(),
            member,
            session: wish.session,
            held_as,
            ends,
            sent: self.now,
            preamble: wish.preamble,
            unopened: None,
            limit: usize::try_from(limit).unwrap_or(1),
            reads_from: if min_hold > 0 {
                ends.min(self.now + min_hold)
            } else {
                0
            },
            retry,
            conditional: endpoint == Endpoint::Poll
                && retry.is_none()
                && api::bytes(parameters, "cursor").is_none()
                && request.header("if-none-match").is_some(),
            fetching: false,
            queued: false,
            socket: accept.map(|_| {
                Box::new(WebSocketState {
                    decoder: Decoder::new(),
                    replies: Vec::new(),
                    watched,
                    patterns,
                    heard: self.now,
                    said: VecDeque::new(),
                })
            }),
        };
        let mut subscriber = subscriber;
        if self.fanout.owes(reader) {
            let own = wish
                .cursor
                .unwrap_or_else(|| self.hub.cursor(self.fanout.position(reader)));
            subscriber.unopened = Some(own);
        }
        self.connections[slot].state = State::Reading(Box::new(subscriber));
        self.count_as(slot, transport(endpoint));
        for channel in joined {
            self.join(slot, channel);
        }
        if let Some((held_as, holder)) = held_as {
            let id = self.id_of(slot);
            lock(&self.shared.holders).entry(holder).or_default().push(id);
            // Of two streams that are not in anybody's way none has to go.
            self.supersede(slot, held_as, endpoint == Endpoint::Poll || gateway.is_some());
        }
        Ok(())
    }

    /// Under what a session's polls, or its streams, are known to all shards.
    fn held_as(&self, endpoint: Endpoint, wish: &Wish, grant: &Grant, session: &str) -> u64 {
        let is_poll = endpoint == Endpoint::Poll;
        self.shared.secret_hash(&(is_poll, wish.identity(grant), session))
    }

    /// Under what all that a session holds is known.
    fn holder(&self, grant: &Grant, session: &str) -> u64 {
        self.shared.secret_hash(&(&grant.user, session))
    }

    /// Ends what a session holds, of the channels and patterns named if there are any, as the page that held it is gone, or
    /// about to be. How much was there?
    pub(super) fn release_session(
        &mut self,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
        grant: &Grant,
    ) -> Result<usize, Refused> {
        // Names nothing to listen to, which only a WebSocket may.
        let wish = self.wish(Endpoint::WebSocket, request, parameters)?;
        let session = wish.session.as_deref();
        let session = session.ok_or_else(|| Refused::bad("name the `session` that is to be released"))?;
        let held: Vec<ConnectionId> = if wish.channels.is_empty() && wish.patterns.is_empty() {
            let holder = self.holder(grant, session);
            let held = lock(&self.shared.holders).get(&holder).cloned();
            held.unwrap_or_default()
        } else {
            let held_as = [Endpoint::Poll, Endpoint::Stream]
                .map(|endpoint| self.held_as(endpoint, &wish, grant, session));
            let sessions = lock(&self.shared.sessions);
            held_as
                .iter()
                .filter_map(|held_as| sessions.get(held_as).copied())
                .collect()
        };
        for held in &held {
            self.tell_superseded(*held);
        }
        Ok(held.len())
    }

    fn wish(
        &self,
        endpoint: Endpoint,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
    ) -> Result<Wish, Refused> {
        let limits = api::limits(&self.settings);
        let most = &self.settings.config.limits;
        let named = |name: &'static [u8]| {
            parameters
                .iter()
                .filter(move |(own, _)| **own == *name)
                .map(|(_, value)| value)
        };
        let (join, watch) = presence_wish(api::text(parameters, "presence"))?;
        let listening = |name, watch, join| {
            native::command::channel_name(name, &limits).map(|name| Listening { name, watch, join })
        };
        let channels = named(b"channel")
            .map(|name| listening(name, watch, join))
            .chain(named(b"watch").map(|name| listening(name, true, join)))
            .chain(named(b"join").map(|name| listening(name, true, true)))
            .collect::<Result<Vec<_>, _>>()?;
        let patterns = named(b"pattern")
            .map(|text| api::pattern(text, &self.settings).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        if channels.len() > most.subscriptions || patterns.len() > most.patterns {
            return Err(too_many(most.subscriptions, most.patterns));
        }
        if channels.is_empty() && patterns.is_empty() && endpoint != Endpoint::WebSocket {
            return Err(Refused::bad(
                "name at least one `channel` or `pattern` to listen to",
            ));
        }
        let info = match api::text(parameters, "info") {
            None => None,
            Some(info) => Some(self.member_info(info)?),
        };
        let session = match api::text(parameters, "session") {
            Some(session) if session.is_empty() || session.len() > MAX_SESSION => {
                return Err(Refused::bad("`session` has 1 to 64 bytes"));
            }
            session => session.map(Box::from),
        };
        let (begin, cursor) = self.where_to_begin(endpoint, request, parameters)?;
        let retained = !matches!(api::bytes(parameters, "retained"), Some(b"0" | b"false" | b"no"));
        let binary = endpoint == Endpoint::WebSocket && api::text(parameters, "format") == Some("binary");
        let preamble = match endpoint {
            Endpoint::Sse | Endpoint::Stream => api::number(parameters, "preamble_ms")?,
            _ => None,
        };
        let preamble = preamble.map_or(0, |wish| {
            u32::try_from(wish.max(LEAST_PREAMBLE_MS)).unwrap_or(u32::MAX)
        });
        Ok(Wish {
            channels,
            patterns,
            begin,
            cursor,
            retained,
            join,
            watch,
            info,
            session,
            binary,
            preamble,
        })
    }

    pub(super) fn member_info(&self, info: &str) -> Result<bytes::Bytes, Refused> {
        if info.len() > self.settings.config.presence.member_info {
            return Err(Refused::new(
                413,
                "too_large",
                "`info` is larger than presence.member_info allows",
            ));
        }
        let mut value = Vec::new();
        let payload = cometserver_core::publication::Payload::new(
            cometserver_core::publication::Kind::Json,
            bytes::Bytes::copy_from_slice(info.as_bytes()),
        )
        .map_err(|error| Refused::bad(format!("`info`: {error}")))?;
        native::payload_value(&payload, &mut value);
        Ok(value.into())
    }

    /// The header of a browser that reconnects wins: it repeats its first URL for ever.
    fn where_to_begin(
        &self,
        endpoint: Endpoint,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
    ) -> Result<(Begin, Option<Cursor>), Refused> {
        let header = match endpoint {
            Endpoint::Sse => request.header_str("last-event-id"),
            Endpoint::Poll if api::bytes(parameters, "cursor").is_none() => request
                .header_str("if-none-match")
                .map(|tag| tag.trim_start_matches("W/").trim_matches('"')),
            _ => None,
        };
        match header.filter(|text| !text.is_empty()) {
            // A browser shows an error once and gives up for ever; a cursor of ours it cannot be, so all is a gap.
            Some(text) => Ok(match text.parse::<Cursor>() {
                Ok(cursor) => (Begin::At(self.hub.resolve(&cursor)), Some(cursor)),
                Err(_) => {
                    let nowhere = Cursor {
                        marks: Marks::default(),
                        position: Position::default(),
                    };
                    let lost = Start {
                        lost_memory: true,
                        lost_durable: true,
                        ..Start::default()
                    };
                    (Begin::At(lost), Some(nowhere))
                }
            }),
            None => {
                let text = api::text(parameters, "cursor").unwrap_or("now");
                Ok((api::begin(&self.hub, text)?, text.parse().ok()))
            }
        }
    }

    fn check_handshake<'r>(&self, request: &Request<'r>) -> Result<handshake::Accept<'r>, Refused> {
        if request.version != crate::http::Version::Http11 {
            return Err(Refused::bad("a WebSocket needs HTTP/1.1"));
        }
        handshake::check(request.headers(), |_| true)
            .map_err(|refusal| Refused::new(refusal.status(), "bad_request", refusal.to_string()))
    }

    fn authorize(&self, wish: &Wish, grant: &Grant) -> Result<(), Refused> {
        for channel in &wish.channels {
            self.authorize_channel(&channel.name, grant, channel.watch)?;
        }
        self.authorize_pattern_presence(&wish.patterns, grant, wish.watch)
    }

    /// Members are shown by pattern only to whom all that it matches is open: namespaces that are public need not show theirs.
    pub(super) fn authorize_pattern_presence(
        &self,
        patterns: &[Arc<cometserver_core::pattern::Pattern>],
        grant: &Grant,
        presence: bool,
    ) -> Result<(), Refused> {
        if presence
            && patterns
                .iter()
                .any(|pattern| !grant.covers(Action::Presence, pattern))
        {
            return Err(api::lacking(grant, Action::Presence));
        }
        Ok(())
    }

    pub(super) fn authorize_channel(
        &self,
        name: &ChannelName,
        grant: &Grant,
        presence: bool,
    ) -> Result<(), Refused> {
        let namespace = self.hub.namespace_of(name);
        if !grant.allows(Action::Subscribe, name, &namespace) {
            return Err(api::lacking(grant, Action::Subscribe));
        }
        if presence && !namespace.presence {
            return Err(Refused::new(
                403,
                "forbidden",
                "this channel's namespace has no presence",
            ));
        }
        if presence && !grant.allows(Action::Presence, name, &namespace) {
            return Err(api::lacking(grant, Action::Presence));
        }
        Ok(())
    }

    fn subscribe_all(
        &mut self,
        reader: cometserver_core::fanout::ReaderId,
        wish: &Wish,
        grant: &Grant,
    ) -> Result<(), ListenError> {
        for channel in &wish.channels {
            let wants = Wants {
                presence: channel.watch,
                retained: wish.retained,
                public_only: false,
            };
            self.fanout.add(reader, &channel.name, wants, self.wall)?;
        }
        for pattern in &wish.patterns {
            self.fanout
                .add_pattern(reader, pattern, wish.wants(pattern, grant))?;
        }
        Ok(())
    }

    fn take_hold(&self, route: Option<Route>) -> bool {
        let Some(route) = route else { return true };
        let held = &self.settings.config.held;
        let max = match route {
            Route::Poll => held.poll_max,
            Route::Sse => held.sse_max,
            Route::Stream => held.stream_max,
            Route::WebSocket => held.ws_max,
        };
        let taken = self.shared.hold(route, max);
        if taken {
            self.metrics().holds.add(1);
        }
        taken
    }

    fn release_hold(&self, route: Option<Route>, gateway: Option<Gateway>) {
        if let Some(route) = route {
            self.shared.release(route);
            self.metrics().holds.sub(1);
        }
        if let Some(gateway) = gateway {
            self.shared.gateways.release(gateway);
        }
    }

    fn take_gateway(&self, gateway: Gateway) -> bool {
        self.shared.gateways.take(gateway, &self.settings.config.held)
    }

    fn gateway_retry(&self, gateway: Gateway) -> u64 {
        let retry = self.settings.config.held.retry;
        self.shared.gateways.retry_after(gateway, retry, self.wall)
    }

    /// There is no place: the client is told when to try again, in a way that its kind does not take for the end.
    #[expect(clippy::too_many_arguments, reason = "all of it belongs to the request")]
    fn turn_away(
        &mut self,
        slot: usize,
        endpoint: Endpoint,
        wish: &Wish,
        accept: Option<handshake::Accept<'_>>,
        after: u64,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let cursor = wish.cursor.unwrap_or_else(|| {
            let position = match wish.begin {
                Begin::Earliest => Position::default(),
                _ => self.hub.now(),
            };
            self.hub.cursor(position)
        });
        match endpoint {
            Endpoint::Poll => {
                come_back_later(after, cursor, terms, cors, out);
            }
            Endpoint::WebSocket => {
                if let Some(accept) = accept {
                    accept.write_head(out);
                }
                let format = if wish.binary {
                    Format::WebSocketBinary
                } else {
                    Format::WebSocketText
                };
                self.encoder.reconnect(format, after, cursor, out);
                close(code::TRY_LATER, "come back later", out);
                self.connections[slot].closing = true;
            }
            _ => {
                let streaming = self.stream_head(endpoint, terms, cors, out);
                let format = endpoint.format(streaming == Streaming::Chunked);
                self.encoder.reconnect(format, after, cursor, out);
                if streaming == Streaming::Chunked {
                    last_chunk(out);
                } else {
                    self.connections[slot].closing = true;
                }
            }
        }
        Ok(())
    }

    fn retry_after(&self) -> u64 {
        if self.draining {
            let spread = self.millis(self.settings.config.shutdown.spread);
            return 500 + chance(spread + 1);
        }
        retry_after(self.settings.config.held.retry)
    }

    fn stream_head(&self, endpoint: Endpoint, terms: Terms, cors: &Cors, out: &mut Vec<u8>) -> Streaming {
        let kind = match endpoint {
            Endpoint::Sse => "text/event-stream",
            Endpoint::Stream => "application/x-ndjson",
            _ => "application/json",
        };
        let terms = if terms.version == crate::http::Version::Http10 {
            terms.closing()
        } else {
            terms
        };
        cors.write(Head::new(out, terms, 200))
            .header("Content-Type", kind)
            // no-transform: a proxy that compresses would hold back what it has until there is more.
            .header("Cache-Control", "no-cache, no-store, no-transform")
            .header("X-Accel-Buffering", "no")
            .stream()
    }

    /// When a held request ends, in the shard's milliseconds.
    fn ends(
        &self,
        endpoint: Endpoint,
        parameters: &Parameters<'_>,
        gateway: Option<Gateway>,
    ) -> Result<u64, Refused> {
        let held = &self.settings.config.held;
        let terms = gateway.map(|gateway| gateway.terms(held));
        let lifetime = match endpoint {
            Endpoint::Poll => {
                let most = terms.map_or(held.poll_hold, |terms| terms.hold.min(held.poll_hold));
                let most = self.millis(most);
                let wish = api::number(parameters, "wait_ms")?.unwrap_or(most);
                return Ok(self.now + wish.min(most));
            }
            Endpoint::Sse => held.sse_lifetime,
            Endpoint::Stream => held.stream_lifetime,
            _ => held.ws_lifetime,
        };
        let lifetimes = [lifetime, terms.map(|terms| terms.lifetime)];
        let lifetime = lifetimes.into_iter().flatten().min();
        Ok(lifetime.map_or(u64::MAX, |lifetime| self.now + jittered(lifetime)))
    }

    /// A member's name: the grant's user, or one made up for the life of the connection.
    fn membership(&mut self, slot: usize, wish: &Wish, grant: &Grant) -> Option<Box<Membership>> {
        wish.is_member()
            .then(|| self.new_membership(slot, grant, wish.session.as_deref(), wish.info.clone()))
    }

    pub(super) fn new_membership(
        &mut self,
        slot: usize,
        grant: &Grant,
        session: Option<&str>,
        info: Option<bytes::Bytes>,
    ) -> Box<Membership> {
        let user = grant.user.clone().unwrap_or_else(|| match session {
            // Everybody sees the name: it must not tell the session, under which others could come in its place.
            Some(session) => format!("anonymous-{:016x}", self.shared.secret_hash(&session)).into(),
            None => {
                let generation = self.connections[slot].generation;
                format!(
                    "anonymous-{:x}-{:x}-{:x}",
                    self.shared.started, self.id, generation
                )
                .into()
            }
        });
        Box::new(Membership { user, info })
    }

    /// Those of a reader's channels that are among these.
    fn channels_of<'w>(
        &self,
        reader: cometserver_core::fanout::ReaderId,
        among: impl Iterator<Item = &'w Listening>,
    ) -> Vec<cometserver_core::ChannelId> {
        let names: HashSet<_> = among.map(|channel| channel.name.as_bytes()).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let channels = self.fanout.channels(reader);
        let channels = channels.filter(|channel| names.contains(channel.name.as_bytes()));
        channels.map(|channel| channel.id).collect()
    }

    pub(super) fn join(&mut self, slot: usize, channel: cometserver_core::ChannelId) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        if subscriber.joined.contains(&channel) {
            return;
        }
        let Some(member) = &subscriber.member else { return };
        self.hub
            .join(channel, &member.user, member.info.clone(), self.wall);
        subscriber.joined.push(channel);
    }

    /// Takes the place of what the same session held, if anything, and ends that if asked to.
    fn supersede(&mut self, slot: usize, held_as: u64, end: bool) {
        let id = self.id_of(slot);
        let older = lock(&self.shared.sessions).insert(held_as, id);
        if let Some(older) = older.filter(|older| end && *older != id) {
            self.tell_superseded(older);
        }
    }

    fn tell_superseded(&mut self, held: ConnectionId) {
        if held.shard == self.id {
            self.superseded(held);
        } else {
            self.shared.mailboxes[held.shard as usize].send(Mail::Superseded(held));
        }
    }

    pub(super) fn superseded(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_of(id) else { return };
        match self.connections[slot].subscriber().map(|held| held.format) {
            None => {}
            Some(Format::Poll) => self.answer_poll(slot, &[]),
            Some(_) => {
                let after = self.retry_after();
                self.end(slot, after, code::RESTART, "superseded or released");
            }
        }
    }

    /// What every stream opens with, behind its head: its cursor.
    pub(super) fn write_opening(&mut self, slot: usize, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (format, reader) = (subscriber.format, subscriber.reader);
        // What comes first is not covered by a cursor yet: that follows it.
        let opened = subscriber.unopened.is_none();
        let cursor = self.hub.cursor(self.fanout.position(reader));
        match format {
            Format::Poll => {}
            Format::SseChunked | Format::SsePlain => {
                let mut block = Vec::with_capacity(64);
                block.extend_from_slice(b"retry: ");
                native::json_number(retry_after(self.settings.config.held.retry), &mut block);
                if opened {
                    block.extend_from_slice(b"\nid: ");
                    cursor.write(&mut block);
                }
                block.extend_from_slice(b"\n\n");
                crate::wire::frame(format, &block, out);
            }
            _ if opened => self.encoder.heartbeat(format, cursor, out),
            _ => {}
        }
    }

    /// The head and the opening are sent: now the reader gets what it starts with.
    pub(super) fn begin_reading(&mut self, slot: usize) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let is_socket = subscriber.socket.is_some();
        if subscriber.format == Format::Poll {
            self.read_poll(slot);
            return;
        }
        self.schedule(slot);
        self.read_on(slot);
        if is_socket && let Some(connection) = self.connections.get_mut(slot) {
            let mut early = std::mem::take(&mut connection.input);
            if !early.is_empty() {
                self.socket_came(slot, &mut early);
            }
        }
    }

    /// When something has to be done about a held request: its end, its grant's end, a heartbeat.
    pub(super) fn schedule(&mut self, slot: usize) {
        let heartbeat = self.millis(self.settings.config.held.heartbeat);
        let (now, wall) = (self.now, self.wall);
        let (stuck, blocked) = (self.connections[slot].stuck, self.connections[slot].is_blocked());
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let quiet = quiet_time(subscriber, heartbeat);
        let mut at = subscriber.ends;
        if let Some(expires) = subscriber.grant.expires {
            at = at.min(now + expires.saturating_sub(wall));
        }
        if subscriber.reads_from > now {
            at = at.min(subscriber.reads_from);
        }
        if subscriber.format != Format::Poll {
            // Nothing more can be sent to one that is blocked: it is looked at now and then.
            let last = if blocked { now } else { subscriber.sent };
            at = at.min(last + quiet);
        }
        if stuck != 0 {
            at = at.min(stuck + super::STUCK);
        }
        self.set_deadline(slot, at.max(now + 1));
    }

    /// A held request's deadline has come: which of them?
    pub(super) fn tend(&mut self, slot: usize) {
        let heartbeat = self.millis(self.settings.config.held.heartbeat);
        let (now, wall, blocked) = (self.now, self.wall, self.connections[slot].is_blocked());
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if format == Format::Poll {
            if subscriber.reads_from != 0
                && subscriber.reads_from <= now
                && !subscriber.grant.is_expired(wall)
            {
                self.read_poll(slot);
            } else if subscriber.ends <= now || subscriber.grant.is_expired(wall) {
                self.answer_poll(slot, &[]);
            } else {
                self.schedule(slot);
            }
            return;
        }
        if subscriber.grant.is_expired(wall) {
            self.metrics().drops.of(DropReason::Expired).add(1);
            self.end(slot, 0, code::POLICY, "token expired");
            return;
        }
        if subscriber.ends <= now {
            let after = chance(1000);
            self.end(slot, after, code::RESTART, "time is up");
            return;
        }
        let silent = subscriber
            .socket
            .as_ref()
            .map_or(0, |socket| now.saturating_sub(socket.heard));
        if silent > heartbeat * SILENT_HEARTBEATS {
            self.drop_for(slot, DropReason::Timeout);
            return;
        }
        let is_due = now >= subscriber.sent + quiet_time(subscriber, heartbeat);
        // A client that only listens says nothing unless it is pinged, however much it is sent.
        let is_silent = silent >= heartbeat;
        if is_due {
            subscriber.preamble = 0;
        }
        if is_due && blocked {
            // Who takes nothing gets nothing on top; it is looked at again after as long.
            subscriber.sent = now;
        }
        if (is_due || is_silent) && !blocked {
            let is_socket = subscriber.socket.is_some();
            let mut out = Vec::new();
            if is_due {
                subscriber.sent = now;
            }
            // A reader that is behind gets its cursor with what it reads.
            if is_due && self.fanout.is_live(reader) && !self.fanout.owes(reader) {
                let cursor = self.hub.cursor(self.fanout.position(reader));
                self.encoder.heartbeat(format, cursor, &mut out);
            }
            if is_socket {
                crate::websocket::frame(crate::websocket::Opcode::Ping, b"", &mut out);
            }
            if !blocked && !out.is_empty() && !self.send(slot, &out) {
                return;
            }
        }
        self.schedule(slot);
    }

    /// A page for a reader that is behind.
    pub(super) fn read_on(&mut self, slot: usize) {
        let blocked = self.connections[slot].is_blocked();
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if blocked || subscriber.fetching || self.fanout.is_live(reader) {
            return;
        }
        if format == Format::Poll {
            self.read_poll(slot);
            return;
        }
        let mut steps = std::mem::take(&mut self.steps);
        let progress = self.fanout.next(reader, PAGE, &mut steps);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let transport = self.connections[slot].counted;
        let delivered = steps
            .iter()
            .filter(|step| matches!(step, Step::Publication(..)))
            .count();
        for step in steps.drain(..) {
            self.write_step(slot, format, step, &mut out);
        }
        self.steps = steps;
        self.metrics().deliveries.of(transport).add(delivered as u64);
        self.open_late(slot, &mut out);
        let there = out.is_empty() || self.send(slot, &out);
        self.out = out;
        if !there {
            return;
        }
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.sent = self.now;
        }
        match progress {
            Progress::Live if self.connections[slot].is_blocked() => {}
            Progress::Live => self.connections[slot].stuck = 0,
            Progress::More => self.read_on_soon(slot),
            Progress::Cold(fetch) => self.fetch(slot, fetch),
        }
        self.go_on(slot);
    }

    /// The cursor that an opening could not give yet: now nothing is owed any more that it would hide.
    fn open_late(&mut self, slot: usize, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if subscriber.unopened.is_some() && !self.fanout.owes(reader) {
            subscriber.unopened = None;
            let cursor = self.hub.cursor(self.fanout.position(reader));
            self.encoder.heartbeat(format, cursor, out);
        }
    }

    fn fetch(&mut self, slot: usize, fetch: cometserver_core::broker::Fetch) {
        let id = self.id_of(slot);
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.fetching = true;
        }
        let shared = self.shared.clone();
        self.hub.fetch(
            fetch,
            Box::new(move |page| shared.mailboxes[id.shard as usize].send(Mail::Fetched(id, page))),
        );
    }

    pub(super) fn fetched(&mut self, id: ConnectionId, page: Result<Page, BrokerError>) {
        let Some(slot) = self.slot_of(id) else { return };
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        subscriber.fetching = false;
        let reader = subscriber.reader;
        match page {
            Ok(page) => {
                self.fanout.fetched(reader, page);
                self.read_on_soon(slot);
            }
            Err(error) => {
                tracing::warn!(%error, "history could not be read");
                self.send_away(slot);
            }
        }
    }

    /// Writes one thing for a reader that was behind.
    fn write_step(&mut self, slot: usize, format: Format, step: Step, out: &mut Vec<u8>) {
        match step {
            Step::Publication(publication, place, at) => {
                let cursor = at.map(|at| self.hub.cursor(at));
                self.encoder.publication(format, &publication, place, cursor, out);
            }
            Step::Gap(target, presence, at) => {
                self.metrics().gaps.add(1);
                let mut open = b"{\"type\":\"gap\",".to_vec();
                target_member(&target, &mut open);
                if presence {
                    open.extend_from_slice(b",\"presence\":true");
                }
                let cursor = at.map(|at| self.hub.cursor(at));
                self.encoder.object(format, &open, cursor, out);
            }
            Step::Subscribed(target) => self.write_subscribed(slot, format, &target, out),
        }
    }

    /// Reads for a poll until there is something, or nothing left: then it is held.
    fn read_poll(&mut self, slot: usize) {
        let now = self.now;
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, limit, is_early) = (subscriber.reader, subscriber.limit, subscriber.reads_from > now);
        if is_early {
            self.schedule(slot);
            return;
        }
        subscriber.reads_from = 0;
        let mut steps = Vec::new();
        loop {
            let items = limit.saturating_sub(steps.len()).max(1);
            let progress = self.fanout.next(reader, ReadLimits { items, ..PAGE }, &mut steps);
            let owes = self.fanout.owes(reader);
            match progress {
                Progress::Live => break,
                // A page of what it has missed is an answer; with its cursor it asks for the next.
                Progress::More if !owes && !steps.is_empty() => break,
                // Its present values belong to no cursor: all of them, or the news which are missing.
                Progress::More if owes && steps.len() >= MOST_OWED => {
                    let missing = self.fanout.give_up(reader);
                    steps.extend(missing.into_iter().map(|target| Step::Gap(target, false, None)));
                    break;
                }
                Progress::More if owes => {}
                // A pattern that matches nothing for long: others have their turn first.
                Progress::More => {
                    self.read_on_soon(slot);
                    return;
                }
                Progress::Cold(_) if !steps.is_empty() && !owes => break,
                Progress::Cold(fetch) => {
                    self.fetch(slot, fetch);
                    return;
                }
            }
        }
        let ends = self.connections[slot]
            .subscriber()
            .map_or(0, |subscriber| subscriber.ends);
        // What was answered to its publisher before this poll came must be in it, even if this shard has yet to tell of it.
        let is_late = self.hub.now().sequence() != self.fanout.seen().sequence();
        if steps.is_empty() && (ends > now || is_late) {
            self.schedule(slot);
            return;
        }
        let mut items = Vec::new();
        let delivered = steps
            .iter()
            .filter(|step| matches!(step, Step::Publication(..)))
            .count();
        self.metrics()
            .deliveries
            .of(Transport::Poll)
            .add(delivered as u64);
        for step in steps {
            self.write_step(slot, Format::Poll, step, &mut items);
        }
        self.answer_poll(slot, &items);
    }

    /// A poll was told of something in a round: it is answered with its share.
    pub(super) fn answer_poll_from_round(&mut self, slot: usize, share: &Share, before: Position) {
        let limit = self.connections[slot]
            .subscriber()
            .map_or(0, |subscriber| subscriber.limit);
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, terms, plain) = (
            subscriber.reader,
            subscriber.terms,
            subscriber.cors == Cors::default() && subscriber.retry.is_none(),
        );
        let count = self.frames.count(share);
        if count > limit {
            // More than it wants: it reads for itself, up to its limit.
            self.fanout.stall(reader, before);
            self.read_poll(slot);
            return;
        }
        self.delivered[Transport::Poll as usize] += count as u64;
        let position = self.fanout.position(reader);
        let made =
            self.answer.key.as_ref().is_some_and(|(of, at, on)| {
                self.frames.is_same(of, share) && *at == position && *on == terms
            });
        if !plain || !made {
            let mut items = Vec::new();
            for slice in self.frames.slices(Format::Poll, share) {
                items.extend_from_slice(slice);
            }
            let mut bytes = std::mem::take(&mut self.answer.bytes);
            bytes.clear();
            self.poll_answer(slot, &items, position, &mut bytes);
            self.answer.bytes = bytes;
            self.answer.key = plain.then_some((*share, position, terms));
        }
        self.release_reader(slot);
        self.connections[slot].state = State::Http;
        let bytes = std::mem::take(&mut self.answer.bytes);
        self.send_answer(slot, &bytes, terms);
        self.answer.bytes = bytes;
    }

    fn poll_answer(&mut self, slot: usize, items: &[u8], position: Position, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let cursor = self.hub.cursor(position);
        let mut body = Vec::with_capacity(items.len() + 96);
        body.extend_from_slice(b"{\"publications\":[");
        body.extend_from_slice(items.strip_suffix(b",").unwrap_or(items));
        body.push(b']');
        if let Some(after) = subscriber.retry {
            body.extend_from_slice(b",\"retry_ms\":");
            native::json_number(after, &mut body);
        }
        body.extend_from_slice(b",\"cursor\":\"");
        cursor.write(&mut body);
        body.extend_from_slice(b"\"}");
        let head = subscriber.cors.write(Head::new(out, subscriber.terms, 200));
        head.header("Content-Type", "application/json")
            // May be kept, must be asked about: an interval poll then costs a 304.
            .header("Cache-Control", "private, no-cache")
            .header("ETag", entity_tag(cursor))
            .body(&body);
    }

    /// Answers a poll; without anything to show and nothing new since its `If-None-Match` with 304.
    pub(super) fn answer_poll(&mut self, slot: usize, items: &[u8]) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, terms) = (subscriber.reader, subscriber.terms);
        let conditional = subscriber.conditional;
        let position = self.fanout.position(reader);
        let mut out = Vec::new();
        if items.is_empty() && conditional {
            let cors = subscriber.cors.clone();
            // The next one may start here: on a quiet channel an old cursor would one day be too old.
            cors.write(Head::new(&mut out, terms, 304))
                .header("Cache-Control", "private, no-cache")
                .header("ETag", entity_tag(self.hub.cursor(position)))
                .no_body();
        } else {
            self.poll_answer(slot, items, position, &mut out);
        }
        self.release_reader(slot);
        self.connections[slot].state = State::Http;
        self.send_answer(slot, &out, terms);
    }

    /// The server goes away, or cannot go on: the client is told when to come back, and the request ends.
    pub(super) fn send_away(&mut self, slot: usize) {
        let after = self.retry_after();
        if self.draining {
            self.metrics().drops.of(DropReason::Drain).add(1);
        }
        self.end(slot, after, code::RESTART, "come back later");
    }

    fn send_poll_away(&mut self, slot: usize, after: u64) {
        let draining = self.draining;
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let terms = match draining {
            true => subscriber.terms.closing(),
            false => subscriber.terms,
        };
        let (reader, cors) = (subscriber.reader, subscriber.cors.clone());
        let cursor = self.hub.cursor(self.fanout.position(reader));
        let mut out = Vec::new();
        come_back_later(after, cursor, terms, &cors, &mut out);
        self.release_reader(slot);
        self.connections[slot].state = State::Http;
        self.send_answer(slot, &out, terms);
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
        let cursor = unopened.unwrap_or_else(|| self.hub.cursor(self.fanout.position(reader)));
        let mut out = Vec::new();
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

    /// Other namespaces hold: ends what listens to a channel that it may not listen to any more, or sees members that it
    /// may not see. Patterns show what is public now, and no more, by themselves.
    pub(super) fn end_disallowed(&mut self) {
        let slots: Vec<usize> = self.connections.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let State::Reading(subscriber) = &self.connections[slot].state else {
                continue;
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
        let State::Reading(subscriber) = std::mem::replace(&mut connection.state, State::Http) else {
            return;
        };
        connection.share = Share::default();
        if let Some(member) = &subscriber.member {
            for channel in &subscriber.joined {
                self.hub.leave(*channel, &member.user, self.wall);
            }
        }
        self.release_hold(subscriber.route, subscriber.gateway);
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

/// How long a stream may be silent.
fn quiet_time(subscriber: &Subscriber, heartbeat: u64) -> u64 {
    match subscriber.preamble {
        0 => heartbeat,
        preamble => heartbeat.min(u64::from(preamble)),
    }
}

/// A cursor as the value of `ETag`.
fn entity_tag(cursor: Cursor) -> Vec<u8> {
    let mut tag = b"\"".to_vec();
    cursor.write(&mut tag);
    tag.push(b'"');
    tag
}

pub(super) fn too_many(channels: usize, patterns: usize) -> Refused {
    Refused::new(
        429,
        "limit_reached",
        format!(
            "one connection may have {channels} channels (limits.subscriptions) and {patterns} patterns (limits.patterns)"
        ),
    )
}

/// The answer to a poll for which there is no place.
fn come_back_later(after: u64, cursor: Cursor, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
    let mut body = b"{\"publications\":[],\"retry_ms\":".to_vec();
    native::json_number(after, &mut body);
    body.extend_from_slice(b",\"cursor\":\"");
    cursor.write(&mut body);
    body.extend_from_slice(b"\"}");
    let head = cors.write(Head::new(out, terms, 200));
    head.header("Content-Type", "application/json")
        .header("Cache-Control", "no-store")
        .body(&body);
}

/// Which channel or pattern, as a member of an object.
pub(super) fn target_member(target: &Target, out: &mut Vec<u8>) {
    match target {
        Target::Channel(channel) => native::channel_member(channel.name.as_bytes(), out),
        Target::Pattern(pattern) => {
            out.extend_from_slice(b"\"pattern\":");
            native::json_string(&String::from_utf8_lossy(pattern.as_bytes()), out);
        }
    }
}

/// The gateway through which a request comes, if it says so. One that is added behind what a client wrote counts.
fn gateway(parameters: &Parameters<'_>) -> Result<Option<Gateway>, Refused> {
    let named = parameters.iter().rev().find(|(name, _)| **name == *b"route");
    let unknown = || Refused::bad("`route` is `bridge`, `cgi` or `drop-in`");
    match named.map(|(_, word)| std::str::from_utf8(word)) {
        None => Ok(None),
        Some(word) => word
            .ok()
            .and_then(Gateway::from_word)
            .map(Some)
            .ok_or_else(unknown),
    }
}

fn route(endpoint: Endpoint) -> Option<Route> {
    match endpoint {
        Endpoint::Poll => Some(Route::Poll),
        Endpoint::Sse => Some(Route::Sse),
        Endpoint::Stream => Some(Route::Stream),
        Endpoint::WebSocket => Some(Route::WebSocket),
        _ => None,
    }
}

fn transport(endpoint: Endpoint) -> Transport {
    match endpoint {
        Endpoint::Poll => Transport::Poll,
        Endpoint::Sse => Transport::Sse,
        Endpoint::Stream => Transport::Stream,
        _ => Transport::WebSocket,
    }
}
