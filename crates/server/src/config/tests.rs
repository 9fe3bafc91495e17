//! What a configuration promises, from the sources to the error texts.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

/// Loads from a file's text, variables and flags; `HOME` is `/home/ann`.
fn load(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> (Result<Loaded, String>, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comet.toml");
    std::fs::write(&path, file).unwrap();
    std::fs::write(folder.path().join("secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::write(folder.path().join("short"), "0123456789abcdef\n").unwrap();
    let home = ("HOME", "/home/ann");
    let env: Vec<(OsString, OsString)> = variables
        .iter()
        .chain([&home])
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let flags = flags
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let loaded = Config::load(Sources {
        file: Some(path),
        env,
        flags,
    });
    (
        loaded.map_err(|error| error.to_string()),
        folder.path().to_owned(),
    )
}

fn loaded(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Loaded {
    load(file, variables, flags).0.unwrap()
}

fn config(file: &str) -> Config {
    loaded(file, &[], &[]).config
}

/// The error text, without the folder of the file.
fn error(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    let (loaded, folder) = load(file, variables, flags);
    loaded
        .expect_err(file)
        .replace(&format!("{}/", folder.display()), "")
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    assert_eq!(config(&default_toml()), config(""));
}

#[test]
fn the_printed_defaults_name_every_setting_and_stay_valid_when_uncommented() {
    let text = default_toml();
    for key in dotted_keys() {
        let last = key.split_once('.').map_or(key.as_str(), |(_, last)| last);
        assert!(
            text.lines()
                .any(|l| l.trim_start_matches("# ").starts_with(&format!("{last} ="))),
            "{key}\n{text}"
        );
    }
    let setting = |line: &str| {
        line.strip_prefix("# ")
            .is_some_and(|l| l.starts_with("[[") || l.contains(" = "))
    };
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| if setting(line) { &line[2..] } else { line })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "0123456789abcdef0123456789abcdef").unwrap();
    let here = format!("{}/key", folder.path().display());
    let text = uncommented.join("\n").replace("/etc/cometserver/site.key", &here);
    let config = config(&text.replace("/etc/cometserver/tokens.key", &here));
    assert_eq!(
        (config.keys.len(), config.tokens.len(), config.namespaces.len()),
        (1, 1, 1)
    );
    assert_eq!(config.namespaces[0].namespace, Namespace::default());
    assert_eq!(config.public.listen.len(), 1);
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = "[limits]\nbatch = 1\npatterns = 1\nchannels = 1\n";
    let variables = [
        ("COMETSERVER_LIMITS_PATTERNS", "2"),
        ("COMETSERVER_LIMITS_CHANNELS", "2"),
    ];
    let limits = loaded(file, &variables, &[("limits.channels", "3")])
        .config
        .limits;
    assert_eq!((limits.batch, limits.patterns, limits.channels), (1, 2, 3));
    assert_eq!(limits.subscriptions, 1000);
}

#[test]
fn every_setting_has_its_own_variable_and_none_that_an_orchestrator_would_set() {
    let mut names: Vec<String> = dotted_keys()
        .iter()
        .map(|key| environment::variable(key))
        .collect();
    for name in &names {
        let rest = &name["COMETSERVER_".len()..];
        assert!(
            !rest.starts_with("PORT") && !rest.starts_with("SERVICE"),
            "{name}"
        );
        assert!(!rest.ends_with("_PORT") && !rest.contains("_SERVICE_"), "{name}");
        assert_ne!(name, environment::CONFIG_VARIABLE);
    }
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn what_kubernetes_injects_is_never_parsed_and_other_unknown_variables_only_warn() {
    let injected = [
        ("COMETSERVER_PORT", "tcp://10.0.0.1:80"),
        ("COMETSERVER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("COMETSERVER_SERVICE_HOST", "10.0.0.1"),
        ("COMETSERVER_SERVICE_PORT_HTTP", "80"),
    ];
    let quiet = loaded("", &injected, &[]);
    assert_eq!(quiet.config, config(""));
    assert_eq!(quiet.warnings, []);

    let warned = loaded(
        "",
        &[("COMETSERVER_LIMIT_BATCH", "x"), ("COMETSERVER_FLAVOUR", "x")],
        &[],
    );
    let warnings: Vec<String> = warned.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "unknown variable COMETSERVER_LIMIT_BATCH is ignored: did you mean COMETSERVER_LIMITS_BATCH?",
            "unknown variable COMETSERVER_FLAVOUR is ignored: comet config default prints all there are",
        ]
    );
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let variables = [("COMETSERVER_SOCKET", ""), ("COMETSERVER_LIMITS_BATCH", "")];
    assert_eq!(loaded("", &variables, &[]).config, config(""));
}

#[test]
fn mistakes_are_named_with_their_place_and_the_way_out() {
    let long = format!(
        "[limits]\npattern_length = \"1KiB\"\n[[namespaces]]\nmatch = \"{}\"",
        "a".repeat(1025)
    );
    let shown = "a".repeat(1025);
    let too_long = format!(
        "[[namespaces]] match \"{shown}\": expected at most limits.pattern_length, which is 1024 bytes"
    );
    for (file, expected) in [
        (
            "\n[limits]\nwindow = 7",
            "comet.toml:3: limits.window \"7\": expected a duration such as 90s or 7d",
        ),
        (
            "limits.message_size = 64",
            "comet.toml:1: limits.message_size \"64\": expected a size such as 64KiB or 1MiB",
        ),
        (
            "[limits]\njson_depth = 97",
            "comet.toml:2: limits.json_depth \"97\": expected at most 96",
        ),
        (
            "[limits]\njson_depth = 0",
            "comet.toml:2: limits.json_depth \"0\": expected at least 1",
        ),
        (
            "[limits]\nchannel_name = \"9KiB\"",
            "comet.toml:2: limits.channel_name \"9KiB\": expected at most 8KiB",
        ),
        (
            "[limits]\nbatch = 0",
            "comet.toml:2: limits.batch \"0\": expected at least 1",
        ),
        (
            "[limits]\nbatch = -1",
            "comet.toml:2: limits.batch \"-1\": expected a whole number such as 1000",
        ),
        (
            "[limits]\npublish_rate = 5",
            "comet.toml:2: limits.publish_rate \"5\": expected a rate such as 100/s",
        ),
        (
            "[limits]\none_visitor = 5",
            "comet.toml:2: limits.one_visitor \"5\": expected a part from 1% to 100%",
        ),
        (
            "[limits]\nall_visitors = \"101%\"",
            "comet.toml:2: limits.all_visitors \"101%\": expected a part from 1% to 100%",
        ),
        (
            "[limits]\nbatsh = 1",
            "comet.toml:2: unknown key limits.batsh: did you mean limits.batch?",
        ),
        (
            "message_size = 1",
            "comet.toml:1: unknown key message_size: did you mean limits.message_size?",
        ),
        (
            "[limit]\nbatch = 1",
            "comet.toml:1: unknown key limit: did you mean [limits]?",
        ),
        (
            "colour = 1",
            "comet.toml:1: unknown key colour: comet config default prints all there are",
        ),
        ("limits = 5", "comet.toml:1: limits: expected a section, [limits]"),
        (
            "threads = [[1]]",
            "comet.toml:1: threads (a list of lists or tables): expected a whole number such as 1000",
        ),
        (
            "threads = { a = 1 }",
            "comet.toml:1: threads (a table): expected a whole number such as 1000",
        ),
        (
            "socket_mode = 432",
            "comet.toml:1: socket_mode \"432\": expected an octal mode such as \"0660\"",
        ),
        (
            "[public]\nops = 1",
            "comet.toml:2: public.ops \"1\": expected true or false",
        ),
        (
            "[public]\nlisten = [\"8080\"]",
            "comet.toml:2: public.listen [\"8080\"]: expected a list of addresses and ports such as 127.0.0.1:8080 or [::]:8080; write 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 for every network",
        ),
        (
            "[public]\nlisten = [\"127.0.0.1\"]",
            "comet.toml:2: public.listen [\"127.0.0.1\"]: expected a list of addresses and ports such as 127.0.0.1:8080 or [::]:8080; the port is missing: write 127.0.0.1:8080",
        ),
        (
            "[ops]\nlisten = [\"127.0.0.1:9100\", \"localhost:9101\"]",
            "comet.toml:2: ops.listen [\"127.0.0.1:9100\", \"localhost:9101\"]: expected a list of addresses and ports such as 127.0.0.1:8080 or [::]:8080; write 127.0.0.1:9101",
        ),
        (
            "[public]\nlisten = [\"http://[::1]:80/\"]",
            "comet.toml:2: public.listen [\"http://[::1]:80/\"]: expected a list of addresses and ports such as 127.0.0.1:8080 or [::]:8080; write [::1]:80",
        ),
        (
            "[public]\nlisten = [\"example.org:80\"]",
            "comet.toml:2: public.listen [\"example.org:80\"]: expected a list of addresses and ports such as 127.0.0.1:8080 or [::]:8080; a name is no address: write 127.0.0.1:80 for this machine alone, 0.0.0.0:80 for every network",
        ),
        (
            "[public]\nlisten = [\"127.0.0.1:99999\"]",
            "comet.toml:2: public.listen [\"127.0.0.1:99999\"]: expected a list of addresses and ports such as 127.0.0.1:8080 or [::]:8080; a port is a number from 1 to 65535",
        ),
        (
            "[backend]\nlisten = [\"0.0.0.0:80\"]",
            "comet.toml:2: backend.listen [\"0.0.0.0:80\"]: 0.0.0.0:80 can be reached from other machines, and nothing here asks for a key: expected an address such as 127.0.0.1:8081",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "comet.toml:2: log.level \"loud\": expected error, warn, info, debug or trace",
        ),
        (
            "[namespace_default]\ndurability = \"disk\"",
            "comet.toml:2: namespace_default.durability \"disk\": expected fsync, buffered or memory",
        ),
        (
            "[storage]\nmax_size = \"4MiB\"\nsegment_size = \"2MiB\"",
            "storage.max_size of 4194304 bytes: expected at least four times storage.segment_size, which is 8388608 bytes",
        ),
        (
            "[namespace_default.history]\nage = \"7\"",
            "comet.toml:2: namespace_default.history.age \"7\": expected a duration such as 90s or 7d",
        ),
        (
            "[namespace_default]\nanonymous_presence = true",
            "namespace_default: anonymous_presence: expected presence = true with it",
        ),
        (
            "[[namespaces]]\npublic = true",
            "comet.toml:1: [[namespaces]] match: expected a pattern over channel names such as news/*",
        ),
        (
            "[[namespaces]]\nmatch = \"a\"\nhistory.cuont = 1",
            "comet.toml:3: unknown key [[namespaces]] history.cuont: did you mean history.count?",
        ),
        (
            "keys = 1",
            "comet.toml:1: keys: expected a section for each, [[keys]]",
        ),
        (&long, &too_long),
        (
            "[limits]\nmessage_size = \"128MiB\"",
            "limits.window_bytes of 67108864 bytes: expected at least limits.message_size, which is 134217728 bytes",
        ),
        (
            "[limits]\nmemory = \"2MiB\"",
            "limits.memory of 2097152 bytes: expected at least four times limits.message_size, which is 4194304 bytes",
        ),
    ] {
        assert_eq!(error(file, &[], &[]), expected, "{file}");
    }
}

#[test]
fn mistakes_in_variables_and_flags_are_named_as_they_were_given() {
    assert_eq!(
        error("", &[("COMETSERVER_NAMESPACE_DEFAULT_HISTORY_AGE", "7")], &[]),
        "COMETSERVER_NAMESPACE_DEFAULT_HISTORY_AGE \"7\": expected a duration such as 90s or 7d"
    );
    assert_eq!(
        error("", &[], &[("namespace_default.history.age", "7")]),
        "--namespace-default-history-age \"7\": expected a duration such as 90s or 7d"
    );
    assert_eq!(
        error("", &[], &[("limits.bach", "7")]),
        "unknown key limits.bach: did you mean limits.batch?"
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line_and_without_quoting_it() {
    let text = error("threads = 1\n[[keys]]\nsecret = \"do-not-show-me\n", &[], &[]);
    assert!(text.starts_with("comet.toml:3: "), "{text}");
    assert!(!text.contains("do-not-show-me"), "{text}");
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let sources = Sources {
        file: Some("/nonexistent/comet.toml".into()),
        env: [],
        flags: vec![],
    };
    assert_eq!(
        Config::load(sources).unwrap_err().to_string(),
        "/nonexistent/comet.toml: No such file or directory (os error 2): name another file with --config or COMETSERVER_CONFIG"
    );
}

#[test]
fn keys_come_from_the_file_or_from_files_beside_it_and_are_never_shown() {
    let text = "[[keys]]\nname = \"new\"\nsecret_file = \"secret\"\nactions = [\"publish\", \"ops\"]\n\
                [[keys]]\nname = \"old\"\nsecret = \"old-old-old-old-old\"\nactions = [\"admin\"]\n\
                [[tokens]]\nname = \"site\"\nsecret = \"sign-sign-sign-sign-sign-sign-sign\"\n";
    let loaded = loaded(text, &[], &[]);
    assert_eq!(
        loaded.config.keys[0].secret.expose(),
        b"0123456789abcdef0123456789abcdef"
    );
    assert_eq!(loaded.config.keys[0].actions, [Action::Publish, Action::Ops]);
    assert_eq!(loaded.config.keys[1].secret.expose(), b"old-old-old-old-old");
    assert_eq!(loaded.config.tokens[0].name, "site");
    let shown = format!("{loaded:?}");
    assert!(
        !shown.contains("0123") && !shown.contains("old-old") && !shown.contains("sign-sign"),
        "{shown}"
    );
}

#[test]
fn mistakes_in_keys_are_named_without_showing_the_secret() {
    let ok = "[[keys]]\nname = \"a\"\nsecret = \"0123456789abcdef\"\nactions = [\"ops\"]\n";
    for (text, expected) in [
        (
            "[[keys]]\nname = \"a\"\nsecret = \"short\"\nactions = [\"ops\"]".to_owned(),
            "comet.toml:1: [[keys]] \"a\": secret: expected at least 16 visible ASCII characters without blanks",
        ),
        (
            "[[keys]]\nname = \"a\"\nsecret = \"0123456789abcde f\"\nactions = [\"ops\"]".to_owned(),
            "comet.toml:1: [[keys]] \"a\": secret: expected at least 16 visible ASCII characters without blanks",
        ),
        (
            "[[keys]]\nname = \"a\"\nsecret = \"0123456789abcdef\"".to_owned(),
            "comet.toml:1: [[keys]] \"a\": actions: expected at least one of publish, history, presence, admin, ops, subscribe",
        ),
        (
            "[[keys]]\nname = \"a\"\nactions = [\"ops\"]".to_owned(),
            "comet.toml:1: [[keys]] \"a\": secret: expected a secret, or the file that holds it in secret_file",
        ),
        (
            format!("{ok}secret_file = \"secret\""),
            "comet.toml:1: [[keys]] \"a\": secret: expected either secret or secret_file, not both",
        ),
        (
            "[[keys]]\nsecret = [\"a\"]".to_owned(),
            "comet.toml:2: [[keys]] secret: expected a text",
        ),
        (
            "[[keys]]\nactions = [\"opps\"]".to_owned(),
            "comet.toml:2: [[keys]] actions [\"opps\"]: expected a list of actions out of publish, history, presence, admin, ops, subscribe",
        ),
        (
            format!("{ok}{}", ok.replace("0123456789", "9876543210")),
            "comet.toml:5: [[keys]] name \"a\": expected another name than an entry before it",
        ),
        (
            format!("{ok}{}", ok.replace("\"a\"", "\"b\"")),
            "comet.toml:5: [[keys]] secret of \"b\": expected another secret than an entry before it",
        ),
        (
            ok.replace("\"a\"", "\"\""),
            "comet.toml:1: [[keys]] name: expected a name for the logs",
        ),
        (
            "[[tokens]]\nname = \"a\"\nsecret_file = \"short\"".to_owned(),
            "comet.toml:1: [[tokens]] \"a\": secret: expected at least 32 bytes",
        ),
    ] {
        assert_eq!(error(&text, &[], &[]), expected, "{text}");
    }
}

#[test]
fn a_file_with_secrets_that_everybody_can_read_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comet.toml");
    std::fs::write(
        &path,
        "[[tokens]]\nname=\"a\"\nsecret=\"0123456789abcdef0123456789abcdef\"",
    )
    .unwrap();
    for (mode, count) in [(0o600, 0), (0o644, 1)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let env = [("HOME".into(), "/home/ann".into())];
        let loaded = Config::load(Sources {
            file: Some(path.clone()),
            env,
            flags: vec![],
        })
        .unwrap();
        assert_eq!(loaded.warnings.len(), count, "{:?}", loaded.warnings);
    }
}

#[test]
fn a_namespace_rule_takes_what_it_does_not_say_from_the_table_and_not_from_the_rest() {
    let config = config(
        "[namespace_default]\npublic = true\nhistory.count = 7\n\
         [[namespaces]]\nmatch = \"a/**\"\nhistory = { age = \"1m\" }\n[[namespaces]]\nmatch = \"**\"\npublic = true",
    );
    assert_eq!(config.namespaces[0].pattern, "a/**");
    let rule = &config.namespaces[0].namespace;
    assert_eq!(
        (rule.public, rule.history_count, rule.history_age),
        (false, 100, Duration::from_secs(60))
    );
    assert_eq!(
        (
            config.namespace_default.public,
            config.namespace_default.history_count
        ),
        (true, 7)
    );
    assert!(config.namespaces[1].namespace.public);
}

#[test]
fn paths_follow_from_the_data_folder_and_from_where_they_are_written() {
    let named = loaded("", &[("COMETSERVER_DATA_DIR", "/srv/push")], &[]).config;
    assert_eq!(named.socket, Path::new("/srv/push/comet.sock"));
    assert_eq!(
        named.public.socket.as_deref(),
        Some(Path::new("/srv/push/public/comet.sock"))
    );

    let (result, folder) = load("socket = \"run/a.sock\"\n[public]\nsocket = \"off\"", &[], &[]);
    let config = result.unwrap().config;
    assert_eq!(
        (config.socket, config.public.socket),
        (folder.join("run/a.sock"), None)
    );

    let flagged = loaded("", &[], &[("socket", "b.sock")]).config;
    assert_eq!(flagged.socket, std::env::current_dir().unwrap().join("b.sock"));

    let both = error(
        "data_dir = \"/d\"\n[public]\nsocket = \"/d/comet.sock\"",
        &[],
        &[],
    );
    let expected = "public.socket \"/d/comet.sock\": expected another path than socket: whoever connects there may publish and administer";
    assert_eq!(both, expected);
}

#[test]
fn without_a_name_the_data_folder_is_the_systems_for_root_and_the_users_own_otherwise() {
    let find = |root, state: &str, home: &str| {
        let some = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        default_data_dir(root, some(state), some(home)).map(|path| path.display().to_string())
    };
    assert_eq!(find(true, "/s", "/root").as_deref(), Some("/var/lib/cometserver"));
    assert_eq!(find(false, "/s", "/home/ann").as_deref(), Some("/s/cometserver"));
    assert_eq!(
        find(false, "s", "/home/ann").as_deref(),
        Some("/home/ann/.local/state/cometserver")
    );
    assert_eq!(find(false, "", ""), None);
}

#[test]
fn a_list_given_in_two_flags_holds_both() {
    let flags = [
        ("public.listen", "127.0.0.1:1"),
        ("limits.batch", "1"),
        ("public.listen", "127.0.0.1:2"),
        ("limits.batch", "2"),
    ];
    let config = loaded("", &[], &flags).config;
    let both: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
    assert_eq!((config.public.listen, config.limits.batch), (both, 2));
}

#[test]
fn the_file_that_comet_config_names_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.toml");
    std::fs::write(&path, "threads = 3").unwrap();
    let env = [
        ("COMETSERVER_CONFIG".into(), path.clone().into()),
        ("HOME".into(), "/home/ann".into()),
    ];
    let loaded = Config::load(Sources {
        file: None,
        env,
        flags: vec![],
    })
    .unwrap();
    assert_eq!((loaded.config.threads, loaded.file), (Some(3), Some(path)));
}

#[test]
fn zero_means_no_bound_only_where_it_says_so() {
    let config = config(
        "exit_when_idle = 0\n[held]\nws.max = 0\nws.lifetime = 0\nsse = { lifetime = \"1h\", max = 5 }",
    );
    assert_eq!(
        (config.exit_when_idle, config.held.ws_max, config.held.ws_lifetime),
        (None, None, None)
    );
    assert_eq!(
        (config.held.sse_max, config.held.sse_lifetime),
        (Some(5), Some(Duration::from_secs(3600)))
    );
}

#[test]
fn a_reload_takes_over_what_is_looked_up_when_it_is_needed_and_names_the_rest() {
    let old = config("");
    let new = config(
        "threads = 2\nexit_when_idle = \"1h\"\n\
         [public]\nlisten = [\"127.0.0.1:1\"]\nops = true\norigins = [\"https://a.example\"]\nbase_path = \"/push\"\n\
         [limits]\nbatch = 1\nconnections = 5\npatterns = 5\npatterns_total = 5\nchannels = 5\nlog_memory = \"128MiB\"\n\
         window = \"1s\"\nwindow_bytes = \"32MiB\"\nidempotency_keys = 5\nidempotency_window = \"1s\"\none_visitor = \"1%\"\n\
         all_visitors = \"9%\"\n\
         [held]\npoll.max = 5\nheartbeat = \"9s\"\n[presence]\ngrace = \"1s\"\nannounce_limit = 5\nmembers = 5\nmember_info = \"5B\"\n\
         [shutdown]\ndrain = \"1s\"\nspread = \"1s\"\n[log]\nlevel = \"warn\"\n[namespace_default]\npublic = true",
    );
    let restart = [
        "threads",
        "public.listen",
        "public.ops",
        "limits.patterns_total",
        "limits.channels",
        "limits.one_visitor",
        "limits.all_visitors",
        "limits.log_memory",
        "limits.window",
        "limits.window_bytes",
        "limits.idempotency_keys",
        "limits.idempotency_window",
        "presence.grace",
        "presence.announce_limit",
        "presence.members",
        "log.level",
    ];
    assert_eq!(old.followed_by(new, true).1, restart);
    assert_eq!(old.followed_by(old.clone(), true), (old.clone(), Vec::new()));
}

#[test]
fn what_would_need_a_log_on_disk_needs_a_restart_only_if_there_is_none() {
    let memory = config("[namespace_default]\ndurability = \"memory\"");
    let rule = config("[namespace_default]\ndurability = \"memory\"\n[[namespaces]]\nmatch = \"kept/**\"");
    let durable = config("");
    assert!(!memory.is_durable() && rule.is_durable() && durable.is_durable());
    let waiting = |old: &Config, new: &Config, has_store| old.followed_by(new.clone(), has_store).1;
    assert_eq!(
        waiting(&memory, &durable, false),
        ["namespace_default.durability"]
    );
    assert_eq!(waiting(&memory, &rule, false), ["[[namespaces]] durability"]);
    assert_eq!(waiting(&durable, &memory, true), [""; 0]);
    assert_eq!(waiting(&memory, &durable, true), [""; 0]);
    let smaller = config("[storage]\nmax_size = \"1GiB\"");
    assert_eq!(waiting(&durable, &smaller, true), ["storage.max_size"]);
}

#[test]
fn a_reload_compares_with_what_runs_not_with_the_file_before() {
    let running = config(
        "threads = 2\n[limits]\nwindow = \"9s\"\nbatch = 7\n[namespace_default]\ndurability = \"memory\"",
    );
    let file = config("threads = 7\n[limits]\nwindow = \"8s\"\nbatch = 9");
    let waiting = ["threads", "limits.window", "namespace_default.durability"];
    let (after, said) = running.followed_by(file.clone(), false);
    assert_eq!(said, waiting);
    assert_eq!(
        (after.threads, after.limits.window),
        (running.threads, running.limits.window)
    );
    assert_eq!(after.limits.batch, 9, "what can be is in force");
    // The same file again: nothing of it has been put in force meanwhile.
    assert_eq!(after.followed_by(file, false).1, waiting);
    // Back to what runs: nothing waits.
    assert_eq!(after.followed_by(running.clone(), false), (running, Vec::new()));
}

#[test]
fn every_setting_that_waits_for_a_restart_stays_as_it_runs() {
    let running = config("");
    let others = [
        "true",
        "7",
        "7s",
        "5MiB",
        "64KiB",
        "7B",
        "7%",
        "7/s",
        "0640",
        "debug",
        "json",
        "memory",
        "/other",
        "127.0.0.1:7",
        "https://a.example",
    ];
    let mut file = running.clone();
    for key in dotted_keys() {
        let is_other = |text: &&str| {
            let mut changed = running.clone();
            let set = changed.assign_dotted(&key, &Raw::text(*text));
            set.is_some_and(|set| set.is_ok()) && changed != running
        };
        let other = others.into_iter().find(is_other).expect(&key);
        file.assign_dotted(&key, &Raw::text(other)).unwrap().unwrap();
    }
    let (after, waiting) = running.followed_by(file.clone(), true);
    assert!(waiting.len() > 30, "{waiting:?}");
    let values = |config: &Config| -> Vec<(String, String)> {
        let sections = config.sections();
        let inside = sections.iter().flat_map(|(_, section)| section.values());
        let values = config.values().into_iter().chain(inside);
        dotted_keys().into_iter().zip(values).collect()
    };
    let (of_running, of_file) = (values(&running), values(&file));
    for (at, (key, value)) in values(&after).into_iter().enumerate() {
        assert_ne!(
            of_running[at].1, of_file[at].1,
            "{key}: the test has to change it"
        );
        let wanted = if waiting.contains(&key) {
            &of_running
        } else {
            &of_file
        };
        assert_eq!(value, wanted[at].1, "{key}");
    }
    // And so does what it would not fit into.
    let large = config(
        "[limits]\nmessage_size = \"128MiB\"\nwindow_bytes = \"128MiB\"\nlog_memory = \"1GiB\"\nmemory = \"1GiB\"",
    );
    let (after, waiting) = running.followed_by(large, true);
    assert_eq!(after.limits.message_size, running.limits.message_size);
    assert!(waiting.contains(&"limits.message_size".to_owned()), "{waiting:?}");
}
