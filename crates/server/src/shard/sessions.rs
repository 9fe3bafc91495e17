//! What a session holds: one poll at a time, given back when a newer one comes or the page says that it is gone, and streams
//! that last as long as it says that it is there, if it has begun to.

use cometserver_core::grant::Grant;

use super::Shard;
use super::requests::Parameters;
use super::wish::{MAX_SESSION, Wish};
use crate::api::{self, Refused};
use crate::endpoint::Endpoint;
use crate::http::Request;
use crate::shared::{ConnectionId, Mail, lock};
use crate::websocket::code;
use crate::wire::Format;

impl Shard {
    /// Under what a session's polls, or its streams, are known to all shards.
    pub(super) fn held_as(&self, endpoint: Endpoint, wish: &Wish, grant: &Grant, session: &str) -> u64 {
        let is_poll = endpoint == Endpoint::Poll;
        self.shared.secret_hash(&(is_poll, wish.identity(grant), session))
    }

    /// Under what all that a session holds is known.
    pub(super) fn holder(&self, grant: &Grant, session: &str) -> u64 {
        self.shared.secret_hash(&(&grant.user, session))
    }

    /// Takes the place of what the same session held, if anything, and ends that if asked to.
    pub(super) fn supersede(&mut self, slot: usize, held_as: u64, end: bool) {
        let id = self.id_of(slot);
        let older = lock(&self.shared.sessions).insert(held_as, id);
        if let Some(older) = older.filter(|older| end && *older != id) {
            self.tell_superseded(older);
        }
    }

    fn tell_superseded(&mut self, held: ConnectionId) {
        if held.shard == self.id {
            self.superseded(held);
        } else {
            self.shared.mailboxes[held.shard as usize].send(Mail::Superseded(held));
        }
    }

    /// A newer request of its session has come, or its page is gone: it ends.
    pub(super) fn superseded(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot_of(id) else { return };
        match self.connections[slot].subscriber().map(|held| held.format) {
            None => {}
            Some(Format::Poll) => self.answer_early(slot),
            Some(_) => {
                let after = self.retry_after();
                self.end(slot, after, code::RESTART, "superseded or released");
            }
        }
    }

    /// Ends what a session holds, of the channels and patterns named if there are any, as the page that held it is gone, or
    /// about to be. How much was there?
    pub(super) fn release_session(
        &mut self,
        request: &Request<'_>,
        parameters: &Parameters<'_>,
        grant: &Grant,
    ) -> Result<usize, Refused> {
        // Names nothing to listen to, which only a WebSocket may.
        let wish = self.wish(Endpoint::WebSocket, request, parameters)?;
        let session = wish.session.as_deref();
        let session = session.ok_or_else(|| Refused::bad("name the `session` that is to be released"))?;
        let held = if wish.channels.is_empty() && wish.patterns.is_empty() {
            self.held_by(grant, session)
        } else {
            let held_as = [Endpoint::Poll, Endpoint::Stream]
                .map(|endpoint| self.held_as(endpoint, &wish, grant, session));
            let sessions = lock(&self.shared.sessions);
            held_as
                .iter()
                .filter_map(|held_as| sessions.get(held_as).copied())
                .collect()
        };
        // Those of this shard by mail as well: a session may hold very many, and each has a turn of its own.
        for held in &held {
            self.shared.mailboxes[held.shard as usize].send(Mail::Superseded(*held));
        }
        Ok(held.len())
    }

    /// Notes that the page is there which a session's streams are for: from now on they end when that is not said any more.
    /// Behind a front web server nothing else would tell, which goes on taking what is sent to a browser that has vanished.
    /// How many are held?
    pub(super) fn renew_session(
        &mut self,
        parameters: &Parameters<'_>,
        grant: &Grant,
    ) -> Result<usize, Refused> {
        let session =
            api::text(parameters, "session").filter(|session| (1..=MAX_SESSION).contains(&session.len()));
        let session = session.ok_or_else(|| Refused::bad("name the `session` that is to be renewed"))?;
        let held = self.held_by(grant, session);
        for held in &held {
            self.shared.mailboxes[held.shard as usize].send(Mail::Renewed(*held));
        }
        Ok(held.len())
    }

    /// The page of a stream is there.
    pub(super) fn renewed(&mut self, id: ConnectionId) {
        let now = self.now.max(1);
        let Some(slot) = self.slot_of(id) else { return };
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.heard = now;
        }
    }

    /// All that a session holds.
    fn held_by(&self, grant: &Grant, session: &str) -> Vec<ConnectionId> {
        let holder = self.holder(grant, session);
        let held = lock(&self.shared.holders).get(&holder).cloned();
        held.unwrap_or_default()
    }
}
