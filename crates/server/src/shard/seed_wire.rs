//! The seed's wire protocol on the backend socket: one request, one answer, closed.

use std::borrow::Cow;

use bytes::Bytes;
use cometserver_core::ChannelName;
use cometserver_core::hub::Published;
use cometserver_core::publication::{Body, Kind, Message, Payload, Publication, Writer};

use super::Shard;
use crate::connection::State;
use crate::metrics::Door;
use crate::seed::{self, Depth, Parsed, Request};
use crate::shared;

/// The old daemon had no limit; a megabyte of text encoded twice is at most nine times as long.
const ENCODED: usize = 9;

/// How many keys are listed at a time.
const PIECE: usize = 1000;

impl Shard {
    /// Bytes of a request of the seed's protocol.
    pub(super) fn seed_came(&mut self, slot: usize, bytes: Cow<'_, [u8]>) {
        let State::Seed(searched) = self.connections[slot].state else {
            return;
        };
        let limit = self.settings.config.limits.message_size.saturating_mul(ENCODED)
            + cometserver_core::channel::MAX_NAME;
        let reply = match seed::parse_from(&bytes, searched, limit) {
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
            Parsed::TooLarge => seed::TOO_LARGE.to_vec(),
            Parsed::Request(request, _) => self.seed_answer(&request),
        };
        if self.send(slot, &reply) {
            self.finish(slot);
        }
    }

    fn seed_answer(&mut self, request: &Request<'_>) -> Vec<u8> {
        match request {
            Request::Write { key, token } => self.seed_write(key, token),
            Request::WriteWithoutValue => seed::VALUE_MISSING.to_vec(),
            Request::Read { key } => self.seed_read(key),
            Request::Dump => self.seed_dump(),
            Request::Stop => {
                self.shared.ask(shared::Request::Stop);
                seed::DONE.to_vec()
            }
            Request::Unknown => seed::UNKNOWN_COMMAND.to_vec(),
        }
    }

    fn seed_write(&mut self, key: &[u8], token: &[u8]) -> Vec<u8> {
        let refused = |why: String| [b"Nothing was stored: ", why.as_bytes(), b" \0"].concat();
        let name = match ChannelName::new(key) {
            Ok(name) => name,
            Err(error) => return refused(error.to_string()),
        };
        let text = seed::text_of_wire_token(token);
        let most = self.settings.config.limits.message_size;
        if text.len() > most {
            return refused(format!(
                "the value has {} bytes, at most {most} are allowed",
                text.len()
            ));
        }
        let kind = if std::str::from_utf8(&text).is_ok() {
            Kind::Text
        } else {
            Kind::Binary
        };
        let payload = match Payload::new(kind, Bytes::from(text)) {
            Ok(payload) => payload,
            Err(error) => return refused(error.to_string()),
        };
        let mut message = Message::new(name, payload);
        message.retain = true;
        message.accepted = shared::wall_micros();
        // An old reader must get these very bytes back, whatever they are.
        message.attributes_mut().writer = Some(Writer::Token(Bytes::copy_from_slice(token)));
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let published = self.hub.publish(message, self.wall, &mut || {
            let sender = sender.clone();
            Box::new(move |result| {
                // Whoever waits may have given up.
                let _ = sender.send(result);
            })
        });
        self.metrics().publications.of(Door::Seed).add(1);
        match published {
            Ok(Published::Visible(_) | Published::Accepted) => seed::DONE.to_vec(),
            // The seed's clients wait for one answer and no more: so does this, for a store that is slow.
            Ok(Published::Pending) => match receiver.recv_timeout(std::time::Duration::from_secs(10)) {
                Ok(Ok(_)) => seed::DONE.to_vec(),
                Ok(Err(error)) => refused(error.to_string()),
                Err(_) => refused("the store did not answer in time".into()),
            },
            Err(error) => refused(error.to_string()),
        }
    }

    fn seed_read(&self, key: &[u8]) -> Vec<u8> {
        if let Some(publication) = ChannelName::new(key).ok().and_then(|name| {
            self.hub
                .retained(&name, &mut shared::nothing_later)
                .ready()
                .flatten()
        }) {
            return seed::token_reply(&token(&publication));
        }
        // The time of a key's value, for old pages that look whether it has changed.
        let timed = seed::time_key(key).and_then(|key| ChannelName::new(key).ok());
        match timed.and_then(|name| {
            self.hub
                .retained(&name, &mut shared::nothing_later)
                .ready()
                .flatten()
        }) {
            Some(publication) => seed::token_reply((publication.time / 1000).to_string().as_bytes()),
            None => seed::NOTHING.to_vec(),
        }
    }

    fn seed_dump(&self) -> Vec<u8> {
        let mut entries: Vec<(ChannelName, Vec<u8>)> = Vec::new();
        let mut after = 0;
        loop {
            let (found, next) = self.hub.channels(None, after, PIECE);
            let names = found
                .into_iter()
                .filter(|summary| summary.retained)
                .map(|summary| summary.name);
            let names: Vec<ChannelName> = names.collect();
            let values = self
                .hub
                .retained_values(names.clone(), &mut shared::nothing_later);
            for (name, value) in names.into_iter().zip(values.ready().unwrap_or_default()) {
                entries.extend(value.map(|publication| (name, token(&publication))));
            }
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        seed::dump_reply(
            entries
                .iter()
                .map(|(name, token)| (name.as_bytes(), token.as_slice())),
        )
    }
}

/// A value as an old reader expects it: at the depth of its writer.
fn token(publication: &Publication) -> Vec<u8> {
    let Body::Message {
        payload, attributes, ..
    } = &publication.body
    else {
        return Vec::new();
    };
    seed::token_for_old_reader(payload.bytes(), Depth::of(attributes.as_deref())).into_owned()
}
