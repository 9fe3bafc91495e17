//! The files of what memory kept: written beside, made safe, and put in place at once; read as something from outside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cometserver_core::kept::{Kept, Piece};
use rustix::fs::OFlags;

use super::FILE;
use super::format::{FRAME, Framed, HEADER, Header, VERSION, check, decode, put, put_end};

/// It holds payloads.
const FILE_MODE: u32 = 0o600;

/// What is written until it is whole.
pub(super) const UNFINISHED: &str = "comet.memory.tmp";

/// How long the file of the mark is, in bytes: the mark, and its check.
const INCARNATION: usize = 8;

/// What the check of the mark begins with.
const INCARNATION_SALT: u32 = u32::from_be_bytes(*b"mark");

/// Why it could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Whatever the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Chance is not to be had.
    #[error("random numbers: {0}")]
    Random(String),
    /// It would be larger than what memory may keep.
    #[error("it would take more than limits.log_memory")]
    Full,
    /// It took too long.
    #[error("it took too long")]
    Late,
}

/// Why a file is not taken up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Whatever the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, a link, a device.
    #[error("it is no file")]
    NoFile,
    /// It says more than memory may keep.
    #[error("it has {0} bytes, more than limits.log_memory allows")]
    TooLarge(u64),
    /// A later build wrote it.
    #[error("a later version of the server wrote it (format {0}, this one reads up to {VERSION})")]
    Newer(u16),
    /// It is not what was written.
    #[error("it is damaged at byte {0}")]
    Damaged(u64),
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// How long the file is.
    pub bytes: u64,
    /// How many publications it has.
    pub publications: u64,
    /// Not all idempotency keys did fit.
    pub keys_left: bool,
}

/// A file that is being written. Dropped before it is finished, it leaves nothing behind.
pub struct Writer {
    file: Option<BufWriter<File>>,
    folder: PathBuf,
    salt: u32,
    frames: u64,
    most: u64,
    publications: u64,
    bytes: u64,
    only_keys: bool,
    is_full: bool,
    body: Vec<u8>,
}

impl Writer {
    /// Begins a file in a folder, of at most so many bytes.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn create(folder: &Path, mark: u32, most: u64) -> Result<Self, WriteError> {
        let path = folder.join(UNFINISHED);
        // What a stop left behind that was itself ended.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let salt = getrandom::u32().map_err(|error| WriteError::Random(error.to_string()))?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        let mut writer = Self {
            file: Some(BufWriter::with_capacity(1 << 18, file)),
            folder: folder.to_owned(),
            salt,
            frames: 0,
            most,
            publications: 0,
            bytes: 0,
            only_keys: false,
            is_full: false,
            body: Vec::new(),
        };
        let header = Header {
            version: VERSION,
            mark,
            salt,
        };
        writer.write(&header.encode())?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.bytes += bytes.len() as u64;
        }
        Ok(())
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// [`WriteError::Full`]: nothing of it was written. After any other the file cannot be finished.
    pub fn add(&mut self, piece: &Piece) -> Result<(), WriteError> {
        match piece {
            Piece::Publication(_) => self.publications += 1,
            Piece::Listened(_) | Piece::Key(_) => self.only_keys = true,
            Piece::Head(_) | Piece::Channel(_) => {}
        }
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        put(&mut body, piece);
        // The last frame has its place.
        let after = self.bytes + (body.len() + 2 * FRAME + 1) as u64;
        let fits = after <= self.most && u32::try_from(body.len()).is_ok();
        let framed = match fits {
            true => self.frame(&body),
            false => {
                self.is_full = true;
                Err(WriteError::Full)
            }
        };
        self.body = body;
        framed
    }

    fn frame(&mut self, body: &[u8]) -> Result<(), WriteError> {
        let mut head = [0; FRAME];
        head[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&check(self.salt, self.frames, body).to_le_bytes());
        self.frames += 1;
        self.write(&head)?;
        self.write(body)
    }

    /// How much has been written, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Is everything in it but what may be left out?
    pub fn has_only_keys_left(&self) -> bool {
        self.only_keys
    }

    /// Makes it safe, and puts it in place.
    ///
    /// # Errors
    /// [`WriteError`]: nothing is left behind.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        let mut end = Vec::new();
        put_end(&mut end);
        self.frame(&end)?;
        if let Some(file) = &mut self.file {
            file.flush()?;
            file.get_ref().sync_all()?;
        }
        fs::rename(self.folder.join(UNFINISHED), self.folder.join(FILE))?;
        // It has its name.
        self.file = None;
        sync_folder(&self.folder)?;
        Ok(Written {
            bytes: self.bytes,
            publications: self.publications,
            keys_left: self.is_full,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // What is still to be written is not wanted.
            let _ = file.into_parts();
            let _ = fs::remove_file(self.folder.join(UNFINISHED));
        }
    }
}

/// Makes safe which files a folder has.
///
/// # Errors
/// Whatever the system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Opens a file without following a link, and without waiting for whoever is at the other end of a pipe.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

/// Reads all of a file of at most `most` bytes; none if there is none. Nothing larger than the file is ever asked for.
///
/// # Errors
/// [`ReadError`].
pub fn read(path: &Path, most: u64) -> Result<Option<Kept>, ReadError> {
    let file = match open(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::NoFile);
    }
    if metadata.len() > most {
        return Err(ReadError::TooLarge(metadata.len()));
    }
    read_from(BufReader::with_capacity(1 << 18, file), metadata.len()).map(Some)
}

/// Reads what was kept from `length` bytes.
///
/// # Errors
/// [`ReadError`].
pub fn read_from(mut from: impl Read, length: u64) -> Result<Kept, ReadError> {
    let mut at = 0;
    let mut header = [0; HEADER];
    fill(&mut from, &mut header, at)?;
    let header = Header::decode(&header).ok_or(ReadError::Damaged(at))?;
    if header.version > VERSION {
        return Err(ReadError::Newer(header.version));
    }
    at += HEADER as u64;
    let mut kept = Kept::default();
    for number in 0u64.. {
        let mut head = [0; FRAME];
        fill(&mut from, &mut head, at)?;
        let body_length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let checked = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let end = at + FRAME as u64 + u64::from(body_length);
        if end > length {
            return Err(ReadError::Damaged(at));
        }
        let mut body = vec![0; body_length as usize];
        fill(&mut from, &mut body, at)?;
        if check(header.salt, number, &body) != checked {
            return Err(ReadError::Damaged(at));
        }
        match decode(&Bytes::from(body)) {
            Some(Framed::Piece(piece)) if matches!(*piece, Piece::Head(_)) == (number == 0) => {
                kept.add(*piece);
            }
            Some(Framed::End) if end == length && number > 0 && kept.head.marks.memory == header.mark => {
                return Ok(kept);
            }
            _ => return Err(ReadError::Damaged(at)),
        }
        at = end;
    }
    Err(ReadError::Damaged(at))
}

fn fill(from: &mut impl Read, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
    from.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Damaged(at),
        _ => ReadError::Io(error),
    })
}

/// The mark of the last start, if it is there and whole.
pub fn read_incarnation(path: &Path) -> Option<u32> {
    let file = open(path, OpenOptions::new().read(true)).ok()?;
    let mut bytes = [0; INCARNATION];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (number(4) == check(INCARNATION_SALT, 0, &bytes[..4])).then(|| number(0))
}

/// Writes down the mark of this start, safely. It is written over the old one, which takes no room; one half written is none.
///
/// # Errors
/// Whatever the system says.
pub fn write_incarnation(path: &Path, mark: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = open(path, options)?;
    let mut bytes = [0; INCARNATION];
    bytes[..4].copy_from_slice(&mark.to_le_bytes());
    let checked = check(INCARNATION_SALT, 0, &bytes[..4]);
    bytes[4..].copy_from_slice(&checked.to_le_bytes());
    file.write_all_at(&bytes, 0)?;
    file.sync_all()
}
