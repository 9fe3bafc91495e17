//! `ulimit -f`: a file that must not grow is a full disk, and ends nobody.

#![allow(clippy::unwrap_used)] // all of this is test
#![cfg(target_os = "linux")] // limits of another process

mod daemon_support;

use daemon_support::{Home, Ran, Server, until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

/// Lets no file of a process grow beyond so many bytes.
fn limit(server: &Server, bytes: Option<u64>) {
    let usual = getrlimit(Resource::Fsize);
    let new = Rlimit {
        current: bytes.or(usual.current),
        ..usual
    };
    prlimit(Pid::from_raw(server.pid() as i32), Resource::Fsize, new).unwrap();
}

fn publish(home: &Home, data: &str) -> u16 {
    home.http("POST", "/v1/publish?channel=news", data).status
}

fn history(home: &Home) -> usize {
    let answer = home.http("GET", "/v1/history?channel=news", "").json();
    answer["publications"].as_array().unwrap().len()
}

#[test]
fn a_log_that_may_not_grow_refuses_what_is_to_be_kept_and_recovers_by_itself() {
    let home = Home::new();
    let server = home.serve(&["namespace_default.history.count=100"]);
    let payload = "x".repeat(2000);
    assert_eq!(publish(&home, &payload), 200);
    limit(&server, Some(1024));
    assert_eq!(publish(&home, &payload), 503);
    let health = home.http("GET", "/health/ready", "").json();
    assert_eq!(health["status"], "degraded", "{health}");
    // What else writes says why not, and goes on.
    let copy = home.path().join("copy");
    let ran = home.run(["storage", "backup", copy.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("too large"), "{ran:?}");
    assert_eq!(history(&home), 1);
    limit(&server, None);
    until("it is tried again", || {
        (publish(&home, &payload) == 200).then_some(())
    });
    assert_eq!(history(&home), 2);
    server.signal(Signal::TERM);
    server.rest_of_log();
}

#[test]
fn a_server_whose_log_has_reached_the_limit_starts_and_reads_what_is_there() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let payload = "x".repeat(2000);
    assert_eq!(publish(&home, &payload), 200);
    server.signal(Signal::TERM);
    assert!(server.ended().success());
    let segments = std::fs::read_dir(home.data().join("log")).unwrap();
    let longest = segments
        .map(|file| file.unwrap())
        // The reserve is longer, and not written to.
        .filter(|file| file.path().extension().is_some_and(|end| end == "log"))
        .map(|file| file.metadata().unwrap().len())
        .max()
        .unwrap();
    let mut command = home.other_program("prlimit");
    command.args([
        &format!("--fsize={}:", longest + 4),
        env!("CARGO_BIN_EXE_comet"),
        "serve",
    ]);
    let server = Server::of(command);
    assert_eq!(history(&home), 1);
    assert_eq!(publish(&home, &payload), 503);
    limit(&server, None);
    until("it is tried again", || {
        (publish(&home, &payload) == 200).then_some(())
    });
}

#[test]
fn a_command_that_may_write_no_long_file_says_so() {
    let home = Home::new();
    let out = home.path().join("default.toml");
    let script = format!(
        "ulimit -f 1; {} config default > {}",
        env!("CARGO_BIN_EXE_comet"),
        out.display()
    );
    let mut command = home.other_program("bash");
    let ran = Ran::of(command.args(["-c", &script]).output().unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("too large"), "{ran:?}");
}
