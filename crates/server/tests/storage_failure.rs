//! A thread of the log that panics takes nothing with it: everybody is answered, what was told as stored is there.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use cometserver::broker::disk::DiskOptions;
use cometserver_core::broker::{Broker, BrokerError, Delete, Deletion, Fetch, Submission};
use cometserver_core::publication::Message;
use rig::{Log, NOW, PATIENCE, bounded, name, unbounded};
use sim::SimDisk;

/// A log with one publication in it, and where its failure is told.
fn open(namespaces: cometserver_core::namespace::Namespaces) -> (Log, SimDisk, Receiver<String>) {
    let disk = SimDisk::default();
    let options = DiskOptions {
        segment: 4096,
        garbage: 8192,
        ..DiskOptions::default()
    };
    let mut log = Log::on(Arc::new(disk.clone()), Path::new("/log"), options, namespaces);
    let (told, failures) = channel();
    log.log.on_failure(move |why| told.send(why.to_owned()).unwrap());
    log.publish(&["kept"], "before");
    assert!(log.settle()[0].1.is_ok());
    (log, disk, failures)
}

fn everything() -> Fetch {
    Fetch {
        channels: vec![name("kept")],
        until: u64::MAX,
        limit: 10,
        bytes: 1 << 20,
        ..Fetch::default()
    }
}

/// It is told which thread, refuses everything at once, ends when it is closed, and has everything when it is opened again.
fn has_failed(mut log: Log, disk: &SimDisk, failures: &Receiver<String>, thread: &str) {
    let why = failures.recv_timeout(PATIENCE).expect("somebody is told");
    assert!(why.contains(thread), "{why}");
    let refused = log.log.publish(Submission {
        ticket: 0,
        message: Arc::new(Message::text(name("kept"), "refused")),
        channels: vec![name("kept")],
        time: NOW,
    });
    assert!(
        matches!(&refused, Err(BrokerError::Unavailable(why)) if why.contains(thread)),
        "{refused:?}"
    );
    let refused = log.log.delete(Deletion {
        ticket: 0,
        channel: name("kept"),
        what: Delete::History,
    });
    assert!(refused.is_err());
    for _ in 0..3 {
        let unread = log.try_fetch(everything());
        assert!(matches!(unread, Err(BrokerError::Unavailable(_))), "{unread:?}");
    }
    let (late, told) = channel();
    log.log.on_failure(move |why| late.send(why.to_owned()).unwrap());
    assert!(
        told.try_recv().unwrap().contains(thread),
        "who comes late is told as well"
    );
    disk.set_panicking(None);
    log.reopen();
    assert_eq!(log.texts("kept"), ["before"]);
}

#[test]
fn when_the_writer_panics_what_it_was_given_is_answered_and_nothing_is_taken_any_more() {
    let (mut log, disk, failures) = open(unbounded());
    disk.set_panicking(Some("log-writer"));
    log.publish(&["lost"], "in doubt");
    let answers = log.answers();
    assert!(
        matches!(&answers[..], [(0, Err(BrokerError::Unknown(why)))] if why.contains("log-writer")),
        "{answers:?}"
    );
    has_failed(log, &disk, &failures, "log-writer");
}

#[test]
fn what_still_waits_when_the_writer_panics_is_known_not_to_be_stored() {
    let (mut log, disk, failures) = open(unbounded());
    let gate = disk.hold("log-writer");
    log.publish(&["lost"], "in doubt");
    gate.reached();
    log.publish(&["lost"], "not begun");
    disk.set_panicking(Some("log-writer"));
    gate.open();
    let mut answers = log.answers();
    while answers.len() < 2 {
        answers.extend(log.answers());
    }
    assert!(
        matches!(answers[0].1, Err(BrokerError::Unknown(_))),
        "{answers:?}"
    );
    assert!(
        matches!(answers[1].1, Err(BrokerError::Unavailable(_))),
        "{answers:?}"
    );
    has_failed(log, &disk, &failures, "log-writer");
}

#[test]
fn when_a_reader_panics_whoever_waits_for_it_is_answered() {
    let (log, disk, failures) = open(unbounded());
    disk.set_panicking(Some("log-reader"));
    let unread = log.try_fetch(everything());
    assert!(matches!(unread, Err(BrokerError::Unavailable(_))), "{unread:?}");
    has_failed(log, &disk, &failures, "log-reader");
}

#[test]
fn when_the_keeper_panics_that_is_told() {
    let (mut log, disk, failures) = open(bounded(5, 1 << 20, 1 << 50));
    disk.set_panicking(Some("log-keeper"));
    log.log.open(&name("busy"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let submission = Submission {
            ticket: 0,
            message: Arc::new(Message::text(name("busy"), &"x".repeat(1000))),
            channels: vec![name("busy")],
            time: NOW,
        };
        if log.log.publish(submission).is_err() {
            break;
        }
        // What it had taken by then is written.
        assert!(log.answers()[0].1.is_ok());
        assert!(Instant::now() < deadline, "there is something to clear away");
    }
    has_failed(log, &disk, &failures, "log-keeper");
}
