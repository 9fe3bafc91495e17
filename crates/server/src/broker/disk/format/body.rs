//! What records say.

use bytes::Bytes as Shared;
use cometserver_core::Time;
use cometserver_core::broker::{Delete, Stored};
use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::publication::{self, Message, Payload};

use super::attributes::{decode_attributes, put_attributes};
use super::bytes::{Bytes, put_slice, put_varint};
use super::concerned::Concerned;
use super::start::{Loss, Mark, Opening};

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A publication, with the position that it was given.
    Publication = 1,
    /// A publication that was copied forward from a segment to be removed.
    Kept = 2,
    /// The server started.
    Mark = 3,
    /// Something of a channel was deleted.
    Deleted = 4,
    /// What is known of a channel whose newest publication is no longer kept.
    Channel = 5,
    /// How everything stood when the segment was begun.
    Opening = 6,
    /// A segment is no longer part of the log.
    Removed = 7,
    /// An idempotency key whose publication is no longer kept.
    Key = 8,
    /// Of a channel's history nothing is kept up to here, though copies of it may still be found.
    Trimmed = 9,
    /// Which channels' publishers are answered before their publications are safe, from here on. Since version 2.
    Buffered = 10,
    /// Of some channels something may be missing that was answered and never written. Since version 2.
    Lost = 11,
}

/// All kinds.
pub const KINDS: [Kind; 11] = [
    Kind::Publication,
    Kind::Kept,
    Kind::Mark,
    Kind::Deleted,
    Kind::Channel,
    Kind::Opening,
    Kind::Removed,
    Kind::Key,
    Kind::Trimmed,
    Kind::Buffered,
    Kind::Lost,
];

/// The channel still has the publication in its history.
pub const IN_HISTORY: u8 = 1;
/// It is the channel's retained value.
pub const IS_RETAINED: u8 = 2;

const PAYLOAD_KIND: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const ATTRIBUTES: u8 = 1 << 3;
const KEY: u8 = 1 << 4;

/// A record's body, read as far as recovery needs it.
#[derive(Debug)]
pub enum Body<'a> {
    /// See [`Kind::Publication`] and [`Kind::Kept`].
    Publication(Publication<'a>),
    /// See [`Kind::Mark`].
    Mark(Mark),
    /// See [`Kind::Deleted`].
    Deleted(Deleted<'a>),
    /// See [`Kind::Channel`].
    Channel(Channel<'a>),
    /// See [`Kind::Opening`].
    Opening(Opening),
    /// See [`Kind::Removed`].
    Removed {
        /// The segment's number.
        segment: u32,
        /// Of channels that were forgotten with it something up to here may be gone.
        forgotten: u64,
    },
    /// See [`Kind::Key`].
    Key(Key<'a>),
    /// See [`Kind::Trimmed`].
    Trimmed(Trimmed<'a>),
    /// See [`Kind::Buffered`].
    Buffered(Concerned),
    /// See [`Kind::Lost`].
    Lost(Loss),
}

/// A channel's part of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Identity of its history.
    pub epoch: u64,
    /// The offset in it.
    pub offset: u64,
    /// The position of the channel's publication before it; 0: none. What is gone between two is seen by it.
    pub previous: u64,
    /// [`IN_HISTORY`], [`IS_RETAINED`].
    pub state: u8,
    /// The channel's realm.
    pub realm: Realm,
    /// The channel's name.
    pub name: &'a [u8],
}

/// A publication, or one copied forward.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Was it copied forward?
    pub kept: bool,
    /// Its position.
    pub position: u64,
    /// When it was published.
    pub time: Time,
    /// How many places there are.
    pub count: usize,
    flags: u8,
    places: Bytes<'a>,
    rest: Bytes<'a>,
}

/// A deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted<'a> {
    /// The position that the log had reached.
    pub position: u64,
    /// What was deleted.
    pub what: Delete,
    /// The position of the value deleted, if a value was.
    pub value: u64,
    /// The channel.
    pub channel: Channel<'a>,
}

/// What is known of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel<'a> {
    /// Identity of its history.
    pub epoch: u64,
    /// The newest offset.
    pub offset: u64,
    /// The position of the newest publication.
    pub last: u64,
    /// The position of the newest that is gone.
    pub gone: u64,
    /// The channel's realm.
    pub realm: Realm,
    /// The channel's name.
    pub name: &'a [u8],
}

/// How far a channel's history was trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed<'a> {
    /// Identity of the history.
    pub epoch: u64,
    /// Nothing of it is kept up to this position, but for the retained value.
    pub floor: u64,
    /// The channel's realm.
    pub realm: Realm,
    /// The channel's name.
    pub name: &'a [u8],
}

/// An idempotency key.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key.
    pub key: &'a str,
    /// The digest of the payload.
    pub digest: u64,
    /// When it was used.
    pub time: Time,
    /// The position of what was published under it.
    pub position: u64,
    count: usize,
    places: Bytes<'a>,
}

/// Reads a body; none if it makes no sense.
pub fn decode(body: &[u8]) -> Option<Body<'_>> {
    let mut bytes = Bytes(body);
    let kind = bytes.u8()?;
    let kind = *KINDS.iter().find(|known| **known as u8 == kind)?;
    Some(match kind {
        Kind::Publication | Kind::Kept => Body::Publication(Publication::decode(kind == Kind::Kept, bytes)?),
        Kind::Mark => Body::Mark(Mark::decode(bytes)?),
        Kind::Deleted => Body::Deleted(Deleted {
            position: bytes.u64()?,
            what: if bytes.u8()? == 0 {
                Delete::Retained
            } else {
                Delete::History
            },
            value: bytes.u64()?,
            channel: channel(&mut bytes)?,
        }),
        Kind::Channel => Body::Channel(channel(&mut bytes)?),
        Kind::Opening => Body::Opening(Opening::decode(bytes)?),
        Kind::Removed => Body::Removed {
            segment: bytes.u32()?,
            forgotten: bytes.u64()?,
        },
        Kind::Key => Body::Key(Key::decode(bytes)?),
        Kind::Trimmed => Body::Trimmed(Trimmed {
            epoch: bytes.u64()?,
            floor: bytes.u64()?,
            realm: realm(&mut bytes)?,
            name: bytes.slice()?,
        }),
        Kind::Buffered => Body::Buffered(Concerned::decode(&mut bytes)?),
        Kind::Lost => Body::Lost(Loss::decode(&mut bytes)?),
    })
}

fn realm(bytes: &mut Bytes<'_>) -> Option<Realm> {
    Some(Realm(u16::try_from(bytes.varint()?).ok()?))
}

fn channel<'a>(bytes: &mut Bytes<'a>) -> Option<Channel<'a>> {
    Some(Channel {
        epoch: bytes.u64()?,
        offset: bytes.u64()?,
        last: bytes.u64()?,
        gone: bytes.u64()?,
        realm: realm(bytes)?,
        name: bytes.slice()?,
    })
}

fn put_channel(to: &mut Vec<u8>, channel: &Channel<'_>) {
    for number in [channel.epoch, channel.offset, channel.last, channel.gone] {
        to.extend_from_slice(&number.to_le_bytes());
    }
    put_varint(to, u64::from(channel.realm.0));
    put_slice(to, channel.name);
}

fn place<'a>(bytes: &mut Bytes<'a>, position: u64) -> Option<Place<'a>> {
    Some(Place {
        state: bytes.u8()?,
        epoch: bytes.u64()?,
        offset: bytes.varint()?,
        previous: position.checked_sub(bytes.varint()?)?,
        realm: realm(bytes)?,
        name: bytes.slice()?,
    })
}

fn put_place(to: &mut Vec<u8>, position: u64, place: &Place<'_>) {
    to.push(place.state);
    to.extend_from_slice(&place.epoch.to_le_bytes());
    put_varint(to, place.offset);
    put_varint(to, position - place.previous);
    put_varint(to, u64::from(place.realm.0));
    put_slice(to, place.name);
}

fn name_of(place: &Place<'_>) -> Option<ChannelName> {
    ChannelName::in_realm(place.realm, place.name).ok()
}

impl<'a> Publication<'a> {
    fn decode(kept: bool, mut bytes: Bytes<'a>) -> Option<Self> {
        let (position, time, flags) = (bytes.u64()?, bytes.u64()?, bytes.u8()?);
        let count = bytes.count()?;
        let places = bytes;
        for _ in 0..count {
            place(&mut bytes, position)?;
        }
        Some(Self {
            kept,
            position,
            time,
            count,
            flags,
            places,
            rest: bytes,
        })
    }

    /// Was it published to be retained?
    pub fn is_retain(&self) -> bool {
        self.flags & RETAIN != 0
    }

    /// Its places.
    pub fn places(&self) -> impl Iterator<Item = Place<'a>> + use<'a> {
        let (mut bytes, position) = (self.places, self.position);
        (0..self.count).map_while(move |_| place(&mut bytes, position))
    }

    /// The channels published to, with the offset in each.
    pub fn names(&self) -> Option<Vec<(ChannelName, u64)>> {
        self.places()
            .map(|place| Some((name_of(&place)?, place.offset)))
            .collect()
    }

    /// The idempotency key, if it came with one.
    pub fn key(&self) -> Option<&'a str> {
        let mut rest = self.rest;
        (self.flags & KEY != 0).then(|| rest.text()).flatten()
    }

    /// The bytes of the payload.
    pub fn payload(&self) -> Option<&'a [u8]> {
        let mut rest = self.rest;
        if self.flags & KEY != 0 {
            rest.slice()?;
        }
        if self.flags & ATTRIBUTES != 0 {
            rest.slice()?;
        }
        Some(rest.0)
    }

    /// All of it, to be shown. The payload is a part of `record`, which `self` was read from, and is not copied again.
    pub fn stored(&self, record: &Shared) -> Option<Stored> {
        let mut rest = self.rest;
        if self.flags & KEY != 0 {
            rest.slice()?;
        }
        let attributes = match self.flags & ATTRIBUTES != 0 {
            true => Some(Box::new(decode_attributes(Bytes(rest.slice()?))?)),
            false => None,
        };
        let kind = match self.flags & PAYLOAD_KIND {
            0 => publication::Kind::Json,
            1 => publication::Kind::Text,
            _ => publication::Kind::Binary,
        };
        Some(Stored {
            position: self.position,
            time: self.time,
            places: self.names()?,
            body: publication::Body::Message {
                // Checked at the door; it costs little beside reading it, and nothing of another kind ever gets further.
                payload: Payload::stored(kind, record.slice_ref(rest.0))?,
                attributes,
                retain: self.is_retain(),
            },
        })
    }

    /// Appends the body of a copy with other states of its places, in their order.
    pub fn put_kept(&self, to: &mut Vec<u8>, states: &[u8]) {
        to.push(Kind::Kept as u8);
        to.extend_from_slice(&self.position.to_le_bytes());
        to.extend_from_slice(&self.time.to_le_bytes());
        to.push(self.flags);
        put_varint(to, self.count as u64);
        for (place, state) in self.places().zip(states) {
            put_place(
                to,
                self.position,
                &Place {
                    state: *state,
                    ..place
                },
            );
        }
        to.extend_from_slice(self.rest.0);
    }

    /// Appends the body of a [`Kind::Key`] record about it.
    pub fn put_key(&self, to: &mut Vec<u8>, key: &str, digest: u64) {
        to.push(Kind::Key as u8);
        for number in [self.position, self.time, digest] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        put_slice(to, key.as_bytes());
        put_varint(to, self.count as u64);
        for place in self.places() {
            put_place(to, self.position, &place);
        }
    }
}

impl<'a> Key<'a> {
    fn decode(mut bytes: Bytes<'a>) -> Option<Self> {
        Some(Self {
            position: bytes.u64()?,
            time: bytes.u64()?,
            digest: bytes.u64()?,
            key: bytes.text()?,
            count: bytes.count()?,
            places: bytes,
        })
    }

    /// The channels published to, with the offset in each.
    pub fn places(&self) -> Option<Vec<(ChannelName, u64)>> {
        let mut bytes = self.places;
        (0..self.count)
            .map(|_| {
                place(&mut bytes, self.position).and_then(|place| Some((name_of(&place)?, place.offset)))
            })
            .collect()
    }
}

/// Appends the body of a publication.
pub fn put_publication(to: &mut Vec<u8>, position: u64, time: Time, places: &[Place<'_>], message: &Message) {
    let kind = match message.payload.kind() {
        publication::Kind::Json => 0,
        publication::Kind::Text => 1,
        publication::Kind::Binary => 2,
    };
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    to.push(Kind::Publication as u8);
    to.extend_from_slice(&position.to_le_bytes());
    to.extend_from_slice(&time.to_le_bytes());
    to.push(
        kind | flag(message.retain, RETAIN)
            | flag(message.attributes.is_some(), ATTRIBUTES)
            | flag(message.idempotency_key.is_some(), KEY),
    );
    put_varint(to, places.len() as u64);
    for place in places {
        put_place(to, position, place);
    }
    if let Some(key) = &message.idempotency_key {
        put_slice(to, key.as_bytes());
    }
    if let Some(attributes) = &message.attributes {
        let mut encoded = Vec::new();
        put_attributes(&mut encoded, attributes);
        put_slice(to, &encoded);
    }
    to.extend_from_slice(message.payload.bytes());
}

/// Appends the body of a deletion.
pub fn put_deleted(to: &mut Vec<u8>, deleted: &Deleted<'_>) {
    to.push(Kind::Deleted as u8);
    to.extend_from_slice(&deleted.position.to_le_bytes());
    to.push(u8::from(deleted.what == Delete::History));
    to.extend_from_slice(&deleted.value.to_le_bytes());
    put_channel(to, &deleted.channel);
}

/// Appends the body of a channel's state.
pub fn put_channel_state(to: &mut Vec<u8>, channel: &Channel<'_>) {
    to.push(Kind::Channel as u8);
    put_channel(to, channel);
}

/// Appends the body of a channel's trimming.
pub fn put_trimmed(to: &mut Vec<u8>, trimmed: &Trimmed<'_>) {
    to.push(Kind::Trimmed as u8);
    to.extend_from_slice(&trimmed.epoch.to_le_bytes());
    to.extend_from_slice(&trimmed.floor.to_le_bytes());
    put_varint(to, u64::from(trimmed.realm.0));
    put_slice(to, trimmed.name);
}

/// Appends the body of a removal.
pub fn put_removed(to: &mut Vec<u8>, segment: u32, forgotten: u64) {
    to.push(Kind::Removed as u8);
    to.extend_from_slice(&segment.to_le_bytes());
    to.extend_from_slice(&forgotten.to_le_bytes());
}
