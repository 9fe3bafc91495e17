//! The log stays within its bounds: of a history, of the disk, of what waits; and what gives way is counted and told.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use cometserver::broker::disk::{DiskLog, DiskOptions};
use cometserver_core::broker::{Broker, BrokerError, Delete, Fetch, Outcome, Page, Submission};
use cometserver_core::channel::ChannelName;
use cometserver_core::pattern::Pattern;
use cometserver_core::publication::{Attributes, Body, Kind, Message, Payload, Writer};
use rig::{Log, NOW, bounded, name, unbounded};
use sim::{Fault, SimDisk};

fn tiny() -> DiskOptions {
    DiskOptions {
        segment: 4096,
        garbage: 8192,
        ..DiskOptions::default()
    }
}

fn is_full(answer: &Result<Outcome, BrokerError>) -> bool {
    matches!(answer, Err(BrokerError::Unavailable(_)))
}

fn everything(channels: Vec<ChannelName>, patterns: Vec<Arc<Pattern>>) -> Fetch {
    Fetch {
        channels,
        patterns,
        until: u64::MAX,
        limit: 100,
        bytes: 1 << 20,
        ..Fetch::default()
    }
}

/// A thousand publications, in batches much smaller than a segment.
fn keep_busy(log: &mut Log) {
    for _ in 0..100 {
        for _ in 0..10 {
            log.publish(&["busy"], &"x".repeat(100));
        }
        assert!(log.settle().iter().all(|(_, answer)| answer.is_ok()));
    }
}

#[test]
fn a_history_is_bounded_by_count_bytes_and_age() {
    let mut log = Log::new(DiskOptions::default(), bounded(3, 1 << 20, 10_000));
    for text in ["1", "2", "3", "4"] {
        log.publish(&["a"], text);
    }
    log.settle();
    assert_eq!(log.texts("a"), ["2", "3", "4"]);
    *log.time.lock().unwrap() = NOW + 9_000;
    log.publish(&["b"], "young");
    log.settle();
    *log.time.lock().unwrap() = NOW + 10_000;
    assert_eq!(log.history("a", 0), (vec![], Some(4)), "too old");
    assert_eq!(log.texts("b"), ["young"]);
    log.reopen();
    assert_eq!(log.history("a", 0), (vec![], Some(4)), "that is not undone");
    assert_eq!(log.texts("b"), ["young"]);

    let mut log = Log::new(DiskOptions::default(), bounded(100, 3_000, 1 << 50));
    for text in ["1", "2", "3"] {
        log.publish(&["a"], &text.repeat(1_000));
    }
    log.settle();
    assert_eq!(log.texts("a").len(), 2, "of more than 1,000 bytes each");
    assert_eq!(log.log.channel(&name("a")).unwrap().publications, 2);
}

#[test]
fn what_grows_too_old_is_forgotten_without_anybody_asking_for_it() {
    let log = Log::new(DiskOptions::default(), bounded(100, 1 << 20, 1));
    log.publish(&["a"], "1");
    *log.time.lock().unwrap() = NOW + 2_000;
    log.publish(&["b"], "wakes whoever tidies up");
    log.wait_until(|log| {
        log.stats().publications == 0 || log.stats().position == 2 && log.stats().publications <= 1
    });
}

#[test]
fn other_bounds_hold_as_soon_as_they_are_configured() {
    let mut log = Log::new(DiskOptions::default(), unbounded());
    for position in 0..10 {
        log.publish(&["a"], &position.to_string());
    }
    log.settle();
    log.log.configure(&bounded(2, 1 << 20, 1 << 50));
    log.wait_until(|log| log.stats().publications == 2);
    assert_eq!(log.texts("a"), ["8", "9"]);
}

#[test]
fn a_busy_channel_does_not_fill_the_disk_and_a_quiet_one_keeps_what_it_has() {
    let mut log = Log::new(tiny(), bounded(5, 1 << 20, 1 << 50));
    log.retain("settings", "dark");
    log.publish(&["quiet"], "still here");
    log.submit(
        |message| {
            message.channels = vec![name("quiet"), name("busy")];
            message.attributes_mut().event = Some("both".into());
        },
        "in both",
    );
    let epoch = log.log.channel(&name("quiet")).unwrap().epoch;
    keep_busy(&mut log);
    log.wait_until(|log| log.stats().bytes < 40_000);
    let stats = log.log.stats();
    assert!(stats.removed_segments > 0 && stats.copied_bytes > 0, "{stats:?}");
    for _ in 0..2 {
        assert_eq!(log.value("settings").as_deref(), Some("dark"));
        assert_eq!(
            log.history("quiet", 0),
            (vec![(2, "still here".into()), (3, "in both".into())], None)
        );
        assert_eq!(log.texts("busy").len(), 5);
        let quiet = log.log.channel(&name("quiet")).unwrap();
        assert_eq!((quiet.epoch, quiet.offset), (epoch, 2));
        log.reopen();
    }
}

#[test]
fn an_open_channel_goes_on_counting_when_nothing_of_it_is_kept() {
    let mut log = Log::new(tiny(), bounded(5, 1 << 20, 1 << 50));
    log.publish(&["emptied"], "1");
    log.publish(&["emptied"], "2");
    log.delete("emptied", Delete::History);
    log.settle();
    let epoch = log.log.channel(&name("emptied")).unwrap().epoch;
    keep_busy(&mut log);
    log.wait_until(|log| log.stats().bytes < 40_000);
    log.reopen();
    assert_eq!(
        log.history("emptied", 1),
        (vec![], Some(2)),
        "its state was copied forward"
    );
    log.publish(&["emptied"], "3");
    assert_eq!(
        log.settle()[0].1,
        Ok(Outcome::Published {
            position: 1003,
            offsets: vec![3]
        })
    );
    assert_eq!(log.log.channel(&name("emptied")).unwrap().epoch, epoch);
}

#[test]
fn a_channel_that_nobody_has_and_that_keeps_nothing_is_forgotten_with_its_segment() {
    let mut log = Log::new(tiny(), bounded(5, 1 << 20, 1 << 50));
    log.publish(&["emptied"], "1");
    log.delete("emptied", Delete::History);
    log.settle();
    Broker::close(&*log.log, &name("emptied"));
    *log.time.lock().unwrap() += 600_000;
    keep_busy(&mut log);
    log.wait_until(|log| log.stats().channels == 1);
    for _ in 0..2 {
        assert!(log.log.channel(&name("emptied")).is_none());
        assert_eq!(
            log.history("emptied", 0),
            (vec![], Some(1)),
            "who has not seen it is told"
        );
        assert_eq!(log.history("emptied", 1), (vec![], None));
        log.reopen();
    }
}

#[test]
fn a_key_outlives_the_segment_it_came_in_as_long_as_it_is_in_force() {
    let mut log = Log::new(tiny(), bounded(5, 1 << 20, 1 << 50));
    for (key, retain) in [("gone", false), ("kept", true)] {
        let with_key = |message: &mut Message| {
            message.channels = vec![name(key), name("busy")];
            message.retain = retain;
            message.idempotency_key = Some(key.into());
        };
        log.submit(with_key, "under a key");
        if !retain {
            log.delete(key, Delete::History);
        }
        log.settle();
    }
    keep_busy(&mut log);
    log.wait_until(|log| log.stats().bytes < 40_000);
    log.reopen();
    let remembered = log.log.remembered();
    let keys: Vec<&str> = remembered.iter().map(|one| &*one.key).collect();
    assert_eq!(keys, ["gone", "kept"]);
    assert_eq!(remembered[0].places, [(name("gone"), 1), (name("busy"), 1)]);
    assert!(
        remembered
            .iter()
            .all(|one| one.digest == cometserver_core::idempotency::digest(b"under a key"))
    );
    *log.time.lock().unwrap() += 300_001;
    log.reopen();
    assert!(log.log.remembered().is_empty(), "no longer in force");
}

#[test]
fn at_the_ceiling_the_channels_with_most_give_way() {
    let options = DiskOptions {
        ceiling: 100_000,
        ..tiny()
    };
    let mut log = Log::new(options, unbounded());
    for _ in 0..5 {
        log.publish(&["modest"], &"m".repeat(100));
    }
    for _ in 0..40 {
        for _ in 0..10 {
            log.publish(&["greedy"], &"g".repeat(1_000));
        }
        log.settle();
        log.wait_until(|log| log.stats().bytes < 125_000);
    }
    let stats = log.log.stats();
    assert!(stats.trimmed_for_ceiling > 0, "{stats:?}");
    assert_eq!(log.texts("modest").len(), 5);
    let (found, gap) = log.history("greedy", 0);
    assert!(!found.is_empty() && gap.is_some());
}

#[test]
fn what_was_trimmed_does_not_come_back_in_part_with_the_next_start() {
    let mut namespaces = unbounded();
    let five = bounded(5, 1 << 20, 1 << 50).fallback;
    namespaces.listed.push((Pattern::new("busy", 64).unwrap(), five));
    let options = DiskOptions {
        ceiling: 60_000,
        ..tiny()
    };
    let mut log = Log::new(options, namespaces);
    let mut oldest = 0;
    for _ in 0..60 {
        // Old publications are copied behind young ones, so that the copy outlives its neighbours when both are trimmed.
        for _ in 0..10 {
            log.publish(&["numbers"], &"n".repeat(300));
            log.publish(&["busy"], &"b".repeat(300));
            log.settle();
        }
        log.reopen();
        // In one page: between two the log may be trimmed.
        let page = log.fetch(Fetch {
            limit: 1_000,
            ..everything(vec![name("numbers")], Vec::new())
        });
        let kept: Vec<u64> = page.stored.iter().map(|stored| stored.places[0].1).collect();
        oldest = kept[0];
        let newest = log.log.channel(&name("numbers")).unwrap().offset;
        assert_eq!(kept, (oldest..=newest).collect::<Vec<u64>>(), "a hole");
    }
    assert!(oldest > 1, "nothing was trimmed");
}

#[test]
fn a_channel_is_not_forgotten_while_copies_of_it_are_in_the_log() {
    let mut namespaces = unbounded();
    let five = bounded(5, 1 << 20, 1 << 50).fallback;
    namespaces.listed.push((Pattern::new("busy", 64).unwrap(), five));
    let options = DiskOptions {
        idle_grace: Duration::ZERO,
        idle_channels: 0,
        ..tiny()
    };
    let mut emptied = namespaces.clone();
    let nothing = bounded(0, 1 << 20, 1 << 50).fallback;
    emptied
        .listed
        .push((Pattern::new("numbers", 64).unwrap(), nothing));
    let mut log = Log::new(options, namespaces);
    for _ in 0..20 {
        log.publish(&["ballast"], &"x".repeat(900));
    }
    let mut before = (0, 0);
    for round in 0..60 {
        for _ in 0..20 {
            log.publish(&["numbers"], &"n".repeat(300));
            log.publish(&["busy"], &"b".repeat(600));
            log.settle();
        }
        let channel = log.log.channel(&name("numbers")).unwrap();
        if channel.epoch == before.0 {
            assert_eq!(channel.offset, before.1 + 20, "no offset is given twice");
        }
        before = (channel.epoch, channel.offset);
        // Emptied, and nobody has it any more; then more or less of what it had been in is cleared away.
        log.log.configure(&emptied);
        let keeps = |log: &DiskLog| {
            log.channel(&name("numbers"))
                .map_or(0, |channel| channel.publications)
        };
        log.wait_until(|log| keeps(log) == 0);
        Broker::close(&*log.log, &name("numbers"));
        for _ in 0..round % 12 {
            log.publish(&["busy"], &"b".repeat(900));
            log.settle();
        }
        log.reopen();
    }
}

#[test]
fn retained_values_alone_can_fill_the_log_and_then_it_says_so() {
    let options = DiskOptions {
        ceiling: 40_000,
        ..tiny()
    };
    let mut log = Log::new(options, bounded(0, 1 << 20, 1 << 50));
    let mut refused = 0;
    for value in 0..100 {
        log.retain(&format!("value/{value}"), &"v".repeat(1_000));
        refused += log.settle().iter().filter(|(_, answer)| is_full(answer)).count();
    }
    assert!(refused > 0);
    assert!(log.log.stats().bytes < 60_000, "{:?}", log.log.stats());
    for value in 0..100 {
        log.delete(&format!("value/{value}"), Delete::Retained);
    }
    log.settle();
    log.wait_until(|log| log.stats().bytes < 40_000);
    log.publish(&["a"], "room again");
    assert!(log.settle()[0].1.is_ok());
}

#[test]
fn a_full_disk_refuses_and_takes_again_when_there_is_room() {
    let disk = SimDisk::default();
    let mut log = Log::on(Arc::new(disk.clone()), Path::new("/log"), tiny(), unbounded());
    log.publish(&["a"], "before");
    log.settle();
    disk.set_full(true);
    log.publish(&["a"], "refused");
    assert!(is_full(&log.settle()[0].1));
    assert_eq!(log.texts("a"), ["before"], "reading goes on");
    disk.set_full(false);
    log.publish(&["a"], "after");
    assert!(matches!(&log.settle()[0].1, Ok(Outcome::Published { position: 2, offsets }) if *offsets == [2]));
    disk.crash(|_| 0);
    log.reopen();
    assert_eq!(log.texts("a"), ["before", "after"]);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_read_and_taken_up_again_when_there_is_room() {
    // A segment to go on with, and one that is long enough: then the next one cannot be begun.
    for options in [DiskOptions::default(), tiny()] {
        let disk = SimDisk::default();
        let mut log = Log::on(Arc::new(disk.clone()), Path::new("/log"), options, unbounded());
        log.publish(&["a"], &"before".repeat(1_000));
        log.settle();
        let before = log.texts("a");
        disk.set_full(true);
        log.reopen();
        let mark = log.log.mark();
        assert!(is_full(&Err(log.log.unwritten().unwrap().clone())));
        assert_eq!(log.texts("a"), before, "reading goes on");
        assert!(log.log.knows(mark, 1) && !log.log.knows(mark, 2));
        log.publish(&["a"], "refused");
        assert!(is_full(&log.settle()[0].1));
        disk.set_full(false);
        log.publish(&["a"], "after");
        assert!(matches!(
            &log.settle()[0].1,
            Ok(Outcome::Published { position: 2, .. })
        ));
        assert!(log.log.knows(mark, 2));
        disk.crash(|_| 0);
        log.reopen();
        assert_eq!(log.texts("a").last().unwrap(), "after");
        assert!(log.log.unwritten().is_none());
        assert!(log.log.knows(mark, 2), "cursors of that start are good");
    }
}

#[test]
fn what_a_failed_sync_leaves_in_doubt_is_never_told_as_stored() {
    let disk = SimDisk::default();
    let mut log = Log::on(Arc::new(disk.clone()), Path::new("/log"), tiny(), unbounded());
    log.publish(&["a"], "before");
    log.settle();
    disk.fail_in(2, Fault::Broken);
    log.publish(&["a"], "in doubt");
    assert!(matches!(log.settle()[0].1, Err(BrokerError::Unknown(_))));
    assert_eq!(log.texts("a"), ["before"]);
    log.publish(&["a"], "after");
    assert!(log.settle()[0].1.is_ok());
    let stats = log.log.stats();
    assert_eq!(
        (stats.sync_failures, stats.segments),
        (1, 2),
        "that file is not written to again"
    );
    // Whatever reached the disk of it.
    disk.crash(|_| 0);
    log.reopen();
    assert_eq!(log.texts("a"), ["before", "after"]);
}

#[test]
fn what_waits_is_bounded_and_one_that_is_larger_than_that_still_passes() {
    let options = DiskOptions {
        queue: 10_000,
        ..DiskOptions::default()
    };
    let mut log = Log::new(options, unbounded());
    log.publish(&["a"], &"huge".repeat(100_000));
    log.wait_until(|log| log.stats().queued_bytes == 0);
    assert_eq!(log.texts("a")[0].len(), 400_000);
    let mut refused = 0;
    for ticket in 0..2_000 {
        let submission = Submission {
            ticket,
            message: Arc::new(Message::text(name("a"), &"x".repeat(1_000))),
            channels: vec![name("a")],
            time: NOW,
        };
        match log.log.publish(submission) {
            Ok(waiting) => assert!((1_000..=10_000).contains(&waiting)),
            Err(error) => {
                assert!(matches!(error, BrokerError::Unavailable(_)));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "2 MB at once");
    log.wait_until(|log| log.stats().queued_bytes == 0);
    assert_eq!(log.settle().len(), 1 + 2_000 - refused);
}

#[test]
fn a_fetch_that_has_waited_too_long_is_refused_without_touching_the_disk() {
    for (patience, is_read) in [(Duration::ZERO, false), (rig::PATIENCE, true)] {
        let disk = SimDisk::default();
        let options = DiskOptions {
            patience,
            ..DiskOptions::default()
        };
        let mut log = Log::on(Arc::new(disk.clone()), Path::new("/log"), options, unbounded());
        log.publish(&["a"], "1");
        log.settle();
        let before = disk.reads();
        let answer = log.try_fetch(everything(vec![name("a")], Vec::new()));
        assert_eq!(answer.is_ok(), is_read, "{answer:?}");
        assert_eq!(disk.reads() > before, is_read);
    }
}

#[test]
fn fetches_with_patterns_leave_a_reader_to_channels_by_name() {
    let mut log = Log::new(DiskOptions::default(), unbounded());
    log.publish(&["a"], "1");
    log.settle();
    let (answered, answers) = channel();
    let mut gates = Vec::new();
    for _ in 0..2 {
        let (open, gate) = channel::<()>();
        gates.push(open);
        let answered = answered.clone();
        let held = move |page: Result<Page, BrokerError>| {
            let _ = gate.recv();
            answered.send(page.is_ok()).unwrap();
        };
        let pattern = Arc::new(Pattern::new("**", 64).unwrap());
        log.log
            .read(everything(Vec::new(), vec![pattern]), Box::new(held));
    }
    assert_eq!(
        log.texts("a"),
        ["1"],
        "while a reader is held by a pattern and another one waits"
    );
    drop(gates);
    assert!((0..2).all(|_| answers.recv_timeout(rig::PATIENCE) == Ok(true)));
}

#[test]
fn what_waits_is_counted_with_names_and_not_by_payloads_alone() {
    let mut log = Log::new(DiskOptions::default(), unbounded());
    let names: Vec<ChannelName> = (0..100).map(|number| name(&format!("c/{number}"))).collect();
    let submission = Submission {
        ticket: 0,
        message: Arc::new(Message::text(names[0].clone(), "")),
        channels: names,
        time: NOW,
    };
    assert!(log.log.publish(submission).unwrap() > 6_400);
    log.settle();
    log.wait_until(|log| log.stats().queued_bytes == 0);
}

#[test]
fn idle_channels_are_forgotten_beyond_a_number_and_that_is_told() {
    let options = DiskOptions {
        idle_channels: 10,
        ..tiny()
    };
    let mut log = Log::new(options, bounded(1, 1 << 20, 1 << 50));
    for number in 0..50 {
        let channel = format!("c/{number}");
        log.publish(&[&channel], "x");
        log.delete(&channel, Delete::History);
        log.settle();
        Broker::close(&*log.log, &name(&channel));
    }
    log.log.configure(&bounded(1, 1 << 20, 1 << 50));
    log.wait_until(|log| log.stats().channels <= 10);
    let (_, gap) = log.history("c/0", 0);
    assert!(gap >= Some(1));
    assert_eq!(log.history("c/49", 50), (vec![], None));
}

#[test]
fn everything_a_message_carries_comes_back() {
    let mut log = Log::new(DiskOptions::default(), unbounded());
    let writers = [
        None,
        Some(Writer::Cli),
        Some(Writer::Web),
        Some(Writer::Token(Bytes::from_static(b"\0token"))),
    ];
    let payloads = [
        Payload::stored(Kind::Json, Bytes::from_static(b" {\"a\": 1} ")).unwrap(),
        Payload::stored(Kind::Text, Bytes::from_static("é".as_bytes())).unwrap(),
        Payload::stored(Kind::Binary, Bytes::from_static(b"\xff\0")).unwrap(),
        Payload::stored(Kind::Binary, Bytes::new()).unwrap(),
    ];
    let mut sent = Vec::new();
    for (writer, payload) in writers.into_iter().zip(payloads) {
        let attributes = Attributes {
            event: writer.is_some().then(|| "event".into()),
            id: Some("id".into()),
            user: Some("usér".into()),
            exclude_session: writer.is_none().then(|| "session".into()),
            tags: vec![("k".into(), "v".into()), ("".into(), "".into())],
            writer,
        };
        sent.push(Body::Message {
            payload: payload.clone(),
            attributes: Some(Box::new(attributes.clone())),
            retain: true,
        });
        log.submit(
            |message| {
                message.payload = payload;
                message.retain = true;
                message.attributes = Some(Box::new(attributes));
                message.idempotency_key = Some("key".into());
            },
            "",
        );
    }
    log.settle();
    log.reopen();
    let page = log.fetch(cometserver_core::broker::Fetch {
        channels: vec![name("a")],
        until: 4,
        limit: 9,
        bytes: 99,
        ..Default::default()
    });
    let got: Vec<Body> = page.stored.iter().map(|stored| stored.body.clone()).collect();
    assert_eq!(got, sent);
    assert!(page.stored.iter().all(|stored| stored.time == NOW));
}
