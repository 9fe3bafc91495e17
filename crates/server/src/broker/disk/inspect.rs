//! Looking at a log without changing anything, also while a server has it open.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometserver_core::namespace::Namespaces;

use super::backup::{PARTIAL, RESTORING};
use super::format::Header;
use super::format::body::{KINDS, Kind};
use super::format::header::{HEADER, HeaderError, STORE_FILE, file_name, seed};
use super::index::Index;
use super::io::{Disk, DiskFile, ReadOnlyDisk};
use super::recovery::{self, OpenError};
use super::scan::{Piece, Scan};

/// How often it is tried: a server that clears away removes segments while they are looked for.
const TRIES: usize = 5;

/// What a folder holds.
#[derive(Clone, Debug)]
pub struct Report {
    /// The segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Channels of which something is known.
    pub channels: usize,
    /// Publications kept, counted once for each of their channels.
    pub publications: usize,
    /// Bytes of what is kept.
    pub live_bytes: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// The newest position.
    pub position: u64,
    /// Stretches that cannot be read, missing segments among them; what a crash left at the end is not.
    pub damaged: u64,
    /// So many starts are remembered.
    pub starts: usize,
    /// The file that says how far the log reaches is missing or damaged, and counts among `damaged`: whether something is
    /// missing at the end is not known.
    pub is_end_unknown: bool,
}

/// What a segment holds.
#[derive(Clone, Debug)]
pub struct SegmentReport {
    /// Its number.
    pub number: u32,
    /// Its file.
    pub path: PathBuf,
    /// The version of its format; none if its header is damaged.
    pub version: Option<u16>,
    /// How long the file is.
    pub file_bytes: u64,
    /// So many bytes of it count.
    pub bytes: u64,
    /// Bytes of what is kept in it.
    pub live_bytes: u64,
    /// The positions of its oldest and its newest publication.
    pub positions: Option<(u64, u64)>,
    /// How many records there are of each kind.
    pub records: Vec<(Kind, u64)>,
    /// Stretches that cannot be read: the first byte, and the first behind it.
    pub damage: Vec<(u64, u64)>,
    /// Bytes at the end of the newest segment that were not written completely; the next start cuts them off.
    pub torn: u64,
}

/// Looks at the log in a folder. Under these namespaces it would keep what is reported as kept.
///
/// # Errors
/// [`OpenError`], if it could not be opened either.
pub fn inspect(folder: &Path, namespaces: &Namespaces, now: u64) -> Result<Report, OpenError> {
    let is_unfinished = |end: &OsStr| end == PARTIAL || end == RESTORING;
    let is_missing = |path: PathBuf| {
        // A link that leads nowhere is there.
        path.symlink_metadata()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    let has_no_store = || folder.is_dir() && is_missing(folder.join(STORE_FILE));
    if folder.extension().is_some_and(is_unfinished) || has_no_store() {
        return Err(OpenError::Incomplete {
            folder: folder.to_owned(),
        });
    }
    let mut last = None;
    for _ in 0..TRIES {
        match look(folder, namespaces, now) {
            Err(OpenError::File { path, source })
                if source.kind() == std::io::ErrorKind::NotFound && path != folder =>
            {
                last = Some(OpenError::File { path, source });
            }
            other => return other,
        }
    }
    Err(last.expect("it was tried"))
}

fn look(folder: &Path, namespaces: &Namespaces, now: u64) -> Result<Report, OpenError> {
    let index = Index::new(Arc::new(namespaces.clone()));
    let recovered = recovery::recover(&ReadOnlyDisk, folder, index, now, 0, true)?;
    let index = recovered.index;
    let mut segments = Vec::new();
    let newest = index.segments.last_key_value().map(|(number, _)| *number);
    for (number, segment) in &index.segments {
        let path = folder.join(file_name(*number));
        let failed = |source| OpenError::File {
            path: path.clone(),
            source,
        };
        let file = ReadOnlyDisk.open(&path).map_err(failed)?;
        let mut report = SegmentReport {
            number: *number,
            path: path.clone(),
            version: version(&*file),
            file_bytes: file.length().map_err(failed)?,
            bytes: u64::from(segment.length),
            live_bytes: segment.live,
            positions: None,
            records: KINDS.iter().map(|kind| (*kind, 0)).collect(),
            damage: Vec::new(),
            torn: 0,
        };
        let seed = seed(&recovered.store, *number);
        report.read(&*file, seed, segment.length);
        if newest == Some(*number) {
            report.torn = report.file_bytes.saturating_sub(report.bytes);
        }
        segments.push(report);
    }
    Ok(Report {
        segments,
        channels: index.len(),
        publications: index.publications,
        live_bytes: index.live,
        bytes: index.total,
        position: index.position,
        damaged: recovered.damaged,
        starts: index.marks.len(),
        is_end_unknown: recovered.is_end_unknown,
    })
}

impl SegmentReport {
    fn read(&mut self, file: &dyn DiskFile, seed: u32, end: u32) {
        let mut scan = Scan::new(file, seed, HEADER as u32, end);
        while let Some(piece) = scan.next() {
            match piece {
                Piece::Damage { from, to } => self.damage.push((u64::from(from), u64::from(to))),
                Piece::Record { offset, length, body } => {
                    let known = body
                        .first()
                        .and_then(|kind| self.records.iter_mut().find(|(own, _)| *own as u8 == *kind));
                    match known {
                        Some((kind, count)) => {
                            *count += 1;
                            if *kind == Kind::Publication
                                && let Some(position) = body.get(1..9).and_then(|bytes| bytes.try_into().ok())
                            {
                                let position = u64::from_le_bytes(position);
                                self.positions =
                                    Some((self.positions.map_or(position, |(first, _)| first), position));
                            }
                        }
                        None => self.damage.push((u64::from(offset), u64::from(offset + length))),
                    }
                }
            }
        }
    }
}

fn version(file: &dyn DiskFile) -> Option<u16> {
    let mut bytes = [0; HEADER];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    match Header::decode(&bytes[..read]) {
        Ok(Header { version, .. }) | Err(HeaderError::Version(version)) => Some(version),
        Err(HeaderError::Damaged) => None,
    }
}
