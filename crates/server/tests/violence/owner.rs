//! One publisher with a channel of its own, which also deletes: what it sees must be what it did, kill or no kill.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::chance::Chance;
use super::ledger::Ledger;
use super::wire::{Answer, Door, Http};

const PATIENCE: Duration = Duration::from_secs(30);

const CHANNEL: &str = "own/0";

/// After so many publications the history is deleted, so that one answer has all of it.
const MOST: usize = 60;

/// How the channel may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    history: Vec<String>,
    retained: Option<String>,
}

/// See the module.
pub(super) struct Owner {
    ledger: Arc<Ledger>,
    door: Door,
    chance: Chance,
    number: u64,
    /// One state, or two where it is not known whether the last thing was done.
    states: Vec<State>,
    /// Who was given which offset under which epoch.
    given: HashMap<(String, u64), String>,
}

impl Owner {
    pub(super) fn new(ledger: Arc<Ledger>, door: Door, chance: Chance) -> Self {
        Self {
            ledger,
            door,
            chance,
            number: 0,
            states: vec![State::default()],
            given: HashMap::new(),
        }
    }

    pub(super) fn run(mut self, end: &AtomicBool) {
        while !self.ledger.broken.load(Ordering::Relaxed) {
            // Looks once more in the end.
            let ending = end.load(Ordering::Relaxed);
            match self.look() {
                Ok(()) if ending => return,
                Ok(()) => self.act(),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
            thread::sleep(self.chance.millis(0, 60));
        }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        Http::connect(&self.door, PATIENCE)?.request(
            method,
            path,
            "Content-Type: text/plain\r\n",
            body.as_bytes(),
        )
    }

    /// Does one thing.
    fn act(&mut self) {
        let before = self.states[0].clone();
        let mut after = before.clone();
        let full = before.history.len() >= MOST;
        let (method, path, text) = match self.chance.below(8) {
            _ if full => ("DELETE", "/v1/history", String::new()),
            0 => ("DELETE", "/v1/history", String::new()),
            1 => ("DELETE", "/v1/retained", String::new()),
            choice => {
                self.number += 1;
                let path = if choice < 5 {
                    "/v1/publish?retain=1"
                } else {
                    "/v1/publish?retain=0"
                };
                ("POST", path, format!("own {}", self.number))
            }
        };
        match path {
            "/v1/history" => after = State::default(),
            "/v1/retained" => after.retained = None,
            _ => {
                after.history.push(text.clone());
                if path.ends_with('1') {
                    after.retained = Some(text.clone());
                }
            }
        }
        let separator = if path.contains('?') { '&' } else { '?' };
        match self.ask(method, &format!("{path}{separator}channel={CHANNEL}"), &text) {
            Ok(answer) if answer.status == 200 => {
                self.states = vec![after];
                if let Ok(json) = answer.json()
                    && method == "POST"
                {
                    self.give(&json, &text);
                }
            }
            // The rare ones are in the way.
            Ok(answer) if answer.status == 429 => {}
            Ok(answer) if answer.status != 503 => {
                self.ledger.violation(format!(
                    "{method} {path} of {CHANNEL}: {} {}",
                    answer.status,
                    answer.text()
                ));
            }
            // Nobody there, or not known.
            _ => self.states = vec![before, after],
        }
    }

    fn give(&mut self, answer: &Value, text: &str) {
        let place = &answer["channels"][0];
        let epoch = place["epoch"].to_string();
        let Some(offset) = place["offset"].as_u64() else {
            self.ledger.violation(format!("{text} has no offset: {answer}"));
            return;
        };
        self.given_to(epoch, offset, text);
    }

    fn given_to(&mut self, epoch: String, offset: u64, text: &str) {
        let own = self
            .given
            .entry((epoch.clone(), offset))
            .or_insert_with(|| text.to_owned());
        if own != text {
            let text =
                format!("offset {offset} of {CHANNEL} (epoch {epoch}) was {own:?} and is {text:?} now");
            self.ledger.violation(text);
        }
    }

    /// Compares.
    fn look(&mut self) -> io::Result<()> {
        let path = format!("/v1/history?channel={CHANNEL}&since=earliest&limit=1000");
        let history = self.ask("GET", &path, "")?;
        let retained = self.ask("GET", &format!("/v1/retained?channel={CHANNEL}"), "")?;
        if history.status == 503 || retained.status == 503 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (history, value) = (history.json()?, retained.json()?);
        let text = |object: &Value| object["data"].as_str().unwrap_or_default().to_owned();
        let publications = history["publications"].as_array().cloned().unwrap_or_default();
        let found = State {
            history: publications.iter().map(text).collect(),
            retained: (retained.status == 200).then(|| text(&value)),
        };
        if !self.states.contains(&found) {
            let states = &self.states;
            self.ledger
                .violation(format!("{CHANNEL} should be {states:?}, is {found:?}"));
        }
        for publication in &publications {
            let offset = publication["offset"].as_u64().unwrap_or(0);
            self.given_to(history["epoch"].to_string(), offset, &text(publication));
        }
        self.states = vec![found];
        Ok(())
    }
}
