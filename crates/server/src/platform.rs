//! What differs between Linux and macOS, or needs the C library: the only module with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod daemon;
mod heap;
mod inherited;
mod memory;
mod names;
mod owner;
mod sockets;
mod usage;

pub use daemon::{detach, redirect_std};
pub use heap::give_back_large_buffers;
pub use inherited::{InheritedListener, Listener, inherited_listeners};
pub use memory::available_memory;
pub use names::{group_id, group_name, host_name, user_name};
pub use owner::{mark, marked_by};
pub use sockets::{PeerCredentials, bound_silence, bound_unsent, peer_credentials, unsent_bytes};
pub use usage::{ProcessUsage, open_descriptors, process_usage, thread_time};

/// The longest path of a Unix socket in bytes: `sun_path` without its closing NUL.
pub const MAX_SOCKET_PATH: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

/// The listen backlog where the system does not tell its maximum. Linux has this default since 5.4.
const DEFAULT_BACKLOG: u32 = 4096;

/// The most descriptors that macOS lets `setrlimit` ask for, whatever the hard limit says (`OPEN_MAX`).
const MACOS_OPEN_MAX: u64 = 10_240;

/// How many descriptors this process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// What holds now.
    pub soft: u64,
    /// How far it could be raised without being root; `u64::MAX` for no bound.
    pub hard: u64,
}

impl DescriptorLimit {
    /// What [`raise_descriptor_limit`] would make of it.
    pub fn raised(self) -> u64 {
        let most = if cfg!(target_os = "macos") {
            self.hard.min(MACOS_OPEN_MAX)
        } else {
            self.hard
        };
        self.soft.max(most)
    }
}

/// The limit on open descriptors as it is.
pub fn descriptor_limit() -> DescriptorLimit {
    let limit = getrlimit(Resource::Nofile);
    DescriptorLimit {
        soft: limit.current.unwrap_or(u64::MAX),
        hard: limit.maximum.unwrap_or(u64::MAX),
    }
}

/// Raises the limit on open descriptors as far as it goes and returns what holds then.
///
/// # Errors
/// Whatever the system says; the old limit holds.
pub fn raise_descriptor_limit() -> io::Result<DescriptorLimit> {
    let mut limit = descriptor_limit();
    let wanted = limit.raised();
    if limit.soft < wanted {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(wanted),
                maximum: getrlimit(Resource::Nofile).maximum,
            },
        )?;
        limit.soft = wanted;
    }
    Ok(limit)
}

/// Has a file that would grow beyond `ulimit -f` fail with EFBIG, as on a full disk, instead of ending the process (SIGXFSZ).
pub fn ignore_file_size_signal() {
    // SAFETY: no pointer but a constant of the system is passed, and no code of ours runs when the signal comes.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// The longest queue of connections not yet accepted that the system grants a listener.
pub fn max_backlog() -> u32 {
    let told = std::fs::read_to_string(Path::new("/proc/sys/net/core/somaxconn"));
    told.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_BACKLOG)
}

/// How many threads can run at the same time, with CPU masks and container quotas counted; at least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether a system call's answer, -1 for an error, is one.
fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_one() {
        let limit = raise_descriptor_limit().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(u64::MAX), limit.soft);
        assert_eq!(now.maximum.unwrap_or(u64::MAX), limit.hard);
        if cfg!(target_os = "linux") {
            assert_eq!(limit.soft, limit.hard);
        }
    }

    #[test]
    fn there_is_a_backlog_and_a_core() {
        assert!(max_backlog() >= 1);
        assert!(cores() >= 1);
    }
}
