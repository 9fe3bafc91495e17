//! Requests that are held: long polls, streams, WebSockets. How they begin, what they get, how they end.

use cometserver_core::Position;
use cometserver_core::fanout::{Begin, ReaderId, Wants};
use cometserver_core::grant::Grant;
use cometserver_core::hub::ListenError;
use cometserver_core::quota::Payer;
use std::collections::VecDeque;
use std::time::Duration;

use super::Shard;
use super::polls::come_back_later;
use super::requests::Parameters;
use super::wish::Wish;
use crate::api::{self, Refused};
use crate::budget::{Gateway, Place};
use crate::connection::{Membership, State, Subscriber, Unopened, WebSocketState};
use crate::endpoint::Endpoint;
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::response::{Head, Streaming, Terms, last_chunk};
use crate::listener::Role;
use crate::metrics::{DropReason, Recovery, Transport};
use crate::shared::{Route, chance, jittered, lock, retry_after};
use crate::websocket::{Decoder, close, code, handshake};
use crate::wire::Format;

/// The bounds and the default of a poll's `limit`.
const POLL_LIMIT: (u64, u64) = (256, 1000);

/// The longest heartbeat that a client is told: timers of browsers end at 24 days, and it waits for several.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(86_400);

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
        let mut wish = self.wish(endpoint, request, parameters)?;
        let accept = match endpoint {
            Endpoint::WebSocket => Some(self.check_handshake(request)?),
            _ => None,
        };
        self.authorize(&wish, &grant)?;
        wish.beginning.begin = self.begin_of_wish(&wish, &grant)?;
        let payer = self.payer(slot, &grant);
        for channel in &wish.channels {
            self.shared.static_files.follow(&channel.name, payer);
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
        let route = route(endpoint).filter(|_| self.role(slot) == Role::Public && !immediate);
        let mut route = route.map(|route| (route, payer));
        // A worker of the web host waits, whoever's it is.
        let mut place = gateway.filter(|_| !immediate).map(|gateway| Place {
            gateway,
            is_proved: self.is_gateway(slot, request),
        });
        let mut retry = None;
        if self.draining || self.connections[slot].refused().is_some() {
            let after = self.retry_after();
            return self.turn_away(slot, endpoint, &wish, accept, after, terms, cors, out);
        }
        if let Err(after) = self.take_places(route, place) {
            if endpoint != Endpoint::Poll {
                return self.turn_away(slot, endpoint, &wish, accept, after, terms, cors, out);
            }
            // It is here already: it takes along what there is, and comes back later for the rest.
            (route, place, ends, retry) = (None, None, self.now, Some(after));
        }
        let min_hold = match place.filter(|_| endpoint == Endpoint::Poll) {
            Some(place) => self.millis(place.gateway.terms(&self.settings.config.held).min_hold),
            None => 0,
        };
        let format = if wish.binary {
            Format::WebSocketBinary
        } else {
            endpoint.format(terms.version == crate::http::Version::Http11)
        };
        let reader = self.fanout.open(slot as u32, wish.session.as_deref());
        self.fanout.charge(reader, payer);
        let member = self.membership(slot, &wish, &grant);
        if let Err(refused) = self.begin_reader(reader, &wish, &grant, (payer, member.as_deref())) {
            self.fanout.close(reader, self.wall);
            self.release_hold(route, place);
            if endpoint == Endpoint::Sse {
                // A browser gives up for ever after anything but a stream, and the server may have room again soon.
                refused.count(self.metrics());
                let after = self.retry_after();
                return self.turn_away(slot, endpoint, &wish, accept, after, terms, cors, out);
            }
            return Err(refused);
        }
        if min_hold > 0 {
            let at = self.fanout.position(reader);
            self.fanout.stall(reader, at);
        }
        if let Begin::At(start) = wish.beginning.begin {
            let lost = start.lost_memory || start.lost_durable;
            let recovery = if lost { Recovery::Gap } else { Recovery::Complete };
            self.metrics().recoveries.of(recovery).add(1);
        }
        if let Some(accept) = &accept {
            accept.write_head(out);
        } else if endpoint != Endpoint::Poll {
            self.stream_head(endpoint, terms, cors, out);
        }
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
            place,
            grant,
            terms,
            cors: cors.clone(),
            joined: match member {
                Some(_) => joined,
                None => Vec::new(),
            },
            member,
            session: wish.session,
            held_as,
            ends,
            sent: self.now,
            preamble: wish.preamble,
            heartbeat: wish.heartbeat,
            unopened: None,
            limit: usize::try_from(limit).unwrap_or(1),
            reads_from: if min_hold > 0 {
                ends.min(self.now + min_hold)
            } else {
                0
            },
            retry,
            conditional: wish.beginning.is_conditional && retry.is_none(),
            answering: false,
            gathered: Vec::new(),
            fetching: 0,
            fetch: None,
            queued: false,
            // Streams only once they have been renewed: not every path lets that through.
            heard: accept.map_or(0, |_| self.now.max(1)),
            untaken: (0, 0),
            socket: accept.map(|_| {
                Box::new(WebSocketState {
                    decoder: Decoder::new(),
                    replies: VecDeque::new(),
                    watched,
                    patterns,
                    said: VecDeque::new(),
                    said_bytes: 0,
                    listing: None,
                    waiting: Vec::new(),
                    stalled: false,
                    asks: false,
                })
            }),
        };
        let mut subscriber = subscriber;
        if self.fanout.owes(reader) {
            let own = wish.beginning.cursor;
            subscriber.unopened = Some(Unopened {
                cursor: own.unwrap_or_else(|| self.hub.cursor(self.fanout.position(reader))),
                is_known: own.is_some(),
            });
        }
        self.settings.access.opened(&subscriber.grant);
        self.connections[slot].state = State::Reading(Box::new(subscriber));
        self.count_as(slot, transport(endpoint));
        if let Some((held_as, holder)) = held_as {
            let id = self.id_of(slot);
            lock(&self.shared.holders).entry(holder).or_default().push(id);
            // Of two streams that are not in anybody's way none has to go.
            self.supersede(slot, held_as, endpoint == Endpoint::Poll || place.is_some());
        }
        Ok(())
    }

    /// Subscribes a reader to all that was wished for, begins, and makes it a member where that was wished for.
    fn begin_reader(
        &mut self,
        reader: ReaderId,
        wish: &Wish,
        grant: &Grant,
        (payer, member): (Payer, Option<&Membership>),
    ) -> Result<(), Refused> {
        self.subscribe_all(reader, wish, grant)?;
        self.fanout.begin(reader, wish.beginning.begin, wish.retained);
        let joined = self.channels_of(reader, wish.channels.iter().filter(|channel| channel.join));
        Ok(self.join_all(member, payer, &joined)?)
    }

    fn subscribe_all(&mut self, reader: ReaderId, wish: &Wish, grant: &Grant) -> Result<(), ListenError> {
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

    /// Takes the places that a held request needs; or none, and says when to come back, in milliseconds.
    fn take_places(&self, route: Option<(Route, Payer)>, place: Option<Place>) -> Result<(), u64> {
        if !self.take_hold(route) {
            return Err(self.retry_after());
        }
        if let Some(full) = place.filter(|place| !self.take_gateway(*place)) {
            self.release_hold(route, None);
            return Err(self.gateway_retry(full));
        }
        Ok(())
    }

    fn take_hold(&self, route: Option<(Route, Payer)>) -> bool {
        let Some((route, payer)) = route else {
            return true;
        };
        let held = &self.settings.config.held;
        let max = match route {
            Route::Poll => held.poll_max,
            Route::Sse => held.sse_max,
            Route::Stream => held.stream_max,
            Route::WebSocket => held.ws_max,
        };
        let taken = self.shared.hold(route, payer, max);
        if taken {
            self.metrics().holds.add(1);
        }
        taken
    }

    pub(super) fn release_hold(&self, route: Option<(Route, Payer)>, place: Option<Place>) {
        if let Some((route, payer)) = route {
            self.shared.release(route, payer);
            self.metrics().holds.sub(1);
        }
        if let Some(place) = place {
            self.shared.gateways.release(place);
        }
    }

    fn take_gateway(&self, place: Place) -> bool {
        self.shared.gateways.take(place, &self.settings.config.held)
    }

    fn gateway_retry(&self, place: Place) -> u64 {
        let retry = self.settings.config.held.retry;
        self.shared.gateways.retry_after(place, retry, self.wall)
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
        let cursor = wish.beginning.cursor.unwrap_or_else(|| {
            let position = match wish.beginning.begin {
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

    pub(super) fn retry_after(&self) -> u64 {
        if self.draining {
            let spread = self.millis(self.settings.config.shutdown.spread);
            return 500 + chance(spread + 1);
        }
        retry_after(self.settings.config.held.retry)
    }

    fn stream_head(&self, endpoint: Endpoint, terms: Terms, cors: &Cors, out: &mut Vec<u8>) -> Streaming {
        let kind = match endpoint {
            // Some readers take what does not say so for Latin-1.
            Endpoint::Sse => "text/event-stream; charset=utf-8",
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

    /// What every stream opens with, behind its head: its cursor.
    pub(super) fn write_opening(&mut self, slot: usize, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (format, reader) = (subscriber.format, subscriber.reader);
        let (unopened, wish) = (subscriber.unopened, subscriber.heartbeat);
        let heartbeat = self.told_heartbeat(wish);
        // What comes first is not covered by a cursor yet: that follows it. Until then a client that came with one keeps it.
        let cursor = match unopened {
            None => Some(self.hub.cursor(self.fanout.position(reader))),
            Some(own) => own.known().filter(|_| format.is_events()),
        };
        if format != Format::Poll && (cursor.is_some() || format.is_events()) {
            let retry = retry_after(self.settings.config.held.retry);
            self.encoder.opening(format, heartbeat, retry, cursor, out);
        }
    }

    /// How often a heartbeat comes, in milliseconds, as clients are told; `wish` is what this one asked for.
    pub(super) fn told_heartbeat(&self, wish: u32) -> u64 {
        let longest = self.millis(self.settings.config.held.heartbeat.min(LONGEST_HEARTBEAT));
        beat(wish, longest)
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
        // An answer that has begun is sent to its end, however long the client takes.
        let mut at = if subscriber.answering {
            u64::MAX
        } else {
            subscriber.ends
        };
        if subscriber.fetching != 0 {
            at = at.min(subscriber.fetching);
        }
        if let Some(expires) = subscriber.grant.expires
            && !subscriber.answering
        {
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
        if let Some(socket) = &subscriber.socket {
            let waiting = socket.waiting.iter().map(|waiting| waiting.until);
            at = at.min(waiting.min().unwrap_or(u64::MAX));
        }
        if stuck != 0 {
            at = at.min(stuck + self.patience());
        }
        self.set_deadline(slot, at.max(now + 1));
    }

    /// A held request's deadline has come: which of them?
    pub(super) fn tend(&mut self, slot: usize) {
        let id = self.id_of(slot);
        self.give_up(slot);
        if self.slot_of(id).is_none() {
            return;
        }
        let heartbeat = self.millis(self.settings.config.held.heartbeat);
        let patience = self.patience();
        let (now, wall, blocked) = (self.now, self.wall, self.connections[slot].is_blocked());
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if subscriber.fetching != 0 && subscriber.fetching <= now {
            tracing::warn!("the store has not answered a reader in time");
            (subscriber.fetching, subscriber.fetch) = (0, None);
            self.leave_unread(slot);
            return;
        }
        if format == Format::Poll && (subscriber.fetching != 0 || subscriber.answering) {
            // Its answer is on the way.
            let until = if subscriber.fetching == 0 {
                u64::MAX
            } else {
                subscriber.fetching
            };
            self.set_deadline(slot, until);
            self.watch_blocked(slot);
            return;
        }
        if format == Format::Poll {
            if subscriber.reads_from != 0
                && subscriber.reads_from <= now
                && !subscriber.grant.is_expired(wall)
            {
                self.read_poll(slot);
            } else if subscriber.ends <= now || subscriber.grant.is_expired(wall) {
                self.answer_early(slot);
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
        let silent = match subscriber.heard {
            0 => 0,
            heard => now.saturating_sub(heard),
        };
        if silent > patience {
            if subscriber.socket.is_some() || blocked {
                self.drop_for(slot, DropReason::Timeout);
                return;
            }
            // Perhaps only what should have renewed it was lost on the way.
            self.metrics().drops.of(DropReason::Timeout).add(1);
            self.end(slot, chance(1000), code::RESTART, "not renewed any more");
            return;
        }
        let is_due = now >= subscriber.sent + quiet_time(subscriber, heartbeat);
        if is_due && !blocked && self.takes_nothing(slot) {
            self.drop_for(slot, DropReason::Slow);
            return;
        }
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        // A client that only listens says nothing unless it is asked, however much it is sent: a WebSocket by a ping,
        // who renews a stream by a heartbeat.
        let is_silent = silent >= beat(subscriber.heartbeat, heartbeat);
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
            let is_told = is_due || !is_socket;
            if is_told {
                subscriber.sent = now;
            }
            // A reader that is behind gets its cursor with what it reads.
            if is_told && self.fanout.is_live(reader) && !self.fanout.owes(reader) {
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
}

/// How long a stream may be silent, in milliseconds; `longest` is the server's heartbeat.
fn quiet_time(subscriber: &Subscriber, longest: u64) -> u64 {
    let heartbeat = beat(subscriber.heartbeat, longest);
    beat(subscriber.preamble, heartbeat)
}

/// A time that was wished for, if any, or the longest that there is.
fn beat(wish: u32, longest: u64) -> u64 {
    match wish {
        0 => longest,
        wish => longest.min(u64::from(wish)),
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
