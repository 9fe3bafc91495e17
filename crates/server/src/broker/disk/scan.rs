//! Reading a segment from its beginning to its end: records, and what lies between them that is none.

use std::io;

use super::format::frame;
use super::io::DiskFile;

/// So much is read at once: large enough for the disk, small enough for the processor's cache.
const CHUNK: usize = 1 << 20;

/// Records whose length is whole and whose body is not take so many times the length of the file to look at, and no more: a file
/// made to have many of them would take for ever. Behind that all is damage.
const PATIENCE: u64 = 8;

/// A part of a file that cannot be read is left out in steps of this size.
const PAGE: usize = 4096;

static ZEROS: [u8; PAGE] = [0; PAGE];

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
    /// Bytes of bodies that were looked at and are none.
    wasted: u64,
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
            wasted: 0,
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
            None => {
                self.wasted += length as u64;
                Err(offset + length as u32)
            }
        }
    }

    /// The next whole record behind damage, or the end.
    fn resume(&mut self, skip: u32) -> u32 {
        let mut offset = skip;
        while offset < self.end && self.wasted <= PATIENCE * u64::from(self.end) {
            if let Some(next) = self.behind_zeros(offset) {
                offset = next;
                continue;
            }
            offset = match self.record_at(offset) {
                Ok(_) => return offset,
                // A length whose body is broken is believed only where a record was expected.
                Err(_) => offset + 1,
            };
        }
        self.end
    }

    /// Where a record may begin at the earliest behind zeros, if there are some: a disk can have them for nothing, in any number.
    fn behind_zeros(&mut self, offset: u32) -> Option<u32> {
        let count = PAGE.min((self.end - offset) as usize);
        if self.bytes(offset, count) != &ZEROS[..count] {
            return None;
        }
        let behind = offset + count as u32;
        // Of a length only the last byte may be the first that is none.
        Some(if behind < self.end { behind - 3 } else { behind })
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A file in memory that counts what is read of it.
    struct Bytes(Vec<u8>, AtomicU64);

    impl DiskFile for Bytes {
        fn length(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn truncate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn record(to: &mut Vec<u8>, body: &[u8]) {
        let offset = to.len() as u32;
        let start = frame::begin(to);
        to.extend_from_slice(body);
        frame::finish(to, start, 7, offset);
    }

    fn pieces(bytes: Vec<u8>) -> (Vec<(u32, bool)>, u64) {
        let file = Bytes(bytes, AtomicU64::new(0));
        let mut scan = Scan::new(&file, 7, 0, file.0.len() as u32);
        let mut all = Vec::new();
        while let Some(piece) = scan.next() {
            all.push(match piece {
                Piece::Record { offset, .. } => (offset, true),
                Piece::Damage { from, .. } => (from, false),
            });
        }
        let wasted = scan.wasted;
        (all, wasted)
    }

    #[test]
    fn a_record_behind_any_number_of_zeros_is_found() {
        for zeros in (0..30)
            .chain(PAGE - 20..PAGE + 20)
            .chain([3 * CHUNK, 3 * CHUNK + 1])
        {
            // The first bytes of a length may be zeros too.
            for length in [1, 256, 65_536] {
                let mut bytes = Vec::new();
                record(&mut bytes, b"first");
                let second = bytes.len() + zeros;
                bytes.resize(second, 0);
                record(&mut bytes, &vec![1; length]);
                let (found, _) = pieces(bytes);
                assert_eq!(found.first(), Some(&(0, true)));
                assert_eq!(found.last(), Some(&(second as u32, true)), "{zeros} {length}");
            }
        }
    }

    #[test]
    fn records_that_only_claim_to_be_long_are_not_looked_at_for_ever() {
        let mut bytes = vec![0; 1 << 16];
        bytes[0] = 1;
        for offset in (frame::FRAME..bytes.len() - frame::FRAME).step_by(frame::FRAME) {
            let length = bytes.len() - offset - frame::FRAME;
            let mut one = vec![0; frame::FRAME];
            one.resize(frame::FRAME + length, 1);
            frame::finish(&mut one, 0, 7, offset as u32);
            // Whole in its length, and not in its body.
            bytes[offset..offset + 8].copy_from_slice(&one[..8]);
        }
        let size = bytes.len() as u64;
        let (_, wasted) = pieces(bytes);
        assert!(
            wasted > size && wasted <= (PATIENCE + 2) * size,
            "{wasted} of {size}"
        );
    }
}
