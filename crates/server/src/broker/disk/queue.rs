//! What waits for the writer: submissions and deletions in the order taken, and one piece of upkeep at a time.

use std::collections::VecDeque;
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cometserver_core::broker::{BrokerError, Deletion, Submission};
use cometserver_core::channel::ChannelName;

/// What a submission costs besides its payload, in bytes, so that many small ones are bounded too.
const OVERHEAD: usize = 256;

/// What a place takes besides the channel's name at most, in bytes.
const PLACE: usize = 64;

/// What the hub asks for.
pub(crate) enum Request {
    /// To publish.
    Publish(Submission),
    /// To delete.
    Delete(Deletion),
}

/// Which of these a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It takes room.
    Publication,
    /// It makes room.
    Deletion,
}

/// What the log does for itself.
#[derive(Clone)]
pub(crate) enum Upkeep {
    /// Copy a publication forward, if it is still kept.
    Keep {
        /// The body of its record.
        body: Bytes,
        /// Where that is.
        segment: u32,
        /// Where that is in it.
        offset: u32,
        /// If it is no longer kept, its idempotency key is: the body of the record to write then.
        key: Option<Vec<u8>>,
    },
    /// Write a record as it is.
    Copy(Vec<u8>),
    /// Write down what is known of a channel.
    State(ChannelName),
    /// Write down how far a channel's history has been trimmed.
    Trimmed(ChannelName),
    /// This segment is no longer part of the log.
    Remove(u32),
    /// Begin another segment, so that the one that is written to can be cleared away.
    Seal,
}

/// Upkeep with who waits for it.
#[derive(Clone)]
pub(crate) struct Chore {
    /// In this order.
    pub(crate) steps: Vec<Upkeep>,
    /// Told when all of it is safe, or why it is not.
    pub(crate) done: SyncSender<Result<(), BrokerError>>,
}

/// What is written at once.
#[derive(Default)]
pub(crate) struct Batch {
    /// Comes first: what is deleted in the same batch is then deleted after it was copied.
    pub(crate) chore: Option<Chore>,
    /// In the order taken.
    pub(crate) requests: VecDeque<Request>,
    /// The bytes of these, see [`Request::payload`].
    pub(crate) payloads: usize,
}

impl Batch {
    /// What of it makes room: upkeep and deletions, if there are any.
    pub(crate) fn urgent(&self) -> Option<Self> {
        let deletions = self.requests.iter().filter_map(Request::deletion);
        let urgent = Self {
            chore: self.chore.clone(),
            requests: deletions.collect(),
            payloads: 0,
        };
        (urgent.chore.is_some() || !urgent.requests.is_empty()).then_some(urgent)
    }

    /// Which of the requests are what, in their order.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.requests.iter().map(Request::kind).collect()
    }

    /// Takes the publications out.
    pub(crate) fn take_publications(&mut self) -> VecDeque<Request> {
        let requests = std::mem::take(&mut self.requests).into_iter();
        let (publications, rest) = requests.partition(|request| request.kind() == Kind::Publication);
        self.requests = rest;
        publications
    }

    /// Are there any?
    pub(crate) fn has_publications(&self) -> bool {
        let mut kinds = self.requests.iter().map(Request::kind);
        kinds.any(|kind| kind == Kind::Publication)
    }

    /// Does it ask for another segment?
    pub(crate) fn seals(&self) -> bool {
        let steps = self.chore.iter().flat_map(|chore| &chore.steps);
        steps.into_iter().any(|step| matches!(step, Upkeep::Seal))
    }

    /// Is there nothing in it?
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.chore.is_none()
    }
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// Bytes of these, see [`Request::payload`].
    untaken: usize,
    chore: Option<Chore>,
    /// Bytes of what waits, and of what is being written: see [`Request::payload`].
    payloads: usize,
    /// The same with their overhead.
    bytes: usize,
    is_idle: bool,
    /// Only upkeep is handed out: the disk is nearly full, and it makes room.
    is_held: bool,
    /// The numbers of what was handed out and is not released yet, in that order.
    begun: VecDeque<u64>,
    /// Nothing is taken any more, for this reason.
    closed: Option<String>,
}

/// See the module.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    limit: usize,
}

impl Queue {
    /// At most `limit` bytes wait.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            limit,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done under it can be left half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request. Returns how many bytes of payloads, names and attributes wait for their commit.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`]: too much waits, or the log is closed.
    pub(crate) fn push(&self, request: Request) -> Result<usize, BrokerError> {
        let payload = request.payload();
        let mut waiting = self.waiting();
        if let Some(why) = &waiting.closed {
            return Err(BrokerError::Unavailable(why.clone()));
        }
        // One that is larger than the limit is taken when nothing else waits. A deletion makes room: it may still come.
        let limit = match &request {
            Request::Publish(_) => self.limit,
            Request::Delete(_) => self.limit.saturating_mul(2),
        };
        if waiting.bytes > 0 && waiting.bytes + payload + OVERHEAD > limit {
            return Err(BrokerError::Unavailable(format!(
                "{} bytes wait to be written already",
                waiting.bytes
            )));
        }
        waiting.bytes += payload + OVERHEAD;
        waiting.payloads += payload;
        waiting.untaken += payload;
        waiting.requests.push_back(request);
        let payloads = waiting.payloads;
        let wake = waiting.is_idle;
        drop(waiting);
        if wake {
            self.filled.notify_one();
        }
        Ok(payloads)
    }

    /// Takes upkeep; one waits at most, as who asks waits for it.
    pub(crate) fn push_chore(&self, chore: Chore) {
        let mut waiting = self.waiting();
        if let Some(why) = waiting.closed.clone() {
            drop(waiting);
            let _ = chore.done.try_send(Err(BrokerError::Unavailable(why)));
            return;
        }
        waiting.chore = Some(chore);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Waits for the next batch of about `limit` bytes at most; none when the queue is closed and empty.
    pub(crate) fn take(&self, limit: usize) -> Option<Batch> {
        let mut waiting = self.waiting();
        while waiting.chore.is_none() && (waiting.requests.is_empty() || waiting.holds()) {
            if waiting.closed.is_some() {
                return None;
            }
            waiting.is_idle = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.is_idle = false;
        }
        let batch = waiting.batch(limit);
        waiting.begun.extend(batch.requests.iter().map(Request::ticket));
        Some(batch)
    }

    /// Hands out nothing but upkeep until [`Queue::let_go`].
    pub(crate) fn hold(&self) {
        self.waiting().is_held = true;
    }

    /// Hands out everything again.
    pub(crate) fn let_go(&self) {
        if std::mem::take(&mut self.waiting().is_held) {
            self.filled.notify_one();
        }
    }

    /// So much no longer waits: it has been answered.
    pub(crate) fn release(&self, requests: usize, payloads: usize) {
        let mut waiting = self.waiting();
        waiting.begun.drain(..requests);
        waiting.payloads -= payloads;
        waiting.bytes -= payloads + requests * OVERHEAD;
    }

    /// How many bytes of payloads, names and attributes wait for their commit.
    pub(crate) fn payloads(&self) -> usize {
        self.waiting().payloads
    }

    /// Does nothing wait to be taken?
    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.requests.is_empty() && waiting.chore.is_none()
    }

    /// Takes nothing any more; what waits is still handed out.
    pub(crate) fn close(&self) {
        self.refuse("it is being closed");
    }

    /// The same for another reason. The first one stays.
    pub(crate) fn refuse(&self, why: &str) {
        self.waiting().closed.get_or_insert_with(|| why.to_owned());
        self.filled.notify_all();
    }

    /// Nothing is written any more, and whoever waits for upkeep is told so. Returns the numbers of what was handed out and
    /// not released, and of what still waited.
    pub(crate) fn abandon(&self) -> (Vec<u64>, Vec<u64>) {
        let mut waiting = self.waiting();
        waiting.chore = None;
        (waiting.payloads, waiting.untaken, waiting.bytes) = (0, 0, 0);
        let begun = std::mem::take(&mut waiting.begun);
        let requests = std::mem::take(&mut waiting.requests);
        (begun.into(), requests.iter().map(Request::ticket).collect())
    }
}

impl Waiting {
    /// Does what was asked for wait for upkeep? What waits at the end is written, or refused, without.
    fn holds(&self) -> bool {
        self.is_held && self.closed.is_none()
    }

    fn batch(&mut self, limit: usize) -> Batch {
        let mut batch = Batch {
            chore: self.chore.take(),
            ..Batch::default()
        };
        if self.holds() {
            return batch;
        }
        let count = self.requests.len();
        if self.untaken + count * OVERHEAD <= limit {
            // All of it, as nearly always, at once: publishers wait for this lock. The next one will be about as long.
            batch.payloads = std::mem::take(&mut self.untaken);
            batch.requests = std::mem::replace(&mut self.requests, VecDeque::with_capacity(count));
            return batch;
        }
        let mut bytes = 0;
        while let Some(request) = self.requests.front() {
            let payload = request.payload();
            bytes += payload + OVERHEAD;
            if !batch.requests.is_empty() && bytes > limit {
                break;
            }
            self.untaken -= payload;
            batch.payloads += payload;
            batch.requests.extend(self.requests.pop_front());
        }
        batch
    }
}

impl Request {
    /// Which it is.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Request::Publish(_) => Kind::Publication,
            Request::Delete(_) => Kind::Deletion,
        }
    }

    /// The same again, if it is one that makes room.
    fn deletion(&self) -> Option<Self> {
        match self {
            Request::Publish(_) => None,
            Request::Delete(deletion) => Some(Request::Delete(deletion.clone())),
        }
    }

    /// Bytes of its payload, with what else of it is of any size.
    pub(crate) fn payload(&self) -> usize {
        match self {
            Request::Publish(submission) => submission.message.payload.bytes().len() + rest(submission),
            Request::Delete(deletion) => deletion.channel.as_bytes().len() + PLACE,
        }
    }

    /// The hub's number for it.
    pub(crate) fn ticket(&self) -> u64 {
        match self {
            Request::Publish(submission) => submission.ticket,
            Request::Delete(deletion) => deletion.ticket,
        }
    }
}

/// Bytes of names, attributes and key.
pub(crate) fn rest(submission: &Submission) -> usize {
    let message = &submission.message;
    let names: usize = submission
        .channels
        .iter()
        .map(|name| name.as_bytes().len() + PLACE)
        .sum();
    let attributes = message
        .attributes
        .as_ref()
        .map_or(0, |attributes| attributes.size());
    let key = message.idempotency_key.as_ref().map_or(0, |key| key.len());
    names + attributes + key
}
