//! Passes a request and its answer on, and notices when the visitor has left.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::{self, Translated};
use super::place::Place;
use super::request::{Asked, Variables};

/// What is read at a time. Larger pieces would only cost memory that most visitors never need.
const PIECE: usize = 8 << 10;

/// How often a comment is sent into a silent event stream: a web server notices that a visitor has left when it writes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// No request lasts longer, whatever the server says: who is forgotten must not stay.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// How long the server may take for anything but waiting.
const PATIENCE: Duration = Duration::from_secs(30);

/// The visitor's side.
pub(super) trait Visitor {
    /// Reads of the body; 0 at its end.
    fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// Sends all of this.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// What to watch for signs that the visitor has left.
    fn watched(&self) -> (BorrowedFd<'_>, PollFlags);
    /// Something was seen there: has it?
    fn has_left(&mut self, seen: PollFlags) -> bool;
}

/// Answers one request.
///
/// # Errors
/// The visitor has left, mostly.
pub(super) fn serve(visitor: &mut impl Visitor, variables: &impl Variables, place: &Place) -> io::Result<()> {
    let asked = match Asked::new(variables) {
        Ok(asked) => asked,
        Err(refusal) => return visitor.write(&answer::refused(&refusal)),
    };
    let mut server = match place.connect() {
        Ok(server) => server,
        Err(why) => return visitor.write(&answer::unavailable(asked.is_sse, &why)),
    };
    server.set_write_timeout(Some(PATIENCE))?;
    if let Err(error) = ask(visitor, &asked, &mut server) {
        // It may have answered before it had read all.
        if !matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        ) {
            return Err(error);
        }
    }
    pass_on(visitor, &asked, &mut server)
}

fn ask(visitor: &mut impl Visitor, asked: &Asked, server: &mut UnixStream) -> io::Result<()> {
    server.write_all(&asked.head)?;
    let mut left = asked.body;
    let mut piece = if left > 0 { vec![0; PIECE] } else { Vec::new() };
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let read = visitor.read_body(&mut piece[..room])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the body ended before its length",
            ));
        }
        server.write_all(&piece[..read])?;
        left -= read as u64;
    }
    Ok(())
}

fn pass_on(visitor: &mut impl Visitor, asked: &Asked, server: &mut UnixStream) -> io::Result<()> {
    let end = Instant::now() + LIFE;
    let mut bytes = Vec::new();
    let mut piece = [0; PIECE];
    let mut stream: Option<Stream> = None;
    let mut head: Option<Translated> = None;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let beat = if stream.is_some() {
            HEARTBEAT.min(left)
        } else {
            left
        };
        match wait(visitor, server, beat)? {
            Event::Left => return Ok(()),
            Event::Silence => {
                if let Some(stream) = stream.as_ref().filter(|stream| stream.is_between_blocks()) {
                    stream.beat(visitor)?;
                }
                continue;
            }
            Event::Answer => {}
        }
        let read = match server.read(&mut piece) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // As good as an end: what came is all there is.
            Err(_) => 0,
        };
        if read == 0 {
            return match head {
                Some(_) => Ok(()),
                None => visitor.write(&answer::unavailable(
                    asked.is_sse,
                    "the server ended without an answer",
                )),
            };
        }
        if head.is_some() {
            visitor.write(&piece[..read])?;
            if let Some(stream) = &mut stream {
                stream.sent(&piece[..read]);
            }
            continue;
        }
        bytes.extend_from_slice(&piece[..read]);
        match answer::translate(&bytes) {
            Ok(None) => {}
            Ok(Some(translated)) => {
                let mut first = translated.head.clone();
                first.extend_from_slice(&bytes[translated.body_at..]);
                visitor.write(&first)?;
                stream = translated.is_stream.then(Stream::default);
                if let Some(stream) = &mut stream {
                    stream.sent(&bytes[translated.body_at..]);
                }
                bytes = Vec::new();
                head = Some(translated);
            }
            Err(_) => {
                return visitor.write(&answer::unavailable(
                    asked.is_sse,
                    "what answers there is no CometServer",
                ));
            }
        }
    }
}

enum Event {
    Answer,
    Left,
    Silence,
}

/// Waits for the server, and looks after the visitor meanwhile.
fn wait(visitor: &mut impl Visitor, server: &UnixStream, limit: Duration) -> io::Result<Event> {
    let (watched, flags) = visitor.watched();
    let mut sides = [
        PollFd::from_borrowed_fd(server.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(watched, flags),
    ];
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    match poll(&mut sides, Some(&limit)) {
        Ok(0) => return Ok(Event::Silence),
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Event::Silence),
        Err(error) => return Err(error.into()),
    }
    let (answer, seen) = (sides[0].revents(), sides[1].revents());
    if !seen.is_empty() && visitor.has_left(seen) {
        return Ok(Event::Left);
    }
    Ok(if answer.is_empty() {
        Event::Silence
    } else {
        Event::Answer
    })
}

/// An event stream: where a comment may be put in.
#[derive(Debug)]
struct Stream {
    last: [u8; 2],
}

impl Default for Stream {
    fn default() -> Self {
        Self { last: *b"\n\n" }
    }
}

impl Stream {
    fn sent(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(2)..] {
            self.last = [self.last[1], *byte];
        }
    }

    fn is_between_blocks(&self) -> bool {
        self.last == *b"\n\n"
    }

    fn beat(&self, visitor: &mut impl Visitor) -> io::Result<()> {
        visitor.write(b":\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_comes_only_between_blocks() {
        let mut stream = Stream::default();
        assert!(stream.is_between_blocks());
        for (piece, between) in [
            ("data: 1", false),
            ("\n", false),
            ("\n", true),
            ("id: 2\n", false),
            ("\n", true),
        ] {
            stream.sent(piece.as_bytes());
            assert_eq!(stream.is_between_blocks(), between, "{piece:?}");
        }
        stream.sent(b"");
        assert!(stream.is_between_blocks());
    }
}
