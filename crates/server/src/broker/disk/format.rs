//! The bytes on disk, format version 2: segment files, the frame around each record, what records say, and how far all of it reaches.
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
//!
//! Version 1 had no file [`reach`], and its marks and openings did not say what is answered early: it is read, and continued in
//! segments of this version. From then on the file `store` names this version, and builds before it refuse the folder.

pub mod attributes;
pub mod body;
pub mod bytes;
pub mod concerned;
pub mod frame;
pub mod header;
pub mod reach;
pub mod start;

pub use body::{Body, Channel, Deleted, Key, Kind, Place, Publication, Trimmed};
pub use concerned::Concerned;
pub use header::{Header, StoreId};
pub use reach::Reach;
pub use start::{Loss, Mark, Opening, SegmentState};

/// The version of the format that this build writes; it reads this one and all before it.
pub const VERSION: u16 = 2;
