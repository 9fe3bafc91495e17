//! A broker that does everything as late as the contract allows: it commits when the test says so, and answers cold.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use cometserver_core::broker::{
    Broker, BrokerError, Committed, Fetch, Fetched, Known, Page, Stored, Submission,
};
use cometserver_core::channel::ChannelName;
use cometserver_core::publication::Body;

#[derive(Default)]
struct StoredChannel {
    epoch: u64,
    offset: u64,
    position: u64,
    kept: VecDeque<u64>,
    /// The position of the newest that is gone.
    gone: u64,
}

struct Inner {
    position: u64,
    mark: u32,
    /// Each start's mark with the position it was written at.
    marks: Vec<(u32, u64)>,
    keep: usize,
    waiting: VecDeque<Submission>,
    stored: BTreeMap<u64, Stored>,
    channels: HashMap<ChannelName, StoredChannel>,
    reads: VecDeque<(Fetch, Fetched)>,
    refuse: bool,
}

/// See the module. Keeps a number of publications per channel.
pub(crate) struct TestBroker {
    inner: Mutex<Inner>,
}

impl TestBroker {
    pub(crate) fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                position: 0,
                mark: 1,
                marks: vec![(1, 0)],
                keep,
                waiting: VecDeque::new(),
                stored: BTreeMap::new(),
                channels: HashMap::new(),
                reads: VecDeque::new(),
                refuse: false,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The next start: what was not committed is gone, the rest is as it was.
    pub(crate) fn restart(&self, mark: u32) {
        let mut inner = self.inner();
        inner.mark = mark;
        let position = inner.position;
        inner.marks.push((mark, position));
        inner.waiting.clear();
        inner.reads.clear();
    }

    /// From now on nothing is taken.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.inner().refuse = refuse;
    }

    /// How many submissions wait.
    pub(crate) fn waiting(&self) -> usize {
        self.inner().waiting.len()
    }

    /// The first submission waiting trades places with another: order is given at the commit.
    pub(crate) fn reorder(&self, with: usize) {
        let mut inner = self.inner();
        if with < inner.waiting.len() {
            inner.waiting.swap(0, with);
        }
    }

    /// Commits the first `count` submissions, but fails those whose bit is set; to be handed to the hub.
    pub(crate) fn batch(&self, count: usize, failing: u32) -> Vec<Committed> {
        let mut inner = self.inner();
        let count = count.min(inner.waiting.len());
        let batch: Vec<Submission> = inner.waiting.drain(..count).collect();
        batch
            .into_iter()
            .enumerate()
            .map(|(index, submission)| inner.commit(submission, index < 32 && failing & (1 << index) != 0))
            .collect()
    }

    /// How many reads wait.
    pub(crate) fn reads(&self) -> usize {
        self.inner().reads.len()
    }

    /// Answers one of the reads.
    pub(crate) fn answer(&self, which: usize) -> bool {
        let (page, fetched) = {
            let mut inner = self.inner();
            let Some((fetch, fetched)) = inner.reads.remove(which) else {
                return false;
            };
            (inner.page(&fetch), fetched)
        };
        fetched(Ok(page));
        true
    }
}

impl Inner {
    fn commit(&mut self, submission: Submission, fail: bool) -> Committed {
        let ticket = submission.ticket;
        if fail {
            let result = Err(BrokerError::Unknown("the test said so".into()));
            return Committed { ticket, result };
        }
        self.position += 1;
        let position = self.position;
        let message = submission.message;
        let mut places: Vec<(ChannelName, u64)> = Vec::new();
        let mut offsets = Vec::new();
        for name in &message.channels {
            let channel = self
                .channels
                .entry(name.clone())
                .or_insert_with(|| StoredChannel {
                    epoch: position,
                    ..StoredChannel::default()
                });
            if channel.position != position {
                channel.offset += 1;
                channel.position = position;
                channel.kept.push_back(position);
                places.push((name.clone(), channel.offset));
            }
            offsets.push(channel.offset);
        }
        let body = Body::Message {
            payload: message.payload.clone(),
            attributes: message.attributes.clone(),
            retain: message.retain,
        };
        self.stored.insert(
            position,
            Stored {
                position,
                time: submission.time,
                places: places.clone(),
                body,
            },
        );
        for (name, _) in places {
            self.trim(&name);
        }
        Committed {
            ticket,
            result: Ok((position, offsets)),
        }
    }

    fn trim(&mut self, name: &ChannelName) {
        let keep = self.keep;
        let channel = self.channels.get_mut(name).unwrap();
        let mut gone = Vec::new();
        while channel.kept.len() > keep {
            let position = channel.kept.pop_front().unwrap();
            channel.gone = position;
            gone.push(position);
        }
        for position in gone {
            let kept = |channel: &StoredChannel| channel.kept.contains(&position);
            if !self.channels.values().any(kept) {
                self.stored.remove(&position);
            }
        }
    }

    fn page(&self, fetch: &Fetch) -> Page {
        let selected = |name: &ChannelName| {
            fetch.channels.contains(name) || fetch.patterns.iter().any(|pattern| pattern.matches_name(name))
        };
        let channels = || self.channels.iter().filter(|(name, _)| selected(name));
        let mut positions: Vec<u64> = channels()
            .flat_map(|(_, channel)| channel.kept.iter().copied())
            .filter(|position| *position > fetch.after && *position <= fetch.until)
            .collect();
        positions.sort_unstable();
        positions.dedup();
        let limit = fetch.limit.max(1);
        let reached = if positions.len() > limit {
            positions[limit - 1]
        } else {
            fetch.until
        };
        let stored = positions
            .iter()
            .take(limit)
            .map(|at| self.stored[at].clone())
            .collect();
        let gaps = channels()
            .filter(|(_, channel)| channel.gone > fetch.after)
            .map(|(name, channel)| (name.clone(), channel.gone.min(reached)))
            .collect();
        Page {
            stored,
            reached,
            gaps,
            asked: None,
        }
    }
}

impl Broker for TestBroker {
    fn position(&self) -> u64 {
        self.inner().position
    }

    fn mark(&self) -> u32 {
        self.inner().mark
    }

    fn knows(&self, mark: u32, position: u64) -> bool {
        let inner = self.inner();
        let Some(index) = inner.marks.iter().position(|(own, _)| *own == mark) else {
            return false;
        };
        // Under a mark nothing was issued beyond where the next one begins.
        let end = inner.marks.get(index + 1).map_or(inner.position, |(_, at)| *at);
        position <= end
    }

    fn channel(&self, name: &ChannelName) -> Option<Known> {
        self.inner().channels.get(name).map(|channel| Known {
            epoch: channel.epoch,
            offset: channel.offset,
            position: channel.position,
        })
    }

    fn publish(&self, submission: Submission) -> Result<(), BrokerError> {
        let mut inner = self.inner();
        if inner.refuse {
            return Err(BrokerError::Unavailable("the test said so".into()));
        }
        inner.waiting.push_back(submission);
        Ok(())
    }

    fn read(&self, fetch: Fetch, fetched: Fetched) {
        self.inner().reads.push_back((fetch, fetched));
    }
}
