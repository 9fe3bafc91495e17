//! The time by which a shard judges its clients: it stands still while the shard cannot run.

use std::time::{Duration, Instant};

/// Away for so many milliseconds longer than it meant to wait, a shard was not working but paused: stopped by a signal, frozen
/// with its machine, or kept from running by others. Less cannot be told from a busy machine, and no deadline is shorter.
const SLACK: u64 = 1_000;

/// Milliseconds for which a shard has been able to run.
///
/// Clients that were silent meanwhile could not have been heard: after a pause each of them has what was left of its time
/// before, in which it can be asked, and can answer.
pub(super) struct Clock {
    started: Instant,
    /// Milliseconds of pauses.
    paused: u64,
    /// What it showed last.
    now: u64,
}

impl Clock {
    /// Begins with 0.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            paused: 0,
            now: 0,
        }
    }

    /// Looks again, after having meant to wait for so long at most; none: for as long as nothing happens.
    pub(super) fn look(&mut self, waited: Option<Duration>) -> u64 {
        let running = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let meant = waited.map_or(u64::MAX, |waited| {
            u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)
        });
        self.go_on(running, meant)
    }

    fn go_on(&mut self, running: u64, meant: u64) -> u64 {
        let passed = running.saturating_sub(self.paused + self.now);
        if passed > meant.saturating_add(SLACK) {
            self.paused += passed - meant;
        }
        self.now = running - self.paused;
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_does_not_count() {
        let mut clock = Clock::new();
        assert_eq!(clock.go_on(500, 400), 500);
        assert_eq!(clock.go_on(1_400, 0), 1_400, "a busy machine");
        assert_eq!(clock.go_on(61_400, 100), 1_500, "a minute's pause");
        assert_eq!(clock.go_on(61_450, 100), 1_550);
        assert_eq!(
            clock.go_on(99_900, u64::MAX),
            40_000,
            "nobody waited for anything"
        );
    }
}
