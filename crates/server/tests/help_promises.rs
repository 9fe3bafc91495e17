//! What the help of `comet` promises: that its examples run, that the flags it names are taken, and that with `--json`
//! standard output holds JSON and nothing else.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "api_support/mod.rs"]
mod api_support;
use api_support::{GUARDED, TestServer};

/// The command in a home of its own, which knows of no server.
fn comet<S: AsRef<OsStr>>(home: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comet"));
    command.args(args).env_clear().env("HOME", home).current_dir(home);
    command.env("COMETSERVER_DATA_DIR", home.join("data"));
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Every line of standard output is JSON.
fn assert_json(output: &Output) {
    for line in text(&output.stdout).lines() {
        assert!(
            serde_json::from_str::<Value>(line).is_ok(),
            "{line:?} in {output:?}"
        );
    }
}

/// All commands that know `--json`, as the help of each says, with the arguments that they need.
fn commands_with_json(home: &Path) -> Vec<Vec<&'static str>> {
    let all = vec![
        vec!["publish", "news", "1", "--json"],
        vec!["subscribe", "news", "--count", "1", "--json"],
        vec!["history", "news", "--json"],
        vec!["storage", "--json"],
        vec!["storage", "check", "--json"],
        vec!["bench", "--subscribers", "2", "--publications", "2", "--json"],
    ];
    let overview = comet(home, ["--help"]).output().unwrap().stdout;
    let names = text(&overview).lines().filter_map(|line| line.strip_prefix("  "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    for name in names.filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase())) {
        let help = comet(home, [name, "--help"]).output().unwrap().stdout;
        let knows = text(&help)
            .lines()
            .any(|line| line.trim_start().starts_with("--json"));
        assert_eq!(all.iter().any(|command| command[0] == name), knows, "{name}");
    }
    all
}

#[test]
fn with_json_a_server_that_does_not_run_is_told_on_standard_error_alone() {
    let home = tempfile::tempdir().unwrap();
    for command in commands_with_json(home.path()) {
        let output = comet(home.path(), &command).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{command:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{command:?}: {output:?}");
    }
}

#[test]
fn with_json_whatever_answers_nothing_but_json_is_printed() {
    let home = tempfile::tempdir().unwrap();
    let page =
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<p>hi";
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<p>no";
    for answer in [page, refusal] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Ends with the process.
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let mut request = [0; 8192];
                let _ = socket
                    .read(&mut request)
                    .and_then(|_| socket.write_all(answer.as_bytes()));
            }
        });
        for command in commands_with_json(home.path()) {
            // A page where a stream is expected is a cut: one goes on trying, the other reports that nothing came.
            if ["subscribe", "bench"].contains(&command[0]) && answer == page {
                continue;
            }
            let output = comet(home.path(), command.iter().chain(&["--url", &*url])).output();
            let output = output.unwrap();
            assert_ne!(output.status.code(), Some(0), "{command:?}: {output:?}");
            assert!(output.stdout.is_empty(), "{command:?}: {output:?}");
            assert!(!output.stderr.is_empty(), "{command:?}: {output:?}");
        }
    }
}

#[test]
fn with_json_a_server_that_runs_is_answered_in_json() {
    let home = tempfile::tempdir().unwrap();
    let server = TestServer::start(GUARDED);
    server.backend().post("/v1/publish?channel=news&retain=1", "1");
    let socket = server.addresses.backend.to_str().unwrap().to_owned();
    for command in commands_with_json(home.path()) {
        if command == ["storage", "check", "--json"] {
            continue;
        }
        let output = comet(home.path(), command.iter().chain(&["--socket", &*socket])).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
        assert!(!output.stdout.is_empty(), "{command:?}: {output:?}");
        assert_json(&output);
    }
}

#[test]
fn a_check_of_the_configuration_takes_every_flag_that_a_server_takes() {
    let home = tempfile::tempdir().unwrap();
    let flags = |command: &[&str]| -> Vec<String> {
        let help = comet(home.path(), command).output().unwrap();
        let lines = text(&help.stdout).lines().map(str::trim_start);
        let lines = lines.map(|line| line.trim_start_matches("-h, "));
        lines
            .filter_map(|line| line.strip_prefix("--"))
            .map(|line| line.split([' ', '=']).next().unwrap().to_owned())
            .collect()
    };
    let own = flags(&["config", "check", "--help"]);
    let missing: Vec<_> = flags(&["serve", "--help"])
        .into_iter()
        .filter(|flag| !own.contains(flag))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let good = [
        "config",
        "check",
        "--limits-batch",
        "10",
        "--listen",
        "127.0.0.1:8080",
    ];
    let output = comet(home.path(), good).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // They are read, not only taken.
    for (flag, value) in [("--limits-batch", "many"), ("--listen", "8080")] {
        let output = comet(home.path(), ["config", "check", flag, value])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains(&format!("comet: {flag} {value:?}: expected")),
            "{said}"
        );
    }
}

#[test]
fn an_address_that_lacks_something_is_refused_with_what_to_write() {
    let home = tempfile::tempdir().unwrap();
    for command in ["serve", "start", "demo"] {
        let output = comet(home.path(), [command, "--listen", "8080"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains("--listen \"8080\"")
                && said.contains("write 127.0.0.1:8080")
                && said.contains("0.0.0.0:8080"),
            "{said}"
        );
    }
}

#[test]
fn the_example_that_measures_a_server_by_its_address_runs_on_a_guarded_one() {
    let home = tempfile::tempdir().unwrap();
    let server = TestServer::start(GUARDED);
    let file = home.path().join("comet.toml");
    std::fs::write(&file, GUARDED).unwrap();
    let help = comet(home.path(), ["bench", "--help"]).output().unwrap();
    let examples = text(&help.stdout).split_once("Examples:").unwrap().1;
    let example = examples
        .split("\n  comet ")
        .find(|example| example.contains("--url "));
    let url = format!("http://{}", server.addresses.tcp[0]);
    let example = example
        .unwrap()
        .replace("http://127.0.0.1:8080", &url)
        .replace(
            "/var/lib/cometserver/comet.sock",
            server.addresses.backend.to_str().unwrap(),
        )
        .replace("FILE", file.to_str().unwrap())
        .replace("30s", "1s");
    let program = Path::new(env!("CARGO_BIN_EXE_comet")).parent().unwrap();
    let run = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env_clear().env("HOME", home.path());
        shell.env("PATH", format!("{}:/usr/bin:/bin", program.display()));
        shell.env("COMETSERVER_CONFIG", &file).output().unwrap()
    };
    let output = run(&format!("comet {} --subscribers 20", example.trim_end()));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Without a token it says how to come by one, and where to publish without a key.
    let output = run(&format!("comet bench --subscribers 1 --url {url}"));
    assert!(
        text(&output.stderr).contains("comet token create --pattern 'bench-*'"),
        "{output:?}"
    );
    let output = run(&format!("comet bench --load publish --url {url}"));
    assert!(text(&output.stderr).contains("--publish-at unix:"), "{output:?}");
}

#[test]
fn a_history_is_printed_whole_though_one_answer_does_not_hold_it() {
    let home = tempfile::tempdir().unwrap();
    let server = TestServer::start(GUARDED);
    let message = "x".repeat(10_000);
    for _ in 0..60 {
        server.backend().post("/v1/publish?channel=news", &message);
    }
    let socket = server.addresses.backend.to_str().unwrap().to_owned();
    let history = |more: &[&str]| {
        let args = [&["history", "news", "--json", "--socket", &socket], more].concat();
        let output = comet(home.path(), args).output().unwrap();
        let told = text(&output.stderr).to_owned();
        (text(&output.stdout).lines().count(), told)
    };
    assert_eq!(history(&[]), (60, String::new()));
    assert_eq!(history(&["--limit", "50"]), (50, String::new()));
    let (newest, told) = history(&["--reverse"]);
    assert!(
        newest < 60 && told.contains("without --reverse"),
        "{newest} {told}"
    );
    assert_eq!(history(&["--reverse", "--limit", "3"]), (3, String::new()));
}
