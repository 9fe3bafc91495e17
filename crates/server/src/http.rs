//! HTTP/1.1 as a server reads and writes it, without a socket: bytes in, requests out; answers into a `Vec<u8>`.
//!
//! Heads are read by `httparse` and then judged by us; bodies are read by us. The reader is stricter than RFC 9112 asks
//! for, because a front web server and we must never disagree about where a request ends (request smuggling): whatever
//! two readers could take in two ways is refused, and the connection closed.
//!
//! Left out on purpose: HTTP/0.9, folded header lines, bare line feeds, `CONNECT`, transfer codings besides `chunked`,
//! trailers (read, checked, dropped), HTTP/2.

mod ascii_host;
mod body;
pub mod cors;
pub mod entity_tag;
mod head;
pub mod problem;
pub mod query;
mod request;
pub mod response;

use std::borrow::Cow;

use cors::Cors;
use problem::Problem;
pub use request::{Method, Request, Version};
use response::Terms;

/// Upper end of [`Limits::head`], whatever is configured: positions in a head are kept in 32 bits.
pub const HEAD_MAX: usize = 1 << 20;

/// Upper end of [`Limits::headers`], whatever is configured: so many fit into the reader's stack frame (4 KiB).
pub const HEADERS_MAX: usize = 128;

/// So many header lines are taken unless somebody says otherwise: proxies, tracing and a browser together send some dozens.
pub const HEADERS: usize = 100;

/// Upper end of [`Limits::body`], whatever is configured: positions in a body are kept in 32 bits, and a chunked
/// body may take twice its content.
pub const BODY_MAX: usize = 1 << 30;

/// How much of a request is accepted.
///
/// A caller that buffers for [`parse`] needs at most [`buffer_max`](Self::buffer_max) bytes for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line and all header lines; at most [`HEAD_MAX`] counts.
    pub head: usize,
    /// Header lines (and, in a chunked body, trailer lines); at most [`HEADERS_MAX`] counts.
    pub headers: usize,
    /// Bytes of the body after decoding; at most [`BODY_MAX`] counts.
    pub body: usize,
}

impl Default for Limits {
    /// 16 KiB (a browser's cookies, two tokens and a hundred channels), 100 header lines, a body of 1 MiB.
    fn default() -> Self {
        Self {
            head: 16 << 10,
            headers: HEADERS,
            body: 1 << 20,
        }
    }
}

impl Limits {
    /// The most bytes that [`parse`] may have to see before it knows: with a buffer this long it never answers
    /// [`Parse::Incomplete`].
    pub fn buffer_max(&self) -> usize {
        self.clamped_head() + 2 * self.clamped_body() + body::OVERHEAD_MAX
    }

    fn clamped_head(&self) -> usize {
        self.head.min(HEAD_MAX)
    }

    fn clamped_headers(&self) -> usize {
        self.headers.min(HEADERS_MAX)
    }

    fn clamped_body(&self) -> usize {
        self.body.min(BODY_MAX)
    }
}

/// What is already known about a request that has not arrived whole, so that each byte is looked at once.
///
/// Belongs to one buffer: keep both together, and only append to the buffer until the request is complete.
/// [`parse`] resets it when it hands out the request.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Stage,
    /// The client waits for `100 Continue` before it sends the body, and we have not yet said so to the caller.
    owes_continue: bool,
}

impl Progress {
    /// Whether the head has come whole, and the body has not.
    pub fn is_in_body(&self) -> bool {
        matches!(self.stage, Stage::Body(_))
    }
}

const _: () = assert!(
    size_of::<Progress>() <= 32,
    "one of these lives in every connection"
);

#[derive(Debug)]
enum Stage {
    Head(head::Scan),
    Body(body::Reader),
}

impl Default for Stage {
    fn default() -> Self {
        Self::Head(head::Scan::default())
    }
}

/// What [`parse`] found at the beginning of the buffer.
#[derive(Debug)]
pub enum Parse<'a> {
    /// Read more, append it, ask again.
    Incomplete {
        /// The client sent `Expect: 100-continue` and its body is not here yet: send
        /// [`response::CONTINUE`]. True once per request.
        wants_continue: bool,
        /// At least so many more bytes are needed (1 or more). A hint for the size of the next read.
        needed: usize,
    },
    /// A whole request.
    Complete {
        /// The request, borrowing from the buffer.
        request: Request<'a>,
        /// Bytes it took: the next pipelined request begins there.
        consumed: usize,
    },
}

/// Why the bytes are not a request that we accept.
///
/// Answer with [`Reject::answer`] and close: nobody knows where the next request would begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {detail}")]
pub struct Reject {
    /// The HTTP status.
    pub status: u16,
    /// The stable code for clients, from the table in docs/protocol.md.
    pub code: &'static str,
    /// What is wrong and what to do, for a person.
    pub detail: Cow<'static, str>,
}

impl Reject {
    fn new(status: u16, detail: &'static str) -> Self {
        let code = match status {
            413 | 431 => "too_large",
            _ => "bad_request",
        };
        Self {
            status,
            code,
            detail: Cow::Borrowed(detail),
        }
    }

    /// 400: the bytes are not HTTP, or two readers could take them in two ways.
    fn bad(detail: &'static str) -> Self {
        Self::new(400, detail)
    }

    /// Appends the answer, `Connection: close` included, with the headers that let a page of another origin read it.
    pub fn answer(&self, cors: &Cors, out: &mut Vec<u8>) {
        Problem::new(self.status, self.code, &self.detail).answer(Terms::CLOSE, cors, out);
    }
}

/// Reads one request from the beginning of `buffer`.
///
/// The verdict depends on the bytes only, not on how they arrived: any growing buffer ends in what the whole one gives.
///
/// # Errors
/// [`Reject`]: answer it and close. `progress` is then of no use any more.
pub fn parse<'a>(buffer: &'a [u8], progress: &mut Progress, limits: &Limits) -> Result<Parse<'a>, Reject> {
    let mut parsed = None;
    if let Stage::Head(scan) = &mut progress.stage {
        let Some(end) = scan.advance(buffer, limits)? else {
            return Ok(Parse::Incomplete {
                wants_continue: false,
                needed: 1,
            });
        };
        let head = head::read(&buffer[..end], limits)?;
        progress.owes_continue = head.expects_continue && head.framing != body::Framing::Length(0);
        progress.stage = Stage::Body(body::Reader::new(end, head.framing, limits)?);
        parsed = Some(head);
    }
    let Stage::Body(reader) = &mut progress.stage else {
        unreachable!("the stage after the head was set above");
    };
    if let Some(needed) = reader.advance(buffer, limits)? {
        let wants_continue = std::mem::take(&mut progress.owes_continue);
        return Ok(Parse::Incomplete {
            wants_continue,
            needed,
        });
    }
    let mut request = match parsed {
        Some(head) => head.request,
        // The body came later than the head. Reading the head again costs less than keeping it for everybody.
        None => head::read(&buffer[..reader.head_end()], limits)?.request,
    };
    request.body = reader.content(buffer);
    let consumed = reader.end();
    *progress = Progress::default();
    Ok(Parse::Complete { request, consumed })
}
