//! A host that allows few open files: visitors take what is theirs, never what the site, monitoring or the log needs.

#![allow(clippy::unwrap_used)] // all of this is test
#![cfg(target_os = "linux")] // the limits are set by a shell

mod daemon_support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use daemon_support::{Home, Server, connect_tcp, exchange, request, rest, until};
use rustix::process::Signal;

/// A public server that may have so many open files, whose log soon begins another segment.
fn serve(home: &Home, descriptors: u32) -> Server {
    let settings =
        "--listen 127.0.0.1:0 --namespace-default-public true --storage-segment-size 1MiB --threads 2";
    let script = format!(
        "ulimit -n {descriptors}; exec {} serve {settings}",
        env!("CARGO_BIN_EXE_comet")
    );
    let mut command = home.other_program("sh");
    command.args(["-c", &script]);
    Server::of(command)
}

/// A visitor's stream that has begun.
fn listen(server: &Server) -> BufReader<TcpStream> {
    let mut stream = connect_tcp(server.tcp());
    write!(stream, "GET /v1/stream?channel=news HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    line_with(&mut reader, "\"type\":\"cursor\"");
    reader
}

fn line_with(reader: &mut impl BufRead, text: &str) -> String {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no {text}");
    }
    line
}

fn segments(home: &Home) -> usize {
    let files = fs::read_dir(home.data().join("log")).unwrap();
    files
        .filter(|file| file.as_ref().unwrap().metadata().unwrap().len() > 1000)
        .count()
}

#[test]
fn visitors_without_end_shut_out_neither_the_site_nor_monitoring_nor_the_log() {
    let home = Home::new();
    let server = serve(&home, 128);
    let mut reader = listen(&server);
    // They stay, and say nothing: far more than there are descriptors. The last one is turned away.
    let mut flood: Vec<TcpStream> = (0..400).map(|_| connect_tcp(server.tcp())).collect();
    let last = String::from_utf8(rest(flood.pop().unwrap())).unwrap();
    assert!(last.starts_with("HTTP/1.1 503 "), "{last}");

    let health = home.http("GET", "/health/ready", "").json();
    let limit = health["connections_limit"].as_u64().unwrap();
    assert!(limit > 20 && limit < 100, "{health}");
    assert!(home.ok(["status", "--ready"]).contains(&format!(" of {limit}\n")));
    let metrics = home.http("GET", "/metrics", "").body;
    assert!(metrics.contains(&format!("\ncometserver_connections_limit {limit}\n")));
    assert!(metrics.contains("\nprocess_max_fds 128\n"), "{metrics}");

    // More than a segment of the log holds, from several of the site's processes at once.
    let before = segments(&home);
    let payload = "x".repeat(128 << 10);
    let idle: Vec<_> = (0..8).map(|_| home.connect()).collect();
    for number in 0..20 {
        let answer = home.http("POST", "/v1/publish?channel=news", format!("{number} {payload}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        // Whoever is far behind is told of a gap: this one is not.
        let line = line_with(&mut reader, "\"publication\"");
        assert!(
            line.contains(&format!("\"offset\":{},", number + 1)),
            "{line:.200}"
        );
    }
    assert!(segments(&home) > before + 1, "the log has gone on");
    drop(idle);

    // It is open to visitors again once there is room.
    drop(flood);
    until("there is room", || {
        let answer = exchange(connect_tcp(server.tcp()), request("GET", "/v1/now", "", ""));
        answer.starts_with(b"HTTP/1.1 200 ").then_some(())
    });
    server.signal(Signal::TERM);
    let log = server.rest_of_log();
    assert!(log.lines().count() < 10, "{log}");
}

#[test]
fn what_the_limit_of_open_files_leaves_is_said_once_at_the_start_and_by_the_check_of_the_configuration() {
    let home = Home::new();
    let script = format!(
        "ulimit -n 256; {0} config check && exec {0} serve",
        env!("CARGO_BIN_EXE_comet")
    );
    let mut command = home.other_program("sh");
    command.args(["-c", &script]);
    command.stdout(fs::File::create(home.path().join("checked")).unwrap());
    command.stderr(fs::File::create(home.path().join("log")).unwrap());
    let mut child = command.spawn().unwrap();
    let log = || fs::read_to_string(home.path().join("log")).unwrap();
    until("it listens", || log().contains("\"listening\"").then_some(()));
    daemon_support::kill(child.id(), Signal::TERM);
    assert!(child.wait().unwrap().success());
    let checked = fs::read_to_string(home.path().join("checked")).unwrap();
    for text in [&checked, &log()] {
        let said = "limits.connections 100000: the limit of open files, 256, leaves room for ";
        assert_eq!(text.matches(said).count(), 1, "{text}");
    }
    assert!(checked.contains("\nconnections at most "), "{checked}");
}

#[test]
fn the_sites_own_connections_without_end_shut_out_neither_the_log_nor_the_next_one_for_long() {
    let home = Home::new();
    let server = serve(&home, 96);
    let mut many: Vec<_> = (0..200).map(|_| home.connect()).collect();
    let last = String::from_utf8(rest(many.pop().unwrap())).unwrap();
    assert!(last.contains("its limit of open files"), "{last}");
    drop(many);
    let payload = "x".repeat(128 << 10);
    until("there is room", || {
        let publish = request("POST", "/v1/publish?channel=news", "", &payload);
        exchange(home.connect(), publish)
            .starts_with(b"HTTP/1.1 200 ")
            .then_some(())
    });
    server.signal(Signal::TERM);
    let log = server.rest_of_log();
    assert!(log.lines().count() < 10, "{log}");
}
