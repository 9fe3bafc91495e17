//! The few blocking HTTP calls that the command line makes, over the backend socket or a TCP address.
//!
//! One request a connection: a command makes one or two calls and ends, and a server that is stopping closes anyway.

mod address;
mod answer;
mod connection;
mod follow;

use std::io;
use std::time::{Duration, Instant};

pub use address::Address;
pub use answer::Answer;
pub use follow::{Follow, Heard, Interest};

use answer::Incoming;
use connection::{Connection, Patience};

/// How long connecting may take. A server that accepts at all accepts at once: its backlog is large.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an answer may take unless the caller says otherwise. Publishing answers after the disk has it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stream may be silent before it counts as lost: three heartbeats of the default 25 s, and some.
const STREAM_SILENCE: Duration = Duration::from_secs(80);

/// Why a call failed. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there. A retry is useful once the server was started.
    #[error("not running: nobody answers at {address} (`comet start` starts a server)")]
    NotRunning {
        /// Where we looked.
        address: String,
    },
    /// The socket is there and not for us. Needs another user or other permissions.
    #[error(
        "{socket}: permission denied: it belongs to {owner} and you are {user}: \
         run this as {owner}, or have yourself added to the socket's group (setting socket_group)"
    )]
    Denied {
        /// The socket, or the folder above it that cannot be entered.
        socket: String,
        /// The user it belongs to.
        owner: String,
        /// The user we are.
        user: String,
    },
    /// Connected, but no answer came. It is unknown whether the request was carried out.
    #[error("no answer from {address} within {}: it may be overloaded, or stopped in a debugger", seconds(*.after))]
    Timeout {
        /// Whom we asked.
        address: String,
        /// How long we waited.
        after: Duration,
    },
    /// The server understood and refused, or failed.
    #[error("{detail} ({status}{})", code.as_ref().map(|code| format!(" {code}")).unwrap_or_default())]
    Http {
        /// The status of the answer.
        status: u16,
        /// The stable word for it (docs/protocol.md, Errors), if the answer had one.
        code: Option<String>,
        /// What the server says is to be done.
        detail: String,
    },
    /// The address cannot be connected to or did not speak HTTP.
    #[error("{address}: {reason}")]
    Broken {
        /// Whom we asked.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// What was given as an address is none.
    #[error("{given:?}: {problem}")]
    BadAddress {
        /// What was given.
        given: String,
        /// What was expected.
        problem: String,
    },
}

impl ClientError {
    /// Whether the same call may succeed later, without anybody changing anything here.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Http { status, .. } => *status >= 500 || *status == 429,
            Self::Denied { .. } | Self::BadAddress { .. } => false,
        }
    }

    /// The status of an answer that was an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Http { status, .. } => Some(*status),
            _ => None,
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

/// A payload with its media type.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    /// The `Content-Type`.
    pub media_type: &'a str,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A path with its query, built pair by pair; takes any bytes.
#[derive(Debug, Clone)]
pub struct Path(String);

impl Path {
    /// A path of fixed words, such as `/v1/publish`.
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(name);
        self.0.push('=');
        self.0
            .push_str(&String::from_utf8_lossy(&crate::seed::urlencode(value.as_ref())));
        self
    }

    /// Adds a query parameter if there is a value for it.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl AsRef<[u8]>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

/// Makes calls to one server.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    key: Option<String>,
    answer_timeout: Duration,
}

impl Client {
    /// A client of the server at this address, which asks for no key.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            key: None,
            answer_timeout: ANSWER_TIMEOUT,
        }
    }

    /// Sends this key or token with every call.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`] if it cannot be sent in a header.
    pub fn with_key(mut self, key: Option<String>) -> Result<Self, ClientError> {
        let sendable = |key: &String| key.bytes().all(|byte| byte.is_ascii_graphic());
        if !key.as_ref().is_none_or(sendable) {
            let problem = "expected a key of visible ASCII characters without blanks".to_owned();
            return Err(ClientError::BadAddress {
                given: "--key".to_owned(),
                problem,
            });
        }
        self.key = key;
        Ok(self)
    }

    /// Waits so long for each answer, its body included.
    #[must_use]
    pub fn with_answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Where the server is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connects and closes again, to see whether anybody listens.
    ///
    /// # Errors
    /// As [`Client::call`], but never [`ClientError::Http`].
    pub fn probe(&self) -> Result<(), ClientError> {
        Connection::open(&self.address, CONNECT_TIMEOUT)
            .map(drop)
            .map_err(|error| self.explain(error))
    }

    /// `GET`s an answer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn get(&self, path: &Path) -> Result<Answer, ClientError> {
        self.call("GET", path, None)
    }

    /// Makes one call.
    ///
    /// # Errors
    /// [`ClientError::Http`] for every status from 400; the others if there was no answer.
    pub fn call(&self, method: &str, path: &Path, body: Option<Payload<'_>>) -> Result<Answer, ClientError> {
        let patience = Patience::Until(Instant::now() + self.answer_timeout);
        let answer = self.send(method, path, body, patience).and_then(Incoming::whole);
        let answer = answer.map_err(|error| self.explain(error))?;
        if answer.status >= 400 {
            Err(answer.into_error())
        } else {
            Ok(answer)
        }
    }

    /// Opens a stream, whose silence may last longer than an answer.
    fn open(&self, path: &Path) -> Result<Incoming, ClientError> {
        let opened = self.send("GET", path, None, Patience::Silence(STREAM_SILENCE));
        let incoming = opened.map_err(|error| self.explain(error))?;
        if incoming.status() < 400 {
            return Ok(incoming);
        }
        Err(incoming
            .whole()
            .map_err(|error| self.explain(error))?
            .into_error())
    }

    fn send(
        &self,
        method: &str,
        path: &Path,
        body: Option<Payload<'_>>,
        patience: Patience,
    ) -> Result<Incoming, connection::Error> {
        let mut request = format!("{method} {}{} HTTP/1.1\r\n", self.address.base_path(), path.0);
        request.push_str(&format!("Host: {}\r\nConnection: close\r\n", self.address.host()));
        request.push_str(concat!("User-Agent: comet/", env!("CARGO_PKG_VERSION"), "\r\n"));
        if let Some(key) = &self.key {
            request.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        if let Some(Payload { media_type, bytes }) = body {
            request.push_str(&format!(
                "Content-Type: {media_type}\r\nContent-Length: {}\r\n",
                bytes.len()
            ));
        } else if method != "GET" {
            request.push_str("Content-Length: 0\r\n");
        }
        request.push_str("\r\n");

        let mut connection = Connection::open(&self.address, CONNECT_TIMEOUT)?;
        connection.set_patience(patience);
        let sent = connection.write(request.as_bytes()).and_then(|()| match body {
            Some(payload) => connection.write(payload.bytes),
            None => Ok(()),
        });
        match sent {
            // The server may answer (413, 503) and close before it has read everything: the answer says more.
            Err(connection::Error::Io(error)) if is_closed(&error) => {
                Incoming::read_head(connection).map_err(|_| connection::Error::Io(error))
            }
            Err(error) => Err(error),
            Ok(()) => Incoming::read_head(connection),
        }
    }

    fn explain(&self, error: connection::Error) -> ClientError {
        let address = self.address.to_string();
        match error {
            connection::Error::Timeout(after) => ClientError::Timeout { address, after },
            connection::Error::Protocol(reason) => ClientError::Broken { address, reason },
            connection::Error::Connect(error) => self.address.explain(&error),
            connection::Error::Io(error) if is_closed(&error) => {
                let reason = "the server closed the connection without an answer: see its log".to_owned();
                ClientError::Broken { address, reason }
            }
            connection::Error::Io(error) => ClientError::Broken {
                address,
                reason: error.to_string(),
            },
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests;
