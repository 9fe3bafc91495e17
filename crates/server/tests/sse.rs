//! What a browser's EventSource relies on: exact headers, the opening block, where a stream resumes.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use api_support::{OPEN, TestServer};
use serde_json::json;

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
        ("content-type", "text/event-stream"),
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
fn the_first_block_holds_only_how_often_it_beats_and_when_and_where_to_resume() {
    let server = TestServer::start_with(OPEN, &[("held.retry", "2s"), ("held.heartbeat", "90s")]);
    server.publish("a", "before");
    let mut stream = server.public().stream("/v1/sse?channel=a&retained=0");
    let block = stream.block().unwrap();
    let [("retry", retry), ("heartbeat_ms", "90000"), ("id", id)] = fields(&block)[..] else {
        panic!("{block:?}");
    };
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
    assert!(client.line().unwrap().starts_with("retry: "));
    assert!(client.line().unwrap().starts_with("heartbeat_ms: "));
    assert!(client.line().unwrap().starts_with("id: "));
    assert_eq!(client.line().unwrap(), "");
    assert!(client.line().unwrap().starts_with("id: "));
    assert!(
        client
            .line()
            .unwrap()
            .starts_with("data: {\"type\":\"publication\"")
    );
}

#[test]
fn head_is_answered_with_the_head_alone_and_holds_nothing() {
    let server = TestServer::start(OPEN);
    let mut client = server.public();
    let head = client.call("HEAD", "/v1/sse?channel=a", b"");
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
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
fn heartbeats_repeat_only_the_cursor() {
    let server = TestServer::start_with(OPEN, &[("held.heartbeat", "1s")]);
    let mut stream = server.public().stream("/v1/sse?channel=a");
    let opening = stream.block().unwrap();
    let heartbeat = stream.block().unwrap();
    assert_eq!(
        fields(&heartbeat),
        fields(&opening)[2..],
        "nothing happened in between"
    );
}
