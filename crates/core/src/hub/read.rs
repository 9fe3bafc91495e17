//! Reading on from a cursor: the one operation behind live, resume, slow and catching up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::state::State;
use crate::broker::{Fetch, Page, Stored};
use crate::channel::{Channel, ChannelId};
use crate::pattern::Pattern;
use crate::position::{Position, Source};
use crate::publication::{Place, Places, Publication};

/// A pattern that matches little must not hold the lock while everything kept is looked at.
const LOOK_AT: usize = 10_000;

/// A channel that is read.
#[derive(Clone, Copy, Debug)]
pub struct Selected {
    /// Which.
    pub channel: ChannelId,
    /// With the news about its members.
    pub presence: bool,
}

/// What a client reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Channels that are listened to (they exist as long as somebody does).
    pub channels: &'a [Selected],
    /// Patterns that are listened to, by their number.
    pub patterns: &'a [(u32, bool)],
}

/// How much to read at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many items.
    pub items: usize,
    /// About so many bytes; one item is read in any case.
    pub bytes: usize,
}

/// One thing to show to a client.
#[derive(Clone, Debug)]
pub enum Item {
    /// A publication.
    Publication {
        /// It.
        publication: Arc<Publication>,
        /// The client's position once it has seen it.
        at: Position,
    },
    /// Of what a pattern matches, the store no longer knows everything up to here: something may be gone. It is told before
    /// anything else, with each page that begins before that.
    Forgotten {
        /// The pattern.
        pattern: Arc<Pattern>,
        /// The durable position.
        until: u64,
        /// The client's position.
        at: Position,
    },
    /// Something is gone.
    Gap {
        /// Of this channel, or else of this pattern.
        channel: Option<Arc<Channel>>,
        /// The pattern, if it is one's.
        pattern: Option<Arc<Pattern>>,
        /// It concerns the news about members only: ask for the members again.
        presence: bool,
        /// What is gone lies up to here.
        lost: (Source, Position),
        /// The client's position once it has seen this.
        at: Position,
    },
}

/// How a reading ended.
#[derive(Clone, Debug)]
pub enum Read {
    /// Everything up to here was looked at.
    Page {
        /// The client's position now.
        reached: Position,
        /// The limits were reached: read on.
        more: bool,
    },
    /// The store has to be asked first; then call [`read_fetched`](super::Hub::read_fetched) with the same arguments.
    Cold(Fetch),
}

/// What comes next from one place.
struct Head {
    source: Source,
    at: Position,
    from: From,
}

enum From {
    Gap(Gone),
    Publication(Arc<Publication>),
}

/// Something that is selected has lost publications.
#[derive(Clone)]
struct Gone {
    channel: Option<Arc<Channel>>,
    pattern: Option<Arc<Pattern>>,
    presence: bool,
    /// The newest that is gone.
    lost: (Source, Position),
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // What left one channel's log may still be kept by another's: what preceded it is gone, so that is said first.
        let is_publication = |head: &Head| matches!(head.from, From::Publication(_));
        Position::visibility((self.source, self.at), (other.source, other.at))
            .then_with(|| is_publication(self).cmp(&is_publication(other)))
    }
}

impl State {
    pub(super) fn read(
        &self,
        selection: &Selection<'_>,
        from: Position,
        until: Position,
        limits: Limits,
        page: Option<&Page>,
        out: &mut Vec<Item>,
    ) -> Read {
        let cold_until = self.hot_from.min(until.durable);
        if page.is_none() && from.durable < cold_until && self.selects_durable(selection, from.durable) {
            return Read::Cold(self.fetch(selection, from.durable, cold_until, limits));
        }
        // What was fetched may end before the part that is in memory begins: the rest comes with the next page.
        let fetched_until = page
            .filter(|page| page.reached < cold_until)
            .map(|page| page.reached);
        if let Some(page) = page.filter(|page| page.forgotten > from.durable) {
            let patterns = selection.patterns.iter();
            let listened = patterns.filter_map(|(id, _)| self.patterns.get(*id));
            out.extend(listened.map(|listened| Item::Forgotten {
                pattern: listened.pattern.clone(),
                until: page.forgotten,
                at: from,
            }));
        }
        let mut gone = self.gone(selection, from);
        gone.extend(page.into_iter().flat_map(|page| self.stored_gone(page, from)));
        let mut heads: Vec<Head> = gone
            .iter()
            .filter(|gone| gone.channel.is_some())
            .map(Gone::head)
            .collect();
        heads.extend(page.into_iter().flat_map(|page| self.stored(page, from)));
        let mut reader = Reader {
            state: self,
            from,
            position: from,
            until,
            fetched_until,
            limits,
            told: vec![None; gone.len()],
            gone,
            out,
            shown: 0,
            bytes: 0,
        };
        // Of a pattern it is not known where the loss begins: it is told before anything else.
        for index in 0..reader.gone.len() {
            if reader.gone[index].pattern.is_some() {
                reader.tell_gone(index);
            }
        }
        if selection.patterns.is_empty() {
            self.merge(selection, heads, &mut reader)
        } else {
            self.scan(selection, heads, &mut reader)
        }
    }

    /// Is there anything in the store after this that is selected?
    fn selects_durable(&self, selection: &Selection<'_>, after: u64) -> bool {
        !selection.patterns.is_empty()
            || selection.channels.iter().any(|selected| {
                self.channel(selected.channel)
                    .is_some_and(|entry| entry.channel.is_stored() && entry.last.durable > after)
            })
    }

    fn fetch(&self, selection: &Selection<'_>, after: u64, until: u64, limits: Limits) -> Fetch {
        let names = selection
            .channels
            .iter()
            .filter_map(|selected| self.channel(selected.channel))
            .filter(|entry| entry.channel.is_stored());
        let patterns = selection
            .patterns
            .iter()
            .filter_map(|(id, _)| self.patterns.get(*id));
        Fetch {
            channels: names.map(|entry| entry.channel.name.clone()).collect(),
            patterns: patterns.map(|listened| listened.pattern.clone()).collect(),
            after,
            until,
            limit: limits.items,
            bytes: limits.bytes,
            ..Fetch::default()
        }
    }

    /// What a reader has to be told of, because it is gone.
    fn gone(&self, selection: &Selection<'_>, from: Position) -> Vec<Gone> {
        let mut all = Vec::new();
        for selected in selection.channels {
            let Some(entry) = self.channel(selected.channel) else {
                continue;
            };
            let gone = |presence| {
                move |lost| Gone {
                    channel: Some(entry.channel.clone()),
                    pattern: None,
                    presence,
                    lost,
                }
            };
            all.extend(entry.log.trimmed.gaps_after(from).map(gone(false)));
            if let Some(presence) = entry.presence.as_ref().filter(|_| selected.presence) {
                all.extend(presence.news.trimmed.gaps_after(from).map(gone(true)));
            }
        }
        for (id, presence) in selection.patterns {
            let Some(listened) = self.patterns.get(*id) else {
                continue;
            };
            let gone = |presence| {
                move |lost| Gone {
                    channel: None,
                    pattern: Some(listened.pattern.clone()),
                    presence,
                    lost,
                }
            };
            all.extend(listened.trimmed.gaps_after(from).map(gone(false)));
            if *presence {
                all.extend(listened.trimmed_news.gaps_after(from).map(gone(true)));
            }
        }
        all
    }

    /// The gaps in what was fetched.
    fn stored_gone<'a>(&'a self, page: &'a Page, from: Position) -> impl Iterator<Item = Gone> + 'a {
        page.gaps
            .iter()
            .filter(move |(_, position)| *position > from.durable)
            .filter_map(|(name, position)| {
                let at = Position {
                    durable: *position,
                    memory: 0,
                };
                let channel = self.find(name)?.channel.clone();
                channel.is_stored().then_some(Gone {
                    channel: Some(channel),
                    pattern: None,
                    presence: false,
                    lost: (Source::Durable, at),
                })
            })
    }

    /// What was fetched.
    fn stored<'a>(&'a self, page: &'a Page, from: Position) -> impl Iterator<Item = Head> + 'a {
        page.stored
            .iter()
            .filter(move |stored| stored.position > from.durable)
            .filter_map(|stored| {
                let publication = self.revive(stored)?;
                Some(Head {
                    source: Source::Durable,
                    at: publication.at,
                    from: From::Publication(Arc::new(publication)),
                })
            })
    }

    /// A publication as it was before it left memory, but for how many memory publications had preceded it.
    pub(super) fn revive(&self, stored: &Stored) -> Option<Publication> {
        let places: Vec<Place> = stored
            .places
            .iter()
            .filter_map(|(name, offset)| {
                let channel = self.find(name)?.channel.clone();
                channel.is_stored().then_some(Place {
                    channel,
                    offset: *offset,
                    patterns: None,
                })
            })
            .collect();
        (!places.is_empty()).then(|| Publication {
            source: Source::Durable,
            at: Position {
                durable: stored.position,
                memory: 0,
            },
            time: stored.time,
            accepted: 0,
            places: Places::from(places),
            audience: 0,
            body: stored.body.clone(),
        })
    }

    /// Exact channels: a merge of their logs. Costs what it reads, however much else happened.
    fn merge(&self, selection: &Selection<'_>, heads: Vec<Head>, reader: &mut Reader<'_>) -> Read {
        let from = reader.position;
        let mut streams: Vec<Box<dyn Iterator<Item = &Arc<Publication>> + '_>> = Vec::new();
        for selected in selection.channels {
            let Some(entry) = self.channel(selected.channel) else {
                continue;
            };
            streams.push(Box::new(entry.log.beyond(from)));
            if let Some(presence) = entry.presence.as_ref().filter(|_| selected.presence) {
                streams.push(Box::new(presence.news.beyond(from)));
            }
        }
        let mut heap: BinaryHeap<Reverse<(Head, usize)>> = heads
            .into_iter()
            .map(|head| Reverse((head, usize::MAX)))
            .collect();
        let head = |publication: &Arc<Publication>| Head {
            source: publication.source,
            at: publication.at,
            from: From::Publication(publication.clone()),
        };
        for (index, stream) in streams.iter_mut().enumerate() {
            heap.extend(
                stream
                    .next()
                    .map(|publication| Reverse((head(publication), index))),
            );
        }
        while let Some(Reverse((next, index))) = heap.pop() {
            if let Some(stream) = streams.get_mut(index)
                && let Some(publication) = stream.next()
            {
                heap.push(Reverse((head(publication), index)));
            }
            if let Some(end) = reader.take(next) {
                return end;
            }
        }
        reader.end()
    }

    /// Patterns: the hub's order, filtered. Never a walk over all channels.
    fn scan(&self, selection: &Selection<'_>, heads: Vec<Head>, reader: &mut Reader<'_>) -> Read {
        let from = reader.position;
        let patterns: Vec<(&Pattern, bool)> = selection
            .patterns
            .iter()
            .filter_map(|(id, presence)| self.patterns.get(*id).map(|l| (&*l.pattern, *presence)))
            .collect();
        let wanted = |publication: &Publication| {
            let news = publication.body.is_presence();
            publication.places.iter().any(|place| {
                let id = place.channel.id;
                selection
                    .channels
                    .iter()
                    .any(|s| s.channel == id && (s.presence || !news))
                    || patterns.iter().any(|(pattern, presence)| {
                        (*presence || !news) && pattern.matches_name(&place.channel.name)
                    })
            })
        };
        let mut heap: BinaryHeap<Reverse<Head>> = heads.into_iter().map(Reverse).collect();
        let mut looked = 0;
        for publication in self.order.beyond(from) {
            looked += 1;
            if from.covers(publication.source, publication.at) {
                continue;
            }
            let head = Head {
                source: publication.source,
                at: publication.at,
                from: From::Publication(publication.clone()),
            };
            while heap.peek().is_some_and(|Reverse(first)| *first < head) {
                let Some(Reverse(first)) = heap.pop() else { break };
                if let Some(end) = reader.take(first) {
                    return end;
                }
            }
            let end = if wanted(publication) {
                reader.take(head)
            } else {
                reader.pass(&head)
            };
            if let Some(end) = end {
                return end;
            }
            if looked == LOOK_AT {
                return Read::Page {
                    reached: reader.position,
                    more: true,
                };
            }
        }
        while let Some(Reverse(first)) = heap.pop() {
            if let Some(end) = reader.take(first) {
                return end;
            }
        }
        reader.end()
    }
}

impl Gone {
    fn head(&self) -> Head {
        let (source, at) = self.lost;
        Head {
            source,
            at,
            from: From::Gap(self.clone()),
        }
    }
}

/// How far a reading has come.
struct Reader<'a> {
    state: &'a State,
    /// Where the reading began.
    from: Position,
    position: Position,
    until: Position,
    /// The page that was fetched ends here, before what is in memory.
    fetched_until: Option<u64>,
    limits: Limits,
    /// What is gone, and how much had been handed out when that was told last.
    gone: Vec<Gone>,
    told: Vec<Option<usize>>,
    out: &'a mut Vec<Item>,
    shown: usize,
    bytes: usize,
}

/// What to do with what comes next.
enum Verdict {
    Take,
    /// It lies beyond the end, but something of the other source may follow that does not.
    Skip,
    End(Read),
}

impl Reader<'_> {
    /// Takes what comes next, unless it lies beyond the end, or the limits are reached.
    fn take(&mut self, head: Head) -> Option<Read> {
        match self.verdict(&head) {
            Verdict::Take => {}
            Verdict::Skip => return None,
            Verdict::End(read) => return Some(read),
        }
        // The same publication may come from several channels' logs. A gap is told for each.
        let seen = self.position.covers(head.source, head.at);
        if seen && matches!(head.from, From::Publication(_)) {
            return None;
        }
        // Never so before the first publication: a page makes progress, however many gaps it tells.
        if self.shown >= self.limits.items || self.bytes > 0 && self.bytes >= self.limits.bytes {
            return Some(Read::Page {
                reached: self.position,
                more: true,
            });
        }
        match head.from {
            From::Publication(publication) => {
                let islands = self.islands(&publication);
                for index in &islands {
                    self.tell_gone(*index);
                }
                self.advance(head.at);
                self.shown += 1;
                self.bytes += publication.size();
                self.out.push(Item::Publication {
                    publication,
                    at: self.position,
                });
                for index in islands {
                    if self.gone[index].pattern.is_some() {
                        self.tell_gone(index);
                    }
                }
            }
            From::Gap(gone) => {
                // Up to just before the last one lost: whoever comes back with this cursor is told of every other gap
                // at the same place, and sees what another channel's log has kept there.
                let mut before = head.at;
                match head.source {
                    Source::Durable => before.durable -= 1,
                    Source::Memory => before.memory -= 1,
                }
                self.advance(before);
                self.out.push(Item::Gap {
                    channel: gone.channel,
                    pattern: gone.pattern,
                    presence: gone.presence,
                    lost: gone.lost,
                    at: self.position,
                });
            }
        }
        None
    }

    /// Of which of its channels is something newer gone, while this is kept (by another channel's log, or retained)? What
    /// preceded it may be gone as well.
    fn islands(&self, publication: &Publication) -> Vec<usize> {
        if self.gone.is_empty() || publication.body.is_presence() {
            return Vec::new();
        }
        let own = (publication.source, publication.at);
        let precedes = |lost: (Source, Position)| Position::visibility(own, lost).is_lt();
        let is_island = |gone: &Gone| match (&gone.channel, &gone.pattern) {
            (Some(channel), _) => precedes(gone.lost) && publication.place_in(channel.id).is_some(),
            (None, Some(pattern)) => publication.places.iter().any(|place| {
                pattern.matches_name(&place.channel.name)
                    && match self.state.channel(place.channel.id) {
                        Some(entry) => entry.log.trimmed.gaps_after(Position::default()).any(precedes),
                        // Forgotten, with everything it had.
                        None => true,
                    }
            }),
            (None, None) => false,
        };
        let indexed = self.gone.iter().enumerate();
        indexed
            .filter(|(_, gone)| !gone.presence && is_island(gone))
            .map(|(index, _)| index)
            .collect()
    }

    /// Tells of something gone ahead of its place; the position stays, so it will be told again there.
    fn tell_gone(&mut self, index: usize) {
        if self.told[index] == Some(self.out.len()) {
            return;
        }
        let gone = self.gone[index].clone();
        self.out.push(Item::Gap {
            channel: gone.channel,
            pattern: gone.pattern,
            presence: gone.presence,
            lost: gone.lost,
            at: self.position,
        });
        self.told[index] = Some(self.out.len());
    }

    /// Only the newest that a channel has lost is known. If that lies beyond the end, others up to the end may be gone as well,
    /// and whoever goes on from there in rounds is never told: a ceiling trims what no shard has collected yet.
    fn tell_gone_beyond(&mut self) {
        let (from, until) = (self.from, self.until);
        for index in 0..self.gone.len() {
            let gone = &self.gone[index];
            let (source, at) = gone.lost;
            let read_some = match source {
                Source::Durable => from.durable < until.durable,
                Source::Memory => from.memory < until.memory,
            };
            if gone.channel.is_some() && read_some && !until.covers(source, at) {
                self.tell_gone(index);
            }
        }
    }

    /// Goes on past something that is of no concern.
    fn pass(&mut self, head: &Head) -> Option<Read> {
        match self.verdict(head) {
            Verdict::Take => self.advance(head.at),
            Verdict::Skip => {}
            Verdict::End(read) => return Some(read),
        }
        None
    }

    /// Everything of concern that became visible before `at` has been taken: the whole stamp counts, not only the part
    /// of one source. So a position stays a cut through the order of visibility, which is what catching up relies on.
    fn advance(&mut self, at: Position) {
        self.position = Position {
            durable: self.position.durable.max(at.durable.min(self.until.durable)),
            memory: self.position.memory.max(at.memory.min(self.until.memory)),
        };
    }

    fn verdict(&mut self, head: &Head) -> Verdict {
        let (at, until) = (head.at, self.until);
        if !until.covers(head.source, at) {
            // The end need not be a cut through the order: it is the end only if both sources are past it.
            return if at.reaches(until) {
                Verdict::End(self.end())
            } else {
                Verdict::Skip
            };
        }
        // A memory publication that saw durable ones beyond the page comes after them.
        match self.fetched_until {
            Some(fetched) if at.durable > fetched => Verdict::End(self.end()),
            _ => Verdict::Take,
        }
    }

    /// Nothing is left up to the end.
    fn end(&mut self) -> Read {
        if self.fetched_until.is_none() {
            self.tell_gone_beyond();
        }
        match self.fetched_until {
            Some(fetched) => Read::Page {
                reached: Position {
                    durable: self.position.durable.max(fetched),
                    ..self.position
                },
                more: true,
            },
            None => Read::Page {
                reached: self.position.max(self.until),
                more: false,
            },
        }
    }
}
