//! Commands of a WebSocket sent without waiting for their answers: each with an `id` is answered once, and in order.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::collections::VecDeque;
use std::io::Write;

use serde_json::{Value, json};
use support::http::Socket;
use support::websocket::{Frame, masked};
use support::{Door, TestServer, WebSocket};

/// Commands of one run: several times what a connection may have in any one queue.
const COMMANDS: usize = 400;

/// How a client is connected, and how it reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Link {
    Tcp,
    Unix,
    /// It takes nothing before the server has had to keep something for it, and has little room.
    Slow,
}

/// Numbers that are the same in each run of a seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What was sent, and the answers it has to get.
#[derive(Default)]
struct Script {
    bytes: Vec<u8>,
    /// Types of the answers to everything but subscriptions, with their ids, in order.
    answers: VecDeque<(&'static str, u64)>,
    /// Ids of subscriptions in order, each as often as it is announced.
    subscribed: VecDeque<u64>,
}

impl Script {
    fn say(&mut self, command: &Value) {
        self.bytes
            .extend_from_slice(&masked(1, command.to_string().as_bytes()));
    }

    /// A command with an id that gets one answer.
    fn ask(&mut self, id: u64, kind: &'static str, mut command: Value) {
        command["id"] = id.into();
        self.answers.push_back((kind, id));
        self.say(&command);
    }

    /// The next command, of any kind.
    fn add(&mut self, id: u64, link: Link, chance: &mut Chance) {
        // Little room is soon full, and a kernel takes its time to say that there is some again.
        let (history, most) = match link {
            Link::Slow => ("small", 5_000),
            _ => ("large", 60_000),
        };
        let name = |chance: &mut Chance| format!("c{}", chance.below(40));
        match chance.below(14) {
            0 => self.ask(id, "pong", json!({"type": "ping"})),
            1 => {
                self.bytes.extend_from_slice(&masked(9, b"ping"));
                self.say(&json!({"type": "ping"}));
            }
            2 => {
                self.subscribed.push_back(id);
                let begin = ["now", "earliest"][chance.below(2) as usize];
                self.say(&json!({"type": "subscribe", "id": id, "channel": name(chance), "since": begin}));
            }
            3 => {
                let names = [name(chance), name(chance), name(chance)];
                self.subscribed.extend([id, id, id, id]);
                let pattern = format!("p{}/*", chance.below(5));
                self.say(&json!({"type": "subscribe", "id": id, "channels": names, "pattern": pattern}));
            }
            // Again and again, and nobody asks to be told.
            4 => (0..chance.below(20)).for_each(|_| {
                self.say(&json!({"type": "subscribe", "channel": name(chance)}));
            }),
            5 => self.ask(
                id,
                "unsubscribed",
                json!({"type": "unsubscribe", "channels": ["never", "was"]}),
            ),
            6 => self.ask(
                id,
                "published",
                json!({"type": "publish", "channel": "out", "data": id}),
            ),
            7 => {
                let data = "x".repeat(chance.below(most) as usize);
                let command = json!({"type": "publish", "channel": "out", "data": data});
                self.ask(id, "published", command);
            }
            8 => {
                let head = json!({"type": "publish", "id": id, "channel": "out"}).to_string();
                let mut content = u32::try_from(head.len()).unwrap().to_be_bytes().to_vec();
                content.extend_from_slice(head.as_bytes());
                content.extend_from_slice(&[7; 1000]);
                self.bytes.extend_from_slice(&masked(2, &content));
                self.answers.push_back(("published", id));
            }
            9 | 10 => self.ask(id, "history", json!({"type": "history", "channel": history})),
            11 => self.ask(id, "presence", json!({"type": "presence", "channel": "large"})),
            12 => self.ask(
                id,
                "error",
                json!({"type": "authorize", "token": "no.real.token"}),
            ),
            _ => self.ask(id, "error", json!({"type": "publish", "channel": "", "data": 1})),
        }
    }
}

/// Sends everything at once, and reads until all is answered.
fn run(server: &TestServer, link: Link, seed: u64) {
    let mut chance = Chance(seed | 1);
    let mut script = Script::default();
    for id in 1..=COMMANDS as u64 {
        script.add(id, link, &mut chance);
    }
    let place = server.place(if link == Link::Unix { Door::Unix } else { Door::Tcp });
    let mut http = place.connect();
    if link == Link::Slow
        && let Socket::Tcp(stream) = &http.socket
    {
        socket2::SockRef::from(stream)
            .set_recv_buffer_size(16 << 10)
            .unwrap();
    }
    let socket = match &mut http.socket {
        Socket::Tcp(stream) => Socket::Tcp(stream.try_clone().unwrap()),
        Socket::Unix(stream) => Socket::Unix(stream.try_clone().unwrap()),
    };
    let mut client = WebSocket::open_on(http, "");
    let bytes = std::mem::take(&mut script.bytes);
    let writer = std::thread::spawn(move || match socket {
        Socket::Tcp(mut stream) => stream.write_all(&bytes),
        Socket::Unix(mut stream) => stream.write_all(&bytes),
    });
    if link == Link::Slow {
        server.until("the server keeps something for it", || {
            server.metric("cometserver_pending_bytes", "") > 0.0
        });
    }
    while !script.answers.is_empty() || !script.subscribed.is_empty() {
        let object = match client.frame() {
            Frame::Object(object) => object,
            Frame::Pong(payload) => {
                assert_eq!(payload, b"ping");
                continue;
            }
            other => panic!("{link:?}, seed {seed}: {other:?}"),
        };
        let Some(id) = object.get("id").and_then(Value::as_u64) else {
            continue;
        };
        match object["type"].as_str().unwrap() {
            "publication" => {}
            "subscribed" => assert_eq!(script.subscribed.pop_front(), Some(id), "{link:?}, seed {seed}"),
            kind => {
                let expected = script.answers.pop_front();
                assert_eq!(expected, Some((kind, id)), "{link:?}, seed {seed}: {object}");
            }
        }
    }
    writer.join().unwrap().unwrap();
    // What follows shows that nothing is answered twice.
    for object in client.settle() {
        let kind = object["type"].as_str().unwrap();
        let unasked = object.get("id").is_none() && ["pong", "subscribed", "publication"].contains(&kind);
        assert!(unasked, "{link:?}, seed {seed}: {object}");
    }
}

fn server() -> TestServer {
    let server = TestServer::with(|config| {
        config.limits.pending_bytes = 16 << 10;
        config.limits.publish_rate = 100_000;
    });
    for _ in 0..5 {
        server.publish("large", "x".repeat(60_000));
        server.publish("small", "x".repeat(1000));
    }
    server
}

#[test]
fn every_command_is_answered_once_and_in_order_over_tcp() {
    let server = server();
    (1..=4).for_each(|seed| run(&server, Link::Tcp, seed * 7919));
}

#[test]
fn every_command_is_answered_once_and_in_order_over_a_unix_socket() {
    let server = server();
    (1..=4).for_each(|seed| run(&server, Link::Unix, seed * 104_729));
}

#[test]
fn every_command_is_answered_once_and_in_order_over_a_slow_link() {
    let server = server();
    (1..=2).for_each(|seed| run(&server, Link::Slow, seed * 1_299_709));
}

#[test]
fn forty_histories_at_once_are_all_answered() {
    let server = server();
    // The kernel takes all that is answered at once, so that nothing of it waits here.
    for door in [Door::Tcp, Door::Unix] {
        let mut socket = WebSocket::open(&server.place(door), "");
        for id in 0..40 {
            socket.say(&json!({"type": "history", "id": id, "channel": "large"}));
        }
        for id in 0..40 {
            assert_eq!(socket.answer_to(&json!(id))["type"], "history");
        }
    }
}
