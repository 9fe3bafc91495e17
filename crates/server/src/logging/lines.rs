//! Lines that wait to be written: who logs never waits for who reads, and what is lost is counted and said.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much may wait, in bytes: some thousand lines, for a reader that pauses.
const WAITING: usize = 1 << 20;

/// What a line takes besides its text, in bytes.
const LINE: usize = 64;

/// Where lines go: takes all of the bytes, or says how many it took before it failed.
pub(super) trait Out {
    /// Writes all of it. May wait.
    fn write(&mut self, bytes: &[u8]) -> Result<(), usize>;
}

/// A queue of lines with one writer.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// What they take.
    bytes: usize,
    /// After a loss nothing is taken until half of it is written: every gap is said once, not between any two lines.
    is_full: bool,
    /// Lines lost behind the last one that waits.
    lost: u64,
    is_writing: bool,
}

/// A line, and how many were lost before it; or only that, without text.
#[derive(Debug, Default)]
struct Entry {
    lost: u64,
    text: Vec<u8>,
}

impl Lines {
    /// Has a line written, its end included. Never waits: where too much waits already it is lost, and counted.
    pub(super) fn push(&self, text: &[u8]) {
        let mut state = self.state();
        let bytes = text.len().saturating_add(LINE);
        if state.is_full || state.bytes.saturating_add(bytes) > WAITING {
            state.is_full = !state.waiting.is_empty();
            state.lost += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            state.bytes += bytes;
            let lost = std::mem::take(&mut state.lost);
            let text = text.to_vec();
            state.waiting.push_back(Entry { lost, text });
        }
        drop(state);
        self.changed.notify_all();
    }

    /// How many lines were lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything is written or lost, at most so long. Was it?
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.state();
        while state.is_writing || state.lost > 0 || !state.waiting.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes for ever. What was lost is said in the words of `notice` when writing works again, in its place.
    pub(super) fn write_to(&self, out: impl Out, notice: impl Fn(u64) -> Vec<u8>) {
        let mut writer = Writer::new(out, notice);
        loop {
            let entry = self.next();
            self.lost.fetch_add(writer.write(entry), Ordering::Relaxed);
        }
    }

    /// The next entry, once there is one. What was taken before is written.
    fn next(&self) -> Entry {
        let mut state = self.state();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            if let Some(entry) = state.waiting.pop_front() {
                state.bytes -= entry.text.len().saturating_add(LINE);
                state.is_full &= state.bytes > WAITING / 2;
                state.is_writing = true;
                return entry;
            }
            if state.lost > 0 {
                state.is_writing = true;
                return Entry {
                    lost: std::mem::take(&mut state.lost),
                    text: Vec::new(),
                };
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under it can panic but for want of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who writes, and what it has not been able to say yet.
struct Writer<O, N> {
    out: O,
    notice: N,
    /// Lines lost that nobody was told of.
    unsaid: u64,
    /// Whether the last thing that was written has no end.
    is_torn: bool,
}

impl<O: Out, N: Fn(u64) -> Vec<u8>> Writer<O, N> {
    fn new(out: O, notice: N) -> Self {
        Self {
            out,
            notice,
            unsaid: 0,
            is_torn: false,
        }
    }

    /// Writes an entry. Returns how many lines were lost by that.
    fn write(&mut self, entry: Entry) -> u64 {
        self.unsaid += entry.lost;
        if self.unsaid > 0 {
            let notice = (self.notice)(self.unsaid);
            if self.put(&notice) {
                self.unsaid = 0;
            }
        }
        let is_written = entry.text.is_empty() || (self.unsaid == 0 && self.put(&entry.text));
        let lost = u64::from(!is_written);
        self.unsaid += lost;
        lost
    }

    fn put(&mut self, text: &[u8]) -> bool {
        if self.is_torn && self.out.write(b"\n").is_err() {
            return false;
        }
        self.is_torn = false;
        let written = self.out.write(text);
        self.is_torn = written.is_err_and(|taken| taken > 0);
        written.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes more, then nothing.
    struct Disk<'a> {
        room: &'a std::cell::Cell<usize>,
        bytes: &'a std::cell::RefCell<Vec<u8>>,
    }

    impl Out for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), usize> {
            let taken = bytes.len().min(self.room.get());
            self.room.set(self.room.get() - taken);
            self.bytes.borrow_mut().extend_from_slice(&bytes[..taken]);
            if taken == bytes.len() { Ok(()) } else { Err(taken) }
        }
    }

    fn lost(lines: u64) -> Vec<u8> {
        format!("{lines} lost\n").into_bytes()
    }

    fn line(text: &str) -> Entry {
        Entry {
            lost: 0,
            text: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_do_not_fit_and_says_how_many_once() {
        let (room, bytes) = (std::cell::Cell::new(5), std::cell::RefCell::default());
        let mut writer = Writer::new(
            Disk {
                room: &room,
                bytes: &bytes,
            },
            lost,
        );
        let count = |writer: &mut Writer<_, _>, text| writer.write(line(text));
        assert_eq!(count(&mut writer, "one\n"), 0);
        // Half of it gets there: it is lost all the same, and the next line begins on one of its own.
        assert_eq!(count(&mut writer, "two\n"), 1);
        assert_eq!(count(&mut writer, "three\n"), 1);
        room.set(1000);
        assert_eq!(count(&mut writer, "four\n"), 0);
        assert_eq!(count(&mut writer, "five\n"), 0);
        assert_eq!(
            String::from_utf8(bytes.borrow().clone()).unwrap(),
            "one\nt\n2 lost\nfour\nfive\n"
        );
    }

    #[test]
    fn what_waits_is_bounded_and_what_was_lost_is_said_in_its_place() {
        let lines = Lines::default();
        let text = vec![b'x'; WAITING / 8 - LINE];
        for _ in 0..11 {
            lines.push(&text);
        }
        assert_eq!((lines.lost(), lines.state().waiting.len()), (3, 8));
        // Not before half of it is taken.
        for taken in 1..=4 {
            assert!(!lines.next().text.is_empty());
            lines.push(b"short");
            assert_eq!(lines.lost(), if taken < 4 { 3 + taken } else { 6 });
        }
        let rest: Vec<_> = (0..5)
            .map(|_| lines.next())
            .map(|entry| (entry.lost, entry.text.len()))
            .collect();
        assert_eq!(rest[..4], [(0, text.len()); 4]);
        assert_eq!(rest[4], (6, 5));
        // One that never fits is lost alone, and said when nothing else comes.
        lines.push(&vec![b'x'; WAITING]);
        let said = lines.next();
        assert_eq!((said.lost, said.text.len()), (1, 0));
        lines.push(b"next");
        assert_eq!(lines.next().text, b"next");
    }

    #[test]
    fn who_flushes_waits_for_the_last_line_and_not_for_ever() {
        let lines = Lines::default();
        assert!(lines.flush(Duration::ZERO));
        lines.push(b"line");
        assert!(!lines.flush(Duration::ZERO));
        lines.next();
        assert!(!lines.flush(Duration::ZERO), "it is being written");
        std::thread::scope(|scope| {
            scope.spawn(|| lines.next());
            assert!(lines.flush(Duration::from_secs(60)));
            lines.push(b"last");
        });
    }
}
