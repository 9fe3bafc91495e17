//! The threads that read: where things are is copied out of the index, the records are read outside its lock.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use cometserver_core::broker::{BrokerError, Fetch, Fetched, Page, Stored, Want};
use cometserver_core::channel::ChannelName;

use super::format::body::{self, Body};
use super::format::frame;
use super::gather::{Found, Gather};
use super::index::{Entry, Slot};
use super::io::DiskFile;
use super::shared::{Shared, count};

/// So many fetches may wait; the hub asks for one at a time and reader, so this is beyond what it can mean.
const MAX_WAITING: usize = 1 << 16;

/// So many of them with patterns: what one reader can do within the patience of those who wait, and some.
const MAX_PATTERNED: usize = 1 << 12;

/// A fetch with who waits for it.
struct Asked {
    /// None if it was refused.
    fetch: Option<Fetch>,
    fetched: Fetched,
    since: Instant,
}

#[derive(Default)]
struct Waiting {
    /// Of channels by name, and what was refused.
    named: VecDeque<Asked>,
    /// With patterns: each may walk over all channels.
    patterned: VecDeque<Asked>,
    /// So many threads read for patterns now.
    walking: usize,
    /// Nothing is read any more.
    is_refusing: bool,
    is_closed: bool,
}

impl Waiting {
    fn len(&self) -> usize {
        self.named.len() + self.patterned.len()
    }

    /// The one that has waited longest, but no more than `lanes` with patterns at once.
    fn next(&mut self, lanes: usize) -> Option<Asked> {
        let named = self.named.front().map(|asked| asked.since);
        let patterned = self.patterned.front().map(|asked| asked.since);
        let is_turn = patterned.is_some_and(|since| named.is_none_or(|named| since < named));
        if is_turn && self.walking < lanes {
            self.walking += 1;
            return self.patterned.pop_front();
        }
        self.named.pop_front()
    }
}

/// What waits to be read.
#[derive(Default)]
pub(crate) struct Reads {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Reads {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a fetch. It is answered by one of the threads that read, in any case.
    pub(crate) fn push(&self, fetch: Fetch, fetched: Fetched) {
        let mut waiting = self.waiting();
        let walks = !fetch.patterns.is_empty() && fetch.want != Want::Retained;
        let has_room = waiting.len() < MAX_WAITING && (!walks || waiting.patterned.len() < MAX_PATTERNED);
        let taken = has_room && !waiting.is_refusing;
        let asked = Asked {
            fetch: taken.then_some(fetch),
            fetched,
            since: Instant::now(),
        };
        if taken && walks {
            waiting.patterned.push_back(asked);
        } else {
            waiting.named.push_back(asked);
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// The same for good: who reads ends when there is nothing left to be refused.
    pub(crate) fn close(&self) {
        self.waiting().is_closed = true;
        self.refuse();
    }

    /// Nothing is read any more; what waits and what comes is refused.
    pub(crate) fn refuse(&self) {
        let mut waiting = self.waiting();
        waiting.is_refusing = true;
        let patterned = std::mem::take(&mut waiting.patterned);
        waiting.named.extend(patterned);
        for asked in &mut waiting.named {
            asked.fetch = None;
        }
        drop(waiting);
        self.filled.notify_all();
    }

    /// The next one, and whether it has patterns: then [`Reads::walked`] is to be called when it is done.
    fn take(&self, lanes: usize) -> Option<(Asked, bool)> {
        let mut waiting = self.waiting();
        loop {
            let walking = waiting.walking;
            if let Some(next) = waiting.next(lanes) {
                return Some((next, waiting.walking > walking));
            }
            if waiting.is_closed {
                return None;
            }
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One with patterns is done; the thread that did it looks for the next one itself.
    fn walked(&self) {
        self.waiting().walking -= 1;
    }
}

/// Reads until there is nothing to be read any more.
pub(crate) fn run(shared: &Shared) {
    // One thread is left to channels by name, if there are several.
    let lanes = shared.options.readers.saturating_sub(1).max(1);
    while let Some((asked, walks)) = shared.reads.take(lanes) {
        // Reading for whoever has given up would make the next ones give up as well.
        let is_late = asked.since.elapsed() >= shared.options.patience;
        let read = asked
            .fetch
            .filter(|_| !is_late)
            .map(|fetch| catch_unwind(AssertUnwindSafe(|| read(shared, &fetch))));
        let refused = |why: &str| Err(BrokerError::Unavailable(why.to_owned()));
        let (page, panic) = match read {
            Some(Ok(page)) => (Ok(page), None),
            // First whoever waits for this is answered.
            Some(Err(panic)) => (refused("reading has failed"), Some(panic)),
            None => {
                let failed = shared.failure.now();
                let why = failed.as_deref().unwrap_or("too much waits to be read");
                (refused(why), None)
            }
        };
        (asked.fetched)(page);
        if walks {
            shared.reads.walked();
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

fn read(shared: &Shared, fetch: &Fetch) -> Page {
    let mut gather = Gather::new(fetch);
    gather.run(shared);
    let mut page = Page {
        gaps: std::mem::take(&mut gather.gaps),
        forgotten: gather.forgotten,
        ..Page::default()
    };
    let is_cut = fill(shared, fetch, &mut gather, &mut page);
    let last = page.stored.last().map(|stored| stored.position);
    page.reached = match (fetch.want, last) {
        (Want::Retained, _) if !is_cut => fetch.until,
        // All that was found was damaged: it has been looked at.
        (Want::Oldest, _) if !is_cut => gather.complete_until(),
        (Want::Newest, _) if !is_cut => gather.complete_until(),
        (Want::Oldest | Want::Retained, last) => last.unwrap_or(fetch.until),
        (Want::Newest, last) => last.map_or(fetch.after, |last| last - 1),
    };
    page.lost = std::mem::take(&mut gather.lost);
    if fetch.want == Want::Oldest {
        let reached = page.reached;
        page.lost.retain(|lost| lost.position <= reached);
        page.gaps
            .iter_mut()
            .for_each(|(_, gone)| *gone = reached.min(*gone));
    }
    page
}

/// Reads what was found, as far as the bytes allow. Was something left?
fn fill(shared: &Shared, fetch: &Fetch, gather: &mut Gather<'_>, page: &mut Page) -> bool {
    let mut bytes = 0;
    for found in gather.take_found() {
        match load(&found) {
            Some(stored) => {
                bytes += stored.body.payload_len().max(1);
                if !page.stored.is_empty() && bytes > fetch.bytes {
                    return true;
                }
                page.stored.push(stored);
            }
            None => {
                let lost = lose(shared, &found.entry, gather.slots());
                if fetch.want != Want::Retained {
                    page.gaps.extend(lost);
                }
            }
        }
    }
    false
}

fn load(found: &Found) -> Option<Stored> {
    let record = read_record(&*found.file, found.seed, &found.entry)?;
    let Some(Body::Publication(publication)) = body::decode(&record) else {
        return None;
    };
    (publication.position == found.entry.position)
        .then(|| publication.stored(&record))
        .flatten()
}

/// The body of the record that an entry tells of, if it can be read and is whole.
pub(crate) fn read_record(file: &dyn DiskFile, seed: u32, entry: &Entry) -> Option<Bytes> {
    let mut record = vec![0; (entry.weight as usize).max(frame::FRAME)];
    if file.read_at(&mut record, u64::from(entry.offset)).ok()? < record.len() {
        return None;
    }
    let length = frame::FRAME + frame::body_length(&record, seed, entry.offset)?;
    let read = record.len();
    if length > read {
        // The weight was a share only.
        record.resize(length, 0);
        let rest = file.read_at(&mut record[read..], u64::from(entry.offset) + read as u64);
        if rest.ok()? < length - read {
            return None;
        }
    }
    record.truncate(length);
    frame::body(&record, seed, entry.offset)?;
    Some(Bytes::from(record).slice(frame::FRAME..))
}

/// A record is damaged: it is gone for every channel that was asked for and keeps it.
fn lose(shared: &Shared, entry: &Entry, slots: &[Slot]) -> Vec<(ChannelName, u64)> {
    count(&shared.counters.damaged, 1);
    tracing::error!(
        segment = entry.segment,
        offset = entry.offset,
        position = entry.position,
        "a publication in the log is damaged: its channels are told of a gap"
    );
    let mut index = shared.index();
    let mut lost = Vec::new();
    for slot in slots {
        let kept = index.kept_at(*slot, entry.position);
        if kept.is_some_and(|(own, ..)| (own.segment, own.offset) == (entry.segment, entry.offset)) {
            lost.extend(
                index
                    .get(*slot)
                    .map(|channel| (channel.name.clone(), entry.position)),
            );
            index.lose(*slot, entry.position);
        }
    }
    lost
}
