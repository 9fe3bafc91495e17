//! An answer, written into a buffer.
//!
//! No `Date`: RFC 9110 lets a server without a clock it trusts leave it out, nobody reads it here, and it costs more
//! than the rest of the head.

use super::request::{Method, Request, Version};

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What ends a chunk's content.
pub const CHUNK_END: &[u8] = b"\r\n";

/// How a request wants to be answered; outlives the request's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The client's version: HTTP/1.0 gets no chunks.
    pub version: Version,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
    /// Answer to `HEAD`: the head alone.
    pub head_only: bool,
}

impl Terms {
    /// The terms of an answer after which the connection is closed.
    pub const CLOSE: Self = Self {
        version: Version::Http11,
        keep_alive: false,
        head_only: false,
    };

    /// The same terms, but the connection is closed after the answer.
    pub fn closing(self) -> Self {
        Self {
            keep_alive: false,
            ..self
        }
    }
}

impl From<&Request<'_>> for Terms {
    fn from(request: &Request<'_>) -> Self {
        Self {
            version: request.version,
            keep_alive: request.keep_alive,
            head_only: request.method == Method::Head,
        }
    }
}

/// How a body of unknown length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// In chunks: [`chunk`] … [`last_chunk`].
    Chunked,
    /// As it is, until the connection is closed (HTTP/1.0).
    UntilClose,
    /// Not at all: it was a HEAD request.
    Nothing,
}

/// The head of an answer being written. Ends with one of [`body`](Self::body), [`length`](Self::length),
/// [`stream`](Self::stream), [`no_body`](Self::no_body).
#[derive(Debug)]
#[must_use = "a head without an end is half an answer"]
pub struct Head<'o> {
    out: &'o mut Vec<u8>,
    terms: Terms,
}

impl<'o> Head<'o> {
    /// Writes the status line, and `Connection` where the client would otherwise expect another thing.
    pub fn new(out: &'o mut Vec<u8>, terms: Terms, status: u16) -> Self {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        let head = Self { out, terms };
        match (status, terms.keep_alive, terms.version) {
            // The connection is not ours any more: `Connection: Upgrade` is for the caller to write.
            (101, _, _) | (_, true, Version::Http11) => head,
            (_, true, Version::Http10) => head.header("Connection", "keep-alive"),
            (_, false, _) => head.header("Connection", "close"),
        }
    }

    /// Writes a header. Control characters in `value` become spaces: no value can begin another header.
    ///
    /// `name` is written as it is; it is `'static`, so that it cannot come from outside.
    pub fn header(self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        let begin = self.out.len();
        self.out.extend_from_slice(value);
        for byte in &mut self.out[begin..] {
            if byte.is_ascii_control() && *byte != b'\t' {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Writes a header whose value is a number.
    pub fn number(self, name: &'static str, value: u64) -> Self {
        self.header(name, itoa::Buffer::new().format(value))
    }

    /// Ends the head with `Content-Length` and writes the body (only its length if it was a HEAD request).
    pub fn body(self, body: &[u8]) {
        let head_only = self.terms.head_only;
        let out = self.length(body.len());
        if !head_only {
            out.extend_from_slice(body);
        }
    }

    /// Ends the head with `Content-Length`; the caller writes that many bytes next, unless it was a HEAD request.
    pub fn length(self, length: usize) -> &'o mut Vec<u8> {
        self.number("Content-Length", length as u64).no_body()
    }

    /// Ends the head before a body whose length nobody knows yet, and says how to write it. With
    /// [`Streaming::UntilClose`] the connection must be closed after it, whatever the client wished.
    pub fn stream(self) -> Streaming {
        let chunked = self.terms.version == Version::Http11;
        let head_only = self.terms.head_only;
        if chunked {
            self.header("Transfer-Encoding", "chunked").no_body();
        } else {
            self.no_body();
        }
        match (head_only, chunked) {
            (true, _) => Streaming::Nothing,
            (false, true) => Streaming::Chunked,
            (false, false) => Streaming::UntilClose,
        }
    }

    /// Ends the head of an answer that never has a body: 101, 204, 304.
    pub fn no_body(self) -> &'o mut Vec<u8> {
        self.out.extend_from_slice(b"\r\n");
        self.out
    }
}

/// Writes the line before a chunk of `length` bytes (at least 1: an empty chunk would end the body). The content and
/// [`CHUNK_END`] follow.
pub fn chunk_header(length: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    debug_assert!(length > 0, "an empty chunk would end the body");
    let mut shift = length.max(1).ilog2() / 4 * 4;
    loop {
        out.push(DIGITS[length >> shift & 15]);
        if shift == 0 {
            break;
        }
        shift -= 4;
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk; nothing if it is empty.
pub fn chunk(content: &[u8], out: &mut Vec<u8>) {
    if !content.is_empty() {
        chunk_header(content.len(), out);
        out.extend_from_slice(content);
        out.extend_from_slice(CHUNK_END);
    }
}

/// Writes the end of a chunked body.
pub fn last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// The reason phrase of a status; for one we do not use, the name of its class.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => match status / 100 {
            1 => "Information",
            2 => "Success",
            3 => "Redirection",
            4 => "Client Error",
            _ => "Server Error",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Terms = Terms {
        version: Version::Http11,
        keep_alive: true,
        head_only: false,
    };

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let answer = written(|out| Head::new(out, KEEP, 200).header("ETag", "\"a\"").body(b"hello"));
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: 5\r\n\r\nhello"
        );
    }

    #[test]
    fn an_answer_to_head_has_the_head_of_the_answer_to_get() {
        let terms = Terms {
            head_only: true,
            ..KEEP
        };
        let answer = written(|out| Head::new(out, terms, 200).body(b"hello"));
        assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(
            Head::new(&mut Vec::new(), terms, 200).stream(),
            Streaming::Nothing
        );
    }

    #[test]
    fn no_value_can_begin_another_header() {
        let answer = written(|out| {
            Head::new(out, KEEP, 204)
                .header("ETag", "a\r\nSet-Cookie: b\n\0")
                .no_body();
        });
        assert_eq!(
            answer,
            "HTTP/1.1 204 No Content\r\nETag: a  Set-Cookie: b  \r\n\r\n"
        );
    }

    #[test]
    fn connection_is_written_where_the_client_would_expect_the_contrary() {
        let old = Terms {
            version: Version::Http10,
            ..KEEP
        };
        let connection = |terms, status| {
            let answer = written(|out| Head::new(out, terms, status).body(b""));
            answer
                .lines()
                .find_map(|line| line.strip_prefix("Connection: "))
                .map(str::to_owned)
        };
        assert_eq!(connection(KEEP, 200), None);
        assert_eq!(connection(KEEP.closing(), 200).as_deref(), Some("close"));
        assert_eq!(connection(old, 200).as_deref(), Some("keep-alive"));
        assert_eq!(connection(old.closing(), 200).as_deref(), Some("close"));
        assert_eq!(connection(KEEP.closing(), 101), None);
    }

    #[test]
    fn a_stream_is_chunked_unless_the_client_is_too_old() {
        let mut out = Vec::new();
        assert_eq!(Head::new(&mut out, KEEP, 200).stream(), Streaming::Chunked);
        assert!(out.ends_with(b"Transfer-Encoding: chunked\r\n\r\n"));
        let old = Terms {
            version: Version::Http10,
            ..KEEP
        }
        .closing();
        out.clear();
        assert_eq!(Head::new(&mut out, old, 200).stream(), Streaming::UntilClose);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn the_line_before_a_chunk_is_its_length_in_hexadecimal() {
        for length in [1, 15, 16, 255, 256, 4096, 0xabcdef, usize::MAX] {
            assert_eq!(
                written(|out| chunk_header(length, out)),
                format!("{length:x}\r\n")
            );
        }
        assert_eq!(written(|out| chunk(b"", out)), "");
        let stream = written(|out| {
            chunk(b"hello", out);
            last_chunk(out);
        });
        assert_eq!(stream, "5\r\nhello\r\n0\r\n\r\n");
    }
}
