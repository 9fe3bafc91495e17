//! What has to be done when time passes: a bounded piece of it at a time, and when to come back.

use std::cmp::Reverse;

use super::state::State;
use crate::Time;
use crate::room::Room;

/// So many publications leave, or channels are looked at, before the lock is given back.
const PIECE: usize = 4096;

/// Housekeeping that could be done a moment later is done together: a wake-up costs more than a second's delay matters.
const SLACK: Time = 1_000;

/// While something is kept, the hub wants to be told the time at least this often, see [`State::clock`].
const HEARTBEAT: Time = 1_800_000;

impl State {
    /// Does what is due, and returns the shards that have something to deliver.
    pub(super) fn tick(&mut self, now: Time) -> u64 {
        let mut left = PIECE;
        while left > 0 && self.slide(now) {
            left -= 1;
        }
        while left > 0 && self.expire(now) {
            left -= 1;
        }
        self.forget_idle(now, false);
        self.keys.forget(now);
        self.patterns.forget(now);
        self.announce_presence(now)
    }

    fn announce_presence(&mut self, now: Time) -> u64 {
        let limits = self.options.presence;
        let mut audience = 0;
        while let Some(Reverse((at, id))) = self.presence_due.peek().copied() {
            if at > now {
                break;
            }
            self.presence_due.pop();
            self.presence_due.tidy();
            let Some(presence) = self.channel_mut(id).and_then(|entry| entry.presence.as_mut()) else {
                continue;
            };
            let (bodies, gone) = presence.due(at, now, &limits);
            let next = presence.ask();
            self.presence_due.extend(next.map(|at| Reverse((at, id))));
            self.release_members(gone);
            for body in bodies {
                audience |= self.append_memory(&[id], body, 0, now).1;
            }
            self.maybe_idle(id, now);
        }
        audience
    }

    /// When an append makes something due, at the latest: cheaper than to ask everything.
    pub(super) fn append_deadline(&self, now: Time) -> Option<Time> {
        Some(now.saturating_add(self.options.window).saturating_add(SLACK))
    }

    /// When [`State::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let lazily = [
            self.slide_due(),
            self.expire_due(),
            self.forget_due(),
            self.keys.deadline(),
            self.patterns.deadline(),
        ];
        let lazily = lazily
            .into_iter()
            .flatten()
            .min()
            // What could not be done in time (a pending key, the next piece) is no reason to be called without a pause.
            .map(|at| at.max(self.last_time).saturating_add(SLACK));
        // Who is never called for over an hour cannot tell that from a clock that jumps.
        let heartbeat = (!self.order.is_empty()).then(|| self.last_time.saturating_add(HEARTBEAT));
        let promptly = self.presence_due.peek().map(|Reverse((at, _))| *at);
        [lazily, promptly, heartbeat].into_iter().flatten().min()
    }
}
