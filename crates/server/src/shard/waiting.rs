//! Connections whose requests wait for the store: put aside, gone on with, given up. Never waited for.

use super::Shard;
use crate::api::Refused;
use crate::connection::{State, Voice, Waiting};
use crate::http::cors::Cors;
use crate::http::response::Terms;
use crate::question::{AT_ONCE, Asker, Outcome, Progress, Question, Reply};
use crate::shared::{ConnectionId, Part};

/// Why nobody waits for the store any longer.
const LATE: &str = "the store did not answer in time";

impl Shard {
    /// Who asks, for a question of its own.
    pub(super) fn asker(&mut self, slot: usize) -> Asker<'_> {
        self.questions += 1;
        self.asker_again(slot, self.questions)
    }

    fn asker_again(&self, slot: usize, number: u64) -> Asker<'_> {
        Asker {
            shared: &self.shared,
            connection: self.id_of(slot),
            number,
            now: self.wall,
        }
    }

    /// Answers an HTTP request whose question was the last one asked, or puts it aside.
    pub(super) fn settle(
        &mut self,
        slot: usize,
        progress: Progress,
        terms: Terms,
        cors: &Cors,
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        match progress {
            Progress::Done(outcome) => outcome?.answer(terms, cors, out),
            Progress::Waits(question) => {
                let voice = Voice::Http(terms, cors.clone());
                self.put_aside(slot, self.questions, question, voice);
            }
        }
        Ok(())
    }

    /// Keeps a question that was asked just now until more of its answer comes.
    pub(super) fn put_aside(&mut self, slot: usize, number: u64, question: Question, voice: Voice) {
        self.keep_aside(slot, Waiting::new(number, question, voice));
    }

    fn keep_aside(&mut self, slot: usize, mut waiting: Waiting) {
        waiting.until = match waiting.question.takes_its_time() {
            true => u64::MAX,
            false => self.now + self.shared.patience,
        };
        let until = waiting.until;
        let piece = waiting.question.piece();
        let rests = piece.is_none() && waiting.question.rests();
        let connection = &mut self.connections[slot];
        match &mut connection.state {
            State::Reading(subscriber) => {
                if let Some(socket) = &mut subscriber.socket {
                    socket.waiting.push(waiting);
                    self.schedule(slot);
                }
            }
            state => {
                *state = State::Waiting(Box::new(waiting));
                self.set_deadline(slot, until);
            }
        }
        self.weigh(slot);
        if rests || piece.is_some_and(|piece| self.send(slot, &piece)) {
            self.taken(slot);
        }
    }

    /// A question that rests goes on, when others have had their turn, unless something of it is still to be sent.
    pub(super) fn taken(&mut self, slot: usize) {
        let id = self.id_of(slot);
        let connection = &mut self.connections[slot];
        if !connection.is_blocked()
            && let State::Waiting(waiting) = &mut connection.state
            && waiting.is_to_go_on()
        {
            self.shared.answer(id, waiting.number, Part::Taken);
        }
    }

    /// Part of an answer came. Whoever asked may be gone, or may have been told that it takes too long.
    pub(super) fn answered(&mut self, connection: ConnectionId, number: u64, part: Part) {
        let Some(slot) = self.slot_of(connection) else {
            return;
        };
        let Some(mut waiting) = self.connections[slot].take_waiting(|waiting| waiting.number == number)
        else {
            return;
        };
        if waiting.came(&part) {
            self.turn.charge_each(AT_ONCE);
        }
        match waiting.question.take(part, &self.asker_again(slot, number)) {
            Progress::Done(outcome) => self.answer_late(slot, waiting.voice, outcome),
            Progress::Waits(question) => self.keep_aside(slot, Waiting { question, ..waiting }),
        }
    }

    /// Tells those of a connection's requests that have waited long enough that they wait in vain.
    pub(super) fn give_up(&mut self, slot: usize) {
        let now = self.now;
        let id = self.id_of(slot);
        while let Some(slot) = self.slot_of(id)
            && let Some(waiting) = self.connections[slot].take_waiting(|waiting| waiting.until <= now)
        {
            tracing::warn!("the store has not answered a request in time");
            self.give_up_on(slot, waiting, LATE);
        }
    }

    /// Answers a request for which the store is not waited for any longer.
    pub(super) fn give_up_on(&mut self, slot: usize, waiting: Waiting, why: &str) {
        let outcome = waiting
            .question
            .give_up(why, &self.asker_again(slot, waiting.number));
        self.answer_late(slot, waiting.voice, outcome);
    }

    fn answer_late(&mut self, slot: usize, voice: Voice, outcome: Outcome) {
        match voice {
            Voice::Http(terms, cors) => self.answer_request(slot, terms, &cors, outcome),
            Voice::Seed => self.answer_seed(slot, outcome),
            Voice::Command(kind, id) => self.answer_command(slot, kind, id.as_deref(), outcome),
        }
    }

    fn answer_request(&mut self, slot: usize, terms: Terms, cors: &Cors, outcome: Outcome) {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        match outcome {
            Ok(reply) => reply.answer(terms, cors, &mut out),
            Err(refused) => {
                refused.count(self.metrics());
                refused.answer(terms, cors, &mut out);
            }
        }
        self.turn.charge_bytes(out.len());
        self.send_answer(slot, &out, terms);
        self.out = out;
    }

    /// Answers a request of the seed's protocol, which is the last one of its connection.
    pub(super) fn answer_seed(&mut self, slot: usize, outcome: Outcome) {
        // Nothing else is ever asked in it.
        let Ok(Reply::Seed(reply)) = outcome else { return };
        self.turn.charge_bytes(reply.len());
        if self.send(slot, &reply) {
            self.finish(slot);
        }
    }
}
