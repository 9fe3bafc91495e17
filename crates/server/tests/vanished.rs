//! Whoever is not there any more, and never said so: gone within four heartbeats, told apart from who does not read.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;
#[cfg(target_os = "linux")]
mod vanishing;

use std::time::Duration;

use cometserver::config::Config;
use serde_json::json;
use support::{Came, Door, Listener, TestServer, Transport};

/// Those that are written to without being asked.
const STREAMS: [Transport; 2] = [Transport::Sse, Transport::Stream];

fn quick(config: &mut Config) {
    config.held.heartbeat = Duration::from_millis(500);
}

fn drops(server: &TestServer, reason: &str) -> f64 {
    server.metric("cometserver_drops_total", reason)
}

/// How many a session holds that says it is there.
fn renew(server: &TestServer, session: &str) -> serde_json::Value {
    let target = format!("/v1/renew?session={session}");
    server.request(Door::Tcp, "GET", &target, "").json()["renewed"].take()
}

/// `token=` of a user who may be a member.
fn user(name: &str) -> String {
    let rights = json!({"patterns": ["**"], "actions": ["subscribe", "presence"]});
    format!("token={}", support::token(json!({"sub": name, "comet": rights})))
}

#[test]
fn a_stream_whose_renewals_stop_ends_and_its_member_is_gone() {
    let server = TestServer::with(|config| {
        quick(config);
        config.presence.grace = Duration::ZERO;
    });
    for (number, transport) in STREAMS.into_iter().enumerate() {
        let mut watcher = server.listen(Door::Tcp, Transport::Sse, "channel=room&presence=watch");
        let own = format!("session=mine&{}", user("anna"));
        let mut member = server.listen(Door::Unix, transport, &format!("join=room&{own}"));
        assert_eq!(watcher.next()["type"], "join");
        for _ in 0..4 {
            member.wait_for_heartbeat();
            assert_eq!(renew(&server, own.trim_start_matches("session=")), 1);
        }
        // Its socket goes on taking what comes, as that of a front web server does.
        server.until("it to be ended", || drops(&server, "timeout") > number as f64);
        while !matches!(member.came(), Came::Ended(_)) {}
        assert_eq!(watcher.next()["type"], "leave");
        assert_eq!(drops(&server, "timeout"), (number + 1) as f64);
    }
}

#[test]
fn a_busy_stream_is_asked_for_its_renewals_too() {
    let server = TestServer::with(quick);
    for transport in STREAMS {
        let mut listener = server.listen(Door::Unix, transport, "channel=busy&session=mine");
        assert_eq!(renew(&server, "mine"), 1);
        let mut heartbeats = 0;
        server.until("heartbeats between what is published", || {
            server.publish("busy", 1);
            listener.data(1);
            if listener.heartbeats > heartbeats {
                heartbeats = listener.heartbeats;
                renew(&server, "mine");
            }
            heartbeats >= 5
        });
    }
    assert_eq!(drops(&server, "timeout"), 0.0);
}

#[test]
fn a_stream_that_was_never_renewed_stays_and_nobody_else_can_renew_one() {
    let server = TestServer::with(quick);
    for transport in STREAMS {
        let mut listener = server.listen(Door::Unix, transport, "channel=news&session=mine");
        assert_eq!(renew(&server, "another"), 0);
        assert_eq!(renew(&server, &format!("mine&{}", user("berta"))), 0);
        for _ in 0..6 {
            listener.wait_for_heartbeat();
        }
    }
    assert_eq!(drops(&server, "timeout"), 0.0);
    for target in ["/v1/renew", "/v1/renew?session="] {
        assert_eq!(server.request(Door::Tcp, "GET", target, "").status, 400);
    }
}

#[test]
fn a_reader_that_takes_nothing_is_ended_and_comes_back_with_its_cursor() {
    let server = TestServer::with(quick);
    let transports = [Transport::WebSocket, Transport::Sse, Transport::Stream];
    let open = |transport| server.listen(Door::Unix, transport, "channel=news");
    let mut readers = transports.map(open);
    server.publish("news", "read");
    for reader in &mut readers {
        assert_eq!(reader.data(1), ["read"]);
    }
    // Far less than what the kernel has room for.
    server.publish("news", "not read");
    server.until("all to be ended", || {
        drops(&server, "slow") + drops(&server, "timeout") >= 3.0
    });
    for (reader, transport) in readers.iter().zip(transports) {
        let query = format!("channel=news&cursor={}", reader.cursor());
        let mut again = server.listen(Door::Unix, transport, &query);
        assert_eq!(again.data(1), ["not read"], "{transport:?}");
    }
    // A WebSocket is asked besides, and has not answered.
    assert!(drops(&server, "slow") >= 2.0);
}

/// Heartbeats within which a vanished member is gone, and one for where between two of the witness's it vanished.
#[cfg(target_os = "linux")]
const GONE: usize = 4 + 1;

#[cfg(target_os = "linux")]
fn members(server: &TestServer) -> usize {
    let room = server.get("/v1/presence?channel=room");
    room["members"].as_array().unwrap().len()
}

/// Members over every transport whose link goes down: how many heartbeats a reader on another link hears until they are gone.
#[cfg(target_os = "linux")]
fn vanish(more: &str, mut meanwhile: impl FnMut(&TestServer)) {
    let Some(link) = vanishing::Link::new() else {
        return;
    };
    let server = TestServer::with(|config| {
        config.held.heartbeat = Duration::from_secs(1);
        config.held.poll_hold = Duration::from_secs(1);
        config.presence.grace = Duration::ZERO;
        config.public.listen = vec!["0.0.0.0:0".parse().unwrap()];
    });
    let port = server.addresses.tcp[0].port();
    let mut witness = server.listen(Door::Unix, Transport::Sse, "channel=quiet");
    for transport in support::TRANSPORTS {
        let name = transport.path().trim_start_matches("/v1/");
        let query = format!("join=room{more}&{}", user(name));
        let mut member = Listener::open_on(link.connect(port), transport, &query);
        if transport != Transport::Poll {
            member.read_first_cursor();
        }
        // Its descriptor stays open: this process, on the other side of the link, is not what has gone.
        std::mem::forget(member);
    }
    server.until("all to be members", || members(&server) >= 3);
    link.down();
    let mut heartbeats = 0;
    while members(&server) > 0 {
        meanwhile(&server);
        witness.wait_for_heartbeat();
        heartbeats += 1;
        assert!(
            heartbeats <= GONE,
            "still there: {}",
            server.get("/v1/presence?channel=room")
        );
    }
    server.until("all to be counted, the poll too", || {
        drops(&server, "timeout") + drops(&server, "slow") == 4.0
    });
}

#[cfg(target_os = "linux")]
#[test]
fn members_whose_link_goes_down_are_gone_within_four_heartbeats() {
    vanish("", |_| {});
}

#[cfg(target_os = "linux")]
#[test]
fn the_same_where_something_is_sent_to_them_all_the_time() {
    vanish("&channel=busy", |server| {
        for number in 0..10 {
            server.publish("busy", number);
        }
    });
}
