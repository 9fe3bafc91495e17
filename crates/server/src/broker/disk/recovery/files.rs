//! The files of a log before they are read: which there are, and which store they belong to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::OpenError;
use crate::broker::disk::format::body::{self, Body};
use crate::broker::disk::format::header::{HEADER, HeaderError, STORE_FILE, seed, segment_number};
use crate::broker::disk::format::{Header, Opening, Reach, StoreId, VERSION, frame};
use crate::broker::disk::io::{Disk, DiskFile};

/// A segment's file before it is read.
pub(super) struct File {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) length: u64,
    pub(super) header: Option<Header>,
}

/// The segments in the folder, oldest first, with their headers.
pub(super) fn open_files(disk: &dyn Disk, folder: &Path) -> Result<Vec<File>, OpenError> {
    let mut names = disk.list(folder).map_err(|source| file_error(folder, source))?;
    names.sort_unstable();
    let mut files = Vec::new();
    for name in names {
        let Some(number) = segment_number(&name).filter(|number| *number > 0) else {
            continue;
        };
        let path = folder.join(&name);
        let failed = |source| file_error(&path, source);
        let file = disk.open(&path).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        let header = match read_header(&path, &*file)? {
            Ok(header) if header.segment == number => Some(header),
            Ok(_) => return Err(OpenError::Foreign { path }),
            Err(HeaderError::Version(found)) => return Err(OpenError::Version { path, found }),
            Err(HeaderError::Damaged) => None,
        };
        files.push(File {
            number,
            path,
            file,
            length,
            header,
        });
    }
    Ok(files)
}

fn read_header(path: &Path, file: &dyn DiskFile) -> Result<Result<Header, HeaderError>, OpenError> {
    let mut bytes = [0; HEADER];
    let read = file.read_at(&mut bytes, 0).map_err(|source| OpenError::Read {
        path: path.to_owned(),
        offset: 0,
        source,
    })?;
    Ok(Header::decode(&bytes[..read]))
}

/// Which store the folder is and of which version: the file `store` says so, else the segments and what the file `reach` was found
/// to say. It is written if it is not there.
pub(super) fn identify(
    disk: &dyn Disk,
    folder: &Path,
    files: &[File],
    reach: Option<&Reach>,
    only_looks: bool,
) -> Result<(StoreId, u16), OpenError> {
    let path = folder.join(STORE_FILE);
    let failed = |source| file_error(&path, source);
    let mut known = None;
    let mut is_there = false;
    match disk.open(&path) {
        Ok(file) => {
            is_there = true;
            match read_header(&path, &*file)? {
                Ok(header) => known = Some((header.store, header.version)),
                Err(HeaderError::Version(found)) => return Err(OpenError::Version { path, found }),
                Err(HeaderError::Damaged) => {}
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(file_error(&path, source)),
    }
    let headers = files.iter().filter_map(|file| file.header);
    let of_segments = headers.clone().next().map(|header| {
        let reach = reach.filter(|reach| reach.store == header.store);
        let newest = headers.map(|header| header.version).max();
        (header.store, reach.map_or(newest.unwrap_or(VERSION), |_| VERSION))
    });
    let (store, version) = match known.or(of_segments) {
        Some(known) => known,
        None if files.iter().all(|file| file.length < HEADER as u64) => (new_store()?, VERSION),
        None => {
            return Err(OpenError::Damaged {
                folder: folder.to_owned(),
            });
        }
    };
    let is_foreign = |file: &&File| file.header.is_some_and(|header| header.store != store);
    if let Some(foreign) = files.iter().find(is_foreign) {
        return Err(OpenError::Foreign {
            path: foreign.path.clone(),
        });
    }
    if known.is_none() && !only_looks {
        if is_there {
            disk.remove(&path).map_err(failed)?;
        }
        let header = Header {
            version,
            store,
            segment: 0,
            first: 0,
        };
        let written = disk.create(&path).and_then(|file| {
            file.write_at(&header.encode(), 0)?;
            file.sync()?;
            disk.sync_folder(folder)
        });
        written.map_err(failed)?;
    }
    Ok((store, version))
}

/// What the folder says of how far its log reaches.
pub(super) enum Told {
    /// Nothing, as there is no log yet.
    Nothing,
    /// Nothing, as version 1 never did.
    Unsaid,
    /// It should, and what says so is not there or cannot be read: what is missing at the end cannot be seen.
    Missing,
    /// This.
    Reach(Reach),
}

impl Told {
    /// What was read from a folder of this store and version, with these segments.
    pub(super) fn of(reach: Option<Reach>, store: &StoreId, version: u16, has_segments: bool) -> Self {
        match reach.filter(|reach| reach.store == *store && version > 1) {
            Some(reach) => Self::Reach(reach),
            None if !has_segments => Self::Nothing,
            None if version == 1 => Self::Unsaid,
            None => Self::Missing,
        }
    }

    /// So many bytes of this segment were safe at least.
    pub(super) fn safe(&self, segment: u32) -> u32 {
        match self {
            Self::Reach(reach) if reach.segment == segment => reach.length,
            _ => 0,
        }
    }
}

pub(super) fn new_store() -> Result<StoreId, OpenError> {
    let mut store = StoreId::default();
    getrandom::fill(&mut store).map_err(|error| OpenError::Start(error.to_string()))?;
    Ok(store)
}

/// What the newest segment that says so says about the older ones, and its number.
pub(super) fn newest_opening(files: &[File], store: &StoreId) -> Option<(Opening, u32)> {
    let of = |file: &File| Some((opening_of(file, store)?, file.number));
    files.iter().rev().find_map(of)
}

/// A segment's first record.
pub(super) fn opening_of(file: &File, store: &StoreId) -> Option<Opening> {
    let seed = seed(store, file.number);
    let at = HEADER as u32;
    let mut record = vec![0; frame::FRAME];
    if file.file.read_at(&mut record, u64::from(at)).ok()? < record.len() {
        return None;
    }
    let length = frame::FRAME + frame::body_length(&record, seed, at)?;
    if length as u64 > file.length {
        return None;
    }
    record.resize(length, 0);
    file.file.read_at(&mut record, u64::from(at)).ok()?;
    match body::decode(frame::body(&record, seed, at)?)? {
        Body::Opening(opening) => Some(opening),
        _ => None,
    }
}

pub(super) fn file_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::File {
        path: path.to_owned(),
        source,
    }
}
