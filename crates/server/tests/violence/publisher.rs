//! Publishers: each sends numbered publications through one door, and repeats what it does not know the fate of.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::chance::Chance;
use super::ledger::{Id, Kind, Ledger, turned};
use super::wire::{Door, Http, Socket, WebSocket, encode, seed};

/// How long an answer may take before nobody is believed to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a publication is repeated before that is a fault of its own: longer than any recovery.
const STUBBORN: Duration = Duration::from_secs(60);

/// Through which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Single,
    Batch,
    WebSocket,
    Seed,
}

/// One publisher's habits.
#[derive(Clone)]
pub(super) struct Habits {
    pub(super) call: Call,
    pub(super) door: Door,
    /// Connections may be cut: what was sent may arrive late.
    pub(super) cut: bool,
    /// Under idempotency keys, repeated until acknowledged; else sent once.
    pub(super) keyed: bool,
    /// Prefixes of channels, one of which is chosen each time.
    pub(super) prefixes: Vec<&'static str>,
    /// How many at once: in a batch, or under way on a WebSocket.
    pub(super) together: u64,
    /// Every payload is large.
    pub(super) heavy: bool,
    /// The pause between two turns, at most.
    pub(super) pause_ms: u64,
}

/// A publisher at work.
pub(super) struct Publisher {
    ledger: Arc<Ledger>,
    number: u16,
    habits: Habits,
    chance: Chance,
    end: Arc<AtomicBool>,
    /// Acknowledged under a key, newest last: repeated now and then.
    acked: Vec<(Id, Instant)>,
}

/// What became of a request.
enum Outcome {
    /// An answer for each publication.
    Answers(Vec<Value>),
    /// The connection broke: some may have been carried out.
    Broken,
}

impl Publisher {
    pub(super) fn new(
        ledger: Arc<Ledger>,
        number: u16,
        habits: Habits,
        chance: Chance,
        end: Arc<AtomicBool>,
    ) -> Self {
        Self {
            ledger,
            number,
            habits,
            chance,
            end,
            acked: Vec::new(),
        }
    }

    /// Publishes until told to end, then one last publication in each channel, which must be acknowledged.
    pub(super) fn run(mut self) -> Vec<(u16, Id)> {
        while !self.ended() {
            let count = self.chance.between(1, self.habits.together);
            let ids: Vec<Id> = (0..count).map(|_| self.invent(None)).collect();
            self.publish(&ids, self.habits.keyed);
            if self.habits.keyed && self.chance.one_in(30) {
                self.repeat_an_old_one();
            }
            thread::sleep(self.chance.millis(0, self.habits.pause_ms));
        }
        let mut last = Vec::new();
        for prefix in self.habits.prefixes.clone() {
            for channel in self.ledger.scene.starting(prefix) {
                if self.ledger.broken.load(Ordering::Relaxed) {
                    return last;
                }
                let id = self.invent(Some(channel));
                self.publish(&[id], self.habits.keyed);
                last.push((channel, id));
            }
        }
        last
    }

    fn ended(&self) -> bool {
        self.end.load(Ordering::Relaxed) || self.ledger.broken.load(Ordering::Relaxed)
    }

    fn invent(&mut self, channel: Option<u16>) -> Id {
        let prefix = *self.chance.of(&self.habits.prefixes);
        let choices = self.ledger.scene.starting(prefix);
        let mut channels = vec![channel.unwrap_or_else(|| *self.chance.of(&choices))];
        // One publication in several channels; a subscriber of two of them gets it once.
        if channel.is_none()
            && prefix == "kept/main/"
            && self.habits.call != Call::Seed
            && self.chance.one_in(8)
        {
            channels = choices
                .into_iter()
                .take(self.chance.between(2, 3) as usize)
                .collect();
        }
        // In several channels of different durability: the strictest decides when it is shown.
        let mixed = self.habits.call == Call::WebSocket && self.habits.prefixes.contains(&"memory/");
        if channel.is_none() && mixed && prefix == "kept/main/" && self.chance.one_in(6) {
            let memory = self.ledger.scene.starting("memory/");
            channels.truncate(1);
            channels.push(*self.chance.of(&memory));
        }
        let kind = match (self.habits.call, self.chance.below(6)) {
            (Call::Seed, _) => Kind::Token,
            (_, 0) => Kind::Text,
            (_, 1) => Kind::Binary,
            _ => Kind::Json,
        };
        let filler = match self.chance.below(400) {
            _ if self.habits.heavy => self.chance.between(10_000, 60_000),
            0 => self.chance.between(20_000, 150_000),
            1..20 => self.chance.between(1_000, 8_000),
            _ => self.chance.between(0, 200),
        };
        let retain = self.habits.call == Call::Seed || (prefix == "kept/last/" && self.chance.one_in(2));
        let keyed = self.habits.keyed;
        let is_mixed = mixed && channels.len() > 1;
        let id = self
            .ledger
            .send(self.number, channels, kind, filler as u32, retain, keyed);
        // While it waits for the disk, what is sent to memory after it is shown already.
        if is_mixed {
            self.ledger.loosen(id);
        }
        id
    }

    /// Sends these; under keys until each is acknowledged.
    fn publish(&mut self, ids: &[Id], repeat: bool) {
        let mut open = ids.to_vec();
        let begun = Instant::now();
        self.wait_for_somebody();
        while !open.is_empty() {
            open = self.attempt(&open, false);
            if !repeat || self.ledger.broken.load(Ordering::Relaxed) {
                break;
            }
            if !open.is_empty() {
                if begun.elapsed() > STUBBORN {
                    self.ledger
                        .violation(format!("{open:?} are not taken for {STUBBORN:?}"));
                    break;
                }
                thread::sleep(self.chance.millis(1, 20));
            }
        }
        if self.habits.keyed {
            let done = ids.iter().map(|id| (*id, Instant::now()));
            self.acked.extend(done);
            let excess = self.acked.len().saturating_sub(5_000);
            self.acked.drain(..excess);
        }
    }

    /// What is sent once is not sent to nobody.
    fn wait_for_somebody(&self) {
        let begun = Instant::now();
        while Socket::connect(&self.habits.door, PATIENCE).is_err() && begun.elapsed() < STUBBORN {
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// A key that was used before must give what it gave then, also after a crash.
    fn repeat_an_old_one(&mut self) {
        let (id, when) = *self.chance.clone().of(&self.acked);
        // The server remembers keys for five minutes.
        if when.elapsed() < Duration::from_secs(240) {
            let _ = self.attempt(&[id], true);
        }
    }

    /// One request; returns what is not acknowledged.
    fn attempt(&mut self, ids: &[Id], again: bool) -> Vec<Id> {
        let outcome = match self.habits.call {
            Call::Single => self.single(ids),
            Call::Batch => self.batch(ids),
            Call::WebSocket => self.socket(ids),
            Call::Seed => self.seed(ids),
        };
        let answers = match outcome {
            Ok(Outcome::Answers(answers)) => answers,
            Ok(Outcome::Broken) => Vec::new(),
            Err(error) => {
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                    self.ledger
                        .violation(format!("{ids:?}: no answer within {PATIENCE:?}"));
                }
                // Nobody there yet; the server is being started.
                thread::sleep(Duration::from_millis(3));
                Vec::new()
            }
        };
        let mut open = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            match answers.get(at) {
                Some(answer) if answer["channels"].is_array() => {
                    if again && answer["duplicate"] != true {
                        self.ledger.violation(format!(
                            "{id:?} was repeated under its key and published again: {answer}"
                        ));
                    }
                    self.ledger.acknowledge(*id, answer);
                }
                Some(refused) => {
                    let problem = if refused["error"].is_object() {
                        &refused["error"]
                    } else {
                        refused
                    };
                    let code = problem["code"].as_str().unwrap_or_default();
                    // Of the rare ones too many may be in use at once.
                    let may = ["unavailable", "unknown_outcome"].contains(&code)
                        || code == "limit_reached" && self.habits.prefixes.contains(&"rare/");
                    if !may {
                        self.ledger.violation(format!("{id:?} was refused: {refused}"));
                    }
                    self.ledger.loosen(*id);
                    open.push(*id);
                }
                None => {
                    if self.habits.cut && !self.habits.keyed {
                        self.ledger.loosen(*id);
                    }
                    open.push(*id);
                }
            }
        }
        open
    }

    fn object(&self, id: Id) -> Value {
        let sent = self.ledger.records().publishers[usize::from(id.publisher)][id.number as usize].clone();
        let text = super::ledger::content(id, sent.filler, sent.kind);
        let names: Vec<&str> = sent
            .channels
            .iter()
            .map(|channel| self.ledger.scene.name(*channel))
            .collect();
        let mut object = match sent.kind {
            Kind::Json => json!({"data": {"s": text}}),
            Kind::Text | Kind::Token => json!({"data": text, "kind": "text"}),
            Kind::Binary => json!({"data": STANDARD.encode(turned(text.as_bytes())), "kind": "binary"}),
        };
        match names[..] {
            [name] => object["channel"] = name.into(),
            _ => object["channels"] = names.into(),
        }
        if sent.retain {
            object["retain"] = true.into();
        }
        if sent.keyed {
            object["idempotency_key"] = format!("{}-{}", id.publisher, id.number).into();
        }
        object
    }

    /// One after another on one connection, kept alive.
    fn single(&mut self, ids: &[Id]) -> io::Result<Outcome> {
        let mut http = Http::connect(&self.habits.door, PATIENCE)?;
        let mut answers = Vec::new();
        for id in ids {
            let object = self.object(*id);
            // A text may come the handier way.
            let answer = match (object["kind"] == "text", object["channel"].as_str()) {
                (true, Some(name)) => {
                    let mut path = format!("/v1/publish?channel={}", encode(name));
                    if let Some(key) = object["idempotency_key"].as_str() {
                        path.push_str(&format!("&idempotency_key={key}"));
                    }
                    if object["retain"] == true {
                        path.push_str("&retain=1");
                    }
                    let data = object["data"].as_str().unwrap_or_default();
                    http.request("POST", &path, "Content-Type: text/plain\r\n", data.as_bytes())
                }
                _ => {
                    let json = object.to_string();
                    http.request(
                        "POST",
                        "/v1/publish",
                        "Content-Type: application/json\r\n",
                        json.as_bytes(),
                    )
                }
            };
            match answer.and_then(|answer| answer.json()) {
                Ok(answer) => answers.push(answer),
                Err(error) if is_timeout(&error) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Outcome::Answers(answers))
    }

    fn batch(&mut self, ids: &[Id]) -> io::Result<Outcome> {
        let mut http = Http::connect(&self.habits.door, PATIENCE)?;
        let objects: Vec<Value> = ids.iter().map(|id| self.object(*id)).collect();
        let json = json!({"publications": objects}).to_string();
        let answer = http.request(
            "POST",
            "/v1/batch",
            "Content-Type: application/json\r\n",
            json.as_bytes(),
        );
        let answer = match answer.and_then(|answer| answer.json()) {
            Ok(answer) => answer,
            Err(error) if is_timeout(&error) => return Err(error),
            Err(_) => return Ok(Outcome::Broken),
        };
        match answer["results"].as_array() {
            Some(results) => Ok(Outcome::Answers(results.clone())),
            None => Ok(Outcome::Answers(vec![answer; ids.len()])),
        }
    }

    /// All under way at once on one WebSocket.
    fn socket(&mut self, ids: &[Id]) -> io::Result<Outcome> {
        let mut socket = match WebSocket::connect(&self.habits.door, "/v1/ws", PATIENCE)? {
            Ok(socket) => socket,
            Err(answer) => return Ok(Outcome::Answers(vec![answer.json()?; ids.len()])),
        };
        for (at, id) in ids.iter().enumerate() {
            let mut command = self.object(*id);
            command["type"] = "publish".into();
            command["id"] = at.into();
            if socket.send(&command.to_string()).is_err() {
                break;
            }
        }
        let mut answers = vec![Value::Null; ids.len()];
        let mut missing = ids.len();
        while missing > 0 {
            let object = match socket.next() {
                Ok(Some(object)) => object,
                Err(error) if is_timeout(&error) => return Err(error),
                _ => break,
            };
            let at = object["id"].as_u64().map(|at| at as usize);
            if let ("published" | "error", Some(at)) = (object["type"].as_str().unwrap_or_default(), at) {
                answers[at] = object;
                missing -= 1;
            }
        }
        self.acknowledge_some(ids, answers)
    }

    /// Answers on a WebSocket may be missing in the middle.
    fn acknowledge_some(&mut self, ids: &[Id], answers: Vec<Value>) -> io::Result<Outcome> {
        let known = answers.iter().take_while(|answer| !answer.is_null()).count();
        for (id, answer) in ids.iter().zip(&answers).skip(known) {
            if answer["channels"].is_array() {
                self.ledger.acknowledge(*id, answer);
            }
        }
        Ok(Outcome::Answers(answers.into_iter().take(known).collect()))
    }

    fn seed(&mut self, ids: &[Id]) -> io::Result<Outcome> {
        let mut answers = Vec::new();
        for id in ids {
            let object = self.object(*id);
            let name = object["channel"].as_str().unwrap_or_default();
            let request = format!("write {name} {}", object["data"].as_str().unwrap_or_default());
            match seed(&self.habits.door, &request, PATIENCE) {
                Ok(answer) if answer == "ok" => answers.push(json!({"channels": []})),
                // Its answers have no codes: whatever is not ok has not been written.
                Ok(answer) => answers.push(json!({"code": "unavailable", "detail": answer})),
                Err(error) if is_timeout(&error) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Outcome::Answers(answers))
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
