//! A hub with the log, in this process, and publishers that each have one publication under way.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use cometserver::broker::disk::{DiskLog, DiskOptions};
use cometserver_core::channel::ChannelName;
use cometserver_core::hub::{Hub, Options, Published};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::publication::Message;

use crate::raw::{Recorder, Step, Steps};

/// Publications go to so many channels in turn.
const CHANNELS: usize = 10;

/// What is done at the door.
pub(crate) struct Load<'a> {
    pub(crate) publishers: usize,
    /// Bytes of each.
    pub(crate) payload: usize,
    pub(crate) durability: &'a str,
    /// For about so long.
    pub(crate) millis: u64,
    /// How long a sync takes, if it is not the disk that says so.
    pub(crate) sync: Option<Duration>,
}

/// What was done at the door.
pub(crate) struct Measured {
    pub(crate) publications: u64,
    pub(crate) time: Duration,
    /// Of all threads: the publishers', the hub's, the log's.
    cpu: Duration,
    /// What the disk was asked for meanwhile.
    pub(crate) steps: Vec<Step>,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.publications as f64 / self.time.as_secs_f64()
    }

    /// CPU time of a publication, in microseconds.
    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.publications as f64
    }
}

/// Publishers whose publication was answered.
#[derive(Default)]
struct Free {
    publishers: Mutex<usize>,
    bell: Condvar,
}

impl Free {
    /// Wakes who waits as a shard's mailbox does: only if nothing lay there, as it is awake otherwise, or about to be.
    fn one(&self) {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        *publishers += 1;
        let is_first = *publishers == 1;
        drop(publishers);
        if is_first {
            self.bell.notify_one();
        }
    }

    /// Takes all, waiting for the first.
    fn take(&self) -> usize {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        while *publishers == 0 {
            publishers = self.bell.wait(publishers).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut *publishers)
    }
}

/// A hub whose publications go to a log in this folder, which keeps so many of each channel.
pub(crate) fn open(
    folder: &Path,
    durability: Durability,
    history: Bounds,
    disk: Recorder,
) -> anyhow::Result<(Arc<Hub>, Arc<DiskLog>)> {
    let namespaces = Namespaces::uniform(Namespace {
        durability,
        history,
        ..Namespace::default()
    });
    let log = DiskLog::open_on(Arc::new(disk), folder, DiskOptions::default(), &namespaces)?;
    let options = Options {
        namespaces,
        ..Options::default()
    };
    let hub = Arc::new(Hub::with_broker(options, log.clone()));
    let committed = hub.clone();
    log.set_commit(move |batch| committed.commit(batch, now()));
    Ok((hub, log))
}

/// Lets publishers publish for about this time.
pub(crate) fn measure(folder: &Path, load: &Load<'_>) -> anyhow::Result<Measured> {
    let (publishers, time) = (load.publishers, Duration::from_millis(load.millis));
    let durability = match load.durability {
        "memory" => Durability::Memory,
        "buffered" => Durability::Buffered,
        _ => Durability::Committed,
    };
    let folder = folder.join("door");
    let steps = Steps::default();
    let recorder = Recorder::new(steps.clone(), load.sync);
    let (hub, log) = open(&folder, durability, Bounds::default(), recorder)?;
    let text = "x".repeat(load.payload);
    // Until it runs evenly.
    publish(&hub, publishers, &text, Duration::from_millis(100), CHANNELS)?;
    steps.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let before = cpu_time()?;
    let (publications, time) = publish(&hub, publishers, &text, time, CHANNELS)?;
    let cpu = cpu_time()?.saturating_sub(before);
    let steps = std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner));
    log.shut_down();
    fs::remove_dir_all(&folder)?;
    Ok(Measured {
        publications,
        time,
        cpu,
        steps,
    })
}

/// What the threads that there are have used, as the scheduler counts it.
fn cpu_time() -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir("/proc/self/task").context("CPU time is told by Linux only")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let used = text.split_whitespace().next();
        nanoseconds += used.and_then(|used| used.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Publishes for this time from so many publishers, and waits for the last answer.
pub(crate) fn publish(
    hub: &Hub,
    publishers: usize,
    text: &str,
    time: Duration,
    channels: usize,
) -> anyhow::Result<(u64, Duration)> {
    let channels: Result<Vec<ChannelName>, _> = (0..channels)
        .map(|n| ChannelName::new(format!("channel-{n}")))
        .collect();
    let channels = channels.context("a plain name")?;
    let free = Arc::new(Free::default());
    let (mut published, mut idle) = (0u64, publishers);
    let begun = Instant::now();
    loop {
        if begun.elapsed() < time {
            let now = now();
            for _ in 0..std::mem::take(&mut idle) {
                let channel = channels[published as usize % channels.len()].clone();
                published += 1;
                let answered = hub.publish(Message::text(channel, text), now, &mut || {
                    let free = free.clone();
                    Box::new(move |answer| {
                        assert!(answer.is_ok(), "a measurement of failures: {answer:?}");
                        free.one();
                    })
                })?;
                if !matches!(answered, Published::Pending) {
                    free.one();
                }
            }
        } else if idle == publishers {
            return Ok((published, begun.elapsed()));
        }
        idle += free.take();
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
