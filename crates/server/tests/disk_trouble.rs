//! A disk that is full or fails, as clients and the operator see it: refused where it must be, served where it can be.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

#[path = "storage_support/sim.rs"]
mod sim;
mod support;

use std::sync::Arc;

use cometserver::config::{Durability, Namespace, NamespaceRule};
use cometserver::server::{Options, StartError};
use serde_json::{Value, json};
use sim::SimDisk;
use support::{Answer, Door, TestServer, Transport};

/// A server on a disk that fails when it is told to; `passing` is in memory.
fn start() -> (TestServer, SimDisk) {
    let disk = SimDisk::default();
    let options = Options {
        embedded: true,
        disk: Some(Arc::new(disk.clone())),
        ..Options::default()
    };
    let server = TestServer::with_options(options, |config| {
        config.namespace_default.durability = Durability::Fsync;
        config.namespaces.push(NamespaceRule {
            pattern: "passing".into(),
            namespace: Namespace {
                durability: Durability::Memory,
                ..config.namespace_default.clone()
            },
        });
    });
    (server, disk)
}

fn publish(server: &TestServer, channel: &str, data: &str) -> Answer {
    let body = json!({"channel": channel, "data": data, "idempotency_key": data});
    server.request(Door::Backend, "POST", "/v1/publish", &body.to_string())
}

fn ready(server: &TestServer, door: Door) -> (u16, Value) {
    let answer = server.request(door, "GET", "/health/ready", "");
    (answer.status, answer.json())
}

/// Refuses what is to be kept, serves the rest, says so to the operator alone, and recovers by itself.
fn survives(break_it: impl Fn(&SimDisk), repair: impl Fn(&SimDisk), codes: &[&str]) {
    let (server, disk) = start();
    assert_eq!(ready(&server, Door::Backend).1["storage"], "ok");
    server.publish("news", "before");
    let mut listener = server.listen(
        Door::Tcp,
        Transport::Sse,
        "channel=news&channel=passing&retained=0",
    );

    break_it(&disk);
    let refused = publish(&server, "news", "refused");
    assert_eq!(refused.status, 503, "{refused:?}");
    let code = refused.json()["code"].as_str().unwrap().to_owned();
    assert!(codes.contains(&code.as_str()), "{code}");
    let (status, health) = ready(&server, Door::Backend);
    assert_eq!((status, &health["status"]), (200, &json!("degraded")), "{health}");
    assert!(health["storage"].as_str().unwrap().len() > 2, "{health}");
    assert_eq!(ready(&server, Door::Tcp), (200, json!({"status": "ready"})));
    assert!(server.metric("cometserver_storage_write_failures_total", "") >= 1.0);
    assert_eq!(publish(&server, "passing", "in memory").status, 200);
    let history = server.get("/v1/history?channel=news");
    assert_eq!(history["publications"].as_array().unwrap().len(), 1);

    repair(&disk);
    // The same message again, under its key: it may be there, and then it is not published twice.
    server.until("the disk is tried again", || {
        publish(&server, "news", "refused").status == 200
    });
    assert_eq!(ready(&server, Door::Backend).1["status"], "ready");
    server.publish("news", "after");
    assert_eq!(listener.data(3), ["in memory", "refused", "after"]);
    let history = server.get("/v1/history?channel=news");
    let offsets: Vec<&Value> = history["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["offset"])
        .collect();
    assert_eq!(offsets, [1, 2, 3]);
}

#[test]
fn a_full_disk_refuses_what_is_to_be_kept_and_nothing_else() {
    survives(
        |disk| disk.set_full(true),
        |disk| disk.set_full(false),
        &["unavailable"],
    );
}

#[test]
fn a_full_disk_that_has_room_again_is_well_without_anybody_publishing() {
    let (server, disk) = start();
    server.publish("news", "before");
    disk.set_full(true);
    let refused = publish(&server, "news", "refused");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(
        refused.json()["detail"].as_str().unwrap().contains("make room"),
        "{refused:?}"
    );
    assert_eq!(ready(&server, Door::Backend).1["status"], "degraded");
    disk.set_full(false);
    server.until("it is found out", || {
        ready(&server, Door::Backend).1["status"] == "ready"
    });
    assert_eq!(publish(&server, "news", "after").status, 200);
}

#[test]
fn after_a_failed_sync_nobody_is_told_that_something_is_safe() {
    survives(
        |disk| disk.set_failing_syncs(true),
        |disk| disk.set_failing_syncs(false),
        &["unknown_outcome", "unavailable"],
    );
}

#[test]
fn a_log_whose_writer_panics_is_said_to_have_failed_and_the_server_stops_by_itself() {
    let (mut server, disk) = start();
    let mut listener = server.listen(Door::Tcp, Transport::Sse, "channel=news&retained=0");
    server.publish("news", "before");
    assert_eq!(listener.data(1), ["before"]);
    disk.set_panicking(Some("log-writer"));
    let refused = publish(&server, "news", "in doubt");
    assert_eq!(refused.json()["code"], "unknown_outcome", "{refused:?}");
    drop(listener);
    server.until("it stops by itself", || server.has_ended());
    let outcome = server.outcome().unwrap_err();
    assert!(matches!(outcome, StartError::LogFailed(_)), "{outcome}");
    let why = server.shared.trouble.now().unwrap();
    assert!(why.contains("log-writer"), "{why}");
    disk.set_panicking(None);
}

#[test]
fn health_is_not_well_once_the_log_has_failed() {
    let (mut server, _) = start();
    server.shared.trouble.fail("its thread has failed");
    server.shared.trouble.note(None);
    let (status, health) = ready(&server, Door::Backend);
    assert_eq!((status, &health["status"]), (503, &json!("failed")));
    assert_eq!(health["storage"], "its thread has failed");
    assert_eq!(ready(&server, Door::Tcp), (503, json!({"status": "failed"})));
    let live = server.request(Door::Tcp, "GET", "/health/live", "");
    assert_eq!((live.status, live.json()), (503, json!({"status": "failed"})));
    server.ask_to_stop();
    server.outcome().unwrap_err();
}

#[test]
fn what_was_answered_at_once_and_then_refused_by_the_disk_is_told_to_whoever_listens() {
    let disk = SimDisk::default();
    let options = Options {
        embedded: true,
        disk: Some(Arc::new(disk.clone())),
        ..Options::default()
    };
    let server = TestServer::with_options(options, |config| {
        config.namespace_default.durability = Durability::Fsync;
        config.namespaces.push(NamespaceRule {
            pattern: "quick**".into(),
            namespace: Namespace {
                durability: Durability::Buffered,
                ..config.namespace_default.clone()
            },
        });
    });
    let listen = |query: &str| server.listen(Door::Tcp, Transport::Sse, query);
    let mut named = listen("channel=quick&retained=0");
    let mut by_pattern = listen("pattern=quick*&retained=0");
    let mut other = listen("channel=news&retained=0");
    let is_taken = |data: &str| publish(&server, "quick", data).status == 202;
    assert!(is_taken("before"));
    for reader in [&mut named, &mut by_pattern] {
        assert_eq!(reader.data(1), ["before"]);
    }
    disk.set_full(true);
    assert!(is_taken("answered, and never written"));
    server.until("it is known", || {
        server.metric("cometserver_storage_write_failures_total", "") >= 1.0
    });
    disk.set_full(false);
    server.until("the disk is tried again", || {
        publish(&server, "news", "next").status == 200
    });
    assert_eq!(other.data(1), ["next"], "and no gap");
    for (reader, who) in [(&mut named, "channel"), (&mut by_pattern, "pattern")] {
        let gap = reader.next();
        assert_eq!(gap["type"], "gap", "{gap}");
        assert!(gap[who].as_str().unwrap().starts_with("quick"), "{gap}");
    }
    assert!(is_taken("after"));
    for reader in [&mut named, &mut by_pattern] {
        assert_eq!(reader.data(1), ["after"], "it is told once");
    }
}
