//! Who answers for what a connection makes the tables keep that all share.

use cometserver_core::grant::Grant;
use cometserver_core::quota::Payer;

use super::Shard;
use crate::listener::Role;

impl Shard {
    /// Is a connection's present request, or its latest one, of the site's own code? That has a door of its own, or a key.
    pub(super) fn is_sites(&self, slot: usize) -> bool {
        self.role(slot) != Role::Public || self.connections[slot].shows_key
    }

    /// What a connection shows from now on is a key, or is not: what it makes the server hold counts, or does not.
    pub(super) fn show_key(&mut self, slot: usize, shows_key: bool) {
        if std::mem::replace(&mut self.connections[slot].shows_key, shows_key) != shows_key {
            self.weigh(slot);
        }
    }

    /// The site's own code, or the visitor: the user that a token names, else the address, else the connection alone.
    pub(super) fn payer(&self, slot: usize, grant: &Grant) -> Payer {
        if self.is_sites(slot) {
            return Payer::SITE;
        }
        if let Some(user) = &grant.user {
            return Payer::known(self.shared.secret_hash(&("user", user)));
        }
        let connection = &self.connections[slot];
        let key = match connection.visitor.address() {
            Some(address) => self.shared.secret_hash(&("address", address)),
            None => self
                .shared
                .secret_hash(&("connection", self.id, slot, connection.generation)),
        };
        match grant.is_anonymous() {
            true => Payer::anonymous(key),
            false => Payer::known(key),
        }
    }
}
