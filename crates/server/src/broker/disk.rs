//! The embedded durable log: one writer, one sync a batch, segments with checked records, an index in memory.
//!
//! In reading order: [`mod@format`] (the bytes), [`io`] and `lock` (the file system), `scan`, `replay` and `recovery` (opening),
//! `index` (where everything is), `queue`, `plan`, `writer`, `reach` and `telling` (a batch on its way), `gather` and `reader` (fetches),
//! `keeper`, `compaction` and `room` (what is cleared away, also on a full disk), `failure` (a thread that panics), [`inspect`] and [`backup`] (the operator's
//! tools).

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use cometserver_core::broker::{
    Broker, BrokerError, Committed, Deletion, Fetch, Fetched, Known, Remembered, StoredChannel, Submission,
};
use cometserver_core::channel::ChannelName;
use cometserver_core::namespace::Namespaces;

pub mod backup;
mod compaction;
mod failure;
pub mod format;
mod gather;
mod index;
pub mod inspect;
pub mod io;
mod keeper;
mod lock;
mod options;
mod plan;
mod queue;
mod reach;
mod reader;
mod recovery;
mod replay;
mod room;
mod scan;
mod shared;
mod stats;
mod telling;
mod writer;

pub use lock::{LOCK_FILE, LockError};
pub use options::{Clock, DiskOptions, steady_clock};
pub use recovery::OpenError;
pub use stats::DiskStats;

use format::Loss;
use index::Index;
use io::{Disk, Held, RealDisk};
use queue::Request;
use shared::Shared;
use writer::Writer;

/// The largest payload that a record takes, in bytes.
const MAX_PAYLOAD: usize = 1 << 30;

/// What names, attributes and key take in a record at most, in bytes: `frame::MAX_BODY` has room for it.
const MAX_REST: usize = 32 << 20;

/// No segment is longer than this before its last batch, in bytes: places in it are 32 bits.
const MAX_SEGMENT: u64 = 1 << 30;

/// The thread that writes.
const WRITER: &str = "log-writer";

/// The log of a folder, open: see the module.
///
/// Dropping it closes it; see [`DiskLog::shut_down`].
pub struct DiskLog {
    shared: Arc<Shared>,
    keys: Mutex<Vec<Remembered>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Kept until everything is written.
    lock: Mutex<Option<Held>>,
    unwritten: Option<BrokerError>,
}

impl DiskLog {
    /// Opens the log in a folder, which is made if it is not there; its parent must be.
    ///
    /// # Errors
    /// [`OpenError`]; each says what to do.
    pub fn open(
        folder: &Path,
        options: DiskOptions,
        namespaces: &Namespaces,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_on(Arc::new(RealDisk), folder, options, namespaces)
    }

    /// The same on a file system given.
    ///
    /// # Errors
    /// As [`DiskLog::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: DiskOptions,
        namespaces: &Namespaces,
    ) -> Result<Arc<Self>, OpenError> {
        disk.make_folder(folder).map_err(|source| OpenError::File {
            path: folder.to_owned(),
            source,
        })?;
        let lock = disk.lock(folder)?;
        let options = DiskOptions {
            segment: options.segment.clamp(1, MAX_SEGMENT),
            ..options
        };
        let now = (options.clock)();
        let index = Index::new(Arc::new(namespaces.clone()));
        let keys = options.idempotency.as_millis() as u64;
        let recovered = recovery::recover(&*disk, folder, index, now, keys, false)?;
        let shared = Shared::new(options, disk, folder.to_owned(), recovered.store, recovered.index);
        let shared = Arc::new(shared);
        shared::count(&shared.counters.damaged, recovered.damaged);
        begin_room(&shared);
        let (current, newest) = (recovered.current, recovered.newest);
        let mut writer = Writer::new(shared.clone(), current, newest, recovered.reach);
        let unwritten = begin(&shared, &mut writer, now, recovered.lost)?;
        let log = Arc::new(Self {
            keys: Mutex::new(recovered.keys),
            threads: Mutex::new(Vec::new()),
            lock: Mutex::new(Some(lock)),
            unwritten,
            shared: shared.clone(),
        });
        let writing = shared.clone();
        log.spawn(WRITER, move |name| {
            failure::watch(&writing, name, || writer.run());
            writing.telling.end();
        })?;
        let teller = shared.clone();
        log.spawn("log-teller", move |name| {
            failure::watch(&teller, name, || telling::run(&teller));
            // Nothing is left unless this thread or the writer has failed: one of them answers, so that nobody is answered twice.
            teller.telling.wait_for_end();
            failure::answer_rest(&teller);
        })?;
        for _ in 0..shared.options.readers.max(1) {
            let shared = shared.clone();
            // After a panic it goes on: to refuse.
            log.spawn("log-reader", move |name| {
                while !failure::watch(&shared, name, || reader::run(&shared)) {}
            })?;
        }
        log.spawn("log-keeper", move |name| {
            failure::watch(&shared, name, || keeper::run(&shared));
        })?;
        log.shared.bell.ring();
        Ok(log)
    }

    fn spawn(
        &self,
        name: &'static str,
        work: impl FnOnce(&'static str) + Send + 'static,
    ) -> Result<(), OpenError> {
        let spawned = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(name));
        let thread = spawned.map_err(|error| OpenError::Start(error.to_string()))?;
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// Where commits go: usually to [`Hub::commit`](cometserver_core::hub::Hub::commit). To be set before anything is published.
    pub fn set_commit(&self, commit: impl Fn(Vec<Committed>) + Send + Sync + 'static) {
        *self.shared.commit.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(commit));
    }

    /// Who is told when a full disk is found to have room again; one at most.
    pub fn on_recovered(&self, told: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.recovered.set(Box::new(told));
    }

    /// Who is told, once and with the reason, when the log can do nothing any more because a thread of it has panicked: it refuses
    /// everything from then on, and only opening it again helps. Told at once if that has happened already; from any thread.
    pub fn on_failure(&self, told: impl FnOnce(&str) + Send + 'static) {
        self.shared.failure.tell(Box::new(told));
    }

    /// Why nothing could be written when it was opened: the disk was full. It is tried again.
    pub fn unwritten(&self) -> Option<&BrokerError> {
        self.unwritten.as_ref()
    }

    /// Figures for the operator.
    pub fn stats(&self) -> DiskStats {
        stats::of(&self.shared)
    }

    /// Copies the log as it is at this moment into a folder, which is made and must be empty, while everything goes on. To be read
    /// back with [`backup::restore`].
    ///
    /// # Errors
    /// [`backup::BackupError`].
    pub fn backup(&self, target: &Path) -> Result<backup::Copied, backup::BackupError> {
        backup::of_running(&self.shared, target)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Writes what was taken, refuses the rest, and ends its threads. Commits go out until then: not to be called while the hub is
    /// locked. Doing it twice does nothing.
    pub fn shut_down(&self) {
        self.shared.queue.close();
        self.shared.reads.close();
        self.shared.bell.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let own = thread::current();
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == own.id();
        if own.name() == Some(WRITER) && threads.iter().any(is_own) {
            // It is within a commit that the writer tells. The others wait for the writer; all end by themselves.
            return;
        }
        for thread in threads.into_iter().filter(|thread| !is_own(thread)) {
            let _ = thread.join();
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for DiskLog {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Makes the reserve: any of the segments may have to be cleared away with it.
fn begin_room(shared: &Shared) {
    let (kept, total) = {
        let index = shared.index();
        let kept = index.segments.values().map(|segment| segment.live).max();
        (kept.unwrap_or(0), index.total)
    };
    shared.room.begin(&shared.options, kept, total);
}

/// Gives this start its mark. Why it could not be written yet is returned.
fn begin(
    shared: &Shared,
    writer: &mut Writer,
    now: u64,
    lost: Option<Loss>,
) -> Result<Option<BrokerError>, OpenError> {
    let start = |error: &dyn std::fmt::Display| OpenError::Start(error.to_string());
    let mark = loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|error| start(&error))?;
        let mark = u32::from_le_bytes(bytes);
        if mark != 0 && shared.index().marks.iter().all(|(own, _)| *own != mark) {
            break mark;
        }
    };
    shared.index().mark = mark;
    writer.begin(mark, now, lost).map_err(|error| start(&error))
}

impl Broker for DiskLog {
    fn position(&self) -> u64 {
        self.shared.index().position
    }

    fn mark(&self) -> u32 {
        self.shared.index().mark
    }

    fn knows(&self, mark: u32, position: u64) -> bool {
        self.shared.index().knows(mark, position)
    }

    fn remembered(&self) -> Vec<Remembered> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn configure(&self, namespaces: &Namespaces) {
        let namespaces = Arc::new(namespaces.clone());
        self.shared.index().configure(namespaces);
        self.shared.bell.ring();
    }

    fn open(&self, name: &ChannelName) -> Known {
        self.shared.index().open(name)
    }

    fn close(&self, name: &ChannelName) {
        self.shared.index().close(name);
    }

    fn channel(&self, name: &ChannelName) -> Option<StoredChannel> {
        self.shared.index().stored(name)
    }

    fn names_bytes(&self) -> usize {
        self.shared.index().names_bytes
    }

    fn channels(&self, after: u64, limit: usize) -> (Vec<StoredChannel>, Option<u64>) {
        self.shared.index().list(after, limit)
    }

    fn publish(&self, submission: Submission) -> Result<usize, BrokerError> {
        let message = &submission.message;
        if message.payload.bytes().len() > MAX_PAYLOAD || queue::rest(&submission) > MAX_REST {
            return Err(BrokerError::Unavailable(
                "a publication of this size cannot be stored".into(),
            ));
        }
        self.shared.queue.push(Request::Publish(submission))
    }

    fn delete(&self, deletion: Deletion) -> Result<(), BrokerError> {
        self.shared.queue.push(Request::Delete(deletion)).map(|_| ())
    }

    fn read(&self, fetch: Fetch, fetched: Fetched) {
        self.shared.reads.push(fetch, fetched);
    }
}

/// A counter's value.
fn value(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
