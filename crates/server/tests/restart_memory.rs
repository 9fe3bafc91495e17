//! What is in memory alone, over a restart: a stop in good order keeps it, anything else is a gap; the real server, over real
//! sockets.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;
mod restart_support;
mod support;

use std::fs;
use std::path::Path;

use restart_support::{End, Site, numbers};
use serde_json::{Value, json};
use support::{TRANSPORTS, encode};

const FILE: &str = "comet.memory";

/// Does every transport read on from this cursor, in `passing`, and what does it tell?
fn told(site: &Site, cursor: &str, gap: bool, expected: &[Value]) {
    for transport in TRANSPORTS {
        for query in ["channel=passing", "pattern=pass*"] {
            let mut listener = site.listen(transport, &format!("{query}&cursor={}", encode(cursor)));
            if gap {
                let next = listener.next();
                assert_eq!(next["type"], "gap", "{transport:?} {query}: {next}");
            }
            assert_eq!(listener.data(expected.len()), expected, "{transport:?} {query}");
            let (cursor, in_hand) = listener.cut();
            assert_eq!(in_hand, Vec::<Value>::new(), "{transport:?} {query}");
            let poll = format!("/v1/poll?{query}&wait_ms=0&cursor={}", encode(&cursor));
            assert_eq!(
                site.get(&poll)["publications"],
                json!([]),
                "{transport:?} {query}: nothing twice"
            );
        }
    }
}

fn said(site: &Site, text: &str) {
    let starting = &site.server.as_ref().unwrap().starting;
    assert!(starting.iter().any(|line| line.contains(text)), "{starting:#?}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn every_transport_goes_on_in_memory_after_each_stop_once_and_in_order() {
    let mut site = Site::start();
    let cases = TRANSPORTS
        .into_iter()
        .flat_map(|transport| ["channel=passing", "pattern=pass*"].map(|query| (transport, query)));
    let listeners: Vec<_> = cases
        .map(|(transport, query)| (transport, query, site.listen(transport, query)))
        .collect();
    site.publish_numbers("passing", 0..30);
    let mut cut = Vec::new();
    for (index, (transport, query, mut listener)) in listeners.into_iter().enumerate() {
        let mut seen = listener.data(index * 3);
        let (cursor, in_hand) = listener.cut();
        seen.extend(in_hand.into_iter().map(|mut object| object["data"].take()));
        assert_eq!(seen, numbers(0..seen.len()), "{transport:?}");
        cut.push((transport, query, cursor, seen.len()));
    }
    site.restart(End::Stopped);
    site.publish_numbers("passing", 30..35);
    site.restart(End::Stopped);
    said(&site, "what was in memory goes on");
    site.publish_numbers("passing", 35..40);
    assert!(!site.home.data().join(FILE).exists(), "it is not taken up again");
    for (transport, query, cursor, seen) in cut {
        let mut listener = site.listen(transport, &format!("{query}&cursor={}", encode(&cursor)));
        assert_eq!(
            listener.data(40 - seen),
            numbers(seen..40),
            "{transport:?} {query}"
        );
        let (cursor, in_hand) = listener.cut();
        assert_eq!(in_hand, Vec::<Value>::new());
        let poll = format!("/v1/poll?{query}&wait_ms=0&cursor={}", encode(&cursor));
        assert_eq!(site.get(&poll)["publications"], json!([]), "{transport:?}");
    }
}

#[test]
fn values_offsets_epochs_and_keys_in_memory_survive_a_stop() {
    let mut site = Site::start();
    let keyed = json!({"channel": "passing", "data": 1, "retain": true, "idempotency_key": "one"});
    let before = site.publish(&keyed);
    site.restart(End::Stopped);
    let again = site.publish(&keyed);
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(again["channels"], before["channels"]);
    assert_eq!(site.get("/v1/retained?channel=passing")["data"], 1);
    let after = site.publish(&json!({"channel": "passing", "data": 2}));
    assert_eq!(after["channels"][0]["offset"], 2);
    assert_eq!(after["channels"][0]["epoch"], before["channels"][0]["epoch"]);
    let history = site.get("/v1/history?channel=passing");
    assert_eq!(history["publications"].as_array().unwrap().len(), 2);
}

#[test]
fn a_kill_is_a_gap_also_after_a_stop_in_good_order() {
    let mut site = Site::start();
    site.publish_numbers("passing", 0..3);
    let page = site.now();
    site.restart(End::Stopped);
    site.publish_numbers("passing", 3..5);
    told(&site, &page, false, &numbers(3..5));
    site.restart(End::Killed);
    site.publish_numbers("passing", 5..6);
    told(&site, &page, true, &numbers(5..6));
}

#[test]
fn a_damaged_file_is_said_and_a_gap() {
    for damage in 0..4 {
        let mut site = Site::start();
        site.publish_numbers("passing", 0..3);
        let page = site.now();
        site.end(End::Stopped);
        let path = site.home.data().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        match damage {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            2 => bytes.extend_from_slice(b"more"),
            _ => bytes[8] = 0xff,
        }
        fs::write(&path, bytes).unwrap();
        site.begin();
        said(&site, "is not taken up");
        assert!(!path.exists());
        site.publish_numbers("passing", 3..4);
        told(&site, &page, true, &numbers(3..4));
    }
}

#[test]
fn a_file_that_is_put_back_is_said_and_a_gap() {
    let mut site = Site::start();
    site.publish_numbers("passing", 0..3);
    let page = site.now();
    site.end(End::Stopped);
    let path = site.home.data().join(FILE);
    let copy = fs::read(&path).unwrap();
    site.begin();
    site.publish_numbers("passing", 3..5);
    site.end(End::Killed);
    fs::write(&path, copy).unwrap();
    site.begin();
    said(&site, "is not taken up");
    site.publish_numbers("passing", 5..6);
    told(&site, &page, true, &numbers(5..6));
}

#[test]
fn in_a_folder_that_is_put_back_a_cursor_of_the_future_is_a_gap() {
    let mut site = Site::start();
    site.publish_numbers("passing", 0..3);
    let page = site.now();
    site.end(End::Stopped);
    let copy = site.home.path().join("copy");
    copy_folder(&site.home.data(), &copy);
    site.begin();
    site.publish_numbers("passing", 3..5);
    let future = site.now();
    site.publish_numbers("passing", 5..6);
    site.end(End::Stopped);
    fs::remove_dir_all(site.home.data()).unwrap();
    copy_folder(&copy, &site.home.data());
    site.begin();
    site.publish_numbers("passing", 10..14);
    let all: Vec<Value> = numbers(0..3).into_iter().chain(numbers(10..14)).collect();
    told(&site, &future, true, &all);
    told(&site, &page, false, &numbers(10..14));
}

#[test]
fn what_cannot_be_written_at_a_stop_is_said_and_a_gap() {
    let mut site = Site::start();
    site.publish_numbers("passing", 0..3);
    let page = site.now();
    // In the way of the file.
    fs::create_dir(site.home.data().join("comet.memory.tmp")).unwrap();
    let mut server = site.server.take().unwrap();
    server.signal(rustix::process::Signal::TERM);
    server.logs("could not be kept");
    assert!(server.ended().success());
    site.begin();
    site.publish_numbers("passing", 3..4);
    told(&site, &page, true, &numbers(3..4));
}

#[test]
fn where_there_is_no_log_memory_goes_on_too() {
    let mut site = Site::start_with("[namespace_default]\npublic = true\ndurability = \"memory\"\n");
    assert!(!site.home.data().join("log").exists());
    site.publish_numbers("passing", 0..3);
    let page = site.now();
    site.publish_numbers("passing", 3..5);
    site.restart(End::Stopped);
    site.publish_numbers("passing", 5..6);
    told(&site, &page, false, &numbers(3..6));
    site.restart(End::Killed);
    site.publish_numbers("passing", 6..7);
    told(&site, &page, true, &numbers(6..7));
}
