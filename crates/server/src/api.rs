//! What the HTTP API answers. Whatever is held, or may have to wait, is the shard's affair.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cometserver_core::action::Action;
use cometserver_core::channel::ChannelName;
use cometserver_core::fanout::Begin;
use cometserver_core::grant::Grant;
use cometserver_core::hub::{Delete, HistoryQuery, Hub, ListenError, PublishError, Receipt};
use cometserver_core::pattern::{Pattern, PatternError};
use cometserver_core::protocol::native::command::{self, Publish, RequestError};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::{Body, Kind, Message, Payload, Publication};
use cometserver_core::{Cursor, Position, Time};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::endpoint::{CLIENT, DEMO, Endpoint};
use crate::http::Request;
use crate::http::cors::Cors;
use crate::http::problem::Problem;
use crate::http::response::{Head, Terms};
use crate::metrics::{self, Gauges};
use crate::platform;
use crate::seed;
use crate::shared::{self, Settings, Shared};

/// The most channels in one answer.
const CHANNELS: usize = 1000;

/// The most members in one answer.
pub const MEMBERS: usize = 1000;

/// A request that is refused: answered as a problem.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The code of `docs/protocol.md`.
    pub code: &'static str,
    /// What to do.
    pub detail: Cow<'static, str>,
    /// The methods that the path takes.
    pub allow: Option<String>,
    /// When to try again, in seconds.
    pub retry_after: Option<u32>,
}

impl Refused {
    /// With a status, a code, and what to do.
    pub fn new(status: u16, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            allow: None,
            retry_after: None,
        }
    }

    /// Something is missing or malformed.
    pub fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "bad_request", detail)
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, "not_found", detail)
    }

    /// Later, please.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(503, "unavailable", detail)
        }
    }

    /// As the answer to a request.
    pub fn answer(&self, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
        let mut problem = Problem::new(self.status, self.code, &self.detail);
        problem.allow = self.allow.as_deref();
        problem.retry_after = self.retry_after;
        problem.answer(terms, cors, out);
    }

    /// As the member of a list of results.
    pub fn member(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":{\"code\":");
        native::json_string(self.code, out);
        let _ = write!(Text(out), ",\"status\":{},\"detail\":", self.status);
        native::json_string(&self.detail, out);
        out.extend_from_slice(b"}}");
    }
}

/// Lets `write!` append to bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::TooLarge(_) => Self::new(413, "too_large", error.to_string()),
            _ => Self::bad(error.to_string()),
        }
    }
}

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Conflict => Self::new(409, "conflict", error.to_string()),
            PublishError::TooManyChannels(_) => Self::new(429, "limit_reached", error.to_string()),
            PublishError::NoChannel => Self::bad(error.to_string()),
            _ => Self::unavailable(error.to_string()),
        }
    }
}

impl From<ListenError> for Refused {
    fn from(error: ListenError) -> Self {
        Self::new(429, "limit_reached", error.to_string())
    }
}

/// What a grant lacks: a token, or a better one.
pub fn lacking(grant: &Grant, action: Action) -> Refused {
    if grant.is_anonymous() {
        return Refused::new(
            401,
            "unauthorized",
            format!("this needs a key or a token that allows `{action}`"),
        );
    }
    Refused::new(
        403,
        "forbidden",
        format!("the token or key does not allow `{action}` here"),
    )
}

/// A parameter of a request, decoded.
pub type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// The parameter of this name, if it is UTF-8.
pub fn text<'a>(parameters: &'a [Pair<'_>], name: &str) -> Option<&'a str> {
    bytes(parameters, name).and_then(|value| std::str::from_utf8(value).ok())
}

/// The parameter of this name.
pub fn bytes<'a>(parameters: &'a [Pair<'_>], name: &str) -> Option<&'a [u8]> {
    parameters
        .iter()
        .find(|(own, _)| **own == *name.as_bytes())
        .map(|(_, value)| &**value)
}

/// A parameter that is a number.
///
/// # Errors
/// It is none.
pub fn number(parameters: &[Pair<'_>], name: &str) -> Result<Option<u64>, Refused> {
    match bytes(parameters, name) {
        None => Ok(None),
        Some(value) => std::str::from_utf8(value)
            .ok()
            .and_then(|value| value.parse().ok())
            .map(Some)
            .ok_or_else(|| Refused::bad(format!("`{name}` has to be a whole number"))),
    }
}

/// Is the parameter a yes?
pub fn flag(parameters: &[Pair<'_>], name: &str) -> bool {
    matches!(bytes(parameters, name), Some(b"1" | b"true" | b"yes"))
}

/// Bounds on what a client sends.
pub fn limits(settings: &Settings) -> command::Limits {
    let limits = &settings.config.limits;
    command::Limits {
        message_size: limits.message_size,
        channel_name: limits.channel_name,
        channels: limits.subscriptions,
    }
}

/// The channel that a request names.
///
/// # Errors
/// It names none, or not a good one.
pub fn channel(parameters: &[Pair<'_>], settings: &Settings) -> Result<ChannelName, Refused> {
    let name = bytes(parameters, "channel").ok_or_else(|| Refused::bad("`channel` is missing"))?;
    Ok(command::channel_name(name, &limits(settings))?)
}

/// A pattern that a request names.
///
/// # Errors
/// It does not parse, or is too long.
pub fn pattern(text: &[u8], settings: &Settings) -> Result<Pattern, Refused> {
    Pattern::new(text, settings.config.limits.pattern_length).map_err(|error| match error {
        PatternError::TooLong { .. } => {
            Refused::new(413, "too_large", format!("{error} (limits.pattern_length)"))
        }
        _ => Refused::bad(error.to_string()),
    })
}

/// Where to begin: `now`, `earliest`, or a cursor.
///
/// # Errors
/// It is not a cursor.
pub fn begin(hub: &Hub, text: &str) -> Result<Begin, Refused> {
    match text {
        "" | "now" => Ok(Begin::Now),
        "earliest" => Ok(Begin::Earliest),
        text => match text.parse::<Cursor>() {
            Ok(cursor) => Ok(Begin::At(hub.resolve(&cursor))),
            Err(error) => Err(Refused::new(400, "bad_cursor", error.to_string())),
        },
    }
}

/// The message of a publish request, in either form.
///
/// # Errors
/// What is wrong with it.
pub fn message(
    request: &Request<'_>,
    parameters: &[Pair<'_>],
    settings: &Settings,
) -> Result<Message, Refused> {
    let limits = limits(settings);
    if bytes(parameters, "channel").is_none() {
        let publish: Publish<'_> = serde_json::from_slice(&request.body)
            .map_err(|error| Refused::bad(format!("the body is not a publish request: {error}; or give `channel` in the query, then the body is the payload")))?;
        return Ok(publish.into_message(&limits)?);
    }
    let names = channels_named(parameters, settings)?;
    command::check_size(request.body.len(), &limits)?;
    let kind = match text(parameters, "kind") {
        Some(kind) => command::kind(kind)?,
        None => kind_of(request.header_str("content-type")),
    };
    let payload = Payload::new(kind, Bytes::copy_from_slice(&request.body))
        .map_err(|error| Refused::bad(error.to_string()))?;
    let mut message = Message::new(names[0].clone(), payload);
    message.channels = names;
    message.retain = flag(parameters, "retain");
    let short = |name: &str| -> Result<Option<Box<str>>, Refused> {
        match bytes(parameters, name) {
            None => Ok(None),
            Some(value) if value.len() > 1024 => Err(Refused::new(
                413,
                "too_large",
                format!("`{name}` has more than 1024 bytes"),
            )),
            Some(value) => std::str::from_utf8(value)
                .map(|text| Some(text.into()))
                .map_err(|_| Refused::bad(format!("`{name}` is not UTF-8"))),
        }
    };
    message.idempotency_key = short("idempotency_key")?;
    let (event, id, session) = (short("event")?, short("id")?, short("exclude_session")?);
    let writer = text(parameters, "seed_depth").and_then(seed::writer_from_name);
    if event.is_some() || id.is_some() || session.is_some() || writer.is_some() {
        let attributes = message.attributes_mut();
        (attributes.event, attributes.id, attributes.exclude_session) = (event, id, session);
        attributes.writer = writer;
    }
    Ok(message)
}

/// The channels of a publication whose channels are in the query: at least one.
fn channels_named(parameters: &[Pair<'_>], settings: &Settings) -> Result<Vec<ChannelName>, Refused> {
    let limits = limits(settings);
    let named = parameters.iter().filter(|(name, _)| name.as_ref() == b"channel");
    let names = named
        .map(|(_, value)| command::channel_name(value, &limits))
        .collect::<Result<Vec<_>, _>>()?;
    command::check_channels(names.len(), &limits)?;
    Ok(names)
}

/// What a body is by its content type: curl's default is a form, and means text.
fn kind_of(content_type: Option<&str>) -> Kind {
    let kind = content_type
        .unwrap_or("")
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Kind::Json,
        "application/x-www-form-urlencoded" => Kind::Text,
        kind if kind.ends_with("+json") => Kind::Json,
        kind if kind.starts_with("text/") => Kind::Text,
        _ => Kind::Binary,
    }
}

/// The messages of a batch, each with what is wrong with it.
///
/// # Errors
/// It is no batch, or too large a one.
pub fn batch(request: &Request<'_>, settings: &Settings) -> Result<Vec<Result<Message, Refused>>, Refused> {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        publications: Vec<&'a RawValue>,
    }
    let batch: Batch<'_> = serde_json::from_slice(&request.body)
        .map_err(|error| Refused::bad(format!("the body is not a batch: {error}")))?;
    let most = settings.config.limits.batch;
    if batch.publications.len() > most {
        return Err(Refused::new(
            413,
            "too_large",
            format!(
                "{} publications in one batch: at most {most} are allowed (limits.batch)",
                batch.publications.len()
            ),
        ));
    }
    let limits = limits(settings);
    let read = |raw: &RawValue| -> Result<Message, Refused> {
        let publish: Publish<'_> =
            serde_json::from_str(raw.get()).map_err(|error| Refused::bad(error.to_string()))?;
        Ok(publish.into_message(&limits)?)
    };
    Ok(batch.publications.into_iter().map(read).collect())
}

/// May this be published? Notes who does, and when it came.
///
/// # Errors
/// It may not.
pub fn authorize_publish(hub: &Hub, message: &mut Message, grant: &Grant) -> Result<(), Refused> {
    for name in &message.channels {
        if !grant.allows_everywhere(Action::Publish)
            && !grant.allows(Action::Publish, name, &hub.namespace_of(name))
        {
            return Err(lacking(grant, Action::Publish));
        }
    }
    if let Some(user) = &grant.user {
        message.attributes_mut().user = Some(user.clone());
    }
    message.accepted = shared::wall_micros();
    Ok(())
}

/// Answers a publisher.
pub fn receipt(receipt: &Receipt, hub: &Hub, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(128);
    receipt_object(receipt, hub, &mut body);
    cors.write(Head::new(out, terms, 200))
        .header("Content-Type", "application/json")
        .body(&body);
}

/// `{"channels":[…],"cursor":…}`
pub fn receipt_object(receipt: &Receipt, hub: &Hub, out: &mut Vec<u8>) {
    out.push(b'{');
    receipt_members(receipt, hub, out);
    out.push(b'}');
}

/// The same without the braces.
pub fn receipt_members(receipt: &Receipt, hub: &Hub, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"channels\":[");
    for (index, place) in receipt.places.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'{');
        native::channel_member(place.channel.name.as_bytes(), out);
        let _ = write!(
            Text(out),
            ",\"offset\":{},\"epoch\":\"{}\"}}",
            place.offset,
            place.channel.epoch
        );
    }
    out.extend_from_slice(b"],\"cursor\":\"");
    hub.cursor(receipt.at).write(out);
    out.push(b'"');
    if receipt.duplicate {
        out.extend_from_slice(b",\"duplicate\":true");
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
    let named = |action: Action| -> Result<ChannelName, Refused> {
        let name = channel(parameters, settings)?;
        if !grant.allows(action, &name, &hub.namespace_of(&name)) {
            return Err(lacking(grant, action));
        }
        Ok(name)
    };
    // To forget something takes more than what a namespace gives to everybody.
    let owned = |action: Action| -> Result<ChannelName, Refused> {
        let name = channel(parameters, settings)?;
        let private = cometserver_core::namespace::Namespace::default();
        if !grant.allows(action, &name, &private) {
            return Err(lacking(grant, action));
        }
        Ok(name)
    };
    match endpoint {
        Endpoint::History => history(answer, &named(Action::History)?, parameters)?,
        Endpoint::DeleteHistory => {
            let deleted = hub.delete(&owned(Action::Admin)?, Delete::History, answer.now);
            answer.json(200, format!("{{\"deleted\":{deleted}}}").as_bytes());
        }
        Endpoint::Retained => {
            let name = named(Action::History)?;
            retained(answer, &name, grant.allows_everywhere(Action::Admin), parameters)?;
        }
        Endpoint::DeleteRetained => {
            let deleted = hub.delete(&owned(Action::Publish)?, Delete::Retained, answer.now) > 0;
            answer.json(200, format!("{{\"deleted\":{deleted}}}").as_bytes());
        }
        Endpoint::Presence => presence(answer, &named(Action::Presence)?, parameters)?,
        Endpoint::Channels => channels(answer, parameters)?,
        Endpoint::Now => {
            let cursor = answer.cursor(hub.now());
            answer.json(200, format!("{{\"cursor\":\"{cursor}\"}}").as_bytes());
        }
        Endpoint::Live => answer.json(200, b"{\"status\":\"ok\"}"),
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
        | Endpoint::Batch => unreachable!("the shard answers {:?} itself", request.path),
    }
    Ok(())
}

fn history(answer: Answer<'_>, name: &ChannelName, parameters: &[Pair<'_>]) -> Result<(), Refused> {
    let hub = &answer.shared.hub;
    let since = match begin(hub, text(parameters, "since").unwrap_or("earliest"))? {
        Begin::Now => Some(cometserver_core::hub::Start {
            position: hub.now(),
            ..Default::default()
        }),
        Begin::Earliest => None,
        Begin::At(start) => Some(start),
    };
    let limit = number(parameters, "limit")?.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let query = HistoryQuery {
        since,
        limit,
        reverse: flag(parameters, "reverse"),
    };
    let mut body = Vec::with_capacity(256);
    history_object(hub, name, query, answer.now, &mut body);
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

/// A channel's history as an object, open at its end.
pub fn history_object(hub: &Hub, name: &ChannelName, query: HistoryQuery, now: Time, out: &mut Vec<u8>) {
    out.push(b'{');
    history_members(hub, name, query, now, out);
}

/// The same without the opening brace.
pub fn history_members(hub: &Hub, name: &ChannelName, query: HistoryQuery, now: Time, out: &mut Vec<u8>) {
    native::channel_member(name.as_bytes(), out);
    let Some(history) = hub.history(name, query, now) else {
        let lost = query.since.is_some_and(|start| start.lost_memory);
        let _ = write!(
            Text(out),
            ",\"epoch\":\"0\",\"offset\":0,\"gap\":{lost},\"publications\":[],\"cursor\":\""
        );
        hub.cursor(hub.now()).write(out);
        out.push(b'"');
        return;
    };
    let (epoch, offset, gap) = (history.channel.epoch, history.offset, history.gap);
    let _ = write!(
        Text(out),
        ",\"epoch\":\"{epoch}\",\"offset\":{offset},\"gap\":{gap},\"publications\":["
    );
    for (index, publication) in history.publications.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let place = publication.place_in(history.channel.id).unwrap_or(0);
        native::object(publication, place, out);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"cursor\":\"");
    hub.cursor(history.at).write(out);
    out.push(b'"');
}

/// The retained value, with the token of the old wire if it `owns` the site's values.
fn retained(
    answer: Answer<'_>,
    name: &ChannelName,
    owns: bool,
    parameters: &[Pair<'_>],
) -> Result<(), Refused> {
    let publication =
        answer.shared.hub.retained(name).ok_or_else(|| {
            Refused::not_found("nothing is retained in this channel: publish with `retain`")
        })?;
    if flag(parameters, "raw") {
        if let Body::Message { payload, .. } = &publication.body {
            let kind = match payload.kind() {
                Kind::Json => "application/json",
                Kind::Text => "text/plain; charset=utf-8",
                Kind::Binary => "application/octet-stream",
            };
            let head = answer.cors.write(Head::new(answer.out, answer.terms, 200));
            // What somebody published must not become a page of this origin.
            let head = head
                .header("Content-Type", kind)
                .header("X-Content-Type-Options", "nosniff");
            head.header("Cache-Control", "no-store").body(payload.bytes());
        }
        return Ok(());
    }
    let mut body = Vec::with_capacity(256);
    native::object(&publication, publication_place(&publication, name), &mut body);
    if owns {
        seed::token_member(&publication, &mut body);
    }
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

fn publication_place(publication: &Publication, name: &ChannelName) -> usize {
    publication
        .places
        .iter()
        .position(|place| place.channel.name == *name)
        .unwrap_or(0)
}

fn presence(answer: Answer<'_>, name: &ChannelName, parameters: &[Pair<'_>]) -> Result<(), Refused> {
    let limit = number(parameters, "limit")?.map_or(MEMBERS, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let mut body = b"{".to_vec();
    presence_members(&answer.shared.hub, name, limit, &mut body);
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

/// Channel, count, members and cursor, as members of an object: the first members by name, at most `limit`, and
/// `"truncated":true` if there are more.
pub fn presence_members(hub: &Hub, name: &ChannelName, limit: usize, out: &mut Vec<u8>) {
    let members = hub.members(name, limit.min(MEMBERS));
    native::channel_member(name.as_bytes(), out);
    let _ = write!(Text(out), ",\"count\":{}", members.count);
    if members.members.len() < members.count {
        out.extend_from_slice(b",\"truncated\":true");
    }
    out.extend_from_slice(b",\"members\":[");
    for (index, (user, member)) in members.members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"user\":");
        native::json_string(user, out);
        let _ = write!(Text(out), ",\"connections\":{}", member.connections);
        if let Some(info) = &member.info {
            out.extend_from_slice(b",\"info\":");
            out.extend_from_slice(info);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"cursor\":\"");
    hub.cursor(members.at).write(out);
    out.push(b'"');
}

fn channels(answer: Answer<'_>, parameters: &[Pair<'_>]) -> Result<(), Refused> {
    let wanted = bytes(parameters, "pattern")
        .map(|text| pattern(text, answer.settings))
        .transpose()?;
    let limit = number(parameters, "limit")?.map_or(100, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let after = number(parameters, "after")?.unwrap_or(0);
    let (with_values, only_retained) = (flag(parameters, "values"), flag(parameters, "retained"));
    let (found, next) = answer
        .shared
        .hub
        .channels(wanted.as_ref(), after, limit.clamp(1, CHANNELS));
    let mut body = b"{\"channels\":[".to_vec();
    let mut first = true;
    for summary in found
        .iter()
        .filter(|summary| !only_retained || summary.retained.is_some())
    {
        if !std::mem::take(&mut first) {
            body.push(b',');
        }
        body.push(b'{');
        native::channel_member(summary.channel.name.as_bytes(), &mut body);
        let _ = write!(
            Text(&mut body),
            ",\"offset\":{},\"publications\":{},\"bytes\":{},\"listened\":{},\"members\":{},\"retained\":",
            summary.offset,
            summary.publications,
            summary.bytes,
            summary.listened,
            summary.members,
        );
        body.extend_from_slice(if summary.retained.is_some() {
            b"true"
        } else {
            b"false"
        });
        if let Some(publication) = summary.retained.as_ref().filter(|_| with_values) {
            body.extend_from_slice(b",\"value\":");
            native::object(
                publication,
                publication_place(publication, &summary.channel.name),
                &mut body,
            );
            // Only who may see all channels comes here.
            seed::token_member(publication, &mut body);
            body.push(b'}');
        }
        body.push(b'}');
    }
    body.extend_from_slice(b"],\"next\":");
    match next {
        Some(next) => native::json_number(next, &mut body),
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
    answer.json(200, &body);
    Ok(())
}

/// Ready for clients? In detail only where monitoring may look.
fn ready(answer: Answer<'_>) {
    let shared = answer.shared;
    let draining = shared.draining.load(Ordering::Relaxed);
    let (status, word) = if draining {
        (503, "draining")
    } else {
        (200, "ready")
    };
    let mut body = serde_json::json!({"status": word});
    if answer.ops {
        let stats = shared.hub.stats();
        body["version"] = env!("CARGO_PKG_VERSION").into();
        body["uptime_ms"] = answer.now.saturating_sub(shared.started).into();
        body["connections"] = shared.connections.load(Ordering::Relaxed).into();
        body["held"] = shared.held().into();
        body["channels"] = stats.channels.into();
        body["publications"] = stats.publications.into();
        body["log_bytes"] = stats.log_bytes.into();
    }
    answer.json(status, body.to_string().as_bytes());
}

fn reload(answer: Answer<'_>) -> Result<(), Refused> {
    let waiting = answer
        .shared
        .reload()
        .map_err(|error| Refused::new(422, "bad_configuration", error))?;
    let body = serde_json::json!({"reloaded": true, "needs_restart": waiting});
    answer.json(200, body.to_string().as_bytes());
    Ok(())
}

/// The same for everybody, whatever the origins that may call us.
fn client(answer: Answer<'_>, file: usize, request: &Request<'_>) {
    let (_, content, hash) = CLIENT[file];
    let tag = format!("\"{hash:016x}\"");
    let known = request
        .header_str("if-none-match")
        .is_some_and(|tags| tags.contains(&tag));
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

fn demo(answer: Answer<'_>, file: usize) {
    let (path, kind, content) = DEMO[file];
    // The page shows a command that works as it is: with this program, and this server's folder.
    let content = match (path, std::str::from_utf8(content)) {
        ("/", Ok(page)) => Cow::Owned(
            page.replacen("<html", &demo_root(answer.settings), 1)
                .into_bytes(),
        ),
        _ => Cow::Borrowed(content),
    };
    let head = answer.cors.write(Head::new(answer.out, answer.terms, 200));
    head.header("Content-Type", kind)
        .header("Cache-Control", "no-cache")
        .header(
            "Content-Security-Policy",
            "default-src 'self'; frame-ancestors 'none'",
        )
        .header("X-Content-Type-Options", "nosniff")
        .body(&content);
}

fn demo_root(settings: &Settings) -> String {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('"', "&quot;")
            .replace('<', "&lt;")
    };
    let program = std::env::args().next().unwrap_or_else(|| "comet".to_owned());
    let folder = settings.config.data_dir.to_string_lossy();
    format!(
        "<html data-program=\"{}\" data-folder=\"{}\"",
        escaped(&program),
        escaped(&folder)
    )
}

fn gauges(shared: &Shared) -> Gauges {
    let stats = shared.hub.stats();
    let mut realms = shared.hub.trimmed_early();
    // A counter that is there from the start can be watched before it first moves.
    realms.entry(0).or_default();
    Gauges {
        channels: stats.channels as u64,
        log_bytes: stats.log_bytes as u64,
        window_bytes: stats.window_bytes as u64,
        trimmed: realms
            .into_iter()
            .map(|(realm, count)| (realm_name(realm), count))
            .collect(),
        open_fds: platform::open_descriptors(),
        resident_bytes: platform::process_usage(std::process::id())
            .ok()
            .map(|usage| usage.resident),
    }
}

/// Realms get names with the dialects that make them; until then there is one.
fn realm_name(realm: u16) -> String {
    if realm == 0 {
        "default".to_owned()
    } else {
        realm.to_string()
    }
}
