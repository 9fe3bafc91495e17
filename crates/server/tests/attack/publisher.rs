//! The site's own code: publishes at a steady rate, on the socket that is for it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crowd;

/// An answer is there by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of it.
pub(crate) struct Published {
    pub(crate) count: u64,
    pub(crate) refused: u64,
}

/// See the module.
pub(crate) struct Publisher {
    ending: Arc<AtomicBool>,
    thread: JoinHandle<Published>,
}

impl Publisher {
    /// Begins, with so many a second.
    pub(crate) fn start(backend: &Path, rate: u64) -> Self {
        let socket = UnixStream::connect(backend).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let ending = Arc::new(AtomicBool::new(false));
        let ended = ending.clone();
        let thread = std::thread::spawn(move || publish(socket, rate, &ended));
        Self { ending, thread }
    }

    /// Ends after the publication that is under way.
    pub(crate) fn stop(self) -> Published {
        self.ending.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn publish(mut socket: UnixStream, rate: u64, ending: &AtomicBool) -> Published {
    let mut published = Published { count: 0, refused: 0 };
    let step = Duration::from_secs(1) / u32::try_from(rate).unwrap();
    let mut due = Instant::now();
    // The first ones always: a flood may be over at once.
    while !ending.load(Ordering::SeqCst) || published.count < rate / 4 {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        due += step;
        let body = crowd::message(published.count + 1);
        let length = body.len();
        let request = format!(
            "POST /v1/publish?channel=good HTTP/1.1\r\nHost: comet\r\nContent-Type: text/plain\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        match ask(&mut socket, request.as_bytes()) {
            Ok(answer) if answer.starts_with(b"HTTP/1.1 200 ") => published.count += 1,
            Ok(_) => published.refused += 1,
            // Nobody answers the site any more.
            Err(_) => {
                published.refused += 1;
                break;
            }
        }
    }
    published
}

fn ask(socket: &mut UnixStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.write_all(request)?;
    let mut answer = Vec::new();
    let mut room = [0; 4 << 10];
    // An answer of ours is a few hundred bytes that end in a brace.
    while !answer.ends_with(b"}") {
        match socket.read(&mut room)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&room[..read]),
        }
    }
    Ok(answer)
}
