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
