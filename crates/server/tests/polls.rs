//! What polls promise beyond delivery: entity tags, sessions, being sent away.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::json;
use support::http::Socket;
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
fn a_tag_that_was_marked_on_the_way_is_known_still() {
    let server = TestServer::start();
    server.publish("a", "old");
    let tag = poll(&server, "channel=a&retained=0", &[])
        .header("etag")
        .unwrap()
        .to_owned();
    let cursor = tag.trim_matches('"');
    let ask = |tags: &str| poll(&server, "channel=a&retained=0", &[("If-None-Match", tags)]);
    let marked = [
        format!("\"{cursor}-gzip\""),
        format!("\"{cursor};gzip\""),
        format!("\"{cursor}--gzip\""),
        format!("\"{cursor}-br\""),
        format!("\"{cursor}-gzip-br\""),
        format!("\"{cursor}.zst\""),
        format!("W/\"{cursor}\""),
        format!("W/\"{cursor};gzip\""),
        format!("w/\"{cursor}-gzip\""),
        cursor.to_owned(),
        format!("\"other\", \"{cursor}-gzip\""),
        format!("\"other\",W/\"{cursor}\",\"another\""),
        format!(" , ,{tag}"),
        format!("*, {tag}"),
    ];
    for tags in &marked {
        assert_eq!(ask(tags).status, 304, "{tags}");
    }
    server.publish("a", "new");
    for tags in &marked {
        let answer = ask(tags).json();
        let publications = answer["publications"].as_array().unwrap();
        assert_eq!(
            (publications.len(), &publications[0]["data"]),
            (1, &json!("new")),
            "{tags}"
        );
    }
    // Of two that could be, the first.
    let now = server.now();
    assert_eq!(ask(&format!("\"{now};gzip\", {tag}")).status, 304);
    assert_eq!(ask(&format!("{tag}, \"{now};gzip\"")).status, 200);
}

#[test]
fn a_poll_whose_tags_are_none_of_ours_is_asked_as_if_it_had_none() {
    let server = TestServer::start();
    server.publish("a", "old");
    for tags in [
        "*",
        "\"\"",
        "W/\"abc\"",
        "garbage",
        ",",
        "\"a\", \"b-gzip\"",
        "\"unclosed",
        &"x-".repeat(2000),
    ] {
        let answer = poll(&server, "channel=a&retained=0", &[("If-None-Match", tags)]);
        assert_eq!(answer.status, 200, "{tags}");
        assert_eq!(
            answer.json()["publications"],
            json!([]),
            "{tags}: from now on, no gap"
        );
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

/// Channels with a present value of this size each, and the query that names them.
fn present_values(server: &TestServer, count: usize, size: usize) -> String {
    for n in 0..count {
        let data = format!("{n}{}", "x".repeat(size));
        server.publish_object(&json!({"channel": format!("value/{n}"), "data": data, "retain": true}));
    }
    let names: Vec<String> = (0..count).map(|n| format!("channel=value/{n}")).collect();
    names.join("&")
}

/// What a poll was answered, by the beginning of each publication's data.
fn numbers(body: &serde_json::Value) -> Vec<usize> {
    let publications = body["publications"].as_array().unwrap();
    let texts = publications
        .iter()
        .map(|publication| publication["data"].as_str().unwrap());
    texts
        .map(|text| text.trim_end_matches('x').parse().unwrap())
        .collect()
}

#[test]
fn many_present_values_reach_a_poll_whole_while_the_server_holds_one_at_a_time() {
    const SIZE: usize = 512 << 10;
    const POLLS: usize = 8;
    let server = TestServer::with(|config| config.limits.log_memory = 256 << 20);
    let query = present_values(&server, 24, SIZE);
    let target = format!("/v1/poll?wait_ms=0&{query}");
    let mut polls: Vec<Http> = (0..POLLS).map(|_| server.place(Door::Tcp).connect()).collect();
    for poll in &mut polls {
        poll.ask("GET", &target, &[], b"");
    }
    let heads: Vec<Answer> = polls.iter_mut().map(Http::head).collect();
    server.until("all polls wait for their clients", || {
        server.metric("cometserver_deliveries_total", "poll") >= POLLS as f64
            && server.metric("cometserver_pending_bytes", "") > 0.0
    });
    let pending = server.metric("cometserver_pending_bytes", "");
    assert!(pending <= (POLLS * (SIZE + 4096)) as f64, "{pending} bytes wait");
    for (poll, head) in polls.iter_mut().zip(heads) {
        let mut body = Vec::new();
        while let Some(chunk) = poll.chunk() {
            body.extend_from_slice(&chunk);
            let pending = server.metric("cometserver_pending_bytes", "");
            assert!(pending <= (POLLS * (SIZE + 4096)) as f64, "{pending} bytes wait");
        }
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(numbers(&body), (0..24).collect::<Vec<_>>());
        let cursor = body["cursor"].as_str().unwrap();
        assert_eq!(head.header("etag"), Some(&*format!("\"{cursor}\"")));
        // The connection goes on, and the cursor shows none of them again.
        let next = poll
            .request("GET", &format!("{target}&cursor={cursor}"), &[], b"")
            .json();
        assert_eq!(next["publications"], json!([]));
    }
}

#[test]
fn many_present_values_reach_a_client_that_knows_no_chunks_or_says_no_more() {
    let server = TestServer::start();
    let query = present_values(&server, 20, 64 << 10);
    for (version, then) in [("1.0", false), ("1.1", true)] {
        let mut poll = server.place(Door::Tcp).connect();
        let request = format!("GET /v1/poll?wait_ms=0&{query} HTTP/{version}\r\nHost: a\r\n\r\n");
        poll.send(request.as_bytes());
        if then {
            // Half-closed after its request, as some clients do.
            let Socket::Tcp(stream) = &poll.socket else {
                unreachable!()
            };
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let answer = poll.answer();
        assert_eq!(answer.header("transfer-encoding").is_some(), then);
        assert_eq!(
            numbers(&answer.json()),
            (0..20).collect::<Vec<_>>(),
            "HTTP/{version}"
        );
        assert!(poll.is_at_end());
    }
}

#[test]
fn a_burst_larger_than_an_answer_reaches_a_poll_in_several() {
    let server = TestServer::start();
    let mut poll = server.place(Door::Tcp).connect();
    let mut cursor = server.now();
    poll.ask("GET", &format!("/v1/poll?channel=a&cursor={cursor}"), &[], b"");
    server.until("it is held", || {
        server.metric("cometserver_connections", "poll") == 1.0
    });
    let data = |n: usize| json!(format!("{n}{}", "x".repeat(128 << 10)));
    server.publish_burst((0..12).map(|n| ("a", data(n))));
    let mut seen = Vec::new();
    while seen.len() < 12 {
        let answer = poll.answer();
        assert!(
            answer.body.len() < 512 << 10,
            "{} bytes in one answer",
            answer.body.len()
        );
        let body = answer.json();
        seen.extend(numbers(&body));
        cursor = body["cursor"].as_str().unwrap().to_owned();
        poll.ask("GET", &format!("/v1/poll?channel=a&cursor={cursor}"), &[], b"");
    }
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
}
