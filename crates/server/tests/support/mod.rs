//! What the tests over real sockets share: a server of one's own, and small blocking clients.
//!
//! Every read has a deadline: what a test waits for either comes, or the test says what did not.
#![allow(dead_code)] // no test uses all of it
#![allow(unreachable_pub, unused_imports)] // each test compiles it as a module of its own
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

pub mod http;
pub mod listener;
pub mod websocket;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use cometserver::config::{Config, Sources};
use cometserver::server::{Addresses, Options, Server, StartError};
use cometserver::shared::{Request, Shared};
use serde_json::{Value, json};

pub use http::{Answer, Http, Place, encode};
pub use listener::{Came, Listener, TRANSPORTS, Transport, channels};
pub use websocket::WebSocket;

/// A secret for tokens; see [`token`].
pub const TOKEN_SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A key that may do everything; see `keys` in [`config`].
pub const KEY: &str = "all-doors-open-here";

/// The suites in `on_disk` are those of memory once more: there the same tests keep what they publish on disk.
pub fn durability() -> &'static str {
    match env!("CARGO_CRATE_NAME") {
        "on_disk" => "fsync",
        _ => "memory",
    }
}

/// The doors through which a client may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Public, TCP.
    Tcp,
    /// Public, Unix.
    Unix,
    /// The backend's socket.
    Backend,
}

/// All of them.
pub const DOORS: [Door; 3] = [Door::Tcp, Door::Unix, Door::Backend];

/// A server in this process, on sockets of its own. Dropped, it is stopped and has ended.
pub struct TestServer {
    pub addresses: Addresses,
    pub shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), StartError>>>,
    publisher: Mutex<Option<Http>>,
    folder: tempfile::TempDir,
}

impl TestServer {
    /// With [`config`] as it is.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// With [`config`] changed.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        Self::run(folder, config)
    }

    /// The same, started in another way.
    pub fn with_options(options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        Self::run_with(folder, config, options)
    }

    fn run(folder: tempfile::TempDir, config: Config) -> Self {
        let options = Options {
            embedded: true,
            ..Options::default()
        };
        Self::run_with(folder, config, options)
    }

    fn run_with(folder: tempfile::TempDir, config: Config, options: Options) -> Self {
        let server = Server::start(config, options).unwrap();
        Self {
            addresses: server.addresses().clone(),
            shared: server.shared(),
            thread: Some(std::thread::spawn(|| server.run())),
            publisher: Mutex::new(None),
            folder,
        }
    }

    /// Stops it and starts another one in the same folder.
    pub fn restart(self, change: impl FnOnce(&mut Config)) -> Self {
        self.restart_without(change, "")
    }

    /// The same, but a file that it left in its folder is removed in between.
    pub fn restart_without(mut self, change: impl FnOnce(&mut Config), file: &str) -> Self {
        self.end();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        if !file.is_empty() {
            let data_dir = config(folder.path()).data_dir;
            std::fs::remove_file(data_dir.join(file)).unwrap();
        }
        let mut config = config(folder.path());
        change(&mut config);
        Self::run(folder, config)
    }

    /// Asks it to stop; does not wait.
    pub fn ask_to_stop(&self) {
        self.shared.ask(Request::Stop);
    }

    /// Has it stopped?
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has stopped.
    pub fn wait(&mut self) {
        self.outcome().unwrap();
    }

    /// The same, and how it ended.
    pub fn outcome(&mut self) -> Result<(), StartError> {
        *self.publisher.lock().unwrap() = None;
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap())
    }

    fn end(&mut self) {
        self.ask_to_stop();
        self.wait();
    }

    /// Where to knock.
    pub fn place(&self, door: Door) -> Place {
        match door {
            Door::Tcp => Place::Tcp(self.addresses.tcp[0]),
            Door::Unix => Place::Unix(self.addresses.public.clone().unwrap()),
            Door::Backend => Place::Unix(self.addresses.backend.clone()),
        }
    }

    /// The key by which a gateway of this server's proves itself.
    pub fn gateway_key(&self) -> String {
        let path = cometserver::gateway_key::path(self.addresses.public.as_ref().unwrap());
        std::fs::read_to_string(path).unwrap().trim_end().to_owned()
    }

    /// One request on a connection of its own.
    pub fn request(&self, door: Door, method: &str, target: &str, body: &str) -> Answer {
        self.place(door)
            .connect()
            .request(method, target, &[], body.as_bytes())
    }

    /// `GET` at the backend's socket, which must succeed; the body as JSON.
    pub fn get(&self, target: &str) -> Value {
        let answer = self.request(Door::Backend, "GET", target, "");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.json()
    }

    /// Publishes what `publication` says, in the JSON form of `POST /v1/publish`.
    pub fn publish_object(&self, publication: &Value) -> Value {
        let answer = self.post("/v1/publish", publication);
        assert_eq!(answer.status, 200, "{publication}: {answer:?}");
        answer.json()
    }

    /// Publishes JSON in one channel.
    pub fn publish(&self, channel: &str, data: impl Into<Value>) -> Value {
        self.publish_object(&json!({"channel": channel, "data": data.into()}))
    }

    /// Publishes several in one request: they become visible in one burst.
    pub fn publish_burst<'a>(&self, publications: impl IntoIterator<Item = (&'a str, Value)>) {
        let list: Vec<Value> = publications
            .into_iter()
            .map(|(channel, data)| json!({"channel": channel, "data": data}))
            .collect();
        let count = list.len();
        let answer = self.post("/v1/batch", &json!({"publications": list}));
        assert_eq!(answer.status, 200, "{answer:?}");
        let results = answer.json()["results"].as_array().unwrap().clone();
        assert_eq!(results.len(), count);
        for result in results {
            assert!(result.get("error").is_none(), "{result}");
        }
    }

    /// `POST` over the connection that the publishing helpers share.
    fn post(&self, target: &str, body: &Value) -> Answer {
        let mut publisher = self.publisher.lock().unwrap();
        let http = publisher.get_or_insert_with(|| self.place(Door::Backend).connect());
        http.request(
            "POST",
            target,
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    /// The cursor of now.
    pub fn now(&self) -> String {
        self.get("/v1/now")["cursor"].as_str().unwrap().to_owned()
    }

    /// The sum of a metric over all its labels that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.request(Door::Backend, "GET", "/metrics", "").text();
        let lines = text.lines().filter(|line| {
            let end = line.find(['{', ' ']).unwrap_or(0);
            &line[..end] == name && line.contains(label)
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Looks at something that others bring about, until it is so; fails if that takes too long.
    pub fn until(&self, what: impl fmt::Display, mut so: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + http::DEADLINE;
        while !so() {
            assert!(std::time::Instant::now() < deadline, "not so in time: {what}");
            // A look costs a request or a few system calls: this only keeps the machine free for those who bring it about.
            std::thread::yield_now();
        }
    }

    /// A client that listens, and stands in the stream: what is published from now on comes to it.
    pub fn listen(&self, door: Door, transport: Transport, query: &str) -> Listener {
        Listener::open(self.place(door), transport, query)
    }

    /// A WebSocket on the public TCP door, its first cursor read.
    pub fn websocket(&self, query: &str) -> WebSocket {
        let mut socket = WebSocket::open(&self.place(Door::Tcp), query);
        assert_eq!(socket.next()["type"], "cursor");
        socket
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            *self
                .publisher
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// Two shards, a public port and socket, everything open to everybody, a history of 1000, a quick end.
pub fn config(folder: &Path) -> Config {
    let file = folder.join("comet.toml");
    let durability = durability();
    let text = format!(
        r#"
threads = 2
[public]
listen = ["127.0.0.1:0"]
[limits]
log_memory = "64MiB"
window_bytes = "16MiB"
[shutdown]
drain = "5s"
[namespace_default]
public = true
anonymous_publish = true
presence = true
anonymous_presence = true
history = {{ count = 1000, bytes = "4MiB" }}
durability = "{durability}"
[[tokens]]
name = "tests"
secret = "{TOKEN_SECRET}"
[[keys]]
name = "tests"
secret = "{KEY}"
actions = ["publish", "history", "presence", "admin", "ops", "subscribe"]
"#
    );
    std::fs::write(&file, text).unwrap();
    let flags = [
        ("data_dir", folder.join("data")),
        ("public.socket", folder.join("public.sock")),
    ];
    let sources = Sources {
        file: Some(file),
        env: Vec::new(),
        flags: flags
            .map(|(key, path)| (key.to_owned(), path.display().to_string()))
            .into(),
    };
    Config::load(sources).unwrap().config
}

/// A token that the server takes, with these claims.
pub fn token(claims: Value) -> String {
    let claims = serde_json::from_value(claims).unwrap();
    cometserver_core::token::sign(&claims, "tests", TOKEN_SECRET.as_bytes()).unwrap()
}

/// Seconds since 1970.
pub fn seconds_now() -> u64 {
    cometserver::shared::wall_clock() / 1000
}
