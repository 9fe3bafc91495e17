//! A comparison of a pattern with a name, in time that grows with the name and with nothing else.
//!
//! What has one place only where it may stand is compared there: a literal at an end, and one with a `/` in it next to a `*`,
//! since a `*` ends at the next `/` at the latest. What is left between is read byte by byte by all alternatives at once: bit
//! `n` of a set is there if the first `n` bytes of the literals have been found, and stays while a wildcard stands after them.
//! There is nothing to go back to, so no pair of a name and a pattern is worse than others of their lengths.

use super::Part;

/// How many parts of a pattern, from its beginning and from its end, have one place only in a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The first part between.
    first: usize,
    /// The part after the last one between.
    last: usize,
}

/// So many words hold the set for literals of so many bytes.
pub(super) fn words(bytes: usize) -> usize {
    bytes / 64 + 1
}

fn is_literal(part: Option<&Part>) -> bool {
    matches!(part, Some(Part::Literal(_)))
}

/// The literal beside a `*` that has a `/`, if the part is one.
fn with_slash(part: &Part) -> Option<&[u8]> {
    match part {
        Part::Literal(bytes) if bytes.contains(&b'/') => Some(bytes),
        _ => None,
    }
}

impl Ends {
    pub(super) fn of(parts: &[Part]) -> Self {
        let mut first = usize::from(is_literal(parts.first()));
        let mut last = parts.len() - usize::from(parts.len() > 1 && is_literal(parts.last()));
        while last.saturating_sub(first) >= 3
            && parts[first] == Part::Segment
            && with_slash(&parts[first + 1]).is_some()
        {
            first += 2;
        }
        while last.saturating_sub(first) >= 3
            && parts[last - 1] == Part::Segment
            && with_slash(&parts[last - 2]).is_some()
        {
            last -= 2;
        }
        Self { first, last }
    }

    /// Bytes of the literals between, that may stand in several places.
    pub(super) fn between(self, parts: &[Part]) -> usize {
        let literals = parts[self.first..self.last].iter().map(|part| match part {
            Part::Literal(bytes) => bytes.len(),
            Part::Segment | Part::Any => 0,
        });
        literals.sum()
    }
}

/// Does the pattern match the whole name?
pub(super) fn matches(parts: &[Part], ends: Ends, name: &[u8]) -> bool {
    let mut rest = name;
    let (beginning, end) = (&parts[..ends.first], &parts[ends.last..]);
    for (at, part) in beginning.iter().enumerate() {
        let Part::Literal(literal) = part else { continue };
        let left = match at {
            0 => rest.strip_prefix(&**literal),
            _ => after_segment(rest, literal),
        };
        match left {
            Some(left) => rest = left,
            None => return false,
        }
    }
    for (at, part) in end.iter().enumerate().rev() {
        let Part::Literal(literal) = part else { continue };
        let left = match at + 1 {
            // The very last part.
            after if after == end.len() => rest.strip_suffix(&**literal),
            _ => before_segment(rest, literal),
        };
        match left {
            Some(left) => rest = left,
            None => return false,
        }
    }
    match &parts[ends.first..ends.last] {
        [] => rest.is_empty(),
        [Part::Any] => true,
        [Part::Segment] => memchr::memchr(b'/', rest).is_none(),
        between => search(between, rest),
    }
}

/// What follows a `*` and this literal, which has a `/`: the first one of both.
fn after_segment<'n>(name: &'n [u8], literal: &[u8]) -> Option<&'n [u8]> {
    let slash = memchr::memchr(b'/', literal)?;
    let from = memchr::memchr(b'/', name)?.checked_sub(slash)?;
    name[from..].strip_prefix(literal)
}

/// What precedes this literal, which has a `/`, and a `*`: the last one of both.
fn before_segment<'n>(name: &'n [u8], literal: &[u8]) -> Option<&'n [u8]> {
    let after = literal.len() - memchr::memrchr(b'/', literal)?;
    let end = memchr::memrchr(b'/', name)? + after;
    name.get(..end)?.strip_suffix(literal)
}

/// Literals and wildcards, as sets of positions among the bytes of all literals.
struct Places {
    /// Where these bytes stand, by byte: words of the set.
    bytes: Vec<u64>,
    /// A `**` stands before these, or after the last one.
    any: Vec<u64>,
    /// A wildcard of either kind does.
    wild: Vec<u64>,
    words: usize,
    len: usize,
}

impl Places {
    fn of(parts: &[Part], words: usize) -> Self {
        let mut places = Self {
            bytes: vec![0; 256 * words],
            any: vec![0; words],
            wild: vec![0; words],
            words,
            len: 0,
        };
        for part in parts {
            let (word, bit) = (places.len / 64, 1 << (places.len % 64));
            match part {
                Part::Literal(bytes) => bytes.iter().for_each(|byte| places.push(*byte)),
                Part::Segment => places.wild[word] |= bit,
                Part::Any => {
                    places.wild[word] |= bit;
                    places.any[word] |= bit;
                }
            }
        }
        places
    }

    fn push(&mut self, byte: u8) {
        let word = usize::from(byte) * self.words + self.len / 64;
        self.bytes[word] |= 1 << (self.len % 64);
        self.len += 1;
    }
}

fn search(parts: &[Part], name: &[u8]) -> bool {
    let literals = parts.iter().map(|part| match part {
        Part::Literal(bytes) => bytes.len(),
        Part::Segment | Part::Any => 0,
    });
    match words(literals.sum()) {
        1 => search_one(parts, name),
        words => search_many(&Places::of(parts, words), name),
    }
}

/// The same as [`search_many`], where one word holds the set: nearly always, and then nothing is allocated.
fn search_one(parts: &[Part], name: &[u8]) -> bool {
    let (mut bytes, mut any, mut wild) = ([0u64; 256], 0u64, 0u64);
    let mut len = 0;
    for part in parts {
        match part {
            Part::Literal(literal) => {
                for byte in literal {
                    bytes[usize::from(*byte)] |= 1 << len;
                    len += 1;
                }
            }
            Part::Segment => wild |= 1 << len,
            Part::Any => {
                wild |= 1 << len;
                any |= 1 << len;
            }
        }
    }
    let mut found = 1u64;
    for byte in name {
        let stay = if *byte == b'/' { any } else { wild };
        found = (found & bytes[usize::from(*byte)]) << 1 | found & stay;
        if found == 0 {
            return false;
        }
    }
    found & 1 << len != 0
}

fn search_many(places: &Places, name: &[u8]) -> bool {
    let mut found = vec![0u64; places.words];
    found[0] = 1;
    for byte in name {
        let stay = if *byte == b'/' { &places.any } else { &places.wild };
        let own = &places.bytes[usize::from(*byte) * places.words..][..places.words];
        let (mut carried, mut left) = (0, 0);
        for ((found, own), stay) in found.iter_mut().zip(own).zip(stay) {
            let next = *found & own;
            *found = next << 1 | carried | *found & stay;
            carried = next >> 63;
            left |= *found;
        }
        if left == 0 {
            return false;
        }
    }
    found[places.len / 64] & 1 << (places.len % 64) != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::pattern::{Part, Pattern};

    /// What the words of the documentation say, and nothing else.
    fn by_definition(parts: &[Part], name: &[u8]) -> bool {
        match parts.split_first() {
            None => name.is_empty(),
            Some((Part::Literal(bytes), rest)) => name
                .strip_prefix(&**bytes)
                .is_some_and(|name| by_definition(rest, name)),
            Some((part, rest)) => {
                by_definition(rest, name)
                    || name.split_first().is_some_and(|(byte, name)| {
                        (*byte != b'/' || *part == Part::Any) && by_definition(parts, name)
                    })
            }
        }
    }

    fn agrees(text: &str, name: &str) {
        let Ok(pattern) = Pattern::new(text, 2048) else {
            return;
        };
        let expected = by_definition(&pattern.parts, name.as_bytes());
        assert_eq!(pattern.matches(name.as_bytes()), expected, "{text} over {name}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn every_pattern_means_what_its_words_say(text in "[ab/*]{1,12}", name in "[ab/]{1,14}") {
            agrees(&text, &name);
        }

        /// The set takes more than one word.
        #[test]
        fn long_literals_mean_the_same(
            text in r"\*{0,2}[ab]{0,3}\*{1,2}((ab){25,40}/?){1,3}\*{1,2}[ab]{0,3}\*{0,2}",
            name in "[ab]{0,3}((ab){25,40}/?){1,3}[ab]{0,3}",
        ) {
            agrees(&text, &name);
        }
    }
}
