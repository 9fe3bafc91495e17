//! What few messages carry, as bytes.

use bytes::Bytes as Shared;
use cometserver_core::publication::{Attributes, Writer};

use super::bytes::{Bytes, put_slice, put_varint};

const EVENT: u8 = 1;
const ID: u8 = 1 << 1;
const USER: u8 = 1 << 2;
const SESSION: u8 = 1 << 3;
const WRITER: u8 = 1 << 4;

/// Appends them.
pub fn put_attributes(to: &mut Vec<u8>, attributes: &Attributes) {
    let texts = [
        (EVENT, &attributes.event),
        (ID, &attributes.id),
        (USER, &attributes.user),
        (SESSION, &attributes.exclude_session),
    ];
    let mut flags = texts
        .iter()
        .filter(|(_, text)| text.is_some())
        .fold(0, |flags, (flag, _)| flags | flag);
    if attributes.writer.is_some() {
        flags |= WRITER;
    }
    to.push(flags);
    for text in texts.iter().filter_map(|(_, text)| text.as_deref()) {
        put_slice(to, text.as_bytes());
    }
    match &attributes.writer {
        Some(Writer::Cli) => to.push(0),
        Some(Writer::Web) => to.push(1),
        Some(Writer::Token(token)) => {
            to.push(2);
            put_slice(to, token);
        }
        None => {}
    }
    put_varint(to, attributes.tags.len() as u64);
    for (name, value) in &attributes.tags {
        put_slice(to, name.as_bytes());
        put_slice(to, value.as_bytes());
    }
}

/// Reads them; none if they make no sense.
pub fn decode_attributes(mut bytes: Bytes<'_>) -> Option<Attributes> {
    let flags = bytes.u8()?;
    let mut text = |flag| match flags & flag != 0 {
        true => bytes.text().map(|text| Some(Box::from(text))),
        false => Some(None),
    };
    let mut attributes = Attributes {
        event: text(EVENT)?,
        id: text(ID)?,
        user: text(USER)?,
        exclude_session: text(SESSION)?,
        ..Attributes::default()
    };
    if flags & WRITER != 0 {
        attributes.writer = Some(match bytes.u8()? {
            0 => Writer::Cli,
            1 => Writer::Web,
            _ => Writer::Token(Shared::copy_from_slice(bytes.slice()?)),
        });
    }
    for _ in 0..bytes.count()? {
        attributes.tags.push((bytes.text()?.into(), bytes.text()?.into()));
    }
    Some(attributes)
}
