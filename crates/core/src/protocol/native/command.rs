//! What a client of the native dialect may say: publish requests, and the commands of a WebSocket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::channel::{ChannelName, NameError};
use crate::publication::{Kind, Message, Payload, PayloadError};

/// The most free pairs on one message, and the longest of the short texts on it, in bytes.
const MAX_TAGS: usize = 16;
const MAX_TEXT: usize = 1024;

/// What is wrong with a request, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not the JSON that was expected.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A channel's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A payload that is not of its kind.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Something is missing or too much; the text names it.
    #[error("{0}")]
    Bad(&'static str),
    /// Beyond a limit; the text names it.
    #[error("{0}")]
    TooLarge(String),
}

/// Bounds on what a client sends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a payload.
    pub message_size: usize,
    /// Bytes of a channel's name.
    pub channel_name: usize,
    /// Channels of one message or command.
    pub channels: usize,
}

/// One or several texts.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// None given.
    #[default]
    None,
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::None => Vec::new(),
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// A message as JSON describes it.
#[derive(Debug, Deserialize)]
pub struct Publish<'a> {
    /// One channel, or
    #[serde(default)]
    pub channel: Option<String>,
    /// several.
    #[serde(default)]
    pub channels: Vec<String>,
    /// The payload: JSON, or a string of which `kind` says what it is.
    #[serde(borrow, default, deserialize_with = "given")]
    pub data: Option<&'a RawValue>,
    /// `json`, `text` or `binary`.
    #[serde(default)]
    pub kind: Option<String>,
    /// See [`Attributes`](crate::publication::Attributes).
    #[serde(default)]
    pub event: Option<String>,
    /// The publisher's own id. On a WebSocket `id` is the command's, so there it is `message_id`.
    #[serde(default)]
    pub id: Option<serde_json::Value>,
    /// See `id`.
    #[serde(default)]
    pub message_id: Option<String>,
    /// Keep it as the retained value.
    #[serde(default)]
    pub retain: bool,
    /// See [`Message::idempotency_key`].
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// Free pairs.
    #[serde(default)]
    pub tags: std::collections::BTreeMap<String, String>,
    /// Not for connections of this session.
    #[serde(default)]
    pub exclude_session: Option<String>,
    /// WebSocket only: `false` keeps it from this connection's own session.
    #[serde(default)]
    pub echo: Option<bool>,
}

/// A channel's name as a client gives it.
///
/// # Errors
/// [`RequestError`] if it is empty or too long.
pub fn channel_name(bytes: &[u8], limits: &Limits) -> Result<ChannelName, RequestError> {
    if bytes.len() > limits.channel_name {
        return Err(RequestError::TooLarge(format!(
            "the channel name has {} bytes: at most {} are allowed (limits.channel_name)",
            bytes.len(),
            limits.channel_name
        )));
    }
    Ok(ChannelName::new(bytes)?)
}

/// Checks a short text of a message.
fn short(text: String, what: &'static str) -> Result<Box<str>, RequestError> {
    if text.len() > MAX_TEXT {
        return Err(RequestError::TooLarge(format!(
            "{what} has {} bytes: at most {MAX_TEXT} are allowed",
            text.len()
        )));
    }
    Ok(text.into())
}

impl Publish<'_> {
    /// The message, checked.
    ///
    /// # Errors
    /// [`RequestError`] names what is wrong.
    pub fn into_message(self, limits: &Limits) -> Result<Message, RequestError> {
        let names = match (&self.channel, self.channels.is_empty()) {
            (Some(_), false) => {
                return Err(RequestError::Bad("give either `channel` or `channels`, not both"));
            }
            (Some(channel), true) => vec![channel_name(channel.as_bytes(), limits)?],
            (None, true) => {
                return Err(RequestError::Bad(
                    "`channel` is missing: name the channel to publish in",
                ));
            }
            (None, false) => {
                check_channels(self.channels.len(), limits)?;
                let names = self
                    .channels
                    .iter()
                    .map(|name| channel_name(name.as_bytes(), limits));
                names.collect::<Result<_, _>>()?
            }
        };
        let data = self.data.ok_or(RequestError::Bad(
            "`data` is missing: give the payload, `null` if there is none",
        ))?;
        let payload = payload(data, self.kind.as_deref(), limits)?;
        let mut message = Message::new(names[0].clone(), payload);
        message.channels = names;
        message.retain = self.retain;
        message.idempotency_key = self
            .idempotency_key
            .map(|key| short(key, "the idempotency key"))
            .transpose()?;
        let id = match (self.message_id, self.id) {
            (Some(id), _) => Some(id),
            (None, Some(serde_json::Value::String(id))) => Some(id),
            (None, Some(serde_json::Value::Number(id))) => Some(id.to_string()),
            (None, Some(_)) => return Err(RequestError::Bad("`id` is a string or a number")),
            (None, None) => None,
        };
        if self.tags.len() > MAX_TAGS {
            return Err(RequestError::TooLarge(format!(
                "{} tags: at most {MAX_TAGS} are allowed",
                self.tags.len()
            )));
        }
        if self.event.is_some() || id.is_some() || self.exclude_session.is_some() || !self.tags.is_empty() {
            let attributes = message.attributes_mut();
            attributes.event = self.event.map(|text| short(text, "the event name")).transpose()?;
            attributes.id = id.map(|text| short(text, "the id")).transpose()?;
            attributes.exclude_session = self
                .exclude_session
                .map(|text| short(text, "the session"))
                .transpose()?;
            for (name, value) in self.tags {
                attributes
                    .tags
                    .push((short(name, "a tag's name")?, short(value, "a tag")?));
            }
        }
        Ok(message)
    }
}

/// Reads a kind's name.
///
/// # Errors
/// [`RequestError::Bad`] for any other word.
pub fn kind(name: &str) -> Result<Kind, RequestError> {
    match name {
        "json" => Ok(Kind::Json),
        "text" => Ok(Kind::Text),
        "binary" => Ok(Kind::Binary),
        _ => Err(RequestError::Bad("`kind` is one of `json`, `text` and `binary`")),
    }
}

/// What is there, also if it is `null`, which serde would take for nothing.
fn given<'de: 'a, 'a, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

fn payload(data: &RawValue, name: Option<&str>, limits: &Limits) -> Result<Payload, RequestError> {
    let kind = kind(name.unwrap_or("json"))?;
    let text = |data: &RawValue| {
        serde_json::from_str::<String>(data.get())
            .map_err(|_| RequestError::Bad("`data` has to be a string where `kind` is `text` or `binary`"))
    };
    let payload = match kind {
        Kind::Json => Payload::checked_json(data),
        Kind::Text => Payload::new(kind, Bytes::from(text(data)?))?,
        Kind::Binary => {
            let bytes = STANDARD
                .decode(text(data)?)
                .map_err(|_| RequestError::Bad("`data` is not base64 (standard alphabet, padded)"))?;
            Payload::new(kind, Bytes::from(bytes))?
        }
    };
    check_size(payload.bytes().len(), limits)?;
    Ok(payload)
}

/// Refuses a payload beyond the limit.
///
/// # Errors
/// [`RequestError::TooLarge`].
pub fn check_size(size: usize, limits: &Limits) -> Result<(), RequestError> {
    if size > limits.message_size {
        return Err(RequestError::TooLarge(format!(
            "the payload has {size} bytes: at most {} are allowed (limits.message_size)",
            limits.message_size
        )));
    }
    Ok(())
}

/// Refuses more channels for one publication than the limit.
///
/// # Errors
/// [`RequestError::TooLarge`].
pub fn check_channels(count: usize, limits: &Limits) -> Result<(), RequestError> {
    if count > limits.channels {
        return Err(RequestError::TooLarge(format!(
            "{count} channels in one publication: at most {} are allowed (limits.subscriptions)",
            limits.channels
        )));
    }
    Ok(())
}

/// A command of a WebSocket client. Members that a command does not know are passed over.
#[derive(Debug, Deserialize)]
pub struct Command<'a> {
    /// What to do.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Given back in the answer: a number or a string.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// A channel,
    #[serde(default)]
    pub channel: Option<String>,
    /// or several,
    #[serde(default)]
    pub channels: OneOrMany,
    /// a pattern,
    #[serde(default)]
    pub pattern: Option<String>,
    /// or several.
    #[serde(default)]
    pub patterns: OneOrMany,
    /// A cursor, `now` or `earliest`.
    #[serde(default)]
    pub since: Option<String>,
    /// The retained value first.
    #[serde(default)]
    pub retained: Option<bool>,
    /// `join` or `watch`.
    #[serde(default)]
    pub presence: Option<String>,
    /// What a member shows of itself.
    #[serde(borrow, default)]
    pub info: Option<&'a RawValue>,
    /// A token.
    #[serde(default)]
    pub token: Option<String>,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Newest first.
    #[serde(default)]
    pub reverse: Option<bool>,
}

impl<'a> Command<'a> {
    /// Reads a command. A `type` with escapes in it is none of ours.
    ///
    /// # Errors
    /// [`RequestError::Json`].
    pub fn parse(text: &'a str) -> Result<Self, RequestError> {
        let command: Self = serde_json::from_str(text)?;
        if let Some(id) = command.id
            && (id.get().len() > 64
                || !matches!(id.get().as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9')))
        {
            return Err(RequestError::Bad("`id` is a number or a short string"));
        }
        Ok(command)
    }

    /// All channels named.
    pub fn channels(&mut self) -> Vec<String> {
        let mut all = std::mem::take(&mut self.channels).into_vec();
        all.extend(self.channel.take());
        all
    }

    /// All patterns named.
    pub fn patterns(&mut self) -> Vec<String> {
        let mut all = std::mem::take(&mut self.patterns).into_vec();
        all.extend(self.pattern.take());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        message_size: 11,
        channel_name: 8,
        channels: 2,
    };

    fn read(text: &str) -> Result<Message, String> {
        let publish: Publish<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        publish.into_message(&LIMITS).map_err(|e| e.to_string())
    }

    #[test]
    fn a_payload_is_kept_byte_for_byte() {
        let message = read(r#"{"channel":"a","data":{"b" : 1.0}}"#).unwrap();
        assert_eq!(&message.payload.bytes()[..], br#"{"b" : 1.0}"#);
        let message = read(r#"{"channel":"a","data":null}"#).unwrap();
        assert_eq!(&message.payload.bytes()[..], b"null");
        let message = read(r#"{"channel":"a","data":"é","kind":"text"}"#).unwrap();
        assert_eq!(&message.payload.bytes()[..], "é".as_bytes());
        let message = read(r#"{"channel":"a","data":"/wA=","kind":"binary"}"#).unwrap();
        assert_eq!(&message.payload.bytes()[..], b"\xff\0");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            (r#"{"data":1}"#, "`channel` is missing"),
            (r#"{"channel":"","data":1}"#, "the channel name is empty"),
            (r#"{"channel":"123456789","data":1}"#, "limits.channel_name"),
            (r#"{"channel":"a","channels":["b"],"data":1}"#, "either"),
            (r#"{"channels":["a","b","c"],"data":1}"#, "at most 2"),
            (r#"{"channel":"a"}"#, "`data` is missing"),
            (r#"{"channel":"a","data":"12345678901"}"#, "limits.message_size"),
            (r#"{"channel":"a","data":1,"kind":"text"}"#, "has to be a string"),
            (r#"{"channel":"a","data":"%","kind":"binary"}"#, "base64"),
            (r#"{"channel":"a","data":1,"kind":"xml"}"#, "`kind` is one of"),
            (r#"{"channel":"a","data":1,"id":[]}"#, "`id` is a string"),
        ];
        for (text, expected) in table {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
