//! Just enough of an HTTP client: one connection, blocking, every read under a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// Whatever a test waits for is there by then. Long enough for a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connected socket of either kind.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection, and what came and was not used yet.
#[derive(Debug)]
pub struct Http {
    pub socket: Socket,
    input: Vec<u8>,
    at: usize,
}

/// An answer whose body is whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Place {
    /// Connects.
    pub fn connect(&self) -> Http {
        let socket = self
            .try_connect()
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        Http::new(socket)
    }

    /// Connects, if somebody listens.
    pub fn try_connect(&self) -> std::io::Result<Socket> {
        Ok(match self {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                Socket::Tcp(stream)
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_write_timeout(Some(DEADLINE))?;
                Socket::Unix(stream)
            }
        })
    }
}

impl Http {
    /// On a connected socket.
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            input: Vec::new(),
            at: 0,
        }
    }

    /// Sends a request and reads its answer to the end.
    pub fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask(method, target, headers, body);
        self.answer()
    }

    /// Sends a request.
    pub fn ask(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: comet\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        self.send(&request);
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Reads an answer to its end.
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map(|text| text.parse().unwrap());
        answer.body = match length {
            Some(length) => self.bytes(length).expect("the connection ended within a body"),
            None if answer.is_chunked() => {
                let mut body = Vec::new();
                while let Some(chunk) = self.chunk() {
                    body.extend_from_slice(&chunk);
                }
                body
            }
            None if answer.status == 204 || answer.status == 304 || answer.status < 200 => Vec::new(),
            None => self.read_to_end(),
        };
        answer
    }

    /// Reads an answer's head; its body is left to the caller.
    pub fn head(&mut self) -> Answer {
        let first = self.line().expect("the connection ended without an answer");
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .unwrap_or_else(|| panic!("no answer: {first:?}"))[..3]
            .parse()
            .unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().expect("the connection ended within a head");
            let Some((name, value)) = line.split_once(':') else {
                assert_eq!(line, "");
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer {
            status,
            headers,
            body: Vec::new(),
        }
    }

    /// The next chunk; `None`: it was the last.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = self.line().expect("the connection ended within a chunked body");
        let length = usize::from_str_radix(&length, 16).unwrap_or_else(|_| panic!("no chunk: {length:?}"));
        let chunk = self.bytes(length).expect("the connection ended within a chunk");
        assert_eq!(self.line().as_deref(), Some(""), "behind a chunk");
        (length > 0).then_some(chunk)
    }

    /// A line without its end; `None`: the peer has closed.
    pub fn line(&mut self) -> Option<String> {
        loop {
            let rest = &self.input[self.at..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
                let line = String::from_utf8(line.to_vec()).unwrap();
                self.at += end + 1;
                return Some(line);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Exactly so many bytes; `None`: the peer has closed before.
    pub fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.input.len() - self.at < count {
            if !self.fill() {
                return None;
            }
        }
        let bytes = self.input[self.at..self.at + count].to_vec();
        self.at += count;
        Some(bytes)
    }

    /// Everything until the peer closes.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        self.input.split_off(std::mem::take(&mut self.at))
    }

    /// Has the peer closed, with nothing left unread?
    pub fn is_at_end(&mut self) -> bool {
        self.at == self.input.len() && !self.fill()
    }

    fn fill(&mut self) -> bool {
        self.input.drain(..std::mem::take(&mut self.at));
        let mut room = [0; 16 << 10];
        loop {
            match self.socket.read(&mut room) {
                Ok(0) => return false,
                Ok(read) => {
                    self.input.extend_from_slice(&room[..read]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    panic!("nothing came within {DEADLINE:?}; unused: {:?}", self.unused());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn unused(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.input)
    }
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(into),
            Socket::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// Percent-encodes a value for a query.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
