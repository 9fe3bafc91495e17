//! Opening the folder: which segments there are, what of them counts, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cometserver_core::broker::Remembered;

use super::format::header::{HEADER, STORE_FILE, file_name, seed};
use super::format::reach::REACH_FILE;
use super::format::{Concerned, Loss, Opening, Reach, StoreId, VERSION};
use super::index::{Index, Segment};
use super::io::Disk;
use super::lock::LockError;
use super::reach::{self, ReachFile};
use super::replay::Replay;
use super::scan::{Piece, Scan};
use super::writer::Current;

mod files;

use files::{File, Told, file_error, identify, newest_opening, open_files, opening_of};

/// Reading the log is said to go on after so long, and again as often.
const PROGRESS: Duration = Duration::from_secs(1);

/// So much of the newest segment is written again: all that can have been on its way when its writer ended.
///
/// After a failed sync the system may hold pages that it takes for safe and that are not; a sync alone would not write them.
const TAIL: u32 = 8 << 20;

/// Why a log cannot be opened. Always the operator's to repair.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody else has it, or the lock cannot be written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Another version of CometServer wrote it.
    #[error("{}: format version {found}, this build knows those up to {VERSION}: run the version that wrote it, or name another data folder", path.display())]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: u16,
    },
    /// A segment is there that belongs to another log.
    #[error("{}: it belongs to another log: move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Nothing says which store the segments belong to: none of them can be checked.
    #[error("{}: the file `{STORE_FILE}` and the headers of all segments are damaged: restore a backup", folder.display())]
    Damaged {
        /// The folder.
        folder: PathBuf,
    },
    /// The file system.
    #[error("{}: {source}: the log needs a folder that it can read and write", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is looked at, and it is a copy that was never completed.
    #[error("{}: the copy was never completed: it has no file `{STORE_FILE}`, or still the name that it had while it was made", folder.display())]
    Incomplete {
        /// The folder.
        folder: PathBuf,
    },
    /// The disk does not give back what was written. It may another time: nothing is cut off or removed because of it.
    #[error("{}: byte {offset}: {source}: it cannot be read and was left as it is: try again, or copy the log to a disk that can be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// About where in it, in bytes.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// It could be read, but not be begun to be written.
    #[error("the log cannot be written: {0}")]
    Start(String),
}

/// What the folder holds.
pub(crate) struct Recovered {
    /// Which store it is.
    pub(crate) store: StoreId,
    /// What the segments say.
    pub(crate) index: Index,
    /// Keys in force.
    pub(crate) keys: Vec<Remembered>,
    /// The segment to go on with, if it can be gone on with.
    pub(crate) current: Option<Current>,
    /// The newest number of any segment.
    pub(crate) newest: u32,
    /// Stretches that could not be read.
    pub(crate) damaged: u64,
    /// What may have been answered before this start and never written: to be written down, at a position of its own.
    pub(crate) lost: Option<Loss>,
    /// Where it is said how far the log reaches.
    pub(crate) reach: ReachFile,
    /// That should be said, and is not: whether something is missing at the end is not known.
    pub(crate) is_end_unknown: bool,
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    /// Nothing is changed.
    only_looks: bool,
    folder: &'a Path,
    replay: Replay,
    damaged: u64,
    told_reach: Told,
    /// The position reached before the oldest segment that is there.
    begins: u64,
    began: Instant,
    told: Instant,
}

/// Opens the files of a folder that is locked, reads them, and cuts off what a crash left half written; or only looks.
///
/// # Errors
/// [`OpenError`].
pub(crate) fn recover(
    disk: &dyn Disk,
    folder: &Path,
    index: Index,
    now: u64,
    keys: u64,
    only_looks: bool,
) -> Result<Recovered, OpenError> {
    // Before the segments: a server that is looked at goes on writing.
    let reach_path = folder.join(REACH_FILE);
    let reach = reach::read(disk, folder).map_err(|source| OpenError::Read {
        path: reach_path,
        offset: 0,
        source,
    })?;
    let files = open_files(disk, folder)?;
    let (store, version) = identify(disk, folder, &files, reach.as_ref(), only_looks)?;
    let told_reach = Told::of(reach, &store, version, !files.is_empty());
    let said = match told_reach {
        Told::Reach(reach) => reach,
        _ => Reach {
            store,
            ..Reach::default()
        },
    };
    let mut recovery = Recovery {
        disk,
        only_looks,
        folder,
        replay: Replay::new(index, now.saturating_sub(keys)),
        damaged: 0,
        told_reach,
        begins: 0,
        began: Instant::now(),
        told: Instant::now(),
    };
    let mut newest = files.last().map_or(0, |file| file.number);
    let mut current = recovery.read_all(files, &store)?;
    if newest < said.segment {
        // Behind it another one is begun, which says what position was reached.
        (newest, current) = (said.segment, None);
        recovery.note_damage(newest, "the newest segment is missing");
    }
    recovery.compare_reach();
    let (keys, lost) = recovery.finish(now)?;
    Ok(Recovered {
        lost,
        reach: ReachFile::new(said, version),
        is_end_unknown: matches!(recovery.told_reach, Told::Missing),
        store,
        index: recovery.replay.index,
        keys,
        current,
        newest,
        damaged: recovery.damaged,
    })
}

impl Recovery<'_> {
    /// Reads the segments. Returns the one to go on with.
    fn read_all(&mut self, mut files: Vec<File>, store: &StoreId) -> Result<Option<Current>, OpenError> {
        let (opening, since) = newest_opening(&files, store).unzip();
        self.remove_given_up(&mut files, opening.as_ref().zip(since))?;
        let listed: BTreeMap<u32, u32> = opening
            .iter()
            .flat_map(|opening| &opening.segments)
            .map(|s| (s.number, s.length))
            .collect();
        let present: BTreeSet<u32> = files.iter().map(|file| file.number).collect();
        let total: u64 = files.iter().map(|file| file.length).sum();
        let (mut read, mut current, count) = (0, None, files.len());
        // Older segments that are not there have been removed, or say nothing that is not said later.
        let mut missing = listed
            .keys()
            .copied()
            .filter(|number| !present.contains(number))
            .peekable();
        let firsts: Vec<Option<u64>> = files
            .iter()
            .map(|file| file.header.map(|header| header.first))
            .collect();
        for (place, file) in files.into_iter().enumerate() {
            let number = file.number;
            while missing.next_if(|gone| *gone < number).is_some() {
                if place > 0 {
                    self.note_damage(number - 1, "a segment is missing");
                }
            }
            if place == 0 {
                self.begin(&file, store);
            }
            self.replay.given_up = firsts[place + 1..]
                .iter()
                .flatten()
                .min()
                .copied()
                .unwrap_or(u64::MAX);
            let length = listed.get(&number).map(|length| u64::from(*length));
            read += file.length;
            current = self.read_segment(file, store, length, place + 1 == count)?;
            self.tell(read, total);
        }
        for number in listed.keys().filter(|number| !present.contains(number)) {
            // Its removal was written down before it was removed.
            let is_first = present.first().is_some_and(|first| number < first);
            if is_first
                && !self.replay.removed.contains(number)
                && !removed_before(&self.replay.removed, *number)
            {
                self.missing_at_the_beginning(*number);
            }
        }
        Ok(current)
    }

    /// A segment that could not be made safe is not listed by the next one: it is there again if its removal was not safe.
    fn remove_given_up(
        &self,
        files: &mut Vec<File>,
        newest: Option<(&Opening, u32)>,
    ) -> Result<(), OpenError> {
        let Some((opening, since)) = newest else {
            return Ok(());
        };
        let listed: BTreeSet<u32> = opening.segments.iter().map(|segment| segment.number).collect();
        for file in files.extract_if(.., |file| file.number < since && !listed.contains(&file.number)) {
            if self.only_looks {
                continue;
            }
            tracing::warn!(path = %file.path.display(), "a segment that was given up is removed");
            self.disk
                .remove(&file.path)
                .map_err(|source| file_error(&file.path, source))?;
        }
        Ok(())
    }

    /// Where the oldest segment that is there begins: what was before it was removed.
    fn begin(&mut self, file: &File, store: &StoreId) {
        let position = match (file.header, opening_of(file, store)) {
            (Some(header), _) => header.first.saturating_sub(1),
            (None, Some(opening)) => opening.position,
            (None, None) => 0,
        };
        self.begins = position;
        self.replay.begins_at(position);
    }

    fn read_segment(
        &mut self,
        file: File,
        store: &StoreId,
        listed: Option<u64>,
        is_newest: bool,
    ) -> Result<Option<Current>, OpenError> {
        let seed = seed(store, file.number);
        // What was safe and is not there any more is damage, like what cannot be read.
        let safe = self.told_reach.safe(file.number);
        let end = u32::try_from(listed.unwrap_or(file.length.max(u64::from(safe)))).unwrap_or(u32::MAX);
        self.replay.index.add_segment(
            file.number,
            Segment {
                file: file.file.clone(),
                seed,
                length: end,
                live: 0,
                places: 0,
            },
        );
        let (mut whole, mut last, mut is_clean) = (HEADER as u32, None, file.header.is_some());
        let mut pending: Option<(u32, u32)> = None;
        if !is_clean && !is_newest {
            self.note_damage(file.number, "the header of a segment is damaged");
        }
        let mut scan = Scan::new(&*file.file, seed, HEADER as u32, end);
        while let Some(piece) = scan.next() {
            match piece {
                Piece::Damage { from, to } => {
                    pending = Some((pending.map_or(from, |(first, _)| first), to));
                }
                Piece::Record { offset, length, body } => {
                    if let Some((from, to)) = pending.take() {
                        is_clean = false;
                        self.lose(&file, from, to);
                    }
                    if !self.replay.record(file.number, offset, length, body) {
                        is_clean = false;
                        self.lose(&file, offset, offset + length);
                    }
                    last = Some(offset);
                    whole = offset + length;
                }
            }
        }
        let failure = scan.into_failure();
        if !is_newest {
            if let Some((from, to)) = pending {
                self.lose(&file, from, to);
            }
            return Ok(None);
        }
        // Zeros in place of what could not be read look like the end of the log.
        if let Some((offset, source)) = failure {
            return Err(OpenError::Read {
                path: file.path,
                offset,
                source,
            });
        }
        if whole < safe {
            // It stays as it is, and another segment is begun.
            self.lose(&file, whole, safe);
            self.replay.index.grow_segment(file.number, safe);
            return Ok(None);
        }
        self.end_newest(file, seed, whole, last, is_clean)
    }

    /// Cuts off what follows the last whole record of the newest segment: a crash came before it was safe.
    fn end_newest(
        &mut self,
        file: File,
        seed: u32,
        whole: u32,
        last: Option<u32>,
        is_clean: bool,
    ) -> Result<Option<Current>, OpenError> {
        if self.only_looks {
            self.replay.index.grow_segment(file.number, whole);
            return Ok(None);
        }
        let failed = |source| file_error(&file.path, source);
        let Some(last) = last else {
            tracing::warn!(
                segment = file.number,
                bytes = file.length,
                "the newest segment was never written completely: it is removed"
            );
            self.replay.index.remove_segment(file.number);
            self.disk.remove(&file.path).map_err(failed)?;
            self.disk.sync_folder(self.folder).map_err(failed)?;
            return Ok(None);
        };
        if file.header.is_none() {
            self.note_damage(file.number, "the header of a segment is damaged");
        }
        if file.length > u64::from(whole) {
            tracing::warn!(
                segment = file.number,
                bytes = file.length - u64::from(whole),
                "the log ends in a record that was not written completely: it is cut off"
            );
            file.file.truncate(u64::from(whole)).map_err(failed)?;
        }
        self.replay.index.grow_segment(file.number, whole);
        // What was read is told as safe from now on, so it has to be: its writer may have ended before its sync.
        let from = whole.saturating_sub(TAIL).min(last);
        let mut tail = vec![0; (whole - from) as usize];
        file.file.read_at(&mut tail, u64::from(from)).map_err(failed)?;
        file.file.write_at(&tail, u64::from(from)).map_err(failed)?;
        file.file.sync().map_err(failed)?;
        self.disk.sync_folder(self.folder).map_err(failed)?;
        // A segment of an older version is not gone on with.
        let is_current = file.header.is_some_and(|header| header.version == VERSION);
        Ok((is_clean && is_current).then_some(Current {
            number: file.number,
            file: file.file,
            seed,
            length: whole,
        }))
    }

    /// Everything has been read that is there: is it all that was safe?
    fn compare_reach(&mut self) {
        match self.told_reach {
            Told::Reach(reach) => {
                if reach.position > self.replay.index.position {
                    self.replay.reached(reach.position, reach.segment);
                }
            }
            Told::Missing => {
                self.damaged += 1;
                tracing::error!(
                    path = %self.folder.join(REACH_FILE).display(),
                    "it is missing or damaged: whether something is lost at the end of the log is not known, and readers are told of a gap"
                );
            }
            Told::Nothing | Told::Unsaid => {}
        }
    }

    /// In which channels something may have been answered before this start that was never written.
    fn doubt(&self) -> Concerned {
        let index = &self.replay.index;
        let now = &index.losses.buffered;
        let then = self.replay.buffered.as_ref().unwrap_or(now);
        match self.told_reach {
            _ if self.only_looks => Concerned::Nobody,
            Told::Nothing => Concerned::Nobody,
            Told::Missing => Concerned::Everybody,
            Told::Reach(reach) if reach.is_closed && self.ends_within(&reach) => Concerned::Nobody,
            // What was buffered may have been said in the damaged part.
            _ if self.damaged > 0 => then.or(now),
            _ => then.clone(),
        }
    }

    /// Has nothing been written since?
    fn ends_within(&self, reach: &Reach) -> bool {
        let newest = self.replay.index.segments.last_key_value();
        newest.is_none_or(|(number, segment)| (*number, segment.length) <= (reach.segment, reach.length))
    }

    /// A stretch of a segment cannot be read.
    fn lose(&mut self, file: &File, from: u32, to: u32) {
        self.damaged += 1;
        self.replay.damaged(file.number);
        tracing::error!(
            path = %file.path.display(),
            from,
            to,
            after_position = self.replay.index.position,
            "the log is damaged: what was written there is lost, and readers are told of a gap"
        );
    }

    fn note_damage(&mut self, segment: u32, what: &str) {
        self.damaged += 1;
        self.replay.damaged(segment);
        tracing::error!(
            segment,
            after_position = self.replay.index.position,
            "{what}: what was written there is lost, and readers are told of a gap"
        );
    }

    /// Nothing read so far depends on it: who is asked for something older says that something may be gone.
    fn missing_at_the_beginning(&mut self, segment: u32) {
        self.damaged += 1;
        tracing::error!(
            segment,
            "the oldest segment is missing: what was kept in it is lost"
        );
        let index = &mut self.replay.index;
        index.forgotten = index.forgotten.max(self.begins);
    }

    fn tell(&mut self, read: u64, total: u64) {
        if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            tracing::info!(read, total, "reading the log");
        }
    }

    fn finish(&mut self, now: u64) -> Result<(Vec<Remembered>, Option<Loss>), OpenError> {
        let (keys, lost) = self.replay.finish(now, self.doubt());
        let removed: Vec<u32> = self.replay.removed.iter().copied().collect();
        for number in removed {
            if self.replay.index.segments.contains_key(&number) && !self.only_looks {
                // A crash came between its removal and the end of its file.
                self.replay.index.remove_segment(number);
                let path = self.folder.join(file_name(number));
                self.disk
                    .remove(&path)
                    .map_err(|source| file_error(&path, source))?;
            }
        }
        let index = &self.replay.index;
        tracing::info!(
            publications = index.publications,
            channels = index.len(),
            position = index.position,
            bytes = index.total,
            milliseconds = self.began.elapsed().as_millis() as u64,
            "the log is open"
        );
        if self.replay.lost > 0 {
            tracing::error!(publications = self.replay.lost, "publications are lost");
        }
        if lost.is_some() && !matches!(self.told_reach, Told::Missing) {
            tracing::warn!(
                "the log was not closed in good order: what was answered last on buffered channels may be lost, and their readers are told of a gap"
            );
        }
        Ok((keys, lost))
    }
}

/// Segments are removed oldest first: if a later one was, this one was before it.
fn removed_before(removed: &BTreeSet<u32>, number: u32) -> bool {
    removed.range(number..).next().is_some()
}
