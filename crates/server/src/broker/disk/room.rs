//! The room that the file system has for the log, the sizes that follow from it, and a reserve that makes room on a full disk.
//!
//! To clear away the oldest segment, what is still kept of it has to be written again first, and a deletion is a record too. Both
//! may take the reserve, a file beside the segments; nobody publishes until it is whole again. It grows with what segments keep.

use std::cmp::Ordering;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cometserver_core::Time;

use super::io::{Disk, DiskFile};
use super::options::DiskOptions;
pub(crate) use crate::plain_file::is_full;

/// The name of the reserve's file.
pub(crate) const RESERVE_FILE: &str = "reserve";

/// The parts of the room that a segment takes at most: the oldest of many is soon cleared away, and with little room to do it.
const SEGMENTS: u64 = 32;

/// No disk makes segments smaller than this, in bytes: each begins with up to 12 KiB about the older ones.
const LEAST_SEGMENT: u64 = 256 << 10;

/// The parts of the room that waste may take before it is cleared away.
const WASTE: u64 = 8;

/// The parts of the room that one batch takes at most, and no batch is made smaller than this many bytes.
const BATCHES: u64 = 32;
const LEAST_BATCH: usize = 64 << 10;

/// The parts of the room that the reserve takes at most.
const RESERVES: u64 = 8;

/// File systems give room in pieces of about so many bytes.
const BLOCK: u64 = 4096;

/// Half of the reserve is no larger than this at the start, in bytes: it grows when segments keep more.
const FIRST_RESERVE: u64 = 2 << 20;

/// So much room, in bytes, is worth a try.
const PROBE: u64 = 64 << 10;

/// What clearing away writes besides what is kept, in bytes: the beginning of a segment, how channels stand.
const OVERHEAD: u64 = 16 << 10;

/// So many segments' room is left free before publishers wait for what is being cleared away.
const MARGIN: u64 = 4;

/// Sizes as they follow from the room; never more than the options say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// See [`DiskOptions::segment`].
    pub(crate) segment: u64,
    /// See [`DiskOptions::ceiling`].
    pub(crate) ceiling: u64,
    /// See [`DiskOptions::garbage`].
    pub(crate) garbage: u64,
    /// See [`DiskOptions::batch`].
    pub(crate) batch: usize,
    /// The disk is nearly full.
    pub(crate) is_tight: bool,
}

/// The file of the reserve.
enum Reserve {
    /// There was no room for it.
    Missing,
    /// It is there, of whatever length.
    There(Arc<dyn DiskFile>),
    /// This file system cannot hold room, or not for us.
    Impossible,
}

/// See the module.
pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// As the file system says, in bytes.
    free: AtomicU64,
    /// As the file system says, in bytes.
    capacity: AtomicU64,
    /// With so many bytes the disk was full: the file system does not know of a quota.
    learned: AtomicU64,
    /// Bytes of the reserve that are there.
    held: AtomicU64,
    /// So many of these are for deletions.
    for_deletions: AtomicU64,
    /// Bytes that it should have.
    wanted: AtomicU64,
    /// The reserve was used, or there was no room for it.
    is_short: AtomicBool,
    /// Room of the reserve is given to what is being written: nobody else takes it meanwhile. Changed with `reserve` locked.
    is_lent: AtomicBool,
    /// The latest write of a publication found no room.
    is_full: AtomicBool,
    /// What there is to be cleared away could not be.
    is_stuck: AtomicBool,
    /// There is more room than when something was last refused.
    is_freed: AtomicBool,
    /// Bytes written to clear away, since the start.
    upkeep: AtomicU64,
    /// Clearing away brings nothing below so many bytes of waste, until this time in milliseconds.
    futile: Mutex<(u64, u64)>,
    reserve: Mutex<Reserve>,
}

impl Room {
    /// Of this folder; its reserve is made by [`Room::begin`].
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: PathBuf) -> Self {
        let room = Self {
            disk,
            folder,
            free: AtomicU64::new(0),
            capacity: AtomicU64::new(0),
            learned: AtomicU64::new(u64::MAX),
            held: AtomicU64::new(0),
            for_deletions: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
            is_lent: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            is_freed: AtomicBool::new(false),
            upkeep: AtomicU64::new(0),
            futile: Mutex::default(),
            reserve: Mutex::new(Reserve::Missing),
        };
        room.measure();
        room
    }

    /// Makes the reserve, if there is room: no segment keeps more than `kept` bytes, all together take `total`.
    pub(crate) fn begin(&self, options: &DiskOptions, kept: u64, total: u64) {
        let held = self.disk.open(&self.path()).and_then(|file| file.length());
        self.held.store(held.unwrap_or(0), Relaxed);
        let segment = self.sizes(options, total).segment;
        let overhead = OVERHEAD.min(segment / 4);
        let wanted = (segment + overhead).min(FIRST_RESERVE).max(kept + overhead) * 2;
        let wanted = wanted.min(self.of_log(total) / RESERVES);
        // A full disk is no reason for less of it than there was.
        let least = if self.sizes(options, total).is_tight {
            self.held.load(Relaxed)
        } else {
            0
        };
        self.wanted.store(wanted.max(least), Relaxed);
        self.refill();
    }

    fn path(&self) -> PathBuf {
        self.folder.join(RESERVE_FILE)
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the file system again.
    pub(crate) fn measure(&self) {
        let space = self.disk.space(&self.folder);
        self.free.store(space.free, Relaxed);
        self.capacity.store(space.capacity, Relaxed);
    }

    /// All that the log can have now, its own `total` bytes among it.
    fn of_log(&self, total: u64) -> u64 {
        let held = self.held.load(Relaxed);
        let room = (total + held).saturating_add(self.free.load(Relaxed));
        room.min(self.learned.load(Relaxed))
    }

    /// The sizes that hold while the segments take `total` bytes.
    pub(crate) fn sizes(&self, options: &DiskOptions, total: u64) -> Sizes {
        let room = self.of_log(total);
        let segment = options.segment.min((room / SEGMENTS).max(LEAST_SEGMENT));
        let ours = total + self.held.load(Relaxed);
        let capacity = self.capacity.load(Relaxed);
        let batch = usize::try_from(room / BATCHES).unwrap_or(usize::MAX);
        Sizes {
            segment,
            // Some is left to clear away with: see the keeper.
            ceiling: options.ceiling.min(capacity - capacity / 8),
            garbage: options.garbage.min(room / WASTE),
            batch: options.batch.min(batch.max(LEAST_BATCH)),
            is_tight: room.saturating_sub(ours) < segment.saturating_mul(MARGIN),
        }
    }

    /// A segment keeps so many bytes: to clear it away takes as much.
    pub(crate) fn provide(&self, kept: u64, total: u64) {
        let wanted = self.wanted.load(Relaxed);
        let needed = (kept + OVERHEAD.min(wanted / 8)) * 2;
        if needed <= wanted || self.is_short() {
            return;
        }
        let most = self.of_log(total) / RESERVES;
        let larger = needed.saturating_add(needed / 2).min(most);
        // What is free is left to publishers if there is not much of it.
        if larger <= wanted || self.free.load(Relaxed) / 4 < larger {
            return;
        }
        self.wanted.store(larger, Relaxed);
        if !self.refill() {
            // It is as large as it was, and that was enough until now.
            self.wanted.store(wanted, Relaxed);
            self.refill();
        }
    }

    /// Gives room of the reserve to what is written next: to clear away one half, and to deletions of `needed` bytes about as
    /// much of the other, so that neither takes what the other one needs. Was there any? Then [`Room::end_loan`] comes next.
    pub(crate) fn release(&self, deletion: Option<u64>) -> bool {
        let reserve = self.reserve();
        let Reserve::There(file) = &*reserve else {
            return false;
        };
        self.is_short.store(true, Relaxed);
        let held = self.held.load(Relaxed);
        let for_deletions = self.for_deletions.load(Relaxed);
        let (left, for_deletions) = match deletion {
            Some(needed) => {
                let given = (needed * 2).next_multiple_of(BLOCK).min(for_deletions);
                (held - given, for_deletions - given)
            }
            None => (for_deletions, for_deletions),
        };
        if left == held || file.truncate(left).is_err() {
            return false;
        }
        self.held.store(left, Relaxed);
        self.for_deletions.store(for_deletions, Relaxed);
        self.is_lent.store(true, Relaxed);
        true
    }

    /// What room of the reserve was given for is written, or was tried.
    pub(crate) fn end_loan(&self) {
        let _reserve = self.reserve();
        self.is_lent.store(false, Relaxed);
    }

    /// Makes the reserve whole. Is it, or can there be none?
    pub(crate) fn refill(&self) -> bool {
        let mut reserve = self.reserve();
        if self.is_lent.load(Relaxed) {
            return false;
        }
        let held = self.held.load(Relaxed);
        let wanted = self.wanted.load(Relaxed);
        let (file, made) = match self.file(&reserve) {
            Ok(file) => (Some(file.clone()), resize(&*file, held, wanted)),
            Err(error) => (None, Err(error)),
        };
        let is_short = match made {
            Ok(()) => {
                self.held.store(wanted, Relaxed);
                self.for_deletions.store(wanted / 2, Relaxed);
                *reserve = file.map_or(Reserve::Missing, Reserve::There);
                false
            }
            Err(error) if is_full(&error) => {
                if let Some(file) = &file {
                    // What there is room for is not taken from others.
                    let _ = file.truncate(held);
                }
                *reserve = file.map_or(Reserve::Missing, Reserve::There);
                true
            }
            Err(error) => {
                if !matches!(*reserve, Reserve::Impossible) {
                    tracing::warn!(%error, "a full disk will not heal by itself: there can be no reserve");
                }
                self.held.store(0, Relaxed);
                self.for_deletions.store(0, Relaxed);
                *reserve = Reserve::Impossible;
                false
            }
        };
        self.is_short.store(is_short, Relaxed);
        !is_short
    }

    /// Nothing more can be cleared away, and the reserve is not whole: it is as large from now on as what is kept needs, in
    /// segments of at most `kept` bytes and of `total` all together. Is it whole then?
    pub(crate) fn settle_for_less(&self, options: &DiskOptions, kept: u64, total: u64) -> bool {
        let segment = self.sizes(options, total).segment;
        let overhead = OVERHEAD.min(segment / 4);
        let first = (segment + overhead).min(FIRST_RESERVE) * 2;
        let less = first
            .min(self.of_log(total) / RESERVES)
            .max((kept + overhead) * 2);
        if less >= self.wanted.load(Relaxed) {
            return false;
        }
        self.wanted.store(less, Relaxed);
        self.refill()
    }

    /// The file, opened or made if it was not yet.
    fn file(&self, reserve: &Reserve) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path();
        match reserve {
            Reserve::Impossible => Err(io::ErrorKind::Unsupported.into()),
            Reserve::There(file) => Ok(file.clone()),
            Reserve::Missing => self.disk.open(&path).or_else(|_| {
                // Whatever has the name, and cannot be opened as a file, is in the way.
                let _ = self.disk.remove(&path);
                self.disk.create(&path)
            }),
        }
    }

    /// Was the reserve used, and is not whole again? Then only what makes room is written.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Relaxed)
    }

    /// Is there no room, as far as is known?
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    /// Something could not be written while the segments took `total` bytes: so much and no more there is. Is that news?
    pub(crate) fn note_full(&self, total: u64) -> bool {
        let ours = total + self.held.load(Relaxed);
        self.learned.store(ours, Relaxed);
        !self.is_full.swap(true, Relaxed)
    }

    /// Something that was published is written, and the segments take `total` bytes.
    pub(crate) fn note_written(&self, total: u64) {
        let ours = total + self.held.load(Relaxed);
        let learned = self.learned.load(Relaxed);
        if ours > learned.saturating_add(learned / SEGMENTS) {
            self.learned.store(u64::MAX, Relaxed);
        }
        if self.is_full() {
            self.end_full();
        }
    }

    /// Tries whether there is room again, and says so to who asks. Is there?
    pub(crate) fn probe(&self) -> bool {
        let reserve = self.reserve();
        let Reserve::There(file) = &*reserve else {
            return false;
        };
        if self.is_lent.load(Relaxed) {
            return false;
        }
        let held = self.held.load(Relaxed);
        let has_room = file.allocate(held + PROBE).is_ok();
        // Also after a failure: it may have any length.
        let is_back = file.truncate(held).is_ok();
        if has_room && is_back {
            self.end_full();
            self.note_freed();
        }
        has_room && is_back
    }

    fn end_full(&self) {
        if self.is_full.swap(false, Relaxed) {
            tracing::info!("the disk has room again: the log takes publications");
        }
    }

    /// There is more room than there was: whoever waits until it is tried again need not.
    pub(crate) fn note_freed(&self) {
        self.is_freed.store(true, Relaxed);
    }

    /// Was that so since it was last asked?
    pub(crate) fn take_freed(&self) -> bool {
        self.is_freed.swap(false, Relaxed)
    }

    /// So many bytes were written to clear away.
    pub(crate) fn note_upkeep(&self, bytes: usize) {
        self.upkeep.fetch_add(bytes as u64, Relaxed);
    }

    /// How many that were.
    pub(crate) fn upkeep(&self) -> u64 {
        self.upkeep.load(Relaxed)
    }

    /// All segments were cleared away once, and as much was written for it: that is not done again before there is more than
    /// this `waste`, or the time `until` comes.
    pub(crate) fn note_futile(&self, waste: u64, until: Time) {
        *self.futile.lock().unwrap_or_else(PoisonError::into_inner) = (waste, until);
    }

    /// Would clearing away bring nothing now, as far as is known?
    pub(crate) fn is_futile(&self, waste: u64, now: Time) -> bool {
        let (level, until) = *self.futile.lock().unwrap_or_else(PoisonError::into_inner);
        waste <= level && now < until
    }

    /// Could everything be cleared away that there was?
    pub(crate) fn note_cleared(&self, is_done: bool) {
        self.is_stuck.store(!is_done, Relaxed);
    }

    /// Could it not?
    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck.load(Relaxed)
    }
}

fn resize(file: &dyn DiskFile, held: u64, wanted: u64) -> io::Result<()> {
    match held.cmp(&wanted) {
        Ordering::Less => file.allocate(wanted),
        Ordering::Equal => Ok(()),
        Ordering::Greater => file.truncate(wanted),
    }
}
