//! A disk in memory that loses what was not made safe, and fails when the test says so.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cometserver::broker::disk::LockError;
use cometserver::broker::disk::io::{Disk, DiskFile, Held, Space};

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The disk is full; of a write a part has arrived.
    Full,
    /// An error; of a write a part has arrived, of a sync nothing, and what was to be made safe is dropped.
    Broken,
    /// The machine stops: this step and all after it fail.
    Crash,
}

#[derive(Clone, Debug, Default)]
struct Content {
    /// As it is read.
    now: Vec<u8>,
    /// As it is after a crash, but for what the system happened to write by itself.
    safe: Vec<u8>,
    /// What the next sync makes safe. What a failed one dropped is not among it.
    dirty: Vec<std::ops::Range<usize>>,
    /// From here on it cannot be read.
    unreadable: Option<usize>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    safe_files: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    step: u64,
    reads: u64,
    faults: BTreeMap<u64, Fault>,
    is_full: bool,
    /// All files together have at most so many bytes.
    capacity: Option<usize>,
    /// Nobody is told of that: it is a quota.
    hides_capacity: bool,
    /// So many of these are taken by others.
    ballast: usize,
    is_down: bool,
    fails_syncs: bool,
    /// The thread of this name panics when it next writes or reads.
    panicking: Option<&'static str>,
    /// The thread of this name waits before it next writes or reads.
    held: Option<(&'static str, Sender<()>, Receiver<()>)>,
}

/// A thread that waits in the disk.
pub(crate) struct Gate {
    reached: Receiver<()>,
    open: Sender<()>,
}

impl Gate {
    /// Waits until it is there.
    pub(crate) fn reached(&self) {
        self.reached
            .recv_timeout(Duration::from_secs(60))
            .expect("it comes");
    }

    /// Lets it go on.
    pub(crate) fn open(self) {
        self.open.send(()).unwrap();
    }
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    disk: SimDisk,
    content: Arc<Mutex<Content>>,
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The step so many steps from now fails.
    pub(crate) fn fail_in(&self, steps: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.step + steps;
        state.faults.insert(at, fault);
    }

    /// From now on no file can grow or be made, or can again: what is there may be written over.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// From now on all files together have at most so many bytes.
    pub(crate) fn set_capacity(&self, capacity: Option<usize>) {
        self.state().capacity = capacity;
    }

    /// The same, but whoever asks how much room there is hears nothing of it.
    pub(crate) fn set_quota(&self, bytes: usize) {
        let mut state = self.state();
        (state.capacity, state.hides_capacity) = (Some(bytes), true);
    }

    /// Somebody else takes all that is free but so many bytes.
    pub(crate) fn take_all_but(&self, left: usize) {
        let free = self.free().unwrap_or(0);
        self.state().ballast += free.saturating_sub(left);
    }

    /// Somebody else has so many of these.
    pub(crate) fn set_ballast(&self, bytes: usize) {
        self.state().ballast = bytes;
    }

    /// Bytes that can still be written, if there is a bound.
    fn free(&self) -> Option<usize> {
        let state = self.state();
        let files = state.files.values();
        let used: usize = files.map(|content| content.lock().unwrap().now.len()).sum();
        Some(state.capacity?.saturating_sub(used + state.ballast))
    }

    /// From now on no sync succeeds, or does again.
    pub(crate) fn set_failing_syncs(&self, fails: bool) {
        self.state().fails_syncs = fails;
    }

    /// From a byte on the file cannot be read, or can again.
    pub(crate) fn set_unreadable(&self, path: &Path, from: Option<usize>) {
        self.state().files[path].lock().unwrap().unreadable = from;
    }

    /// From now on this thread panics when it touches a file, or none does.
    pub(crate) fn set_panicking(&self, thread: Option<&'static str>) {
        self.state().panicking = thread;
    }

    /// Holds this thread when it next touches a file, other than to note how far the log reaches.
    pub(crate) fn hold(&self, thread: &'static str) -> Gate {
        let ((came, reached), (open, opened)) = (channel(), channel());
        self.state().held = Some((thread, came, opened));
        Gate { reached, open }
    }

    /// A thread touches a file.
    fn touched(&self) {
        let is_here = |name: &str| std::thread::current().name() == Some(name);
        let held = self.state().held.take_if(|(name, ..)| is_here(name));
        if let Some((_, came, opened)) = held {
            came.send(()).unwrap();
            opened.recv().unwrap();
        }
        let panicking = self.state().panicking;
        assert!(!panicking.is_some_and(is_here), "the test said so");
    }

    /// How many steps have been made.
    pub(crate) fn steps(&self) -> u64 {
        self.state().step
    }

    /// How often something was read.
    pub(crate) fn reads(&self) -> u64 {
        self.state().reads
    }

    pub(crate) fn file_names(&self) -> Vec<PathBuf> {
        self.state().files.keys().cloned().collect()
    }

    /// The machine stops and starts again: what was not made safe may be there in part, as `chance` decides.
    pub(crate) fn crash(&self, mut chance: impl FnMut(usize) -> usize) {
        let mut state = self.state();
        let state = &mut *state;
        let mut after = BTreeMap::new();
        for (path, content) in &state.safe_files {
            let mut content = content.lock().unwrap();
            let Content { now, safe, .. } = content.clone();
            // The length may have reached the disk before the bytes, and the bytes in any order of blocks.
            let length = if chance(2) == 0 {
                safe.len()
            } else {
                now.len().max(safe.len())
            };
            let mut bytes = safe;
            bytes.resize(length, 0);
            for (block, target) in bytes.chunks_mut(64).enumerate() {
                let from = block * 64;
                let Some(source) = now.get(from..now.len().min(from + target.len())) else {
                    continue;
                };
                if chance(2) == 0 {
                    target[..source.len()].copy_from_slice(source);
                }
            }
            let whole = Content::safe(bytes);
            *content = whole.clone();
            after.insert(path.clone(), Arc::new(Mutex::new(whole)));
        }
        // A new file whose folder was not made safe may be there or not; here it is, empty or whole as the system likes.
        for (path, content) in &state.files {
            if !after.contains_key(path) && chance(2) == 0 {
                let now = content.lock().unwrap().now.clone();
                let kept = now[..chance(now.len() + 1)].to_vec();
                after.insert(path.clone(), Arc::new(Mutex::new(Content::safe(kept))));
            }
        }
        state.files = after.clone();
        state.safe_files = after;
        state.faults.clear();
        (state.is_down, state.is_full, state.fails_syncs) = (false, false, false);
    }

    /// Stops failing.
    pub(crate) fn repair(&self) {
        let mut state = self.state();
        state.faults.clear();
        (state.is_down, state.is_full, state.fails_syncs) = (false, false, false);
        state.ballast = 0;
    }

    fn step(&self, writes: bool) -> Option<Fault> {
        let mut state = self.state();
        if state.is_down {
            return Some(Fault::Crash);
        }
        state.step += 1;
        let step = state.step;
        let fault = state.faults.remove(&step);
        if fault == Some(Fault::Crash) {
            state.is_down = true;
        }
        fault.or((state.is_full && writes).then_some(Fault::Full))
    }

    fn open_file(&self, content: Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            content,
        })
    }
}

impl Content {
    fn safe(bytes: Vec<u8>) -> Self {
        Self {
            now: bytes.clone(),
            safe: bytes,
            dirty: Vec::new(),
            unreadable: None,
        }
    }
}

fn error(fault: Fault) -> io::Error {
    match fault {
        Fault::Full => io::Error::from(io::ErrorKind::StorageFull),
        Fault::Broken | Fault::Crash => io::Error::other("the test said so"),
    }
}

impl Disk for SimDisk {
    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> Result<Held, LockError> {
        Ok(Box::new(()))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let names = state.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(names
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(fault) = self.step(true) {
            return Err(error(fault));
        }
        let content = Arc::<Mutex<Content>>::default();
        let mut state = self.state();
        if state.files.contains_key(path) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        state.files.insert(path.to_owned(), content.clone());
        drop(state);
        Ok(self.open_file(content))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.state().files.get(path).cloned();
        let content = content.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(self.open_file(content))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if let Some(fault) = self.step(false) {
            return Err(error(fault));
        }
        let removed = self.state().files.remove(path);
        removed
            .map(|_| ())
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        if let Some(fault) = self.step(false) {
            return Err(error(fault));
        }
        let mut state = self.state();
        state.safe_files = state.files.clone();
        Ok(())
    }

    fn space(&self, _: &Path) -> Space {
        let capacity = {
            let state = self.state();
            state.capacity.filter(|_| !state.hides_capacity)
        };
        self.free()
            .zip(capacity)
            .map_or_else(Space::default, |(free, capacity)| Space {
                free: free as u64,
                capacity: capacity as u64,
            })
    }
}

impl SimFile {
    /// Is it the file that says how far the log reaches? It is written behind each batch.
    fn is_reach(&self) -> bool {
        let state = self.disk.state();
        let mut files = state.files.iter();
        files.any(|(path, content)| path.ends_with("reach") && Arc::ptr_eq(content, &self.content))
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.touched();
        self.disk.state().reads += 1;
        let content = self.content.lock().unwrap();
        let end = offset as usize + buffer.len();
        if content.unreadable.is_some_and(|from| end > from) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let from = content.now.len().min(offset as usize);
        let read = buffer.len().min(content.now.len() - from);
        buffer[..read].copy_from_slice(&content.now[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.is_reach() {
            self.disk.touched();
        }
        let length = self.content.lock().unwrap().now.len();
        let growth = (offset as usize + bytes.len()).saturating_sub(length);
        let mut fault = self.disk.step(growth > 0);
        let mut written = match fault {
            None => bytes.len(),
            Some(_) => bytes.len() / 2,
        };
        if let Some(free) = self.disk.free().filter(|free| growth > *free) {
            fault = fault.or(Some(Fault::Full));
            written = written.min(bytes.len() - (growth - free));
        }
        let mut content = self.content.lock().unwrap();
        let end = offset as usize + written;
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[offset as usize..end].copy_from_slice(&bytes[..written]);
        content.dirty.push(offset as usize..end);
        fault.map_or(Ok(()), |fault| Err(error(fault)))
    }

    fn sync(&self) -> io::Result<()> {
        let fault = self.disk.step(false);
        if let Some(fault) = fault.or(self.disk.state().fails_syncs.then_some(Fault::Broken)) {
            if fault == Fault::Broken {
                self.content.lock().unwrap().dirty.clear();
            }
            return Err(error(fault));
        }
        let mut content = self.content.lock().unwrap();
        let Content { now, safe, dirty, .. } = &mut *content;
        safe.resize(now.len(), 0);
        for range in dirty.drain(..) {
            let range = range.start.min(now.len())..range.end.min(now.len());
            safe[range.clone()].copy_from_slice(&now[range]);
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        if let Some(fault) = self.disk.step(false) {
            return Err(error(fault));
        }
        self.content.lock().unwrap().now.truncate(length as usize);
        Ok(())
    }
}
