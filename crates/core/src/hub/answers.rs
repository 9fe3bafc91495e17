//! What the callers of the hub are told.

use std::sync::Arc;

use thiserror::Error;

use crate::broker::BrokerError;
use crate::channel::Channel;
use crate::position::Position;
use crate::presence::Member;
use crate::publication::Places;
use crate::quota::{OverQuota, Usage};

/// Why something was not published.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// A message is published in at least one channel.
    #[error("the message names no channel")]
    NoChannel,
    /// The same idempotency key came with another payload.
    #[error("the idempotency key was used with another payload: use a new key for a new message")]
    Conflict,
    /// There are too many channels with something in them.
    #[error(
        "there are {0} channels already: raise limits.channels or limits.log_memory, or let histories expire sooner"
    )]
    TooManyChannels(usize),
    /// The publisher may have no more channels, or no more that waits for the store.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// The store did not take it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Why somebody may not listen.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenError {
    /// See [`Options::channels`](super::Options::channels).
    #[error(
        "there are {0} channels already: raise limits.channels or limits.log_memory, or let histories expire sooner"
    )]
    TooManyChannels(usize),
    /// See [`Options::patterns`](super::Options::patterns).
    #[error(
        "there are {0} patterns already (one such as **b** or a*b* counts as 8 or more): raise limits.patterns_total, or use \
         fewer different ones"
    )]
    TooManyPatterns(usize),
    /// The listener may have no more, see [`Options::parts`](super::Options::parts).
    #[error(transparent)]
    Quota(#[from] OverQuota),
}

/// What a publisher is told.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Channels and offsets.
    pub places: Places,
    /// The position at which it became visible.
    pub at: Position,
    /// A repetition under an idempotency key: nothing was published this time.
    pub duplicate: bool,
}

impl Receipt {
    /// The same for whoever repeats the request.
    pub(crate) fn repeated(&self) -> Self {
        Self {
            duplicate: true,
            ..self.clone()
        }
    }
}

/// How a publisher is answered that had to wait.
pub type Completion = Box<dyn FnOnce(Result<Receipt, PublishError>) + Send>;

/// What became of a message at once.
#[derive(Debug)]
pub enum Published {
    /// It is visible to subscribers.
    Visible(Receipt),
    /// The completion will be called.
    Pending,
    /// The store has taken it, and it will be visible soon, unless the process or the store fails before. Neither its
    /// offsets nor a cursor are known yet. See [`Options::buffered`](super::Options::buffered).
    Accepted,
}

/// A channel as a shard listens to it.
#[derive(Clone, Debug)]
pub struct Listening {
    /// The channel.
    pub channel: Arc<Channel>,
    /// What becomes visible after this concerns the shard; what lies before has to be read.
    pub since: Position,
    /// The positions of its newest publication, per source.
    pub last: Position,
}

/// What a shard got in a round.
#[derive(Clone, Copy, Debug)]
pub struct Collected {
    /// Everything of concern up to here was copied out.
    pub until: Position,
    /// There is more.
    pub more: bool,
    /// Something was trimmed before the shard had seen it: readers must read on from their cursors instead.
    pub lagged: bool,
}

/// Where a client with a cursor begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Read on from here.
    pub position: Position,
    /// The cursor is of another incarnation of memory: a gap in every memory channel.
    pub lost_memory: bool,
    /// The cursor is of a history that the store does not know: a gap in every durable channel.
    pub lost_durable: bool,
}

/// The members of a channel.
#[derive(Clone, Debug)]
pub struct Members {
    /// User names with what is known of each: the first by name, as many as were asked for.
    pub members: Vec<(Box<str>, Member)>,
    /// How many there are.
    pub count: usize,
    /// The list is true at this position.
    pub at: Position,
}

/// Figures for the operator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Channels that exist.
    pub channels: usize,
    /// Patterns listened to.
    pub patterns: usize,
    /// Bytes that all logs keep, and the names of their channels.
    pub log_bytes: usize,
    /// Bytes protected by the live window.
    pub window_bytes: usize,
    /// Publications kept.
    pub publications: usize,
    /// Publications since the start.
    pub published: u64,
    /// Publications that left before their time because a ceiling was reached.
    pub trimmed_early: u64,
    /// Idempotency keys known.
    pub keys: usize,
    /// Messages that were answered when the store took them ([`Published::Accepted`]), and which it then failed to store.
    pub lost: u64,
    /// What visitors have of the tables that all share.
    pub visitors: VisitorStats,
}

/// What visitors have of the hub's tables, and how often they were refused more.
#[derive(Clone, Copy, Debug, Default)]
pub struct VisitorStats {
    /// Channels that the site's own code has not named.
    pub channels: Usage,
    /// Bytes of their names.
    pub name_bytes: Usage,
    /// Patterns that the site's own code does not listen to.
    pub patterns: Usage,
    /// Members.
    pub members: Usage,
    /// Bytes of their publications that wait for the store.
    pub queued_bytes: Usage,
    /// Idempotency keys; refused is what was forgotten before its time.
    pub keys: Usage,
}
