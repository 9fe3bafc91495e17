//! Where a body ends, and what is in it.

use std::borrow::Cow;

use memchr::memchr;

use super::head::is_token_byte;
use super::{Limits, Reject};

/// Longest line that announces a chunk, in bytes with its CR LF: 16 digits, and room for the extensions that nobody sends.
const CHUNK_LINE_MAX: usize = 256;

/// What the lines around the chunks may take, in bytes, over the body limit itself. One-byte chunks cost five bytes of
/// framing each; without a bound they would let a client have us buffer a multiple of the body limit.
const FRAMING_ALLOWANCE: usize = 16 << 10;

/// What trailers may take, in bytes. We drop them.
const TRAILERS_MAX: usize = 8 << 10;

/// Most bytes of a chunked body that are neither content nor matched by the body limit.
pub(super) const OVERHEAD_MAX: usize = FRAMING_ALLOWANCE + CHUNK_LINE_MAX + TRAILERS_MAX;

/// How the head says the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the empty chunk and the trailers.
    Chunked,
}

/// The walk through a body in a growing buffer. Positions count from the beginning of the buffer; all fit into 32 bits
/// because of `HEAD_MAX` and `BODY_MAX`.
#[derive(Debug)]
pub(super) struct Reader {
    head_end: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// In a body of known length, which ends there.
    Length { end: u32 },
    /// Before a chunk's line; `decoded` bytes of content came before it.
    Chunk { at: u32, decoded: u32 },
    /// Before a trailer line.
    Trailer { at: u32, decoded: u32, begin: u32 },
    /// Behind the last byte of a chunked body.
    End { at: u32, decoded: u32 },
}

impl Reader {
    /// # Errors
    /// 413 if the announced length is over the limit.
    pub(super) fn new(head_end: usize, framing: Framing, limits: &Limits) -> Result<Self, Reject> {
        let place = match framing {
            Framing::Length(length) => {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|&length| length <= limits.clamped_body());
                Place::Length {
                    end: (head_end + length.ok_or_else(too_large)?) as u32,
                }
            }
            Framing::Chunked => Place::Chunk {
                at: head_end as u32,
                decoded: 0,
            },
        };
        Ok(Self {
            head_end: head_end as u32,
            place,
        })
    }

    /// Goes on through what has arrived. `None`: the body is complete; else at least how many bytes are missing.
    pub(super) fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, Reject> {
        loop {
            match self.place {
                Place::Length { end } => {
                    return Ok((end as usize).checked_sub(buffer.len()).filter(|&n| n > 0));
                }
                Place::End { .. } => return Ok(None),
                Place::Chunk { at, decoded } => {
                    if let Some(needed) = self.chunk(buffer, at as usize, decoded as usize, limits)? {
                        return Ok(Some(needed));
                    }
                }
                Place::Trailer { at, decoded, begin } => {
                    if !self.trailer(buffer, at as usize, decoded, begin as usize, limits)? {
                        return Ok(Some(1));
                    }
                }
            }
        }
    }

    /// Passes one whole chunk, or says how many bytes of it are missing.
    fn chunk(
        &mut self,
        buffer: &[u8],
        at: usize,
        decoded: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Reject> {
        let Some((size, line)) = chunk_line(&buffer[at..])? else {
            return Ok(Some(1));
        };
        let content = at + line;
        let framing = content - self.head_end as usize - decoded;
        let room = limits.clamped_body() - decoded;
        let Some(size) = usize::try_from(size).ok().filter(|&size| size <= room) else {
            return Err(too_large());
        };
        if framing > limits.clamped_body() + FRAMING_ALLOWANCE {
            return Err(Reject::new(413, "too many small chunks: send larger ones"));
        }
        if size == 0 {
            let at = content as u32;
            self.place = Place::Trailer {
                at,
                decoded: decoded as u32,
                begin: at,
            };
            return Ok(None);
        }
        let end = content + size;
        match buffer.get(end..end + 2) {
            None => Ok(Some(end + 2 - buffer.len())),
            Some(b"\r\n") => {
                self.place = Place::Chunk {
                    at: (end + 2) as u32,
                    decoded: (decoded + size) as u32,
                };
                Ok(None)
            }
            Some(_) => Err(Reject::bad("a chunk is longer or shorter than announced")),
        }
    }

    /// Passes one trailer line; false if it is not all here.
    fn trailer(
        &mut self,
        buffer: &[u8],
        at: usize,
        decoded: u32,
        begin: usize,
        limits: &Limits,
    ) -> Result<bool, Reject> {
        let seen = &buffer[..buffer.len().min(begin + TRAILERS_MAX)];
        let Some(length) = memchr(b'\n', &seen[at..]) else {
            if seen.len() == begin + TRAILERS_MAX {
                return Err(Reject::new(431, "the trailers are too long"));
            }
            return Ok(false);
        };
        let next = at + length + 1;
        let Some(line) = seen[at..next].strip_suffix(b"\r\n") else {
            return Err(Reject::bad("a trailer line ends with a bare LF"));
        };
        if line.is_empty() {
            // The empty line is counted too, hence `>`.
            if memchr::memchr_iter(b'\n', &seen[begin..at]).count() > limits.clamped_headers() {
                return Err(Reject::new(431, "too many trailers"));
            }
            self.place = Place::End {
                at: next as u32,
                decoded,
            };
        } else if is_field(line) {
            self.place = Place::Trailer {
                at: next as u32,
                decoded,
                begin: begin as u32,
            };
        } else {
            return Err(Reject::bad("a trailer line is not `Name: value`"));
        }
        Ok(true)
    }

    /// Where the head ended and the body began.
    pub(super) fn head_end(&self) -> usize {
        self.head_end as usize
    }

    /// Where the next request begins. Only when [`advance`](Self::advance) says that the body is complete.
    pub(super) fn end(&self) -> usize {
        match self.place {
            Place::Length { end: at }
            | Place::End { at, .. }
            | Place::Chunk { at, .. }
            | Place::Trailer { at, .. } => at as usize,
        }
    }

    /// The content. Only when [`advance`](Self::advance) says that the body is complete.
    pub(super) fn content<'a>(&self, buffer: &'a [u8]) -> Cow<'a, [u8]> {
        let raw = &buffer[self.head_end()..self.end()];
        match self.place {
            Place::Length { .. } => Cow::Borrowed(raw),
            Place::Chunk { decoded, .. } | Place::Trailer { decoded, .. } | Place::End { decoded, .. } => {
                join(raw, decoded as usize)
            }
        }
    }
}

fn too_large() -> Reject {
    Reject::new(413, "the body is larger than limits.message_size allows")
}

/// Puts `length` bytes in chunks together. A single chunk (what most clients send) needs no copy.
fn join(raw: &[u8], length: usize) -> Cow<'_, [u8]> {
    let mut at = 0;
    let mut joined = Vec::new();
    while let Ok(Some((size @ 1.., line))) = chunk_line(&raw[at..]) {
        let begin = at + line;
        // Checked when it was passed: the chunk is in the buffer.
        let end = begin + size as usize;
        if size as usize == length {
            return Cow::Borrowed(&raw[begin..end]);
        }
        joined.reserve_exact(length - joined.len());
        joined.extend_from_slice(&raw[begin..end]);
        at = end + 2;
    }
    Cow::Owned(joined)
}

/// Reads the line before a chunk: the chunk's size, and the line's length with CR LF. `None` if it is not all here.
fn chunk_line(bytes: &[u8]) -> Result<Option<(u64, usize)>, Reject> {
    let seen = &bytes[..bytes.len().min(CHUNK_LINE_MAX)];
    let Some(feed) = memchr(b'\n', seen) else {
        if seen.len() == CHUNK_LINE_MAX {
            return Err(Reject::bad("the line before a chunk is too long"));
        }
        return Ok(None);
    };
    let Some(line) = seen[..feed].strip_suffix(b"\r") else {
        return Err(Reject::bad("the line before a chunk ends with a bare LF"));
    };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    // 16 digits are 64 bits; hence no overflow below.
    if digits.is_empty() || digits.len() > 16 {
        return Err(Reject::bad(
            "the size of a chunk is not a hexadecimal number of at most 16 digits",
        ));
    }
    // RFC 9112, 7.1.1: white space is allowed before `;`, and nowhere else.
    let rest = extensions.trim_ascii_start();
    if !(extensions.is_empty() || rest.starts_with(b";")) || !extensions.iter().all(|&byte| is_text(byte)) {
        return Err(Reject::bad("the line before a chunk is malformed"));
    }
    let size = digits
        .iter()
        .fold(0, |sum, digit| sum << 4 | u64::from(hex_value(*digit)));
    Ok(Some((size, feed + 1)))
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

fn is_field(line: &[u8]) -> bool {
    match memchr(b':', line) {
        Some(colon @ 1..) => {
            line[..colon].iter().all(|&byte| is_token_byte(byte))
                && line[colon..].iter().all(|&byte| is_text(byte))
        }
        _ => false,
    }
}

/// What a header value may hold: no control characters but the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_chunk_is_hexadecimal_and_nothing_else() {
        let size = |line: &str| chunk_line(line.as_bytes()).ok().flatten().map(|(size, _)| size);
        assert_eq!(size("0\r\n"), Some(0));
        assert_eq!(size("aF09\r\n"), Some(0xaf09));
        assert_eq!(size("0000000000000005;a=\"b\"\r\n"), Some(5));
        assert_eq!(size("5 ;a\r\n"), Some(5));
        assert_eq!(size("ffffffffffffffff\r\n"), Some(u64::MAX));
        for line in [
            "\r\n", "5\n", "+5\r\n", "0x5\r\n", "5 \r\n", " 5\r\n", "5\ra\r\n", "5;\0\r\n", "g\r\n", "-1\r\n",
        ] {
            assert!(chunk_line(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(chunk_line(b"00000000000000001\r\n").is_err(), "17 digits");
    }

    #[test]
    fn a_single_chunk_is_not_copied() {
        assert!(matches!(join(b"3\r\nabc\r\n0\r\n\r\n", 3), Cow::Borrowed(b"abc")));
        assert!(matches!(join(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", 3), Cow::Owned(joined) if joined == b"abc"));
    }
}
