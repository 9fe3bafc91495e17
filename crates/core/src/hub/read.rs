//! Reading on from a cursor: the one operation behind live, resume, slow and catching up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::state::State;
use crate::broker::{Fetch, Page, Stored};
use crate::channel::{Channel, ChannelId};
use crate::namespace::Durability;
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
    Gap {
        channel: Option<Arc<Channel>>,
        pattern: Option<Arc<Pattern>>,
        presence: bool,
    },
    Publication(Arc<Publication>),
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
        // What left one channel's log may still be kept by another's: it is shown before it is said to be gone.
        let is_gap = |head: &Head| matches!(head.from, From::Gap { .. });
        Position::visibility((self.source, self.at), (other.source, other.at))
            .then_with(|| is_gap(self).cmp(&is_gap(other)))
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
        if page.is_none() && from.durable < cold_until && self.selects_durable(selection) {
            return Read::Cold(self.fetch(selection, from.durable, cold_until, limits));
        }
        // What was fetched may end before the part that is in memory begins: the rest comes with the next page.
        let fetched_until = page
            .filter(|page| page.reached < cold_until)
            .map(|page| page.reached);
        let mut heads = self.gaps(selection, from);
        heads.extend(page.into_iter().flat_map(|page| self.stored(page, from)));
        let mut reader = Reader {
            position: from,
            until,
            fetched_until,
            limits,
            out,
            bytes: 0,
        };
        if selection.patterns.is_empty() {
            self.merge(selection, heads, &mut reader)
        } else {
            self.scan(selection, heads, &mut reader)
        }
    }

    fn selects_durable(&self, selection: &Selection<'_>) -> bool {
        !selection.patterns.is_empty()
            || selection.channels.iter().any(|selected| {
                self.channel(selected.channel)
                    .is_some_and(|entry| entry.channel.namespace.durability != Durability::Memory)
            })
    }

    fn fetch(&self, selection: &Selection<'_>, after: u64, until: u64, limits: Limits) -> Fetch {
        let names = selection
            .channels
            .iter()
            .filter_map(|selected| self.channel(selected.channel));
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
        }
    }

    /// Where a reader has to be told that something is gone.
    fn gaps(&self, selection: &Selection<'_>, from: Position) -> Vec<Head> {
        let mut heads = Vec::new();
        for selected in selection.channels {
            let Some(entry) = self.channel(selected.channel) else {
                continue;
            };
            let mut push = |gap: Option<(Source, Position)>, presence| {
                heads.extend(gap.map(|(source, at)| Head {
                    source,
                    at,
                    from: From::Gap {
                        channel: Some(entry.channel.clone()),
                        pattern: None,
                        presence,
                    },
                }));
            };
            push(entry.log.trimmed.gap_after(from), false);
            if let Some(presence) = entry.presence.as_ref().filter(|_| selected.presence) {
                push(presence.news.trimmed.gap_after(from), true);
            }
        }
        for (id, _) in selection.patterns {
            let Some(listened) = self.patterns.get(*id) else {
                continue;
            };
            heads.extend(listened.trimmed.gap_after(from).map(|(source, at)| Head {
                source,
                at,
                from: From::Gap {
                    channel: None,
                    pattern: Some(listened.pattern.clone()),
                    presence: false,
                },
            }));
        }
        heads
    }

    /// What was fetched, and the gaps in it.
    fn stored(&self, page: &Page, from: Position) -> Vec<Head> {
        let durable = |position| Position {
            durable: position,
            memory: 0,
        };
        let gaps = page
            .gaps
            .iter()
            .filter(|(_, position)| *position > from.durable)
            .filter_map(|(name, position)| {
                let channel = Some(self.find(name)?.channel.clone());
                Some(Head {
                    source: Source::Durable,
                    at: durable(*position),
                    from: From::Gap {
                        channel,
                        pattern: None,
                        presence: false,
                    },
                })
            });
        let stored = page
            .stored
            .iter()
            .filter(|stored| stored.position > from.durable)
            .filter_map(|stored| {
                let publication = self.revive(stored)?;
                Some(Head {
                    source: Source::Durable,
                    at: durable(stored.position),
                    from: From::Publication(Arc::new(publication)),
                })
            });
        gaps.chain(stored).collect()
    }

    /// A publication as it was before it left memory, but for how many memory publications had preceded it.
    fn revive(&self, stored: &Stored) -> Option<Publication> {
        let places: Vec<Place> = stored
            .places
            .iter()
            .filter_map(|(name, offset)| {
                let channel = self.find(name)?.channel.clone();
                Some(Place {
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
                        (*presence || !news) && pattern.matches(place.channel.name.as_bytes())
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

/// How far a reading has come.
struct Reader<'a> {
    position: Position,
    until: Position,
    /// The page that was fetched ends here, before what is in memory.
    fetched_until: Option<u64>,
    limits: Limits,
    out: &'a mut Vec<Item>,
    bytes: usize,
}

impl Reader<'_> {
    /// Takes what comes next, unless it lies beyond the end, or the limits are reached.
    fn take(&mut self, head: Head) -> Option<Read> {
        if let Some(end) = self.stop(&head) {
            return Some(end);
        }
        // The same publication may come from several channels' logs. A gap is told for each.
        let seen = self.position.covers(head.source, head.at);
        match head.from {
            From::Publication(_) if seen => {}
            From::Publication(publication) => {
                if self.out.len() >= self.limits.items || self.bytes > 0 && self.bytes >= self.limits.bytes {
                    return Some(Read::Page {
                        reached: self.position,
                        more: true,
                    });
                }
                self.position = self.position.advanced(head.source, head.at);
                self.bytes += publication.size();
                self.out.push(Item::Publication {
                    publication,
                    at: self.position,
                });
            }
            From::Gap {
                channel,
                pattern,
                presence,
            } => {
                let lost = (head.source, head.at);
                self.position = self.position.advanced(head.source, head.at);
                self.out.push(Item::Gap {
                    channel,
                    pattern,
                    presence,
                    lost,
                    at: self.position,
                });
            }
        }
        None
    }

    /// Goes on past something that is of no concern.
    fn pass(&mut self, head: &Head) -> Option<Read> {
        let end = self.stop(head);
        if end.is_none() {
            self.position = self.position.advanced(head.source, head.at);
        }
        end
    }

    fn stop(&self, head: &Head) -> Option<Read> {
        if !self.until.covers(head.source, head.at) {
            return Some(self.end());
        }
        // A memory publication that saw durable ones beyond the page comes after them.
        match self.fetched_until {
            Some(fetched) if head.at.durable > fetched => {
                let reached = Position {
                    durable: self.position.durable.max(fetched),
                    ..self.position
                };
                Some(Read::Page { reached, more: true })
            }
            _ => None,
        }
    }

    /// Nothing is left up to the end.
    fn end(&self) -> Read {
        match self.fetched_until {
            Some(fetched) => Read::Page {
                reached: Position {
                    durable: self.position.durable.max(fetched),
                    ..self.position
                },
                more: true,
            },
            None => Read::Page {
                reached: Position {
                    durable: self.position.durable.max(self.until.durable),
                    memory: self.position.memory.max(self.until.memory),
                },
                more: false,
            },
        }
    }
}
