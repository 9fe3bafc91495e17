//! What the hub's items look like on a wire.

pub mod native;
