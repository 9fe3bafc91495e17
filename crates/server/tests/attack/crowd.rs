//! Subscribers who behave: one thread reads what comes to all of them, and notes when each message came, once and in order.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::flood::masked;

/// What was published last must have come to everybody by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a WebSocket says that it lives: more often than the server asks.
const SIGN: Duration = Duration::from_secs(1);

/// Since when times are told.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first look.
pub(crate) fn now() -> u64 {
    u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A message: its number, and when it was published.
pub(crate) fn message(number: u64) -> String {
    format!("<{number}:{}>", now())
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sse,
    WebSocket,
    Poll,
}

/// What the crowd was shown.
#[derive(Debug)]
pub(crate) struct Seen {
    /// From publishing to reading, in microseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Connections that the server ended.
    pub(crate) dropped: u64,
    /// What the site was told instead of a success.
    pub(crate) refused: u64,
}

impl Seen {
    /// A quantile of the latency, in milliseconds.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        self.latency.value_at_quantile(q) as f64 / 1000.0
    }
}

struct Subscriber {
    socket: TcpStream,
    kind: Kind,
    input: Vec<u8>,
    /// The next message's number.
    next: u64,
    gone: bool,
}

/// See the module.
pub(crate) struct Crowd {
    last: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Crowd {
    /// Connects so many, and returns when all of them are subscribed.
    pub(crate) fn gather(public: SocketAddr, count: usize) -> Self {
        let mut poll = Poll::new().unwrap();
        let mut members = HashMap::new();
        for number in 0..count {
            let kind = [Kind::Sse, Kind::WebSocket, Kind::Poll][number % 3];
            members.insert(
                Token(number),
                Subscriber::open(public, kind, &poll, Token(number)),
            );
        }
        let last = Arc::new(AtomicU64::new(0));
        let leaving = Arc::new(AtomicBool::new(false));
        let (until, ended) = (last.clone(), leaving.clone());
        let thread = std::thread::spawn(move || attend(&mut poll, members, &until, &ended));
        Self {
            last,
            leaving,
            thread,
        }
    }

    /// Waits until everybody has the last message, and says what all have seen.
    pub(crate) fn leave(self, published: crate::publisher::Published) -> Seen {
        self.last.store(published.count, Ordering::SeqCst);
        self.leaving.store(true, Ordering::SeqCst);
        let seen = self.thread.join().unwrap();
        Seen {
            refused: published.refused,
            ..seen
        }
    }
}

fn attend(
    poll: &mut Poll,
    mut members: HashMap<Token, Subscriber>,
    last: &AtomicU64,
    leaving: &AtomicBool,
) -> Seen {
    let mut seen = Seen {
        latency: Histogram::new_with_bounds(1, 120_000_000, 3).unwrap(),
        lost: 0,
        doubled: 0,
        dropped: 0,
        refused: 0,
    };
    let mut events = Events::with_capacity(1024);
    let mut until = None;
    let mut signed = Instant::now();
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        for event in &events {
            if let Some(member) = members.get_mut(&event.token()) {
                member.read(&mut seen);
            }
        }
        if signed.elapsed() >= SIGN {
            signed = Instant::now();
            members.values_mut().for_each(Subscriber::sign);
        }
        if leaving.load(Ordering::SeqCst) {
            let last = last.load(Ordering::SeqCst);
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            if members.values().all(|member| member.gone || member.next > last) || Instant::now() > until {
                seen.lost += members
                    .values()
                    .map(|member| (last + 1).saturating_sub(member.next))
                    .sum::<u64>();
                return seen;
            }
        }
    }
}

impl Subscriber {
    fn open(public: SocketAddr, kind: Kind, poll: &Poll, token: Token) -> Self {
        let mut socket = std::net::TcpStream::connect(public).unwrap();
        socket.set_nodelay(true).unwrap();
        let (target, extra) = match kind {
            Kind::Sse => ("/v1/sse?channel=good", ""),
            Kind::WebSocket => (
                "/v1/ws?channel=good",
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
            Kind::Poll => ("/v1/poll?channel=good&wait_ms=0", ""),
        };
        let head = format!("GET {target} HTTP/1.1\r\nHost: comet\r\n{extra}\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let input = opening(&mut socket, kind);
        socket.set_nonblocking(true).unwrap();
        let mut member = Self {
            socket: TcpStream::from_std(socket),
            kind,
            input: Vec::new(),
            next: 1,
            gone: false,
        };
        if kind == Kind::Poll {
            member.ask_again(&input);
        }
        poll.registry()
            .register(&mut member.socket, token, Interest::READABLE)
            .unwrap();
        member
    }

    /// Answers the pings that may have come: one pong is as good as several (RFC 6455, 5.5.3).
    fn sign(&mut self) {
        if self.kind == Kind::WebSocket && !self.gone {
            self.gone = self.socket.write_all(&masked(10, b"")).is_err();
        }
    }

    /// Reads what there is.
    fn read(&mut self, seen: &mut Seen) {
        let mut room = [0; 64 << 10];
        while !self.gone {
            match self.socket.read(&mut room) {
                Ok(0) => self.gone = true,
                Ok(read) => self.input.extend_from_slice(&room[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
        seen.dropped += u64::from(self.gone);
        match self.kind {
            Kind::Poll => {
                while let Some(answer) = take_answer(&mut self.input) {
                    self.note(&answer, seen);
                    self.ask_again(&answer);
                }
            }
            Kind::Sse | Kind::WebSocket => {
                let input = std::mem::take(&mut self.input);
                let used = self.note(&input, seen);
                self.input = input[used..].to_vec();
            }
        }
    }

    /// Notes the messages in some bytes; returns how many bytes are used up.
    fn note(&mut self, bytes: &[u8], seen: &mut Seen) -> usize {
        let mut at = 0;
        while let Some(start) = memchr::memchr(b'<', &bytes[at..]).map(|found| at + found) {
            let Some(end) = memchr::memchr(b'>', &bytes[start..]).map(|found| start + found) else {
                return start;
            };
            at = end + 1;
            let text = std::str::from_utf8(&bytes[start + 1..end]).unwrap_or_default();
            let parts = text.split_once(':');
            let numbers = parts.and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
            let Some((number, published)) = numbers else {
                continue;
            };
            if number < self.next {
                seen.doubled += 1;
                continue;
            }
            seen.lost += number - self.next;
            self.next = number + 1;
            seen.latency
                .saturating_record((now().saturating_sub(published) / 1000).max(1));
        }
        bytes.len()
    }

    fn ask_again(&mut self, answer: &[u8]) {
        let text = String::from_utf8_lossy(answer);
        let Some((_, cursor)) = text.rsplit_once("\"cursor\":\"") else {
            self.gone = true;
            return;
        };
        let cursor = &cursor[..cursor.find('"').unwrap_or(0)];
        let head = format!("GET /v1/poll?channel=good&cursor={cursor} HTTP/1.1\r\nHost: comet\r\n\r\n");
        // So short a request fits into an empty socket.
        self.gone |= self.socket.write_all(head.as_bytes()).is_err();
    }
}

/// What comes up to the first cursor: with it a client is subscribed. Nothing was published yet that it could hold as well.
fn opening(socket: &mut std::net::TcpStream, kind: Kind) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut input = Vec::new();
    let mut room = [0; 4 << 10];
    loop {
        let read = socket.read(&mut room).expect("a subscriber is answered");
        assert!(read > 0, "refused: {}", String::from_utf8_lossy(&input));
        input.extend_from_slice(&room[..read]);
        let is_open = match kind {
            // Its end is that of a chunk.
            Kind::Sse => memchr::memmem::find(&input, b"id:").is_some() && input.ends_with(b"\n\n\r\n"),
            Kind::WebSocket => memchr::memmem::find(&input, b"\"cursor\"").is_some() && input.ends_with(b"}"),
            Kind::Poll => match take_answer(&mut input) {
                Some(answer) => return answer,
                None => false,
            },
        };
        if is_open {
            return input;
        }
    }
}

/// Takes a whole HTTP answer out of what came.
fn take_answer(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head = memchr::memmem::find(input, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&input[..head]).to_ascii_lowercase();
    let end = match text.split_once("content-length:") {
        Some((_, rest)) => head + rest.split("\r\n").next()?.trim().parse::<usize>().ok()?,
        None => head + memchr::memmem::find(&input[head..], b"\r\n0\r\n\r\n")? + 7,
    };
    (input.len() >= end).then(|| input.drain(..end).collect())
}
