//! Every message once and in order: over every transport, through every door, to every kind of subscription, whatever is cut.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::{Value, json};
use support::{DOORS, Door, Listener, TRANSPORTS, TestServer, Transport, channels, encode};

/// Messages of one case: before the cut, while nobody listens, afterwards.
const PARTS: [usize; 3] = [90, 80, 70];

/// How many of the first part are read before the cut.
const READ_BEFORE_CUT: usize = 50;

/// How many messages become visible at a time, over and over.
const BURSTS: [usize; 5] = [1, 1, 30, 2, 11];

/// A name that no part of the way may take for something else.
const ODD_NAME: &str = "a/b?c d&e%é";

#[derive(Clone, Copy, Debug)]
enum Interest {
    OneChannel,
    TwentyChannels,
    Pattern,
}

const INTERESTS: [Interest; 3] = [Interest::OneChannel, Interest::TwentyChannels, Interest::Pattern];

/// One cell of the matrix. A failure within shows which.
struct Case<'s> {
    server: &'s TestServer,
    door: Door,
    transport: Transport,
    interest: Interest,
    /// The transport on which it goes on after a cut.
    resume: Option<Transport>,
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "in the case {:?} {:?} {:?}, resume: {:?}",
                self.door, self.transport, self.interest, self.resume
            );
        }
    }
}

impl Case<'_> {
    fn names(&self) -> Vec<String> {
        let prefix = format!(
            "{:?}-{:?}-{:?}-{:?}",
            self.door, self.transport, self.interest, self.resume
        );
        let count = match self.interest {
            Interest::OneChannel => 1,
            Interest::TwentyChannels | Interest::Pattern => 20,
        };
        (0..count)
            .map(|index| format!("{prefix}/{index}/{ODD_NAME}"))
            .collect()
    }

    fn query(&self, names: &[String]) -> String {
        match self.interest {
            Interest::OneChannel | Interest::TwentyChannels => channels(names.iter().map(String::as_str)),
            Interest::Pattern => {
                let (prefix, _) = names[0].split_once('/').unwrap();
                format!("pattern={}", encode(&format!("{prefix}/*/a/*")))
            }
        }
    }

    fn run(&self) {
        let names = self.names();
        let query = self.query(&names);
        let mut sent = Messages::new(&names);
        let mut seen = Seen::new(&names);
        let mut listener = self.server.listen(self.door, self.transport, &query);

        sent.publish(self.server, PARTS[0]);
        if let Some(other) = self.resume {
            seen.read(&mut listener, READ_BEFORE_CUT);
            let (cursor, in_hand) = listener.cut();
            in_hand.into_iter().for_each(|object| seen.take(object));
            sent.publish(self.server, PARTS[1]);
            listener = self
                .server
                .listen(self.door, other, &format!("{query}&cursor={cursor}"));
        } else {
            seen.read(&mut listener, PARTS[0]);
            sent.publish(self.server, PARTS[1]);
        }
        sent.publish(self.server, PARTS[2]);
        seen.read_up_to(&mut listener, PARTS.iter().sum());

        // What comes next proves that nothing came twice; what comes after its cursor, that the cursor is the right one.
        sent.publish(self.server, 1);
        seen.read(&mut listener, 1);
        let (cursor, in_hand) = listener.cut();
        assert_eq!(in_hand, Vec::<Value>::new());
        let poll = format!("/v1/poll?{query}&wait_ms=0&cursor={cursor}");
        let answer = self.server.request(self.door, "GET", &poll, "").json();
        assert_eq!(answer["publications"], json!([]));
    }
}

/// Numbered messages, dealt out to channels in turn.
struct Messages<'n> {
    names: &'n [String],
    next: usize,
    bursts: std::iter::Cycle<std::array::IntoIter<usize, { BURSTS.len() }>>,
}

impl<'n> Messages<'n> {
    fn new(names: &'n [String]) -> Self {
        Self {
            names,
            next: 0,
            bursts: BURSTS.into_iter().cycle(),
        }
    }

    fn publish(&mut self, server: &TestServer, count: usize) {
        let end = self.next + count;
        while self.next < end {
            let burst = self.bursts.next().unwrap().min(end - self.next);
            let numbers = self.next..self.next + burst;
            server.publish_burst(
                numbers.map(|number| (&*self.names[number % self.names.len()], json!(number))),
            );
            self.next += burst;
        }
    }
}

/// What a subscriber has seen.
struct Seen<'n> {
    names: &'n [String],
    count: usize,
}

impl<'n> Seen<'n> {
    fn new(names: &'n [String]) -> Self {
        Self { names, count: 0 }
    }

    fn read(&mut self, listener: &mut Listener, count: usize) {
        for _ in 0..count {
            self.take(listener.next());
        }
    }

    fn read_up_to(&mut self, listener: &mut Listener, count: usize) {
        while self.count < count {
            self.take(listener.next());
        }
    }

    /// The next message and no other, with its channel's name and the next offset there.
    fn take(&mut self, object: Value) {
        let number = self.count;
        self.count += 1;
        assert_eq!(
            object["type"], "publication",
            "{object} instead of message {number}"
        );
        assert_eq!(object["data"], number, "{object}");
        assert_eq!(
            object["channel"],
            self.names[number % self.names.len()],
            "{object}"
        );
        assert_eq!(object["offset"], number / self.names.len() + 1, "{object}");
    }
}

/// Every transport with every kind of subscription through one door.
fn through(door: Door, resume: impl Fn(Transport) -> Vec<Option<Transport>>) {
    let server = TestServer::start();
    for transport in TRANSPORTS {
        for interest in INTERESTS {
            for resume in resume(transport) {
                let case = Case {
                    server: &server,
                    door,
                    transport,
                    interest,
                    resume,
                };
                case.run();
            }
        }
    }
}

#[test]
fn every_message_comes_once_and_in_order() {
    for door in DOORS {
        through(door, |_| vec![None]);
    }
}

#[test]
fn a_subscriber_that_was_cut_off_goes_on_where_it_was() {
    for door in DOORS {
        through(door, |transport| vec![Some(transport)]);
    }
}

#[test]
fn a_subscriber_that_was_cut_off_can_go_on_over_any_other_transport() {
    for door in DOORS {
        through(door, |transport| {
            let others = TRANSPORTS.into_iter().filter(|other| *other != transport);
            others.map(Some).collect()
        });
    }
}

#[test]
fn a_browser_that_repeats_its_first_url_goes_on_from_its_last_event_id() {
    let server = TestServer::start();
    let first_url = format!("/v1/sse?channel=news&cursor={}", server.now());
    server.publish("news", 1);
    let seen = server.now();
    server.publish("news", 2);
    let mut http = server.place(Door::Tcp).connect();
    http.ask("GET", &first_url, &[("Last-Event-ID", &seen)], b"");
    http.head();
    let mut text = String::new();
    while !text.contains("publication") {
        text.push_str(&String::from_utf8(http.chunk().unwrap()).unwrap());
    }
    assert!(
        text.contains("\"data\":2") && !text.contains("\"data\":1"),
        "{text}"
    );
}

#[test]
fn a_client_that_speaks_http_1_0_gets_a_stream_without_chunks() {
    let server = TestServer::start();
    let mut http = server.place(Door::Tcp).connect();
    http.send(b"GET /v1/stream?channel=news HTTP/1.0\r\n\r\n");
    while http.line().unwrap() != "" {}
    let first: Value = serde_json::from_str(&http.line().unwrap()).unwrap();
    assert_eq!(first["type"], "cursor");
    server.publish("news", "plain");
    let object: Value = serde_json::from_str(&http.line().unwrap()).unwrap();
    assert_eq!(object["data"], "plain");
}

#[test]
fn a_publication_in_several_channels_comes_once_to_a_subscriber_of_all_of_them() {
    let server = TestServer::start();
    for transport in TRANSPORTS {
        let mut listener = server.listen(Door::Tcp, transport, "channel=left&channel=right&pattern=*");
        server.publish_object(&json!({"channels": ["left", "right"], "data": "both"}));
        server.publish("right", "next");
        assert_eq!(listener.data(2), ["both", "next"], "{transport:?}");
    }
}

#[test]
fn a_publication_in_several_channels_says_so_and_does_not_name_the_others() {
    let server = TestServer::start();
    for door in [Door::Tcp, Door::Unix] {
        for transport in TRANSPORTS {
            let mut listener = server.listen(door, transport, "channel=left");
            server.publish_object(&json!({"channels": ["left", "right"], "data": 1}));
            server.publish_object(&json!({"channels": ["left"], "data": 2}));
            let (both, one) = (listener.next(), listener.next());
            assert_eq!(both["several"], true, "{transport:?}: {both}");
            assert!(!both.to_string().contains("right"), "{both}");
            assert_eq!(one.get("several"), None, "{transport:?}: {one}");
        }
    }
    let target = "/v1/history?channel=right";
    let history = server.request(Door::Tcp, "GET", target, "").json();
    assert_eq!(history["publications"][0]["several"], true, "{history}");
}
