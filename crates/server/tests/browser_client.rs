//! What the client for browsers needs of the server: itself, an early heartbeat, presence in some of its channels only.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::config::NamespaceRule;
use support::{DOORS, Door, TRANSPORTS, TestServer, Transport, WebSocket};

#[test]
fn the_client_is_served_at_every_door_to_pages_of_every_origin() {
    let server = TestServer::start();
    for door in DOORS {
        for (path, holds) in [("/client.js", "export"), ("/client.global.js", "window")] {
            let mut http = server.place(door).connect();
            let answer = http.request("GET", path, &[("Origin", "https://elsewhere.example")], b"");
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains(holds), "{path}");
            assert_eq!(
                answer.header("content-type"),
                Some("text/javascript; charset=utf-8")
            );
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert!(answer.header("cache-control").unwrap().contains("max-age"));
            assert_eq!(http.request("POST", path, &[], b"").status, 405);
        }
    }
}

#[test]
fn a_browser_that_has_the_client_is_told_so_in_a_few_bytes() {
    let server = TestServer::start();
    let mut http = server.place(Door::Tcp).connect();
    let tag = http
        .request("GET", "/client.js", &[], b"")
        .header("etag")
        .unwrap()
        .to_owned();
    // A proxy that compresses makes the tag a weak one.
    for known in [tag.clone(), format!("\"other\", W/{tag}")] {
        let answer = http.request("GET", "/client.js", &[("If-None-Match", &known)], b"");
        assert_eq!(
            (answer.status, answer.header("etag"), answer.text().len()),
            (304, Some(&*tag), 0)
        );
    }
    let other = http.request("GET", "/client.global.js", &[("If-None-Match", &tag)], b"");
    assert_eq!(other.status, 200);
}

#[test]
fn the_client_is_found_under_the_base_path() {
    let server = TestServer::with(|config| config.public.base_path = "/push".into());
    assert_eq!(
        server.request(Door::Tcp, "GET", "/push/client.js", "").status,
        200
    );
}

#[test]
fn a_stream_that_wants_an_early_heartbeat_gets_one_and_then_the_usual_ones() {
    // The usual one comes long after the test.
    let server = TestServer::with(|config| config.held.heartbeat = Duration::from_secs(3600));
    for transport in [Transport::Sse, Transport::Stream] {
        let mut listener = server.listen(Door::Tcp, transport, "channel=quiet&preamble_ms=100");
        listener.wait_for_heartbeat();
        server.publish("quiet", transport.path());
        assert_eq!(listener.data(1), [transport.path()]);
    }
    let answer = server.request(Door::Tcp, "GET", "/v1/sse?channel=quiet&preamble_ms=soon", "");
    assert_eq!(answer.status, 400);
}

#[test]
fn an_early_heartbeat_is_not_later_than_the_usual_one() {
    let server = TestServer::with(|config| config.held.heartbeat = Duration::from_millis(200));
    let mut listener = server.listen(Door::Tcp, Transport::Sse, "channel=quiet&preamble_ms=99999999999");
    for _ in 0..2 {
        listener.wait_for_heartbeat();
    }
}

#[test]
fn a_member_of_one_channel_listens_to_others_where_nobody_is_seen() {
    for transport in TRANSPORTS {
        let server = TestServer::with(|config| {
            let mut namespace = config.namespace_default.clone();
            namespace.presence = false;
            let pattern = "plain/**".into();
            config.namespaces.push(NamespaceRule { pattern, namespace });
        });
        let mut watcher = server.listen(Door::Tcp, Transport::Stream, "watch=room");
        let mut listener = server.listen(Door::Tcp, transport, "join=room&channel=plain/text&watch=seen");
        let join = watcher.next();
        assert_eq!(
            (&join["type"], &join["channel"]),
            (&"join".into(), &"room".into()),
            "{transport:?}"
        );
        for channel in ["plain/text", "seen"] {
            let members = server.get(&format!("/v1/presence?channel={channel}"));
            assert_eq!(members["count"], 0, "{transport:?}: {channel}");
        }
        server.publish("plain/text", "heard");
        loop {
            let object = listener.next();
            if object["type"] == "publication" {
                assert_eq!(object["data"], "heard");
                break;
            }
        }
        let refused = server.request(Door::Tcp, "GET", "/v1/poll?join=plain/text&wait_ms=0", "");
        assert_eq!(refused.status, 403, "{refused:?}");
    }
}

#[test]
fn a_token_that_does_not_show_members_does_not_replace_one_under_which_they_are_seen() {
    let server = TestServer::with(|config| {
        config.namespace_default.public = false;
        config.namespace_default.anonymous_presence = false;
    });
    let rights = |actions: &[&str]| {
        let claims = serde_json::json!({"sub": "anna", "comet": {"patterns": ["**"], "actions": actions}});
        support::token(claims)
    };
    let both = rights(&["subscribe", "presence"]);
    let mut socket = WebSocket::open(
        &server.place(Door::Tcp),
        &format!("channel=other&watch=room&token={both}"),
    );
    socket.expect("cursor");
    let only = rights(&["subscribe"]);
    let answer = socket.ask(serde_json::json!({"type": "authorize", "id": 1, "token": only}));
    assert_eq!(answer["code"], "forbidden");
}
