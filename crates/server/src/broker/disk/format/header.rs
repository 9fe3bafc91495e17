//! How a segment file begins, and the file `store` that says the same for the folder.

use super::VERSION;
use super::bytes::Bytes;

/// Bytes of a header. In every version the magic, the version and, at the end, the check are where they are now.
pub const HEADER: usize = 64;

/// The file that names the store and its version for the whole folder.
pub const STORE_FILE: &str = "store";

const MAGIC: &[u8; 8] = b"cometlog";

/// Which store a segment belongs to: random, made once.
pub type StoreId = [u8; 16];

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the format: from 1 to [`VERSION`].
    pub version: u16,
    /// The store.
    pub store: StoreId,
    /// The segment's number; 0: of the folder itself.
    pub segment: u32,
    /// No publication made in an older segment has this position or a later one, whatever lies behind in it.
    pub first: u64,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It is not one, or not whole.
    Damaged,
    /// It is whole, and of a version of the format that this build does not know.
    Version(u16),
}

impl Header {
    /// The bytes of it.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.store);
        bytes.resize(HEADER - 4, 0);
        let check = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes.try_into().expect("resized to the length of a header")
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let damaged = HeaderError::Damaged;
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(damaged)?;
        let (said, check) = header
            .split_last_chunk()
            .expect("a header is longer than its check");
        if crc32fast::hash(said) != u32::from_le_bytes(*check) || !said.starts_with(MAGIC) {
            return Err(damaged);
        }
        let version = u16::from_le_bytes([said[8], said[9]]);
        if !(1..=VERSION).contains(&version) {
            return Err(HeaderError::Version(version));
        }
        let mut rest = Bytes(&said[12..]);
        let mut read = || {
            Some(Self {
                version,
                segment: rest.u32()?,
                first: rest.u64()?,
                store: rest.take(16)?.try_into().ok()?,
            })
        };
        read().ok_or(damaged)
    }
}

/// With what the checks of a segment's records begin.
pub fn seed(store: &StoreId, segment: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(store);
    hasher.update(&segment.to_le_bytes());
    hasher.finalize()
}

/// The name of a segment's file.
pub fn file_name(segment: u32) -> String {
    format!("{segment:010}.log")
}

/// The number of the segment of this name, if it is one.
pub fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 10 && digits.bytes().all(|digit| digit.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_no_bit_of_it_can_flip() {
        let header = Header {
            version: VERSION,
            store: [7; 16],
            segment: 12,
            first: 1 << 40,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), Err(HeaderError::Damaged));
        }
        let mut newer = bytes[..HEADER - 4].to_vec();
        newer[8] = VERSION as u8 + 1;
        let check = crc32fast::hash(&newer);
        newer.extend_from_slice(&check.to_le_bytes());
        assert_eq!(Header::decode(&newer), Err(HeaderError::Version(VERSION + 1)));
    }

    #[test]
    fn segments_are_named_by_their_number() {
        assert_eq!(file_name(42), "0000000042.log");
        assert_eq!(segment_number("0000000042.log"), Some(42));
        for other in [
            "42.log",
            "0000000042.txt",
            "lock",
            "+000000042.log",
            "9999999999.log",
        ] {
            assert_eq!(segment_number(other), None);
        }
    }
}
