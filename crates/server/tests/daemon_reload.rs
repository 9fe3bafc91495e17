//! A server that reads its configuration again: what it takes over, what it ends, and what it says of it.

#![allow(clippy::unwrap_used)] // all of this is test
#![cfg(target_os = "linux")] // as its daemon_support

mod daemon_support;

use std::fs;
use std::io::{BufRead, BufReader, Write};

use daemon_support::{Home, Ran, Server, connect, http, until};
use rustix::process::Signal;

#[test]
fn a_reload_takes_over_keys_limits_namespaces_and_origins() {
    let home = Home::new();
    let config = |key: &str, size: &str, open: &str, origin: &str| {
        format!(
            "[public]\norigins = [\"{origin}\"]\n[limits]\nmessage_size = \"{size}\"\n\
             [[keys]]\nname = \"site\"\nsecret = \"{key}\"\nactions = [\"publish\"]\n\
             [[namespaces]]\nmatch = \"{open}\"\npublic = true\n"
        )
    };
    let (old, new) = ("0123456789abcdef-old", "0123456789abcdef-new");
    let file = home.file("comet.toml", &config(old, "4B", "old/*", "https://old.example"));
    let mut command = home.command(["serve", "--config"]);
    command.arg(&file);
    let mut server = Server::of(command);
    let publish = |key: &str, body: &str| {
        let header = format!("Authorization: Bearer {key}\r\n");
        http(
            connect(&home.public_socket()),
            "POST",
            "/v1/publish?channel=x",
            &header,
            body,
        )
        .status
    };
    let listen = |channel: &str| {
        let path = format!("/v1/poll?channel={channel}&wait_ms=0");
        http(connect(&home.public_socket()), "GET", &path, "", "").status
    };
    let allowed = |origin: &str| {
        let header = format!("Origin: {origin}\r\n");
        let path = "/v1/poll?channel=old/a&channel=new/a&wait_ms=0";
        http(connect(&home.public_socket()), "GET", path, &header, "")
            .head
            .to_ascii_lowercase()
            .contains(&format!("access-control-allow-origin: {origin}"))
    };
    let looks = || {
        (
            [
                publish(old, "1234"),
                publish(new, "1234"),
                publish(old, "12345"),
                publish(new, "12345"),
            ],
            [listen("old/a"), listen("new/a")],
            [allowed("https://old.example"), allowed("https://new.example")],
        )
    };
    let before = ([200, 401, 413, 401], [200, 401], [true, false]);
    let after = ([401, 200, 401, 200], [401, 200], [false, true]);
    assert_eq!(looks(), before);

    // A file with a mistake changes nothing, and says so, to whoever asked and in the log.
    for mistake in [
        "[limits]\nmessage_sise = \"1B\"\n",
        "no toml",
        "[limits]\nmessage_size = \"1\"\n",
    ] {
        fs::write(&file, mistake).unwrap();
        let ran = home.run(["reload"]);
        assert_eq!(ran.code, 78, "{ran:?}");
        assert!(
            ran.stdout.is_empty() && ran.stderr.contains("comet.toml:"),
            "{ran:?}"
        );
        assert!(server.logs("configuration not changed").contains("comet.toml:"));
        assert_eq!(looks(), before);
    }
    server.signal(Signal::HUP);
    server.logs("configuration not changed");
    assert_eq!(looks(), before);

    fs::write(&file, config(new, "5B", "new/*", "https://new.example")).unwrap();
    assert_eq!(home.ok(["reload"]), "reloaded\n");
    server.logs("configuration read again");
    assert_eq!(looks(), after);

    // The same by a signal; and what cannot change is named.
    fs::write(&file, config(old, "4B", "old/*", "https://old.example")).unwrap();
    server.signal(Signal::HUP);
    server.logs("configuration read again");
    until("the shards have taken it over", || {
        (looks() == before).then_some(())
    });
    // Nothing of it is in force meanwhile: it is named as often as it is asked for.
    fs::write(&file, "threads = 7\n").unwrap();
    for _ in 0..2 {
        assert_eq!(
            home.ok(["reload"]),
            "reloaded\n  threads takes effect with the next start\n"
        );
    }
    fs::write(&file, "").unwrap();
    assert_eq!(home.ok(["reload"]), "reloaded\n");
}

#[test]
fn a_secret_taken_out_of_the_file_is_worth_nothing_after_a_reload_and_what_it_opened_ends() {
    let home = Home::new();
    let secret = |name: &str| {
        format!("[[tokens]]\nname = \"{name}\"\nsecret = \"0123456789abcdef0123456789abcdef-{name}\"\n")
    };
    let config = |secrets: &str| format!("data_dir = \"data\"\n{secrets}");
    home.file("relative.toml", &config(&(secret("kept") + &secret("leaked"))));
    let ran = Ran::of(
        home.command(["start", "--config", "relative.toml"])
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    let token = |name: &str| {
        let args = [
            "token",
            "create",
            "--config",
            "relative.toml",
            "--channel",
            "news",
            "--name",
            name,
        ];
        home.ok(args).trim().to_owned()
    };
    let (kept, leaked) = (token("kept"), token("leaked"));
    let listen = |token: &str| {
        let mut socket = connect(&home.public_socket());
        let request = format!("GET /v1/stream?channel=news&token={token} HTTP/1.0\r\nHost: comet\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut lines = BufReader::new(socket).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("\"cursor\"")));
        lines
    };
    let (mut stays, goes) = (listen(&kept), listen(&leaked));
    let _goes_too = listen(&leaked);
    home.file("relative.toml", &config(&secret("kept")));
    assert_eq!(
        home.ok(["reload", "--config", "relative.toml"]),
        "reloaded\n  2 connections end: their keys or token secrets were removed\n"
    );
    let last = goes.last().unwrap();
    assert!(last.contains("\"reconnect\""), "{last}");
    let poll = |token: &str| {
        let path = format!("/v1/poll?channel=news&wait_ms=0&token={token}");
        http(connect(&home.public_socket()), "GET", &path, "", "").status
    };
    assert_eq!([poll(&kept), poll(&leaked)], [200, 401]);
    home.http("POST", "/v1/publish?channel=news&kind=text", "still here");
    assert!(stays.any(|line| line.contains("still here")));
    let log = fs::read_to_string(home.data().join("comet.log")).unwrap();
    assert!(
        log.contains("key or token secret was removed") && log.contains("\"ended\":2"),
        "{log}"
    );
    assert_eq!(home.ok(["reload", "--config", "relative.toml"]), "reloaded\n");
    home.ok(["stop", "--config", "relative.toml"]);
}

#[test]
fn a_server_in_the_background_reloads_relative_paths_from_where_it_was_started() {
    let home = Home::new();
    let config =
        |limit: &str| format!("[public]\nlisten = [\"127.0.0.1:0\"]\n[limits]\nmessage_size = \"{limit}\"\n");
    home.file("relative.toml", &config("4B"));
    let too_large = || home.http("POST", "/v1/publish?channel=x", "12345").status == 413;
    // By flags, and by the environment.
    for by_flags in [true, false] {
        let mut start = home.command(["start"]);
        match by_flags {
            true => start.args(["--config", "relative.toml", "--data-dir", "data"]),
            false => start
                .env("COMETSERVER_CONFIG", "relative.toml")
                .env("COMETSERVER_DATA_DIR", "data"),
        };
        let ran = Ran::of(start.output().unwrap());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(too_large());
        home.file("relative.toml", &config("8B"));
        home.ok(["reload"]);
        assert!(
            !too_large(),
            "{}",
            fs::read_to_string(home.data().join("comet.log")).unwrap()
        );
        let log = fs::read_to_string(home.data().join("comet.log")).unwrap();
        assert!(!log.contains("data_dir"), "nothing else has changed: {log}");
        home.file("relative.toml", &config("4B"));
        home.ok(["stop"]);
    }
}
