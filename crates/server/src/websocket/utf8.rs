//! A text that arrives in pieces, checked as it comes: an error shows at the first byte that proves it.

/// The most bytes of a character that can be there while it is still incomplete.
const MAX_INCOMPLETE: usize = 3;

/// The bytes can never become UTF-8, whatever follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

/// What has come so far. Every byte is checked once: whole characters are text already, only a cut one waits.
#[derive(Debug, Default)]
pub(super) struct PartialText {
    whole: String,
    cut: [u8; MAX_INCOMPLETE + 1],
    cut_len: u8,
}

impl PartialText {
    pub(super) fn len(&self) -> usize {
        self.whole.len() + usize::from(self.cut_len)
    }

    /// How many bytes fit without asking for more room.
    pub(super) fn capacity(&self) -> usize {
        self.whole.capacity()
    }

    /// Makes room for `len` bytes in all.
    pub(super) fn reserve_to(&mut self, len: usize) {
        self.whole.reserve_exact(len.saturating_sub(self.whole.len()));
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let bytes = self.complete(bytes)?;
        let (whole, cut) = split_incomplete(bytes);
        self.whole.push_str(str::from_utf8(whole).map_err(|_| NotUtf8)?);
        if !cut.is_empty() {
            may_be_continued(cut)?;
            self.cut[..cut.len()].copy_from_slice(cut);
            self.cut_len = cut.len() as u8;
        }
        Ok(())
    }

    /// The whole text, if it does not end inside a character.
    pub(super) fn finish(self) -> Result<String, NotUtf8> {
        if self.cut_len == 0 {
            Ok(self.whole)
        } else {
            Err(NotUtf8)
        }
    }

    /// Feeds the character that was cut, and returns the bytes after it.
    fn complete<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        while self.cut_len > 0
            && let Some((&byte, rest)) = bytes.split_first()
        {
            bytes = rest;
            let len = usize::from(self.cut_len) + 1;
            self.cut[len - 1] = byte;
            if let Ok(character) = str::from_utf8(&self.cut[..len]) {
                self.whole.push_str(character);
                self.cut_len = 0;
            } else {
                may_be_continued(&self.cut[..len])?; // never for four bytes: those are whole or wrong
                self.cut_len = len as u8;
            }
        }
        Ok(bytes)
    }
}

fn may_be_continued(cut: &[u8]) -> Result<(), NotUtf8> {
    match str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => Ok(()),
        _ => Err(NotUtf8),
    }
}

/// Splits off a last character of which bytes are missing, going by its first byte alone.
fn split_incomplete(bytes: &[u8]) -> (&[u8], &[u8]) {
    for (back, &byte) in (1..=MAX_INCOMPLETE).zip(bytes.iter().rev()) {
        let needed = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return bytes.split_at(if needed > back {
            bytes.len() - back
        } else {
            bytes.len()
        });
    }
    (bytes, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes byte by byte and returns how many were taken before the error.
    fn taken(bytes: &[u8]) -> usize {
        let mut text = PartialText::default();
        bytes
            .iter()
            .take_while(|byte| text.push(&[**byte]).is_ok())
            .count()
    }

    #[test]
    fn the_first_impossible_byte_is_refused() {
        assert_eq!(taken(b"abc\xff"), 3);
        assert_eq!(taken(b"\x80"), 0);
        assert_eq!(taken(b"\xc0\x80"), 0, "overlong");
        assert_eq!(taken(b"\xe0\x9f\x80"), 1, "overlong");
        assert_eq!(taken(b"\xed\xa0\x80"), 1, "surrogate");
        assert_eq!(taken(b"\xf4\x90\x80\x80"), 1, "above U+10FFFF");
        assert_eq!(taken(b"\xf5"), 0);
        assert_eq!(taken(b"\xe2\x82A"), 2);
    }

    #[test]
    fn the_same_errors_are_seen_inside_one_piece() {
        for bad in [
            &b"abc\xff"[..],
            b"\x80",
            b"a\xc0",
            b"\xe0\x9f",
            b"\xed\xa0",
            b"\xf4\x90",
            b"\xf5",
            b"\xe2\x82A",
        ] {
            assert_eq!(PartialText::default().push(bad), Err(NotUtf8), "{bad:x?}");
        }
    }

    #[test]
    fn a_text_may_be_cut_anywhere_but_not_end_inside_a_character() {
        let text = "aé€😀\u{10ffff}z";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut partial = PartialText::default();
                for piece in [
                    &text.as_bytes()[..first],
                    &text.as_bytes()[first..second],
                    &text.as_bytes()[second..],
                ] {
                    partial.push(piece).unwrap();
                }
                assert_eq!(partial.len(), text.len());
                assert_eq!(partial.finish().as_deref(), Ok(text));
            }
            let mut partial = PartialText::default();
            partial.push(&text.as_bytes()[..first]).unwrap();
            assert_eq!(partial.len(), first);
            assert_eq!(partial.finish().is_ok(), text.is_char_boundary(first));
        }
    }
}
