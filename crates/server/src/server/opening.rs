//! The log on disk: opened before anything is served, which is shown if it takes long, and watched for trouble.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cometserver_core::broker::Committed;
use cometserver_core::hub::Hub;

use super::{Progress, StartError};
use crate::broker::disk::io::{Disk, RealDisk};
use crate::broker::disk::{DiskLog, DiskOptions};
use crate::config::Config;
use crate::shared::{Request, Shared, Trouble, wall_clock};

use super::building::namespaces;

/// The log's folder within the data folder.
const FOLDER: &str = "log";

/// Opening is shown once it has taken so long, and again as often.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// A log at its ceiling still clears away what is dead: not later than when this part of it is.
const GARBAGE_PART: usize = 4;

/// Where the log of a data folder is.
pub fn log_folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

/// Opens the log, if anything is to be kept on disk.
pub(super) fn open_log(
    config: &Config,
    disk: Option<Arc<dyn Disk>>,
    progress: Option<Progress>,
) -> Result<Option<Arc<DiskLog>>, StartError> {
    let folder = log_folder(&config.data_dir);
    if !config.is_durable() {
        if folder.exists() {
            tracing::info!(
                "every namespace is kept in memory: {} is left as it is",
                folder.display()
            );
        }
        return Ok(None);
    }
    let namespaces = namespaces(config).map_err(StartError::Config)?;
    let shown = progress.map(|progress| Shown::begin(progress, &folder));
    let opened = DiskLog::open_on(
        disk.unwrap_or_else(|| Arc::new(RealDisk)),
        &folder,
        disk_options(config),
        &namespaces,
    );
    if let Some(shown) = shown {
        shown.end();
    }
    Ok(Some(opened?))
}

fn disk_options(config: &Config) -> DiskOptions {
    let (limits, storage) = (&config.limits, &config.storage);
    let defaults = DiskOptions::default();
    DiskOptions {
        segment: storage.segment_size as u64,
        ceiling: storage.max_size as u64,
        garbage: defaults.garbage.min((storage.max_size / GARBAGE_PART) as u64),
        queue: queue(config),
        idempotency: limits.idempotency_window,
        ..defaults
    }
}

/// How many bytes may wait to be written: the largest message fits in beside others.
pub(super) fn queue(config: &Config) -> usize {
    let least = config.limits.message_size.saturating_mul(2);
    DiskOptions::default().queue.max(least)
}

/// What a log commits goes to the hub, and whether it can is noted.
pub(super) fn connect(log: &DiskLog, hub: &Arc<Hub>, trouble: Arc<Trouble>) {
    if let Some(error) = log.unwritten() {
        trouble.note(Some(error));
    }
    let recovered = trouble.clone();
    log.on_recovered(move || recovered.note(None));
    // The hub has the log: the other way round it must not live for ever.
    let hub: Weak<Hub> = Arc::downgrade(hub);
    log.set_commit(move |batch: Vec<Committed>| {
        if let Some(last) = batch.last() {
            trouble.note(last.result.as_ref().err());
        }
        if let Some(hub) = hub.upgrade() {
            hub.commit(batch, wall_clock());
        }
    });
}

/// A log that has failed takes the server with it: whoever watches over it starts it again.
pub(super) fn stop_on_failure(log: &DiskLog, shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    log.on_failure(move |why| {
        if let Some(shared) = shared.upgrade() {
            tracing::error!("the log on disk: {why}: the server stops");
            shared.trouble.fail(why);
            shared.ask(Request::Stop);
        }
    });
}

/// Tells now and then that the log is still being read.
struct Shown {
    done: Sender<()>,
    thread: JoinHandle<()>,
}

impl Shown {
    fn begin(progress: Progress, folder: &Path) -> Self {
        let (done, ended) = channel();
        let (folder, began) = (folder.to_owned(), Instant::now());
        let thread = thread::spawn(move || {
            while ended.recv_timeout(SHOWN_EVERY) == Err(RecvTimeoutError::Timeout) {
                progress(&Reading {
                    seconds: began.elapsed().as_secs(),
                    bytes: files_of(&folder).into_iter().map(|(_, bytes)| bytes).sum(),
                });
            }
        });
        Self { done, thread }
    }

    fn end(self) {
        // It ends when nobody can tell it anything any more.
        drop(self.done);
        let _ = self.thread.join();
    }
}

/// How far opening the log is.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// For how long it has been read.
    pub seconds: u64,
    /// How large it is.
    pub bytes: u64,
}

/// The files in a folder by name, with their bytes, as far as they can be seen.
pub fn files_of(folder: &Path) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter_map(|file| {
        let bytes = file.metadata().ok()?.len();
        Some((file.file_name().to_string_lossy().into_owned(), bytes))
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}
