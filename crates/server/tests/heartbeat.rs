//! Signs of life: they carry the cursor, they find out who is dead, and they are no burden to those who are served anyway.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::config::Config;
use support::{Door, TRANSPORTS, TestServer, WebSocket, websocket::Frame};

/// Quick, but three of them are long enough for a client on a busy machine to answer a ping.
fn quick(config: &mut Config) {
    config.held.heartbeat = Duration::from_millis(200);
    config.held.poll_hold = Duration::from_millis(100);
}

#[test]
fn a_stream_on_which_nothing_happens_tells_that_it_is_alive() {
    let server = TestServer::with(quick);
    for transport in TRANSPORTS {
        let mut listener = server.listen(Door::Tcp, transport, "channel=quiet");
        for _ in 0..3 {
            listener.wait_for_heartbeat();
        }
        server.publish("quiet", transport.path());
        assert_eq!(listener.data(1), [transport.path()]);
    }
}

#[test]
fn a_heartbeat_carries_a_cursor_behind_what_others_published() {
    let server = TestServer::with(quick);
    for transport in TRANSPORTS {
        let mut listener = server.listen(Door::Tcp, transport, "channel=quiet");
        let first = listener.cursor().to_owned();
        server.publish("elsewhere", 1);
        listener.wait_for_heartbeat();
        // One that was on its way already may be of before.
        listener.wait_for_heartbeat();
        assert_ne!(listener.cursor(), first, "{transport:?}");
        server.publish("quiet", "next");
        let (cursor, _) = listener.cut();
        let mut listener = server.listen(Door::Tcp, transport, &format!("channel=quiet&cursor={cursor}"));
        assert_eq!(listener.data(1), ["next"], "{transport:?}");
    }
}

#[test]
fn a_websocket_that_is_sent_something_all_the_time_is_still_asked_whether_it_lives_and_stays() {
    let server = TestServer::with(quick);
    let mut socket = server.websocket("channel=busy");
    let mut number = 0;
    // Longer than a silent client is put up with.
    while socket.pings < 4 {
        server.publish("busy", number);
        assert_eq!(socket.expect("publication")["data"], number);
        number += 1;
    }
    assert_eq!(server.metric("cometserver_drops_total", ""), 0.0);
}

#[test]
fn a_websocket_that_does_not_answer_is_taken_for_dead() {
    let server = TestServer::with(quick);
    let mut silent = server.websocket("channel=news");
    // Read as bytes: nobody answers the pings.
    silent.http.read_to_end();
    assert_eq!(server.metric("cometserver_drops_total", "timeout"), 1.0);
}

#[test]
fn a_ping_of_the_client_is_answered_with_its_payload() {
    let server = TestServer::start();
    let mut socket = WebSocket::open(&server.place(Door::Tcp), "");
    assert_eq!(socket.next()["type"], "cursor");
    socket.send(9, b"are you there?");
    assert_eq!(socket.frame(), Frame::Pong(b"are you there?".to_vec()));
}

#[test]
fn a_client_is_told_how_often_a_heartbeat_comes_also_where_something_else_comes_first() {
    let server = TestServer::with(|config| config.held.heartbeat = Duration::from_secs(600));
    server.publish_object(&serde_json::json!({"channel": "kept", "data": "value", "retain": true}));
    for query in ["channel=quiet", "channel=kept"] {
        let mut socket = WebSocket::open(&server.place(Door::Tcp), query);
        let first = loop {
            let object = socket.next();
            if object["type"] == "cursor" {
                break object;
            }
        };
        assert_eq!(first["heartbeat_ms"], 600_000, "{query}: {first}");
    }
}
