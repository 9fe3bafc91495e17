//! Who may do what: keys, tokens, public namespaces, doors, origins; and that no secret is ever shown.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

#[path = "../api_support/mod.rs"]
mod api_support;
mod doors;
mod history;
mod keys;
mod namespaces;
mod origins;
mod removed;
mod secrets;
mod tokens;

use api_support::{Answer, Client, TestServer, signed};
use cometserver_core::token::Claims;

const LISTEN: [&str; 3] = ["/v1/poll", "/v1/sse", "/v1/stream"];

/// A call that needs a right, and the right.
const CALLS: &[(&str, &str, &str)] = &[
    ("POST", "/v1/publish?channel=private&kind=json", "publish"),
    ("DELETE", "/v1/retained?channel=private", "publish"),
    ("GET", "/v1/poll?channel=private&wait_ms=0", "subscribe"),
    ("GET", "/v1/history?channel=private", "history"),
    ("GET", "/v1/retained?channel=private", "history"),
    ("GET", "/v1/presence?channel=private", "presence"),
    ("DELETE", "/v1/history?channel=private", "admin"),
    ("GET", "/v1/channels", "admin"),
    ("POST", "/v1/admin/reload", "admin"),
    ("GET", "/v1/stats", "ops"),
    ("GET", "/metrics", "ops"),
];

fn call(client: &mut Client, method: &str, target: &str) -> Answer {
    client.call(method, target, if method == "POST" { b"1" } else { b"" })
}

/// A client that shows a token of `claims`.
fn with_token(server: &TestServer, claims: &Claims) -> Client {
    server.public().bearing(&signed(claims))
}

/// The program, in an environment of nobody.
fn comet() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_comet"));
    command.env_clear();
    command
}
