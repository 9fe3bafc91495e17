//! The floor: what the kernel alone costs. One plain `send()` of the ready bytes per subscriber, in a plain loop, and
//! nothing else: no history, no cursors, no limits, no timeouts. Every budget is a multiple of this program's CPU time.
//!
//! It speaks just enough of the native protocol for `comet bench` with the target `floor`: `GET /v1/sse`, `/v1/stream`,
//! `/v1/ws` and `/v1/poll`, each with `?channel=` first, and `POST /v1/publish?channel=`, whose body is the ready frame, so
//! that a frame has exactly as many bytes as the server's it is compared with.
//!
//! `floor [127.0.0.1:PORT] [PATH]` listens on an address (default: a free port) and, if given, on a Unix socket, prints
//! `listening ADDRESS` and runs until it is killed.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read, Write};

use memchr::memmem;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Registry, Token};

const SSE_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n";
const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nCache-Control: no-store\r\n\r\n";
/// The answer to the one key that `comet bench` uses (RFC 6455's example).
const WEBSOCKET_HEAD: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzhZRbK+xOo0=\r\n\r\n";
const PUBLISHED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

const TCP: Token = Token(0);
const UNIX: Token = Token(1);
/// The tokens of connections begin here.
const FIRST: usize = 2;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.read(buffer),
            Socket::Unix(socket) => socket.read(buffer),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = match self {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        };
        matches!(sent, Ok(n) if n == bytes.len())
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        }
    }
}

struct Connection {
    socket: Socket,
    /// A request that is not whole yet.
    partial: Vec<u8>,
    /// The channel that its subscriber is listed in.
    channel: Option<Box<[u8]>>,
}

/// The numbers of the connections that listen to a channel.
#[derive(Default)]
struct Channel {
    streams: Vec<usize>,
    polls: Vec<usize>,
}

#[derive(Default)]
struct Floor {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    channels: HashMap<Box<[u8]>, Channel, rustc_hash::FxBuildHasher>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tcp = TcpListener::bind(arguments.next().as_deref().unwrap_or("127.0.0.1:0").parse()?)?;
    let unix = arguments.next().map(UnixListener::bind).transpose()?;
    println!("listening {}", tcp.local_addr()?);
    serve(tcp, unix)
}

/// Serves until the process ends.
pub(crate) fn serve(mut tcp: TcpListener, mut unix: Option<UnixListener>) -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut tcp, TCP, Interest::READABLE)?;
    if let Some(listener) = &mut unix {
        poll.registry().register(listener, UNIX, Interest::READABLE)?;
    }
    let mut events = Events::with_capacity(4096);
    let mut buffer = vec![0; 1 << 20];
    let mut floor = Floor::default();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            match event.token() {
                TCP => {
                    while let Ok((socket, _)) = tcp.accept() {
                        socket.set_nodelay(true)?;
                        floor.accept(Socket::Tcp(socket), poll.registry())?;
                    }
                }
                UNIX => {
                    while let Some(Ok((socket, _))) = unix.as_ref().map(UnixListener::accept) {
                        floor.accept(Socket::Unix(socket), poll.registry())?;
                    }
                }
                Token(token) => floor.read(token - FIRST, &mut buffer),
            }
        }
    }
}

impl Floor {
    fn accept(&mut self, mut socket: Socket, registry: &Registry) -> io::Result<()> {
        let number = self.free.pop().unwrap_or(self.connections.len());
        if number == self.connections.len() {
            self.connections.push(None);
        }
        registry.register(socket.source(), Token(number + FIRST), Interest::READABLE)?;
        self.connections[number] = Some(Connection {
            socket,
            partial: Vec::new(),
            channel: None,
        });
        Ok(())
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) {
        loop {
            let Some(connection) = &mut self.connections[number] else {
                return;
            };
            let n = match connection.socket.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => return self.close(number),
                Ok(n) => n,
            };
            if connection.partial.is_empty() {
                let rest = self.requests(number, &buffer[..n]);
                self.keep(number, &buffer[rest..n]);
            } else {
                connection.partial.extend_from_slice(&buffer[..n]);
                let whole = std::mem::take(&mut connection.partial);
                let rest = self.requests(number, &whole);
                self.keep(number, &whole[rest..]);
            }
            // A short read has emptied the socket: no second one to be told so.
            if n < buffer.len() {
                return;
            }
        }
    }

    fn keep(&mut self, number: usize, rest: &[u8]) {
        if let Some(connection) = &mut self.connections[number] {
            connection.partial.extend_from_slice(rest);
        }
    }

    fn close(&mut self, number: usize) {
        if let Some(channel) = self.connections[number]
            .take()
            .and_then(|connection| connection.channel)
            && let Some(channel) = self.channels.get_mut(&channel)
        {
            channel.streams.retain(|other| *other != number);
            channel.polls.retain(|other| *other != number);
        }
        self.free.push(number);
    }

    /// Answers all whole requests in `bytes`; returns how many bytes they were.
    fn requests(&mut self, number: usize, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(end) = memmem::find(&bytes[taken..], b"\r\n\r\n") {
            let (head, body) = bytes[taken..].split_at(end + 4);
            let Some(length) = content_length(head) else {
                return bytes.len();
            };
            if body.len() < length {
                break;
            }
            self.request(number, head, &body[..length]);
            taken += head.len() + length;
        }
        taken
    }

    fn request(&mut self, number: usize, head: &[u8], body: &[u8]) {
        let name = channel_name(head);
        if head.starts_with(b"POST") {
            self.publish(name, body);
            self.send(number, PUBLISHED);
            return;
        }
        if !self.channels.contains_key(name) {
            self.channels.insert(name.into(), Channel::default());
        }
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        let listening = self.connections[number]
            .as_mut()
            .map(|connection| &mut connection.channel);
        if let Some(listening @ None) = listening {
            *listening = Some(name.into());
        }
        let answer = match head.get(8..10) {
            Some(b"po") => return channel.polls.push(number),
            Some(b"ws") => WEBSOCKET_HEAD,
            Some(b"st") => STREAM_HEAD,
            _ => SSE_HEAD,
        };
        channel.streams.push(number);
        self.send(number, answer);
    }

    /// THE floor.
    fn publish(&mut self, name: &[u8], frame: &[u8]) {
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        for &number in &channel.streams {
            if let Some(connection) = &mut self.connections[number] {
                connection.socket.send(frame);
            }
        }
        for number in channel.polls.drain(..) {
            if let Some(connection) = &mut self.connections[number] {
                connection.socket.send(frame);
            }
        }
    }

    fn send(&mut self, number: usize, bytes: &[u8]) {
        if let Some(connection) = &mut self.connections[number] {
            connection.socket.send(bytes);
        }
    }
}

/// The value of `?channel=`, up to the next parameter.
fn channel_name(head: &[u8]) -> &[u8] {
    let Some(start) = memchr::memchr(b'=', head) else {
        return b"";
    };
    let rest = &head[start + 1..];
    &rest[..memchr::memchr2(b' ', b'&', rest).unwrap_or(rest.len())]
}

/// The length of the body that follows; `None`: not a number.
fn content_length(head: &[u8]) -> Option<usize> {
    if head.starts_with(b"GET") {
        return Some(0);
    }
    let Some(at) = memmem::find(head, b"Content-Length: ") else {
        return Some(0);
    };
    let digits = &head[at + 16..];
    let end = memchr::memchr(b'\r', digits)?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}
