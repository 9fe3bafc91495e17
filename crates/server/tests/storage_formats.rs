//! A log folder of each format version that was ever written opens in this build, and says all that it said then.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cometserver::broker::disk::DiskOptions;
use cometserver::broker::disk::backup::{backup, restore};
use cometserver::broker::disk::format::body::KINDS;
use cometserver::broker::disk::format::{Kind, VERSION};
use cometserver::broker::disk::inspect::inspect;
use cometserver::broker::disk::io::RealDisk;
use cometserver_core::broker::{Broker, Delete, Fetch, Stored, Want};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::{self, Body, Payload, Writer};
use rig::{Log, NOW, bounded, name, segments, unbounded};
use serde_json::{Value, json};

/// The channels of the fixtures, those among them of which nothing is kept.
const CHANNELS: [&str; 14] = [
    "all/json",
    "all/text",
    "all/binary",
    "all/second",
    "value",
    "value/deleted",
    "history/deleted",
    "short/keyed",
    "short/busy",
    "short/slow",
    "after the second start",
    "quick/kept",
    "quick/never written to",
    "never written to",
];

/// Channels in `short/` keep two publications; since version 2 those in `quick/` are answered before they are safe.
fn namespaces(version: u16) -> Namespaces {
    let mut namespaces = unbounded();
    let two = bounded(2, 1 << 40, 1 << 50).fallback;
    namespaces
        .listed
        .push((Pattern::new("short/**", 64).unwrap(), two));
    if version > 1 {
        let mut quick = (*namespaces.fallback).clone();
        quick.durability = Durability::Buffered;
        let pattern = Pattern::new("quick/*", 64).unwrap();
        namespaces.listed.push((pattern, Arc::new(quick)));
    }
    namespaces
}

fn options() -> DiskOptions {
    DiskOptions {
        segment: 1_500,
        garbage: 3_000,
        ..DiskOptions::default()
    }
}

fn open(folder: &Path, version: u16) -> Log {
    Log::on(Arc::new(RealDisk), folder, options(), namespaces(version))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A publication with all that one can carry.
fn publish_rich(log: &mut Log, channels: &[&str], kind: publication::Kind, payload: &'static [u8]) {
    let writer = match kind {
        publication::Kind::Json => Writer::Web,
        publication::Kind::Text => Writer::Cli,
        publication::Kind::Binary => Writer::Token(Bytes::from_static(b"%22token%22")),
    };
    log.submit(
        |message| {
            message.channels = channels.iter().map(|channel| name(channel)).collect();
            message.payload = Payload::stored(kind, Bytes::from_static(payload)).unwrap();
            message.retain = kind != publication::Kind::Text;
            message.idempotency_key = Some(format!("key of {}", channels[0]).into());
            let attributes = message.attributes_mut();
            attributes.event = Some("event".into());
            attributes.id = Some("id".into());
            attributes.user = Some("user".into());
            attributes.exclude_session = Some("session".into());
            attributes.tags = vec![("tag".into(), "é".into()), ("empty".into(), "".into())];
            attributes.writer = Some(writer);
        },
        "",
    );
    log.settle();
}

/// Writes what a fixture holds, in several segments: what a start writes that is not followed by a stop in good order.
fn fill(log: &mut Log) {
    log.publish(&["quick/kept"], "quick");
    log.publish(&["short/slow"], "slow 1");
    publish_rich(
        log,
        &["all/json", "all/second"],
        publication::Kind::Json,
        br#"{"a":[1,null]}"#,
    );
    publish_rich(
        log,
        &["all/text"],
        publication::Kind::Text,
        "text \u{1f600}".as_bytes(),
    );
    publish_rich(log, &["all/binary"], publication::Kind::Binary, &[0, 255, 7, 10]);
    log.submit(
        |message| {
            message.channels = vec![name("short/keyed"), name("short/slow")];
            message.idempotency_key = Some("key that outlives its publication".into());
        },
        "keyed",
    );
    log.retain("value", "first value");
    log.retain("value", "value");
    log.retain("value/deleted", "no value");
    log.publish(&["history/deleted"], "deleted");
    log.settle();
    log.delete("value/deleted", Delete::Retained);
    log.delete("history/deleted", Delete::History);
    for number in 2..=3 {
        log.publish(&["short/slow"], &format!("slow {number}"));
        log.publish(&["short/keyed"], &format!("keyed {number}"));
        log.settle();
    }
    churn(log, 1);
}

/// What the next start writes, of which what is answered early is configured anew.
fn go_on(log: &mut Log) {
    log.log.configure(&quick_alone());
    log.retain("value/deleted", "no value again");
    log.delete("value/deleted", Delete::Retained);
    log.publish(&["after the second start", "all/text"], "at the end");
    log.publish(&["history/deleted"], "again");
    log.settle();
}

fn quick_alone() -> Namespaces {
    let mut namespaces = namespaces(2);
    namespaces.listed.remove(0);
    namespaces
}

/// Publishes until the oldest segment has been cleared away.
fn churn(log: &mut Log, round: u32) {
    let oldest = segments(&log.folder).remove(0);
    let mut number = 0;
    while oldest.exists() {
        number += 1;
        log.publish(
            &["short/busy"],
            &format!("busy {round}.{number} {}", "x".repeat(80)),
        );
        log.settle();
    }
}

fn attributes(body: &Body) -> Value {
    let Body::Message {
        payload,
        attributes,
        retain,
    } = body
    else {
        panic!("only messages are stored");
    };
    let attributes = attributes.as_deref().map(|own| {
        let writer = own.writer.as_ref().map(|writer| match writer {
            Writer::Cli => json!("cli"),
            Writer::Web => json!("web"),
            Writer::Token(token) => json!(token.to_vec()),
        });
        json!({
            "event": own.event, "id": own.id, "user": own.user, "exclude_session": own.exclude_session,
            "tags": own.tags, "writer": writer,
        })
    });
    let kind = match payload.kind() {
        publication::Kind::Json => "json",
        publication::Kind::Text => "text",
        publication::Kind::Binary => "binary",
    };
    let shown = match payload.kind() {
        publication::Kind::Binary => json!(payload.bytes().to_vec()),
        _ => json!(std::str::from_utf8(payload.bytes()).unwrap()),
    };
    json!({"kind": kind, "payload": shown, "retain": retain, "attributes": attributes})
}

fn publication(stored: &Stored) -> Value {
    let places = stored.places.iter();
    let places: Vec<Value> = places
        .map(|(name, offset)| json!([String::from_utf8_lossy(name.as_bytes()), offset]))
        .collect();
    json!({
        "position": stored.position, "time": stored.time, "places": places, "body": attributes(&stored.body),
    })
}

/// Everything that a log says.
fn said(log: &Log, marks: &[u32], channels: &[&str]) -> Value {
    let position = log.log.position();
    let channels: Vec<Value> = channels
        .iter()
        .map(|channel| {
            let ask = |want| {
                log.fetch(Fetch {
                    want,
                    channels: vec![name(channel)],
                    until: position,
                    limit: 1000,
                    bytes: 1 << 20,
                    ..Fetch::default()
                })
            };
            let (history, value) = (ask(Want::Oldest), ask(Want::Retained));
            assert_eq!(history.reached, position);
            let known = log.log.channel(&name(channel));
            json!({
                "channel": channel,
                "epoch": known.as_ref().map(|known| known.epoch),
                "offset": known.as_ref().map(|known| known.offset),
                "history": history.stored.iter().map(publication).collect::<Vec<_>>(),
                "gap": history.gaps.iter().map(|(_, at)| *at).chain(history.lost.iter().map(|lost| lost.position)).max(),

                "value": value.stored.first().map(publication),
            })
        })
        .collect();
    let remembered = log.log.remembered();
    let keys = remembered.iter().map(|key| {
        let places: Vec<Value> = key
            .places
            .iter()
            .map(|(name, offset)| json!([String::from_utf8_lossy(name.as_bytes()), offset]))
            .collect();
        json!({"key": key.key, "digest": key.digest, "time": key.time, "position": key.position, "places": places})
    });
    let reaches = |mark: u32| (0..=position).rev().find(|at| log.log.knows(mark, *at));
    json!({
        "position": position,
        "marks": marks.iter().map(|mark| json!([mark, reaches(*mark)])).collect::<Vec<_>>(),
        "unknown_mark": log.log.knows(1, 0),
        "forgotten": log.fetch(Fetch { patterns: vec![Arc::new(Pattern::new("**", 8).unwrap())], until: position, limit: 1, ..Fetch::default() }).forgotten,
        "keys": keys.collect::<Vec<_>>(),
        "channels": channels,
    })
}

/// The histories that nothing more was published in.
fn histories(said: &Value) -> Vec<(&str, &Value)> {
    let channels = said["channels"].as_array().unwrap().iter();
    let histories = channels.map(|channel| (channel["channel"].as_str().unwrap(), &channel["history"]));
    histories
        .filter(|(name, _)| !name.starts_with("short/"))
        .collect()
}

#[test]
#[ignore = "writes the fixture of the version that this build writes: never to change one that is there"]
fn make_the_fixture() {
    let folder = fixtures().join(format!("log-v{VERSION}-all"));
    let mut first = Log::new(options(), namespaces(VERSION));
    fill(&mut first);
    // It is killed: its folder is as it is now.
    let killed = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&first.folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, killed.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut log = open(killed.path(), VERSION);
    go_on(&mut log);
    let marks = [first.log.mark(), log.log.mark()];
    log.log.shut_down();
    backup(&log.folder, &folder).unwrap();
    let report = inspect(&folder, &namespaces(VERSION), NOW).unwrap();
    for kind in KINDS {
        let count = |kind: Kind| {
            let records = report.segments.iter().flat_map(|segment| &segment.records);
            records
                .filter(|(own, _)| *own == kind)
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        assert!(count(kind) > 0, "{kind:?} is missing: {report:?}");
    }
    log.reopen();
    let said = serde_json::to_string_pretty(&said(&log, &marks, &CHANNELS)).unwrap();
    fs::write(folder.with_extension("json"), said + "\n").unwrap();
}

#[test]
fn a_log_of_each_version_says_what_it_said_when_it_was_written() {
    for version in 1..=VERSION {
        let fixture = fixtures().join(format!("log-v{version}-all"));
        let expected = fs::read(fixture.with_extension("json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let marks = expected["marks"].as_array().unwrap();
        let marks: Vec<u32> = marks
            .iter()
            .map(|mark| mark[0].as_u64().unwrap() as u32)
            .collect();
        let channels = expected["channels"].as_array().unwrap();
        let channels: Vec<&str> = channels
            .iter()
            .map(|channel| channel["channel"].as_str().unwrap())
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let back = folder.path().join("log");
        let report = restore(&fixture, &back, false).unwrap();
        assert!(report.segments.len() > 1, "{report:?}");
        let mut log = open(&back, version);
        assert_eq!(log.log.stats().damaged, 0);
        assert_eq!(said(&log, &marks, &channels), expected, "version {version}");
        // It goes on, and is the same after another start; so is what was cleared away meanwhile.
        let offset = log.log.channel(&name("short/slow")).unwrap().offset;
        log.publish(&["short/slow"], "and on");
        log.settle();
        for _ in 0..2 {
            assert_eq!(log.log.channel(&name("short/slow")).unwrap().offset, offset + 1);
            assert_eq!(log.texts("short/slow").last().unwrap(), "and on");
            assert_eq!(histories(&said(&log, &marks, &channels)), histories(&expected));
            log.reopen();
        }
        churn(&mut log, 2);
        log.reopen();
        assert_eq!(log.log.stats().damaged, 0);
        assert_eq!(log.value("value").as_deref(), Some("value"));
    }
}

#[test]
fn an_older_log_is_of_this_version_as_soon_as_something_is_written_to_it() {
    let fixture = fixtures().join("log-v1-all");
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("log");
    restore(&fixture, &back, false).unwrap();
    let newest = segments(&back).pop().unwrap();
    let before = fs::read(&newest).unwrap();
    // What a crash of the older build left at the end.
    let mut torn = before.clone();
    torn.extend_from_slice(&[9; 30]);
    fs::write(&newest, torn).unwrap();
    let version = |path: &Path| fs::read(path).unwrap()[8];
    assert_eq!((version(&back.join("store")), version(&newest)), (1, 1));
    assert!(!back.join("reach").exists());
    let report = inspect(&back, &namespaces(1), NOW).unwrap();
    assert_eq!((report.damaged, report.is_end_unknown), (0, false));
    assert_eq!(version(&back.join("store")), 1, "it was only looked at");

    let mut log = open(&back, 1);
    assert_eq!(log.log.stats().damaged, 0);
    log.publish(&["value"], "new");
    log.settle();
    log.log.shut_down();
    // The older build refuses the folder by its file `store`, and finds no record that it does not know in its own segments.
    assert_eq!(version(&back.join("store")), VERSION as u8);
    assert_eq!(fs::read(&newest).unwrap(), before);
    let next = segments(&back).pop().unwrap();
    assert!(next > newest && version(&next) == VERSION as u8);
    log.reopen();
    assert_eq!(log.texts("value").last().unwrap(), "new");
}

#[test]
fn readers_of_an_older_log_are_told_what_it_does_not_say() {
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("log");
    restore(&fixtures().join("log-v1-all"), &back, false).unwrap();
    // Whether its last server was killed is not known; what would be lost then is.
    let log = open(&back, 2);
    let position = log.log.position();
    assert_eq!(log.history("quick/any", position - 1).1, Some(position));
    assert_eq!(log.history("value", position - 1).1, None);
}
