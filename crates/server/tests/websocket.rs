//! What a WebSocket client can say, and what it is answered.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::{Value, json};
use support::websocket::Frame;
use support::{Door, TestServer, Transport, WebSocket, seconds_now, token};

#[test]
fn a_publication_is_answered_and_comes_to_everybody_its_publisher_too() {
    let server = TestServer::start();
    let mut other = server.listen(Door::Unix, Transport::Sse, "channel=news");
    let mut socket = server.websocket("channel=news");
    socket.say(
        &json!({"type": "publish", "id": 7, "channel": "news", "data": {"a": [1, 2]}, "event": "e",
        "tags": {"k": "v"}}),
    );
    let mut came = [socket.next(), socket.next()];
    came.sort_by_key(|object| object["type"].as_str().unwrap().to_owned());
    let [publication, published] = came;
    assert_eq!(
        (&publication["type"], &published["type"]),
        (&json!("publication"), &json!("published"))
    );
    assert_eq!(published["id"], 7);
    assert_eq!(
        (
            &published["channels"][0]["channel"],
            &published["channels"][0]["offset"]
        ),
        (&json!("news"), &json!(1))
    );
    assert!(published["cursor"].is_string(), "{published}");
    for object in [publication, other.next()] {
        assert_eq!(object["data"], json!({"a": [1, 2]}));
        assert_eq!(
            (&object["event"], &object["tags"]),
            (&json!("e"), &json!({"k": "v"}))
        );
    }
}

#[test]
fn without_echo_everybody_else_gets_it() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=news&session=mine");
    let mut same = server.listen(Door::Tcp, Transport::Stream, "channel=news&session=mine");
    let mut other = server.listen(Door::Tcp, Transport::Stream, "channel=news&session=yours");
    let answer = socket.ask(json!({"type": "publish", "id": 1, "channel": "news", "data": 1, "echo": false}));
    assert_eq!(answer["type"], "published");
    server.publish("news", 2);
    assert_eq!(other.data(2), [1, 2]);
    assert_eq!(same.data(1), [2]);
    assert_eq!(socket.expect("publication")["data"], 2);
    let (cursor, _) = same.cut();
    assert!(!cursor.is_empty());

    let mut nameless = server.websocket("");
    let answer =
        nameless.ask(json!({"type": "publish", "id": 1, "channel": "news", "data": 1, "echo": false}));
    assert_eq!(
        (&answer["type"], &answer["code"]),
        (&json!("error"), &json!("bad_request"))
    );
}

#[test]
fn what_was_kept_from_a_session_does_not_come_when_it_resumes_either() {
    let server = TestServer::start();
    let cursor = server.now();
    server.publish_object(&json!({"channel": "news", "data": "not mine", "exclude_session": "mine"}));
    server.publish("news", "mine");
    for transport in support::TRANSPORTS {
        let query = format!("channel=news&session=mine&cursor={cursor}");
        let mut listener = server.listen(Door::Tcp, transport, &query);
        assert_eq!(listener.data(1), ["mine"], "{transport:?}");
    }
}

#[test]
fn an_error_names_its_command_and_leaves_the_connection_as_it_was() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=news");
    let wrong = [
        (json!({"type": "dance", "id": 1}), "bad_request"),
        (json!({"type": "subscribe", "id": "two"}), "bad_request"),
        (
            json!({"type": "subscribe", "id": 3, "channel": ""}),
            "bad_request",
        ),
        (
            json!({"type": "subscribe", "id": 4, "channel": "x".repeat(9000)}),
            "too_large",
        ),
        (
            json!({"type": "subscribe", "id": 5, "channel": "a", "since": "yesterday"}),
            "bad_cursor",
        ),
        (
            json!({"type": "publish", "id": 6, "channel": "news"}),
            "bad_request",
        ),
        (json!({"type": "publish", "id": 7, "data": 1}), "bad_request"),
        (json!({"type": "history", "id": 8}), "bad_request"),
        (json!({"type": "presence", "id": 9}), "bad_request"),
        (json!({"type": "authorize", "id": 10}), "bad_request"),
        (
            json!({"type": "authorize", "id": 11, "token": "no.real.token"}),
            "unauthorized",
        ),
        (
            json!({"type": "publish", "id": 12, "channel": "news", "data": "x".repeat(1 << 20)}),
            "too_large",
        ),
    ];
    for (command, code) in &wrong {
        let answer = socket.ask(command.clone());
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!(code)),
            "{answer}"
        );
        assert!(
            answer["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{answer}"
        );
    }
    for text in [
        "",
        "no JSON",
        "[]",
        "{}",
        "null",
        "{\"type\":1}",
        "{\"type\":\"ping\"",
    ] {
        socket.say_text(text);
        let answer = socket.expect("error");
        assert_eq!(answer["code"], "bad_request", "{text}: {answer}");
    }
    server.publish("news", "still here");
    assert_eq!(socket.expect("publication")["data"], "still here");
    assert_eq!(
        server.metric("cometserver_refused_total", "") as usize,
        wrong.len() + 7
    );
}

#[test]
fn commands_without_an_id_are_carried_out_silently() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=news");
    socket.say(&json!({"type": "publish", "channel": "news", "data": 1}));
    assert_eq!(socket.expect("publication")["data"], 1);
    assert_eq!(socket.settle(), Vec::<Value>::new());
}

#[test]
fn history_and_presence_can_be_asked_for() {
    let server = TestServer::start();
    server.publish_burst((0..5).map(|number| ("news", json!(number))));
    let mut socket = server.websocket("channel=room&presence=join");
    let answer =
        socket.ask(json!({"type": "history", "id": 1, "channel": "news", "limit": 2, "reverse": true}));
    assert_eq!(
        (&answer["type"], &answer["offset"], &answer["gap"]),
        (&json!("history"), &json!(5), &json!(false))
    );
    let data = answer["publications"].as_array().unwrap();
    assert_eq!(
        (&data[0]["data"], &data[1]["data"], data.len()),
        (&json!(4), &json!(3), 2)
    );
    let answer = socket.ask(json!({"type": "history", "id": 2, "channel": "news"}));
    assert_eq!(
        answer["publications"].as_array().unwrap().len(),
        5,
        "the default limit"
    );
    let answer = socket.ask(json!({"type": "presence", "id": 3, "channel": "room"}));
    assert_eq!(
        (&answer["count"], answer["members"].as_array().unwrap().len()),
        (&json!(1), 1)
    );
}

#[test]
fn in_the_binary_format_payloads_travel_bare_both_ways() {
    let server = TestServer::start();
    let bytes: Vec<u8> = (0..=255).collect();
    let mut binary = server.websocket("channel=news&format=binary");
    let mut text = server.websocket("channel=news");
    binary.say_binary(
        &json!({"type": "publish", "id": 1, "channel": "news", "kind": "binary"}),
        &bytes,
    );
    let (mut answered, mut came) = (false, false);
    while !answered || !came {
        let object = binary.next();
        match object["type"].as_str().unwrap() {
            "published" => answered = true,
            _ => {
                assert_eq!(
                    (&object["kind"], object.get("data")),
                    (&json!("binary"), None),
                    "{object}"
                );
                assert_eq!(binary.payload, bytes);
                assert!(object["cursor"].is_string());
                came = true;
            }
        }
    }
    let object = text.expect("publication");
    use base64::Engine;
    let expected = base64::engine::general_purpose::STANDARD.encode(&bytes);
    assert_eq!(
        (&object["kind"], &object["data"]),
        (&json!("binary"), &json!(expected))
    );

    server.publish_object(&json!({"channel": "news", "kind": "text", "data": "grüße"}));
    assert_eq!(binary.expect("publication")["kind"], "text");
    assert_eq!(binary.payload, "grüße".as_bytes());
    server.publish("news", json!({"a": 1}));
    assert_eq!(binary.expect("publication").get("kind"), None);
    assert_eq!(binary.payload, b"{\"a\":1}");

    // Text frames stay allowed, and what is no binary frame of ours is an error like any other.
    assert_eq!(binary.ask(json!({"type": "ping", "id": 2}))["type"], "pong");
    for malformed in [
        &b""[..],
        b"\0\0",
        b"\0\0\0\x09{}",
        b"\xff\xff\xff\xff{}",
        b"\0\0\0\x02\xff\xff",
    ] {
        binary.send(2, malformed);
        assert_eq!(binary.expect("error")["code"], "bad_request", "{malformed:?}");
    }
    assert_eq!(binary.settle(), Vec::<Value>::new());
}

fn rights(channels: &[&str], expires: u64) -> String {
    let rights = json!({"channels": channels, "actions": ["subscribe", "publish"]});
    token(json!({"sub": "alice", "exp": expires, "comet": rights}))
}

fn private() -> TestServer {
    TestServer::with(|config| {
        config.namespace_default.public = false;
        config.namespace_default.anonymous_publish = false;
    })
}

#[test]
fn a_token_gives_rights_and_another_one_takes_its_place() {
    let server = private();
    let late = seconds_now() + 3600;
    let mut socket = server.websocket("");
    let refused = socket.ask(json!({"type": "subscribe", "id": 1, "channel": "a"}));
    assert!(
        matches!(refused["code"].as_str(), Some("unauthorized" | "forbidden")),
        "{refused}"
    );
    let answer = socket.ask(json!({"type": "authorize", "id": 2, "token": rights(&["a"], late)}));
    let expected = json!({"type": "authorized", "id": 2, "user": "alice", "expires": late});
    assert_eq!(answer, expected);
    assert_eq!(
        socket.ask(json!({"type": "subscribe", "id": 3, "channel": "a"}))["type"],
        "subscribed"
    );
    let refused = socket.ask(json!({"type": "subscribe", "id": 4, "channel": "b"}));
    assert_eq!(refused["code"], "forbidden");

    // One that does not cover what is listened to is refused, and the old one holds on.
    let refused = socket.ask(json!({"type": "authorize", "id": 5, "token": rights(&["b"], late)}));
    assert_eq!(refused["code"], "forbidden");
    let wider = socket.ask(json!({"type": "authorize", "id": 6, "token": rights(&["a", "b"], late)}));
    assert_eq!(wider["type"], "authorized");
    assert_eq!(
        socket.ask(json!({"type": "subscribe", "id": 7, "channel": "b"}))["type"],
        "subscribed"
    );
    let published = socket.ask(json!({"type": "publish", "id": 8, "channel": "b", "data": 1}));
    assert_eq!(published["type"], "published");
}

#[test]
fn a_token_that_expires_ends_the_connection_unless_it_was_renewed() {
    let server = private();
    let soon = seconds_now() + 2 - cometserver_core::token::LEEWAY;
    let query = format!("channel=a&token={}", rights(&["a"], soon));
    let mut expiring = server.websocket(&query);
    let mut renewed = server.websocket(&query);
    let late = seconds_now() + 3600;
    let answer = renewed.ask(json!({"type": "authorize", "id": 1, "token": rights(&["a"], late)}));
    assert_eq!(answer["type"], "authorized");
    assert_eq!(expiring.expect("reconnect")["type"], "reconnect");
    assert!(matches!(expiring.frame(), Frame::Close(1008, _)));
    server.publish("a", "to the renewed one");
    assert_eq!(renewed.expect("publication")["data"], "to the renewed one");
    assert_eq!(server.metric("cometserver_drops_total", "expired"), 1.0);
}

#[test]
fn a_message_over_the_limit_ends_the_connection_with_1009() {
    let server = TestServer::with(|config| config.limits.message_size = 1000);
    let mut socket = server.websocket("");
    socket.send(1, &vec![b' '; 200 << 10]);
    assert!(matches!(socket.frame(), Frame::Close(1009, _)));
    assert_eq!(socket.frame(), Frame::End);
}

#[test]
fn a_close_is_answered_with_a_close() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=news");
    socket.send(8, &[&1000u16.to_be_bytes()[..], b"bye"].concat());
    assert!(matches!(socket.frame(), Frame::Close(1000, _)));
    assert_eq!(socket.frame(), Frame::End);
    server.until("it is gone", || {
        server.metric("cometserver_connections", "websocket") == 0.0
    });
}

#[test]
fn frames_right_behind_the_handshake_are_not_lost() {
    let server = TestServer::start();
    let mut http = server.place(Door::Tcp).connect();
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    let mut request = b"GET /v1/ws HTTP/1.1\r\nHost: comet\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    request.extend_from_slice(&ping);
    http.send(&request);
    let answer = http.head();
    assert_eq!(answer.status, 101);
    let first = http.bytes(2).unwrap();
    http.bytes(usize::from(first[1])).unwrap();
    assert_eq!(http.bytes(2).unwrap(), [0x8a, 0]);
}

#[test]
fn who_asks_for_another_version_is_told_which_one_is_spoken() {
    let server = TestServer::start();
    let mut http = server.place(Door::Tcp).connect();
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let answer = http.request("GET", "/v1/ws?channel=a", &headers, b"");
    assert_eq!(answer.status, 426, "RFC 6455, 4.2.2");
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
    assert_eq!(answer.header("upgrade"), Some("websocket"), "RFC 9110, 15.5.22");
    assert_eq!(answer.json()["code"], "bad_request");
}

#[test]
fn a_page_of_an_unknown_origin_is_refused() {
    let server = TestServer::start();
    let open = |origin| WebSocket::try_open(&server.place(Door::Tcp), "channel=a", &[("Origin", origin)]).1;
    assert_eq!(open("https://elsewhere.example").status, 403);
    assert_eq!(open("http://comet").status, 101);
}

#[test]
fn limits_on_subscriptions_hold_for_commands_too() {
    let server = TestServer::with(|config| {
        config.limits.subscriptions = 3;
        config.limits.patterns = 1;
    });
    let mut socket = server.websocket("channel=1&channel=2");
    let refused = socket.ask(json!({"type": "subscribe", "id": 1, "channels": ["3", "4"]}));
    assert_eq!(refused["code"], "limit_reached");
    assert_eq!(
        socket.ask(json!({"type": "subscribe", "id": 2, "channel": "3"}))["type"],
        "subscribed"
    );
    let refused = socket.ask(json!({"type": "subscribe", "id": 3, "patterns": ["a*", "b*"]}));
    assert_eq!(refused["code"], "limit_reached");
    assert_eq!(
        socket.ask(json!({"type": "subscribe", "id": 4, "pattern": "a*"}))["type"],
        "subscribed"
    );
    socket.ask(json!({"type": "unsubscribe", "id": 5, "channel": "1"}));
    assert_eq!(
        socket.ask(json!({"type": "subscribe", "id": 6, "channel": "4"}))["type"],
        "subscribed"
    );
}

#[test]
fn an_answer_names_the_command_that_brought_it_about_and_no_older_one() {
    let server = TestServer::start();
    // Several commands in one piece: the first subscription is over before it has caught up.
    let mut piece = Vec::new();
    for command in [
        json!({"type": "subscribe", "id": 5, "channel": "c"}),
        json!({"type": "unsubscribe", "id": 6, "channel": "c"}),
        json!({"type": "subscribe", "id": 7, "channel": "c"}),
    ] {
        piece.extend_from_slice(&support::websocket::masked(1, command.to_string().as_bytes()));
    }
    let answers = || {
        let mut socket = server.websocket("");
        socket.http.send(&piece);
        let mut answers = Vec::new();
        while answers.last() != Some(&(json!("subscribed"), json!(7))) {
            let object = socket.next();
            if object["type"] != "cursor" {
                answers.push((object["type"].clone(), object["id"].clone()));
            }
        }
        assert_eq!(socket.settle(), Vec::<Value>::new());
        answers
    };
    let (first, second, third) = (
        (json!("subscribed"), json!(5)),
        (json!("unsubscribed"), json!(6)),
        (json!("subscribed"), json!(7)),
    );
    // On a busy machine the server's turn may end in between: then the first has caught up, and says so.
    let in_turns = [first, second.clone(), third.clone()];
    let at_once = (0..100).map(|_| answers()).find(|answers| *answers != in_turns);
    assert_eq!(at_once, Some(vec![second, third]));
}
