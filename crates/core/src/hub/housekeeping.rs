//! What has to be done when time passes: a bounded piece of it at a time, and when to come back.

use std::cmp::Reverse;

use super::state::{Behind, State};
use crate::Time;
use crate::tidy::Tidy;

/// So many idempotency keys are forgotten, or members leave a channel, in one hold of the lock.
const PIECE: usize = 128;

/// Housekeeping that could be done a moment later is done together: a wake-up costs more than a second's delay matters.
const SLACK: Time = 1_000;

/// While something is kept, the hub wants to be told the time at least this often, see [`State::clock`].
const HEARTBEAT: Time = 1_800_000;

/// What a piece of housekeeping has done.
pub(super) struct Ticked {
    /// The shards that have something to deliver.
    pub(super) audience: u64,
    /// There is more to do now, in another hold of the lock.
    pub(super) more: bool,
    /// What has to be done first, without the lock: somebody has left a channel that has to be compared.
    pub(super) behind: Option<Behind>,
}

impl State {
    /// Does a piece of what is due.
    pub(super) fn tick(&mut self, now: Time) -> Ticked {
        while self.has_time() && self.slide(now) {}
        while self.has_time() && self.expire(now) {}
        let idle = self.forget_idle(now, false);
        let keys = self.has_time() && self.keys.forget(now, PIECE);
        let patterns = self.has_time() && self.patterns.forget(now).is_some_and(|at| at <= now);
        self.steps += PIECE * (usize::from(keys) + usize::from(patterns));
        let crowded = self.enforce_ceilings();
        let (audience, behind) = self.announce_presence(now);
        Ticked {
            audience,
            more: !self.has_time() || idle || keys || patterns || crowded || behind.is_some(),
            behind,
        }
    }

    fn announce_presence(&mut self, now: Time) -> (u64, Option<Behind>) {
        let limits = self.options.presence;
        let mut audience = 0;
        while let Some(Reverse((at, id))) = self.presence_due.peek().copied() {
            if at > now || !self.has_time() {
                break;
            }
            if let Some(behind) = self.compare(&[id]) {
                return (audience, Some(behind));
            }
            self.presence_due.pop();
            self.presence_due.tidy();
            self.steps += 1;
            let Some(presence) = self.channel_mut(id).and_then(|entry| entry.presence.as_mut()) else {
                continue;
            };
            let (bodies, gone) = presence.due(at, (now, PIECE), &limits);
            let next = presence.ask();
            self.presence_due.extend(next.map(|at| Reverse((at, id))));
            self.steps += 4 * gone.len();
            self.release_members(gone);
            for body in bodies {
                audience |= self.append_memory(&[id], body, 0, now).1;
            }
            self.maybe_idle(id, now);
        }
        (audience, None)
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
