//! What became of batches, told to the hub in their order while the disk is busy with the next one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use cometserver_core::broker::Committed;

use super::shared::Shared;

/// The answers to a batch, and what of the queue they end.
#[derive(Default)]
pub(crate) struct Answers {
    /// To the hub.
    pub(crate) committed: Vec<Committed>,
    /// So many requests they are.
    pub(crate) requests: usize,
    /// The bytes of these, see [`Request::payload`](super::queue::Request::payload).
    pub(crate) payloads: usize,
}

#[derive(Default)]
struct Waiting {
    /// Of all batches that wait. The queue's limit bounds them: what is not told yet still counts there.
    answers: Option<Answers>,
    is_telling: bool,
    is_over: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Telling {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Telling {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everything been told? Then it stays so until the next [`Telling::push`].
    pub(crate) fn is_idle(&self) -> bool {
        let waiting = self.waiting();
        waiting.answers.is_none() && !waiting.is_telling
    }

    /// Takes the answers to the next batch. Never waits: what tells may be the one that ends the log, and waits for its writer.
    pub(crate) fn push(&self, answers: Answers) {
        let mut waiting = self.waiting();
        match &mut waiting.answers {
            Some(others) => {
                others.committed.extend(answers.committed);
                others.requests += answers.requests;
                others.payloads += answers.payloads;
            }
            none => {
                *none = Some(answers);
                drop(waiting);
                self.changed.notify_one();
            }
        }
    }

    /// Nothing more will come.
    pub(crate) fn end(&self) {
        self.waiting().is_over = true;
        self.changed.notify_one();
    }

    /// Waits until nothing more will come. What has come is not told: it is as if it had never been answered.
    pub(crate) fn wait_for_end(&self) {
        let mut waiting = self.waiting();
        while !waiting.is_over {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What was taken before has been told. Waits for more; none when there will be no more.
    fn take(&self) -> Option<Answers> {
        let mut waiting = self.waiting();
        waiting.is_telling = false;
        loop {
            if let Some(answers) = waiting.answers.take() {
                waiting.is_telling = true;
                return Some(answers);
            }
            if waiting.is_over {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells what the writer has no time for, until it has ended.
pub(crate) fn run(shared: &Shared) {
    while let Some(answers) = shared.telling.take() {
        tell(shared, answers);
    }
}

/// Tells the hub; then it no longer waits.
pub(crate) fn tell(shared: &Shared, answers: Answers) {
    shared.tell_commit(answers.committed);
    shared.queue.release(answers.requests, answers.payloads);
}
