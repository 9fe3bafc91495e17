//! The key by which gateways prove that they are the site's own: a file beside the public socket, read with every request.
//!
//! A request may say that it comes through PHP or CGI (`route`), where few may wait; any visitor can write that. Only who can
//! read files on this machine has the key, and that is who can open the socket beside it: it opens no door, it only tells
//! the site's gateways from visitors who pretend to be one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

use crate::plain_file;

/// The header in which a gateway shows it, in lower case.
pub const HEADER: &str = "comet-gateway";

/// Read by whoever may open the socket beside it, which has mode 0666.
const MODE: u32 = 0o644;

/// Random bytes in a key.
const BYTES: usize = 32;

/// The length of a key as it is shown and kept: two hexadecimal digits a byte.
pub const LENGTH: usize = 2 * BYTES;

/// The key in force.
#[derive(Clone, Debug, Default)]
pub struct GatewayKey(Option<Kept>);

/// A key, and where gateways find it.
#[derive(Clone, Debug)]
struct Kept {
    key: [u8; LENGTH],
    path: PathBuf,
}

impl GatewayKey {
    /// Takes the key in the file beside this socket, or makes one where there is none that can be trusted: it survives
    /// restarts, so that gateways which wait meanwhile are known again.
    ///
    /// # Errors
    /// The file cannot be written, or there is no randomness.
    pub fn beside(socket: &Path) -> io::Result<Self> {
        let path = path(socket);
        if let Some(key) = trusted(&path) {
            return Ok(Self(Some(Kept { key, path })));
        }
        let mut random = [0; BYTES];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut key = [0; LENGTH];
        for (pair, byte) in key.chunks_exact_mut(2).zip(random) {
            for (digit, value) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                *digit = b"0123456789abcdef"[usize::from(value)];
            }
        }
        write(&path, &key)?;
        Ok(Self(Some(Kept { key, path })))
    }

    /// Writes the key in force again where its file is gone, or holds something else. Returns whether it had to.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn heal(&self) -> Result<bool, String> {
        let Some(Kept { key, path }) = &self.0 else {
            return Ok(false);
        };
        if trusted(path).as_ref() == Some(key) {
            return Ok(false);
        }
        write(path, key).map_err(|error| {
            format!(
                "{} is missing, and gateways are taken for visitors: {error}: let the server's user write there",
                path.display()
            )
        })?;
        Ok(true)
    }

    /// Whether this is the key. Without a key nothing is.
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0
            .as_ref()
            .is_some_and(|kept| bool::from(kept.key.ct_eq(shown)))
    }
}

/// The file with the key of the server that listens on this socket.
pub fn path(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".key");
    path.into()
}

/// The key of the server that listens on this socket, if there is one that this process may read.
pub fn of(socket: &Path) -> Option<[u8; LENGTH]> {
    open(&path(socket)).and_then(|file| key_in(&file))
}

/// The key in a file that nobody else may have written.
fn trusted(path: &Path) -> Option<[u8; LENGTH]> {
    open(path).filter(is_ours).and_then(|file| key_in(&file))
}

/// Writes a key where it is to be, as a whole.
fn write(path: &Path, key: &[u8]) -> io::Result<()> {
    let mut new = OsString::from(path);
    new.push(".new");
    plain_file::replace(path, Path::new(&new), MODE, &[key, b"\n"].concat())
}

fn open(path: &Path) -> Option<File> {
    plain_file::open(path, OpenOptions::new().read(true)).ok()
}

fn key_in(mut file: &File) -> Option<[u8; LENGTH]> {
    let mut key = [0; LENGTH];
    (file.read_exact(&mut key).is_ok() && key.iter().all(u8::is_ascii_hexdigit)).then_some(key)
}

/// Whether nobody else may have written it. Who may read it can be fewer than [`MODE`] says: somebody had a reason.
fn is_ours(file: &File) -> bool {
    let user = rustix::process::geteuid().as_raw();
    file.metadata()
        .is_ok_and(|metadata| metadata.uid() == user && metadata.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn shown(socket: &Path) -> Vec<u8> {
        fs::read(path(socket)).unwrap().trim_ascii().to_vec()
    }

    #[test]
    fn a_key_survives_and_only_the_whole_key_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("comet.sock");
        let key = GatewayKey::beside(&socket).unwrap();
        let text = shown(&socket);
        assert!(key.is(&text) && GatewayKey::beside(&socket).unwrap().is(&text));
        let mode = fs::metadata(path(&socket)).unwrap().mode();
        assert_eq!(mode & 0o777, MODE, "whatever the umask is");
        fs::set_permissions(path(&socket), Permissions::from_mode(0o640)).unwrap();
        assert!(
            GatewayKey::beside(&socket).unwrap().is(&text),
            "it may be closed to others"
        );
        for other in [&b""[..], &text[1..], &[&text[..], b"0"].concat(), &[b'0'; 64]] {
            assert!(!key.is(other));
        }
        assert!(!GatewayKey::default().is(b"") && !GatewayKey::default().is(&text));
    }

    #[test]
    fn what_others_may_have_put_there_is_not_taken_for_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("comet.sock");
        let path = path(&socket);
        let bad = |make: &dyn Fn()| {
            make();
            let key = GatewayKey::beside(&socket).unwrap();
            assert!(key.is(&shown(&socket)) && !key.is(&[b'a'; 64]));
            fs::remove_file(&path).unwrap();
        };
        bad(&|| fs::write(&path, "short").unwrap());
        bad(&|| {
            fs::write(&path, [b'a'; 64]).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        });
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, [b'a'; 64]).unwrap();
        bad(&|| std::os::unix::fs::symlink(&elsewhere, &path).unwrap());
        assert_eq!(
            fs::read(&elsewhere).unwrap(),
            [b'a'; 64],
            "a link is replaced, not followed"
        );
        bad(&|| {
            let fifo = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(fifo.unwrap().success());
        });
    }
}
