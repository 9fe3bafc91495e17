//! The thread that keeps the log small: what has grown too old, who gives way at the ceiling, which segment is cleared away.

use std::sync::Arc;

use super::compaction;
use super::index::{Index, Slot};
use super::options::DiskOptions;
use super::shared::{Shared, count};

/// So many channels are looked at while the index is locked once.
const STRIDE: usize = 256;

/// What grows too old within so many milliseconds is forgotten together.
const COALESCE: u64 = 1000;

/// What there is to be cleared away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// The oldest segment.
    Segment,
    /// Publications: what is kept is too much.
    Publications,
}

/// Works until the bell is closed.
pub(crate) fn run(shared: &Arc<Shared>) {
    // As it was opened: it may have been configured anew before this thread runs.
    let mut version = 0;
    let mut until = None;
    while shared.bell.sleep(shared.now(), until) {
        let now_version = shared.index().version();
        if std::mem::replace(&mut version, now_version) != now_version {
            take_up_namespaces(shared);
        }
        let due = expire(shared);
        until = due.map(|due| due.max(shared.now() + COALESCE));
        bound_idle(shared);
        while !shared.bell.is_closed() {
            let Some(duty) = duty(&shared.index(), &shared.options) else {
                break;
            };
            let is_done = match duty {
                Duty::Publications => trim_for_ceiling(shared),
                Duty::Segment => compaction::clear_oldest(shared),
            };
            if !is_done {
                // The disk is full or failing: again later, as long as there is something to do.
                until = Some(shared.now() + shared.options.pause.as_millis() as u64);
                break;
            }
        }
    }
}

/// Is there something to be cleared away? The segment that is written to is left alone.
pub(crate) fn has_work(index: &Index, options: &DiskOptions) -> bool {
    duty(index, options).is_some()
}

fn duty(index: &Index, options: &DiskOptions) -> Option<Duty> {
    let (_, current) = index.segments.last_key_value()?;
    if index.live > options.ceiling / 4 * 3 && index.publications > 0 {
        return Some(Duty::Publications);
    }
    if index.segments.len() < 2 {
        return None;
    }
    let (_, oldest) = index.segments.first_key_value()?;
    let sealed = index.total - u64::from(current.length);
    let live = index.live.saturating_sub(current.live);
    let dead = sealed.saturating_sub(live);
    let is_worth_it =
        dead > live.max(options.garbage) || index.total > options.ceiling && dead > index.total / 8;
    (oldest.places == 0 || is_worth_it).then_some(Duty::Segment)
}

fn take_up_namespaces(shared: &Shared) {
    for_each_slot(shared, |index, slot, now| {
        index.trim(slot, now);
    });
}

/// Forgets what has grown too old. When to come again.
fn expire(shared: &Shared) -> Option<u64> {
    loop {
        let now = shared.now();
        let due = shared.index().expire(now, STRIDE);
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
    for_each_slot(shared, |index, slot, _| {
        shares.extend(
            index
                .get(slot)
                .map(|channel| channel.bytes)
                .filter(|bytes| *bytes > 0),
        );
    });
    let live = shared.index().live;
    let held: u64 = shares.iter().sum();
    let wanted = (shared.options.ceiling / 8 * 5).saturating_sub(live.saturating_sub(held));
    let share = fair_share(shares, wanted);
    let mut trimmed = 0;
    for_each_slot(shared, |index, slot, _| {
        while index.get(slot).is_some_and(|channel| channel.bytes > share) && index.pop_oldest(slot).is_some()
        {
            trimmed += 1;
        }
        index.settle_idle(slot);
    });
    count(&shared.counters.trimmed_for_ceiling, trimmed);
    tracing::warn!(
        publications = trimmed,
        ceiling = shared.options.ceiling,
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

/// Visits all channels, some at a time.
pub(crate) fn for_each_slot(shared: &Shared, mut visit: impl FnMut(&mut Index, Slot, u64)) {
    let mut slot = 0;
    loop {
        let now = shared.now();
        let mut index = shared.index();
        let end = index.slots().min(slot + STRIDE);
        if slot >= end {
            return;
        }
        for slot in slot..end {
            let slot = slot as Slot;
            if index.get(slot).is_some() {
                visit(&mut index, slot, now);
            }
        }
        slot = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_gives_way() {
        assert_eq!(fair_share(vec![10, 100, 1], 51), 40);
        assert_eq!(fair_share(vec![10, 100, 1], 111), u64::MAX);
        assert_eq!(fair_share(vec![50, 50], 60), 30);
        assert_eq!(fair_share(vec![50, 50], 0), 0);
    }
}
