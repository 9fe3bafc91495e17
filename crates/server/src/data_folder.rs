//! The folder of one server: where it is, who may look in, who holds it, and whether somebody answers in it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::default_data_dir;
use crate::{plain_file, platform};

mod keeping;
mod probe;
#[cfg(test)]
mod tests;

pub use keeping::Kept;
use keeping::{identity, lock_folder};
pub use probe::{Probe, probe};

/// The data folder and `public/`: a front web server of another user reaches the socket in it and lists nothing.
const FOLDER_MODE: u32 = 0o711;

/// What is ours alone.
const FILE_MODE: u32 = 0o600;

/// The pid file is for clients of the seed, which run as anybody.
const PID_FILE_MODE: u32 = 0o644;

/// The lock, and in it who holds it. Never removed by us: who locks a file that another has unlinked holds nothing. If somebody
/// else does, the folder is locked too.
const LOCK_FILE: &str = "comet.lock";

/// The process id, for clients of the seed only; nothing of ours trusts it.
const PID_FILE: &str = "comet.pid";

/// Where the pid file is written before it takes its place.
const NEW_PID_FILE: &str = ".comet.pid.new";

/// The largest lock file that is read; ours has some hundred bytes.
const MAX_LOCK_FILE: u64 = 16 << 10;

/// How often a lock is tried that only probing readers hold. Each holds it for two system calls.
const LOCK_TRIES: u32 = 10_000;

/// The folder of one server.
#[derive(Clone, Debug)]
pub struct DataFolder {
    path: PathBuf,
}

/// Who holds a data folder, as its lock file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// The name of its machine.
    pub host: String,
    /// Its backend socket.
    pub socket: PathBuf,
    /// Its version.
    pub version: String,
}

/// The right to be the server of a data folder, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    folder: PathBuf,
    /// Keeps the lock; the kernel lets go of it however the process ends.
    file: File,
    /// The folder, locked too, where it can be.
    folder_file: Option<File>,
    /// Which folder it is, whatever happens to its name.
    identity: (u64, u64),
    socket: PathBuf,
    wrote_pid: bool,
}

/// Why a data folder cannot be used. Always the operator's to repair.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataFolderError {
    /// The folder cannot be made or looked at.
    #[error("data folder {}: {source}: make it, or name another with COMETSERVER_DATA_DIR", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file in it cannot be used.
    #[error("{}: {source}: its folder must belong to the user of the server, {user}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Who we are.
        user: String,
        /// Why.
        source: io::Error,
    },
    /// Another server holds the folder.
    #[error(
        "already running: {} holds {}: stop it with comet stop, or name another folder with COMETSERVER_DATA_DIR",
        holder.as_ref().map_or_else(|| "a server".to_owned(), |holder| format!("pid {} on {}", holder.pid, holder.host)),
        path.display()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, if it says so.
        holder: Option<Holder>,
    },
    /// The kernel has no room for the path.
    #[error(
        "socket {}: the path is {length} bytes long, at most {most} are possible: name a shorter one with COMETSERVER_SOCKET or COMETSERVER_DATA_DIR",
        path.display()
    )]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// How long its path is.
        length: usize,
        /// How long it may be.
        most: usize,
    },
    /// Somebody answers there, although the lock is ours.
    #[error("socket {}: another server answers there: stop it, or name another path with COMETSERVER_SOCKET", path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that we did not make is in the way.
    #[error("socket {}: there is something else, which is left alone: move it away, or name another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

impl DataFolder {
    /// Makes the folder and `public/` in it, where they are missing, and says in `warnings` what is too open.
    ///
    /// What exists is not changed: somebody may have had a reason.
    ///
    /// # Errors
    /// [`DataFolderError::Folder`].
    pub fn create(path: &Path, warnings: &mut Vec<String>) -> Result<Self, DataFolderError> {
        let public = path.join("public");
        for folder in [path, &public] {
            make(folder).map_err(|source| DataFolderError::Folder {
                path: folder.to_owned(),
                source,
            })?;
            warnings.extend(too_open(folder, FOLDER_MODE));
        }
        for file in [LOCK_FILE, PID_FILE].map(|name| path.join(name)) {
            let allowed = if file.ends_with(PID_FILE) {
                PID_FILE_MODE
            } else {
                FILE_MODE
            };
            warnings.extend(too_open(&file, allowed));
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the folder for this process, and writes into the lock who holds it. After detaching: that closes files.
    ///
    /// # Errors
    /// [`DataFolderError::Locked`] with the holder, at once, or [`DataFolderError::File`].
    pub fn lock(&self, socket: &Path) -> Result<Lock, DataFolderError> {
        let path = self.path.join(LOCK_FILE);
        let failed = |source| file_error(&path, source);
        let file = open_lock_file(&path).map_err(failed)?;
        if !try_lock(&file).map_err(failed)? {
            return Err(DataFolderError::Locked {
                holder: read_holder(&file),
                path,
            });
        }
        let folder_file = match lock_folder(&self.path) {
            Ok(folder) => folder,
            // Its lock file was removed, and the one we have is new.
            Err(folder) => {
                return Err(DataFolderError::Locked {
                    holder: known_holder(&folder),
                    path,
                });
            }
        };
        let lock = Lock {
            folder: self.path.clone(),
            identity: identity(&fs::metadata(&self.path).map_err(failed)?),
            file,
            folder_file,
            socket: socket.to_owned(),
            wrote_pid: false,
        };
        lock.write_holder(&lock.file).map_err(failed)?;
        lock.mark();
        Ok(lock)
    }
}

impl Lock {
    /// Which folder it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes into a lock file who holds it.
    fn write_holder(&self, mut file: &File) -> io::Result<()> {
        let holder = Holder {
            pid: std::process::id(),
            host: platform::host_name(),
            // A path that is not UTF-8 is shown as well as it can be: the entry is for people.
            socket: self.socket.to_string_lossy().into_owned().into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let text = serde_json::to_vec(&holder).expect("numbers and UTF-8 text always become JSON");
        let found = file.metadata()?;
        // A backup may share a lock of ours by a name of its own; of anything else we would write over what is not ours.
        if found.nlink() > 1 && found.len() > 0 && read_holder(file).is_none() {
            return Err(io::Error::other(
                "it is a file of another name too (a hard link), and was no lock: remove it",
            ));
        }
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(&text)
    }

    /// Writes `comet.pid`: the number alone, as clients of the seed expect it. Removed again with the lock.
    ///
    /// # Errors
    /// [`DataFolderError::File`].
    pub fn write_pid(&mut self) -> Result<(), DataFolderError> {
        let path = self.folder.join(PID_FILE);
        let (new, pid) = (self.folder.join(NEW_PID_FILE), std::process::id().to_string());
        let write = || plain_file::replace(&path, &new, PID_FILE_MODE, pid.as_bytes());
        let written = write().or_else(|error| {
            // Without room one that names another process goes first: that may be room enough, and none is better.
            fs::remove_file(&path).map_err(|_| error)?;
            write()
        });
        written.map_err(|source| file_error(&path, source))?;
        self.wrote_pid = true;
        // Whoever syncs a folder closes it, and with that takes the mark away.
        self.mark();
        Ok(())
    }

    /// Makes room for a socket: removes one that nobody answers on. Only who holds the lock may, hence a method of it.
    ///
    /// # Errors
    /// [`DataFolderError::SocketInUse`], [`DataFolderError::NotASocket`], [`DataFolderError::SocketPathTooLong`] or
    /// [`DataFolderError::File`]; nothing was removed.
    pub fn remove_stale_socket(&self, path: &Path) -> Result<(), DataFolderError> {
        check_socket_path(path)?;
        let kind = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(file_error(path, source)),
        };
        if !kind.is_socket() {
            return Err(DataFolderError::NotASocket {
                path: path.to_owned(),
            });
        }
        match probe::connect(path) {
            Ok(()) => Err(DataFolderError::SocketInUse {
                path: path.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|source| file_error(path, source))
            }
            Err(source) => Err(file_error(path, source)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.wrote_pid {
            // Nothing can be done about a failure, and nothing depends on it: the lock decides.
            let _ = fs::remove_file(self.folder.join(PID_FILE));
        }
        // Closing is not enough: a child that has forked and not yet executed shares the open file, and with it the lock.
        let _ = self.file.unlock();
        let _ = self.folder_file.as_ref().map(File::unlock);
    }
}

/// Where the data folder is if no configuration says so: `COMETSERVER_DATA_DIR`, else the default of this user.
///
/// `None` for a user without a home folder.
pub fn find() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let is_root = rustix::process::geteuid().is_root();
    variable("COMETSERVER_DATA_DIR")
        .or_else(|| default_data_dir(is_root, variable("XDG_STATE_HOME"), variable("HOME")))
}

/// Refuses a socket path that the kernel has no room for.
///
/// # Errors
/// [`DataFolderError::SocketPathTooLong`].
pub fn check_socket_path(path: &Path) -> Result<(), DataFolderError> {
    let (length, most) = (path.as_os_str().as_bytes().len(), platform::MAX_SOCKET_PATH);
    if length > most {
        return Err(DataFolderError::SocketPathTooLong {
            path: path.to_owned(),
            length,
            most,
        });
    }
    Ok(())
}

/// Whether the folder is held, and by whom if the lock says so; `Ok(None)` if it is free.
///
/// # Errors
/// The lock cannot be read, as another user's cannot.
pub fn holder(folder: &Path) -> io::Result<Option<Option<Holder>>> {
    match look(&folder.join(LOCK_FILE)) {
        Ok(file) if is_held(&file)? => return Ok(Some(read_holder(&file))),
        Ok(_) => {}
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
            ) => {}
        Err(error) => return Err(error),
    }
    // The lock file may have been removed under its server, and something else be there. Who may not look, or cannot there, knows no more than before.
    let held = File::open(folder)
        .ok()
        .filter(|folder| is_held(folder).unwrap_or(false));
    Ok(held.map(|folder| known_holder(&folder)))
}

/// The process that holds the folder, at the kernel's word; `None` if nobody does, or it is not for us to see.
pub fn holding_process(folder: &Path) -> Option<u32> {
    let held = |file: File| {
        let pid = platform::marked_by(&file).ok().flatten()?;
        is_held(&file).ok().filter(|held| *held).map(|_| pid)
    };
    let file = look(&folder.join(LOCK_FILE)).ok();
    file.and_then(held).or_else(|| held(File::open(folder).ok()?))
}

/// Holds anybody a lock on it?
fn is_held(file: &File) -> io::Result<bool> {
    // Shared, so that two who only look do not see each other as a server.
    match file.try_lock_shared() {
        // At once, not with the file: a forked child would keep it.
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What is known of who holds a folder without its lock file.
fn known_holder(folder: &File) -> Option<Holder> {
    let pid = platform::marked_by(folder).ok().flatten()?;
    Some(Holder {
        pid,
        host: platform::host_name(),
        socket: PathBuf::new(),
        version: String::new(),
    })
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    plain_file::open(path, options.mode(FILE_MODE))
}

/// Opens a lock file to see who holds it.
fn look(path: &Path) -> io::Result<File> {
    plain_file::open(path, OpenOptions::new().read(true))
}

/// Takes the lock; `false` if a server holds it.
///
/// Who probes holds it shared for a moment, and `comet status` must not make `comet start` fail: if we could have it
/// shared, no server has it, and it is tried again.
fn try_lock(file: &File) -> io::Result<bool> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        match file.try_lock_shared() {
            Ok(()) => file.unlock()?,
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        std::thread::yield_now();
    }
    Err(io::Error::other("other processes keep reading its lock"))
}

fn read_holder(mut file: &File) -> Option<Holder> {
    let mut text = Vec::new();
    Read::by_ref(&mut file)
        .take(MAX_LOCK_FILE)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice(&text).ok()
}

/// Makes a folder and what is missing above it.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        // The umask may have taken away what a front web server needs.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)),
        // Somebody else starts at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// A warning about something that exists and lets in more than `allowed`.
fn too_open(path: &Path, allowed: u32) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & !allowed != 0).then(|| {
        format!(
            "{} is too open (mode {mode:04o}): chmod {:04o} it",
            path.display(),
            mode & allowed
        )
    })
}

fn file_error(path: &Path, source: io::Error) -> DataFolderError {
    DataFolderError::File {
        path: path.to_owned(),
        user: my_name(),
        source,
    }
}

/// The user of this process, by name if it has one.
fn my_name() -> String {
    named(rustix::process::geteuid().as_raw())
}

fn named(uid: u32) -> String {
    platform::user_name(uid).unwrap_or_else(|| format!("uid {uid}"))
}
