//! Subscribing later on a WebSocket: what was missed comes first, once, then the word that it has; the others go on meanwhile.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::{Value, json};
use support::TestServer;

fn numbers(server: &TestServer, channel: &str, numbers: std::ops::Range<usize>) {
    server.publish_burst(numbers.map(|number| (channel, json!(number))));
}

/// Everything up to and with the `subscribed` that answers `id`.
fn up_to_subscribed(socket: &mut support::WebSocket, id: u64) -> (Vec<Value>, Value) {
    let mut before = Vec::new();
    loop {
        let object = socket.next();
        if object["type"] == "subscribed" && object["id"] == id {
            return (before, object);
        }
        before.push(object);
    }
}

fn data(objects: &[Value]) -> Vec<Value> {
    let data = |object: &Value| {
        assert_eq!(object["type"], "publication", "{object}");
        object["data"].clone()
    };
    objects.iter().map(data).collect()
}

#[test]
fn a_late_subscription_begins_with_now() {
    let server = TestServer::start();
    let mut socket = server.websocket("");
    server.publish("news", "before");
    socket.say(&json!({"type": "subscribe", "id": 1, "channel": "news"}));
    let (before, subscribed) = up_to_subscribed(&mut socket, 1);
    assert_eq!(before, Vec::<Value>::new());
    assert_eq!(
        (&subscribed["channel"], &subscribed["offset"]),
        (&json!("news"), &json!(1))
    );
    assert!(subscribed["epoch"].is_string(), "{subscribed}");
    server.publish("news", "after");
    let object = socket.expect("publication");
    assert_eq!((&object["data"], &object["offset"]), (&json!("after"), &json!(2)));
}

#[test]
fn a_late_subscription_from_a_cursor_gets_what_was_missed_before_it_is_answered() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=other");
    let cursor = server.now();
    numbers(&server, "news", 0..700);
    socket.say(&json!({"type": "subscribe", "id": 1, "channel": "news", "since": cursor}));
    let (before, subscribed) = up_to_subscribed(&mut socket, 1);
    assert_eq!(data(&before), (0..700).map(Value::from).collect::<Vec<_>>());
    assert_eq!(subscribed["offset"], 700);
    assert!(
        before.iter().all(|object| object.get("cursor").is_none()),
        "the place in all others stays"
    );
    server.publish("news", 700);
    let object = socket.expect("publication");
    assert_eq!(object["data"], 700);
    assert!(object["cursor"].is_string());
}

#[test]
fn what_is_published_during_a_catch_up_comes_once_and_behind_it() {
    let server = TestServer::start();
    numbers(&server, "news", 0..500);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for number in 500..900 {
                server.publish("news", number);
                server.publish("other", number);
            }
        });
        let mut socket = server.websocket("channel=other");
        socket.say(&json!({"type": "subscribe", "id": 1, "channel": "news", "since": "earliest"}));
        let (mut news, mut other) = (0, None);
        while news < 900 || other != Some(899) {
            let object = socket.next();
            match (object["type"].as_str().unwrap(), object["channel"].as_str()) {
                ("publication", Some("news")) => {
                    assert_eq!(object["data"], news, "{object}");
                    news += 1;
                }
                ("publication", Some("other")) => {
                    let number = object["data"].as_u64().unwrap();
                    assert!(other.is_none_or(|last| last + 1 == number), "{other:?} {object}");
                    other = Some(number);
                }
                ("subscribed", _) => assert_eq!(object["id"], 1),
                _ => panic!("{object}"),
            }
        }
        publisher.join().unwrap();
        assert!(socket.settle().is_empty());
    });
}

#[test]
fn a_late_pattern_catches_up_on_all_its_channels() {
    let server = TestServer::start();
    let mut socket = server.websocket("");
    for number in 0..6 {
        server.publish(["a/1", "b/1", "a/2"][number % 3], number);
    }
    socket.say(&json!({"type": "subscribe", "id": 1, "pattern": "a/*", "since": "earliest"}));
    let (before, subscribed) = up_to_subscribed(&mut socket, 1);
    assert_eq!(data(&before), [0, 2, 3, 5]);
    assert_eq!(subscribed["pattern"], "a/*");
    server.publish("a/new", "live");
    assert_eq!(socket.expect("publication")["data"], "live");
}

#[test]
fn each_of_several_channels_is_answered() {
    let server = TestServer::start();
    let mut socket = server.websocket("");
    socket.say(&json!({"type": "subscribe", "id": "x", "channels": ["a", "b"], "patterns": ["c/*"]}));
    let mut answers: Vec<Value> = (0..3).map(|_| socket.next()).collect();
    for answer in &mut answers {
        assert_eq!(
            (&answer["type"], &answer["id"]),
            (&json!("subscribed"), &json!("x"))
        );
    }
    let names = answers
        .iter()
        .map(|answer| answer.get("channel").or(answer.get("pattern")).unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c/*"]);
}

#[test]
fn what_is_gone_is_told_as_a_gap_before_what_is_kept() {
    let server = TestServer::with(|config| {
        config.namespace_default.history_count = 10;
        config.limits.window = std::time::Duration::ZERO;
    });
    let mut socket = server.websocket("");
    let cursor = server.now();
    numbers(&server, "news", 0..30);
    socket.say(&json!({"type": "subscribe", "id": 1, "channel": "news", "since": cursor}));
    let (mut before, _) = up_to_subscribed(&mut socket, 1);
    let gap = before.remove(0);
    assert_eq!((&gap["type"], &gap["channel"]), (&json!("gap"), &json!("news")));
    assert_eq!(data(&before), (20..30).map(Value::from).collect::<Vec<_>>());
}

#[test]
fn after_a_cut_the_cursor_covers_what_was_subscribed_to_late() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=a");
    socket.ask(json!({"type": "subscribe", "id": 1, "channel": "b"}));
    server.publish("b", "seen");
    let cursor = socket.expect("publication")["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    drop(socket);
    server.publish("b", "missed");
    let mut socket = server.websocket(&format!("channel=a&channel=b&cursor={cursor}"));
    assert_eq!(socket.expect("publication")["data"], "missed");
}

#[test]
fn what_was_unsubscribed_from_comes_no_more_and_can_be_subscribed_to_again() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=a&pattern=p/*");
    let answer = socket.ask(json!({"type": "unsubscribe", "id": 1, "channel": "a", "pattern": "p/*"}));
    assert_eq!(answer["type"], "unsubscribed");
    server.publish("a", 1);
    server.publish("p/1", 1);
    assert_eq!(socket.settle(), Vec::<Value>::new());
    socket.ask(json!({"type": "subscribe", "id": 2, "channels": ["a"], "patterns": ["p/*"]}));
    socket.settle();
    server.publish("a", 2);
    server.publish("p/1", 3);
    assert_eq!(socket.expect("publication")["data"], 2);
    assert_eq!(socket.expect("publication")["data"], 3);
}

#[test]
fn subscribing_twice_is_answered_twice_and_brings_everything_once() {
    let server = TestServer::start();
    let mut socket = server.websocket("channel=a");
    server.publish("a", 1);
    assert_eq!(socket.expect("publication")["data"], 1);
    for id in 1..3 {
        socket.say(&json!({"type": "subscribe", "id": id, "channel": "a", "since": "earliest"}));
        let (before, _) = up_to_subscribed(&mut socket, id);
        assert_eq!(before, Vec::<Value>::new());
    }
    server.publish("a", 2);
    assert_eq!(socket.expect("publication")["data"], 2);
    assert_eq!(socket.settle(), Vec::<Value>::new());
}
