//! `comet bench`: a load generator for any server that speaks the native protocol, cheap enough to keep up with it.
//!
//! One thread, one `mio` loop. A delivery is recognised by one byte that occurs once in every payload (`MARKER`), so that
//! nothing is decoded: beside a server that spends 1.5 µs a delivery, a JSON parser would measure itself.

mod address;
mod channels;
mod dialect;
mod fan_out;
mod idle;
mod opening;
mod process;
mod publisher;
mod reader;
mod report;
mod socket;
mod subscriber;

use std::path::PathBuf;
use std::time::Duration;

pub use address::{Address, AddressError};
pub use dialect::Target;
pub use report::{Cpu, Latency, Memory, Report};

/// The byte that marks one publication's payload.
///
/// It must occur nowhere else in a body: not in base64, hexadecimal, numbers, the protocol's field names, or the
/// names of our channels. Lengths of WebSocket frames may hold any byte, so those are parsed.
const MARKER: u8 = b'^';

/// The smallest payload: a JSON string that holds the marker.
pub const MIN_PAYLOAD: usize = 3;

/// The largest payload, far above every sensible `limits.message_size`.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Most publishing connections at once; each has one request under way.
pub const MAX_IN_FLIGHT: usize = 1024;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Publications are delivered to subscribers.
    #[default]
    FanOut,
    /// Publications nobody listens to: the publisher's door alone. `subscribers` is ignored.
    Publish,
    /// Connecting and subscribing, nothing published.
    Connect,
    /// What a connection that waits costs in memory. Needs `pid`.
    Idle,
}

/// How subscribers listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Server-sent events.
    #[default]
    Sse,
    /// HTTP streaming, one JSON object a line.
    Stream,
    /// WebSocket.
    Ws,
    /// Long poll: a turn is one answer and the next request.
    Poll,
}

/// A load, whole. `Options::new(address)` is fan-out over SSE to 1,000 subscribers of one channel.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is measured.
    pub load: Load,
    /// Whose dialect the server speaks.
    pub target: Target,
    /// Where subscribers connect.
    pub address: Address,
    /// Where publishers connect; `None`: where subscribers do.
    pub publish_address: Option<Address>,
    /// A key or token that may publish, sent as `Authorization: Bearer`.
    pub key: Option<String>,
    /// A token that may subscribe, sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// How subscribers listen.
    pub transport: Transport,
    /// How many subscribers (connections).
    pub subscribers: usize,
    /// How many channels; subscriber `i` listens to channel `i % channels`, a publication goes to a random one.
    pub channels: usize,
    /// The prefix of the channels' names; `None`: one that no other run has. ASCII letters,
    /// digits, `-`, `_` and `.`; what such channels already hold would be counted.
    pub channel_prefix: Option<String>,
    /// Further subscribers that are opened and then never read from. Their deliveries are not expected.
    pub slow_readers: usize,
    /// Bytes of a payload, [`MIN_PAYLOAD`] to [`MAX_PAYLOAD`]: a JSON string.
    pub payload: usize,
    /// Publications under way at once (closed loop): 1 waits until everybody has the last one. At most
    /// [`MAX_IN_FLIGHT`].
    pub in_flight: usize,
    /// Publications a second, whether or not the last ones have arrived; `None`: closed loop. Latency then counts
    /// from when a publication was due, so that a server that falls behind cannot hide it.
    pub rate: Option<f64>,
    /// Publications a request: above 1 through `POST /v1/batch`. All of a batch go to one channel.
    pub batch: usize,
    /// Publications measured (a last batch is finished).
    pub publications: u64,
    /// Stop publishing after this time even if `publications` have not gone out.
    pub duration: Option<Duration>,
    /// Publications before measuring begins (connections, for [`Load::Connect`] and [`Load::Idle`]).
    pub warm_up: u64,
    /// Connections being opened at once; keep it below the server's backlog.
    pub opening: usize,
    /// Give up when nothing happens for this long; what has not arrived by then is missing in the report.
    pub stall: Duration,
    /// The server's process, for CPU time and memory.
    pub pid: Option<u32>,
    /// [`Target::Floor`] only: bytes on the wire for one delivery (its publisher sends the ready frame); `None`: the
    /// payload with the least framing.
    pub frame: Option<usize>,
}

impl Options {
    /// The default load against the server at `address`.
    pub fn new(address: Address) -> Self {
        Options {
            load: Load::FanOut,
            target: Target::Comet,
            address,
            publish_address: None,
            key: None,
            token: None,
            transport: Transport::Sse,
            subscribers: 1_000,
            channels: 1,
            channel_prefix: None,
            slow_readers: 0,
            payload: 100,
            in_flight: 1,
            rate: None,
            batch: 1,
            publications: 1_000,
            duration: None,
            warm_up: 10,
            opening: 128,
            stall: Duration::from_secs(20),
            pid: None,
            frame: None,
        }
    }

    /// Refuses what cannot be run, before anything is opened.
    fn check(&self) -> Result<(), BenchError> {
        let refuse = |text: String| Err(BenchError::Options(text));
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&self.payload) {
            return refuse(format!(
                "payload {}: expected {MIN_PAYLOAD} to {MAX_PAYLOAD} bytes",
                self.payload
            ));
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.in_flight) {
            return refuse(format!(
                "in flight {}: expected 1 to {MAX_IN_FLIGHT}",
                self.in_flight
            ));
        }
        if self.channels == 0 || self.batch == 0 || self.opening == 0 {
            return refuse("channels, batch and opening are at least 1".into());
        }
        if self.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
            return refuse("a rate is a number of publications a second above 0".into());
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if self
            .channel_prefix
            .as_ref()
            .is_some_and(|p| !p.bytes().all(plain))
        {
            return refuse("a channel prefix has ASCII letters, digits, -, _ and . only".into());
        }
        if self.load == Load::Idle && self.pid.is_none() {
            return refuse("memory per connection needs the server's pid".into());
        }
        if self.batch > 1 && self.target != Target::Comet {
            return refuse(format!("{} has no batch request", self.target));
        }
        if self.transport == Transport::Stream && self.target == Target::Nchan {
            return refuse("nchan has no stream of lines; use SSE, WebSocket or poll".into());
        }
        Ok(())
    }
}

/// Why a load could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The options contradict each other or are out of bounds.
    #[error("{0}")]
    Options(String),
    /// The server cannot be reached.
    #[error("cannot connect to {address}: {source}{}", hint(source))]
    Connect {
        /// Where to.
        address: Address,
        /// Why not.
        source: std::io::Error,
    },
    /// A connection broke, or the event loop cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The server answered, but not with what was asked for.
    #[error("the server refused a {what}: {status} {body}{}", credential(what, *status))]
    Refused {
        /// The kind of request.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
    /// The server ended a connection that was still needed.
    #[error("the server ended the connection of a {0}")]
    Closed(&'static str),
    /// The answer is not in a form this load understands.
    #[error("cannot understand the answer to a {what}: {detail}")]
    Malformed {
        /// The kind of request.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Not all subscribers could be opened.
    #[error("{opened} of {wanted} subscribers were opened, then nothing happened")]
    Stalled {
        /// Answered by the server.
        opened: usize,
        /// Asked for.
        wanted: usize,
    },
    /// The server's process cannot be observed.
    #[error("cannot read {}: {source}", path.display())]
    Process {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The way out of the one error that everybody meets at 1,024 subscribers.
fn hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::MFILE.raw_os_error() => {
            " (raise the limit: ulimit -n 100000)"
        }
        _ => "",
    }
}

/// What to show a server that lets nobody in for nothing.
fn credential(what: &str, status: u16) -> &'static str {
    match (status, what) {
        (401 | 403, "publisher") => {
            " (publish with --key KEY, or at the server's own socket: --publish-at unix:/var/lib/cometserver/comet.sock)"
        }
        (401 | 403, _) => {
            " (subscribers need a token: --token \"$(comet token create --pattern 'bench-*')\", with the server's --config)"
        }
        _ => "",
    }
}

/// Runs one load and reports. `progress` gets a line for people about once a second.
///
/// # Errors
/// Any [`BenchError`]. Publications that did not arrive are no error, but [`Report::complete`] is then false.
pub fn run(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Report, BenchError> {
    options.check()?;
    match options.load {
        Load::FanOut | Load::Publish => fan_out::run(options, progress),
        Load::Connect | Load::Idle => idle::run(options, progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new("127.0.0.1:1".parse().unwrap())
    }

    #[test]
    fn a_load_that_cannot_be_run_is_refused_before_anything_is_opened() {
        let refused = [
            Options {
                payload: 2,
                ..options()
            },
            Options {
                in_flight: 0,
                ..options()
            },
            Options {
                in_flight: MAX_IN_FLIGHT + 1,
                ..options()
            },
            Options {
                channels: 0,
                ..options()
            },
            Options {
                rate: Some(0.0),
                ..options()
            },
            Options {
                channel_prefix: Some("a/b".into()),
                ..options()
            },
            Options {
                load: Load::Idle,
                ..options()
            },
            Options {
                batch: 2,
                target: Target::Nchan,
                ..options()
            },
            Options {
                transport: Transport::Stream,
                target: Target::Nchan,
                ..options()
            },
        ];
        for options in refused {
            let answer = run(options.clone(), &mut |_| {});
            assert!(matches!(answer, Err(BenchError::Options(_))), "{options:?}");
        }
    }
}
