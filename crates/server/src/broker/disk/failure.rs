//! A thread of the log that panics: nothing is taken any more, whoever waits is answered, and the server is told to end.
//!
//! What the thread leaves half done is in memory only, and is never looked at again: the next start reads what is safe.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cometserver_core::broker::{BrokerError, Committed};

use super::shared::Shared;

/// Told once why the log can do nothing any more.
pub(crate) type Told = Box<dyn FnOnce(&str) + Send>;

/// Whether a thread has failed, and who wants to know.
#[derive(Default)]
pub(crate) struct Failure(Mutex<State>);

#[derive(Default)]
struct State {
    why: Option<String>,
    told: Option<Told>,
}

impl Failure {
    /// Why the log can do nothing any more, if it cannot.
    pub(crate) fn now(&self) -> Option<String> {
        self.state().why.clone()
    }

    /// Tells when a thread fails, or at once if one has.
    pub(crate) fn tell(&self, told: Told) {
        let mut state = self.state();
        match state.why.clone() {
            Some(why) => {
                drop(state);
                told(&why);
            }
            None => state.told = Some(told),
        }
    }

    fn note(&self, why: &str) {
        let mut state = self.state();
        state.why.get_or_insert_with(|| why.to_owned());
        let told = state.told.take();
        drop(state);
        if let Some(told) = told {
            told(why);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does a thread's work to its end. Was that an end, and not a panic?
pub(crate) fn watch(shared: &Shared, thread: &str, work: impl FnOnce()) -> bool {
    if catch_unwind(AssertUnwindSafe(work)).is_ok() {
        return true;
    }
    let why = format!("{thread} has failed, the server has to be started again");
    tracing::error!(folder = %shared.folder.display(), "{why}");
    // What was taken is still written, if the writer lives: it was taken before.
    shared.queue.refuse(&why);
    // The index may be half changed: a page could lack something and not say so.
    shared.reads.refuse();
    shared.bell.close();
    shared.failure.note(&why);
    false
}

/// There will be no other answers: whoever still waits is answered.
pub(crate) fn answer_rest(shared: &Shared) {
    let why = shared.failure.now().unwrap_or_default();
    let (begun, waiting) = shared.queue.abandon();
    let begun = begun
        .into_iter()
        .map(|ticket| (ticket, BrokerError::Unknown(why.clone())));
    let waiting = waiting
        .into_iter()
        .map(|ticket| (ticket, BrokerError::Unavailable(why.clone())));
    let failed = begun.chain(waiting).map(|(ticket, error)| Committed {
        ticket,
        result: Err(error),
    });
    shared.tell_commit(failed.collect());
}
