//! The budget of gateways: how many of a site's few workers may wait for us, and when who finds no place comes back.
//!
//! A client behind a gateway occupies a process of the web host for as long as it waits: five PHP workers are a common
//! number, and the site's pages need them too. So whoever comes that way says so, and gets a place only if there is one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Held;
use crate::shared::chance;

/// Who is turned away comes back so long after the one before, in milliseconds: ten short requests a second are what the
/// smallest host bears, however many visitors wait.
const SPACING: u64 = 100;

/// Nobody is sent away for longer than so many times `held.retry`: what a few clients that do not obey can do to the rest.
const MOST_RETRIES: u64 = 5;

/// A way on which waiting costs the web host a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// The PHP bridge.
    Bridge,
    /// `comet cgi`.
    Cgi,
    /// The PHP drop-in folder.
    DropIn,
}

/// What a way may cost.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How many may wait; `None`: any number.
    pub max: Option<usize>,
    /// How long a long poll is held at most.
    pub hold: Duration,
    /// How long a poll that is held takes at least.
    pub min_hold: Duration,
    /// How long a stream may last.
    pub lifetime: Duration,
}

impl Gateway {
    /// The way that a request names.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "bridge" => Some(Self::Bridge),
            "cgi" => Some(Self::Cgi),
            "drop-in" => Some(Self::DropIn),
            _ => None,
        }
    }

    /// What the configuration says of it.
    pub fn terms(self, held: &Held) -> Terms {
        match self {
            Self::Bridge => Terms {
                max: held.bridge_max,
                hold: held.bridge_hold,
                min_hold: held.bridge_min_hold,
                lifetime: held.bridge_lifetime,
            },
            Self::Cgi => Terms {
                max: held.cgi_max,
                hold: held.cgi_hold,
                min_hold: held.cgi_min_hold,
                lifetime: held.cgi_lifetime,
            },
            Self::DropIn => Terms {
                max: held.drop_in_max,
                hold: held.drop_in_hold,
                min_hold: held.drop_in_min_hold,
                lifetime: held.drop_in_hold,
            },
        }
    }
}

/// A place behind a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The gateway that the request names.
    pub gateway: Gateway,
    /// Did that gateway prove that it is the site's own? Anybody can name one: those who do not prove it have places of
    /// their own, as many, and take none of the others'.
    pub is_proved: bool,
}

impl Place {
    /// Bridge and drop-in wait in the same PHP workers.
    fn pool(self) -> usize {
        let workers = match self.gateway {
            Gateway::Bridge | Gateway::DropIn => 0,
            Gateway::Cgi => 1,
        };
        2 * workers + usize::from(self.is_proved)
    }
}

/// The places that are taken, of one server.
#[derive(Debug, Default)]
pub struct Budget([Pool; 4]);

#[derive(Debug, Default)]
struct Pool {
    held: AtomicUsize,
    /// When the one who was turned away last comes back, in milliseconds since 1970.
    back: AtomicU64,
}

impl Budget {
    /// Takes a place, if there is one.
    pub fn take(&self, place: Place, held: &Held) -> bool {
        let places = &self.0[place.pool()].held;
        let taken = places.fetch_add(1, Ordering::Relaxed);
        if place.gateway.terms(held).max.is_some_and(|max| taken >= max) {
            places.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Gives it back.
    pub fn release(&self, place: Place) {
        self.0[place.pool()].held.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many wait.
    pub fn held(&self) -> usize {
        self.held_by(true) + self.held_by(false)
    }

    /// How many of them wait behind gateways that have proved themselves, or have not.
    pub fn held_by(&self, is_proved: bool) -> usize {
        let pools = [Gateway::Bridge, Gateway::Cgi].map(|gateway| Place { gateway, is_proved }.pool());
        pools
            .iter()
            .map(|pool| self.0[*pool].held.load(Ordering::Relaxed))
            .sum()
    }

    /// When somebody who found no place should come back, in milliseconds from `now` (milliseconds since 1970).
    ///
    /// They come back one behind the other, so the more there are, the longer each stays away, and whoever comes just when
    /// a place has become free takes it: all have the same chance of that.
    pub fn retry_after(&self, place: Place, retry: Duration, now: u64) -> u64 {
        let least = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX).max(1);
        let most = least.saturating_mul(MOST_RETRIES);
        let back = &self.0[place.pool()].back;
        let next = |last: u64| {
            last.saturating_add(SPACING)
                .clamp(now + least, now.saturating_add(most))
        };
        let last = back
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)))
            .unwrap_or_else(|last| last);
        next(last) - now + chance(least / 4 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        Held {
            bridge_max: Some(2),
            drop_in_max: Some(3),
            ..Held::default()
        }
    }

    fn proved(gateway: Gateway) -> Place {
        Place {
            gateway,
            is_proved: true,
        }
    }

    #[test]
    fn what_waits_in_php_shares_its_workers_and_what_waits_elsewhere_does_not() {
        let (budget, held) = (Budget::default(), held());
        assert!(budget.take(proved(Gateway::Bridge), &held));
        assert!(budget.take(proved(Gateway::DropIn), &held));
        assert!(
            !budget.take(proved(Gateway::Bridge), &held),
            "two wait in PHP already"
        );
        assert!(budget.take(proved(Gateway::Cgi), &held));
        assert!(
            budget.take(proved(Gateway::DropIn), &held),
            "its own bound is three"
        );
        assert!(!budget.take(proved(Gateway::DropIn), &held));
        budget.release(proved(Gateway::DropIn));
        budget.release(proved(Gateway::DropIn));
        assert!(budget.take(proved(Gateway::Bridge), &held));
        assert_eq!(budget.held(), 3);
    }

    #[test]
    fn who_only_says_to_be_a_gateway_takes_none_of_the_places_of_those_who_prove_it() {
        let (budget, held) = (Budget::default(), held());
        let said = |gateway| Place {
            gateway,
            is_proved: false,
        };
        for gateway in [Gateway::Bridge, Gateway::DropIn] {
            while budget.take(said(gateway), &held) {}
            budget.retry_after(said(gateway), Duration::from_secs(3), 1_000_000);
        }
        assert_eq!(budget.held(), 3, "their own bound is the same");
        assert!(budget.take(proved(Gateway::Bridge), &held));
        assert!(budget.take(proved(Gateway::DropIn), &held));
        budget.release(said(Gateway::DropIn));
        assert!(!budget.take(proved(Gateway::Bridge), &held));
    }

    #[test]
    fn the_more_are_turned_away_the_longer_each_stays_away_up_to_a_bound() {
        let (budget, retry) = (Budget::default(), Duration::from_secs(3));
        let after = |now| budget.retry_after(proved(Gateway::Bridge), retry, now);
        let jitter = 3000 / 4;
        let first = after(1_000_000);
        assert!((3000..=3000 + jitter).contains(&first), "{first}");
        let many: Vec<u64> = (0..60).map(|_| after(1_000_000)).collect();
        let last = many[59];
        assert!((9000..=9000 + jitter).contains(&last), "{last}");
        let flood = (0..10_000).map(|_| after(1_000_000)).max();
        assert!(flood <= Some(15_000 + jitter), "{flood:?}");
        // Once they are all through, it is as it was.
        let calm = after(2_000_000);
        assert!(calm <= 3000 + jitter, "{calm}");
        assert!(budget.retry_after(proved(Gateway::Cgi), retry, 1_000_000) <= 3000 + jitter);
    }
}
