//! How things look on a terminal: colours, and text that cannot play tricks on it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Colours, if there is somebody to see them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    pub(super) fn for_stdout() -> Self {
        Self {
            on: std::io::stdout().is_terminal() && wanted(),
        }
    }

    pub(super) fn for_stderr() -> Self {
        Self {
            on: std::io::stderr().is_terminal() && wanted(),
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.paint("31;1", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// <https://no-color.org>: set and not empty means no colour. A dumb terminal knows none.
fn wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The text on one line, control characters escaped, so that no value can move the cursor or fake a line.
pub(super) fn on_one_line(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                _ if character.is_control() => {
                    let _ = write!(line, "\\u{{{:x}}}", u32::from(character));
                }
                _ => line.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02x}");
        }
    }
    line
}

/// Warns that something is left out because it cannot be read.
pub(super) fn stepped_over(what: &str, reason: &str) {
    let what = on_one_line(what.as_bytes());
    let text = format!("comet: {what} is stepped over: it cannot be read ({reason})");
    // If nobody reads standard error, nobody misses it.
    let _ = writeln!(std::io::stderr(), "{}", Paint::for_stderr().yellow(&text));
}

/// A publication object of docs/protocol.md, as much of it as is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Publication<'a> {
    #[serde(default)]
    pub(super) channel: String,
    #[serde(default)]
    channel_base64: Option<String>,
    #[serde(default)]
    pub(super) offset: u64,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub(super) time: u64,
    #[serde(default)]
    pub(super) event: Option<String>,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    seed_token: Option<String>,
}

impl Publication<'_> {
    /// The channel's name, exactly.
    pub(super) fn channel_bytes(&self) -> Vec<u8> {
        exact_name(&self.channel, self.channel_base64.as_deref())
    }

    /// The payload as its publisher gave it: text and binary unpacked, JSON as it came.
    pub(super) fn payload(&self) -> Cow<'_, [u8]> {
        let raw = self.data.map_or("null", RawValue::get);
        let unpacked = || -> Option<Vec<u8>> {
            let text: String = serde_json::from_str(raw).ok()?;
            match self.kind.as_deref()? {
                "text" => Some(text.into_bytes()),
                "binary" => BASE64_STANDARD.decode(text).ok(),
                _ => None,
            }
        };
        unpacked().map_or(Cow::Borrowed(raw.as_bytes()), Cow::Owned)
    }

    /// The text behind the value of a key.
    ///
    /// A value written by an old client is kept as the token it sent; a command line's encodes once, so this one
    /// decodes once.
    pub(super) fn value(&self) -> Cow<'_, [u8]> {
        match self.seed_token.as_deref().and_then(crate::seed::token_of_member) {
            Some(token) => Cow::Owned(crate::seed::urldecode(&token)),
            None => self.payload(),
        }
    }
}

/// A channel's name: in base64 if it is no UTF-8.
pub(super) fn exact_name(shown: &str, base64: Option<&str>) -> Vec<u8> {
    base64
        .and_then(|name| BASE64_STANDARD.decode(name).ok())
        .unwrap_or_else(|| shown.as_bytes().to_vec())
}

/// A time of day, UTC, from milliseconds since 1970.
pub(super) fn time_of_day(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000 % 86_400;
    format!(
        "{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_line_or_drive_the_terminal() {
        assert_eq!(
            on_one_line("a\nb\t\u{1b}[31m\u{9b}\u{e9}".as_bytes()),
            "a\\nb\\t\\u{1b}[31m\\u{9b}\u{e9}"
        );
        assert_eq!(on_one_line(b"a\xff\xfeb"), "a\\xff\\xfeb");
    }

    #[test]
    fn payloads_are_shown_as_they_were_published() {
        let payload = |json: &str| {
            serde_json::from_str::<Publication<'_>>(json)
                .unwrap()
                .payload()
                .into_owned()
        };
        assert_eq!(payload(r#"{"kind":"text","data":"two\nlines"}"#), b"two\nlines");
        assert_eq!(payload(r#"{"kind":"binary","data":"/w=="}"#), b"\xff");
        assert_eq!(
            payload(r#"{"data":{"b": 1, "a":2.50}}"#),
            br#"{"b": 1, "a":2.50}"#
        );
        assert_eq!(payload(r#"{"data":"json text"}"#), br#""json text""#);
    }

    #[test]
    fn a_token_of_an_old_client_is_decoded_once() {
        let json = r#"{"kind":"text","data":"a b","seed_token":"YSUyQmI="}"#;
        assert_eq!(
            serde_json::from_str::<Publication<'_>>(json).unwrap().value(),
            b"a+b".as_slice()
        );
    }

    #[test]
    fn names_that_are_no_text_are_exact() {
        assert_eq!(exact_name("\u{fffd}", Some("/w==")), b"\xff");
        assert_eq!(exact_name("plain", None), b"plain");
        assert_eq!(time_of_day(1_000 * (86_400 + 3_600 + 120 + 3) + 999), "01:02:03Z");
    }
}
