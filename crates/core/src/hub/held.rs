//! The hub's lock while somebody holds it: what is done is counted in steps, and long work is done a piece at a time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::Hub;
use super::state::State;
use crate::channel::ChannelName;

/// After so many steps the lock is given back, and whatever is left is done in another hold. A step is about a hundred
/// instructions: an entry looked at, a few patterns told; so it is a fraction of a millisecond.
pub(super) const HOLD: usize = 2_000;

/// A reader gives the lock back after so many steps already if somebody waits for it: whoever reads the past is in no hurry, and
/// others take the lock for each publication and each poll.
pub(super) const HOLD_WHILE_WANTED: usize = HOLD / 16;

/// To look up a name of so many bytes may be long.
const LONG: usize = 1024;

/// What a lock that is held is.
const HELD: &str = "the lock is held until this is dropped";

/// What was done in the longest hold of the hub's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Steps, of about a hundred instructions each.
    pub steps: usize,
    /// Nanoseconds of the holder's processor time, in operations that may be long; see [`Hub::set_work_clock`].
    pub nanoseconds: u64,
}

/// The lock, held.
pub(super) struct Held<'a> {
    /// Until it is dropped.
    state: Option<MutexGuard<'a, State>>,
    /// The thread was panicking already when it took the lock.
    was_panicking: bool,
    /// How to ask for the thread's processor time, and what that was, if this hold is measured.
    began: Option<(fn() -> u64, u64)>,
}

impl Hub {
    /// Takes the lock.
    pub(super) fn state(&self) -> Held<'_> {
        // A panic while holding the lock is a bug that must not take every connection with it; each step under the lock
        // leaves the state consistent or is the last one.
        let mut state = self.state.try_lock().unwrap_or_else(|| {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let state = self.state.lock();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            state
        });
        state.steps = 0;
        Held {
            state: Some(state),
            was_panicking: std::thread::panicking(),
            began: None,
        }
    }

    /// The same for an operation that may be long: its processor time is measured, and whoever waits has the lock next.
    pub(super) fn state_for_long(&self) -> Held<'_> {
        let mut held = self.state();
        held.began = self.work_clock.get().map(|clock| (*clock, clock()));
        held
    }

    /// The same for whoever looks these names up: it may be long where there are many, or long ones.
    pub(super) fn state_for(&self, names: &[ChannelName]) -> Held<'_> {
        match names {
            [] => self.state(),
            [name] if name.as_bytes().len() < LONG => self.state(),
            _ => self.state_for_long(),
        }
    }

    /// How to ask for the processor time of the calling thread, in nanoseconds: the core has no clock. From then on the
    /// longest hold of the lock is measured in time as well.
    pub fn set_work_clock(&self, clock: fn() -> u64) {
        let _ = self.work_clock.set(clock);
    }

    /// The longest hold of the lock since the start, in steps and in time: not necessarily the same one.
    pub fn longest_hold(&self) -> Hold {
        self.state().longest
    }
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state.as_ref().expect(HELD)
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect(HELD)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else {
            return;
        };
        state.tell_patterns();
        state.is_broken |= !self.was_panicking && std::thread::panicking();
        if state.steps > state.longest.steps {
            state.longest.steps = state.steps;
        }
        if let Some((clock, began)) = self.began {
            let took = clock().saturating_sub(began);
            state.longest.nanoseconds = state.longest.nanoseconds.max(took);
            // Whoever had it for long often comes back for more, and would have it again before those are awake who wait.
            MutexGuard::unlock_fair(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::{Options, Read, ReadLimits, Selection};
    use crate::namespace::{Bounds, Durability, Namespace, Namespaces};
    use crate::pattern::Pattern;
    use crate::position::Position;
    use crate::publication::Message;

    const KEPT: usize = 3_000;

    /// A hub that keeps so much, and a pattern that is listened to and matches none of it.
    fn world() -> (Hub, u32) {
        let hub = Hub::new(Options {
            namespaces: Namespaces::uniform(Namespace {
                history: Bounds {
                    count: KEPT,
                    ..Bounds::default()
                },
                durability: Durability::Memory,
                ..Namespace::default()
            }),
            ..Options::default()
        });
        let name = ChannelName::new("a").unwrap();
        for _ in 0..KEPT {
            let message = Message::text(name.clone(), "x");
            hub.publish(message, 10, &mut || panic!("memory does not wait"))
                .unwrap();
        }
        let pattern = Arc::new(Pattern::new("a**b", 100).unwrap());
        let (id, _) = hub.listen_pattern(0, &pattern).unwrap();
        (hub, id)
    }

    /// Pages until everything was looked at.
    fn pages(hub: &Hub, pattern: u32) -> usize {
        let limits = ReadLimits {
            items: 100,
            bytes: 1 << 20,
        };
        let patterns = [(pattern, false)];
        let selection = Selection {
            channels: &[],
            patterns: &patterns,
        };
        let mut from = Position::default();
        for page in 1..=KEPT {
            match hub.read(&selection, from, hub.now(), limits, &mut Vec::new()) {
                Read::Page { more: false, .. } => return page,
                Read::Page { reached, .. } => from = reached,
                Read::Cold(_) => panic!("nothing is stored"),
            }
        }
        panic!("it never comes to the end");
    }

    #[test]
    fn a_reading_gives_the_lock_back_early_while_somebody_waits_and_comes_to_the_end_all_the_same() {
        let (hub, pattern) = world();
        let calm = pages(&hub, pattern);
        assert_eq!(hub.readings_that_gave_way(), 0);
        hub.waiting.fetch_add(1, Ordering::Relaxed);
        let wanted = pages(&hub, pattern);
        assert!(wanted >= 8 * calm && wanted < KEPT / 4, "{calm}, {wanted}");
        assert_eq!(hub.readings_that_gave_way(), wanted as u64 - 1);
    }
}
