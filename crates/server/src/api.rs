//! What the HTTP API answers. Whatever is held, or may have to wait, is the shard's affair.

use cometserver_core::action::Action;
use cometserver_core::grant::Grant;
use cometserver_core::{Position, Time};

use crate::endpoint::{CLIENT, Endpoint};
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::entity_tag::known_tags;
use crate::http::response::{Head, Terms};
use crate::metrics::{self};
use crate::shared::{self, Settings, Shared};

mod demo;
mod looking;
mod ops;
mod parameters;
mod publishing;
mod refused;

pub use looking::{
    MEMBERS, history_members, list_end, no_history_members, presence_members, summary_object, value_object,
};
pub use parameters::{Pair, begin, bytes, channel, flag, limits, number, pattern, text};
pub use publishing::{accepted_object, authorize_publish, batch, message, receipt_object, sign};
pub use refused::{Refused, lacking};

use demo::demo;
use looking::presence;
use ops::{gauges, live, ready, reload};

/// Lets `write!` append to bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// An answer being made.
pub struct Answer<'a> {
    /// The server.
    pub shared: &'a Shared,
    /// The settings in force.
    pub settings: &'a Settings,
    /// Milliseconds since 1970.
    pub now: Time,
    /// Does the door show health in detail?
    pub ops: bool,
    /// How the request wants to be answered.
    pub terms: Terms,
    /// Who may read the answer.
    pub cors: &'a Cors,
    /// Where the answer goes.
    pub out: &'a mut Vec<u8>,
}

impl Answer<'_> {
    fn json(self, status: u16, body: &[u8]) {
        self.typed(status, "application/json", body);
    }

    fn typed(self, status: u16, kind: &str, body: &[u8]) {
        let head = self.cors.write(Head::new(self.out, self.terms, status));
        head.header("Content-Type", kind)
            .header("Cache-Control", "no-store")
            .body(body);
    }

    fn cursor(&self, position: Position) -> String {
        self.shared.hub.cursor(position).to_string()
    }
}

/// Answers what needs no waiting.
///
/// # Errors
/// Why it is refused.
pub fn answer(
    endpoint: Endpoint,
    answer: Answer<'_>,
    grant: &Grant,
    request: &Request<'_>,
    parameters: &[Pair<'_>],
) -> Result<(), Refused> {
    let settings = answer.settings;
    let hub = &answer.shared.hub;
    match endpoint {
        Endpoint::Presence => {
            let name = channel(parameters, settings)?;
            if !grant.allows(Action::Presence, &name, &hub.namespace_of(&name)) {
                return Err(lacking(grant, Action::Presence));
            }
            presence(answer, &name, parameters)?;
        }
        Endpoint::Now => {
            let cursor = answer.cursor(hub.now());
            answer.json(200, format!("{{\"cursor\":\"{cursor}\"}}").as_bytes());
        }
        Endpoint::Live => live(answer),
        Endpoint::Ready => ready(answer),
        Endpoint::Metrics => {
            let gauges = gauges(answer.shared);
            let text = answer.shared.metrics.render(&gauges);
            answer.typed(200, metrics::CONTENT_TYPE, text.as_bytes());
        }
        Endpoint::Stats => {
            let gauges = gauges(answer.shared);
            let body = answer.shared.metrics.to_json(&gauges).to_string();
            answer.json(200, body.as_bytes());
        }
        Endpoint::OpenApi => answer.json(200, crate::openapi::DOCUMENT),
        Endpoint::Stop => {
            answer.shared.ask(shared::Request::Stop);
            answer.json(200, b"{\"stopping\":true}");
        }
        Endpoint::Reload => reload(answer)?,
        Endpoint::Demo(file) => demo(answer, file),
        Endpoint::Client(file) => client(answer, file, request),
        Endpoint::Poll
        | Endpoint::Sse
        | Endpoint::Stream
        | Endpoint::WebSocket
        | Endpoint::Publish
        | Endpoint::Release
        | Endpoint::Renew
        | Endpoint::Batch
        | Endpoint::History
        | Endpoint::DeleteHistory
        | Endpoint::Retained
        | Endpoint::DeleteRetained
        | Endpoint::Channels
        | Endpoint::Storage
        | Endpoint::Backup => unreachable!("the shard answers {:?} itself", request.path),
    }
    Ok(())
}

/// The same for everybody, whatever the origins that may call us.
fn client(answer: Answer<'_>, file: usize, request: &Request<'_>) {
    let (_, content, hash) = CLIENT[file];
    let hash = format!("{hash:016x}");
    let tag = format!("\"{hash}\"");
    // What compresses on the way puts a mark behind it.
    let known = known_tags(request).any(|known| known == b"*" || known.starts_with(hash.as_bytes()));
    let status = if known { 304 } else { 200 };
    let head = Head::new(answer.out, answer.terms, status)
        .header("ETag", &tag)
        // An update reaches every page within the hour.
        .header("Cache-Control", "public, max-age=3600")
        .header("Access-Control-Allow-Origin", "*")
        .header("Cross-Origin-Resource-Policy", "cross-origin");
    if known {
        head.no_body();
    } else {
        head.header("Content-Type", "text/javascript; charset=utf-8")
            .header("X-Content-Type-Options", "nosniff")
            .body(content);
    }
}
