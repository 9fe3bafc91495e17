//! Copies of a log: made while it is open or closed, checked and read back.
//!
//! A copy is a log folder like any other. What a client has seen after it was made is not known to it: under the mark of the
//! next start such a cursor is told of a gap. It is made under another name and gets its own by one rename, when it is safe: what
//! was interrupted never looks like a log.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use cometserver_core::namespace::{Bounds, Namespace, Namespaces};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::format::header::{STORE_FILE, file_name, segment_number};
use super::format::reach::{REACH, REACH_FILE};
use super::format::{Header, Reach, VERSION};
use super::inspect::{Report, inspect};
use super::io::{Disk, DiskFile, RealDisk, open_to_read};
use super::lock::LockError;
use super::recovery::OpenError;
use super::shared::Shared;

/// What the name of a folder ends in until its copy is complete.
pub(super) const PARTIAL: &str = "partial";

/// The same of one that is read back.
pub(super) const RESTORING: &str = "restoring";

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Segments.
    pub segments: usize,
    /// Bytes, those among them that both now share (hard links).
    pub bytes: u64,
    /// The newest position in the copy; 0 if the log was not open.
    pub position: u64,
}

/// Why there is no copy, or none that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is something in the target.
    #[error("{} is not empty: name a folder that is empty or does not exist", path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The log to be copied is open: its server can make a backup.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// What is to be read back is no log, or is of another version.
    #[error(transparent)]
    Unreadable(#[from] OpenError),
    /// What is to be read back is damaged.
    #[error("{}: {damaged} parts of it are damaged: look at it with comet storage check", path.display())]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// How many.
        damaged: u64,
    },
    /// The file system.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// See [`DiskLog::backup`](super::DiskLog::backup).
pub(super) fn of_running(shared: &Shared, target: &Path) -> Result<Copied, BackupError> {
    // No segment is removed meanwhile. Publishing goes on: what is copied is what was safe at one moment.
    let _tidying = shared.tidying.lock().unwrap_or_else(PoisonError::into_inner);
    complete(target, PARTIAL, None, |folder| copy_running(shared, folder))
}

fn copy_running(shared: &Shared, target: &Path) -> Result<Copied, BackupError> {
    let (segments, position) = {
        let index = shared.index();
        let segments = index
            .segments
            .iter()
            .map(|(number, segment)| (*number, u64::from(segment.length)));
        (segments.collect::<Vec<_>>(), index.position)
    };
    let mut copied = Copied {
        position,
        ..Copied::default()
    };
    let newest = segments.last().copied();
    for (number, length) in segments {
        let (from, to) = (
            shared.folder.join(file_name(number)),
            target.join(file_name(number)),
        );
        // The newest is written to; the others never again, so that a second name is as good as a copy.
        if newest == Some((number, length)) || fs::hard_link(&from, &to).is_err() {
            copy(&from, &to, length)?;
        }
        copied.segments += 1;
        copied.bytes += length;
    }
    // What is taken and not yet safe is none of it: a copy is closed. The file has one slot.
    let reach = Reach {
        store: shared.store,
        sequence: 0,
        is_closed: true,
        segment: newest.map_or(0, |(number, _)| number),
        length: newest.map_or(0, |(_, length)| length as u32),
        position,
    };
    write_new(&target.join(REACH_FILE), &reach.encode())?;
    let header = Header {
        version: VERSION,
        store: shared.store,
        segment: 0,
        first: 0,
    };
    write_new(&target.join(STORE_FILE), &header.encode())?;
    Ok(copied)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let written = new_file(path).and_then(|mut file| {
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(|source| failed(path, source))
}

/// Copies a log that no server has open.
///
/// # Errors
/// [`BackupError`].
pub fn backup(folder: &Path, target: &Path) -> Result<Copied, BackupError> {
    let _lock = RealDisk.lock(folder)?;
    complete(target, PARTIAL, None, |partial| copy_files(folder, partial))
}

/// Reads a backup back into a folder, which must be empty or not there: it is checked first, and refused if it is damaged
/// unless `accept_damage` (then what can be read is there, and the rest is said to be gone). Returns what it holds.
///
/// # Errors
/// [`BackupError`]; then the folder is as it was.
pub fn restore(from: &Path, to: &Path, accept_damage: bool) -> Result<Report, BackupError> {
    let report = usable(from, accept_damage)?;
    complete(to, RESTORING, None, |folder| copy_files(from, folder))?;
    Ok(report)
}

/// The same in place of the log in the folder `to`, which nobody may have open: it gets the name `aside`, beside its own, as soon
/// as the other is there completely.
///
/// # Errors
/// [`BackupError`]; then the log is as it was.
pub fn replace(from: &Path, to: &Path, aside: &Path, accept_damage: bool) -> Result<Report, BackupError> {
    let report = usable(from, accept_damage)?;
    complete(to, RESTORING, Some(aside), |folder| copy_files(from, folder))?;
    Ok(report)
}

/// Is what it holds to be read back?
fn usable(from: &Path, accept_damage: bool) -> Result<Report, BackupError> {
    let everything = Namespaces::uniform(Namespace {
        history: Bounds {
            count: usize::MAX,
            bytes: usize::MAX,
            age: u64::MAX,
        },
        ..Namespace::default()
    });
    let report = inspect(from, &everything, 0)?;
    let torn = report.segments.iter().filter(|segment| segment.torn > 0).count() as u64;
    let damaged = report.damaged + torn;
    if damaged > 0 && !accept_damage {
        return Err(BackupError::Damaged {
            path: from.to_owned(),
            damaged,
        });
    }
    Ok(report)
}

fn copy_files(from: &Path, to: &Path) -> Result<Copied, BackupError> {
    let mut copied = Copied::default();
    let mut names = RealDisk.list(from).map_err(|source| failed(from, source))?;
    // Oldest first, and `store` behind them all.
    names.sort_unstable();
    for name in names {
        let is_segment = segment_number(&name).is_some();
        if !is_segment && name != STORE_FILE && name != REACH_FILE {
            continue;
        }
        // Of the others nothing behind what is read of them.
        let most = if is_segment { u64::MAX } else { REACH as u64 };
        let bytes = copy(&from.join(&name), &to.join(&name), most)?;
        if is_segment {
            copied.segments += 1;
            copied.bytes += bytes;
        }
    }
    Ok(copied)
}

/// Lets `fill` make a folder under another name, and gives it its own when everything is safe. What is there now, unless empty,
/// gets the name `aside`; without one it is refused.
fn complete(
    target: &Path,
    suffix: &str,
    aside: Option<&Path>,
    fill: impl FnOnce(&Path) -> Result<Copied, BackupError>,
) -> Result<Copied, BackupError> {
    if aside.is_none() {
        refuse_filled(target)?;
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    let folder = target.with_file_name(name);
    remove_copy(&folder);
    make_empty(&folder)?;
    let done = fill(&folder).and_then(|copied| {
        sync(&folder)?;
        let placed = match aside {
            Some(aside) => swap(&folder, target, aside),
            None => fs::rename(&folder, target),
        };
        placed.map_err(|source| failed(target, source))?;
        sync(parent(target))?;
        Ok(copied)
    });
    if done.is_err() {
        remove_copy(&folder);
    }
    done
}

/// Puts `new` in the place of `old`, which becomes `aside`. There is no moment without either, where the file system can do that.
fn swap(new: &Path, old: &Path, aside: &Path) -> io::Result<()> {
    if renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).is_ok() {
        return fs::rename(new, aside);
    }
    fs::rename(old, aside)?;
    fs::rename(new, old).inspect_err(|_| {
        // Who fails as well has said why: it is the same folder.
        let _ = fs::rename(aside, old);
    })
}

/// Removes what an interrupted copy left, and nothing else: if there is more, the folder stays.
fn remove_copy(folder: &Path) {
    for name in RealDisk.list(folder).unwrap_or_default() {
        if name == STORE_FILE || name == REACH_FILE || segment_number(&name).is_some() {
            let _ = fs::remove_file(folder.join(name));
        }
    }
    let _ = fs::remove_dir(folder);
}

fn refuse_filled(path: &Path) -> Result<(), BackupError> {
    match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(BackupError::NotEmpty {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed(path, source)),
    }
}

/// A folder with nothing in it, made if it is not there.
fn make_empty(path: &Path) -> Result<(), BackupError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_filled(path),
        Err(source) => Err(failed(path, source)),
    }
}

fn copy(from: &Path, to: &Path, length: u64) -> Result<u64, BackupError> {
    let source = open_to_read(from).map_err(|source| failed(from, source))?;
    let length = length.min(source.length().map_err(|source| failed(from, source))?);
    let written = new_file(to).and_then(|mut file| {
        let bytes = io::copy(&mut source.take(length), &mut file)?;
        file.sync_all()?;
        Ok(bytes)
    });
    written.map_err(|source| failed(to, source))
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The folder has its entries for good.
fn sync(folder: &Path) -> Result<(), BackupError> {
    RealDisk
        .sync_folder(folder)
        .map_err(|source| failed(folder, source))
}

fn parent(folder: &Path) -> &Path {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn failed(path: &Path, source: io::Error) -> BackupError {
    BackupError::File {
        path: path.to_owned(),
        source,
    }
}
