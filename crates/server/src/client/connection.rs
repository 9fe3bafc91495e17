//! A blocking socket with a time limit on everything.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::Address;

/// How much is read at once.
const READ_SIZE: usize = 64 << 10;

/// What can go wrong below HTTP.
#[derive(Debug)]
pub(super) enum Error {
    /// There is no connection.
    Connect(io::Error),
    /// Nothing came for so long.
    Timeout(Duration),
    /// The connection broke.
    Io(io::Error),
    /// What came is no HTTP, or more than we take.
    Protocol(String),
}

/// How long to wait for the other side.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Until this time, however much comes.
    Until(Instant),
    /// So long for each next piece.
    Silence(Duration),
}

/// A connection and what was received but not taken yet.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    patience: Patience,
    since: Instant,
    received: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: &Address, timeout: Duration) -> Result<Self, Error> {
        let socket = match address {
            Address::Unix(path) => connect_unix(&SockAddr::unix(path).map_err(Error::Connect)?, timeout),
            Address::Http { authority, .. } => connect_tcp(authority, timeout),
        };
        let patience = Patience::Silence(timeout);
        Ok(Self {
            socket: socket.map_err(Error::Connect)?,
            patience,
            since: Instant::now(),
            received: Vec::new(),
        })
    }

    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.socket
                .set_write_timeout(Some(self.time_left()?))
                .map_err(Error::Io)?;
            match (&self.socket).write(bytes) {
                Ok(0) => return Err(Error::Io(io::ErrorKind::BrokenPipe.into())),
                Ok(written) => bytes = &bytes[written..],
                Err(error) => self.check(error)?,
            }
        }
        Ok(())
    }

    /// What was received and not taken.
    pub(super) fn received(&self) -> &[u8] {
        &self.received
    }

    /// Forgets the first bytes received.
    pub(super) fn take(&mut self, count: usize) {
        self.received.drain(..count);
    }

    /// Waits for more bytes; `false` at the end.
    pub(super) fn receive(&mut self) -> Result<bool, Error> {
        let before = self.received.len();
        self.received.resize(before + READ_SIZE, 0);
        let count = self.read_into(before);
        self.received.truncate(before + *count.as_ref().unwrap_or(&0));
        Ok(count? > 0)
    }

    fn read_into(&mut self, from: usize) -> Result<usize, Error> {
        loop {
            self.socket
                .set_read_timeout(Some(self.time_left()?))
                .map_err(Error::Io)?;
            match (&self.socket).read(&mut self.received[from..]) {
                Ok(count) => return Ok(count),
                Err(error) => self.check(error)?,
            }
        }
    }

    fn time_left(&self) -> Result<Duration, Error> {
        match self.patience {
            Patience::Silence(limit) => Ok(limit),
            Patience::Until(end) => match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => Ok(left),
                _ => Err(self.timeout()),
            },
        }
    }

    /// Lets an interrupted call be repeated.
    fn check(&self, error: io::Error) -> Result<(), Error> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(self.timeout()),
            _ => Err(Error::Io(error)),
        }
    }

    fn timeout(&self) -> Error {
        Error::Timeout(match self.patience {
            Patience::Silence(limit) => limit,
            Patience::Until(end) => {
                Duration::from_secs(end.duration_since(self.since).as_secs_f64().round() as u64)
            }
        })
    }
}

fn connect_unix(address: &SockAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Connecting to a Unix socket never is "in progress": it waits for room in the backlog, and on Linux this
    // option bounds that wait. Elsewhere a full backlog refuses at once.
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(address)?;
    Ok(socket)
}

fn connect_tcp(authority: &str, timeout: Duration) -> io::Result<Socket> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in authority.to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.connect_timeout(&address.into(), timeout) {
            Ok(()) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
