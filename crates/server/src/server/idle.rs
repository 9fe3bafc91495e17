//! Since when nobody has been connected: where that is set, a server ends that nobody needs.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(super) struct Idle {
    /// None: somebody is connected.
    since: Option<Instant>,
}

impl Idle {
    /// Nobody has come yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: Some(now) }
    }

    /// Somebody came. Most are gone again before [`Idle::look`]: a page that asks once a second keeps the server too.
    pub(super) fn came(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// Is anybody connected now?
    pub(super) fn look(&mut self, is_anybody: bool, now: Instant) {
        match (is_anybody, self.since) {
            (true, _) => self.since = None,
            (false, None) => self.since = Some(now),
            (false, Some(_)) => {}
        }
    }

    /// When nobody will have been connected for so long.
    pub(super) fn deadline(&self, limit: Duration) -> Option<Instant> {
        self.since.map(|since| since + limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn whoever_comes_and_goes_between_two_looks_counts() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut idle = Idle::new(start);
        idle.look(false, at(6));
        assert_eq!(idle.deadline(LIMIT), Some(at(10)));
        idle.came(at(8));
        idle.look(false, at(9));
        assert_eq!(idle.deadline(LIMIT), Some(at(18)));
    }

    #[test]
    fn while_somebody_is_connected_there_is_no_end_in_sight() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut idle = Idle::new(start);
        idle.look(true, at(1));
        idle.came(at(2));
        assert_eq!(idle.deadline(LIMIT), None);
        idle.look(false, at(40));
        assert_eq!(idle.deadline(LIMIT), Some(at(50)));
    }
}
