//! Logs on standard error: readable on a terminal, JSON lines otherwise.
//!
//! Payloads, tokens, keys and cursors are never logged. Nothing here can see to that: it is the duty of whoever logs.

use std::io::{self, IsTerminal};

use tracing::dispatcher::{SetGlobalDefaultError, set_global_default};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel};

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
/// Logs are set up already; the first set-up stays.
pub fn init(format: LogFormat, level: LogLevel) -> Result<(), SetGlobalDefaultError> {
    let says = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let style = style(format, io::stderr().is_terminal(), says("NO_COLOR") || dumb);
    set_global_default(dispatch(style, level, io::stderr))
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
        .with_writer(writer);
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
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged at two levels, as it is written.
    fn logged(style: Style, level: LogLevel) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let lines = Arc::clone(&lines);
            move || Lines(Arc::clone(&lines))
        };
        tracing::dispatcher::with_default(&dispatch(style, level, writer), || {
            tracing::info!(connections = 3, "draining");
            tracing::debug!("closed");
        });
        String::from_utf8(lines.lock().unwrap().clone()).unwrap()
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
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
    fn what_is_below_the_level_is_not_logged() {
        assert_eq!(logged(Style::Plain, LogLevel::Warn), "");
    }
}
