//! The command line where no server runs: help, usage, exit codes, configuration, tokens, completions.

#![allow(clippy::unwrap_used)] // all of this is test, helpers included

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A secret long enough for HS256.
const TOKENS: &str = "[[tokens]]\nname = \"site\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
                      [[tokens]]\nname = \"other\"\nsecret = \"fedcba9876543210fedcba9876543210\"\n";

/// A home of its own for every test, so that none meets a server of this machine.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comet"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.0.path())
            .current_dir(self.0.path());
        command
            .env("COMETSERVER_DATA_DIR", self.0.path().join("data"))
            .stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

#[test]
fn help_names_the_seven_old_commands_and_ends_well() {
    let home = Home::new();
    for ask in ["help", "--help", "-h"] {
        let ran = home.run([ask]);
        assert_eq!(ran.code, 0, "{ran:?}");
        for command in ["start", "stop", "status", "write", "read", "dump", "help"] {
            assert!(
                ran.stdout.contains(&format!("\n  {command} ")),
                "{ask} lacks {command}: {}",
                ran.stdout
            );
        }
        assert!(!ran.stdout.contains('\x1b'), "no colours into a pipe");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let home = Home::new();
    let overview = home.run(["--help"]).stdout;
    let commands: Vec<&str> = overview
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase()) && !["help", "version"].contains(word))
        .collect();
    assert!(commands.len() >= 17, "{commands:?}");
    for command in commands {
        let ran = home.run([command, "--help"]);
        assert_eq!(ran.code, 0, "{command}: {ran:?}");
        assert!(
            ran.stdout.contains(&format!("Examples:\n  comet {command}")),
            "{command}: {}",
            ran.stdout
        );
    }
}

#[test]
fn wrong_usage_exits_with_two_and_says_so_on_standard_error() {
    let home = Home::new();
    let wrong: [&[&str]; 14] = [
        &[],
        &["bogus"],
        &["START"],
        &["write"],
        &["write", "key"],
        &["write", "key", "value", "more"],
        &["write", "", "value"],
        &["read"],
        &["subscribe"],
        &["subscribe", "x", "--count", "0"],
        &["status", "--url", "ftp://x"],
        &["status", "--url", "http://127.0.0.1:1", "--socket", "x"],
        &["start", "--url", "http://127.0.0.1:1"],
        &["serve", "--set", "no-equals-sign"],
    ];
    for args in wrong {
        let ran = home.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(
            !ran.stderr.is_empty() && ran.stdout.is_empty(),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn every_command_understands_its_arguments() {
    let home = Home::new();
    let absent = ["--socket", "absent.sock"];
    let commands: [&[&str]; 9] = [
        &["read", "key"],
        &["write", "key", "value"],
        &["dump"],
        &["delete", "key", "--history"],
        &[
            "publish", "channel", "data", "--kind", "json", "--event", "e", "--id", "i", "--retain",
        ],
        &[
            "subscribe",
            "a",
            "b",
            "--pattern",
            "c/*",
            "--since",
            "earliest",
            "--count",
            "2",
        ],
        &["history", "channel", "--since", "c", "--limit", "3", "--reverse"],
        &["reload"],
        &[
            "bench",
            "--load",
            "publish",
            "--payload",
            "4KiB",
            "--rate",
            "20",
            "--duration",
            "1s",
        ],
    ];
    for args in commands {
        let ran = home.run(args.iter().chain(&absent));
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "not running\n", "{args:?}: scripts look there");
        assert!(
            ran.stderr.contains("not running") && ran.stderr.contains("comet start"),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn a_stopped_server_is_status_three_and_stopping_it_again_is_fine() {
    let home = Home::new();
    for args in [
        &["status"][..],
        &["status", "--ready"],
        &["status", "--url", "http://127.0.0.1:9"],
    ] {
        let ran = home.run(args);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (3, "not running\n"),
            "{args:?}: {ran:?}"
        );
    }
    let ran = home.run(["stop"]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.starts_with("already stopped: "), "{ran:?}");
    assert!(!home.0.path().join("data").exists(), "looking changes nothing");
}

#[test]
fn a_socket_left_behind_is_not_a_running_server_and_stays_where_it_is() {
    let home = Home::new();
    let socket = home.0.path().join("comet.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let ran = home.run([OsStr::new("status"), OsStr::new("--socket"), socket.as_os_str()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "not running\n"));
    assert!(socket.exists());
}

#[test]
fn values_may_begin_with_dashes_and_be_no_text() {
    let home = Home::new();
    let values: [&[u8]; 4] = [b"-5", b"--unknown", b"\xff\xfe", b"-"];
    for value in values {
        let ran = home.run([OsStr::new("write"), OsStr::new("key"), OsStr::from_bytes(value)]);
        assert_eq!(
            ran.code, 1,
            "{value:?} is taken, only the server is missing: {ran:?}"
        );
        assert_eq!(ran.stdout, "not running\n");
    }
}

#[test]
fn a_mistake_in_the_configuration_exits_with_78_and_names_the_way_out() {
    let home = Home::new();
    let file = home.file("comet.toml", "[limits]\nbath = 3\n");
    for args in [&["config", "check"][..], &["start"], &["serve"], &["status"]] {
        let ran = home.run(args.iter().chain(&["--config", &file]));
        assert_eq!(ran.code, 78, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains("batch"), "{args:?}: {ran:?}");
    }
    for args in [
        ["serve", "--set", "limits.batch=0"],
        ["start", "--limits-batch", "0"],
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, 78, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains("expected at least 1"), "{args:?}: {ran:?}");
    }
    let ran = home.run(["status", "--socket", "x", "--config", &file]);
    assert_eq!(ran.code, 3, "a server that is named needs no file: {ran:?}");
}

#[test]
fn the_default_configuration_is_a_right_one() {
    let home = Home::new();
    let text = home.run(["config", "default"]);
    assert_eq!(text.code, 0);
    let file = home.file("comet.toml", &text.stdout);
    let ran = home.run(["config", "check", "--config", &file]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains(&file), "{ran:?}");
    assert!(
        ran.stdout.contains("limits.memory") && ran.stdout.contains("limits.log_memory"),
        "{ran:?}"
    );
}

#[test]
fn the_demo_is_for_this_machine_only() {
    let home = Home::new();
    let open: [&[&str]; 3] = [
        &["--listen", "0.0.0.0:0"],
        &["--listen", "[::]:0"],
        &["--listen", "127.0.0.1:0", "--ops-listen", "0.0.0.0:0"],
    ];
    for args in open {
        let ran = home.run(["demo"].iter().chain(args));
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains("this machine only"), "{ran:?}");
    }
}

#[test]
fn a_token_says_what_was_asked_for_and_holds() {
    let home = Home::new();
    let file = home.file("comet.toml", TOKENS);
    let create = [
        "token",
        "create",
        "--config",
        &file,
        "--user",
        "alice",
        "--channel",
        "news",
        "--pattern",
        "room/*",
    ];
    let made =
        home.run(
            create
                .iter()
                .chain(&["--action", "subscribe", "--action", "presence", "--expires", "2h"]),
        );
    assert_eq!(made.code, 0, "{made:?}");
    let token = made.stdout.trim_end();
    assert!(!token.contains(char::is_whitespace));

    let seen = home.run(["token", "inspect", token, "--config", &file]);
    assert_eq!(seen.code, 0, "{seen:?}");
    for part in [
        "\"kid\": \"site\"",
        "\"sub\": \"alice\"",
        "\"news\"",
        "\"room/*\"",
        "\"presence\"",
        "valid, expires in",
    ] {
        assert!(seen.stdout.contains(part), "{part}: {seen:?}");
    }

    let mut inspect = home.command(["token", "inspect", "-", "--config", &file]);
    let mut inspect = inspect
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(inspect.stdin.take().unwrap(), "{token}").unwrap();
    assert_eq!(
        Ran {
            stderr: String::new(),
            ..Ran::of(inspect.wait_with_output().unwrap())
        }
        .code,
        0
    );
}

#[test]
fn a_token_that_does_not_hold_is_shown_with_the_reason() {
    let home = Home::new();
    let file = home.file("comet.toml", TOKENS);
    let other = home.file(
        "other.toml",
        &TOKENS.replace("0123", "9999").replace("fedc", "8888"),
    );
    let made = home.run([
        "token",
        "create",
        "--config",
        &file,
        "--channel",
        "news",
        "--name",
        "other",
    ]);
    let token = made.stdout.trim_end();
    let seen = home.run(["token", "inspect", token, "--config", &other]);
    assert_eq!(seen.code, 1);
    assert!(
        seen.stdout.contains("\"news\"") && seen.stdout.contains("not valid: the token's signature"),
        "{seen:?}"
    );

    let expired = home.run([
        "token",
        "create",
        "--config",
        &file,
        "--channel",
        "news",
        "--expires",
        "0s",
    ]);
    let seen = home.run(["token", "inspect", expired.stdout.trim_end(), "--config", &file]);
    assert_eq!(seen.code, 0);
    assert!(seen.stdout.contains("the server takes it for"), "{seen:?}");
}

#[test]
fn a_token_needs_a_key_and_something_to_allow() {
    let home = Home::new();
    let file = home.file("comet.toml", TOKENS);
    let refused: [(&[&str], i32); 6] = [
        (&["--channel", "news"], 78),
        (&["--config", &file], 2),
        (&["--config", &file, "--channel", "news", "--name", "nobody"], 2),
        (&["--config", &file, "--channel", "news", "--action", "fly"], 2),
        (&["--config", &file, "--channel", "news", "--expires", "soon"], 2),
        (&["--config", &file, "--pattern", "news\\"], 2),
    ];
    for (args, code) in refused {
        let ran = home.run(["token", "create"].iter().chain(args));
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(
            ran.stdout.is_empty() && !ran.stderr.is_empty(),
            "{args:?}: {ran:?}"
        );
        assert!(
            !ran.stderr.contains("0123456789abcdef"),
            "a secret is never shown: {ran:?}"
        );
    }
}

#[test]
fn without_a_configuration_a_token_is_not_called_bad_and_the_way_out_is_named() {
    let home = Home::new();
    let file = home.file("comet.toml", TOKENS);
    let made = home.run(["token", "create", "--config", &file, "--channel", "news"]);
    let empty = home.file("empty.toml", "");

    let create = home.run(["token", "create", "--channel", "news"]);
    let inspect = home.run(["token", "inspect", made.stdout.trim_end()]);
    assert_eq!((create.code, inspect.code), (78, 1), "{create:?} {inspect:?}");
    for said in [&create.stderr, &inspect.stdout] {
        assert!(said.contains("no --config was given"), "{said}");
    }
    assert!(!inspect.stdout.contains("not valid"), "{inspect:?}");

    let create = home.run(["token", "create", "--config", &empty, "--channel", "news"]);
    let inspect = home.run(["token", "inspect", made.stdout.trim_end(), "--config", &empty]);
    for said in [&create.stderr, &inspect.stdout] {
        assert!(said.contains("empty.toml has no [[tokens]]"), "{said}");
    }
}

#[test]
fn the_help_names_the_variables_that_say_which_server() {
    let help = Home::new().run(["status", "--help"]).stdout;
    for name in ["DATA_DIR", "SOCKET", "CONFIG", "KEY"] {
        assert!(
            help.contains(&format!("[env: COMETSERVER_{name}")),
            "{name}: {help}"
        );
    }
}

#[test]
fn completions_and_version_are_printed() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = home.run(["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(
            ran.stdout.contains("comet") && ran.stdout.contains("subscribe"),
            "{shell}"
        );
    }
    for ask in ["version", "--version"] {
        assert_eq!(
            home.run([ask]).stdout,
            concat!("comet ", env!("CARGO_PKG_VERSION"), "\n")
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    let mut child = home
        .command(["config", "default"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_only_a_start_would_find_is_found_by_a_check_and_a_reload_as_well() {
    let home = Home::new();
    for (text, told) in [
        (
            "[public]\nlisten = [\"127.0.0.1:8080\"]\nproxied = [\"127.0.0.1:8081\"]\n",
            "no public listener has this address",
        ),
        (
            "[public]\norigins = [\"https://m\u{fc}ller.example\"]\n",
            "https://xn--mller-kva.example",
        ),
        ("[public]\norigins = [\"https://a:x\"]\n", "expected `*`"),
        ("[[namespaces]]\nmatch = \"a\\\\\"\n", "match"),
    ] {
        let file = home.file("comet.toml", text);
        let ran = home.run(["config", "check", &file]);
        assert_eq!(ran.code, 78, "{text}: {ran:?}");
        assert!(
            ran.stdout.is_empty() && ran.stderr.contains(told),
            "{text}: {ran:?}"
        );
    }
    let file = home.file(
        "comet.toml",
        "[public]\norigins = [\"null\", \"file://\", \"https://xn--mller-kva.example\"]\n",
    );
    assert_eq!(home.run(["config", "check", &file]).code, 0);
}

#[test]
fn a_list_may_be_set_as_the_file_has_it() {
    let home = Home::new();
    for value in [
        r#"["https://a.example", 'https://b.example']"#,
        "[https://a.example,https://b.example]",
        "https://a.example, https://b.example",
        r#""https://a.example""#,
        "[]",
    ] {
        let ran = home.run(["config", "check", "--set", &format!("public.origins={value}")]);
        assert_eq!(ran.code, 0, "{value}: {ran:?}");
    }
    for setting in [
        "public.listen=[::1]:0",
        r#"public.listen=["[::1]:0"]"#,
        r#"limits.message_size="64KiB""#,
    ] {
        assert_eq!(
            home.run(["config", "check", "--set", setting]).code,
            0,
            "{setting}"
        );
    }
    for setting in ["public.origins=[https://a.example", r#"public.listen=["x"]"#] {
        assert_eq!(
            home.run(["config", "check", "--set", setting]).code,
            78,
            "{setting}"
        );
    }
}
