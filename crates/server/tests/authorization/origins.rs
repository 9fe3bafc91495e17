//! Pages of other origins.

use crate::api_support::{Answer, OPEN, TestServer};

#[test]
fn a_page_of_another_origin_may_neither_act_nor_open_a_websocket() {
    let server = TestServer::start_with(OPEN, &[("public.origins", "https://friend.example")]);
    let foreign = || server.public().with("Origin: https://evil.example");
    assert_eq!(
        foreign().post("/v1/publish?channel=a", "1").problem(403),
        "origin_refused"
    );
    assert_eq!(
        foreign().post("/v1/batch", "{\"publications\":[]}").problem(403),
        "origin_refused"
    );
    assert_eq!(
        foreign().delete("/v1/history?channel=a").problem(403),
        "origin_refused"
    );
    for origin in [
        "https://evil.example",
        "null",
        "https://friend.example.evil.example",
        "http://friend.example",
        "https://comet.test.evil",
    ] {
        let refused = server
            .public()
            .with(&format!("Origin: {origin}"))
            .try_websocket("/v1/ws")
            .err()
            .unwrap();
        assert_eq!(
            refused.problem_naming(403, "public.origins"),
            "origin_refused",
            "{origin}"
        );
    }
    for origin in [
        "https://friend.example",
        "https://comet.test",
        "http://comet.test",
    ] {
        server
            .public()
            .with(&format!("Origin: {origin}"))
            .websocket("/v1/ws");
        let answer = server
            .public()
            .with(&format!("Origin: {origin}"))
            .post("/v1/publish?channel=a", "1");
        assert_eq!(answer.status, 200, "{origin}");
    }
    // A browser reaches the site's own socket only through a front web server that should not let it.
    assert_eq!(
        server
            .backend()
            .with("Origin: http://comet.test")
            .post("/v1/publish?channel=a", "1")
            .problem(403),
        "origin_refused"
    );
    assert_eq!(server.backend().get("/v1/history?channel=a").json()["offset"], 3);
}

#[test]
fn pages_of_other_origins_may_read_only_if_they_are_named() {
    let preflight = |server: &TestServer, origin: &str| {
        let mut client = server
            .public()
            .with(&format!("Origin: {origin}"))
            .with("Access-Control-Request-Method: POST");
        client.call("OPTIONS", "/v1/publish", b"")
    };
    let closed = TestServer::start(OPEN);
    let answer = closed
        .public()
        .with("Origin: https://any.example")
        .get("/v1/history?channel=a");
    assert!(
        !answer
            .headers
            .iter()
            .any(|(name, _)| name.starts_with("access-control")),
        "{answer:?}"
    );
    let answer = preflight(&closed, "https://any.example");
    assert!(
        !answer
            .headers
            .iter()
            .any(|(name, _)| name.starts_with("access-control")),
        "{answer:?}"
    );

    let named = TestServer::start_with(OPEN, &[("public.origins", "https://friend.example")]);
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    let answer = preflight(&named, "https://friend.example");
    assert_eq!(
        (answer.status, allowed(&answer).as_deref()),
        (204, Some("https://friend.example"))
    );
    assert!(
        answer
            .header("access-control-allow-methods")
            .unwrap()
            .contains("POST")
    );
    assert!(
        answer
            .header("access-control-allow-headers")
            .unwrap()
            .contains("authorization")
    );
    assert_eq!(allowed(&preflight(&named, "https://other.example")), None);
    let mut friend = named.public().with("Origin: https://friend.example");
    // The page may read what went wrong as well.
    for (target, status) in [
        ("/v1/history?channel=a", 200),
        ("/v1/history", 400),
        ("/v1/none", 404),
        ("/v1/poll?channel=a&wait_ms=0", 200),
    ] {
        let answer = friend.get(target);
        assert_eq!(
            (answer.status, allowed(&answer).as_deref()),
            (status, Some("https://friend.example")),
            "{target}"
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    }
    let stream = named
        .public()
        .with("Origin: https://friend.example")
        .stream("/v1/sse?channel=a");
    assert_eq!(allowed(&stream.head).as_deref(), Some("https://friend.example"));

    let anybody = TestServer::start_with(OPEN, &[("public.origins", "*")]);
    let answer = anybody
        .public()
        .with("Origin: https://any.example")
        .get("/v1/now");
    assert_eq!(allowed(&answer).as_deref(), Some("https://any.example"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[test]
fn a_page_may_read_why_what_it_sent_is_no_request() {
    let (friend, long) = ("https://friend.example", "x".repeat(20_000));
    let many = "A: b\r\n".repeat(200);
    let requests = [
        (
            "POST /v1/publish?channel=a HTTP/1.1\r\nHost: a\r\nORIGIN\r\nContent-Length: 3000000\r\n\r\n"
                .to_owned(),
            413,
        ),
        (
            format!("GET /v1/now HTTP/1.1\r\nHost: a\r\nORIGIN\r\nCookie: {long}\r\n\r\n"),
            431,
        ),
        (
            format!("GET /v1/now HTTP/1.1\r\nHost: a\r\n{many}ORIGIN\r\n\r\n"),
            431,
        ),
        (
            "GET /v1/now HTTP/1.1\r\nHost: a\r\nORIGIN\r\nno header\r\n\r\n".to_owned(),
            400,
        ),
        ("GET /v1/now HTTP/1.1\r\nORIGIN\r\n\r\n".to_owned(), 400),
        (
            "POST /v1/now HTTP/1.1\r\nHost: a\r\nORIGIN\r\nExpect: more\r\n\r\n".to_owned(),
            417,
        ),
        (
            "POST /v1/now HTTP/1.1\r\nHost: a\r\nORIGIN\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            501,
        ),
    ];
    let origins = format!("{friend},https://other.example");
    let flags = [("public.origins", &*origins), ("limits.message_size", "1KiB")];
    let server = TestServer::start_with(OPEN, &flags);
    let closed = TestServer::start_with(OPEN, &flags[1..]);
    let ask = |server: &TestServer, request: &str, origin: &str| {
        let mut client = server.public();
        client.write(request.replace("ORIGIN", origin).as_bytes());
        client.answer("GET")
    };
    for (request, status) in &requests {
        let answer = ask(&server, request, &format!("Origin: {friend}"));
        answer.problem(*status);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some(friend),
            "{request:.80}"
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
        for (server, origin) in [
            (&server, "Origin: https://evil.example"),
            (&server, "X: y"),
            (&closed, "Origin: https://friend.example"),
        ] {
            let answer = ask(server, request, origin);
            answer.problem(*status);
            assert_eq!(
                answer.header("access-control-allow-origin"),
                None,
                "{request:.80}"
            );
        }
    }
    // The page's name did not come before the end: who may be told is told.
    let unseen = format!("GET /v1/now?{long} HTTP/1.1\r\nHost: a\r\n\r\n");
    for (listed, told) in [("*", "*"), (friend, friend)] {
        let server = TestServer::start_with(OPEN, &[("public.origins", listed)]);
        let answer = ask(&server, &unseen, "");
        answer.problem(431);
        assert_eq!(answer.header("access-control-allow-origin"), Some(told));
    }
}

#[test]
fn pages_without_a_host_can_be_named() {
    let server = TestServer::start_with(OPEN, &[("public.origins", "null,file://")]);
    for origin in ["null", "file://"] {
        let client = || server.public().with(&format!("Origin: {origin}"));
        let answer = client().get("/v1/now");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        client().websocket("/v1/ws");
    }
    let other = server.public().with("Origin: file:///home").get("/v1/now");
    assert_eq!(other.header("access-control-allow-origin"), None);
}

#[test]
fn tracing_and_our_host_only_under_its_own_schemes() {
    let server = TestServer::start_with(OPEN, &[("public.origins", "https://friend.example")]);
    let mut page = server
        .public()
        .with("Origin: https://friend.example")
        .with("Access-Control-Request-Method: POST")
        .with("Access-Control-Request-Headers: traceparent");
    let answer = page.call("OPTIONS", "/v1/publish", b"");
    let allowed = answer.header("access-control-allow-headers").unwrap();
    for name in ["traceparent", "tracestate", "baggage", "authorization"] {
        assert!(allowed.split(", ").any(|one| one == name), "{name} in {allowed}");
    }
    for origin in ["://comet.test", "x://comet.test", "app://comet.test"] {
        let mut page = server.public().with(&format!("Origin: {origin}"));
        assert_eq!(
            page.post("/v1/publish?channel=a", "1").problem(403),
            "origin_refused",
            "{origin}"
        );
    }
}
