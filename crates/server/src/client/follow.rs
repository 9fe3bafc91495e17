//! Listening to channels for as long as it takes: a stream that goes on at its cursor after every cut.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::answer::Incoming;
use super::{Client, ClientError, Path};

/// The first pause after a cut, before chance; doubles with every failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause, so that everybody is back within some 20 s of a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// The longest line we take, above the largest messages that make sense.
const MAX_LINE: usize = 256 << 20;

/// What to listen to, and from where.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    /// Channels, as raw bytes.
    pub channels: Vec<Vec<u8>>,
    /// Patterns over channels.
    pub patterns: Vec<String>,
    /// A cursor, `now` or `earliest`; without it, now, and the retained values first.
    pub since: Option<String>,
    /// Whether the retained values come first.
    pub retained: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Heard {
    /// A line of the stream, and what it says: any object of docs/protocol.md but `reconnect`.
    Object {
        /// The line as it came, without its end.
        line: Vec<u8>,
        /// The same, parsed.
        object: Value,
    },
    /// A line of which a value cannot be read, though the server sent it whole: an older one took what is refused today. It
    /// is stepped over.
    Unreadable {
        /// Which one, for people: its channel and offset, or what it is.
        what: String,
        /// Why.
        reason: String,
    },
    /// The stream ended; call again after the pause.
    Cut {
        /// Why, for people.
        reason: String,
        /// How long to wait.
        pause: Duration,
    },
}

/// What is around the value of a line: passing over a value takes its grammar alone.
#[derive(Debug, Deserialize)]
struct Around {
    #[serde(rename = "type")]
    kind: String,
    channel: String,
    #[serde(default)]
    offset: Option<u64>,
    #[serde(default)]
    cursor: Option<String>,
}

/// Follows channels over cuts and restarts.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    interest: Interest,
    cursor: Option<String>,
    stream: Option<Lines>,
    ever_heard: bool,
    failures: u32,
}

impl Follow {
    /// Connects with the first call of [`Follow::listen`].
    pub fn new(client: Client, interest: Interest) -> Self {
        Self {
            client,
            interest,
            cursor: None,
            stream: None,
            ever_heard: false,
            failures: 0,
        }
    }

    /// Where we are; `None` until the server has said so.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// What no patience repairs: every failure before anything was heard, later only those that do not pass.
    pub fn listen(&mut self) -> Result<Heard, ClientError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => match self.client.open(&self.path()) {
                Ok(incoming) => self.stream.insert(Lines::new(incoming)),
                Err(error) if self.ever_heard && error.may_pass() => {
                    return Ok(self.cut(error.to_string(), None));
                }
                Err(error) => return Err(error),
            },
        };
        match stream.next() {
            Ok(Some(line)) => Ok(self.heard(line)),
            Ok(None) => Ok(self.cut("the server closed the stream".to_owned(), None)),
            Err(error) => {
                let error = self.client.explain(error);
                Ok(self.cut(error.to_string(), None))
            }
        }
    }

    fn heard(&mut self, line: Vec<u8>) -> Heard {
        let object: Value = match serde_json::from_slice(&line) {
            Ok(object) => object,
            Err(error) => return self.step_over(&line, &error),
        };
        if object["type"] == "reconnect" {
            let asked = object["after_ms"].as_u64().map(Duration::from_millis);
            self.ever_heard = true;
            return self.cut("the server asks to come back later".to_owned(), asked);
        }
        self.advance(object["cursor"].as_str());
        Heard::Object { line, object }
    }

    /// Goes on behind a line that cannot be read, if what is around its value can.
    fn step_over(&mut self, line: &[u8], error: &serde_json::Error) -> Heard {
        let Ok(around) = serde_json::from_slice::<Around>(line) else {
            return self.cut(format!("the server sent a line that is no JSON: {error}"), None);
        };
        self.advance(around.cursor.as_deref());
        Heard::Unreadable {
            what: match around.offset {
                Some(offset) => format!("{} #{offset}", around.channel),
                None => format!("{}, {}", around.channel, around.kind),
            },
            reason: error.to_string(),
        }
    }

    /// Notes that something came, and where we are behind it.
    fn advance(&mut self, cursor: Option<&str>) {
        if let Some(cursor) = cursor {
            self.cursor = Some(cursor.to_owned());
        }
        // A server that opens a stream and closes it at once, again and again, is to be called ever more rarely.
        if self.stream.as_ref().is_some_and(|stream| stream.lines > 1) {
            self.failures = 0;
        }
        self.ever_heard = true;
    }

    fn cut(&mut self, reason: String, asked: Option<Duration>) -> Heard {
        self.stream = None;
        let pause = match asked {
            Some(asked) => asked.min(LONGEST_ASKED),
            None => back_off(self.failures, chance()),
        };
        self.failures = self.failures.saturating_add(1);
        Heard::Cut { reason, pause }
    }

    fn path(&self) -> Path {
        let interest = &self.interest;
        let path = interest
            .channels
            .iter()
            .fold(Path::new("/v1/stream"), |path, name| path.with("channel", name));
        let path = interest
            .patterns
            .iter()
            .fold(path, |path, pattern| path.with("pattern", pattern));
        let path = path.with_some("cursor", self.cursor.as_ref().or(interest.since.as_ref()));
        if interest.retained {
            path
        } else {
            path.with("retained", "0")
        }
    }
}

/// The pause before the next try: doubling, and from half of it to all of it by chance (0 to 1), so that
/// a crowd that was cut together does not come back together.
fn back_off(failures: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE
        .saturating_mul(1 << failures.min(16))
        .min(LONGEST_PAUSE);
    doubled.mul_f64(0.5 + chance / 2.0)
}

fn chance() -> f64 {
    // Without randomness the longest pause is the safe one.
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

/// A body cut into lines.
#[derive(Debug)]
struct Lines {
    incoming: Incoming,
    pending: Vec<u8>,
    lines: u64,
}

impl Lines {
    fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            pending: Vec::new(),
            lines: 0,
        }
    }

    /// The next line that is not empty.
    fn next(&mut self) -> Result<Option<Vec<u8>>, super::connection::Error> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.pending[searched..]) {
                let rest = self.pending.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.truncate(searched + at);
                searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                self.lines += 1;
                return Ok(Some(line));
            }
            searched = self.pending.len();
            if searched > MAX_LINE {
                return Err(super::connection::Error::Protocol(
                    "a line of the stream is too long".to_owned(),
                ));
            }
            if !self.incoming.next_piece(&mut self.pending)? {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_spread_by_chance() {
        assert_eq!(back_off(0, 1.0), FIRST_PAUSE);
        assert_eq!(back_off(0, 0.0), FIRST_PAUSE / 2);
        assert_eq!(back_off(2, 1.0), FIRST_PAUSE * 4);
        assert_eq!(back_off(u32::MAX, 1.0), LONGEST_PAUSE);
        assert!((0.0..=1.0).contains(&chance()));
    }
}
