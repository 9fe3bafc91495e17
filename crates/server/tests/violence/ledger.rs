//! What was sent, acknowledged and delivered, as seen from outside; contradictions are noted as they are seen.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::scene::{Promise, Scene};

/// Contradictions kept; one is enough to fail, and a hundred say no more than twenty.
const MAX_VIOLATIONS: usize = 20;

/// Characters of a contradiction: payloads may be long.
const MAX_TEXT: usize = 400;

/// A publication of the play: the publisher and its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Id {
    pub(super) publisher: u16,
    pub(super) number: u32,
}

/// A moment: moments of different threads compare as they happened.
pub(super) type Moment = u64;

/// A random word of the server's that tells one memory from another; 0 for what is durable.
pub(super) type Mark = u32;

/// What is known of a publication from its publisher.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) channels: Vec<u16>,
    pub(super) retain: bool,
    /// Filler bytes of its payload.
    pub(super) filler: u32,
    pub(super) kind: Kind,
    pub(super) first: Moment,
    pub(super) life: u32,
    pub(super) acked: Option<Moment>,
    pub(super) life_acked: u32,
    /// It was refused or lost on the way once: it may come later than what was sent after it.
    pub(super) loose: bool,
    /// Whether it is sent again until it is acknowledged.
    pub(super) keyed: bool,
}

/// How a payload travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Json,
    Text,
    Binary,
    /// A value of the seed's protocol.
    Token,
}

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    /// Before the first publication.
    Beginning,
    /// At a `now` that was asked for and received then.
    Now { asked: Moment, received: Moment },
}

/// What a subscriber met, in its order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Seen {
        id: Id,
        channel: u16,
        mark: Mark,
        offset: u64,
    },
    Gap {
        channels: Vec<u16>,
        /// In this life, or one before it.
        life: u32,
    },
}

/// A subscriber.
pub(super) struct Subscriber {
    pub(super) name: String,
    pub(super) channels: Vec<u16>,
    pub(super) start: Start,
    pub(super) first_mark: Option<Mark>,
    pub(super) events: Vec<Event>,
    pub(super) seen: HashSet<Id>,
    /// It left before the end, so that what is missing at its end is not missing.
    pub(super) left: bool,
    /// Subscriptions came late and one by one: no order across channels.
    pub(super) piecewise: bool,
}

/// One channel's publications by offset, under each mark.
#[derive(Default)]
pub(super) struct Truth {
    pub(super) histories: HashMap<Mark, Vec<Option<Id>>>,
    pub(super) place: HashMap<Id, (Mark, u64)>,
}

impl Truth {
    fn newest(&self) -> Option<Id> {
        *self.histories.values().next()?.last()?
    }
}

/// Everything.
pub(super) struct Records {
    pub(super) publishers: Vec<Vec<Sent>>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) truth: Vec<Truth>,
    /// Marks of memory in the order in which they were first seen.
    pub(super) marks: Vec<Mark>,
    pub(super) violations: Vec<String>,
    pub(super) gaps: u64,
}

/// See the module.
pub(super) struct Ledger {
    pub(super) scene: Scene,
    records: Mutex<Records>,
    clock: AtomicU64,
    /// Which start of the server this is.
    pub(super) life: AtomicU32,
    /// A life has ended otherwise than in good order.
    pub(super) killed: AtomicBool,
    /// Something is wrong: everybody stops.
    pub(super) broken: AtomicBool,
    pub(super) acked: AtomicU64,
    pub(super) delivered: AtomicU64,
}

impl Ledger {
    pub(super) fn new(scene: Scene, publishers: usize) -> Self {
        let truth = scene.channels.iter().map(|_| Truth::default()).collect();
        Self {
            scene,
            records: Mutex::new(Records {
                publishers: vec![Vec::new(); publishers],
                subscribers: Vec::new(),
                truth,
                marks: Vec::new(),
                violations: Vec::new(),
                gaps: 0,
            }),
            clock: AtomicU64::new(1),
            life: AtomicU32::new(0),
            killed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        }
    }

    pub(super) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn moment(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub(super) fn violation(&self, text: String) {
        self.note(&mut self.records(), text);
    }

    fn note(&self, records: &mut Records, mut text: String) {
        if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(at);
        }
        if records.violations.len() < MAX_VIOLATIONS {
            let life = self.life.load(Ordering::SeqCst);
            eprintln!("VIOLATION (life {life}): {text}");
            records.violations.push(format!("life {life}: {text}"));
        }
        self.broken.store(true, Ordering::SeqCst);
    }

    /// A new publication, about to be sent for the first time.
    pub(super) fn send(
        &self,
        publisher: u16,
        channels: Vec<u16>,
        kind: Kind,
        filler: u32,
        retain: bool,
        keyed: bool,
    ) -> Id {
        let mut records = self.records();
        let list = &mut records.publishers[usize::from(publisher)];
        let number = u32::try_from(list.len()).expect("a run is not that long");
        list.push(Sent {
            channels,
            retain,
            filler,
            kind,
            first: self.moment(),
            life: self.life.load(Ordering::SeqCst),
            acked: None,
            life_acked: 0,
            loose: false,
            keyed,
        });
        Id { publisher, number }
    }

    /// The server refused it, or it was lost where it may turn up late.
    pub(super) fn loosen(&self, id: Id) {
        let mut records = self.records();
        records.publishers[usize::from(id.publisher)][id.number as usize].loose = true;
    }

    /// A publish answer: `{"channels":[{"channel","offset","epoch"}],"cursor"}`, without offsets where it is told before it is visible.
    pub(super) fn acknowledge(&self, id: Id, answer: &Value) {
        let mut guard = self.records();
        let records = &mut *guard;
        let mark = answer["cursor"]
            .as_str()
            .and_then(marks)
            .map(|(_, memory)| memory);
        let sent = &mut records.publishers[usize::from(id.publisher)][id.number as usize];
        if sent.acked.is_none() {
            sent.acked = Some(self.moment());
            sent.life_acked = self.life.load(Ordering::SeqCst);
            self.acked.fetch_add(1, Ordering::Relaxed);
        }
        let wanted = sent.channels.clone();
        for place in answer["channels"].as_array().into_iter().flatten() {
            let (Some(name), Some(offset)) = (place["channel"].as_str(), place["offset"].as_u64()) else {
                continue;
            };
            match self.scene.number(name) {
                Some(channel) if wanted.contains(&channel) => {
                    let mark = if self.scene.is_durable(channel) {
                        Some(0)
                    } else {
                        mark
                    };
                    if let Some(mark) = mark {
                        self.place(records, channel, mark, offset, id, "an acknowledgement");
                    }
                }
                _ => self.note(
                    records,
                    format!("{id:?} was published to {wanted:?}, acknowledged in {name}"),
                ),
            }
        }
    }

    /// Where somebody saw it. Two places of one publication, or two publications in one place, are a contradiction.
    fn place(&self, records: &mut Records, channel: u16, mark: Mark, offset: u64, id: Id, who: &str) {
        if mark != 0 && !records.marks.contains(&mark) {
            records.marks.push(mark);
        }
        let truth = &mut records.truth[usize::from(channel)];
        let before = *truth.place.entry(id).or_insert((mark, offset));
        let history = truth.histories.entry(mark).or_default();
        let at = offset as usize;
        let other = match at {
            0 => None,
            at => {
                history.resize(history.len().max(at), None);
                Some(*history[at - 1].get_or_insert(id))
            }
        };
        let name = self.scene.name(channel);
        if other.is_none() {
            self.note(records, format!("offset 0 in {name}, says {who}"));
        } else if before != (mark, offset) {
            let now = (mark, offset);
            self.note(
                records,
                format!("{id:?} is in {name} twice: at {before:?} and {now:?}, says {who}"),
            );
        } else if other != Some(id) {
            self.note(
                records,
                format!("offset {offset} of {name} was {other:?} and is {id:?} now, says {who}"),
            );
        }
    }

    pub(super) fn subscribe(&self, name: String, channels: Vec<u16>, start: Start, piecewise: bool) -> usize {
        let mut records = self.records();
        records.subscribers.push(Subscriber {
            name,
            channels,
            start,
            first_mark: None,
            events: Vec::new(),
            seen: HashSet::new(),
            left: false,
            piecewise,
        });
        records.subscribers.len() - 1
    }

    /// A subscriber got its opening cursor: what is published from now on is owed to it.
    pub(super) fn opened(&self, subscriber: usize, cursor: &str) {
        let mut records = self.records();
        let received = self.moment();
        let subscriber = &mut records.subscribers[subscriber];
        if subscriber.first_mark.is_none() {
            subscriber.first_mark = marks(cursor).map(|(_, memory)| memory);
            let first = subscriber.first_mark.unwrap_or(0);
            if let Start::Now { received: at, .. } = &mut subscriber.start {
                *at = received;
            }
            if !records.marks.contains(&first) {
                records.marks.push(first);
            }
        }
    }

    /// A publication object reached a subscriber, with the cursor that came beside it.
    pub(super) fn deliver(&self, subscriber: usize, object: &Value, cursor: Option<&str>) -> Option<Id> {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.records();
        let records = &mut *guard;
        let who = records.subscribers[subscriber].name.clone();
        let (id, channel, offset) = self.recognise(records, object, &who)?;
        let mark = if self.scene.is_durable(channel) {
            0
        } else {
            // Without a cursor of its own it is told by the connection's.
            cursor.and_then(marks).map_or(0, |(_, memory)| memory)
        };
        if !self.scene.is_durable(channel) && mark == 0 {
            self.note(records, format!("{who} has no cursor beside {object}"));
            return None;
        }
        self.place(records, channel, mark, offset, id, &who);
        let reader = &mut records.subscribers[subscriber];
        // Who subscribes late is caught up on a channel, also with what it has seen in another.
        let elsewhere = |event: &Event| matches!(event, Event::Seen { id: other, channel: seen, .. } if *other == id && *seen != channel);
        let again = !reader.seen.insert(id);
        if !reader.channels.contains(&channel) {
            self.note(records, format!("{who} got {object} without having asked for it"));
        } else if again && !(reader.piecewise && reader.events.iter().any(elsewhere)) {
            self.note(records, format!("{who} got {id:?} twice: {object}"));
        } else {
            reader.events.push(Event::Seen {
                id,
                channel,
                mark,
                offset,
            });
        }
        Some(id)
    }

    /// A publication object was found in a history or as a retained value.
    pub(super) fn find(&self, object: &Value, who: &str) -> Option<(Id, u64)> {
        let mut guard = self.records();
        let (id, channel, offset) = self.recognise(&mut guard, object, who)?;
        if self.scene.is_durable(channel) {
            self.place(&mut guard, channel, 0, offset, id, who);
        }
        Some((id, offset))
    }

    /// A gap was told.
    pub(super) fn gap(&self, subscriber: usize, object: &Value) {
        let mut guard = self.records();
        let records = &mut *guard;
        records.gaps += 1;
        let who = records.subscribers[subscriber].name.clone();
        let channels = match (object["channel"].as_str(), object["pattern"].as_str()) {
            (Some(name), _) => self.scene.number(name).into_iter().collect(),
            (None, Some(pattern)) => self.scene.starting(pattern.trim_end_matches('*')),
            (None, None) => Vec::new(),
        };
        let (life, killed) = (
            self.life.load(Ordering::SeqCst),
            self.killed.load(Ordering::SeqCst),
        );
        let may = |channel: &u16| match self.scene.promise(*channel) {
            Promise::Short | Promise::Memory => true,
            // What was answered may have been lost; not by stops in good order.
            Promise::Buffered => killed,
            Promise::Durable => false,
        };
        if channels.is_empty() || !channels.iter().any(may) {
            self.note(
                records,
                format!("{who} was told of a gap where nothing may be gone: {object}"),
            );
        }
        records.subscribers[subscriber]
            .events
            .push(Event::Gap { channels, life });
    }

    /// Which publication this is; its payload must be exactly what was sent.
    fn recognise(&self, records: &mut Records, object: &Value, who: &str) -> Option<(Id, u16, u64)> {
        let text = text_of(object);
        let id = text.as_deref().and_then(id_of);
        let sent = id.and_then(|id| {
            let list = records.publishers.get(usize::from(id.publisher))?;
            list.get(id.number as usize)
        });
        let channel = object["channel"]
            .as_str()
            .and_then(|name| self.scene.number(name));
        let (Some(id), Some(sent), Some(channel), Some(offset)) =
            (id, sent, channel, object["offset"].as_u64())
        else {
            self.note(records, format!("{who} got what nobody sent: {object}"));
            return None;
        };
        if text.as_deref() != Some(&content(id, sent.filler, sent.kind)) {
            self.note(
                records,
                format!("{who} got another payload than was sent: {object}"),
            );
        } else if !sent.channels.contains(&channel) {
            self.note(
                records,
                format!("{who} got {id:?} in the wrong channel: {object}"),
            );
        }
        Some((id, channel, offset))
    }

    /// How many were acknowledged before their commit and are gone.
    pub(super) fn lost(&self) -> u64 {
        let records = self.records();
        let mut lost = 0;
        for (list, publisher) in records.publishers.iter().zip(0..) {
            for (sent, number) in list.iter().zip(0..) {
                let place = &records.truth[usize::from(sent.channels[0])].place;
                let is_buffered = self.scene.promise(sent.channels[0]) == Promise::Buffered;
                let is_gone = sent.acked.is_some() && !place.contains_key(&Id { publisher, number });
                lost += u64::from(is_buffered && is_gone);
            }
        }
        lost
    }

    /// Whether a subscriber has all of these, or was told at the end that they are gone.
    pub(super) fn has_all(&self, subscriber: usize, last: &[(u16, Id)]) -> bool {
        let records = self.records();
        let subscriber = &records.subscribers[subscriber];
        let told = |channel: u16| {
            let mut events = subscriber.events.iter().rev();
            let newest = events.find(|event| match event {
                Event::Seen { channel: seen, .. } => *seen == channel,
                Event::Gap { channels, .. } => channels.contains(&channel),
            });
            matches!(newest, Some(Event::Gap { .. }))
        };
        let mut last = last.iter();
        last.all(|(channel, id)| {
            let is_short = self.scene.promise(*channel) == Promise::Short;
            // Of a short history only the newest is waited for.
            let newest = || records.truth[usize::from(*channel)].newest() == Some(*id);
            subscriber.seen.contains(id) || (is_short && (told(*channel) || !newest()))
        })
    }
}

/// The text of a publication: its name and some filler that every encoding on the way has to carry.
pub(super) fn content(id: Id, filler: u32, kind: Kind) -> String {
    let rich = [
        "a", "b7", " ", "é", "\"", "\\", "\n", "😀", "</", "%2", "data: ", "^",
    ];
    let plain = ["a", "b7", "c", "D", "-", "0", "9", "xyz"];
    let pieces: &[&str] = if kind == Kind::Token { &plain } else { &rich };
    let mut text = format!("{}-{}-", id.publisher, id.number);
    let (begin, mut n) = (text.len(), id.number.wrapping_mul(2_654_435_761) ^ filler);
    while text.len() < begin + filler as usize {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(pieces[(n >> 16) as usize % pieces.len()]);
    }
    text
}

fn id_of(text: &str) -> Option<Id> {
    let mut parts = text.splitn(3, '-');
    Some(Id {
        publisher: parts.next()?.parse().ok()?,
        number: parts.next()?.parse().ok()?,
    })
}

/// What binary payloads are made of: the text, so turned that it is no UTF-8.
pub(super) fn turned(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| byte ^ 0xa5).collect()
}

fn text_of(object: &Value) -> Option<String> {
    let data = &object["data"];
    match object["kind"].as_str() {
        None => data["s"].as_str().map(str::to_owned),
        Some("text") => data.as_str().map(str::to_owned),
        Some("binary") => String::from_utf8(turned(&STANDARD.decode(data.as_str()?).ok()?)).ok(),
        Some(_) => None,
    }
}

/// The marks in a cursor, durable and memory. Clients never look into one; a judge may.
pub(super) fn marks(cursor: &str) -> Option<(Mark, Mark)> {
    let raw = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let mark = |at: usize| Some(u32::from_be_bytes(raw.get(at..at + 4)?.try_into().ok()?));
    Some((mark(1)?, mark(5)?))
}
