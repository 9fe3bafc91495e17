//! Plain files of ours at names that everybody knows, where others who may write in the folder could have put a link.
//!
//! Nothing here follows a link, waits for a FIFO, or writes through a name to a file that is not ours.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens the file itself, with these options.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if there is a link or anything else that is no plain file; it was not touched. Others as the
/// system says.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        // Some systems say the latter of a link.
        Some(Errno::LOOP | Errno::MLINK) => not_plain("a link, which is not followed"),
        // A FIFO that nobody reads, or a socket.
        Some(Errno::NXIO) => not_plain("no plain file"),
        _ => error,
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(not_plain("no plain file")),
    }
}

/// Puts a file in its place as a whole, with this mode whatever the umask says: who reads meanwhile has the old one or the new
/// one. A link in its place goes, and what it leads to stays as it is.
///
/// `temporary` is a name of ours in the same folder; what a crash has left there goes.
///
/// # Errors
/// As the system says. The old file is still there.
pub fn replace(path: &Path, temporary: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    // Whatever somebody puts there just now is not opened.
    let mut file = options.write(true).create_new(true).mode(0o600).open(temporary)?;
    let written = file
        .write_all(content)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written
}

fn not_plain(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("there is {what}: remove it"))
}

/// Is there only no room? Then there may be some again.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_no_plain_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let [path, target] = ["ours", "theirs"].map(|name| folder.path().join(name));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        let refused = |what: &str| {
            let error = open(&path, &mut options.clone()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{what}: {error}");
            let ways = [
                OpenOptions::new().read(true).clone(),
                OpenOptions::new().append(true).clone(),
            ];
            for mut way in ways {
                assert!(open(&path, &mut way).is_err(), "{what}");
            }
            fs::remove_file(&path).unwrap();
        };
        // One that leads nowhere must not make what it names either.
        symlink(&target, &path).unwrap();
        refused("a link to nothing");
        assert!(!target.exists());
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        refused("a link");
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        let fifo = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(fifo.unwrap().success());
        refused("a FIFO");
        let _socket = UnixListener::bind(&path).unwrap();
        refused("a socket");
        open(&path, &mut options.clone()).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whatever_stands_there_and_nothing_is_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let [path, temporary, target] = ["ours", "ours.tmp", "theirs"].map(|name| folder.path().join(name));
        fs::write(&target, "precious").unwrap();
        for place in [&path, &temporary] {
            symlink(&target, place).unwrap();
            replace(&path, &temporary, 0o644, b"new").unwrap();
            fs::remove_file(&path).unwrap();
            fs::hard_link(&target, place).unwrap();
            replace(&path, &temporary, 0o640, b"new").unwrap();
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        let made = fs::symlink_metadata(&path).unwrap();
        assert!(made.is_file() && made.permissions().mode() & 0o777 == 0o640);
        assert!(!temporary.exists());
    }
}
