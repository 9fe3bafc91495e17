//! Delivery and transports once more, with everything kept on disk: who listens must not be able to tell.
//!
//! These are the files of the suites themselves; see `durability` in their support.

#![allow(clippy::duplicate_mod, reason = "each suite has its support with it")]

#[path = "delivery.rs"]
mod delivery;
#[path = "history.rs"]
mod history;
#[path = "late_subscribe.rs"]
mod late_subscribe;
#[path = "polls.rs"]
mod polls;
#[path = "presence.rs"]
mod presence;
#[path = "retained.rs"]
mod retained;
#[path = "sse.rs"]
mod sse;
#[path = "websocket.rs"]
mod websocket;
