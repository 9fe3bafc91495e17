//! The real binary with narrow memory, and what it says of itself.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::flood::Flood;

/// `limits.memory` and `limits.log_memory`, in MiB each.
pub(crate) const MEMORY: u64 = 128;

/// What the server may take besides those, in MiB.
pub(crate) const BESIDES: u64 = 64;

/// Whatever is waited for is there by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a folder and a port of its own. Dropped, it is killed.
pub(crate) struct Stage {
    /// Where browsers come in.
    pub(crate) public: SocketAddr,
    /// Where the site's own code comes in.
    pub(crate) backend: PathBuf,
    child: Child,
    folder: tempfile::TempDir,
}

/// What the server says of itself after a flood.
#[derive(Debug)]
pub(crate) struct Figures {
    metrics: HashMap<String, f64>,
    /// The most memory it had in RAM, in bytes.
    pub(crate) peak: u64,
}

impl Figures {
    /// The sum of a metric over all its labels; none: the server has no such metric.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let full = format!("cometserver_{name}");
        let of = |key: &str| key == full || key.strip_prefix(&full).is_some_and(|rest| rest.starts_with('{'));
        let values = self.metrics.iter().filter(|(key, _)| of(key));
        values.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }
}

impl Stage {
    /// Starts a server for a flood.
    pub(crate) fn start(kind: &Flood) -> Self {
        let folder = tempfile::Builder::new().prefix("attack-").tempdir().unwrap();
        std::fs::write(
            folder.path().join("comet.toml"),
            configuration(folder.path(), kind),
        )
        .unwrap();
        std::fs::create_dir_all(folder.path().join("static")).unwrap();
        let binary = std::env::var_os("ATTACK_COMET").unwrap_or_else(|| env!("CARGO_BIN_EXE_comet").into());
        let mut child = Command::new(binary)
            .env_clear()
            .env("HOME", folder.path())
            .args(["serve", "--config"])
            .arg(folder.path().join("comet.toml"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = std::fs::File::create(folder.path().join("server.log")).unwrap();
        let (said, listening) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = writeln!(log, "{line}");
                let _ = said.send(line);
            }
        });
        let mut earlier = Vec::new();
        let public = loop {
            let said = listening.recv_timeout(PATIENCE);
            let line = said.unwrap_or_else(|error| {
                panic!(
                    "the server does not say where it listens ({error}): {}",
                    earlier.join("\n")
                )
            });
            if let Some(port) = public_port(&line) {
                break SocketAddr::from(([127, 0, 0, 1], port));
            }
            earlier.push(line);
        };
        Self {
            public,
            backend: folder.path().join("data/comet.sock"),
            child,
            folder,
        }
    }

    /// One request of the site's own code; status and body.
    pub(crate) fn ask(&self, method: &str, target: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let mut socket = UnixStream::connect(&self.backend)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: comet\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes())?;
        socket.write_all(body)?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer)?;
        let status = answer
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let status = status.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let body = answer.split_off(head.map_or(answer.len(), |at| at + 4));
        Ok((status, body))
    }

    /// Publishes for the site, which must succeed.
    pub(crate) fn publish(&self, target: &str, body: &[u8]) {
        let (status, said) = self.ask("POST", target, body).unwrap();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(status == 200, "{target}: {status} {said}");
    }

    /// May the site's own code still do what it does? What it was told, if not.
    pub(crate) fn site_has_room(&self) -> Option<String> {
        let asked: [(&str, &str, &[u8]); 4] = [
            ("POST", "/v1/publish?channel=site/of-its-own", b"hello"),
            ("POST", "/v1/publish?channel=lively/of-its-own&retain=1", b"hello"),
            ("GET", "/v1/history?channel=site/of-its-own", b""),
            ("GET", "/health/ready", b""),
        ];
        asked
            .into_iter()
            .find_map(|(method, target, body)| match self.ask(method, target, body) {
                Ok((200, _)) => None,
                Ok((status, body)) => Some(format!(
                    "{method} {target}: {status} {}",
                    String::from_utf8_lossy(&body)
                )),
                Err(error) => Some(format!("{method} {target}: {error}")),
            })
    }

    /// What the server says of itself, and the system of it.
    pub(crate) fn figures(&self) -> Figures {
        let (_, body) = self.ask("GET", "/metrics", b"").unwrap_or_default();
        let text = String::from_utf8(body).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Figures {
            metrics: pairs.collect(),
            peak: self.peak(),
        }
    }

    /// The most memory it had in RAM, in bytes.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() << 10
    }

    /// Ends it in good order.
    pub(crate) fn stop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(
                Instant::now() < until,
                "the server does not stop:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().unwrap();
        assert!(
            status.success(),
            "the server ended with {status}:\n{}",
            self.log()
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port of the public listener, in the line that says it.
fn public_port(line: &str) -> Option<u16> {
    if !line.contains("\"listening\"") {
        return None;
    }
    let at = line.find("127.0.0.1:")? + "127.0.0.1:".len();
    let digits: String = line[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn configuration(folder: &Path, kind: &Flood) -> String {
    let folder = folder.display();
    format!(
        r#"
data_dir = "{folder}/data"
threads = 2
[public]
listen = ["127.0.0.1:0"]
socket = "off"
[limits]

memory = "{MEMORY}MiB"
log_memory = "{MEMORY}MiB"
window_bytes = "16MiB"
[held]
heartbeat = "5s"
[shutdown]
drain = "1s"
spread = "0s"
[static]
dir = "{folder}/static"
[log]
level = "info"
[namespace_default]
[[namespaces]]
match = "good"
public = true
durability = "memory"
[[namespaces]]
match = "open/**"
public = true
anonymous_publish = true
presence = true
anonymous_presence = true
durability = "memory"
history = {{ count = 1000, bytes = "16MiB" }}
[[namespaces]]
match = "kept/**"
public = true
durability = "{}"
history = {{ count = 100000, bytes = "64MiB" }}
[[namespaces]]
match = "lively/**"
public = true
static_file = true
durability = "memory"
[[namespaces]]
match = "**a*"
public = true
anonymous_publish = true
durability = "memory"
"#,
        kind.durability
    )
}
