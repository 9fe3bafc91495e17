//! A message comes in; with its places in the hub's order it is a publication, immutable and shared.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::Time;
use crate::channel::{Channel, ChannelId, ChannelName};
use crate::json::{self, JsonError};
use crate::position::{Position, Source};
use crate::quota::Payer;

/// What a payload is, decided once at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON text, checked at the door.
    Json,
    /// Valid UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// The payload does not fit its kind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Not JSON that every reader takes; the check says where, and what to do.
    #[error(
        "the payload is not JSON that every reader takes: {0}; send it as kind `text` if it is not meant to be JSON"
    )]
    Json(#[from] JsonError),
    /// Not UTF-8.
    #[error("the payload is not UTF-8: send it as kind `binary`")]
    Text,
}

/// The payload and its kind: the bytes exactly as given, never re-serialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    kind: Kind,
    bytes: Bytes,
}

impl Payload {
    /// Checks at the door that the bytes are what they are said to be: JSON is what every reader takes ([`json::check`]), with
    /// at most `json_depth` brackets open at once.
    ///
    /// # Errors
    /// [`PayloadError`] if they are not.
    pub fn new(kind: Kind, bytes: Bytes, json_depth: usize) -> Result<Self, PayloadError> {
        match kind {
            Kind::Json => json::check(text_of(&bytes)?, json_depth)?,
            Kind::Text => {
                text_of(&bytes)?;
            }
            Kind::Binary => {}
        }
        Ok(Self { kind, bytes })
    }

    /// A payload as it was kept; `None` if it is not of its kind. Older doors took JSON that only its grammar bounds, and what
    /// they took stays.
    pub fn stored(kind: Kind, bytes: Bytes) -> Option<Self> {
        match kind {
            Kind::Json => {
                // IgnoredAny would skip over bad UTF-8 inside strings, so that is checked first.
                let text = text_of(&bytes).ok()?;
                serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
            }
            Kind::Text => {
                text_of(&bytes).ok()?;
            }
            Kind::Binary => {}
        }
        Some(Self { kind, bytes })
    }

    /// Text if it is UTF-8, else binary.
    pub fn text_or_binary(bytes: Bytes) -> Self {
        let kind = match text_of(&bytes) {
            Ok(_) => Kind::Text,
            Err(_) => Kind::Binary,
        };
        Self { kind, bytes }
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes as given.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, PayloadError> {
    std::str::from_utf8(bytes).map_err(|_| PayloadError::Text)
}

/// What a publisher sends.
#[derive(Clone, Debug)]
pub struct Message {
    /// At least one. Several: one publication with an offset in each of them.
    pub channels: Vec<ChannelName>,
    /// The payload.
    pub payload: Payload,
    /// Keep it as the channel's retained value.
    pub retain: bool,
    /// Repeating the publication under the same key within the window publishes nothing and gets the first one's result.
    pub idempotency_key: Option<Box<str>>,
    /// The rest, which most messages do not have.
    pub attributes: Option<Box<Attributes>>,
    /// When the door took it, in microseconds since 1970; 0: not known. For measuring only: it never orders anything.
    pub accepted: u64,
    /// Who answers for what is kept because of it: channels that nobody else named, its idempotency key.
    pub payer: Payer,
}

/// What few messages carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The event's name.
    pub event: Option<Box<str>>,
    /// The publisher's own id of the message.
    pub id: Option<Box<str>>,
    /// Who published, if a client with a name did.
    pub user: Option<Box<str>>,
    /// Not shown to connections of this session ("everyone but me").
    pub exclude_session: Option<Box<str>>,
    /// Free pairs, shown to subscribers.
    pub tags: Vec<(Box<str>, Box<str>)>,
    /// Who wrote the value, as readers of the seed's wire protocol need to know it. Not shown to subscribers.
    pub writer: Option<Writer>,
}

/// How the writer of a value encodes it before it reaches the seed's wire: its readers decode as often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A command line: once.
    Cli,
    /// A web page: twice.
    Web,
    /// A client of the seed, which sent this token; how often it had encoded is not known.
    Token(Bytes),
}

impl Attributes {
    /// Bytes that it keeps in memory.
    pub fn size(&self) -> usize {
        let text = |t: &Option<Box<str>>| t.as_ref().map_or(0, |t| t.len());
        size_of::<Self>()
            + text(&self.event)
            + text(&self.id)
            + text(&self.user)
            + text(&self.exclude_session)
            + match &self.writer {
                Some(Writer::Token(token)) => token.len(),
                Some(Writer::Cli | Writer::Web) | None => 0,
            }
            + self
                .tags
                .iter()
                .map(|(k, v)| k.len() + v.len() + 32)
                .sum::<usize>()
    }
}

impl Message {
    /// A message with this payload in one channel and nothing special about it.
    pub fn new(channel: ChannelName, payload: Payload) -> Self {
        Self {
            channels: vec![channel],
            payload,
            retain: false,
            idempotency_key: None,
            attributes: None,
            accepted: 0,
            payer: Payer::SITE,
        }
    }

    /// A text message in one channel.
    pub fn text(channel: ChannelName, text: &str) -> Self {
        Self::new(
            channel,
            Payload {
                kind: Kind::Text,
                bytes: Bytes::copy_from_slice(text.as_bytes()),
            },
        )
    }

    /// The attributes, made if there are none yet.
    pub fn attributes_mut(&mut self) -> &mut Attributes {
        self.attributes.get_or_insert_default()
    }
}

/// What a publication says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A message of a publisher.
    Message {
        /// The payload as given.
        payload: Payload,
        /// What few messages carry.
        attributes: Option<Box<Attributes>>,
        /// It becomes the retained value of its channels.
        retain: bool,
    },
    /// A member came.
    Join {
        /// Who.
        user: Box<str>,
        /// What the member shows of itself, JSON.
        info: Option<Bytes>,
    },
    /// A member went.
    Leave {
        /// Who.
        user: Box<str>,
    },
    /// The number of members of a crowded channel.
    Members {
        /// How many there are now.
        count: u32,
    },
}

impl From<Message> for Body {
    fn from(message: Message) -> Self {
        Body::Message {
            payload: message.payload,
            attributes: message.attributes,
            retain: message.retain,
        }
    }
}

impl Body {
    /// Is it presence news, which only those see who asked for it, and which is not history?
    pub fn is_presence(&self) -> bool {
        !matches!(self, Body::Message { .. })
    }

    /// Bytes of the payload; presence news have none.
    pub fn payload_len(&self) -> usize {
        match self {
            Body::Message { payload, .. } => payload.bytes.len(),
            _ => 0,
        }
    }
}

/// A publication's place in one channel.
#[derive(Clone, Debug)]
pub struct Place {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Counts the channel's messages from 1 without holes; 0 for presence news, which are not counted.
    pub offset: u64,
    /// The patterns that match the channel, as of the publication.
    pub patterns: Option<Arc<[u32]>>,
}

/// The places of a publication: nearly always one.
#[derive(Clone, Debug)]
pub enum Places {
    /// In one channel.
    One(Place),
    /// In several.
    Many(Arc<[Place]>),
}

impl std::ops::Deref for Places {
    type Target = [Place];

    fn deref(&self) -> &[Place] {
        match self {
            Places::One(place) => std::slice::from_ref(place),
            Places::Many(places) => places,
        }
    }
}

impl FromIterator<Place> for Places {
    fn from_iter<T: IntoIterator<Item = Place>>(places: T) -> Self {
        let mut places = places.into_iter();
        match (places.next(), places.next()) {
            (Some(only), None) => Places::One(only),
            (first, second) => Places::Many(first.into_iter().chain(second).chain(places).collect()),
        }
    }
}

impl From<Vec<Place>> for Places {
    fn from(places: Vec<Place>) -> Self {
        places.into_iter().collect()
    }
}

/// A message, or presence news, with its place in the hub's order.
#[derive(Debug)]
pub struct Publication {
    /// Which source ordered it.
    pub source: Source,
    /// Where both sources stood when it became visible, itself included.
    pub at: Position,
    /// When, for age and display only.
    pub time: Time,
    /// When the door took it, see [`Message::accepted`]; 0 as well for presence news and what was read from the store.
    pub accepted: u64,
    /// In which channels.
    pub places: Places,
    /// Which shards had readers for it when it became visible, a bit each.
    pub audience: u64,
    /// What it says.
    pub body: Body,
}

/// What a publication costs in memory besides its payload and attributes: itself, its reference counts, its entries in a
/// log and in the hub's order. Measured with the system allocator, rounded up.
const OVERHEAD: usize = 256;

impl Publication {
    /// Its number in the hub's order. Read back from disk it has none that counts; see [`Position::visibility`].
    pub fn sequence(&self) -> u64 {
        self.at.sequence()
    }

    /// Bytes of memory that it keeps, about.
    pub fn size(&self) -> usize {
        OVERHEAD
            + match &self.body {
                Body::Message {
                    payload, attributes, ..
                } => payload.bytes.len() + attributes.as_ref().map_or(0, |a| a.size()),
                Body::Join { user, info } => user.len() + info.as_ref().map_or(0, Bytes::len),
                Body::Leave { user } => user.len(),
                Body::Members { .. } => 0,
            }
    }

    /// Its index among the places for a channel.
    pub fn place_in(&self, channel: ChannelId) -> Option<usize> {
        self.places.iter().position(|place| place.channel.id == channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_checked_against_its_kind() {
        let check = |kind, bytes: &'static [u8]| Payload::new(kind, Bytes::from_static(bytes), 4).is_ok();
        assert!(check(Kind::Json, br#"{"a":[1,"x"]}"#));
        assert!(!check(Kind::Json, b"{"));
        assert!(!check(Kind::Json, b"\"\xff\""));
        assert!(!check(Kind::Json, b"1 2"));
        assert!(check(Kind::Text, "é".as_bytes()));
        assert!(!check(Kind::Text, b"\xff"));
        assert!(check(Kind::Binary, b"\xff"));
        assert!(check(Kind::Json, b"[[[[]]]]"));
        assert!(!check(Kind::Json, b"[[[[[]]]]]"));
    }

    #[test]
    fn what_older_doors_took_can_be_read_again() {
        let stored = |kind, bytes: &'static [u8]| Payload::stored(kind, Bytes::from_static(bytes)).is_some();
        assert!(stored(Kind::Json, br#"["\ud83d",1e400,[[[[[1]]]]]]"#));
        assert!(!stored(Kind::Json, b"[1"));
        assert!(!stored(Kind::Json, b"\"\xff\""));
        assert!(!stored(Kind::Text, b"\xff"));
        assert!(stored(Kind::Binary, b"\xff"));
    }
}
