//! A FastCGI responder on the listening socket that a web server gives as standard input.
//!
//! Spec: <https://fastcgi-archives.github.io/FastCGI_Specification.html>, version 1. Left out on purpose: several requests
//! at once on one connection (no web server does it; `FCGI_MPXS_CONNS` is answered 0), the roles authorizer and filter.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::getpeername;

use super::place::Place;
use super::relay::{self, Visitor};
use super::request::Variables;

/// As many visitors at a time; more are told that there is no room.
const MAX_CONNECTIONS: usize = 512;

/// The stack of a visitor's thread. Only the pages that are used cost anything.
const STACK: usize = 128 << 10;

/// All variables of a request together.
const MAX_PARAMS: usize = 64 << 10;

/// So much of a body may lie here that nobody reads. Whoever reads takes each record before the next.
const MAX_UNREAD: usize = 256 << 10;

/// How long a web server may take to send what it has begun.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most content of one record.
const MAX_CONTENT: usize = 0xffff;

mod kind {
    pub(super) const BEGIN: u8 = 1;
    pub(super) const ABORT: u8 = 2;
    pub(super) const END: u8 = 3;
    pub(super) const PARAMS: u8 = 4;
    pub(super) const STDIN: u8 = 5;
    pub(super) const STDOUT: u8 = 6;
    pub(super) const GET_VALUES: u8 = 9;
    pub(super) const GET_VALUES_RESULT: u8 = 10;
    pub(super) const UNKNOWN: u8 = 11;
}

/// How a request ended, for the web server.
#[derive(Clone, Copy)]
enum Ended {
    Complete = 0,
    CannotMultiplex = 1,
    Overloaded = 2,
    UnknownRole = 3,
}

const RESPONDER: u16 = 1;
const KEEP_CONNECTION: u8 = 1;

/// Is standard input a socket to accept connections from? The FastCGI specification, 2.2: it is one without a peer.
pub(super) fn is_listening() -> bool {
    matches!(getpeername(rustix::stdio::stdin()), Err(Errno::NOTCONN))
}

/// Answers until the web server ends this process.
///
/// # Errors
/// The socket fails.
pub(super) fn serve(place: Place) -> io::Result<()> {
    let place = Arc::new(place);
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = match rustix::net::accept(rustix::stdio::stdin()) {
            Ok(accepted) => UnixStream::from(accepted),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
            Err(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM) => {
                // It would be the same at once.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let there = count.fetch_add(1, Ordering::Relaxed);
        let (place, leaving) = (place.clone(), Leaving(count.clone()));
        let overloaded = there >= MAX_CONNECTIONS;
        let visit = move || {
            let _leaving = leaving;
            // That a visitor or the web server has gone is no error.
            let _ = Connection::new(accepted).run(&place, overloaded);
        };
        let thread = std::thread::Builder::new().stack_size(STACK);
        if let Err(error) = thread.spawn(visit) {
            crate::logging::say(&format!("comet cgi: no thread for another visitor: {error}"));
        }
    }
}

struct Leaving(Arc<AtomicUsize>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A record: its kind, its request, its content.
struct Record {
    kind: u8,
    id: u16,
    content: Vec<u8>,
}

/// A connection of the web server: one request, or several behind each other.
struct Connection {
    stream: UnixStream,
    /// The request that is being answered.
    id: u16,
    /// What came of its body and was not read.
    body: Vec<u8>,
    body_ended: bool,
    aborted: bool,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            id: 0,
            body: Vec::new(),
            body_ended: false,
            aborted: false,
        }
    }

    fn run(mut self, place: &Place, overloaded: bool) -> io::Result<()> {
        loop {
            // Between two requests it may stay as long as it likes.
            self.stream.set_read_timeout(None)?;
            let record = self.record()?;
            self.stream.set_read_timeout(Some(PATIENCE))?;
            self.stream.set_write_timeout(Some(PATIENCE))?;
            match record.kind {
                kind::BEGIN => {}
                kind::GET_VALUES => {
                    self.tell_values(&record)?;
                    continue;
                }
                // Of a request that has ended.
                kind::ABORT | kind::STDIN | kind::PARAMS => continue,
                other => {
                    self.send(kind::UNKNOWN, 0, &[other, 0, 0, 0, 0, 0, 0, 0])?;
                    continue;
                }
            }
            let [role_high, role_low, flags, ..] = record.content[..] else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            self.id = record.id;
            (self.body_ended, self.aborted) = (false, false);
            self.body.clear();
            let ended = if overloaded {
                Ended::Overloaded
            } else if u16::from_be_bytes([role_high, role_low]) != RESPONDER {
                Ended::UnknownRole
            } else {
                let params = self.params()?;
                relay::serve(&mut self, &params, place)?;
                self.send(kind::STDOUT, self.id, &[])?;
                Ended::Complete
            };
            self.end(self.id, ended)?;
            if flags & KEEP_CONNECTION == 0 || overloaded {
                return Ok(());
            }
            while !self.body_ended && !self.aborted {
                self.more_body()?;
            }
        }
    }

    /// All variables of a request.
    fn params(&mut self) -> io::Result<Params> {
        let mut params = Vec::new();
        loop {
            let record = self.record()?;
            match record.kind {
                kind::PARAMS if record.id == self.id && record.content.is_empty() => {
                    return Ok(Params(params));
                }
                kind::PARAMS if record.id == self.id => {
                    params.extend_from_slice(&record.content);
                    if params.len() > MAX_PARAMS {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
                kind::BEGIN => self.end(record.id, Ended::CannotMultiplex)?,
                kind::GET_VALUES => self.tell_values(&record)?,
                kind::ABORT if record.id == self.id => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
    }

    /// One record that belongs to the present request, behind its variables.
    fn more_body(&mut self) -> io::Result<()> {
        let record = self.record()?;
        match record.kind {
            kind::STDIN if record.id == self.id => {
                self.body_ended |= record.content.is_empty();
                self.body.extend_from_slice(&record.content);
                if self.body.len() > MAX_UNREAD {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            kind::ABORT if record.id == self.id => self.aborted = true,
            kind::BEGIN => self.end(record.id, Ended::CannotMultiplex)?,
            kind::GET_VALUES => self.tell_values(&record)?,
            _ => {}
        }
        Ok(())
    }

    fn record(&mut self) -> io::Result<Record> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head)?;
        let [
            version,
            kind,
            id_high,
            id_low,
            length_high,
            length_low,
            padding,
            _,
        ] = head;
        if version != 1 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let mut content = vec![0; length + usize::from(padding)];
        self.stream.read_exact(&mut content)?;
        content.truncate(length);
        Ok(Record {
            kind,
            id: u16::from_be_bytes([id_high, id_low]),
            content,
        })
    }

    fn send(&mut self, kind: u8, id: u16, content: &[u8]) -> io::Result<()> {
        let length = u16::try_from(content.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let ([id_high, id_low], [length_high, length_low]) = (id.to_be_bytes(), length.to_be_bytes());
        let mut record = Vec::with_capacity(8 + content.len());
        record.extend_from_slice(&[1, kind, id_high, id_low, length_high, length_low, 0, 0]);
        record.extend_from_slice(content);
        self.stream.write_all(&record)
    }

    fn end(&mut self, id: u16, ended: Ended) -> io::Result<()> {
        self.send(kind::END, id, &[0, 0, 0, 0, ended as u8, 0, 0, 0])
    }

    fn tell_values(&mut self, asked: &Record) -> io::Result<()> {
        let mut answer = Vec::new();
        for (name, _) in pairs(&asked.content) {
            let value = match name {
                b"FCGI_MAX_CONNS" | b"FCGI_MAX_REQS" => MAX_CONNECTIONS.to_string(),
                b"FCGI_MPXS_CONNS" => "0".to_owned(),
                _ => continue,
            };
            answer.extend_from_slice(&[name.len() as u8, value.len() as u8]);
            answer.extend_from_slice(name);
            answer.extend_from_slice(value.as_bytes());
        }
        self.send(kind::GET_VALUES_RESULT, 0, &answer)
    }
}

impl Visitor for Connection {
    fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.body.is_empty() && !self.body_ended {
            self.more_body()?;
            if self.aborted {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        let count = into.len().min(self.body.len());
        into[..count].copy_from_slice(&self.body[..count]);
        self.body.drain(..count);
        Ok(count)
    }

    fn awaited_body(&self) -> Option<BorrowedFd<'_>> {
        (self.body.is_empty() && !self.body_ended).then(|| self.stream.as_fd())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_CONTENT) {
            self.send(kind::STDOUT, self.id, piece)?;
        }
        Ok(())
    }

    fn watched(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.stream.as_fd(), PollFlags::IN)
    }

    /// A web server whose visitor has left closes the connection, or says so.
    fn has_left(&mut self, _seen: PollFlags) -> bool {
        self.more_body().is_err() || self.aborted
    }
}

/// A request's variables, as they came.
struct Params(Vec<u8>);

impl Variables for Params {
    fn get(&self, name: &str) -> Option<Vec<u8>> {
        let found = pairs(&self.0).find(|(own, _)| *own == name.as_bytes());
        found
            .map(|(_, value)| value.to_vec())
            .filter(|value| !value.is_empty())
    }
}

/// Names and values with their lengths before them. Ends where something is malformed.
fn pairs(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let mut length = || {
            let (first, rest) = bytes.split_first()?;
            if first & 0x80 == 0 {
                bytes = rest;
                return Some(usize::from(*first));
            }
            let (long, rest) = bytes.split_first_chunk::<4>()?;
            bytes = rest;
            usize::try_from(u32::from_be_bytes(*long) & 0x7fff_ffff).ok()
        };
        let (name, value) = (length()?, length()?);
        let (name, rest) = bytes.split_at_checked(name)?;
        let (value, rest) = rest.split_at_checked(value)?;
        bytes = rest;
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_with_short_and_long_lengths() {
        let long = vec![b'v'; 300];
        let mut bytes = vec![1, 2, b'a', b'1', b'2', 1, 0x80, 0, 1, 44, b'b'];
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(&[1, 0, b'c']);
        let all: Vec<_> = pairs(&bytes).collect();
        assert_eq!(all, [(&b"a"[..], &b"12"[..]), (b"b", &long), (b"c", b"")]);
        let params = Params(bytes);
        assert_eq!(params.get("b"), Some(long));
        assert_eq!((params.get("c"), params.get("d")), (None, None));
    }

    #[test]
    fn malformed_variables_end_the_list_and_nothing_else() {
        let table: [&[u8]; 7] = [
            b"",
            &[1],
            &[0x80],
            &[0xff, 0xff, 0xff, 0xff, 1],
            &[5, 5, b'a'],
            &[1, 200, b'a', b'b'],
            &[0x80, 0, 0],
        ];
        for bytes in table {
            assert_eq!(pairs(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(pairs(&[0, 0, 0, 0]).count(), 2);
    }
}
