//! The budget of held requests: who does not fit is sent away in a way its kind understands, and polls are no longer than allowed.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::config::{Config, Sources};
use cometserver::server::Options;
use serde_json::{Value, json};
use support::websocket::Frame;
use support::{Answer, DOORS, Door, Http, Listener, TestServer, Transport, WebSocket};

const LONG: Duration = Duration::from_secs(60);

fn one_each() -> TestServer {
    TestServer::with(|config| {
        config.held.poll_max = Some(1);
        config.held.sse_max = Some(1);
        config.held.stream_max = Some(1);
        config.held.ws_max = Some(1);
        config.held.poll_hold = LONG;
        config.held.retry = Duration::from_millis(3000);
    })
}

/// A poll that is held: the server has counted it.
fn held_poll(server: &TestServer, query: &str) -> Http {
    let before = server.metric("cometserver_holds", "");
    let mut http = server.place(Door::Tcp).connect();
    http.ask("GET", &format!("/v1/poll?{query}"), &[], b"");
    server.until("the poll is held", || {
        server.metric("cometserver_holds", "") == before + 1.0
    });
    http
}

fn get(server: &TestServer, target: &str) -> Answer {
    server.request(Door::Tcp, "GET", target, "")
}

/// The random part is up to a half of `held.retry`.
fn assert_retry(after: &Value) {
    let after = after.as_u64().unwrap();
    assert!((3000..=4500).contains(&after), "{after}");
}

#[test]
fn a_poll_too_many_is_answered_at_once_and_told_when_to_come_back() {
    let server = one_each();
    let mut held = held_poll(&server, "channel=news");
    let cursor = server.now();
    let answer = get(&server, &format!("/v1/poll?channel=news&cursor={cursor}"));
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["publications"], json!([]));
    assert_eq!(answer["cursor"], cursor.as_str(), "nothing is skipped");
    assert_retry(&answer["retry_ms"]);

    // The place is given back with the answer.
    server.publish("news", 1);
    assert_eq!(held.answer().json()["publications"][0]["data"], 1);
    let mut held = held_poll(&server, "channel=news");
    server.publish("news", 2);
    assert_eq!(held.answer().json()["publications"][0]["data"], 2);
}

#[test]
fn a_poll_too_many_takes_along_what_there_is_up_to_its_limit() {
    let server = one_each();
    let _held = held_poll(&server, "channel=other");
    let cursor = server.now();
    for number in 1..=3 {
        server.publish("news", number);
    }
    let data = |answer: &Value| -> Vec<Value> {
        let publications = answer["publications"].as_array().unwrap();
        publications.iter().map(|one| one["data"].clone()).collect()
    };
    let first = get(&server, &format!("/v1/poll?channel=news&limit=2&cursor={cursor}")).json();
    assert_eq!(data(&first), [1, 2]);
    assert_retry(&first["retry_ms"]);
    // With its cursor nothing comes twice, and nothing is left out.
    let cursor = first["cursor"].as_str().unwrap();
    let rest = get(&server, &format!("/v1/poll?channel=news&cursor={cursor}")).json();
    assert_eq!(data(&rest), [3]);
    assert_retry(&rest["retry_ms"]);
    let cursor = rest["cursor"].as_str().unwrap();
    let nothing = get(&server, &format!("/v1/poll?channel=news&cursor={cursor}")).json();
    assert_eq!(data(&nothing), [Value::Null; 0]);
    assert_eq!(server.shared.held(), 1, "they took no place");
}

#[test]
fn a_poll_too_many_with_an_etag_is_told_when_to_come_back_too() {
    let server = one_each();
    let _held = held_poll(&server, "channel=other");
    let known = get(&server, "/v1/poll?channel=news&wait_ms=0");
    let tag = known.header("etag").unwrap();
    let mut http = server.place(Door::Tcp).connect();
    let answer = http.request("GET", "/v1/poll?channel=news", &[("If-None-Match", tag)], b"");
    assert_eq!(answer.status, 200, "a 304 could not say it");
    assert_retry(&answer.json()["retry_ms"]);
}

#[test]
fn an_event_source_too_many_gets_200_with_retry_and_an_end() {
    let server = one_each();
    let _held = server.listen(Door::Tcp, Transport::Sse, "channel=news");
    let answer = get(&server, "/v1/sse?channel=news");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    let text = answer.text();
    let retry = text.strip_prefix("retry: ").unwrap().split_once('\n').unwrap().0;
    assert_retry(&serde_json::from_str(retry).unwrap());
}

#[test]
fn a_stream_too_many_is_told_to_reconnect_and_ends() {
    let server = one_each();
    let _held = server.listen(Door::Tcp, Transport::Stream, "channel=news");
    let cursor = server.now();
    let answer = get(&server, &format!("/v1/stream?channel=news&cursor={cursor}"));
    let object = answer.json();
    assert_eq!(
        (answer.status, &object["type"], &object["cursor"]),
        (200, &json!("reconnect"), &json!(cursor))
    );
    assert_retry(&object["after_ms"]);
}

#[test]
fn a_websocket_too_many_is_told_to_reconnect_and_closed_with_1013() {
    let server = one_each();
    let held = server.websocket("channel=news");
    let mut socket = WebSocket::open(&server.place(Door::Tcp), "channel=news");
    let object = socket.next();
    assert_eq!(object["type"], "reconnect");
    assert_retry(&object["after_ms"]);
    assert!(matches!(socket.frame(), Frame::Close(1013, _)));
    assert_eq!(socket.frame(), Frame::End);
    drop(held);
    server.until("the place is free again", || {
        server.metric("cometserver_holds", "") == 0.0
    });
    server.websocket("channel=news");
}

#[test]
fn each_kind_has_a_budget_of_its_own_and_the_backend_needs_none() {
    let server = one_each();
    let mut all = Vec::new();
    for transport in [Transport::Sse, Transport::Stream, Transport::WebSocket] {
        all.push(server.listen(Door::Tcp, transport, "channel=news"));
        all.extend((0..3).map(|_| server.listen(Door::Backend, transport, "channel=news")));
    }
    let mut poll = held_poll(&server, "channel=news");
    server.publish("news", 1);
    assert_eq!(poll.answer().json()["publications"][0]["data"], 1);
    for listener in &mut all {
        assert_eq!(listener.data(1), [1]);
    }
}

#[test]
fn a_request_that_is_refused_takes_no_place_and_gives_none_back() {
    let server = TestServer::with(|config| {
        config.held.poll_max = Some(1);
        config.limits.patterns_total = 0;
    });
    let refused = [
        "poll?channel=news&limit=x",
        "poll?channel=news&wait_ms=soon",
        "poll?channel=news&token=wrong",
        "poll?",
        "poll?pattern=a*",
        "poll?pattern=a*&wait_ms=0",
        "sse?channel=news&limit=x",
        "stream?pattern=a*",
    ];
    for target in refused {
        let answer = get(&server, &format!("/v1/{target}"));
        assert!((400..500).contains(&answer.status), "{target}: {answer:?}");
        assert_eq!(server.shared.held(), 0, "{target}");
    }
    assert_eq!(server.metric("cometserver_subscriptions", ""), 0.0);
    let mut poll = held_poll(&server, "channel=news");
    server.publish("news", 1);
    assert_eq!(poll.answer().json()["publications"][0]["data"], 1);
}

#[test]
fn a_refused_request_leaves_nobody_listening_on_its_connection() {
    let server = TestServer::with(|config| config.threads = Some(1));
    let mut http = server.place(Door::Tcp).connect();
    let refused = http.request("GET", "/v1/poll?channel=secret&limit=x", &[], b"");
    assert_eq!(refused.status, 400);
    let mut stream = Listener::open_on(http, Transport::Stream, "channel=news");
    stream.read_first_cursor();
    server.publish("secret", "for others");
    server.publish("news", "for it");
    assert_eq!(stream.data(1), ["for it"]);
}

#[test]
fn a_newer_poll_of_the_same_session_ends_the_older_one() {
    let server = TestServer::with(|config| config.held.poll_hold = LONG);
    // Enough of them to be on several shards.
    let mut older = held_poll(&server, "channel=news&session=mine");
    for _ in 0..6 {
        let mut newer = server.place(Door::Tcp).connect();
        newer.ask("GET", "/v1/poll?channel=news&session=mine", &[], b"");
        let answer = older.answer();
        assert_eq!((answer.status, &answer.json()["publications"]), (200, &json!([])));
        older = newer;
    }
    let mut other = held_poll(&server, "channel=news&session=yours");
    server.publish("news", 1);
    for poll in [&mut older, &mut other] {
        assert_eq!(poll.answer().json()["publications"][0]["data"], 1);
    }
}

#[test]
fn a_client_may_wait_for_less_than_the_server_allows_but_not_for_more() {
    let less = TestServer::with(|config| config.held.poll_hold = LONG);
    let answer = get(&less, "/v1/poll?channel=news&wait_ms=50").json();
    assert_eq!(answer["publications"], json!([]));
    let more = TestServer::with(|config| config.held.poll_hold = Duration::from_millis(50));
    for wish in ["", "&wait_ms=3600000"] {
        let answer = get(&more, &format!("/v1/poll?channel=news{wish}")).json();
        assert_eq!(answer["publications"], json!([]));
        assert!(
            answer.get("retry_ms").is_none(),
            "its time was up: it may come back at once"
        );
    }
}

#[test]
fn a_poll_with_an_etag_is_answered_304_if_there_is_nothing_new() {
    let server = TestServer::start();
    let mut http = server.place(Door::Tcp).connect();
    let first = http.request("GET", "/v1/poll?channel=news&wait_ms=0", &[], b"");
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", first.json()["cursor"].as_str().unwrap()));
    let mut ask = |tag: &str| {
        let headers = [("If-None-Match", tag)];
        http.request("GET", "/v1/poll?channel=news&wait_ms=0", &headers, b"")
    };
    let nothing = ask(&tag);
    assert_eq!((nothing.status, nothing.body.len()), (304, 0));
    assert!(nothing.header("content-type").is_none());
    server.publish("news", 1);
    let something = ask(&tag);
    assert_eq!(
        (something.status, &something.json()["publications"][0]["data"]),
        (200, &json!(1))
    );
    let tag = something.header("etag").unwrap().to_owned();
    assert_eq!(ask(&tag).status, 304);
    assert_eq!(
        ask(&format!("W/{tag}")).status,
        304,
        "front web servers that compress make it weak"
    );
}

#[test]
fn a_poll_takes_no_more_than_its_limit_and_the_rest_with_the_next() {
    let server = TestServer::start();
    let cursor = server.now();
    server.publish_burst((0..10).map(|number| ("news", json!(number))));
    let mut listener = server.listen(
        Door::Tcp,
        Transport::Poll,
        &format!("channel=news&limit=3&cursor={cursor}"),
    );
    assert_eq!(listener.data(10), (0..10).map(Value::from).collect::<Vec<_>>());

    // The same for one that was held when more came than it wants.
    let mut held = held_poll(&server, "channel=news&limit=3");
    server.publish_burst((10..20).map(|number| ("news", json!(number))));
    let answer = held.answer().json();
    let first = answer["publications"].as_array().unwrap().len();
    assert!((1..=3).contains(&first), "{answer}");
    let query = format!(
        "channel=news&limit=3&cursor={}",
        answer["cursor"].as_str().unwrap()
    );
    let mut rest = Listener::open(server.place(Door::Tcp), Transport::Poll, &query);
    let expected: Vec<Value> = (10 + first..20).map(Value::from).collect();
    assert_eq!(rest.data(10 - first), expected);
}

#[test]
fn requests_behind_a_held_poll_are_answered_after_it() {
    let server = TestServer::start();
    let mut http = held_poll(&server, "channel=news");
    http.ask("GET", "/health/live", &[], b"");
    http.ask("GET", "/v1/poll?channel=news&wait_ms=0", &[], b"");
    server.publish("news", 1);
    assert_eq!(http.answer().json()["publications"][0]["data"], 1);
    assert_eq!(http.answer().status, 200);
    assert_eq!(http.answer().json()["publications"], json!([]));
}

#[test]
fn a_stream_whose_lifetime_is_over_is_told_to_reconnect_and_loses_nothing() {
    let server = TestServer::with(|config| {
        let short = Some(Duration::from_millis(100));
        config.held.sse_lifetime = short;
        config.held.stream_lifetime = short;
        config.held.ws_lifetime = short;
    });
    for (transport, code) in [
        (Transport::Sse, None),
        (Transport::Stream, None),
        (Transport::WebSocket, Some(1012)),
    ] {
        let mut listener = server.listen(Door::Tcp, transport, "channel=news");
        assert_eq!(listener.next()["type"], "reconnect", "{transport:?}");
        assert_eq!(listener.came(), support::Came::Ended(code), "{transport:?}");
        let (cursor, _) = listener.cut();
        server.publish("news", "meanwhile");
        let mut again = server.listen(Door::Tcp, transport, &format!("channel=news&cursor={cursor}"));
        assert_eq!(again.data(1), ["meanwhile"], "{transport:?}");
    }
}

#[test]
fn what_was_published_before_a_poll_that_does_not_wait_is_in_it() {
    let server = TestServer::start();
    let mut polls: Vec<Http> = DOORS.map(|door| server.place(door).connect()).into();
    for number in 0..300 {
        let cursor = server.now();
        server.publish("news", number);
        for poll in &mut polls {
            let target = format!("/v1/poll?channel=news&wait_ms=0&cursor={cursor}");
            let answer = poll.request("GET", &target, &[], b"").json();
            assert_eq!(answer["publications"][0]["data"], number, "{answer}");
        }
    }
}

#[test]
fn what_one_visitor_may_hold_stays_as_it_is_until_a_restart() {
    let read = || {
        let flags = [
            ("data_dir", "unused"),
            ("limits.one_visitor", "100%"),
            ("held.poll.max", "64"),
            ("namespace_default.public", "true"),
        ];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Config::load(Sources {
            flags: flags.into(),
            file: None,
            env: Vec::new(),
        })
    };
    let options = Options {
        embedded: true,
        reload: Some(Box::new(read)),
        ..Options::default()
    };
    let server = TestServer::with_options(options, |config| {
        config.held.poll_max = Some(64);
        config.held.poll_hold = LONG;
    });
    // Of the last half one visitor has no more than a quarter.
    let _held: Vec<Http> = (0..32).map(|_| held_poll(&server, "channel=a")).collect();
    let is_sent_away = || get(&server, "/v1/poll?channel=a&wait_ms=1000").json()["retry_ms"].is_u64();
    assert!(is_sent_away());
    let restart = server.shared.reload().unwrap().needs_restart;
    assert!(
        restart.iter().any(|name| name == "limits.one_visitor"),
        "{restart:?}"
    );
    assert!(is_sent_away());
}
