//! Whose requests come in, for the limits that hold for each visitor.

use super::Shard;
use super::ceiling::WHY;
use crate::access;
use crate::gateway_key;
use crate::http::Request;
use crate::listener::Role;
use crate::visitor::Visitor;

impl Shard {
    /// The visitor whose request a connection's present one is. On doors for others than visitors: unknown.
    pub(super) fn visitor(&self, slot: usize) -> Visitor {
        self.connections[slot].visitor
    }

    /// A gateway of the site's own passes this request on: it came through the door of the site's code, or shows the key.
    pub(super) fn is_gateway(&self, slot: usize, request: &Request<'_>) -> bool {
        match self.role(slot) {
            Role::Backend => true,
            Role::Public | Role::Ops => request
                .header(gateway_key::HEADER)
                .is_some_and(|shown| self.shared.gateway_key.is(shown)),
        }
    }

    /// A request has come: from now on its connection is its visitor's, and counts for them. A front web server sends the
    /// requests of many over one.
    pub(super) fn meet_visitor(&mut self, slot: usize, request: &Request<'_>) {
        let door = &self.shared.doors[self.connections[slot].door];
        if door.role != Role::Public {
            return;
        }
        let shows_key = self.settings.access.is_sites(access::credential(request));
        let is_named = door.proxied || door.hears_gateways && self.is_gateway(slot, request);
        let max = self.settings.config.limits.connections_per_address;
        let connection = &mut self.connections[slot];
        let before = connection.counted_address();
        connection.visitor = if is_named {
            Visitor::forwarded(request)
        } else {
            connection.peer
        };
        // One that is there only to be refused counts for nobody.
        let is_bounded = max.is_some() && connection.refusal.is_none();
        let address = connection.visitor.address().filter(|_| is_bounded);
        let counted = self.shared.recount(before, address, max.unwrap_or(usize::MAX));
        connection.is_counted = counted.is_ok() && address.is_some();
        let is_late = std::mem::take(&mut connection.came_late) && self.shared.memory.is_over() && !shows_key;
        connection.crowded = counted.err().or(is_late.then_some(WHY));
        self.show_key(slot, shows_key);
    }

    /// A request's answer goes out now: until the next one a front web server's connection is nobody's. It keeps some that
    /// are idle, and whose request was the last on them must not be refused another for that. Before it is sent, since the
    /// next one may come at once, and over another connection.
    pub(super) fn part_from_visitor(&mut self, slot: usize) {
        let visitor = self.visitor(slot);
        let connection = &mut self.connections[slot];
        if visitor == connection.peer {
            return;
        }
        if let Some(address) = connection.counted_address() {
            self.shared.uncount(address);
            connection.is_counted = false;
        }
    }

    /// An answer could not be sent as a whole: its connection is its visitor's until it is.
    pub(super) fn stay_with_visitor(&mut self, slot: usize) {
        let max = self.settings.config.limits.connections_per_address;
        let connection = &mut self.connections[slot];
        if connection.is_counted || !connection.is_blocked() || connection.refused().is_some() {
            return;
        }
        if let (Some(address), Some(_)) = (connection.visitor.address(), max) {
            // It had its place already.
            connection.is_counted = self.shared.recount(None, Some(address), usize::MAX).is_ok();
        }
    }
}
