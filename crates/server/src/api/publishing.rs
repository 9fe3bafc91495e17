//! Publications as requests have them, and what their publishers are answered.

use std::fmt::Write as _;

use bytes::Bytes;
use cometserver_core::action::Action;
use cometserver_core::channel::ChannelName;
use cometserver_core::grant::Grant;
use cometserver_core::hub::{Hub, Receipt};
use cometserver_core::protocol::native::command::{self, Publish};
use cometserver_core::protocol::native::{self};
use cometserver_core::publication::{Kind, Message, Payload};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::Request;
use crate::seed;
use crate::shared::{self, Settings};

use super::{Pair, Refused, Text, bytes, flag, lacking, limits, text};

/// So many publications of a batch are refused to one who may not publish them before the rest is not looked at.
const REFUSED: usize = 64;

/// Whether a publisher may publish in these channels, which is asked before the payload is looked at.
type May<'a> = dyn FnMut(&[ChannelName]) -> Result<(), Refused> + 'a;

/// The message of a publish request, in either form.
///
/// # Errors
/// What is wrong with it, or why it may not be published.
pub fn message(
    request: &Request<'_>,
    parameters: &[Pair<'_>],
    settings: &Settings,
    may: &mut May<'_>,
) -> Result<Message, Refused> {
    let limits = limits(settings);
    if bytes(parameters, "channel").is_none() {
        let publish: Publish<'_> = serde_json::from_slice(&request.body)
            .map_err(|error| Refused::bad(format!("the body is not a publish request: {error}; or give `channel` in the query, then the body is the payload")))?;
        let names = publish.names(&limits)?;
        may(&names)?;
        return Ok(publish.into_message(names, &limits)?);
    }
    let names = channels_named(parameters, settings)?;
    may(&names)?;
    command::check_size(request.body.len(), &limits)?;
    let kind = match text(parameters, "kind") {
        Some(kind) => command::kind(kind)?,
        None => kind_of(request.header_str("content-type")),
    };
    let payload = Payload::new(kind, Bytes::copy_from_slice(&request.body), limits.json_depth)
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
pub(super) fn channels_named(
    parameters: &[Pair<'_>],
    settings: &Settings,
) -> Result<Vec<ChannelName>, Refused> {
    let limits = limits(settings);
    let named = parameters.iter().filter(|(name, _)| name.as_ref() == b"channel");
    let names = named
        .map(|(_, value)| command::channel_name(value, &limits))
        .collect::<Result<Vec<_>, _>>()?;
    command::check_channels(names.len(), &limits)?;
    Ok(names)
}

/// What a body is by its content type: curl's default is a form, and means text.
pub(super) fn kind_of(content_type: Option<&str>) -> Kind {
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

/// The messages of a batch, each with what is wrong with it, or why it may not be published.
///
/// # Errors
/// It is no batch, or too large a one.
pub fn batch(
    request: &Request<'_>,
    settings: &Settings,
    may: &mut May<'_>,
) -> Result<Vec<Result<Message, Refused>>, Refused> {
    #[derive(Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        publications: &'a RawValue,
    }
    let not_one = |error| Refused::bad(format!("the body is not a batch: {error}"));
    let batch: Batch<'_> = serde_json::from_slice(&request.body).map_err(not_one)?;
    let most = settings.config.limits.batch;
    let mut list = AtMost {
        items: Vec::new(),
        most,
        exceeded: false,
    };
    let read = serde_json::Deserializer::from_str(batch.publications.get()).deserialize_seq(&mut list);
    if list.exceeded {
        return Err(Refused::new(
            413,
            "too_large",
            format!("too many publications in one batch: at most {most} are allowed (limits.batch)"),
        ));
    }
    read.map_err(not_one)?;
    let limits = limits(settings);
    let mut refused = 0;
    let read = |raw: &RawValue| -> Result<Message, Refused> {
        if refused == REFUSED {
            let why = "too many publications before this one in the batch were refused: it was not looked at";
            return Err(Refused::new(429, "limit_reached", why));
        }
        let publish: Publish<'_> =
            serde_json::from_str(raw.get()).map_err(|error| Refused::bad(error.to_string()))?;
        let names = publish.names(&limits)?;
        may(&names).inspect_err(|_| refused += 1)?;
        Ok(publish.into_message(names, &limits)?)
    };
    Ok(list.items.into_iter().map(read).collect())
}

/// A list that is read no further than it may go.
struct AtMost<'a> {
    items: Vec<&'a RawValue>,
    most: usize,
    exceeded: bool,
}

impl<'a> Visitor<'a> for &mut AtMost<'a> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element()? {
            self.exceeded = self.items.len() >= self.most;
            if self.exceeded {
                return Err(serde::de::Error::custom("too many"));
            }
            self.items.push(item);
        }
        Ok(())
    }
}

/// May it be published in this channel?
///
/// # Errors
/// It may not.
pub fn authorize_publish(hub: &Hub, name: &ChannelName, grant: &Grant) -> Result<(), Refused> {
    let allowed = grant.allows_everywhere(Action::Publish)
        || grant.allows(Action::Publish, name, &hub.namespace_of(name));
    match allowed {
        true => Ok(()),
        false => Err(lacking(grant, Action::Publish)),
    }
}

/// Notes who publishes, and when it came.
pub fn sign(message: &mut Message, grant: &Grant) {
    if let Some(user) = &grant.user {
        message.attributes_mut().user = Some(user.clone());
    }
    message.accepted = shared::wall_micros();
}

/// `{"channels":[…],"cursor":…`, open at its end.
pub fn receipt_object(receipt: &Receipt, hub: &Hub, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channels\":[");
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

/// `{"channels":[…],"buffered":true`, open at its end: taken, and not visible yet.
pub fn accepted_object(channels: &[ChannelName], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channels\":[");
    for (index, channel) in channels.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{" } else { b"{" });
        native::channel_member(channel.as_bytes(), out);
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"buffered\":true");
}
