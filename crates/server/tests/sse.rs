//! What a browser's EventSource relies on: exact headers, the opening block, where a stream resumes.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use std::collections::BTreeSet;

use api_support::{GUARDED, OPEN, TestServer, claims, encode, now_seconds, signed};
use cometserver_core::action::Action;
use cometserver_core::token::Claims;
use serde_json::{Value, json};

/// No heartbeat comes: a test that waits for what does not come ends with its patience.
const SILENT: &[(&str, &str)] = &[("held.heartbeat", "600s")];

/// The fields of a block by name, in order.
fn fields(block: &str) -> Vec<(&str, &str)> {
    block.lines().map(|line| line.split_once(": ").unwrap()).collect()
}

#[test]
fn the_head_is_what_proxies_pass_through_at_once() {
    let server = TestServer::start(OPEN);
    let stream = server.public().stream("/v1/sse?channel=a");
    assert_eq!(stream.head.status_line, "HTTP/1.1 200 OK");
    let expected = [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache, no-store, no-transform"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    assert_eq!(stream.head.headers, expected);
}

#[test]
fn the_first_block_says_how_often_it_beats_and_when_and_where_to_resume_and_is_no_message() {
    let server = TestServer::start_with(OPEN, &[("held.retry", "2s"), ("held.heartbeat", "90s")]);
    server.publish("a", "before");
    let mut stream = server.public().stream("/v1/sse?channel=a&retained=0");
    let block = stream.block().unwrap();
    let [("retry", retry), ("event", "cursor"), ("data", data), ("id", id)] = fields(&block)[..] else {
        panic!("{block:?}");
    };
    assert_eq!(data, r#"{"type":"cursor","heartbeat_ms":90000}"#);
    let retry: u64 = retry.parse().unwrap();
    assert!(
        (2000..=3000).contains(&retry),
        "{retry}: at least held.retry, spread"
    );
    drop(stream);
    server.publish("a", "between");
    let mut stream = server
        .public()
        .with(&format!("Last-Event-ID: {id}"))
        .stream("/v1/sse?channel=a");
    assert_eq!(stream.event().unwrap().0["data"], "between");
}

#[test]
fn a_payload_of_several_lines_is_one_event() {
    let server = TestServer::start(OPEN);
    let mut stream = server.public().stream("/v1/sse?channel=a");
    stream.block().unwrap();
    let mut backend = server.backend().with("Content-Type: application/json");
    backend.post("/v1/publish?channel=a", "{\n\"a\":\r\n[1,\r2]}");
    let (object, id) = stream.event().unwrap();
    assert_eq!(object["data"], json!({"a": [1, 2]}));
    assert!(id.is_some());
    server.publish("a", "one\ntwo\r\n\r\nid: evil");
    let (object, _) = stream.event().unwrap();
    assert_eq!(object["data"], "one\ntwo\r\n\r\nid: evil");
    assert_eq!(object["kind"], "text");
}

#[test]
fn every_event_carries_the_cursor_after_it() {
    let server = TestServer::start(OPEN);
    let mut stream = server.public().stream("/v1/sse?channel=a");
    stream.block().unwrap();
    server.publish("a", "1");
    server.publish("a", "2");
    let (first, cursor) = stream.event().unwrap();
    assert_eq!(first["data"], "1");
    assert_eq!(stream.event().unwrap().0["data"], "2");
    let mut resumed = server
        .public()
        .with(&format!("Last-Event-ID: {}", cursor.unwrap()))
        .stream("/v1/sse?channel=a");
    assert_eq!(resumed.event().unwrap().0["data"], "2");
}

#[test]
fn the_header_of_a_browser_that_returns_beats_the_url_it_repeats() {
    let server = TestServer::start(OPEN);
    let old = server.publish("a", "1")["cursor"].as_str().unwrap().to_owned();
    let new = server.publish("a", "2")["cursor"].as_str().unwrap().to_owned();
    server.publish("a", "3");
    let target = format!("/v1/sse?channel=a&cursor={old}");
    let mut by_url = server.public().stream(&target);
    assert_eq!(by_url.event().unwrap().0["data"], "2");
    let mut by_header = server
        .public()
        .with(&format!("Last-Event-ID: {new}"))
        .stream(&target);
    assert_eq!(by_header.event().unwrap().0["data"], "3");
    // Empty is what some clients send when they have none.
    let mut empty = server.public().with("Last-Event-ID: ").stream(&target);
    assert_eq!(empty.event().unwrap().0["data"], "2");
}

#[test]
fn a_last_event_id_that_is_no_cursor_is_a_gap_and_the_stream_goes_on() {
    let server = TestServer::start(OPEN);
    server.publish("a", "kept");
    for garbage in ["42", "c1", "not a cursor at all", "\u{fffd}", "now or never"] {
        let mut stream = server
            .public()
            .with(&format!("Last-Event-ID: {garbage}"))
            .stream("/v1/sse?channel=a");
        let (gap, _) = stream.event().unwrap();
        assert_eq!(
            (&gap["type"], &gap["channel"]),
            (&json!("gap"), &json!("a")),
            "{garbage}"
        );
        assert_eq!(stream.event().unwrap().0["data"], "kept", "what is kept follows");
        server.publish("b", "elsewhere");
    }
    // In the URL it is a mistake of whoever wrote the page, who sees the answer.
    let answer = server.public().get("/v1/sse?channel=a&cursor=garbage");
    assert_eq!(answer.problem(400), "bad_cursor");
}

#[test]
fn a_client_of_http_1_0_gets_the_stream_without_chunks() {
    let server = TestServer::start(OPEN);
    server.publish("a", "1");
    let mut client = server.public();
    client.write(b"GET /v1/sse?channel=a&cursor=earliest HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("transfer-encoding"), None);
    assert_eq!(head.header("content-length"), None);
    assert_eq!(head.header("connection"), Some("close"));
    let lines = [
        "retry: ",
        "event: cursor",
        "data: {\"type\":\"cursor\"",
        "id: ",
        "",
    ];
    for line in lines
        .into_iter()
        .chain(["data: {\"type\":\"publication\"", "id: ", ""])
    {
        let came = client.line().unwrap();
        assert!(
            came.starts_with(line) && came.is_empty() == line.is_empty(),
            "{came:?}: {line:?}"
        );
    }
}

#[test]
fn head_is_answered_with_the_head_alone_and_holds_nothing() {
    let server = TestServer::start(OPEN);
    let mut client = server.public();
    let head = client.call("HEAD", "/v1/sse?channel=a", b"");
    assert_eq!(head.status, 200);
    assert_eq!(
        head.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    // The connection goes on with the next request: no byte of a stream came.
    assert_eq!(client.get("/health/live").status, 200);
    assert_eq!(server.shared.held(), 0);
    assert_eq!(client.call("HEAD", "/v1/sse", b"").status, 400);
}

#[test]
fn a_stream_beyond_the_budget_is_asked_to_wait_in_words_that_a_browser_obeys() {
    let server = TestServer::start_with(OPEN, &[("held.sse.max", "1")]);
    let mut held = server.public().stream("/v1/sse?channel=a");
    held.block().unwrap();
    let mut turned_away = server.public().stream("/v1/sse?channel=a");
    let block = turned_away.block().unwrap();
    assert_eq!(fields(&block)[0].0, "retry", "{block}");
    assert!(block.contains("\"type\":\"reconnect\""), "{block}");
    assert_eq!(turned_away.block(), None, "it ends");
    // Others are served all the while.
    server.publish("a", "1");
    assert_eq!(held.event().unwrap().0["data"], "1");
    let mut backend = server.backend().stream("/v1/sse?channel=a");
    assert!(backend.block().is_some(), "the budget is for public doors");
}

#[test]
fn heartbeats_repeat_the_cursor_and_are_no_messages() {
    let server = TestServer::start_with(OPEN, &[("held.heartbeat", "1s")]);
    let mut stream = server.public().stream("/v1/sse?channel=a");
    let opening = stream.block().unwrap();
    let id = fields(&opening)[3];
    let heartbeat = stream.block().unwrap();
    assert_eq!(
        fields(&heartbeat),
        [("event", "cursor"), ("data", r#"{"type":"cursor"}"#), id],
        "nothing happened in between"
    );
}

#[test]
fn every_block_has_data_and_ends_with_its_cursor_whatever_it_says() {
    let server = TestServer::start_with(GUARDED, &[("held.heartbeat", "1s")]);
    let anna = signed(&Claims {
        exp: Some(now_seconds() + 4 - cometserver_core::token::LEEWAY),
        ..claims(
            Some("anna"),
            &["room/a"],
            &[],
            &[Action::Subscribe, Action::Presence],
        )
    });
    let mut stream = server
        .public()
        .bearing(&anna)
        .with("Last-Event-ID: unreadable")
        .stream("/v1/sse?channel=room/a&presence=join");
    server.publish("room/a", "1");
    let mut kinds = BTreeSet::new();
    // Up to the end of the token.
    while let Some(block) = stream.block() {
        let fields = fields(&block);
        let [.., ("data", data), ("id", id)] = fields[..] else {
            panic!("{block:?}")
        };
        assert!(!id.is_empty());
        let object: Value = serde_json::from_str(data).unwrap();
        let kind = object["type"].as_str().unwrap().to_owned();
        let is_cursor = fields.contains(&("event", "cursor"));
        assert_eq!(is_cursor, kind == "cursor", "{block:?}");
        for (_, retry) in fields.iter().filter(|(name, _)| *name == "retry") {
            assert!(retry.parse::<u64>().unwrap() >= 1_000, "{block:?}");
        }
        kinds.insert(kind);
    }
    let expected = ["cursor", "gap", "join", "publication", "reconnect"];
    assert_eq!(kinds, expected.map(str::to_owned).into());
}

#[test]
fn no_stream_is_told_to_come_back_within_a_second() {
    let server = TestServer::start_with(OPEN, &[("held.sse.max", "1"), ("held.retry", "1ms")]);
    let mut held = server.public().stream("/v1/sse?channel=a");
    let mut turned_away = server.public().stream("/v1/sse?channel=a");
    for block in [held.block().unwrap(), turned_away.block().unwrap()] {
        assert_eq!(fields(&block)[0], ("retry", "1000"), "{block:?}");
    }
}

#[test]
fn a_client_that_is_owed_a_gap_keeps_the_cursor_it_came_with_until_it_was_told() {
    let server = TestServer::start(OPEN);
    let lost = "Last-Event-ID: AQ";
    let mut stream = server.public().with(lost).stream("/v1/sse?channel=a&channel=b");
    let opening = stream.block().unwrap();
    let (_, own) = *fields(&opening).last().unwrap();
    let [one, other] = [stream.block().unwrap(), stream.block().unwrap()];
    assert!(one.contains("\"type\":\"gap\"") && other.contains("\"type\":\"gap\""));
    assert_eq!(fields(&one).last(), Some(&("id", own)));
    let (_, cursor) = *fields(&other).last().unwrap();
    assert_ne!(cursor, own);
    // Whoever was cut off before is told then.
    let mut again = server
        .public()
        .with(&format!("Last-Event-ID: {own}"))
        .stream("/v1/sse?channel=a");
    assert_eq!(again.event().unwrap().0["type"], "gap");
    let mut told = server
        .public()
        .with(&format!("Last-Event-ID: {cursor}"))
        .stream("/v1/sse?channel=a");
    server.publish("a", "next");
    assert_eq!(told.event().unwrap().0["data"], "next");
}

#[test]
fn what_some_readers_take_for_line_breaks_is_escaped_wherever_a_publisher_can_put_it() {
    let server = TestServer::start(OPEN);
    let odd = "a\u{85}b\u{2028}c\u{2029}d";
    let query = format!("channel={}", encode(odd));
    for (target, end) in [("sse", "\n\n"), ("stream", "\n")] {
        let mut stream = server
            .public()
            .stream(&format!("/v1/{target}?{query}&retained=0"));
        stream.until(end).unwrap();
        let raw = json!({"channel": odd, "data": {odd: [odd]}, "event": odd, "id": odd, "tags": {odd: odd}});
        server.backend().post_json("/v1/publish", &raw);
        server.publish(odd, odd);
        for data in [json!({odd: [odd]}), json!(odd)] {
            let text = stream.until(end).unwrap();
            assert!(
                !text.contains(['\u{85}', '\u{2028}', '\u{2029}']),
                "{target}: {text:?}"
            );
            let object = text.trim_start_matches("data: ").lines().next().unwrap();
            let object: Value = serde_json::from_str(object).unwrap();
            assert_eq!((&object["channel"], &object["data"]), (&json!(odd), &data));
            if data != json!(odd) {
                assert_eq!(
                    (&object["event"], &object["id"], &object["tags"]),
                    (&json!(odd), &json!(odd), &json!({odd: odd}))
                );
            }
        }
    }
}

#[test]
fn what_replaces_an_event_source_says_in_the_query_what_it_saw_last() {
    let server = TestServer::start_with(OPEN, SILENT);
    let cursors: Vec<String> = (0..4)
        .map(|n| {
            server.publish("a", &n.to_string())["cursor"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let [zero, one, two, three] = &cursors[..] else {
        unreachable!()
    };
    server.publish("a", "4");
    let first = |header: &str, query: String| {
        let client = server.public();
        let client = if header.is_empty() {
            client
        } else {
            client.with(&format!("Last-Event-ID: {header}"))
        };
        client
            .stream(&format!("/v1/sse?channel=a&{query}"))
            .event()
            .unwrap()
            .0
    };
    for name in ["lastEventId", "lastEventID", "Last-Event-ID"] {
        assert_eq!(first("", format!("{name}={one}"))["data"], "2", "{name}");
        assert_eq!(
            first("", format!("cursor={zero}&{name}={one}"))["data"],
            "2",
            "{name} wins over cursor"
        );
        assert_eq!(
            first("", format!("{name}={one}&cursor={zero}"))["data"],
            "2",
            "wherever it stands"
        );
        assert_eq!(
            first("", format!("cursor={zero}&{name}="))["data"],
            "1",
            "an empty {name} is none"
        );
        assert_eq!(
            first(three, format!("{name}={one}"))["data"],
            "4",
            "the header wins"
        );
        for unreadable in ["42", "%FF", "now", "%00"] {
            let gap = first("", format!("{name}={unreadable}&cursor=now"));
            assert_eq!(gap["type"], "gap", "{name}={unreadable}");
        }
    }
    assert_eq!(
        first("", format!("lastEventId={one}&lastEventID={two}"))["data"],
        "3",
        "the last counts"
    );
    // Others have no such parameter.
    let mut stream = server
        .public()
        .stream(&format!("/v1/stream?channel=a&cursor={three}&lastEventId={one}"));
    assert_eq!(stream.object().unwrap()["type"], "cursor");
    assert_eq!(stream.object().unwrap()["data"], "4");
}

#[test]
fn a_last_event_id_that_is_not_utf_8_is_a_gap_and_a_cursor_that_is_not_is_refused() {
    let server = TestServer::start_with(OPEN, SILENT);
    server.publish("a", "kept");
    let mut client = server.public();
    client.write(
        b"GET /v1/sse?channel=a&cursor=now HTTP/1.1\r\nHost: comet\r\nLast-Event-ID: \xff\xfe\r\n\r\n",
    );
    assert_eq!(client.head().status, 200);
    let mut text = String::new();
    while !text.contains("kept") {
        text.push_str(std::str::from_utf8(&client.chunk().unwrap()).unwrap());
    }
    assert!(text.find("\"type\":\"gap\"") < text.find("kept"), "{text}");
    for target in ["sse", "stream", "poll"] {
        let answer = server
            .public()
            .get(&format!("/v1/{target}?channel=a&cursor=%FF%FE"));
        assert_eq!(answer.problem(400), "bad_cursor", "{target}");
    }
}
