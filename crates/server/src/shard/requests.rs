//! Reading from a connection, and answering requests.

use std::io::ErrorKind;

use cometserver_core::grant::Grant;
use cometserver_core::hub::{Completion, PublishError, Published, Receipt};
use cometserver_core::publication::Message;

use super::Shard;
use crate::access;
use crate::api::{self, Answer, Refused};
use crate::connection::{Sent, State};
use crate::endpoint::{Endpoint, NoEndpoint};
use crate::http::cors::{self, Cors};
use crate::http::response::{CONTINUE, Head, Terms};
use crate::http::{self, Limits, Parse, Request, query};
use crate::listener::Role;
use crate::metrics::{Door, DropReason, Refusal, Transport};
use crate::seed::{self, Detect};
use crate::shared::{ConnectionId, Mail};

/// A publish request in JSON wraps its payload: base64 and escapes may make it so much longer, and some room around it.
const WRAPPING: usize = 2;
const ROOM: usize = 64 << 10;

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
        loop {
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
                    self.came(slot, &mut input[..read]);
                    match self.connections.get(slot) {
                        Some(connection) if connection.generation == generation => {}
                        _ => return,
                    }
                    if read < input.len() {
                        // Less than asked for: the next edge tells when there is more.
                        self.connections[slot].readable = false;
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
            _ => !connection.is_blocked(),
        }
    }

    fn peer_ended(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        match &connection.state {
            // Half-closed after its request, as `nc` and old clients do: it still wants the answer.
            State::Publishing(_) => {}
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
            _ if connection.input.is_empty() => self.feed(slot, bytes),
            _ => {
                let mut whole = std::mem::take(&mut connection.input);
                whole.extend_from_slice(bytes);
                self.feed(slot, &mut whole);
            }
        }
    }

    /// Goes on with what was kept, if something was: after an answer, the next request may be there already.
    pub(super) fn feed_kept(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let mut kept = std::mem::take(&mut connection.input);
        if !kept.is_empty() {
            self.feed(slot, &mut kept);
        } else {
            let time = self.millis(self.settings.config.limits.idle_time);
            self.set_deadline(slot, self.now.saturating_add(time));
        }
        if self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.readable)
        {
            self.readable_soon(slot);
        }
    }

    /// Bytes that were left alone while the connection was held: there will be no edge for them.
    fn readable_soon(&mut self, slot: usize) {
        // Not recursively through `readable`: its buffer may be in use by the caller.
        let mut input = vec![0; 16 << 10];
        self.read_all(slot, &mut input);
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

    /// Uses up bytes that form requests; keeps the rest.
    fn feed(&mut self, slot: usize, bytes: &mut [u8]) {
        if matches!(self.connections[slot].state, State::Fresh) && !self.detect(slot, bytes) {
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
        while at < bytes.len() {
            let mut progress = std::mem::take(&mut self.connections[slot].progress);
            let parsed = http::parse(&bytes[at..], &mut progress, &limits);
            self.connections[slot].progress = progress;
            match parsed {
                Ok(Parse::Complete { request, consumed }) => {
                    at += consumed;
                    self.handle(slot, &request, &mut out);
                }
                Ok(Parse::Incomplete { wants_continue, .. }) => {
                    if wants_continue {
                        out.extend_from_slice(CONTINUE);
                    }
                    let time = self.millis(self.settings.config.limits.request_time);
                    self.set_deadline(slot, self.now.saturating_add(time));
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
        let rest = &bytes[at..];
        if !rest.is_empty() && !self.connections[slot].closing {
            let connection = &mut self.connections[slot];
            // A WebSocket's first frames may come right behind its handshake.
            connection.input = rest.to_vec();
        } else if matches!(self.connections[slot].state, State::Http) {
            let time = self.millis(self.settings.config.limits.idle_time);
            self.set_deadline(slot, self.now.saturating_add(time));
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
        }
    }

    /// Tells HTTP from the seed's protocol by the first bytes, on doors where both are spoken.
    fn detect(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let detected = match self.role(slot) {
            Role::Backend => seed::looks_like_http(bytes),
            Role::Public | Role::Ops => Detect::Http,
        };
        match detected {
            Detect::Http => self.connections[slot].state = State::Http,
            Detect::Seed => {
                self.connections[slot].state = State::Seed(0);
                self.count_as(slot, Transport::Seed);
            }
            Detect::Undecided => {
                self.connections[slot].input = bytes.to_vec();
                return false;
            }
        }
        true
    }

    fn count_refusal(&self, code: &str) {
        if let Some(refusal) = Refusal::from_code(code) {
            self.metrics().refused.of(refusal).add(1);
        }
    }

    /// Answers one request, or begins to hold it.
    fn handle(&mut self, slot: usize, request: &Request<'_>, out: &mut Vec<u8>) {
        let settings = self.settings.clone();
        let mut terms = Terms::from(request);
        if self.draining {
            terms = terms.closing();
        }
        let cors = settings.access.origins.cors(request);
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
                ..Refused::new(405, "method_not_allowed", "this path does not take that method")
            },
        })?;
        let parameters: Vec<_> = query::pairs(request.query).collect();
        let grant = self.grant(slot, request, endpoint, &parameters)?;
        let answer = Answer {
            shared: &self.shared,
            settings: &settings,
            now: self.wall,
            terms,
            cors,
            out,
        };
        match endpoint {
            Endpoint::Poll | Endpoint::Sse | Endpoint::Stream | Endpoint::WebSocket => {
                self.open_held(slot, endpoint, request, &parameters, grant, terms, cors, out)
            }
            Endpoint::Publish => {
                let message = api::message(request, &parameters, &settings)?;
                self.publish(slot, message, &grant, terms, cors, out)
            }
            Endpoint::Batch => self.batch(slot, request, &grant, terms, cors, out),
            _ => api::answer(endpoint, answer, &grant, request, &parameters),
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
        let host = request.host().map(str::as_bytes);
        // A browser adds no header of ours by itself, but it does reach loopback: what changes something, or is kept
        // open across origins, is only for pages of known origins.
        let reads = matches!(request.method, http::Method::Get | http::Method::Head);
        if (!reads || endpoint == Endpoint::WebSocket)
            && !cors::origin_allowed(&access.origins, host, request.header("origin"))
        {
            return Err(Refused::new(
                403,
                "origin_refused",
                "this page's origin may not do that: add it to public.origins in the configuration",
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
                let token = api::text(parameters, "token");
                access
                    .grant(access::credential(request, token), self.wall)
                    .map_err(|denied| Refused::new(401, denied.code(), denied.to_string()))?
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
        } else if !connection.is_blocked() {
            self.feed_kept(slot);
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

fn completion(shared: &std::sync::Arc<crate::shared::Shared>, id: ConnectionId) -> Completion {
    let shared = shared.clone();
    Box::new(move |result| shared.mailboxes[id.shard as usize].send(Mail::Published(id, result)))
}
