//! The faults of the PHP CometServer, by the numbers of its behaviour contract: none of them is inherited.

#![allow(clippy::unwrap_used)] // all of this is test

mod daemon_support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;

use daemon_support::{Home, Ran, Stream, connect, connect_tcp, http, kill, mode, rest, until, wait_for_end};
use rustix::process::Signal;

/// What the server may use of the processor while nobody wants anything from it, in clock ticks.
#[cfg(target_os = "linux")]
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn fault_01_a_half_open_client_kills_the_service_for_good() {
    let home = Home::new();
    home.ok(["start"]);
    let pid = home.pid().unwrap();
    // A peer that closes, or half-closes, before its terminator.
    drop(home.connect());
    let mut gone = home.connect();
    gone.write_all(b"write k v").unwrap();
    drop(gone);
    let mut half = home.connect();
    half.write_all(b"read k").unwrap();
    half.finish();
    assert_eq!(rest(&half), b"", "it is closed, not waited for");

    home.ok(["write", "k", "still here"]);
    assert_eq!(home.ok(["read", "k"]), "value: still here\n");
    #[cfg(target_os = "linux")]
    {
        // No loop is left behind: a hundred calls cost next to nothing.
        let before = ticks(pid);
        for _ in 0..100 {
            home.seed("read k \0");
        }
        assert!(
            ticks(pid) - before < 100,
            "a second of processor time for a hundred calls"
        );
    }
    home.ok(["stop"]);

    // The client's half of it: a server that goes away in mid-call ends the call.
    fs::remove_file(home.socket()).unwrap_or_default();
    let listener = UnixListener::bind(home.socket()).unwrap();
    let server = thread::spawn(move || {
        for part in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(client.read(&mut request).unwrap() > 0);
            client.write_all(part).unwrap();
        }
    });
    for _ in 0..2 {
        let ran = home.run(["read", "k"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(!ran.stderr.is_empty() && ran.stderr.len() < 1000, "{ran:?}");
    }
    server.join().unwrap();
}

#[test]
fn fault_02_a_silent_client_blocks_all_others() {
    let home = Home::new();
    let _server = home.serve(&[]);
    // The old backlog of 0 refused whoever came while one was served. None of these says anything.
    let silent: Vec<_> = (0..300).map(|_| home.connect()).collect();
    let mut slow = home.connect();
    slow.write_all(b"write slow v").unwrap();
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    assert_eq!(home.ok(["read", "k"]), "value: v\n");
    slow.write_all(b" \0").unwrap();
    assert_eq!(rest(slow), b"ok \0");
    drop(silent);
}

#[test]
fn fault_03_a_request_may_be_endless() {
    let home = Home::new();
    let _server = home.serve(&["limits.message_size=1KiB", "limits.request_time=1s"]);
    // In size.
    let mut endless = home.connect();
    let written = until("it is refused", || {
        endless
            .write_all(&[b'x'; 64 << 10])
            .err()
            .map(|error| error.kind())
    });
    assert!(
        [
            std::io::ErrorKind::BrokenPipe,
            std::io::ErrorKind::ConnectionReset
        ]
        .contains(&written),
        "{written}"
    );
    // In time.
    let mut dawdling = home.connect();
    dawdling.write_all(b"write k v").unwrap();
    assert_eq!(rest(dawdling), b"");
    assert_eq!(home.seed("read k \0"), b" \0");
}

#[test]
fn fault_04_a_space_or_carriage_return_in_a_key_is_lost() {
    let home = Home::new();
    home.ok(["start"]);
    let keys = ["key a", "key b", "key", "key\ra", " key", "key ", "key\na"];
    for key in keys {
        home.ok(["write", key, &format!("of {key:?}")]);
    }
    for key in keys {
        assert_eq!(home.ok(["read", key]), format!("value: of {key:?}\n"));
    }
    assert_eq!(home.ok(["dump"]).lines().count(), keys.len());
    // No terminator leaks into a value.
    assert_eq!(home.seed("write v 1\r"), b"ok \0");
    assert_eq!(home.ok(["read", "v"]), "value: 1\n");
}

#[test]
fn fault_05_nothing_is_ever_deleted_or_expires() {
    let home = Home::new();
    let _server = home.serve(&[
        "limits.window=1ms",
        "namespace_default.history.age=1ms",
        "limits.channels=50",
    ]);
    // Delete.
    home.ok(["write", "k", "v"]);
    assert_eq!(home.ok(["delete", "k"]), "deleted\n");
    assert_eq!(home.ok(["read", "k"]), "value:\n");
    assert_eq!(home.seed("read k \0"), b" \0");
    assert_eq!(home.seed("dump \0"), b" \0");
    assert_eq!(home.ok(["delete", "k"]), "nothing to delete\n");
    // Expiry: what is published is forgotten after its time.
    home.ok(["publish", "news", "old"]);
    until("the history expires", || {
        let answer = home.http("GET", "/v1/history?channel=news", "");
        (answer.status == 404 || answer.json()["publications"].as_array()?.is_empty()).then_some(())
    });
    // The number of keys is bounded: one more is refused, never silently lost, until another is given up.
    for key in 0..50 {
        assert_eq!(home.seed(format!("write {key} v \0")), b"ok \0");
    }
    let ran = home.run(["write", "one-more", "v"]);
    assert!(ran.code == 1 && ran.stderr.contains("limits.channels"), "{ran:?}");
    assert_eq!(home.ok(["dump"]).lines().count(), 50);
    home.ok(["delete", "0"]);
    until("there is room again", || {
        (home.run(["write", "one-more", "v"]).code == 0).then_some(())
    });
}

#[test]
fn fault_06_signals_are_ignored_and_the_caller_is_held() {
    let home = Home::new();
    // A pipe, a CI job, ssh: all wait until nobody holds the output any more.
    let script = format!("{} start | cat", env!("CARGO_BIN_EXE_comet"));
    let ran = Ran::of(home.other_program("sh").args(["-c", &script]).output().unwrap());
    assert!(ran.stdout.starts_with("started: running, pid "), "{ran:?}");
    let pid = home.pid().unwrap();
    // A session of its own: the terminal's group may end without it.
    let id = rustix::process::Pid::from_raw(pid as i32).unwrap();
    assert_eq!(rustix::process::getsid(Some(id)).unwrap(), id);

    kill(pid, Signal::HUP);
    assert_eq!(home.seed("write k v \0"), b"ok \0", "a hangup ends nothing");
    kill(pid, Signal::TERM);
    wait_for_end(pid);
    assert!(!home.socket().exists());
    assert_eq!(home.run(["status"]).code, 3);
}

#[test]
fn fault_07_start_claims_success_before_it_knows_and_two_starts_fight() {
    let home = Home::new();
    // It cannot listen there, and says so.
    fs::create_dir_all(home.socket()).unwrap();
    let ran = home.run(["start"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("comet.sock") && ran.stdout.is_empty(),
        "{ran:?}"
    );
    assert_eq!(home.pid(), None);
    fs::remove_dir(home.socket()).unwrap();

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
    let pid = home.pid().unwrap();
    let said = |text: &str| ran.iter().filter(|ran| ran.stdout.starts_with(text)).count();
    assert_eq!(said(&format!("started: running, pid {pid}\n")), 1, "{ran:?}");
    assert_eq!(said(&format!("already running, pid {pid}\n")), 7, "{ran:?}");
    assert!(ran.iter().all(|ran| ran.code == 0), "{ran:?}");
    assert_eq!(
        fs::read_to_string(home.data().join("comet.pid")).unwrap(),
        pid.to_string()
    );
    assert_eq!(
        home.ok(["status"]).lines().next(),
        Some(&*format!("running, pid {pid}"))
    );
}

#[test]
fn fault_08_status_destroys_and_believes_a_recycled_pid() {
    let home = Home::new();
    home.ok(["start"]);
    let pid_file = home.data().join("comet.pid");
    let inode = fs::metadata(home.socket()).unwrap().ino();
    fs::remove_file(&pid_file).unwrap();
    assert_eq!(home.run(["status"]).code, 0);
    assert_eq!(fs::metadata(home.socket()).unwrap().ino(), inode);
    assert!(!pid_file.exists(), "it only looks");
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    home.ok(["stop"]);

    // A process that lives, and is no server.
    fs::write(&pid_file, std::process::id().to_string()).unwrap();
    let ran = home.run(["status"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "not running\n"), "{ran:?}");
    assert!(home.run(["read", "k"]).stdout.contains("not running"));
    assert!(home.ok(["start"]).starts_with("started"));
}

#[test]
fn fault_09_everybody_may_do_everything_and_the_pid_file_is_a_command() {
    let home = Home::new();
    home.ok(["start"]);
    let data = home.data();
    for (path, bits) in [
        ("", 0o711),
        ("public", 0o711),
        ("comet.sock", 0o660),
        ("public/comet.sock", 0o666),
        ("comet.lock", 0o600),
        ("comet.log", 0o600),
        ("comet.pid", 0o644),
    ] {
        assert_eq!(mode(&data.join(path)), bits, "{path:?}");
    }

    // Whatever somebody puts there is neither run nor killed.
    let mut victim = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let trace = home.path().join("trace");
    for text in [
        format!("{}; touch {}", victim.id(), trace.display()),
        victim.id().to_string(),
        "rubbish".to_owned(),
        "-1".to_owned(),
    ] {
        fs::write(data.join("comet.pid"), &text).unwrap();
        for command in ["status", "dump", "stop", "status", "start"] {
            let code = home.run([command]).code;
            assert!([0, 3].contains(&code), "{command} with {text:?}: {code}");
        }
    }
    assert!(!trace.exists());
    assert!(victim.try_wait().unwrap().is_none(), "it was killed");
    drop(victim.stdin.take());
    assert!(victim.wait().unwrap().success());
}

#[test]
fn fault_10_nobody_is_asked_who_they_are() {
    let home = Home::new();
    let server = home.serve(&["public.listen=127.0.0.1:0", "backend.listen=127.0.0.1:0"]);
    home.ok(["write", "k", "secret"]);
    let asked = [
        ("GET", "/v1/retained?channel=k"),
        ("GET", "/v1/history?channel=k"),
        ("GET", "/v1/channels"),
        ("GET", "/v1/poll?channel=k&wait_ms=0"),
        ("GET", "/v1/sse?channel=k"),
        ("GET", "/v1/stats"),
        ("POST", "/v1/publish?channel=k"),
        ("DELETE", "/v1/retained?channel=k"),
        ("POST", "/v1/admin/stop"),
        ("POST", "/v1/admin/reload"),
    ];
    for (method, path) in asked {
        for answer in [
            http(connect(&home.public_socket()), method, path, "", ""),
            http(connect_tcp(server.tcp()), method, path, "", ""),
            http(
                connect_tcp(server.tcp()),
                method,
                path,
                "Authorization: Bearer guessed-key-0123456789\r\n",
                "",
            ),
        ] {
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
            assert!(!answer.body.contains("secret"), "{answer:?}");
        }
    }
    // Another site's page cannot post through a visitor's browser, not even where no key is asked for.
    let forged = http(
        home.connect(),
        "POST",
        "/v1/publish?channel=k",
        "Origin: https://evil.example\r\n",
        "forged",
    );
    assert_eq!(forged.status, 403, "{forged:?}");
    assert_eq!(home.ok(["read", "k"]), "value: secret\n");
}

#[test]
fn fault_22_exit_codes_and_streams_tell_lies() {
    let home = Home::new();
    let clean = |text: &str| !text.contains(['\x1b', '\r', '\0']);
    // Stopped: failures are failures, said on standard error, with the old phrase where old scripts look.
    for args in [&["write", "k", "v"][..], &["read", "k"], &["dump"]] {
        let ran = home.run(args);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (1, "not running\n"),
            "{args:?}: {ran:?}"
        );
        assert!(
            ran.stderr.contains("not running") && clean(&ran.stderr),
            "{args:?}: {ran:?}"
        );
    }
    let ran = home.run(["status"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "not running\n"), "{ran:?}");
    // Running: success is success, and nothing on standard error.
    for args in [
        &["start"][..],
        &["status"],
        &["write", "k", "v"],
        &["read", "k"],
        &["read", "none"],
        &["dump"],
        &["help"],
        &["start"],
        &["stop"],
        &["stop"],
    ] {
        let ran = home.run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{args:?}: {ran:?}");
        assert!(clean(&ran.stdout), "{args:?}: {ran:?}");
    }
    // Wrong usage, wrong configuration.
    assert_eq!(home.run(["write", "k"]).code, 2);
    assert_eq!(home.run(["start", "--limits-batch", "x"]).code, 78);
    // A write that fails says so.
    home.ok(["start", "--limits-message-size", "10B"]);
    let ran = home.run(["write", "k", "more than ten bytes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:?}");
}
