//! What a client of the native dialect may say: publish requests, and the commands of a WebSocket.

mod names;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

pub use names::Names;
use names::tags;

use crate::channel::{ChannelName, NameError};
use crate::json::{self, JsonError};
use crate::publication::{Kind, Message, Payload, PayloadError};
use crate::quota::Payer;

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
    /// A member of this name that is no JSON which every reader takes.
    #[error("`{0}`: {1}")]
    Value(&'static str, JsonError),
    /// Something is missing or too much; the text names it.
    #[error("{0}")]
    Bad(&'static str),
    /// Beyond a limit; the text names it.
    #[error("{0}")]
    TooLarge(String),
    /// More names than one command may have: so many.
    #[error("more than {0} names in one list")]
    TooMany(usize),
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
    /// Brackets open at once in a JSON value.
    pub json_depth: usize,
}

/// A message as JSON describes it. What may be of any length is not read before its publisher's rights are known.
#[derive(Debug, Default, Deserialize)]
pub struct Publish<'a> {
    /// One channel, or
    #[serde(default)]
    pub channel: Option<String>,
    /// several.
    #[serde(borrow, default)]
    pub channels: Names<'a>,
    /// The payload: JSON, or a string of which `kind` says what it is.
    #[serde(borrow, default, deserialize_with = "given")]
    pub data: Option<&'a RawValue>,
    /// `json`, `text` or `binary`.
    #[serde(default)]
    pub kind: Option<String>,
    /// See [`Attributes`](crate::publication::Attributes).
    #[serde(default)]
    pub event: Option<String>,
    /// The publisher's own id: a string or a number. On a WebSocket `id` is the command's, so there it is `message_id`.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
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
    #[serde(borrow, default)]
    pub tags: Option<&'a RawValue>,
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
    /// The channels that it names: at least one.
    ///
    /// # Errors
    /// [`RequestError`] names what is wrong.
    pub fn names(&self, limits: &Limits) -> Result<Vec<ChannelName>, RequestError> {
        match (&self.channel, self.channels.is_empty()) {
            (Some(_), false) => Err(RequestError::Bad("give either `channel` or `channels`, not both")),
            (Some(channel), true) => Ok(vec![channel_name(channel.as_bytes(), limits)?]),
            (None, true) => Err(RequestError::Bad(
                "`channel` is missing: name the channel to publish in",
            )),
            (None, false) => {
                let names = self.channels.read(limits.channels).map_err(|error| match error {
                    RequestError::TooMany(most) => RequestError::TooLarge(format!(
                        "too many channels in one publication: at most {most} are allowed (limits.subscriptions)"
                    )),
                    error => error,
                })?;
                let names = names.iter().map(|name| channel_name(name.as_bytes(), limits));
                names.collect()
            }
        }
    }

    /// The message, checked, in channels that [`Publish::names`] gave.
    ///
    /// # Errors
    /// [`RequestError`] names what is wrong.
    pub fn into_message(self, names: Vec<ChannelName>, limits: &Limits) -> Result<Message, RequestError> {
        let data = self.data.ok_or(RequestError::Bad(
            "`data` is missing: give the payload, `null` if there is none",
        ))?;
        let payload = payload(data, self.kind.as_deref(), limits)?;
        let mut message = Message {
            channels: names,
            payload,
            retain: self.retain,
            idempotency_key: None,
            attributes: None,
            accepted: 0,
            payer: Payer::SITE,
        };
        message.idempotency_key = self
            .idempotency_key
            .map(|key| short(key, "the idempotency key"))
            .transpose()?;
        let id = match (self.message_id, self.id) {
            (Some(id), _) => Some(id),
            (None, Some(id)) => Some(own_id(id)?),
            (None, None) => None,
        };
        let tags = self.tags.map(tags).transpose()?.unwrap_or_default();
        if self.event.is_some() || id.is_some() || self.exclude_session.is_some() || !tags.is_empty() {
            let attributes = message.attributes_mut();
            attributes.event = self.event.map(|text| short(text, "the event name")).transpose()?;
            attributes.id = id.map(|text| short(text, "the id")).transpose()?;
            attributes.exclude_session = self
                .exclude_session
                .map(|text| short(text, "the session"))
                .transpose()?;
            for (name, value) in tags {
                attributes
                    .tags
                    .push((short(name, "a tag's name")?, short(value, "a tag")?));
            }
        }
        Ok(message)
    }
}

/// The publisher's own id, which may be a number.
fn own_id(raw: &RawValue) -> Result<String, RequestError> {
    match raw.get().as_bytes().first() {
        Some(b'"') => Ok(serde_json::from_str(raw.get())?),
        Some(b'-' | b'0'..=b'9') => Ok(serde_json::from_str::<serde_json::Number>(raw.get())?.to_string()),
        _ => Err(RequestError::Bad("`id` is a string or a number")),
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
fn given<'de: 'a, 'a, D: Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

fn payload(data: &RawValue, name: Option<&str>, limits: &Limits) -> Result<Payload, RequestError> {
    let kind = kind(name.unwrap_or("json"))?;
    let text = || {
        if !data.get().starts_with('"') {
            let why = "`data` has to be a string where `kind` is `text` or `binary`";
            return Err(RequestError::Bad(why));
        }
        serde_json::from_str::<String>(data.get()).map_err(|error| match json::check(data.get(), 0) {
            Err(error) => RequestError::Value("data", error),
            Ok(()) => RequestError::Json(error),
        })
    };
    let bytes = match kind {
        Kind::Json => {
            check_size(data.get().len(), limits)?;
            Bytes::copy_from_slice(data.get().as_bytes())
        }
        Kind::Text => Bytes::from(text()?),
        Kind::Binary => STANDARD
            .decode(text()?)
            .map_err(|_| RequestError::Bad("`data` is not base64 (standard alphabet, padded)"))?
            .into(),
    };
    check_size(bytes.len(), limits)?;
    Ok(Payload::new(kind, bytes, limits.json_depth)?)
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
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// Given back in the answer: a number or a string.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// A channel,
    #[serde(default)]
    pub channel: Option<String>,
    /// or several,
    #[serde(borrow, default)]
    pub channels: Names<'a>,
    /// a pattern,
    #[serde(default)]
    pub pattern: Option<String>,
    /// or several.
    #[serde(borrow, default)]
    pub patterns: Names<'a>,
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
    /// Members of a publication, which no other command looks at, see [`Publish`].
    #[serde(borrow, default, deserialize_with = "given")]
    pub data: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "kind")]
    payload_kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    retain: Option<&'a RawValue>,
    #[serde(borrow, default)]
    idempotency_key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tags: Option<&'a RawValue>,
    #[serde(borrow, default)]
    exclude_session: Option<&'a RawValue>,
    #[serde(borrow, default)]
    echo: Option<&'a RawValue>,
}

impl<'a> Command<'a> {
    /// Reads a command.
    ///
    /// # Errors
    /// [`RequestError::Json`].
    pub fn parse(text: &'a str) -> Result<Self, RequestError> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(RequestError::Bad("a command is an object"));
        }
        let command: Self = serde_json::from_str(text)?;
        if let Some(id) = command.id
            && (id.get().len() > 64
                || !matches!(id.get().as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9')))
        {
            return Err(RequestError::Bad("`id` is a number or a short string"));
        }
        if let Some(id) = command.id {
            json::check(id.get(), 0).map_err(|error| RequestError::Value("id", error))?;
        }
        Ok(command)
    }

    /// The publication that it asks for.
    ///
    /// # Errors
    /// [`RequestError::Json`].
    pub fn into_publish(self) -> Result<Publish<'a>, RequestError> {
        fn read<T: serde::de::DeserializeOwned>(raw: Option<&RawValue>) -> Result<Option<T>, RequestError> {
            Ok(raw.map(|raw| serde_json::from_str(raw.get())).transpose()?)
        }
        Ok(Publish {
            channel: self.channel,
            channels: self.channels,
            data: self.data,
            kind: read(self.payload_kind)?,
            event: read(self.event)?,
            id: None,
            message_id: read(self.message_id)?,
            retain: read(self.retain)?.unwrap_or(false),
            idempotency_key: read(self.idempotency_key)?,
            tags: self.tags,
            exclude_session: read(self.exclude_session)?,
            echo: read(self.echo)?,
        })
    }

    /// All channels named, at most so many.
    ///
    /// # Errors
    /// As [`Names::read`].
    pub fn channels(&self, most: usize) -> Result<Vec<Cow<'_, str>>, RequestError> {
        several(&self.channels, self.channel.as_deref(), most)
    }

    /// All patterns named, at most so many.
    ///
    /// # Errors
    /// As [`Names::read`].
    pub fn patterns(&self, most: usize) -> Result<Vec<Cow<'_, str>>, RequestError> {
        several(&self.patterns, self.pattern.as_deref(), most)
    }
}

fn several<'s>(
    list: &Names<'s>,
    one: Option<&'s str>,
    most: usize,
) -> Result<Vec<Cow<'s, str>>, RequestError> {
    let mut names = list.read(most)?;
    names.extend(one.map(Cow::Borrowed));
    if names.len() > most {
        return Err(RequestError::TooMany(most));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        message_size: 11,
        channel_name: 8,
        channels: 2,
        json_depth: 2,
    };

    fn read(text: &str) -> Result<Message, String> {
        let publish: Publish<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let names = publish.names(&LIMITS).map_err(|e| e.to_string())?;
        publish.into_message(names, &LIMITS).map_err(|e| e.to_string())
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
            (r#"{"channel":"a","data":"\ud83d"}"#, "half a surrogate pair"),
            (
                r#"{"channel":"a","data":"\ud83d","kind":"text"}"#,
                "half a surrogate pair",
            ),
            (r#"{"channel":"a","data":1e400}"#, "send it as a string"),
            (r#"{"channel":"a","data":[[[]]]}"#, "limits.json_depth"),
        ];
        for (text, expected) in table {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_id_of_a_command_is_given_back_only_if_every_reader_takes_it() {
        let read = |id: &str| Command::parse(&format!(r#"{{"type":"ping","id":{id}}}"#)).map(|_| ());
        for id in ["1", "-1.5e3", r#""a""#, r#""\ud83d\ude00""#] {
            assert!(read(id).is_ok(), "{id}");
        }
        for id in ["1e400", r#""\ud83d""#] {
            assert!(
                read(id).unwrap_err().to_string().starts_with("`id`: the "),
                "{id}"
            );
        }
    }

    #[test]
    fn a_list_is_read_no_further_than_anybody_may_name() {
        let command = |list: &str| format!(r#"{{"type":"subscribe","channels":{list}}}"#);
        let names = |text: &str| {
            let read = Command::parse(text).unwrap();
            let names = read.channels(2).map_err(|error| error.to_string())?;
            Ok::<_, String>(names.into_iter().map(Cow::into_owned).collect::<Vec<_>>())
        };
        assert_eq!(names(&command(r#""a""#)), Ok(vec!["a".to_owned()]));
        assert_eq!(
            names(&command(r#"["a","\u0062"]"#)),
            Ok(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(names(&command("null")), Ok(vec![]));
        // What follows is no name at all: nobody has looked.
        assert!(
            names(&command(r#"["a","b","c",7]"#))
                .unwrap_err()
                .contains("more than 2")
        );
        assert!(names(&command(r#"["a",7]"#)).unwrap_err().contains("string"));
        let both = r#"{"type":"subscribe","channels":["a","b"],"channel":"c"}"#;
        assert!(names(both).unwrap_err().contains("more than 2"));
    }

    #[test]
    fn tags_are_read_no_further_than_are_allowed() {
        let tags: Vec<_> = (0..=MAX_TAGS).map(|n| format!(r#""{n:02}":"x""#)).collect();
        let text = |tags: &[String], more: &str| {
            format!(
                r#"{{"channel":"a","data":1,"tags":{{{}{more}}}}}"#,
                tags.join(",")
            )
        };
        assert!(read(&text(&tags[1..], "")).is_ok());
        // The same one again is none too many; behind the one that is, nobody has looked.
        assert!(read(&text(&tags[1..], r#","01":"y""#)).is_ok());
        assert!(
            read(&text(&tags, ",\"z\":7"))
                .unwrap_err()
                .contains("too many tags")
        );
    }
}
