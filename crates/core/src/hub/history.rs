//! A channel's history, on demand: from its log, or page by page from the store.

use std::sync::Arc;

use super::state::State;
use super::{Answer, Hub, Later, Start};
use crate::Time;
use crate::broker::{BrokerError, Fetch, Page, Want};
use crate::channel::{Channel, ChannelName};
use crate::position::Position;
use crate::publication::Publication;
use crate::quota::Payer;

/// How many publications an answer about history holds if nobody says how many.
pub const HISTORY_LIMIT: usize = 100;

/// The most publications in an answer about history.
const MOST: usize = 1000;

/// An answer about history holds at most so many bytes of payloads, but one publication in any case: it is written out in one
/// piece, in memory and in time, for which all others wait.
const BYTES: usize = 256 << 10;

/// Which part of a channel's history is wanted.
#[derive(Clone, Copy, Debug)]
pub struct HistoryQuery {
    /// Only what lies after it; none: from the oldest kept.
    pub since: Option<Start>,
    /// At most so many, and never more than 1000. Together they have at most 256 KiB of payloads, but there is one in any case,
    /// unless this is 0: then only how far the channel is is told.
    pub limit: usize,
    /// Newest first.
    pub reverse: bool,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self {
            since: None,
            limit: HISTORY_LIMIT,
            reverse: false,
        }
    }
}

/// A channel's history.
#[derive(Clone, Debug)]
pub struct History {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Its newest offset.
    pub offset: u64,
    /// Something after `since` is gone, or there is a hole in what was asked for.
    pub gap: bool,
    /// What was asked for.
    pub publications: Vec<Arc<Publication>>,
    /// Ask or subscribe here to go on: the position of the last one if there may be more, else the newest. Newest first
    /// it is always the newest. If nothing was to be shown: where the question began, or the newest if it did not say.
    pub at: Position,
}

/// What the store is asked for, and what the answer says besides.
struct Asked {
    name: ChannelName,
    query: HistoryQuery,
    fetch: Fetch,
    /// Newest offset and position at the time of the question.
    offset: u64,
    visible: Position,
}

impl Hub {
    /// A channel's history; none if the channel does not exist. What is stored is answered later.
    pub fn history(
        self: &Arc<Self>,
        name: &ChannelName,
        query: HistoryQuery,
        now: Time,
        later: &mut dyn FnMut() -> Later<Option<History>>,
    ) -> Answer<Option<History>> {
        let mut state = self.state_for(std::slice::from_ref(name));
        let now = state.clock(now);
        if !state.is_stored(name) {
            return Answer::Ready(state.history(name, query));
        }
        let asked = match state.ask_history(name, query, now) {
            Ok(asked) => asked,
            Err(history) => return Answer::Ready(history),
        };
        drop(state);
        self.read_history(asked, later());
        Answer::Later
    }

    fn read_history(self: &Arc<Self>, mut asked: Asked, later: Later<Option<History>>) {
        let (hub, fetch) = (self.clone(), asked.fetch.clone());
        let fetched = move |page: Result<Page, BrokerError>| {
            let page = match page {
                Ok(page) => page,
                Err(error) => return later(Err(error)),
            };
            let more = page.is_part();
            if more && asked.fetch.want == Want::Oldest && page.stored.is_empty() && !page.has_gaps() {
                // It looked at as much as it does at a time, and there was nothing.
                asked.fetch.after = page.reached;
                return hub.read_history(asked, later);
            }
            let history = hub.state_for_long().history_fetched(&asked, &page, more);
            later(Ok(Some(history)));
        };
        self.fetch(fetch, Box::new(fetched));
    }
}

impl HistoryQuery {
    fn limit(&self) -> usize {
        self.limit.min(MOST)
    }
}

impl State {
    /// The history of a channel in memory.
    fn history(&self, name: &ChannelName, query: HistoryQuery) -> Option<History> {
        let entry = self.find(name)?;
        let since = query.since.unwrap_or_default();
        let gap = query.since.is_some()
            && (since.lost_memory || entry.log.trimmed.gaps_after(since.position).next().is_some());
        let after = entry.log.entries_beyond(since.position).cloned();
        let (publications, full) = if query.reverse {
            take(after.rev(), query.limit())
        } else {
            take(after, query.limit())
        };
        let at = match publications.last() {
            Some(last) if !query.reverse && full => last.at,
            None if full => query.since.map_or(self.visible, |since| since.position),
            _ => self.visible,
        };
        Some(History {
            channel: entry.channel.clone(),
            offset: entry.offset,
            gap,
            publications,
            at,
        })
    }

    /// What the store has to be asked for; or else the answer, if that is known.
    fn ask_history(
        &mut self,
        name: &ChannelName,
        query: HistoryQuery,
        now: Time,
    ) -> Result<Asked, Option<History>> {
        let known = self.find_id(name).is_some()
            || self
                .broker
                .as_ref()
                .is_some_and(|broker| broker.channel(name).is_some());
        let id = match query.since {
            _ if known => self.open_stored(name, now),
            // Whether something of it was forgotten is known when it is made.
            Some(_) => {
                let id = self.open(name, Payer::NOBODY, now).map_err(|_| None)?;
                self.maybe_idle(id, now);
                id
            }
            None => return Err(None),
        };
        let Some(entry) = self.channel(id) else {
            return Err(None);
        };
        let since = query.since.unwrap_or_default();
        let is_newest = self.last_of(entry).durable <= since.position.durable;
        if is_newest || query.limit == 0 {
            let begins = query.since.filter(|_| !is_newest);
            return Err(Some(History {
                channel: entry.channel.clone(),
                offset: entry.offset,
                gap: since.lost_durable,
                publications: Vec::new(),
                at: begins.map_or(self.visible, |since| since.position),
            }));
        }
        let want = if query.reverse { Want::Newest } else { Want::Oldest };
        Ok(Asked {
            name: name.clone(),
            query,
            fetch: Fetch {
                want,
                channels: vec![name.clone()],
                after: since.position.durable,
                until: self.visible.durable,
                limit: query.limit(),
                bytes: BYTES,
                ..Fetch::default()
            },
            offset: entry.offset,
            visible: self.visible,
        })
    }

    /// The answer with what was fetched; `more`: there is more where that came from.
    fn history_fetched(&mut self, asked: &Asked, page: &Page, more: bool) -> History {
        let now = self.last_time;
        self.open_page(page);
        let id = self.open_stored(&asked.name, now);
        let revived = page.stored.iter().filter_map(|stored| self.revive(stored));
        let (publications, full) = take(revived.map(Arc::new), asked.query.limit());
        let since = asked.query.since;
        let at = match publications.last() {
            _ if asked.query.reverse || !full && !more => asked.visible,
            last => Position {
                durable: last.filter(|_| full).map_or(page.reached, |last| last.at.durable),
                // Of memory the question had seen this much; or it had no past, and begins now.
                memory: since.map_or(asked.visible.memory, |since| since.position.memory),
            },
        };
        let channel = self.entries[id.slot as usize].channel.clone();
        History {
            offset: asked.offset,
            gap: since.is_some_and(|since| since.lost_durable || page.has_gaps())
                || has_hole(&channel, &publications),
            channel,
            publications,
            at,
        }
    }
}

/// Is one missing between two? Bounds take from the old end only, damage anywhere.
fn has_hole(channel: &Channel, publications: &[Arc<Publication>]) -> bool {
    let offset =
        |publication: &Publication| Some(publication.places[publication.place_in(channel.id)?].offset);
    publications.windows(2).any(|pair| {
        let offsets = offset(&pair[0]).zip(offset(&pair[1]));
        offsets.is_some_and(|(one, next)| one.abs_diff(next) > 1)
    })
}

/// As many as an answer holds; and were there more?
fn take(publications: impl Iterator<Item = Arc<Publication>>, limit: usize) -> (Vec<Arc<Publication>>, bool) {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for publication in publications {
        bytes += publication.body.payload_len();
        if taken.len() == limit || bytes > BYTES && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(publication);
    }
    (taken, false)
}
