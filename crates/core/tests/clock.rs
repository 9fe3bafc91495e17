//! Time is for age and display: it never goes back, and a jump empties no history.

#![allow(clippy::unwrap_used, reason = "a test may")]

#[path = "support/hub.rs"]
mod support;

use std::sync::Arc;

use cometserver_core::hub::{Hub, Options};
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use support::{history, namespace, options, publish};

const HOUR: u64 = 3_600_000;
const START: u64 = 1_700_000_000_000;

fn hub() -> Arc<Hub> {
    let history = Bounds {
        age: 2 * HOUR,
        ..Bounds::default()
    };
    let namespace = Namespace {
        history,
        ..namespace(0, Durability::Memory)
    };
    Arc::new(Hub::new(Options {
        namespaces: Namespaces::uniform(namespace),
        ..options()
    }))
}

fn kept(hub: &Arc<Hub>) -> Vec<u64> {
    let history = history(hub, "a", Default::default(), 0);
    history
        .into_iter()
        .flat_map(|history| history.publications)
        .map(|p| p.time)
        .collect()
}

#[test]
fn it_never_goes_back() {
    let hub = hub();
    for now in [START, START - 5_000, START + 1] {
        publish(&hub, "a", "x", now);
    }
    assert_eq!(kept(&hub), [START, START, START + 1]);
}

#[test]
fn a_jump_over_an_hour_pauses_expiry_until_time_has_caught_up() {
    let hub = hub();
    publish(&hub, "a", "x", START);
    let jumped = START + 9 * HOUR;
    // However often it is called: only time that passes counts.
    for n in 0..100_000 {
        hub.tick(jumped + n / 1_000);
    }
    assert_eq!(kept(&hub).len(), 1);
    // Twice as fast, it has caught up after nine hours at the latest.
    for quarter in 1..=36 {
        hub.tick(jumped + quarter * HOUR / 4);
    }
    assert_eq!(kept(&hub).len(), 0);
    publish(&hub, "a", "y", jumped + 9 * HOUR);
    assert_eq!(kept(&hub), [jumped + 9 * HOUR]);
}

#[test]
fn a_clock_that_comes_back_after_a_jump_is_followed() {
    let hub = hub();
    publish(&hub, "a", "x", START);
    hub.tick(START + 9 * HOUR);
    publish(&hub, "a", "y", START + 1_000);
    assert_eq!(kept(&hub), [START, START + 1_000]);
}

#[test]
fn a_quiet_night_is_no_jump() {
    let hub = hub();
    publish(&hub, "a", "x", START);
    // Whoever keeps house is called in time; with nothing kept it need not be called at all.
    let mut next = hub.tick(START);
    let mut now = START;
    while let Some(at) = next.filter(|at| *at < START + 20 * HOUR) {
        assert!(at > now && at - now <= HOUR, "called again at {at} after {now}");
        now = at;
        next = hub.tick(now);
    }
    assert_eq!(next, None);
    publish(&hub, "a", "y", START + 20 * HOUR);
    assert_eq!(kept(&hub), [START + 20 * HOUR]);
}
