//! `limits.memory`: what all visitors together make the server hold, whichever way. Who holds most gives way, nobody else does.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::io::Write;

use serde_json::json;
use support::websocket::{Frame, masked};
use support::{Door, Http, KEY, TestServer, Transport, WebSocket, encode};

/// The ceiling of these tests.
const LIMIT: usize = 8 << 20;

/// A message that may be sent.
const LARGEST: usize = 1 << 20;

/// What may be held beyond the ceiling for a moment: each of two shards takes in one buffer, or makes one answer, before it
/// looks; a buffer doubles when it grows.
const BEYOND: usize = 2 * 2 * (LARGEST + (64 << 10));

/// Times that a flood is let in and ebbs away.
const TIMES: usize = 10;

fn server() -> TestServer {
    TestServer::with(|config| {
        config.limits.memory = Some(LIMIT);
        config.limits.log_memory = 128 << 20;
        // What a visitor may take of each table is bounded as well, and would be reached first.
        config.limits.one_visitor = 100;
        config.limits.all_visitors = 100;
    })
}

fn held(server: &TestServer) -> usize {
    server.metric("cometserver_memory_held_bytes", "") as usize
}

fn ended(server: &TestServer) -> usize {
    server.metric("cometserver_drops_total", "\"memory\"") as usize
}

/// Sends as far as the server takes it: one that is ended may be reset.
fn pour(http: &mut Http, bytes: &[u8]) {
    let _ = http.socket.write_all(bytes);
}

/// Floods of ways to make the server hold something, each one connection of it. The server is asked for its figure after each.
type Flood = fn(&TestServer) -> Http;

/// A WebSocket's message that is never whole.
fn unfinished_message(server: &TestServer) -> Http {
    let mut socket = server.websocket("");
    let frame = masked(1, &vec![b' '; LARGEST]);
    pour(&mut socket.http, &frame[..frame.len() - 1]);
    socket.http
}

/// A request whose body is never whole.
fn unfinished_request(server: &TestServer) -> Http {
    let mut http = server.place(Door::Tcp).connect();
    let head = format!("POST /v1/publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGEST}\r\n\r\n");
    pour(&mut http, head.as_bytes());
    pour(&mut http, &vec![b' '; LARGEST - 1]);
    http
}

/// Answers that nobody reads.
fn unread_answers(server: &TestServer) -> Http {
    let mut http = server.place(Door::Tcp).connect();
    for _ in 0..20 {
        pour(
            &mut http,
            b"GET /v1/history?channel=large HTTP/1.1\r\nHost: a\r\n\r\n",
        );
    }
    http
}

/// Names of channels, each as long as a name may be.
fn long_names(server: &TestServer) -> Http {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut socket = server.websocket("");
    for n in 0..100 {
        let name = format!("{number}/{n}/{}", "x".repeat(8_000));
        let command = json!({"type": "subscribe", "channel": name}).to_string();
        pour(&mut socket.http, &masked(1, command.as_bytes()));
    }
    socket.http
}

#[test]
fn whatever_visitors_do_not_finish_stays_below_the_ceiling_and_the_largest_gives_way() {
    let floods: [(&str, Flood); 4] = [
        ("messages", unfinished_message),
        ("requests", unfinished_request),
        ("answers", unread_answers),
        ("names", long_names),
    ];
    for (what, flood) in floods {
        let server = server();
        for n in 0..6 {
            let data = format!("{n}{}", "x".repeat(LARGEST - 9));
            server.publish_object(&json!({"channel": "large", "data": data, "kind": "text"}));
        }
        let mut good: Vec<_> = [
            Transport::WebSocket,
            Transport::Sse,
            Transport::Stream,
            Transport::Poll,
        ]
        .map(|transport| server.listen(Door::Tcp, transport, "channel=good"))
        .into();
        // The site's own code may hold what it wants.
        let mut own = server.place(Door::Backend).connect();
        let body = vec![b'7'; LARGEST];
        let head =
            format!("POST /v1/publish?channel=own HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGEST}\r\n\r\n");
        own.send(head.as_bytes());
        own.send(&body[1..]);
        let mut flooders = Vec::new();
        let mut most = 0;
        // Twice as much as there is room for, at least.
        while flooders.len() < 2 * LIMIT / (800 << 10) || ended(&server) == 0 {
            flooders.push(flood(&server));
            most = most.max(held(&server));
            assert!(
                flooders.len() < 500,
                "{what}: nobody was ended, {most} bytes are held"
            );
        }
        server.until("no more is held than may be", || held(&server) <= LIMIT);
        assert!(most > LIMIT / 2, "{what}: only {most} bytes were ever held");
        assert!(most <= LIMIT + BEYOND, "{what}: {most} bytes were held");
        // Nobody else noticed.
        server.publish("good", 1);
        for listener in &mut good {
            assert_eq!(listener.data(1), [1], "{what}");
        }
        own.send(&body[..1]);
        assert_eq!(own.answer().status, 200, "{what}");
        drop(flooders);
    }
}

/// Sends bodies that are never whole, each much smaller than the largest may be, until one more connection was ended.
fn fill_up(server: &TestServer) -> Vec<Http> {
    let (before, mut all) = (ended(server), Vec::new());
    let limit = server.metric("cometserver_memory_limit_bytes", "");
    while ended(server) == before {
        let counted = held(server);
        let mut http = server.place(Door::Tcp).connect();
        pour(
            &mut http,
            b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n",
        );
        pour(&mut http, &vec![b' '; 299_999]);
        all.push(http);
        assert!(all.len() < 100);
        // Where it goes over the ceiling somebody is ended: another one before that would have one more ended.
        server.until("it is counted", || {
            let now = held(server);
            ended(server) != before || now > counted && (now as f64) <= limit
        });
    }
    all
}

#[test]
fn the_largest_holder_gives_way_first_and_is_told_why() {
    let word = "limits.memory";
    let server = server();
    let http = unfinished_message(&server);
    let mut socket = WebSocket {
        http,
        pings: 0,
        payload: Vec::new(),
    };
    let smaller = fill_up(&server);
    match socket.frame() {
        Frame::Close(code, reason) => {
            assert_eq!(code, 1013);
            assert!(reason.contains(word), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    drop(smaller);
    server.until("nothing is held", || held(&server) < 64 << 10);
    let mut request = unfinished_request(&server);
    let smaller = fill_up(&server);
    let answer = request.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains(word) && answer.header("retry-after").is_some());
    assert!(request.is_at_end(), "it is closed");
    assert_eq!(ended(&server), 2, "nobody else was");
    drop(smaller);
}

#[test]
fn who_shows_a_key_of_the_sites_never_gives_way() {
    let server = server();
    let bearer = format!("Bearer {KEY}");
    let key = [("Authorization", bearer.as_str())];
    let open = || WebSocket::try_open(&server.place(Door::Tcp), "", &key).0;
    let mut own = open();
    let frame = masked(1, &vec![b' '; LARGEST]);
    pour(&mut own.http, &frame[..frame.len() - 1]);
    // Later on, by a command: what it holds counts no more.
    let mut later = server.websocket("");
    let command = json!({"type": "authorize", "token": KEY, "id": 1});
    assert_eq!(later.ask(command)["type"], "authorized");
    pour(&mut later.http, &frame[..frame.len() - 1]);
    server.until("what they hold is nobody's", || held(&server) == 0);
    let smaller = fill_up(&server);
    for mut socket in [own, later] {
        pour(&mut socket.http, &frame[frame.len() - 1..]);
        // It is not JSON, but was taken.
        while socket.next()["type"] != "error" {}
    }
    drop(smaller);
    server.until("nothing is held", || held(&server) == 0);
    // With another token it is a visitor again.
    let mut visitor = open();
    let token = support::token(json!({"sub": "u", "comet": {"patterns": ["**"], "actions": ["subscribe"]}}));
    let command = json!({"type": "authorize", "token": token, "id": 1});
    assert_eq!(visitor.ask(command)["type"], "authorized");
    pour(&mut visitor.http, &frame[..frame.len() - 1]);
    server.until("it counts", || held(&server) > LARGEST);
}

#[test]
fn what_was_held_is_given_back_to_the_last_byte() {
    let server = server();
    let floods: [Flood; 4] = [unfinished_message, unfinished_request, unread_answers, long_names];
    server.publish("large", "x".repeat(LARGEST / 2));
    assert_eq!(held(&server), 0);
    for time in 0..TIMES {
        let mut all: Vec<Http> = floods.iter().map(|flood| flood(&server)).collect();
        let listeners = [Transport::WebSocket, Transport::Sse, Transport::Stream]
            .map(|transport| server.listen(Door::Tcp, transport, &format!("channel={}", encode("a b"))));
        assert!(held(&server) > LARGEST);
        all.clear();
        drop(listeners);
        server.until(format!("nothing is held, time {time}"), || held(&server) == 0);
    }
    assert_eq!(ended(&server), 0);
}

#[test]
fn an_idle_visitor_is_nobody_that_could_give_way() {
    let server = server();
    let listeners: Vec<_> = [Transport::WebSocket, Transport::Sse, Transport::Stream]
        .into_iter()
        .map(|transport| {
            let before = held(&server);
            let listener = server.listen(Door::Tcp, transport, "channel=room%2f1&channel=room%2f2");
            let weight = held(&server) - before;
            assert!(weight < cometserver::memory::FREE, "{transport:?}: {weight}");
            listener
        })
        .collect();
    drop(listeners);
}

#[test]
fn what_all_threads_share_is_as_empty_after_ten_crowds_as_before_the_first() {
    let server = TestServer::with(|config| config.limits.connections_per_address = Some(1_000));
    let of = |table: &str| server.metric("cometserver_table_entries", &format!("\"{table}\""));
    let tables = ["addresses", "sessions", "holders"];
    for time in 0..TIMES {
        let crowd: Vec<_> = (0..40)
            .map(|n| {
                let query = format!("channel=room&session=s{n}&presence=join");
                server.listen(Door::Tcp, [Transport::Sse, Transport::Stream][n % 2], &query)
            })
            .collect();
        assert_eq!(tables.map(of), [1.0, 40.0, 40.0]);
        drop(crowd);
        server.until(format!("they are empty, time {time}"), || {
            tables.map(of) == [0.0; 3]
        });
    }
}

/// A ceiling that idle visitors reach, none of whom could give way.
const CROWD: usize = 64 << 10;

/// Lets idle visitors in until more is held than [`CROWD`].
fn crowd(server: &TestServer) -> Vec<support::Listener> {
    let mut crowd = Vec::new();
    loop {
        let before = held(server);
        if before > CROWD {
            break;
        }
        crowd.push(server.listen(Door::Tcp, Transport::Stream, "channel=room"));
        // It is answered a moment before what it holds is counted: the next one would come too late.
        server.until("it is counted", || held(server) > before);
        assert!(crowd.len() < 200);
    }
    crowd
}

#[test]
fn where_many_hold_little_nobody_else_is_let_in_until_some_of_them_are_gone() {
    let server = TestServer::with(|config| config.limits.memory = Some(CROWD));
    let mut crowd = crowd(&server);
    let ask = |target: &str| {
        let mut http = server.place(Door::Tcp).connect();
        (http.request("GET", target, &[], b""), http)
    };
    let (answer, mut http) = ask("/v1/now");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text().contains("limits.memory") && answer.header("retry-after").is_some());
    assert!(http.is_at_end(), "it is closed");
    let (answer, mut http) = ask("/v1/poll?channel=room");
    assert!(answer.json()["retry_ms"].is_u64(), "{answer:?}");
    assert!(http.is_at_end(), "it is closed");
    // Those who are in stay, and the site's own code comes in, with a key too.
    let mut own = server.place(Door::Tcp).connect();
    let answer = own.request("GET", "/v1/history?channel=room", &[("X-API-Key", KEY)], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(ended(&server), 0);
    server.publish("room", 1);
    for listener in &mut crowd {
        assert_eq!(listener.data(1), [1]);
    }
    drop(crowd);
    server.until("they are gone", || held(&server) == 0);
    assert_eq!(ask("/v1/now").0.status, 200);
}
