//! Where the server is, and what to do if it is not running.
//!
//! Without reading the server's configuration: it costs time and memory for every visitor, and may not be ours to read.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::config::default_data_dir;
use crate::{gateway_key, plain_file};

/// The files beside the program that may name the data folder, the first that is there: web servers clear the environment.
///
/// One that PHP would run shows nothing to visitors, on web servers too that read no `.htaccess`.
const FILES: [&str; 2] = ["comet-data.php", "comet-data"];

/// What begins the line that stops PHP there.
const PHP: &str = "<?php";

/// The largest such file that is read.
const MAX_FILE: u64 = 4 << 10;

/// How long a visitor waits for a server that is being started.
const START_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// For how long a failed start is remembered: a broken host must not start a process for every visitor.
const REMEMBER: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    socket: PathBuf,
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    start: bool,
    program: Option<PathBuf>,
}

impl Place {
    /// Looks in the environment, then in the file `comet-data.php` or `comet-data` beside the program, then where a server is by itself.
    ///
    /// The file's first line, behind one for PHP, is the data folder (relative: to the file's own). Lines after it: `start` (start the
    /// server if it is not running), `config=PATH` (with this configuration), `socket=PATH` (the public socket, if elsewhere).
    pub fn find(env: impl Fn(&str) -> Option<OsString>, program: Option<&Path>) -> Self {
        let variable = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut place = Self {
            socket: PathBuf::new(),
            data: variable("COMETSERVER_DATA_DIR"),
            config: variable("COMETSERVER_CONFIG"),
            start: variable("COMETSERVER_CGI_START").is_some_and(|value| value.as_os_str() == "1"),
            program: program.map(Path::to_owned),
        };
        let mut socket = variable("COMETSERVER_PUBLIC_SOCKET");
        if place.data.is_none()
            && socket.is_none()
            && let Some(folder) = program.and_then(Path::parent)
            && let Some(text) = FILES.iter().find_map(|name| read(&folder.join(name)))
        {
            let lines = text.lines().map(str::trim);
            let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with(PHP));
            place.data = lines.next().map(|line| folder.join(line));
            for line in lines {
                match line.split_once('=') {
                    Some(("config", path)) => place.config = Some(folder.join(path.trim())),
                    Some(("socket", path)) => socket = Some(folder.join(path.trim())),
                    _ if line == "start" => place.start = true,
                    _ => {}
                }
            }
        }
        let data = place.data.get_or_insert_with(|| {
            let is_root = rustix::process::geteuid().is_root();
            default_data_dir(is_root, variable("XDG_STATE_HOME"), variable("HOME")).unwrap_or_default()
        });
        place.socket = socket.unwrap_or_else(|| data.join("public/comet.sock"));
        place
    }

    /// Connects to the server's public socket, and starts the server before if it was told to.
    ///
    /// # Errors
    /// Why not, for the visitor: without names of folders.
    pub(super) fn connect(&self) -> Result<UnixStream, String> {
        let error = match UnixStream::connect(&self.socket) {
            Ok(server) => return Ok(server),
            Err(error) => error,
        };
        // Nobody listens, or there is no socket. Anything else another server would not cure.
        let is_stopped = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        );
        match (is_stopped, self.start) {
            (true, true) => self.started(),
            (true, false) => Err("the server is not running".into()),
            (false, _) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err("the server's public socket is not open to the web server's user".into())
            }
            (false, _) if error.kind() == io::ErrorKind::WouldBlock => Err("the server is busy".into()),
            (false, _) => Err(format!("the server cannot be reached: {}", error.kind())),
        }
    }

    /// The key beside that socket, if there is one; see [`crate::gateway_key`].
    pub(super) fn key(&self) -> Option<[u8; gateway_key::LENGTH]> {
        gateway_key::of(&self.socket)
    }

    /// The first who comes starts it; the others wait for that.
    fn started(&self) -> Result<UnixStream, String> {
        let path = self.data.as_deref().unwrap_or(Path::new("")).join("gateway.lock");
        let mut options = OpenOptions::new();
        let lock = plain_file::open(&path, options.append(true).create(true).mode(0o600));
        let lock = match lock {
            Ok(lock) => Some(lock),
            // The start makes the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => return Err("the data folder cannot be written to by the web server's user".into()),
        };
        if lock.as_ref().is_some_and(has_failed) {
            return Err(
                "the server could not be started a moment ago: see comet.log in the data folder".into(),
            );
        }
        let is_first = lock.as_ref().is_none_or(|lock| lock.try_lock().is_ok());
        if is_first && UnixStream::connect(&self.socket).is_err() {
            let began = self.start_server();
            if !began {
                if let Some(mut lock) = lock.as_ref() {
                    // Its time is what counts; without it the next visitor tries again.
                    let _ = io::Write::write_all(&mut lock, b"failed\n");
                }
                return Err("the server could not be started: see comet.log in the data folder".into());
            }
            if let Some(lock) = &lock {
                let _ = lock.set_len(0);
            }
        }
        let end = Instant::now() + START_LIMIT;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(server) => return Ok(server),
                Err(_) if Instant::now() > end => return Err("the server is being started".into()),
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Runs `comet start`, with nothing of the visitor's in its environment.
    fn start_server(&self) -> bool {
        let (Some(program), Some(data)) = (&self.program, &self.data) else {
            return false;
        };
        let mut command = Command::new(program);
        command.arg("start").arg("--data-dir").arg(data);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        let kept = ["HOME", "PATH", "XDG_STATE_HOME"];
        let kept = kept
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command
            .env_clear()
            .envs(kept)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// Did a start fail a moment ago?
fn has_failed(lock: &File) -> bool {
    let Ok(metadata) = lock.metadata() else {
        return false;
    };
    let age = metadata
        .modified()
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    metadata.len() > 0 && age.is_some_and(|age| age < REMEMBER)
}

fn read(path: &Path) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    if size > MAX_FILE {
        return None;
    }
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(env: &[(&str, &str)], program: Option<&Path>) -> Place {
        let get = |name: &str| {
            let found = env.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Place::find(get, program)
    }

    #[test]
    fn the_environment_counts_before_the_file_beside_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("comet");
        fs::write(
            folder.path().join("comet-data"),
            "../data\n\nstart\nconfig=/etc/comet.toml\nnonsense\n",
        )
        .unwrap();
        let place = find(&[], Some(&program));
        assert_eq!(place.socket, folder.path().join("../data/public/comet.sock"));
        assert!(place.start);
        assert_eq!(place.config.as_deref(), Some(Path::new("/etc/comet.toml")));
        fs::write(
            folder.path().join("comet-data.php"),
            "<?php __halt_compiler();\n/var/lib/secret-place\n",
        )
        .unwrap();
        let place = find(&[], Some(&program));
        assert_eq!(place.socket, Path::new("/var/lib/secret-place/public/comet.sock"));
        assert!(!place.start, "the other file is an older one");
        let named = find(&[("COMETSERVER_DATA_DIR", "/srv/comet")], Some(&program));
        assert_eq!(named.socket, Path::new("/srv/comet/public/comet.sock"));
        assert!(!named.start);
        let socket = find(&[("COMETSERVER_PUBLIC_SOCKET", "/run/p.sock")], Some(&program));
        assert_eq!(socket.socket, Path::new("/run/p.sock"));
    }

    #[test]
    fn who_is_told_nothing_looks_where_a_server_is_by_itself() {
        let place = find(&[("HOME", "/home/anna"), ("COMETSERVER_DATA_DIR", "")], None);
        let expected = match rustix::process::geteuid().is_root() {
            true => "/var/lib/cometserver/public/comet.sock",
            false => "/home/anna/.local/state/cometserver/public/comet.sock",
        };
        assert_eq!(place.socket, Path::new(expected));
    }
}
