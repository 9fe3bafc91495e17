//! Readers that are behind: what comes next for them, page by page.

use std::collections::VecDeque;

use super::show::{is_of_news, is_stored_before};
use super::{CatchUp, CatchUpFrom, CatchUpTarget, Fanout, Progress, ReaderId, Step, Target};
use crate::broker::{Fetch, Page, Want};
use crate::channel::{ChannelId, ChannelName};
use crate::hub::{Read, ReadLimits, Selected, Selection, VALUES, Value, concerns};
use crate::position::{Position, Source};

impl Fanout {
    /// What comes next for a reader that is behind, at most one page of it.
    pub fn next(&mut self, reader: ReaderId, limits: ReadLimits, out: &mut Vec<Step>) -> Progress {
        if self.readers[reader as usize].live {
            return Progress::Live;
        }
        self.tell_lost(reader, out);
        let frontier = self.frontier(reader);
        let entry = &self.readers[reader as usize];
        match entry.rare.as_ref().and_then(|rare| rare.catch_up.front()) {
            Some(catch_up) if !entry.at.reaches(catch_up.until) => {
                let until = catch_up.until;
                match self.page(reader, until, limits, out) {
                    Ok(_) => Progress::More,
                    Err(fetch) => Progress::Cold(fetch),
                }
            }
            Some(_) => match self.catch_up(reader, limits, out) {
                None => Progress::More,
                Some(fetch) => Progress::Cold(fetch),
            },
            None => match self.page(reader, frontier, limits, out) {
                Ok(true) => Progress::More,
                Ok(false) => {
                    let entry = &mut self.readers[reader as usize];
                    entry.live = true;
                    if let Some(rare) = &mut entry.rare {
                        // Whoever has caught up keeps no room for what was in the way.
                        rare.forgiven = Vec::new();
                        rare.forgotten = Vec::new();
                        rare.page = None;
                        rare.catch_up = VecDeque::new();
                        if rare.session.is_none() && !rare.forgive_stored {
                            entry.rare = None;
                        }
                    }
                    Progress::Live
                }
                Err(fetch) => Progress::Cold(fetch),
            },
        }
    }

    /// The store's answer to [`Progress::Cold`]; ask [`Fanout::next`] again.
    pub fn fetched(&mut self, reader: ReaderId, page: Page) {
        // Who is live by now, because it gave up or changed its mind, does not keep it for ever.
        if let Some(entry) = self.readers.get_mut(reader as usize).filter(|entry| !entry.live) {
            entry.rare().page = Some(page);
        }
    }

    /// Would its position, given as a cursor now, hide something that it has not been shown yet: a retained value, a
    /// late subscription's past, the news that a source was lost?
    pub fn owes(&self, reader: ReaderId) -> bool {
        let rare = self.readers[reader as usize].rare.as_ref();
        rare.is_some_and(|rare| !rare.catch_up.is_empty() || rare.lost_memory || rare.lost_durable)
    }

    /// Gives up what [`Fanout::owes`] says is still owed, and returns whose it was: they have to be told of a gap.
    pub fn give_up(&mut self, reader: ReaderId) -> Vec<Target> {
        let entry = &mut self.readers[reader as usize];
        let owed = entry
            .rare
            .as_mut()
            .map(|rare| std::mem::take(&mut rare.catch_up))
            .unwrap_or_default();
        owed.into_iter()
            .filter_map(|catch_up| self.target(catch_up.target))
            .collect()
    }

    /// Another incarnation of a source is a gap for that source's channels.
    fn tell_lost(&mut self, reader: ReaderId, out: &mut Vec<Step>) {
        let entry = &mut self.readers[reader as usize];
        let Some(rare) = &mut entry.rare else { return };
        let (memory, durable) = (
            std::mem::take(&mut rare.lost_memory),
            std::mem::take(&mut rare.lost_durable),
        );
        if !memory && !durable {
            return;
        }
        let (at, first) = (entry.at, out.len());
        // Who subscribed late began at a place of its own.
        for subscription in entry.subscriptions.iter().filter(|s| s.active) {
            let channel = &self.slots[subscription.slot as usize].channel;
            let durability = channel.durability;
            let target = || Target::Channel(channel.clone());
            if memory && concerns(Source::Memory, durability)
                || durable && concerns(Source::Durable, durability)
            {
                out.push(Step::Gap(target(), false, None));
            }
            // Members are in memory, whatever the durability of the channel.
            if memory && subscription.presence {
                out.push(Step::Gap(target(), true, None));
            }
        }
        for pattern in entry.patterns.iter().filter(|p| p.active) {
            if let Some(slot) = self.patterns.get(&pattern.id) {
                let target = || Target::Pattern(slot.pattern.clone());
                let may_hold = |stored| self.hub.may_hold(&slot.pattern, stored);
                if memory && may_hold(false) || durable && may_hold(true) {
                    out.push(Step::Gap(target(), false, None));
                }
                if memory && pattern.wants.presence {
                    out.push(Step::Gap(target(), true, None));
                }
            }
        }
        // The cursor no longer tells of the loss: only the last notice carries it.
        if let Some(Step::Gap(_, _, cursor)) = out[first..].last_mut() {
            *cursor = Some(at);
        }
    }

    /// Reads a page for all active subscriptions. Is there more?
    fn page(
        &mut self,
        reader: ReaderId,
        until: Position,
        limits: ReadLimits,
        out: &mut Vec<Step>,
    ) -> Result<bool, Fetch> {
        let entry = &mut self.readers[reader as usize];
        let page = entry.rare.as_mut().and_then(|rare| rare.page.take());
        let forgive = entry
            .rare
            .as_mut()
            .is_some_and(|rare| std::mem::take(&mut rare.forgive_stored));
        let from = entry.at;
        let channels: Vec<Selected> = entry
            .subscriptions
            .iter()
            .filter(|s| s.active)
            .map(|s| Selected {
                channel: self.slots[s.slot as usize].channel.id,
                presence: s.presence,
            })
            .collect();
        let patterns: Vec<(u32, bool)> = entry
            .patterns
            .iter()
            .filter(|p| p.active)
            .map(|p| (p.id, p.wants.presence))
            .collect();
        let selection = Selection {
            channels: &channels,
            patterns: &patterns,
        };
        let page = page.filter(|page| self.answers(page, &selection, from));
        let mut items = std::mem::take(&mut self.items);
        let read = match &page {
            Some(page) => self
                .hub
                .read_fetched(&selection, from, until, limits, page, &mut items),
            None => self.hub.read(&selection, from, until, limits, &mut items),
        };
        let mut begun = Vec::new();
        for item in items.drain(..) {
            if self.is_news(reader, &item) && !(forgive && is_stored_before(&item, &mut begun)) {
                self.show(reader, item, None, out);
            }
        }
        self.items = items;
        match read {
            Read::Page { reached, more } => {
                self.readers[reader as usize].at = reached;
                Ok(more)
            }
            Read::Cold(fetch) => {
                self.readers[reader as usize].rare().forgive_stored = forgive;
                Err(fetch)
            }
        }
    }

    /// Was this page fetched for what is read now? The reader may have subscribed to something else meanwhile.
    fn answers(&self, page: &Page, selection: &Selection<'_>, from: Position) -> bool {
        let Some(asked) = &page.asked else { return true };
        let channels = selection
            .channels
            .iter()
            .filter_map(|s| self.by_place.get(&s.channel.slot));
        let channels = channels.map(|slot| &self.slots[*slot as usize].channel);
        let names = channels
            .filter(|channel| channel.is_stored())
            .map(|channel| &channel.name);
        let patterns = selection
            .patterns
            .iter()
            .filter_map(|(id, _)| self.patterns.get(id));
        asked.want == Want::Oldest
            && asked.after == from.durable
            && asked.channels.iter().eq(names)
            && asked.patterns.iter().eq(patterns.map(|slot| &slot.pattern))
    }

    /// Shows what a late subscription has missed, without cursors. Returns what has to be fetched.
    fn catch_up(&mut self, reader: ReaderId, limits: ReadLimits, out: &mut Vec<Step>) -> Option<Fetch> {
        let rare = self.readers[reader as usize].rare();
        let mut page = rare.page.take();
        let mut catch_up = rare.catch_up.pop_front()?;
        let forgive = matches!(catch_up.from, CatchUpFrom::Earliest(_));
        let from = match catch_up.from {
            CatchUpFrom::Nothing => None,
            CatchUpFrom::Retained => {
                if let Err(fetch) = self.show_retained(reader, &catch_up, limits.bytes, &mut page, out) {
                    self.readers[reader as usize].rare().catch_up.push_front(catch_up);
                    return Some(fetch);
                }
                None
            }
            CatchUpFrom::Position(position) | CatchUpFrom::Earliest(position) => Some(position),
            CatchUpFrom::Lost(position, messages, news) => {
                let told = [(messages, false), (news, true)]
                    .into_iter()
                    .filter(|(lost, _)| *lost);
                out.extend(told.filter_map(|(_, presence)| {
                    let target = self.target(catch_up.target)?;
                    Some(Step::Gap(target, presence, None))
                }));
                Some(position)
            }
        };
        if let Some(from) = from {
            let presence = self.wants_presence(reader, catch_up.target);
            let (channels, patterns) = match catch_up.target {
                CatchUpTarget::Channel(channel) => (vec![Selected { channel, presence }], vec![]),
                CatchUpTarget::Pattern(id) => (vec![], vec![(id, presence)]),
            };
            let selection = Selection {
                channels: &channels,
                patterns: &patterns,
            };
            let page = page.filter(|page| self.answers(page, &selection, from));
            let mut items = std::mem::take(&mut self.items);
            let read = match &page {
                Some(page) => {
                    self.hub
                        .read_fetched(&selection, from, catch_up.until, limits, page, &mut items)
                }
                None => self
                    .hub
                    .read(&selection, from, catch_up.until, limits, &mut items),
            };
            let mut begun = Vec::new();
            for item in items.drain(..) {
                let is_forgiven = forgive && (is_stored_before(&item, &mut begun) || is_of_news(&item));
                if self.is_news(reader, &item) && !is_forgiven {
                    self.show(reader, item, Some(catch_up.target), out);
                }
            }
            self.items = items;
            let again = match read {
                Read::Page { more: false, .. } => None,
                Read::Page { reached, more: true } => Some((CatchUpFrom::Position(reached), None)),
                Read::Cold(fetch) if forgive => Some((CatchUpFrom::Earliest(from), Some(fetch))),
                Read::Cold(fetch) => Some((CatchUpFrom::Position(from), Some(fetch))),
            };
            if let Some((position, fetch)) = again {
                catch_up.from = position;
                self.readers[reader as usize].rare().catch_up.push_front(catch_up);
                return fetch;
            }
        }
        if catch_up.announce {
            self.activate(reader, catch_up.target);
            out.extend(self.target(catch_up.target).map(Step::Subscribed));
        }
        None
    }

    /// Shows the retained value with which a channel begins, or says what has to be fetched for that.
    fn show_retained(
        &mut self,
        reader: ReaderId,
        catch_up: &CatchUp,
        bytes: usize,
        page: &mut Option<Page>,
        out: &mut Vec<Step>,
    ) -> Result<(), Fetch> {
        let CatchUpTarget::Channel(id) = catch_up.target else {
            return Ok(());
        };
        let until = catch_up.until;
        let value = match self.hub.retained_until(id, until) {
            Value::None => None,
            Value::Here(value) => Some(value),
            Value::Stored(position) => {
                let name = self.name_of(id);
                let page = page.as_ref().filter(|page| {
                    page.asked.as_ref().is_some_and(|asked| {
                        asked.want == Want::Retained
                            && asked.until == until.durable
                            && name.is_some_and(|name| asked.channels.contains(name))
                    })
                });
                match page {
                    Some(page) if position <= page.reached => self.hub.retained_fetched(id, until, page),
                    // Those before it have filled the page: with them it would never come.
                    Some(_) => return Err(self.fetch_retained([id], until, bytes)),
                    None => {
                        return Err(self.fetch_retained(self.next_retained(reader, id, until), until, bytes));
                    }
                }
            }
        };
        let rare = self.readers[reader as usize].rare();
        // The values of several channels come together.
        if rare.catch_up.front().is_some_and(CatchUp::is_retained) {
            rare.page = page.take();
        }
        if let Some(value) = value.filter(|value| !self.is_excluded(reader, value)) {
            let place = value.place_in(id).unwrap_or(0);
            out.push(Step::Publication(value, place, None));
        }
        Ok(())
    }

    /// A channel that begins with its retained value, and those that come next and do as well.
    fn next_retained(&self, reader: ReaderId, first: ChannelId, until: Position) -> Vec<ChannelId> {
        let queued = self.readers[reader as usize]
            .rare
            .iter()
            .flat_map(|rare| &rare.catch_up);
        let next = queued
            .take_while(|next| next.is_retained() && next.until == until)
            .filter_map(|next| match next.target {
                CatchUpTarget::Channel(id) => Some(id),
                CatchUpTarget::Pattern(_) => None,
            })
            .filter(|id| matches!(self.hub.retained_until(*id, until), Value::Stored(_)));
        std::iter::once(first).chain(next).take(VALUES).collect()
    }

    /// What to fetch for channels that begin with their retained values: about so many bytes of them, but one in any case.
    fn fetch_retained(
        &self,
        channels: impl IntoIterator<Item = ChannelId>,
        until: Position,
        bytes: usize,
    ) -> Fetch {
        let names = channels.into_iter().filter_map(|id| self.name_of(id).cloned());
        Fetch {
            want: Want::Retained,
            channels: names.collect(),
            until: until.durable,
            bytes,
            ..Fetch::default()
        }
    }

    fn name_of(&self, id: ChannelId) -> Option<&ChannelName> {
        let slot = &self.slots[*self.by_place.get(&id.slot)? as usize];
        (slot.channel.id == id).then_some(&slot.channel.name)
    }

    fn wants_presence(&self, reader: ReaderId, target: CatchUpTarget) -> bool {
        let entry = &self.readers[reader as usize];
        match target {
            CatchUpTarget::Channel(id) => entry
                .subscriptions
                .iter()
                .any(|s| s.presence && self.slots[s.slot as usize].channel.id == id),
            CatchUpTarget::Pattern(id) => entry.patterns.iter().any(|p| p.wants.presence && p.id == id),
        }
    }

    fn activate(&mut self, reader: ReaderId, target: CatchUpTarget) {
        let entry = &mut self.readers[reader as usize];
        match target {
            CatchUpTarget::Channel(id) => {
                let slots = &self.slots;
                let mut own = entry.subscriptions.iter_mut();
                if let Some(s) = own.find(|s| slots[s.slot as usize].channel.id == id) {
                    s.active = true;
                }
            }
            CatchUpTarget::Pattern(id) => {
                if let Some(p) = entry.patterns.iter_mut().find(|p| p.id == id) {
                    p.active = true;
                }
            }
        }
    }

    fn target(&self, target: CatchUpTarget) -> Option<Target> {
        match target {
            CatchUpTarget::Channel(id) => {
                let slot = &self.slots[*self.by_place.get(&id.slot)? as usize];
                (slot.channel.id == id).then(|| Target::Channel(slot.channel.clone()))
            }
            CatchUpTarget::Pattern(id) => Some(Target::Pattern(self.patterns.get(&id)?.pattern.clone())),
        }
    }
}
