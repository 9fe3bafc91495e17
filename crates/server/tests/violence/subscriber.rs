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
use super::listening::{self, Heard, Listening, SILENCE, Transport};
use super::wire::{Door, Http, encode};

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
    /// Takes its time over what it reads, so that it is always behind.
    pub(super) slow: bool,
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
    absent: u64,
    slow: bool,
    channels: Vec<u16>,
    chance: Chance,
    finals: Arc<Finals>,
    listening: Listening,
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
        let mut query = String::from("retained=0");
        match &habits.interest {
            Interest::Pattern(pattern) => query.push_str(&format!("&pattern={}", encode(pattern))),
            Interest::Channels(_) => {
                for channel in &channels {
                    query.push_str(&format!("&channel={}", encode(ledger.scene.name(*channel))));
                }
            }
        }
        Self {
            ledger,
            number,
            absent: habits.absent,
            slow: habits.slow,
            places: vec![None; channels.len()],
            channels,
            chance,
            finals,
            listening: Listening {
                transport: habits.transport,
                door: habits.door,
                query,
                cursor: None,
            },
            wanted: None,
            until: None,
        }
    }

    /// A page that is opened, with a cursor it asked for before, and closed after a while.
    pub(super) fn visitor(mut self, now: &str, asked: u64, until: Instant) -> Self {
        self.listening.cursor = Some(now.to_owned());
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
        let mut http = Http::connect(&self.listening.door, SILENCE)?;
        let answer = http.get("/v1/now")?.json()?;
        let cursor = answer["cursor"].as_str().unwrap_or_default().to_owned();
        self.ledger.opened(self.number, &cursor);
        self.places.fill(Some(cursor.clone()));
        self.listening.cursor = Some(cursor);
        Ok(())
    }

    /// Listens until it has everything, or its time is up, or something is broken.
    pub(super) fn run(mut self) {
        while !self.done() {
            let ended = match self.listening.transport {
                Transport::Commands => self.commands(),
                _ => self.connection(),
            };
            if let Err(error) = ended
                && matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            {
                let name = &self.ledger.records().subscribers[self.number].name.clone();
                self.ledger.violation(format!("{name}: silence for {SILENCE:?}"));
            }
            let calm = self.finals.calm.load(Ordering::Relaxed);
            let long = !calm && self.absent > 0 && self.chance.one_in(self.absent);
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

    fn connection(&mut self) -> io::Result<()> {
        let mut listening = Listening {
            query: self.listening.query.clone(),
            door: self.listening.door.clone(),
            cursor: self.listening.cursor.clone(),
            ..self.listening
        };
        let mut chance = self.chance.fork(0);
        let mut chance_of_slowness = self.chance.fork(1);
        self.chance.next();
        let ended = listening.connection(&mut chance, &mut |heard| {
            self.hear(&heard);
            if self.slow && !self.finals.calm.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(chance_of_slowness.between(0, 6)));
            }
            !self.done()
        });
        self.listening = listening;
        ended
    }

    fn hear(&self, heard: &Heard<'_>) {
        match heard {
            Heard::Object(object, cursor) => self.object(object, *cursor),
            // Starting, or going away: come back.
            Heard::Refused(503, _) => {}
            Heard::Refused(status, text) => self
                .ledger
                .violation(format!("a subscriber was refused: {status} {text}")),
            Heard::Nonsense(text) => self.ledger.violation(text.clone()),
        }
    }

    fn object(&self, object: &Value, cursor: Option<&str>) {
        // Who listens to everything hears what its owner judges.
        if object["channel"]
            .as_str()
            .is_some_and(|name| name.starts_with("own/"))
        {
            return;
        }
        match object["type"].as_str() {
            Some("publication") => drop(self.ledger.deliver(self.number, object, cursor)),
            Some("gap") => self.ledger.gap(self.number, object),
            Some("cursor" | "reconnect" | "subscribed") | None => {}
            Some(_) => self
                .ledger
                .violation(format!("an object nobody asked for: {object}")),
        }
    }

    /// Subscribes to its channels one by one from where it stood in each. What comes before `subscribed` counts only with it.
    fn commands(&mut self) -> io::Result<()> {
        let opened = listening::open(&self.listening.door, "/v1/ws", &mut |heard| {
            self.hear(&heard);
            true
        });
        let Some(mut socket) = opened? else { return Ok(()) };
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
}
