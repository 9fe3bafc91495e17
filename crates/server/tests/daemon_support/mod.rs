//! The real binary in a folder of its own: started, talked to, and ended by its process id.

#![allow(clippy::unwrap_used)] // all of this is test
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// No answer takes so long, however busy the machine: a deadline for what will not come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A home of its own for every test, so that none meets a server of this machine. What runs in it ends with it.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.data().join("comet.sock")
    }

    pub fn public_socket(&self) -> PathBuf {
        self.data().join("public/comet.sock")
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.other_program(env!("CARGO_BIN_EXE_comet"));
        command.args(args);
        command
    }

    /// Another program in the same surroundings.
    pub fn other_program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("COMETSERVER_DATA_DIR", self.data())
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs a command that must do its work.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout
    }

    /// A server in the foreground, with these settings (`key=value`).
    pub fn serve(&self, settings: &[&str]) -> Server {
        let mut command = self.command(["serve"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Server::of(command)
    }

    pub fn connect(&self) -> UnixStream {
        connect(&self.socket())
    }

    /// What the seed's protocol answers, until the server closes.
    pub fn seed(&self, request: impl AsRef<[u8]>) -> Vec<u8> {
        exchange(self.connect(), request)
    }

    pub fn http(&self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Answer {
        http(self.connect(), method, path, "", body)
    }

    /// The process id of the server that holds the data folder.
    pub fn pid(&self) -> Option<u32> {
        let mut lock = File::open(self.data().join("comet.lock")).ok()?;
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            _ => return None,
        }
        let mut text = String::new();
        lock.read_to_string(&mut text).ok()?;
        let holder: serde_json::Value = serde_json::from_str(&text).ok()?;
        u32::try_from(holder["pid"].as_u64()?).ok()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            kill(pid, Signal::KILL);
            wait_for_end(pid);
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A server in the foreground.
pub struct Server {
    child: Child,
    log: Receiver<String>,
    /// What it logged when it began to listen.
    pub listening: String,
    /// What it logged before.
    pub starting: Vec<String>,
}

impl Server {
    /// Starts it and waits until it listens.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Self {
            child,
            log,
            listening: String::new(),
            starting: Vec::new(),
        };
        (server.starting, server.listening) = server.logs_until("\"listening\"");
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it logs a line with this text.
    pub fn logs(&mut self, text: &str) -> String {
        self.logs_until(text).1
    }

    /// The same, with what it logs before.
    fn logs_until(&mut self, text: &str) -> (Vec<String>, String) {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return (seen, line),
                Ok(line) => seen.push(line),
                Err(error) => panic!("no {text:?} in the log ({error}): {seen:#?}"),
            }
        }
    }

    /// Everything that it logged since, and logs until it ends.
    pub fn rest_of_log(mut self) -> String {
        self.child.wait().unwrap();
        self.log.iter().collect::<Vec<_>>().join("\n")
    }

    /// Its first public TCP address.
    pub fn tcp(&self) -> SocketAddr {
        let (_, rest) = self.listening.split_once("127.0.0.1:").unwrap();
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for_end(self.pid());
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Waits until a process has ended, whoever's child it is.
#[cfg(target_os = "linux")]
pub fn wait_for_end(pid: u32) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let id = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // Gone already: nobody to wait for.
    let Ok(handle) = rustix::process::pidfd_open(id, rustix::process::PidfdFlags::empty()) else {
        return;
    };
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(ended, 1, "process {pid} does not end");
}

#[cfg(not(target_os = "linux"))]
pub fn wait_for_end(pid: u32) {
    let id = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    until("it ends", || {
        rustix::process::test_kill_process(id).is_err().then_some(())
    });
}

/// Asks again until there is an answer: only for what nobody can be told of.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        thread::yield_now();
    }
}

pub fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn connect_tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection of either kind.
pub trait Stream: Read + Write {
    fn finish(&self);
}

impl Stream for UnixStream {
    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for TcpStream {
    fn finish(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

/// Sends and reads until the server closes: it may have answered, and closed, before it was asked.
pub fn exchange(mut stream: impl Stream, request: impl AsRef<[u8]>) -> Vec<u8> {
    match stream.write_all(request.as_ref()) {
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
        other => other.unwrap(),
    }
    rest(stream)
}

/// What comes until the server closes, or resets.
pub fn rest(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => {
            other.unwrap();
        }
    }
    bytes
}

/// An answer of HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no answer of HTTP: {text:?}")),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request with one answer. Headers end in CR LF each.
pub fn http(stream: impl Stream, method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Answer {
    Answer::of(&exchange(stream, request(method, path, headers, body)))
}

/// A request of HTTP, the only one on its connection.
pub fn request(method: &str, path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: comet\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// The mode bits of a file or folder.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A pipe whose writing end is passed on to children, and its reading end.
pub fn inherited_pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    (ours, theirs)
}
