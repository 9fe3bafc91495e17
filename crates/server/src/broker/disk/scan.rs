//! Reading a segment from its beginning to its end: records, and what lies between them that is none.

use std::io;

use super::format::frame;
use super::io::DiskFile;

/// So much is read at once: large enough for the disk, small enough for the processor's cache.
const CHUNK: usize = 1 << 20;

/// A part of a file that cannot be read is left out in steps of this size.
const PAGE: usize = 4096;

/// A part of a segment.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A whole record.
    Record {
        /// Where it begins.
        offset: u32,
        /// Frame and body.
        length: u32,
        /// The body.
        body: &'a [u8],
    },
    /// No record begins here; the next one, or the end, is at `to`.
    Damage {
        /// The first byte.
        from: u32,
        /// The first byte behind it.
        to: u32,
    },
}

/// See the module.
pub(crate) struct Scan<'a> {
    file: &'a dyn DiskFile,
    seed: u32,
    at: u32,
    end: u32,
    window: Vec<u8>,
    begins: u32,
    failed: Option<(u64, io::Error)>,
}

enum Next {
    Record(u32),
    Damage(u32),
}

impl<'a> Scan<'a> {
    /// From `at` to `end`. If the file ends before that, what is not there is damage.
    pub(crate) fn new(file: &'a dyn DiskFile, seed: u32, at: u32, end: u32) -> Self {
        Self {
            file,
            seed,
            at,
            end,
            window: Vec::new(),
            begins: at,
            failed: None,
        }
    }

    /// The next piece; none at the end.
    pub(crate) fn next(&mut self) -> Option<Piece<'_>> {
        if self.at >= self.end {
            return None;
        }
        let offset = self.at;
        let next = match self.record_at(offset) {
            Ok(length) => Next::Record(length),
            Err(skip) => Next::Damage(self.resume(skip)),
        };
        Some(match next {
            Next::Record(length) => {
                self.at = offset + length;
                let record = self.bytes(offset, length as usize);
                Piece::Record {
                    offset,
                    length,
                    body: &record[frame::FRAME..],
                }
            }
            Next::Damage(to) => {
                self.at = to;
                Piece::Damage { from: offset, to }
            }
        })
    }

    /// The first page that the system could not read, and why: it is told as damage, but may be readable another time.
    pub(crate) fn into_failure(self) -> Option<(u64, io::Error)> {
        self.failed
    }

    /// The length of the record at an offset, or, if there is none, where the next may begin at the earliest.
    fn record_at(&mut self, offset: u32) -> Result<u32, u32> {
        let seed = self.seed;
        let left = self.end - offset;
        let next = offset + 1;
        if left as usize <= frame::FRAME {
            return Err(self.end);
        }
        let head = self.bytes(offset, frame::FRAME);
        let Some(body) = frame::body_length(head, seed, offset) else {
            return Err(next);
        };
        let length = frame::FRAME + body;
        if length > left as usize {
            return Err(next);
        }
        let record = self.bytes(offset, length);
        match frame::body(record, seed, offset) {
            Some(_) => Ok(length as u32),
            // The length has a check of its own: the next record is behind this one.
            None => Err(offset + length as u32),
        }
    }

    /// The next whole record behind damage, or the end.
    fn resume(&mut self, skip: u32) -> u32 {
        let mut offset = skip;
        while offset < self.end {
            offset = match self.record_at(offset) {
                Ok(_) => return offset,
                // A length whose body is broken is believed only where a record was expected.
                Err(_) => offset + 1,
            };
        }
        self.end
    }

    /// So many bytes from an offset on; zeros for what the file does not have.
    fn bytes(&mut self, offset: u32, count: usize) -> &[u8] {
        let from = (offset - self.begins) as usize;
        if offset < self.begins || from + count > self.window.len() {
            self.fill(offset, count.max(CHUNK.min((self.end - offset) as usize)));
        }
        let from = (offset - self.begins) as usize;
        &self.window[from..from + count]
    }

    fn fill(&mut self, offset: u32, count: usize) {
        self.window.clear();
        self.window.resize(count, 0);
        self.begins = offset;
        match self.file.read_at(&mut self.window, u64::from(offset)) {
            Ok(read) => self.window[read..].fill(0),
            Err(_) => {
                for (page, bytes) in self.window.chunks_mut(PAGE).enumerate() {
                    let at = u64::from(offset) + (page * PAGE) as u64;
                    let read = self.file.read_at(bytes, at).unwrap_or_else(|error| {
                        self.failed.get_or_insert((at, error));
                        0
                    });
                    bytes[read..].fill(0);
                }
            }
        }
    }
}
