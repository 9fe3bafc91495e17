//! A client's end of a connection, written against docs/protocol.md alone: everything may fail at any byte, nothing panics.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Where a client connects.
#[derive(Clone, Debug)]
pub(super) enum Door {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// A socket of either kind.
pub(super) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub(super) fn connect(door: &Door, patience: Duration) -> io::Result<Self> {
        Ok(match door {
            Door::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Self::Unix(stream)
            }
            Door::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Self::Tcp(stream)
            }
        })
    }
}

impl Socket {
    /// Ends both directions.
    pub(super) fn close(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for &Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match *self {
            Socket::Unix(stream) => (&mut &*stream).read(into),
            Socket::Tcp(stream) => (&mut &*stream).read(into),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match *self {
            Socket::Unix(stream) => (&mut &*stream).write(bytes),
            Socket::Tcp(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn broken(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, text.into())
}

fn cut() -> Error {
    ErrorKind::UnexpectedEof.into()
}

/// An answer of HTTP.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> io::Result<Value> {
        serde_json::from_slice(&self.body).map_err(|error| broken(format!("{error}: {}", self.text())))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How long a body is.
#[derive(Clone, Copy)]
enum Length {
    Bytes(usize),
    Chunked,
    ToTheEnd,
}

/// A connection that speaks HTTP/1.1, kept alive.
pub(super) struct Http {
    socket: Socket,
    received: Vec<u8>,
    length: Length,
    /// The head of the last answer, in small letters but for values.
    head: String,
}

impl Http {
    pub(super) fn connect(door: &Door, patience: Duration) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::connect(door, patience)?,
            received: Vec::new(),
            length: Length::Bytes(0),
            head: String::new(),
        })
    }

    pub(super) fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, "", b"")
    }

    pub(super) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Answer> {
        let status = self.open(method, path, headers, body)?;
        let mut whole = Vec::new();
        while self.piece(&mut whole)? {}
        Ok(Answer { status, body: whole })
    }

    /// Sends a request and reads the head of the answer. Headers end in CR LF each.
    pub(super) fn open(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<u16> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}").into_bytes();
        if method != "GET" {
            request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        (&self.socket).write_all(&request)?;
        let end = loop {
            match find(&self.received, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.receive()?,
            }
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        self.head = String::from_utf8_lossy(&head).into_owned();
        let head = self.head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or_else(|| broken(format!("no answer of HTTP: {head:?}")))?;
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        self.length = match (field("content-length:"), field("transfer-encoding:")) {
            _ if matches!(status, 101 | 204 | 304) => Length::Bytes(0),
            (_, Some(_)) => Length::Chunked,
            (Some(length), None) => Length::Bytes(length.parse().map_err(|_| broken(head))?),
            (None, None) => Length::ToTheEnd,
        };
        Ok(status)
    }

    /// The `ETag` of the last answer, without quotes.
    pub(super) fn etag(&self) -> Option<String> {
        let lines = self.head.lines();
        let mut fields = lines.filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case("etag"))?;
        Some(value.trim().trim_matches('"').to_owned())
    }

    /// Appends what comes next of the body; `false` at its end.
    pub(super) fn piece(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        match self.length {
            Length::Bytes(0) => Ok(false),
            Length::Bytes(left) => {
                if self.received.is_empty() {
                    self.receive()?;
                }
                let count = left.min(self.received.len());
                into.extend(self.received.drain(..count));
                self.length = Length::Bytes(left - count);
                Ok(true)
            }
            Length::Chunked => self.chunk(into),
            Length::ToTheEnd => {
                if self.received.is_empty() {
                    match self.receive() {
                        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
                        other => other?,
                    }
                }
                into.append(&mut self.received);
                Ok(true)
            }
        }
    }

    fn chunk(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let line = loop {
            match find(&self.received, b"\r\n") {
                Some(at) => break at,
                None => self.receive()?,
            }
        };
        let size = String::from_utf8_lossy(&self.received[..line]).into_owned();
        let size =
            usize::from_str_radix(size.trim(), 16).map_err(|_| broken(format!("chunk size {size:?}")))?;
        while self.received.len() < line + 2 + size + 2 {
            self.receive()?;
        }
        let chunk: Vec<u8> = self.received.drain(..line + 2 + size + 2).collect();
        into.extend_from_slice(&chunk[line + 2..line + 2 + size]);
        if size == 0 {
            self.length = Length::Bytes(0);
        }
        Ok(size > 0)
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        match (&self.socket).read(&mut buffer)? {
            0 => Err(cut()),
            count => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

/// A binary frame as the object it stands for: 4 bytes of length, a header in JSON, the payload as it is.
fn binary(frame: &[u8]) -> io::Result<Value> {
    let bad = || broken(format!("a binary frame: {:?}", String::from_utf8_lossy(frame)));
    let length = frame.first_chunk::<4>().ok_or_else(bad)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (header, payload) = frame[4..].split_at_checked(length).ok_or_else(bad)?;
    let mut object: Value = serde_json::from_slice(header).map_err(|_| bad())?;
    if object["type"] == "publication" {
        object["data"] = match object["kind"].as_str() {
            None => serde_json::from_slice(payload).map_err(|_| bad())?,
            Some("text") => String::from_utf8(payload.to_vec()).map_err(|_| bad())?.into(),
            Some(_) => STANDARD.encode(payload).into(),
        };
    }
    Ok(object)
}

/// A WebSocket; text frames only in our direction.
pub(super) struct WebSocket(Http);

impl WebSocket {
    /// Opens one, or gets the answer that says why not.
    pub(super) fn connect(door: &Door, path: &str, patience: Duration) -> io::Result<Result<Self, Answer>> {
        let mut http = Http::connect(door, patience)?;
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        match http.open("GET", path, headers, b"")? {
            101 => Ok(Ok(Self(http))),
            status => {
                let mut body = Vec::new();
                while http.piece(&mut body)? {}
                Ok(Err(Answer { status, body }))
            }
        }
    }

    pub(super) fn send(&mut self, text: &str) -> io::Result<()> {
        self.frame(0x81, text.as_bytes())
    }

    /// The next object; `None` when the server closes properly.
    pub(super) fn next(&mut self) -> io::Result<Option<Value>> {
        loop {
            let (opcode, payload) = self.read_frame()?;
            match opcode {
                1 => {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    return serde_json::from_slice(&payload)
                        .map(Some)
                        .map_err(|error| broken(format!("{error}: {text:?}")));
                }
                2 => return binary(&payload).map(Some),
                8 => return Ok(None),
                9 => self.frame(0x8a, &payload)?,
                10 => {}
                other => return Err(broken(format!("a frame of kind {other}"))),
            }
        }
    }

    fn frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        // Any mask will do; the server must not care.
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        (&self.0.socket).write_all(&frame)
    }

    fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        self.need(2)?;
        let head = [self.0.received[0], self.0.received[1]];
        if head[0] & 0xf0 != 0x80 || head[1] & 0x80 != 0 {
            return Err(broken(format!("a frame that begins {head:02x?}")));
        }
        let (start, length) = match head[1] {
            126 => {
                self.need(4)?;
                (
                    4,
                    usize::from(u16::from_be_bytes([self.0.received[2], self.0.received[3]])),
                )
            }
            127 => {
                self.need(10)?;
                let bytes: [u8; 8] = self.0.received[2..10].try_into().map_err(|_| cut())?;
                (10, u64::from_be_bytes(bytes) as usize)
            }
            length => (2, usize::from(length)),
        };
        self.need(start + length)?;
        let payload = self.0.received[start..start + length].to_vec();
        self.0.received.drain(..start + length);
        Ok((head[0] & 0x0f, payload))
    }

    fn need(&mut self, count: usize) -> io::Result<()> {
        while self.0.received.len() < count {
            self.0.receive()?;
        }
        Ok(())
    }
}

/// One request of the seed's protocol; the answer without its end.
pub(super) fn seed(door: &Door, request: &str, patience: Duration) -> io::Result<String> {
    let socket = Socket::connect(door, patience)?;
    let mut socket = &socket;
    socket.write_all(request.as_bytes())?;
    socket.write_all(b" \0")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    match answer.strip_suffix(b" \0") {
        Some(text) => Ok(String::from_utf8_lossy(text).into_owned()),
        None => Err(cut()),
    }
}

/// Percent-encodes for a query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
