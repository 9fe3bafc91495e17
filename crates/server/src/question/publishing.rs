//! Publications: what their publisher is told when the store has answered, or at once.

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
}

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

/// Publishes all that may be, in order and at once, so that they reach the store together; returns how many it took.
pub fn batch(messages: Vec<Result<Message, Refused>>, asker: &Asker<'_>) -> (Progress, usize) {
    let mut batch = Batch {
        results: Vec::with_capacity(messages.len()),
        missing: 0,
    };
    let mut taken = 0;
    for (index, message) in messages.into_iter().enumerate() {
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
        batch.missing += usize::from(matches!(told, Ok(None)));
        batch.results.push(told.transpose());
    }
    (batch.progress(asker), taken)
}

impl Batch {
    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        self.results.capacity() * size_of::<Option<Result<Told, Refused>>>()
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
        if self.missing > 0 {
            return Progress::Waits(Question::Batch(self));
        }
        Progress::Done(Ok(self.reply(asker)))
    }

    /// Answers with what is known: of the rest it is not known whether it was stored.
    pub(super) fn give_up(mut self, why: &str, asker: &Asker<'_>) -> Reply {
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
