//! What one connection may have done before all others have had their turn, whatever it asks for. Counted in steps, not in time.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};
use support::http::Socket;
use support::websocket::{Frame, masked};
use support::{Door, Http, KEY, TestServer, WebSocket};

/// The largest payload here, in bytes: the rest of what cannot be cut follows from it.
const MESSAGE: usize = 64 << 10;

/// Steps of a turn, and of the one message or answer with which it may go beyond: a body has at most twice the payload's bytes
/// and 64 KiB, in steps of 4 KiB, and there is room for as much in its answer.
const MOST_STEPS: f64 = 256.0 + 2.0 * (2 * MESSAGE + (64 << 10)) as f64 / 4096.0;

/// One shard, where visitors may listen, and nobody publishes without a key.
fn server() -> TestServer {
    TestServer::with(|config| {
        config.threads = Some(1);
        config.limits.message_size = MESSAGE;
        config.limits.refusals = 1_000_000;
        config.namespace_default.anonymous_publish = false;
    })
}

fn steps(server: &TestServer) -> f64 {
    server.metric("cometserver_turn_longest_steps", "")
}

/// Sends everything, reads everything, until the answer to the last command has come.
fn flood_socket(server: &TestServer, bytes: Vec<u8>) {
    let mut client = WebSocket::open(&server.place(Door::Unix), "channel=held");
    let Socket::Unix(socket) = &client.http.socket else {
        unreachable!("it is a Unix socket")
    };
    let mut socket = socket.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        socket.write_all(&bytes).unwrap();
        let last = json!({"type": "ping", "id": "last"}).to_string();
        socket.write_all(&masked(1, last.as_bytes())).unwrap();
    });
    while client.frame() != Frame::Object(json!({"type": "pong", "id": "last"})) {}
    writer.join().unwrap();
}

fn text(command: &str) -> Vec<u8> {
    masked(1, command.as_bytes())
}

fn within_bounds(server: &TestServer, what: &str) {
    let most = steps(server);
    assert!(most > 0.0 && most <= MOST_STEPS, "{what}: {most} of {MOST_STEPS}");
    assert_eq!(server.request(Door::Unix, "GET", "/v1/now", "").status, 200);
}

#[test]
fn no_flood_of_commands_gets_more_than_a_turn_at_a_time() {
    let server = server();
    let names = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
        json!(names).to_string()
    };
    let thousand = names(1000);
    let floods = [
        // More than anybody may name, and nothing but a list.
        text(&format!(r#"{{"type":"subscribe","channels":{}}}"#, names(12_000))).repeat(10),
        text(&format!(
            r#"{{"type":"unsubscribe","channels":{}}}"#,
            names(12_000)
        ))
        .repeat(10),
        text(r#"{"type":"subscribe"}"#).repeat(5000),
        text(r#"{"type":"subscribe","channel":"held"}"#).repeat(5000),
        [
            text(&format!(r#"{{"type":"subscribe","channels":{}}}"#, names(999))),
            text(&format!(r#"{{"type":"unsubscribe","channels":{thousand}}}"#)),
        ]
        .concat()
        .repeat(3),
        text(r#"{"type":"publish","channel":"held","data":1}"#).repeat(5000),
        text(&format!(r#"{{"type":"publish","channels":{thousand},"data":1}}"#)).repeat(20),
        text(&format!(
            r#"{{"type":"ping","junk":{}{}}}"#,
            "[".repeat(90_000),
            "]".repeat(90_000)
        ))
        .repeat(10),
        text(r#"{"type":"history","channel":"held"}"#).repeat(5000),
        text(r#"{"type":"presence","channel":"held"}"#).repeat(5000),
        text("no JSON").repeat(5000),
        masked(2, b"").repeat(5000),
        masked(9, b"").repeat(20_000),
    ];
    for (index, flood) in floods.into_iter().enumerate() {
        flood_socket(&server, flood);
        within_bounds(&server, &format!("flood {index}"));
    }
}

/// Sends requests without waiting; reads so many answers.
fn flood_http(server: &TestServer, request: &str, count: usize) -> Vec<u16> {
    let http = server.place(Door::Unix).connect();
    let Socket::Unix(socket) = &http.socket else {
        unreachable!("it is a Unix socket")
    };
    let mut writing = socket.try_clone().unwrap();
    let bytes = request.repeat(count).into_bytes();
    let writer = std::thread::spawn(move || writing.write_all(&bytes).unwrap());
    let mut reading = Http::new(http.socket);
    let answers = (0..count).map(|_| reading.answer().status).collect();
    writer.join().unwrap();
    answers
}

#[test]
fn no_flood_of_requests_gets_more_than_a_turn_at_a_time() {
    let server = server();
    let post = |target: &str, body: &str| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let nested = format!("{}{}", "[".repeat(60_000), "]".repeat(60_000));
    let shallow = format!("[{}[]]", "[],".repeat(40_000));
    let mut tags = String::new();
    (0..12_000).for_each(|n| write!(tags, r#""t{n}":"","#).unwrap());
    let get = "GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    let floods = [
        (get, 3000, 404),
        (post("/v1/publish", r#"{"channel":"a","data":1}"#), 2000, 401),
        (
            post("/v1/publish", &format!(r#"{{"channel":"a","data":{nested}}}"#)),
            20,
            401,
        ),
        (
            post(
                "/v1/publish",
                &format!(r#"{{"channel":"a","data":1,"id":{shallow}}}"#),
            ),
            20,
            401,
        ),
        (
            post(
                "/v1/publish",
                &format!(r#"{{"channel":"a","data":1,"tags":{{{tags}"x":""}}}}"#),
            ),
            20,
            401,
        ),
        (
            post("/v1/batch", &format!(r#"{{"publications":{shallow}}}"#)),
            20,
            413,
        ),
        (
            post(
                "/v1/batch",
                &format!(
                    r#"{{"publications":[{}1]}}"#,
                    r#"{"channel":"a","data":1},"#.repeat(999)
                ),
            ),
            20,
            200,
        ),
    ];
    for (index, (request, count, status)) in floods.into_iter().enumerate() {
        let answers = flood_http(&server, &request, count);
        assert!(
            answers.iter().all(|own| *own == status),
            "flood {index}: {answers:?}"
        );
        within_bounds(&server, &format!("flood {index}"));
    }
}

#[test]
fn a_command_that_names_many_is_cut_into_turns_and_answered_as_a_whole() {
    let server = server();
    let names: Vec<String> = (0..1000).map(|n| format!("n{n}")).collect();
    let mut socket = server.websocket("");
    socket.say(&json!({"type": "subscribe", "id": 1, "channels": names}));
    socket.say(&json!({"type": "ping", "id": 2}));
    // Each is announced when it has caught up; the command behind it is obeyed when all have begun to.
    let mut subscribed = names.iter();
    let mut ponged = false;
    while subscribed.len() > 0 || !ponged {
        let object = socket.next();
        match object["type"].as_str().unwrap() {
            "subscribed" => assert_eq!(
                (&object["channel"], &object["id"]),
                (&json!(subscribed.next()), &json!(1))
            ),
            "pong" => ponged = true,
            other => assert_eq!(other, "cursor"),
        }
    }
    // One that may not be subscribed to, and none is.
    let mut refused = names[..999].to_vec();
    refused.push("x".repeat(9000));
    let mut other = server.websocket("");
    let answer = other.ask(json!({"type": "subscribe", "id": 3, "channels": refused}));
    assert_eq!(answer["code"], "too_large");
    assert_eq!(server.metric("cometserver_subscriptions", "exact"), 1000.0);
    let answer = socket.ask(json!({"type": "unsubscribe", "id": 4, "channels": names}));
    assert_eq!(answer["type"], "unsubscribed");
    assert_eq!(server.metric("cometserver_subscriptions", "exact"), 0.0);
    within_bounds(&server, "a thousand names");
}

#[test]
fn names_are_counted_before_they_are_read_and_rights_come_before_the_payload() {
    let server = server();
    let mut socket = server.websocket("");
    let mut many: Vec<Value> = (0..1001).map(|n| json!(format!("n{n}"))).collect();
    many.push(json!(7));
    let answer = socket.ask(json!({"type": "subscribe", "id": 1, "channels": many}));
    assert_eq!(answer["code"], "limit_reached", "{answer}");
    let broken = json!({"type": "publish", "id": 2, "channel": "a", "kind": "binary", "data": "no base64!"});
    assert_eq!(socket.ask(broken.clone())["code"], "unauthorized");
    let answer = server.request(Door::Tcp, "POST", "/v1/publish", &broken.to_string());
    assert_eq!(answer.status, 401, "{answer:?}");
    let answer = server.request(Door::Tcp, "POST", "/v1/publish?channel=a&kind=json", "no JSON");
    assert_eq!(answer.status, 401, "{answer:?}");
    let batch = json!({"publications": [broken]});
    let answer = server
        .request(Door::Tcp, "POST", "/v1/batch", &batch.to_string())
        .json();
    assert_eq!(answer["results"][0]["error"]["status"], 401, "{answer}");
}

#[test]
fn who_is_refused_again_and_again_is_ended_and_told_why() {
    let server = TestServer::with(|config| config.limits.refusals = 20);
    let mut socket = server.websocket("");
    for round in 0..3 {
        for _ in 0..20 {
            assert_eq!(socket.ask(json!({"type": "history", "id": 1}))["type"], "error");
        }
        if round < 2 {
            socket.settle();
        }
    }
    assert_eq!(socket.ask(json!({"type": "history", "id": 1}))["type"], "error");
    let reason = "too many refused commands one after another".to_owned();
    assert_eq!(socket.frame(), Frame::Close(1008, reason));
    assert_eq!(server.metric("cometserver_drops_total", "limit"), 1.0);

    let refused = |http: &mut Http| http.request("GET", "/v1/nothing", &[], b"");
    let mut http = server.place(Door::Tcp).connect();
    for _ in 0..20 {
        assert_eq!(refused(&mut http).header("connection"), None);
    }
    assert_eq!(refused(&mut http).header("connection"), Some("close"));
    assert!(http.is_at_end());
    // The site's own code is told of its mistakes as often as it makes them.
    let mut backend = server.place(Door::Backend).connect();
    for _ in 0..50 {
        assert_eq!(refused(&mut backend).header("connection"), None);
    }
    let mut own = server.place(Door::Tcp).connect();
    for _ in 0..50 {
        let answer = own.request("GET", "/v1/nothing", &[("X-API-Key", KEY)], b"");
        assert_eq!((answer.status, answer.header("connection")), (404, None));
    }
    // One that shows it no longer is not the site's own code.
    assert_eq!(refused(&mut own).header("connection"), Some("close"));
}

#[test]
fn a_large_batch_is_published_in_several_turns_in_order_and_answered_as_one() {
    let server = TestServer::with(|config| config.threads = Some(1));
    let mut listener = server.listen(Door::Tcp, support::Transport::Stream, "channel=a");
    let list: Vec<Value> = (0..1000)
        .map(|n| match n % 100 {
            99 => json!({"channel": "", "data": n}),
            _ => json!({"channel": "a", "data": n}),
        })
        .collect();
    let body = json!({"publications": list}).to_string();
    let answer = server.request(Door::Backend, "POST", "/v1/batch", &body).json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 1000);
    let mut offset = 0;
    for (n, result) in results.iter().enumerate() {
        if n % 100 == 99 {
            assert_eq!(result["error"]["code"], "bad_request", "{n}");
        } else {
            offset += 1;
            assert_eq!(result["channels"][0]["offset"], offset, "{n}");
        }
    }
    let expected: Vec<Value> = (0..1000).filter(|n| n % 100 != 99).map(Value::from).collect();
    assert_eq!(listener.data(990), expected);
    assert_eq!(server.metric("cometserver_publications_total", "http"), 990.0);
    within_bounds(&server, "a batch");
}
