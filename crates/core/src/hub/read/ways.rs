//! The two ways to read: exact channels by merging their logs, patterns by filtering the order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{From, Head, Read, Reader, Selection};
use crate::channel::ChannelId;
use crate::hub::state::State;
use crate::pattern::Pattern;
use crate::publication::{Place, Publication};

impl State {
    /// Exact channels: a merge of their logs. Costs what it reads, however much else happened.
    pub(super) fn merge(
        &self,
        selection: &Selection<'_>,
        heads: Vec<Head>,
        reader: &mut Reader<'_, '_>,
    ) -> Read {
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
    pub(super) fn scan(
        &self,
        selection: &Selection<'_>,
        heads: Vec<Head>,
        reader: &mut Reader<'_, '_>,
    ) -> Read {
        let from = reader.position;
        let listened = |id: &u32| self.patterns.get(*id).map(|listened| listened.pattern.clone());
        let (patterns, presence): (Vec<Arc<Pattern>>, Vec<bool>) = selection
            .patterns
            .iter()
            .filter_map(|(id, presence)| Some((listened(id)?, *presence)))
            .unzip();
        let channels: FxHashMap<ChannelId, bool> = selection
            .channels
            .iter()
            .map(|selected| (selected.channel, selected.presence))
            .collect();
        let mut heap: BinaryHeap<Reverse<Head>> = heads.into_iter().map(Reverse).collect();
        for publication in self.order.beyond(from) {
            if reader.is_spent() {
                return reader.pause();
            }
            reader.work.steps += 1;
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
            let news = publication.body.is_presence();
            let by_name = |place: &Place| channels.get(&place.channel.id).is_some_and(|own| *own || !news);
            let end = if from.covers(publication.source, publication.at) || !reader.is_within(&head) {
                reader.pass(&head)
            } else if publication.places.iter().any(by_name) {
                reader.take(head)
            } else if let Some(end) = reader.afford(publication, &patterns) {
                Some(end)
            } else {
                let verdicts = reader.work.verdicts;
                let by_pattern = |place: &Place| {
                    let mut wanted = patterns.iter().zip(&presence);
                    wanted.any(|(pattern, own)| {
                        (*own || !news) && verdicts.matches(pattern, &place.channel.name)
                    })
                };
                if publication.places.iter().any(by_pattern) {
                    reader.take(head)
                } else {
                    reader.pass(&head)
                }
            };
            if let Some(end) = end {
                return end;
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
