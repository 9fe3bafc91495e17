//! An append: a publication takes its place in the order and in the logs, and is visible.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{BUSY, State};
use crate::Time;
use crate::channel::ChannelId;
use crate::few::Few;
use crate::hub::{Collected, Receipt};
use crate::position::{Position, Source};
use crate::publication::{Body, Message, Place, Places, Publication};
use crate::registry::COUNTED;

/// How much of the housekeeping an append does on its way: at least as much as an append makes.
const CHORES: usize = 2;

/// An append takes so many steps, and one for each place.
const APPENDED: usize = 4;

/// A shard copies out about so many bytes at a time: it lays them end to end, once per format.
const ROUND_BYTES: usize = 4 << 20;

impl State {
    /// Appends a publication of the memory source: it is visible.
    pub(in crate::hub) fn append_memory(
        &mut self,
        channels: &[ChannelId],
        body: Body,
        accepted: u64,
        now: Time,
    ) -> (Receipt, u64) {
        let at = Position {
            memory: self.visible.memory + 1,
            ..self.visible
        };
        let counted = !body.is_presence();
        let mut places = Few::default();
        for id in channels {
            if let Some(entry) = self.channel_mut(*id) {
                let offset = if counted { entry.offset + 1 } else { 0 };
                places.push((*id, offset));
            }
        }
        self.append(Source::Memory, at, &places, (body, accepted, now), now)
    }

    /// Appends what the broker committed, with the offsets in those of its channels that it was stored in: it is visible.
    pub(in crate::hub) fn append_durable(
        &mut self,
        message: Arc<Message>,
        position: u64,
        stored: impl Iterator<Item = (ChannelId, u64)> + Clone,
        (time, now): (Time, Time),
    ) -> (Receipt, u64) {
        let at = Position {
            durable: position,
            ..self.visible
        };
        // What waits for the store keeps its handle: where there is one channel only, it need not be looked for.
        let only = stored.clone().next().filter(|_| message.channels.len() == 1);
        let mut places: Few<(ChannelId, u64)> = Few::default();
        for name in &message.channels {
            // Opened when it was submitted; if it was forgotten meanwhile, it is made again, beyond the limit if need be.
            let id = only.map_or_else(|| self.open_stored(name, now), |(id, _)| id);
            if places.iter().any(|(other, _)| *other == id) {
                continue;
            }
            // A channel in memory, beside a durable one in the same message, counts on by itself.
            let counted = self.channel(id).filter(|entry| !entry.channel.is_stored());
            let offset = stored.clone().find(|(other, _)| *other == id);
            let offset = match (counted, offset) {
                (Some(entry), _) => entry.offset + 1,
                (None, Some((_, offset))) => offset,
                // It has become durable meanwhile, but this is not in its history.
                (None, None) => continue,
            };
            places.push((id, offset));
        }
        let accepted = message.accepted;
        // The store has nearly always let go of it by now.
        let body = Body::from(Arc::unwrap_or_clone(message));
        self.append(Source::Durable, at, &places, (body, accepted, time), now)
    }

    fn append(
        &mut self,
        source: Source,
        at: Position,
        channels: &[(ChannelId, u64)],
        (body, accepted, time): (Body, u64, Time),
        now: Time,
    ) -> (Receipt, u64) {
        let mut audience = 0;
        let place = |(id, offset): &(ChannelId, u64)| self.place(*id, *offset, &mut audience);
        let places: Places = channels.iter().filter_map(place).collect();
        let publication = Arc::new(Publication {
            source,
            at,
            time,
            accepted,
            places,
            audience,
            body,
        });
        self.visible = at;
        self.published += 1;
        self.steps += APPENDED + publication.places.len();
        self.keep(&publication);
        for (shard, seen) in &mut self.seen {
            // A shard that has seen everything and is not concerned needs no visit.
            if audience & (1u64 << *shard) == 0 && seen.sequence() + 1 == at.sequence() {
                *seen = at;
            }
        }
        for _ in 0..CHORES {
            if !self.slide(now) {
                break;
            }
        }
        self.enforce_ceilings();
        (
            Receipt {
                places: publication.places.clone(),
                at,
                duplicate: false,
            },
            audience,
        )
    }

    /// A publication's place in a channel; adds the shards to its audience that listen there.
    fn place(&mut self, id: ChannelId, offset: u64, audience: &mut u64) -> Option<Place> {
        let patterns = self.matches(id);
        self.steps += patterns.as_ref().map_or(0, |ids| ids.len() / COUNTED);
        for pattern in patterns.iter().flat_map(|ids| ids.iter()) {
            *audience |= self.patterns.get(*pattern).map_or(0, |listened| listened.shards);
        }
        let entry = self.channel(id)?;
        *audience |= entry.shards;
        Some(Place {
            channel: entry.channel.clone(),
            offset,
            patterns,
        })
    }

    /// Puts a publication into the logs of its channels, and into the order.
    fn keep(&mut self, publication: &Arc<Publication>) {
        let size = publication.size();
        let position = publication.at.durable;
        let presence = publication.body.is_presence();
        let retain = matches!(publication.body, Body::Message { retain: true, .. });
        let mut keepers = publication.places.len() as u32;
        let mut replaced = Vec::new();
        for place in publication.places.iter() {
            let id = place.channel.id;
            let realm = place.channel.name.realm();
            let Some(entry) = self.entries.get_mut(id.slot as usize) else {
                continue;
            };
            entry.last = entry.last.advanced(publication.source, publication.at);
            entry.idle = BUSY;
            if presence {
                entry
                    .presence
                    .get_or_insert_default()
                    .news
                    .push(publication.clone());
            } else {
                entry.offset = place.offset;
                entry.log.push(publication.clone());
                if retain {
                    if entry.channel.is_stored() {
                        entry.retained = position;
                    }
                    keepers += 1;
                    replaced.extend(
                        entry
                            .log
                            .retain(publication.clone())
                            .map(|(old, gone)| (id, old, gone)),
                    );
                }
                if entry.expiring.is_none()
                    && let Some(at) = entry.log.expires(&entry.namespace.history)
                {
                    entry.expiring = Some(at);
                    self.expiring.push(Reverse((at, id)));
                }
            }
            let shares = entry.shares.get_or_insert_default();
            self.window.grow(realm, id, &mut shares.window, size);
            self.memory.grow(realm, id, &mut shares.memory, size);
        }
        self.order.push(publication.clone(), keepers);
        for (id, old, gone) in replaced {
            self.let_go_retained(id, &old, gone);
        }
    }

    /// The patterns that match a channel; what takes long of that was done before, see [`State::compare`].
    fn matches(&mut self, id: ChannelId) -> Option<Arc<[u32]>> {
        let entry = self.entries.get_mut(id.slot as usize)?;
        let name = &entry.channel.name;
        let updated = self.patterns.update(name, &mut entry.matches, usize::MAX);
        self.steps += updated.unwrap_or(0);
        entry.matches.ids.clone()
    }

    /// Copies out what lies between a shard's mark and the newest.
    pub(in crate::hub) fn collect(
        &mut self,
        shard: u8,
        limit: usize,
        out: &mut Vec<Arc<Publication>>,
    ) -> Collected {
        let visible = self.visible;
        let trimmed = self.order.trimmed();
        let Some(seen) = self
            .seen
            .iter_mut()
            .find(|(own, _)| *own == shard)
            .map(|(_, seen)| seen)
        else {
            return Collected {
                until: visible,
                more: false,
                lagged: false,
            };
        };
        if seen.sequence() == visible.sequence() {
            return Collected {
                until: visible,
                more: false,
                lagged: false,
            };
        }
        let lagged = trimmed > seen.sequence();
        if lagged {
            *seen = visible;
            return Collected {
                until: visible,
                more: false,
                lagged,
            };
        }
        let bit = 1u64 << shard;
        let (mut taken, mut bytes) = (0, 0);
        for publication in self.order.after(seen.sequence()) {
            if taken == limit || bytes >= ROUND_BYTES {
                return Collected {
                    until: *seen,
                    more: true,
                    lagged,
                };
            }
            *seen = publication.at;
            if publication.audience & bit != 0 {
                out.push(publication.clone());
                taken += 1;
                bytes += publication.size();
            }
        }
        *seen = visible;
        Collected {
            until: visible,
            more: false,
            lagged,
        }
    }
}
