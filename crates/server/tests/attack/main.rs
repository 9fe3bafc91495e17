//! What floods do to everybody else: a server is flooded with each kind beside two hundred subscribers who behave, and its
//! counters and what those were shown say how that went.

#![allow(clippy::unwrap_used)] // all of this is test

mod crowd;
mod flood;
mod floods;
mod publisher;
mod report;
mod stage;

use std::time::Duration;

use crowd::Crowd;
use flood::{Flood, Outcome};
use publisher::Publisher;
use report::{Measured, Report};
use stage::Stage;

/// Subscribers who behave, a third on each of three transports.
const SUBSCRIBERS: usize = 200;

/// Publications a second that they are sent.
const RATE: u64 = 20;

/// How long a flood lasts, and whether it is followed by as many harmless bytes.
struct Plan {
    flood: Duration,
    compares: bool,
    subscribers: usize,
}

/// Serves the crowd while something is done to the server.
fn beside<T>(stage: &Stage, subscribers: usize, act: impl FnOnce() -> T) -> (T, crowd::Seen) {
    let crowd = Crowd::gather(stage.public, subscribers);
    let publisher = Publisher::start(&stage.backend, RATE);
    let done = act();
    let published = publisher.stop();
    (done, crowd.leave(published))
}

fn measure(kind: &Flood, plan: &Plan) -> Measured {
    let mut stage = Stage::start(kind);
    (kind.prepare)(&stage);
    let (outcome, seen) = beside(&stage, plan.subscribers, || flood::run(kind, &stage, plan.flood));
    let figures = stage.figures();
    let site = stage.site_has_room();
    stage.stop();
    let harmless = plan.compares.then(|| harmless(kind, &outcome, plan));
    Measured {
        name: kind.name,
        outcome,
        seen,
        harmless,
        figures,
        site,
    }
}

/// The same crowd beside as many connections that send as many bytes, all of them pings.
fn harmless(kind: &Flood, outcome: &Outcome, plan: &Plan) -> crowd::Seen {
    let mut stage = Stage::start(kind);
    (kind.prepare)(&stage);
    let (_, seen) = beside(&stage, plan.subscribers, || {
        flood::ping(&stage, outcome.connections, outcome.bytes, plan.flood);
    });
    stage.stop();
    seen
}

fn run(plan: &Plan, only: Option<&str>) -> Report {
    let mut report = Report::default();
    for kind in floods::all() {
        if only.is_none_or(|name| name == kind.name) {
            let measured = measure(&kind, plan);
            println!("{measured}");
            report.add(measured);
        }
    }
    report
}

/// A number given in the environment, for `scripts/attack`.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn floods_of_every_kind_cost_the_others_nothing_that_counters_show() {
    let report = run(
        &Plan {
            flood: Duration::from_millis(700),
            compares: false,
            subscribers: SUBSCRIBERS / 4,
        },
        None,
    );
    let faults = report.faults_in_counters();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "takes minutes, and judges time: scripts/attack"]
fn the_long_form() {
    let seconds = given("ATTACK_SECONDS").unwrap_or(5);
    let only = std::env::var("ATTACK_ONLY").ok();
    println!("{}", report::HEAD);
    let message = measure(
        &floods::one_message(),
        &Plan {
            flood: Duration::from_secs(1),
            compares: false,
            subscribers: SUBSCRIBERS,
        },
    );
    println!("{message}");
    let plan = Plan {
        flood: Duration::from_secs(seconds),
        compares: true,
        subscribers: SUBSCRIBERS,
    };
    let report = run(&plan, only.as_deref());
    let mut faults = report.faults_in_counters();
    faults.extend(report.faults_in_time(message.longest_turn()));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
