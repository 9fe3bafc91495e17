//! Questions whose answers may have to come from the store: what was asked, what has come of it, and what it comes to.
//!
//! Nobody waits for a store. A question that is not answered at once is put aside with its connection, and goes on whenever a
//! [`Part`] of its answer comes back through the shard's mailbox.

mod errand;
mod keys;
mod looking;
mod publishing;

use std::sync::Arc;

use cometserver_core::Time;
use cometserver_core::broker::BrokerError;
use cometserver_core::hub::{Answer, Completion, Hub, Later};
use cometserver_core::publication::Payload;

use crate::api::Refused;
use crate::http::cors::Cors;
use crate::http::response::{Head, Terms};
use crate::metrics::Door;
use crate::shared::{ConnectionId, Part, Shared};

pub use errand::{backup, storage};
pub use keys::{dump, read, write};
pub use looking::{ask, history, since};
pub use publishing::{AT_ONCE, batch, publish};

/// Who asks, and where parts of the answer go that come later.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The server.
    pub shared: &'a Arc<Shared>,
    /// The connection.
    pub connection: ConnectionId,
    /// Its question's number: what comes for another one is too late.
    pub number: u64,
    /// Milliseconds since 1970.
    pub now: Time,
}

impl Asker<'_> {
    fn hub(&self) -> &Arc<Hub> {
        &self.shared.hub
    }

    /// What the hub calls when the answer is known.
    fn later<T: 'static>(&self, part: fn(Result<T, BrokerError>) -> Part) -> Later<T> {
        let (shared, connection, number) = (self.shared.clone(), self.connection, self.number);
        Box::new(move |result| shared.answer(connection, number, part(result)))
    }

    /// The same for one of the publications asked for.
    fn completion(&self, index: usize) -> Completion {
        let (shared, connection, number) = (self.shared.clone(), self.connection, self.number);
        Box::new(move |result| shared.answer(connection, number, Part::Published(index, result)))
    }

    /// Counts what was published by a batch.
    fn count_publications(&self, count: usize) {
        let metrics = self.shared.metrics.shard(usize::from(self.connection.shard));
        metrics.publications.of(Door::Http).add(count as u64);
    }

    /// Counts what is refused within an answer.
    fn count_refusal(&self, refused: &Refused) {
        let metrics = self.shared.metrics.shard(usize::from(self.connection.shard));
        refused.count(metrics);
    }
}

/// What is answered.
#[derive(Debug)]
pub enum Reply {
    /// A JSON object, open at its end, and its HTTP status.
    Object(u16, Vec<u8>),
    /// A payload as it was published.
    Payload(Payload),
    /// A whole answer of the seed's wire protocol.
    Seed(Vec<u8>),
}

impl Reply {
    /// As the answer to an HTTP request.
    pub fn answer(self, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
        match self {
            Self::Object(status, mut open) => {
                open.push(b'}');
                cors.write(Head::new(out, terms, status))
                    .header("Content-Type", "application/json")
                    .header("Cache-Control", "no-store")
                    .body(&open);
            }
            Self::Payload(payload) => looking::answer_payload(&payload, terms, cors, out),
            // Only who speaks that protocol asks its questions.
            Self::Seed(bytes) => cors.write(Head::new(out, terms, 200)).body(&bytes),
        }
    }
}

/// What a question comes to.
pub type Outcome = Result<Reply, Refused>;

/// How far a question is.
pub enum Progress {
    /// It is answered.
    Done(Outcome),
    /// Parts of its answer will come.
    Waits(Question),
}

/// What was asked, with what has come of it.
pub enum Question {
    /// One publication.
    Publish,
    /// Several.
    Batch(publishing::Batch),
    /// A channel's history.
    History(looking::HistoryOf),
    /// A channel's retained value.
    Retained(looking::ValueOf),
    /// Channels, with their values.
    Channels(looking::List),
    /// Something is to be forgotten; it is told how much, or only whether there was any.
    Delete(looking::Deleted),
    /// Something that is done in a thread of its own.
    Errand,
    /// A value, by the seed's wire protocol.
    Write,
    /// The value of a key, or of the key whose time it is.
    Read(keys::Key),
    /// All keys and values.
    Dump(keys::Dump),
}

impl Question {
    /// Takes a part of the answer.
    pub fn take(self, part: Part, asker: &Asker<'_>) -> Progress {
        match (self, part) {
            (Self::Publish, Part::Published(_, result)) => {
                Progress::Done(publishing::published(result, asker))
            }
            (Self::Batch(batch), Part::Published(index, result)) => batch.take(index, result, asker),
            (Self::History(of), Part::History(result)) => Progress::Done(of.answer(result, asker)),
            (Self::Retained(of), Part::Value(result)) => Progress::Done(of.answer(result)),
            (Self::Channels(list), Part::Values(result)) => list.take(result, asker),
            (Self::Delete(deleted), Part::Deleted(result)) => Progress::Done(deleted.answer(result)),
            (Self::Errand, Part::Done(result)) => Progress::Done(errand::done(result)),
            (Self::Write, Part::Published(_, result)) => Progress::Done(Ok(keys::written(result))),
            (Self::Read(key), Part::Value(result)) => key.take(result, asker),
            (Self::Dump(dump), Part::Values(result)) => dump.take(result, asker),
            (Self::Dump(dump), Part::Taken) if dump.rests() => dump.go_on(asker),
            (Self::Batch(batch), Part::Taken) if batch.rests() => batch.go_on(asker),
            // Its own number came with something that was never asked for.
            (question, _) => Progress::Waits(question),
        }
    }

    /// The store has not answered, and for this reason nobody waits any longer.
    pub fn give_up(self, why: &str, asker: &Asker<'_>) -> Outcome {
        match self {
            Self::Publish => Err(Refused::from(BrokerError::Unknown(why.into()))),
            Self::Batch(batch) => Ok(batch.give_up(why, asker)),
            Self::Write => Ok(keys::written(Err(BrokerError::Unknown(why.into()).into()))),
            Self::Read(_) => Ok(keys::unreadable(why)),
            Self::Dump(dump) => Ok(dump.fail(why)),
            // What is forgotten late is forgotten all the same.
            _ => Err(Refused::from(BrokerError::Unavailable(why.into()))),
        }
    }

    /// Bytes that it holds, or will when its answer has come; `largest` is how large a publication may be.
    pub fn weight(&self, largest: usize) -> usize {
        match self {
            Self::History(_) => history_bytes(largest),
            Self::Retained(_) | Self::Read(_) => largest,
            Self::Channels(_) | Self::Dump(_) => FETCHED.max(largest),
            Self::Batch(batch) => batch.weight(),
            // What is published waits in the store's queue, which is bounded.
            Self::Publish | Self::Delete(_) | Self::Errand | Self::Write => 0,
        }
    }

    /// May it take as long as it takes?
    pub fn takes_its_time(&self) -> bool {
        matches!(self, Self::Errand) || self.rests()
    }

    /// What of its answer can be sent already: it goes on with [`Part::Taken`].
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Dump(dump) => dump.piece(),
            _ => None,
        }
    }

    /// Does it go on when what was sent of it is taken, and others have had their turn?
    pub fn rests(&self) -> bool {
        match self {
            Self::Dump(dump) => dump.rests(),
            Self::Batch(batch) => batch.rests(),
            _ => false,
        }
    }

    /// May more be published before it is answered? Nothing else may be asked: it could not be true yet.
    pub fn is_publication(&self) -> bool {
        matches!(self, Self::Publish)
    }
}

/// What is fetched of retained values at once takes about so many bytes at most, or is one value.
const FETCHED: usize = 16 << 20;

/// The most bytes of payloads in a history that is answered.
const HISTORY: usize = 256 << 10;

/// Bytes that the answer to a question for a history may take, where a publication has at most `largest`.
fn history_bytes(largest: usize) -> usize {
    HISTORY.max(largest)
}

/// So many values are asked for at once.
fn values_at_once(asker: &Asker<'_>) -> usize {
    let largest = asker.shared.settings().config.limits.message_size.max(1);
    (FETCHED / largest).clamp(1, 16)
}

/// Goes on with what is known at once, or waits.
fn begin<T>(
    answer: Answer<T>,
    part: fn(Result<T, BrokerError>) -> Part,
    question: Question,
    asker: &Asker<'_>,
) -> Progress {
    match answer {
        Answer::Ready(value) => question.take(part(Ok(value)), asker),
        Answer::Later => Progress::Waits(question),
    }
}
