//! Who has marked a file: a process id at the kernel's word, never at a file's.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use super::check;

/// Marks a file, or a folder that is opened for reading, as this process's.
///
/// The mark goes with the process, and before that when it closes any descriptor of the same file: it only says who, and locks
/// nothing that we would rely on. Marking again is harmless.
///
/// # Errors
/// Whatever the system says, such as that this file system has no such marks.
pub fn mark(file: &File) -> io::Result<()> {
    let mut lock = whole_file(libc::F_RDLCK as libc::c_short);
    // SAFETY: the descriptor is open, and the lock is a whole and valid one that lives until the call returns.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw mut lock) }).map(drop)
}

/// The process that has marked the file, by the number that it has for us; `None` if there is none, or we cannot see it.
///
/// # Errors
/// Whatever the system says.
pub fn marked_by(file: &File) -> io::Result<Option<u32>> {
    let mut lock = whole_file(libc::F_WRLCK as libc::c_short);
    // SAFETY: as above; the kernel writes into the lock what is in its way.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) })?;
    let is_marked = lock.l_type != libc::F_UNLCK as libc::c_short;
    Ok(u32::try_from(lock.l_pid).ok().filter(|pid| is_marked && *pid > 0))
}

fn whole_file(kind: libc::c_short) -> libc::flock {
    // SAFETY: numbers only, for all of which zero is a value.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = kind;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_of_ones_own_is_in_nobodys_way_and_a_folder_can_have_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap();
        for path in [folder.path(), &path] {
            let file = File::open(path).unwrap();
            mark(&file).unwrap();
            mark(&file).unwrap();
            assert_eq!(marked_by(&file).unwrap(), None);
        }
    }
}
