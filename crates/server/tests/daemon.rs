//! The server's manners as a process: starting, looking, reloading, stopping, its files, its descriptors.

#![allow(clippy::unwrap_used)] // all of this is test
#![cfg(target_os = "linux")] // what it looks at is /proc

mod daemon_support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use daemon_support::{Home, Ran, Server, http, inherited_pair, kill, mode, rest, wait_for_end};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

/// Everything in a folder that looking could have changed.
fn picture(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return lines;
    };
    for entry in entries.map(Result::unwrap) {
        let found = entry.path().symlink_metadata().unwrap();
        let (inode, mode, size) = (found.ino(), found.mode(), found.size());
        // The server itself logs when it likes.
        let changed = if entry.file_name() == "comet.log" {
            0
        } else {
            found.mtime_nsec()
        };
        lines.push(format!(
            "{} {inode} {mode:o} {size} {changed}",
            entry.path().display()
        ));
        lines.extend(picture(&entry.path()));
    }
    lines.sort();
    lines
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A stream of events that has begun.
fn open_stream(home: &Home, path: &str) -> BufReader<UnixStream> {
    let mut stream = home.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    wait_for_line(&mut reader, "\"type\":\"cursor\"");
    reader
}

fn wait_for_line(reader: &mut impl BufRead, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "no {text}");
    }
}

#[test]
fn a_started_server_keeps_nothing_of_its_caller() {
    let home = Home::new();
    let (mut ours, theirs) = inherited_pair();
    let ran = Ran::of(home.command(["start"]).output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    drop(theirs);
    assert_eq!(
        ours.read(&mut [0]).unwrap(),
        0,
        "the server holds a descriptor of its caller"
    );

    let pid = home.pid().unwrap();
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(link("cwd"), home.data().canonicalize().unwrap());
    assert_eq!(link("fd/0"), Path::new("/dev/null"));
    let log = home.data().canonicalize().unwrap().join("comet.log");
    assert_eq!((link("fd/1"), link("fd/2")), (log.clone(), log));
    let data = home.data().canonicalize().unwrap();
    let lock = data.join("comet.lock");
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        let shown = target.to_str().unwrap();
        let is_log = target.starts_with(home.data().canonicalize().unwrap().join("log"));
        let is_lock = target == lock || target == data;
        let own = shown.starts_with("socket:") || shown.starts_with("anon_inode:") || is_lock || is_log;
        assert!(number <= 2 || own, "{number} is {shown}");
    }
    let id = rustix::process::Pid::from_raw(pid as i32).unwrap();
    assert_eq!(rustix::process::getsid(Some(id)).unwrap(), id);
}

#[test]
fn start_reports_only_when_the_socket_answers() {
    let home = Home::new();
    for _ in 0..5 {
        let text = home.ok(["start"]);
        assert_eq!(home.seed("write k v \0"), b"ok \0", "{text}");
        assert!(text.contains(&home.socket().display().to_string()), "{text}");
        home.ok(["stop"]);
    }
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing_running() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = home.run(["start", "--listen", &address]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.is_empty() && ran.stderr.contains(&address), "{ran:?}");
    assert_eq!(home.pid(), None);
    assert!(!home.socket().exists() && !home.public_socket().exists());
    assert_eq!(home.run(["status"]).code, 3);
}

#[test]
fn eight_starts_at_once_leave_exactly_one_server() {
    for _ in 0..3 {
        let home = Home::new();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let mut command = home.command(["start"]);
                command
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let ran: Vec<Ran> = starts
            .into_iter()
            .map(|start| Ran::of(start.wait_with_output().unwrap()))
            .collect();
        assert!(ran.iter().all(|ran| ran.code == 0), "{ran:?}");
        let started: Vec<_> = ran
            .iter()
            .filter(|ran| ran.stdout.starts_with("started"))
            .collect();
        assert_eq!(started.len(), 1, "{ran:?}");
        let pid = home.pid().unwrap();
        assert!(
            ran.iter().all(|ran| ran.stdout.contains(&format!("pid {pid}\n"))),
            "{ran:?}"
        );
        home.ok(["stop"]);
        // With the one that was told of gone, there is none.
        assert_eq!(home.run(["status"]).code, 3);
    }
}

#[test]
fn a_killed_server_is_started_again_over_what_it_left() {
    let home = Home::new();
    home.ok(["start"]);
    let first = home.pid().unwrap();
    kill(first, Signal::KILL);
    wait_for_end(first);
    let left = ["comet.sock", "public/comet.sock", "comet.lock", "comet.pid"];
    assert!(left.iter().all(|name| home.data().join(name).exists()));
    assert_eq!(home.run(["status"]).code, 3);
    let ran = home.run(["read", "k"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "not running\n"));
    // Its number was given to somebody else in the meantime, who is left alone.
    fs::write(home.data().join("comet.pid"), std::process::id().to_string()).unwrap();
    let lock = format!(
        "{{\"pid\":{},\"host\":\"x\",\"socket\":\"/x\",\"version\":\"0\"}}",
        std::process::id()
    );
    fs::write(home.data().join("comet.lock"), lock).unwrap();
    assert!(home.ok(["stop"]).starts_with("already stopped: "));

    let text = home.ok(["start"]);
    let second = home.pid().unwrap();
    assert!(
        text.contains(&format!("pid {second}")) && second != first,
        "{text}"
    );
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    assert_eq!(
        fs::read_to_string(home.data().join("comet.pid")).unwrap(),
        second.to_string()
    );
}

#[test]
fn status_only_looks() {
    let home = Home::new();
    assert_eq!(home.run(["status"]).code, 3);
    assert!(!home.data().exists(), "a question makes no folder");
    home.ok(["start"]);
    let before = picture(&home.data());
    for args in [&["status"][..], &["status", "--ready"]] {
        assert_eq!(home.run(args).code, 0);
    }
    assert_eq!(picture(&home.data()), before);
    let pid = home.pid().unwrap();
    kill(pid, Signal::KILL);
    wait_for_end(pid);
    let before = picture(&home.data());
    for args in [&["status"][..], &["status", "--ready"], &["read", "k"], &["dump"]] {
        assert_ne!(home.run(args).code, 0);
    }
    assert_eq!(picture(&home.data()), before, "also what a dead server left");
}

#[test]
fn status_exits_as_the_linux_standard_base_says() {
    let home = Home::new();
    for args in [&["status"][..], &["status", "--ready"]] {
        let ran = home.run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, "not running\n"), "{ran:?}");
    }
    home.ok(["start"]);
    let pid = home.pid().unwrap();
    assert!(home.ok(["status"]).starts_with(&format!("running, pid {pid}\n")));
    assert!(
        home.ok(["status", "--ready"])
            .starts_with(&format!("running, pid {pid}, ready\n"))
    );
    // Stopped in a debugger it holds its folder and answers nobody: neither running nor stopped.
    home.ok(["stop"]);
    let _lock = {
        let lock = fs::File::options()
            .read(true)
            .write(true)
            .open(home.data().join("comet.lock"))
            .unwrap();
        lock.lock().unwrap();
        lock
    };
    let ran = home.run(["status"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("holds the data folder"), "{ran:?}");
}

#[test]
fn stop_tells_clients_to_come_back_and_removes_the_sockets() {
    let home = Home::new();
    home.ok(["start", "--namespace-default-public", "true"]);
    let pid = home.pid().unwrap();
    let mut stream = open_stream(&home, "/v1/stream?channel=a");
    let mut held = home.connect();
    write!(held, "GET /v1/poll?channel=a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(home.ok(["stop"]), format!("stopped, pid {pid}\n"));
    wait_for_line(&mut stream, "\"type\":\"reconnect\"");
    let answer = String::from_utf8(rest(held)).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"publications\":[]"),
        "{answer}"
    );
    for gone in ["comet.sock", "public/comet.sock", "comet.pid"] {
        assert!(!home.data().join(gone).exists(), "{gone}");
    }
    assert!(home.ok(["stop"]).starts_with("already stopped: "));
}

#[test]
fn a_request_that_is_being_sent_is_finished_before_the_end() {
    let home = Home::new();
    let mut server = home.serve(&["shutdown.drain=60s"]);
    let mut upload = home.connect();
    write!(
        upload,
        "POST /v1/publish?channel=a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nda"
    )
    .unwrap();
    // It has come when a request behind it on the same thread is answered: with two threads, ask often.
    home.ok(["status"]);
    server.signal(Signal::TERM);
    server.logs("\"stopping\"");
    upload.write_all(b"ta").unwrap();
    let answer = String::from_utf8(rest(upload)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(server.ended().success());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let mut server = home.serve(&["shutdown.drain=1h", "limits.request_time=1h"]);
        let mut upload = home.connect();
        write!(
            upload,
            "POST /v1/publish?channel=a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nda"
        )
        .unwrap();
        home.ok(["status"]);
        server.signal(signal);
        server.logs("\"stopping\"");
        server.signal(signal);
        server.ended();
        assert!(!home.socket().exists() && !home.public_socket().exists());
        assert_eq!(home.pid(), None);
    }
}

#[test]
fn a_socket_path_that_fits_in_no_address_is_refused_with_the_reason() {
    let home = Home::new();
    let long = home.path().join("x".repeat(120)).join("comet.sock");
    for args in [
        ["start", "--socket"],
        ["serve", "--socket"],
        ["status", "--socket"],
    ] {
        let mut command = home.command(args);
        let ran = Ran::of(command.arg(&long).output().unwrap());
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert!(
            ran.stderr.contains("107") && ran.stderr.contains(long.to_str().unwrap()),
            "{args:?}: {ran:?}"
        );
    }
    assert_eq!(home.pid(), None);
}

#[test]
fn files_and_folders_let_in_whom_they_must_and_nobody_else() {
    let home = Home::new();
    home.ok(["start", "--data-dir", "deep/er/data"]);
    let data = home.path().join("deep/er/data");
    for (name, bits) in [
        ("", 0o711),
        ("public", 0o711),
        ("comet.lock", 0o600),
        ("comet.log", 0o600),
        ("comet.pid", 0o644),
        ("comet.sock", 0o660),
        ("public/comet.sock", 0o666),
    ] {
        assert_eq!(mode(&data.join(name)), bits, "{name:?}");
    }
    home.ok(["stop", "--data-dir", "deep/er/data"]);

    home.ok(["start", "--socket-mode", "0600"]);
    assert_eq!(mode(&home.socket()), 0o600);
    home.ok(["stop"]);
    // Whatever the caller's umask is.
    for mask in ["000", "077"] {
        let script = format!("umask {mask}; exec {} start", env!("CARGO_BIN_EXE_comet"));
        let data = home.path().join(mask);
        let mut command = home.other_program("sh");
        let ran = Ran::of(
            command
                .args(["-c", &script])
                .env("COMETSERVER_DATA_DIR", &data)
                .output()
                .unwrap(),
        );
        assert_eq!(ran.code, 0, "{ran:?}");
        let modes = ["", "comet.log", "comet.pid", "comet.sock", "public/comet.sock"]
            .map(|name| mode(&data.join(name)));
        assert_eq!(modes, [0o711, 0o600, 0o644, 0o660, 0o666], "umask {mask}");
        home.ok(["stop", "--data-dir", data.to_str().unwrap()]);
    }
}

#[test]
fn the_socket_belongs_to_the_group_that_is_named() {
    let home = Home::new();
    let ran = home.run(["start", "--socket-group", "no-such-group"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("no-such-group"), "{ran:?}");
    // Our own group always may be named; another one only by root.
    let group = if is_root() {
        1
    } else {
        rustix::process::getegid().as_raw()
    };
    home.ok(["start", "--socket-group", &group.to_string()]);
    assert_eq!(fs::metadata(home.socket()).unwrap().gid(), group);
    assert_eq!(mode(&home.socket()), 0o660);
}

#[test]
fn several_servers_of_one_user_live_side_by_side() {
    let home = Home::new();
    for name in ["one", "two", "three"] {
        home.ok(["start", "--data-dir", name]);
        home.ok(["write", "k", name, "--data-dir", name]);
    }
    for name in ["one", "two", "three"] {
        assert_eq!(
            home.ok(["read", "k", "--data-dir", name]),
            format!("value: {name}\n")
        );
    }
    home.ok(["stop", "--data-dir", "two"]);
    assert_eq!(home.run(["status", "--data-dir", "two"]).code, 3);
    for name in ["one", "three"] {
        // By the variables as well as by the flag.
        let mut command = home.command(["read", "k"]);
        let socket = home.path().join(name).join("comet.sock");
        let ran = Ran::of(command.env("COMETSERVER_SOCKET", socket).output().unwrap());
        assert_eq!(ran.stdout, format!("value: {name}\n"));
        home.ok(["stop", "--data-dir", name]);
    }
}

#[test]
fn a_server_of_another_user_is_named_and_none_is_started() {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let home = Home::new();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
    home.ok(["start"]);
    let pid = home.pid().unwrap();
    let before = picture(&home.data());
    for command in ["start", "status", "stop", "dump"] {
        let mut other = home.other_program("setpriv");
        other.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            env!("CARGO_BIN_EXE_comet"),
            command,
        ]);
        let ran = Ran::of(other.output().unwrap());
        assert_eq!(ran.code, 1, "{command}: {ran:?}");
        for user in ["root", "nobody"] {
            assert!(
                ran.stderr.contains(user),
                "{command} does not name {user}: {ran:?}"
            );
        }
        assert!(!ran.stdout.contains("not running"), "{command}: {ran:?}");
    }
    assert_eq!(picture(&home.data()), before);
    assert_eq!(home.pid(), Some(pid));
}

#[test]
fn it_ends_when_nobody_has_been_connected_for_a_while() {
    let home = Home::new();
    let mut server = home.serve(&["exit_when_idle=1s"]);
    assert!(server.ended().success());
    assert!(!home.socket().exists());
}

#[test]
fn listeners_that_were_opened_for_it_are_served_and_stay() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    let listener = UnixListener::bind(home.socket()).unwrap();
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let script = format!(
        "exec 3<&{}; LISTEN_FDS=1 LISTEN_FDNAMES=backend LISTEN_PID=$$ exec {} serve --set exit_when_idle=1s",
        listener.as_raw_fd(),
        env!("CARGO_BIN_EXE_comet")
    );
    let mut command = home.other_program("bash");
    command.args(["-c", &script]);
    // Who comes before the server waits, and is served.
    let mut early = home.connect();
    early.write_all(b"write k v \0").unwrap();
    let mut server = Server::of(command);
    assert_eq!(rest(early), b"ok \0");
    assert_eq!(home.ok(["read", "k"]), "value: v\n");
    assert!(server.ended().success());
    assert!(home.socket().exists(), "whoever opened it still listens there");
    assert!(!home.public_socket().exists());
    home.connect();
    drop(listener);
}

#[test]
fn running_out_of_descriptors_is_said_once_and_survived() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    home.ok(["status"]);
    // Taken away while it runs, which no reserve foresees.
    let pid = rustix::process::Pid::from_raw(server.pid() as i32);
    let usual = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        ..usual
    };
    prlimit(pid, Resource::Nofile, none).unwrap();
    let waiting = home.connect();
    let line = server.logs("no file descriptors left");
    assert!(
        line.contains("ulimit -n") && line.contains("limits.connections"),
        "{line}"
    );
    prlimit(pid, Resource::Nofile, usual).unwrap();
    // It is accepted without anybody doing anything.
    assert_eq!(http(waiting, "GET", "/v1/now", "", "").status, 200);
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    assert_eq!(home.ok(["read", "k"]), "value: v\n");
    server.signal(Signal::TERM);
    let log = server.rest_of_log();
    assert!(!log.contains("no file descriptors left"), "{log}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let home = Home::new();
    home.ok(["start"]);
    let on_terminal = |name: &str, value: &str| {
        let mut command = home.other_program("script");
        let call = format!("{} status", env!("CARGO_BIN_EXE_comet"));
        command
            .args(["-qec", &call, "/dev/null"])
            .env("TERM", "xterm")
            .env(name, value);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(on_terminal("X", "1").contains("\x1b[32mrunning"));
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = on_terminal(name, value);
        assert!(
            text.contains("running") && !text.contains('\x1b'),
            "{name}: {text:?}"
        );
    }
    assert!(
        on_terminal("NO_COLOR", "").contains('\x1b'),
        "empty counts as not set"
    );
    assert!(!home.ok(["status"]).contains('\x1b'));
}

#[test]
fn the_seven_commands_say_what_scripts_look_for() {
    let home = Home::new();
    let text = home.ok(["start"]);
    let pid = home.pid().unwrap();
    assert!(text.contains(&format!("running, pid {pid}")), "{text}");
    assert!(
        home.ok(["start"])
            .contains(&format!("already running, pid {pid}"))
    );
    assert_eq!(home.run(["start"]).stderr, "", "nothing was asked for in vain");
    let ran = home.run([
        "start",
        "--limits-batch",
        "7",
        "--set",
        "limits.message_size=1KiB",
    ]);
    assert_eq!(
        (ran.code, ran.stdout),
        (0, format!("already running, pid {pid}\n"))
    );
    let told = [
        "limits.batch",
        "limits.message_size",
        "comet stop",
        "comet reload",
    ];
    assert!(
        told.iter().all(|word| ran.stderr.contains(word)),
        "{}",
        ran.stderr
    );
    assert!(home.ok(["status"]).contains(&format!("running, pid {pid}")));
    assert_eq!(home.ok(["write", "k", " two words+ \n%"]), "");
    assert_eq!(home.ok(["read", "k"]), "value:  two words+ \n%\n");
    assert_eq!(home.ok(["read", "none"]), "value:\n");
    home.ok(["write", "other key", "é"]);
    assert_eq!(home.ok(["dump"]), "k:  two words+ \\n%\nother key: é\n");
    assert_eq!(home.ok(["stop"]), format!("stopped, pid {pid}\n"));
    let nobody = format!("already stopped: nobody listens at {}\n", home.socket().display());
    assert_eq!(home.ok(["stop"]), nobody);
    let ran = home.run(["status"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "not running\n"));
    let help = home.ok(["help"]);
    for command in ["start", "stop", "status", "write", "read", "dump", "help"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    // An argument too few is wrong usage, and nothing is stored.
    for args in [&["write", "k"][..], &["write"], &["read"]] {
        assert_eq!(home.run(args).code, 2, "{args:?}");
    }
}

#[test]
fn a_start_follows_no_link_and_says_which_is_in_its_way() {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    let target = home.file("precious", "precious");
    for name in ["comet.log", "comet.lock"] {
        std::os::unix::fs::symlink(&target, home.data().join(name)).unwrap();
        let ran = home.run(["start"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(
            ran.stderr.contains(&format!("{name}: there is a link")),
            "{ran:?}"
        );
        fs::remove_file(home.data().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&target, home.data().join("comet.pid")).unwrap();
    home.ok(["start"]);
    let pid = home.data().join("comet.pid");
    assert_eq!(fs::read_to_string(&pid).unwrap(), home.pid().unwrap().to_string());
    assert!(fs::symlink_metadata(&pid).unwrap().is_file());
    home.ok(["stop"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}
