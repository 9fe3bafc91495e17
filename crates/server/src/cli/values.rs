//! Keys and their values: `write`, `read`, `dump`, `delete`. A key is a channel, its value what the channel retains.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{Client, ClientError, Path, Payload};

use super::settings::Settings;
use super::show::{self, Paint, Publication};
use super::{Failure, Outcome};

/// How many keys are asked for at once.
const PAGE: &str = "500";

pub(super) const WRITE_EXAMPLES: &str = "\
comet write news 'Hello, world'
comet write news -- --starts-with-dashes
comet write \"user:17\" \"$(cat message.txt)\"";

pub(super) const READ_EXAMPLES: &str = "\
comet read news";

pub(super) const DUMP_EXAMPLES: &str = "\
comet dump
comet dump | grep ^user:";

pub(super) const DELETE_EXAMPLES: &str = "\
comet delete news
comet delete news --history";

#[derive(Debug, clap::Args)]
pub(super) struct Write {
    /// The key
    key: OsString,
    /// The value, taken exactly
    #[arg(allow_hyphen_values = true)]
    value: OsString,
}

#[derive(Debug, clap::Args)]
pub(super) struct Read {
    /// The key
    key: OsString,
}

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// The key or channel
    key: OsString,
    /// Forget all that the channel has kept, not only its value
    #[arg(long)]
    history: bool,
}

impl Write {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let value = self.value.as_bytes();
        // A value that is no UTF-8 is no text; nothing of it may be lost.
        let kind = if std::str::from_utf8(value).is_ok() {
            "text"
        } else {
            "binary"
        };
        let path = Path::new("/v1/publish")
            .with("channel", name(&self.key)?)
            .with("kind", kind)
            .with("retain", "true")
            .with("seed_depth", "cli");
        let payload = Payload {
            media_type: media_type(kind),
            bytes: value,
        };
        settings.client()?.call("POST", &path, Some(payload))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Read {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let mut line = b"value:".to_vec();
        if let Some(body) = retained(&settings.client()?, name(&self.key)?)? {
            line.push(b' ');
            line.extend_from_slice(&parsed::<Publication<'_>>(&body)?.value());
        }
        line.push(b'\n');
        super::print(&line)
    }
}

impl Delete {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let what = if self.history {
            "/v1/history"
        } else {
            "/v1/retained"
        };
        let path = Path::new(what).with("channel", name(&self.key)?);
        match settings.client()?.call("DELETE", &path, None) {
            Ok(answer) => {
                // `true` for a value, a number of publications for a history.
                let deleted = &answer.json()?["deleted"];
                let nothing = deleted == &serde_json::json!(0) || deleted == &serde_json::json!(false);
                super::print(if nothing {
                    b"nothing to delete\n"
                } else {
                    b"deleted\n"
                })
            }
            Err(error) if error.status() == Some(404) => super::print(b"nothing to delete\n"),
            Err(error) => Err(error.into()),
        }
    }
}

/// The media type that goes with a kind.
pub(super) fn media_type(kind: &str) -> &'static str {
    match kind {
        "text" => "text/plain; charset=utf-8",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

/// The raw bytes of a channel's name.
pub(super) fn name(given: &OsStr) -> Result<&[u8], Failure> {
    match given.as_bytes() {
        [] => Err(Failure::usage("the name is empty: expected at least one byte")),
        name => Ok(name),
    }
}

/// What a channel retains, as a publication object.
fn retained(client: &Client, channel: &[u8]) -> Result<Option<Vec<u8>>, ClientError> {
    match client.get(&Path::new("/v1/retained").with("channel", channel)) {
        Ok(answer) => Ok(Some(answer.body)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An answer of the server as one of our types.
pub(super) fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(format!(
            "the answer is not that of a CometServer of this version: {error}"
        ))
    })
}

#[derive(Debug, Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    channels: Vec<Entry<'a>>,
    #[serde(default)]
    next: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Entry<'a> {
    channel: String,
    #[serde(default)]
    channel_base64: Option<String>,
    /// The retained publication.
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

/// Prints every key with its value, one a line, in the order of their first write.
pub(super) fn dump(settings: &Settings) -> Outcome {
    let client = settings.client()?;
    let paint = Paint::for_stdout();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut after = None;
    loop {
        let path = Path::new("/v1/channels")
            .with("retained", "1")
            .with("values", "1");
        let answer = client.get(&path.with("limit", PAGE).with_some("after", after.as_ref()))?;
        let page: Page<'_> = parsed(&answer.body)?;
        for entry in &page.channels {
            let key = show::exact_name(&entry.channel, entry.channel_base64.as_deref());
            let value = match entry.value {
                Some(value) => show::on_one_line(&parsed::<Publication<'_>>(value.get().as_bytes())?.value()),
                // Written or deleted while we were looking: ask again, and leave out what is gone.
                None => match retained(&client, &key)? {
                    Some(body) => show::on_one_line(&parsed::<Publication<'_>>(&body)?.value()),
                    None => continue,
                },
            };
            writeln!(out, "{}: {value}", paint.green(&show::on_one_line(&key)))?;
        }
        after = match page.next {
            Some(serde_json::Value::String(next)) => Some(next),
            Some(serde_json::Value::Number(next)) => Some(next.to_string()),
            _ => break,
        };
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
