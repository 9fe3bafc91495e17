//! The wire protocol of the PHP CometServer, byte for byte, against the real server.

#![allow(clippy::unwrap_used)] // all of this is test

mod daemon_support;

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use daemon_support::{Home, Stream, exchange, rest};

/// Texts that tell encodings apart.
const TEXTS: [&str; 12] = [
    "plain",
    "two words",
    "+",
    "a+b",
    "100%",
    "%20",
    "a%2Bb",
    "%25",
    "é€𝄞",
    "a\nb\tc",
    "'\"`$\\",
    "",
];

/// As PHP's `urlencode`.
fn encode(text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for byte in text {
        match byte {
            b' ' => encoded.push(b'+'),
            b'-' | b'_' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => encoded.push(*byte),
            byte => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    encoded
}

fn words(words: &[&[u8]]) -> Vec<u8> {
    let mut request = words.join(&b' ');
    request.extend_from_slice(b" \0");
    request
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn write_read_dump_and_stop_are_answered_byte_for_byte() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    assert_eq!(home.seed("dump \0"), b" \0");
    assert_eq!(home.seed("write k two+words \0"), b"ok \0");
    assert_eq!(home.seed("write l 2 \0"), b"ok \0");
    assert_eq!(home.seed("write k again \0"), b"ok \0");
    assert_eq!(home.seed("read k \0"), b"again \0");
    assert_eq!(home.seed("read none \0"), b" \0");
    assert_eq!(
        home.seed("dump \0"),
        b"\n \x1b[32;1m* index [0] - k\x1b[0m: [again]\n \x1b[32;1m* index [1] - l\x1b[0m: [2] \0"
    );
    assert_eq!(home.seed("stop \0"), b"ok \0");
    assert!(server.ended().success());
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let home = Home::new();
    let _server = home.serve(&[]);
    // "d" and "D" begin nothing of HTTP, "DELETE" does; each byte is its own write.
    for (request, answer) in [
        ("write key value \0", "ok \0"),
        ("read key \0", "value \0"),
        ("dump \0", "\n \x1b[32;1m* index [0] - key\x1b[0m: [value] \0"),
    ] {
        let mut stream = home.connect();
        for byte in request.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
        }
        assert_eq!(rest(stream), answer.as_bytes(), "{request:?}");
    }
}

#[test]
fn a_client_that_half_closes_after_its_request_gets_its_answer() {
    let home = Home::new();
    let _server = home.serve(&[]);
    for (request, answer) in [("write k v \0", "ok \0"), ("read k \0", "v \0")] {
        let mut stream = home.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.finish();
        assert_eq!(rest(stream), answer.as_bytes());
    }
}

#[test]
fn a_client_that_half_closes_within_its_request_is_closed_and_has_written_nothing() {
    let home = Home::new();
    let _server = home.serve(&["limits.request_time=1h"]);
    for part in ["", "w", "write k", "write k v "] {
        let mut stream = home.connect();
        stream.write_all(part.as_bytes()).unwrap();
        stream.finish();
        assert_eq!(rest(stream), b"", "{part:?}");
    }
    assert_eq!(home.seed("read k \0"), b" \0");
}

#[test]
fn a_carriage_return_ends_a_request_and_becomes_part_of_nothing() {
    let home = Home::new();
    let _server = home.serve(&[]);
    assert_eq!(home.seed("write k v \r"), b"ok \0");
    assert_eq!(home.seed("write l v\r"), b"ok \0");
    assert_eq!(home.seed("read k \r"), b"v \0");
    assert_eq!(home.seed("read l\0"), b"v \0");
}

#[test]
fn what_is_no_command_is_told_so_and_the_server_stays() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    for request in [
        "dump\0",
        "stop\0",
        "DUMP \0",
        "STOP \0",
        "\0",
        " \0",
        "\r",
        "hello world \0",
        "writek v \0",
    ] {
        let answer = home.seed(request);
        assert!(
            answer.starts_with(b"There is no valid command") && answer.ends_with(b" \0"),
            "{request:?}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().success());
}

#[test]
fn words_too_many_are_dropped_and_a_word_too_few_is_refused() {
    let home = Home::new();
    let _server = home.serve(&[]);
    assert_eq!(home.seed("write k v more words \0"), b"ok \0");
    assert_eq!(home.seed("read k more \0"), b"v \0");
    assert_eq!(home.seed("dump more \0"), home.seed("dump \0"));
    for request in ["write l \0", "write l\0"] {
        let answer = home.seed(request);
        assert!(answer.starts_with(b"Nothing was stored"), "{answer:?}");
    }
    assert_eq!(home.seed("read l \0"), b" \0");
    // An empty value has a space of its own.
    assert_eq!(home.seed("write l  \0"), b"ok \0");
    assert_eq!(home.seed("read l \0"), b" \0");
}

#[test]
fn tokens_are_opaque_bytes() {
    let home = Home::new();
    let _server = home.serve(&[]);
    let tokens: [&[u8]; 10] = [
        b"%",
        b"%ZZ",
        b"a%2",
        b"+",
        b"%2525",
        b"\xff\xfe",
        b"\xc3\xa9",
        b"a\nb\tc\x1b[31m",
        b"{\"json\":1}",
        b"%00%0D",
    ];
    for token in tokens {
        assert_eq!(home.seed(words(&[b"write", b"k", token])), b"ok \0");
        assert_eq!(home.seed(b"read k \0"), [token, b" \0"].concat(), "{token:?}");
    }
}

#[test]
fn keys_are_raw_bytes() {
    let home = Home::new();
    let _server = home.serve(&[]);
    let long = vec![b'k'; 5 << 10];
    let keys: [&[u8]; 7] = [
        b"\xff\xfe",
        b"a\nb",
        b"a\tb",
        "é/ü?#&=".as_bytes(),
        b"a%20b",
        b"key+with+space",
        &long,
    ];
    for (index, key) in keys.iter().enumerate() {
        let value = index.to_string();
        assert_eq!(home.seed(words(&[b"write", key, value.as_bytes()])), b"ok \0");
    }
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(
            home.seed(words(&[b"read", key])),
            format!("{index} \0").as_bytes()
        );
    }
    let dump = home.seed(b"dump \0");
    for key in keys {
        assert!(dump.windows(key.len()).any(|bytes| bytes == key), "{key:?}");
    }
    let answer = home.seed(words(&[b"write", &vec![b'k'; (8 << 10) + 1], b"v"]));
    assert!(answer.starts_with(b"Nothing was stored"), "{answer:?}");
}

#[test]
fn a_value_of_a_hundred_kilobytes_survives() {
    let home = Home::new();
    let _server = home.serve(&[]);
    let text: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let token = encode(&text);
    assert_eq!(home.seed(words(&[b"write", b"k", &token])), b"ok \0");
    assert_eq!(home.seed(b"read k \0"), [&token[..], b" \0"].concat());
    assert_eq!(home.ok(["read", "plain"]), "value:\n");
    let plain = "x".repeat(100_000);
    home.ok(["write", "plain", &plain]);
    assert_eq!(home.ok(["read", "plain"]), format!("value: {plain}\n"));
}

#[test]
fn a_request_without_end_is_refused_at_the_limit_and_stores_nothing() {
    let home = Home::new();
    let _server = home.serve(&["limits.message_size=1KiB"]);
    let mut stream = home.connect();
    // Three encodings of the largest value and the longest key fit; this does not.
    let sent = stream.write_all(&[&b"write k "[..], &vec![b'v'; 64 << 10]].concat());
    let answer = rest(stream);
    assert!(
        sent.is_err() || answer.starts_with(b"Nothing was stored"),
        "{answer:?}"
    );
    assert_eq!(home.seed("read k \0"), b" \0");

    let answer = home.seed(words(&[b"write", b"k", &[b'v'; 1025]]));
    assert!(answer.starts_with(b"Nothing was stored"), "{answer:?}");
    assert_eq!(home.seed("read k \0"), b" \0");
    // Encoded twice it is longer, and still the text counts.
    let token = encode(&encode(&[b'%'; 1024]));
    assert_eq!(home.seed(words(&[b"write", b"k", &token])), b"ok \0");
}

#[test]
fn a_client_that_falls_silent_is_closed() {
    let home = Home::new();
    let _server = home.serve(&["limits.request_time=1s"]);
    for part in ["", "w", "P", "write k v"] {
        let mut stream = home.connect();
        stream.write_all(part.as_bytes()).unwrap();
        assert_eq!(rest(stream), b"", "{part:?}");
    }
}

#[test]
fn the_time_of_a_key_is_unix_seconds() {
    let home = Home::new();
    let _server = home.serve(&[]);
    assert_eq!(home.seed("read k-time \0"), b" \0");
    let before = seconds();
    home.ok(["write", "k", "v"]);
    let after = seconds();
    let answer = home.seed("read k-time \0");
    let time: u64 = std::str::from_utf8(answer.strip_suffix(b" \0").unwrap())
        .unwrap()
        .parse()
        .unwrap();
    assert!((before..=after).contains(&time), "{before} {time} {after}");
    // The old web class writes it itself, after each value and to refresh.
    assert_eq!(home.seed("write k-time 1234567890 \0"), b"ok \0");
    assert_eq!(home.seed("read k-time \0"), b"1234567890 \0");
    assert_eq!(home.seed("read -time \0"), b" \0");
}

#[test]
fn old_and_new_clients_of_a_depth_read_the_same_text() {
    let home = Home::new();
    let _server = home.serve(&[]);
    let nul = [&TEXTS[..], &["a\0b\rc"]].concat();
    let web = |text: &str| {
        let answer = home.http(
            "POST",
            "/v1/publish?channel=k&retain=true&kind=text&seed_depth=web",
            text,
        );
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let raw = || home.http("GET", "/v1/retained?channel=k&raw=1", "").body;
    for text in TEXTS {
        let once = encode(text.as_bytes());
        let twice = encode(&once);
        let context = format!("{text:?}");

        // Old CLI to new CLI and back.
        assert_eq!(home.seed(words(&[b"write", b"k", &once])), b"ok \0", "{context}");
        assert_eq!(
            home.ok(["read", "k"]),
            format!("value: {text}\n"),
            "old to new, {context}"
        );
        home.ok(["write", "k", text]);
        assert_eq!(
            home.seed("read k \0"),
            [&once[..], b" \0"].concat(),
            "new to old, {context}"
        );

        // Old web to new web and back.
        assert_eq!(home.seed(words(&[b"write", b"k", &twice])), b"ok \0", "{context}");
        assert_eq!(raw(), text, "old web to new, {context}");
        web(text);
        assert_eq!(
            home.seed("read k \0"),
            [&twice[..], b" \0"].concat(),
            "new web to old, {context}"
        );
    }
    for text in nul {
        // New CLI and new web: any text. An argument cannot hold a NUL.
        web(text);
        assert_eq!(
            home.ok(["read", "k"]),
            format!("value: {text}\n"),
            "web to CLI, {text:?}"
        );
        if !text.contains('\0') {
            home.ok(["write", "k", text]);
            assert_eq!(raw(), text, "CLI to web, {text:?}");
        }
    }
}

#[test]
fn a_dump_cannot_be_ended_early_by_what_is_in_it() {
    let home = Home::new();
    let _server = home.serve(&[]);
    let path = "/v1/publish?channel=a%0D%00b&retain=true&kind=text&seed_depth=cli";
    assert_eq!(home.http("POST", path, "c\0d\re").status, 200);
    assert_eq!(
        home.seed("dump \0"),
        b"\n \x1b[32;1m* index [0] - a%0D%00b\x1b[0m: [c%00d%0De] \0"
    );
    // One key is one line of the new command, whatever is in it.
    assert_eq!(home.ok(["dump"]), "a\\r\\u{0}b: c\\u{0}d\\re\n");
}

#[test]
fn the_public_door_does_not_speak_it() {
    let home = Home::new();
    let _server = home.serve(&[]);
    home.ok(["write", "k", "secret"]);
    for request in ["read k \0", "dump \0", "stop \0", "write k v \0"] {
        let answer = exchange(
            daemon_support::connect(&home.public_socket()),
            format!("{request}\r\n\r\n"),
        );
        assert!(
            answer.starts_with(b"HTTP/1.1 400 "),
            "{request:?}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(home.ok(["read", "k"]), "value: secret\n");
}
