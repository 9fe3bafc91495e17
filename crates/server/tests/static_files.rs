//! Files that tell how far a public channel is: there while somebody asks, never wrong, nothing but that.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cometserver::config::{Namespace, NamespaceRule};
use serde_json::Value;
use support::{Door, TestServer, encode};

const NAME: &str = "a/b?c d&e%é";

fn server(folder: &Path, change: impl FnOnce(&mut cometserver::config::Config)) -> TestServer {
    TestServer::with(|config| {
        config.static_files.dir = Some(folder.to_owned());
        config.namespace_default.static_file = true;
        change(config);
    })
}

fn path(folder: &Path, channel: &str) -> PathBuf {
    use base64::Engine;
    let name = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(channel);
    folder.join(name + ".comet.json")
}

fn ask(server: &TestServer, channel: &str) -> Value {
    let target = format!("/v1/poll?channel={}&wait_ms=0", encode(channel));
    server.request(Door::Tcp, "GET", &target, "").json()
}

fn read(path: &Path) -> Option<Value> {
    Some(serde_json::from_str(&fs::read_to_string(path).ok()?).unwrap())
}

#[test]
fn a_channel_that_somebody_asks_about_has_a_file_that_tells_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), |_| {});
    let file = path(folder.path(), NAME);
    server.publish(NAME, "secret words");
    ask(&server, NAME);
    server.until("there is a file", || file.exists());
    assert_eq!(read(&file).unwrap()["offset"], 1);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let cursor = server.now();
    server.publish(NAME, "more");
    server.until("it is up to date", || read(&file).unwrap()["offset"] == 2);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("secret") && !text.contains("more"), "{text}");
    // Its cursor stands behind what it tells of.
    let told = read(&file).unwrap()["cursor"].as_str().unwrap().to_owned();
    let target = format!("/v1/poll?channel={}&wait_ms=0&cursor=", encode(NAME));
    let poll = |cursor: &str| {
        server
            .request(Door::Tcp, "GET", &format!("{target}{cursor}"), "")
            .json()
    };
    assert_eq!(poll(&cursor)["publications"][0]["data"], "more");
    assert_eq!(poll(&told)["publications"].as_array().unwrap().len(), 0);
    assert!(!path(folder.path(), "nobody asked").exists());
}

#[test]
fn versions_within_a_second_differ_in_size() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), |_| {});
    let file = path(folder.path(), "news");
    ask(&server, "news");
    let mut sizes = Vec::new();
    for offset in 1..=4 {
        server.publish("news", offset);
        server.until("it is up to date", || {
            read(&file).is_some_and(|content| content["offset"] == offset)
        });
        sizes.push(fs::metadata(&file).unwrap().len());
    }
    assert!(sizes.windows(2).all(|pair| pair[0] != pair[1]), "{sizes:?}");
}

#[test]
fn what_is_not_public_or_not_wanted_or_too_much_has_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let rule = |pattern: &str, public, static_file| NamespaceRule {
        pattern: pattern.into(),
        namespace: Namespace {
            public,
            static_file,
            ..Namespace::default()
        },
    };
    let server = server(folder.path(), |config| {
        config.static_files.max = 1;
        config.namespaces = vec![rule("private/**", false, true), rule("quiet/**", true, false)];
    });
    let long = "x".repeat(181);
    for channel in ["private/a", "quiet/a", &long] {
        server.request(
            Door::Backend,
            "GET",
            &format!("/v1/poll?channel={channel}&wait_ms=0"),
            "",
        );
    }
    ask(&server, "one");
    server.until("there is a file", || path(folder.path(), "one").exists());
    ask(&server, "two");
    server.publish("one", 1);
    server.until("it has come so far", || {
        read(&path(folder.path(), "one")).unwrap()["offset"] == 1
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn files_go_when_nobody_asks_and_when_the_server_stops_and_others_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let others = folder.path().join("index.html");
    fs::write(&others, "mine").unwrap();
    let left = path(folder.path(), "left by a server that was killed");
    fs::write(&left, "{}").unwrap();
    let file = path(folder.path(), "news");
    {
        let server = server(folder.path(), |config| {
            config.static_files.keep = Duration::from_millis(200);
        });
        assert!(!left.exists());
        ask(&server, "news");
        server.until("there is a file", || file.exists());
        server.until("nobody asks any more", || !file.exists());
    }
    {
        let server = server(folder.path(), |_| {});
        ask(&server, "news");
        server.until("there is a file", || file.exists());
    }
    assert!(!file.exists(), "the server has stopped");
    assert_eq!(fs::read_to_string(others).unwrap(), "mine");
}

#[test]
fn a_pipe_in_the_folder_that_nobody_reads_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), |_| {});
    let file = path(folder.path(), NAME);
    let pipe = file.with_extension("tmp");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    server.publish(NAME, "1");
    ask(&server, NAME);
    server.until("there is a file", || file.exists());
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
}

#[test]
fn a_link_in_the_folder_is_never_written_through() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let served = folder.path().join("live");
    let server = server(&served, |_| {});
    let file = path(&served, NAME);
    let temporary = file.with_extension("tmp");
    std::os::unix::fs::symlink(&precious, &temporary).unwrap();
    server.publish(NAME, 1);
    ask(&server, NAME);
    server.until("there is a file", || file.exists());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert!(!temporary.exists());
}

#[test]
fn a_folder_that_the_server_makes_can_be_read_by_a_web_server_whatever_the_umask() {
    let folder = tempfile::tempdir().unwrap();
    let served = folder.path().join("site/live");
    // A process of its own: the umask is the whole process's.
    let mut child = Command::new("sh")
        .args([
            "-c",
            "umask 077; exec \"$0\" serve --data-dir \"$1\" --static-dir \"$2\"",
        ])
        .arg(env!("CARGO_BIN_EXE_comet"))
        .arg(folder.path().join("data"))
        .arg(&served)
        .env_clear()
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let listens = lines.any(|line| line.unwrap().contains("\"listening\""));
    let modes = [&served, &folder.path().join("site")].map(|folder| {
        let metadata = fs::metadata(folder).unwrap();
        metadata.permissions().mode() & 0o777
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(listens);
    assert_eq!(modes, [0o755, 0o755]);
}
