//! What a subscriber receives, read just far enough to count deliveries.

use memchr::memmem;

use super::dialect::Resume;
use super::{BenchError, MARKER, Target, Transport};

/// Most bytes of an answer's head, and most header lines: above what any server here sends.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// How much of a refusal is shown.
const SHOWN_BODY: usize = 300;

/// The name of this kind of request in errors.
const SUBSCRIBER: &str = "subscriber";

/// What some bytes held.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Publications.
    pub(super) deliveries: u32,
    /// Long poll: an answer is complete, the next request is due.
    pub(super) answered: bool,
    /// WebSocket: the payload of a ping that wants its pong.
    pub(super) ping: Option<Vec<u8>>,
}

/// One connection's reading.
#[derive(Debug)]
pub(super) struct Reader {
    transport: Transport,
    in_head: bool,
    has_body: bool,
    /// An answer that is not complete yet. Streams use it for their head only.
    partial: Vec<u8>,
    frames: Frames,
    /// Long poll: where to go on.
    pub(super) resume: Resume,
}

impl Reader {
    pub(super) fn new(transport: Transport) -> Self {
        Reader {
            transport,
            in_head: true,
            has_body: false,
            partial: Vec::new(),
            frames: Frames::default(),
            resume: Resume::default(),
        }
    }

    /// The response has begun: its head is complete.
    pub(super) fn has_head(&self) -> bool {
        !self.in_head
    }

    /// Something came after the head.
    pub(super) fn has_body(&self) -> bool {
        self.has_body
    }

    /// Takes what was just read.
    pub(super) fn take(&mut self, target: Target, bytes: &[u8]) -> Result<Seen, BenchError> {
        let mut seen = Seen::default();
        if self.transport == Transport::Poll {
            self.take_answer(target, bytes, &mut seen)?;
            return Ok(seen);
        }
        let head;
        let mut body = bytes;
        if self.in_head {
            self.partial.extend_from_slice(bytes);
            head = std::mem::take(&mut self.partial);
            let Some(answer) = Answer::parse(SUBSCRIBER, &head)? else {
                self.partial = head;
                return Ok(seen);
            };
            answer.expect_success(SUBSCRIBER, &head)?;
            self.in_head = false;
            body = &head[answer.head..];
        }
        self.has_body |= !body.is_empty();
        match self.transport {
            Transport::Ws => self.frames.take(body, &mut seen)?,
            _ => seen.deliveries = count(body),
        }
        Ok(seen)
    }

    fn take_answer(&mut self, target: Target, bytes: &[u8], seen: &mut Seen) -> Result<(), BenchError> {
        // Nearly always an answer arrives whole: no copy then.
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(bytes);
            let whole = std::mem::take(&mut self.partial);
            if !self.read_answer(target, &whole, seen)? {
                self.partial = whole;
            }
        } else if !self.read_answer(target, bytes, seen)? {
            self.partial.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Reads one whole answer of a long poll; `false`: it is not whole yet.
    fn read_answer(&mut self, target: Target, bytes: &[u8], seen: &mut Seen) -> Result<bool, BenchError> {
        let Some(answer) = Answer::parse(SUBSCRIBER, bytes)? else {
            return Ok(false);
        };
        let Some(body) = answer.body(bytes) else {
            return Ok(false);
        };
        if answer.status != 304 {
            answer.expect_success(SUBSCRIBER, bytes)?;
        }
        seen.deliveries = count(body);
        seen.answered = true;
        if target == Target::Comet && answer.status != 304 {
            if seen.deliveries == 0 && memmem::find(body, b"\"retry_ms\"").is_some() {
                return Err(malformed(
                    SUBSCRIBER,
                    "the server holds no more polls: it asks to come back later",
                ));
            }
            self.resume.tag.clear();
            self.resume.tag.extend_from_slice(cursor(body)?);
        } else if target == Target::Nchan {
            self.resume.tag = answer.etag.unwrap_or_default().to_vec();
            self.resume.modified = answer.modified.unwrap_or_default().to_vec();
        }
        Ok(true)
    }
}

fn count(bytes: &[u8]) -> u32 {
    memchr::memchr_iter(MARKER, bytes).count() as u32
}

/// The cursor of a poll's answer, its last field.
fn cursor(body: &[u8]) -> Result<&[u8], BenchError> {
    const FIELD: &[u8] = b"\"cursor\":\"";
    let start = memmem::rfind(body, FIELD).map(|at| at + FIELD.len());
    let value = start.and_then(|at| memchr::memchr(b'"', &body[at..]).map(|length| &body[at..at + length]));
    value.ok_or_else(|| malformed(SUBSCRIBER, "a poll was answered without a cursor"))
}

fn malformed(what: &'static str, detail: impl Into<String>) -> BenchError {
    BenchError::Malformed {
        what,
        detail: detail.into(),
    }
}

/// An HTTP answer's head.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    /// Bytes of the head, the empty line included.
    head: usize,
    /// Bytes of the body; for a stream 0.
    length: usize,
    etag: Option<&'a [u8]>,
    modified: Option<&'a [u8]>,
}

impl<'a> Answer<'a> {
    /// `None`: the head is not whole yet.
    pub(super) fn parse(what: &'static str, bytes: &'a [u8]) -> Result<Option<Self>, BenchError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let head = match response.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(malformed(what, "its head does not end")),
            Err(error) => return Err(malformed(what, error.to_string())),
        };
        let status = response.code.unwrap_or(0);
        let mut answer = Answer {
            status,
            head,
            length: 0,
            etag: None,
            modified: None,
        };
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = std::str::from_utf8(header.value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                answer.length = length.ok_or_else(|| malformed(what, "its Content-Length is no number"))?;
            } else if header.name.eq_ignore_ascii_case("etag") {
                answer.etag = Some(header.value);
            } else if header.name.eq_ignore_ascii_case("last-modified") {
                answer.modified = Some(header.value);
            }
        }
        Ok(Some(answer))
    }

    /// The body; `None`: it is not whole yet.
    pub(super) fn body<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let length = if self.status == 304 { 0 } else { self.length };
        bytes.get(self.head..self.head.checked_add(length)?)
    }

    pub(super) fn expect_success(&self, what: &'static str, bytes: &[u8]) -> Result<(), BenchError> {
        if self.status == 101 || (200..300).contains(&self.status) {
            return Ok(());
        }
        let body = &bytes[self.head..];
        let body = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BODY)]).into_owned();
        Err(BenchError::Refused {
            what,
            status: self.status,
            body,
        })
    }
}

/// Most bytes of a control frame's payload (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;

/// The WebSocket frames of one connection. Only headers are parsed; payloads are searched for the marker.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; 10],
    /// Bytes of `header` that are there.
    have: u8,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// Collected only for a ping.
    ping: Vec<u8>,
}

impl Frames {
    fn take(&mut self, mut bytes: &[u8], seen: &mut Seen) -> Result<(), BenchError> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let (payload, rest) = bytes.split_at(here);
                self.payload(payload, seen);
                bytes = rest;
                continue;
            }
            self.header[usize::from(self.have)] = first;
            self.have += 1;
            bytes = rest;
            self.begin(seen)?;
        }
        Ok(())
    }

    /// One more byte of the header is there: is it whole?
    fn begin(&mut self, seen: &mut Seen) -> Result<(), BenchError> {
        let wanted = match (self.have, self.header[1]) {
            (0 | 1, _) => return Ok(()),
            (_, 127) => 10,
            (_, 126) => 4,
            (_, 0..=125) => 2,
            (_, 128..) => return Err(malformed(SUBSCRIBER, "a server must not mask its frames")),
        };
        if self.have < wanted {
            return Ok(());
        }
        self.have = 0;
        self.left = self.header[2..usize::from(wanted)]
            .iter()
            .fold(0, |n, byte| n << 8 | u64::from(*byte));
        if wanted == 2 {
            self.left = u64::from(self.header[1]);
        }
        match self.header[0] & 0x0f {
            8 => return Err(BenchError::Closed(SUBSCRIBER)),
            9 if self.left > MAX_CONTROL => return Err(malformed(SUBSCRIBER, "a ping over 125 bytes")),
            9 if self.left == 0 => seen.ping = Some(Vec::new()),
            _ => {}
        }
        Ok(())
    }

    fn payload(&mut self, payload: &[u8], seen: &mut Seen) {
        self.left -= payload.len() as u64;
        match self.header[0] & 0x0f {
            0..=2 => seen.deliveries += count(payload),
            9 => {
                self.ping.extend_from_slice(payload);
                if self.left == 0 {
                    seen.ping = Some(std::mem::take(&mut self.ping));
                }
            }
            _ => {}
        }
    }
}

/// A pong, masked with zero.
pub(super) fn pong(payload: &[u8]) -> Vec<u8> {
    let length = payload.len().min(MAX_CONTROL as usize);
    [&[0x8a, 0x80 | length as u8, 0, 0, 0, 0], &payload[..length]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The deliveries in `bytes`, read whole and byte by byte.
    fn deliveries(transport: Transport, target: Target, bytes: &[u8]) -> (u32, u32) {
        let whole = Reader::new(transport).take(target, bytes).unwrap().deliveries;
        let mut reader = Reader::new(transport);
        let single = bytes
            .chunks(1)
            .map(|byte| reader.take(target, byte).unwrap().deliveries)
            .sum();
        (whole, single)
    }

    #[test]
    fn deliveries_are_counted_however_the_bytes_are_cut() {
        let sse = b"HTTP/1.1 200 OK\r\nX-Not-A-Delivery: ^\r\n\r\nid: 1\n\ndata: \"^x\"\n\n: ping\n\ndata: \"^y\"\n\n";
        assert_eq!(deliveries(Transport::Sse, Target::Comet, sse), (2, 2));

        let mut ws = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        ws.extend_from_slice(b"\x81\x02{}\x89\x01^"); // a cursor, a ping that happens to hold the marker
        ws.extend_from_slice(&[0x81, 94]); // 94 is the marker's own code
        ws.extend_from_slice(format!("{:94}", "\"^\"").as_bytes());
        ws.extend_from_slice(&[0x81, 126, 0x5e, 0x5e]);
        ws.extend_from_slice(format!("{:24158}", "\"^\"").as_bytes());
        assert_eq!(deliveries(Transport::Ws, Target::Comet, &ws), (2, 2));

        let poll = b"HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n{\"publications\":[{\"data\":\"^x\"}],\"cursor\":\"abcd\"}";
        assert_eq!(deliveries(Transport::Poll, Target::Comet, poll), (1, 1));
    }

    #[test]
    fn a_poll_goes_on_from_the_cursor_or_the_validators_of_its_answer() {
        let mut ours = Reader::new(Transport::Poll);
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{\"publications\":[],\"cursor\":\"abc\"}";
        assert!(ours.take(Target::Comet, bytes).unwrap().answered);
        assert_eq!(ours.resume.tag, b"abc");

        let mut nchan = Reader::new(Transport::Poll);
        let bytes = b"HTTP/1.1 200 OK\r\nLast-Modified: then\r\nEtag: 7\r\nContent-Length: 3\r\n\r\n\"^\"";
        assert_eq!(nchan.take(Target::Nchan, bytes).unwrap().deliveries, 1);
        assert_eq!(
            (nchan.resume.tag.as_slice(), nchan.resume.modified.as_slice()),
            (&b"7"[..], &b"then"[..])
        );
    }

    #[test]
    fn a_refusal_is_told_with_its_status_and_reason() {
        let bytes = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno key";
        for transport in [Transport::Sse, Transport::Ws, Transport::Poll] {
            let error = Reader::new(transport).take(Target::Comet, bytes).unwrap_err();
            assert!(
                matches!(&error, BenchError::Refused { status: 403, body, .. } if body == "no key"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_ping_is_handed_over_and_a_close_ends_the_run() {
        let mut reader = Reader::new(Transport::Ws);
        reader
            .take(Target::Comet, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            .unwrap();
        assert_eq!(
            reader.take(Target::Comet, b"\x89\x02hi").unwrap().ping.unwrap(),
            b"hi"
        );
        assert_eq!(pong(b"hi"), b"\x8a\x82\0\0\0\0hi");
        assert!(matches!(
            reader.take(Target::Comet, b"\x88\x00"),
            Err(BenchError::Closed(_))
        ));
    }
}
