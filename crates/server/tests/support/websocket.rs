//! Just enough of a WebSocket client (RFC 6455): masked frames out, frames in, pings answered.

use serde_json::{Value, json};

use super::http::{Answer, Http, Place};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A connection after its handshake.
#[derive(Debug)]
pub struct WebSocket {
    pub http: Http,
    /// Pings that came, each answered.
    pub pings: usize,
    /// The bare bytes that came with the last binary frame.
    pub payload: Vec<u8>,
}

/// What came.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Object(Value),
    Pong(Vec<u8>),
    /// The peer closes, with this code and reason.
    Close(u16, String),
    /// The peer is gone without a word.
    End,
}

impl WebSocket {
    /// Connects and shakes hands.
    pub fn open(place: &Place, query: &str) -> Self {
        Self::open_on(place.connect(), query)
    }

    /// Shakes hands on a connection that is there already.
    pub fn open_on(http: Http, query: &str) -> Self {
        let (socket, answer) = Self::try_open_on(http, query, &[]);
        assert_eq!(answer.status, 101, "{answer:?}");
        let accept = answer.header("sec-websocket-accept");
        assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455, 1.3");
        socket
    }

    /// Asks for the upgrade; the answer's body is not read.
    pub fn try_open(place: &Place, query: &str, headers: &[(&str, &str)]) -> (Self, Answer) {
        Self::try_open_on(place.connect(), query, headers)
    }

    fn try_open_on(mut http: Http, query: &str, headers: &[(&str, &str)]) -> (Self, Answer) {
        let mut all = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        all.extend_from_slice(headers);
        http.ask("GET", &format!("/v1/ws?{query}"), &all, b"");
        let answer = http.head();
        let socket = Self {
            http,
            pings: 0,
            payload: Vec::new(),
        };
        (socket, answer)
    }

    /// Sends a command.
    pub fn say(&mut self, command: &Value) {
        self.send(TEXT, command.to_string().as_bytes());
    }

    /// Sends text that may be no command at all.
    pub fn say_text(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
    }

    /// Sends a command in the binary format.
    pub fn say_binary(&mut self, header: &Value, payload: &[u8]) {
        let header = header.to_string();
        let mut content = u32::try_from(header.len()).unwrap().to_be_bytes().to_vec();
        content.extend_from_slice(header.as_bytes());
        content.extend_from_slice(payload);
        self.send(BINARY, &content);
    }

    /// Sends a command, and reads up to its answer; what else comes meanwhile is left out.
    pub fn ask(&mut self, command: Value) -> Value {
        self.say(&command);
        self.answer_to(&command["id"])
    }

    /// Reads up to the answer to the command with this `id`.
    pub fn answer_to(&mut self, id: &Value) -> Value {
        loop {
            let object = self.next();
            if object.get("id") == Some(id) && object["type"] != "publication" {
                return object;
            }
        }
    }

    /// A ping that is answered proves that everything before it was dealt with; returns what came before the answer.
    pub fn settle(&mut self) -> Vec<Value> {
        self.say(&json!({"type": "ping", "id": "settle"}));
        let mut before = Vec::new();
        loop {
            let object = self.next();
            if object["type"] == "pong" && object["id"] == "settle" {
                return before;
            }
            before.push(object);
        }
    }

    /// The next object.
    pub fn next(&mut self) -> Value {
        match self.frame() {
            Frame::Object(object) => object,
            other => panic!("instead of an object: {other:?}"),
        }
    }

    /// The next object of this type; heartbeats before it are left out, anything else is an error.
    pub fn expect(&mut self, kind: &str) -> Value {
        loop {
            let object = self.next();
            if object["type"] == kind {
                return object;
            }
            assert_eq!(object["type"], "cursor", "instead of {kind}: {object}");
        }
    }

    /// Whatever comes next.
    pub fn frame(&mut self) -> Frame {
        loop {
            let Some(head) = self.http.bytes(2) else {
                return Frame::End;
            };
            assert_eq!(head[0] & 0xf0, 0x80, "one whole frame, no extension");
            assert_eq!(head[1] & 0x80, 0, "a server does not mask");
            let length = match head[1] {
                126 => self.number(2),
                127 => self.number(8),
                short => usize::from(short),
            };
            let content = self
                .http
                .bytes(length)
                .expect("the connection ended within a frame");
            match head[0] & 0x0f {
                TEXT => return Frame::Object(serde_json::from_slice(&content).unwrap()),
                BINARY => return Frame::Object(self.binary(&content)),
                PING => {
                    self.pings += 1;
                    self.send(PONG, &content);
                }
                PONG => return Frame::Pong(content),
                CLOSE => {
                    let (code, reason) = content.split_first_chunk::<2>().expect("a code");
                    let reason = String::from_utf8(reason.to_vec()).unwrap();
                    return Frame::Close(u16::from_be_bytes(*code), reason);
                }
                opcode => panic!("opcode {opcode}"),
            }
        }
    }

    fn number(&mut self, bytes: usize) -> usize {
        let bytes = self
            .http
            .bytes(bytes)
            .expect("the connection ended within a frame");
        bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    fn binary(&mut self, content: &[u8]) -> Value {
        let (length, rest) = content.split_first_chunk::<4>().unwrap();
        let (header, payload) = rest.split_at(usize::try_from(u32::from_be_bytes(*length)).unwrap());
        self.payload = payload.to_vec();
        serde_json::from_slice(header).unwrap()
    }

    /// Sends one masked frame.
    pub fn send(&mut self, opcode: u8, content: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match content.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            middle @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(middle as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(
            content
                .iter()
                .enumerate()
                .map(|(index, byte)| byte ^ MASK[index % 4]),
        );
        self.http.send(&frame);
    }
}
