//! What a reader is shown of what it reads: nothing that is not for it, and each thing as seen in one place.

use super::{CatchUpTarget, Fanout, Reader, ReaderId, Step, Target, Wants, excluded_session};
use crate::channel::{Channel, ChannelId};
use crate::hub::Item;
use crate::position::Source;
use crate::publication::Publication;

impl Fanout {
    /// That the store may have forgotten something is told once, not with each page.
    pub(super) fn is_news(&mut self, reader: ReaderId, item: &Item) -> bool {
        let Item::Forgotten { pattern, until, .. } = item else {
            return true;
        };
        let Some(id) = self.by_pattern.get(pattern) else {
            return false;
        };
        let told = &mut self.readers[reader as usize].rare().forgotten;
        match told.iter_mut().find(|(own, _)| own == id) {
            Some((_, up_to)) => std::mem::replace(up_to, *until.max(up_to)) < *until,
            None => {
                told.push((*id, *until));
                true
            }
        }
    }

    /// Turns an item into a step, unless it is of no concern to this reader. What catches a subscription up is shown as seen
    /// there and carries no cursor.
    pub(super) fn show(
        &self,
        reader: ReaderId,
        item: Item,
        catch_up: Option<CatchUpTarget>,
        out: &mut Vec<Step>,
    ) {
        let entry = &self.readers[reader as usize];
        let cursor = catch_up.is_none();
        match item {
            Item::Publication { publication, at } => {
                if self.is_excluded(reader, &publication) {
                    return;
                }
                if let Some(place) = self.place_for(entry, &publication, catch_up) {
                    out.push(Step::Publication(publication, place, cursor.then_some(at)));
                }
            }
            Item::Forgotten { pattern, at, .. } => {
                out.push(Step::Gap(Target::Pattern(pattern), false, cursor.then_some(at)));
            }
            Item::Gap {
                channel,
                pattern,
                presence,
                lost,
                at,
            } => {
                let forgiven = entry.rare.as_ref().is_some_and(|rare| {
                    rare.forgiven.iter().any(|(target, messages, news)| {
                        let trimmed = if presence { news } else { messages };
                        let same = match target {
                            CatchUpTarget::Channel(id) => channel.as_ref().is_some_and(|c| c.id == *id),
                            CatchUpTarget::Pattern(id) => {
                                let slot = self.patterns.get(id);
                                pattern
                                    .as_ref()
                                    .is_some_and(|p| slot.is_some_and(|s| s.pattern == *p))
                            }
                        };
                        same && match lost.0 {
                            Source::Durable => lost.1.durable <= trimmed.durable,
                            Source::Memory => lost.1.memory <= trimmed.memory.memory,
                        }
                    })
                });
                // The store names channels that a pattern matches: not those that this reader may not see.
                let visible = channel.as_ref().is_none_or(|channel| {
                    self.sees(entry, channel, presence, catch_up)
                        || self.sees_by_pattern(entry, channel, presence, catch_up)
                });
                let target = channel.map(Target::Channel).or(pattern.map(Target::Pattern));
                if visible && !forgiven {
                    out.extend(target.map(|target| Step::Gap(target, presence, cursor.then_some(at))));
                }
            }
        }
    }

    pub(super) fn is_excluded(&self, reader: ReaderId, publication: &Publication) -> bool {
        let excluded = excluded_session(publication);
        let rare = self.readers[reader as usize].rare.as_ref();
        excluded.is_some() && rare.and_then(|r| r.session.as_deref()) == excluded
    }

    /// In which of its places does this reader see the publication?
    fn place_for(
        &self,
        reader: &Reader,
        publication: &Publication,
        catch_up: Option<CatchUpTarget>,
    ) -> Option<usize> {
        let news = publication.body.is_presence();
        let mut places = publication.places.iter();
        let exact = places.position(|place| self.sees(reader, &place.channel, news, catch_up));
        let mut places = publication.places.iter();
        exact
            .or_else(|| places.position(|place| self.sees_by_pattern(reader, &place.channel, news, catch_up)))
    }

    /// Does it see this channel by name: one that has caught up, or the one that is catching up right now?
    fn sees(&self, reader: &Reader, channel: &Channel, news: bool, catch_up: Option<CatchUpTarget>) -> bool {
        if catch_up.is_some_and(|own| own != CatchUpTarget::Channel(channel.id)) {
            return false;
        }
        reader.subscriptions.iter().any(|s| {
            (s.active || catch_up.is_some())
                && (s.presence || !news)
                && self.slots[s.slot as usize].channel.id == channel.id
        })
    }

    fn sees_by_pattern(
        &self,
        reader: &Reader,
        channel: &Channel,
        news: bool,
        catch_up: Option<CatchUpTarget>,
    ) -> bool {
        reader.patterns.iter().any(|p| {
            catch_up.map_or(p.active, |own| own == CatchUpTarget::Pattern(p.id))
                && (p.wants.presence || !news)
                && allowed(p.wants, channel)
                && self
                    .patterns
                    .get(&p.id)
                    .is_some_and(|slot| slot.pattern.matches_name(&channel.name))
        })
    }
}

/// Is it a gap of the news about members? Who begins with the oldest kept is told who is there.
pub(super) fn is_of_news(item: &Item) -> bool {
    matches!(item, Item::Gap { presence: true, .. })
}

/// Is it a gap of which the store told, before the first that it keeps? `begun` holds the channels of what came so far.
pub(super) fn is_stored_before(item: &Item, begun: &mut Vec<ChannelId>) -> bool {
    match item {
        Item::Publication { publication, .. } => {
            begun.extend(publication.places.iter().map(|place| place.channel.id));
            false
        }
        Item::Gap {
            channel: Some(channel),
            lost: (Source::Durable, _),
            ..
        } => channel.is_stored() && !begun.contains(&channel.id),
        Item::Forgotten { .. } => true,
        Item::Gap { .. } => false,
    }
}

fn allowed(wants: Wants, channel: &Channel) -> bool {
    !wants.public_only || channel.is_public()
}
