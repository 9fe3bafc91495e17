//! Commands and frames, and what the older wire leaves behind.

use serde_json::{Value, json};

use crate::api_support::{Frame, OPEN, TestServer};
use crate::kept;

#[test]
fn a_websocket_speaks_every_command_of_the_protocol() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws?session=me");
    assert_eq!(socket.object()["type"], "cursor", "the first object");
    let publish = json!({
        "type": "publish", "id": 1, "channel": "a", "data": {"n": 1}, "event": "e", "message_id": "mine", "retain": true,
        "tags": {"a": "b"},
    });
    let published = socket.ask(&publish);
    assert_eq!(
        (&published["type"], &published["channels"][0]["offset"]),
        (&json!("published"), &json!(1))
    );
    let before = published["cursor"].clone();
    socket
        .send(&json!({"type": "subscribe", "id": "s", "channel": "a", "presence": "join", "info": {"x": 1}}));
    let retained = socket.next_of("publication");
    assert_eq!(
        (&retained["id"], &retained["event"]),
        (&json!("mine"), &json!("e"))
    );
    assert_eq!(retained.get("cursor"), None, "it only catches up");
    let subscribed = socket.next_of("subscribed");
    assert_eq!(
        (&subscribed["id"], &subscribed["channel"], &subscribed["offset"]),
        (&json!("s"), &json!("a"), &json!(1))
    );
    assert_eq!(
        (&subscribed["epoch"], &subscribed["members"]),
        (&published["channels"][0]["epoch"], &json!(1))
    );
    let presence = socket.ask(&json!({"type": "presence", "id": 3, "channel": "a"}));
    assert_eq!(
        (&presence["type"], &presence["count"]),
        (&json!("presence"), &json!(1))
    );
    assert_eq!(presence["members"][0]["info"], json!({"x": 1}));
    // Not to itself, if it does not want that; but to others.
    let mut other = server.public().websocket("/v1/ws?channel=a&retained=0");
    other.object();
    socket.send(&json!({"type": "publish", "channel": "a", "data": 2, "echo": false}));
    socket.send(&json!({"type": "publish", "channel": "a", "data": 3}));
    assert_eq!(socket.next_of("publication")["data"], 3);
    assert_eq!(other.next_of("publication")["data"], 2);
    let history =
        socket.ask(&json!({"type": "history", "id": 4, "channel": "a", "since": before, "limit": 1}));
    assert_eq!(
        (&history["type"], &history["offset"]),
        (&json!("history"), &json!(3))
    );
    assert_eq!(history["publications"][0]["data"], 2);
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 5})),
        json!({"type": "pong", "id": 5})
    );
    let answer = socket.ask(&json!({"type": "unsubscribe", "id": 6, "channel": "a"}));
    assert_eq!(answer, json!({"type": "unsubscribed", "id": 6}));
    server.publish("a", "unseen");
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 7}))["type"],
        "pong",
        "nothing before it"
    );
    for (command, word) in [
        (json!({"type": "dance", "id": 8}), "`type`"),
        (json!({"type": "subscribe", "id": 8}), "`channel`"),
        (json!({"type": "history", "id": 8}), "`channel`"),
        (json!({"type": "publish", "id": 8, "channel": "a"}), "`data`"),
        (json!({"type": "authorize", "id": 8}), "`token`"),
    ] {
        let error = socket.ask(&command);
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("bad_request")),
            "{command}"
        );
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
    }
    let error = socket.ask(&json!({"type": "subscribe", "id": 9, "channel": "a", "since": "x"}));
    assert_eq!(error["code"], "bad_cursor");
    socket.send_frame(1, b"no JSON");
    assert_eq!(socket.next_of("error")["code"], "bad_request");
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 10}))["type"],
        "pong",
        "the connection stays"
    );
}

#[test]
fn a_subscription_is_answered_once_under_its_own_id() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    socket.send(&json!({"type": "subscribe", "id": 1, "channel": "a"}));
    socket.send(&json!({"type": "unsubscribe", "id": 2, "channel": "a"}));
    socket.send(&json!({"type": "subscribe", "id": 3, "channel": "a"}));
    socket.send(&json!({"type": "subscribe", "id": 4, "channel": "b"}));
    let mut answers = Vec::new();
    while answers.last() != Some(&json!(4)) {
        answers.push(socket.object()["id"].clone());
    }
    let of_a = answers.iter().rposition(|id| *id == json!(3));
    assert!(
        of_a > answers.iter().position(|id| *id == json!(2)),
        "{answers:?}"
    );
}

#[test]
fn binary_frames_carry_payloads_as_they_are() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws?channel=a&format=binary");
    let mut object = || match socket.frame() {
        Frame::Binary(bytes) => {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            let head: Value = serde_json::from_slice(&bytes[4..4 + length]).unwrap();
            (head, bytes[4 + length..].to_vec())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(object().0["type"], "cursor");
    server.backend().post("/v1/publish?channel=a", b"\xff\0");
    let (head, payload) = object();
    assert_eq!(
        (&head["type"], &head["kind"], head.get("data")),
        (&json!("publication"), &json!("binary"), None)
    );
    assert!(head["cursor"].is_string());
    assert_eq!(payload, b"\xff\0");
    let mut publisher = server.public().websocket("/v1/ws?format=binary");
    let command = json!({"type": "publish", "channel": "a"}).to_string();
    let frame = [
        &u32::try_from(command.len()).unwrap().to_be_bytes()[..],
        command.as_bytes(),
        b"\0raw",
    ]
    .concat();
    publisher.send_frame(2, &frame);
    let (head, payload) = object();
    assert_eq!((&head["kind"], &payload[..]), (&json!("binary"), &b"\0raw"[..]));
    let command = json!({"type": "publish", "channel": "a", "data": "text", "kind": "text"});
    publisher.send(&command);
    assert_eq!(object().1, b"text", "text frames stay allowed");
}

/// One request over the old wire, and its answer.
fn old_wire(server: &TestServer, request: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(&server.addresses.backend).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn what_old_readers_need_is_not_shown_to_subscribers_and_cannot_be_claimed_by_tags() {
    let server = TestServer::start(OPEN);
    assert_eq!(old_wire(&server, b"write k a%2Bb \0"), b"ok \0");
    let mut backend = server.backend();
    let owned = backend.get("/v1/retained?channel=k").json();
    assert_eq!(
        owned["seed_token"], "YSUyQmI=",
        "a command line decodes it itself"
    );
    assert_eq!(owned.get("tags"), None);
    let listed = backend.get("/v1/channels?retained=1&values=1").json();
    assert_eq!(listed["channels"][0]["value"]["seed_token"], "YSUyQmI=");
    let shown = server.public().get("/v1/retained?channel=k").json();
    assert_eq!((shown.get("seed_token"), shown.get("tags")), (None, None));
    assert_eq!(kept(&server, "k")[0].get("seed_token"), None);

    let claimed = json!({
        "channel": "k", "kind": "text", "data": "a b", "retain": true,
        "tags": {"seed_token": "old", "seed_depth": "cli"},
    });
    assert_eq!(server.public().post_json("/v1/publish", &claimed).status, 200);
    assert_eq!(
        old_wire(&server, b"read k \0"),
        b"a%2Bb \0",
        "at the depth of a page"
    );
}
