//! One publisher: a kept-alive connection with at most one request under way.

use std::io;
use std::time::{Duration, Instant};

use memchr::memmem;
use mio::{Interest, Registry, Token};

use super::dialect::Dialect;
use super::reader::Answer;
use super::socket::Socket;
use super::{Address, BenchError};

/// The name of this kind of connection in errors.
const PUBLISHER: &str = "publisher";

/// A publisher's connection.
#[derive(Debug)]
pub(super) struct Publisher {
    socket: Socket,
    request: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    sent: Instant,
    busy: bool,
}

impl Publisher {
    pub(super) fn connect(address: &Address, registry: &Registry, token: Token) -> Result<Self, BenchError> {
        let mut socket = Socket::connect_now(address)?;
        registry
            .register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)
            .map_err(broken)?;
        Ok(Publisher {
            socket,
            request: Vec::new(),
            written: 0,
            answer: Vec::new(),
            sent: Instant::now(),
            busy: false,
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy
    }

    /// Sends the request that publishes to `channel`.
    pub(super) fn publish(&mut self, dialect: &Dialect, channel: u32) -> Result<(), BenchError> {
        self.request.clear();
        self.written = 0;
        dialect.publish(channel, &mut self.request);
        self.busy = true;
        self.sent = Instant::now();
        self.write()
    }

    /// Sends what the socket had no room for.
    pub(super) fn write(&mut self) -> Result<(), BenchError> {
        while self.written < self.request.len() {
            match self.socket.write(&self.request[self.written..]).map_err(broken)? {
                Some(n) => self.written += n,
                None => break,
            }
        }
        Ok(())
    }

    /// Reads the answer; with the last byte of it, the time since the request.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<Duration>, BenchError> {
        loop {
            let n = match self.socket.read(buffer).map_err(broken)? {
                None => return Ok(None),
                Some(0) => return Err(BenchError::Closed(PUBLISHER)),
                Some(n) => n,
            };
            self.answer.extend_from_slice(&buffer[..n]);
            if self.is_answered()? {
                self.answer.clear();
                self.busy = false;
                return Ok(Some(self.sent.elapsed()));
            }
            if n < buffer.len() {
                return Ok(None);
            }
        }
    }

    fn is_answered(&self) -> Result<bool, BenchError> {
        let Some(answer) = Answer::parse(PUBLISHER, &self.answer)? else {
            return Ok(false);
        };
        let Some(body) = answer.body(&self.answer) else {
            return Ok(false);
        };
        answer.expect_success(PUBLISHER, &self.answer)?;
        // A batch is answered 200 even if single publications in it are refused.
        if memmem::find(body, b"\"error\":").is_some() {
            let body = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            return Err(BenchError::Refused {
                what: PUBLISHER,
                status: answer.status,
                body,
            });
        }
        Ok(true)
    }
}

fn broken(source: io::Error) -> BenchError {
    BenchError::Io {
        what: "the connection of a publisher broke",
        source,
    }
}
