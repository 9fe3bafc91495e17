//! The retained value of a channel: what a newcomer is shown first.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use support::{Door, TRANSPORTS, TestServer, Transport};

fn retain(server: &TestServer, channel: &str, data: &str) {
    server.publish_object(&json!({"channel": channel, "data": data, "retain": true}));
}

/// Does a poll without a cursor, over the door of browsers, begin with these?
fn begins_with(server: &TestServer, transport: Transport, query: &str, expected: &[&str]) {
    let mut listener = server.listen(Door::Tcp, transport, query);
    assert_eq!(listener.data(expected.len()), expected, "{transport:?} {query}");
    server.publish("price", "live");
    assert_eq!(listener.data(1), ["live"], "{transport:?} {query}");
}

#[test]
fn a_newcomer_is_shown_the_retained_value_first_on_every_transport() {
    let server = TestServer::start();
    retain(&server, "price", "old");
    retain(&server, "price", "kept");
    server.publish("price", "not kept");
    for transport in TRANSPORTS {
        begins_with(&server, transport, "channel=price", &["kept"]);
        begins_with(&server, transport, "channel=price&retained=0", &[]);
    }
}

#[test]
fn one_who_comes_back_with_a_cursor_is_not_shown_what_it_has_seen() {
    let server = TestServer::start();
    retain(&server, "price", "kept");
    for transport in TRANSPORTS {
        let cursor = server.now();
        begins_with(&server, transport, &format!("channel=price&cursor={cursor}"), &[]);
    }
}

#[test]
fn a_late_subscription_is_shown_the_retained_value_before_it_is_answered() {
    let server = TestServer::start();
    retain(&server, "price", "kept");
    let mut socket = server.websocket("");
    socket.say(&json!({"type": "subscribe", "id": 1, "channel": "price"}));
    assert_eq!(socket.expect("publication")["data"], "kept");
    assert_eq!(socket.expect("subscribed")["id"], 1);
    socket.ask(json!({"type": "unsubscribe", "id": 2, "channel": "price"}));
    socket.say(&json!({"type": "subscribe", "id": 3, "channel": "price", "retained": false}));
    assert_eq!(socket.expect("subscribed")["id"], 3);
}

#[test]
fn the_retained_value_can_be_read_and_forgotten() {
    let server = TestServer::start();
    let target = "/v1/retained?channel=price";
    assert_eq!(server.request(Door::Tcp, "GET", target, "").status, 404);
    retain(&server, "price", "kept");
    let value = server.request(Door::Tcp, "GET", target, "").json();
    assert_eq!((&value["data"], &value["offset"]), (&json!("kept"), &json!(1)));
    let raw = server.request(Door::Tcp, "GET", &format!("{target}&raw=1"), "");
    assert_eq!(raw.text(), "\"kept\"");
    let deleted = server.request(Door::Backend, "DELETE", target, "");
    assert_eq!(deleted.json(), json!({"deleted": true}));
    assert_eq!(server.request(Door::Tcp, "GET", target, "").status, 404);
    begins_with(&server, Transport::Sse, "channel=price", &[]);
}

#[test]
fn the_retained_value_outlives_the_history() {
    let server = TestServer::with(|config| {
        config.namespace_default.history_count = 3;
        config.limits.window = std::time::Duration::ZERO;
    });
    retain(&server, "price", "kept");
    server.publish_burst((0..20).map(|number| ("price", json!(number))));
    begins_with(&server, Transport::Stream, "channel=price", &["kept"]);
}

#[test]
fn a_list_with_values_ends_early_rather_than_hold_many_of_them() {
    let server = TestServer::with(|config| config.limits.message_size = 4 << 20);
    // After half of them, one that is larger than an answer alone.
    let sizes = [&[100 << 10; 12][..], &[2 << 20], &[100 << 10; 12]].concat();
    for (number, size) in sizes.iter().enumerate() {
        retain(&server, &format!("value/{number}"), &"v".repeat(*size));
        server.publish(&format!("none/{number}"), "not retained");
    }
    let (mut seen, mut after, mut pages) = (Vec::new(), "0".to_owned(), 0);
    loop {
        let target = format!("/v1/channels?values=1&limit=1000&after={after}");
        let page = server.get(&target);
        let mut bytes = Vec::new();
        for channel in page["channels"].as_array().unwrap() {
            assert_eq!(
                channel["retained"],
                channel.get("value").is_some(),
                "with its value"
            );
            bytes.extend(channel["value"]["data"].as_str().map(str::len));
            seen.push(channel["channel"].as_str().unwrap().to_owned());
        }
        assert!(
            bytes.len() == 1 || bytes.iter().sum::<usize>() <= 256 << 10,
            "{bytes:?}"
        );
        pages += 1;
        match &page["next"] {
            Value::Null => break,
            next => after = next.to_string(),
        }
    }
    // Twelve small ones in pairs, the large one, and the others in pairs.
    assert_eq!(pages, 13);
    let in_order = (0..sizes.len()).flat_map(|number| [format!("value/{number}"), format!("none/{number}")]);
    assert!(seen.iter().eq(in_order.collect::<Vec<_>>().iter()), "{seen:?}");
}

#[test]
fn a_dump_waits_for_its_reader_instead_of_taking_all_values_into_memory() {
    let server = TestServer::start();
    let value = "v".repeat(256 << 10);
    for number in 0..64 {
        retain(&server, &format!("value/{number:02}"), &value);
    }
    let mut old = UnixStream::connect(&server.addresses.backend).unwrap();
    old.write_all(b"dump \0").unwrap();
    let pending = || server.metric("cometserver_pending_bytes", "");
    server.until("the old client has to take something", || pending() > 0.0);
    assert!(pending() < f64::from(8 << 20), "{} of 16 MiB", pending());
    let mut dump = Vec::new();
    old.read_to_end(&mut dump).unwrap();
    let mut expected = Vec::new();
    for number in 0..64 {
        // JSON, encoded twice.
        let token = format!("%2522{value}%2522");
        let entry = format!("\n \x1b[32;1m* index [{number}] - value/{number:02}\x1b[0m: [{token}]");
        expected.extend_from_slice(entry.as_bytes());
    }
    expected.extend_from_slice(b" \0");
    assert!(dump == expected, "{} bytes", dump.len());
}
