//! A server in this process behind real sockets, and a client that writes requests byte by byte.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and all of it is test"
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cometserver::config::{Config, Sources};
use cometserver::http::query;
use cometserver::server::{Addresses, Options, Server};
use cometserver::shared::{Request, Shared};
use cometserver_core::action::Action;
use cometserver_core::token::{self, Claims, Rights};
use serde_json::Value;

/// Nothing here takes a second; whoever waits longer waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// The name from the protocol's first paragraph.
pub(crate) const ODD: &str = "a/b?c d&e%é";

pub(crate) const PUBLISHER: &str = "publisher-publisher-publisher";
pub(crate) const READER: &str = "reader-reader-reader-reader";
pub(crate) const ADMIN: &str = "admin-admin-admin-admin-admin";
pub(crate) const MONITOR: &str = "monitor-monitor-monitor-monitor";
pub(crate) const TOKEN_SECRET: &str = "0123456789abcdef0123456789abcdef-one";
pub(crate) const OLDER_SECRET: &str = "0123456789abcdef0123456789abcdef-two";

/// Several keys, two token secrets, and a namespace that is open.
pub(crate) const GUARDED: &str = r#"
[[keys]]
name = "publisher"
secret = "publisher-publisher-publisher"
actions = ["publish"]
[[keys]]
name = "reader"
secret = "reader-reader-reader-reader"
actions = ["subscribe", "history", "presence"]
[[keys]]
name = "admin"
secret = "admin-admin-admin-admin-admin"
actions = ["admin"]
[[keys]]
name = "monitor"
secret = "monitor-monitor-monitor-monitor"
actions = ["ops"]
[[tokens]]
name = "one"
secret = "0123456789abcdef0123456789abcdef-one"
[[tokens]]
name = "two"
secret = "0123456789abcdef0123456789abcdef-two"
[[namespaces]]
match = "public/**"
public = true
presence = true
anonymous_presence = true
[[namespaces]]
match = "open/**"
public = true
anonymous_publish = true
[[namespaces]]
match = "room/**"
presence = true
"#;

/// Everything is open to everybody.
pub(crate) const OPEN: &str = "[namespace_default]
public = true
anonymous_publish = true
presence = true
anonymous_presence = true
";

/// A server that ends with this value.
pub(crate) struct TestServer {
    pub(crate) addresses: Addresses,
    pub(crate) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl TestServer {
    /// With this configuration: tables, before which `data_dir` and two threads are written.
    pub(crate) fn start(toml: &str) -> Self {
        Self::start_with(toml, &[])
    }

    /// The same, with flags such as `("public.ops", "true")`.
    pub(crate) fn start_with(toml: &str, flags: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("comet.toml");
        std::fs::write(&file, toml).unwrap();
        let data = folder.path().join("data");
        let mut all = vec![
            ("data_dir".to_owned(), data.to_str().unwrap().to_owned()),
            ("threads".into(), "2".into()),
            ("public.listen".into(), "127.0.0.1:0".into()),
            ("shutdown.drain".into(), "2s".into()),
        ];
        all.extend(flags.iter().map(|(key, value)| ((*key).into(), (*value).into())));
        let sources = Sources {
            file: Some(file),
            env: Vec::new(),
            flags: all,
        };
        let loaded = Config::load(sources.clone()).unwrap_or_else(|error| panic!("{error}"));
        let options = Options {
            embedded: true,
            reload: Some(Box::new(move || Config::load(sources.clone()))),
            ..Options::default()
        };
        let server = Server::start(loaded.config, options).unwrap();
        let (addresses, shared) = (server.addresses().clone(), server.shared());
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self {
            addresses,
            shared,
            thread: Some(thread),
            folder,
        }
    }

    /// Reads another configuration file; returns what the server says of it.
    pub(crate) fn reload(&self, toml: &str) -> Value {
        std::fs::write(self.folder.path().join("comet.toml"), toml).unwrap();
        self.backend().post("/v1/admin/reload", "").json()
    }

    /// A connection to the socket of the site's own code.
    pub(crate) fn backend(&self) -> Client {
        Client::unix(&self.addresses.backend)
    }

    /// A connection to the public socket.
    pub(crate) fn public_socket(&self) -> Client {
        Client::unix(self.addresses.public.as_ref().unwrap())
    }

    /// A connection to the public port.
    pub(crate) fn public(&self) -> Client {
        Client::tcp(self.addresses.tcp[0])
    }

    /// A connection to the public port from another address of this machine: the last part of 127.0.0.0/8's.
    pub(crate) fn public_from(&self, last: u8) -> Client {
        Client::tcp_from(self.addresses.tcp[0], [127, 0, 0, last])
    }

    /// Publishes through the backend, in the short form.
    pub(crate) fn publish(&self, channel: &str, text: &str) -> Value {
        let target = format!("/v1/publish?channel={}&kind=text", encode(channel));
        let answer = self.backend().post(&target, text);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// A counter of `/v1/stats`, by a JSON pointer.
    pub(crate) fn stat(&self, pointer: &str) -> u64 {
        let stats = self.backend().get("/v1/stats").json();
        let value = stats.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("{pointer} in {stats}"))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shared.ask(Request::Stop);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            std::thread::panicking() || matches!(ended, Some(Ok(()))),
            "the server panicked"
        );
    }
}

/// A form-urlencoded value.
pub(crate) fn encode(value: impl AsRef<[u8]>) -> String {
    let mut out = String::new();
    query::encode(value.as_ref(), &mut out);
    out
}

pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// What a token says, for [`signed`].
pub(crate) fn claims(user: Option<&str>, channels: &[&str], patterns: &[&str], actions: &[Action]) -> Claims {
    Claims {
        sub: user.map(str::to_owned),
        exp: Some(now_seconds() + 3600),
        comet: Rights {
            channels: channels.iter().map(|&name| name.to_owned()).collect(),
            patterns: patterns.iter().map(|&name| name.to_owned()).collect(),
            actions: actions.iter().copied().collect(),
        },
        ..Claims::default()
    }
}

/// A token of this server's first secret.
pub(crate) fn signed(claims: &Claims) -> String {
    token::sign(claims, "one", TOKEN_SECRET.as_bytes()).unwrap()
}

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// A connection on which requests are written and answers read, one after another.
pub(crate) struct Client {
    reader: BufReader<Box<dyn Socket>>,
    headers: String,
}

impl Client {
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self::new(Box::new(socket))
    }

    fn tcp_from(address: SocketAddr, source: [u8; 4]) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self::new(Box::new(socket))
    }

    pub(crate) fn unix(path: &PathBuf) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::new(Box::new(socket))
    }

    fn new(socket: Box<dyn Socket>) -> Self {
        Self {
            reader: BufReader::new(socket),
            headers: String::new(),
        }
    }

    /// Sends this header with every request from now on.
    pub(crate) fn with(mut self, header: &str) -> Self {
        let _ = write!(self.headers, "{header}\r\n");
        self
    }

    /// Shows this key or token with every request from now on.
    pub(crate) fn bearing(self, credential: &str) -> Self {
        self.with(&format!("Authorization: Bearer {credential}"))
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.call("GET", target, b"")
    }

    pub(crate) fn delete(&mut self, target: &str) -> Answer {
        self.call("DELETE", target, b"")
    }

    pub(crate) fn post(&mut self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        self.call("POST", target, body.as_ref())
    }

    pub(crate) fn post_json(&mut self, target: &str, body: &Value) -> Answer {
        self.post(target, body.to_string())
    }

    pub(crate) fn call(&mut self, method: &str, target: &str, body: &[u8]) -> Answer {
        self.send(method, target, body);
        self.answer(method)
    }

    /// Only sends.
    pub(crate) fn send(&mut self, method: &str, target: &str, body: &[u8]) {
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: comet.test\r\n{}",
            self.headers
        );
        if !body.is_empty() || method == "POST" {
            let _ = write!(request, "Content-Length: {}\r\n", body.len());
        }
        request.push_str("\r\n");
        self.write(request.as_bytes());
        self.write(body);
    }

    /// Bytes as they are. A server that has already refused may have closed: the answer then tells.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// The head of an answer.
    pub(crate) fn head(&mut self) -> Answer {
        let status_line = self.line().expect("an answer");
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().expect("the end of the head");
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap();
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        Answer {
            status,
            status_line,
            headers,
            body: Vec::new(),
        }
    }

    /// A whole answer to a request of this method.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head();
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            return answer;
        }
        if let Some(length) = answer.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut body).unwrap();
            answer.body = body;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend_from_slice(&chunk);
            }
        } else {
            self.reader.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    /// A line without its CR LF; none at the end.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line).unwrap_or(0);
        let line = String::from_utf8(line).unwrap();
        (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next chunk of a chunked body; none at its end.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line()?, 16).unwrap();
        let mut chunk = vec![0; length + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        chunk.truncate(length);
        (length > 0).then_some(chunk)
    }

    /// Whether the server has closed: nothing more comes.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = self.reader.read_to_end(&mut rest);
        rest.is_empty()
    }

    /// Opens a stream, whose head is checked; its chunks are read as they come.
    pub(crate) fn stream(mut self, target: &str) -> Stream {
        self.send("GET", target, b"");
        let head = self.head();
        if head.status != 200 {
            let answer = format!("{head:?}");
            panic!("{target}: {answer}");
        }
        let chunked = head.header("transfer-encoding") == Some("chunked");
        Stream {
            client: self,
            head,
            chunked,
            buffer: String::new(),
        }
    }

    /// Opens a WebSocket.
    pub(crate) fn websocket(self, target: &str) -> WebSocket {
        match self.try_websocket(target) {
            Ok(socket) => socket,
            Err(answer) => panic!("{target}: {answer:?}"),
        }
    }

    /// Opens a WebSocket, or tells why not.
    pub(crate) fn try_websocket(self, target: &str) -> Result<WebSocket, Answer> {
        let mut client = self
            .with("Connection: Upgrade")
            .with("Upgrade: websocket")
            .with("Sec-WebSocket-Version: 13")
            .with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
        client.send("GET", target, b"");
        let answer = client.answer("GET");
        if answer.status != 101 {
            return Err(answer);
        }
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        Ok(WebSocket { client })
    }
}

/// An answer, its body whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) status_line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(own, _)| own == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} comes twice");
        value
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of a problem, all of whose parts are checked.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(
            self.status,
            status,
            "{self:?} {:?}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("about:blank#{code}"));
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty())
        );
        assert_eq!(problem.as_object().unwrap().len(), 5, "{problem}");
        if status == 401 {
            assert_eq!(self.header("www-authenticate"), Some("Bearer"));
        }
        code
    }

    /// The same, and what its detail has to name.
    #[track_caller]
    pub(crate) fn problem_naming(&self, status: u16, word: &str) -> String {
        let code = self.problem(status);
        let detail = self.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{detail}");
        code
    }
}

/// An open stream of events or lines.
pub(crate) struct Stream {
    client: Client,
    pub(crate) head: Answer,
    chunked: bool,
    buffer: String,
}

impl Stream {
    /// More text; none at the end.
    fn more(&mut self) -> bool {
        let piece = if self.chunked {
            self.client.chunk()
        } else {
            self.client.line().map(|line| format!("{line}\n").into_bytes())
        };
        if let Some(piece) = &piece {
            self.buffer.push_str(std::str::from_utf8(piece).unwrap());
        }
        piece.is_some()
    }

    /// The text up to this, without it; none at the end.
    pub(crate) fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.find(end) {
                let taken = self.buffer[..at].to_owned();
                self.buffer.drain(..at + end.len());
                return Some(taken);
            }
            if !self.more() {
                assert_eq!(self.buffer, "", "the stream ends within something");
                return None;
            }
        }
    }

    /// The next block of events, without its empty line; none at the end.
    pub(crate) fn block(&mut self) -> Option<String> {
        self.until("\n\n")
    }

    /// The object of the next event, and its cursor. Heartbeats are passed over.
    pub(crate) fn event(&mut self) -> Option<(Value, Option<String>)> {
        loop {
            let block = self.block()?;
            let field = |name: &str| {
                let mut found = block.lines().filter_map(|line| line.strip_prefix(name));
                let value = found.next().map(str::to_owned);
                assert!(found.next().is_none(), "{name} twice in {block}");
                value
            };
            if field("event: ").as_deref() == Some("cursor") {
                continue;
            }
            if let Some(data) = field("data: ") {
                return Some((serde_json::from_str(&data).unwrap(), field("id: ")));
            }
        }
    }

    /// The object of the next line.
    pub(crate) fn object(&mut self) -> Option<Value> {
        self.until("\n").map(|line| serde_json::from_str(&line).unwrap())
    }
}

/// An open WebSocket.
pub(crate) struct WebSocket {
    client: Client,
}

/// What came.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close(u16),
    Pong(Vec<u8>),
    End,
}

impl WebSocket {
    pub(crate) fn send(&mut self, object: &Value) {
        self.send_frame(1, object.to_string().as_bytes());
    }

    /// One masked frame.
    pub(crate) fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            n if n < 126 => frame.push(0x80 | n as u8),
            n if n < 65536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.client.write(&frame);
    }

    /// The next frame but pings.
    pub(crate) fn frame(&mut self) -> Frame {
        loop {
            let mut head = [0; 2];
            if self.client.reader.read_exact(&mut head).is_err() {
                return Frame::End;
            }
            let length = match head[1] {
                126 => {
                    let mut bytes = [0; 2];
                    self.client.reader.read_exact(&mut bytes).unwrap();
                    u64::from(u16::from_be_bytes(bytes))
                }
                127 => {
                    let mut bytes = [0; 8];
                    self.client.reader.read_exact(&mut bytes).unwrap();
                    u64::from_be_bytes(bytes)
                }
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.client.reader.read_exact(&mut payload).unwrap();
            return match head[0] {
                0x81 => Frame::Text(String::from_utf8(payload).unwrap()),
                0x82 => Frame::Binary(payload),
                0x88 => Frame::Close(u16::from_be_bytes([payload[0], payload[1]])),
                0x89 => continue,
                0x8a => Frame::Pong(payload),
                other => panic!("a frame that begins with {other:#x}"),
            };
        }
    }

    /// The object in the next frame.
    #[track_caller]
    pub(crate) fn object(&mut self) -> Value {
        match self.frame() {
            Frame::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The next object of this type; others before it are passed over.
    #[track_caller]
    pub(crate) fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let object = self.object();
            if object["type"] == kind {
                return object;
            }
        }
    }

    /// Sends a command, and gives its answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        self.send(command);
        loop {
            let object = self.object();
            if object["id"] == command["id"] && object["type"] != "publication" {
                return object;
            }
        }
    }

    /// The code with which the server closes; what comes before is passed over.
    pub(crate) fn close_code(&mut self) -> u16 {
        loop {
            match self.frame() {
                Frame::Close(code) => return code,
                Frame::End => panic!("it ends without a close frame"),
                _ => {}
            }
        }
    }
}
