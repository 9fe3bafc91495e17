//! Publications: what their publisher is told when the store has answered, or at once.

use std::collections::VecDeque;

use cometserver_core::ChannelName;
use cometserver_core::broker::BrokerError;
use cometserver_core::hub::{PublishError, Published, Receipt};
use cometserver_core::publication::Message;

use super::{Asker, Outcome, Progress, Question, Reply};
use crate::api::{self, Refused};

/// Several publications, each for itself.
pub struct Batch {
    /// What became of each; none: not known yet.
    results: Vec<Option<Result<Told, Refused>>>,
    missing: usize,
    /// Those whose turn has not come: after some of them others have theirs.
    rest: VecDeque<Result<Message, Refused>>,
}

/// So many publications of a batch are published in one turn.
pub const AT_ONCE: usize = 128;

/// What a publisher is told.
enum Told {
    /// It is visible.
    Visible(Receipt),
    /// It was taken, in these channels.
    Accepted(Vec<ChannelName>),
}

impl Told {
    /// As an object, open at its end.
    fn write(&self, asker: &Asker<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Visible(receipt) => api::receipt_object(receipt, asker.hub(), out),
            Self::Accepted(channels) => api::accepted_object(channels, out),
        }
    }

    fn reply(&self, asker: &Asker<'_>) -> Reply {
        let mut open = Vec::with_capacity(128);
        self.write(asker, &mut open);
        match self {
            Self::Visible(_) => Reply::Object(200, open),
            Self::Accepted(_) => Reply::Object(202, open),
        }
    }
}

/// Publishes a message that may be published.
///
/// # Errors
/// It was refused, and not published.
pub fn publish(message: Message, asker: &Asker<'_>) -> Result<Progress, Refused> {
    let channels = message.channels.clone();
    let published = asker
        .hub()
        .publish(message, asker.now, &mut || asker.completion(0))?;
    Ok(match published {
        Published::Visible(receipt) => Progress::Done(Ok(Told::Visible(receipt).reply(asker))),
        Published::Accepted => Progress::Done(Ok(Told::Accepted(channels).reply(asker))),
        Published::Pending => Progress::Waits(Question::Publish),
    })
}

/// One publication was answered.
pub(super) fn published(result: Result<Receipt, PublishError>, asker: &Asker<'_>) -> Outcome {
    Ok(Told::Visible(result?).reply(asker))
}

/// Publishes all that may be, in order, so many at once that others do not wait for long: those reach the store together.
pub fn batch(messages: Vec<Result<Message, Refused>>, asker: &Asker<'_>) -> Progress {
    let batch = Batch {
        results: Vec::with_capacity(messages.len()),
        missing: 0,
        rest: messages.into(),
    };
    batch.go_on(asker)
}

impl Batch {
    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        let rest = self.rest.iter().flatten();
        let payloads = rest.map(|message| size_of_val(message) + message.payload.bytes().len());
        self.results.capacity() * size_of::<Option<Result<Told, Refused>>>() + payloads.sum::<usize>()
    }

    /// Publishes the next of those whose turn has not come.
    pub(super) fn go_on(mut self, asker: &Asker<'_>) -> Progress {
        let mut taken = 0;
        for _ in 0..AT_ONCE {
            let Some(message) = self.rest.pop_front() else {
                break;
            };
            let index = self.results.len();
            let told = message.and_then(|message| {
                let channels = message.channels.clone();
                let published = asker
                    .hub()
                    .publish(message, asker.now, &mut || asker.completion(index))?;
                taken += 1;
                Ok(match published {
                    Published::Visible(receipt) => Some(Told::Visible(receipt)),
                    Published::Accepted => Some(Told::Accepted(channels)),
                    Published::Pending => None,
                })
            });
            self.missing += usize::from(matches!(told, Ok(None)));
            self.results.push(told.transpose());
        }
        asker.count_publications(taken);
        self.progress(asker)
    }

    /// Is there more to be published when others have had their turn?
    pub(super) fn rests(&self) -> bool {
        !self.rest.is_empty()
    }

    pub(super) fn take(
        mut self,
        index: usize,
        result: Result<Receipt, PublishError>,
        asker: &Asker<'_>,
    ) -> Progress {
        if let Some(place @ None) = self.results.get_mut(index) {
            *place = Some(result.map(Told::Visible).map_err(Refused::from));
            self.missing -= 1;
        }
        self.progress(asker)
    }

    fn progress(self, asker: &Asker<'_>) -> Progress {
        if self.missing > 0 || self.rests() {
            return Progress::Waits(Question::Batch(self));
        }
        Progress::Done(Ok(self.reply(asker)))
    }

    /// Answers with what is known: of the others it is not known whether they were stored, or they were not published.
    pub(super) fn give_up(mut self, why: &str, asker: &Asker<'_>) -> Reply {
        let unpublished = |_| Some(Err(Refused::unavailable(why.to_owned())));
        self.results.extend(self.rest.drain(..).map(unpublished));
        for place in self.results.iter_mut().filter(|place| place.is_none()) {
            *place = Some(Err(Refused::from(BrokerError::Unknown(why.to_owned()))));
        }
        self.reply(asker)
    }

    fn reply(&self, asker: &Asker<'_>) -> Reply {
        let mut open = b"{\"results\":[".to_vec();
        for (index, result) in self.results.iter().flatten().enumerate() {
            if index > 0 {
                open.push(b',');
            }
            match result {
                Ok(told) => {
                    told.write(asker, &mut open);
                    open.push(b'}');
                }
                Err(refused) => {
                    asker.count_refusal(refused);
                    refused.member(&mut open);
                }
            }
        }
        open.push(b']');
        Reply::Object(200, open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Voice, Waiting};
    use crate::shared::Part;

    #[test]
    fn a_batch_that_rests_is_told_once_to_go_on_whatever_comes_meanwhile() {
        let batch = Batch {
            results: vec![None],
            missing: 1,
            rest: [Err(Refused::bad("its turn has not come"))].into(),
        };
        let mut waiting = Waiting::new(1, Question::Batch(batch), Voice::Seed);
        assert!(waiting.is_to_go_on());
        let late = || Part::Published(0, Err(BrokerError::Unknown("late".into()).into()));
        for _ in 0..3 {
            assert!(!waiting.came(&late()) && !waiting.is_to_go_on());
        }
        assert!(waiting.came(&Part::Taken) && waiting.is_to_go_on());
        assert!(!waiting.is_to_go_on());
    }
}
