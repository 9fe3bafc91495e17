//! The seed's wire protocol on the backend socket: one request, one answer, closed.

use std::borrow::Cow;

use super::Shard;
use crate::connection::{State, Voice};
use crate::metrics::Door;
use crate::question::{self, Progress, Reply};
use crate::seed::{self, Parsed, Request};
use crate::shared;

/// The old daemon had no limit; a megabyte of text encoded twice is at most nine times as long.
const ENCODED: usize = 9;

impl Shard {
    /// Bytes of a request of the seed's protocol.
    pub(super) fn seed_came(&mut self, slot: usize, bytes: Cow<'_, [u8]>) {
        let State::Seed(searched) = self.connections[slot].state else {
            return;
        };
        let limit = self.settings.config.limits.message_size.saturating_mul(ENCODED)
            + cometserver_core::channel::MAX_NAME;
        let progress = match seed::parse_from(&bytes, searched, limit) {
            Parsed::Incomplete => {
                let connection = &mut self.connections[slot];
                connection.state = State::Seed(bytes.len());
                connection.input = bytes.into_owned();
                if searched == 0 {
                    let time = self.millis(self.settings.config.limits.request_time);
                    self.set_deadline(slot, self.now.saturating_add(time));
                }
                return;
            }
            Parsed::TooLarge => Progress::Done(Ok(Reply::Seed(seed::TOO_LARGE.to_vec()))),
            Parsed::Request(request, _) => self.seed_answer(slot, &request),
        };
        match progress {
            Progress::Done(outcome) => self.answer_seed(slot, outcome),
            Progress::Waits(question) => self.put_aside(slot, self.questions, question, Voice::Seed),
        }
    }

    fn seed_answer(&mut self, slot: usize, request: &Request<'_>) -> Progress {
        let text = match request {
            Request::Write { key, token } => {
                let most = self.settings.config.limits.message_size;
                let progress = question::write(key, token, most, &self.asker(slot));
                self.metrics().publications.of(Door::Seed).add(1);
                return progress;
            }
            Request::Read { key } => return question::read(key, &self.asker(slot)),
            Request::Dump => return question::dump(&self.asker(slot)),
            Request::Stop => {
                self.shared.ask(shared::Request::Stop);
                seed::DONE
            }
            Request::WriteWithoutValue => seed::VALUE_MISSING,
            Request::Unknown => seed::UNKNOWN_COMMAND,
        };
        Progress::Done(Ok(Reply::Seed(text.to_vec())))
    }
}
