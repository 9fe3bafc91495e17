//! The hub is told of batches in their order, while the disk is busy with the next one.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use cometserver::broker::disk::DiskOptions;
use cometserver_core::broker::{BrokerError, Committed, Outcome};
use rig::{Log, PATIENCE, unbounded};
use sim::{Gate, SimDisk};

/// The thread that is held where it writes.
const WRITER: &str = "log-writer";

/// A log whose disk and whose hub are as slow as the test likes.
struct Slow {
    /// The hub is being told of a batch.
    telling: Receiver<()>,
    /// It takes it, or the next one.
    take: Sender<()>,
    told: Receiver<Vec<Committed>>,
    disk: SimDisk,
    /// Closed after the hub has stopped waiting, so that a test that fails ends.
    log: Log,
}

fn slow() -> Slow {
    let disk = SimDisk::default();
    let options = DiskOptions::default();
    let log = Log::on(Arc::new(disk.clone()), Path::new("/log"), options, unbounded());
    let ((begun, telling), (take, taken), (tell, told)) = (channel(), channel(), channel());
    let taken = Mutex::new(taken);
    log.log.set_commit(move |batch| {
        let _ = begun.send(());
        let _ = taken.lock().unwrap().recv();
        let _ = tell.send(batch);
    });
    Slow {
        telling,
        take,
        told,
        disk,
        log,
    }
}

impl Slow {
    /// The first publication is safe, and the writer about to write the second.
    fn write_first(&self) -> Gate {
        let first = self.disk.hold(WRITER);
        self.log.publish(&["a"], "1");
        first.reached();
        self.log.publish(&["a"], "2");
        let second = self.disk.hold(WRITER);
        first.open();
        second.reached();
        second
    }

    /// The same, and the hub is being told of the first.
    fn begin(&self) -> Gate {
        let second = self.write_first();
        self.telling.recv_timeout(PATIENCE).expect("the hub is told");
        second
    }

    /// The next that the hub was told.
    fn told(&self) -> Vec<Committed> {
        self.told.recv_timeout(PATIENCE).expect("the hub is told")
    }
}

fn position(committed: &Committed) -> u64 {
    match committed.result {
        Ok(Outcome::Published { position, .. }) => position,
        ref other => panic!("it was published: {other:?}"),
    }
}

fn is_in_doubt(committed: &Committed) -> bool {
    matches!(committed.result, Err(BrokerError::Unknown(_)))
}

#[test]
fn the_next_batches_are_written_while_the_hub_is_told_and_it_is_told_in_their_order() {
    let slow = slow();
    let mut writing = slow.begin();
    for text in ["3", "4"] {
        slow.log.publish(&["a"], text);
        let next = slow.disk.hold(WRITER);
        writing.open();
        next.reached();
        writing = next;
    }
    writing.open();
    slow.log.wait_until(|log| log.stats().position == 4);
    assert!(slow.told.try_recv().is_err(), "the hub has not taken the first");
    let mut told = Vec::new();
    while told.len() < 4 {
        slow.take.send(()).unwrap();
        told.extend(slow.told().iter().map(position));
    }
    assert_eq!(told, [1, 2, 3, 4]);
}

#[test]
fn what_is_not_told_yet_still_counts_as_waiting() {
    let slow = slow();
    slow.begin().open();
    slow.log.wait_until(|log| log.stats().position == 2);
    let both = slow.log.log.stats().queued_bytes;
    for left in [both / 2, 0] {
        slow.take.send(()).unwrap();
        slow.log.wait_until(|log| log.stats().queued_bytes == left);
    }
}

#[test]
fn closing_the_log_waits_until_everything_is_told() {
    let slow = slow();
    let writing = slow.begin();
    let log = slow.log.log.clone();
    let closing = thread::spawn(move || log.shut_down());
    writing.open();
    for _ in 0..2 {
        slow.take.send(()).unwrap();
    }
    closing.join().unwrap();
    let told: Vec<_> = slow.told.try_iter().flatten().collect();
    assert_eq!(told.iter().map(position).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn whoever_closes_the_log_while_being_told_waits_for_nobody_who_waits_for_them() {
    let slow = slow();
    let (tell, told) = channel();
    let log = Arc::downgrade(&slow.log.log);
    slow.log.log.set_commit(move |batch| {
        let _ = tell.send(batch);
        // None: the test has seen what it wanted.
        if let Some(log) = log.upgrade() {
            log.shut_down();
        }
    });
    slow.write_first().open();
    // One by one, or both at once if the first is not taken yet.
    let mut positions = Vec::new();
    while positions.len() < 2 {
        let batch = told.recv_timeout(PATIENCE).expect("both are told");
        positions.extend(batch.iter().map(position));
    }
    assert_eq!(positions, [1, 2]);
}

#[test]
fn whoever_closes_the_log_while_the_writer_tells_waits_for_nobody() {
    let log = Log::new(DiskOptions::default(), unbounded());
    let (closed, told) = channel();
    let itself = Arc::downgrade(&log.log);
    log.log.set_commit(move |_| {
        if let Some(log) = itself.upgrade() {
            log.shut_down();
        }
        let _ = closed.send(());
    });
    log.publish(&["a"], "1");
    told.recv_timeout(PATIENCE).expect("it does not wait for itself");
}

#[test]
fn when_the_writer_panics_what_it_had_stored_is_told_once_and_as_stored() {
    let slow = slow();
    let writing = slow.begin();
    let (failed, failure) = channel();
    slow.log.log.on_failure(move |_| failed.send(()).unwrap());
    slow.disk.set_panicking(Some(WRITER));
    writing.open();
    failure.recv_timeout(PATIENCE).expect("it panics");
    for _ in 0..2 {
        slow.take.send(()).unwrap();
    }
    assert_eq!(slow.told().iter().map(position).collect::<Vec<_>>(), [1]);
    let rest = slow.told();
    assert!(rest.len() == 1 && is_in_doubt(&rest[0]), "{rest:?}");
    slow.disk.set_panicking(None);
    slow.log.log.shut_down();
    assert_eq!(slow.told.try_iter().count(), 0, "nobody is answered twice");
}

#[test]
fn when_telling_panics_everybody_is_answered_once() {
    let slow = slow();
    let (tell, told) = channel();
    let first = Mutex::new(true);
    slow.log.log.set_commit(move |batch| {
        let is_first = std::mem::take(&mut *first.lock().unwrap());
        assert!(!is_first, "the test said so");
        let _ = tell.send(batch);
    });
    let (failed, failure) = channel();
    slow.log
        .log
        .on_failure(move |why| failed.send(why.to_owned()).unwrap());
    let writing = slow.write_first();
    let why = failure.recv_timeout(PATIENCE).expect("it panics");
    assert!(why.contains("log-teller"), "{why}");
    writing.open();
    let answers = told.recv_timeout(PATIENCE).expect("both are answered");
    assert!(
        answers.len() == 2 && answers.iter().all(is_in_doubt),
        "{answers:?}"
    );
    slow.log.log.shut_down();
    assert_eq!(told.try_iter().count(), 0, "nobody is answered twice");
}
