//! Connections as members of channels.

use std::collections::HashSet;

use cometserver_core::ChannelId;
use cometserver_core::fanout::ReaderId;
use cometserver_core::grant::Grant;

use super::Shard;
use super::wish::{Listening, Wish};
use crate::connection::Membership;

impl Shard {
    /// A member's name: the grant's user, or one made up for the life of the connection.
    pub(super) fn membership(&mut self, slot: usize, wish: &Wish, grant: &Grant) -> Option<Box<Membership>> {
        wish.is_member()
            .then(|| self.new_membership(slot, grant, wish.session.as_deref(), wish.info.clone()))
    }

    pub(super) fn new_membership(
        &mut self,
        slot: usize,
        grant: &Grant,
        session: Option<&str>,
        info: Option<bytes::Bytes>,
    ) -> Box<Membership> {
        let user = grant.user.clone().unwrap_or_else(|| match session {
            // Everybody sees the name: it must not tell the session, under which others could come in its place.
            Some(session) => format!("anonymous-{:016x}", self.shared.secret_hash(&session)).into(),
            None => {
                let generation = self.connections[slot].generation;
                format!(
                    "anonymous-{:x}-{:x}-{:x}",
                    self.shared.started, self.id, generation
                )
                .into()
            }
        });
        Box::new(Membership { user, info })
    }

    /// Those of a reader's channels that are among these.
    pub(super) fn channels_of<'w>(
        &self,
        reader: ReaderId,
        among: impl Iterator<Item = &'w Listening>,
    ) -> Vec<ChannelId> {
        let names: HashSet<_> = among.map(|channel| channel.name.as_bytes()).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let channels = self.fanout.channels(reader);
        let channels = channels.filter(|channel| names.contains(channel.name.as_bytes()));
        channels.map(|channel| channel.id).collect()
    }

    pub(super) fn join(&mut self, slot: usize, channel: cometserver_core::ChannelId) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        if subscriber.joined.contains(&channel) {
            return;
        }
        let Some(member) = &subscriber.member else { return };
        self.hub
            .join(channel, &member.user, member.info.clone(), self.wall);
        subscriber.joined.push(channel);
    }
}
