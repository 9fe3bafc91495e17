//! Who answers for what a connection makes the tables keep that all share.

use cometserver_core::grant::Grant;
use cometserver_core::quota::Payer;

use super::Shard;
use crate::listener::Role;

impl Shard {
    /// The site's own code, or the visitor: the user that a token names, else the address, else the connection alone.
    pub(super) fn payer(&self, slot: usize, grant: &Grant) -> Payer {
        if self.role(slot) != Role::Public || grant.is_sites() {
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
