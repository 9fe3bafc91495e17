//! The verdict: whether what everybody saw can be explained by one order in which nothing acknowledged is missing.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::ledger::{Event, Id, Kind, Ledger, Mark, Moment, Records, Sent, Start, Subscriber};
use super::scene::{BUFFERED_BYTES, Promise, Room};

/// What a message costs the server besides its payload while it waits for its commit, at least nothing.
const LOSS_BOUND: u64 = BUFFERED_BYTES;

/// All contradictions that only the end shows.
pub(super) fn judge(ledger: &Ledger) -> Vec<String> {
    let records = ledger.records();
    let judge = Judge {
        ledger,
        records: &records,
    };
    let mut faults = Vec::new();
    for channel in 0..ledger.scene.channels.len() as u16 {
        judge.channel(channel, &mut faults);
    }
    for subscriber in &records.subscribers {
        judge.subscriber(subscriber, &mut faults);
    }
    judge.one_order(&mut faults);
    judge.buffered_losses(&mut faults);
    faults.truncate(20);
    faults
}

struct Judge<'a> {
    ledger: &'a Ledger,
    records: &'a Records,
}

impl Judge<'_> {
    fn sent(&self, id: Id) -> &Sent {
        &self.records.publishers[usize::from(id.publisher)][id.number as usize]
    }

    /// Offsets without holes, everything acknowledged in its place, in the order in which it was sent.
    fn channel(&self, channel: u16, faults: &mut Vec<String>) {
        let name = self.ledger.scene.name(channel);
        let promise = self.ledger.scene.promise(channel);
        let truth = &self.records.truth[usize::from(channel)];
        for (mark, history) in &truth.histories {
            let known: Vec<Id> = history.iter().flatten().copied().collect();
            let holes = history.len() - known.len();
            // What nobody could see any more of a short history, or of a memory that is gone, is not known.
            if holes > 0 && matches!(promise, Promise::Durable | Promise::Buffered) {
                let first = history.iter().position(Option::is_none);
                faults.push(format!(
                    "{name} (mark {mark}) has {holes} holes, the first after offset {first:?}"
                ));
            }
            self.sending_order(&known, &format!("the history of {name}"), faults);
        }
        if promise == Promise::Buffered || !self.ledger.scene.is_durable(channel) {
            return;
        }
        for (publisher, list) in self.records.publishers.iter().enumerate() {
            for (number, sent) in list.iter().enumerate() {
                let id = Id {
                    publisher: publisher as u16,
                    number: number as u32,
                };
                // An old client is not told where its value is: in a short history nobody may ever see it.
                let unseen = promise == Promise::Short && sent.kind == Kind::Token;
                if sent.acked.is_some()
                    && !unseen
                    && sent.channels.contains(&channel)
                    && !truth.place.contains_key(&id)
                {
                    faults.push(format!(
                        "{id:?} was acknowledged in life {} and is not in {name}",
                        sent.life_acked
                    ));
                }
            }
        }
    }

    /// What was acknowledged before something else was sent comes before it; so does what one publisher sent before.
    fn sending_order(&self, ids: &[Id], whose: &str, faults: &mut Vec<String>) {
        let mut newest: HashMap<u16, Id> = HashMap::new();
        for id in ids {
            if self.sent(*id).loose {
                continue;
            }
            if let Some(before) = newest.insert(id.publisher, *id)
                && before > *id
            {
                faults.push(format!("{whose}: {before:?} comes before {id:?}"));
                return;
            }
        }
        let mut earliest: (Moment, Option<Id>) = (Moment::MAX, None);
        for id in ids.iter().rev() {
            let sent = self.sent(*id);
            if earliest.0 < sent.first {
                let other = earliest.1;
                faults.push(format!(
                    "{whose}: {id:?} comes before {other:?}, which was acknowledged before it was sent"
                ));
                return;
            }
            if let Some(acked) = sent.acked
                && acked < earliest.0
            {
                earliest = (acked, Some(*id));
            }
        }
    }

    fn subscriber(&self, subscriber: &Subscriber, faults: &mut Vec<String>) {
        let mut at: HashMap<Id, usize> = HashMap::new();
        let mut by_channel: HashMap<u16, Vec<&Event>> = HashMap::new();
        let mut durable = Vec::new();
        for (index, event) in subscriber.events.iter().enumerate() {
            match event {
                Event::Seen { id, channel, .. } => {
                    at.entry(*id).or_insert(index);
                    by_channel.entry(*channel).or_default().push(event);
                    if self.ledger.scene.is_durable(*channel) {
                        durable.push(*id);
                    }
                }
                Event::Gap { channels, .. } => {
                    for channel in channels {
                        by_channel.entry(*channel).or_default().push(event);
                    }
                }
            }
        }
        for channel in &subscriber.channels {
            match self.ledger.scene.promise(*channel) {
                Promise::Durable | Promise::Buffered => self.complete(subscriber, *channel, &at, faults),
                Promise::Short | Promise::Memory => {
                    let none = Vec::new();
                    let events = by_channel.get(channel).unwrap_or(&none);
                    self.gaps_cover(subscriber, *channel, events, faults);
                }
            }
        }
        if !subscriber.piecewise {
            self.sending_order(&durable, &subscriber.name, faults);
            return;
        }
        for events in by_channel.values() {
            let offsets = events.iter().filter_map(|event| match event {
                Event::Seen { offset, .. } => Some(*offset),
                Event::Gap { .. } => None,
            });
            if !offsets.is_sorted() {
                faults.push(format!("{} got a channel out of order", subscriber.name));
            }
        }
    }

    /// Everything of the channel after its start, once (the ledger saw to that) and in order.
    fn complete(
        &self,
        subscriber: &Subscriber,
        channel: u16,
        at: &HashMap<Id, usize>,
        faults: &mut Vec<String>,
    ) {
        let name = self.ledger.scene.name(channel);
        let who = &subscriber.name;
        let truth = &self.records.truth[usize::from(channel)];
        let Some(history) = truth.histories.values().next() else {
            return;
        };
        let early = self.ledger.scene.promise(channel) == Promise::Buffered;
        let mut last: Option<usize> = None;
        let mut missing: Option<Id> = None;
        for id in history.iter().flatten() {
            let sent = self.sent(*id);
            match (at.get(id), subscriber.start) {
                // What is answered before it is visible may become visible after that "now".
                (Some(_), Start::Now { asked, .. })
                    if !early && sent.acked.is_some_and(|acked| acked < asked) =>
                {
                    faults.push(format!(
                        "{who} got {id:?} of {name}, acknowledged before it asked for now"
                    ));
                    return;
                }
                (Some(index), _) => {
                    if let Some(missing) = missing {
                        faults.push(format!(
                            "{who} never got {missing:?} of {name}, but {id:?} after it"
                        ));
                        return;
                    }
                    if last.is_some_and(|last| last > *index) && !subscriber.piecewise {
                        faults.push(format!("{who} got {id:?} of {name} out of order"));
                        return;
                    }
                    last = Some(*index);
                }
                (None, Start::Now { received, .. }) if last.is_none() && sent.first < received => {}
                (None, _) => missing = missing.or(Some(*id)),
            }
        }
        if let Some(missing) = missing
            && !subscriber.left
        {
            let sent = self.sent(missing);
            let (life, acked) = (sent.life, sent.acked.map(|_| sent.life_acked));
            faults.push(format!(
                "{who} never got {missing:?} of {name} (sent in life {life}, acknowledged in {acked:?})"
            ));
        }
    }

    /// Rising offsets; whatever is missing is covered by a gap that was told between its neighbours.
    fn gaps_cover(&self, subscriber: &Subscriber, channel: u16, events: &[&Event], faults: &mut Vec<String>) {
        let (name, who) = (self.ledger.scene.name(channel), &subscriber.name);
        let Start::Beginning = subscriber.start else {
            return;
        };
        let truth = &self.records.truth[usize::from(channel)];
        let first_mark = if self.ledger.scene.is_durable(channel) {
            0
        } else {
            subscriber.first_mark.unwrap_or(0)
        };
        let (mut at, mut told): ((Mark, u64), bool) = ((first_mark, 0), false);
        for event in events {
            let Event::Seen { id, mark, offset, .. } = event else {
                told = true;
                continue;
            };
            let fault = if at.0 == *mark {
                if *offset <= at.1 {
                    Some("out of order")
                } else {
                    let silent =
                        !told && !self.shown_elsewhere(subscriber, channel, *mark, at.1..*offset - 1);
                    silent.then_some("after a silent gap")
                }
            } else {
                let old = truth.histories.get(&at.0).map_or(0, Vec::len) as u64;
                let between = self.between(at.0, *mark);
                let lost = old > at.1
                    || *offset != 1
                    || between.iter().any(|mark| truth.histories.contains_key(mark));
                (lost && !told).then_some("after a silent gap over a restart")
            };
            if let Some(fault) = fault {
                let lost = (*mark, *offset);
                faults.push(format!("{who} got {id:?} of {name} {fault}: {at:?} -> {lost:?}"));
                return;
            }
            (at, told) = ((*mark, *offset), false);
        }
        let newest = self
            .records
            .marks
            .iter()
            .rev()
            .find(|mark| truth.histories.contains_key(mark));
        let mark = if first_mark == 0 {
            0
        } else {
            *newest.unwrap_or(&first_mark)
        };
        let end = (mark, truth.histories.get(&mark).map_or(0, Vec::len) as u64);
        let all = at.0 == mark && self.shown_elsewhere(subscriber, channel, mark, at.1..end.1);
        if at != end && !told && end.1 > 0 && !subscriber.left && !all {
            faults.push(format!("{who} stands at {at:?} of {name}, which ends at {end:?}"));
        }
    }

    /// What is in several channels is shown once: whether that explains all that is missing after the first of these offsets, up
    /// to the second.
    fn shown_elsewhere(
        &self,
        subscriber: &Subscriber,
        channel: u16,
        mark: Mark,
        missing: Range<u64>,
    ) -> bool {
        let truth = &self.records.truth[usize::from(channel)];
        let history = truth.histories.get(&mark).map_or(&[][..], |history| history);
        let missing = history
            .get(missing.start as usize..missing.end as usize)
            .unwrap_or_default();
        let known = missing.iter().flatten().all(|id| subscriber.seen.contains(id));
        let unknown = missing.iter().filter(|id| id.is_none()).count();
        // Of what was not acknowledged it may never be told where it is in the other channels.
        let elsewhere =
            |id: &&Id| self.sent(**id).channels.contains(&channel) && !truth.place.contains_key(*id);
        // After damage offsets go on behind all that may have been there; what nobody knows of need not have been.
        let skips = self.ledger.scene.room == Room::Damaged;
        known && (unknown == 0 || skips || subscriber.seen.iter().filter(elsewhere).count() >= unknown)
    }

    /// The memories between two.
    fn between(&self, old: Mark, new: Mark) -> Vec<Mark> {
        let marks = self.records.marks.iter().copied();
        let after = marks.skip_while(|mark| *mark != old).skip(1);
        after.take_while(|mark| *mark != new).collect()
    }

    /// There is one order of all publications that every subscriber and every history agrees with.
    fn one_order(&self, faults: &mut Vec<String>) {
        let mut after: HashMap<Id, Vec<Id>> = HashMap::new();
        let mut before: HashMap<Id, usize> = HashMap::new();
        let mut follow = |ids: &mut dyn Iterator<Item = Id>| {
            let mut last: Option<Id> = None;
            for id in ids {
                before.entry(id).or_default();
                if let Some(last) = last {
                    after.entry(last).or_default().push(id);
                    *before.entry(id).or_default() += 1;
                }
                last = Some(id);
            }
        };
        for subscriber in self
            .records
            .subscribers
            .iter()
            .filter(|subscriber| !subscriber.piecewise)
        {
            // Across a restart memory and the disk are in no order but that of the restart; within one life they are in one.
            follow(&mut subscriber.events.iter().filter_map(|event| match event {
                Event::Seen { id, channel, .. } if self.ledger.scene.is_durable(*channel) => Some(*id),
                _ => None,
            }));
            let memory = subscriber.events.iter().filter_map(|event| match event {
                Event::Seen {
                    id, channel, mark, ..
                } if !self.ledger.scene.is_durable(*channel) => Some((*mark, *id)),
                _ => None,
            });
            let memory: Vec<(Mark, Id)> = memory.collect();
            for part in memory.chunk_by(|one, other| one.0 == other.0) {
                follow(&mut part.iter().map(|(_, id)| *id));
            }
        }
        for truth in &self.records.truth {
            for history in truth.histories.values() {
                follow(&mut history.iter().flatten().copied());
            }
        }
        let total = before.len();
        let mut free: Vec<Id> = before
            .iter()
            .filter(|(_, n)| **n == 0)
            .map(|(id, _)| *id)
            .collect();
        let mut sorted = 0;
        while let Some(id) = free.pop() {
            sorted += 1;
            for next in after.remove(&id).unwrap_or_default() {
                if let Some(left) = before.get_mut(&next) {
                    *left -= 1;
                    if *left == 0 {
                        free.push(next);
                    }
                }
            }
        }
        if sorted < total {
            let mut stuck: Vec<Id> = before
                .into_iter()
                .filter(|(_, n)| *n > 0)
                .map(|(id, _)| id)
                .collect();
            stuck.sort();
            stuck.truncate(10);
            let count = total - sorted;
            faults.push(format!(
                "{count} publications were seen in contradicting orders, among them or after them {stuck:?}"
            ));
        }
    }

    /// What was lost of a channel in a life is told to each subscriber, before anything that was sent later.
    fn told_of_loss(&self, life: u32, channel: u16, lost: (Moment, Id), faults: &mut Vec<String>) {
        let (acked, id) = lost;
        for subscriber in &self.records.subscribers {
            let is_later = matches!(subscriber.start, Start::Now { received, .. } if received > acked);
            if is_later || !subscriber.channels.contains(&channel) {
                continue;
            }
            let is_next = |event: &&Event| match event {
                Event::Seen { id, channel: of, .. } => *of == channel && self.sent(*id).life > life,
                Event::Gap { channels, life: at } => channels.contains(&channel) && *at > life,
            };
            match subscriber.events.iter().find(is_next) {
                Some(Event::Gap { .. }) => {}
                None if subscriber.left => {}
                next => faults.push(format!(
                    "{} was not told that {id:?} of {}, answered in life {life}, is lost, but got {next:?}",
                    subscriber.name,
                    self.ledger.scene.name(channel)
                )),
            }
        }
    }

    /// What was answered before its commit may be lost: within the bound, nothing before what survived, and not in silence.
    fn buffered_losses(&self, faults: &mut Vec<String>) {
        let mut lost_bytes: HashMap<u32, u64> = HashMap::new();
        let mut untold: HashMap<(u32, u16), (Moment, Id)> = HashMap::new();
        let mut lost: HashMap<u32, (Moment, Id)> = HashMap::new();
        let placed: Vec<HashSet<Id>> = self
            .records
            .truth
            .iter()
            .map(|truth| truth.place.keys().copied().collect())
            .collect();
        let all = self
            .records
            .publishers
            .iter()
            .enumerate()
            .flat_map(|(publisher, list)| {
                list.iter().enumerate().map(move |(number, sent)| {
                    let (publisher, number) = (publisher as u16, number as u32);
                    (Id { publisher, number }, sent)
                })
            });
        let all: Vec<(Id, &Sent)> = all.collect();
        let is_lost = |id: &Id, sent: &Sent| {
            sent.channels
                .iter()
                .any(|channel| !placed[usize::from(*channel)].contains(id))
        };
        for (id, sent) in &all {
            let buffered = |channel: &u16| self.ledger.scene.promise(*channel) == Promise::Buffered;
            let Some(acked) = sent.acked else { continue };
            if sent.life == sent.life_acked && sent.channels.iter().any(buffered) && is_lost(id, sent) {
                *lost_bytes.entry(sent.life).or_default() += u64::from(sent.filler);
                let first = lost.entry(sent.life).or_insert((acked, *id));
                *first = (*first).min((acked, *id));
                for channel in sent.channels.iter().filter(|channel| buffered(channel)) {
                    let last = untold.entry((sent.life, *channel)).or_insert((acked, *id));
                    *last = (*last).max((acked, *id));
                }
            }
        }
        for ((life, channel), lost) in untold {
            self.told_of_loss(life, channel, lost, faults);
        }
        for (life, bytes) in lost_bytes {
            if bytes > LOSS_BOUND {
                faults.push(format!(
                    "{bytes} B of buffered publications were lost in life {life}"
                ));
            }
        }
        for (id, sent) in &all {
            let Some((acked, other)) = lost.get(&sent.life) else {
                continue;
            };
            let survived = sent.acked.is_some()
                && sent.life == sent.life_acked
                && !is_lost(id, sent)
                && self.ledger.scene.is_durable(sent.channels[0]);
            if survived && sent.first > *acked {
                faults.push(format!(
                    "{id:?} survived life {}, {other:?}, acknowledged before it was sent, did not",
                    sent.life
                ));
                return;
            }
        }
    }
}
