//! Becoming a daemon: nothing of the caller's may stay with us.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{chdir, setsid, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Files for us and our group; what others may reach gets its mode explicitly.
const UMASK: Mode = Mode::from_raw_mode(0o027);

/// How far descriptors are tried one by one where the system does not list them.
const UNLISTED_DESCRIPTORS: RawFd = 65_536;

/// Leaves the caller: own session, working directory `folder`, no descriptor above 2 but those in `keep`.
///
/// Without this a server that a PHP worker started keeps the pool's listener and the visitor's connection open. To be
/// called first thing in a fresh process with one thread: a descriptor that is closed here must belong to nobody.
///
/// # Errors
/// Whatever the system says about the session or the folder; the descriptors may be closed already.
pub fn detach(keep: &[RawFd], folder: &Path) -> io::Result<()> {
    // Who leads a group may not make a session: then it is one that `setsid` made already. Asking for the session we are in
    // would not do: in a container it may be one of the outside, which has no number here.
    match setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    for fd in open_descriptors() {
        if fd > 2 && !keep.contains(&fd) {
            // SAFETY: no pointer is passed; that nobody in this process owns the descriptor is the contract above.
            // One that is not open answers EBADF, which is as good.
            unsafe { libc::close(fd) };
        }
    }
    umask(UMASK);
    Ok(chdir(folder)?)
}

/// Points standard input at nothing, and both outputs at `log`, or at nothing without it.
///
/// # Errors
/// Whatever the system says about `/dev/null` or the duplication.
pub fn redirect_std(log: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let out = log.unwrap_or(null.as_fd());
    dup2_stdin(&null)?;
    dup2_stdout(out)?;
    Ok(dup2_stderr(out)?)
}

/// The open descriptors, with the one that lists them (closed again on return); a plain range if nobody lists them.
fn open_descriptors() -> Vec<RawFd> {
    let folder = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
        Err(_) => (3..UNLISTED_DESCRIPTORS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use rustix::io::{FdFlags, fcntl_setfd};
    use rustix::process::{getpid, getsid};

    use super::*;

    /// Set in the process that plays the daemon: two descriptors, one to keep and one to lose, and the folder.
    const ROLE: &str = "DETACH_TEST";

    /// Not a test by itself: the next one runs this very test binary again with `ROLE` set.
    #[test]
    fn as_a_daemon() {
        let Ok(role) = std::env::var(ROLE) else { return };
        let (keep, folder) = role.split_once(' ').unwrap();
        let keep: RawFd = keep.parse().unwrap();
        redirect_std(None).unwrap();
        detach(&[keep], Path::new(folder)).unwrap();
        let mut open = open_descriptors();
        open.retain(|fd| *fd > 2 && rustix::io::fcntl_getfd(borrow(*fd)).is_ok());
        let own = getsid(None).unwrap() == getpid();
        let here = std::env::current_dir().unwrap();
        let mask = umask(UMASK).as_raw_mode();
        // SAFETY: the descriptor was inherited for exactly this, and nobody else in this process knows it.
        let mut out = unsafe { File::from_raw_fd(keep) };
        io::Write::write_all(
            &mut out,
            format!("{open:?} {own} {mask:o} {}", here.display()).as_bytes(),
        )
        .unwrap();
        drop(out);
        std::process::exit(0);
    }

    fn borrow(fd: RawFd) -> BorrowedFd<'static> {
        // SAFETY: only asked whether it is open; 0 or more as it was listed.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Runs `as_a_daemon` with this command, and checks what it tells.
    fn keeps_only_what_it_was_told_to(mut command: Command) {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (mut kept, theirs) = UnixStream::pair().unwrap();
        let (mut lost, lost_there) = UnixStream::pair().unwrap();
        for fd in [&theirs, &lost_there] {
            fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        let mut daemon = command
            .args(["--exact", "platform::daemon::tests::as_a_daemon", "--nocapture"])
            .env(ROLE, format!("{} {}", theirs.as_raw_fd(), folder.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keep = theirs.as_raw_fd();
        drop((theirs, lost_there));

        let mut told = String::new();
        kept.read_to_string(&mut told).unwrap();
        assert_eq!(told, format!("[{keep}] true 27 {}", folder.display()));
        assert_eq!(lost.read(&mut [0]).unwrap(), 0);
        assert!(daemon.wait().unwrap().success());
    }

    #[test]
    fn a_daemon_keeps_only_what_it_was_told_to_and_nothing_of_the_callers() {
        keeps_only_what_it_was_told_to(Command::new(std::env::current_exe().unwrap()));
    }

    /// As in a container: the session that it is started in belongs to processes outside, and has the number 0 inside.
    #[test]
    fn a_daemon_leaves_a_session_that_has_no_number_here() {
        let inside = || {
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--mount-proc"]);
            command
        };
        if !inside()
            .arg("true")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            eprintln!("not tested: nobody here may make a process namespace");
            return;
        }
        let mut command = inside();
        command.arg(std::env::current_exe().unwrap());
        keeps_only_what_it_was_told_to(command);
    }
}
