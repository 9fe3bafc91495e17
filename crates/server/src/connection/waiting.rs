//! A request that waits for the store, and when it goes on.

use crate::http::cors::Cors;
use crate::http::response::Terms;
use crate::question::Question;
use crate::shared::Part;

/// A request that waits for the store.
pub struct Waiting {
    /// Its question's number within the shard.
    pub number: u64,
    /// When nobody waits any longer, in the shard's milliseconds.
    pub until: u64,
    /// What was asked.
    pub question: Question,
    /// How it is answered.
    pub voice: Voice,
    /// A [`Part::Taken`] is on its way to it.
    pub goes_on: bool,
}

/// In which words a request is answered.
pub enum Voice {
    /// As an HTTP request.
    Http(Terms, Cors),
    /// In the seed's wire protocol.
    Seed,
    /// As a command of a WebSocket: the answer's type, and the command's `id`, as JSON.
    Command(&'static str, Option<Box<str>>),
}

impl Waiting {
    /// A question that was asked just now.
    pub fn new(number: u64, question: Question, voice: Voice) -> Self {
        Self {
            number,
            until: u64::MAX,
            question,
            voice,
            goes_on: false,
        }
    }

    /// Is a [`Part::Taken`] to be sent, with which it goes on? Only if it rests, and not while one is on its way: each would
    /// be work of its own in the same turn of the others.
    pub fn is_to_go_on(&mut self) -> bool {
        self.question.rests() && !std::mem::replace(&mut self.goes_on, true)
    }

    /// A part has come. Returns whether it is the one with which a question that rests goes on.
    pub fn came(&mut self, part: &Part) -> bool {
        let is_taken = matches!(part, Part::Taken);
        self.goes_on &= !is_taken;
        is_taken && self.question.rests()
    }
}
