//! The file `reach`: how far the log has been made safe, and whether it was closed in good order.
//!
//! It has three slots. The first is written only when the log is opened and closed, and only when what another one says of the same
//! is safe; the other two in turn, after each batch, and not made safe. So one of them is whole whenever the writing stops. What
//! they say is never more than what is safe of the log: they are written after the sync that they tell of. After `kill -9` they are
//! as exact as the log; after a power cut they may say less.

use super::bytes::Bytes;
use super::header::StoreId;

/// The file.
pub const REACH_FILE: &str = "reach";

/// Bytes of a slot.
pub const SLOT: usize = 64;

/// Where the slots begin, in bytes: no sector of a disk has two of them.
pub const SLOTS: [usize; 3] = [0, 4096, 8192];

/// How long the file is, in bytes.
pub const REACH: usize = SLOTS[2] + SLOT;

const MAGIC: &[u8; 8] = b"cometend";

/// What a slot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The store.
    pub store: StoreId,
    /// Counts the writings: the slot with the higher number is the newer one.
    pub sequence: u64,
    /// Everything taken was written, and the log closed.
    pub is_closed: bool,
    /// The newest segment's number; 0: there is none.
    pub segment: u32,
    /// So many bytes of it are safe.
    pub length: u32,
    /// The position that the log had reached.
    pub position: u64,
}

impl Reach {
    /// The bytes of a slot.
    pub fn encode(&self) -> [u8; SLOT] {
        let mut bytes = Vec::with_capacity(SLOT);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.store);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.position.to_le_bytes());
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.push(u8::from(self.is_closed));
        bytes.resize(SLOT - 4, 0);
        let check = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes.try_into().expect("resized to the length of a slot")
    }

    /// What a file says that begins with these bytes: its newest whole slot. None if it has none.
    pub fn newest(file: &[u8]) -> Option<Self> {
        let slots = SLOTS.into_iter().filter_map(|at| Self::decode(file.get(at..)?));
        slots.max_by_key(|slot| slot.sequence)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let slot: &[u8; SLOT] = bytes.first_chunk()?;
        let (said, check) = slot.split_last_chunk()?;
        if crc32fast::hash(said) != u32::from_le_bytes(*check) || !said.starts_with(MAGIC) {
            return None;
        }
        let mut rest = Bytes(&said[MAGIC.len()..]);
        Some(Self {
            store: rest.take(16)?.try_into().ok()?,
            sequence: rest.u64()?,
            position: rest.u64()?,
            segment: rest.u32()?,
            length: rest.u32()?,
            is_closed: rest.u8()? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let older = Reach {
            store: [7; 16],
            sequence: 8,
            is_closed: false,
            segment: 12,
            length: 1 << 20,
            position: 1 << 40,
        };
        let newer = Reach {
            sequence: 9,
            is_closed: true,
            ..older
        };
        let mut file = vec![0; REACH];
        assert_eq!(Reach::newest(&file), None);
        file[..SLOT].copy_from_slice(&newer.encode());
        assert_eq!(Reach::newest(&file), Some(newer));
        file[SLOTS[2]..].copy_from_slice(&older.encode());
        assert_eq!(Reach::newest(&file), Some(newer));
        for bit in 0..SLOT * 8 {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Reach::newest(&flipped), Some(older), "bit {bit}");
        }
        for length in 0..REACH {
            let expected = (length >= SLOT).then_some(newer);
            assert_eq!(Reach::newest(&file[..length]), expected, "cut at {length}");
        }
    }
}
