//! A channel's name, validated once at the door, and the channel itself as everybody shares it.

use std::fmt;
use std::sync::{Arc, RwLock};

use thiserror::Error;

use crate::namespace::{Durability, Namespace};

/// The longest name of a channel, in bytes. Long enough for a Mercure topic, which is an IRI.
pub const MAX_NAME: usize = 8 * 1024;

/// A group of channels that cannot see each other's names: one per Pusher app, and the default one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realm(pub u16);

/// A channel's name within its realm: 1 byte to 8 KiB, opaque.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName {
    realm: Realm,
    bytes: Arc<[u8]>,
}

/// Why a name was refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// There is no empty name.
    #[error("the channel name is empty: give it at least one byte")]
    Empty,
    /// The name has more than [`MAX_NAME`] bytes.
    #[error("the channel name has {0} bytes: at most {MAX_NAME} are possible")]
    TooLong(usize),
}

impl ChannelName {
    /// A name in the default realm.
    ///
    /// # Errors
    /// [`NameError`] if it is empty or longer than [`MAX_NAME`] bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
        Self::in_realm(Realm::default(), bytes)
    }

    /// A name in a given realm.
    ///
    /// # Errors
    /// As [`ChannelName::new`].
    pub fn in_realm(realm: Realm, bytes: impl AsRef<[u8]>) -> Result<Self, NameError> {
        let bytes = bytes.as_ref();
        match bytes.len() {
            0 => Err(NameError::Empty),
            n if n > MAX_NAME => Err(NameError::TooLong(n)),
            _ => Ok(Self {
                realm,
                bytes: bytes.into(),
            }),
        }
    }

    /// The realm that the name belongs to.
    pub fn realm(&self) -> Realm {
        self.realm
    }

    /// The name itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.bytes))
    }
}

/// A short handle of a channel that exists. A channel forgotten and made again has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId {
    /// The slot in the hub's table; slots are used again.
    pub(crate) slot: u32,
    /// Tells the channels apart that had the same slot.
    pub(crate) generation: u32,
}

/// What readers need to know of a channel; shared by its publications and its readers. Nothing but the namespace ever
/// changes.
#[derive(Debug)]
pub struct Channel {
    /// The handle.
    pub id: ChannelId,
    /// The name.
    pub name: ChannelName,
    /// Identity of its history: where it was made in its source. Another epoch is another history.
    pub epoch: u64,
    /// Where its history is: of the namespace that matched when it was made. A history does not move.
    pub durability: Durability,
    /// The first configured namespace that matches, with the channel's own durability. Held for a moment only; the hub,
    /// which changes it, has a copy of its own.
    namespace: RwLock<Arc<Namespace>>,
}

impl Channel {
    /// A new channel in a namespace.
    pub(crate) fn new(id: ChannelId, name: ChannelName, epoch: u64, namespace: Arc<Namespace>) -> Self {
        Self {
            id,
            name,
            epoch,
            durability: namespace.durability,
            namespace: RwLock::new(namespace),
        }
    }

    /// What holds for it now: a reload may have changed that.
    pub fn namespace(&self) -> Arc<Namespace> {
        // Nothing can be left half done: what is guarded is one pointer.
        let namespace = self
            .namespace
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        namespace.clone()
    }

    /// May anybody listen now?
    pub fn is_public(&self) -> bool {
        let namespace = self
            .namespace
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        namespace.public
    }

    /// Another namespace holds from now on.
    pub(crate) fn set_namespace(&self, namespace: Arc<Namespace>) {
        *self
            .namespace
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = namespace;
    }

    /// Is its history in the broker's store? If not, it is in memory alone.
    pub fn is_stored(&self) -> bool {
        self.durability.is_stored()
    }
}
