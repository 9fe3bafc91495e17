//! The bytes on disk, format version 1: segment files, the frame around each record, and what records say.
//!
//! Numbers are little-endian; those marked *varint* are LEB128. A segment is a header and records end to end. The frame:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the body |
//! | 4 | check of the length: finds the next record behind damage without believing a broken length |
//! | 4 | check of the body |
//! | ... | the body; its first byte is its [`Kind`] |
//!
//! Both checks are CRC-32 that begin with the store's id, the segment's number and the record's place in it: a record that was
//! copied elsewhere, or whose bytes somebody publishes as a payload, is not taken for one.

mod attributes;
pub mod body;
pub mod bytes;
pub mod frame;
pub mod header;

pub use body::{Body, Channel, Deleted, Key, Kind, Opening, Place, Publication, SegmentState, Trimmed};
pub use header::{Header, StoreId};

/// The version of the format that this build writes and reads.
pub const VERSION: u16 = 1;
