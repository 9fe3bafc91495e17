//! A broker that does everything as late as the contract allows: it commits when the test says so, and answers cold.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use cometserver_core::broker::{
    Broker, BrokerError, Committed, Delete, Deletion, Fetch, Fetched, Known, Outcome, Page, Remembered,
    Stored, StoredChannel, Submission, Want,
};
use cometserver_core::channel::ChannelName;
use cometserver_core::idempotency;
use cometserver_core::namespace::Namespaces;
use cometserver_core::publication::Body;

/// What is kept of a channel.
#[derive(Default)]
struct Kept {
    epoch: u64,
    offset: u64,
    position: u64,
    history: VecDeque<u64>,
    retained: u64,
    /// The position of the newest that is gone.
    gone: u64,
}

/// What has been taken.
enum Taken {
    Submission(Submission),
    Deletion(Deletion),
}

struct Inner {
    position: u64,
    mark: u32,
    /// Each start's mark with the position it was written at.
    marks: Vec<(u32, u64)>,
    /// How many publications a channel keeps, unless namespaces say so.
    keep: usize,
    namespaces: Option<Namespaces>,
    waiting: VecDeque<Taken>,
    stored: BTreeMap<u64, Stored>,
    channels: HashMap<ChannelName, Kept>,
    open: HashSet<ChannelName>,
    /// The newest that is gone of channels that are no longer known by name.
    forgotten: u64,
    epoch: u64,
    keys: Vec<Remembered>,
    reads: VecDeque<(Fetch, Fetched)>,
    refuse: bool,
    /// Texts of everything that was ever committed, by position.
    texts: Vec<String>,
    /// Deletions that were committed since the start, by ticket.
    deletions: HashMap<u64, (ChannelName, Delete)>,
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
                namespaces: None,
                waiting: VecDeque::new(),
                stored: BTreeMap::new(),
                channels: HashMap::new(),
                open: HashSet::new(),
                forgotten: 0,
                epoch: 0,
                keys: Vec::new(),
                reads: VecDeque::new(),
                refuse: false,
                texts: Vec::new(),
                deletions: HashMap::new(),
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
        inner.open.clear();
        inner.deletions.clear();
        inner.forget_empty();
    }

    /// From now on nothing is taken.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.inner().refuse = refuse;
    }

    /// How many submissions and deletions wait.
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

    /// Commits the first `count` that wait, but fails those whose bit is set; to be handed to the hub.
    pub(crate) fn batch(&self, count: usize, failing: u32) -> Vec<Committed> {
        let mut inner = self.inner();
        let count = count.min(inner.waiting.len());
        let batch: Vec<Taken> = inner.waiting.drain(..count).collect();
        batch
            .into_iter()
            .enumerate()
            .map(|(index, taken)| inner.commit(taken, index < 32 && failing & (1 << index) != 0))
            .collect()
    }

    /// The oldest of a channel's history have grown too old.
    pub(crate) fn expire(&self, name: &ChannelName, count: usize) {
        let mut inner = self.inner();
        let Some(channel) = inner.channels.get(name) else {
            return;
        };
        let keep = channel.history.len().saturating_sub(count);
        inner.trim(name, keep);
        inner.forget_empty();
    }

    /// One of a channel's history is damaged; what is older and what is younger is not.
    pub(crate) fn lose(&self, name: &ChannelName, position: u64) {
        let mut inner = self.inner();
        let channel = inner.channels.get_mut(name).expect("it is stored");
        channel.history.retain(|kept| *kept != position);
        channel.gone = channel.gone.max(position);
    }

    /// The text of what was committed at a position, be it kept or not.
    pub(crate) fn text(&self, position: u64) -> String {
        self.inner().texts[position as usize - 1].clone()
    }

    /// What was deleted under a ticket.
    pub(crate) fn deletion(&self, ticket: u64) -> (ChannelName, Delete) {
        self.inner().deletions[&ticket].clone()
    }

    /// Is it open?
    pub(crate) fn is_open(&self, name: &ChannelName) -> bool {
        self.inner().open.contains(name)
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

    /// Fails one of the reads.
    pub(crate) fn fail(&self, which: usize) -> bool {
        let Some((_, fetched)) = self.inner().reads.remove(which) else {
            return false;
        };
        fetched(Err(BrokerError::Unavailable("the test said so".into())));
        true
    }
}

impl Inner {
    fn commit(&mut self, taken: Taken, fail: bool) -> Committed {
        let (Taken::Submission(Submission { ticket, .. }) | Taken::Deletion(Deletion { ticket, .. })) = taken;
        if fail {
            let result = Err(BrokerError::Unknown("the test said so".into()));
            return Committed { ticket, result };
        }
        let outcome = match taken {
            Taken::Submission(submission) => self.store(submission),
            Taken::Deletion(deletion) => self.delete(&deletion),
        };
        self.forget_empty();
        Committed {
            ticket,
            result: Ok(outcome),
        }
    }

    fn store(&mut self, submission: Submission) -> Outcome {
        self.position += 1;
        let position = self.position;
        let message = submission.message;
        self.texts
            .push(String::from_utf8_lossy(message.payload.bytes()).into_owned());
        let mut places: Vec<(ChannelName, u64)> = Vec::new();
        let mut replaced = Vec::new();
        for name in &submission.channels {
            assert!(self.open.contains(name), "{name:?} is published in, but not open");
            let channel = self.channels.get_mut(name).unwrap();
            channel.offset += 1;
            channel.position = position;
            channel.history.push_back(position);
            if message.retain {
                let old = std::mem::replace(&mut channel.retained, position);
                if old != 0 && !channel.history.contains(&old) {
                    channel.gone = channel.gone.max(old);
                    replaced.push(old);
                }
            }
            places.push((name.clone(), channel.offset));
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
        if let Some(key) = &message.idempotency_key {
            self.keys.push(Remembered {
                key: key.clone(),
                digest: idempotency::digest(message.payload.bytes()),
                time: submission.time,
                position,
                places: places.clone(),
            });
        }
        let offsets = places.iter().map(|(_, offset)| *offset).collect();
        for (name, _) in places {
            let keep = match &self.namespaces {
                Some(namespaces) => namespaces.of(&name).history.count,
                None => self.keep,
            };
            self.trim(&name, keep);
        }
        self.release(&replaced);
        Outcome::Published { position, offsets }
    }

    fn delete(&mut self, deletion: &Deletion) -> Outcome {
        assert!(
            self.open.contains(&deletion.channel),
            "{:?} is not open",
            deletion.channel
        );
        let channel = self.channels.get_mut(&deletion.channel).unwrap();
        let retained = std::mem::take(&mut channel.retained);
        let outlived = retained != 0 && !channel.history.contains(&retained);
        let mut count = usize::from(retained != 0);
        if outlived {
            channel.gone = channel.gone.max(retained);
            self.release(&[retained]);
        }
        if deletion.what == Delete::History {
            count = usize::from(outlived) + self.trim(&deletion.channel, 0);
        }
        self.deletions
            .insert(deletion.ticket, (deletion.channel.clone(), deletion.what));
        let gone = self.channels[&deletion.channel].gone;
        Outcome::Deleted { count, gone }
    }

    /// Lets go all but the newest `keep` of a channel's history. Returns how many are gone.
    fn trim(&mut self, name: &ChannelName, keep: usize) -> usize {
        let channel = self.channels.get_mut(name).unwrap();
        let mut gone = Vec::new();
        while channel.history.len() > keep {
            let position = channel.history.pop_front().unwrap();
            channel.gone = channel.gone.max(position);
            gone.push(position);
        }
        self.release(&gone);
        gone.len()
    }

    fn release(&mut self, positions: &[u64]) {
        for position in positions {
            let keeps = |channel: &Kept| channel.retained == *position || channel.history.contains(position);
            if !self.channels.values().any(keeps) {
                self.stored.remove(position);
            }
        }
    }

    /// Channels that are not open and keep nothing are no longer known by name: as early as the contract allows.
    fn forget_empty(&mut self) {
        let Self {
            channels,
            open,
            forgotten,
            ..
        } = self;
        channels.retain(|name, channel| {
            let known = open.contains(name) || !channel.history.is_empty() || channel.retained != 0;
            if !known {
                *forgotten = channel.position.max(*forgotten);
            }
            known
        });
    }

    fn page(&self, fetch: &Fetch) -> Page {
        if fetch.want == Want::Retained {
            return self.retained(fetch);
        }
        let selected = |name: &ChannelName| {
            fetch.channels.contains(name) || fetch.patterns.iter().any(|pattern| pattern.matches_name(name))
        };
        let channels = || self.channels.iter().filter(|(name, _)| selected(name));
        let mut positions: Vec<u64> = channels()
            .flat_map(|(_, channel)| channel.history.iter().copied())
            .filter(|position| *position > fetch.after && *position <= fetch.until)
            .collect();
        positions.sort_unstable();
        positions.dedup();
        let (end, before) = match fetch.want {
            Want::Newest => {
                positions.reverse();
                (fetch.after, 1)
            }
            _ => (fetch.until, 0),
        };
        let mut bytes = 0;
        // As many as allowed: one more when there is room for a part of it.
        let fits = |at: &&u64| {
            let room = bytes == 0 || bytes < fetch.bytes;
            bytes += self.stored[*at].body.payload_len().max(1);
            room
        };
        let taken = positions.iter().take(fetch.limit.max(1)).take_while(fits).count();
        let reached = match positions.get(taken) {
            Some(_) => positions[taken - 1] - before,
            None => end,
        };
        let limit = if fetch.want == Want::Newest {
            u64::MAX
        } else {
            reached
        };
        let gaps = channels()
            .filter(|(_, channel)| channel.gone > fetch.after)
            .map(|(name, channel)| (name.clone(), channel.gone.min(limit)));
        let unknown = fetch
            .channels
            .iter()
            .filter(|name| !self.channels.contains_key(name));
        let unknown = unknown
            .filter(|_| self.forgotten > fetch.after)
            .map(|name| (name.clone(), self.forgotten.min(limit)));
        Page {
            stored: positions[..taken]
                .iter()
                .map(|at| self.stored[at].clone())
                .collect(),
            reached,
            gaps: gaps.chain(unknown).collect(),
            forgotten: self.forgotten,
            ..Page::default()
        }
    }

    fn retained(&self, fetch: &Fetch) -> Page {
        let channels = fetch.channels.iter().filter_map(|name| self.channels.get(name));
        let mut positions: Vec<u64> = channels
            .map(|channel| channel.retained)
            .filter(|position| *position != 0 && *position <= fetch.until)
            .collect();
        positions.sort_unstable();
        positions.dedup();
        let mut bytes = 0;
        let fits = |at: &&u64| {
            bytes += self.stored[*at].body.payload_len().max(1);
            bytes <= fetch.bytes
        };
        let taken = positions.iter().take_while(fits).count();
        let taken = taken.max(1).min(positions.len());
        let is_cut = taken < positions.len();
        positions.truncate(taken);
        let last = positions.last().copied().filter(|_| is_cut);
        Page {
            stored: positions.iter().map(|at| self.stored[at].clone()).collect(),
            reached: last.unwrap_or(fetch.until),
            ..Page::default()
        }
    }

    fn channel(&self, name: &ChannelName) -> Option<StoredChannel> {
        let channel = self.channels.get(name)?;
        Some(StoredChannel {
            name: name.clone(),
            number: channel.epoch,
            epoch: channel.epoch,
            offset: channel.offset,
            publications: channel.history.len(),
            bytes: channel
                .history
                .iter()
                .map(|at| self.stored[at].body.payload_len())
                .sum(),
            retained: channel.retained,
        })
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

    fn remembered(&self) -> Vec<Remembered> {
        self.inner().keys.clone()
    }

    fn configure(&self, namespaces: &Namespaces) {
        self.inner().namespaces = Some(namespaces.clone());
    }

    fn open(&self, name: &ChannelName) -> Known {
        let mut inner = self.inner();
        assert!(inner.open.insert(name.clone()), "{name:?} is open already");
        let (next, forgotten) = (inner.epoch + 1, inner.forgotten);
        let channel = inner.channels.entry(name.clone()).or_insert_with(|| Kept {
            epoch: next,
            position: forgotten,
            gone: forgotten,
            ..Kept::default()
        });
        let known = Known {
            epoch: channel.epoch,
            offset: channel.offset,
            position: channel.position,
            retained: channel.retained,
        };
        inner.epoch = inner.epoch.max(known.epoch);
        known
    }

    fn close(&self, name: &ChannelName) {
        let mut inner = self.inner();
        assert!(inner.open.remove(name), "{name:?} is not open");
        inner.forget_empty();
    }

    fn channel(&self, name: &ChannelName) -> Option<StoredChannel> {
        self.inner().channel(name)
    }

    fn names_bytes(&self) -> usize {
        let inner = self.inner();
        inner.channels.keys().map(|name| name.as_bytes().len()).sum()
    }

    fn channels(&self, after: u64, limit: usize) -> (Vec<StoredChannel>, Option<u64>) {
        let inner = self.inner();
        let mut found: Vec<StoredChannel> = inner
            .channels
            .keys()
            .filter_map(|name| inner.channel(name))
            .filter(|channel| channel.epoch > after && (channel.publications > 0 || channel.retained != 0))
            .collect();
        found.sort_unstable_by_key(|channel| channel.epoch);
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map_or(after, |last| last.epoch);
        (found, more.then_some(next))
    }

    fn publish(&self, submission: Submission) -> Result<usize, BrokerError> {
        let mut inner = self.inner();
        if inner.refuse {
            return Err(BrokerError::Unavailable("the test said so".into()));
        }
        inner.waiting.push_back(Taken::Submission(submission));
        let bytes = |taken: &Taken| match taken {
            Taken::Submission(submission) => submission.message.payload.bytes().len(),
            Taken::Deletion(_) => 0,
        };
        Ok(inner.waiting.iter().map(bytes).sum())
    }

    fn delete(&self, deletion: Deletion) -> Result<(), BrokerError> {
        let mut inner = self.inner();
        if inner.refuse {
            return Err(BrokerError::Unavailable("the test said so".into()));
        }
        inner.waiting.push_back(Taken::Deletion(deletion));
        Ok(())
    }

    fn read(&self, fetch: Fetch, fetched: Fetched) {
        self.inner().reads.push_back((fetch, fetched));
    }
}
