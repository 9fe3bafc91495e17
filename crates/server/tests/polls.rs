//! What polls promise beyond delivery: entity tags, sessions, being sent away.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use support::{Answer, Door, Http, TestServer, WebSocket, seconds_now, token};

/// A poll on the public port, with these headers, that is answered at once.
fn poll(server: &TestServer, query: &str, headers: &[(&str, &str)]) -> Answer {
    let mut http = server.place(Door::Tcp).connect();
    http.request("GET", &format!("/v1/poll?wait_ms=0&{query}"), headers, b"")
}

#[test]
fn a_poll_that_finds_nothing_new_is_told_the_tag_to_ask_about_next() {
    let server = TestServer::start();
    let tag = poll(&server, "channel=a", &[]).header("etag").unwrap().to_owned();
    let nothing = poll(&server, "channel=a", &[("If-None-Match", &tag)]);
    assert_eq!((nothing.status, nothing.header("etag")), (304, Some(&*tag)));
    server.publish("elsewhere", 1);
    let moved = poll(&server, "channel=a", &[("If-None-Match", &tag)]);
    assert_eq!(moved.status, 304);
    let cursor = server.now();
    assert_eq!(moved.header("etag"), Some(&*format!("\"{cursor}\"")));
}

#[test]
fn a_poll_that_names_its_cursor_gets_an_answer_whatever_tag_it_sends() {
    let server = TestServer::start();
    let tag = poll(&server, "channel=a", &[]).header("etag").unwrap().to_owned();
    for query in ["channel=a&cursor=now", "channel=a&cursor="] {
        let answer = poll(&server, query, &[("If-None-Match", &tag)]);
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(answer.json()["publications"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn a_client_of_binary_frames_is_turned_away_in_one() {
    let server = TestServer::with(|config| config.held.ws_max = Some(1));
    let _held = server.websocket("channel=a");
    let mut turned_away = WebSocket::open(&server.place(Door::Tcp), "channel=a&format=binary");
    let head = turned_away.http.bytes(2).unwrap();
    assert_eq!(head[0], 0x82, "a whole binary frame");
    let content = turned_away.http.bytes(usize::from(head[1])).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&content[4..]).unwrap();
    assert_eq!(header["type"], "reconnect", "{header}");
}

/// A poll that is held: its answer is not there yet.
fn hold(server: &TestServer, query: &str) -> Http {
    let held = server.shared.held();
    let mut http = server.place(Door::Tcp).connect();
    http.ask("GET", &format!("/v1/poll?{query}"), &[], b"");
    server.until("a poll is held", || server.shared.held() == held + 1);
    http
}

#[test]
fn a_poll_ends_the_older_one_of_its_session_and_no_other() {
    let server = TestServer::start();
    let ann = token(serde_json::json!({"sub": "ann", "exp": seconds_now() + 600}));
    let others = [
        "channel=a&session=other".to_owned(),
        "channel=b&session=tab".to_owned(),
        "channel=a&channel=b&session=tab".to_owned(),
        "channel=a&pattern=b&session=tab".to_owned(),
        "pattern=a&session=tab".to_owned(),
        format!("channel=a&session=tab&token={ann}"),
    ];
    let mut first = hold(&server, "channel=a&session=tab");
    let mut others: Vec<Http> = others.iter().map(|query| hold(&server, query)).collect();
    let mut http = server.place(Door::Tcp).connect();
    http.ask("GET", "/v1/poll?channel=a&session=tab", &[], b"");
    assert_eq!(first.answer().json()["publications"], serde_json::json!([]));
    // All others, and the new one, are still there for what is published.
    server.publish_burst([("a", 1.into()), ("b", 1.into())]);
    others.push(http);
    for other in &mut others {
        let publications = other.answer().json()["publications"].take();
        assert_ne!(publications, serde_json::json!([]));
    }
}

#[test]
fn an_event_stream_waits_while_the_server_has_too_many_channels_or_patterns() {
    let server = TestServer::with(|config| {
        config.limits.channels = 1;
        config.limits.patterns_total = 1;
    });
    let held = server.websocket("channel=a&pattern=a");
    for query in ["channel=b", "pattern=b"] {
        let mut http = server.place(Door::Tcp).connect();
        let answer = http.request("GET", &format!("/v1/sse?{query}"), &[], b"");
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        assert!(answer.text().starts_with("retry: "), "{}", answer.text());
        let answer = http.request("GET", &format!("/v1/stream?{query}"), &[], b"");
        assert_eq!(
            answer.status, 429,
            "who reads the answer is told which limit it is"
        );
    }
    assert_eq!(server.shared.held(), 1);
    drop(held);
}

#[test]
fn a_client_beyond_the_limit_of_connections_is_asked_to_wait_in_its_own_words() {
    let server = TestServer::with(|config| config.limits.connections = 1);
    let held = server.websocket("channel=a");
    let ask = |target: &str| server.request(Door::Tcp, "GET", target, "");
    let sse = ask("/v1/sse?channel=a");
    assert_eq!(sse.status, 200);
    assert!(sse.text().starts_with("retry: "), "{}", sse.text());
    assert!(ask("/v1/poll?channel=a").json()["retry_ms"].is_u64());
    assert_eq!(ask("/v1/stream?channel=a").json()["type"], "reconnect");
    let other = ask("/v1/now");
    assert_eq!((other.status, other.header("retry-after")), (503, Some("1")));
    assert_eq!(other.header("connection"), Some("close"), "nobody stays");
    server.until("they are gone", || {
        server
            .shared
            .connections
            .load(std::sync::atomic::Ordering::SeqCst)
            == 1
    });
    // Whoever says nothing takes none of the few places for good: beyond them it is refused unheard.
    let silent: Vec<Http> = (0..cometserver::shared::SURPLUS)
        .map(|_| server.place(Door::Tcp).connect())
        .collect();
    let mut refused = server.place(Door::Tcp).connect();
    assert_eq!(refused.answer().status, 503);
    drop((silent, held));
    server.until("there is room", || ask("/v1/now").status == 200);
}
