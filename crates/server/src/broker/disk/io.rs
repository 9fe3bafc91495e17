//! The few things that the log asks of a file system, so that tests can make each of them fail.

use std::any::Any;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::lock::{self, LockError};

/// The log belongs to the server alone: it holds payloads.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What the lock is held by, until it is dropped.
pub type Held = Box<dyn Any + Send + Sync>;

/// A file system, as the log uses it.
pub trait Disk: Send + Sync {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// Whatever the system says.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Takes the folder for this process.
    ///
    /// # Errors
    /// [`LockError`], naming who has it.
    fn lock(&self, folder: &Path) -> Result<Held, LockError>;

    /// The names of the files in the folder.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// A new file, which must not exist yet.
    ///
    /// # Errors
    /// Whatever the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// An existing file, to be read and written.
    ///
    /// # Errors
    /// Whatever the system says.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a file. Who has it open goes on reading it.
    ///
    /// # Errors
    /// Whatever the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes safe which files the folder has.
    ///
    /// # Errors
    /// Whatever the system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// How much room the file system of the folder has for this process; one that cannot say is taken to have all.
    fn space(&self, _folder: &Path) -> Space {
        Space::default()
    }
}

/// Bytes of a file system that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that are free now. A quota is not seen in it.
    pub free: u64,
    /// Bytes that there would be if nobody had anything.
    pub capacity: u64,
}

impl Default for Space {
    /// More than any log needs.
    fn default() -> Self {
        Self {
            free: u64::MAX / 4,
            capacity: u64::MAX / 4,
        }
    }
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// How long it is, in bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn length(&self) -> io::Result<u64>;

    /// Reads from `offset` until the buffer is full or the file ends; returns how much.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of it. After an error any part of it may have been written.
    ///
    /// # Errors
    /// Whatever the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes safe what was written, and how long the file is.
    ///
    /// # Errors
    /// Whatever the system says; asking again would prove nothing.
    fn sync(&self) -> io::Result<()>;

    /// Has the file a name? Whatever is written to one without is gone with the process.
    ///
    /// # Errors
    /// Whatever the system says.
    fn has_name(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Cuts the file off.
    ///
    /// # Errors
    /// Whatever the system says.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes the file so long, with room on the disk for all of it. What the new part holds does not matter.
    ///
    /// # Errors
    /// Whatever the system says; then the file has any length.
    fn allocate(&self, length: u64) -> io::Result<()> {
        fill_up(self, length)
    }
}

/// So much is written at once to make room, where the system has no better way.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

fn fill_up(file: &(impl DiskFile + ?Sized), length: u64) -> io::Result<()> {
    let mut at = file.length()?;
    while at < length {
        let some = (length - at).min(ZEROS.len() as u64);
        file.write_at(&ZEROS[..some as usize], at)?;
        at += some;
    }
    Ok(())
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            // Made for good only when its own parent knows it.
            Ok(()) => folder.parent().map_or(Ok(()), |parent| {
                self.sync_folder(if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                })
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, folder: &Path) -> Result<Held, LockError> {
        Ok(Box::new(lock::take(folder)?))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        Ok(Arc::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(open_regular(
            path,
            OpenOptions::new().read(true).write(true),
        )?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn space(&self, folder: &Path) -> Space {
        let Ok(said) = rustix::fs::statvfs(folder) else {
            return Space::default();
        };
        // What only root may use is nobody's. Network file systems may say nothing at all.
        let reserved = said.f_bfree.saturating_sub(said.f_bavail);
        match said.f_blocks.saturating_sub(reserved) {
            0 => Space::default(),
            blocks => Space {
                free: said.f_bavail.saturating_mul(said.f_frsize),
                capacity: blocks.saturating_mul(said.f_frsize),
            },
        }
    }
}

/// The same for who only looks: whatever would change something is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnlyDisk;

impl Disk for ReadOnlyDisk {
    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn lock(&self, _: &Path) -> Result<Held, LockError> {
        Ok(Box::new(()))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(folder)
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Err(read_only())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(open_to_read(path)?))
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Err(read_only())
    }
}

/// No file of a log is longer than this, in bytes: places in it are 32 bits.
const LONGEST: u64 = u32::MAX as u64;

/// Opens a file of a log or of a copy, which somebody else may have made.
///
/// # Errors
/// It is no regular file, or longer than any file of a log; or whatever the system says.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    let file = open_regular(path, OpenOptions::new().read(true))?;
    let length = file.metadata()?.len();
    if length > LONGEST {
        let what =
            format!("it has {length} bytes, more than any file of a log: remove it, or take another copy");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(file)
}

/// Opens a regular file and nothing else: a pipe would never end, a link leads elsewhere, opening a device may do something.
fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let refuse = || {
        let what = "it is no regular file: a log has neither links nor pipes nor devices in it: remove it";
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(refuse());
    }
    // It may be another one by now.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(refuse()),
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading only")
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let wanted = buffer.len();
        while !buffer.is_empty() {
            match FileExt::read_at(self, buffer, offset) {
                Ok(0) => break,
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(wanted - buffer.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.metadata()?.nlink() > 0)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, FallocateFlags::empty(), 0, length) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => fill_up(self, length),
            other => Ok(other?),
        }
    }
}
