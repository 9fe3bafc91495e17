//! Keys and values as the seed's wire protocol asks for them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use cometserver_core::ChannelName;
use cometserver_core::broker::BrokerError;
use cometserver_core::hub::{Answer, PublishError, Published, Receipt};
use cometserver_core::publication::{Body, Message, Payload, Publication, Writer};

use super::{Asker, Progress, Question, Reply, begin, values_at_once};
use crate::seed::{self, Depth};
use crate::shared::{self, Part};

/// How many keys are listed at a time.
const PIECE: usize = 1000;

/// So many bytes are sent before more is asked for.
const SENT: usize = 64 << 10;

/// Whose value is asked for.
pub struct Key {
    key: Vec<u8>,
    /// The value of another key was looked for, of which this would be the time.
    is_time: bool,
}

/// All keys and values, which need not be in memory together: what has come is sent before more is asked for.
pub struct Dump {
    /// Whose values are asked for next.
    listed: VecDeque<ChannelName>,
    /// Whose values are fetched now.
    asked: Vec<ChannelName>,
    /// Where the list goes on.
    next: Option<u64>,
    /// So many have come.
    count: usize,
    /// What is sent next.
    out: Vec<u8>,
    /// It goes on when that is taken.
    rests: bool,
}

/// Sets a key's value; `most` bytes of text at the most.
pub fn write(key: &[u8], token: &[u8], most: usize, asker: &Asker<'_>) -> Progress {
    let message = match value(key, token, most) {
        Ok(message) => message,
        Err(why) => return Progress::Done(Ok(refused(&why))),
    };
    match asker
        .hub()
        .publish(message, asker.now, &mut || asker.completion(0))
    {
        Ok(Published::Visible(_) | Published::Accepted) => {
            Progress::Done(Ok(Reply::Seed(seed::DONE.to_vec())))
        }
        // The seed's clients wait for one answer and no more.
        Ok(Published::Pending) => Progress::Waits(Question::Write),
        Err(error) => Progress::Done(Ok(refused(&error.to_string()))),
    }
}

/// The message that sets a key's value.
fn value(key: &[u8], token: &[u8], most: usize) -> Result<Message, String> {
    let name = ChannelName::new(key).map_err(|error| error.to_string())?;
    let text = seed::text_of_wire_token(token);
    if text.len() > most {
        return Err(format!(
            "the value has {} bytes, at most {most} are allowed",
            text.len()
        ));
    }
    let mut message = Message::new(name, Payload::text_or_binary(Bytes::from(text)));
    message.retain = true;
    message.accepted = shared::wall_micros();
    // An old reader must get these very bytes back, whatever they are.
    message.attributes_mut().writer = Some(Writer::Token(Bytes::copy_from_slice(token)));
    Ok(message)
}

/// A value was stored, or not.
pub(super) fn written(result: Result<Receipt, PublishError>) -> Reply {
    match result {
        Ok(_) => Reply::Seed(seed::DONE.to_vec()),
        Err(error) => refused(&error.to_string()),
    }
}

/// Nothing came of it.
pub(super) fn refused(why: &str) -> Reply {
    Reply::Seed([b"Nothing was stored: ", why.as_bytes(), b" \0"].concat())
}

/// Asks for a key's value.
pub fn read(key: &[u8], asker: &Asker<'_>) -> Progress {
    let key = Key {
        key: key.to_vec(),
        is_time: false,
    };
    match ChannelName::new(&key.key) {
        Ok(name) => key.ask(&name, asker),
        Err(_) => key.ask_time(asker),
    }
}

fn nothing() -> Progress {
    Progress::Done(Ok(Reply::Seed(seed::NOTHING.to_vec())))
}

impl Key {
    fn ask(self, name: &ChannelName, asker: &Asker<'_>) -> Progress {
        let answer = asker.hub().retained(name, &mut || asker.later(Part::Value));
        begin(answer, Part::Value, Question::Read(self), asker)
    }

    pub(super) fn take(
        self,
        result: Result<Option<Arc<Publication>>, BrokerError>,
        asker: &Asker<'_>,
    ) -> Progress {
        let found = match result {
            Ok(found) => found,
            Err(error) => return Progress::Done(Ok(unreadable(&error.to_string()))),
        };
        match found {
            Some(publication) if self.is_time => {
                let time = (publication.time / 1000).to_string();
                Progress::Done(Ok(Reply::Seed(seed::token_reply(time.as_bytes()))))
            }
            Some(publication) => Progress::Done(Ok(Reply::Seed(seed::token_reply(&token(&publication))))),
            None if self.is_time => nothing(),
            None => self.ask_time(asker),
        }
    }

    /// The time of a key's value, for old pages that look whether it has changed.
    fn ask_time(mut self, asker: &Asker<'_>) -> Progress {
        self.is_time = true;
        let timed = seed::time_key(&self.key).and_then(|key| ChannelName::new(key).ok());
        match timed {
            Some(name) => self.ask(&name, asker),
            None => nothing(),
        }
    }
}

/// The store failed. The old daemon had no words for that; its clients print what they get.
pub(super) fn unreadable(why: &str) -> Reply {
    Reply::Seed(unreadable_text(why))
}

fn unreadable_text(why: &str) -> Vec<u8> {
    [b"It cannot be read: ", why.as_bytes(), b" \0"].concat()
}

/// Asks for all keys and values.
pub fn dump(asker: &Asker<'_>) -> Progress {
    let dump = Dump {
        listed: VecDeque::new(),
        asked: Vec::new(),
        next: Some(0),
        count: 0,
        out: Vec::new(),
        rests: false,
    };
    dump.go_on(asker)
}

impl Dump {
    pub(super) fn take(
        mut self,
        result: Result<Vec<Option<Arc<Publication>>>, BrokerError>,
        asker: &Asker<'_>,
    ) -> Progress {
        match result {
            Ok(values) => self.add(values),
            Err(error) => return Progress::Done(Ok(self.fail(&error.to_string()))),
        }
        self.go_on(asker)
    }

    fn add(&mut self, values: Vec<Option<Arc<Publication>>>) {
        let asked = std::mem::take(&mut self.asked);
        for (name, value) in asked.into_iter().zip(values) {
            // One that was forgotten meanwhile is not there any more.
            if let Some(value) = value {
                seed::dump_entry(self.count, name.as_bytes(), &token(&value), &mut self.out);
                self.count += 1;
            }
        }
    }

    /// Asks for more, until there is enough to be sent.
    pub(super) fn go_on(mut self, asker: &Asker<'_>) -> Progress {
        let hub = asker.hub();
        self.rests = false;
        while self.out.len() < SENT {
            if self.listed.is_empty() {
                let Some(after) = self.next else {
                    self.out.extend_from_slice(seed::NOTHING);
                    return Progress::Done(Ok(Reply::Seed(self.out)));
                };
                let (found, next) = hub.channels(None, after, PIECE);
                self.next = next;
                let retained = found.into_iter().filter(|summary| summary.retained);
                self.listed.extend(retained.map(|summary| summary.name));
                continue;
            }
            let some = values_at_once(asker).min(self.listed.len());
            self.asked = self.listed.drain(..some).collect();
            match hub.retained_values(self.asked.clone(), &mut || asker.later(Part::Values)) {
                Answer::Ready(values) => self.add(values),
                Answer::Later => return Progress::Waits(Question::Dump(self)),
            }
        }
        self.rests = true;
        Progress::Waits(Question::Dump(self))
    }

    /// See [`Question::piece`].
    pub(super) fn piece(&mut self) -> Option<Vec<u8>> {
        self.rests.then(|| std::mem::take(&mut self.out))
    }

    /// See [`Question::rests`].
    pub(super) fn rests(&self) -> bool {
        self.rests
    }

    /// It ends here; what has come is told, and what has not.
    pub(super) fn fail(mut self, why: &str) -> Reply {
        if self.count > 0 {
            self.out.extend_from_slice(b"\n ");
        }
        self.out.extend_from_slice(&unreadable_text(why));
        Reply::Seed(self.out)
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
