//! Clients without manners: each harms nobody, and is ended by the limit that is there for it.
//!
//! Limits on what an honest client may ask for (messages, batches, names, subscriptions, patterns, channels, rates) are
//! crossed where the API is tested; what a slow reader costs, in the delivery matrix.

#![allow(clippy::unwrap_used)] // all of this is test

mod daemon_support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use daemon_support::{Answer, Home, Stream, connect, connect_tcp, http, rest, until};
use rustix::process::Signal;

/// The pace of a slow client: what it is, not something that is waited for.
const PACE: Duration = Duration::from_millis(20);

/// The pause of one who sends in pieces: several exceed a request time that each keeps.
const PAUSE: Duration = Duration::from_millis(600);

/// Somebody else is served, through either door.
fn others_are_served(home: &Home) {
    assert_eq!(home.seed("write k v \0"), b"ok \0");
    assert_eq!(home.http("GET", "/health/live", "").status, 200);
    let public = http(connect(&home.public_socket()), "GET", "/health/live", "", "");
    assert_eq!(public.status, 200);
}

/// Sends a byte at a time until the server has had enough; returns what it said.
fn drip(mut stream: UnixStream, first: &[u8], then: &[u8]) -> Vec<u8> {
    stream.write_all(first).unwrap();
    for byte in then.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(PACE);
    }
    rest(stream)
}

fn websocket(home: &Home) -> UnixStream {
    let mut stream = home.connect();
    stream
        .write_all(
            b"GET /v1/ws?channel=a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

#[test]
fn who_says_nothing_is_closed_after_the_request_time() {
    let home = Home::new();
    let server = home.serve(&["limits.request_time=1s", "public.listen=127.0.0.1:0"]);
    let (backend, public) = (home.connect(), connect(&home.public_socket()));
    let tcp = connect_tcp(server.tcp());
    others_are_served(&home);
    assert_eq!((rest(backend), rest(public), rest(tcp)), (vec![], vec![], vec![]));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_cut_off_at_the_request_time() {
    let home = Home::new();
    let _server = home.serve(&["limits.request_time=1s"]);
    let public = connect(&home.public_socket());
    let dripping = thread::spawn(move || drip(public, b"GET /health/live HTTP/1.1\r\n", b"X-Y: z\r\n"));
    others_are_served(&home);
    assert_eq!(dripping.join().unwrap(), b"");
}

#[test]
fn a_body_that_comes_byte_by_byte_is_cut_off_at_the_request_time() {
    let home = Home::new();
    let _server = home.serve(&["limits.request_time=1s"]);
    let head = b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    let backend = home.connect();
    let dripping = thread::spawn(move || drip(backend, head, b"x"));
    others_are_served(&home);
    assert_eq!(dripping.join().unwrap(), b"");
    assert_eq!(
        home.http("GET", "/v1/channels", "").json()["channels"][0]["channel"],
        "k"
    );
}

#[test]
fn the_body_has_a_request_time_of_its_own() {
    let home = Home::new();
    let _server = home.serve(&["limits.request_time=2s"]);
    let mut slow = home.connect();
    let head = b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n";
    // Head and body together take longer than either may.
    for piece in head.chunks(head.len() / 2 + 1).chain([b'x'; 60].chunks(30)) {
        slow.write_all(piece).unwrap();
        thread::sleep(PAUSE);
    }
    slow.finish();
    assert_eq!(Answer::of(&rest(slow)).status, 200);
}

#[test]
fn a_connection_between_two_requests_is_closed_after_the_idle_time() {
    let home = Home::new();
    let _server = home.serve(&["limits.idle_time=1s", "limits.request_time=1h"]);
    let mut idle = home.connect();
    for _ in 0..2 {
        idle.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
    }
    let answers = String::from_utf8(rest(idle)).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
}

#[test]
fn who_resets_harms_nobody() {
    let home = Home::new();
    let server = home.serve(&[
        "public.listen=127.0.0.1:0",
        "namespace_default.public=true",
        "limits.request_time=1h",
    ]);
    let requests: [&[u8]; 5] = [
        b"",
        b"GET /health/li",
        b"GET /v1/sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/poll?channel=a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/history?channel=a HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for request in requests.iter().cycle().take(200) {
        let mut client = connect_tcp(server.tcp());
        socket2::SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        client.write_all(request).unwrap();
        drop(client);
    }
    others_are_served(&home);
    until("nobody of them is counted any more", || {
        let connections = &home.http("GET", "/v1/stats", "").json()["connections"];
        // Who asks is one itself.
        let total: u64 = match connections {
            serde_json::Value::Object(kinds) => kinds.values().filter_map(serde_json::Value::as_u64).sum(),
            other => other.as_u64()?,
        };
        (total <= 1).then_some(())
    });
}

#[test]
fn who_floods_a_connection_keeps_nobody_waiting() {
    let home = Home::new();
    let mut server = home.serve(&["threads=1", "namespace_default.public=true"]);
    let mut floods = Vec::new();
    // Behind a refused request, on a stream, and within a request of the old protocol.
    let mut behind = home.connect();
    behind.write_all(b"BAD\r\n\r\n").unwrap();
    let mut stream = home.connect();
    stream
        .write_all(b"GET /v1/sse?channel=a HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut seed = home.connect();
    seed.write_all(b"write k ").unwrap();
    for mut flood in [behind, stream, seed] {
        let ending = flood.try_clone().unwrap();
        let flooding = thread::spawn(move || {
            let rubbish = vec![b'x'; 1 << 20];
            while flood.write_all(&rubbish).is_ok() {}
        });
        floods.push((ending, flooding));
    }
    for _ in 0..20 {
        others_are_served(&home);
    }
    for (ending, flooding) in floods {
        // It may have been ended already.
        let _ = ending.shutdown(Shutdown::Both);
        flooding.join().unwrap();
    }
    server.signal(Signal::TERM);
    assert!(server.ended().success());
}

#[test]
fn any_number_of_requests_in_one_go_is_answered_one_by_one() {
    let home = Home::new();
    let _server = home.serve(&["threads=1"]);
    let kinds = [
        (
            "GET /v1/poll?channel=a&wait_ms=0 HTTP/1.1\r\nHost: x\r\n\r\n",
            20_000,
        ),
        ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 5_000),
        ("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", 20_000),
    ];
    for (request, number) in kinds {
        let mut client = home.connect();
        let mut writing = client.try_clone().unwrap();
        let writer = thread::spawn(move || {
            writing.write_all(request.repeat(number).as_bytes()).unwrap();
        });
        others_are_served(&home);
        let (mut answers, mut kept) = (0, Vec::new());
        let mut buffer = vec![0; 64 << 10];
        while answers < number {
            let read = client.read(&mut buffer).unwrap();
            assert!(read > 0, "closed after {answers} answers to {request:?}");
            kept.extend_from_slice(&buffer[..read]);
            let mark = b"HTTP/1.1 200 OK";
            let found = memchr::memmem::find_iter(&kept, mark).collect::<Vec<_>>();
            answers += found.len();
            let used = found
                .last()
                .map_or(kept.len().saturating_sub(mark.len()), |at| at + mark.len());
            kept.drain(..used);
        }
        writer.join().unwrap();
    }
}

#[test]
fn who_asks_and_never_reads_gets_no_more_memory_than_its_share() {
    let home = Home::new();
    let server = home.serve(&["threads=1"]);
    let mut deaf = home.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    // Until the server reads no more from who does not read.
    let error = until("the server reads no more", || deaf.write_all(&request).err());
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    others_are_served(&home);
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(kilobytes < 24 << 10, "{line}");
    }
    drop(server);
}

#[test]
fn a_head_over_the_limit_is_refused() {
    let home = Home::new();
    let _server = home.serve(&["limits.head=1KiB"]);
    let fits = format!("X-Long: {}\r\n", "x".repeat(800));
    assert_eq!(http(home.connect(), "GET", "/health/live", &fits, "").status, 200);
    let long = format!("X-Long: {}\r\n", "x".repeat(1024));
    let path = format!("/health/live?{}", "x".repeat(1024));
    for answer in [
        http(home.connect(), "GET", "/health/live", &long, ""),
        http(home.connect(), "GET", &path, "", ""),
    ] {
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (431, Some("too_large")),
            "{answer:?}"
        );
    }
    // The default.
    let home = Home::new();
    let _server = home.serve(&[]);
    let long = format!("X-Long: {}\r\n", "x".repeat(16 << 10));
    assert_eq!(http(home.connect(), "GET", "/health/live", &long, "").status, 431);
    others_are_served(&home);
}

#[test]
fn too_many_headers_are_refused() {
    let home = Home::new();
    let _server = home.serve(&[]);
    let headers = |number: usize| "X: y\r\n".repeat(number);
    assert_eq!(
        http(home.connect(), "GET", "/health/live", &headers(97), "").status,
        200
    );
    assert_eq!(
        http(home.connect(), "GET", "/health/live", &headers(98), "").status,
        431
    );
    others_are_served(&home);
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let home = Home::new();
    let _server = home.serve(&["limits.message_size=1KiB"]);
    let mut client = home.connect();
    client
        .write_all(b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        .unwrap();
    let answer = Answer::of(&rest(&client));
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (413, Some("too_large")),
        "{answer:?}"
    );
    // In chunks its length is not known before.
    let mut client = home.connect();
    client
        .write_all(b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [&b"1000\r\n"[..], &[b'x'; 4096], b"\r\n"].concat();
    until("it is refused", || client.write_all(&chunk).err());
    others_are_served(&home);
}

#[test]
fn what_is_no_http_is_refused() {
    let home = Home::new();
    let server = home.serve(&["public.listen=127.0.0.1:0", "limits.request_time=1h"]);
    for garbage in [
        "\r\n\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n",
    ] {
        let mut client = connect_tcp(server.tcp());
        client.write_all(garbage.as_bytes()).unwrap();
        client.finish();
        let answer = rest(client);
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.1 505 "),
            "{garbage:?}: {text}"
        );
    }
    others_are_served(&home);
}

#[test]
fn garbage_on_a_websocket_ends_it_and_nothing_else() {
    let home = Home::new();
    let _server = home.serve(&["limits.message_size=1KiB"]);
    let mut bystander = websocket(&home);
    let huge: &[u8] = &[
        0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ];
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        // Not masked; a reserved bit; an unknown opcode; a continuation of nothing; a ping over 125 bytes.
        &[0x81, 0x01, b'x'],
        &[0xc1, 0x80, 0, 0, 0, 0],
        &[0x83, 0x80, 0, 0, 0, 0],
        &[0x80, 0x80, 0, 0, 0, 0],
        &[0x89, 0xfe, 0x01, 0x00, 0, 0, 0, 0],
        huge,
    ];
    for bytes in garbage {
        let mut client = websocket(&home);
        client.write_all(bytes).unwrap();
        let said = rest(&client);
        // A close frame: protocol error, or too big.
        let code = said.len().checked_sub(1).and_then(|_| {
            let at = said.iter().rposition(|byte| *byte == 0x88)?;
            Some(u16::from_be_bytes([*said.get(at + 2)?, *said.get(at + 3)?]))
        });
        assert!(matches!(code, Some(1002 | 1009)), "{bytes:?}: {code:?} {said:?}");
    }
    others_are_served(&home);
    // A masked ping with an empty mask is answered: it is still there.
    bystander.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(&[0x8a, 0x00]) {
        let mut byte = [0];
        bystander.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
}

#[test]
fn connections_over_the_limit_are_told_to_come_back() {
    let home = Home::new();
    let _server = home.serve(&["limits.connections=3"]);
    let held: Vec<_> = (0..3).map(|_| connect(&home.public_socket())).collect();
    let mut late = connect(&home.public_socket());
    late.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let refused = Answer::of(&rest(late));
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (503, Some("unavailable")),
        "{refused:?}"
    );
    assert!(refused.head.contains("Retry-After: 1"), "{refused:?}");
    drop(held);
    until("there is room again", || {
        let mut client = connect(&home.public_socket());
        // Refused, it may be closed before the request is sent.
        let _ = client.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        (Answer::of(&rest(client)).status == 200).then_some(())
    });
}

#[test]
fn connections_of_one_address_over_the_limit_leave_room_for_others() {
    let home = Home::new();
    let server = home.serve(&["limits.connections_per_address=2", "public.listen=127.0.0.1:0"]);
    let _held: Vec<_> = (0..2).map(|_| connect_tcp(server.tcp())).collect();
    let mut late = connect_tcp(server.tcp());
    late.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let refused = Answer::of(&rest(late));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("connections_per_address"), "{refused:?}");
    others_are_served(&home);
}
