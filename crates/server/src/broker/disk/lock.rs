//! One server per log: the file `lock` in its folder, held by flock and saying by whom.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{plain_file, platform};

/// The file's name.
pub const LOCK_FILE: &str = "lock";

/// What is read of a lock at most: it holds two short entries.
const MAX_LOCK_FILE: u64 = 4096;

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody has it.
    #[error("the log in {} is in use by {holder}: stop that one first", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Who has it, as well as that is known.
        holder: String,
    },
    /// The lock cannot be made or taken.
    #[error("{}: {source}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Deserialize, Serialize)]
struct Holder {
    pid: u32,
    host: String,
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// The folder, locked too, where it can be: the file may be removed by others.
    folder: Option<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A child that has forked and not yet executed shares the open file, and with it the lock: closing is not enough.
        let _ = self.file.unlock();
        let _ = self.folder.as_ref().map(File::unlock);
    }
}

/// Takes the folder.
pub(super) fn take(folder: &Path) -> Result<Lock, LockError> {
    let path = folder.join(LOCK_FILE);
    let failed = |source| LockError::File {
        path: path.clone(),
        source,
    };
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let mut file = plain_file::open(&path, &mut options).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(source)) => return Err(failed(source)),
        Err(TryLockError::WouldBlock) => {
            return Err(LockError::Held {
                folder: folder.to_owned(),
                holder: holder(&file),
            });
        }
    }
    let held = |file: &File| matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    let locked = File::open(folder).ok();
    if locked.as_ref().is_some_and(held) {
        return Err(LockError::Held {
            folder: folder.to_owned(),
            holder: "another server, whose lock file was removed".to_owned(),
        });
    }
    let holder = Holder {
        pid: std::process::id(),
        host: platform::host_name(),
    };
    let text = serde_json::to_vec(&holder).expect("a number and text always become JSON");
    file.set_len(0)
        .and_then(|()| file.write_all(&text))
        .map_err(failed)?;
    Ok(Lock { file, folder: locked })
}

fn holder(mut file: &File) -> String {
    let mut text = Vec::new();
    let read = Read::by_ref(&mut file).take(MAX_LOCK_FILE).read_to_end(&mut text);
    match read
        .ok()
        .and_then(|_| serde_json::from_slice::<Holder>(&text).ok())
    {
        Some(holder) => format!("pid {} on {}", holder.pid, holder.host),
        None => "another server".to_owned(),
    }
}
