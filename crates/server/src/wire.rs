//! The formats in which the native dialect's objects travel: which transport, framed how.
//!
//! An object comes open at its end (`{"type":…`), so that the cursor can be added where it travels inside.
//!
//! A block of server-sent events is laid out so that the libraries of all languages read it alike. It always has `data:`,
//! as many forget an `id:` without. The `id:` comes last: a block that was cut off then has not moved its reader on.
//! What no page wants to see has an event name of its own, and never becomes a message.

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

/// The least `retry:` of an event stream, in milliseconds: some clients take the word at its word, thousands of times a second.
const LEAST_RETRY_MS: u64 = 1_000;

/// How many formats there are.
pub const FORMATS: usize = 7;

impl Format {
    /// Are these server-sent events?
    pub fn is_events(self) -> bool {
        matches!(self, Format::SseChunked | Format::SsePlain)
    }
}

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
                event_block(open, cursor, content);
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
        let open = b"{\"type\":\"cursor\"";
        if !format.is_events() {
            return self.object(format, open, Some(cursor), out);
        }
        let content = &mut self.content;
        content.clear();
        content.extend_from_slice(CURSOR_EVENT);
        event_block(open, Some(cursor), content);
        frame(format, content, out);
    }

    /// Appends what opens a stream: how long nothing may come before the next heartbeat, and its first cursor. Event
    /// streams may have none yet, and say besides when to come back after a cut: after `retry_ms`, or later.
    pub fn opening(
        &mut self,
        format: Format,
        heartbeat_ms: u64,
        retry_ms: u64,
        cursor: Option<Cursor>,
        out: &mut Vec<u8>,
    ) {
        let mut open = b"{\"type\":\"cursor\",\"heartbeat_ms\":".to_vec();
        native::json_number(heartbeat_ms, &mut open);
        if !format.is_events() {
            return self.object(format, &open, cursor, out);
        }
        let content = &mut self.content;
        content.clear();
        retry_line(retry_ms, content);
        content.extend_from_slice(CURSOR_EVENT);
        event_block(&open, cursor, content);
        frame(format, content, out);
    }

    /// Appends the news that the client should come back later, and where from. What knows nothing but `retry:` comes
    /// back after a second at the earliest.
    pub fn reconnect(&mut self, format: Format, after_ms: u64, cursor: Cursor, out: &mut Vec<u8>) {
        let mut open = b"{\"type\":\"reconnect\",\"after_ms\":".to_vec();
        native::json_number(after_ms, &mut open);
        if !format.is_events() {
            return self.object(format, &open, Some(cursor), out);
        }
        let content = &mut self.content;
        content.clear();
        retry_line(after_ms, content);
        event_block(&open, Some(cursor), content);
        frame(format, content, out);
    }
}

/// The line that keeps a block from being a message: only those who ask for events of this name see it.
const CURSOR_EVENT: &[u8] = b"event: cursor\n";

/// Appends the line that says when to come back after a cut.
fn retry_line(retry_ms: u64, content: &mut Vec<u8>) {
    content.extend_from_slice(b"retry: ");
    native::json_number(retry_ms.max(LEAST_RETRY_MS), content);
    content.push(b'\n');
}

/// Appends a block with an object that is open at its end.
fn event_block(open: &[u8], cursor: Option<Cursor>, content: &mut Vec<u8>) {
    content.extend_from_slice(b"data: ");
    content.extend_from_slice(open);
    content.extend_from_slice(b"}\n");
    if let Some(cursor) = cursor {
        content.extend_from_slice(b"id: ");
        cursor.write(content);
        content.push(b'\n');
    }
    content.push(b'\n');
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
