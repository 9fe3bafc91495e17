//! The raw cost: what the log has written and made safe, recorded, and the same on a bare file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cometserver::broker::disk::LockError;
use cometserver::broker::disk::io::{Disk, DiskFile, Held, RealDisk};

/// A call to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// So many bytes were written.
    Write(usize),
    /// fdatasync.
    Sync,
}

/// The steps so far.
pub(crate) type Steps = Arc<Mutex<Vec<Step>>>;

/// The real disk, with a record of what is asked of it.
#[derive(Clone, Default)]
pub(crate) struct Recorder {
    steps: Steps,
    /// How long a sync takes, if it is not the disk that says so.
    sync: Option<Duration>,
}

struct RecordedFile {
    file: Arc<dyn DiskFile>,
    recorder: Recorder,
}

impl Recorder {
    pub(crate) fn new(steps: Steps, sync: Option<Duration>) -> Self {
        Self { steps, sync }
    }

    fn record(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        let recorder = self.clone();
        file.map(|file| Arc::new(RecordedFile { file, recorder }) as Arc<dyn DiskFile>)
    }
}

impl Disk for Recorder {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.make_folder(folder)
    }

    fn lock(&self, folder: &Path) -> Result<Held, LockError> {
        RealDisk.lock(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(folder)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.record(RealDisk.create(path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.record(RealDisk.open(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.sync_folder(folder)
    }
}

impl RecordedFile {
    fn note(&self, step: Step) {
        self.recorder
            .steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
    }
}

impl DiskFile for RecordedFile {
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.note(Step::Write(bytes.len()));
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.note(Step::Sync);
        match self.recorder.sync {
            Some(time) => thread::sleep(time),
            None => self.file.sync()?,
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

/// How long the same steps take on a bare file in a plain loop; `None` without any.
pub(crate) fn repeat(folder: &Path, steps: &[Step], sync: Option<Duration>) -> io::Result<Option<Duration>> {
    if syncs(steps) == 0 {
        return Ok(None);
    }
    let longest = steps.iter().map(|step| match step {
        Step::Write(length) => *length,
        Step::Sync => 0,
    });
    // Not zeros: some disks take those for nothing.
    let bytes: Vec<u8> = (0..longest.max().unwrap_or(0))
        .map(|at| (at * 31) as u8)
        .collect();
    let path = folder.join("raw");
    let mut file = File::create(&path)?;
    let begun = Instant::now();
    for step in steps {
        match step {
            Step::Write(length) => file.write_all(&bytes[..*length])?,
            Step::Sync => match sync {
                Some(time) => thread::sleep(time),
                None => file.sync_data()?,
            },
        }
    }
    let took = begun.elapsed();
    fs::remove_file(path)?;
    Ok(Some(took))
}

pub(crate) fn syncs(steps: &[Step]) -> usize {
    steps.iter().filter(|step| matches!(step, Step::Sync)).count()
}
