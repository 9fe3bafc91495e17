//! What a reading takes from the store: what to ask for, and what came.

use std::sync::Arc;

use super::{From, Gone, Head, Limits, Selection};
use crate::broker::{Fetch, Page, Stored, Whose};
use crate::hub::state::State;
use crate::position::{Position, Source};
use crate::publication::{Place, Places, Publication};

impl State {
    /// Is there anything in the store after this that is selected?
    pub(super) fn selects_durable(&self, selection: &Selection<'_>, after: u64) -> bool {
        !selection.patterns.is_empty()
            || selection.channels.iter().any(|selected| {
                self.channel(selected.channel)
                    .is_some_and(|entry| entry.channel.is_stored() && self.last_of(entry).durable > after)
            })
    }

    pub(super) fn fetch(&self, selection: &Selection<'_>, after: u64, until: u64, limits: Limits) -> Fetch {
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

    /// The gaps in what was fetched.
    pub(super) fn stored_gone<'a>(
        &'a self,
        page: &'a Page,
        from: Position,
    ) -> impl Iterator<Item = Gone> + 'a {
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
                    alone: false,
                })
            })
    }

    /// What was taken and never stored.
    pub(super) fn stored_lost<'a>(
        &'a self,
        page: &'a Page,
        from: Position,
    ) -> impl Iterator<Item = Gone> + 'a {
        let lost = page.lost.iter().filter(move |lost| lost.position > from.durable);
        lost.filter_map(|lost| {
            let (channel, pattern) = match &lost.whose {
                Whose::Channel(name) => (Some(self.find(name)?.channel.clone()), None),
                Whose::Pattern(pattern) => (None, Some(pattern.clone())),
            };
            let at = Position {
                durable: lost.position,
                memory: 0,
            };
            Some(Gone {
                channel,
                pattern,
                presence: false,
                lost: (Source::Durable, at),
                alone: true,
            })
        })
    }

    /// What was fetched.
    pub(super) fn stored<'a>(&'a self, page: &'a Page, from: Position) -> impl Iterator<Item = Head> + 'a {
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

    /// A publication as it was before it left memory, but for how many memory publications had preceded it: that is known
    /// of those that are still kept. Whoever has read this has read them, and must not be shown them afterwards.
    pub(in crate::hub) fn revive(&self, stored: &Stored) -> Option<Publication> {
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
                memory: self.order.memory_before(stored.position),
            },
            time: stored.time,
            accepted: 0,
            places: Places::from(places),
            audience: 0,
            body: stored.body.clone(),
        })
    }
}
