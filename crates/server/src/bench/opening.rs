//! Opens many subscribers, a bounded number at a time.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use super::dialect::Dialect;
use super::report::histogram;
use super::subscriber::Subscriber;
use super::{BenchError, Options};

/// How often progress is told.
pub(super) const PROGRESS: Duration = Duration::from_secs(1);

/// How long to wait before a full backlog is tried again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// Bytes read at once. Larger than a burst for one subscriber, small enough for the cache.
const READ_BUFFER: usize = 256 << 10;

/// The subscribers of a load, and the loop they live in. A subscriber's token is its index.
pub(super) struct Subscribers {
    pub(super) poll: Poll,
    pub(super) events: Events,
    pub(super) buffer: Vec<u8>,
    pub(super) list: Vec<Subscriber>,
    /// From connecting to the answer, in nanoseconds.
    pub(super) opening_times: Histogram<u64>,
}

impl Subscribers {
    pub(super) fn new() -> Result<Self, BenchError> {
        let poll = Poll::new().map_err(|source| BenchError::Io {
            what: "no event loop",
            source,
        })?;
        Ok(Subscribers {
            poll,
            events: Events::with_capacity(4096),
            buffer: vec![0; READ_BUFFER],
            list: Vec::new(),
            opening_times: histogram(),
        })
    }

    /// Opens `count` more and returns when the server has answered all.
    pub(super) fn open(
        &mut self,
        count: usize,
        options: &Options,
        dialect: &Dialect,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), BenchError> {
        let before = self.list.len();
        let wanted = before + count;
        let mut opened = before;
        let mut last_event = Instant::now();
        let mut next_progress = last_event + PROGRESS;
        while opened < wanted {
            let mut timeout = options.stall;
            while self.list.len() < wanted && self.list.len() - opened < options.opening {
                if !self.connect(self.list.len() - before, options)? {
                    timeout = BACKLOG_PAUSE;
                    break;
                }
            }
            opened += self.turn(timeout, options, dialect)?;
            let now = Instant::now();
            if !self.events.is_empty() {
                last_event = now;
            } else if now - last_event >= options.stall {
                return Err(BenchError::Stalled { opened, wanted });
            }
            if now >= next_progress {
                next_progress = now + PROGRESS;
                progress(&format!("opening: {opened} of {wanted} subscribers"));
            }
        }
        Ok(())
    }

    fn connect(&mut self, number: usize, options: &Options) -> Result<bool, BenchError> {
        let channel = (number % options.channels) as u32;
        let token = Token(self.list.len());
        let registry = self.poll.registry();
        let subscriber = Subscriber::connect(&options.address, channel, options.transport, registry, token)?;
        let connected = subscriber.is_some();
        self.list.extend(subscriber);
        Ok(connected)
    }

    /// One round of the loop while opening. Returns how many were opened in it.
    fn turn(&mut self, timeout: Duration, options: &Options, dialect: &Dialect) -> Result<usize, BenchError> {
        wait(&mut self.poll, &mut self.events, timeout)?;
        let mut opened = 0;
        for event in self.events.iter() {
            let subscriber = &mut self.list[event.token().0];
            let was_open = subscriber.is_open();
            if event.is_writable() {
                subscriber.ask(&options.address, dialect, self.poll.registry(), event.token())?;
            }
            if event.is_readable() {
                subscriber.read(dialect, &mut self.buffer)?;
            }
            if subscriber.is_open() && !was_open {
                opened += 1;
                self.opening_times
                    .saturating_record(subscriber.began.elapsed().as_nanos() as u64);
            }
        }
        Ok(opened)
    }
}

/// Waits for events; an interruption by a signal is no event.
pub(super) fn wait(poll: &mut Poll, events: &mut Events, timeout: Duration) -> Result<(), BenchError> {
    match poll.poll(events, Some(timeout)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
        Err(source) => Err(BenchError::Io {
            what: "the event loop failed",
            source,
        }),
    }
}
