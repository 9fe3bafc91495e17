//! What a cleaner takes away from a running server: its socket, its lock, its log, its folder.

#![allow(clippy::unwrap_used)] // all of this is test
#![cfg(target_os = "linux")] // namespaces

mod daemon_support;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use daemon_support::{Home, Ran, connect, connect_tcp, http, kill, mode, until, wait_for_end};
use rustix::process::Signal;

fn remove(home: &Home, names: &[&str]) {
    for name in names {
        fs::remove_file(home.data().join(name)).unwrap();
    }
}

#[test]
fn sockets_and_files_that_were_removed_are_there_again_after_a_hangup() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let names = ["comet.sock", "public/comet.sock", "comet.lock", "comet.pid"];
    let modes = || names.map(|name| mode(&home.data().join(name)));
    let before = modes();
    // Who came before the socket was removed and was not let in yet is served.
    let mut early = home.connect();
    remove(&home, &names);
    server.signal(Signal::HUP);
    // The site's own is the last.
    server.logs("public/comet.sock");
    server.logs("data/comet.sock");
    assert_eq!(modes(), before);
    assert_eq!(home.pid(), Some(server.pid()));
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    assert_eq!(
        http(connect(&home.public_socket()), "GET", "/v1/now", "", "").status,
        200
    );
    std::io::Write::write_all(&mut early, b"read k \0").unwrap();
    assert!(!daemon_support::rest(early).is_empty());
    // A whole folder of it, with the socket in it.
    fs::remove_dir_all(home.data().join("public")).unwrap();
    server.signal(Signal::HUP);
    server.logs("public/comet.sock");
    connect(&home.public_socket());
    home.ok(["stop"]);
    assert!(server.ended().success());
    assert!(names[..2].iter().all(|name| !home.data().join(name).exists()));
}

#[test]
fn a_socket_that_was_removed_is_there_again_without_anybody_asking() {
    let home = Home::new();
    let _server = home.serve(&[]);
    remove(&home, &["comet.sock"]);
    until("it listens again", || UnixStream::connect(home.socket()).ok());
    assert_eq!(home.seed("write k v \0"), b"ok \0");
}

#[test]
fn the_gateways_key_that_was_removed_is_written_again() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let path = home.data().join("public/comet.sock.key");
    let told = || (fs::read(&path).unwrap(), mode(&path));
    let before = told();
    let spoilt: [&dyn Fn(); 3] = [
        &|| fs::remove_file(&path).unwrap(),
        &|| fs::remove_dir_all(home.data().join("public")).unwrap(),
        &|| fs::write(&path, "something else").unwrap(),
    ];
    for spoil in spoilt {
        spoil();
        server.signal(Signal::HUP);
        server.logs("the gateways' key had been removed: it is there again");
        assert_eq!(told(), before);
    }
    // Without anybody asking.
    fs::remove_file(&path).unwrap();
    until("it is there again", || fs::metadata(&path).ok());
    assert_eq!(told(), before);
}

#[test]
fn something_else_in_the_place_of_the_socket_is_left_alone_and_said_once() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    remove(&home, &["comet.sock"]);
    home.file("data/comet.sock", "mine");
    for _ in 0..3 {
        server.signal(Signal::HUP);
        server.logs("configuration read again");
    }
    fs::remove_file(home.socket()).unwrap();
    server.signal(Signal::HUP);
    server.logs("it is there again");
    home.ok(["stop"]);
}

#[test]
fn start_finds_a_server_that_has_lost_its_socket_and_has_it_made_again() {
    let home = Home::new();
    home.ok(["start"]);
    let pid = home.pid().unwrap();
    remove(&home, &["comet.sock"]);
    assert!(
        home.ok(["start"])
            .contains(&format!("already running, pid {pid}"))
    );
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    // The same if the lock file is gone too.
    remove(&home, &["comet.sock", "comet.lock"]);
    assert!(home.ok(["start"]).starts_with("already running"));
    assert_eq!(home.ok(["read", "k"]), "value: v\n");
    assert_eq!(home.ok(["stop"]), format!("stopped, pid {pid}\n"));
}

#[test]
fn stop_ends_a_server_that_has_lost_its_socket() {
    for names in [&["comet.sock"][..], &["comet.sock", "comet.lock", "comet.pid"]] {
        let home = Home::new();
        home.ok(["start"]);
        let pid = home.pid().unwrap();
        remove(&home, names);
        assert_eq!(home.ok(["stop"]), format!("stopped, pid {pid}\n"));
        assert_eq!(home.pid(), None);
        wait_for_end(pid);
    }
}

#[test]
fn a_removed_lock_lets_no_second_server_into_the_folder() {
    let home = Home::new();
    let server = home.serve(&[]);
    remove(&home, &["comet.lock", "comet.sock", "log/lock"]);
    let ran = home.run(["serve"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("already running"), "{ran:?}");
    assert!(ran.stderr.contains(&format!("pid {} ", server.pid())), "{ran:?}");
    // Nor another one by way of the log alone.
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(home.data().join("log"), other.join("log")).unwrap();
    let ran = home.run(["serve", "--data-dir", other.to_str().unwrap()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("in use"), "{ran:?}");
}

#[test]
fn a_number_in_the_lock_file_alone_is_never_signalled() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    let mut bystander = home.other_program("sleep").arg("1000").spawn().unwrap();
    let lock = home.file(
        "data/comet.lock",
        &format!(
            "{{\"pid\":{},\"host\":\"x\",\"socket\":\"/x\",\"version\":\"0\"}}",
            bystander.id()
        ),
    );
    let file = fs::File::open(lock).unwrap();
    file.lock().unwrap();
    let ran = home.run(["stop"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("holds the data folder"), "{ran:?}");
    assert_eq!(bystander.try_wait().unwrap(), None);
    drop(file);
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_socket_path_that_is_too_long_is_said_by_every_command_at_once() {
    let home = Home::new();
    let long = home.path().join("x".repeat(120));
    for command in ["stop", "status", "reload", "dump", "start"] {
        let ran = home.run([command, "--data-dir", long.to_str().unwrap()]);
        assert_eq!(ran.code, 1, "{command}: {ran:?}");
        assert!(ran.stderr.contains("107"), "{command}: {ran:?}");
    }
}

#[test]
fn a_server_is_started_and_stopped_where_proc_is_not_mounted() {
    let home = Home::new();
    let script = format!(
        "mount -t tmpfs none /proc && {0} start && {0} write k v && {0} status && rm {1} && {0} stop",
        env!("CARGO_BIN_EXE_comet"),
        home.socket().display()
    );
    let mut possible = home.other_program("unshare");
    let possible = possible
        .args(["-m", "mount", "-t", "tmpfs", "none", "/proc"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        eprintln!("not tested: nobody here may make a mount namespace");
        return;
    }
    let mut command = home.other_program("unshare");
    let ran = Ran::of(command.args(["-m", "sh", "-c", &script]).output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.stdout.contains("started") && ran.stdout.contains("stopped, pid"),
        "{ran:?}"
    );
}

#[test]
fn a_data_folder_that_was_removed_is_said_once_and_nothing_is_confirmed_any_more_that_would_be_lost() {
    let home = Home::new();
    let config = home.file(
        "comet.toml",
        "[public]\nlisten = [\"127.0.0.1:0\"]\nops = true\n[namespace_default]\nanonymous_publish = true\npublic = true\n\
         [[namespaces]]\nmatch = \"passing\"\ndurability = \"memory\"\npublic = true\nanonymous_publish = true\n",
    );
    let mut command = home.command(["serve", "--config"]);
    command.arg(config);
    let mut server = daemon_support::Server::of(command);
    let address = server.tcp();
    let ask = |method: &str, path: &str, body: &str| http(connect_tcp(address), method, path, "", body);
    assert_eq!(ask("POST", "/v1/publish?channel=news", "kept").status, 200);
    fs::remove_dir_all(home.data()).unwrap();
    // At once, not only when it was noticed otherwise.
    let refused = ask("POST", "/v1/publish?channel=news", "lost");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(ask("POST", "/v1/publish?channel=passing", "shown").status, 200);
    server.logs("was removed or replaced");
    let answer = ask("GET", "/health/ready", "");
    let health = answer.json();
    assert_eq!(
        (answer.status, &health["status"]),
        (503, &"gone".into()),
        "{health}"
    );
    assert_eq!(
        ask("GET", "/health/live", "").status,
        200,
        "it serves all the same"
    );
    let why = health["storage"].as_str().unwrap();
    assert!(why.contains("data folder") && why.contains("restart"), "{health}");
    // Another folder in its place is none of its own: it is left alone, also when asked.
    fs::create_dir(home.data()).unwrap();
    server.signal(Signal::HUP);
    server.logs("configuration read again");
    assert_eq!(fs::read_dir(home.data()).unwrap().count(), 0);
    kill(server.pid(), Signal::TERM);
    let log = server.rest_of_log();
    assert!(!log.contains("was removed or replaced"), "{log}");
}

#[test]
fn a_data_folder_that_was_moved_and_moved_back_is_its_own_again() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let aside = home.path().join("aside");
    fs::rename(home.data(), &aside).unwrap();
    server.signal(Signal::HUP);
    server.logs("was removed or replaced");
    fs::rename(&aside, home.data()).unwrap();
    server.signal(Signal::HUP);
    server.logs("the data folder is there again");
    assert_eq!(home.http("GET", "/health/ready", "").json()["status"], "ready");
}

#[test]
fn a_hangup_or_a_reload_begins_a_new_log_file_where_the_old_one_was_moved_away() {
    let home = Home::new();
    home.ok(["start"]);
    let log = home.data().join("comet.log");
    let moved = home.data().join("comet.log.1");
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    fs::rename(&log, &moved).unwrap();
    kill(home.pid().unwrap(), Signal::HUP);
    until("it goes on in a new file", || {
        read(&log).contains("configuration read again").then_some(())
    });
    assert_eq!(mode(&log), 0o600);
    assert!(read(&moved).contains("\"listening\""));
    fs::rename(&log, &moved).unwrap();
    home.ok(["reload"]);
    until("it goes on in a new file", || {
        read(&log).contains("configuration read again").then_some(())
    });
}

#[test]
fn commands_find_the_socket_that_the_folder_names() {
    let home = Home::new();
    let socket = home.path().join("elsewhere.sock");
    let mut command = home.command(["serve", "--socket"]);
    command.arg(&socket);
    let server = daemon_support::Server::of(command);
    let data = home.data();
    let data = data.to_str().unwrap();
    let text = home.ok(["status", "--data-dir", data]);
    assert!(
        text.contains(&format!("running, pid {}", server.pid())) && text.contains("elsewhere.sock"),
        "{text}"
    );
    home.ok(["write", "k", "v", "--data-dir", data]);
    let text = home.ok(["start", "--data-dir", data]);
    assert!(text.starts_with("already running"), "{text}");
    assert!(home.ok(["stop", "--data-dir", data]).starts_with("stopped"));
}

#[test]
fn visitors_ended_for_want_of_memory_are_said_together() {
    let home = Home::new();
    let settings = [
        "public.listen=127.0.0.1:0",
        "limits.message_size=64KiB",
        "limits.memory=256KiB",
    ];
    let mut server = home.serve(&settings);
    // Each holds most of a message that never comes whole.
    let part = format!(
        "POST /v1/publish?channel=a HTTP/1.1\r\nHost: comet\r\nContent-Length: 65536\r\n\r\n{}",
        "x".repeat(60_000)
    );
    let uploads: Vec<_> = (0..12)
        .map(|_| {
            let mut upload = connect_tcp(server.tcp());
            // The last ones may be ended before all of it is sent.
            let _ = upload.write_all(part.as_bytes());
            upload
        })
        .collect();
    let line = server.logs("limits.memory allows");
    assert!(line.contains("WARN") && line.contains("connections"), "{line}");
    drop(uploads);
    kill(server.pid(), Signal::TERM);
    let rest = server.rest_of_log();
    assert!(!rest.contains("limits.memory allows"), "{rest}");
}
