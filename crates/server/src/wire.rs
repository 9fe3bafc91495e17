//! The formats in which the native dialect's objects travel: which transport, framed how.
//!
//! An object comes open at its end (`{"type":…`), so that the cursor can be added where it travels inside.

use cometserver_core::Cursor;
use cometserver_core::protocol::native;
use cometserver_core::publication::{Body, Publication};

use crate::http::response;
use crate::websocket::{self, Opcode};

/// One way of framing. Subscribers of one format share every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Server-sent events in HTTP chunks.
    SseChunked,
    /// Server-sent events until the connection closes (HTTP/1.0).
    SsePlain,
    /// JSON lines in HTTP chunks.
    LinesChunked,
    /// JSON lines until the connection closes (HTTP/1.0).
    LinesPlain,
    /// WebSocket text frames.
    WebSocketText,
    /// WebSocket binary frames: a header and the bare payload.
    WebSocketBinary,
    /// Members of a poll's list, each followed by a comma.
    Poll,
}

/// How many formats there are.
pub const FORMATS: usize = 7;

/// Writes frames; keeps its room.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Lengths come before contents: a frame is put together here first.
    content: Vec<u8>,
    header: Vec<u8>,
}

impl Encoder {
    /// Appends a publication as seen in one of its places.
    pub fn publication(
        &mut self,
        format: Format,
        publication: &Publication,
        place: usize,
        cursor: Option<Cursor>,
        out: &mut Vec<u8>,
    ) {
        let mut open = std::mem::take(&mut self.header);
        open.clear();
        match (&publication.body, format) {
            (Body::Message { payload, .. }, Format::WebSocketBinary) => {
                native::head(publication, place, &mut open);
                self.binary(&mut open, payload.bytes(), cursor, out);
            }
            _ => {
                native::object(publication, place, &mut open);
                self.object(format, &open, cursor, out);
            }
        }
        self.header = open;
    }

    fn binary(&mut self, head: &mut Vec<u8>, payload: &[u8], cursor: Option<Cursor>, out: &mut Vec<u8>) {
        close_object(head, cursor);
        websocket::header(Opcode::Binary, 4 + head.len() + payload.len(), out);
        out.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(head);
        out.extend_from_slice(payload);
    }

    /// Appends any other object, open at its end.
    pub fn object(&mut self, format: Format, open: &[u8], cursor: Option<Cursor>, out: &mut Vec<u8>) {
        let content = &mut self.content;
        content.clear();
        match format {
            Format::SseChunked | Format::SsePlain => {
                if let Some(cursor) = cursor {
                    content.extend_from_slice(b"id: ");
                    cursor.write(content);
                    content.push(b'\n');
                }
                content.extend_from_slice(b"data: ");
                content.extend_from_slice(open);
                content.extend_from_slice(b"}\n\n");
            }
            Format::LinesChunked | Format::LinesPlain => {
                content.extend_from_slice(open);
                close_object(content, cursor);
                content.push(b'\n');
            }
            Format::WebSocketText => {
                content.extend_from_slice(open);
                close_object(content, cursor);
            }
            Format::WebSocketBinary => {
                content.extend_from_slice(open);
                let mut head = std::mem::take(content);
                self.binary(&mut head, &[], cursor, out);
                self.content = head;
                return;
            }
            Format::Poll => {
                out.extend_from_slice(open);
                out.extend_from_slice(b"},");
                return;
            }
        }
        frame(format, content, out);
    }

    /// Appends what is sent when nothing else is: the cursor.
    pub fn heartbeat(&mut self, format: Format, cursor: Cursor, out: &mut Vec<u8>) {
        match format {
            Format::SseChunked | Format::SsePlain => {
                let content = &mut self.content;
                content.clear();
                content.extend_from_slice(b"id: ");
                cursor.write(content);
                content.extend_from_slice(b"\n\n");
                frame(format, content, out);
            }
            _ => self.object(format, b"{\"type\":\"cursor\"", Some(cursor), out),
        }
    }

    /// Appends the first cursor of a stream, and how long nothing may come before the next.
    ///
    /// In server-sent events only the cursor: what opens them has said the rest.
    pub fn opening(&mut self, format: Format, heartbeat_ms: u64, cursor: Cursor, out: &mut Vec<u8>) {
        if matches!(format, Format::SseChunked | Format::SsePlain) {
            return self.heartbeat(format, cursor, out);
        }
        let mut open = b"{\"type\":\"cursor\",\"heartbeat_ms\":".to_vec();
        native::json_number(heartbeat_ms, &mut open);
        self.object(format, &open, Some(cursor), out);
    }

    /// Appends the news that the client should come back later, and where from.
    pub fn reconnect(&mut self, format: Format, after_ms: u64, cursor: Cursor, out: &mut Vec<u8>) {
        let mut open = b"{\"type\":\"reconnect\",\"after_ms\":".to_vec();
        native::json_number(after_ms, &mut open);
        if matches!(format, Format::SseChunked | Format::SsePlain) {
            let content = &mut self.content;
            content.clear();
            content.extend_from_slice(b"retry: ");
            native::json_number(after_ms, content);
            content.push(b'\n');
            frame(format, content, out);
        }
        self.object(format, &open, Some(cursor), out);
    }
}

/// Ends an object, with the cursor as its last member.
fn close_object(object: &mut Vec<u8>, cursor: Option<Cursor>) {
    if let Some(cursor) = cursor {
        object.extend_from_slice(b",\"cursor\":\"");
        cursor.write(object);
        object.push(b'"');
    }
    object.push(b'}');
}

/// Puts the transport's frame around content.
pub fn frame(format: Format, content: &[u8], out: &mut Vec<u8>) {
    match format {
        Format::SseChunked | Format::LinesChunked => response::chunk(content, out),
        Format::SsePlain | Format::LinesPlain | Format::Poll => out.extend_from_slice(content),
        Format::WebSocketText => websocket::frame(Opcode::Text, content, out),
        Format::WebSocketBinary => websocket::frame(Opcode::Binary, content, out),
    }
}
