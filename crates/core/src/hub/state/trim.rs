//! What leaves memory: the live window, bounds, ceilings, age, deletions; and who is told that it is gone.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Entry, State};
use crate::Time;
use crate::broker::Delete;
use crate::channel::ChannelId;
use crate::namespace::{Bounds, Durability, Namespace};
use crate::paged::Paged;
use crate::position::{Position, Source};
use crate::publication::Publication;
use crate::shares::Share;
use crate::tidy::Tidy;

/// The live window keeps at least so many publications of a channel, whatever the others do.
const WINDOW_MINIMUM: usize = 16;

/// So many publications of a channel leave in one go; the rest of them soon after.
const SETTLED: usize = 64;

/// A publication that leaves takes so many steps: it leaves a log and the order.
const TRIMMED: usize = 4;

/// What outlives the live window by nothing.
const NOTHING: Bounds = Bounds {
    count: 0,
    bytes: 0,
    age: 0,
};

impl State {
    /// One publication leaves the live window, if its time has come.
    pub(in crate::hub) fn slide(&mut self, now: Time) -> bool {
        self.order.skip_holes();
        let Some(publication) = self.order.window_front().cloned() else {
            return false;
        };
        if publication.time.saturating_add(self.options.window) > now {
            return false;
        }
        let sequence = publication.sequence();
        self.steps += 1 + publication.places.len();
        self.order.leave_window();
        for place in publication.places.iter() {
            let id = place.channel.id;
            let Some(entry) = self
                .entries
                .get_mut(id.slot as usize)
                .filter(|e| e.channel.id == id)
            else {
                continue;
            };
            let mut freed = entry.log.unprotect_through(sequence);
            if let Some(presence) = &mut entry.presence {
                freed += presence.news.unprotect_through(sequence);
            }
            if let Some(shares) = &mut entry.shares {
                self.window.shrink(
                    place.channel.name.realm(),
                    place.channel.id,
                    &mut shares.window,
                    freed,
                );
            }
            self.settle(id, now);
        }
        true
    }

    /// When the next publication leaves the live window.
    pub(in crate::hub) fn slide_due(&self) -> Option<Time> {
        let next = self.order.window_front()?;
        Some(next.time.saturating_add(self.options.window))
    }

    /// Trims a channel to its bounds, as far as this hold of the lock goes. Is it within them now? If not, it goes on where things
    /// grow old.
    pub(in crate::hub) fn settle(&mut self, id: ChannelId, now: Time) -> bool {
        for _ in 0..SETTLED {
            // One publication may be in a thousand channels each of which has much to let go.
            if !self.has_time() {
                break;
            }
            let Some(entry) = self.channel_mut(id) else {
                return true;
            };
            let over = entry.log.is_over(&memory_bounds(&entry.namespace), now);
            let news = entry.presence.as_ref();
            if over {
                self.trim(id);
            } else if news.is_some_and(|presence| presence.news.is_over(&NOTHING, now)) {
                self.trim_news(id);
            } else {
                self.maybe_idle(id, now);
                return true;
            }
        }
        let Some(entry) = self.channel_mut(id) else {
            return true;
        };
        if entry.expiring.is_none_or(|at| at > now) {
            entry.expiring = Some(now);
            self.expiring.push(Reverse((now, id)));
        }
        false
    }

    /// Lets the oldest publication of a channel go.
    fn trim(&mut self, id: ChannelId) -> bool {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return false;
        };
        let protected = entry.log.protected_bytes();
        let Some((publication, retained)) = entry.log.trim() else {
            return false;
        };
        let freed = protected - entry.log.protected_bytes();
        self.let_go(id, &publication, freed, !retained);
        true
    }

    fn trim_news(&mut self, id: ChannelId) -> bool {
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return false;
        };
        let Some(presence) = &mut entry.presence else {
            return false;
        };
        let protected = presence.news.protected_bytes();
        let Some((publication, _)) = presence.news.trim() else {
            return false;
        };
        let freed = protected - presence.news.protected_bytes();
        self.let_go(id, &publication, freed, true);
        true
    }

    /// A log let a publication go; it is gone unless the log keeps it as the retained value.
    fn let_go(&mut self, id: ChannelId, publication: &Arc<Publication>, protected: usize, gone: bool) {
        self.steps += TRIMMED;
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return;
        };
        let realm = entry.channel.name.realm();
        if let Some(shares) = &mut entry.shares {
            self.window.shrink(realm, id, &mut shares.window, protected);
            if gone {
                self.memory
                    .shrink(realm, id, &mut shares.memory, publication.size());
            }
        }
        if gone {
            self.note_gone(id, publication);
        }
        self.order.release(publication.sequence());
    }

    /// A publication is not the retained value any more, and gone if it had outlived its neighbours.
    pub(super) fn let_go_retained(&mut self, id: ChannelId, publication: &Arc<Publication>, gone: bool) {
        if gone {
            if let Some(entry) = self.entries.get_mut(id.slot as usize) {
                let realm = entry.channel.name.realm();
                if let Some(shares) = &mut entry.shares {
                    self.memory
                        .shrink(realm, id, &mut shares.memory, publication.size());
                }
            }
            self.note_gone(id, publication);
        }
        self.order.release(publication.sequence());
    }

    /// What a log has let go, its channel's patterns have lost as well. Of a durable channel it is still in the store, which
    /// says itself what is gone; a channel in memory is never read from there, whatever its publications were stored for.
    fn note_gone(&mut self, id: ChannelId, publication: &Publication) {
        let (source, at) = (publication.source, publication.at);
        let news = publication.body.is_presence();
        let Some(entry) = self.entries.get_mut(id.slot as usize) else {
            return;
        };
        if source == Source::Durable && entry.channel.is_stored() {
            self.hot_from = self.hot_from.max(at.durable);
            return;
        }
        match &mut entry.presence {
            Some(presence) if news => presence.news.trimmed.note(source, at),
            _ => entry.log.trimmed.note(source, at),
        }
        if !self.patterns.is_empty() {
            self.untold(id).trimmed(news).note(source, at);
        }
        let trimmed = if news {
            &mut self.trimmed_news
        } else {
            &mut self.trimmed
        };
        trimmed.note(source, at);
    }

    /// At a ceiling the largest share gives way first. Is it to go on in another hold of the lock?
    pub(in crate::hub) fn enforce_ceilings(&mut self) -> bool {
        self.enforce_window() || self.enforce_memory()
    }

    fn enforce_window(&mut self) -> bool {
        let share_of: for<'a> fn(&'a mut Paged<Entry>, ChannelId) -> Option<&'a mut Share> = |entries, id| {
            entries
                .get_mut(id.slot as usize)
                .filter(|e| e.channel.id == id)
                .and_then(|e| Some(&mut e.shares.as_mut()?.window))
        };
        while self.window.total() > self.options.window_bytes {
            if !self.has_time() {
                return true;
            }
            let Some(id) = self.window.largest(&mut self.entries, share_of) else {
                break;
            };
            let entry = &mut self.entries[id.slot as usize];
            let realm = entry.channel.name.realm();
            let mut freed = 0;
            // A few at a time, so that a channel stays the largest for a while and is not looked up for each.
            for _ in 0..WINDOW_MINIMUM {
                freed += entry.log.unprotect_oldest(WINDOW_MINIMUM).unwrap_or(0);
                if let Some(presence) = &mut entry.presence {
                    freed += presence.news.unprotect_oldest(WINDOW_MINIMUM).unwrap_or(0);
                }
            }
            if freed == 0 {
                // Every large channel is at its minimum: the ceiling of all logs is the one that holds then.
                break;
            }
            if let Some(shares) = &mut entry.shares {
                self.window.shrink(realm, id, &mut shares.window, freed);
            }
            self.steps += TRIMMED;
            let before = entry.log.len();
            self.settle(id, self.last_time);
            self.count_early(id, before);
        }
        false
    }

    fn enforce_memory(&mut self) -> bool {
        let share_of: for<'a> fn(&'a mut Paged<Entry>, ChannelId) -> Option<&'a mut Share> = |entries, id| {
            entries
                .get_mut(id.slot as usize)
                .filter(|e| e.channel.id == id)
                .and_then(|e| Some(&mut e.shares.as_mut()?.memory))
        };
        while self.memory.total() + self.names_bytes > self.options.log_memory {
            if !self.has_time() {
                return true;
            }
            let Some(id) = self.memory.largest(&mut self.entries, share_of) else {
                break;
            };
            let before = self.entries[id.slot as usize].log.len();
            if !self.trim(id) && !self.trim_news(id) && !self.release_outlived(id) {
                break;
            }
            self.count_early(id, before);
        }
        false
    }

    /// Lets the retained value go that has outlived its neighbours: it is all that is left of the largest channel.
    fn release_outlived(&mut self, id: ChannelId) -> bool {
        let released = self
            .channel_mut(id)
            .and_then(|entry| entry.log.release_retained());
        let Some((old, gone)) = released else { return false };
        self.let_go_retained(id, &old, gone);
        if let Some(entry) = self.channel(id) {
            let realm = entry.channel.name.realm().0;
            *self.trimmed_early.entry(realm).or_default() += 1;
        }
        self.maybe_idle(id, self.last_time);
        true
    }

    fn count_early(&mut self, id: ChannelId, before: usize) {
        if let Some(entry) = self.channel(id) {
            let count = before.saturating_sub(entry.log.len()) as u64;
            let realm = entry.channel.name.realm().0;
            *self.trimmed_early.entry(realm).or_default() += count;
        }
    }

    /// Lets go what has grown older than its namespace allows. Returns false when nothing is due.
    pub(in crate::hub) fn expire(&mut self, now: Time) -> bool {
        let Some(Reverse((at, id))) = self.expiring.peek().copied() else {
            return false;
        };
        if at > now {
            return false;
        }
        self.expiring.pop();
        self.expiring.tidy();
        self.steps += 1;
        if self.channel(id).is_none_or(|entry| entry.expiring != Some(at)) {
            return true;
        }
        if let Some(entry) = self.channel_mut(id) {
            entry.expiring = None;
        }
        if self.settle(id, now) {
            self.expire_next(id, now);
        }
        true
    }

    /// Puts a channel into the heap of what grows old, for the time when its oldest entry will be.
    pub(super) fn expire_next(&mut self, id: ChannelId, now: Time) {
        let window = self.options.window;
        let Some(entry) = self.channel_mut(id) else { return };
        // What is old enough but within the live window goes when it leaves that.
        let next = entry
            .log
            .expires(&entry.namespace.history)
            .map(|next| if next <= now { now + window } else { next });
        if next == entry.expiring && next.is_some_and(|next| next > now) {
            return;
        }
        entry.expiring = next;
        self.expiring.extend(next.map(|next| Reverse((next, id))));
    }

    pub(in crate::hub) fn expire_due(&self) -> Option<Time> {
        self.expiring.peek().map(|Reverse((at, _))| *at)
    }

    /// Forgets something of a channel, as far as it is in memory and was there at `until`; of a stored one when the store has.
    /// Returns how many that were, and whether it is to go on in another hold of the lock.
    pub(in crate::hub) fn delete_in(
        &mut self,
        id: ChannelId,
        what: Delete,
        until: Position,
        now: Time,
    ) -> (usize, bool) {
        let mut deleted = 0;
        let until = until.sequence();
        let released = self
            .channel_mut(id)
            .filter(|entry| entry.log.retained().is_none_or(|value| value.sequence() <= until))
            .and_then(|entry| {
                entry.retained = 0;
                entry.log.release_retained()
            });
        if let Some((old, gone)) = released {
            deleted += usize::from(gone || what == Delete::Retained);
            self.let_go_retained(id, &old, gone);
        }
        let is_old = |entry: &Entry| entry.log.entries().next().is_some_and(|p| p.sequence() <= until);
        while what == Delete::History && self.channel(id).is_some_and(is_old) {
            if !self.has_time() {
                return (deleted, true);
            }
            self.trim(id);
            deleted += 1;
        }
        self.maybe_idle(id, now);
        (deleted, false)
    }
}

/// What memory keeps of a channel beyond the live window: nothing, where the store keeps the history.
fn memory_bounds(namespace: &Namespace) -> Bounds {
    match namespace.durability {
        Durability::Memory => namespace.history,
        Durability::Buffered | Durability::Committed => NOTHING,
    }
}
