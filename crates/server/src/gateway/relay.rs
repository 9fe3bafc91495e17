//! Passes a request and its answer on, and notices when the visitor has left.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::{self, Translated};
use super::place::Place;
use super::request::{Asked, Refusal, Variables};

/// What is read at a time. Larger pieces would only cost memory that most visitors never need.
const PIECE: usize = 8 << 10;

/// How often a comment is sent into a silent event stream: a web server notices that a visitor has left when it writes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// No request lasts longer, whatever the server says: who is forgotten must not stay.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// How long the server may take for anything but waiting, and a visitor to send more of a body. That a body comes slowly is
/// for the server to end: it has `limits.request_time`.
const PATIENCE: Duration = Duration::from_secs(30);

/// The visitor's side.
pub(super) trait Visitor {
    /// Reads of the body; 0 at its end.
    fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// Where more of the body comes from; none: some of it lies here already.
    fn awaited_body(&self) -> Option<BorrowedFd<'_>>;
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
    let mut asked = match Asked::new(variables) {
        Ok(asked) => asked,
        Err(refusal) => return visitor.write(&answer::refused(&refusal)),
    };
    let mut server = match place.connect() {
        Ok(server) => server,
        Err(why) => return visitor.write(&answer::unavailable(asked.is_sse, &why)),
    };
    server.set_write_timeout(Some(PATIENCE))?;
    // Each time anew: this process may live longer than the server, whose key may be another by then.
    if let Some(key) = place.key() {
        asked.prove(&key);
    }
    let sent = match ask(visitor, &asked, &mut server) {
        Ok(sent) => sent,
        // It may have answered before it had read all.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Sent::All
        }
        Err(error) => return Err(error),
    };
    match sent {
        Sent::Late => visitor.write(&answer::refused(&LATE)),
        Sent::All | Sent::Part => pass_on(visitor, &asked, sent, &mut server),
    }
}

/// The answer to a visitor whose body does not come.
const LATE: Refusal = Refusal {
    status: 408,
    code: "bad_request",
    detail: "the request's body did not come in time: send it again",
};

/// How much of a request the server was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    All,
    /// It has answered, or ended, while more of the body was awaited.
    Part,
    /// No more of the body came for too long.
    Late,
}

fn ask(visitor: &mut impl Visitor, asked: &Asked, server: &mut UnixStream) -> io::Result<Sent> {
    server.write_all(&asked.head)?;
    let mut left = asked.body;
    let mut piece = if left > 0 { vec![0; PIECE] } else { Vec::new() };
    while left > 0 {
        match wait_for_body(visitor, server)? {
            Body::Comes => {}
            Body::IsUnwanted => return Ok(Sent::Part),
            Body::IsLate => return Ok(Sent::Late),
        }
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
    Ok(Sent::All)
}

enum Body {
    Comes,
    /// The server waits for no more of it.
    IsUnwanted,
    IsLate,
}

/// Waits for more of the body, for as long as the server does.
fn wait_for_body(visitor: &impl Visitor, server: &UnixStream) -> io::Result<Body> {
    let Some(body) = visitor.awaited_body() else {
        return Ok(Body::Comes);
    };
    let mut sides = [
        PollFd::from_borrowed_fd(body, PollFlags::IN),
        PollFd::from_borrowed_fd(server.as_fd(), PollFlags::IN),
    ];
    loop {
        return match poll(&mut sides, Some(&timespec(PATIENCE))) {
            Ok(0) => Ok(Body::IsLate),
            Ok(_) if !sides[1].revents().is_empty() => Ok(Body::IsUnwanted),
            Ok(_) => Ok(Body::Comes),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

fn timespec(limit: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    }
}

fn pass_on(visitor: &mut impl Visitor, asked: &Asked, sent: Sent, server: &mut UnixStream) -> io::Result<()> {
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
                None if sent == Sent::Part => visitor.write(&answer::refused(&LATE)),
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
    match poll(&mut sides, Some(&timespec(limit))) {
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
        // No empty line behind it: an empty block makes some clients forget where they stand.
        visitor.write(b":\n")
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
