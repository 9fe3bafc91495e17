//! What a hub hands over at a stop in good order, piece by piece, so that the next start goes on with it.

use thiserror::Error;

use crate::Time;
use crate::channel::{ChannelName, Realm};
use crate::cursor::Marks;
use crate::log::Trimmed;
use crate::position::{Position, Source};
use crate::publication::Body;

/// So many former incarnations of memory are known: a cursor of an older one is a gap.
pub const FORMER: usize = 256;

/// A former incarnation of memory, and the last position that it gave out and that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// Its mark.
    pub mark: u32,
    /// The last position. A cursor beyond it saw what this hub has never had.
    pub until: u64,
}

/// How everything stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The marks of the hub that stopped.
    pub marks: Marks,
    /// The newest position.
    pub visible: Position,
    /// The incarnations that it had taken up itself, oldest first.
    pub former: Vec<Former>,
    /// Tells apart which namespaces are stored; none: that changed while the hub ran.
    pub durabilities: Option<u64>,
    /// The newest that any log had let go.
    pub trimmed: Trimmed,
    /// The newest that a forgotten channel had let go.
    pub forgotten: Trimmed,
}

/// A channel; the others name it by its place among the channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The name.
    pub name: ChannelName,
    /// Identity of its history.
    pub epoch: u64,
    /// What memory had of it; none: it is only named.
    pub history: Option<History>,
}

/// What memory had of a channel besides its publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// The newest offset.
    pub offset: u64,
    /// The positions of the newest publication.
    pub last: Position,
    /// The newest that it had let go.
    pub trimmed: Trimmed,
    /// Did the site's own code name it?
    pub of_site: bool,
}

/// A publication that a channel in memory kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Which source ordered it.
    pub source: Source,
    /// When it became visible.
    pub at: Position,
    /// When, for age and display.
    pub time: Time,
    /// What it says: a message.
    pub body: Body,
    /// Its places, at least one of which keeps it.
    pub places: Vec<Place>,
}

/// A publication's place in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The channel's place among the channels.
    pub channel: u32,
    /// The offset.
    pub offset: u64,
    /// Does the channel's history keep it?
    pub in_history: bool,
    /// Is it the channel's retained value?
    pub is_value: bool,
}

/// An idempotency key that only memory knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub key: Box<str>,
    /// Of payload and channels.
    pub digest: u64,
    /// When it was first used.
    pub time: Time,
    /// The position of what was published under it.
    pub at: Position,
    /// The channels of the message by their places, with the offset in each; the first is the key's scope.
    pub places: Vec<(u32, u64)>,
}

/// A pattern that was listened to, of whose channels it is known what they have let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listened {
    /// The pattern's realm.
    pub realm: Realm,
    /// Its text.
    pub text: Box<[u8]>,
    /// The newest that is gone.
    pub trimmed: Trimmed,
}

/// One piece of it. The head comes first; a channel before whatever names it; publications in the order of visibility; keys
/// oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// See [`Head`].
    Head(Head),
    /// See [`Channel`].
    Channel(Channel),
    /// See [`Publication`].
    Publication(Publication),
    /// See [`Listened`].
    Listened(Listened),
    /// See [`Key`].
    Key(Key),
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// How everything stood.
    pub head: Head,
    /// The channels.
    pub channels: Vec<Channel>,
    /// The publications.
    pub publications: Vec<Publication>,
    /// The patterns.
    pub listened: Vec<Listened>,
    /// The keys.
    pub keys: Vec<Key>,
}

impl Kept {
    /// Takes the next piece.
    pub fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Head(head) => self.head = head,
            Piece::Channel(channel) => self.channels.push(channel),
            Piece::Publication(publication) => self.publications.push(publication),
            Piece::Listened(listened) => self.listened.push(listened),
            Piece::Key(key) => self.keys.push(key),
        }
    }
}

/// Why what was kept cannot be taken up: then all that was in memory is a gap.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeUpError {
    /// Positions of the store are not those that it was written beside.
    #[error("it was kept beside another log, or the log has been changed since")]
    OtherLog,
    /// The new incarnation has the mark of an old one.
    #[error("by chance this start has the mark of an earlier one")]
    SameMark,
    /// It contradicts itself.
    #[error("it contradicts itself: {0}")]
    Contradiction(&'static str),
}
