//! Signs of life: they carry the cursor, they find out who is dead, and they are no burden to those who are served anyway.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::config::Config;
use support::{Door, TRANSPORTS, TestServer, Transport, WebSocket, websocket::Frame};

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

#[test]
fn a_connection_has_the_heartbeat_that_it_asked_for() {
    let server = TestServer::with(|config| config.held.heartbeat = Duration::from_secs(600));
    for transport in TRANSPORTS
        .into_iter()
        .filter(|transport| *transport != Transport::Poll)
    {
        let mut asked = server.listen(Door::Tcp, transport, "channel=quiet&heartbeat_ms=1000");
        // The next would come in ten minutes, long after the test's patience.
        for _ in 0..2 {
            asked.wait_for_heartbeat();
        }
        server.publish("quiet", transport.path());
        assert_eq!(asked.data(1), [transport.path()]);
    }
}

#[test]
fn the_heartbeat_that_is_told_is_the_one_that_comes_and_has_bounds() {
    let server = TestServer::with(|config| config.held.heartbeat = Duration::from_secs(600));
    server.publish_object(&serde_json::json!({"channel": "kept", "data": "value", "retain": true}));
    for (asked, told) in [
        ("", 600_000),
        ("&heartbeat_ms=4500", 4_500),
        ("&heartbeat_ms=0", 1_000),
        ("&heartbeat_ms=999", 1_000),
        ("&heartbeat_ms=600001", 600_000),
        ("&heartbeat_ms=18446744073709551615", 600_000),
        ("&heartbeat_ms=18446744073709551616", 600_000),
        ("&heartbeat_ms=-1", 1_000),
        ("&heartbeat_ms=", 600_000),
    ] {
        for channel in ["quiet", "kept"] {
            let query = format!("channel={channel}{asked}");
            let mut socket = WebSocket::open(&server.place(Door::Tcp), &query);
            let first = loop {
                let object = socket.next();
                if object["type"] == "cursor" {
                    break object;
                }
            };
            assert_eq!(first["heartbeat_ms"], told, "{query}: {first}");
            for path in ["/v1/sse", "/v1/stream"] {
                let mut http = server.place(Door::Tcp).connect();
                http.ask("GET", &format!("{path}?{query}"), &[], b"");
                assert_eq!(http.head().status, 200);
                let told = format!("\"heartbeat_ms\":{told}");
                let mut text = String::new();
                while !text.contains(&told) {
                    assert!(!text.contains("\"heartbeat_ms\""), "{path}?{query}: {text}");
                    text.push_str(&String::from_utf8(http.chunk().unwrap()).unwrap());
                }
            }
        }
    }
    for wrong in ["soon", "1.5", "-", "--1"] {
        for path in ["/v1/sse", "/v1/stream"] {
            let target = format!("{path}?channel=quiet&heartbeat_ms={wrong}");
            let answer = server.request(Door::Tcp, "GET", &target, "");
            assert_eq!(answer.status, 400, "{target}");
            assert!(answer.text().contains("heartbeat_ms"), "{}", answer.text());
        }
    }
}
