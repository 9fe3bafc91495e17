//! What a request names: parameters, channels, patterns, where to begin.

use std::borrow::Cow;

use cometserver_core::Cursor;
use cometserver_core::channel::ChannelName;
use cometserver_core::fanout::Begin;
use cometserver_core::hub::Hub;
use cometserver_core::pattern::{Pattern, PatternError};
use cometserver_core::protocol::native::command::{self};

use crate::shared::Settings;

use super::Refused;

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
        json_depth: limits.json_depth,
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
