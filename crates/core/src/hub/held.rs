//! The hub's lock while somebody holds it: what is done is counted in steps, and long work is done a piece at a time.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, TryLockError};

use super::Hub;
use super::state::State;
use crate::channel::ChannelName;

/// After so many steps the lock is given back, and whatever is left is done in another hold. A step is about a hundred
/// instructions: an entry looked at, a few patterns told; so it is a fraction of a millisecond.
pub(super) const HOLD: usize = 4_000;

/// To look up a name of so many bytes may be long.
const LONG: usize = 1024;

/// How often somebody who has more to do lets others have the lock before.
const POLITE: usize = 100;

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
    state: MutexGuard<'a, State>,
    /// How to ask for the thread's processor time, and what that was, if this hold is measured.
    began: Option<(fn() -> u64, u64)>,
}

impl Hub {
    /// Takes the lock.
    pub(super) fn state(&self) -> Held<'_> {
        // A panic while holding the lock is a bug that must not take every connection with it; each step under the lock
        // leaves the state consistent or is the last one.
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                state
            }
        };
        state.steps = 0;
        Held { state, began: None }
    }

    /// The same for an operation that may be long: its processor time is measured.
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

    /// Whoever comes back for the lock, with more to do, lets those have it first who wait for it.
    pub(super) fn let_others(&self) {
        for _ in 0..POLITE {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::thread::yield_now();
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
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.state.tell_patterns();
        if self.state.steps > self.state.longest.steps {
            self.state.longest.steps = self.state.steps;
        }
        if let Some((clock, began)) = self.began {
            let took = clock().saturating_sub(began);
            self.state.longest.nanoseconds = self.state.longest.nanoseconds.max(took);
        }
    }
}
