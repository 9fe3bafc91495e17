//! One subscriber: connects, asks, counts what it gets, and polls again where that is its turn.

use std::io;
use std::time::Instant;

use mio::{Interest, Registry, Token};

use super::dialect::Dialect;
use super::reader::{Reader, Seen, pong};
use super::socket::Socket;
use super::{Address, BenchError, Target, Transport};

/// The name of this kind of connection in errors.
const SUBSCRIBER: &str = "subscriber";

/// One connection that listens to one channel.
#[derive(Debug)]
pub(super) struct Subscriber {
    socket: Socket,
    reader: Reader,
    asked: bool,
    opened: bool,
    pub(super) channel: u32,
    /// Publications received: the next one is this channel's publication of that number, since order is kept.
    pub(super) received: u64,
    pub(super) began: Instant,
}

impl Subscriber {
    /// Begins to connect. `None`: the backlog is full.
    pub(super) fn connect(
        address: &Address,
        channel: u32,
        transport: Transport,
        registry: &Registry,
        token: Token,
    ) -> Result<Option<Self>, BenchError> {
        let began = Instant::now();
        let Some(mut socket) = Socket::connect(address)? else {
            return Ok(None);
        };
        registry
            .register(&mut socket, token, Interest::WRITABLE)
            .map_err(broken)?;
        let reader = Reader::new(transport);
        Ok(Some(Subscriber {
            socket,
            reader,
            asked: false,
            opened: false,
            channel,
            received: 0,
            began,
        }))
    }

    /// The server has answered: this subscriber misses nothing from here on.
    pub(super) fn is_open(&self) -> bool {
        self.opened
    }

    /// The socket is writable for the first time: asks.
    pub(super) fn ask(
        &mut self,
        address: &Address,
        dialect: &Dialect,
        registry: &Registry,
        token: Token,
    ) -> Result<(), BenchError> {
        if self.asked {
            return Ok(());
        }
        self.socket.connected(address)?;
        self.send(dialect.open(self.channel).as_bytes())?;
        self.asked = true;
        // The floor and nchan answer a poll only with a publication. Both read in the order of arrival (one thread), and
        // nchan keeps what came first, so nothing is missed either.
        self.opened = dialect.transport() == Transport::Poll && dialect.target() != Target::Comet;
        registry
            .reregister(&mut self.socket, token, Interest::READABLE)
            .map_err(broken)
    }

    /// Reads what is there. Returns the number of bytes, and of publications among them.
    pub(super) fn read(&mut self, dialect: &Dialect, buffer: &mut [u8]) -> Result<(usize, u32), BenchError> {
        let (mut bytes, mut deliveries) = (0, 0);
        loop {
            let n = match self.socket.read(buffer).map_err(broken)? {
                None => break,
                Some(0) => return Err(BenchError::Closed(SUBSCRIBER)),
                Some(n) => n,
            };
            let seen = self.reader.take(dialect.target(), &buffer[..n])?;
            bytes += n;
            deliveries += seen.deliveries;
            self.answer(dialect, seen)?;
            // A short read has emptied the socket (epoll(7)); what comes later is a new event.
            if n < buffer.len() {
                break;
            }
        }
        Ok((bytes, deliveries))
    }

    /// Never reads again: the server meets a slow reader.
    pub(super) fn fall_asleep(&mut self, registry: &Registry) -> Result<(), BenchError> {
        registry.deregister(&mut self.socket).map_err(broken)
    }

    fn answer(&mut self, dialect: &Dialect, seen: Seen) -> Result<(), BenchError> {
        if seen.answered {
            let mut request = Vec::with_capacity(256);
            dialect.poll_again(self.channel, &self.reader.resume, &mut request);
            self.send(&request)?;
            self.opened = true;
        } else if !self.opened && self.reader.has_head() {
            // Ours opens every stream with its cursor, as a sign that the subscription stands.
            self.opened = dialect.target() != Target::Comet || self.reader.has_body();
        }
        if let Some(ping) = seen.ping {
            self.send(&pong(&ping))?;
        }
        Ok(())
    }

    /// Requests are far smaller than a socket's buffer, which is empty: each goes out whole.
    fn send(&mut self, bytes: &[u8]) -> Result<(), BenchError> {
        match self.socket.write(bytes).map_err(broken)? {
            Some(n) if n == bytes.len() => Ok(()),
            _ => Err(broken(io::Error::from(io::ErrorKind::WriteZero))),
        }
    }
}

fn broken(source: io::Error) -> BenchError {
    BenchError::Io {
        what: "the connection of a subscriber broke",
        source,
    }
}
