//! The log of a server that nobody reads, or that has no room: lines are lost and counted, and nothing else.

#![allow(clippy::unwrap_used)] // all of this is test
#![cfg(target_os = "linux")] // /dev/full

mod daemon_support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use daemon_support::{Home, PATIENCE, kill, until, wait_for_end};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

/// A server in the foreground with this as its standard error, which answers.
fn serve(home: &Home, stderr: impl Into<Stdio>, args: &[&str]) -> Child {
    let mut command = home.command(["serve"]);
    let child = command.args(args).stderr(stderr).spawn().unwrap();
    until("it listens", || UnixStream::connect(home.socket()).ok());
    child
}

/// Has a line logged, of about `bytes` bytes: a reload of a wrong configuration.
fn log_a_line(home: &Home, bytes: usize) {
    home.file(
        "comet.toml",
        &format!("[limits]\nmessage_size = \"{}\"\n", "y".repeat(bytes)),
    );
    assert_eq!(home.http("POST", "/v1/admin/reload", "").status, 422);
}

fn lines_lost(home: &Home) -> u64 {
    let metrics = home.http("GET", "/metrics", "").body;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("cometserver_log_lines_lost_total "))
        .unwrap_or_else(|| panic!("{metrics}"));
    line.parse().unwrap()
}

fn publishes(home: &Home) {
    let answer = home.http("POST", "/v1/publish?channel=news", "hello");
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn stops(mut child: Child) {
    kill(child.id(), Signal::TERM);
    wait_for_end(child.id());
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
    let home = Home::new();
    let config = home.file("comet.toml", "");
    let mut command = home.command(["serve", "--config"]);
    let mut child = command.arg(config).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"listening\"") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    drop(stderr);
    for _ in 0..3 {
        log_a_line(&home, 10);
        publishes(&home);
    }
    until("they are counted", || (lines_lost(&home) >= 3).then_some(()));
    stops(child);
}

#[test]
fn a_disk_without_room_costs_lines_and_nothing_else() {
    let home = Home::new();
    let config = home.file("comet.toml", "");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = serve(&home, full, &["--config", config.to_str().unwrap()]);
    for _ in 0..3 {
        log_a_line(&home, 10);
        publishes(&home);
    }
    until("they are counted", || (lines_lost(&home) >= 3).then_some(()));
    stops(child);
}

/// A pipe that takes not one byte more.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while rustix::io::write(&writer, &vec![b'\n'; size]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody_and_is_told_in_order_what_fits() {
    let home = Home::new();
    let config = home.file("comet.toml", "");
    let (reader, writer) = full_pipe();
    let child = serve(&home, writer, &["--config", config.to_str().unwrap()]);
    // More than waits in the queue.
    for number in 0..40 {
        log_a_line(&home, (40 << 10) + number);
        publishes(&home);
    }
    let lost = lines_lost(&home);
    assert!(lost > 5 && lost < 35, "{lost}");
    // A reader that comes after all is told what there is, in order, and how much is missing.
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let line = |text: &str| {
        let line = lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("no {text:.100}"))
    };
    while !line("listening").contains("\"listening\"") {}
    let next = |text: &str| {
        let line = line(text);
        assert!(line.contains(text), "{line:.100} before {text:.100}");
        line
    };
    for number in 0..40 - usize::try_from(lost).unwrap() {
        next(&format!("\\\"{}\\\"", "y".repeat((40 << 10) + number)));
    }
    let said = next("were lost");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["lines"], lost);
    log_a_line(&home, 7);
    next(&format!("\\\"{}\\\"", "y".repeat(7)));
    assert_eq!(lines_lost(&home), lost);
    stops(child);
}

#[test]
fn it_ends_though_nobody_reads_its_last_words() {
    let home = Home::new();
    let (_reader, writer) = full_pipe();
    let child = serve(&home, writer, &[]);
    publishes(&home);
    stops(child);
    // The same if it cannot start.
    let (_reader, writer) = full_pipe();
    let mut command = home.command(["serve", "--socket-group", "no-such-group"]);
    let mut child = command.stderr(writer).spawn().unwrap();
    wait_for_end(child.id());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn when_there_is_room_again_it_is_said_once_how_many_lines_were_lost() {
    let home = Home::new();
    let config = home.file("comet.toml", "");
    let log = home.path().join("log");
    let child = serve(
        &home,
        File::create(&log).unwrap(),
        &["--config", config.to_str().unwrap(), "--log-format", "json"],
    );
    let read = || fs::read_to_string(&log).unwrap();
    until("it has begun", || read().contains("\"listening\"").then_some(()));
    let pid = Pid::from_raw(child.id() as i32);
    let usual = getrlimit(Resource::Fsize);
    let full = Rlimit {
        current: Some(fs::metadata(&log).unwrap().len() + 5),
        ..usual
    };
    // Only the log is as long as that: what the server keeps is shorter.
    prlimit(pid, Resource::Fsize, full).unwrap();
    for _ in 0..4 {
        log_a_line(&home, 10);
    }
    until("they are counted", || (lines_lost(&home) == 4).then_some(()));
    prlimit(pid, Resource::Fsize, usual).unwrap();
    log_a_line(&home, 3);
    log_a_line(&home, 4);
    until("it goes on", || read().contains("\\\"yyyy\\\"").then_some(()));
    let lines = read();
    let said: Vec<&str> = lines.lines().filter(|line| line.contains("were lost")).collect();
    assert_eq!(said.len(), 1, "{lines}");
    let said: serde_json::Value = serde_json::from_str(said[0]).unwrap();
    assert_eq!(said["lines"], 4);
    stops(child);
}

/// Not a test by itself: the next one runs this very test binary again.
#[test]
fn as_a_process_that_panics() {
    if std::env::var_os("LOGGING_TEST").is_none() {
        return;
    }
    cometserver::logging::init(
        cometserver::config::LogFormat::Json,
        cometserver::config::LogLevel::Info,
    )
    .unwrap();
    cometserver::logging::log_panics();
    let thread = std::thread::Builder::new().name("shard-7".into());
    let failed = thread.spawn(|| panic!("out of cheese")).unwrap().join();
    assert!(failed.is_err());
    cometserver::logging::flush();
    std::process::exit(0);
}

fn panicking() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "as_a_process_that_panics", "--nocapture"])
        .env("LOGGING_TEST", "1")
        .stdout(Stdio::null());
    command
}

#[test]
fn a_panic_is_a_line_of_the_log_and_waits_for_nobody() {
    let output = panicking().stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let line = text.lines().find(|line| line.contains("out of cheese")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["thread"], &line["level"]),
        (&"shard-7".into(), &"ERROR".into())
    );
    let (_reader, writer) = full_pipe();
    let mut child = panicking().stderr(writer).spawn().unwrap();
    wait_for_end(child.id());
    assert!(child.wait().unwrap().success());
}

#[test]
fn no_command_panics_where_nobody_reads() {
    let home = Home::new();
    for args in [
        &["help"][..],
        &["--help"],
        &["start", "--help"],
        &["version"],
        &["--version"],
        &["status"],
        &["stop"],
        &["read", "k"],
        &["dump"],
        &["config", "check"],
        &["config", "default"],
        &["completions", "bash"],
        &["storage"],
        &["nonsense"],
        &["config", "check", "nowhere.toml"],
        &["token", "inspect", "x"],
        &["serve", "--socket-group", "no-such-group"],
        &["start", "--socket-group", "no-such-group"],
        &["cgi"],
    ] {
        let mut command = home.command(args);
        let gone = || std::io::pipe().unwrap().1;
        let mut child = command.stdout(gone()).stderr(gone()).spawn().unwrap();
        wait_for_end(child.id());
        let status = child.wait().unwrap();
        assert!(
            status.code().is_some_and(|code| code != 101),
            "{args:?}: {status}"
        );
    }
    // What has been read until then is whole.
    let mut child = home.command(["help"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert!(child.wait().unwrap().code().is_some_and(|code| code != 101));
}
