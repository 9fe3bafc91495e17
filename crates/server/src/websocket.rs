//! WebSocket (RFC 6455) without I/O: bytes in, events out; messages in, frames out.
//!
//! Server frames are unmasked, so a frame is encoded once and its bytes are shared by everybody who gets it.
//! Left out on purpose: extensions (an offer of permessage-deflate is declined by not answering it).

mod decoder;
pub mod handshake;
mod header;
mod mask;
mod utf8;

pub use decoder::Decoder;

/// A frame's payload length that still fits the second byte; also the most that a control frame may carry.
const MAX_SHORT: usize = 125;

/// The most bytes of a close reason: a control frame's payload less the two bytes of the code.
pub const MAX_CLOSE_REASON: usize = MAX_SHORT - 2;

/// Close codes (RFC 6455, 7.4.1, and the IANA registry after it). Applications take theirs from 4000 to 4999.
pub mod code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server goes down, or the page goes away.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the rules of the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A kind of message that is not taken here, such as binary.
    pub const UNSUPPORTED: u16 = 1003;
    /// A text that is not UTF-8.
    pub const BAD_PAYLOAD: u16 = 1007;
    /// Not allowed, and no better code fits.
    pub const POLICY: u16 = 1008;
    /// A message above the limit.
    pub const TOO_BIG: u16 = 1009;
    /// Something failed here.
    pub const INTERNAL: u16 = 1011;
    /// The server starts again: come back soon.
    pub const RESTART: u16 = 1012;
    /// Overload: come back later.
    pub const TRY_LATER: u16 = 1013;
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0,
    /// A message that is UTF-8, or its first fragment.
    Text = 1,
    /// A message of any bytes, or its first fragment.
    Binary = 2,
    /// The last frame in this direction.
    Close = 8,
    /// To be answered by a [`Opcode::Pong`] with the same payload.
    Ping = 9,
    /// The answer to a ping, or an unasked sign of life.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Whether this is a control frame: short, never fragmented, allowed between the fragments of a message.
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// What the peer said: a whole message or a control frame, unmasked and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// Answer with a pong of the same payload (at most 125 bytes); of several unanswered the latest is enough.
    Ping(&'a [u8]),
    /// May be ignored.
    Pong(&'a [u8]),
    /// Code and reason (at most 123 bytes), `None` and empty if the peer gave none. Nothing comes after it: answer
    /// with [`close_reply`], unless a close was sent already, then close the connection.
    Close(Option<u16>, &'a str),
}

/// What a peer may ask of this side's memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of payload in one message, all its fragments together.
    pub max_message: usize,
}

/// Why a connection must fail: send [`close`] with both fields, then close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (close code {code})")]
pub struct Failure {
    /// The close code: 1002, 1007 or 1009.
    pub code: u16,
    /// What was wrong; safe to show the peer, at most [`MAX_CLOSE_REASON`] bytes.
    pub reason: &'static str,
}

impl Failure {
    fn protocol(reason: &'static str) -> Failure {
        Failure {
            code: code::PROTOCOL,
            reason,
        }
    }

    fn not_utf8() -> Failure {
        Failure {
            code: code::BAD_PAYLOAD,
            reason: "text is not UTF-8",
        }
    }

    fn too_big(reason: &'static str) -> Failure {
        Failure {
            code: code::TOO_BIG,
            reason,
        }
    }
}

/// Appends the header of an unmasked, unfragmented frame; `payload_len` bytes of payload must follow it.
pub fn header(opcode: Opcode, payload_len: usize, out: &mut Vec<u8>) {
    write_header(opcode, payload_len, 0, out);
}

/// Appends a whole frame as a server sends it.
///
/// A control frame's payload must not exceed 125 bytes (the payload of an [`Event::Ping`] never does).
pub fn frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(
        !opcode.is_control() || payload.len() <= MAX_SHORT,
        "control frame too long"
    );
    header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a server's close frame; a reason longer than [`MAX_CLOSE_REASON`] bytes is cut between two characters.
pub fn close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut end = reason.len().min(MAX_CLOSE_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    header(Opcode::Close, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a server's answer to a close with `code`: the same code, or none (RFC 6455, 5.5.1).
pub fn close_reply(code: Option<u16>, out: &mut Vec<u8>) {
    match code {
        Some(code) => close(code, "", out),
        None => header(Opcode::Close, 0, out),
    }
}

/// Appends a whole frame as a client sends it, masked with `mask`.
///
/// The mask must be unpredictable where proxies may be fooled by the bytes (RFC 6455, 10.3). Limits as in [`frame`].
pub fn client_frame(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    debug_assert!(
        !opcode.is_control() || payload.len() <= MAX_SHORT,
        "control frame too long"
    );
    write_header(opcode, payload.len(), header::MASKED, out);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(mask, 0, &mut out[start..]);
}

fn write_header(opcode: Opcode, payload_len: usize, masked: u8, out: &mut Vec<u8>) {
    out.push(header::FIN | opcode as u8);
    if payload_len <= MAX_SHORT {
        out.push(masked | payload_len as u8);
    } else if let Ok(len) = u16::try_from(payload_len) {
        out.push(masked | header::LEN_16);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(masked | header::LEN_64);
        out.extend_from_slice(&(payload_len as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_the_shortest_form() {
        let written = |len| {
            let mut out = Vec::new();
            header(Opcode::Binary, len, &mut out);
            out
        };
        assert_eq!(written(0), [0x82, 0]);
        assert_eq!(written(125), [0x82, 125]);
        assert_eq!(written(126), [0x82, 126, 0, 126]);
        assert_eq!(written(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(written(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn frames_read_as_in_the_examples_of_the_standard() {
        let mut out = Vec::new(); // RFC 6455, 5.7
        frame(Opcode::Text, b"Hello", &mut out);
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        client_frame(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
        assert_eq!(
            out,
            [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        close(code::POLICY, &"é".repeat(70), &mut out);
        assert_eq!(out[..4], [0x88, 124, 0x03, 0xf0]);
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "é".repeat(61));
    }

    #[test]
    fn a_close_without_a_code_is_answered_without_one() {
        let mut out = Vec::new();
        close_reply(None, &mut out);
        close_reply(Some(4001), &mut out);
        assert_eq!(out, [0x88, 0, 0x88, 2, 0x0f, 0xa1]);
    }
}
