//! Who orders and keeps what must survive a restart.
//!
//! The hub orders and keeps memory publications itself: there is nobody to wait for. Whatever else keeps publications
//! (a log on disk, Redis, NATS) is a [`Broker`]. The contract, in words:
//!
//! - [`Broker::publish`] and [`Broker::delete`] only take a submission; nothing is visible yet. When it is ordered and safe,
//!   the broker hands it to [`Hub::commit`](crate::hub::Hub::commit), in the order of its positions, deletions in between
//!   where they belong, in batches of any size, from any thread. Nothing but the broker assigns a durable position or an
//!   offset in a durable channel.
//! - Positions rise by exactly 1, but for those that stand for something lost, and offsets rise by exactly 1 within a channel; both
//!   go on after a restart.
//! - [`Broker::read`] never answers at once: it fetches, in a thread of its own, a bounded number at a time. What the hub still
//!   has in memory is never asked for. Entries come in the order of positions, and what is gone is said to be gone.
//! - What takes `&self` and answers at once is called while the hub is locked: it must not call the hub, nor touch a disk or a
//!   network, nor wait for a lock that is held while [`Hub::commit`](crate::hub::Hub::commit) is called.
//! - Every submission is answered once: committed, or failed. After a failure nothing of it is ever visible to this hub.
//! - A channel's history keeps its identity (epoch, offsets) from [`Broker::open`] until [`Broker::close`], whatever it keeps,
//!   and beyond that as long as anything of it is kept. A channel that is published in or deleted from is open, and stays so
//!   until the answer.

use std::sync::Arc;

use thiserror::Error;

use crate::Time;
use crate::channel::ChannelName;
use crate::namespace::Namespaces;
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
    /// Those of the message's channels whose history the store keeps, in the message's order, without repetition; at least
    /// one. All are open.
    pub channels: Vec<ChannelName>,
    /// When.
    pub time: Time,
}

/// What to forget of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delete {
    /// The retained value.
    Retained,
    /// The history, with the retained value.
    History,
}

/// Something of a channel is to be forgotten.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// The hub's number for it; submissions have others.
    pub ticket: u64,
    /// The channel; it is open.
    pub channel: ChannelName,
    /// What.
    pub what: Delete,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is published.
    Published {
        /// The publication's position.
        position: u64,
        /// Its offset in each of the submission's channels.
        offsets: Vec<u64>,
    },
    /// It is forgotten.
    Deleted {
        /// How many publications are gone that were kept until now, a retained value that had outlived its neighbours among
        /// them. Of [`Delete::Retained`]: 1 if there was a value, also if the history still keeps it.
        count: usize,
        /// The position of the newest publication of the channel that is gone, now or before; 0: none.
        gone: u64,
    },
}

/// What became of a submission or a deletion.
#[derive(Debug)]
pub struct Committed {
    /// Its number.
    pub ticket: u64,
    /// What was done, or why not.
    pub result: Result<Outcome, BrokerError>,
}

/// What to fetch of the channels selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Of their histories what lies after one position, up to another, oldest first. A retained value that has outlived the
    /// bounds of its history is no longer part of it.
    #[default]
    Oldest,
    /// The same, newest first.
    Newest,
    /// The retained value of each channel named, if its position is at most `until`; patterns, `after` and `limit` do not
    /// count.
    Retained,
}

/// A request for what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetch {
    /// What of it.
    pub want: Want,
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
    /// About so many bytes of payloads, but one publication in any case.
    pub bytes: usize,
}

/// A publication as it was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its position.
    pub position: u64,
    /// When it was published.
    pub time: Time,
    /// All channels of its submission, with its offset in each, whether they still keep it or not.
    pub places: Vec<(ChannelName, u64)>,
    /// What it says.
    pub body: Body,
}

/// Something that was taken, and lost before it was stored. A position of its own stands for it.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Who may have lost it.
    pub whose: Whose,
    /// The position.
    pub position: u64,
}

/// A part of what is selected by a [`Fetch`].
#[derive(Clone, Debug)]
pub enum Whose {
    /// A channel that is named.
    Channel(ChannelName),
    /// Channels that a pattern matches.
    Pattern(Arc<Pattern>),
}

/// The answer to a [`Fetch`].
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What was found, in the order of positions; newest first, if asked for so. Of retained values each once, also if it is
    /// that of several channels.
    pub stored: Vec<Stored>,
    /// Oldest first: everything up to here has been looked at; below `until` there is more. Newest first: everything after
    /// this has; above `after` there is more. A page goes on: it is never where it began. Retained values: those up to here
    /// are in the page, those above and up to `until` did not fit into it.
    pub reached: u64,
    /// Channels of which something after `after` is gone, with the position of the newest that is, or (oldest first)
    /// `reached` if that is lower: what another channel has kept below it is then shown after the gap. A channel named in
    /// the fetch that the store does not know is among them if `after` lies before `forgotten`. Of those that only a pattern
    /// finds, [`Page::forgotten`] may speak instead. Retained values have no gaps.
    pub gaps: Vec<(ChannelName, u64)>,
    /// What was taken and never stored, as far as the page reaches: unlike before a gap, what is kept before it is whole.
    pub lost: Vec<Lost>,
    /// Of channels that the store no longer knows by name, or of which it cannot say (a damaged part), something up to here
    /// may be gone: a pattern that begins before it is told of a gap.
    pub forgotten: u64,
    /// What was asked for; the hub fills it in. A page that answers something else than what a reader needs by now is
    /// not used.
    pub asked: Option<Arc<Fetch>>,
}

impl Page {
    /// Is something missing of what it is about?
    pub(crate) fn has_gaps(&self) -> bool {
        !self.gaps.is_empty() || !self.lost.is_empty()
    }

    /// Is there more of what was asked for?
    pub(crate) fn is_part(&self) -> bool {
        let Some(asked) = &self.asked else { return false };
        match asked.want {
            Want::Oldest => self.reached < asked.until,
            Want::Newest => self.reached > asked.after,
            Want::Retained => false,
        }
    }
}

/// What a broker knows of a channel when the hub makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Identity of its history, also of a new one.
    pub epoch: u64,
    /// The newest offset.
    pub offset: u64,
    /// The position of its newest publication, kept or not, or a later one that stands for something lost. Of a channel of which
    /// the store knows none: what may have been forgotten of it lies up to here.
    pub position: u64,
    /// The position of the retained value; 0: none.
    pub retained: u64,
}

/// A channel as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChannel {
    /// Its name.
    pub name: ChannelName,
    /// Its place in the order of [`Broker::channels`], which goes on after it if this is given as `after`.
    pub number: u64,
    /// Identity of its history.
    pub epoch: u64,
    /// The newest offset.
    pub offset: u64,
    /// How many publications its history keeps.
    pub publications: usize,
    /// What they take in the store, in bytes.
    pub bytes: usize,
    /// The position of the retained value; 0: none.
    pub retained: u64,
}

impl StoredChannel {
    /// Is a publication or a value kept?
    pub fn keeps(&self) -> bool {
        self.publications > 0 || self.retained != 0
    }
}

/// An idempotency key from before the restart that is still in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The key.
    pub key: Box<str>,
    /// [`idempotency::digest`](crate::idempotency::digest) of the bytes of the payload.
    pub digest: u64,
    /// When it was used.
    pub time: Time,
    /// The position of what was published under it.
    pub position: u64,
    /// The channels of the submission, in its order, with the offset in each; the first is the key's scope.
    pub places: Vec<(ChannelName, u64)>,
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

    /// Keys from before the restart, oldest first; asked once, when the hub starts.
    fn remembered(&self) -> Vec<Remembered> {
        Vec::new()
    }

    /// Other namespaces hold from now on: the bounds of histories. Called before anything is opened, and after each reload.
    fn configure(&self, namespaces: &Namespaces);

    /// The hub has the channel from now on. It is not called again before [`Broker::close`].
    fn open(&self, name: &ChannelName) -> Known;

    /// The hub has forgotten the channel.
    fn close(&self, name: &ChannelName);

    /// A channel, whether the hub has it or not; none if the store does not know it.
    fn channel(&self, name: &ChannelName) -> Option<StoredChannel>;

    /// What the names of all channels that the store knows take of memory, in bytes.
    fn names_bytes(&self) -> usize {
        0
    }

    /// Channels of which a publication or a value is kept, in the order in which they were made, from the first after the
    /// number `after` (0: from the first of all), at most `limit`, perhaps fewer. Where to go on, if there may be more: a number
    /// below 2^52.
    fn channels(&self, after: u64, limit: usize) -> (Vec<StoredChannel>, Option<u64>);

    /// Takes a submission. Returns how many bytes (payloads, names, attributes, keys) now wait for their commit, its own included.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if it was not taken: there will be no commit.
    fn publish(&self, submission: Submission) -> Result<usize, BrokerError>;

    /// Takes a deletion. It has its place in the order like a submission: what is committed before it is forgotten, what is
    /// committed after it is not.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] if it was not taken: there will be no commit.
    fn delete(&self, deletion: Deletion) -> Result<(), BrokerError>;

    /// Fetches what the hub no longer has in memory.
    fn read(&self, fetch: Fetch, fetched: Fetched);
}
