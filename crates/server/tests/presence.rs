//! Who is on a channel: joins, leaves, the list, crowds, and connections that come back in time.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::config::Config;
use serde_json::{Value, json};
use support::{Came, Door, Listener, TRANSPORTS, TestServer, Transport, WebSocket, encode, token};

fn quick(config: &mut Config) {
    config.presence.grace = Duration::from_millis(50);
}

fn user(name: &str) -> String {
    let rights = json!({"patterns": ["**"], "actions": ["subscribe", "presence", "publish"]});
    token(json!({"sub": name, "comet": rights}))
}

fn join(server: &TestServer, transport: Transport, name: &str) -> Listener {
    let query = format!("channel=room&presence=join&token={}", user(name));
    server.listen(Door::Tcp, transport, &query)
}

fn watcher(server: &TestServer) -> Listener {
    server.listen(Door::Tcp, Transport::Stream, "channel=room&presence=watch")
}

fn news(object: &Value) -> (&str, &str) {
    (
        object["type"].as_str().unwrap(),
        object["user"].as_str().unwrap_or("?"),
    )
}

#[test]
fn joins_and_leaves_are_told_to_those_who_watch_on_every_streaming_transport() {
    let server = TestServer::with(quick);
    for transport in [Transport::WebSocket, Transport::Sse, Transport::Stream] {
        let mut watcher = watcher(&server);
        let mut plain = server.listen(Door::Tcp, Transport::Stream, "channel=room");
        let alice = join(&server, transport, "alice");
        assert_eq!(news(&watcher.next()), ("join", "alice"), "{transport:?}");
        drop(alice);
        assert_eq!(news(&watcher.next()), ("leave", "alice"), "{transport:?}");
        server.publish("room", "end");
        assert_eq!(plain.data(1), ["end"], "who did not ask is not told");
    }
}

#[test]
fn a_poll_that_joins_is_a_member_between_its_polls() {
    let server = TestServer::with(|config| config.presence.grace = Duration::from_secs(5));
    let mut watcher = watcher(&server);
    let mut alice = join(&server, Transport::Poll, "alice");
    assert_eq!(news(&watcher.next()), ("join", "alice"));
    for number in 0..5 {
        server.publish("room", number);
        assert_eq!(watcher.data(1), [number], "no leave between two polls");
        loop {
            let object = alice.next();
            if object["type"] == "publication" {
                assert_eq!(object["data"], number);
                break;
            }
        }
    }
}

#[test]
fn members_see_each_other_with_what_they_show() {
    let server = TestServer::with(quick);
    let mut alice = join(&server, Transport::WebSocket, "alice");
    let info = encode(r#"{"name": "Bob"}"#);
    let query = format!("channel=room&presence=join&info={info}&token={}", user("bob"));
    let bob = server.listen(Door::Tcp, Transport::Sse, &query);
    let mut object = alice.next();
    if news(&object) == ("join", "alice") {
        object = alice.next();
    }
    assert_eq!(news(&object), ("join", "bob"));
    assert_eq!(object["info"], json!({"name": "Bob"}));

    let room = server.get("/v1/presence?channel=room");
    assert_eq!(room["count"], 2);
    let mut members = room["members"].as_array().unwrap().clone();
    members.sort_by_key(|member| member["user"].as_str().unwrap().to_owned());
    assert_eq!(members[0]["user"], "alice");
    assert_eq!(
        members[1],
        json!({"user": "bob", "connections": 1, "info": {"name": "Bob"}})
    );
    let answer = alice
        .websocket()
        .ask(json!({"type": "presence", "id": 1, "channel": "room"}));
    assert_eq!(
        (&answer["type"], &answer["count"]),
        (&json!("presence"), &json!(2))
    );
    drop(bob);
    assert_eq!(news(&alice.next()), ("leave", "bob"));
}

#[test]
fn the_cursor_of_a_member_list_is_where_watching_goes_on() {
    let server = TestServer::with(quick);
    let _alice = join(&server, Transport::WebSocket, "alice");
    let room = server.get("/v1/presence?channel=room");
    assert_eq!(room["count"], 1);
    let _bob = join(&server, Transport::WebSocket, "bob");
    let query = format!(
        "channel=room&presence=watch&cursor={}",
        room["cursor"].as_str().unwrap()
    );
    for transport in TRANSPORTS {
        let mut watcher = server.listen(Door::Tcp, transport, &query);
        assert_eq!(news(&watcher.next()), ("join", "bob"), "{transport:?}");
    }
}

#[test]
fn a_member_with_two_connections_comes_once_and_leaves_with_the_last() {
    let server = TestServer::with(quick);
    let mut watcher = watcher(&server);
    let first = join(&server, Transport::WebSocket, "alice");
    let second = join(&server, Transport::Sse, "alice");
    assert_eq!(news(&watcher.next()), ("join", "alice"));
    let members = server.get("/v1/presence?channel=room")["members"].clone();
    assert_eq!(members[0]["connections"], 2);
    drop(first);
    server.until("one connection is left", || {
        server.get("/v1/presence?channel=room")["members"][0]["connections"] == 1
    });
    let _bob = join(&server, Transport::WebSocket, "bob");
    assert_eq!(news(&watcher.next()), ("join", "bob"));
    drop(second);
    assert_eq!(news(&watcher.next()), ("leave", "alice"));
}

#[test]
fn one_who_comes_back_within_the_grace_was_never_away() {
    let server = TestServer::with(|config| config.presence.grace = Duration::from_secs(60));
    let mut watcher = watcher(&server);
    let first = join(&server, Transport::WebSocket, "alice");
    assert_eq!(news(&watcher.next()), ("join", "alice"));
    drop(first);
    server.until("the connection is gone", || {
        server.metric("cometserver_connections", "websocket") == 0.0
    });
    let _again = join(&server, Transport::Stream, "alice");
    server.publish("room", "end");
    assert_eq!(watcher.data(1), ["end"]);
}

#[test]
fn one_who_unsubscribes_leaves() {
    let server = TestServer::with(quick);
    let mut watcher = watcher(&server);
    let mut socket = WebSocket::open(&server.place(Door::Tcp), &format!("token={}", user("alice")));
    let joined = socket.ask(json!({"type": "subscribe", "id": 1, "channel": "room", "presence": "join"}));
    assert_eq!(joined["type"], "subscribed");
    assert_eq!(news(&watcher.next()), ("join", "alice"));
    socket.ask(json!({"type": "unsubscribe", "id": 2, "channel": "room"}));
    assert_eq!(news(&watcher.next()), ("leave", "alice"));
}

#[test]
fn in_a_crowd_only_the_number_is_told() {
    let server = TestServer::with(|config| {
        quick(config);
        config.presence.announce_limit = 3;
    });
    let mut watcher = watcher(&server);
    let crowd: Vec<Listener> = (0..10)
        .map(|number| join(&server, Transport::WebSocket, &format!("user-{number}")))
        .collect();
    let mut joins = 0;
    loop {
        let object = watcher.next();
        match object["type"].as_str().unwrap() {
            "join" => joins += 1,
            "members" if object["count"] == 10 => break,
            "members" => {}
            _ => panic!("{object}"),
        }
    }
    assert!(joins <= 4, "{joins}");
    drop(crowd);
}

#[test]
fn a_channel_without_presence_refuses_it() {
    let server = TestServer::with(|config| {
        config.namespace_default.presence = false;
        config.namespace_default.anonymous_presence = false;
    });
    for (query, expected) in [("watch", 403), ("join", 403), ("maybe", 400)] {
        let target = format!("/v1/sse?channel=room&presence={query}");
        assert_eq!(
            server.request(Door::Tcp, "GET", &target, "").status,
            expected,
            "{query}"
        );
    }
    let mut socket = server.websocket("");
    let answer = socket.ask(json!({"type": "subscribe", "id": 1, "channel": "room", "presence": "join"}));
    assert_eq!(
        (&answer["type"], &answer["code"]),
        (&json!("error"), &json!("forbidden"))
    );
    server.publish("room", 1);
    assert_eq!(
        socket.settle(),
        Vec::<Value>::new(),
        "what was refused is not half subscribed to"
    );
}

#[test]
fn what_a_member_shows_is_bounded_and_json() {
    let server = TestServer::start();
    let large = encode(&format!("\"{}\"", "x".repeat(2000)));
    for (info, status) in [(large.as_str(), 413), ("no-json", 400)] {
        let target = format!("/v1/sse?channel=room&presence=join&info={info}");
        assert_eq!(server.request(Door::Tcp, "GET", &target, "").status, status);
    }
    assert!(matches!(watcher(&server).cut().1.as_slice(), []));
}

#[test]
fn one_without_a_name_is_given_one() {
    let server = TestServer::with(quick);
    let mut watcher = watcher(&server);
    let _anonymous = server.listen(Door::Tcp, Transport::Sse, "channel=room&presence=join");
    let Came::Object(object) = watcher.came() else {
        panic!("ended")
    };
    assert!(news(&object).1.starts_with("anonymous-"), "{object}");
}
