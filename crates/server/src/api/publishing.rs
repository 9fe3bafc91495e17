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
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::http::Request;
use crate::seed;
use crate::shared::{self, Settings};

use super::{Pair, Refused, Text, bytes, flag, lacking, limits, text};

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
