//! The hub of CometServer.

pub mod action;
pub mod token;
