//! What goes out to a connection, and how one ends.

use std::io::{self, ErrorKind};

use mio::Token;

use super::Shard;
use crate::connection::{Sent, State};
use crate::metrics::{DropReason, Transport};
use crate::platform;
use crate::shared::patience;

/// How long a peer may take to close after everything was sent, in milliseconds.
pub(super) const LINGER: u64 = 2_000;

impl Shard {
    /// How long a peer may take nothing before it is dropped, in milliseconds.
    pub(super) fn patience(&self) -> u64 {
        self.millis(patience(self.settings.config.held.heartbeat))
    }

    /// Has a peer taken nothing for too long of what the kernel had room for? Asked when a heartbeat is due: what was sent
    /// last has then had a whole one to be taken.
    pub(super) fn takes_nothing(&mut self, slot: usize) -> bool {
        let (now, patience) = (self.now, self.patience());
        let connection = &mut self.connections[slot];
        let held = platform::unsent_bytes(&connection.socket).unwrap_or(0);
        let Some(subscriber) = connection.subscriber() else {
            return false;
        };
        let (before, since) = subscriber.untaken;
        let since = if before == 0 || held < before {
            subscriber.sent
        } else {
            since
        };
        subscriber.untaken = (held, since);
        held > 0 && now.saturating_sub(since) > patience
    }

    /// A connection is broken. Whom the kernel has given up is counted: it took nothing, or it has vanished.
    pub(super) fn broke(&mut self, slot: usize, error: &io::Error) {
        use ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        if !matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable) {
            return self.remove(slot);
        }
        let is_stuck = self.connections.get(slot).is_some_and(|c| c.stuck != 0);
        let reason = if is_stuck {
            DropReason::Slow
        } else {
            DropReason::Timeout
        };
        self.drop_for(slot, reason);
    }

    /// A connection that is to be closed once it has taken its last answer gets no more than the usual time for that.
    pub(super) fn watch_blocked(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get(slot).filter(|c| c.is_blocked()) {
            let since = if connection.stuck == 0 {
                self.now
            } else {
                connection.stuck
            };
            self.set_deadline(slot, since + self.patience());
        }
    }

    pub(super) fn drop_for(&mut self, slot: usize, reason: DropReason) {
        self.metrics().drops.of(reason).add(1);
        self.remove(slot);
    }

    /// Everything was said: close once it is sent.
    pub(super) fn finish(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.closing = true;
        self.close_if_sent(slot);
    }

    /// Half-closes a connection whose last bytes are sent, and lets the peer finish: to close with something unread would
    /// reset it, and what we sent last could be lost.
    pub(super) fn close_if_sent(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if !connection.closing {
            return;
        }
        if connection.is_blocked() {
            // Whoever never takes the rest must not stay for ever.
            self.set_deadline(slot, self.now + self.patience());
            return;
        }
        if connection.ended {
            self.remove(slot);
            return;
        }
        if matches!(connection.state, State::Lingering) {
            return;
        }
        connection.socket.finish();
        self.release_reader(slot);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.state = State::Lingering;
            connection.input = Vec::new();
        }
        self.weigh(slot);
        self.set_deadline(slot, self.now + LINGER);
    }

    /// The connection is gone, with everything it held.
    pub(super) fn remove(&mut self, slot: usize) {
        self.release_reader(slot);
        let Some(connection) = self.connections.try_remove(slot) else {
            return;
        };
        self.connections_room.left(&mut self.connections);
        let metrics = self.shared.metrics.shard(self.id as usize);
        metrics.connections.of(connection.counted).sub(1);
        metrics.pending_bytes.sub(connection.counted_pending as u64);
        let address = connection.counted_address();
        self.shared.left(self.id, address, connection.refusal.is_some());
        self.unweigh(connection.weighed, connection.holds);
    }

    /// Counts a connection as of another transport.
    pub(super) fn count_as(&mut self, slot: usize, transport: Transport) {
        let metrics = self.shared.metrics.shard(self.id as usize);
        if let Some(connection) = self.connections.get_mut(slot)
            && connection.counted != transport
        {
            metrics.connections.of(connection.counted).sub(1);
            metrics.connections.of(transport).add(1);
            connection.counted = transport;
        }
    }

    /// Sends bytes; a broken connection is removed. Is it still there?
    pub(super) fn send(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        match connection.send(bytes, &mut self.bytes_sent) {
            Ok(sent) => {
                self.sent(slot, sent);
                true
            }
            Err(error) => {
                self.broke(slot, &error);
                false
            }
        }
    }

    /// Notes that a peer takes no more for now, if so: from then on the shard is told when it does.
    pub(super) fn sent(&mut self, slot: usize, sent: Sent) {
        self.count_pending(slot);
        let until = self.now + self.patience();
        let connection = &mut self.connections[slot];
        if sent == Sent::Part && connection.stuck == 0 {
            connection.stuck = self.now.max(1);
            let at = until.min(connection.deadline);
            let watched = connection.watch_room(self.poll.registry(), Token(slot), true);
            self.set_deadline(slot, at);
            if let Err(error) = watched {
                tracing::warn!(%error, "a connection cannot be watched");
            }
        }
    }

    /// Counts what waits for a peer.
    pub(super) fn count_pending(&mut self, slot: usize) {
        let metrics = self.shared.metrics.shard(self.id as usize);
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let pending = connection.pending();
        match pending.checked_sub(connection.counted_pending) {
            Some(0) => {}
            Some(more) => metrics.pending_bytes.add(more as u64),
            None => metrics
                .pending_bytes
                .sub((connection.counted_pending - pending) as u64),
        }
        connection.counted_pending = pending;
        self.weigh(slot);
    }

    /// The peer takes more.
    pub(super) fn writable(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        // A round may have ended just between two frames: then nothing waits here, but the reader does.
        if !connection.is_blocked() && connection.stuck == 0 {
            return;
        }
        let flushed = connection.flush(&mut self.bytes_sent);
        self.count_pending(slot);
        match flushed {
            Err(error) => self.broke(slot, &error),
            // It may have taken something: from now on it has the whole time again to take more.
            Ok(Sent::Part) => self.sent(slot, Sent::Part),
            Ok(Sent::All) => {
                let connection = &mut self.connections[slot];
                connection.stuck = 0;
                if let Err(error) = connection.watch_room(self.poll.registry(), Token(slot), false) {
                    tracing::warn!(%error, "a connection cannot be watched");
                }
                if connection.closing {
                    self.close_if_sent(slot);
                    return;
                }
                if matches!(connection.state, State::Http) {
                    self.part_from_visitor(slot);
                }
                self.taken(slot);
                self.read_on_soon(slot);
                self.go_on(slot);
            }
        }
    }
}
