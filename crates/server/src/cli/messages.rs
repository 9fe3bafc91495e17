//! Channels and their messages: `publish` and `history`.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::client::{Path, Payload};

use super::settings::Settings;
use super::show::{self, Paint, Publication};
use super::values::{media_type, name, parsed};
use super::{Failure, Outcome};

/// The largest message read from a file or standard input: above every limit a server can have.
const MAX_INPUT: u64 = 1 << 30;

pub(super) const PUBLISH_EXAMPLES: &str = "\
comet publish news 'Hello, world'
comet publish prices '{\"eur\": 1.08}' --kind json --event tick
date | comet publish clock
comet publish photos --kind binary --file cat.jpg";

pub(super) const HISTORY_EXAMPLES: &str = "\
comet history news
comet history news --limit 10 --reverse
comet history news --json | tail -1";

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Text, UTF-8
    Text,
    /// One JSON value
    Json,
    /// Any bytes
    Binary,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Binary => "binary",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Publish {
    /// The channel
    channel: OsString,
    /// The message, taken exactly; without it, or `-`: standard input
    #[arg(allow_hyphen_values = true, conflicts_with = "file")]
    data: Option<OsString>,
    /// A file that holds the message
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the message is
    #[arg(long, value_enum, default_value = "text")]
    kind: Kind,
    /// The name of the event
    #[arg(long)]
    event: Option<String>,
    /// Your name for this message
    #[arg(long)]
    id: Option<String>,
    /// Keep it as the value of the channel, for those who come later
    #[arg(long)]
    retain: bool,
    /// Publish only once, however often this is repeated within minutes
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Print the server's answer
    #[arg(long)]
    pub(super) json: bool,
}

impl Publish {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let bytes = self.payload()?;
        let path = Path::new("/v1/publish")
            .with("channel", name(&self.channel)?)
            .with("kind", self.kind.as_str())
            .with_some("event", self.event.as_ref())
            .with_some("id", self.id.as_ref())
            .with_some("idempotency_key", self.idempotency_key.as_ref())
            .with_some("retain", self.retain.then_some("true"));
        let payload = Payload {
            media_type: media_type(self.kind.as_str()),
            bytes: &bytes,
        };
        let answer = settings.client()?.call("POST", &path, Some(payload))?;
        if !self.json {
            return Ok(ExitCode::SUCCESS);
        }
        super::print_json(&answer.body)
    }

    fn payload(&self) -> Result<Vec<u8>, Failure> {
        let unreadable =
            |what: &dyn std::fmt::Display, error: std::io::Error| Failure::new(format!("{what}: {error}"));
        let mut bytes = Vec::new();
        if let Some(path) = &self.file {
            let file = std::fs::File::open(path).map_err(|error| unreadable(&path.display(), error))?;
            file.take(MAX_INPUT)
                .read_to_end(&mut bytes)
                .map_err(|error| unreadable(&path.display(), error))?;
            return Ok(bytes);
        }
        match &self.data {
            Some(data) if data != "-" => return Ok(data.as_bytes().to_vec()),
            None if std::io::stdin().is_terminal() => {
                return Err(Failure::usage(
                    "the message is missing: give it after the channel, with --file, or pipe it in",
                ));
            }
            _ => {}
        }
        let stdin = std::io::stdin().lock();
        stdin
            .take(MAX_INPUT)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(&"standard input", error))?;
        Ok(bytes)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct History {
    /// The channel
    channel: OsString,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// Print at most so many [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// The newest first
    #[arg(long)]
    reverse: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
    #[serde(default)]
    gap: bool,
    cursor: String,
}

/// How many messages are printed if nobody says, and how many the server gives at once.
const LIMIT: usize = 100;
const MOST: usize = 1_000;

/// An answer of fewer bytes holds all that was asked for.
const FULL: usize = 64 << 10;

impl History {
    /// An answer holds so many bytes only: it is asked for page by page. Newest first there is one page, since no cursor goes back.
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let client = settings.client()?;
        let mut left = self.limit.map_or(LIMIT, |limit| limit as usize);
        let mut since = self.since.clone();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        loop {
            let path = Path::new("/v1/history")
                .with("channel", name(&self.channel)?)
                .with_some("since", since.as_ref())
                .with("limit", left.min(MOST).to_string())
                .with_some("reverse", self.reverse.then_some("1"));
            let answer = client.get(&path)?;
            let kept: Kept<'_> = parsed(&answer.body)?;
            if kept.gap {
                warn("something between the cursor and the first of these is no longer kept");
            }
            let came = kept.publications.len();
            // Of a short answer nothing was left out for want of room.
            let may_be_more = came > 0 && (came == left.min(MOST) || answer.body.len() >= FULL);
            for publication in kept.publications {
                self.print(publication, &mut out)?;
            }
            left -= came.min(left);
            if !may_be_more || left == 0 {
                break;
            }
            if self.reverse {
                warn(
                    "there may be older ones, which one answer has no room for: read them without --reverse",
                );
                break;
            }
            since = Some(kept.cursor);
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, publication: &RawValue, out: &mut impl Write) -> Result<(), Failure> {
        let shown: Publication<'_> = parsed(publication.get().as_bytes())?;
        if !self.json {
            writeln!(out, "{}", line(&shown, Paint::for_stdout()))?;
            return Ok(());
        }
        // Whoever reads this through a pipe is to be spared what no JSON reader takes; an older server took it.
        match serde_json::from_str::<Value>(publication.get()) {
            Ok(_) => writeln!(out, "{}", publication.get())?,
            Err(error) => show::stepped_over(
                &format!("{} #{}", shown.channel, shown.offset),
                &error.to_string(),
            ),
        }
        Ok(())
    }
}

fn warn(text: &str) {
    let text = format!("comet: {text}");
    let _ = writeln!(std::io::stderr(), "{}", Paint::for_stderr().yellow(&text));
}

/// A publication on one line, for people.
pub(super) fn line(publication: &Publication<'_>, paint: Paint) -> String {
    let mut line = format!(
        "{} {}",
        paint.dim(&show::time_of_day(publication.time)),
        paint.cyan(&show::on_one_line(&publication.channel_bytes())),
    );
    line.push_str(&paint.dim(&format!(" #{}", publication.offset)));
    if let Some(event) = &publication.event {
        line.push(' ');
        line.push_str(&paint.yellow(&show::on_one_line(event.as_bytes())));
    }
    if let Some(user) = &publication.user {
        line.push_str(&paint.dim(&format!(" <{}>", show::on_one_line(user.as_bytes()))));
    }
    line.push_str("  ");
    line.push_str(&show::on_one_line(&publication.payload()));
    line
}
