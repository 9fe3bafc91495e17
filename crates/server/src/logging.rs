//! Logs on standard error: readable on a terminal, JSON lines otherwise.
//!
//! One thread writes them: a reader that is gone, a pipe that is full or a disk without room costs lines, which are counted, and
//! never the time or the life of whoever logs.
//!
//! Payloads, tokens, keys and cursors are never logged. Nothing here can see to that: it is the duty of whoever logs.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::dispatcher::set_global_default;
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel};

mod lines;

use lines::{Lines, Out};

/// What waits to be written, once logs are set up.
static LINES: OnceLock<Lines> = OnceLock::new();

/// How long the end of the process waits for its last lines: a reader that pauses has had the time, one that is stuck has not.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Json,
    Plain,
    Coloured,
}

/// Sends all logs of this process to standard error. Standard error may be pointed elsewhere later: it is only a
/// descriptor.
///
/// # Errors
/// Logs are set up already, and the first set-up stays; or there is no thread to write them.
pub fn init(format: LogFormat, level: LogLevel) -> io::Result<()> {
    let says = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let style = style(format, io::stderr().is_terminal(), says("NO_COLOR") || dumb);
    set_global_default(dispatch(style, level, || Queued)).map_err(io::Error::other)?;
    let lines = LINES.get_or_init(Lines::default);
    let run = move || lines.write_to(StandardError, |lost| notice(style, lost));
    let thread = std::thread::Builder::new().name("log-lines".to_owned());
    thread.spawn(run).map(drop)
}

/// Says a line on standard error, in order with the logs where they are set up. What nobody reads any more is not said.
pub fn say(line: &str) {
    match LINES.get() {
        Some(lines) => lines.push(format!("{line}\n").as_bytes()),
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Waits for the last lines, for as long as that makes sense. To be called at the end of the process.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES);
    }
}

/// How many lines of the log nobody could read, since the start.
pub fn lines_lost() -> u64 {
    LINES.get().map_or(0, Lines::lost)
}

/// Has panics logged. The hook that is there otherwise waits for a reader that does not read.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => tracing::error!(thread = name, %backtrace, "{panic}"),
            _ => tracing::error!(thread = name, "{panic}"),
        }
        if name == "main" {
            // Nobody else will.
            flush();
        }
    }));
}

/// The line that says how many were lost, in the style of the others.
fn notice(style: Style, lost: u64) -> Vec<u8> {
    let line = Arc::new(Mutex::new(Vec::new()));
    let writer = line.clone();
    tracing::dispatcher::with_default(
        &dispatch(style, LogLevel::Warn, move || Gathered(writer.clone())),
        || {
            tracing::warn!(
                lines = lost,
                "lines of this log were lost: they could not be written in time"
            )
        },
    );
    let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *line)
}

/// Puts each line in the queue.
struct Queued;

impl Write for Queued {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(lines) = LINES.get() {
            lines.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what is written.
struct Gathered(Arc<Mutex<Vec<u8>>>);

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The descriptor itself: std's own has a lock, which everybody would wait for who has a word to say.
struct StandardError;

impl Out for StandardError {
    fn write(&mut self, bytes: &[u8]) -> Result<(), usize> {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::io::Errno;
        let mut taken = 0;
        while taken < bytes.len() {
            match rustix::io::write(rustix::stdio::stderr(), &bytes[taken..]) {
                Ok(0) => return Err(taken),
                Ok(more) => taken += more,
                Err(Errno::INTR) => {}
                // Another process that has it too wants it so.
                Err(Errno::AGAIN) => {
                    let stderr = rustix::stdio::stderr();
                    let waited = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
                    if waited.is_err_and(|error| error != Errno::INTR) {
                        return Err(taken);
                    }
                }
                Err(_) => return Err(taken),
            }
        }
        Ok(())
    }
}

/// Colours only where a terminal shows them and nobody objects (<https://no-color.org>).
fn style(format: LogFormat, is_terminal: bool, no_colour: bool) -> Style {
    match format {
        LogFormat::Json => Style::Json,
        LogFormat::Auto if !is_terminal => Style::Json,
        LogFormat::Auto | LogFormat::Text if is_terminal && !no_colour => Style::Coloured,
        LogFormat::Auto | LogFormat::Text => Style::Plain,
    }
}

fn dispatch<W>(style: Style, level: LogLevel, writer: W) -> Dispatch
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(level))
        .with_writer(writer)
        // It says them with a macro that panics where standard error takes nothing.
        .log_internal_errors(false);
    match style {
        // Flat, one object a line: what log collectors index without being told how.
        Style::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .into(),
        Style::Plain | Style::Coloured => lines
            .with_target(false)
            .with_ansi(style == Style::Coloured)
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged at two levels, as it is written.
    fn logged(style: Style, level: LogLevel) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let lines = Arc::clone(&lines);
            move || Gathered(Arc::clone(&lines))
        };
        tracing::dispatcher::with_default(&dispatch(style, level, writer), || {
            tracing::info!(connections = 3, "draining");
            tracing::debug!("closed");
        });
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn colours_are_for_terminals_whose_user_did_not_object() {
        use LogFormat::{Auto, Json, Text};
        for (format, is_terminal, no_colour, expected) in [
            (Auto, true, false, Style::Coloured),
            (Auto, true, true, Style::Plain),
            (Auto, false, false, Style::Json),
            (Text, true, false, Style::Coloured),
            (Text, false, false, Style::Plain),
            (Json, true, false, Style::Json),
        ] {
            assert_eq!(
                style(format, is_terminal, no_colour),
                expected,
                "{format:?} {is_terminal} {no_colour}"
            );
        }
    }

    #[test]
    fn each_line_is_a_flat_json_object() {
        let text = logged(Style::Json, LogLevel::Info);
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["message"], &line["connections"], &line["level"]),
            (&"draining".into(), &3.into(), &"INFO".into())
        );
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn plain_text_has_no_escapes_and_coloured_text_has() {
        let plain = logged(Style::Plain, LogLevel::Debug);
        assert!(
            plain.contains("INFO draining connections=3\n") && plain.contains("DEBUG closed\n"),
            "{plain}"
        );
        assert!(!plain.contains('\x1b'));
        assert!(logged(Style::Coloured, LogLevel::Info).contains('\x1b'));
    }

    #[test]
    fn lost_lines_are_said_in_the_style_of_the_others() {
        let text = String::from_utf8(notice(Style::Json, 7)).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["lines"], &line["level"]), (&7.into(), &"WARN".into()));
        let text = String::from_utf8(notice(Style::Plain, 7)).unwrap();
        assert!(text.contains("lost") && text.ends_with(" lines=7\n"), "{text}");
    }

    #[test]
    fn what_is_below_the_level_is_not_logged() {
        assert_eq!(logged(Style::Plain, LogLevel::Warn), "");
    }
}
