//! Readers that are behind: a page at a time, from memory or from the store.

use cometserver_core::fanout::{Progress, Step, Target};
use cometserver_core::hub::ReadLimits;
use cometserver_core::protocol::native;
use cometserver_core::{Cursor, Position};

use super::Shard;
use crate::wire::Format;

/// What a reader that is behind reads at a time: enough for few calls, little enough to keep for a slow one.
pub(super) const PAGE: ReadLimits = ReadLimits {
    items: 256,
    bytes: 32 << 10,
};

/// Things shown that are a step of work.
const STEPS: usize = 8;

impl Shard {
    /// A page for a reader that is behind.
    pub(super) fn read_on(&mut self, slot: usize) {
        let blocked = self.connections[slot].is_blocked();
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if blocked || subscriber.fetching != 0 || self.fanout.is_live(reader) {
            return;
        }
        if format == Format::Poll {
            self.read_poll(slot);
            return;
        }
        let mut steps = std::mem::take(&mut self.steps);
        let progress = self.fanout.next(reader, PAGE, &mut steps);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let transport = self.connections[slot].counted;
        let delivered = steps
            .iter()
            .filter(|step| matches!(step, Step::Publication(..)))
            .count();
        self.turn.charge_each(1 + steps.len() / STEPS);
        for step in steps.drain(..) {
            self.write_step(slot, format, step, &mut out);
        }
        self.steps = steps;
        self.turn.charge_bytes(out.len());
        self.metrics().deliveries.of(transport).add(delivered as u64);
        self.open_late(slot, &mut out);
        let there = out.is_empty() || self.send(slot, &out);
        self.out = out;
        if !there {
            return;
        }
        if let Some(subscriber) = self.connections[slot].subscriber() {
            subscriber.sent = self.now;
        }
        match progress {
            Progress::Live if self.connections[slot].is_blocked() => {}
            Progress::Live => self.connections[slot].stuck = 0,
            Progress::More => self.read_on_soon(slot),
            Progress::Cold(fetch) => self.fetch(slot, fetch),
        }
        self.go_on(slot);
    }

    /// The cursor that an opening could not give yet: now nothing is owed any more that it would hide.
    pub(super) fn open_late(&mut self, slot: usize, out: &mut Vec<u8>) {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return;
        };
        let (reader, format) = (subscriber.reader, subscriber.format);
        if subscriber.unopened.is_some() && !self.fanout.owes(reader) {
            subscriber.unopened = None;
            let heartbeat = subscriber.heartbeat;
            let cursor = self.hub.cursor(self.fanout.position(reader));
            if format.is_events() {
                // Its opening has said the rest.
                self.encoder.heartbeat(format, cursor, out);
            } else {
                let heartbeat = self.told_heartbeat(heartbeat);
                self.encoder.opening(format, heartbeat, 0, Some(cursor), out);
            }
        }
    }

    /// What a reader needs cannot be read now. It is told so, and when to come back for the rest.
    pub(super) fn leave_unread(&mut self, slot: usize) {
        let is_poll = self.connections[slot]
            .subscriber()
            .is_some_and(|subscriber| subscriber.format == Format::Poll);
        if is_poll {
            let steps = self.last_steps(slot);
            if !steps.is_empty() {
                self.answer_with(slot, steps);
                return;
            }
        }
        self.send_away(slot);
    }

    /// What a reader that ends before it has been shown everything is told: what is there for it, and which present values
    /// and late subscriptions it does not get, as no cursor would bring them back.
    pub(super) fn last_steps(&mut self, slot: usize) -> Vec<Step> {
        let Some(subscriber) = self.connections[slot].subscriber() else {
            return Vec::new();
        };
        let reader = subscriber.reader;
        let mut steps = std::mem::take(&mut subscriber.gathered);
        let missing = self.fanout.give_up(reader);
        steps.extend(missing.into_iter().map(|target| Step::Gap(target, false, None)));
        steps
    }

    /// From where a reader goes on that ends now: what it has not been told of lost sources is told then.
    pub(super) fn last_cursor(&mut self, slot: usize) -> Option<Cursor> {
        let subscriber = self.connections[slot].subscriber()?;
        let (reader, unopened) = (subscriber.reader, subscriber.unopened);
        let own = unopened.filter(|_| self.fanout.owes(reader));
        Some(
            own.map(|own| own.cursor)
                .unwrap_or_else(|| self.hub.cursor(self.fanout.position(reader))),
        )
    }

    /// Writes one thing for a reader that was behind.
    pub(super) fn write_step(&mut self, slot: usize, format: Format, step: Step, out: &mut Vec<u8>) {
        match step {
            Step::Publication(publication, place, at) => {
                let cursor = self.cursor_beside(slot, format, at);
                self.encoder.publication(format, &publication, place, cursor, out);
            }
            Step::Gap(target, presence, at) => {
                self.metrics().gaps.add(1);
                let mut open = b"{\"type\":\"gap\",".to_vec();
                target_member(&target, &mut open);
                if presence {
                    open.extend_from_slice(b",\"presence\":true");
                }
                let cursor = self.cursor_beside(slot, format, at);
                self.encoder.object(format, &open, cursor, out);
            }
            Step::Subscribed(target) => self.write_subscribed(slot, format, &target, out),
        }
    }

    /// The cursor beside something shown. Where there is none yet, an event stream repeats the one that its client came
    /// with: some forget theirs over a block without.
    fn cursor_beside(&mut self, slot: usize, format: Format, at: Option<Position>) -> Option<Cursor> {
        match at {
            Some(at) => Some(self.hub.cursor(at)),
            None if format.is_events() => self.connections[slot].subscriber()?.unopened?.known(),
            None => None,
        }
    }
}

/// Which channel or pattern, as a member of an object.
pub(super) fn target_member(target: &Target, out: &mut Vec<u8>) {
    match target {
        Target::Channel(channel) => native::channel_member(channel.name.as_bytes(), out),
        Target::Pattern(pattern) => {
            out.extend_from_slice(b"\"pattern\":");
            native::json_string(&String::from_utf8_lossy(pattern.as_bytes()), out);
        }
    }
}
