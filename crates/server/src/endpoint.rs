//! One table: path and method to what answers there.

use cometserver_core::action::Action;

use crate::http::Method;
use crate::wire::Format;

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A held long poll.
    Poll,
    /// A stream of events.
    Sse,
    /// A stream of lines.
    Stream,
    /// A WebSocket.
    WebSocket,
    /// End what a session holds.
    Release,
    /// Whose session this is, is there.
    Renew,
    /// Publish one.
    Publish,
    /// Publish several.
    Batch,
    /// A channel's history.
    History,
    /// Forget a channel's history.
    DeleteHistory,
    /// A channel's retained value.
    Retained,
    /// Forget a channel's retained value.
    DeleteRetained,
    /// A channel's members.
    Presence,
    /// The channels there are.
    Channels,
    /// The cursor of now.
    Now,
    /// Counters as JSON.
    Stats,
    /// What the log on disk takes.
    Storage,
    /// Copy the log on disk.
    Backup,
    /// Stop the server.
    Stop,
    /// Read the configuration again.
    Reload,
    /// Is the process there?
    Live,
    /// Does it take requests?
    Ready,
    /// Counters for Prometheus.
    Metrics,
    /// The API for machines.
    OpenApi,
    /// A file of the demo page.
    Demo(usize),
    /// The client for browsers.
    Client(usize),
}

use Endpoint as E;
use Method::{Delete, Get, Post};

const TABLE: &[(&str, &[(Method, Endpoint)])] = &[
    ("/v1/poll", &[(Get, E::Poll)]),
    ("/v1/sse", &[(Get, E::Sse)]),
    ("/v1/stream", &[(Get, E::Stream)]),
    ("/v1/ws", &[(Get, E::WebSocket)]),
    ("/v1/release", &[(Post, E::Release)]),
    ("/v1/renew", &[(Get, E::Renew)]),
    ("/v1/publish", &[(Post, E::Publish)]),
    ("/v1/batch", &[(Post, E::Batch)]),
    ("/v1/history", &[(Get, E::History), (Delete, E::DeleteHistory)]),
    ("/v1/retained", &[(Get, E::Retained), (Delete, E::DeleteRetained)]),
    ("/v1/presence", &[(Get, E::Presence)]),
    ("/v1/channels", &[(Get, E::Channels)]),
    ("/v1/now", &[(Get, E::Now)]),
    ("/v1/stats", &[(Get, E::Stats)]),
    ("/v1/storage", &[(Get, E::Storage)]),
    ("/v1/admin/backup", &[(Post, E::Backup)]),
    ("/v1/admin/stop", &[(Post, E::Stop)]),
    ("/v1/admin/reload", &[(Post, E::Reload)]),
    ("/health/live", &[(Get, E::Live)]),
    ("/health/ready", &[(Get, E::Ready)]),
    ("/metrics", &[(Get, E::Metrics)]),
    ("/openapi.json", &[(Get, E::OpenApi)]),
];

/// A file of the demo page: path, content type, content.
pub const DEMO: &[(&str, &str, &[u8])] = &[
    ("/", "text/html; charset=utf-8", include_bytes!("demo/index.html")),
    (
        "/demo/style.css",
        "text/css; charset=utf-8",
        include_bytes!("demo/style.css"),
    ),
    (
        "/demo/page.js",
        "text/javascript; charset=utf-8",
        include_bytes!("demo/page.js"),
    ),
    ("/demo/icon.svg", "image/svg+xml", include_bytes!("demo/icon.svg")),
];

/// The client for browsers: path, content, and the hash of it that tells whether a browser has it already.
pub const CLIENT: &[(&str, &[u8], u64)] = &[
    client("/client.js", include_bytes!("../../../clients/js/comet.min.js")),
    client(
        "/client.global.js",
        include_bytes!("../../../clients/js/comet.global.js"),
    ),
];

const fn client(path: &'static str, content: &'static [u8]) -> (&'static str, &'static [u8], u64) {
    // FNV-1a: nobody gains by a collision, the content is ours.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < content.len() {
        hash = (hash ^ content[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    (path, content, hash)
}

/// Why nothing answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    /// There is no such path.
    NotFound,
    /// The path wants one of these methods.
    Methods(String),
}

impl Endpoint {
    /// What answers at this path. `HEAD` is answered as `GET`, except where that would be held.
    ///
    /// # Errors
    /// [`NoEndpoint`].
    pub fn find(path: &str, method: Method, demo: bool) -> Result<Self, NoEndpoint> {
        let as_get = if method == Method::Head { Get } else { method };
        let client = CLIENT.iter().position(|(own, ..)| *own == path).map(E::Client);
        let page = DEMO.iter().position(|(own, ..)| demo && *own == path);
        if let Some(file) = client.or(page.map(E::Demo)) {
            return match as_get {
                Get => Ok(file),
                _ => Err(NoEndpoint::Methods("GET, HEAD".into())),
            };
        }
        let (_, methods) = TABLE
            .iter()
            .find(|(own, _)| *own == path)
            .ok_or(NoEndpoint::NotFound)?;
        match methods.iter().find(|(own, _)| *own == as_get) {
            Some((_, endpoint)) => Ok(*endpoint),
            None => {
                let names = methods.iter().map(|(method, _)| match method {
                    Get => "GET, HEAD",
                    Post => "POST",
                    _ => "DELETE",
                });
                Err(NoEndpoint::Methods(names.collect::<Vec<_>>().join(", ")))
            }
        }
    }

    /// Every path with its methods, files left out.
    pub fn calls() -> impl Iterator<Item = (&'static str, Method)> {
        TABLE
            .iter()
            .flat_map(|(path, methods)| methods.iter().map(|(method, _)| (*path, *method)))
    }

    /// Is it there for monitoring?
    pub fn is_ops(self) -> bool {
        matches!(self, E::Metrics | E::Stats)
    }

    /// Is its request held, with an answer of its own where only a wait is needed?
    pub fn is_held(self) -> bool {
        matches!(self, E::Poll | E::Sse | E::Stream | E::WebSocket)
    }

    /// Does it need no grant, whoever asks?
    pub fn is_open(self) -> bool {
        matches!(self, E::Live | E::Ready | E::OpenApi | E::Demo(_) | E::Client(_))
    }

    /// Which right it needs that no channel can give.
    pub fn needs(self) -> Option<Action> {
        match self {
            E::Channels | E::Storage | E::Backup | E::Stop | E::Reload => Some(Action::Admin),
            E::Metrics | E::Stats => Some(Action::Ops),
            _ => None,
        }
    }

    /// The format in which it streams, by the client's version.
    pub fn format(self, chunked: bool) -> Format {
        match (self, chunked) {
            (E::Sse, true) => Format::SseChunked,
            (E::Sse, false) => Format::SsePlain,
            (E::Stream, true) => Format::LinesChunked,
            (E::Stream, false) => Format::LinesPlain,
            (E::WebSocket, _) => Format::WebSocketText,
            _ => Format::Poll,
        }
    }
}
