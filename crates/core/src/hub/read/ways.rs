//! The two ways to read: exact channels by merging their logs, patterns by filtering the order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::{From, Head, Read, Reader, Selection};
use crate::hub::state::State;
use crate::pattern::Pattern;
use crate::publication::Publication;

/// A pattern that matches little must not hold the lock while everything kept is looked at.
const LOOK_AT: usize = 10_000;

impl State {
    /// Exact channels: a merge of their logs. Costs what it reads, however much else happened.
    pub(super) fn merge(&self, selection: &Selection<'_>, heads: Vec<Head>, reader: &mut Reader<'_>) -> Read {
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
    pub(super) fn scan(&self, selection: &Selection<'_>, heads: Vec<Head>, reader: &mut Reader<'_>) -> Read {
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
            // What was fetched goes first: it names the channels that there are now, while this may name one that was forgotten
            // and made again since.
            while heap.peek().is_some_and(|Reverse(first)| *first <= head) {
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
