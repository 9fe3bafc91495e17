//! Reading from a connection, and answering requests.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use cometserver_core::grant::Grant;
use cometserver_core::hub::{Completion, PublishError, Published, Receipt};
use cometserver_core::publication::Message;

use super::Shard;
use crate::access;
use crate::api::{self, Answer, Refused};
use crate::connection::{Awaits, Sent, State};
use crate::endpoint::{Endpoint, NoEndpoint};
use crate::http::cors::{self, Cors};
use crate::http::response::{CONTINUE, Head, Terms};
use crate::http::{self, Limits, Parse, Request, query};
use crate::listener::{DoorAddress, Role};
use crate::metrics::{Door, DropReason, Refusal, Transport};
use crate::seed::{self, Detect};
use crate::shared::{ConnectionId, Mail};

/// A publish request in JSON wraps its payload: base64 and escapes may make it so much longer, and some room around it.
const WRAPPING: usize = 2;
const ROOM: usize = 64 << 10;

/// So many full buffers are read from a connection in one turn: who sends faster than we read must not keep us.
const READS: usize = 8;

/// So many bytes of answers are collected before a client's further requests wait for it to take them.
pub(super) const ANSWERS: usize = 256 << 10;

/// A request's parameters, decoded.
pub(super) type Parameters<'a> = [api::Pair<'a>];

impl Shard {
    /// Something came, or the peer went.
    pub(super) fn readable(&mut self, slot: usize) {
        let mut input = std::mem::take(&mut self.input);
        self.read_all(slot, &mut input);
        self.input = input;
    }

    fn read_all(&mut self, slot: usize, input: &mut [u8]) {
        for _ in 0..READS {
            let Some(connection) = self.connections.get_mut(slot) else {
                return;
            };
            connection.readable = true;
            if connection.ended || !self.may_read(slot) {
                return;
            }
            let connection = &mut self.connections[slot];
            match connection.socket.read(input) {
                Ok(0) => {
                    connection.ended = true;
                    connection.readable = false;
                    self.peer_ended(slot);
                    return;
                }
                Ok(read) => {
                    self.bytes_received += read as u64;
                    let generation = connection.generation;
                    // Less than asked for: the next edge tells when there is more.
                    let drained = read < input.len();
                    connection.readable = !drained;
                    self.came(slot, &mut input[..read]);
                    match self.connections.get(slot) {
                        // There is an end still to be read.
                        Some(connection) if connection.generation == generation && connection.ending => {
                            continue;
                        }
                        Some(connection) if connection.generation == generation => {}
                        _ => return,
                    }
                    if drained {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.readable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.remove(slot);
                    return;
                }
            }
        }
        self.soon(slot);
    }

    /// Gives those their turn again who had more to say than fits into one.
    pub(super) fn take_up_unread(&mut self) {
        for id in std::mem::take(&mut self.unread) {
            let Some(slot) = self.slot_of(id) else { continue };
            let connection = &mut self.connections[slot];
            connection.unread = false;
            if connection.has_said() && !connection.is_blocked() {
                self.obey(slot);
                continue;
            }
            if connection.has_requests() && !connection.is_blocked() {
                let kept = std::mem::take(&mut connection.input);
                self.feed(slot, Cow::Owned(kept));
            }
            // Without requests left the rest is for the socket; the next turn, if this one ended for want of room.
            let rest = self.slot_of(id).map(|slot| &self.connections[slot]);
            if rest.is_some_and(|connection| connection.readable && !connection.has_requests()) {
                self.readable(slot);
            }
        }
    }

    /// Sees to it that what a connection has kept, or left in its socket, is used in the next turn: there will be no
    /// edge for it. Never at once, as who asks is still busy with the request before.
    pub(super) fn go_on(&mut self, slot: usize) {
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        if connection.has_requests() || connection.readable || connection.has_said() {
            self.soon(slot);
        }
    }

    /// The connection has its next turn when all others have had theirs.
    fn soon(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.connections[slot].unread, true) {
            self.unread.push(self.id_of(slot));
        }
    }

    /// A connection is not read from while an answer waits to be sent, or to be known: that bounds what it may ask for.
    fn may_read(&self, slot: usize) -> bool {
        let connection = &self.connections[slot];
        match &connection.state {
            State::Lingering => true,
            State::Publishing(_) => false,
            // What a held client sends meanwhile is kept, within bounds; a WebSocket's is used.
            State::Reading(subscriber) if subscriber.socket.is_none() => {
                connection.input.len() <= self.settings.config.limits.head
            }
            State::Reading(subscriber) => {
                !connection.is_blocked()
                    && subscriber
                        .socket
                        .as_ref()
                        .is_none_or(|socket| socket.said.is_empty())
            }
            // What is already here comes first.
            State::Http => !connection.is_blocked() && !connection.has_requests(),
            _ => !connection.is_blocked(),
        }
    }

    fn peer_ended(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        match &connection.state {
            // Half-closed after its request, as `nc` and old clients do: it still wants the answer.
            State::Publishing(_) => {}
            State::Http if connection.has_requests() => {}
            State::Fresh | State::Http | State::Seed(_) if connection.is_blocked() => {
                connection.closing = true
            }
            _ => self.remove(slot),
        }
    }

    fn came(&mut self, slot: usize, bytes: &mut [u8]) {
        let connection = &mut self.connections[slot];
        match &mut connection.state {
            State::Lingering => {}
            State::Reading(subscriber) if subscriber.socket.is_some() => self.socket_came(slot, bytes),
            // The next request of a client that does not wait for the answer to this one; or anything on a stream.
            State::Reading(subscriber) if subscriber.format == crate::wire::Format::Poll => {
                connection.input.extend_from_slice(bytes);
            }
            State::Reading(_) => {}
            _ if connection.input.is_empty() => self.feed(slot, Cow::Borrowed(bytes)),
            _ => {
                let mut whole = std::mem::take(&mut connection.input);
                whole.extend_from_slice(bytes);
                self.feed(slot, Cow::Owned(whole));
            }
        }
    }

    fn http_limits(&self) -> Limits {
        let limits = &self.settings.config.limits;
        // A batch shares the room of a few messages at the largest size; of small ones it may hold very many.
        let body = limits.message_size.saturating_mul(WRAPPING).saturating_add(ROOM);
        Limits {
            head: limits.head,
            headers: 64,
            body,
        }
    }

    /// Uses up bytes that form requests; keeps the rest, without a copy if they are a buffer already.
    fn feed(&mut self, slot: usize, bytes: Cow<'_, [u8]>) {
        if matches!(self.connections[slot].state, State::Fresh) && !self.detect(slot, &bytes) {
            self.connections[slot].input = bytes.into_owned();
            return;
        }
        if matches!(self.connections[slot].state, State::Seed(_)) {
            self.seed_came(slot, bytes);
            return;
        }
        let limits = self.http_limits();
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let mut at = 0;
        let generation = self.connections[slot].generation;
        while at < bytes.len() && out.len() < ANSWERS {
            let mut progress = std::mem::take(&mut self.connections[slot].progress);
            let parsed = http::parse(&bytes[at..], &mut progress, &limits);
            self.connections[slot].progress = progress;
            match parsed {
                Ok(Parse::Complete { request, consumed }) => {
                    at += consumed;
                    self.connections[slot].awaits = Awaits::Request;
                    self.handle(slot, &request, &mut out);
                }
                Ok(Parse::Incomplete { wants_continue, .. }) => {
                    if wants_continue {
                        out.extend_from_slice(CONTINUE);
                    }
                    self.await_rest(slot);
                    break;
                }
                Err(reject) => {
                    reject.answer(&mut out);
                    self.count_refusal(reject.code);
                    self.connections[slot].closing = true;
                }
            }
            match self.connections.get(slot) {
                Some(connection) if connection.generation == generation => {
                    if !matches!(connection.state, State::Http) || connection.closing {
                        break;
                    }
                }
                _ => {
                    self.out = out;
                    return;
                }
            }
        }
        let connection = &mut self.connections[slot];
        if at < bytes.len() && !connection.closing {
            // A WebSocket's first frames may come right behind its handshake.
            connection.input = match bytes {
                Cow::Borrowed(bytes) => bytes[at..].to_vec(),
                Cow::Owned(mut bytes) => {
                    bytes.drain(..at);
                    bytes
                }
            };
        } else if matches!(connection.state, State::Http) {
            connection.closing |= connection.ended;
            self.await_request(slot);
        }
        if !self.connections[slot].closing {
            self.write_opening(slot, &mut out);
        }
        let there = out.is_empty() || self.send(slot, &out);
        self.out = out;
        if !there {
            return;
        }
        if self.connections[slot].closing {
            self.close_if_sent(slot);
        } else if matches!(self.connections[slot].state, State::Reading(_)) {
            self.begin_reading(slot);
        } else if self.connections[slot].has_requests() && !self.connections[slot].is_blocked() {
            self.soon(slot);
        }
    }

    /// A part of a request has come. Its deadline is set once: who sends a byte now and then does not have for ever.
    fn await_rest(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let awaits = if connection.progress.is_in_body() {
            Awaits::Body
        } else {
            Awaits::Head
        };
        if connection.awaits != awaits {
            connection.awaits = awaits;
            let time = self.millis(self.settings.config.limits.request_time);
            self.set_deadline(slot, self.now.saturating_add(time));
        }
    }

    /// A connection between two requests.
    fn await_request(&mut self, slot: usize) {
        let time = self.millis(self.settings.config.limits.idle_time);
        self.set_deadline(slot, self.now.saturating_add(time));
    }

    /// Tells HTTP from the seed's protocol by the first bytes, on doors where both are spoken.
    fn detect(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let detected = match self.role(slot) {
            // The seed's protocol has no word for what a connection is told that is to be refused.
            Role::Backend if self.connections[slot].refusal.is_none() => seed::looks_like_http(bytes),
            _ => Detect::Http,
        };
        match detected {
            Detect::Http => self.connections[slot].state = State::Http,
            Detect::Seed => {
                self.connections[slot].state = State::Seed(0);
                self.count_as(slot, Transport::Seed);
            }
            Detect::Undecided => return false,
        }
        true
    }

    pub(super) fn count_refusal(&self, code: &str) {
        if let Some(refusal) = Refusal::from_code(code) {
            self.metrics().refused.of(refusal).add(1);
        }
    }

    /// Answers one request, or begins to hold it.
    fn handle(&mut self, slot: usize, request: &Request<'_>, out: &mut Vec<u8>) {
        let settings = self.settings.clone();
        let mut terms = Terms::from(request);
        self.count_visitor(slot, request);
        if self.draining || self.connections[slot].refused().is_some() {
            terms = terms.closing();
        }
        let cors = settings.access.origins(self.role(slot)).cors(request);
        if let Err(refused) = self.answer(slot, request, terms, &cors, out) {
            self.count_refusal(refused.code);
            refused.answer(terms, &cors, out);
        }
        let connection = &mut self.connections[slot];
        if !terms.keep_alive && matches!(connection.state, State::Http) {
            connection.closing = true;
        }
    }

    fn answer(
        &mut self,
        slot: usize,
        request: &Request<'_>,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let settings = self.settings.clone();
        self.refuse_rebound_names(slot, request)?;
        if cors::is_preflight(request) {
            cors.write(Head::new(out, terms, 204)).no_body();
            return Ok(());
        }
        let base = settings.config.public.base_path.as_str();
        let path = match request.path.strip_prefix(base) {
            Some("") => "/",
            Some(path) if !base.is_empty() => path,
            _ => request.path,
        };
        let endpoint = Endpoint::find(path, request.method, self.shared.demo).map_err(|none| match none {
            NoEndpoint::NotFound => Refused::not_found("there is nothing at this path: see /openapi.json"),
            NoEndpoint::Methods(methods) => Refused {
                allow: Some(methods),
                ..Refused::new(
                    405,
                    "method_not_allowed",
                    "this path takes other methods: see `Allow`",
                )
            },
        })?;
        if let Some(why) = self.connections[slot].refused()
            && !endpoint.is_held()
        {
            return Err(Refused::unavailable(why));
        }
        let parameters: Vec<_> = query::pairs(request.query).collect();
        let grant = self.grant(slot, request, endpoint, &parameters)?;
        let ops = self.shared.doors[self.connections[slot].door].ops;
        let answer = Answer {
            shared: &self.shared,
            settings: &settings,
            now: self.wall,
            ops,
            terms,
            cors,
            out,
        };
        match endpoint {
            Endpoint::Poll | Endpoint::Sse | Endpoint::Stream | Endpoint::WebSocket => {
                self.open_held(slot, endpoint, request, &parameters, grant, terms, cors, out)
            }
            Endpoint::Release => {
                let released = self.release_session(request, &parameters, &grant)?;
                cors.write(Head::new(out, terms, 200))
                    .header("Content-Type", "application/json")
                    .body(format!("{{\"released\":{released}}}").as_bytes());
                Ok(())
            }
            Endpoint::Publish => {
                let message = api::message(request, &parameters, &settings)?;
                self.publish(slot, message, &grant, terms, cors, out)
            }
            Endpoint::Batch => self.batch(slot, request, &grant, terms, cors, out),
            _ => api::answer(endpoint, answer, &grant, request, &parameters),
        }
    }

    /// Behind a front web server a connection belongs to whose request came last on it: that is who it counts for.
    fn count_visitor(&mut self, slot: usize, request: &Request<'_>) {
        let is_proxied = self.settings.config.public.proxied && self.role(slot) == Role::Public;
        let max = self.settings.config.limits.connections_per_address;
        let (true, Some(max)) = (is_proxied, max) else {
            return;
        };
        // What a client has claimed itself stands before what the front server has seen.
        let forwarded = request.headers_all("x-forwarded-for").last();
        let visitor = forwarded.and_then(forwarded_address);
        let connection = &mut self.connections[slot];
        let counted = self.shared.recount(connection.address, visitor, max);
        (connection.address, connection.crowded) = match counted {
            Ok(()) => (visitor, None),
            Err(why) => (None, Some(why)),
        };
    }

    /// Where no key is asked for, who can connect is all that protects us, and a browser on this machine can: a page whose
    /// name its owner lets point here is of our own host to it. Nobody owns an address.
    fn refuse_rebound_names(&self, slot: usize, request: &Request<'_>) -> Result<(), Refused> {
        let door = &self.shared.doors[self.connections[slot].door];
        // Monitoring is asked by name, and only tells figures.
        let keyless = door.role == Role::Backend || self.shared.demo && door.role == Role::Public;
        let is_tcp = matches!(door.address, DoorAddress::Tcp(_));
        match request.host() {
            Some(host) if keyless && is_tcp && !cors::is_address_or_localhost(host) => Err(Refused::new(
                403,
                "origin_refused",
                "nobody is asked for a key here, so this door answers only to its address or to `localhost`",
            )),
            _ => Ok(()),
        }
    }

    /// What the request may do, by its door and what it shows.
    fn grant(
        &self,
        slot: usize,
        request: &Request<'_>,
        endpoint: Endpoint,
        parameters: &Parameters<'_>,
    ) -> Result<Grant, Refused> {
        let access = &self.settings.access;
        let door = &self.shared.doors[self.connections[slot].door];
        // A page may give its own name this machine's address, and be of our host then: behind the doors of the site's
        // own code no name counts as our own.
        let host = request.host().filter(|_| door.role == Role::Public);
        // A browser adds no header of ours by itself, but it does reach loopback: what changes something, or is kept
        // open across origins, is only for pages of known origins.
        let reads = matches!(request.method, http::Method::Get | http::Method::Head);
        if (!reads || endpoint == Endpoint::WebSocket)
            && !cors::origin_allowed(
                access.origins(door.role),
                host.map(str::as_bytes),
                request.header("origin"),
            )
        {
            return Err(Refused::new(
                403,
                "origin_refused",
                "this page's origin may not do that: add it to public.origins in the configuration, and let it come in at a public door",
            ));
        }
        if endpoint.is_open() {
            return Ok(Grant::anonymous());
        }
        let grant = match door.role {
            Role::Backend => access::backend(),
            Role::Ops if endpoint.is_ops() => access::backend(),
            Role::Ops => {
                return Err(Refused::new(
                    403,
                    "forbidden",
                    "this door is for health and metrics only",
                ));
            }
            Role::Public => {
                let shown = access::credential(request);
                let token = api::text(parameters, "token").filter(|token| !token.is_empty());
                let grant = match (shown, token) {
                    (None, Some(token)) => access.grant_by_token(token, self.wall),
                    _ => access.grant(shown, self.wall),
                };
                grant.map_err(|denied| Refused::new(401, denied.code(), denied.to_string()))?
            }
        };
        if let Some(action) = endpoint.needs()
            && !grant.allows_everywhere(action)
            && !(door.ops && endpoint.is_ops())
        {
            return Err(api::lacking(&grant, action));
        }
        Ok(grant)
    }

    /// Publishes, and answers when it is visible.
    fn publish(
        &mut self,
        slot: usize,
        mut message: Message,
        grant: &Grant,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        api::authorize_publish(&self.hub, &mut message, grant)?;
        self.check_rate(slot, grant)?;
        let id = self.id_of(slot);
        let shared = self.shared.clone();
        let published = self
            .hub
            .publish(message, self.wall, &mut || completion(&shared, id))?;
        self.metrics().publications.of(Door::Http).add(1);
        match published {
            Published::Visible(receipt) => api::receipt(&receipt, &self.hub, terms, cors, out),
            Published::Pending => {
                self.connections[slot].state = State::Publishing(Box::new((terms, cors.clone())));
                self.set_deadline(slot, u64::MAX);
            }
        }
        Ok(())
    }

    /// Several messages, each for itself: one that is refused does not keep the others from being published.
    fn batch(
        &mut self,
        slot: usize,
        request: &Request<'_>,
        grant: &Grant,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let settings = self.settings.clone();
        let messages = api::batch(request, &settings)?;
        let mut body = b"{\"results\":[".to_vec();
        for (index, message) in messages.into_iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            let published = message.and_then(|mut message| {
                api::authorize_publish(&self.hub, &mut message, grant)?;
                self.check_rate(slot, grant)?;
                self.publish_now(message)
            });
            match published {
                Ok(receipt) => api::receipt_object(&receipt, &self.hub, &mut body),
                Err(refused) => {
                    self.count_refusal(refused.code);
                    refused.member(&mut body);
                }
            }
        }
        body.extend_from_slice(b"]}");
        cors.write(Head::new(out, terms, 200))
            .header("Content-Type", "application/json")
            .body(&body);
        Ok(())
    }

    /// Publishes and waits for the result, if it has to come from a store, in the shard's own time: only for several at once.
    fn publish_now(&mut self, message: Message) -> Result<Receipt, Refused> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let published = self.hub.publish(message, self.wall, &mut || {
            let sender = sender.clone();
            Box::new(move |result| {
                // Nobody waits any more only if the shard has given up, and then nobody can be told.
                let _ = sender.send(result);
            })
        })?;
        self.metrics().publications.of(Door::Http).add(1);
        match published {
            Published::Visible(receipt) => Ok(receipt),
            Published::Pending => {
                let answered = receiver.recv_timeout(std::time::Duration::from_secs(10));
                Ok(answered.map_err(|_| Refused::unavailable("the store did not answer in time"))??)
            }
        }
    }

    pub(super) fn check_rate(&mut self, slot: usize, grant: &Grant) -> Result<(), Refused> {
        if grant.allows_everywhere(cometserver_core::action::Action::Publish) {
            return Ok(());
        }
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

    /// The store has answered a publisher.
    pub(super) fn published(&mut self, id: ConnectionId, result: Result<Receipt, PublishError>) {
        let Some(slot) = self.slot_of(id) else { return };
        let connection = &mut self.connections[slot];
        let State::Publishing(waiting) = std::mem::replace(&mut connection.state, State::Http) else {
            return;
        };
        let (terms, cors) = *waiting;
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        match result {
            Ok(receipt) => api::receipt(&receipt, &self.hub, terms, &cors, &mut out),
            Err(error) => {
                let refused = Refused::from(error);
                self.count_refusal(refused.code);
                refused.answer(terms, &cors, &mut out);
            }
        }
        let there = self.send(slot, &out);
        self.out = out;
        if there {
            self.answered(slot, terms);
        }
    }

    /// An answer that came late was sent: on to the next request.
    pub(super) fn answered(&mut self, slot: usize, terms: Terms) {
        let connection = &mut self.connections[slot];
        if connection.ended || !terms.keep_alive || self.draining {
            self.finish(slot);
            return;
        }
        if connection.input.is_empty() {
            self.await_request(slot);
        }
        if !self.connections[slot].is_blocked() {
            self.go_on(slot);
        }
    }

    /// Answers out of turn, for requests that were held.
    pub(super) fn send_answer(&mut self, slot: usize, bytes: &[u8], terms: Terms) -> Option<Sent> {
        let connection = self.connections.get_mut(slot)?;
        match connection.send(bytes, &mut self.bytes_sent) {
            Ok(sent) => {
                self.sent(slot, sent);
                self.answered(slot, terms);
                Some(sent)
            }
            Err(_) => {
                self.remove(slot);
                None
            }
        }
    }
}

/// The last address of an `X-Forwarded-For`, as different front servers write it.
fn forwarded_address(value: &[u8]) -> Option<IpAddr> {
    let last = std::str::from_utf8(value).ok()?.rsplit(',').next()?.trim();
    let bare = last.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    address
        .or_else(|_| last.parse::<SocketAddr>().map(|with_port| with_port.ip()))
        .ok()
}

fn completion(shared: &std::sync::Arc<crate::shared::Shared>, id: ConnectionId) -> Completion {
    let shared = shared.clone();
    Box::new(move |result| shared.mailboxes[id.shard as usize].send(Mail::Published(id, result)))
}
