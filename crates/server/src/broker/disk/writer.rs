//! The one thread that writes: a batch, one sync, then the index. While it writes the next one, the hub is told.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use cometserver_core::Time;
use cometserver_core::broker::{BrokerError, Committed};

use super::format::header::{file_name, seed};
use super::format::reach::REACH;
use super::format::{Concerned, Header, Loss, Mark, Opening, SegmentState, VERSION, frame, start};
use super::index::Segment;
use super::io::DiskFile;
use super::keeper;
use super::plan::Plan;
use super::queue::{Batch, Request};
use super::reach::ReachFile;
use super::room::is_full;
use super::shared::{Shared, count};
use super::telling::{self, Answers};

mod missed;

use missed::{Left, Missed, answer, in_order};

/// What the buffer may keep between batches, in bytes: after a huge payload it is let go.
const KEEP_BUFFER: usize = 16 << 20;

/// So few answers the writer tells itself, while nothing waits to be written: waking another thread takes as long.
const FEW: usize = 16;

/// What is not even laid out needs so many bytes at most: the file `reach`, and the beginning of a segment.
const UNBEGUN: u64 = REACH as u64 + (12 << 10);

/// What helps on a full disk.
const WAY_OUT: &str = "make room or delete what need not be kept, then it goes on by itself";

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
    /// How far the log is safe is told to it.
    reach: ReachFile,
    /// This start, until it is written: nothing is stored before it.
    start: Option<Start>,
    /// Which change of what is buffered was written down last, and which will have been when the buffer is safe.
    buffered: (u32, u32),
    /// Something was refused of which the publisher may have been told that it is taken: its readers are to be told.
    owes_loss: bool,
    /// Nothing is tried before this, for this reason.
    pause: Option<(Instant, String)>,
}

/// A start of the server that is to be written down.
struct Start {
    /// Its mark.
    mark: u32,
    /// When.
    time: Time,
    /// The position that the log had reached.
    position: u64,
    /// What may have been lost before it.
    lost: Option<Loss>,
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
    pub(crate) fn new(shared: Arc<Shared>, current: Option<Current>, newest: u32, reach: ReachFile) -> Self {
        Self {
            shared,
            current,
            newest,
            buffer: Vec::new(),
            reach,
            start: None,
            buffered: (0, 0),
            owes_loss: false,
            pause: None,
        }
    }

    /// Writes the mark of this start, and what may have been lost before it. Where the disk is full that waits for the first batch that fits, and why is returned:
    /// what is there can be read all the same.
    ///
    /// # Errors
    /// Any other reason why nothing can be written.
    pub(crate) fn begin(
        &mut self,
        mark: u32,
        time: Time,
        lost: Option<Loss>,
    ) -> Result<Option<BrokerError>, BrokerError> {
        let position = self.shared.index().position;
        self.start = Some(Start {
            mark,
            time,
            // The last is that of the loss.
            position: position - u64::from(lost.is_some()),
            lost,
        });
        let begun = self.begin_segment(false).map_err(Failure::Nothing);
        let stored = begun.and_then(|begun| {
            if let Some(segment) = begun.as_ref().or(self.current.as_ref()) {
                let (seed, base) = (segment.seed, segment.length);
                self.put_start(seed, base);
            }
            self.store(begun, position)
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

    /// Lays out what comes before everything else: this start, or what has changed since of what is buffered.
    fn put_start(&mut self, seed: u32, base: u32) {
        let (buffered, changes) = {
            let losses = &self.shared.index().losses;
            if self.start.is_none() && losses.changes == self.buffered.0 {
                return;
            }
            (losses.buffered.clone(), losses.changes)
        };
        self.buffered.1 = changes;
        let Some(start) = &self.start else {
            put(&mut self.buffer, seed, base, |to| {
                start::put_buffered(to, &buffered);
            });
            return;
        };
        let mark = Mark {
            mark: start.mark,
            position: start.position,
            time: start.time,
            buffered: Some(buffered),
        };
        put(&mut self.buffer, seed, base, |to| mark.put(to));
        if let Some(loss) = &start.lost {
            put(&mut self.buffer, seed, base, |to| loss.put(to));
        }
    }

    /// Writes until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        loop {
            let batch = self.look_for_room();
            let Some(batch) = self.shared.queue.take(batch) else {
                break;
            };
            self.commit(batch);
        }
        let owes_start = self.start.is_some_and(|start| start.lost.is_some());
        // What is to be told and found no room would be forgotten with it.
        if !self.owes_loss && !owes_start {
            self.reach.close();
        }
    }

    /// Where the disk is nearly full, publishers wait while something can be cleared away. Returns how many bytes the next
    /// batch may have.
    fn look_for_room(&self) -> usize {
        let shared = &self.shared;
        shared.room.measure();
        let (sizes, has_work, kept, total) = {
            let index = shared.index();
            let sizes = shared.room.sizes(&shared.options, index.total);
            let has_work = sizes.is_tight && keeper::has_work(&index, shared);
            let current = self.current.as_ref();
            let current = current.and_then(|current| index.segments.get(&current.number));
            (sizes, has_work, current.map_or(0, |one| one.live), index.total)
        };
        shared.room.provide(kept, total);
        if has_work && !shared.room.is_stuck() && !shared.bell.is_closed() {
            shared.queue.hold();
            // It lets go when it has looked.
            shared.bell.ring();
        }
        sizes.batch
    }

    /// Writes one batch and answers everything in it.
    fn commit(&mut self, batch: Batch) {
        let (requests, payloads) = (batch.requests.len(), batch.payloads);
        if self.shared.room.take_freed() {
            self.pause = None;
        }
        self.pause.take_if(|(until, _)| *until <= Instant::now());
        let committed = self.write(batch);
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

    /// Writes a batch, of which publications are refused while there is no room for them.
    fn write(&mut self, mut batch: Batch) -> Vec<Committed> {
        let refusal = match &self.pause {
            Some((_, reason)) => Err(BrokerError::Unavailable(reason.clone())),
            None => self.has_room(),
        };
        let Err(refusal) = refusal else {
            return self.write_all(batch);
        };
        if self.pause.is_some() && !self.shared.room.is_full() {
            // The disk fails: nothing is tried.
            self.note_refused(&batch.requests);
            return answer(batch.chore, &batch.requests, &refusal);
        }
        // What clears away goes on.
        let kinds = batch.kinds();
        let publications = batch.take_publications();
        self.note_refused(&publications);
        let refused = answer(None, &publications, &refusal);
        if batch.is_empty() {
            return refused;
        }
        in_order(&kinds, refused, self.write_all(batch))
    }

    /// Writes a batch. What of it makes room, and finds none, has the reserve.
    fn write_all(&mut self, batch: Batch) -> Vec<Committed> {
        let urgent = batch.urgent();
        let kinds = urgent.as_ref().map_or_else(Vec::new, |_| batch.kinds());
        match self.try_all(batch) {
            Ok(committed) => committed,
            Err(missed) => {
                let Some(urgent) = urgent.filter(|_| missed.is_full) else {
                    return missed.fail(&self.shared);
                };
                let refused = missed.fail_publications(&self.shared);
                in_order(&kinds, refused, self.write_urgent(urgent))
            }
        }
    }

    /// Writes what makes room, with the reserve where there is none: upkeep first, as what is deleted is deleted after it was copied.
    fn write_urgent(&mut self, mut batch: Batch) -> Vec<Committed> {
        let deletions = Batch {
            requests: std::mem::take(&mut batch.requests),
            ..Batch::default()
        };
        if !batch.is_empty() {
            self.write_with_reserve(batch, false);
        }
        match deletions.is_empty() {
            true => Vec::new(),
            false => self.write_with_reserve(deletions, true),
        }
    }

    fn write_with_reserve(&mut self, batch: Batch, deletes: bool) -> Vec<Committed> {
        let again = batch.urgent();
        let missed = match self.try_all(batch) {
            Ok(committed) => return committed,
            Err(missed) => missed,
        };
        let laid_out = self.buffer.len() as u64;
        let needed = deletes.then_some(if laid_out == 0 { UNBEGUN } else { laid_out });
        let Some(again) = again.filter(|_| missed.is_full && self.shared.room.release(needed)) else {
            return missed.fail(&self.shared);
        };
        drop(missed.fail_publications(&self.shared));
        let tried = self.try_all(again);
        self.shared.room.end_loan();
        match tried {
            Ok(committed) => committed,
            Err(missed) => missed.fail(&self.shared),
        }
    }

    fn try_all(&mut self, batch: Batch) -> Result<Vec<Committed>, Box<Missed>> {
        self.buffer.clear();
        self.buffer.shrink_to(KEEP_BUFFER);
        let (has_publications, is_upkeep) = (batch.has_publications(), batch.chore.is_some());
        let begun = match self.begin_segment(batch.seals()) {
            Ok(begun) => begun,
            Err(error) => {
                let is_full = is_full(&error);
                let error = self.failed(Failure::Nothing(error));
                self.note_refused(&batch.requests);
                return Err(Box::new(Missed {
                    left: Left::Batch(batch),
                    error,
                    is_full,
                }));
            }
        };
        let (seed, base, number) = match begun.as_ref().or(self.current.as_ref()) {
            Some(segment) => (segment.seed, segment.length, segment.number),
            None => {
                return Err(Box::new(Missed {
                    left: Left::Batch(batch),
                    error: BrokerError::Unavailable("there is no segment".into()),
                    is_full: false,
                }));
            }
        };
        self.put_start(seed, base);
        let mut position = self.shared.index().position;
        let owed = self.owed(&batch, position + 1);
        if let Some(loss) = &owed {
            position = loss.position;
            put(&mut self.buffer, seed, base, |to| loss.put(to));
        }
        let plan = Plan::new(
            &self.shared,
            batch,
            &mut self.buffer,
            (seed, base, number),
            position,
        );
        if self.buffer.is_empty() {
            return Ok(plan.apply(&self.shared, base));
        }
        match self.store(begun, plan.position()) {
            Ok(length) => {
                count(&self.shared.counters.batches, 1);
                if let Some(loss) = owed {
                    self.owes_loss = false;
                    lose(&self.shared, loss);
                }
                if is_upkeep {
                    self.shared.room.note_upkeep(self.buffer.len());
                }
                let committed = plan.apply(&self.shared, length);
                if has_publications {
                    let total = self.shared.index().total;
                    self.shared.room.note_written(total);
                }
                Ok(committed)
            }
            Err(failure) => {
                let is_full = matches!(&failure, Failure::Nothing(error) if is_full(error));
                let error = self.failed(failure);
                self.owes_loss |= plan.concerns(&self.shared.index());
                Err(Box::new(Missed {
                    left: Left::Plan(plan),
                    error,
                    is_full,
                }))
            }
        }
    }

    /// These are refused: of some the publisher may have been told otherwise.
    fn note_refused(&mut self, requests: &VecDeque<Request>) {
        let index = self.shared.index();
        let buffered = &index.losses.buffered;
        if self.owes_loss || *buffered == Concerned::Nobody {
            return;
        }
        let is_concerned = |request: &Request| match request {
            Request::Publish(submission) => submission.channels.iter().any(|name| buffered.concerns(name)),
            Request::Delete(_) => false,
        };
        self.owes_loss = requests.iter().any(is_concerned);
    }

    /// What is to be said of what was refused before, at this position. With a publication, which brings it to everybody at once.
    fn owed(&self, batch: &Batch, position: u64) -> Option<Loss> {
        if !self.owes_loss || !batch.has_publications() {
            return None;
        }
        Some(Loss {
            position,
            concerned: self.shared.index().losses.buffered.clone(),
        })
    }

    /// Where all is cleared away that can be, a reserve that grew with what was kept once may be as small as it need be now.
    fn settles_for_less(&self) -> bool {
        let shared = &self.shared;
        let (has_work, kept, total) = {
            let index = shared.index();
            let kept = index.segments.values().map(|segment| segment.live).max();
            (keeper::has_work(&index, shared), kept.unwrap_or(0), index.total)
        };
        !has_work && shared.room.settle_for_less(&shared.options, kept, total)
    }

    /// Is there room for publications? What a full disk needs to make some again comes first. And far above the ceiling nothing
    /// is taken: what was trimmed has to be cleared away first, or retained values fill it.
    fn has_room(&self) -> Result<(), BrokerError> {
        let shared = &self.shared;
        if shared.room.is_short() && !shared.room.refill() && !self.settles_for_less() {
            shared.bell.ring();
            return Err(BrokerError::Unavailable(format!("the disk is full: {WAY_OUT}")));
        }
        let sizes = shared.sizes();
        let (total, ceiling) = (shared.index().total, sizes.ceiling);
        if total <= ceiling + ceiling / 4 + shared.options.segment {
            return Ok(());
        }
        shared.bell.ring();
        Err(BrokerError::Unavailable(format!(
            "the log has {total} bytes, its ceiling is {ceiling}"
        )))
    }

    /// Begins a new segment if there is none or it is long enough. It counts only once its first batch is safe: its header
    /// is at the beginning of the buffer.
    fn begin_segment(&mut self, seals: bool) -> io::Result<Option<Current>> {
        if let Some(start) = &self.start {
            let newest = {
                let index = self.shared.index();
                let newest = index.segments.last_key_value();
                newest.map_or((0, 0), |(number, segment)| (*number, segment.length))
            };
            let (disk, folder) = (&*self.shared.disk, &self.shared.folder);
            self.reach.begin(disk, folder, newest, start.position)?;
        }
        if let Some(current) = &self.current
            && !seals
            && u64::from(current.length) < self.shared.sizes().segment
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
            version: VERSION,
            store: self.shared.store,
            segment: number,
            first,
        };
        let seed = seed(&self.shared.store, number);
        self.buffer.extend_from_slice(&header.encode());
        put(&mut self.buffer, seed, 0, |to| opening.put(to));
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
            // That of a loss before the start is reached with the start.
            position: self.start.as_ref().map_or(index.position, |start| start.position),
            forgotten: index.forgotten,
            marks: index.marks.clone(),
            segments: segments.collect(),
            buffered: Some(index.losses.buffered.clone()),
            losses: index.losses.known.clone(),
        };
        (opening, index.position + 1)
    }

    /// Writes the buffer, with which the log reaches this position, and makes it safe. Returns how long the segment is then.
    fn store(&mut self, begun: Option<Current>, position: u64) -> Result<u32, Failure> {
        let length = match begun {
            Some(begun) => self.store_first(begun),
            None => self.store_next(),
        }?;
        if let Some(current) = &self.current {
            self.reach.note(current.number, length, position);
        }
        self.buffered.0 = self.buffered.1;
        if let Some(start) = self.start.take() {
            self.shared.index().note_mark(start.mark, start.position);
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
        if !file.has_name().unwrap_or(true) {
            // Somebody has removed it, perhaps with the whole folder: what is in it now, nobody will ever read.
            self.current = None;
            let gone = io::Error::new(io::ErrorKind::NotFound, "its newest segment was removed");
            return Err(Failure::Nothing(gone));
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
        let mut is_news = true;
        if is_full(&error) {
            let total = self.shared.index().total;
            is_news = self.shared.room.note_full(total);
            // Perhaps there is something to clear away.
            self.shared.bell.ring();
        }
        if is_news {
            tracing::error!(%error, folder = %self.shared.folder.display(), "the log cannot be written");
        }
        let reason = match is_full(&error) {
            true => format!("the log cannot be written: {error}: {WAY_OUT}"),
            false => format!("the log cannot be written: {error}"),
        };
        self.pause = Some((Instant::now() + self.shared.options.pause, reason.clone()));
        if is_unknown {
            BrokerError::Unknown(reason)
        } else {
            BrokerError::Unavailable(reason)
        }
    }
}

/// Lays out a record at the end of a buffer, whose first byte will be at `base` in the segment.
fn put(buffer: &mut Vec<u8>, seed: u32, base: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = frame::begin(buffer);
    body(buffer);
    let offset = base + start as u32;
    frame::finish(buffer, start, seed, offset);
}

/// It is written that something is lost: from now on readers are told.
fn lose(shared: &Shared, loss: Loss) {
    let mut index = shared.index();
    index.position = loss.position;
    index.losses.note(loss);
}
