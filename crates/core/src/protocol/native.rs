//! The native dialect: one JSON object for each thing shown, the same on every transport.
//!
//! Spec: `docs/protocol.md`. The transport adds the cursor and its frame, so what is shared between subscribers is shared.

pub mod command;
mod json;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::publication::{Attributes, Body, Kind, Payload, Publication};

pub use json::{json_number, json_string, json_value};

/// Appends the member `"channel":…`, and the exact bytes beside it where they are not UTF-8.
pub fn channel_member(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"channel\":");
    match std::str::from_utf8(name) {
        Ok(text) => json_string(text, out),
        Err(_) => {
            json_string(&String::from_utf8_lossy(name), out);
            out.extend_from_slice(b",\"channel_base64\":\"");
            base64(name, out);
            out.push(b'"');
        }
    }
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("four characters for each three bytes");
    out.truncate(start + written);
}

/// Appends the payload as a JSON value on one line.
pub fn payload_value(payload: &Payload, out: &mut Vec<u8>) {
    let bytes = payload.bytes();
    match payload.kind() {
        Kind::Json => json_value(bytes, out),
        Kind::Text => json_string(&String::from_utf8_lossy(bytes), out),
        Kind::Binary => {
            out.push(b'"');
            base64(bytes, out);
            out.push(b'"');
        }
    }
}

/// Appends the object of a publication as seen in one of its places, open at its end: `{"type":…,"data":…` without the
/// closing brace, so that the transport can add the cursor.
pub fn object(publication: &Publication, place: usize, out: &mut Vec<u8>) {
    head(publication, place, out);
    if let Body::Message { payload, .. } = &publication.body {
        out.extend_from_slice(b",\"data\":");
        payload_value(payload, out);
    }
}

/// The same without `data`: the header of a binary frame, whose payload follows as it is.
pub fn head(publication: &Publication, place: usize, out: &mut Vec<u8>) {
    let place = &publication.places[place.min(publication.places.len() - 1)];
    let kind: &[u8] = match &publication.body {
        Body::Message { .. } => b"publication",
        Body::Join { .. } => b"join",
        Body::Leave { .. } => b"leave",
        Body::Members { .. } => b"members",
    };
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind);
    out.extend_from_slice(b"\",");
    channel_member(place.channel.name.as_bytes(), out);
    match &publication.body {
        Body::Message {
            payload, attributes, ..
        } => {
            out.extend_from_slice(b",\"offset\":");
            json_number(place.offset, out);
            out.extend_from_slice(b",\"time\":");
            json_number(publication.time, out);
            if publication.places.len() > 1 {
                // Not which: the reader may not be allowed to know of them.
                out.extend_from_slice(b",\"several\":true");
            }
            match payload.kind() {
                Kind::Json => {}
                Kind::Text => out.extend_from_slice(b",\"kind\":\"text\""),
                Kind::Binary => out.extend_from_slice(b",\"kind\":\"binary\""),
            }
            if let Some(attributes) = attributes {
                attribute_members(attributes, out);
            }
        }
        Body::Join { user, info } => {
            text_member("user", user, out);
            if let Some(info) = info {
                out.extend_from_slice(b",\"info\":");
                json_value(info, out);
            }
        }
        Body::Leave { user } => text_member("user", user, out),
        Body::Members { count } => {
            out.extend_from_slice(b",\"count\":");
            json_number(u64::from(*count), out);
        }
    }
}

fn attribute_members(attributes: &Attributes, out: &mut Vec<u8>) {
    for (name, value) in [
        ("event", &attributes.event),
        ("id", &attributes.id),
        ("user", &attributes.user),
    ] {
        if let Some(value) = value {
            text_member(name, value, out);
        }
    }
    if !attributes.tags.is_empty() {
        out.extend_from_slice(b",\"tags\":{");
        for (index, (name, value)) in attributes.tags.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json_string(name, out);
            out.push(b':');
            json_string(value, out);
        }
        out.push(b'}');
    }
}

fn text_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json_string(value, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_payload_stays_on_one_line() {
        let payload = Payload::new(Kind::Json, Bytes::from_static(b"{\n \"a\":\r\n \"x\\ny\"}"), 1).unwrap();
        let mut out = Vec::new();
        payload_value(&payload, &mut out);
        assert!(!out.contains(&b'\n') && !out.contains(&b'\r'));
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::json!({"a": "x\ny"}));
    }

    #[test]
    fn a_name_that_is_no_text_is_given_exactly_beside() {
        let mut out = b"{".to_vec();
        channel_member(b"a\xff", &mut out);
        out.push(b'}');
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"channel": "a\u{fffd}", "channel_base64": "Yf8="})
        );
    }
}
