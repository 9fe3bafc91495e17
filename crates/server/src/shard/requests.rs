//! Reading from a connection, and answering requests.

use cometserver_core::ChannelName;
use cometserver_core::grant::Grant;

use super::Shard;
use crate::access::{self, Denied};
use crate::api::{self, Answer, Refused};
use crate::connection::{Sent, State};
use crate::endpoint::{Endpoint, NoEndpoint};
use crate::http::cors::{self, Cors};
use crate::http::response::{Head, Terms};
use crate::http::{self, Request, query};
use crate::listener::{DoorAddress, Role};
use crate::question;

/// Refuses a body that would have to be decoded first.
fn refuse_encoded(request: &Request<'_>) -> Result<(), Refused> {
    let mut codings = request.headers_all("content-encoding");
    match codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")) {
        true => Ok(()),
        false => Err(Refused::new(
            415,
            "bad_request",
            "a body with Content-Encoding is not read here: send it as it is",
        )),
    }
}

/// Does a browser say that a page of another site makes this request?
fn is_of_another_site(request: &Request<'_>) -> bool {
    request
        .headers_all("sec-fetch-site")
        .any(|value| value.eq_ignore_ascii_case(b"cross-site"))
}

/// A request's parameters, decoded.
pub(super) type Parameters<'a> = [api::Pair<'a>];

impl Shard {
    /// Answers one request, or begins to hold it.
    pub(super) fn handle(&mut self, slot: usize, request: &Request<'_>, out: &mut Vec<u8>) {
        let settings = self.settings.clone();
        let mut terms = Terms::from(request);
        self.meet_visitor(slot, request);
        if self.draining || self.connections[slot].refused().is_some() {
            terms = terms.closing();
        }
        let cors = settings.access.origins(self.role(slot)).cors(request);
        match self.answer(slot, request, terms, &cors, out) {
            Ok(()) => {
                self.judge(slot, false);
            }
            Err(refused) => {
                refused.count(self.metrics());
                if self.judge(slot, true) {
                    terms = terms.closing();
                }
                refused.answer(terms, &cors, out);
            }
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
        if request.method == http::Method::Options && matches!(path, "/" | "*") {
            // Of the server as a whole: so proxies ask whether it is there.
            cors.write(Head::new(out, terms, 204))
                .header("Allow", "GET, HEAD, POST, DELETE, OPTIONS")
                .no_body();
            return Ok(());
        }
        refuse_encoded(request)?;
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
        self.turn.charge_each(parameters.len());
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
            Endpoint::Release | Endpoint::Renew => {
                let (word, count) = match endpoint {
                    Endpoint::Renew => ("renewed", self.renew_session(&parameters, &grant)?),
                    _ => ("released", self.release_session(request, &parameters, &grant)?),
                };
                cors.write(Head::new(out, terms, 200))
                    .header("Content-Type", "application/json")
                    .header("Cache-Control", "no-store")
                    .body(format!("{{\"{word}\":{count}}}").as_bytes());
                Ok(())
            }
            Endpoint::Publish => {
                let mut may = |names: &[ChannelName]| self.may_publish(slot, names, &grant);
                let message = api::message(request, &parameters, &settings, &mut may)?;
                self.publish(slot, message, &grant, terms, cors, out)
            }
            Endpoint::Batch => self.batch(slot, request, &grant, terms, cors, out),
            Endpoint::History
            | Endpoint::DeleteHistory
            | Endpoint::Retained
            | Endpoint::DeleteRetained
            | Endpoint::Channels => {
                self.afford(slot)?;
                let progress = question::ask(endpoint, &grant, &parameters, &settings, &self.asker(slot))?;
                self.settle(slot, progress, terms, cors, out)
            }
            Endpoint::Storage => {
                let progress = question::storage(&parameters, &self.asker(slot))?;
                self.settle(slot, progress, terms, cors, out)
            }
            Endpoint::Backup if self.role(slot) != Role::Backend => Err(Refused::new(
                403,
                "forbidden",
                "a backup writes files on the server's machine: ask for it on the socket for the site's own code",
            )),
            Endpoint::Backup => {
                let progress = question::backup(&request.body, &self.asker(slot))?;
                self.settle(slot, progress, terms, cors, out)
            }
            _ => api::answer(endpoint, answer, &grant, request, &parameters),
        }
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
            // What a page of another site loads as a picture or a script has no origin, but is asked for all the same.
            _ if door.role == Role::Backend && is_tcp && is_of_another_site(request) => Err(Refused::new(
                403,
                "origin_refused",
                "a page of another site asks here, where nobody is asked for a key: let it come in at a public door",
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
                let token = api::bytes(parameters, "token").map(<[u8]>::trim_ascii);
                let grant = match (shown, token.filter(|token| !token.is_empty())) {
                    (None, Some(token)) => match str::from_utf8(token) {
                        Ok(token) => access.grant_by_token(token, self.wall),
                        Err(_) => Err(Denied::Invalid("`token` is no JWT: its bytes are no text".into())),
                    },
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

    /// An answer that came late was sent: on to the next request.
    pub(super) fn next_request(&mut self, slot: usize, terms: Terms) {
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
        self.connections.get(slot)?;
        self.part_from_visitor(slot);
        let connection = &mut self.connections[slot];
        match connection.send(bytes, &mut self.bytes_sent) {
            Ok(sent) => {
                self.sent(slot, sent);
                self.stay_with_visitor(slot);
                self.next_request(slot, terms);
                Some(sent)
            }
            Err(error) => {
                self.broke(slot, &error);
                None
            }
        }
    }
}
