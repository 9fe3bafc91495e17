//! One that does not read: nobody else notices, it costs a bounded amount of memory, and it loses nothing without being told.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::os::fd::{AsFd, OwnedFd};

use cometserver::platform;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket as AnySocket, Type};
use support::http::{DEADLINE, Socket};
use support::{Door, Http, Listener, Place, TestServer, Transport};

/// Readers besides the slow one.
const CROWD: usize = 1_000;

/// Rounds of a case, each with [`SMALL`] messages for everybody and a large one.
const ROUNDS: usize = 80;
const SMALL: usize = 3;

/// The size of a large message. All of them together are far more than what may be held for one reader.
const LARGE: usize = 100 << 10;

/// What the kernel may hold for a slow reader: `limits.pending_bytes` not yet sent (doubled by Linux for its bookkeeping on
/// Unix sockets), what is on its way to a small receive buffer, and one write's worth of rounding.
const KERNEL: usize = 512 << 10;

/// What the server itself may hold: the rest of one page, which is a few large messages at most.
const OWN: f64 = (4 * LARGE) as f64;

/// The transports that can be slow: a poll is not sent to before it asks.
const STREAMS: [Transport; 3] = [Transport::WebSocket, Transport::Sse, Transport::Stream];

/// A connection whose server end can be found again, with a small receive buffer.
fn connect(server: &TestServer, door: Door) -> (Http, SockAddr) {
    match server.place(door) {
        Place::Tcp(address) => {
            let socket = AnySocket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4 << 10).unwrap();
            socket.connect(&address.into()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            let own = socket.local_addr().unwrap();
            (Http::new(Socket::Tcp(socket.into())), own)
        }
        Place::Unix(path) => {
            let socket = AnySocket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            // Bound to a name of its own: that is what its other end is known by.
            let own = SockAddr::unix(path.with_extension(format!("client-{}", own_number()))).unwrap();
            socket.bind(&own).unwrap();
            socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            (Http::new(Socket::Unix(socket.into())), own)
        }
    }
}

fn own_number() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The server's end of a client's connection, found among this process's descriptors.
#[cfg(target_os = "linux")]
fn server_end(client: &SockAddr) -> OwnedFd {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found = numbers.find_map(|number: i32| {
        // A duplicate: other tests' threads may close theirs meanwhile.
        let fd = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()?;
        let peer = socket2::SockRef::from(&fd).peer_addr().ok()?;
        (peer == *client).then_some(fd)
    });
    found.expect("the server has accepted it")
}

fn listeners(server: &TestServer, door: Door, count: usize, query: &str) -> Vec<Listener> {
    let transports = STREAMS.into_iter().cycle();
    transports
        .take(count)
        .map(|transport| server.listen(door, transport, query))
        .collect()
}

fn large(number: usize) -> Value {
    json!([number, "x".repeat(LARGE)])
}

/// The numbers of the messages: of the small ones, and of the large ones.
#[derive(Debug, Default, PartialEq)]
struct Numbers {
    small: Vec<u64>,
    large: Vec<u64>,
    gaps: usize,
}

impl Numbers {
    fn all() -> Self {
        Self {
            small: (0..(ROUNDS * SMALL) as u64).collect(),
            large: (0..ROUNDS as u64).collect(),
            gaps: 0,
        }
    }

    fn take(&mut self, object: &Value) {
        match (
            object["type"].as_str().unwrap(),
            object["channel"].as_str().unwrap(),
        ) {
            ("gap", _) => self.gaps += 1,
            ("publication", "large") => self.large.push(object["data"][0].as_u64().unwrap()),
            ("publication", "small") => self.small.push(object["data"].as_u64().unwrap()),
            _ => panic!("{object}"),
        }
    }

    /// Reads until the last message of both channels.
    fn read(listener: &mut Listener) -> Self {
        let mut numbers = Self::default();
        let end = Self::all();
        while numbers.small.last() != end.small.last() || numbers.large.last() != end.large.last() {
            numbers.take(&listener.next());
        }
        numbers
    }
}

/// Publishes everything; the crowd reads along.
fn publish(server: &TestServer, crowd: &mut [Listener]) {
    for round in 0..ROUNDS {
        server.publish("large", large(round));
        let numbers = round * SMALL..(round + 1) * SMALL;
        server.publish_burst(numbers.clone().map(|number| ("small", json!(number))));
        for listener in &mut *crowd {
            let expected: Vec<Value> = numbers.clone().map(Value::from).collect();
            assert_eq!(listener.data(SMALL), expected);
        }
    }
}

#[cfg(target_os = "linux")]
fn one_among_many(door: Door) {
    platform::raise_descriptor_limit().unwrap();
    let server = TestServer::with(|config| config.limits.window = std::time::Duration::from_secs(120));
    let mut crowd = listeners(&server, door, CROWD, "channel=small");
    let mut slow: Vec<(Listener, OwnedFd)> = STREAMS
        .into_iter()
        .map(|transport| {
            let (http, own) = connect(&server, door);
            let mut slow = Listener::open_on(http, transport, "channel=small&channel=large");
            slow.read_first_cursor();
            (slow, server_end(&own))
        })
        .collect();
    publish(&server, &mut crowd);
    server.publish("small", "last");
    for listener in &mut crowd {
        assert_eq!(listener.data(1), ["last"]);
    }
    let own = server.metric("cometserver_pending_bytes", "");
    assert!(own <= OWN * slow.len() as f64, "the server holds {own} bytes");
    for (slow, end) in &slow {
        let held = platform::unsent_bytes(end.as_fd()).unwrap();
        assert!(held > 0, "{:?} was not slow", slow.transport);
        assert!(
            held < KERNEL,
            "the kernel holds {held} bytes for {:?}",
            slow.transport
        );
    }
    assert_eq!(server.metric("cometserver_drops_total", ""), 0.0);
    assert_eq!(server.metric("cometserver_gaps_total", ""), 0.0);

    for (slow, _) in &mut slow {
        assert_eq!(
            Numbers::read(slow),
            Numbers::all(),
            "{:?} catches up",
            slow.transport
        );
        assert_eq!(slow.data(1), ["last"]);
    }
    server.publish("small", "live");
    for (slow, _) in &mut slow {
        assert_eq!(slow.data(1), ["live"], "{:?}", slow.transport);
    }
    let deliveries = (CROWD + slow.len()) * (ROUNDS * SMALL + 2) + slow.len() * ROUNDS;
    server.until("every delivery is counted", || {
        server.metric("cometserver_deliveries_total", "") == deliveries as f64
    });
    assert_eq!(server.metric("cometserver_pending_bytes", ""), 0.0);
}

#[cfg(target_os = "linux")]
#[test]
fn over_tcp_one_that_does_not_read_is_bounded_disturbs_nobody_and_catches_up() {
    one_among_many(Door::Tcp);
}

#[cfg(target_os = "linux")]
#[test]
fn over_a_unix_socket_one_that_does_not_read_is_bounded_disturbs_nobody_and_catches_up() {
    one_among_many(Door::Unix);
}

#[test]
fn one_that_was_slow_for_too_long_is_told_of_the_gap_and_gets_what_is_kept() {
    for door in [Door::Tcp, Door::Unix] {
        for transport in STREAMS {
            let server = TestServer::with(|config| {
                config.limits.message_size = 2 * LARGE;
                config.limits.window_bytes = 3 * LARGE;
                config.namespace_default.history_bytes = 3 * LARGE;
            });
            let (http, _) = connect(&server, door);
            let mut slow = Listener::open_on(http, transport, "channel=small&channel=large");
            slow.read_first_cursor();
            publish(&server, &mut []);
            let numbers = Numbers::read(&mut slow);
            let what = format!("{transport:?} over {door:?}: {numbers:?}");
            assert!(numbers.large.is_sorted_by(|a, b| a < b), "{what}");
            assert!(numbers.large.len() < ROUNDS && numbers.gaps > 0, "{what}");
            assert_eq!(
                numbers.small.len(),
                ROUNDS * SMALL,
                "the small ones were kept: {what}"
            );
            // Told once for all that was missed at a time, and counted.
            assert!(numbers.gaps <= 2, "{what}");
            assert_eq!(
                server.metric("cometserver_gaps_total", ""),
                numbers.gaps as f64,
                "{what}"
            );
            server.publish("large", "live");
            assert_eq!(slow.data(1), ["live"], "{what}");
        }
    }
}

#[test]
fn one_whose_buffer_was_full_exactly_at_the_end_of_a_message_catches_up_too() {
    for door in [Door::Tcp, Door::Unix] {
        for transport in STREAMS {
            let server = TestServer::start();
            let (http, _) = connect(&server, door);
            let mut slow = Listener::open_on(http, transport, "channel=small");
            slow.read_first_cursor();
            // One at a time: each is a write of its own, which the kernel takes whole or not at all.
            for number in 0..900 {
                server.publish("small", json!([number, "x".repeat(1000)]));
            }
            for number in 0..900 {
                let object = slow.next();
                assert_eq!(object["data"][0], number, "{transport:?} over {door:?}: {object}");
            }
            server.publish("small", "live");
            assert_eq!(slow.data(1), ["live"], "{transport:?} over {door:?}");
        }
    }
}
