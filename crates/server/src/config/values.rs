//! The values of settings: text from a file, a variable or a flag, turned into something with a unit and a bound.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Units of time, with their length in milliseconds.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Units of size. Only the unambiguous ones: nobody agrees whether a KB has 1000 bytes.
const SIZE_UNITS: &[(&str, usize)] = &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];

/// What is wrong with a value and what was expected instead, for the end of an error text.
pub(super) type Problem = String;

/// A value as it was written, before a setting has given it a meaning.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    written: Written,
    /// Where relative paths start: the folder of the file, or the working directory.
    base: PathBuf,
}

#[derive(Clone, Debug)]
enum Written {
    Text(String),
    List(Vec<String>),
    /// Something no setting takes, named for the error text.
    Other(&'static str),
}

impl Raw {
    /// A single value, or a list with commas.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self {
            written: Written::Text(text.into()),
            base: PathBuf::new(),
        }
    }

    /// A list.
    pub(super) fn list(items: Vec<String>) -> Self {
        Self {
            written: Written::List(items),
            base: PathBuf::new(),
        }
    }

    /// A thing that is no value of any setting, such as a table.
    pub(super) fn other(name: &'static str) -> Self {
        Self {
            written: Written::Other(name),
            base: PathBuf::new(),
        }
    }

    /// The same, with relative paths starting at `base`.
    pub(super) fn relative_to(mut self, base: impl Into<PathBuf>) -> Self {
        self.base = base.into();
        self
    }

    fn as_text(&self) -> Option<&str> {
        match &self.written {
            Written::Text(text) => Some(text),
            Written::List(_) | Written::Other(_) => None,
        }
    }

    fn items(&self) -> Option<Vec<&str>> {
        match &self.written {
            Written::Text(text) => {
                // As a variable has it, or as the file does: an address in brackets has a port behind them.
                let inside = text
                    .trim()
                    .strip_prefix('[')
                    .and_then(|text| text.strip_suffix(']'));
                let items = inside.unwrap_or(text).split(',').map(unquoted);
                Some(items.filter(|item| !item.is_empty()).collect())
            }
            Written::List(items) => Some(items.iter().map(String::as_str).collect()),
            Written::Other(_) => None,
        }
    }
}

/// The value as an error text shows it.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.written {
            Written::Text(text) => write!(f, "{text:?}"),
            Written::List(items) => write!(f, "{items:?}"),
            Written::Other(name) => f.write_str(name),
        }
    }
}

/// The public listeners before which a front web server stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// All of them.
    All,
    /// These: `None` is the Unix socket, `Some` an address as it stands in `public.listen`.
    Listed(Vec<Option<SocketAddr>>),
}

impl Proxied {
    /// Whether the listener at this TCP address, or the Unix socket for `None`, is one of them.
    pub fn has(&self, listener: Option<SocketAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.contains(&listener),
        }
    }

    /// Whether it is none: then nobody is believed about a visitor's address, no gateway either.
    pub fn is_off(&self) -> bool {
        *self == Self::Listed(Vec::new())
    }

    /// The TCP addresses that are named.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let listed = match self {
            Self::All => &[][..],
            Self::Listed(listed) => listed,
        };
        listed.iter().flatten().copied()
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Readable on a terminal, JSON lines otherwise.
    Auto,
    /// Readable.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what needs somebody's attention now.
    Error,
    /// And what may soon need it.
    Warn,
    /// And what the server as a whole does: start, stop, reload.
    Info,
    /// And what single connections do.
    Debug,
    /// And everything else.
    Trace,
}

/// Where the publications of a namespace are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// In memory: a crash loses them.
    Memory,
    /// On disk, their publisher answered at once.
    Buffered,
    /// On disk, their publisher answered when they are safe.
    Fsync,
}

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish and set, read or delete retained values.
    Publish,
    /// Read and delete history.
    History,
    /// See who is on a channel.
    Presence,
    /// Stop, reload, list channels.
    Admin,
    /// Health in detail, metrics, statistics.
    Ops,
    /// Listen to any channel.
    Subscribe,
}

/// A whole number of at least `least`.
pub(super) fn count_from(least: usize) -> impl Fn(&Raw) -> Result<usize, Problem> {
    move |raw| {
        let number = raw.as_text().and_then(|text| text.parse().ok());
        let number: usize = number.ok_or("expected a whole number such as 1000")?;
        if number < least {
            Err(format!("expected at least {least}"))
        } else {
            Ok(number)
        }
    }
}

/// A whole number within bounds.
pub(super) fn count_within(least: usize, most: usize) -> impl Fn(&Raw) -> Result<usize, Problem> {
    move |raw| match count_from(least)(raw)? {
        number if number > most => Err(format!("expected at most {most}")),
        number => Ok(number),
    }
}

/// A whole number where 0 means "no bound" or "choose yourself".
pub(super) fn count_or_zero(raw: &Raw) -> Result<Option<usize>, Problem> {
    count_from(0)(raw).map(|number| (number > 0).then_some(number))
}

/// A number of bytes with its unit, within bounds.
pub(super) fn size(least: usize, most: usize) -> impl Fn(&Raw) -> Result<usize, Problem> {
    move |raw| {
        let number = raw
            .as_text()
            .and_then(|text| with_unit(text, SIZE_UNITS, usize::checked_mul));
        let number = number.ok_or("expected a size such as 64KiB or 1MiB")?;
        match number {
            _ if number < least => Err(format!("expected at least {}", shown_size(least))),
            _ if number > most => Err(format!("expected at most {}", shown_size(most))),
            _ => Ok(number),
        }
    }
}

/// A number of bytes with its unit where 0 means "choose yourself".
pub(super) fn size_or_zero(raw: &Raw) -> Result<Option<usize>, Problem> {
    match raw.as_text() {
        Some("0") => Ok(None),
        _ => size(0, usize::MAX)(raw).map(|number| (number > 0).then_some(number)),
    }
}

/// A time with its unit.
pub(super) fn duration(raw: &Raw) -> Result<Duration, Problem> {
    let millis = raw
        .as_text()
        .and_then(|text| with_unit(text, DURATION_UNITS, u64::checked_mul));
    Ok(Duration::from_millis(
        millis.ok_or("expected a duration such as 90s or 7d")?,
    ))
}

/// A time of at least `least` seconds.
pub(super) fn duration_from(least: u64) -> impl Fn(&Raw) -> Result<Duration, Problem> {
    move |raw| {
        let time = duration(raw)?;
        if time < Duration::from_secs(least) {
            Err(format!("expected at least {least}s"))
        } else {
            Ok(time)
        }
    }
}

/// A time where 0 means "never" or "for ever".
pub(super) fn duration_or_zero(raw: &Raw) -> Result<Option<Duration>, Problem> {
    duration(raw).map(|time| (!time.is_zero()).then_some(time))
}

/// So many a second.
pub(super) fn rate(raw: &Raw) -> Result<usize, Problem> {
    let number = raw
        .as_text()
        .and_then(|text| text.strip_suffix("/s")?.trim_end().parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| "expected a rate such as 100/s".into())
}

/// So many per cent, of which there are a hundred.
pub(super) fn percent(raw: &Raw) -> Result<usize, Problem> {
    let number = raw
        .as_text()
        .and_then(|text| text.strip_suffix('%')?.trim_end().parse().ok());
    number
        .filter(|number| (1..=100).contains(number))
        .ok_or_else(|| "expected a part from 1% to 100%".into())
}

/// Yes or no.
pub(super) fn switch(raw: &Raw) -> Result<bool, Problem> {
    match raw.as_text() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// Any text.
pub(super) fn text(raw: &Raw) -> Result<String, Problem> {
    raw.as_text()
        .map(str::to_owned)
        .ok_or_else(|| "expected a text".into())
}

/// A text where nothing means "not set".
pub(super) fn optional_text(raw: &Raw) -> Result<Option<String>, Problem> {
    text(raw).map(|text| (!text.is_empty()).then_some(text))
}

/// A path; nothing stays nothing, to be filled in from what else is known.
pub(super) fn path(raw: &Raw) -> Result<PathBuf, Problem> {
    let text = text(raw).map_err(|_| "expected a path")?;
    match text {
        _ if text.contains('\0') => Err("expected a path without a NUL byte".into()),
        _ if text.is_empty() => Ok(PathBuf::new()),
        _ => Ok(raw.base.join(text)),
    }
}

/// A path, or `off`.
pub(super) fn path_or_off(raw: &Raw) -> Result<Option<PathBuf>, Problem> {
    if raw.as_text() == Some("off") {
        Ok(None)
    } else {
        path(raw).map(Some)
    }
}

/// A path where nothing means "not set".
pub(super) fn optional_path(raw: &Raw) -> Result<Option<PathBuf>, Problem> {
    path(raw).map(|path| (!path.as_os_str().is_empty()).then_some(path))
}

/// Permission bits in octal. The leading 0 is required: a decimal 432 would otherwise pass for something else.
pub(super) fn mode(raw: &Raw) -> Result<u32, Problem> {
    let digits = raw
        .as_text()
        .and_then(|text| text.strip_prefix("0o").or(text.strip_prefix('0')));
    let mode = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected an octal mode such as \"0660\"".into())
}

/// TCP addresses with their ports.
pub(super) fn addresses(raw: &Raw) -> Result<Vec<SocketAddr>, Problem> {
    let parse = |item: &str| SocketAddr::from_str(item).ok();
    let parsed = items(
        raw,
        "addresses and ports such as 127.0.0.1:8080 or [::]:8080",
        parse,
    );
    parsed.map_err(|problem| {
        let given = raw.items().unwrap_or_default();
        match given
            .into_iter()
            .filter(|item| parse(item).is_none())
            .find_map(meant)
        {
            Some(advice) => format!("{problem}; {advice}"),
            None => problem,
        }
    })
}

/// What to write instead of something that is nearly an address.
fn meant(item: &str) -> Option<String> {
    let item = item.trim_start_matches("http://").trim_end_matches('/');
    if let Ok(address) = item.parse::<SocketAddr>() {
        return Some(format!("write {address}"));
    }
    if let Ok(ip) = item.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(format!(
            "the port is missing: write {}",
            SocketAddr::new(ip, 8080)
        ));
    }
    let (host, port) = item.rsplit_once(':').unwrap_or(("", item));
    let here_or_all = |port: u16| {
        format!("write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for every network")
    };
    match (host, port.parse::<u16>()) {
        ("" | "*", Ok(port)) => Some(here_or_all(port)),
        ("localhost", Ok(port)) => Some(format!("write 127.0.0.1:{port}")),
        (_, Ok(port)) => Some(format!("a name is no address: {}", here_or_all(port))),
        (_, Err(_)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some("a port is a number from 1 to 65535".to_owned())
        }
        _ => None,
    }
}

/// See [`Proxied`].
pub(super) fn proxied(raw: &Raw) -> Result<Proxied, Problem> {
    match raw.as_text() {
        Some("true") => return Ok(Proxied::All),
        Some("false") => return Ok(Proxied::Listed(Vec::new())),
        _ => {}
    }
    let listed = items(
        raw,
        "\"socket\" and addresses of public.listen, such as [\"socket\", \"127.0.0.1:8080\"]; or true for all, false for none",
        |item| match item {
            "socket" => Some(None),
            address => SocketAddr::from_str(address).ok().map(Some),
        },
    );
    listed.map(Proxied::Listed)
}

/// TCP addresses that only this machine can reach.
pub(super) fn loopback_addresses(raw: &Raw) -> Result<Vec<SocketAddr>, Problem> {
    let addresses = addresses(raw)?;
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(address) => Err(format!(
            "{address} can be reached from other machines, and nothing here asks for a key: expected an address such as 127.0.0.1:8081"
        )),
        None => Ok(addresses),
    }
}

/// Origins of web pages, as a browser writes them: lower case, no path. `*` is any; `null` and `file://` are pages without a host.
pub(super) fn origins(raw: &Raw) -> Result<Vec<String>, Problem> {
    items(
        raw,
        "origins such as https://example.org, without a path",
        |item| {
            let origin = item.to_ascii_lowercase();
            let host = origin.split_once("://").map(|(_, host)| host);
            let plain = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', '*', ' ']);
            let is_word = matches!(&*origin, "*" | "null" | "file://");
            (is_word || host.is_some_and(plain)).then_some(origin)
        },
    )
}

/// The start of a path that a front web server puts before ours; empty for none.
pub(super) fn base_path(raw: &Raw) -> Result<String, Problem> {
    let path = text(raw)?;
    let plain = path
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%'));
    let fine =
        path.is_empty() || (path.starts_with('/') && !path.ends_with('/') && !path.contains("//") && plain);
    if fine {
        Ok(path)
    } else {
        Err("expected a path such as /push, without a / at its end".into())
    }
}

/// See [`LogLevel`].
pub(super) fn log_level(raw: &Raw) -> Result<LogLevel, Problem> {
    word(
        raw,
        &[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ],
    )
}

/// See [`LogFormat`].
pub(super) fn log_format(raw: &Raw) -> Result<LogFormat, Problem> {
    word(
        raw,
        &[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ],
    )
}

/// See [`Durability`].
pub(super) fn durability(raw: &Raw) -> Result<Durability, Problem> {
    word(
        raw,
        &[
            ("fsync", Durability::Fsync),
            ("buffered", Durability::Buffered),
            ("memory", Durability::Memory),
        ],
    )
}

/// See [`Action`].
pub(super) fn actions(raw: &Raw) -> Result<Vec<Action>, Problem> {
    const WORDS: &[(&str, Action)] = &[
        ("publish", Action::Publish),
        ("history", Action::History),
        ("presence", Action::Presence),
        ("admin", Action::Admin),
        ("ops", Action::Ops),
        ("subscribe", Action::Subscribe),
    ];
    items(
        raw,
        "actions out of publish, history, presence, admin, ops, subscribe",
        |item| {
            WORDS
                .iter()
                .find(|(word, _)| *word == item)
                .map(|(_, action)| *action)
        },
    )
}

/// A pattern over channel names, in the notation of the native protocol.
pub(super) fn pattern(raw: &Raw) -> Result<String, Problem> {
    let pattern = text(raw)?;
    let backslashes = pattern.bytes().rev().take_while(|b| *b == b'\\').count();
    if pattern.is_empty() || backslashes % 2 == 1 {
        return Err("expected a pattern over channel names such as news/*, not ending in a single \\".into());
    }
    Ok(pattern)
}

fn word<T: Copy>(raw: &Raw, words: &[(&str, T)]) -> Result<T, Problem> {
    let found = words.iter().find(|(word, _)| raw.as_text() == Some(word));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("expected {}", one_of(&names))
    })
}

fn items<T>(raw: &Raw, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Problem> {
    let parsed = raw
        .items()
        .and_then(|items| items.into_iter().map(parse).collect());
    parsed.ok_or_else(|| format!("expected a list of {expected}"))
}

/// A text without the quotes that it has in the file.
pub(crate) fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let within = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

/// `a, b or c`.
fn one_of(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A number and its unit; only 0 goes without one.
fn with_unit<N: FromStr + Copy>(text: &str, units: &[(&str, N)], times: fn(N, N) -> Option<N>) -> Option<N> {
    if text == "0" {
        return text.parse().ok();
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    times(number.parse().ok()?, *factor)
}

fn shown_size(bytes: usize) -> String {
    let unit = SIZE_UNITS[..3]
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => format!("{}{name}", bytes / factor),
        None => format!("{bytes}B"),
    }
}
