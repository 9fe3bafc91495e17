//! What records say of starts and segments: marks, what a segment's opening knows of the older ones, what was lost between.

use cometserver_core::Time;

use super::body::Kind;
use super::bytes::{Bytes, put_varint};
use super::concerned::Concerned;

/// A start of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The random mark.
    pub mark: u32,
    /// The position that the log had reached.
    pub position: u64,
    /// When.
    pub time: Time,
    /// The channels whose publishers are answered early; none: written in version 1, which does not say.
    pub buffered: Option<Concerned>,
}

/// Something that was answered and never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The position that stands for it: who has seen less is told of a gap. No publication has it.
    pub position: u64,
    /// The channels that it may have been in.
    pub concerned: Concerned,
}

/// How everything stood when a segment was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// The position that the log had reached.
    pub position: u64,
    /// Of channels no longer known something up to here may be gone.
    pub forgotten: u64,
    /// The newest starts: their marks, each with the position reached then.
    pub marks: Vec<(u32, u64)>,
    /// The older segments.
    pub segments: Vec<SegmentState>,
    /// The same as [`Mark::buffered`], of the newest start.
    pub buffered: Option<Concerned>,
    /// What was answered and never written, oldest first.
    pub losses: Vec<Loss>,
}

/// An older segment, as a newer one remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Its number.
    pub number: u32,
    /// So many bytes of it count; what lies behind was given up.
    pub length: u32,
}

impl Mark {
    pub(super) fn decode(mut bytes: Bytes<'_>) -> Option<Self> {
        Some(Self {
            mark: bytes.u32()?,
            position: bytes.u64()?,
            time: bytes.u64()?,
            buffered: decode_buffered(&mut bytes)?,
        })
    }

    /// Appends the body of it.
    pub fn put(&self, to: &mut Vec<u8>) {
        to.push(Kind::Mark as u8);
        to.extend_from_slice(&self.mark.to_le_bytes());
        to.extend_from_slice(&self.position.to_le_bytes());
        to.extend_from_slice(&self.time.to_le_bytes());
        if let Some(buffered) = &self.buffered {
            buffered.put(to);
        }
    }
}

/// In version 1 a record ends before it.
fn decode_buffered(bytes: &mut Bytes<'_>) -> Option<Option<Concerned>> {
    match bytes.0.is_empty() {
        true => Some(None),
        false => Concerned::decode(bytes).map(Some),
    }
}

impl Loss {
    pub(super) fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            position: bytes.u64()?,
            concerned: Concerned::decode(bytes)?,
        })
    }

    fn put_in(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.position.to_le_bytes());
        self.concerned.put(to);
    }

    /// Appends the body of a record about it.
    pub fn put(&self, to: &mut Vec<u8>) {
        to.push(Kind::Lost as u8);
        self.put_in(to);
    }
}

/// Appends the body of a [`Kind::Buffered`] record.
pub fn put_buffered(to: &mut Vec<u8>, buffered: &Concerned) {
    to.push(Kind::Buffered as u8);
    buffered.put(to);
}

impl Opening {
    pub(super) fn decode(mut bytes: Bytes<'_>) -> Option<Self> {
        let mut opening = Self {
            position: bytes.u64()?,
            forgotten: bytes.u64()?,
            ..Self::default()
        };
        for _ in 0..bytes.count()? {
            opening.marks.push((bytes.u32()?, bytes.u64()?));
        }
        for _ in 0..bytes.count()? {
            opening.segments.push(SegmentState {
                number: bytes.u32()?,
                length: bytes.u32()?,
            });
        }
        opening.buffered = decode_buffered(&mut bytes)?;
        if opening.buffered.is_some() {
            for _ in 0..bytes.count()? {
                opening.losses.push(Loss::decode(&mut bytes)?);
            }
        }
        Some(opening)
    }

    /// Appends the body of it.
    pub fn put(&self, to: &mut Vec<u8>) {
        to.push(Kind::Opening as u8);
        to.extend_from_slice(&self.position.to_le_bytes());
        to.extend_from_slice(&self.forgotten.to_le_bytes());
        put_varint(to, self.marks.len() as u64);
        for (mark, position) in &self.marks {
            to.extend_from_slice(&mark.to_le_bytes());
            to.extend_from_slice(&position.to_le_bytes());
        }
        put_varint(to, self.segments.len() as u64);
        for segment in &self.segments {
            to.extend_from_slice(&segment.number.to_le_bytes());
            to.extend_from_slice(&segment.length.to_le_bytes());
        }
        if let Some(buffered) = &self.buffered {
            buffered.put(to);
            put_varint(to, self.losses.len() as u64);
            for loss in &self.losses {
                loss.put_in(to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::disk::format::body::{Body, decode};

    #[test]
    fn an_opening_comes_back_whether_it_says_what_is_buffered_or_not() {
        let opening = Opening {
            position: 7,
            forgotten: 3,
            marks: vec![(1, 0), (2, 5)],
            segments: vec![SegmentState {
                number: 1,
                length: 99,
            }],
            ..Opening::default()
        };
        let newer = Opening {
            buffered: Some(Concerned::Nobody),
            losses: vec![Loss {
                position: 4,
                concerned: Concerned::Everybody,
            }],
            ..opening.clone()
        };
        for opening in [opening, newer] {
            let mut bytes = Vec::new();
            opening.put(&mut bytes);
            let Some(Body::Opening(back)) = decode(&bytes) else {
                panic!("{bytes:?}");
            };
            assert_eq!(back, opening);
        }
    }
}
