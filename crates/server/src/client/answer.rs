//! An HTTP answer, whole or piece by piece.

use serde_json::Value;

use super::ClientError;
use super::connection::{Connection, Error};

/// The largest head we take. Ours are a few hundred bytes; front web servers add some.
const MAX_HEAD: usize = 64 << 10;

/// More headers than any server or proxy sends.
const MAX_HEADERS: usize = 100;

/// The largest answer we take, above every page of the largest messages that make sense.
const MAX_BODY: usize = 256 << 20;

/// The longest line with a chunk's size, with extensions nobody uses.
const MAX_CHUNK_LINE: usize = 1 << 10;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if it is none: another server listens there.
    pub fn json(&self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Broken {
            address: "the answer".to_owned(),
            reason: format!("is no JSON, so this is no CometServer: {error}"),
        })
    }

    pub(super) fn into_error(self) -> ClientError {
        let problem: Option<Value> = serde_json::from_slice(&self.body).ok();
        let text = |name: &str| Some(problem.as_ref()?.get(name)?.as_str()?.to_owned());
        let detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| {
            let line = String::from_utf8_lossy(&self.body);
            let line: String = line
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect();
            if line.trim().is_empty() {
                "the server refused".to_owned()
            } else {
                line
            }
        });
        ClientError::Http {
            status: self.status,
            code: text("code"),
            detail,
        }
    }
}

/// An answer whose head has come.
#[derive(Debug)]
pub(super) struct Incoming {
    connection: Connection,
    status: u16,
    framing: Framing,
}

/// How the end of a body is known.
#[derive(Debug)]
enum Framing {
    Length(usize),
    /// Bytes left in this chunk.
    Chunk(usize),
    /// Before the size of a chunk; the end of the chunk before it has been taken.
    ChunkSize,
    Trailer,
    Close,
    End,
}

impl Incoming {
    pub(super) fn read_head(mut connection: Connection) -> Result<Self, Error> {
        loop {
            if let Some((length, status, framing)) = parse_head(connection.received())? {
                connection.take(length);
                // 100 and 103 announce the real answer.
                if !(100..200).contains(&status) {
                    return Ok(Self {
                        connection,
                        status,
                        framing,
                    });
                }
                continue;
            }
            if connection.received().len() > MAX_HEAD {
                return Err(Error::Protocol("the head of the answer is too large".to_owned()));
            }
            if !connection.receive()? {
                return Err(closed());
            }
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn whole(mut self) -> Result<Answer, Error> {
        let mut body = Vec::new();
        while self.next_piece(&mut body)? {
            if body.len() > MAX_BODY {
                return Err(Error::Protocol("the answer is too large".to_owned()));
            }
        }
        Ok(Answer {
            status: self.status,
            body,
        })
    }

    /// Waits for more of the body and appends it; `false` at its end.
    pub(super) fn next_piece(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            let left = match self.framing {
                Framing::End | Framing::Length(0) => return Ok(false),
                Framing::ChunkSize => {
                    self.read_chunk_size()?;
                    continue;
                }
                Framing::Trailer => {
                    while !self.take_line()? {}
                    self.framing = Framing::End;
                    continue;
                }
                Framing::Chunk(0) => {
                    if !self.take_line()? {
                        return Err(Error::Protocol(
                            "a chunk of the answer is longer than it says".to_owned(),
                        ));
                    }
                    self.framing = Framing::ChunkSize;
                    continue;
                }
                Framing::Length(left) | Framing::Chunk(left) => left,
                Framing::Close => usize::MAX,
            };
            let count = self.connection.received().len().min(left);
            if count > 0 {
                out.extend_from_slice(&self.connection.received()[..count]);
                self.connection.take(count);
                match &mut self.framing {
                    Framing::Length(left) | Framing::Chunk(left) => *left -= count,
                    _ => {}
                }
                return Ok(true);
            }
            if !self.connection.receive()? {
                let complete = matches!(self.framing, Framing::Close);
                return if complete { Ok(false) } else { Err(closed()) };
            }
        }
    }

    fn read_chunk_size(&mut self) -> Result<(), Error> {
        loop {
            match httparse::parse_chunk_size(self.connection.received()) {
                Ok(httparse::Status::Complete((length, size))) => {
                    self.connection.take(length);
                    self.framing = match usize::try_from(size) {
                        Ok(0) => Framing::Trailer,
                        Ok(size) => Framing::Chunk(size),
                        Err(_) => {
                            return Err(Error::Protocol("a chunk of the answer is too large".to_owned()));
                        }
                    };
                    return Ok(());
                }
                Ok(httparse::Status::Partial) if self.connection.received().len() <= MAX_CHUNK_LINE => {
                    if !self.connection.receive()? {
                        return Err(closed());
                    }
                }
                _ => return Err(Error::Protocol("the answer is not chunked as it says".to_owned())),
            }
        }
    }

    /// Takes a line; `true` if it was empty.
    fn take_line(&mut self) -> Result<bool, Error> {
        loop {
            let received = self.connection.received();
            if let Some(end) = memchr::memchr(b'\n', received) {
                let empty = matches!(&received[..end], b"" | b"\r");
                self.connection.take(end + 1);
                return Ok(empty);
            }
            if received.len() > MAX_HEAD {
                return Err(Error::Protocol("the end of the answer is too large".to_owned()));
            }
            if !self.connection.receive()? {
                return Err(closed());
            }
        }
    }
}

/// Its length, status and framing, once it is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, u16, Framing)>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Error::Protocol(format!("the answer is no HTTP: {error}"))),
    };
    let status = head
        .code
        .ok_or_else(|| Error::Protocol("the answer has no status".to_owned()))?;
    let value = |name: &str| {
        let header = head
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    let framing = match (status, value("transfer-encoding"), value("content-length")) {
        (204 | 304, _, _) => Framing::End,
        (_, Some(encoding), _) if encoding.eq_ignore_ascii_case("chunked") => Framing::ChunkSize,
        (_, Some(encoding), _) => {
            return Err(Error::Protocol(format!("unknown transfer encoding {encoding:?}")));
        }
        (_, None, Some(length)) => match length.parse() {
            Ok(length) => Framing::Length(length),
            Err(_) => return Err(Error::Protocol(format!("unreadable content length {length:?}"))),
        },
        (_, None, None) => Framing::Close,
    };
    Ok(Some((length, status, framing)))
}

fn closed() -> Error {
    Error::Io(std::io::ErrorKind::UnexpectedEof.into())
}
