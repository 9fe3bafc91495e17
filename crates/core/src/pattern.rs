//! A pattern over channel names: `*` is any run without `/`, `**` any run at all, `\` takes the next byte literally.

mod matching;

use std::hash::{Hash, Hasher};

use thiserror::Error;

use self::matching::Ends;
use crate::channel::{ChannelName, Realm};

/// The most wildcards in one pattern.
pub const MAX_WILDCARDS: usize = 8;

/// A pattern whose middle has to be searched for in a name weighs as much as so many others, for each 64 bytes of that
/// middle. So 10,000 patterns of the worst shape cost a name of 8 KiB at most 1,250 searches, about 20 ms of a processor.
const SEARCHED: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    /// `*`
    Segment,
    /// `**`
    Any,
}

/// A pattern, parsed once. Equal texts are equal patterns.
#[derive(Clone, Debug)]
pub struct Pattern {
    realm: Realm,
    text: Box<[u8]>,
    parts: Box<[Part]>,
    /// How many parts at either end are compared where they have to stand.
    ends: Ends,
    /// Bytes between the ends, that have to be searched for; 0: nothing has.
    searched: usize,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.realm == other.realm && self.text == other.text
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.realm.hash(state);
        self.text.hash(state);
    }
}

/// Why a pattern was refused.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// There is no empty pattern.
    #[error("the pattern is empty: `**` matches everything")]
    Empty,
    /// Longer than the limit given.
    #[error("the pattern has {length} bytes: at most {limit} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// More than [`MAX_WILDCARDS`] wildcards.
    #[error("the pattern has more than {MAX_WILDCARDS} wildcards")]
    TooManyWildcards,
    /// `\` at the end takes nothing literally.
    #[error("the pattern ends in a backslash: write `\\\\` for a literal one")]
    DanglingBackslash,
}

impl Pattern {
    /// Parses a pattern of the default realm, of at most `limit` bytes.
    ///
    /// # Errors
    /// [`PatternError`], each variant with the way out.
    pub fn new(text: impl AsRef<[u8]>, limit: usize) -> Result<Self, PatternError> {
        Self::in_realm(Realm::default(), text, limit)
    }

    /// Parses a pattern over the names of one realm.
    ///
    /// # Errors
    /// As [`Pattern::new`].
    pub fn in_realm(realm: Realm, text: impl AsRef<[u8]>, limit: usize) -> Result<Self, PatternError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > limit {
            return Err(PatternError::TooLong {
                length: text.len(),
                limit,
            });
        }
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut bytes = text.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => literal.push(bytes.next().ok_or(PatternError::DanglingBackslash)?),
                b'*' => {
                    let mut part = Part::Segment;
                    while bytes.next_if_eq(&b'*').is_some() {
                        part = Part::Any;
                    }
                    flush(&mut literal, &mut parts);
                    parts.push(part);
                }
                other => literal.push(other),
            }
        }
        flush(&mut literal, &mut parts);
        if parts
            .iter()
            .filter(|part| !matches!(part, Part::Literal(_)))
            .count()
            > MAX_WILDCARDS
        {
            return Err(PatternError::TooManyWildcards);
        }
        let ends = Ends::of(&parts);
        Ok(Self {
            realm,
            text: text.into(),
            searched: ends.between(&parts),
            parts: parts.into(),
            ends,
        })
    }

    /// The text it was made from.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The realm whose names it matches.
    pub fn realm(&self) -> Realm {
        self.realm
    }

    /// The bytes that every matching name begins with.
    pub fn literal_prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The bytes that every matching name ends with.
    pub fn literal_suffix(&self) -> &[u8] {
        match self.parts.last() {
            Some(Part::Literal(bytes)) => bytes,
            _ => &[],
        }
    }

    /// Does it match these bytes of a name, as a whole? The realm is not looked at; see [`Pattern::matches_name`].
    pub fn matches(&self, name: &[u8]) -> bool {
        matching::matches(&self.parts, self.ends, name)
    }

    /// The weight of the pattern among all that are listened to: 1 if each of its literals has one place to stand in a name
    /// (`a/*`, `**/b`, `a/*/b/**`), or else 8 for each 64 bytes that have to be searched for (`**b**`, `a*b*`).
    pub fn weight(&self) -> usize {
        match self.searched {
            0 => 1,
            bytes => SEARCHED * matching::words(bytes),
        }
    }

    /// The steps that a comparison with a name of `length` bytes takes, at most. A step is about a hundred instructions.
    pub fn steps(&self, length: usize) -> usize {
        let ends = 2 + (self.text.len() + length) / 512;
        match self.searched {
            0 => ends,
            bytes => ends + matching::words(bytes) * (4 + length / 8),
        }
    }

    /// Does it match this name of its own realm?
    pub fn matches_name(&self, name: &ChannelName) -> bool {
        self.realm == name.realm() && self.matches(name.as_bytes())
    }

    /// Is everything that `other` matches certainly matched by this one too? May say no where the answer is yes.
    pub fn covers(&self, other: &Pattern) -> bool {
        if self.realm != other.realm {
            return false;
        }
        if self.parts == other.parts || matches!(&*self.parts, [Part::Any]) {
            return true;
        }
        match &*self.parts {
            [Part::Literal(prefix), Part::Any] => other.literal_prefix().starts_with(prefix),
            _ => false,
        }
    }
}

fn flush(literal: &mut Vec<u8>, parts: &mut Vec<Part>) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal).into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text, 1024).unwrap()
    }

    #[test]
    fn wildcards_match_as_documented() {
        let table = [
            ("news", "news", true),
            ("news", "newsx", false),
            ("news/*", "news/a", true),
            ("news/*", "news/", true),
            ("news/*", "news/a/b", false),
            ("news/**", "news/a/b", true),
            ("**", "anything/at all", true),
            ("*/b", "a/b", true),
            ("*/b", "a/a/b", false),
            ("**/b", "a/a/b", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxb/yyc", false),
            ("a**b*c", "a/b/bxc", true),
            ("a**b*c/d", "abx/bc/d", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("*ab", "aab", true),
            ("**ab*", "xab/aabz", true),
        ];
        for (text, name, expected) in table {
            assert_eq!(
                pattern(text).matches(name.as_bytes()),
                expected,
                "{text} over {name}"
            );
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert_eq!(Pattern::new("", 9), Err(PatternError::Empty));
        assert_eq!(
            Pattern::new("0123456789", 9),
            Err(PatternError::TooLong { length: 10, limit: 9 })
        );
        assert_eq!(Pattern::new(r"a\", 9), Err(PatternError::DanglingBackslash));
        assert_eq!(
            Pattern::new("*a".repeat(9), 99),
            Err(PatternError::TooManyWildcards)
        );
    }

    #[test]
    fn covering_is_never_claimed_wrongly() {
        assert!(pattern("**").covers(&pattern("a/*")));
        assert!(pattern("a/**").covers(&pattern("a/b/*")));
        assert!(!pattern("a/**").covers(&pattern("*/b")));
        assert!(!pattern("a/*").covers(&pattern("a/**")));
        assert!(pattern("a/*").covers(&pattern("a/*")));
    }

    #[test]
    fn a_hostile_pattern_over_the_longest_name_is_decided() {
        let hostile = pattern(&"*a".repeat(8));
        let name = vec![b'a'; 8 * 1024];
        assert!(hostile.matches(&name));
        assert!(!hostile.matches(&[&name[..], b"b"].concat()));
        let hostile = pattern("**a*b*");
        assert!(!hostile.matches(&name));
        // Each of 8,000 beginnings fails at the `/`.
        assert!(hostile.matches(&[&name[..8_000], b"/ab"].concat()));
    }

    #[test]
    fn only_what_has_to_be_searched_for_weighs_more() {
        for text in [
            "a", "**", "a/*", "*/b", "a/**/b", "a*b", "a/*/b/*", "**/a/*/b", "*/*/*",
        ] {
            assert_eq!(pattern(text).weight(), 1, "{text}");
        }
        for text in ["**b**", "a*b*", "a/**/b/**", "**a*b1*"] {
            assert_eq!(pattern(text).weight(), 8, "{text}");
        }
        assert_eq!(pattern(&format!("**{}**", "b".repeat(63))).weight(), 8);
        assert_eq!(pattern(&format!("**{}**", "b".repeat(64))).weight(), 16);
    }
}
