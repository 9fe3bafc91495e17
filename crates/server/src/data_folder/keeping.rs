//! Keeping a data folder that others tidy up: what of it is gone, and putting it there again.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{DataFolder, DataFolderError, LOCK_FILE, Lock, PID_FILE, file_error, open_lock_file, try_lock};
use crate::platform;

/// What became of a data folder under its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Everything is where it was.
    Whole,
    /// Something was missing, and is there again.
    Restored,
    /// The folder itself is gone, or another one is in its place: nothing was made there.
    Gone,
}

impl Lock {
    /// Looks whether the folder and its files are where they were, and puts there again what can be.
    ///
    /// # Errors
    /// [`DataFolderError`]: something is missing, and cannot be made again.
    pub fn keep(&mut self) -> Result<Kept, DataFolderError> {
        let now = std::fs::metadata(&self.folder);
        if !now.is_ok_and(|now| now.is_dir() && identity(&now) == self.identity) {
            return Ok(Kept::Gone);
        }
        let mut kept = Kept::Whole;
        if !self.folder.join("public").is_dir() {
            DataFolder::create(&self.folder, &mut Vec::new())?;
            kept = Kept::Restored;
        }
        if !leads_to(&self.folder.join(LOCK_FILE), &self.file) {
            self.lock_again()?;
            kept = Kept::Restored;
        }
        if self.wrote_pid && !self.folder.join(PID_FILE).exists() {
            self.write_pid()?;
            kept = Kept::Restored;
        }
        self.mark();
        Ok(kept)
    }

    fn lock_again(&mut self) -> Result<(), DataFolderError> {
        let path = self.folder.join(LOCK_FILE);
        let failed = |source| file_error(&path, source);
        let file = open_lock_file(&path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(DataFolderError::Locked { path, holder: None });
        }
        self.write_holder(&file).map_err(failed)?;
        self.file = file;
        Ok(())
    }

    /// Lets the kernel say who holds the folder. What cannot be marked is known by its lock all the same.
    pub(crate) fn mark(&self) {
        for file in [Some(&self.file), self.folder_file.as_ref()]
            .into_iter()
            .flatten()
        {
            let _ = platform::mark(file);
        }
    }
}

/// Locks the folder itself: whoever removes `comet.lock` does not let another server in by that.
///
/// `None` where the file system locks no folders; `Err` holds a folder that another server has.
pub(super) fn lock_folder(folder: &Path) -> Result<Option<File>, File> {
    let Ok(file) = File::open(folder) else {
        return Ok(None);
    };
    match try_lock(&file) {
        Ok(true) => Ok(Some(file)),
        Ok(false) => Err(file),
        Err(_) => Ok(None),
    }
}

/// Which file it is, whatever its name.
pub(super) fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Leads the path to this very file?
fn leads_to(path: &Path, file: &File) -> bool {
    let identity_of = |metadata: io::Result<Metadata>| metadata.ok().map(|file| identity(&file));
    let found = identity_of(std::fs::symlink_metadata(path));
    found.is_some() && found == identity_of(file.metadata())
}
