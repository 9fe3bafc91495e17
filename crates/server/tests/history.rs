//! What was: reading a channel's history, and catching up from `earliest`.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::Duration;

use cometserver::config::{Config, Durability};
use serde_json::{Value, json};
use support::{Door, TRANSPORTS, TestServer};

fn publish(server: &TestServer, count: usize) {
    server.publish_burst((0..count).map(|number| ("news", json!(number))));
}

fn numbers(history: &Value) -> Vec<u64> {
    let list = history["publications"].as_array().unwrap();
    list.iter().map(|one| one["data"].as_u64().unwrap()).collect()
}

#[test]
fn history_is_read_in_pages_forwards_and_backwards() {
    let server = TestServer::start();
    publish(&server, 250);
    let first = server.get("/v1/history?channel=news&limit=120");
    assert_eq!(numbers(&first), (0..120).collect::<Vec<_>>());
    assert_eq!(
        (&first["channel"], &first["offset"], &first["gap"]),
        (&json!("news"), &json!(250), &json!(false))
    );
    let cursor = first["cursor"].as_str().unwrap();
    let second = server.get(&format!("/v1/history?channel=news&limit=1000&since={cursor}"));
    assert_eq!(numbers(&second), (120..250).collect::<Vec<_>>());
    assert_eq!(second["epoch"], first["epoch"]);
    let last = server.get("/v1/history?channel=news&limit=3&reverse=1");
    assert_eq!(numbers(&last), [249, 248, 247]);
    assert_eq!(
        numbers(&server.get("/v1/history?channel=news")).len(),
        100,
        "the default"
    );
}

#[test]
fn the_cursor_of_a_history_is_where_listening_goes_on() {
    let server = TestServer::start();
    publish(&server, 20);
    let history = server.get("/v1/history?channel=news&limit=15");
    let cursor = history["cursor"].as_str().unwrap();
    for transport in TRANSPORTS {
        let mut listener = server.listen(Door::Tcp, transport, &format!("channel=news&cursor={cursor}"));
        assert_eq!(listener.data(5), [15, 16, 17, 18, 19], "{transport:?}");
    }
}

#[test]
fn earliest_begins_with_the_oldest_kept_and_is_no_gap() {
    let server = TestServer::with(|config| {
        config.namespace_default.history_count = 10;
        config.limits.window = Duration::ZERO;
    });
    publish(&server, 30);
    for transport in TRANSPORTS {
        let mut listener = server.listen(Door::Tcp, transport, "channel=news&cursor=earliest");
        assert_eq!(
            listener.data(10),
            (20..30).map(Value::from).collect::<Vec<_>>(),
            "{transport:?}"
        );
    }
}

#[test]
fn a_cursor_from_before_what_is_kept_is_told_of_the_gap_on_every_transport() {
    let server = TestServer::with(|config| {
        config.namespace_default.history_count = 10;
        config.limits.window = Duration::ZERO;
    });
    let cursor = server.now();
    publish(&server, 30);
    for query in ["channel=news", "pattern=n*"] {
        for transport in TRANSPORTS {
            let mut listener = server.listen(Door::Tcp, transport, &format!("{query}&cursor={cursor}"));
            let gap = listener.next();
            assert_eq!(gap["type"], "gap", "{transport:?} {query}");
            let (key, name) = query.split_once('=').unwrap();
            // A pattern may be told of the channel that it is about.
            assert!(
                gap[key] == name || gap["channel"] == "news",
                "{transport:?} {gap}"
            );
            assert_eq!(
                listener.data(10),
                (20..30).map(Value::from).collect::<Vec<_>>(),
                "{transport:?}"
            );
        }
    }
    let history = server.get(&format!("/v1/history?channel=news&since={cursor}"));
    assert_eq!(history["gap"], true);
}

#[test]
fn a_cursor_of_another_life_of_the_server_is_a_gap_and_then_good_again() {
    let memory = |config: &mut Config| config.namespace_default.durability = Durability::Memory;
    let server = TestServer::with(memory);
    publish(&server, 5);
    let cursor = server.now();
    // What a stop in good order keeps is not there after a crash.
    let server = server.restart_without(memory, "comet.memory");
    server.publish("news", "new life");
    for transport in TRANSPORTS {
        let mut listener = server.listen(Door::Tcp, transport, &format!("channel=news&cursor={cursor}"));
        assert_eq!(listener.next()["type"], "gap", "{transport:?}");
        assert_eq!(listener.data(1), ["new life"], "{transport:?}");
        let (cursor, _) = listener.cut();
        let poll = format!("/v1/poll?channel=news&wait_ms=0&cursor={cursor}");
        let answer = server.request(Door::Tcp, "GET", &poll, "").json();
        assert_eq!(answer["publications"], json!([]), "{transport:?}");
    }
}

#[test]
fn a_forgotten_history_is_gone_and_those_behind_are_told() {
    let server = TestServer::start();
    let cursor = server.now();
    publish(&server, 5);
    let deleted = server.request(Door::Backend, "DELETE", "/v1/history?channel=news", "");
    assert_eq!(deleted.json(), json!({"deleted": 5}));
    assert_eq!(
        numbers(&server.get("/v1/history?channel=news")),
        Vec::<u64>::new()
    );
    let mut listener = server.listen(
        Door::Tcp,
        support::Transport::Stream,
        &format!("channel=news&cursor={cursor}"),
    );
    assert_eq!(listener.next()["type"], "gap");
    server.publish("news", "after");
    let object = listener.next();
    assert_eq!(
        (&object["data"], &object["offset"]),
        (&json!("after"), &json!(6)),
        "offsets go on"
    );
}

#[test]
fn an_answer_about_history_counts_as_work_however_it_is_asked_for() {
    type Way = fn(&TestServer) -> Value;
    let by_request: Way = |server| server.get("/v1/history?channel=news");
    let by_command: Way = |server| {
        server
            .websocket("")
            .ask(json!({"type": "history", "id": 1, "channel": "news"}))
    };
    for ask in [by_request, by_command] {
        let server = TestServer::start();
        let steps = || server.metric("cometserver_turn_longest_steps", "");
        for _ in 0..20 {
            server.publish("news", "x".repeat(10 << 10));
        }
        assert!(steps() < 40.0, "{}", steps());
        let answer = ask(&server);
        assert_eq!(answer["publications"].as_array().unwrap().len(), 20);
        assert!(steps() >= 50.0, "a step for four kilobytes: {}", steps());
    }
}
