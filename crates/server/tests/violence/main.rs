//! Proof by violence: the real server is killed, cut off, filled up and rolled back under load, again and again, and an
//! independent ledger compares what was acknowledged with what everybody was shown.

#![allow(clippy::unwrap_used, dead_code)] // all of this is test

mod chance;
mod judge;
mod ledger;
mod play;
mod proxy;
mod publisher;
mod scene;
mod stage;
mod subscriber;
mod wire;
mod witness;

use std::time::Duration;

use play::{Plan, Report};

/// What the short form takes at most; it ends after its kills, earlier.
const SHORT: Duration = Duration::from_secs(30);

/// A number given in the environment, for `scripts/violence`.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a plan in a folder that stays if something is wrong.
fn run(plan: &Plan) -> Report {
    let folder = tempfile::Builder::new().prefix("violence-").tempdir().unwrap();
    let report = play::run(plan, folder.path());
    if !report.faults.is_empty() {
        println!("what is left is in {}", folder.keep().display());
    }
    println!("{report}");
    report
}

fn verdict(report: &Report) {
    assert!(
        report.faults.is_empty(),
        "seed {}: repeat with scripts/violence --seed {}\n{}",
        report.seed,
        report.seed,
        report.faults.join("\n")
    );
}

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        kills: 12,
        time: SHORT,
        memory_only: false,
        life_ms: 1_500,
        more: String::new(),
        progress: false,
    }
}

#[test]
fn a_server_in_memory_that_nobody_kills_loses_nothing_when_connections_are_cut() {
    let report = run(&Plan {
        memory_only: true,
        time: Duration::from_secs(given("VIOLENCE_SECONDS").unwrap_or(4)),
        ..plan(given("VIOLENCE_SEED").unwrap_or(1))
    });
    verdict(&report);
    assert!(
        report.delivered > 1_000 && report.cuts > 10,
        "that proves nothing: {report}"
    );
}

#[test]
fn nothing_acknowledged_is_lost_by_a_server_that_is_killed_again_and_again() {
    let report = run(&plan(7));
    verdict(&report);
    assert!(report.kills >= 10, "that proves nothing: {report}");
}

/// The long form: `scripts/violence`.
#[test]
#[ignore = "takes as long as it is told to: scripts/violence"]
fn the_long_form() {
    let seed = given("VIOLENCE_SEED").unwrap_or_else(|| getrandom::u64().unwrap() >> 16);
    println!("seed {seed}");
    let report = run(&Plan {
        kills: given("VIOLENCE_KILLS").unwrap_or(300) as u32,
        time: Duration::from_secs(given("VIOLENCE_SECONDS").unwrap_or(3_600)),
        life_ms: given("VIOLENCE_LIFE_MS").unwrap_or(2_500),
        progress: true,
        ..plan(seed)
    });
    verdict(&report);
}
