//! The frame around a record: how long it is, and whether it is whole.

use crc32fast::Hasher;

/// Bytes before the body.
pub const FRAME: usize = 12;

/// The longest body: a payload of 1 GiB, names and attributes. Longer lengths are damage.
pub const MAX_BODY: usize = (1 << 30) + (64 << 20);

/// Begins a record at the end of `buffer`; the body follows. Returns what [`finish`] wants to know.
pub fn begin(buffer: &mut Vec<u8>) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; FRAME]);
    start
}

/// Ends the record that begins at `start` in the buffer and will be at `offset` in its segment. Returns its whole length.
pub fn finish(buffer: &mut [u8], start: usize, seed: u32, offset: u32) -> u32 {
    let record = &mut buffer[start..];
    let length = u32::try_from(record.len() - FRAME).expect("bounded by the size of a payload");
    let (frame, body) = record.split_at_mut(FRAME);
    let check = length_check(length, seed, offset);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..8].copy_from_slice(&check.to_le_bytes());
    frame[8..].copy_from_slice(&body_check(check, body).to_le_bytes());
    length + FRAME as u32
}

/// The length of the body of the record at `offset`, if its frame is whole: `bytes` begin with it.
pub fn body_length(bytes: &[u8], seed: u32, offset: u32) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (check, _) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    let whole = length_check(length, seed, offset) == u32::from_le_bytes(*check);
    (whole && (1..=MAX_BODY).contains(&(length as usize))).then_some(length as usize)
}

/// The body of a whole record, frame and body, if it is what was written.
pub fn body(record: &[u8], seed: u32, offset: u32) -> Option<&[u8]> {
    let length = body_length(record, seed, offset)?;
    let body = record.get(FRAME..FRAME + length)?;
    let check = u32::from_le_bytes(*record[8..].first_chunk()?);
    (body_check(length_check(length as u32, seed, offset), body) == check).then_some(body)
}

fn length_check(length: u32, seed: u32, offset: u32) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed ^ offset);
    hasher.update(&length.to_le_bytes());
    hasher.finalize()
}

fn body_check(check: u32, body: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(check);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_only_where_it_was_written_and_as_it_was_written() {
        let mut buffer = vec![9; 3];
        let start = begin(&mut buffer);
        buffer.extend_from_slice(b"body");
        assert_eq!(finish(&mut buffer, start, 77, 1000), 16);
        let record = &buffer[3..];
        assert_eq!(body(record, 77, 1000), Some(&b"body"[..]));
        assert_eq!(body(record, 77, 1001), None, "elsewhere in the segment");
        assert_eq!(body(record, 78, 1000), None, "in another segment");
        assert_eq!(body(&record[..15], 77, 1000), None, "torn");
        for bit in 0..record.len() * 8 {
            let mut flipped = record.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(body(&flipped, 77, 1000), None, "bit {bit}");
        }
    }
}
