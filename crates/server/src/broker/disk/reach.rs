//! Telling the file `reach` how far the log is safe: at the start, after each batch, and when it is closed in good order.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::format::header::STORE_FILE;
use super::format::reach::{REACH, REACH_FILE, SLOTS};
use super::format::{Header, Reach, VERSION};
use super::io::{Disk, DiskFile};

/// See the module. Only the writer has it.
pub(crate) struct ReachFile {
    /// None until the log is begun to be written.
    file: Option<Arc<dyn DiskFile>>,
    /// What the file says, or would.
    said: Reach,
    /// The version that the file `store` names.
    version: u16,
    has_failed: bool,
}

/// What the file of a folder says, if it is there and can be read: of which store it is has to be looked at.
///
/// # Errors
/// Whatever the system says of a file that is there.
pub(crate) fn read(disk: &dyn Disk, folder: &Path) -> io::Result<Option<Reach>> {
    let file = match disk.open(&folder.join(REACH_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; REACH];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(Reach::newest(&bytes[..read]))
}

impl ReachFile {
    /// Nothing is written yet. `said` is what was found (or nothing, with the store), `version` that of the file `store`.
    pub(crate) fn new(said: Reach, version: u16) -> Self {
        Self {
            file: None,
            said,
            version,
            has_failed: false,
        }
    }

    /// Says, and makes safe, that the log is open from here on, before anything is written to it: the length of its newest
    /// segment, and the position reached. An older folder is of this version from now on. Once done it does nothing.
    ///
    /// # Errors
    /// Whatever the system says: then nothing may be written to the log.
    pub(crate) fn begin(
        &mut self,
        disk: &dyn Disk,
        folder: &Path,
        (segment, length): (u32, u32),
        position: u64,
    ) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let path = folder.join(REACH_FILE);
        let file = match disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path)?,
            opened => opened?,
        };
        // All of it: later it is only written over, which takes no room.
        let there = file.length()? as usize;
        if there < REACH {
            file.write_at(&[0; REACH][there..], there as u64)?;
        }
        self.said = Reach {
            is_closed: false,
            segment,
            length,
            position,
            ..self.said
        };
        self.put_safely(&*file)?;
        disk.sync_folder(folder)?;
        if self.version < VERSION {
            let header = Header {
                version: VERSION,
                store: self.said.store,
                segment: 0,
                first: 0,
            };
            let store = disk.open(&folder.join(STORE_FILE))?;
            store.write_at(&header.encode(), 0)?;
            store.sync()?;
            self.version = VERSION;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Says that so much of the newest segment is safe. What a power cut takes back of it was true nevertheless.
    pub(crate) fn note(&mut self, segment: u32, length: u32, position: u64) {
        let Some(file) = self.file.clone() else { return };
        (self.said.segment, self.said.length, self.said.position) = (segment, length, position);
        if let Err(error) = self.put(&*file) {
            self.failed(&error);
        }
    }

    /// Says that everything was written and the log closed.
    pub(crate) fn close(&mut self) {
        let Some(file) = self.file.take() else { return };
        self.said.is_closed = true;
        if let Err(error) = self.put_safely(&*file) {
            self.failed(&error);
        }
    }

    /// Writes a slot and the first one, each made safe before the other could be lost.
    fn put_safely(&mut self, file: &dyn DiskFile) -> io::Result<()> {
        self.put(file)?;
        file.sync()?;
        file.write_at(&self.said.encode(), SLOTS[0] as u64)?;
        file.sync()
    }

    /// Writes the older of the two slots that are written in turn.
    fn put(&mut self, file: &dyn DiskFile) -> io::Result<()> {
        let next = Reach {
            sequence: self.said.sequence + 1,
            ..self.said
        };
        let slot = SLOTS[1 + (next.sequence % 2) as usize];
        file.write_at(&next.encode(), slot as u64)?;
        // Had it failed, the same slot would be written again: the other one is whole.
        self.said = next;
        Ok(())
    }

    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(%error, "how far the log reaches could not be written down: damage at its end may not be seen");
        }
    }
}
