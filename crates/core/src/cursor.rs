//! A client's place in everything it listens to, as it carries it: opaque to the client, the same for every subscriber.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::position::Position;

/// The first byte of every cursor, so that a later layout can be told from this one.
const VERSION: u8 = 1;

/// The longest text form: version, two marks of 4 bytes, two varints of up to 10, in base64.
const MAX_TEXT: usize = 40;

/// What tells one history of a source from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks {
    /// Random, written into the durable log at each start. A mark that the log does not know means that the disk was
    /// restored or rolled back.
    pub durable: u32,
    /// Random, new at each start: the incarnation of memory.
    pub memory: u32,
}

/// A [`Position`] with the marks it was issued under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Under which histories the position counts.
    pub marks: Marks,
    /// How far the client has read.
    pub position: Position,
}

/// The text is not a cursor that any server of ours could have given.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a cursor: give back one that you were given, or `now`, or `earliest`")]
pub struct CursorError;

impl Cursor {
    /// Appends the text form: base64url without padding, about 16 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut raw = [0u8; 29];
        raw[0] = VERSION;
        raw[1..5].copy_from_slice(&self.marks.durable.to_be_bytes());
        raw[5..9].copy_from_slice(&self.marks.memory.to_be_bytes());
        let mut at = 9;
        for mut n in [self.position.durable, self.position.memory] {
            loop {
                let low = (n & 0x7f) as u8;
                n >>= 7;
                raw[at] = if n == 0 { low } else { low | 0x80 };
                at += 1;
                if n == 0 {
                    break;
                }
            }
        }
        let start = out.len();
        out.resize(start + MAX_TEXT, 0);
        let written = URL_SAFE_NO_PAD
            .encode_slice(&raw[..at], &mut out[start..])
            .expect("29 bytes need at most 39 characters");
        out.truncate(start + written);
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(MAX_TEXT);
        self.write(&mut text);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let mut raw = [0u8; 30];
        if text.len() > MAX_TEXT {
            return Err(CursorError);
        }
        let len = URL_SAFE_NO_PAD
            .decode_slice(text, &mut raw)
            .map_err(|_| CursorError)?;
        let raw = &raw[..len];
        if len < 11 || raw[0] != VERSION {
            return Err(CursorError);
        }
        let mark = |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let mut rest = &raw[9..];
        let durable = varint(&mut rest).ok_or(CursorError)?;
        let memory = varint(&mut rest).ok_or(CursorError)?;
        // Two positions are added up in places; nothing real comes near half of the range.
        if !rest.is_empty() || durable > u64::MAX / 4 || memory > u64::MAX / 4 {
            return Err(CursorError);
        }
        Ok(Self {
            marks: Marks {
                durable: mark(1),
                memory: mark(5),
            },
            position: Position { durable, memory },
        })
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_form() {
        for position in [(0, 0), (1, 127), (128, 1 << 40), (u64::MAX / 4, u64::MAX / 4)] {
            let cursor = Cursor {
                marks: Marks {
                    durable: 7,
                    memory: u32::MAX,
                },
                position: Position {
                    durable: position.0,
                    memory: position.1,
                },
            };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        let good = Cursor {
            marks: Marks::default(),
            position: Position::default(),
        }
        .to_string();
        let bad = [
            "",
            "x",
            "now",
            "AAAA",
            "éé",
            &good[1..],
            &format!("{good}A"),
            &"A".repeat(100),
        ];
        for text in bad {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text}");
        }
    }
}
