//! The API for machines.
/// The document.
pub const DOCUMENT: &[u8] = b"{}";
