//! What is under way on each channel: which publications have not reached everybody yet.

use std::collections::VecDeque;
use std::time::Instant;

/// A publication that somebody still waits for.
#[derive(Debug)]
struct Pending {
    sent: Instant,
    missing: u32,
}

/// One channel. Publications are numbered from 0; a subscriber gets them in order, so the number of those it has had
/// is the number of the next.
#[derive(Debug)]
pub(super) struct Channel {
    subscribers: u32,
    /// The number of `pending`'s first.
    first: u64,
    pending: VecDeque<Pending>,
}

impl Channel {
    pub(super) fn new(subscribers: u32) -> Self {
        Channel {
            subscribers,
            first: 0,
            pending: VecDeque::new(),
        }
    }

    /// Notes one publication. Returns how many deliveries it should cause.
    pub(super) fn publish(&mut self, sent: Instant) -> u32 {
        if self.subscribers > 0 {
            self.pending.push_back(Pending {
                sent,
                missing: self.subscribers,
            });
        }
        self.subscribers
    }

    /// A subscriber got publication `number`. `None`: nobody published that one.
    /// Otherwise when it was sent, and whether everybody has it now.
    pub(super) fn deliver(&mut self, number: u64) -> Option<(Instant, bool)> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let pending = self.pending.get_mut(index)?;
        pending.missing = pending.missing.checked_sub(1)?;
        let (sent, complete) = (pending.sent, pending.missing == 0);
        while self.pending.front().is_some_and(|pending| pending.missing == 0) {
            self.pending.pop_front();
            self.first += 1;
        }
        Some((sent, complete))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_complete_when_every_subscriber_has_it_and_a_second_copy_is_noticed() {
        let now = Instant::now();
        let mut channel = Channel::new(2);
        assert_eq!(channel.publish(now), 2);
        assert_eq!(channel.publish(now), 2);
        assert_eq!(channel.deliver(0), Some((now, false)));
        assert_eq!(channel.deliver(1), Some((now, false)));
        assert_eq!(channel.deliver(0), Some((now, true)));
        assert_eq!(channel.deliver(0), None, "three copies for two subscribers");
        assert_eq!(channel.deliver(2), None, "never published");
        assert_eq!(channel.deliver(1), Some((now, true)));
    }

    #[test]
    fn a_second_copy_is_noticed_while_an_older_publication_is_still_under_way() {
        let now = Instant::now();
        let mut channel = Channel::new(1);
        channel.publish(now);
        channel.publish(now);
        assert_eq!(channel.deliver(1), Some((now, true)));
        assert_eq!(channel.deliver(1), None);
        assert_eq!(channel.deliver(0), Some((now, true)));
    }

    #[test]
    fn a_channel_without_subscribers_has_nothing_under_way() {
        let mut channel = Channel::new(0);
        assert_eq!(channel.publish(Instant::now()), 0);
        assert_eq!(channel.deliver(0), None);
    }
}
