//! Whatever is done to the log, and wherever it is stopped: what was acknowledged is there, in its place, or said to be gone.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "storage_support/rig.rs"]
mod rig;
#[path = "storage_support/sim.rs"]
mod sim;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cometserver::broker::disk::DiskOptions;
use cometserver_core::broker::{Broker, BrokerError, Delete, Outcome};
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use rig::{Log, bounded, name};
use sim::{Fault, SimDisk};

const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Publish { channels: u8, retain: bool, size: u8 },
    Delete { channel: u8, history: bool },
    Settle,
    Close(u8),
    Fault { steps: u64, kind: u8 },
    Fill { free: u16 },
    Reopen,
    Crash,
}

/// What is known of a publication or a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Acknowledged.
    Done,
    /// Not acknowledged, or in doubt: it may have happened.
    Open,
    /// It is known not to have happened.
    Not,
}

#[derive(Clone, Debug)]
enum Deed {
    Publish {
        channels: Vec<&'static str>,
        text: String,
        retain: bool,
    },
    Delete {
        channel: &'static str,
        what: Delete,
    },
}

#[derive(Clone, Debug)]
struct Entry {
    deed: Deed,
    fate: Fate,
    position: u64,
    offsets: Vec<u64>,
    epochs: Vec<u64>,
}

struct World {
    disk: SimDisk,
    log: Log,
    entries: Vec<Entry>,
    /// Entries not answered yet.
    asked: Vec<usize>,
    keep: usize,
    rng: TestRng,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (1u8..16, any::<bool>(), 0u8..200).prop_map(|(channels, retain, size)| Step::Publish {
            channels,
            retain: retain && size % 3 == 0,
            size
        }),
        2 => (0u8..4, any::<bool>()).prop_map(|(channel, history)| Step::Delete { channel, history }),
        4 => Just(Step::Settle),
        1 => (0u8..4).prop_map(Step::Close),
        1 => (1u64..8, 0u8..3).prop_map(|(steps, kind)| Step::Fault { steps, kind }),
        1 => (0u16..3_000).prop_map(|free| Step::Fill { free }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

/// How large the disk is, in bytes, and whether it says so; none without a bound.
type Size = Option<(usize, bool)>;

fn world(keep: usize, size: Size, rng: TestRng) -> World {
    let disk = SimDisk::default();
    match size {
        None => {}
        Some((bytes, true)) => disk.set_capacity(Some(bytes)),
        Some((bytes, false)) => disk.set_quota(bytes),
    }
    let options = DiskOptions {
        segment: 600,
        garbage: 600,
        idle_grace: Duration::ZERO,
        ..DiskOptions::default()
    };
    let namespaces = bounded(keep, 1 << 40, 1 << 50);
    let log = Log::on(Arc::new(disk.clone()), Path::new("/log"), options, namespaces);
    World {
        disk,
        log,
        entries: Vec::new(),
        asked: Vec::new(),
        keep,
        rng,
    }
}

impl World {
    fn run(&mut self, step: Step) {
        match step {
            Step::Publish {
                channels,
                retain,
                size,
            } => {
                let channels: Vec<&str> = (0..4)
                    .filter(|bit| channels & 1 << bit != 0)
                    .map(|bit| CHANNELS[bit])
                    .collect();
                let text = format!("{}:{}", self.entries.len(), "x".repeat(usize::from(size)));
                let names = channels.iter().map(|channel| name(channel)).collect();
                self.log.submit(
                    |message| {
                        message.channels = names;
                        message.retain = retain;
                    },
                    &text,
                );
                self.ask(Deed::Publish {
                    channels,
                    text,
                    retain,
                });
            }
            Step::Delete { channel, history } => {
                let channel = CHANNELS[usize::from(channel)];
                let what = if history {
                    Delete::History
                } else {
                    Delete::Retained
                };
                self.log.delete(channel, what);
                self.ask(Deed::Delete { channel, what });
            }
            Step::Settle => self.settle(),
            Step::Close(channel) => {
                self.settle();
                self.log.log.close(&name(CHANNELS[usize::from(channel)]));
            }
            Step::Fault { steps, kind } => {
                let fault = [Fault::Full, Fault::Broken, Fault::Crash][usize::from(kind)];
                self.disk.fail_in(steps, fault);
            }
            Step::Fill { free } => {
                self.disk.set_ballast(0);
                self.disk.take_all_but(usize::from(free));
            }
            Step::Reopen => {
                self.settle();
                self.reopen(false);
            }
            Step::Crash => self.reopen(true),
        }
    }

    fn ask(&mut self, deed: Deed) {
        self.asked.push(self.entries.len());
        self.entries.push(Entry {
            deed,
            fate: Fate::Open,
            position: 0,
            offsets: Vec::new(),
            epochs: Vec::new(),
        });
    }

    fn settle(&mut self) {
        let answers = self.log.settle();
        self.take(answers);
    }

    fn take(&mut self, answers: Vec<rig::Answer>) {
        for ((_, answer), asked) in answers.into_iter().zip(self.asked.drain(..)) {
            let entry = &mut self.entries[asked];
            match answer {
                Ok(Outcome::Published { position, offsets }) => {
                    (entry.fate, entry.position, entry.offsets) = (Fate::Done, position, offsets);
                    if let Deed::Publish { channels, .. } = &entry.deed {
                        let epoch = |channel| self.log.log.channel(&name(channel)).map_or(0, |c| c.epoch);
                        entry.epochs = channels.iter().map(|channel| epoch(channel)).collect();
                    }
                }
                Ok(Outcome::Deleted { .. }) => entry.fate = Fate::Done,
                Err(BrokerError::Unavailable(_)) => entry.fate = Fate::Not,
                Err(_) => entry.fate = Fate::Open,
            }
        }
    }

    fn reopen(&mut self, crash: bool) {
        let disk = self.disk.clone();
        let rng = &mut self.rng;
        if crash {
            // Whatever is on its way does not arrive any more.
            disk.fail_in(1, Fault::Crash);
        }
        self.log.reopen_after(|_| {
            if crash {
                disk.crash(|below| (rng.next_u64() % below as u64) as usize);
            } else {
                disk.repair();
            }
        });
        let answers = self.log.left_over();
        self.take(answers);
        self.asked.clear();
        self.settle_open_ones();
        self.check();
    }

    /// What was in doubt has happened or not: the log says which, and from now on it stays so.
    fn settle_open_ones(&mut self) {
        let mut found = BTreeMap::new();
        for channel in CHANNELS {
            for (position, text) in self.log.history(channel, 0).0 {
                found.insert(text, position);
            }
        }
        for entry in &mut self.entries {
            if let Deed::Publish { text, .. } = &entry.deed
                && let Some(position) = found.get(text)
            {
                assert_ne!(entry.fate, Fate::Not, "it was said not to have happened: {text}");
                if entry.fate == Fate::Open {
                    (entry.fate, entry.position) = (Fate::Done, *position);
                }
            }
        }
    }

    fn check(&mut self) {
        for channel in CHANNELS {
            self.check_channel(channel);
        }
    }

    fn check_channel(&mut self, channel: &'static str) {
        let (history, gap) = self.log.history(channel, 0);
        let gap = gap.unwrap_or(0);
        let mut expected: Vec<(u64, String)> = Vec::new();
        let mut deleted_up_to = 0;
        let mut last = 0;
        let mut ever = 0;
        for entry in &self.entries {
            match &entry.deed {
                Deed::Publish { channels, text, .. }
                    if channels.contains(&channel) && entry.fate == Fate::Done =>
                {
                    expected.push((entry.position, text.clone()));
                    last = entry.position;
                    ever += 1;
                }
                Deed::Delete {
                    channel: of,
                    what: Delete::History,
                } if *of == channel => match entry.fate {
                    Fate::Done => {
                        expected.clear();
                        deleted_up_to = last;
                    }
                    Fate::Open => deleted_up_to = last,
                    Fate::Not => {}
                },
                _ => {}
            }
        }
        let positions: Vec<u64> = history.iter().map(|(at, _)| *at).collect();
        assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
        assert!(history.len() <= self.keep);
        for found in &history {
            assert!(
                expected.contains(found),
                "{channel}: nobody published {found:?}, or it was deleted"
            );
        }
        let newest = expected.len().saturating_sub(self.keep);
        for (place, wanted) in expected.iter().enumerate() {
            if !history.contains(wanted) {
                assert!(
                    place < newest || wanted.0 <= deleted_up_to,
                    "{channel}: {wanted:?} is lost; there is {history:?}, gap {gap}; {:#?}; {:?}",
                    self.entries,
                    self.log.log.stats()
                );
                assert!(
                    gap >= wanted.0,
                    "{channel}: {wanted:?} is gone, and only {gap} is said to be"
                );
            }
        }
        // A channel of which nothing is kept may be forgotten; then others that are new may be told of its loss.
        let is_doubtful = |entry: &Entry| {
            entry.fate == Fate::Open
                || matches!(
                    entry.deed,
                    Deed::Delete {
                        what: Delete::History,
                        ..
                    }
                )
        };
        if ever == history.len() && !self.entries.iter().any(is_doubtful) {
            assert_eq!(gap, 0, "{channel}: nothing is gone");
        }
        self.check_value(channel);
    }

    fn check_value(&mut self, channel: &'static str) {
        let mut possible = vec![None];
        for entry in &self.entries {
            let next = match &entry.deed {
                Deed::Publish {
                    channels,
                    text,
                    retain: true,
                } if channels.contains(&channel) => Some(text.clone()),
                Deed::Delete { channel: of, .. } if *of == channel => None,
                _ => continue,
            };
            match entry.fate {
                Fate::Done => possible = vec![next],
                Fate::Open => possible.push(next),
                Fate::Not => {}
            }
        }
        let value = self.log.value(channel);
        assert!(
            possible.contains(&value),
            "{channel}: the value is {value:?}, not one of {possible:?}"
        );
    }

    /// When all is deleted there is room again, however full the disk was.
    fn check_room(&mut self) {
        self.disk.repair();
        for channel in CHANNELS.into_iter().cycle() {
            self.log.delete(channel, Delete::History);
            self.ask(Deed::Delete {
                channel,
                what: Delete::History,
            });
            self.run(Step::Publish {
                channels: 1,
                retain: false,
                size: 3,
            });
            self.settle();
            let latest = self.entries.last().unwrap();
            if latest.fate == Fate::Done {
                return;
            }
            assert!(self.entries.len() < 10_000, "no room: {:?}", self.log.log.stats());
        }
    }

    /// Offsets and epochs: what is published now comes behind all that was acknowledged.
    fn check_offsets(&mut self) {
        self.disk.repair();
        self.disk.set_capacity(None);
        self.settle();
        for (index, channel) in CHANNELS.into_iter().enumerate() {
            self.run(Step::Publish {
                channels: 1 << index,
                retain: false,
                size: 3,
            });
            self.settle();
            let new = self.entries.last().unwrap().clone();
            assert_eq!(new.fate, Fate::Done, "the disk is in order");
            for old in &self.entries[..self.entries.len() - 1] {
                if let Deed::Publish { channels, .. } = &old.deed
                    && let Some(place) = channels.iter().position(|own| *own == channel)
                    && let Some(offset) = old.offsets.get(place)
                {
                    assert!(old.position < new.position);
                    assert!(
                        *offset < new.offsets[0] || old.epochs[place] != new.epochs[0],
                        "{channel}: offset {offset} is given again"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_is_there_or_said_to_be_gone(
        keep in prop_oneof![Just(3usize), Just(1000)],
        size in prop_oneof![Just(None), (20_000usize..60_000, any::<bool>()).prop_map(Some)],
        steps in steps(),
        rng in any::<u64>(),
    ) {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&rng.to_le_bytes());
        let rng = TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &seed);
        let mut world = world(keep, size, rng);
        for step in steps {
            world.run(step);
        }
        world.reopen(true);
        world.check_room();
        world.check_offsets();
        world.reopen(false);
    }
}
