//! A frame's header: read, and refused at the first byte that breaks a rule.

use super::{Failure, MAX_SHORT, Opcode, mask};

/// Two bytes, a 64-bit length and a mask.
pub(super) const MAX_HEADER: usize = 14;
/// First byte: this is the last fragment.
pub(super) const FIN: u8 = 0x80;
/// Second byte: a mask follows the length.
pub(super) const MASKED: u8 = 0x80;
/// Second byte: the length is in the next two bytes.
pub(super) const LEN_16: u8 = 126;
/// Second byte: the length is in the next eight bytes.
pub(super) const LEN_64: u8 = 127;
/// First byte: bits that only an extension may set.
const RESERVED: u8 = 0x70;

/// What the rules for the next header depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Whether the peer is a client, which must mask its frames; a server must not.
    pub(super) masked: bool,
    /// Whether a fragmented message is open.
    pub(super) continues: bool,
    /// How many bytes the message may still have.
    pub(super) room: usize,
}

/// A frame whose payload is being read.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    pub(super) len: usize,
    received: usize,
    mask: Option<[u8; 4]>,
}

impl Frame {
    pub(super) fn missing(&self) -> usize {
        self.len - self.received
    }

    /// Takes the next bytes of the payload, at most those [`Frame::missing`], and unmasks them in place.
    pub(super) fn receive(&mut self, chunk: &mut [u8]) {
        if let Some(mask) = self.mask {
            mask::apply(mask, self.received, chunk);
        }
        self.received += chunk.len();
    }
}

/// Reads the header at the start of `bytes`: the frame and the header's length, or `None` if more bytes are needed.
///
/// The rules are tried in the order of the bytes, so that the verdict does not depend on how the bytes are cut.
pub(super) fn parse(bytes: &[u8], expected: Expected) -> Result<Option<(Frame, usize)>, Failure> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let fin = first & FIN != 0;
    let opcode = opcode(first, fin, expected.continues)?;
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    let short = second & !MASKED;
    if (second & MASKED != 0) != expected.masked {
        return Err(Failure::protocol(if expected.masked {
            "frame is not masked"
        } else {
            "frame is masked"
        }));
    }
    if opcode.is_control() && usize::from(short) > MAX_SHORT {
        return Err(Failure::protocol("control frame is too long"));
    }
    if opcode == Opcode::Close && short == 1 {
        return Err(Failure::protocol("close code is cut"));
    }
    let Some((len, used)) = length(short, &bytes[2..])? else {
        return Ok(None);
    };
    let len = usize::try_from(len)
        .ok()
        .filter(|len| opcode.is_control() || *len <= expected.room)
        .ok_or(Failure::too_big("message is too big"))?;
    let (mask, used) = if expected.masked {
        let Some(mask) = bytes[2 + used..].first_chunk() else {
            return Ok(None);
        };
        (Some(*mask), used + 4)
    } else {
        (None, used)
    };
    Ok(Some((
        Frame {
            opcode,
            fin,
            len,
            received: 0,
            mask,
        },
        2 + used,
    )))
}

fn opcode(first: u8, fin: bool, continues: bool) -> Result<Opcode, Failure> {
    if first & RESERVED != 0 {
        return Err(Failure::protocol("reserved bit is set"));
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(Failure::protocol("unknown opcode"))?;
    match opcode {
        Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => {
            Err(Failure::protocol("control frame is fragmented"))
        }
        Opcode::Continuation if !continues => Err(Failure::protocol("continuation of nothing")),
        Opcode::Text | Opcode::Binary if continues => {
            Err(Failure::protocol("new message inside a fragmented one"))
        }
        _ => Ok(opcode),
    }
}

/// The payload's length and how many of `bytes`, which follow the second byte, it took.
fn length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Failure> {
    let (len, used, least) = match short {
        LEN_16 => {
            let Some(len) = bytes.first_chunk() else {
                return Ok(None);
            };
            (u64::from(u16::from_be_bytes(*len)), 2, MAX_SHORT as u64 + 1)
        }
        LEN_64 => {
            let Some(len) = bytes.first_chunk() else {
                return Ok(None);
            };
            (u64::from_be_bytes(*len), 8, u64::from(u16::MAX) + 1)
        }
        short => (u64::from(short), 0, 0),
    };
    if len < least {
        return Err(Failure::protocol("length is not in its shortest form"));
    }
    if len > i64::MAX as u64 {
        return Err(Failure::protocol("length has its top bit set")); // RFC 6455, 5.2
    }
    Ok(Some((len, used)))
}
