//! The retained value of a channel: what a newcomer is shown first.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::json;
use support::{Door, TRANSPORTS, TestServer, Transport};

fn retain(server: &TestServer, channel: &str, data: &str) {
    server.publish_object(&json!({"channel": channel, "data": data, "retain": true}));
}

/// Does a poll without a cursor, over the door of browsers, begin with these?
fn begins_with(server: &TestServer, transport: Transport, query: &str, expected: &[&str]) {
    let mut listener = server.listen(Door::Tcp, transport, query);
    assert_eq!(listener.data(expected.len()), expected, "{transport:?} {query}");
    server.publish("price", "live");
    assert_eq!(listener.data(1), ["live"], "{transport:?} {query}");
}

#[test]
fn a_newcomer_is_shown_the_retained_value_first_on_every_transport() {
    let server = TestServer::start();
    retain(&server, "price", "old");
    retain(&server, "price", "kept");
    server.publish("price", "not kept");
    for transport in TRANSPORTS {
        begins_with(&server, transport, "channel=price", &["kept"]);
        begins_with(&server, transport, "channel=price&retained=0", &[]);
    }
}

#[test]
fn one_who_comes_back_with_a_cursor_is_not_shown_what_it_has_seen() {
    let server = TestServer::start();
    retain(&server, "price", "kept");
    for transport in TRANSPORTS {
        let cursor = server.now();
        begins_with(&server, transport, &format!("channel=price&cursor={cursor}"), &[]);
    }
}

#[test]
fn a_late_subscription_is_shown_the_retained_value_before_it_is_answered() {
    let server = TestServer::start();
    retain(&server, "price", "kept");
    let mut socket = server.websocket("");
    socket.say(&json!({"type": "subscribe", "id": 1, "channel": "price"}));
    assert_eq!(socket.expect("publication")["data"], "kept");
    assert_eq!(socket.expect("subscribed")["id"], 1);
    socket.ask(json!({"type": "unsubscribe", "id": 2, "channel": "price"}));
    socket.say(&json!({"type": "subscribe", "id": 3, "channel": "price", "retained": false}));
    assert_eq!(socket.expect("subscribed")["id"], 3);
}

#[test]
fn the_retained_value_can_be_read_and_forgotten() {
    let server = TestServer::start();
    let target = "/v1/retained?channel=price";
    assert_eq!(server.request(Door::Tcp, "GET", target, "").status, 404);
    retain(&server, "price", "kept");
    let value = server.request(Door::Tcp, "GET", target, "").json();
    assert_eq!((&value["data"], &value["offset"]), (&json!("kept"), &json!(1)));
    let raw = server.request(Door::Tcp, "GET", &format!("{target}&raw=1"), "");
    assert_eq!(raw.text(), "\"kept\"");
    let deleted = server.request(Door::Backend, "DELETE", target, "");
    assert_eq!(deleted.json(), json!({"deleted": true}));
    assert_eq!(server.request(Door::Tcp, "GET", target, "").status, 404);
    begins_with(&server, Transport::Sse, "channel=price", &[]);
}

#[test]
fn the_retained_value_outlives_the_history() {
    let server = TestServer::with(|config| {
        config.namespace_default.history_count = 3;
        config.limits.window = std::time::Duration::ZERO;
    });
    retain(&server, "price", "kept");
    server.publish_burst((0..20).map(|number| ("price", json!(number))));
    begins_with(&server, Transport::Stream, "channel=price", &["kept"]);
}
