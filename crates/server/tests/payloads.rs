//! JSON that some reader refuses comes in through no door, and what an older server kept of it stops no client of ours.
#![allow(clippy::unwrap_used)] // all of this is test, helpers included

mod api_support;
mod daemon_support;

use std::fs;
use std::path::Path;

use api_support::{Client, Frame, OPEN, TestServer, encode};
use daemon_support::{Home, Server};
use serde_json::{Value, json};

/// Values that the grammar allows and readers refuse, with a part of what is said about each.
fn odd() -> Vec<(String, &'static str)> {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    vec![
        (r#""\ud83d""#.to_owned(), "half a surrogate pair"),
        (r#"["\ude00\ud83d"]"#.to_owned(), "half a surrogate pair"),
        (r#"{"a\uDEAD":1}"#.to_owned(), "half a surrogate pair"),
        ("1e400".to_owned(), "64-bit float"),
        (r#"{"a":[-1E+400]}"#.to_owned(), "64-bit float"),
        ("9".repeat(400), "64-bit float"),
        (r#"{"\u0000a":1}"#.to_owned(), "PHP"),
        (nested(61), "limits.json_depth"),
        (nested(128), "limits.json_depth"),
        ("{\"a\":".repeat(10_000), "limits.json_depth"),
    ]
}

/// The most that is nested by default, and what else looks odd and is none.
fn even() -> Vec<String> {
    vec![
        "[".repeat(60) + &"]".repeat(60),
        r#""\ud83d\ude00 \u0000""#.to_owned(),
        "[1.7976931348623157e308,1e-400,123456789012345678901234567890]".to_owned(),
    ]
}

fn is_whole(value: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok()
}

#[test]
fn json_that_some_reader_refuses_is_refused_by_every_http_door() {
    let server = TestServer::start(OPEN);
    let doors: [fn(&TestServer) -> Client; 3] =
        [TestServer::backend, TestServer::public_socket, TestServer::public];
    for (value, why) in odd() {
        for door in doors {
            let json = || door(&server).with("Content-Type: application/json");
            // Only as a body of its own can it be what the envelope could not hold.
            if is_whole(&value) {
                let body = format!(r#"{{"channel":"a","data":{value},"retain":true}}"#);
                assert_eq!(
                    json().post("/v1/publish", body).problem_naming(400, why),
                    "bad_request"
                );
                let batch = format!(
                    r#"{{"publications":[{{"channel":"a","data":{value}}},{{"channel":"batch","data":1}}]}}"#
                );
                let results = json().post("/v1/batch", batch).json()["results"].clone();
                assert_eq!(results[0]["error"]["status"], 400, "{value}: {results}");
                assert!(results[0]["error"]["detail"].as_str().unwrap().contains(why));
                assert!(results[1]["channels"].is_array(), "the next one is published");
            }
            let answer = json().post("/v1/publish?channel=a", &value);
            assert_eq!(answer.problem_naming(400, why), "bad_request");
            let answer = door(&server).post("/v1/publish?channel=a&kind=json&retain=1", &value);
            assert_eq!(answer.problem_naming(400, why), "bad_request");
        }
    }
    let nothing = server.backend().get("/v1/history?channel=a").json();
    assert_eq!(nothing["offset"], 0);
    server.backend().get("/v1/retained?channel=a").problem(404);
    for value in even() {
        let answer = server.backend().post("/v1/publish?channel=a&kind=json", &value);
        assert_eq!(answer.status, 200, "{value}: {answer:?}");
    }
    let kept = server.backend().get("/v1/history?channel=a").json();
    assert_eq!(kept["publications"].as_array().unwrap().len(), even().len());
}

#[test]
fn json_that_some_reader_refuses_is_refused_on_a_websocket() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws?channel=a");
    socket.object();
    for (value, why) in odd() {
        if is_whole(&value) {
            let command = format!(r#"{{"type":"publish","id":1,"channel":"a","data":{value}}}"#);
            socket.send_frame(1, command.as_bytes());
            let error = socket.object();
            assert_eq!(error["code"], "bad_request", "{value}: {error}");
            assert!(
                error["message"].as_str().unwrap().contains(why),
                "{value}: {error}"
            );
        }
    }
    // The id of a command comes back as it is.
    for id in [r#""\ud83d""#, "1e400"] {
        socket.send_frame(1, format!(r#"{{"type":"ping","id":{id}}}"#).as_bytes());
        assert_eq!(socket.object()["code"], "bad_request", "{id}");
    }
    assert_eq!(socket.ask(&json!({"type": "ping", "id": 2}))["type"], "pong");

    let mut socket = server.public().websocket("/v1/ws?format=binary");
    socket.frame();
    let header = br#"{"type":"publish","id":1,"channel":"a","kind":"json"}"#;
    for (value, why) in odd() {
        let mut frame = u32::try_from(header.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(header);
        frame.extend_from_slice(value.as_bytes());
        socket.send_frame(2, &frame);
        let Frame::Binary(answer) = socket.frame() else {
            panic!("{value}: an answer in a binary frame");
        };
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.contains("bad_request") && answer.contains(why),
            "{value}: {answer}"
        );
    }
    assert_eq!(server.backend().get("/v1/history?channel=a").json()["offset"], 0);
}

#[test]
fn what_a_member_shows_of_itself_is_refused_alike() {
    let server = TestServer::start(OPEN);
    let mut bystander = server.public().stream("/v1/stream?channel=a&presence=watch");
    bystander.object().unwrap();
    let small = |(value, _): &(String, &str)| value.len() < 1024;
    for (value, why) in odd().into_iter().filter(small) {
        for transport in ["poll", "stream", "sse"] {
            let target = format!("/v1/{transport}?channel=a&presence=join&info={}", encode(&value));
            assert_eq!(
                server.public().get(&target).problem_naming(400, why),
                "bad_request"
            );
        }
        let target = format!("/v1/ws?channel=a&presence=join&info={}", encode(&value));
        let refused = server.public().try_websocket(&target).err().unwrap();
        assert_eq!(refused.problem_naming(400, why), "bad_request");
        let mut socket = server.public().websocket("/v1/ws");
        socket.object();
        let command =
            format!(r#"{{"type":"subscribe","id":1,"channel":"a","presence":"join","info":{value}}}"#);
        socket.send_frame(1, command.as_bytes());
        let error = socket.object();
        assert_eq!(error["code"], "bad_request", "{value}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(why),
            "{value}: {error}"
        );
    }
    let not_text = server
        .public()
        .get("/v1/poll?channel=a&presence=join&info=%22%ff%22");
    assert_eq!(not_text.problem_naming(400, "UTF-8"), "bad_request");
    assert_eq!(server.backend().get("/v1/presence?channel=a").json()["count"], 0);
    // Nobody who watches has seen any of it.
    server.publish("a", "all well");
    assert_eq!(bystander.object().unwrap()["data"], "all well");
}

#[test]
fn the_depth_is_a_setting() {
    let server = TestServer::start_with(OPEN, &[("limits.json_depth", "2")]);
    let publish = |value: &str| server.public().post("/v1/publish?channel=a&kind=json", value);
    assert_eq!(publish("[[1],{}]").status, 200);
    assert_eq!(
        publish("[[[1]]]").problem_naming(400, "more than 2 brackets"),
        "bad_request"
    );
    let poll = |info: &str| {
        let target = format!("/v1/poll?channel=a&presence=join&wait_ms=0&info={}", encode(info));
        server.public().get(&target)
    };
    assert_eq!(poll("[[1],{}]").status, 200);
    assert_eq!(
        poll("[[[1]]]").problem_naming(400, "more than 2 brackets"),
        "bad_request"
    );
}

#[test]
fn the_most_that_the_setting_allows_is_what_the_core_takes() {
    let most = cometserver_core::json::MOST_DEPTH;
    let server = TestServer::start_with(OPEN, &[("limits.json_depth", &most.to_string())]);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let publish = |depth| {
        server
            .backend()
            .post("/v1/publish?channel=a&kind=json", nested(depth))
    };
    assert_eq!(publish(most).status, 200);
    let word = format!("more than {most} brackets");
    assert_eq!(publish(most + 1).problem_naming(400, &word), "bad_request");
    // Rust reads it all, with what the server puts around it.
    let target = "/v1/channels?values=1";
    assert_eq!(server.backend().get("/v1/history?channel=a").json()["offset"], 1);
    server
        .backend()
        .post("/v1/publish?channel=a&kind=json&retain=1", nested(most));
    assert_eq!(
        server.backend().get(target).json()["channels"][0]["value"]["offset"],
        2
    );
}

/// A server with what an older one kept: in `odd`, between four that are readable, seven that some reader refuses; in
/// `odd/value` such a value, in `odd/good` a good one.
fn with_old_log() -> (Home, Server) {
    let home = Home::new();
    let log = home.data().join("log");
    fs::create_dir_all(&log).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-odd-json");
    for entry in fs::read_dir(fixture).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), log.join(entry.file_name())).unwrap();
    }
    let server = home.serve(&[
        "namespace_default.history.age=36500d",
        "namespace_default.public=true",
    ]);
    (home, server)
}

/// What stands in the fixture for reading, with its offset.
fn readable() -> [(u64, Value); 3] {
    [(1, json!("before")), (8, json!("between")), (10, json!("after"))]
}

#[test]
fn what_an_older_server_kept_is_still_read_byte_for_byte() {
    let (home, _server) = with_old_log();
    let answer = home.http("GET", "/v1/history?channel=odd", "");
    assert_eq!(answer.status, 200);
    for value in [
        r#""data":"\ud83d""#,
        r#""data":["\ude00\ud83d"]"#,
        r#""data":{"a\udead":1}"#,
        r#""data":1e400}"#,
    ] {
        assert!(answer.body.contains(value), "{value}: {}", answer.body);
    }
    assert_eq!(
        home.http("GET", "/v1/retained?channel=odd%2Fvalue&raw=1", "")
            .body,
        r#""\ud83d""#
    );
    // It survives being copied to a new segment, or another stop, like anything else.
    home.ok(["storage", "check"]);
}

#[test]
fn subscribe_steps_over_what_it_cannot_read_and_says_so() {
    let (home, _server) = with_old_log();
    let ran = home.run([
        "subscribe",
        "odd",
        "--since",
        "earliest",
        "--count",
        "4",
        "--json",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // One with an odd key PHP alone cannot read.
    let offsets: Vec<_> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|object| object["offset"].as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [1, 7, 8, 10]);
    let warnings: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(warnings.len(), 6, "{ran:?}");
    for (offset, warning) in [2, 3, 4, 5, 6, 9].into_iter().zip(&warnings) {
        let begins = format!("comet: odd #{offset} is stepped over: ");
        assert!(warning.starts_with(&begins), "{warning}");
    }
    let ran = home.run(["subscribe", "odd", "--since", "earliest", "--count", "4"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 4), "{ran:?}");
    for (offset, value) in readable() {
        let shown = format!("odd #{offset}  {value}");
        assert!(ran.stdout.contains(&shown), "{shown}: {ran:?}");
    }
}

#[test]
fn subscribe_goes_on_behind_what_it_stepped_over() {
    let (home, _server) = with_old_log();
    // Only the value that it cannot read is there to begin with: what comes next is the next message, and nothing twice.
    let mut child = home
        .command(["subscribe", "odd/value", "odd/good", "--count", "2", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["data"], "good");
    home.ok(["publish", "odd/value", "next"]);
    let second: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(second["data"], "next");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.starts_with("comet: odd/value #1 is stepped over: "),
        "{said}"
    );
}

#[test]
fn history_read_and_dump_are_not_stopped_either() {
    let (home, _server) = with_old_log();
    let ran = home.run(["history", "odd", "--json"]);
    assert_eq!(
        (ran.code, ran.stdout.lines().count(), ran.stderr.lines().count()),
        (0, 4, 6),
        "{ran:?}"
    );
    assert!(
        ran.stdout
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    // For people it is text like any other.
    let ran = home.run(["history", "odd"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 10), "{ran:?}");
    assert_eq!(home.ok(["read", "odd/value"]), "value: \"\\ud83d\"\n");
    let dump = home.ok(["dump"]);
    assert!(
        dump.contains("odd/value: \"\\ud83d\"\n") && dump.contains("odd/good: \"good\"\n"),
        "{dump}"
    );
}

#[test]
fn publish_on_the_command_line_says_what_to_do() {
    let (home, _server) = with_old_log();
    for (value, why) in odd() {
        let ran = home.run(["publish", "a", &value, "--kind", "json"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains(why), "{value}: {ran:?}");
    }
    // As text, and on the old wire, it is a text like any other.
    home.ok(["write", "a", r#""\ud83d""#]);
    assert_eq!(home.ok(["read", "a"]), "value: \"\\ud83d\"\n");
    home.ok(["subscribe", "a", "--json", "--count", "1"]);
}
