//! One client that listens, whatever the transport: objects and the cursor.

use std::collections::VecDeque;

use serde_json::Value;

use super::http::{Http, Place, encode};
use super::websocket::{Frame, WebSocket};

/// The ways to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Sse,
    Stream,
    Poll,
}

/// All of them.
pub const TRANSPORTS: [Transport; 4] = [
    Transport::WebSocket,
    Transport::Sse,
    Transport::Stream,
    Transport::Poll,
];

/// A client that listens.
#[derive(Debug)]
pub struct Listener {
    pub transport: Transport,
    wire: Wire,
    query: String,
    cursor: String,
    /// The cursor once `ready` is used up.
    next_cursor: String,
    ready: VecDeque<Value>,
    /// When the server wants to see the client again, in milliseconds, as it said last.
    pub retry: Option<u64>,
    /// Heartbeats that came.
    pub heartbeats: usize,
}

/// What came.
#[derive(Debug, PartialEq)]
pub enum Came {
    Object(Value),
    /// The server has ended this; a WebSocket with a code.
    Ended(Option<u16>),
}

#[derive(Debug)]
enum Wire {
    WebSocket(Box<WebSocket>),
    /// Chunks of a stream, and what came of the next line or block.
    Chunks(Http, String),
    Poll(Http),
}

impl Transport {
    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Transport::WebSocket => "/v1/ws",
            Transport::Sse => "/v1/sse",
            Transport::Stream => "/v1/stream",
            Transport::Poll => "/v1/poll",
        }
    }
}

impl Listener {
    /// Opens it, and reads the cursor that comes first. (A poll without a cursor asks for the one of now.)
    pub fn open(place: Place, transport: Transport, query: &str) -> Self {
        let mut listener = Self::open_unread(place, transport, query);
        listener.read_first_cursor();
        listener
    }

    /// Opens it; a streaming one will not be read from before [`Listener::read_first_cursor`].
    pub fn open_unread(place: Place, transport: Transport, query: &str) -> Self {
        Self::open_on(place.connect(), transport, query)
    }

    /// The same on a connection that is there already.
    pub fn open_on(mut http: Http, transport: Transport, query: &str) -> Self {
        let wire = match transport {
            Transport::WebSocket => Wire::WebSocket(Box::new(WebSocket::open_on(http, query))),
            Transport::Poll => Wire::Poll(http),
            Transport::Sse | Transport::Stream => {
                http.ask("GET", &format!("{}?{query}", transport.path()), &[], b"");
                Wire::Chunks(http, String::new())
            }
        };
        Self {
            transport,
            wire,
            query: query.to_owned(),
            cursor: String::new(),
            next_cursor: String::new(),
            ready: VecDeque::new(),
            retry: None,
            heartbeats: 0,
        }
    }

    /// See [`Listener::open_unread`].
    pub fn read_first_cursor(&mut self) {
        match &mut self.wire {
            Wire::Poll(_) if self.query.contains("cursor=") => {
                // Where it starts is said already; the first poll is held as any other.
                let (before, after) = self.query.split_once("cursor=").unwrap();
                let (cursor, rest) = after.split_once('&').unwrap_or((after, ""));
                self.next_cursor = cursor.to_owned();
                self.query = format!("{before}{rest}");
            }
            Wire::Poll(_) => {
                let query = self.query.clone();
                let separator = if query.is_empty() { "" } else { "&" };
                self.poll(&format!("{query}{separator}wait_ms=0"));
            }
            Wire::Chunks(http, _) => {
                let answer = http.head();
                assert_eq!(
                    answer.status,
                    200,
                    "{answer:?}: {}",
                    String::from_utf8_lossy(&http.read_to_end())
                );
            }
            Wire::WebSocket(_) => {}
        }
        // Present values, or a gap, come before it where there are such: no cursor may hide them.
        while self.next_cursor.is_empty() {
            let ended = self.read();
            assert_eq!(ended, None, "{:?}: ended without a cursor", self.transport);
        }
        self.settle_cursor();
        self.heartbeats = 0;
    }

    /// The next object that is no heartbeat.
    pub fn next(&mut self) -> Value {
        match self.came() {
            Came::Object(object) => object,
            Came::Ended(code) => panic!("{:?} ended, code {code:?}", self.transport),
        }
    }

    /// The next so many publications' data; anything else is an error.
    pub fn data(&mut self, count: usize) -> Vec<Value> {
        let next = |_| {
            let mut object = self.next();
            assert_eq!(object["type"], "publication", "{object}");
            object["data"].take()
        };
        (0..count).map(next).collect()
    }

    /// Whatever comes next, heartbeats left out.
    pub fn came(&mut self) -> Came {
        loop {
            if let Some(object) = self.ready.pop_front() {
                self.settle_cursor();
                return Came::Object(object);
            }
            if let Some(ended) = self.read() {
                return Came::Ended(ended);
            }
            self.settle_cursor();
        }
    }

    /// Reads until a heartbeat has come; what else comes meanwhile stays to be read.
    pub fn wait_for_heartbeat(&mut self) {
        let before = self.heartbeats;
        while self.heartbeats == before {
            assert_eq!(self.read(), None, "ended");
        }
        self.settle_cursor();
    }

    /// Where it stands: behind everything that was taken from it.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// Cuts the connection. Returns the cursor from which to go on, and what had come as one with what was taken (a poll
    /// has one cursor for its whole answer).
    pub fn cut(mut self) -> (String, Vec<Value>) {
        let rest = self.ready.drain(..).collect();
        (self.next_cursor, rest)
    }

    /// Its HTTP connection, if it is a stream or a poll.
    pub fn http(&mut self) -> &mut Http {
        match &mut self.wire {
            Wire::Chunks(http, _) | Wire::Poll(http) => http,
            Wire::WebSocket(socket) => &mut socket.http,
        }
    }

    /// Its WebSocket, if it is one.
    pub fn websocket(&mut self) -> &mut WebSocket {
        match &mut self.wire {
            Wire::WebSocket(socket) => socket,
            other => panic!("not a WebSocket: {other:?}"),
        }
    }

    fn settle_cursor(&mut self) {
        if self.ready.is_empty() {
            self.cursor.clone_from(&self.next_cursor);
        }
    }

    /// Reads something more into `ready`, or learns that this has ended.
    fn read(&mut self) -> Option<Option<u16>> {
        match &mut self.wire {
            Wire::WebSocket(socket) => match socket.frame() {
                Frame::Object(object) => self.object(object),
                Frame::Pong(_) => {}
                Frame::Close(code, _) => return Some(Some(code)),
                Frame::End => return Some(None),
            },
            Wire::Chunks(http, text) => {
                let Some(chunk) = http.chunk() else {
                    return Some(None);
                };
                text.push_str(std::str::from_utf8(&chunk).unwrap());
                let end = if self.transport == Transport::Sse {
                    "\n\n"
                } else {
                    "\n"
                };
                let mut pieces: Vec<String> = text.split_inclusive(end).map(str::to_owned).collect();
                *text = match pieces.pop() {
                    Some(last) if !last.ends_with(end) => last,
                    Some(last) => {
                        pieces.push(last);
                        String::new()
                    }
                    None => String::new(),
                };
                for piece in pieces {
                    self.piece(&piece);
                }
            }
            Wire::Poll(_) => {
                let query = self.query.clone();
                let separator = if query.is_empty() { "" } else { "&" };
                let cursor = encode(&self.next_cursor);
                let before = self.next_cursor.clone();
                self.poll(&format!("{query}{separator}cursor={cursor}"));
                if self.ready.is_empty() {
                    // Nothing to poll for: either its time is up, or the server wants to be left alone.
                    self.heartbeats += 1;
                    assert!(!self.next_cursor.is_empty(), "after {before}");
                    if self.retry.is_some() {
                        return Some(None);
                    }
                }
            }
        }
        None
    }

    /// An SSE block or a line.
    fn piece(&mut self, piece: &str) {
        if self.transport == Transport::Stream {
            self.object(serde_json::from_str(piece).unwrap());
            return;
        }
        let mut data = None;
        for line in piece.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(": ")
                .unwrap_or_else(|| panic!("no SSE: {line:?}"));
            match name {
                "id" => value.clone_into(&mut self.next_cursor),
                "retry" => self.retry = Some(value.parse().unwrap()),
                "event" => assert_eq!(value, "cursor", "an event of its own"),
                "data" => data = Some(serde_json::from_str(value).unwrap()),
                _ => panic!("an SSE field of its own: {line:?}"),
            }
        }
        self.object(data.unwrap_or_else(|| panic!("a block without data: {piece:?}")));
    }

    fn object(&mut self, object: Value) {
        if let Some(cursor) = object.get("cursor") {
            cursor.as_str().unwrap().clone_into(&mut self.next_cursor);
        }
        match object["type"].as_str().unwrap() {
            "cursor" => self.heartbeats += 1,
            "reconnect" => {
                self.retry = Some(object["after_ms"].as_u64().unwrap());
                self.ready.push_back(object);
            }
            _ => self.ready.push_back(object),
        }
    }

    fn poll(&mut self, query: &str) {
        let Wire::Poll(http) = &mut self.wire else {
            panic!("not a poll")
        };
        let answer = http.request("GET", &format!("/v1/poll?{query}"), &[], b"");
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let answer = answer.json();
        answer["cursor"]
            .as_str()
            .unwrap()
            .clone_into(&mut self.next_cursor);
        self.retry = answer.get("retry_ms").map(|retry| retry.as_u64().unwrap());
        self.ready
            .extend(answer["publications"].as_array().unwrap().iter().cloned());
    }
}

/// A query that names these channels.
pub fn channels<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let named: Vec<String> = names
        .into_iter()
        .map(|name| format!("channel={}", encode(name)))
        .collect();
    named.join("&")
}
