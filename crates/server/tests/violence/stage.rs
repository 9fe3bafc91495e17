//! The real binary, killed and started again on one data folder and one port.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::chance::Chance;
use super::scene::Scene;
use super::wire::{Door, Http};

/// No start takes so long, however much has to be recovered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes at the end of the newest segment that are never damaged: more than any batch.
const FRESH: usize = 512 << 10;

/// A server and its folder. Whatever becomes of the server, the folder and the port stay the same.
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    /// Where the site's own code comes in.
    pub(super) backend: Door,
    /// Where browsers come in.
    pub(super) public: Door,
    pub(super) port: u16,
    log: PathBuf,
    server: Option<Child>,
}

impl Stage {
    /// Prepares a folder; starts nothing.
    pub(super) fn new(folder: &Path, scene: &Scene, threads: u64) -> Self {
        // A port that was free a moment ago: the server must come back to the same, so it cannot choose one.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        std::fs::create_dir_all(folder).unwrap();
        let toml = scene.toml(port, threads, false);
        std::fs::write(folder.join("comet.toml"), toml).unwrap();
        Self {
            backend: Door::Unix(folder.join("data/comet.sock")),
            public: Door::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            log: folder.join("server.log"),
            folder: folder.to_owned(),
            port,
            server: None,
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let binary = std::env::var_os("VIOLENCE_COMET").unwrap_or_else(|| env!("CARGO_BIN_EXE_comet").into());
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("HOME", &self.folder)
            .env("RUST_BACKTRACE", "1")
            .args(args)
            .arg("--config")
            .arg(self.folder.join("comet.toml"))
            .arg("--data-dir")
            .arg(self.data())
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    /// Starts the server; the receiver hears when it listens, or is closed when it ends before.
    pub(super) fn spawn(&mut self) -> Receiver<Duration> {
        assert!(self.server.is_none(), "it runs already");
        // The judge tells memories apart by their marks; that a stop in good order keeps one has tests of its own.
        let _ = std::fs::remove_file(self.data().join("comet.memory"));
        let begun = Instant::now();
        let mut child = self
            .command(&["serve"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let _ = writeln!(log, "--- started as {}", child.id());
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                if line.contains("\"listening\"") {
                    let _ = sender.send(begun.elapsed());
                }
            }
        });
        self.server = Some(child);
        ready
    }

    /// Starts the server and waits until it listens; how long that took.
    pub(super) fn start(&mut self) -> Result<Duration, String> {
        let ready = self.spawn();
        self.wait_for(&ready)
    }

    pub(super) fn wait_for(&mut self, ready: &Receiver<Duration>) -> Result<Duration, String> {
        ready.recv_timeout(PATIENCE).map_err(|error| {
            let log = self.log_end();
            format!("the server does not start ({error}); its log ends:\n{log}")
        })
    }

    pub(super) fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// What the log says of panics; there must be none.
    pub(super) fn panics(&self) -> Vec<String> {
        let file = File::open(&self.log).map(BufReader::new);
        let lines = file
            .into_iter()
            .flat_map(|file| file.lines().map_while(Result::ok));
        lines.filter(|line| line.contains("panicked")).collect()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it has ended by itself, and how.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.server.as_mut()?.try_wait().ok()??;
        Some(format!(
            "the server ended by itself: {status}; its log ends:\n{}",
            self.log_end()
        ))
    }

    /// SIGTERM, and waits for a proper end.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        let Some(mut child) = self.server.take() else {
            return Ok(());
        };
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let begun = Instant::now();
        loop {
            match child.try_wait().unwrap() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(format!(
                        "it was told to stop and ended with {status}:\n{}",
                        self.log_end()
                    ));
                }
                None if begun.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("it does not stop:\n{}", self.log_end()));
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Changes the bounds of short histories while it runs. Nobody may be there to hear of it.
    pub(super) fn reload(&self, scene: &Scene, threads: u64, shorter: bool) {
        let toml = scene.toml(self.port, threads, shorter);
        std::fs::write(self.folder.join("comet.toml"), toml).unwrap();
        let http = Http::connect(&self.backend, PATIENCE);
        let _ = http.and_then(|mut http| http.request("POST", "/v1/admin/reload", "", b""));
    }

    /// Turns some bits of the log, of what was safe long ago. Returns whether there was anything.
    pub(super) fn damage(&self, chance: &mut Chance) -> bool {
        let folder = std::fs::read_dir(self.data().join("log")).unwrap();
        let paths = folder.map(|entry| entry.unwrap().path());
        let mut segments: Vec<PathBuf> = paths
            .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
            .collect();
        segments.sort();
        // Before that a channel may have been in one place only.
        if segments.len() < 3 {
            return false;
        }
        let at = chance.below(segments.len().max(1) as u64) as usize;
        let Some(path) = segments.get(at) else {
            return false;
        };
        let mut bytes = std::fs::read(path).unwrap();
        // What ends the newest is a crash's, and may be cut off.
        let end = bytes
            .len()
            .saturating_sub(if at + 1 == segments.len() { FRESH } else { 0 });
        if end == 0 {
            return false;
        }
        let first = chance.below(end as u64) as usize;
        for _ in 0..chance.magnitude(1, 30) {
            let near = (first + chance.below(3_000) as usize).min(end - 1);
            bytes[near] ^= 1 << chance.below(8);
        }
        std::fs::write(path, bytes).unwrap();
        true
    }

    /// Copies the log while it runs.
    pub(super) fn begin_backup(&self) -> Child {
        let to = self.folder.join("backup");
        let mut command = self.command(&["storage", "backup"]);
        command.arg(to).stdout(Stdio::null()).spawn().unwrap()
    }

    /// What was copied must be whole, if it is said to be there. Was it?
    pub(super) fn end_backup(&self, mut backup: Child) -> Result<bool, String> {
        let copied = backup.wait().unwrap().success();
        let folder = self.folder.join("backup");
        if copied {
            self.check(&folder)?;
        }
        // Nothing may be there yet when the next one begins.
        let _ = std::fs::remove_dir_all(folder);
        Ok(copied)
    }

    /// `comet storage check` must find nothing.
    pub(super) fn check(&self, folder: &Path) -> Result<(), String> {
        let output = self.command(&["storage", "check"]).arg(folder).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("comet storage check {}: {said}", folder.display())),
        }
    }

    pub(super) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kill();
    }
}
