//! `bench`: measure an installation with the load generator of [`crate::bench`].

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::bench::{self, Address, Load, Options, Transport};
use crate::client;

use super::daemon::Held;
use super::settings::Settings;
use super::{Failure, Outcome, amount};

pub(super) const EXAMPLES: &str = "\
comet bench
comet bench --transport ws --subscribers 10000 --payload 4KiB
comet bench --rate 20 --duration 30s --url http://127.0.0.1:8080 \\
  --publish-at unix:/var/lib/cometserver/comet.sock \\
  --token \"$(comet token create --config FILE --pattern 'bench-*')\"
comet bench --load idle --subscribers 5000 --json";

const LOADS: [(&str, Load); 4] = [
    ("fan-out", Load::FanOut),
    ("publish", Load::Publish),
    ("connect", Load::Connect),
    ("idle", Load::Idle),
];

const TRANSPORTS: [(&str, Transport); 4] = [
    ("sse", Transport::Sse),
    ("stream", Transport::Stream),
    ("ws", Transport::Ws),
    ("poll", Transport::Poll),
];

#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// What to measure
    #[arg(long, default_value = "fan-out", value_parser = one_of(LOADS))]
    load: Load,
    /// How subscribers listen
    #[arg(long, default_value = "sse", value_parser = one_of(TRANSPORTS))]
    transport: Transport,
    /// How many subscribers
    #[arg(long, value_name = "N", default_value_t = 1000)]
    subscribers: usize,
    /// How many channels they are spread over
    #[arg(long, value_name = "N", default_value_t = 1)]
    channels: usize,
    /// Further subscribers that never read
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow_readers: usize,
    /// The size of a message
    #[arg(long, value_name = "SIZE", default_value = "100B", value_parser = amount::size)]
    payload: usize,
    /// Publications under way at once
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "rate")]
    in_flight: usize,
    /// Publish so many a second; without it, as fast as they arrive
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Publications in one request
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Publications to measure
    #[arg(long, value_name = "N", default_value_t = 1000)]
    publications: u64,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = amount::duration)]
    duration: Option<Duration>,
    /// Publish there: IP:PORT or unix:PATH; without it, where subscribers connect
    #[arg(long, value_name = "ADDRESS")]
    publish_at: Option<Address>,
    /// The token of the subscribers; --key is that of the publishers
    #[arg(long)]
    token: Option<String>,
    /// The process of the server, for its CPU time and memory; without it, found by the data folder
    #[arg(long)]
    pid: Option<u32>,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A parser for one of a few named values.
fn one_of<T: Copy + Send + Sync + 'static>(
    choices: [(&'static str, T); 4],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(choices.map(|(name, _)| name)).map(move |name| {
        let chosen = choices.iter().find(|(known, _)| *known == name);
        chosen.expect("only the names of choices are let through").1
    })
}

impl Bench {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let json = self.json;
        let options = self.options(settings)?;
        let is_terminal = std::io::stderr().is_terminal();
        let mut progress = |line: &str| {
            // A moving line for people, lines for logs; a closed standard error is no reason to stop measuring.
            let _ = match is_terminal {
                true => write!(std::io::stderr(), "\r\x1b[K{line}"),
                false => writeln!(std::io::stderr(), "{line}"),
            };
        };
        let report = bench::run(options, &mut progress);
        if is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        let report = report.map_err(|error| Failure::new(error.to_string()))?;
        let text = if json {
            serde_json::to_string(&report).map_err(std::io::Error::from)?
        } else {
            report.to_string()
        };
        super::print(format!("{}\n", text.trim_end()).as_bytes())?;
        Ok(if report.complete() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn options(self, settings: &Settings) -> Result<Options, Failure> {
        let client = settings.client()?;
        let address = match client.address() {
            client::Address::Unix(path) => Address::Unix(path.clone()),
            url => url
                .to_string()
                .parse()
                .map_err(|error| Failure::usage(format!("--url: {error}")))?,
        };
        let held = Held::of_server(settings);
        // Before a thousand connections fail with less to say.
        client.probe()?;
        Ok(Options {
            load: self.load,
            publish_address: self.publish_at,
            key: settings.key().map(str::to_owned),
            token: self.token,
            transport: self.transport,
            subscribers: self.subscribers,
            channels: self.channels,
            slow_readers: self.slow_readers,
            payload: self.payload,
            in_flight: self.in_flight,
            rate: self.rate,
            batch: self.batch,
            publications: self.publications,
            duration: self.duration,
            pid: self.pid.or_else(|| held.pid()),
            ..Options::new(address)
        })
    }
}
