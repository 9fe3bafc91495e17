//! Channels: history, retained values, lists, and what is to be forgotten of them.

use std::sync::Arc;

use cometserver_core::ChannelName;
use cometserver_core::action::Action;
use cometserver_core::broker::BrokerError;
use cometserver_core::fanout::Begin;
use cometserver_core::grant::Grant;
use cometserver_core::hub::{Answer, ChannelSummary, Delete, HISTORY_LIMIT, History, HistoryQuery, Start};
use cometserver_core::namespace::{Durability, Namespace};
use cometserver_core::publication::{Body, Kind, Payload, Publication};

use super::{Asker, Outcome, Progress, Question, Reply, begin, values_at_once};
use crate::api::{self, Pair, Refused};
use crate::endpoint::Endpoint;
use crate::http::cors::Cors;
use crate::http::response::{Head, Terms};
use crate::shared::{Part, Settings};

/// The most channels in one answer.
const CHANNELS: usize = 1000;

/// The most bytes of values in one answer, but one value in any case: as much as an answer holds of a history.
const VALUES: usize = 256 << 10;

/// Whose history is asked for.
pub struct HistoryOf {
    name: ChannelName,
    since: Option<Start>,
}

/// Whose retained value is asked for, and how it is shown.
pub struct ValueOf {
    name: ChannelName,
    raw: bool,
    /// The asker reads on behalf of the site.
    owns: bool,
}

/// Channels that were found, some of them with values that are fetched.
pub struct List {
    found: Vec<ChannelSummary>,
    next: Option<u64>,
    /// The values of the first of those that have one.
    values: Vec<Option<Arc<Publication>>>,
    /// Bytes of their payloads.
    bytes: usize,
}

/// What is to be forgotten.
pub struct Deleted(Delete);

/// Asks what a request asks that may have to wait.
///
/// # Errors
/// It may not ask that, or not so.
pub fn ask(
    endpoint: Endpoint,
    grant: &Grant,
    parameters: &[Pair<'_>],
    settings: &Settings,
    asker: &Asker<'_>,
) -> Result<Progress, Refused> {
    let hub = asker.hub();
    let named = |action: Action| -> Result<ChannelName, Refused> {
        let name = api::channel(parameters, settings)?;
        if !grant.allows(action, &name, &hub.namespace_of(&name)) {
            return Err(api::lacking(grant, action));
        }
        Ok(name)
    };
    // To forget something takes more than what a namespace gives to everybody.
    let owned = |action: Action| -> Result<ChannelName, Refused> {
        let name = api::channel(parameters, settings)?;
        if !grant.allows(action, &name, &Namespace::default()) {
            return Err(api::lacking(grant, action));
        }
        Ok(name)
    };
    match endpoint {
        Endpoint::History => {
            let name = named(Action::History)?;
            let since = since(api::text(parameters, "since"), asker)?;
            let limit = limit(parameters, HISTORY_LIMIT)?;
            let reverse = api::flag(parameters, "reverse");
            Ok(history(
                name,
                HistoryQuery {
                    since,
                    limit,
                    reverse,
                },
                asker,
            ))
        }
        Endpoint::Retained => {
            // Whoever may listen is shown the present value anyway, when it begins.
            let name = named(Action::Subscribe).or_else(|_| named(Action::History))?;
            let of = ValueOf {
                raw: api::flag(parameters, "raw"),
                owns: grant.allows_everywhere(Action::Admin),
                name: name.clone(),
            };
            let answer = hub.retained(&name, &mut || asker.later(Part::Value));
            Ok(begin(answer, Part::Value, Question::Retained(of), asker))
        }
        Endpoint::DeleteHistory => delete(&owned(Action::Admin)?, Delete::History, asker),
        Endpoint::DeleteRetained => delete(&owned(Action::Publish)?, Delete::Retained, asker),
        _ => channels(parameters, settings, asker),
    }
}

/// Where a history begins: at the oldest that is kept, unless it is said.
///
/// # Errors
/// It is not a cursor.
pub fn since(text: Option<&str>, asker: &Asker<'_>) -> Result<Option<Start>, Refused> {
    let hub = asker.hub();
    Ok(match api::begin(hub, text.unwrap_or("earliest"))? {
        Begin::Now => Some(Start {
            position: hub.now(),
            ..Start::default()
        }),
        Begin::Earliest => None,
        Begin::At(start) => Some(start),
    })
}

/// Asks for a history that may be shown.
pub fn history(name: ChannelName, query: HistoryQuery, asker: &Asker<'_>) -> Progress {
    let answer = asker
        .hub()
        .history(&name, query, asker.now, &mut || asker.later(Part::History));
    let of = HistoryOf {
        name,
        since: query.since,
    };
    begin(answer, Part::History, Question::History(of), asker)
}

impl HistoryOf {
    pub(super) fn answer(self, result: Result<Option<History>, BrokerError>, asker: &Asker<'_>) -> Outcome {
        let hub = asker.hub();
        let mut open = Vec::with_capacity(256);
        open.push(b'{');
        match result? {
            Some(history) => api::history_members(hub, &history, &mut open),
            None => {
                let lost = self
                    .since
                    .is_some_and(|start| match hub.namespace_of(&self.name).durability {
                        Durability::Memory => start.lost_memory,
                        _ => start.lost_durable,
                    });
                api::no_history_members(hub, &self.name, lost, &mut open);
            }
        }
        Ok(Reply::Object(200, open))
    }
}

impl ValueOf {
    pub(super) fn answer(self, result: Result<Option<Arc<Publication>>, BrokerError>) -> Outcome {
        let publication = result?.ok_or_else(|| {
            Refused::not_found("nothing is retained in this channel: publish with `retain`")
        })?;
        if self.raw
            && let Body::Message { payload, .. } = &publication.body
        {
            return Ok(Reply::Payload(payload.clone()));
        }
        let mut open = Vec::with_capacity(256);
        api::value_object(&publication, &self.name, self.owns, &mut open);
        Ok(Reply::Object(200, open))
    }
}

/// A payload alone.
pub(super) fn answer_payload(payload: &Payload, terms: Terms, cors: &Cors, out: &mut Vec<u8>) {
    let kind = match payload.kind() {
        Kind::Json => "application/json",
        Kind::Text => "text/plain; charset=utf-8",
        Kind::Binary => "application/octet-stream",
    };
    let head = cors.write(Head::new(out, terms, 200));
    // What somebody published must not become a page of this origin.
    let head = head
        .header("Content-Type", kind)
        .header("X-Content-Type-Options", "nosniff");
    head.header("Cache-Control", "no-store").body(payload.bytes());
}

fn channels(parameters: &[Pair<'_>], settings: &Settings, asker: &Asker<'_>) -> Result<Progress, Refused> {
    let hub = asker.hub();
    let wanted = api::bytes(parameters, "pattern")
        .map(|text| api::pattern(text, settings))
        .transpose()?;
    let limit = limit(parameters, 100)?.clamp(1, CHANNELS);
    let after = api::number(parameters, "after")?.unwrap_or(0);
    let (mut found, next) = hub.channels(wanted.as_ref(), after, limit);
    if api::flag(parameters, "retained") {
        found.retain(|summary| summary.retained);
    }
    let list = List {
        found,
        next,
        values: Vec::new(),
        bytes: 0,
    };
    match api::flag(parameters, "values") {
        true => Ok(list.go_on(asker)),
        false => Ok(Progress::Done(Ok(list.reply()))),
    }
}

impl List {
    pub(super) fn take(
        mut self,
        result: Result<Vec<Option<Arc<Publication>>>, BrokerError>,
        asker: &Asker<'_>,
    ) -> Progress {
        match result {
            Ok(values) => self.add(values),
            Err(error) => return Progress::Done(Err(Refused::from(error))),
        }
        self.go_on(asker)
    }

    /// Asks for the next few values.
    fn go_on(mut self, asker: &Asker<'_>) -> Progress {
        loop {
            let retained = self.found.iter().filter(|summary| summary.retained);
            let names = retained.skip(self.values.len()).take(values_at_once(asker));
            let names: Vec<ChannelName> = names.map(|summary| summary.name.clone()).collect();
            if names.is_empty() {
                return Progress::Done(Ok(self.reply()));
            }
            match asker
                .hub()
                .retained_values(names, &mut || asker.later(Part::Values))
            {
                Answer::Ready(values) => self.add(values),
                Answer::Later => return Progress::Waits(Question::Channels(self)),
            }
        }
    }

    fn add(&mut self, values: Vec<Option<Arc<Publication>>>) {
        for value in values {
            self.bytes += value.as_ref().map_or(0, |value| value.body.payload_len());
            if self.bytes > VALUES && !self.values.is_empty() {
                self.end_before(self.values.len());
                return;
            }
            self.values.push(value);
        }
    }

    /// The answer ends before the channel with this value.
    fn end_before(&mut self, value: usize) {
        let mut retained = (0..self.found.len()).filter(|index| self.found[*index].retained);
        if let Some(at) = retained.nth(value) {
            self.found.truncate(at);
            self.next = self.found.last().map(|last| last.number);
        }
    }

    fn reply(&self) -> Reply {
        let mut values = self.values.iter();
        let mut open = b"{\"channels\":[".to_vec();
        for (index, summary) in self.found.iter().enumerate() {
            if index > 0 {
                open.push(b',');
            }
            let value = match summary.retained {
                true => values.next().and_then(Option::as_deref),
                false => None,
            };
            api::summary_object(summary, value, &mut open);
        }
        api::list_end(self.next, &mut open);
        Reply::Object(200, open)
    }
}

fn delete(name: &ChannelName, what: Delete, asker: &Asker<'_>) -> Result<Progress, Refused> {
    let answer = asker
        .hub()
        .delete(name, what, asker.now, &mut || asker.later(Part::Deleted))?;
    let question = Question::Delete(Deleted(what));
    Ok(begin(answer, Part::Deleted, question, asker))
}

impl Deleted {
    pub(super) fn answer(self, result: Result<usize, BrokerError>) -> Outcome {
        let count = result?;
        let open = match self.0 {
            Delete::Retained => format!("{{\"deleted\":{}", count > 0),
            Delete::History => format!("{{\"deleted\":{count}"),
        };
        Ok(Reply::Object(200, open.into_bytes()))
    }
}

fn limit(parameters: &[Pair<'_>], default: usize) -> Result<usize, Refused> {
    let limit = api::number(parameters, "limit")?;
    Ok(limit.map_or(default, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}
