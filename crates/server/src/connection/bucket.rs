//! How fast a connection may publish.

/// A publication in a [`Bucket`].
const ONE: u64 = 1000;

/// How fast a connection may publish.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// In thousandths: what comes back within a millisecond is seldom a whole one.
    tokens: u64,
    since: u64,
}

impl Bucket {
    /// Takes one, if there is one; `rate` come back in a second, and no more than that are saved up.
    pub fn take(&mut self, rate: usize, now: u64) -> bool {
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let back = now.saturating_sub(self.since).saturating_mul(rate);
        self.tokens = self.tokens.saturating_add(back).min(rate.saturating_mul(ONE));
        self.since = now;
        match self.tokens.checked_sub(ONE) {
            Some(rest) => self.tokens = rest,
            None => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of one attempt every `step` milliseconds, for `time` of them, may publish.
    fn allowed(rate: usize, step: u64, time: u64) -> usize {
        let mut bucket = Bucket::default();
        let start = 1000;
        // What is saved up at first is spent.
        while bucket.take(rate, start) {}
        let attempts = (start..start + time)
            .step_by(usize::try_from(step).unwrap())
            .skip(1);
        attempts.filter(|at| bucket.take(rate, *at)).count()
    }

    #[test]
    fn a_steady_publisher_gets_its_rate_whatever_its_rhythm() {
        for step in [1, 3, 7, 10, 19, 33] {
            let wanted = usize::try_from(10_000 / step).unwrap().min(1000);
            let got = allowed(100, step, 10_000);
            assert!(got.abs_diff(wanted) <= 2, "every {step} ms: {got} of {wanted}");
        }
        assert_eq!(allowed(1, 100, 10_001), 10);
    }

    #[test]
    fn a_burst_is_bounded_by_the_rate_of_a_second() {
        let mut bucket = Bucket::default();
        let burst = (0..1000).filter(|_| bucket.take(100, 1_000_000)).count();
        assert_eq!(burst, 100);
        assert!(!bucket.take(100, 1_000_009));
        assert!(bucket.take(100, 1_000_010));
    }
}
