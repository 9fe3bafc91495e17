//! What was not written: kept until it is known whether some of it is tried again, and answered.

use std::collections::VecDeque;

use cometserver_core::broker::{BrokerError, Committed};

use crate::broker::disk::plan::Plan;
use crate::broker::disk::queue::{Batch, Chore, Kind, Request};
use crate::broker::disk::shared::Shared;

/// What was not written, and why.
pub(super) struct Missed {
    /// How far it had come.
    pub(super) left: Left,
    /// Why.
    pub(super) error: BrokerError,
    /// Nothing of it is there, as there was no room.
    pub(super) is_full: bool,
}

/// How far it had come.
pub(super) enum Left {
    /// Not even laid out.
    Batch(Batch),
    /// Laid out.
    Plan(Plan),
}

impl Missed {
    /// Answers all of it.
    pub(super) fn fail(self, shared: &Shared) -> Vec<Committed> {
        match self.left {
            Left::Batch(batch) => answer(batch.chore, &batch.requests, &self.error),
            Left::Plan(plan) => plan.fail(shared, &self.error),
        }
    }

    /// Answers the publications: what makes room is tried again.
    pub(super) fn fail_publications(self, shared: &Shared) -> Vec<Committed> {
        match self.left {
            Left::Batch(mut batch) => answer(None, &batch.take_publications(), &self.error),
            Left::Plan(plan) => plan.fail_publications(shared, &self.error),
        }
    }
}

/// The answers to publications and those to the rest in the order in which all were asked; `kinds` says which is which.
pub(super) fn in_order(kinds: &[Kind], publications: Vec<Committed>, rest: Vec<Committed>) -> Vec<Committed> {
    let (mut publications, mut rest) = (publications.into_iter(), rest.into_iter());
    let next = |kind: &Kind| match kind {
        Kind::Publication => publications.next(),
        Kind::Deletion => rest.next(),
    };
    kinds.iter().filter_map(next).collect()
}

/// The same answer to everything in a batch.
pub(super) fn answer(
    chore: Option<Chore>,
    requests: &VecDeque<Request>,
    error: &BrokerError,
) -> Vec<Committed> {
    if let Some(chore) = chore {
        let _ = chore.done.try_send(Err(error.clone()));
    }
    let failed = |ticket| Committed {
        ticket,
        result: Err(error.clone()),
    };
    requests.iter().map(|request| failed(request.ticket())).collect()
}
