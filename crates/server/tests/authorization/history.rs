//! What was published before somebody came: one right decides on every way to it, and no resume needs it.

use cometserver_core::action::Action;
use serde_json::{Value, json};

use crate::api_support::{GUARDED, Stream, TestServer, claims};
use crate::with_token;

/// A cursor of no server: what it covers nobody knows.
const FOREIGN: &str = "AQAAAAAAAAAAAAA";

const SUBSCRIBE: &[Action] = &[Action::Subscribe];
const BOTH: &[Action] = &[Action::Subscribe, Action::History];

/// Ways to listen to the channel `mine/a`, by name and by pattern.
const WAYS: [&str; 2] = ["channel=mine/a", "pattern=mine/*"];

fn client(server: &TestServer, actions: &[Action]) -> crate::Client {
    with_token(server, &claims(Some("alice"), &["mine/a"], &["mine/*"], actions))
}

fn data(publications: &Value) -> Vec<&Value> {
    let all = publications.as_array().unwrap().iter();
    all.filter(|object| object["type"] == "publication")
        .map(|object| &object["data"])
        .collect()
}

/// What a stream shows up to the publication with this payload.
fn until(stream: &mut Stream, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let object = stream.object().unwrap();
        match object["type"].as_str().unwrap() {
            "publication" => seen.push(object["data"].as_str().unwrap().to_owned()),
            "gap" => seen.push("gap".to_owned()),
            _ => {}
        }
        if object["data"] == last {
            return seen;
        }
    }
}

#[test]
fn earliest_takes_the_right_that_the_history_takes() {
    let server = TestServer::start(GUARDED);
    server.publish("mine/a", "1");
    for way in WAYS {
        for path in crate::LISTEN {
            let target = format!("{path}?{way}&wait_ms=0&cursor=earliest");
            let answer = client(&server, SUBSCRIBE).get(&target);
            assert_eq!(answer.problem_naming(403, "`history`"), "forbidden", "{target}");
        }
        let target = format!("/v1/poll?{way}&wait_ms=0&cursor=earliest");
        let answer = client(&server, BOTH).get(&target).json();
        assert_eq!(data(&answer["publications"]), [&json!("1")], "{way}");
        let refused = client(&server, SUBSCRIBE).try_websocket(&format!("/v1/ws?{way}&cursor=earliest"));
        assert_eq!(refused.err().unwrap().problem(403), "forbidden", "{way}");
    }
    let history = client(&server, SUBSCRIBE).get("/v1/history?channel=mine/a");
    assert_eq!(history.problem(403), "forbidden");
    let mut socket = client(&server, SUBSCRIBE).websocket("/v1/ws");
    for (target, name) in [("channel", "mine/a"), ("pattern", "mine/*")] {
        let command = json!({"type": "subscribe", "id": 1, target: name, "since": "earliest"});
        assert_eq!(socket.ask(&command)["code"], "forbidden", "{command}");
    }
    // Nothing of a refused command was begun: the next one is answered as the first.
    let command = json!({"type": "subscribe", "id": 2, "channel": "mine/a", "retained": false});
    assert_eq!(socket.ask(&command)["type"], "subscribed");
}

#[test]
fn earliest_is_refused_if_one_of_several_channels_does_not_allow_it() {
    let server = TestServer::start(GUARDED);
    let target = "/v1/poll?channel=public/a&channel=mine/a&wait_ms=0&cursor=earliest";
    let answer = client(&server, SUBSCRIBE).get(target);
    assert_eq!(answer.problem(403), "forbidden");
    // To whom a pattern shows public channels only, it shows what those have kept.
    server.publish("public/a", "1");
    server.publish("mine/a", "2");
    let mut others = with_token(&server, &claims(Some("bob"), &["mine/b"], &[], SUBSCRIBE));
    let answer = others.get("/v1/poll?pattern=**&wait_ms=0&cursor=earliest").json();
    assert_eq!(data(&answer["publications"]), [&json!("1")]);
}

#[test]
fn whoever_comes_back_with_its_own_cursor_misses_nothing_without_the_right() {
    let server = TestServer::start(GUARDED);
    server.publish("mine/a", "before");
    for (round, way) in WAYS.into_iter().enumerate() {
        let start = client(&server, SUBSCRIBE)
            .get(&format!("/v1/poll?{way}&wait_ms=0&retained=0"))
            .json();
        assert_eq!(start["publications"], json!([]));
        let cursor = start["cursor"].as_str().unwrap();
        let missed = format!("missed {round}");
        server.publish("mine/a", &missed);
        let target = format!("?{way}&wait_ms=0&cursor={cursor}");
        let poll = client(&server, SUBSCRIBE)
            .get(&format!("/v1/poll{target}"))
            .json();
        assert_eq!(data(&poll["publications"]), [&json!(missed)]);
        let mut lines = client(&server, SUBSCRIBE).stream(&format!("/v1/stream{target}"));
        assert_eq!(until(&mut lines, &missed), [&*missed]);
        let mut socket = client(&server, SUBSCRIBE).websocket(&format!("/v1/ws{target}"));
        assert_eq!(socket.next_of("publication")["data"], missed);
    }
}

#[test]
fn a_cursor_that_nobody_knows_is_a_gap_and_shows_nothing_older_without_the_right() {
    for way in WAYS {
        let server = TestServer::start(GUARDED);
        server.publish("mine/a", "before");
        let target = format!("/v1/stream?{way}&cursor={FOREIGN}");
        let mut entitled = client(&server, BOTH).stream(&target);
        assert_eq!(until(&mut entitled, "before"), ["gap", "before"], "{way}");
        let mut other = client(&server, SUBSCRIBE).stream(&target);
        let mut broken = client(&server, SUBSCRIBE)
            .with("Last-Event-ID: not a cursor")
            .stream(&format!("/v1/sse?{way}"));
        let mut socket = client(&server, SUBSCRIBE).websocket("/v1/ws");
        let (kind, name) = way.split_once('=').unwrap();
        socket.send(&json!({"type": "subscribe", "id": 1, kind: name, "since": FOREIGN}));
        assert_eq!(socket.next_of("gap")["type"], "gap", "{way}");
        assert_eq!(socket.object()["type"], "subscribed", "{way}");
        let poll = client(&server, SUBSCRIBE)
            .get(&format!("/v1/poll?{way}&cursor={FOREIGN}"))
            .json();
        assert_eq!(poll["publications"][0]["type"], "gap", "{way}");
        assert_eq!(data(&poll["publications"]), [&Value::Null; 0], "{way}");
        assert_eq!(other.object().unwrap()["type"], "gap", "{way}");
        server.publish("mine/a", "after");
        assert_eq!(until(&mut other, "after"), ["after"], "{way}");
        let seen = std::iter::from_fn(|| broken.event().map(|(object, _)| object));
        let seen: Vec<Value> = seen.take(2).map(|object| object["type"].clone()).collect();
        assert_eq!(seen, [json!("gap"), json!("publication")], "{way}");
    }
}

#[test]
fn the_present_value_is_shown_to_whoever_may_listen() {
    let server = TestServer::start(GUARDED);
    server
        .backend()
        .post("/v1/publish?channel=mine/a&kind=text&retain=1", "value");
    let target = "/v1/retained?channel=mine/a";
    for actions in [SUBSCRIBE, &[Action::History]] {
        assert_eq!(client(&server, actions).get(target).json()["data"], "value");
    }
    let answer = client(&server, &[Action::Publish]).get(target);
    assert_eq!(answer.problem(403), "forbidden");
    let poll = client(&server, SUBSCRIBE)
        .get("/v1/poll?channel=mine/a&wait_ms=0")
        .json();
    assert_eq!(data(&poll["publications"]), [&json!("value")]);
}
