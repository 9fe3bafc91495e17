//! What attacks: one thread, many connections, each of which says what its flood says for as long as the server takes it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::stage::Stage;

/// A connection that was ended comes back after this: whoever attacks is not stopped by that.
const RETURN: Duration = Duration::from_millis(20);

/// What the attackers of one kind do.
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    /// How many connections at a time.
    pub(crate) connections: usize,
    /// From so many addresses.
    pub(crate) addresses: usize,
    /// Do they read what they are sent?
    pub(crate) reads: bool,
    /// Is each of them a WebSocket? With this query.
    pub(crate) websocket: Option<String>,
    /// Of the channels that are kept.
    pub(crate) durability: &'static str,
    /// What the site has done before.
    pub(crate) prepare: fn(&Stage),
    /// What a connection says next: its number, and how often it has spoken. None: nothing more.
    pub(crate) say: Box<dyn Fn(usize, usize) -> Option<Vec<u8>>>,
}

/// What became of a flood.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) connections: usize,
    /// Bytes that the server took.
    pub(crate) bytes: u64,
    /// Connections that the server ended.
    pub(crate) ended: u64,
}

struct Attacker {
    socket: Option<TcpStream>,
    number: usize,
    unsent: Vec<u8>,
    sent: usize,
    spoken: usize,
    /// When it comes back.
    returns: Option<Instant>,
    /// What it is answered to its request for a WebSocket has come.
    greeted: bool,
}

/// Floods for a time.
pub(crate) fn run(flood: &Flood, stage: &Stage, time: Duration) -> Outcome {
    let mut driver = Driver::new(flood, stage.public);
    let until = Instant::now() + time;
    while Instant::now() < until {
        driver.turn();
    }
    Outcome {
        connections: flood.connections,
        ..driver.outcome
    }
}

struct Driver<'f> {
    flood: &'f Flood,
    public: SocketAddr,
    poll: Poll,
    events: Events,
    attackers: Vec<Attacker>,
    outcome: Outcome,
    room: Vec<u8>,
}

impl<'f> Driver<'f> {
    fn new(flood: &'f Flood, public: SocketAddr) -> Self {
        let attackers = (0..flood.connections).map(|number| Attacker {
            socket: None,
            number,
            unsent: Vec::new(),
            sent: 0,
            spoken: 0,
            returns: Some(Instant::now()),
            greeted: false,
        });
        Self {
            flood,
            public,
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(1024),
            attackers: attackers.collect(),
            outcome: Outcome {
                connections: 0,
                bytes: 0,
                ended: 0,
            },
            room: vec![0; 256 << 10],
        }
    }

    fn turn(&mut self) {
        self.poll
            .poll(&mut self.events, Some(Duration::from_millis(5)))
            .unwrap();
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for number in ready {
            self.go_on(number);
        }
        let now = Instant::now();
        for number in 0..self.attackers.len() {
            if self.attackers[number].returns.is_some_and(|at| at <= now) {
                self.come(number);
            }
        }
    }

    /// Connects, and begins to speak.
    fn come(&mut self, number: usize) {
        let address = Ipv4Addr::new(127, 1, 1, 1 + (number % self.flood.addresses) as u8);
        let attacker = &mut self.attackers[number];
        attacker.returns = None;
        let Ok(mut socket) = connect(self.public, address.into()) else {
            attacker.returns = Some(Instant::now() + RETURN);
            return;
        };
        self.poll
            .registry()
            .register(
                &mut socket,
                Token(number),
                Interest::READABLE | Interest::WRITABLE,
            )
            .unwrap();
        attacker.unsent = self.flood.websocket.as_ref().map_or_else(Vec::new, |query| {
            format!(
                "GET /v1/ws?{query} HTTP/1.1\r\nHost: comet\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            .into_bytes()
        });
        (attacker.sent, attacker.spoken, attacker.greeted) = (0, 0, self.flood.websocket.is_none());
        attacker.socket = Some(socket);
    }

    fn go_on(&mut self, number: usize) {
        let attacker = &mut self.attackers[number];
        let alive = attacker.hear(self.flood.reads, &mut self.room)
            && attacker.speak(&*self.flood.say, &mut self.outcome.bytes);
        if !alive && attacker.socket.take().is_some() {
            self.outcome.ended += 1;
            attacker.returns = Some(Instant::now() + RETURN);
        }
    }
}

impl Attacker {
    /// Reads what there is, if it reads at all; is the connection still there?
    fn hear(&mut self, reads: bool, room: &mut [u8]) -> bool {
        let Some(socket) = &mut self.socket else {
            return true;
        };
        while reads || !self.greeted {
            match socket.read(room) {
                Ok(0) => return false,
                Ok(_) => self.greeted = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Says as much as the server takes, at most some at a time: others speak as well. Is the connection still there?
    fn speak(&mut self, say: &dyn Fn(usize, usize) -> Option<Vec<u8>>, bytes: &mut u64) -> bool {
        let Some(socket) = &mut self.socket else {
            return true;
        };
        loop {
            if self.sent == self.unsent.len() {
                let may = self.greeted || self.spoken == 0 && self.sent == 0;
                let next = may.then(|| say(self.number, self.spoken)).flatten();
                let Some(next) = next else { return true };
                self.spoken += 1;
                (self.unsent, self.sent) = (next, 0);
            }
            match socket.write(&self.unsent[self.sent..]) {
                Ok(0) => return false,
                Ok(written) => {
                    self.sent += written;
                    *bytes += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Connects from an address of loopback.
fn connect(public: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.set_tcp_nodelay(true)?;
    // To a listener on this machine that is at once, or not at all.
    socket.connect_timeout(&public.into(), Duration::from_secs(1))?;
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket.into()))
}

/// So many connections send so many bytes in that time, all of them pings of a hundred bytes, which are answered and read.
pub(crate) fn ping(stage: &Stage, connections: usize, bytes: u64, time: Duration) {
    let frame = masked(9, &[b'p'; 94]);
    let share = usize::try_from(bytes).unwrap_or(usize::MAX) / connections.max(1) / frame.len();
    let begun = Instant::now();
    // Each speaks a hundred times, spread over the time.
    let part = frame.repeat(share.div_ceil(100).max(1));
    let pings = Flood {
        name: "pings",
        connections,
        addresses: 4,
        reads: true,
        websocket: Some("channel=quiet".to_owned()),
        durability: "memory",
        prepare: |_| {},
        say: Box::new(move |_, spoken| {
            let due = time * u32::try_from(spoken).unwrap_or(u32::MAX) / 100;
            (spoken < 100 && begun.elapsed() >= due).then(|| part.clone())
        }),
    };
    let mut driver = Driver::new(&pings, stage.public);
    while begun.elapsed() < time {
        driver.turn();
        for number in 0..connections {
            driver.go_on(number);
        }
    }
}

/// One WebSocket frame of a client. A mask of zeros is one: what is said stands as it is.
pub(crate) fn masked(opcode: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = head(0x80 | opcode, content.len());
    frame.extend_from_slice(content);
    frame
}

/// The beginning of a frame with so much content.
pub(crate) fn head(first: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![first];
    match length {
        0..126 => frame.push(0x80 | length as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame
}

/// A command as a text frame.
pub(crate) fn command(text: &str) -> Vec<u8> {
    masked(1, text.as_bytes())
}
