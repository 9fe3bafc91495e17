//! The thread that keeps the log small: what has grown too old, who gives way at the ceiling, which segment is cleared away.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use cometserver_core::Time;

use super::compaction;
use super::index::{Index, Slot};
use super::queue::Chore;
use super::room::Sizes;
use super::shared::{Shared, count};

/// So many channels are looked at while the index is locked once.
const STRIDE: usize = 256;

/// So many publications are forgotten while the index is locked once.
pub(super) const STEPS: usize = 1024;

/// What grows too old within so many milliseconds is forgotten together.
const COALESCE: u64 = 1000;

/// For so many milliseconds what brought nothing is not done again.
const REST: u64 = 60_000;

/// What there is to be cleared away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// The oldest segment.
    Segment,
    /// The segment that is written to, which becomes an older one.
    Seal,
    /// Publications: what is kept is too much.
    Publications,
}

/// Works until the bell is closed.
pub(crate) fn run(shared: &Arc<Shared>) {
    // As it was opened: it may have been configured anew before this thread runs.
    let mut version = 0;
    let mut until = None;
    let mut full_since = None;
    while shared.bell.sleep(shared.now(), until) {
        let now_version = shared.index().version();
        if std::mem::replace(&mut version, now_version) != now_version {
            take_up_namespaces(shared);
            write_down_buffered(shared);
        }
        let due = expire(shared);
        trim_rest(shared);
        until = due.map(|due| due.max(shared.now() + COALESCE));
        bound_idle(shared);
        let is_done = clear_away(shared);
        shared.room.note_cleared(is_done);
        shared.queue.let_go();
        let has_reserve = !shared.room.is_short() || shared.room.refill();
        let is_full = is_still_full(shared, &mut full_since);
        if !is_done || !has_reserve || is_full {
            // The disk is full or failing: again later, as long as there is something to do.
            until = Some(shared.now() + shared.options.pause.as_millis() as u64);
        }
    }
}

/// Is the disk full? When it was for a while it is tried again, so that nobody has to publish for it to be known.
fn is_still_full(shared: &Shared, since: &mut Option<Time>) -> bool {
    let (now, pause) = (shared.now(), shared.options.pause.as_millis() as u64);
    if !shared.room.is_full() {
        *since = None;
        return false;
    }
    // Not at once: that it is full may not be told yet.
    if now < *since.get_or_insert(now) + pause || shared.room.is_short() || !shared.room.probe() {
        return true;
    }
    *since = None;
    shared.tell_recovered();
    false
}

/// Clears away what there is. Could it be done?
fn clear_away(shared: &Shared) -> bool {
    let mut round = Round::begin(shared);
    while !shared.bell.is_closed() {
        shared.room.measure();
        let Some(duty) = duty(&shared.index(), shared) else {
            break;
        };
        let is_done = match duty {
            Duty::Publications => trim_for_ceiling(shared),
            Duty::Seal => compaction::seal(shared),
            Duty::Segment => {
                let freed = compaction::clear_oldest(shared);
                round.freed += freed.unwrap_or(0);
                freed.is_some()
            }
        };
        if !is_done {
            return false;
        }
        if duty == Duty::Segment {
            shared.room.note_freed();
            round.end(shared);
        }
    }
    true
}

/// Clearing away all segments that there were at some moment, once.
struct Round {
    /// The newest of them.
    newest: u32,
    /// Bytes of those that are gone.
    freed: u64,
    /// Bytes written to clear away before.
    written: u64,
}

impl Round {
    fn begin(shared: &Shared) -> Self {
        let newest = shared
            .index()
            .segments
            .last_key_value()
            .map(|(number, _)| *number);
        Self {
            newest: newest.unwrap_or(0),
            freed: 0,
            written: shared.room.upkeep(),
        }
    }

    /// If it is through: did it bring anything? Else all that is left is needed, also what is not kept: how channels stand,
    /// keys, what each segment knows of the others.
    fn end(&mut self, shared: &Shared) {
        let index = shared.index();
        if index
            .segments
            .keys()
            .next()
            .is_none_or(|oldest| *oldest <= self.newest)
        {
            return;
        }
        let waste = index.total - index.live;
        let sizes = shared.room.sizes(&shared.options, index.total);
        let least = least_waste(&index, &sizes, shared);
        drop(index);
        let written = shared.room.upkeep() - self.written;
        if written >= self.freed - self.freed / 8 {
            shared.room.note_futile(waste + least, shared.now() + REST);
        }
        *self = Self::begin(shared);
    }
}

/// With less waste than this there would be no end of clearing away: each segment begins with what is known of the others.
///
/// Once the reserve is used, deletions must not need all of it before they make room: the smallest take as much as they free.
fn least_waste(index: &Index, sizes: &Sizes, shared: &Shared) -> u64 {
    match shared.room.is_short() {
        true => sizes.segment / 4 * 3,
        false => (index.total / 8).max(sizes.segment),
    }
}

/// Is there something to be cleared away? The segment that is written to is left alone, but on a disk that is nearly full.
pub(crate) fn has_work(index: &Index, shared: &Shared) -> bool {
    index.has_untrimmed() || duty(index, shared).is_some()
}

fn duty(index: &Index, shared: &Shared) -> Option<Duty> {
    let (_, current) = index.segments.last_key_value()?;
    let sizes = shared.room.sizes(&shared.options, index.total);
    if index.live > sizes.ceiling / 4 * 3 && index.publications > 0 {
        return Some(Duty::Publications);
    }
    let length = u64::from(current.length);
    let least = least_waste(index, &sizes, shared);
    if sizes.is_tight && length.saturating_sub(current.live) > least {
        return Some(Duty::Seal);
    }
    if index.segments.len() < 2 {
        return None;
    }
    if shared.room.is_futile(index.total - index.live, shared.now()) {
        // How channels stand takes the rest: then there is less room for what is kept.
        let gives_way = index.total > sizes.ceiling && index.live > sizes.ceiling / 4;
        return (gives_way && index.publications > 0).then_some(Duty::Publications);
    }
    let (_, oldest) = index.segments.first_key_value()?;
    let live = index.live.saturating_sub(current.live);
    let dead = (index.total - length).saturating_sub(live);
    let is_worth_it = dead > live.max(sizes.garbage)
        || sizes.is_tight && dead > least
        || index.total > sizes.ceiling && dead > index.total / 8;
    (oldest.places == 0 || is_worth_it).then_some(Duty::Segment)
}

/// What is answered early from now on is written down at once, by a batch of nothing: a crash may come before another.
fn write_down_buffered(shared: &Shared) {
    if shared.index().losses.changes > 0 {
        let (done, wait) = sync_channel(1);
        let steps = Vec::new();
        shared.queue.push_chore(Chore { steps, done });
        // Whatever is written next says it as well.
        let _ = wait.recv();
    }
}

fn take_up_namespaces(shared: &Shared) {
    for_each_slot(shared, |index, slot, now, steps| index.trim(slot, now, steps));
}

/// Trims on where it was too much for once.
fn trim_rest(shared: &Shared) {
    loop {
        let now = shared.now();
        let mut index = shared.index();
        let Some(slot) = index.take_untrimmed() else {
            return;
        };
        // Another channel may have its place by now: that one is within its bounds.
        if index.get(slot).is_some() {
            index.trim(slot, now, &mut { STEPS });
        }
    }
}

/// Forgets what has grown too old. When to come again.
fn expire(shared: &Shared) -> Option<u64> {
    loop {
        let now = shared.now();
        let due = shared.index().expire(now, STEPS);
        if due.is_none_or(|due| due > now) {
            return due;
        }
    }
}

fn bound_idle(shared: &Shared) {
    let limit = shared.options.idle_channels;
    while shared.index().bound_idle(limit, STRIDE) {}
}

/// The channels with most give way, their oldest publications first, until a good part of the ceiling is free again.
fn trim_for_ceiling(shared: &Shared) -> bool {
    let mut shares = Vec::new();
    for_each_slot(shared, |index, slot, _, _| {
        shares.extend(
            index
                .get(slot)
                .map(|channel| channel.bytes)
                .filter(|bytes| *bytes > 0),
        );
        true
    });
    let live = shared.index().live;
    let ceiling = shared.sizes().ceiling;
    let held: u64 = shares.iter().sum();
    let wanted = match live > ceiling / 4 * 3 {
        true => ceiling / 8 * 5,
        false => live / 4 * 3,
    };
    let wanted = wanted.saturating_sub(live.saturating_sub(held));
    let share = fair_share(shares, wanted);
    let mut trimmed = 0;
    for_each_slot(shared, |index, slot, _, steps| {
        while index.get(slot).is_some_and(|channel| channel.bytes > share) {
            let Some(left) = steps.checked_sub(1) else {
                return false;
            };
            *steps = left;
            trimmed += u64::from(index.pop_oldest(slot).is_some());
        }
        index.settle_idle(slot);
        true
    });
    count(&shared.counters.trimmed_for_ceiling, trimmed);
    tracing::warn!(
        publications = trimmed,
        ceiling,
        "the log has reached its ceiling: the channels with most have lost their oldest publications"
    );
    trimmed > 0
}

/// How much each may keep so that all together keep `wanted`: who has less is not touched.
fn fair_share(mut shares: Vec<u64>, wanted: u64) -> u64 {
    shares.sort_unstable();
    let mut left = wanted;
    let count = shares.len();
    for (place, share) in shares.iter().enumerate() {
        let each = left / (count - place) as u64;
        if *share > each {
            return each;
        }
        left -= share;
    }
    u64::MAX
}

/// Visits all channels, some at a time. A visit is given the time and counts down the steps that it may still make; if those
/// do not suffice it says so, and the channel is visited again once others have had the index.
pub(crate) fn for_each_slot(
    shared: &Shared,
    mut visit: impl FnMut(&mut Index, Slot, u64, &mut usize) -> bool,
) {
    let mut slot = 0;
    loop {
        let now = shared.now();
        let mut index = shared.index();
        let end = index.slots().min(slot + STRIDE);
        if slot >= end {
            return;
        }
        let mut steps = STEPS;
        while slot < end {
            let own = slot as Slot;
            if index.get(own).is_some() && !visit(&mut index, own, now, &mut steps) {
                break;
            }
            slot += 1;
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "the exception for tests does not know their helper functions"
)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use cometserver_core::broker::{Broker, Committed, Delete, Deletion, Fetch, Outcome, Page, Submission};
    use cometserver_core::channel::ChannelName;
    use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
    use cometserver_core::publication::Message;

    use super::*;
    use crate::broker::disk::{DiskLog, DiskOptions};

    const MANY: usize = 20 * STEPS;

    fn bounded(count: usize, bytes: usize, age: u64) -> Namespaces {
        Namespaces::uniform(Namespace {
            history: Bounds { count, bytes, age },
            durability: Durability::Committed,
            ..Namespace::default()
        })
    }

    /// A log whose one channel keeps [`MANY`] publications, and what it commits.
    struct Full {
        log: Arc<DiskLog>,
        name: ChannelName,
        committed: Receiver<Vec<Committed>>,
        _folder: tempfile::TempDir,
    }

    impl Full {
        fn new(options: DiskOptions) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let unbounded = bounded(usize::MAX, 1 << 40, 1 << 50);
            let log = DiskLog::open(&folder.path().join("log"), options, &unbounded).unwrap();
            let (told, committed) = channel();
            log.set_commit(move |batch| told.send(batch).unwrap());
            let full = Self {
                log,
                name: ChannelName::new("full").unwrap(),
                committed,
                _folder: folder,
            };
            full.log.open(&full.name);
            for _ in 0..MANY {
                full.publish("");
            }
            full.answers(MANY);
            assert_eq!(full.log.stats().publications, MANY);
            full.log.shared.index().popped = (0, 0);
            full
        }

        fn publish(&self, text: &str) {
            let submission = Submission {
                ticket: 0,
                message: Arc::new(Message::text(self.name.clone(), text)),
                channels: vec![self.name.clone()],
                time: self.log.shared.now(),
            };
            self.log.publish(submission).unwrap();
        }

        fn answers(&self, count: usize) -> Vec<Committed> {
            let mut all = Vec::new();
            while all.len() < count {
                all.extend(self.committed.recv_timeout(Duration::from_secs(60)).unwrap());
            }
            all
        }

        /// Only so many are left, and never were many forgotten at once.
        fn is_trimmed_to(&self, count: usize) {
            while self.log.stats().publications > count {
                std::thread::yield_now();
            }
            let (_, most) = self.log.shared.index().popped;
            assert!(most > 0 && most <= STEPS + TRIMMED_WITH_A_BATCH, "{most}");
        }
    }

    /// Each of the publications of a few batches may trim some.
    const TRIMMED_WITH_A_BATCH: usize = STEPS;

    #[test]
    fn a_long_history_is_forgotten_in_strides() {
        let full = Full::new(DiskOptions::default());
        full.log
            .delete(Deletion {
                ticket: 1,
                channel: full.name.clone(),
                what: Delete::History,
            })
            .unwrap();
        let answers = full.answers(1);
        assert!(matches!(
            answers[0].result,
            Ok(Outcome::Deleted { count: MANY, gone }) if gone == MANY as u64
        ));
        full.is_trimmed_to(0);
    }

    #[test]
    fn shorter_bounds_are_taken_up_in_strides() {
        let full = Full::new(DiskOptions::default());
        full.log.configure(&bounded(10, 1 << 40, 1 << 50));
        full.is_trimmed_to(10);
    }

    #[test]
    fn what_has_grown_too_old_is_forgotten_in_strides() {
        let full = Full::new(DiskOptions::default());
        full.log.configure(&bounded(usize::MAX, 1 << 40, 0));
        full.is_trimmed_to(0);
    }

    #[test]
    fn a_large_publication_makes_room_in_strides() {
        let full = Full::new(DiskOptions::default());
        // Bounds that are just kept until then.
        let kept = full.log.stats().live_bytes as usize;
        full.log.configure(&bounded(usize::MAX, kept, 1 << 50));
        full.publish(&"x".repeat(kept - 4096));
        full.answers(1);
        full.is_trimmed_to(200);
    }

    #[test]
    fn a_reader_trims_in_strides_and_is_never_shown_what_is_beyond_the_bounds() {
        let full = Full::new(DiskOptions::default());
        // Nobody but the reader trims.
        full.log.shared.bell.close();
        full.log.configure(&bounded(10, 1 << 40, 1 << 50));
        let fetch = Fetch {
            channels: vec![full.name.clone()],
            until: u64::MAX,
            limit: 100,
            bytes: 1 << 20,
            ..Fetch::default()
        };
        let (told, page) = channel();
        full.log
            .read(fetch, Box::new(move |page| told.send(page).unwrap()));
        let page: Page = page.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(page.stored.len(), 10);
        full.is_trimmed_to(10);
    }

    #[test]
    fn room_is_made_at_the_ceiling_in_strides() {
        let full = Full::new(DiskOptions {
            // Three quarters of it are a little more than what is kept.
            ceiling: (MANY * 70 / 3 * 4) as u64,
            ..DiskOptions::default()
        });
        while !has_work(&full.log.shared.index(), &full.log.shared) {
            full.publish(&"x".repeat(1000));
            full.answers(1);
        }
        full.is_trimmed_to(MANY * 5 / 6);
    }

    #[test]
    fn who_has_most_gives_way() {
        assert_eq!(fair_share(vec![10, 100, 1], 51), 40);
        assert_eq!(fair_share(vec![10, 100, 1], 111), u64::MAX);
        assert_eq!(fair_share(vec![50, 50], 60), 30);
        assert_eq!(fair_share(vec![50, 50], 0), 0);
    }
}
