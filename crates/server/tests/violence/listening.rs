//! One client that listens over one transport: what a connection brings, and the cursor to come back with.

use std::io;
use std::time::Duration;

use serde_json::Value;

use super::chance::Chance;
use super::wire::{Door, Http, WebSocket, find};

/// A stream is never silent for so long: heartbeats come every 2 s.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// How a subscriber listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Sse,
    Stream,
    Poll,
    WebSocket,
    /// With `format=binary`.
    BinarySocket,
    /// A WebSocket that subscribes by commands, one channel after another, and comes back to each from its old place.
    Commands,
}

/// What a connection brings.
pub(super) enum Heard<'a> {
    /// An object, with the cursor that came beside it.
    Object(&'a Value, Option<&'a str>),
    /// An answer other than 200 or 101.
    Refused(u16, String),
    /// What is not in the protocol.
    Nonsense(String),
}

/// A client of one transport.
pub(super) struct Listening {
    pub(super) transport: Transport,
    pub(super) door: Door,
    /// What to listen to, as a query.
    pub(super) query: String,
    pub(super) cursor: Option<String>,
}

type Ear<'a> = &'a mut dyn FnMut(Heard<'_>) -> bool;

impl Listening {
    /// Listens until the connection ends, or the ear has enough (`false`).
    pub(super) fn connection(&mut self, chance: &mut Chance, ear: Ear<'_>) -> io::Result<()> {
        match self.transport {
            Transport::Sse | Transport::Stream => self.stream(chance, ear),
            Transport::Poll => self.polls(chance, ear),
            Transport::WebSocket | Transport::BinarySocket | Transport::Commands => self.socket(ear),
        }
    }

    fn path(&self, name: &str) -> String {
        match &self.cursor {
            Some(cursor) => format!("/v1/{name}?{}&cursor={cursor}", self.query),
            None => format!("/v1/{name}?{}", self.query),
        }
    }

    fn stream(&mut self, chance: &mut Chance, ear: Ear<'_>) -> io::Result<()> {
        let is_sse = self.transport == Transport::Sse;
        let mut path = self.path(if is_sse { "sse" } else { "stream" });
        let mut header = String::new();
        // As EventSource does; the cursor of the page stays in the query, and must lose.
        if let (true, Some(cursor)) = (is_sse && chance.one_in(2), &self.cursor) {
            header = format!("Last-Event-ID: {cursor}\r\n");
            path = format!("/v1/sse?{}&cursor=earliest", self.query);
        }
        let mut http = Http::connect(&self.door, SILENCE)?;
        let status = http.open("GET", &path, &header, b"")?;
        if status != 200 {
            let mut body = Vec::new();
            while http.piece(&mut body)? {}
            ear(Heard::Refused(
                status,
                String::from_utf8_lossy(&body).into_owned(),
            ));
            return Ok(());
        }
        let end: &[u8] = if is_sse { b"\n\n" } else { b"\n" };
        let mut received = Vec::new();
        while http.piece(&mut received)? {
            while let Some(at) = find(&received, end) {
                let piece: Vec<u8> = received.drain(..at + end.len()).collect();
                let text = String::from_utf8(piece).map_err(|_| io::ErrorKind::InvalidData)?;
                let go_on = if is_sse {
                    self.block(&text, ear)
                } else {
                    self.whole(serde_json::from_str(&text), &text, ear)
                };
                if !go_on {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &str, ear: Ear<'_>) -> bool {
        let (mut id, mut data) = (None, None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => data = Some(value),
                _ => {}
            }
        }
        let go_on = match data.map(serde_json::from_str::<Value>) {
            Some(Ok(object)) => ear(Heard::Object(&object, id.as_deref())),
            Some(Err(error)) => ear(Heard::Nonsense(format!("{error}: {block:?}"))),
            // A heartbeat.
            None => ear(Heard::Object(&Value::Null, id.as_deref())),
        };
        self.cursor = id.or(self.cursor.take());
        go_on
    }

    /// An object with its cursor in it.
    fn whole(&mut self, object: serde_json::Result<Value>, text: &str, ear: Ear<'_>) -> bool {
        match object {
            Ok(object) => {
                let cursor = object["cursor"].as_str();
                let go_on = ear(Heard::Object(&object, cursor));
                self.cursor = cursor.map(str::to_owned).or(self.cursor.take());
                go_on
            }
            Err(error) => ear(Heard::Nonsense(format!("{error}: {text:?}"))),
        }
    }

    fn polls(&mut self, chance: &mut Chance, ear: Ear<'_>) -> io::Result<()> {
        let mut http = Http::connect(&self.door, SILENCE)?;
        loop {
            let (wait, limit) = (chance.between(0, 1_500), chance.magnitude(1, 1_000));
            let mut path = self.path("poll");
            let mut header = String::new();
            if let (true, Some(cursor)) = (chance.one_in(2), &self.cursor) {
                header = format!("If-None-Match: \"{cursor}\"\r\n");
                path = format!("/v1/poll?{}", self.query);
            }
            let path = format!("{path}&wait_ms={wait}&limit={limit}");
            let answer = http.request("GET", &path, &header, b"")?;
            if let (304, false, Some(tag)) = (answer.status, header.is_empty(), http.etag()) {
                let go_on = ear(Heard::Object(&Value::Null, Some(&tag)));
                self.cursor = Some(tag);
                if !go_on {
                    return Ok(());
                }
                continue;
            }
            if answer.status != 200 {
                ear(Heard::Refused(answer.status, answer.text()));
                return Ok(());
            }
            let answer = answer.json()?;
            let cursor = answer["cursor"].as_str();
            // The whole answer counts, or nothing of it: its cursor covers all.
            let mut go_on = ear(Heard::Object(&Value::Null, cursor));
            for object in answer["publications"].as_array().into_iter().flatten() {
                go_on &= ear(Heard::Object(object, cursor));
            }
            self.cursor = cursor.map(str::to_owned).or(self.cursor.take());
            if !go_on || chance.one_in(10) {
                return Ok(());
            }
        }
    }

    fn socket(&mut self, ear: Ear<'_>) -> io::Result<()> {
        let mut path = self.path("ws");
        if self.transport == Transport::BinarySocket {
            path.push_str("&format=binary");
        }
        let mut socket = match open(&self.door, &path, ear)? {
            Some(socket) => socket,
            None => return Ok(()),
        };
        while let Some(object) = socket.next()? {
            if !self.whole(Ok(object), "", ear) {
                break;
            }
        }
        Ok(())
    }
}

/// Opens a WebSocket; `None` if it was refused, which the ear has heard.
pub(super) fn open(door: &Door, path: &str, ear: Ear<'_>) -> io::Result<Option<WebSocket>> {
    match WebSocket::connect(door, path, SILENCE)? {
        Ok(socket) => Ok(Some(socket)),
        Err(answer) => {
            ear(Heard::Refused(answer.status, answer.text()));
            Ok(None)
        }
    }
}
