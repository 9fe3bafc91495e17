//! Who orders and keeps what must survive a restart.
//!
//! The hub orders and keeps memory publications itself: there is nobody to wait for. Whatever else keeps publications
//! (a log on disk, Redis, NATS) is a [`Broker`]. The contract, in words:
//!
//! - [`Broker::publish`] only takes a submission; nothing is visible yet. When it is ordered and safe, the broker hands it to
//!   [`Hub::commit`](crate::hub::Hub::commit), in the order of its positions, in batches of any size, from any thread.
//!   Nothing but the broker assigns a durable position or an offset in a durable channel.
//! - Positions rise by exactly 1 and offsets rise by exactly 1 within a channel; both go on after a restart.
//! - [`Broker::read`] never answers at once: it fetches, in a thread of its own, a bounded number at a time. What the hub still
//!   has in memory is never asked for. Entries come in the order of positions, and what is gone is said to be gone.
//! - [`Broker::publish`] and [`Broker::channel`] are called while the hub is locked: they must not call the hub, nor wait for
//!   a lock that is held while [`Hub::commit`](crate::hub::Hub::commit) is called.
//! - Every submission is answered once: committed, or failed. After a failure nothing of it is ever visible.

use std::sync::Arc;

use thiserror::Error;

use crate::Time;
use crate::channel::ChannelName;
use crate::pattern::Pattern;
use crate::publication::{Body, Message};

/// Why a broker could not do what it was asked to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerError {
    /// The store cannot be reached or cannot take more now; nothing was published, a retry is useful.
    #[error("the store is not available: {0}; try again later")]
    Unavailable(String),
    /// Whether it was stored is not known (a failed flush, a lost connection). Repeat it under an idempotency key.
    #[error("it is not known whether the publication was stored: {0}; repeat it under an idempotency key")]
    Unknown(String),
}

/// A message on its way into the store.
#[derive(Debug)]
pub struct Submission {
    /// The hub's number for it; it comes back with the commit.
    pub ticket: u64,
    /// The message as published.
    pub message: Arc<Message>,
    /// When.
    pub time: Time,
}

/// What became of a submission.
#[derive(Debug)]
pub struct Committed {
    /// The submission's number.
    pub ticket: u64,
    /// Its position, and its offset in each of the message's channels.
    pub result: Result<(u64, Vec<u64>), BrokerError>,
}

/// What to fetch: what lies after one position, up to another, on these channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Channels by name.
    pub channels: Vec<ChannelName>,
    /// Patterns over names.
    pub patterns: Vec<Arc<Pattern>>,
    /// The position after which to begin.
    pub after: u64,
    /// The last position wanted.
    pub until: u64,
    /// At most so many publications; at least one is fetched if there is one.
    pub limit: usize,
}

/// A publication as it was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its position.
    pub position: u64,
    /// When it was published.
    pub time: Time,
    /// Its channels, with its offset in each.
    pub places: Vec<(ChannelName, u64)>,
    /// What it says.
    pub body: Body,
}

/// The answer to a [`Fetch`].
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What was found, in the order of positions.
    pub stored: Vec<Stored>,
    /// Everything up to here has been looked at; below `until` there is more.
    pub reached: u64,
    /// Channels of which something after `after` is gone, with the position of the newest that is, or `reached` if that is
    /// lower: what another channel has kept below it is then shown after the gap.
    pub gaps: Vec<(ChannelName, u64)>,
    /// What was asked for; the hub fills it in. A page that answers something else than what a reader needs by now is
    /// not used.
    pub asked: Option<Arc<Fetch>>,
}

/// What a broker knows of a channel when the hub makes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Identity of its history.
    pub epoch: u64,
    /// The newest offset.
    pub offset: u64,
    /// The position of the newest publication.
    pub position: u64,
}

/// How a [`Page`] comes back.
pub type Fetched = Box<dyn FnOnce(Result<Page, BrokerError>) + Send>;

/// See the module.
pub trait Broker: Send + Sync {
    /// The position that the store has reached when the hub starts.
    fn position(&self) -> u64;

    /// The random mark written into the store at this start.
    fn mark(&self) -> u32;

    /// Was this position ever issued, by the history that is stored, under this mark?
    fn knows(&self, mark: u32, position: u64) -> bool;

    /// What is stored of a channel, if anything is.
    fn channel(&self, name: &ChannelName) -> Option<Known>;

    /// Takes a submission.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if it was not taken: there will be no commit.
    fn publish(&self, submission: Submission) -> Result<(), BrokerError>;

    /// Fetches what the hub no longer has in memory.
    fn read(&self, fetch: Fetch, fetched: Fetched);
}
