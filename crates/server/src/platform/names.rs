//! Names of users, groups and this machine.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

/// The first buffer for an entry of the user or group database; doubled as long as it is too small.
const FIRST_BUFFER: usize = 1 << 10;

/// A group with more than this in its entry is not looked up.
const LAST_BUFFER: usize = 1 << 20;

/// The name of a user; `None` if the database does not know it, as is common in containers.
pub fn user_name(uid: u32) -> Option<String> {
    look_up(
        |entry: *mut libc::passwd, buffer, size, found| {
            // SAFETY: all four come from `look_up`, which owns them for the call.
            unsafe { libc::getpwuid_r(uid, entry, buffer, size, found) }
        },
        |entry| owned(entry.pw_name),
    )
    .ok()?
}

/// The name of a group; `None` if the database does not know it.
pub fn group_name(gid: u32) -> Option<String> {
    look_up(
        |entry: *mut libc::group, buffer, size, found| {
            // SAFETY: all four come from `look_up`, which owns them for the call.
            unsafe { libc::getgrgid_r(gid, entry, buffer, size, found) }
        },
        |entry| owned(entry.gr_name),
    )
    .ok()?
}

/// The number of a group, given as a name or as the number itself; `None` if there is no such name.
///
/// # Errors
/// The database cannot be read.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    look_up(
        |entry: *mut libc::group, buffer, size, found| {
            // SAFETY: all four come from `look_up`, which owns them for the call; `name` outlives it and ends in NUL.
            unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, size, found) }
        },
        |entry| entry.gr_gid,
    )
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Calls one of the `get…_r` functions with a buffer that is large enough, and reads the entry while it is valid.
fn look_up<E, T>(
    call: impl Fn(*mut E, *mut libc::c_char, libc::size_t, *mut *mut E) -> libc::c_int,
    read: impl FnOnce(&E) -> T,
) -> io::Result<Option<T>> {
    let mut size = FIRST_BUFFER;
    loop {
        let mut buffer: Vec<libc::c_char> = vec![0; size];
        let (mut entry, mut found) = (MaybeUninit::<E>::uninit(), std::ptr::null_mut());
        match call(
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        ) {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the call succeeded and found points at `entry`, which it has filled; the strings in it lie in
            // `buffer`, which lives until after `read`.
            0 => return Ok(Some(read(unsafe { &*found }))),
            libc::ERANGE if size < LAST_BUFFER => size *= 2,
            libc::EINTR => {}
            // POSIX leaves it open how "not found" is told; these are what the C libraries use.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn owned(name: *const libc::c_char) -> String {
    // SAFETY: only called from `look_up`'s `read`, with a name of an entry that the C library filled: a string that
    // ends in NUL and outlives this call.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_its_group_a_number() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        let group = group_name(0).unwrap();
        assert_eq!(group_id(&group).unwrap(), Some(0));
    }

    #[test]
    fn who_does_not_exist_has_no_name_and_a_number_needs_none() {
        assert_eq!(user_name(4_000_000_001), None);
        assert_eq!(group_name(4_000_000_001), None);
        assert_eq!(group_id("no-such-group-here").unwrap(), None);
        assert_eq!(group_id("4000000001").unwrap(), Some(4_000_000_001));
    }

    #[test]
    fn the_machine_has_a_name() {
        assert!(!host_name().is_empty());
    }
}
