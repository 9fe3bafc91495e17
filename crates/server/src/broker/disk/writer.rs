//! The one thread that writes: a batch, one sync, then the index. While it writes the next one, the hub is told.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use cometserver_core::Time;
use cometserver_core::broker::{BrokerError, Committed};

use super::format::header::{file_name, seed};
use super::format::{Header, Opening, SegmentState, body, frame};
use super::index::Segment;
use super::io::DiskFile;
use super::plan::Plan;
use super::queue::{Batch, Chore, Request};
use super::shared::{Shared, count};
use super::telling::{self, Answers};

/// What the buffer may keep between batches, in bytes: after a huge payload it is let go.
const KEEP_BUFFER: usize = 16 << 20;

/// So few answers the writer tells itself, while nothing waits to be written: waking another thread takes as long.
const FEW: usize = 16;

/// The segment that is written to.
pub(crate) struct Current {
    /// Its number.
    pub(crate) number: u32,
    /// The file.
    pub(crate) file: Arc<dyn DiskFile>,
    /// With what the checks of its records begin.
    pub(crate) seed: u32,
    /// So many bytes of it are safe; behind there is nothing, or nothing that counts.
    pub(crate) length: u32,
}

/// See the module.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    /// None after a failure that leaves in doubt what the file holds: the next batch begins a new one.
    current: Option<Current>,
    /// The newest number that any segment ever had.
    newest: u32,
    buffer: Vec<u8>,
    /// The mark of this start, with its time, until it is written: nothing is stored before it.
    mark: Option<(u32, Time)>,
    /// Nothing is tried before this, for this reason.
    pause: Option<(Instant, String)>,
}

/// How a batch failed.
enum Failure {
    /// Nothing of it is there.
    Nothing(io::Error),
    /// What of it is there is not known.
    Unknown(io::Error),
}

impl Writer {
    /// Goes on with the segment given, if it can be gone on with.
    pub(crate) fn new(shared: Arc<Shared>, current: Option<Current>, newest: u32) -> Self {
        Self {
            shared,
            current,
            newest,
            buffer: Vec::new(),
            mark: None,
            pause: None,
        }
    }

    /// Writes the mark of this start. Where the disk is full that waits for the first batch that fits, and why is returned:
    /// what is there can be read all the same.
    ///
    /// # Errors
    /// Any other reason why nothing can be written.
    pub(crate) fn begin(&mut self, mark: u32, time: Time) -> Result<Option<BrokerError>, BrokerError> {
        self.mark = Some((mark, time));
        let begun = self.begin_segment().map_err(Failure::Nothing);
        let stored = begun.and_then(|begun| {
            if let Some(segment) = begun.as_ref().or(self.current.as_ref()) {
                let (seed, base) = (segment.seed, segment.length);
                self.put_mark(seed, base);
            }
            self.store(begun)
        });
        match stored {
            Ok(length) => {
                if let Some(current) = &self.current {
                    self.shared.index().grow_segment(current.number, length);
                }
                Ok(None)
            }
            Err(Failure::Nothing(error)) if is_full(&error) => Ok(Some(self.failed(Failure::Nothing(error)))),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    fn put_mark(&mut self, seed: u32, base: u32) {
        if let Some((mark, time)) = self.mark {
            let position = self.shared.index().position;
            let start = frame::begin(&mut self.buffer);
            body::put_mark(&mut self.buffer, mark, position, time);
            let offset = base + start as u32;
            frame::finish(&mut self.buffer, start, seed, offset);
        }
    }

    /// Writes until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while let Some(batch) = self.shared.queue.take(self.shared.options.batch) {
            self.commit(batch);
        }
    }

    /// Writes one batch and answers everything in it.
    fn commit(&mut self, batch: Batch) {
        let (requests, payloads) = (batch.requests.len(), batch.payloads);
        let committed = match self.pause.take_if(|(until, _)| *until <= Instant::now()) {
            None if self.pause.is_some() => self.refuse(batch),
            _ => self.write(batch),
        };
        let answers = Answers {
            committed,
            requests,
            payloads,
        };
        let (queue, telling) = (&self.shared.queue, &self.shared.telling);
        if requests <= FEW && queue.is_empty() && telling.is_idle() {
            telling::tell(&self.shared, answers);
        } else {
            telling.push(answers);
        }
    }

    fn refuse(&self, batch: Batch) -> Vec<Committed> {
        let reason = self
            .pause
            .as_ref()
            .map_or_else(String::new, |(_, reason)| reason.clone());
        answer(batch.chore, &batch.requests, &BrokerError::Unavailable(reason))
    }

    fn write(&mut self, mut batch: Batch) -> Vec<Committed> {
        let mut refused = Vec::new();
        if let Err(full) = self.has_room() {
            // What clears away goes on.
            let is_publish = |request: &Request| matches!(request, Request::Publish(_));
            let (publications, rest) = batch.requests.into_iter().partition(is_publish);
            batch.requests = rest;
            refused = answer(None, &publications, &full);
            if batch.requests.is_empty() && batch.chore.is_none() {
                return refused;
            }
        }
        refused.extend(self.write_all(batch));
        refused
    }

    fn write_all(&mut self, batch: Batch) -> Vec<Committed> {
        self.buffer.clear();
        self.buffer.shrink_to(KEEP_BUFFER);
        let begun = match self.begin_segment() {
            Ok(begun) => begun,
            Err(error) => {
                let error = self.failed(Failure::Nothing(error));
                return answer(batch.chore, &batch.requests, &error);
            }
        };
        let (seed, base, number) = match begun.as_ref().or(self.current.as_ref()) {
            Some(segment) => (segment.seed, segment.length, segment.number),
            None => {
                let error = BrokerError::Unavailable("there is no segment".into());
                return answer(batch.chore, &batch.requests, &error);
            }
        };
        self.put_mark(seed, base);
        let plan = Plan::new(&self.shared, batch, &mut self.buffer, seed, base, number);
        if self.buffer.is_empty() {
            return plan.apply(&self.shared, base);
        }
        match self.store(begun) {
            Ok(length) => {
                count(&self.shared.counters.batches, 1);
                plan.apply(&self.shared, length)
            }
            Err(failure) => {
                let error = self.failed(failure);
                plan.fail(&self.shared, &error)
            }
        }
    }

    /// Far above the ceiling nothing is taken: what was trimmed has to be cleared away first, or retained values fill it.
    fn has_room(&self) -> Result<(), BrokerError> {
        let (total, ceiling) = (self.shared.index().total, self.shared.options.ceiling);
        if total <= ceiling + ceiling / 4 + self.shared.options.segment {
            return Ok(());
        }
        self.shared.bell.ring();
        Err(BrokerError::Unavailable(format!(
            "the log has {total} bytes, its ceiling is {ceiling}"
        )))
    }

    /// Begins a new segment if there is none or it is long enough. It counts only once its first batch is safe: its header
    /// is at the beginning of the buffer.
    fn begin_segment(&mut self) -> io::Result<Option<Current>> {
        if let Some(current) = &self.current
            && u64::from(current.length) < self.shared.options.segment
        {
            return Ok(None);
        }
        let number = self.newest + 1;
        let (opening, first) = self.opening();
        let file = self
            .shared
            .disk
            .create(&self.shared.folder.join(file_name(number)))?;
        // Also if it comes to nothing: what is found under this number is then never taken for something else.
        self.newest = number;
        let header = Header {
            store: self.shared.store,
            segment: number,
            first,
        };
        let seed = seed(&self.shared.store, number);
        self.buffer.extend_from_slice(&header.encode());
        let start = frame::begin(&mut self.buffer);
        body::put_opening(&mut self.buffer, &opening);
        let offset = start as u32;
        frame::finish(&mut self.buffer, start, seed, offset);
        Ok(Some(Current {
            number,
            file,
            seed,
            length: 0,
        }))
    }

    fn opening(&self) -> (Opening, u64) {
        let index = self.shared.index();
        let segments = index.segments.iter().map(|(number, segment)| SegmentState {
            number: *number,
            length: segment.length,
        });
        let opening = Opening {
            position: index.position,
            forgotten: index.forgotten,
            marks: index.marks.clone(),
            segments: segments.collect(),
        };
        (opening, index.position + 1)
    }

    /// Writes the buffer and makes it safe. Returns how long the segment is then.
    fn store(&mut self, begun: Option<Current>) -> Result<u32, Failure> {
        let length = match begun {
            Some(begun) => self.store_first(begun),
            None => self.store_next(),
        }?;
        if let Some((mark, _)) = self.mark.take() {
            let mut index = self.shared.index();
            let position = index.position;
            index.note_mark(mark, position);
        }
        Ok(length)
    }

    fn store_next(&mut self) -> Result<u32, Failure> {
        let current = self.current.as_mut().expect("there is one if none was begun");
        let (file, length) = (current.file.clone(), current.length);
        if let Err(error) = file.write_at(&self.buffer, u64::from(length)) {
            // What was written of it must not come back after a crash.
            return match file.truncate(u64::from(length)).and_then(|()| self.sync(&*file)) {
                Ok(()) => Err(Failure::Nothing(error)),
                Err(_) => {
                    self.current = None;
                    Err(Failure::Unknown(error))
                }
            };
        }
        if let Err(error) = self.sync(&*file) {
            // Whether a second sync says the truth is not known: pages may have been dropped. This file is given up here.
            self.current = None;
            let _ = file.truncate(u64::from(length));
            return Err(Failure::Unknown(error));
        }
        let current = self.current.as_mut().expect("a failed sync has returned");
        current.length += self.buffer.len() as u32;
        Ok(current.length)
    }

    fn store_first(&mut self, mut begun: Current) -> Result<u32, Failure> {
        let path = self.shared.folder.join(file_name(begun.number));
        let written = begun.file.write_at(&self.buffer, 0);
        let unsafe_yet = written.is_ok();
        let stored = written
            .and_then(|()| self.sync(&*begun.file))
            .and_then(|()| self.shared.disk.sync_folder(&self.shared.folder));
        if let Err(error) = stored {
            // Only what is made safe to be gone is known not to be there.
            let gone = self.shared.disk.remove(&path);
            let gone = gone.and_then(|()| self.shared.disk.sync_folder(&self.shared.folder));
            return Err(match gone {
                Ok(()) if !unsafe_yet => Failure::Nothing(error),
                _ => Failure::Unknown(error),
            });
        }
        begun.length = self.buffer.len() as u32;
        let segment = Segment {
            file: begun.file.clone(),
            seed: begun.seed,
            length: begun.length,
            live: 0,
            places: 0,
        };
        self.shared.index().add_segment(begun.number, segment);
        let length = begun.length;
        self.current = Some(begun);
        Ok(length)
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        count(&self.shared.counters.syncs, 1);
        file.sync()
            .inspect_err(|_| count(&self.shared.counters.sync_failures, 1))
    }

    fn failed(&mut self, failure: Failure) -> BrokerError {
        count(&self.shared.counters.write_failures, 1);
        let (error, is_unknown) = match failure {
            Failure::Nothing(error) => (error, false),
            Failure::Unknown(error) => (error, true),
        };
        tracing::error!(%error, folder = %self.shared.folder.display(), "the log cannot be written");
        let reason = format!("the log cannot be written: {error}");
        self.pause = Some((Instant::now() + self.shared.options.pause, reason.clone()));
        if is_unknown {
            BrokerError::Unknown(reason)
        } else {
            BrokerError::Unavailable(reason)
        }
    }
}

/// Is there only no room? Then there may be some again.
fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The same answer to everything in a batch.
fn answer(chore: Option<Chore>, requests: &VecDeque<Request>, error: &BrokerError) -> Vec<Committed> {
    if let Some(chore) = chore {
        let _ = chore.done.try_send(Err(error.clone()));
    }
    let failed = |ticket| Committed {
        ticket,
        result: Err(error.clone()),
    };
    requests.iter().map(|request| failed(request.ticket())).collect()
}
