//! The operator's tools for the log on disk: what it takes, whether it is whole, backup and restore. The real binary.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;
mod support;

use std::fs;
use std::path::PathBuf;

use daemon_support::{Home, Server};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Listener, Place, Transport, encode};

const CONFIG: &str = "[namespace_default]\npublic = true\n[public]\nlisten = [\"127.0.0.1:0\"]\n\
    [[keys]]\nname = \"all\"\nsecret = \"all-doors-open-here\"\nactions = [\"admin\", \"publish\"]\n";

fn home() -> Home {
    let home = Home::new();
    let file = home.file("comet.toml", CONFIG);
    fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    home
}

fn serve(home: &Home) -> Server {
    Server::of(home.command(["serve", "--config", "comet.toml", "--log-format", "json"]))
}

fn stop(mut server: Server) {
    server.signal(Signal::TERM);
    assert!(server.ended().success());
}

fn publish(home: &Home, data: &str) -> Value {
    let body = json!({"channel": "news", "data": data, "retain": true}).to_string();
    let answer = home.http("POST", "/v1/publish", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn history(home: &Home) -> Vec<Value> {
    let answer = home.http("GET", "/v1/history?channel=news", "").json();
    let list = answer["publications"].as_array().unwrap().clone();
    list.into_iter().map(|one| one["data"].clone()).collect()
}

fn json_of(home: &Home, args: &[&str]) -> Value {
    serde_json::from_str(&home.ok(args)).unwrap()
}

fn newest_segment(home: &Home) -> PathBuf {
    let files = fs::read_dir(home.data().join("log")).unwrap();
    let mut segments: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    segments.sort();
    segments.pop().unwrap()
}

#[test]
fn storage_shows_what_takes_the_disk_whether_the_server_runs_or_not() {
    let home = home();
    let server = serve(&home);
    for number in 0..3 {
        publish(&home, &format!("message {number}"));
    }
    let text = home.ok(["storage"]);
    for part in ["of at most 4.0 GiB", "3 publications", "news", "(has a value)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let running = json_of(&home, &["storage", "--json"]);
    assert_eq!(running["channels"][0]["publications"], 3);
    assert_eq!(running["channels"][0]["channel"], "news");
    stop(server);
    let text = home.ok(["storage"]);
    assert!(
        text.contains("3 publications") && text.contains("No server runs"),
        "{text}"
    );
    let stopped = json_of(&home, &["storage", "--json"]);
    assert_eq!(
        (&stopped["publications"], &stopped["whole"]),
        (&json!(3), &json!(true)),
        "{stopped}"
    );
    let elsewhere = home.run(["storage", "--data-dir", "/nowhere/at/all"]);
    assert_eq!(elsewhere.code, 1);
    assert!(elsewhere.stderr.contains("there is no log"), "{elsewhere:?}");
}

#[test]
fn storage_of_a_server_in_memory_says_that_there_is_none() {
    let home = home();
    let command = [
        "serve",
        "--namespace-default-durability",
        "memory",
        "--log-format",
        "json",
    ];
    let _server = Server::of(home.command(command));
    let ran = home.run(["storage"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("nothing is kept on disk"), "{ran:?}");
    assert!(!home.data().join("log").exists());
}

#[test]
fn the_largest_channels_come_first() {
    let home = home();
    let _server = serve(&home);
    for (channel, length) in [("small", 10), ("large", 3000), ("middle", 300), ("tiny", 1)] {
        let body = json!({"channel": channel, "data": "x".repeat(length)}).to_string();
        assert_eq!(home.http("POST", "/v1/publish", body).status, 200);
    }
    let storage = json_of(&home, &["storage", "--json", "--limit", "3"]);
    let names: Vec<&Value> = storage["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|channel| &channel["channel"])
        .collect();
    assert_eq!(names, ["large", "middle", "small"]);
}

#[test]
fn check_tells_a_whole_log_from_a_damaged_one() {
    let home = home();
    let server = serve(&home);
    for number in 0..20 {
        publish(&home, &format!("message {number}"));
    }
    assert!(
        home.ok(["storage", "check"]).starts_with("whole"),
        "while it runs"
    );
    stop(server);
    assert!(home.ok(["storage", "check"]).starts_with("whole"));
    let segment = newest_segment(&home);
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let ran = home.run(["storage", "check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stdout.starts_with("damaged") && ran.stdout.contains("cannot be read"),
        "{ran:?}"
    );
    let ran = home.run(["storage", "check", "--json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &report["whole"]), (1, &json!(false)));
    assert_eq!(
        report["files"][0]["damage"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    // What is whole is served.
    let _server = serve(&home);
    assert!(history(&home).len() >= 18);
}

#[test]
fn check_and_clients_are_told_of_damage_at_the_very_end() {
    for end in [Signal::TERM, Signal::KILL] {
        let home = home();
        let mut server = serve(&home);
        for number in 0..20 {
            publish(&home, &format!("message {number}"));
        }
        let known = publish(&home, "known")["cursor"].as_str().unwrap().to_owned();
        publish(&home, "the last one");
        server.signal(end);
        server.ended();
        assert!(home.ok(["storage", "check"]).starts_with("whole"), "{end:?}");
        let segment = newest_segment(&home);
        let whole = fs::read(&segment).unwrap();
        let flipped = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        };
        let damages = [
            flipped(whole.len() - 1),
            flipped(whole.len() - 40),
            whole[..whole.len() - 1].to_vec(),
            whole[..whole.len() - 60].to_vec(),
        ];
        for damaged in &damages {
            fs::write(&segment, damaged).unwrap();
            let ran = home.run(["storage", "check"]);
            assert!(ran.code == 1 && ran.stdout.starts_with("damaged"), "{ran:?}");
        }
        fs::write(&segment, flipped(whole.len() - 1)).unwrap();
        let _server = serve(&home);
        let query = format!("channel=news&cursor={}", encode(&known));
        let mut listener = Listener::open(Place::Unix(home.public_socket()), Transport::Sse, &query);
        assert_eq!(listener.next()["type"], "gap", "{end:?}");
        publish(&home, "onwards");
        assert_eq!(listener.data(1), ["onwards"]);
    }
}

#[test]
fn a_backup_of_a_running_server_is_read_back_and_newer_cursors_are_told() {
    let home = home();
    let server = serve(&home);
    publish(&home, "before");
    let known = publish(&home, "known")["cursor"].as_str().unwrap().to_owned();
    let copied = home.ok(["storage", "backup", "copy"]);
    assert!(
        copied.starts_with("copied") && home.path().join("copy").is_dir(),
        "{copied}"
    );
    assert!(home.ok(["storage", "check", "copy"]).starts_with("whole"));
    let newer = publish(&home, "after the backup")["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let again = home.run(["storage", "backup", "copy"]);
    assert!(again.code == 1 && again.stderr.contains("not empty"), "{again:?}");
    let running = home.run(["storage", "restore", "copy", "--replace"]);
    assert!(
        running.code == 1 && running.stderr.contains("already running"),
        "{running:?}"
    );
    stop(server);

    let there = home.run(["storage", "restore", "copy"]);
    assert!(there.code == 1 && there.stderr.contains("--replace"), "{there:?}");
    let restored = home.ok(["storage", "restore", "copy", "--replace"]);
    assert!(
        restored.starts_with("restored: 2 publications of 1 channels"),
        "{restored}"
    );
    assert!(
        home.data().join("log.old-1").is_dir(),
        "what was there is put aside"
    );
    let _server = serve(&home);
    assert_eq!(history(&home), ["before", "known"]);
    let public = Place::Unix(home.public_socket());
    let listen = |cursor: &str| {
        let query = format!("channel=news&cursor={}", encode(cursor));
        Listener::open(public.clone(), Transport::Sse, &query)
    };
    let mut newer = listen(&newer);
    assert_eq!(
        newer.next()["type"],
        "gap",
        "it has seen what the backup does not have"
    );
    let mut known = listen(&known);
    publish(&home, "onwards");
    assert_eq!(known.data(1), ["onwards"], "and this one has not");
}

#[test]
fn a_backup_of_a_stopped_server_is_the_same() {
    let home = home();
    let server = serve(&home);
    publish(&home, "kept");
    stop(server);
    assert!(home.ok(["storage", "backup", "copy"]).starts_with("copied"));
    fs::remove_dir_all(home.data().join("log")).unwrap();
    assert!(home.ok(["storage", "restore", "copy"]).starts_with("restored"));
    let _server = serve(&home);
    assert_eq!(history(&home), ["kept"]);
    assert_eq!(home.ok(["read", "news"]), "value: \"kept\"\n");
}

#[test]
fn a_backup_is_not_for_who_comes_in_by_a_public_door() {
    let home = home();
    let server = serve(&home);
    let target = home.path().join("copy");
    let body = json!({ "to": target }).to_string();
    let headers = "Authorization: Bearer all-doors-open-here\r\n";
    let stream = daemon_support::connect_tcp(server.tcp());
    let answer = daemon_support::http(stream, "POST", "/v1/admin/backup", headers, &body);
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(!target.exists());
    let relative = home.http("POST", "/v1/admin/backup", r#"{"to":"copy"}"#);
    assert_eq!(relative.status, 400, "{relative:?}");
    // Figures it may see.
    let stream = daemon_support::connect_tcp(server.tcp());
    assert_eq!(
        daemon_support::http(stream, "GET", "/v1/storage", headers, "").status,
        200
    );
}

/// A backup in whose place of a file there is something else.
fn hostile(home: &Home, make: impl Fn(&std::path::Path)) -> [daemon_support::Ran; 2] {
    let copy = home.path().join("hostile");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(home.path().join("copy")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    make(&copy);
    let checked = home.run(["storage", "check", "hostile"]);
    let restored = home.run(["storage", "restore", "hostile"]);
    assert!(
        !home.data().join("log").exists(),
        "nothing of it is taken: {restored:?}"
    );
    [checked, restored]
}

fn copied_home() -> Home {
    let home = home();
    let server = serve(&home);
    publish(&home, "kept");
    stop(server);
    assert!(home.ok(["storage", "backup", "copy"]).starts_with("copied"));
    fs::remove_dir_all(home.data().join("log")).unwrap();
    home
}

const FILES: [&str; 4] = ["store", "0000000001.log", "0000000009.log", "reach"];

#[test]
fn a_backup_with_links_pipes_and_devices_in_it_is_refused_at_once() {
    let home = copied_home();
    type Make = fn(&std::path::Path);
    let kinds: [Make; 5] = [
        |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        |path| std::os::unix::fs::symlink(path.with_file_name("nowhere"), path).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| {
            let fifo = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(fifo.success());
        },
        |path| {
            std::os::unix::net::UnixListener::bind(path).unwrap();
        },
    ];
    for make in kinds {
        for name in FILES {
            let replace = |copy: &std::path::Path| {
                let _ = fs::remove_file(copy.join(name));
                make(&copy.join(name));
            };
            for ran in hostile(&home, replace) {
                assert_eq!(ran.code, 1, "{ran:?}");
                assert!(
                    ran.stderr.contains(name) && ran.stderr.contains("no regular file"),
                    "{ran:?}"
                );
            }
        }
    }
}

#[test]
fn a_backup_with_a_file_of_a_terabyte_of_nothing_is_refused_at_once() {
    let home = copied_home();
    for name in FILES {
        let grow = |copy: &std::path::Path| {
            let mut file = fs::OpenOptions::new();
            let file = file.create(true).append(true).open(copy.join(name)).unwrap();
            file.set_len(1 << 40).unwrap();
        };
        for ran in hostile(&home, grow) {
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(
                ran.stderr.contains(name) && ran.stderr.contains("more than any file of a log"),
                "{ran:?}"
            );
        }
    }
}

#[test]
fn a_backup_that_ends_in_gigabytes_of_nothing_is_looked_at_in_no_time() {
    let home = copied_home();
    let grow = |copy: &std::path::Path| {
        let mut file = fs::OpenOptions::new();
        let file = file.append(true).open(copy.join(FILES[1])).unwrap();
        file.set_len(1 << 30).unwrap();
    };
    let [checked, restored] = hostile(&home, grow);
    assert!(
        checked.stdout.contains("were not written completely") || checked.code == 1,
        "{checked:?}"
    );
    assert!(
        restored.code == 1 && restored.stderr.contains("damaged"),
        "{restored:?}"
    );
}

#[test]
fn a_restore_copies_nothing_behind_what_is_read_of_how_far_the_log_reaches() {
    let home = copied_home();
    let file = fs::OpenOptions::new()
        .append(true)
        .open(home.path().join("copy/reach"))
        .unwrap();
    file.set_len(1 << 28).unwrap();
    home.ok(["storage", "restore", "copy"]);
    let length = home.data().join("log/reach").metadata().unwrap().len();
    assert!(length < 1 << 20, "{length}");
}

#[test]
fn a_check_and_a_restore_count_the_same() {
    let home = home();
    let server = serve(&home);
    for number in 0..250 {
        publish(&home, &format!("message {number}"));
    }
    stop(server);
    assert!(home.ok(["storage", "backup", "copy"]).starts_with("copied"));
    let count = "100 publications of 1 channels";
    let checked = home.ok(["storage", "check", "copy"]);
    assert!(checked.contains(count), "{checked}");
    let restored = home.ok(["storage", "restore", "copy", "--replace"]);
    assert!(restored.contains(count), "{restored}");
}
