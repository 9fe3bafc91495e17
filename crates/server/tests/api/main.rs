//! The HTTP API as docs/protocol.md tells it, call by call.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

#[path = "../api_support/mod.rs"]
mod api_support;
mod asking;
mod history;
mod looking;
mod odd;
mod publishing;
mod websocket;

use api_support::{TestServer, encode};
use serde_json::Value;

/// What is kept of a channel, by the API.
fn kept(server: &TestServer, channel: &str) -> Vec<Value> {
    let target = format!("/v1/history?channel={}", encode(channel));
    let history = server.backend().get(&target).json();
    history["publications"].as_array().unwrap().clone()
}
