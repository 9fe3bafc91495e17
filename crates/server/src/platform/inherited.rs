//! Listeners that somebody opened for us: systemd's socket activation.
//!
//! Spec: sd_listen_fds(3).

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, getsockname, sockopt};

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// More is a mistake in the variable, not a service.
const MOST: usize = 1024;

/// Whether the descriptors have been taken: they can have one owner only.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A listener that was passed to us.
#[derive(Debug)]
pub struct InheritedListener {
    /// What `FileDescriptorName=` calls it; empty if it has no name.
    pub name: String,
    /// The listener; blocking or not as it was opened, closed on exec.
    pub listener: Listener,
}

/// A listener of either kind.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// Takes the listeners that were passed to this process, in order; none if the variables name another process.
///
/// Only the first call gets them. To be called before anything is opened: the descriptors from 3 on are taken at the
/// variables' word.
///
/// # Errors
/// `InvalidInput` with the variable's value if it makes no sense, or if a descriptor is not an open stream listener.
pub fn inherited_listeners() -> io::Result<Vec<InheritedListener>> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let names = match passed(
        &variable("LISTEN_PID"),
        &variable("LISTEN_FDS"),
        &variable("LISTEN_FDNAMES"),
        std::process::id(),
    ) {
        Ok(names) if names.is_empty() || TAKEN.swap(true, Ordering::SeqCst) => return Ok(Vec::new()),
        Ok(names) => names,
        Err(problem) => return Err(io::Error::new(io::ErrorKind::InvalidInput, problem)),
    };
    let mut listeners = Vec::with_capacity(names.len());
    for (fd, name) in (FIRST..).zip(names) {
        listeners.push(InheritedListener {
            name,
            listener: take(fd)?,
        });
    }
    Ok(listeners)
}

/// The names of the descriptors that are passed to process `me`, one for each.
fn passed(pid: &str, count: &str, names: &str, me: u32) -> Result<Vec<String>, String> {
    if pid.parse() != Ok(me) || count.is_empty() {
        return Ok(Vec::new());
    }
    let number = count.parse().ok().filter(|number| *number <= MOST);
    let number = number.ok_or_else(|| format!("LISTEN_FDS {count:?}: expected a number up to {MOST}"))?;
    let names = names
        .split(':')
        .map(str::to_owned)
        .chain(std::iter::repeat(String::new()));
    Ok(names.take(number).collect())
}

fn take(fd: RawFd) -> io::Result<Listener> {
    let refused = |problem: &str| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {fd} of LISTEN_FDS: {problem}"),
        )
    };
    // SAFETY: `fd` is 3 or more, never -1; `TAKEN` sees to it that it is taken once. That it was opened for us is the
    // protocol's promise; whether it is open at all is asked next, and only an open one is closed on drop.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if fcntl_getfd(&owned).is_err() {
        std::mem::forget(owned);
        return Err(refused("is not open"));
    }
    if !listens(&owned) {
        return Err(refused("expected a listening stream socket"));
    }
    fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
    let family = getsockname(&owned)?.address_family();
    match family {
        AddressFamily::UNIX => Ok(Listener::Unix(owned.into())),
        AddressFamily::INET | AddressFamily::INET6 => Ok(Listener::Tcp(owned.into())),
        _ => Err(refused("expected a TCP or Unix socket")),
    }
}

#[cfg(not(target_os = "macos"))]
fn listens(socket: &OwnedFd) -> bool {
    matches!(sockopt::socket_acceptconn(socket), Ok(true))
}

/// macOS does not tell whether a socket listens: a stream socket without a peer has to do.
#[cfg(target_os = "macos")]
fn listens(socket: &OwnedFd) -> bool {
    matches!(sockopt::socket_type(socket), Ok(rustix::net::SocketType::STREAM))
        && rustix::net::getpeername(socket).is_err()
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn only_the_process_that_is_named_is_passed_anything() {
        assert_eq!(passed("7", "2", "a", 7), Ok(vec!["a".to_owned(), String::new()]));
        assert_eq!(passed("7", "1", "a:b", 7), Ok(vec!["a".to_owned()]));
        for (pid, count) in [("8", "2"), ("", "2"), ("x", "2"), ("7", ""), ("7", "0")] {
            assert_eq!(passed(pid, count, "", 7), Ok(vec![]), "{pid} {count}");
        }
        assert_eq!(
            passed("7", "-1", "", 7),
            Err("LISTEN_FDS \"-1\": expected a number up to 1024".into())
        );
        assert_eq!(
            passed("7", "1025", "", 7),
            Err("LISTEN_FDS \"1025\": expected a number up to 1024".into())
        );
    }

    #[test]
    fn a_listener_is_taken_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let unix = UnixListener::bind(folder.path().join("a.sock")).unwrap();
        assert!(
            matches!(take(tcp.into_raw_fd()).unwrap(), Listener::Tcp(tcp) if tcp.local_addr().unwrap() == address)
        );
        assert!(matches!(take(unix.into_raw_fd()).unwrap(), Listener::Unix(_)));
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let file = tempfile::tempfile().unwrap().into_raw_fd();
        let error = take(file).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("descriptor {file} of LISTEN_FDS: expected a listening stream socket")
        );
        let error = take(1_000_000_000).unwrap_err().to_string();
        assert_eq!(error, "descriptor 1000000000 of LISTEN_FDS: is not open");
    }
}
