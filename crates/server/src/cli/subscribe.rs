//! `subscribe`: prints messages as they come, over cuts and restarts.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Follow, Heard, Interest};

use super::settings::Settings;
use super::show::{self, Paint};
use super::values::{name, parsed};
use super::{Failure, Outcome, messages};

/// Pauses shorter than this are not worth a line.
const WORTH_SAYING: Duration = Duration::from_millis(400);

pub(super) const EXAMPLES: &str = "\
comet subscribe news
comet subscribe news prices --pattern 'user/*' --since earliest
comet subscribe news --count 1
comet subscribe orders --json | while read -r line; do ./handle \"$line\"; done";

#[derive(Debug, clap::Args)]
pub(super) struct Subscribe {
    /// Channels to listen to
    #[arg(value_name = "CHANNEL", required_unless_present = "pattern")]
    channels: Vec<OsString>,
    /// Listen to all channels that match: * is any run without /, ** any run; repeat it for more
    #[arg(long, value_name = "PATTERN")]
    pattern: Vec<String>,
    /// Begin after this cursor; `earliest`: with the oldest message kept; `now`: with the next
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// Do not begin with the present values of the channels
    #[arg(long)]
    no_retained: bool,
    /// Print one JSON object a line, each with the cursor to go on after it
    #[arg(long)]
    pub(super) json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Subscribe {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let channels = self
            .channels
            .iter()
            .map(|channel| name(channel).map(<[u8]>::to_vec));
        let interest = Interest {
            channels: channels.collect::<Result<_, _>>()?,
            patterns: self.pattern.clone(),
            since: self.since.clone(),
            retained: !self.no_retained,
        };
        let mut follow = Follow::new(settings.client()?, interest);
        let mut left = self.count;
        let mut is_cut = false;
        while left != Some(0) {
            match follow.listen()? {
                Heard::Object { line, object } => {
                    if std::mem::take(&mut is_cut) {
                        notice("connected again");
                    }
                    self.print(&line, &object)?;
                    if object["type"] == "publication" {
                        left = left.map(|left| left - 1);
                    }
                }
                Heard::Unreadable { what, reason } => show::stepped_over(&what, &reason),
                Heard::Cut { reason, pause } => {
                    if pause >= WORTH_SAYING {
                        is_cut = true;
                        notice(&format!("{reason}; trying again in {:.1} s", pause.as_secs_f32()));
                    }
                    std::thread::sleep(pause);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn print(&self, line: &[u8], object: &Value) -> Result<(), Failure> {
        let kind = object["type"].as_str().unwrap_or_default();
        if kind == "cursor" {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            out.write_all(line)?;
            out.write_all(b"\n")?;
        } else {
            let paint = Paint::for_stdout();
            let text = match kind {
                "publication" => messages::line(&parsed(line)?, paint),
                _ => paint.dim(&other(kind, object)),
            };
            writeln!(out, "{text}")?;
        }
        // Whoever reads this through a pipe wants it now.
        out.flush()?;
        Ok(())
    }
}

/// What is no message, in words.
fn other(kind: &str, object: &Value) -> String {
    let text = |field: &str| show::on_one_line(object[field].as_str().unwrap_or_default().as_bytes());
    let place = if object["pattern"].is_string() {
        text("pattern")
    } else {
        text("channel")
    };
    match kind {
        "gap" => format!("-- {place}: messages before this are no longer kept, some were missed"),
        "join" => format!("-- {place}: {} is here", text("user")),
        "leave" => format!("-- {place}: {} is gone", text("user")),
        "members" => format!("-- {place}: {} are here", object["count"]),
        "error" => format!("-- {}: {}", text("code"), text("message")),
        _ => format!("-- {}", show::on_one_line(object.to_string().as_bytes())),
    }
}

fn notice(text: &str) {
    let paint = Paint::for_stderr();
    // If nobody reads standard error, nobody misses it.
    let _ = writeln!(std::io::stderr(), "{}", paint.dim(&format!("comet: {text}")));
}
