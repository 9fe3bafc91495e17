//! Paths, methods and parameters, right and wrong.

use serde_json::json;

use crate::api_support::{OPEN, TestServer};

#[test]
fn head_is_answered_as_get_without_the_body() {
    let server = TestServer::start(OPEN);
    server.backend().post("/v1/publish?channel=a&retain=1", "1");
    let mut backend = server.backend();
    for target in [
        "/v1/history?channel=a",
        "/v1/retained?channel=a",
        "/v1/now",
        "/openapi.json",
        "/v1/none",
        "/v1/history",
    ] {
        let get = backend.get(target);
        let head = backend.call("HEAD", target, b"");
        assert_eq!(
            (head.status, &head.headers),
            (get.status, &get.headers),
            "{target}"
        );
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()));
    }
    for target in ["/v1/poll?channel=a", "/v1/stream?channel=a"] {
        assert_eq!(backend.call("HEAD", target, b"").status, 200, "{target}");
    }
    assert_eq!(
        backend.get("/health/live").status,
        200,
        "the connection is still in step"
    );
}

#[test]
fn a_path_or_method_that_is_none_is_told_with_what_there_is() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/publish/",
        "/v1//publish",
        "/V1/publish",
        "/demo/page.js",
    ] {
        assert_eq!(
            backend.get(path).problem_naming(404, "/openapi.json"),
            "not_found",
            "{path}"
        );
    }
    let table = [
        ("GET", "/v1/publish", "POST"),
        ("PUT", "/v1/batch", "POST"),
        ("POST", "/v1/history", "GET, HEAD, DELETE"),
        ("DELETE", "/v1/sse", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("HEAD", "/v1/admin/stop", "POST"),
        ("BREW", "/v1/now", "GET, HEAD"),
        ("OPTIONS", "/v1/now", "GET, HEAD"),
    ];
    for (method, path, allow) in table {
        let answer = backend.call(method, path, b"");
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
        if method != "HEAD" {
            assert_eq!(answer.problem(405), "method_not_allowed");
        }
    }
}

#[test]
fn a_base_path_of_a_front_web_server_is_taken_off() {
    let server = TestServer::start_with(OPEN, &[("public.base_path", "/push")]);
    for path in ["/push/v1/now", "/v1/now"] {
        assert_eq!(server.public().get(path).status, 200, "{path}");
    }
    for path in ["/pushv1/now", "/push", "/push/push/v1/now"] {
        assert_eq!(server.public().get(path).problem(404), "not_found", "{path}");
    }
}

#[test]
fn a_poll_is_asked_about_by_its_etag() {
    let server = TestServer::start(OPEN);
    server.publish("a", "1");
    let target = "/v1/poll?channel=a&wait_ms=0";
    let first = server.public().get(&format!("{target}&cursor=earliest"));
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", first.json()["cursor"].as_str().unwrap()));
    let mut client = server.public().with(&format!("If-None-Match: {tag}"));
    let nothing = client.get(target);
    assert_eq!((nothing.status, nothing.header("etag")), (304, Some(&*tag)));
    server.publish("a", "2");
    let second = client.get(target);
    assert_eq!(second.json()["publications"][0]["data"], "2");
    let answer = server.public().get("/v1/poll?channel=a&cursor=earliest&limit=1");
    assert_eq!(answer.json()["publications"].as_array().unwrap().len(), 1);
}

#[test]
fn a_number_that_is_none_is_refused_before_anything_is_held() {
    let server = TestServer::start(OPEN);
    let mut client = server.public();
    for (target, word) in [
        ("/v1/poll?channel=a&wait_ms=long", "wait_ms"),
        ("/v1/poll?channel=a&limit=x", "limit"),
        ("/v1/sse?channel=a&limit=x", "limit"),
        ("/v1/stream?channel=a&presence=x", "presence"),
        ("/v1/stream?channel=a&session=", "session"),
        ("/v1/stream?channel=a&info={", "info"),
        ("/v1/stream", "channel"),
    ] {
        let answer = client.get(target);
        assert_eq!(answer.problem_naming(400, word), "bad_request", "{target}");
    }
    let refused = server
        .public()
        .try_websocket("/v1/ws?channel=a&limit=x")
        .err()
        .unwrap();
    assert_eq!(refused.problem(400), "bad_request");
    assert_eq!(server.shared.held(), 0);
    assert_eq!(server.stat("/holds"), 0);
    assert_eq!(server.stat("/subscriptions/exact"), 0);
}

#[test]
fn a_channel_named_twice_is_listened_to_once() {
    let server = TestServer::start(OPEN);
    let mut stream = server
        .public()
        .stream("/v1/stream?channel=a&channel=a&pattern=*&pattern=*");
    stream.object().unwrap();
    let mut socket = server.public().websocket("/v1/ws");
    socket.ask(&json!({"type": "subscribe", "id": 1, "channels": ["a", "a"], "patterns": ["*", "*"]}));
    for data in ["1", "2"] {
        server.publish("a", data);
        assert_eq!(stream.object().unwrap()["data"], data);
        assert_eq!(socket.next_of("publication")["data"], data);
    }
    let receipt = server
        .backend()
        .post_json("/v1/publish", &json!({"channels": ["a", "a"], "data": 3}));
    assert_eq!(receipt.json()["channels"].as_array().unwrap().len(), 1);
    assert_eq!(stream.object().unwrap()["data"], 3);
    server.publish("a", "4");
    assert_eq!(stream.object().unwrap()["data"], "4");
}
