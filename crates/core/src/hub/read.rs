//! Reading on from a cursor: the one operation behind live, resume, slow and catching up.

mod stored;
mod verdicts;
mod ways;

use std::sync::Arc;

use super::held::{HOLD, HOLD_WHILE_WANTED};
use super::state::State;
use crate::broker::{Fetch, Page};
use crate::channel::{Channel, ChannelId};
use crate::pattern::Pattern;
use crate::position::{Position, Source};
use crate::publication::Publication;
use crate::registry::COUNTED;

pub(super) use verdicts::{Verdicts, Work};

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
    /// Nothing before it is: it is told at its place, and not before what is kept there.
    alone: bool,
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
    /// Reads a page, as far as one hold of the lock allows. If `work` names something that is unknown then, that has to be
    /// learned first, and the page is to be read again.
    pub(super) fn read(
        &self,
        selection: &Selection<'_>,
        (from, until): (Position, Position),
        limits: Limits,
        page: Option<&Page>,
        (work, out): (&mut Work<'_>, &mut Vec<Item>),
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
        gone.extend(page.into_iter().flat_map(|page| self.stored_lost(page, from)));
        // Each has a log to look at, and all that is gone is told of. However much that is, the page has as much time of its own.
        work.steps += 4 * selection.channels.len() + selection.patterns.len() + gone.len();
        work.until = work.steps + HOLD;
        let mut heads: Vec<Head> = gone
            .iter()
            .filter(|gone| gone.channel.is_some() || gone.alone)
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
            work,
            out,
            shown: 0,
            bytes: 0,
        };
        // Of a pattern it is not known where the loss begins: it is told before anything else.
        for index in 0..reader.gone.len() {
            if reader.gone[index].pattern.is_some() && !reader.gone[index].alone {
                reader.tell_gone(index);
            }
        }
        if selection.patterns.is_empty() {
            self.merge(selection, heads, &mut reader)
        } else {
            self.scan(selection, heads, &mut reader)
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
                    alone: false,
                }
            };
            all.extend(entry.log.trimmed.gaps_after(from).map(gone(false)));
            if selected.presence {
                let trimmed = entry.trimmed_news(self.left);
                all.extend(trimmed.gaps_after(from).map(gone(true)));
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
                    alone: false,
                }
            };
            all.extend(listened.trimmed.gaps_after(from).map(gone(false)));
            if *presence {
                all.extend(listened.trimmed_news.gaps_after(from).map(gone(true)));
            }
        }
        all
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
struct Reader<'a, 'v> {
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
    work: &'a mut Work<'v>,
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

impl Reader<'_, '_> {
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
        let is_full = self.shown >= self.limits.items || self.bytes > 0 && self.bytes >= self.limits.bytes;
        if is_full || self.shown > 0 && self.work.steps >= self.work.until {
            return Some(self.pause());
        }
        self.work.steps += 1;
        match head.from {
            From::Publication(publication) => {
                if let Some(end) = self.afford_islands(&publication) {
                    return Some(end);
                }
                // It is looked for among all that is gone.
                self.work.steps += self.gone.len() / COUNTED;
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
            // By name: the channel may have been forgotten and made again since.
            (Some(channel), _) => {
                precedes(gone.lost)
                    && publication
                        .places
                        .iter()
                        .any(|place| place.channel.name == channel.name)
            }
            (None, Some(pattern)) => publication.places.iter().any(|place| {
                self.work.verdicts.matches(pattern, &place.channel.name)
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
            .filter(|(_, gone)| !gone.presence && !gone.alone && is_island(gone))
            .map(|(index, _)| index)
            .collect()
    }

    /// The patterns of which something is gone are compared with what is shown: see [`Reader::afford`].
    fn afford_islands(&mut self, publication: &Publication) -> Option<Read> {
        let gone = self.gone.iter().filter(|gone| !gone.presence);
        let patterns: Vec<Arc<Pattern>> = gone.filter_map(|gone| gone.pattern.clone()).collect();
        if patterns.is_empty() || publication.body.is_presence() {
            return None;
        }
        self.afford(publication, &patterns)
    }

    /// May a publication still be compared with these patterns in this hold of the lock? If not, the page ends before it. If it
    /// would be the first one of the page, it is noted what has to be learned without the lock.
    fn afford(&mut self, publication: &Publication, patterns: &[Arc<Pattern>]) -> Option<Read> {
        let names = || publication.places.iter().map(|place| &place.channel.name);
        let steps = self.work.verdicts.steps(patterns, names());
        let is_first = self.position == self.from && self.shown == 0;
        let done = self.work.steps + HOLD - self.work.until;
        if !is_first && done >= HOLD_WHILE_WANTED && self.state.is_wanted() {
            self.work.gave_way = true;
            return Some(self.pause());
        }
        if self.work.steps + steps <= self.work.until {
            self.work.steps += steps;
            return None;
        }
        if is_first {
            if steps <= names().count() * patterns.len() {
                // All of it is known: it is much, but there is no progress without it.
                self.work.steps += steps;
                return None;
            }
            let pairs = names().flat_map(|name| patterns.iter().map(move |p| (p.clone(), name.clone())));
            self.work.unknown.extend(pairs);
        }
        Some(self.pause())
    }

    /// The page ends here, and the next one begins here.
    fn pause(&self) -> Read {
        Read::Page {
            reached: self.position,
            more: true,
        }
    }

    /// Has as much been done as one hold of the lock allows? Not before the page has come any further.
    fn is_spent(&self) -> bool {
        self.work.steps >= self.work.until && self.position != self.from
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
            if gone.channel.is_some() && !gone.alone && read_some && !until.covers(source, at) {
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

    /// Does it lie before the end?
    fn is_within(&self, head: &Head) -> bool {
        self.until.covers(head.source, head.at)
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
