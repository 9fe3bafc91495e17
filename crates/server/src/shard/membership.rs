//! Connections as members of channels.

use std::collections::HashSet;

use cometserver_core::ChannelId;
use cometserver_core::fanout::ReaderId;
use cometserver_core::grant::Grant;
use cometserver_core::quota::{OverQuota, Payer};

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

    /// Makes a connection a member of a channel that it listens to.
    ///
    /// # Errors
    /// Whoever pays for it has as many members as it may have.
    pub(super) fn join(&mut self, slot: usize, payer: Payer, channel: ChannelId) -> Result<(), OverQuota> {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return Ok(());
        };
        if subscriber.joined.contains(&channel) {
            return Ok(());
        }
        let Some(member) = &subscriber.member else {
            return Ok(());
        };
        let who = (&*member.user, payer);
        self.hub.join_for(who, channel, member.info.clone(), self.wall)?;
        subscriber.joined.push(channel);
        Ok(())
    }

    /// Makes a member of all these channels, or of none.
    ///
    /// # Errors
    /// As [`Shard::join`].
    pub(super) fn join_all(
        &self,
        member: Option<&Membership>,
        payer: Payer,
        channels: &[ChannelId],
    ) -> Result<(), OverQuota> {
        let Some(member) = member else { return Ok(()) };
        for (index, channel) in channels.iter().enumerate() {
            let who = (&*member.user, payer);
            let joined = self.hub.join_for(who, *channel, member.info.clone(), self.wall);
            if let Err(over) = joined {
                for channel in &channels[..index] {
                    self.hub.leave(*channel, &member.user, self.wall);
                }
                return Err(over);
            }
        }
        Ok(())
    }
}
