//! The end: everybody is told when to come back, nothing is left behind, and the next server takes over.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::server::{Options, Server, StartError};
use serde_json::json;
use support::{Came, DOORS, Door, TRANSPORTS, TestServer, Transport};

/// `shutdown.spread`, and the half second before it.
const SPREAD: std::ops::RangeInclusive<u64> = 500..=1500;

fn quick() -> TestServer {
    TestServer::with(|config| {
        config.shutdown.spread = Duration::from_secs(1);
        config.held.poll_hold = Duration::from_secs(60);
    })
}

#[test]
fn every_transport_through_every_door_is_told_when_to_come_back() {
    let mut server = quick();
    let mut listeners = Vec::new();
    for door in DOORS {
        for transport in [Transport::WebSocket, Transport::Sse, Transport::Stream] {
            listeners.push(server.listen(door, transport, "channel=news"));
        }
    }
    server.publish("news", "last");
    server.ask_to_stop();
    for listener in &mut listeners {
        assert_eq!(listener.data(1), ["last"], "{:?}", listener.transport);
        let object = listener.next();
        assert_eq!(object["type"], "reconnect", "{:?}: {object}", listener.transport);
        let after = listener.retry.unwrap();
        assert!(SPREAD.contains(&after), "{:?}: {after}", listener.transport);
        let code = (listener.transport == Transport::WebSocket).then_some(1012);
        assert_eq!(listener.came(), Came::Ended(code), "{:?}", listener.transport);
    }
    drop(listeners);
    server.wait();
}

#[test]
fn a_held_poll_is_answered_with_a_time_to_come_back() {
    let mut server = quick();
    let cursor = server.now();
    let mut polls: Vec<_> = DOORS.map(|door| server.place(door).connect()).into();
    for poll in &mut polls {
        let target = format!("/v1/poll?channel=news&cursor={cursor}");
        poll.ask("GET", &target, &[], b"");
    }
    server.until("the polls are held", || {
        server.metric("cometserver_connections", "\"poll\"") == 3.0
    });
    server.ask_to_stop();
    for poll in &mut polls {
        let answer = poll.answer();
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["publications"], json!([]));
        assert_eq!(answer["cursor"], cursor.as_str());
        assert!(SPREAD.contains(&answer["retry_ms"].as_u64().unwrap()), "{answer}");
        assert!(poll.is_at_end());
    }
    drop(polls);
    server.wait();
}

#[test]
fn idle_connections_are_closed_and_nobody_new_is_let_in() {
    let mut server = quick();
    let mut idle: Vec<_> = DOORS.map(|door| server.place(door).connect()).into();
    for http in &mut idle {
        assert_eq!(http.request("GET", "/health/live", &[], b"").status, 200);
    }
    let places = DOORS.map(|door| server.place(door));
    server.ask_to_stop();
    for http in &mut idle {
        assert!(http.is_at_end());
    }
    drop(idle);
    server.wait();
    for place in &places {
        assert!(place.try_connect().is_err(), "{place:?}");
    }
}

#[test]
fn the_sockets_are_removed_and_the_next_server_starts_in_the_same_folder() {
    let mut server = TestServer::start();
    let paths = [
        server.addresses.backend.clone(),
        server.addresses.public.clone().unwrap(),
    ];
    assert!(paths.iter().all(|path| path.exists()));
    server.publish("news", 1);
    server.ask_to_stop();
    server.wait();
    assert!(paths.iter().all(|path| !path.exists()));
    let server = server.restart(|_| {});
    for transport in TRANSPORTS {
        for door in DOORS {
            let mut listener = server.listen(door, transport, "channel=news");
            server.publish("news", "again");
            assert_eq!(listener.data(1), ["again"]);
        }
    }
}

#[test]
fn a_second_server_in_the_same_folder_is_refused_and_leaves_the_first_alone() {
    let server = TestServer::start();
    let config = server.shared.settings().config.clone();
    let options = Options {
        embedded: true,
        ..Options::default()
    };
    let second = Server::start(config, options);
    assert!(matches!(second, Err(StartError::DataFolder(_))));
    for door in DOORS {
        assert_eq!(server.request(door, "GET", "/health/live", "").status, 200);
    }
}

#[test]
fn a_client_that_does_not_go_is_left_behind_after_the_drain_time() {
    let mut server = TestServer::with(|config| config.shutdown.drain = Duration::from_millis(100));
    let mut half = server.place(Door::Tcp).connect();
    // A request that never ends.
    half.send(b"POST /v1/publish HTTP/1.1\r\nHost: comet\r\nContent-Length: 100\r\n\r\n{");
    let _reader = server.listen(Door::Unix, Transport::WebSocket, "channel=news");
    server.until("it has connected", || {
        server.metric("cometserver_connections_total", "") >= 2.0
    });
    server.ask_to_stop();
    server.wait();
}

#[test]
fn a_stop_can_be_asked_for_over_the_backend_socket_only() {
    let mut server = TestServer::start();
    let refused = server.request(Door::Tcp, "POST", "/v1/admin/stop", "");
    assert!(matches!(refused.status, 401 | 403), "{refused:?}");
    let answer = server.request(Door::Backend, "POST", "/v1/admin/stop", "");
    assert!(answer.status < 300, "{answer:?}");
    server.wait();
}
