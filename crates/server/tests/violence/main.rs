//! Proof by violence: the real server is killed, cut off, filled up and rolled back under load, again and again, and an
//! independent ledger compares what was acknowledged with what everybody was shown.

#![allow(clippy::unwrap_used, dead_code)] // all of this is test

mod chance;
mod full_disk;
mod judge;
mod ledger;
mod listening;
mod owner;
mod play;
mod proxy;
mod publisher;
mod rollback;
mod scene;
mod stage;
mod subscriber;
mod wire;
mod witness;

use std::time::{Duration, Instant};

use play::{Plan, Report};
use rollback::Way;
use scene::Room;

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
        room: Room::Plenty,
        life_ms: 1_500,
        progress: false,
    }
}

#[test]
fn a_server_in_memory_that_nobody_kills_loses_nothing_when_connections_are_cut() {
    let report = run(&Plan {
        room: Room::Memory,
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

#[test]
fn what_the_ceiling_takes_is_told_when_the_server_is_killed_too() {
    let report = run(&Plan {
        room: Room::Tight,
        kills: 6,
        ..plan(8)
    });
    verdict(&report);
}

/// The long form, in rounds of so many kills; of five one has little room, and one is damaged.
const ROUND: u32 = 50;

fn round_of() -> u32 {
    given("VIOLENCE_ROUND").map_or(ROUND, |kills| kills as u32)
}

#[test]
#[ignore = "takes as long as it is told to: scripts/violence"]
fn the_long_form() {
    let seed = given("VIOLENCE_SEED").unwrap_or_else(|| u64::from(getrandom::u32().unwrap()));
    let kills = given("VIOLENCE_KILLS").unwrap_or(300) as u32;
    let end = Instant::now() + Duration::from_secs(given("VIOLENCE_SECONDS").unwrap_or(3_600));
    println!("seed {seed}");
    let mut total = Report::default();
    for round in 0.. {
        let left = end.saturating_duration_since(Instant::now());
        if total.kills >= kills || left.is_zero() {
            break;
        }
        let report = run(&Plan {
            kills: round_of().min(kills - total.kills),
            time: left,
            life_ms: given("VIOLENCE_LIFE_MS").unwrap_or(2_500),
            room: match given("VIOLENCE_ROOM").unwrap_or(round) % 5 {
                3 => Room::Tight,
                4 => Room::Damaged,
                _ => Room::Plenty,
            },
            progress: true,
            ..plan(seed + round)
        });
        verdict(&report);
        total.add(&report);
    }
    total.seed = seed;
    println!("all of it: {total}");
}

/// In a folder that stays if something is wrong.
fn in_a_folder(story: impl FnOnce(&std::path::Path)) {
    let folder = tempfile::Builder::new().prefix("violence-").tempdir().unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(folder.path())));
    if let Err(panic) = told {
        println!("what is left is in {}", folder.keep().display());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_folder_that_is_put_back_from_a_copy_is_a_gap_for_those_who_saw_more() {
    in_a_folder(|folder| rollback::story(Way::Copy { killed: false }, folder));
}

#[test]
fn a_copy_of_a_killed_servers_folder_is_as_good() {
    in_a_folder(|folder| rollback::story(Way::Copy { killed: true }, folder));
}

#[test]
fn a_backup_that_is_restored_is_a_gap_for_those_who_saw_more() {
    in_a_folder(|folder| rollback::story(Way::Backup, folder));
}

#[test]
fn an_empty_disk_is_a_gap_for_everybody() {
    in_a_folder(|folder| rollback::story(Way::Empty, folder));
}

#[test]
fn a_full_disk_refuses_clearly_and_loses_nothing() {
    in_a_folder(full_disk::story);
}
