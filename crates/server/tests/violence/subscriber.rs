//! Subscribers over each transport: they come back with their last cursor, whatever cut them off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chance::Chance;
use super::ledger::{Id, Ledger, Start};
use super::wire::{Door, Http, WebSocket, encode, find};

/// A stream is never silent for so long: heartbeats come every 2 s.
const SILENCE: Duration = Duration::from_secs(30);

/// How a subscriber listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Sse,
    Stream,
    Poll,
    WebSocket,
    /// A WebSocket that subscribes by commands, one channel after another, and comes back to each from its old place.
    Commands,
}

/// What to listen to.
#[derive(Clone, Debug)]
pub(super) enum Interest {
    /// Channels whose names begin so.
    Channels(Vec<&'static str>),
    Pattern(&'static str),
}

/// One subscriber's habits.
#[derive(Clone)]
pub(super) struct Habits {
    pub(super) transport: Transport,
    pub(super) door: Door,
    pub(super) interest: Interest,
    /// One in so many returns comes after a long absence.
    pub(super) absent: u64,
}

/// What all subscribers wait for at the end.
#[derive(Default)]
pub(super) struct Finals {
    /// No absences any more.
    pub(super) calm: AtomicBool,
    /// The last publication of each channel and publisher.
    pub(super) ids: Mutex<Option<Vec<(u16, Id)>>>,
}

/// A subscriber at work.
pub(super) struct Subscriber {
    ledger: Arc<Ledger>,
    pub(super) number: usize,
    habits: Habits,
    channels: Vec<u16>,
    chance: Chance,
    finals: Arc<Finals>,
    cursor: Option<String>,
    wanted: Option<Vec<(u16, Id)>>,
    /// Leaves by then.
    until: Option<Instant>,
    /// With [`Transport::Commands`]: where it stands in each channel.
    places: Vec<Option<String>>,
}

impl Subscriber {
    pub(super) fn new(
        ledger: Arc<Ledger>,
        name: &str,
        habits: Habits,
        chance: Chance,
        finals: Arc<Finals>,
    ) -> Self {
        let channels: Vec<u16> = match &habits.interest {
            Interest::Channels(prefixes) => prefixes.iter().flat_map(|p| ledger.scene.starting(p)).collect(),
            Interest::Pattern(pattern) => ledger.scene.starting(pattern.trim_end_matches('*')),
        };
        let piecewise = habits.transport == Transport::Commands;
        let number = ledger.subscribe(name.to_owned(), channels.clone(), Start::Beginning, piecewise);
        Self {
            ledger,
            number,
            habits,
            places: vec![None; channels.len()],
            channels,
            chance,
            finals,
            cursor: None,
            wanted: None,
            until: None,
        }
    }

    /// A page that is opened, with a cursor it asked for before, and closed after a while.
    pub(super) fn visitor(mut self, now: &str, asked: u64, until: Instant) -> Self {
        self.cursor = Some(now.to_owned());
        self.until = Some(until);
        let received = self.ledger.moment();
        let mut records = self.ledger.records();
        records.subscribers[self.number].start = Start::Now { asked, received };
        drop(records);
        self.ledger.opened(self.number, now);
        self
    }

    /// Connects for the first time; from then on everything is owed to it.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let mut http = Http::connect(&self.habits.door, SILENCE)?;
        let answer = http.get("/v1/now")?.json()?;
        let cursor = answer["cursor"].as_str().unwrap_or_default().to_owned();
        self.ledger.opened(self.number, &cursor);
        self.places.fill(Some(cursor.clone()));
        self.cursor = Some(cursor);
        Ok(())
    }

    /// Listens until it has everything, or its time is up, or something is broken.
    pub(super) fn run(mut self) {
        while !self.done() {
            let ended = match self.habits.transport {
                Transport::Sse | Transport::Stream => self.stream(),
                Transport::Poll => self.polls(),
                Transport::WebSocket => self.socket(),
                Transport::Commands => self.commands(),
            };
            if let Err(error) = ended
                && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            {
                let name = &self.ledger.records().subscribers[self.number].name.clone();
                self.ledger.violation(format!("{name}: silence for {SILENCE:?}"));
            }
            let calm = self.finals.calm.load(Ordering::Relaxed);
            let long = !calm && self.habits.absent > 0 && self.chance.one_in(self.habits.absent);
            thread::sleep(if long {
                self.chance.millis(1_000, 6_000)
            } else {
                self.chance.millis(0, 30)
            });
        }
        if self.until.is_some() {
            self.ledger.records().subscribers[self.number].left = true;
        }
    }

    fn done(&mut self) -> bool {
        if self.ledger.broken.load(Ordering::Relaxed)
            || self.until.is_some_and(|until| Instant::now() > until)
        {
            return true;
        }
        if self.wanted.is_none() {
            let ids = self.finals.ids.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = |ids: &Vec<(u16, Id)>| {
                let mine = ids.iter().filter(|(channel, _)| self.channels.contains(channel));
                mine.copied().collect()
            };
            self.wanted = ids.as_ref().map(mine);
        }
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|wanted| self.ledger.has_all(self.number, wanted))
    }

    fn query(&self) -> String {
        let mut query = String::from("retained=0");
        match &self.habits.interest {
            Interest::Pattern(pattern) => query.push_str(&format!("&pattern={}", encode(pattern))),
            Interest::Channels(_) => {
                for channel in &self.channels {
                    query.push_str(&format!("&channel={}", encode(self.ledger.scene.name(*channel))));
                }
            }
        }
        if let Some(cursor) = &self.cursor {
            query.push_str(&format!("&cursor={cursor}"));
        }
        query
    }

    fn stream(&mut self) -> io::Result<()> {
        let is_sse = self.habits.transport == Transport::Sse;
        let path = format!("/v1/{}?{}", if is_sse { "sse" } else { "stream" }, self.query());
        let mut http = Http::connect(&self.habits.door, SILENCE)?;
        let status = http.open("GET", &path, "", b"")?;
        if status != 200 {
            let mut body = Vec::new();
            while http.piece(&mut body)? {}
            self.refused(status, &String::from_utf8_lossy(&body));
            return Ok(());
        }
        let mut received = Vec::new();
        while !self.done() && http.piece(&mut received)? {
            let end: &[u8] = if is_sse { b"\n\n" } else { b"\n" };
            while let Some(at) = find(&received, end) {
                let piece: Vec<u8> = received.drain(..at + end.len()).collect();
                let text = String::from_utf8(piece).map_err(|_| io::ErrorKind::InvalidData)?;
                if is_sse {
                    self.block(&text)
                } else {
                    self.line(&text)
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &str) {
        let (mut id, mut data) = (None, None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) => data = Some(value),
                _ => {}
            }
        }
        if let Some(data) = data {
            match serde_json::from_str(data) {
                Ok(object) => self.object(&object, id.as_deref()),
                Err(error) => self.ledger.violation(format!("{error}: {block:?}")),
            }
        }
        if id.is_some() {
            self.cursor = id;
        }
    }

    fn line(&mut self, line: &str) {
        match serde_json::from_str::<Value>(line) {
            Ok(object) => self.whole(&object),
            Err(error) => self.ledger.violation(format!("{error}: {line:?}")),
        }
    }

    /// An object with its cursor in it.
    fn whole(&mut self, object: &Value) {
        let cursor = object["cursor"].as_str();
        self.object(object, cursor);
        if let Some(cursor) = cursor {
            self.cursor = Some(cursor.to_owned());
        }
    }

    fn object(&mut self, object: &Value, cursor: Option<&str>) {
        match object["type"].as_str().unwrap_or_default() {
            "publication" => {
                self.ledger.deliver(self.number, object, cursor);
            }
            "gap" => self.ledger.gap(self.number, object),
            "cursor" | "reconnect" | "subscribed" => {}
            _ => self
                .ledger
                .violation(format!("an object nobody asked for: {object}")),
        }
    }

    fn polls(&mut self) -> io::Result<()> {
        let mut http = Http::connect(&self.habits.door, SILENCE)?;
        while !self.done() {
            let wait = self.chance.between(0, 1_500);
            let limit = self.chance.magnitude(1, 1_000);
            let path = format!("/v1/poll?{}&wait_ms={wait}&limit={limit}", self.query());
            let answer = http.get(&path)?;
            if answer.status != 200 {
                self.refused(answer.status, &answer.text());
                return Ok(());
            }
            let answer = answer.json()?;
            let cursor = answer["cursor"].as_str();
            for object in answer["publications"].as_array().into_iter().flatten() {
                self.object(object, cursor);
            }
            if let Some(cursor) = cursor {
                self.cursor = Some(cursor.to_owned());
            }
            if self.chance.one_in(10) {
                break;
            }
        }
        Ok(())
    }

    fn socket(&mut self) -> io::Result<()> {
        let path = format!("/v1/ws?{}", self.query());
        let mut socket = self.connect(&path)?;
        while !self.done() {
            match socket.next()? {
                Some(object) => self.whole(&object),
                None => break,
            }
        }
        Ok(())
    }

    fn connect(&mut self, path: &str) -> io::Result<WebSocket> {
        WebSocket::connect(&self.habits.door, path, SILENCE).inspect_err(|error| {
            if error.kind() == io::ErrorKind::ConnectionRefused && !error.to_string().starts_with("503") {
                let text = error.to_string();
                if text.starts_with(|first: char| first.is_ascii_digit()) {
                    self.ledger.violation(format!("a WebSocket was refused: {text}"));
                }
            }
        })
    }

    /// Subscribes to its channels one by one from where it stood in each. What comes before `subscribed` counts only with it.
    fn commands(&mut self) -> io::Result<()> {
        let mut socket = self.connect("/v1/ws")?;
        let count = self.channels.len();
        let mut live = vec![false; count];
        let mut early: Vec<Vec<Value>> = vec![Vec::new(); count];
        let mut asked = 0;
        let mut mark = None;
        while !self.done() {
            // The next one when the last is there, so that each comes late.
            if asked < count && live[..asked].iter().all(|live| *live) {
                let name = self.ledger.scene.name(self.channels[asked]);
                let since = self.places[asked].as_deref().unwrap_or("earliest");
                let command =
                    json!({"type": "subscribe", "channel": name, "since": since, "retained": false});
                socket.send(&command.to_string())?;
                asked += 1;
            }
            let Some(object) = socket.next()? else { break };
            if let Some(cursor) = object["cursor"].as_str() {
                mark = Some(cursor.to_owned());
            }
            let number = object["channel"]
                .as_str()
                .and_then(|name| self.ledger.scene.number(name));
            let at = number.and_then(|number| self.channels.iter().position(|channel| *channel == number));
            match (object["type"].as_str().unwrap_or_default(), at) {
                ("publication" | "gap", Some(at)) if !live[at] => early[at].push(object),
                ("subscribed", Some(at)) => {
                    live[at] = true;
                    for object in std::mem::take(&mut early[at]) {
                        self.object(&object, mark.as_deref());
                    }
                    self.places[at] = object["cursor"].as_str().map(str::to_owned);
                }
                ("error", _) => {
                    if object["code"] != "unavailable" {
                        self.ledger
                            .violation(format!("a subscription was refused: {object}"));
                    }
                    break;
                }
                _ => {
                    self.object(&object, mark.as_deref());
                    // A cursor covers everything that is subscribed; the rest keeps its old place.
                    if let Some(cursor) = object["cursor"].as_str() {
                        for (place, live) in self.places.iter_mut().zip(&live) {
                            if *live {
                                *place = Some(cursor.to_owned());
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn refused(&self, status: u16, text: &str) {
        // Starting, or going away: come back.
        if status != 503 {
            self.ledger
                .violation(format!("a subscriber was refused: {status} {text}"));
        }
    }
}
