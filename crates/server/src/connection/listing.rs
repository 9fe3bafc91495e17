//! A command that names many channels or patterns, and goes on where its last turn has ended.

use std::collections::VecDeque;
use std::sync::Arc;

use cometserver_core::ChannelName;
use cometserver_core::fanout::{Begin, Wants};
use cometserver_core::pattern::Pattern;

use crate::shared::Settings;

/// See the module. At most `limits.subscriptions` and `limits.patterns` names.
pub struct Listing {
    /// The command's `id`, as JSON.
    pub id: Option<Box<str>>,
    /// What is to be done with each.
    pub does: Listed,
    /// Channels that are left.
    pub names: VecDeque<ChannelName>,
    /// Patterns that are left.
    pub patterns: VecDeque<Arc<Pattern>>,
    /// So many of the channels may be subscribed to under these settings: all are looked at before anything changes.
    pub allowed: usize,
    /// Under which settings that was found.
    pub settings: Arc<Settings>,
}

/// What a [`Listing`] does with each name.
pub enum Listed {
    /// Subscribes.
    Subscribe {
        /// Where to begin.
        begin: Begin,
        /// What is wanted of each.
        wants: Wants,
        /// To be a member; what the member shows of itself.
        join: Option<Option<bytes::Bytes>>,
    },
    /// Unsubscribes.
    Unsubscribe,
}

impl Listing {
    /// Bytes that it holds, besides the patterns.
    pub(super) fn weight(&self) -> usize {
        let names = self
            .names
            .iter()
            .map(|name| name.as_bytes().len() + size_of_val(name));
        size_of::<Self>() + names.sum::<usize>()
    }
}
