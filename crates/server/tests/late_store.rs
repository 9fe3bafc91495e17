//! A store that answers late, fails, or never answers: nobody else waits for it, and whoever does is told the truth.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

#[path = "../../core/tests/support/broker.rs"]
mod broker;
mod support;

use std::sync::Arc;
use std::time::Duration;

use broker::TestBroker;
use cometserver::config::{Config, Durability, Namespace, NamespaceRule};
use cometserver::server::Options;
use cometserver::shared::wall_clock;
use serde_json::{Value, json};
use support::{Answer, Door, Http, TestServer, WebSocket};

/// A server with one shard on a store that answers when it is told to.
struct Site {
    server: TestServer,
    store: Arc<TestBroker>,
}

impl Site {
    fn start() -> Self {
        Self::with(None, |_| {})
    }

    fn with(patience: Option<Duration>, change: impl FnOnce(&mut Config)) -> Self {
        Self::on(TestBroker::new(1000), patience, change)
    }

    fn on(store: Arc<TestBroker>, patience: Option<Duration>, change: impl FnOnce(&mut Config)) -> Self {
        let options = Options {
            embedded: true,
            store: Some(store.clone()),
            patience,
            ..Options::default()
        };
        let server = TestServer::with_options(options, |config| {
            config.threads = Some(1);
            config.namespace_default.durability = Durability::Fsync;
            config.limits.window = Duration::ZERO;
            change(config);
        });
        Self { server, store }
    }

    /// Waits until so much waits in the store.
    fn waiting(&self, count: usize) {
        self.server
            .until(format_args!("{count} wait"), || self.store.waiting() == count);
    }

    /// Commits the first so many that wait, but fails those whose bit is set.
    fn commit(&self, count: usize, failing: u32) {
        let batch = self.store.batch(count, failing);
        self.server.shared.hub.commit(batch, wall_clock());
    }

    /// Waits until so many reads wait.
    fn reads(&self, count: usize) {
        self.server
            .until(format_args!("{count} reads"), || self.store.reads() == count);
    }

    fn backend(&self) -> Http {
        self.server.place(Door::Backend).connect()
    }

    /// Publishes, and commits at once.
    fn publish(&self, publication: &Value) {
        let mut http = self.backend();
        ask(&mut http, publication);
        self.waiting(1);
        self.commit(1, 0);
        assert_eq!(http.answer().status, 200);
    }

    /// The shard serves others.
    fn serves_others(&self) {
        assert_eq!(self.server.get("/health/live")["status"], "ok");
    }
}

/// A site that has started anew: the present values of these channels are in the store alone.
fn cold_site(values: &[(&str, Value)], change: impl FnOnce(&mut Config)) -> Site {
    let site = Site::start();
    for (channel, data) in values {
        site.publish(&json!({"channel": channel, "data": data, "retain": true}));
    }
    let store = site.store.clone();
    drop(site);
    store.restart(2);
    Site::on(store, None, change)
}

fn ask(http: &mut Http, publication: &Value) {
    http.ask("POST", "/v1/publish", &[], publication.to_string().as_bytes());
}

fn code(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{answer:?}");
    answer.json()["code"].as_str().unwrap().to_owned()
}

fn message(data: impl Into<Value>) -> Value {
    json!({"channel": "news", "data": data.into()})
}

#[test]
fn who_publishes_is_answered_when_it_is_safe_and_nobody_else_waits() {
    let site = Site::start();
    let mut http = site.backend();
    ask(&mut http, &message(1));
    site.waiting(1);
    site.serves_others();
    site.commit(1, 0);
    let answer = http.answer();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["channels"][0]["offset"], 1);
}

#[test]
fn a_batch_reaches_the_store_at_once_and_is_answered_in_order() {
    let site = Site::start();
    let mut http = site.backend();
    let list: Vec<Value> = (0..5)
        .map(|number| match number {
            2 => json!({"channel": "", "data": 2}),
            number => message(number),
        })
        .collect();
    let body = json!({ "publications": list }).to_string();
    http.ask("POST", "/v1/batch", &[], body.as_bytes());
    site.waiting(4);
    site.serves_others();
    site.commit(1, 0);
    site.commit(3, 0b010);
    let answer = http.answer().json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    let offset = |index: usize| results[index]["channels"][0]["offset"].as_u64();
    assert_eq!([offset(0), offset(1), offset(4)], [Some(1), Some(2), Some(3)]);
    assert_eq!(results[2]["error"]["code"], "bad_request");
    assert_eq!(results[3]["error"]["status"], 503);
}

#[test]
fn requests_that_do_not_wait_for_answers_are_answered_in_order() {
    let site = Site::start();
    let mut http = site.backend();
    ask(&mut http, &message("first"));
    http.ask("GET", "/v1/history?channel=news", &[], b"");
    ask(&mut http, &message("second"));
    site.waiting(1);
    site.commit(1, 0);
    assert_eq!(http.answer().json()["channels"][0]["offset"], 1);
    site.reads(1);
    site.store.answer(0);
    let history = http.answer().json();
    assert_eq!(history["publications"][0]["data"], "first");
    site.waiting(1);
    site.commit(1, 0);
    assert_eq!(http.answer().json()["channels"][0]["offset"], 2);
}

#[test]
fn an_answer_for_a_client_that_is_gone_is_dropped() {
    let site = Site::start();
    let mut http = site.backend();
    ask(&mut http, &message(1));
    site.waiting(1);
    drop(http);
    // What is meant for it must not reach others, and its place is given back.
    let mut others: Vec<Http> = (0..4).map(|_| site.backend()).collect();
    for other in &mut others {
        other.ask("GET", "/v1/now", &[], b"");
        assert_eq!(other.answer().status, 200);
    }
    site.commit(1, 0);
    for other in &mut others {
        other.ask("GET", "/health/live", &[], b"");
        assert_eq!(other.answer().json(), json!({"status": "ok"}));
    }
    let connections = &site.server.shared.connections;
    site.server.until("it is forgotten", || {
        connections.load(std::sync::atomic::Ordering::SeqCst) == others.len()
    });
}

#[test]
fn what_was_not_taken_is_told_from_what_may_have_been_stored() {
    let site = Site::start();
    site.store.refuse(true);
    let refused = site
        .backend()
        .request("POST", "/v1/publish", &[], message(1).to_string().as_bytes());
    assert_eq!(code(&refused, 503), "unavailable");
    assert!(refused.header("retry-after").is_some());
    site.store.refuse(false);
    let mut http = site.backend();
    ask(&mut http, &message(2));
    site.waiting(1);
    site.commit(1, 1);
    assert_eq!(code(&http.answer(), 503), "unknown_outcome");
    site.publish(&message(3));
}

#[test]
fn a_store_that_never_answers_is_given_up() {
    let site = Site::with(Some(Duration::from_millis(50)), |_| {});
    let mut http = site.backend();
    ask(&mut http, &message(1));
    assert_eq!(code(&http.answer(), 503), "unknown_outcome");
    let body = json!({"publications": [message(2), message(3)]}).to_string();
    http.ask("POST", "/v1/batch", &[], body.as_bytes());
    let results = http.answer().json();
    assert_eq!(results["results"][1]["error"]["code"], "unknown_outcome");
    // What comes too late is not taken for the answer to something else.
    http.ask("DELETE", "/v1/history?channel=other", &[], b"");
    site.commit(3, 0);
    assert_eq!(http.answer().status, 200);
    http.ask("GET", "/v1/history?channel=news", &[], b"");
    assert_eq!(code(&http.answer(), 503), "unavailable");
    let mut socket = site.server.websocket("");
    socket.say(&json!({"type": "publish", "id": 1, "channel": "news", "data": 4}));
    let answer = socket.next();
    assert_eq!(
        (&answer["type"], &answer["code"], &answer["id"]),
        (&json!("error"), &json!("unknown_outcome"), &json!(1))
    );
    let mut seed = site.backend();
    seed.send(b"write key value \0");
    let said = String::from_utf8(seed.read_to_end()).unwrap();
    assert!(
        said.starts_with("Nothing was stored: ") || said.contains("not known"),
        "{said}"
    );
}

#[test]
fn who_is_ended_at_the_ceiling_is_told_what_may_have_been_stored() {
    let ceiling = |config: &mut Config| {
        config.limits.memory = Some(64 << 10);
        config.limits.publish_rate = 10_000;
    };
    let site = Site::with(None, |config| config.limits.memory = Some(16 << 10));
    let mut http = site.server.place(Door::Tcp).connect();
    // What it asks next makes it the largest holder. So little comes in one piece: while it waits, no more is read.
    let next = format!("GET /v1/now?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(12_000));
    let publish = "POST /v1/publish?channel=news HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1";
    http.send((publish.to_owned() + &next).as_bytes());
    site.waiting(1);
    let mut other = site.server.place(Door::Tcp).connect();
    other.send(b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 8000\r\n\r\n");
    other.send(&[b' '; 7_999]);
    let answer = http.answer();
    assert!(answer.text().contains("limits.memory"), "{answer:?}");
    assert_eq!(code(&answer, 503), "unknown_outcome");
    assert!(http.is_at_end(), "it is closed");
    site.commit(1, 0);
    drop(other);

    // Of a batch those that the store has, and those that it has not got.
    let site = Site::with(None, ceiling);
    let mut http = site.server.place(Door::Tcp).connect();
    let list: Vec<Value> = (0..1000).map(message).collect();
    let body = json!({ "publications": list }).to_string();
    http.ask("POST", "/v1/batch", &[], body.as_bytes());
    let answer = http.answer();
    let results = answer.json()["results"].as_array().unwrap().clone();
    let stored = site.store.waiting();
    assert!((1..1000).contains(&stored), "{stored}");
    for (index, result) in results.iter().enumerate() {
        let code = if index < stored {
            "unknown_outcome"
        } else {
            "unavailable"
        };
        assert_eq!(result["error"]["code"], code, "{index}: {result}");
    }
    assert_eq!(results.len(), 1000);
    assert!(http.is_at_end(), "it is closed");
}

#[test]
fn a_websocket_may_publish_many_at_once_and_asks_after_them() {
    let site = Site::start();
    let mut socket: WebSocket = site.server.websocket("");
    for number in 0..3 {
        socket.say(&json!({"type": "publish", "id": number, "channel": "news", "data": number}));
    }
    socket.say(&json!({"type": "history", "id": "h", "channel": "news"}));
    socket.say(&json!({"type": "publish", "id": 3, "channel": "news", "data": 3}));
    // What comes after the question waits with it.
    site.waiting(3);
    site.serves_others();
    site.commit(1, 0);
    assert_eq!(socket.next()["id"], 0);
    site.commit(2, 0b10);
    assert_eq!(socket.next()["id"], 1);
    let failed = socket.next();
    assert_eq!(
        (&failed["id"], &failed["code"]),
        (&json!(2), &json!("unknown_outcome"))
    );
    site.reads(1);
    assert_eq!(site.store.waiting(), 0);
    site.store.answer(0);
    let history = socket.next();
    assert_eq!(
        (&history["id"], history["publications"].as_array().unwrap().len()),
        (&json!("h"), 2)
    );
    site.waiting(1);
    site.commit(1, 0);
    assert_eq!(socket.next()["id"], 3);
}

#[test]
fn a_server_that_stops_tells_publishers_what_became_of_it_first() {
    let mut site = Site::start();
    let mut http = site.backend();
    ask(&mut http, &message(1));
    let mut socket = site.server.websocket("");
    socket.say(&json!({"type": "publish", "id": 1, "channel": "news", "data": 2}));
    site.waiting(2);
    site.server.ask_to_stop();
    site.commit(2, 0);
    assert_eq!(http.answer().status, 200);
    assert_eq!(socket.next()["type"], "published");
    assert_eq!(socket.next()["type"], "reconnect");
    drop((http, socket));
    site.server.wait();
}

#[test]
fn in_a_buffered_namespace_the_publisher_does_not_wait() {
    let site = Site::with(None, |config| {
        config.namespace_default.durability = Durability::Buffered;
        config.storage.buffered = 100;
        config.limits.window = Duration::from_secs(10);
    });
    let mut http = site.backend();
    let accepted = json!({"channels": [{"channel": "news"}], "buffered": true});
    ask(&mut http, &message(1));
    let answer = http.answer();
    assert_eq!((answer.status, answer.json()), (202, accepted.clone()));
    let mut socket = site.server.websocket("channel=news");
    socket.say(&json!({"type": "publish", "id": 1, "channel": "news", "data": 2}));
    let mut published = accepted.clone();
    published["type"] = "published".into();
    published["id"] = 1.into();
    assert_eq!(socket.next(), published);
    // Beyond the bound it waits, as with fsync.
    ask(&mut http, &message("x".repeat(200)));
    site.waiting(3);
    site.serves_others();
    site.commit(3, 0);
    assert_eq!(http.answer().status, 200);
    let object = socket.next();
    assert_eq!(object["data"], 1, "{object}");
}

#[test]
fn present_values_from_disk_and_from_memory_come_in_one_poll() {
    let site = Site::start();
    site.publish(&json!({"channel": "cold", "data": "from disk", "retain": true}));
    let store = site.store.clone();
    drop(site);
    store.restart(2);
    let site = Site::on(store, None, |config| {
        config.namespaces.push(NamespaceRule {
            pattern: "passing".into(),
            namespace: Namespace {
                durability: Durability::Memory,
                ..config.namespace_default.clone()
            },
        });
    });
    let passing = json!({"channel": "passing", "data": "from memory", "retain": true});
    site.server.publish_object(&passing);
    let mut http = site.server.place(Door::Tcp).connect();
    let query = "/v1/poll?channel=passing&channel=cold&wait_ms=0";
    http.ask("GET", query, &[], b"");
    site.reads(1);
    site.store.answer(0);
    let answer = http.answer().json();
    let mut values: Vec<&Value> = answer["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["data"])
        .collect();
    values.sort_by_key(|value| value.to_string());
    assert_eq!(values, [&json!("from disk"), &json!("from memory")]);
}

#[test]
fn who_is_sent_away_before_a_present_value_has_come_is_told_that_it_is_missing() {
    let mut site = cold_site(&[("cold", json!(1))], |_| {});
    let place = site.server.place(Door::Tcp);
    let mut superseded = place.connect();
    let query = "/v1/poll?channel=cold&session=page";
    superseded.ask("GET", query, &[], b"");
    site.reads(1);
    let mut poll = place.connect();
    poll.ask("GET", query, &[], b"");
    let mut stream = support::Listener::open_unread(place, support::Transport::Stream, "channel=cold");
    let missing = json!([{"type": "gap", "channel": "cold"}]);
    assert_eq!(superseded.answer().json()["publications"], missing);
    site.reads(3);
    site.server.ask_to_stop();
    let answer = poll.answer().json();
    assert_eq!(answer["publications"], missing);
    assert!(answer["retry_ms"].is_u64(), "{answer}");
    stream.read_first_cursor();
    let gap = stream.next();
    assert_eq!((&gap["type"], &gap["channel"]), (&json!("gap"), &json!("cold")));
    assert_eq!(stream.next()["type"], "reconnect");
    drop((superseded, poll, stream));
    site.server.wait();
}

#[test]
fn who_reads_on_from_a_store_that_fails_is_told_to_come_back() {
    let site = Site::start();
    site.publish(&json!({"channel": "cold", "data": 1, "retain": true}));
    let store = site.store.clone();
    drop(site);
    store.restart(2);
    let site = Site::on(store, None, |_| {});
    let mut stream = support::Listener::open_unread(
        site.server.place(Door::Tcp),
        support::Transport::Stream,
        "channel=cold",
    );
    site.reads(1);
    assert!(site.store.fail(0));
    // No cursor would bring the value: it is said to be missing.
    stream.read_first_cursor();
    let gap = stream.next();
    assert_eq!((&gap["type"], &gap["channel"]), (&json!("gap"), &json!("cold")));
    assert_eq!(stream.next()["type"], "reconnect");
}

#[test]
fn static_files_wait_for_the_store_together_and_the_end_does_not_wait_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut site = cold_site(
        &[("a", json!(1)), ("b", json!(2)), ("c", json!(3)), ("d", json!(4))],
        |config| {
            config.static_files.dir = Some(folder.path().to_owned());
            config.namespace_default.static_file = true;
        },
    );
    let now = site.server.now();
    for channel in ["a", "b", "c"] {
        site.server
            .get(&format!("/v1/poll?channel={channel}&wait_ms=0&cursor={now}"));
    }
    let count = || {
        let names = std::fs::read_dir(folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".json")).count()
    };
    site.reads(3);
    for _ in 0..3 {
        assert!(site.store.answer(0));
    }
    site.server.until("there are files", || count() == 3);
    // The store does not say how far the channel is now: its file would hide what is new.
    site.publish(&json!({"channel": "a", "data": 4}));
    site.server.until("a file is gone", || count() < 3);
    site.server.ask_to_stop();
    site.server.wait();
    assert_eq!(count(), 0);
}
