//! Connections as members of channels.

use cometserver_core::grant::Grant;

use super::Shard;
use super::wish::Wish;
use crate::connection::Membership;

impl Shard {
    /// A member's name: the grant's user, or one made up for the life of the connection.
    pub(super) fn membership(&mut self, slot: usize, wish: &Wish, grant: &Grant) -> Option<Box<Membership>> {
        wish.join
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

    /// Becomes a member of all channels subscribed to.
    pub(super) fn join_all(&mut self, slot: usize) {
        let Some(reader) = self.reader_of(slot) else {
            return;
        };
        let channels: Vec<_> = self.fanout.channels(reader).map(|channel| channel.id).collect();
        for channel in channels {
            self.join(slot, channel);
        }
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
