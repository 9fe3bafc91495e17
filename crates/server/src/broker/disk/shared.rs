//! What the threads of the log share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cometserver_core::broker::Committed;

use super::failure::Failure;
use super::format::StoreId;
use super::index::Index;
use super::io::Disk;
use super::options::DiskOptions;
use super::queue::Queue;
use super::reader::Reads;
use super::room::{Room, Sizes};
use super::telling::Telling;

/// Where commits go.
pub(crate) type Commit = Arc<dyn Fn(Vec<Committed>) + Send + Sync>;

/// Told when a full disk has room again.
pub(crate) type Recovered = Box<dyn Fn() + Send + Sync>;

/// What has happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Batches written.
    pub(crate) batches: AtomicU64,
    /// Times the disk was asked to make something safe.
    pub(crate) syncs: AtomicU64,
    /// Times it could not.
    pub(crate) sync_failures: AtomicU64,
    /// Times something could not be written.
    pub(crate) write_failures: AtomicU64,
    /// Records and stretches of the log found damaged.
    pub(crate) damaged: AtomicU64,
    /// Publications trimmed because the log had reached its ceiling.
    pub(crate) trimmed_for_ceiling: AtomicU64,
    /// Bytes copied forward.
    pub(crate) copied: AtomicU64,
    /// Segments removed.
    pub(crate) removed: AtomicU64,
    /// Channels and publications looked at for fetches.
    pub(crate) looked: AtomicU64,
}

/// See the module.
pub(crate) struct Shared {
    /// Sizes and times.
    pub(crate) options: DiskOptions,
    /// The file system.
    pub(crate) disk: Arc<dyn Disk>,
    /// The log's folder.
    pub(crate) folder: PathBuf,
    /// Which store it is.
    pub(crate) store: StoreId,
    /// When it was opened.
    pub(crate) began: u64,
    /// What waits for the writer.
    pub(crate) queue: Queue,
    /// What waits to be told to the hub.
    pub(crate) telling: Telling,
    /// What waits for the readers.
    pub(crate) reads: Reads,
    /// Wakes the keeper.
    pub(crate) bell: Bell,
    /// What room there is.
    pub(crate) room: Room,
    /// Whether a thread has failed.
    pub(crate) failure: Failure,
    /// What has happened.
    pub(crate) counters: Counters,
    /// Where commits go.
    pub(crate) commit: RwLock<Option<Commit>>,
    /// Told when a full disk has room again.
    pub(crate) recovered: OnceLock<Recovered>,
    /// Held by whoever needs that no segment is removed or cut off: the keeper while it clears away, a backup.
    pub(crate) tidying: Mutex<()>,
    index: Mutex<Index>,
}

impl Shared {
    /// What the threads begin with.
    pub(crate) fn new(
        options: DiskOptions,
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        store: StoreId,
        index: Index,
    ) -> Self {
        Self {
            room: Room::new(disk.clone(), folder.clone()),
            queue: Queue::new(options.queue),
            telling: Telling::default(),
            reads: Reads::default(),
            bell: Bell::default(),
            failure: Failure::default(),
            counters: Counters::default(),
            commit: RwLock::new(None),
            recovered: OnceLock::new(),
            tidying: Mutex::new(()),
            index: Mutex::new(index),
            began: (options.clock)(),
            options,
            disk,
            folder,
            store,
        }
    }

    /// The index, for a moment: never during input or output, nor while anything of the hub is called.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        // A panic under it is a defect that the tests would show; going on with what is there beats stopping everybody.
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        #[cfg(test)]
        let index = {
            let mut index = index;
            index.popped.0 = 0;
            index
        };
        index
    }

    /// Tells what became of submissions.
    pub(crate) fn tell_commit(&self, committed: Vec<Committed>) {
        let commit = self.commit.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(commit) = commit
            && !committed.is_empty()
        {
            commit(committed);
        }
    }

    /// Tells that a full disk has room again.
    pub(crate) fn tell_recovered(&self) {
        if let Some(recovered) = self.recovered.get() {
            recovered();
        }
    }

    /// The sizes that hold now.
    pub(crate) fn sizes(&self) -> Sizes {
        let total = self.index().total;
        self.room.sizes(&self.options, total)
    }

    /// The time for ages.
    pub(crate) fn now(&self) -> u64 {
        (self.options.clock)()
    }
}

/// Counts one.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Wakes a thread that otherwise sleeps until something is due.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    is_rung: bool,
    is_closed: bool,
    /// Until when it sleeps, in milliseconds since 1970.
    until: Option<u64>,
}

impl Bell {
    /// There is something to do.
    pub(crate) fn ring(&self) {
        self.with(|rung| rung.is_rung = true);
    }

    /// Something is due at `time`; wakes the thread if it would sleep longer.
    pub(crate) fn due(&self, time: u64) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if rung.until.is_none_or(|until| time < until) {
            rung.until = Some(time);
            rung.is_rung = true;
            self.changed.notify_one();
        }
    }

    /// There will be nothing to do any more.
    pub(crate) fn close(&self) {
        self.with(|rung| rung.is_closed = true);
    }

    /// Has it been closed?
    pub(crate) fn is_closed(&self) -> bool {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).is_closed
    }

    /// Sleeps until the bell rings, or something is due at `until` (`now` is the time now). Is there more to come?
    pub(crate) fn sleep(&self, now: u64, until: Option<u64>) -> bool {
        let deadline = until.map(|until| Instant::now() + Duration::from_millis(until.saturating_sub(now)));
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        rung.until = until;
        while !rung.is_rung && !rung.is_closed {
            rung = match deadline {
                None => self.changed.wait(rung).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.changed
                        .wait_timeout(rung, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        rung.is_rung = false;
        // Awake it may have looked already: whatever becomes due meanwhile rings.
        rung.until = None;
        !rung.is_closed
    }

    fn with(&self, change: impl FnOnce(&mut Rung)) {
        change(&mut self.rung.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}
