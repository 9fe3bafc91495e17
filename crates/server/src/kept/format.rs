//! The bytes of what memory kept, format version 1: a header, and a frame for each piece.
//!
//! Numbers are little-endian; in bodies they are LEB128 (*varint*). The header:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `COMETMEM` |
//! | 2 | version |
//! | 2 | zero |
//! | 4 | mark of the start that wrote it |
//! | 4 | salt, random |
//! | 4 | check of all before |
//!
//! A frame is the length of its body (4 bytes), a check (4), and the body, whose first byte says what it is. Checks are CRC-32;
//! a frame's begins with the salt and the frame's number, so that none can be left out, doubled, or come from another file. The
//! last frame says that all were written.

use bytes::Bytes as Shared;
use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::cursor::Marks;
use cometserver_core::kept::{
    Channel, FORMER, Former, Head, History, Key, Listened, Piece, Place, Publication,
};
use cometserver_core::log::Trimmed;
use cometserver_core::position::{Position, Source};
use cometserver_core::publication::{self, Body, Payload};

use crate::broker::disk::format::attributes::{decode_attributes, put_attributes};
use crate::broker::disk::format::bytes::{Bytes, put_slice, put_varint};

/// The version that this build writes; it reads this one and all before it.
pub const VERSION: u16 = 1;

/// How long the header is, in bytes.
pub const HEADER: usize = 24;

/// How long a frame is before its body, in bytes.
pub const FRAME: usize = 8;

const MAGIC: [u8; 8] = *b"COMETMEM";

const HEAD: u8 = 1;
const CHANNEL: u8 = 2;
const PUBLICATION: u8 = 3;
const LISTENED: u8 = 4;
const KEY: u8 = 5;
const END: u8 = 6;

const IN_HISTORY: u8 = 1;
const IS_VALUE: u8 = 1 << 1;

const PAYLOAD_KIND: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const ATTRIBUTES: u8 = 1 << 3;
const DURABLE: u8 = 1 << 4;

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of its format.
    pub version: u16,
    /// The mark of the start that wrote it.
    pub mark: u32,
    /// What its checks begin with.
    pub salt: u32,
}

impl Header {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.mark.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.salt.to_le_bytes());
        let check = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a header; none if it is not whole. Its version may be a later one.
    pub fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (bytes[..8] == MAGIC && number(20) == crc32fast::hash(&bytes[..20])).then(|| Self {
            version: u16::from_le_bytes([bytes[8], bytes[9]]),
            mark: number(12),
            salt: number(16),
        })
    }
}

/// The check of a frame.
pub fn check(salt: u32, number: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&number.to_le_bytes());
    hasher.update(&(body.len() as u64).to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// A frame's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A piece of what was kept.
    Piece(Box<Piece>),
    /// All were written.
    End,
}

/// Appends the body of the last frame.
pub fn put_end(to: &mut Vec<u8>) {
    to.push(END);
}

/// Appends the body of a piece.
pub fn put(to: &mut Vec<u8>, piece: &Piece) {
    match piece {
        Piece::Head(head) => put_head(to, head),
        Piece::Channel(channel) => put_channel(to, channel),
        Piece::Publication(publication) => put_publication(to, publication),
        Piece::Listened(listened) => {
            to.push(LISTENED);
            put_varint(to, u64::from(listened.realm.0));
            put_slice(to, &listened.text);
            put_trimmed(to, listened.trimmed);
        }
        Piece::Key(key) => {
            to.push(KEY);
            put_slice(to, key.key.as_bytes());
            to.extend_from_slice(&key.digest.to_le_bytes());
            put_varint(to, key.time);
            put_position(to, key.at);
            put_varint(to, key.places.len() as u64);
            for (channel, offset) in &key.places {
                put_varint(to, u64::from(*channel));
                put_varint(to, *offset);
            }
        }
    }
}

fn put_head(to: &mut Vec<u8>, head: &Head) {
    to.push(HEAD);
    to.extend_from_slice(&head.marks.durable.to_le_bytes());
    to.extend_from_slice(&head.marks.memory.to_le_bytes());
    put_position(to, head.visible);
    to.push(u8::from(head.durabilities.is_some()));
    to.extend_from_slice(&head.durabilities.unwrap_or_default().to_le_bytes());
    put_trimmed(to, head.trimmed);
    put_trimmed(to, head.forgotten);
    put_varint(to, head.former.len() as u64);
    for former in &head.former {
        to.extend_from_slice(&former.mark.to_le_bytes());
        put_varint(to, former.until);
    }
}

fn put_channel(to: &mut Vec<u8>, channel: &Channel) {
    to.push(CHANNEL);
    put_varint(to, u64::from(channel.name.realm().0));
    put_slice(to, channel.name.as_bytes());
    to.extend_from_slice(&channel.epoch.to_le_bytes());
    to.push(u8::from(channel.history.is_some()));
    if let Some(history) = &channel.history {
        put_varint(to, history.offset);
        put_position(to, history.last);
        put_trimmed(to, history.trimmed);
        to.push(u8::from(history.of_site));
    }
}

fn put_publication(to: &mut Vec<u8>, publication: &Publication) {
    let Body::Message {
        payload,
        attributes,
        retain,
    } = &publication.body
    else {
        // Not kept, and never handed over.
        return;
    };
    let kind = match payload.kind() {
        publication::Kind::Json => 0,
        publication::Kind::Text => 1,
        publication::Kind::Binary => 2,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    to.push(PUBLICATION);
    to.push(
        kind | flag(*retain, RETAIN)
            | flag(attributes.is_some(), ATTRIBUTES)
            | flag(publication.source == Source::Durable, DURABLE),
    );
    put_position(to, publication.at);
    put_varint(to, publication.time);
    put_varint(to, publication.places.len() as u64);
    for place in &publication.places {
        put_varint(to, u64::from(place.channel));
        put_varint(to, place.offset);
        to.push(flag(place.in_history, IN_HISTORY) | flag(place.is_value, IS_VALUE));
    }
    if let Some(attributes) = attributes {
        let mut encoded = Vec::new();
        put_attributes(&mut encoded, attributes);
        put_slice(to, &encoded);
    }
    to.extend_from_slice(payload.bytes());
}

fn put_position(to: &mut Vec<u8>, position: Position) {
    put_varint(to, position.durable);
    put_varint(to, position.memory);
}

fn put_trimmed(to: &mut Vec<u8>, trimmed: Trimmed) {
    put_varint(to, trimmed.durable);
    put_position(to, trimmed.memory);
}

/// Reads a frame's body; none if it makes no sense. A payload is a part of `body`, not copied.
pub fn decode(body: &Shared) -> Option<Framed> {
    let mut bytes = Bytes(body);
    let piece = match bytes.u8()? {
        HEAD => Piece::Head(head(&mut bytes)?),
        CHANNEL => Piece::Channel(channel(&mut bytes)?),
        // Whatever is left is its payload.
        PUBLICATION => {
            let publication = publication(body, bytes)?;
            return Some(Framed::Piece(Box::new(Piece::Publication(publication))));
        }
        LISTENED => Piece::Listened(Listened {
            realm: realm(&mut bytes)?,
            text: bytes.slice()?.into(),
            trimmed: trimmed(&mut bytes)?,
        }),
        KEY => Piece::Key(key(&mut bytes)?),
        END => return bytes.0.is_empty().then_some(Framed::End),
        _ => return None,
    };
    bytes.0.is_empty().then(|| Framed::Piece(Box::new(piece)))
}

fn head(bytes: &mut Bytes<'_>) -> Option<Head> {
    let marks = Marks {
        durable: bytes.u32()?,
        memory: bytes.u32()?,
    };
    let visible = position(bytes)?;
    let is_known = flag(bytes)?;
    let durabilities = bytes.u64()?;
    let (trimmed, forgotten) = (trimmed(bytes)?, trimmed(bytes)?);
    let count = bytes.count().filter(|count| *count <= FORMER)?;
    let former = (0..count).map(|_| {
        Some(Former {
            mark: bytes.u32()?,
            until: bytes.varint()?,
        })
    });
    Some(Head {
        marks,
        visible,
        former: former.collect::<Option<_>>()?,
        durabilities: is_known.then_some(durabilities),
        trimmed,
        forgotten,
    })
}

fn channel(bytes: &mut Bytes<'_>) -> Option<Channel> {
    let name = ChannelName::in_realm(realm(bytes)?, bytes.slice()?).ok()?;
    let epoch = bytes.u64()?;
    let history = match flag(bytes)? {
        false => None,
        true => Some(History {
            offset: bytes.varint()?,
            last: position(bytes)?,
            trimmed: trimmed(bytes)?,
            of_site: flag(bytes)?,
        }),
    };
    Some(Channel { name, epoch, history })
}

fn publication(body: &Shared, mut bytes: Bytes<'_>) -> Option<Publication> {
    let flags = bytes.u8()?;
    let (at, time) = (position(&mut bytes)?, bytes.varint()?);
    let places = (0..bytes.count()?).map(|_| {
        let (channel, offset, keeps) = (place(&mut bytes)?, bytes.varint()?, bytes.u8()?);
        Some(Place {
            channel,
            offset,
            in_history: keeps & IN_HISTORY != 0,
            is_value: keeps & IS_VALUE != 0,
        })
    });
    let places = places.collect::<Option<_>>()?;
    let attributes = match flags & ATTRIBUTES != 0 {
        true => Some(Box::new(decode_attributes(Bytes(bytes.slice()?))?)),
        false => None,
    };
    let kind = match flags & PAYLOAD_KIND {
        0 => publication::Kind::Json,
        1 => publication::Kind::Text,
        _ => publication::Kind::Binary,
    };
    Some(Publication {
        source: match flags & DURABLE != 0 {
            true => Source::Durable,
            false => Source::Memory,
        },
        at,
        time,
        body: Body::Message {
            payload: Payload::stored(kind, body.slice_ref(bytes.0))?,
            attributes,
            retain: flags & RETAIN != 0,
        },
        places,
    })
}

fn key(bytes: &mut Bytes<'_>) -> Option<Key> {
    let (key, digest, time) = (bytes.text()?.into(), bytes.u64()?, bytes.varint()?);
    let at = position(bytes)?;
    let places = (0..bytes.count()?).map(|_| Some((place(bytes)?, bytes.varint()?)));
    let places = places.collect::<Option<_>>()?;
    Some(Key {
        key,
        digest,
        time,
        at,
        places,
    })
}

fn flag(bytes: &mut Bytes<'_>) -> Option<bool> {
    match bytes.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn place(bytes: &mut Bytes<'_>) -> Option<u32> {
    u32::try_from(bytes.varint()?).ok()
}

fn realm(bytes: &mut Bytes<'_>) -> Option<Realm> {
    Some(Realm(u16::try_from(bytes.varint()?).ok()?))
}

fn position(bytes: &mut Bytes<'_>) -> Option<Position> {
    let (durable, memory) = (bytes.varint()?, bytes.varint()?);
    let most = u64::MAX / 4;
    (durable <= most && memory <= most).then_some(Position { durable, memory })
}

fn trimmed(bytes: &mut Bytes<'_>) -> Option<Trimmed> {
    Some(Trimmed {
        durable: bytes.varint()?,
        memory: position(bytes)?,
    })
}
