//! What proxies, tracing and foreign clients send, and old pages have in their addresses.

use cometserver_core::action::Action;
use serde_json::json;

use crate::api_support::{GUARDED, OPEN, TestServer, claims, signed};

#[test]
fn an_encoded_body_is_refused_before_it_is_published() {
    let server = TestServer::start(OPEN);
    for coding in ["gzip", "br", "zstd", "deflate, identity", "x"] {
        for target in ["/v1/publish?channel=a", "/v1/batch", "/v1/none"] {
            let mut client = server.public().with(&format!("Content-Encoding: {coding}"));
            let refused = client.post(target, "1");
            assert_eq!(
                refused.problem_naming(415, "Content-Encoding"),
                "bad_request",
                "{coding}"
            );
        }
    }
    assert_eq!(server.backend().get("/v1/history?channel=a").json()["offset"], 0);
    for coding in ["identity", "Identity", ""] {
        let mut client = server.public().with(&format!("Content-Encoding: {coding}"));
        assert_eq!(client.post("/v1/publish?channel=a", "1").status, 200, "{coding}");
    }
}

#[test]
fn a_hundred_header_lines_are_taken() {
    let server = TestServer::start(OPEN);
    let with = |lines: usize| {
        // And `Host`, which the client sends.
        let lines: Vec<String> = (1..lines).map(|n| format!("X-{n}: y")).collect();
        server.public().with(&lines.join("\r\n")).get("/v1/now")
    };
    assert_eq!(with(100).status, 200);
    assert_eq!(with(101).problem(431), "too_large");
}

#[test]
fn whoever_asks_whether_the_server_is_there_is_told() {
    let server = TestServer::start_with(OPEN, &[("public.base_path", "/push")]);
    for target in ["/", "*", "/push", "/push/"] {
        let answer = server.public().call("OPTIONS", target, b"");
        assert_eq!(answer.status, 204, "{target}");
        assert!(answer.header("allow").unwrap().contains("POST"), "{target}");
    }
    for target in ["/v1/publish", "/v1/none"] {
        assert!(
            server.public().call("OPTIONS", target, b"").status >= 404,
            "{target}"
        );
    }
    assert_eq!(server.backend().call("OPTIONS", "*", b"").status, 204);
}

#[test]
fn white_space_around_a_token_is_no_part_of_it() {
    let server = TestServer::start(GUARDED);
    let token = signed(&claims(Some("anna"), &["a"], &[], &[Action::Subscribe]));
    for (before, after) in [("+", ""), ("", "%0A"), ("%20%09", "%0D%0A"), ("", "+")] {
        let target = format!("/v1/poll?channel=a&wait_ms=0&token={before}{token}{after}");
        assert_eq!(server.public().get(&target).status, 200, "{target}");
        server.public().websocket(&target.replace("/v1/poll", "/v1/ws"));
    }
    let mut socket = server.public().websocket("/v1/ws");
    let command = json!({"type": "authorize", "id": 1, "token": format!(" {token}\n")});
    assert_eq!(socket.ask(&command)["type"], "authorized");
    // Within it is none, and what is no text is no token either: nobody becomes a visitor without one by that.
    let (head, tail) = token.split_at(20);
    for bad in [format!("{head}+{tail}"), format!("{token}%FF"), "%FF".to_owned()] {
        let target = format!("/v1/poll?channel=public/a&wait_ms=0&token={bad}");
        assert_eq!(
            server.public().get(&target).problem(401),
            "unauthorized",
            "{target}"
        );
    }
    let blank = server.public().get("/v1/poll?channel=public/a&wait_ms=0&token=+");
    assert_eq!(blank.status, 200, "a blank one is none");
}

#[test]
fn commands_may_be_written_with_escapes() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws");
    for (command, answer) in [
        (r#"{"type":"p\u0069ng"}"#, "pong"),
        (
            r#"{"t\u0079pe":"subscr\u0069be","id":"\u0061","ch\u0061nnel":"\u0061"}"#,
            "subscribed",
        ),
        (
            r#"{"type":"\u0070ublish","id":2,"channel":"\u0061","data":"\u0078"}"#,
            "published",
        ),
        (r#"{"type":"pong"}"#, "error"),
        (r#"{"type":"p\u00zzng"}"#, "error"),
    ] {
        socket.send_frame(1, command.as_bytes());
        socket.next_of(answer);
    }
    let history = server.backend().get("/v1/history?channel=a").json();
    assert_eq!(history["publications"][0]["data"], "x");
}

#[test]
fn a_history_of_none_says_how_far_the_channel_is() {
    for durability in ["fsync", "memory"] {
        let toml = format!("{OPEN}durability = \"{durability}\"\n");
        let server = TestServer::start(&toml);
        let start = server.publish("a", "1")["cursor"].as_str().unwrap().to_owned();
        server.publish("a", "2");
        let mut backend = server.backend();
        let none = backend.get("/v1/history?channel=a&limit=0").json();
        assert_eq!(
            (&none["publications"], &none["offset"], &none["gap"]),
            (&json!([]), &json!(2), &json!(false))
        );
        let mut next = |cursor: &serde_json::Value| {
            let target = format!("/v1/history?channel=a&since={}", cursor.as_str().unwrap());
            backend.get(&target).json()["publications"]
                .as_array()
                .unwrap()
                .len()
        };
        assert_eq!(next(&none["cursor"]), 0, "it is the newest");
        let since = server
            .backend()
            .get(&format!("/v1/history?channel=a&limit=0&since={start}"))
            .json();
        assert_eq!(since["publications"], json!([]));
        assert_eq!(next(&since["cursor"]), 1, "nothing is passed over");
        let mut socket = server.public().websocket("/v1/ws");
        let answer = socket.ask(&json!({"type": "history", "id": 1, "channel": "a", "limit": 0}));
        assert_eq!(
            (&answer["publications"], &answer["offset"]),
            (&json!([]), &json!(2))
        );
        let answer = socket.ask(&json!({"type": "history", "id": 2, "channel": "a"}));
        assert_eq!(
            answer["publications"].as_array().unwrap().len(),
            2,
            "without a limit it is as ever"
        );
        let none = server.backend().get("/v1/history?channel=never&limit=0").json();
        assert_eq!((&none["publications"], &none["offset"]), (&json!([]), &json!(0)));
    }
}

#[test]
fn the_same_key_with_the_channels_in_another_order_publishes_once() {
    let server = TestServer::start(OPEN);
    let publish = |channels: serde_json::Value| {
        let body = json!({"channels": channels, "data": 1, "idempotency_key": "k"});
        server.backend().post_json("/v1/publish", &body)
    };
    assert_eq!(publish(json!(["b", "a"])).json()["duplicate"], json!(null));
    for channels in [json!(["a", "b"]), json!(["b", "a", "b"])] {
        assert_eq!(publish(channels).json()["duplicate"], true);
    }
    assert_eq!(publish(json!(["a", "c"])).problem(409), "conflict");
    assert_eq!(server.backend().get("/v1/history?channel=b").json()["offset"], 1);
}
