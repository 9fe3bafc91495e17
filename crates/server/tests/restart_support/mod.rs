//! A site whose server is stopped or killed, and started again.

#![allow(clippy::unwrap_used)] // all of this is test
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::daemon_support::{Home, Server};
use crate::support::{Http, Listener, Place, Transport};

/// What is open to everybody, on disk unless it is called `passing`, and answered at once in `quick`.
pub const CONFIG: &str = r#"
[shutdown]
drain = "5s"
[limits]
window = "0s"
[namespace_default]
public = true
history.count = 10000
history.bytes = "16MiB"
[[namespaces]]
match = "passing**"
public = true
durability = "memory"
[[namespaces]]
match = "quick**"
public = true
durability = "buffered"
history.count = 10000
"#;

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Stopped,
    Killed,
}

pub const ENDS: [End; 2] = [End::Stopped, End::Killed];

/// A server in a folder of its own, which can be started again.
pub struct Site {
    pub home: Home,
    pub server: Option<Server>,
}

impl Site {
    pub fn start() -> Self {
        Self::start_with(CONFIG)
    }

    pub fn start_with(config: &str) -> Self {
        let home = Home::new();
        home.file("comet.toml", config);
        let mut site = Self { home, server: None };
        site.begin();
        site
    }

    pub fn begin(&mut self) {
        let command = self
            .home
            .command(["serve", "--config", "comet.toml", "--log-format", "json"]);
        self.server = Some(Server::of(command));
    }

    pub fn end(&mut self, end: End) {
        let mut server = self.server.take().unwrap();
        match end {
            End::Stopped => server.signal(Signal::TERM),
            End::Killed => server.signal(Signal::KILL),
        }
        let status = server.ended();
        assert_eq!(status.success(), end == End::Stopped, "{status}");
    }

    pub fn restart(&mut self, end: End) {
        self.end(end);
        self.begin();
    }

    pub fn public(&self) -> Place {
        Place::Unix(self.home.public_socket())
    }

    pub fn backend(&self) -> Http {
        Place::Unix(self.home.socket()).connect()
    }

    pub fn listen(&self, transport: Transport, query: &str) -> Listener {
        Listener::open(self.public(), transport, query)
    }

    pub fn get(&self, target: &str) -> Value {
        let answer = self.backend().request("GET", target, &[], b"");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.json()
    }

    pub fn publish(&self, publication: &Value) -> Value {
        let answer = post(&mut self.backend(), publication);
        assert!(answer.0 == 200 || answer.0 == 202, "{publication}: {answer:?}");
        answer.1
    }

    pub fn publish_numbers(&self, channel: &str, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.publish(&json!({"channel": channel, "data": number}));
        }
    }

    pub fn now(&self) -> String {
        self.get("/v1/now")["cursor"].as_str().unwrap().to_owned()
    }
}

pub fn post(http: &mut Http, publication: &Value) -> (u16, Value) {
    let body = publication.to_string();
    let answer = http.request("POST", "/v1/publish", &[], body.as_bytes());
    (answer.status, answer.json())
}

pub fn numbers(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(Value::from).collect()
}
