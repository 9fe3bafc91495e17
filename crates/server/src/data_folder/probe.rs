//! Whether a server answers, judged by its socket and its lock, never by a process id.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Holder, check_socket_path, holder, my_name, named};

/// What is behind a socket path.
#[derive(Debug)]
pub enum Probe {
    /// Somebody listens.
    Answers,
    /// No server: there is no socket, or nobody listens on it and the lock is free.
    NotRunning,
    /// The lock is held, yet nobody listens: a server that is starting, ending, or uses another socket.
    LockedButSilent {
        /// Who holds the lock, if it says so.
        holder: Option<Holder>,
    },
    /// There is something, but not for us. Start nothing.
    Denied {
        /// The user to whom the socket belongs; `None` if a folder above hides even that.
        owner: Option<String>,
        /// The user of this process.
        me: String,
    },
    /// Neither, for a reason that the error names.
    Other(io::Error),
}

/// Looks, without changing anything, whether a server answers on `socket` or holds `folder`.
pub fn probe(socket: &Path, folder: &Path) -> Probe {
    if let Err(error) = check_socket_path(socket) {
        return Probe::Other(io::Error::new(io::ErrorKind::InvalidInput, error.to_string()));
    }
    match connect(socket) {
        Ok(()) => Probe::Answers,
        Err(error) => judge(error, socket, holder(folder)),
    }
}

/// Whether somebody listens. Never waits: a full backlog is an answer, too.
pub(super) fn connect(socket: &Path) -> io::Result<()> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_nonblocking(true)?;
    match stream.connect(&SockAddr::unix(socket)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        answer => answer,
    }
}

/// What a failed connect means beside the state of the lock.
fn judge(error: io::Error, socket: &Path, lock: io::Result<Option<Option<Holder>>>) -> Probe {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match (error.kind(), lock) {
        (PermissionDenied, _) => Probe::Denied {
            owner: socket.metadata().ok().map(|metadata| named(metadata.uid())),
            me: my_name(),
        },
        (NotFound | ConnectionRefused, Ok(Some(holder))) => Probe::LockedButSilent { holder },
        (NotFound, _) | (ConnectionRefused, Ok(None)) => Probe::NotRunning,
        // A socket that nobody listens on, and a lock that we may not look at: saying "not running" would be a guess.
        (ConnectionRefused, Err(error)) => Probe::Other(error),
        _ => Probe::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(error: io::ErrorKind, lock: io::Result<Option<Option<Holder>>>) -> String {
        let judged = judge(error.into(), Path::new("/"), lock);
        format!("{judged:?}").split([' ', '(']).next().unwrap().to_owned()
    }

    #[test]
    fn only_a_missing_socket_or_a_refusal_beside_a_free_lock_means_not_running() {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, TimedOut};
        let unreadable = || Err(PermissionDenied.into());
        assert_eq!(judged(NotFound, Ok(None)), "NotRunning");
        assert_eq!(judged(NotFound, unreadable()), "NotRunning");
        assert_eq!(judged(ConnectionRefused, Ok(None)), "NotRunning");
        assert_eq!(judged(ConnectionRefused, unreadable()), "Other");
        assert_eq!(judged(NotFound, Ok(Some(None))), "LockedButSilent");
        assert_eq!(judged(ConnectionRefused, Ok(Some(None))), "LockedButSilent");
        assert_eq!(judged(PermissionDenied, Ok(None)), "Denied");
        assert_eq!(judged(TimedOut, Ok(None)), "Other");
    }

    #[test]
    fn a_denial_names_both_users() {
        let Probe::Denied { owner, me } =
            judge(io::ErrorKind::PermissionDenied.into(), Path::new("/"), Ok(None))
        else {
            panic!("expected a denial");
        };
        assert_eq!((owner.as_deref(), me), (Some("root"), my_name()));
    }
}
