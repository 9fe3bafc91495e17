//! What others tidy away under a running server (sockets, the lock, the whole folder): noticed, said, and put there again.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::{Interest, Token};

use super::{FIRST_LISTENER, Server};
use crate::data_folder::{DataFolderError, Kept, Lock, check_socket_path};
use crate::listener::Listener;

/// How often it is looked: cleaners come once a day, and who finds no socket tries again for some seconds.
const LOOKED_EVERY: Duration = Duration::from_secs(5);

/// How often it is said, at most, how many connections were ended at `limits.memory`.
const ENDED_EVERY: Duration = Duration::from_secs(60);

/// A socket that this server made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) group: Option<u32>,
    /// Which listener it is.
    pub(super) listener: usize,
    /// Device and number of what it bound.
    identity: Option<(u64, u64)>,
}

impl Made {
    /// The socket that was bound at the path just now.
    pub(super) fn new(path: PathBuf, mode: u32, group: Option<u32>, listener: usize) -> Self {
        let identity = identity(&path);
        Self {
            path,
            mode,
            group,
            listener,
            identity,
        }
    }

    /// Leads its path elsewhere, or nowhere?
    pub(super) fn is_missing(&self) -> bool {
        identity(&self.path) != self.identity
    }

    /// Binds it again. Nobody sees it before it listens.
    fn bind(&mut self, lock: &Lock) -> Result<Listener, String> {
        let text = |error: DataFolderError| error.to_string();
        lock.remove_stale_socket(&self.path).map_err(text)?;
        let hidden = hidden(&self.path).filter(|path| check_socket_path(path).is_ok());
        let bound = match hidden {
            Some(hidden) => {
                lock.remove_stale_socket(&hidden).map_err(text)?;
                Listener::unix(&hidden, self.mode, self.group)
                    .and_then(|listener| std::fs::rename(&hidden, &self.path).map(|()| listener))
            }
            None => Listener::unix(&self.path, self.mode, self.group),
        };
        let listener = bound.map_err(|error: io::Error| error.to_string())?;
        self.identity = identity(&self.path);
        Ok(listener)
    }
}

/// Device and number of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// A name beside the socket's for the time until it listens.
fn hidden(path: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name()?);
    Some(path.with_file_name(name))
}

/// When it was looked last, and what was said of it.
#[derive(Debug)]
pub(super) struct Healing {
    looked: Instant,
    /// What could not be put right, so that it is said once.
    said: Option<String>,
    /// When it was last said that connections were ended at the ceiling.
    ended: Option<Instant>,
}

impl Healing {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked: now,
            said: None,
            ended: None,
        }
    }

    /// When it is looked next.
    pub(super) fn due(&self) -> Instant {
        self.looked + LOOKED_EVERY
    }
}

impl Server {
    /// Looks whether everything is where it belongs, and puts there again what can be.
    pub(super) fn heal(&mut self) {
        self.healing.looked = Instant::now();
        self.tell_ended();
        if self.draining_until.is_some() {
            return;
        }
        let trouble = self.heal_folder().and_then(|is_there| match is_there {
            true => self.heal_sockets().and_then(|()| self.heal_key()),
            false => Ok(()),
        });
        if let Err(trouble) = &trouble
            && self.healing.said.as_ref() != Some(trouble)
        {
            tracing::error!("{trouble}");
        }
        self.healing.said = trouble.err();
    }

    /// Says how many connections were ended at the ceiling: each has a line of its own only where that is asked for.
    fn tell_ended(&mut self) {
        let now = self.healing.looked;
        if self.healing.ended.is_some_and(|at| now < at + ENDED_EVERY) {
            return;
        }
        let connections = self.shared.memory.take_ended();
        if connections > 0 {
            self.healing.ended = Some(now);
            tracing::warn!(
                connections,
                "connections were ended, as visitors make the server hold more than limits.memory allows"
            );
        }
    }

    /// Is the folder there?
    fn heal_folder(&mut self) -> Result<bool, String> {
        let kept = self.lock.keep().map_err(|error| error.to_string())?;
        if kept == Kept::Gone {
            let folder = self.shared.settings().config.data_dir.display().to_string();
            self.shared.trouble.folder_is_gone(&folder);
            return Ok(false);
        }
        if kept == Kept::Restored {
            tracing::warn!("files of the data folder had been removed: they are there again");
        }
        self.shared.trouble.folder_is_there();
        Ok(true)
    }

    /// Gateways read their key with every request.
    fn heal_key(&self) -> Result<(), String> {
        if self.shared.gateway_key.heal()? {
            tracing::warn!("the gateways' key had been removed: it is there again");
        }
        Ok(())
    }

    fn heal_sockets(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        // Who waits at a socket came in before it was removed, and is let in before it is closed.
        for listener in self.sockets.missing() {
            self.accept(listener);
        }
        for made in self.sockets.made().filter(|made| made.is_missing()) {
            let bound = made.bind(&self.lock).and_then(|mut listener| {
                let token = Token(FIRST_LISTENER + made.listener);
                let registry = self.poll.registry();
                let watched = registry.register(listener.source(), token, Interest::READABLE);
                watched.map(|()| listener).map_err(|error| error.to_string())
            });
            match bound {
                Ok(listener) => {
                    tracing::warn!(socket = %made.path.display(), "the socket had been removed: it is there again");
                    self.listeners[made.listener] = Some(listener);
                }
                Err(why) => result = Err(format!("the socket {} is missing: {why}", made.path.display())),
            }
        }
        result
    }
}
