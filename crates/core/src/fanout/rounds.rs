//! Rounds: live readers are told of what became visible.

use std::sync::Arc;

use super::{Fanout, ReaderId, Round, excluded_session};
use crate::publication::Publication;

/// At most so many publications are handled in a round, then whoever is ready is written to.
const ROUND: usize = 1024;

impl Fanout {
    /// Tells live readers of what became visible: `tell(tag, reader, publication, place)`.
    pub fn round(&mut self, tell: impl FnMut(u32, ReaderId, &Arc<Publication>, usize)) -> Round {
        self.round_of(ROUND, tell)
    }

    /// The same, of at most `most` publications; no round is of more than 1024.
    pub fn round_of(
        &mut self,
        most: usize,
        mut tell: impl FnMut(u32, ReaderId, &Arc<Publication>, usize),
    ) -> Round {
        let mut publications = std::mem::take(&mut self.round);
        let collected = self.hub.collect(self.shard, most.min(ROUND), &mut publications);
        if collected.lagged {
            self.lag();
        }
        for publication in &publications {
            self.tell(publication, &mut tell);
        }
        publications.clear();
        self.round = publications;
        self.seen = collected.until;
        Round {
            more: collected.more,
            lagged: collected.lagged,
        }
    }

    fn lag(&mut self) {
        let seen = self.seen;
        for (_, reader) in &mut self.readers {
            if reader.live {
                reader.live = false;
                reader.at = reader.at.max(seen);
            }
        }
        // What a slot knows to be the newest may be outdated now.
        let visible = self.hub.now();
        for (_, slot) in &mut self.slots {
            slot.last = visible;
        }
    }

    fn tell(
        &mut self,
        publication: &Arc<Publication>,
        tell: &mut impl FnMut(u32, ReaderId, &Arc<Publication>, usize),
    ) {
        let news = publication.body.is_presence();
        let excluded = excluded_session(publication);
        let several = publication.places.len() > 1 || publication.places.iter().any(|p| p.patterns.is_some());
        let (source, at, sequence) = (publication.source, publication.at, publication.sequence());
        for (index, place) in publication.places.iter().enumerate() {
            let Some(slot) = self.by_place.get(&place.channel.id.slot) else {
                continue;
            };
            let slot = &mut self.slots[*slot as usize];
            if slot.channel.id != place.channel.id {
                continue;
            }
            slot.last = slot.last.advanced(source, at);
            for (id, subscription) in slot.readers.iter() {
                let reader = &mut self.readers[*id as usize];
                if !reader.live || reader.at.covers(source, at) {
                    continue;
                }
                if news && !reader.subscriptions[*subscription as usize].presence {
                    continue;
                }
                if several && std::mem::replace(&mut reader.told, sequence) == sequence {
                    continue;
                }
                if excluded.is_some() && reader.rare.as_ref().and_then(|r| r.session.as_deref()) == excluded {
                    continue;
                }
                tell(reader.tag, *id, publication, index);
            }
        }
        for (index, place) in publication.places.iter().enumerate() {
            let Some(patterns) = &place.patterns else { continue };
            // Once for all readers: it is behind a lock of its own.
            let public = place.channel.is_public();
            for pattern in patterns.iter() {
                let Some(slot) = self.patterns.get(pattern) else {
                    continue;
                };
                for id in &slot.readers {
                    let reader = &mut self.readers[*id as usize];
                    if !reader.live || reader.at.covers(source, at) || reader.told == sequence {
                        continue;
                    }
                    let wanted = reader.patterns.iter().any(|p| {
                        p.id == *pattern && (p.wants.presence || !news) && (public || !p.wants.public_only)
                    });
                    if !wanted
                        || excluded.is_some()
                            && reader.rare.as_ref().and_then(|r| r.session.as_deref()) == excluded
                    {
                        continue;
                    }
                    reader.told = sequence;
                    tell(reader.tag, *id, publication, index);
                }
            }
        }
    }
}
