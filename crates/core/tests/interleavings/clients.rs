//! What clients and their connections do.

use cometserver_core::fanout::Wants;

use super::{SESSIONS, World, target};
use crate::client::{Since, To};

impl World {
    pub(super) fn since(&self, client: usize, choice: u8) -> Since {
        let cursors = &self.peers[client].cursors;
        match choice % 4 {
            0 => Since::Now,
            1 => Since::Earliest,
            _ if cursors.is_empty() => Since::Now,
            // Mostly a recent one.
            _ => Since::Cursor(
                cursors[cursors.len() - 1 - usize::from(choice / 4) % cursors.len().min(20)]
                    .0
                    .clone(),
            ),
        }
    }

    pub(super) fn connect(&mut self, client: usize, targets: u8, since: u8, wants: u8, shard: usize) {
        if self.connections[client].is_some() {
            return;
        }
        let first = self.begun[client].is_none();
        if first {
            let since = self.since(client, since);
            let wants = Wants {
                presence: wants & 1 != 0,
                retained: wants & 2 != 0,
                public_only: false,
            };
            for index in (0..5).filter(|i| targets & (1 << i) != 0) {
                self.peers[client].listen(target(index), &since, wants.presence, &self.ledger);
            }
            self.begun[client] = Some((since, wants));
        }
        let (begun, wants) = self.begun[client].clone().unwrap();
        let since = match &self.peers[client].cursor {
            Some(cursor) => Since::Cursor(cursor.clone()),
            None => {
                self.peers[client].begin_again(&begun, &self.ledger);
                begun
            }
        };
        let wants = Wants {
            retained: wants.retained && since == Since::Now,
            ..wants
        };
        self.next += 1;
        let (number, peer) = (self.next, &self.peers[client]);
        let shard_at = &mut self.shards[shard];
        let targets = peer.targets();
        let connection = shard_at.connect(
            number,
            shard,
            peer.session.as_deref(),
            &targets,
            (&since, wants),
            self.now,
        );
        let position = shard_at.fanout.position(connection.reader);
        if let (Since::Now, Some(opening)) = (&since, connection.outbox[0].cursor()) {
            let lines = self.ledger.lines_at(position);
            self.peers[client].cursors.push((opening.clone(), lines));
        }
        self.connections[client] = Some(connection);
        for (to, since, presence) in self.peers[client].pending() {
            self.subscribe_now(client, to, since, presence, false);
        }
    }

    pub(super) fn subscribe(&mut self, client: usize, to: To, since: Since, retained: bool) {
        // All of one client's subscriptions want the same of members: so it comes back as it was.
        let Some((_, wants)) = &self.begun[client] else {
            return;
        };
        let presence = wants.presence;
        if self.connections[client].is_some() && !self.peers[client].listens(&to) {
            self.subscribe_now(client, to, since, presence, retained);
        }
    }

    pub(super) fn subscribe_now(
        &mut self,
        client: usize,
        to: To,
        since: Since,
        presence: bool,
        retained: bool,
    ) {
        let connection = self.connections[client].as_mut().unwrap();
        let wants = Wants {
            presence,
            retained,
            public_only: false,
        };
        self.shards[connection.shard].subscribe(connection, &to, &since, wants, self.now);
        self.peers[client].attempt(to, since, presence, &self.ledger);
    }

    pub(super) fn round(&mut self, shard: usize, budgets: u32) -> bool {
        let before = self.shards[shard].fanout.seen();
        let connections = &mut self.connections;
        let round = self.shards[shard].fanout.round(|tag, _, publication, place| {
            let mut open = connections.iter_mut().flatten();
            let connection = open
                .find(|connection| connection.number == u64::from(tag))
                .unwrap();
            connection.round.push((publication.clone(), place));
        });
        for client in 0..SESSIONS.len() {
            let Some(connection) = &mut self.connections[client] else {
                continue;
            };
            let share = budgets >> (client * 8) & 0xff;
            // Half of the time the socket takes everything.
            let budget = if share & 0x80 != 0 {
                usize::MAX
            } else {
                (share & 7) as usize
            };
            let partial = share & 0x40 != 0;
            for frame in self.shards[connection.shard].flush(connection, before, budget, partial) {
                self.peers[client].receive(&frame, &self.ledger);
            }
        }
        round.more
    }

    pub(super) fn deliver(&mut self, client: usize, count: usize) {
        let Some(connection) = &mut self.connections[client] else {
            return;
        };
        for _ in 0..count {
            let Some(frame) = connection.outbox.pop_front() else {
                break;
            };
            self.peers[client].receive(&frame, &self.ledger);
        }
    }

    pub(super) fn read_on(&mut self, client: usize, items: usize) -> bool {
        let Some(connection) = &mut self.connections[client] else {
            return true;
        };
        self.shards[connection.shard].read_on(connection, items, &self.mailbox)
    }

    pub(super) fn cut(&mut self, client: usize) {
        if let Some(connection) = self.connections[client].take() {
            self.shards[connection.shard]
                .fanout
                .close(connection.reader, self.now);
        }
    }

    pub(super) fn mail(&mut self) {
        for (number, page) in std::mem::take(&mut *self.mailbox.lock().unwrap()) {
            let mut open = self.connections.iter_mut().flatten();
            if let Some(connection) = open.find(|connection| connection.number == number) {
                connection.fetching = false;
                self.shards[connection.shard]
                    .fanout
                    .fetched(connection.reader, page);
            }
        }
    }
}
