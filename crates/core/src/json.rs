//! JSON that every reader takes, checked once where it comes in: what one reader refuses stops all that read it.
//!
//! The grammar (RFC 8259) allows more than readers take: half a surrogate pair, numbers beyond any float, any depth. One such
//! value spoils the whole answer, stream or page in which it is passed on, so it is refused before it is kept.

use thiserror::Error;

/// The deepest nesting that may be allowed, in open brackets. Around a value the server puts four more (a list of channels with
/// their values); Ruby reads 100 in all, serde_json 127, PHP 512.
pub const MOST_DEPTH: usize = 96;

/// A number of at most so many bytes, with an exponent of at most two digits or none, is below 10^300 and needs no closer look.
const PLAIN_NUMBER: usize = 200;

/// A fault of a JSON text: where it is, in bytes from its beginning, and the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Against the grammar.
    #[error("{wanted} expected at byte {at}")]
    Grammar {
        /// Where.
        at: usize,
        /// What would have been right there.
        wanted: &'static str,
    },
    /// An escape that is half of a surrogate pair, or a pair in the wrong order.
    #[error(
        "the escape at byte {at} is half a surrogate pair, so no character: send whole characters, as UTF-8 or as both halves, high one first"
    )]
    Surrogate {
        /// Where its backslash is.
        at: usize,
    },
    /// A number that no 64-bit float holds.
    #[error("the number at byte {at} is too large for a 64-bit float (about 1.8e308): send it as a string")]
    Number {
        /// Where it begins.
        at: usize,
    },
    /// A key that PHP takes for one of its own.
    #[error("the key at byte {at} begins with \\u0000, which PHP refuses: give it another name")]
    Key {
        /// Where it begins.
        at: usize,
    },
    /// More brackets open than allowed.
    #[error(
        "more than {most} brackets are open at byte {at} (limits.json_depth): nest it less, or send it as a string"
    )]
    Depth {
        /// Where the first that is too many is.
        at: usize,
        /// So many are allowed.
        most: usize,
    },
}

/// Checks that a text is one JSON value that every reader takes, with at most `depth` brackets open at once (and never more
/// than [`MOST_DEPTH`]).
///
/// One pass, in time proportional to its length; nothing is kept and nothing recurses.
///
/// # Errors
/// [`JsonError`] tells of the first fault.
pub fn check(text: &str, depth: usize) -> Result<(), JsonError> {
    let scan = Scan {
        text,
        bytes: text.as_bytes(),
        at: 0,
        open: Open {
            objects: 0,
            depth: 0,
            most: depth.min(MOST_DEPTH),
        },
    };
    scan.document()
}

/// The brackets that are open.
struct Open {
    /// A bit for each, the innermost lowest: is it an object?
    objects: u128,
    depth: usize,
    most: usize,
}

impl Open {
    fn in_object(&self) -> bool {
        self.depth > 0 && self.objects & 1 == 1
    }

    fn in_list(&self) -> bool {
        self.depth > 0 && self.objects & 1 == 0
    }

    fn enter(&mut self, object: bool, at: usize) -> Result<(), JsonError> {
        if self.depth >= self.most {
            return Err(JsonError::Depth { at, most: self.most });
        }
        self.objects = self.objects << 1 | u128::from(object);
        self.depth += 1;
        Ok(())
    }

    fn leave(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }
}

/// What may come next.
#[derive(Clone, Copy)]
enum Next {
    Value,
    /// A value, or the end of a list that has none yet.
    First,
    Key,
    /// A key, or the end of an object that has none yet.
    FirstKey,
    /// A comma, an end of what is open, or the end of the text.
    After,
}

impl Next {
    fn wanted(self) -> &'static str {
        match self {
            Next::Value => "a value",
            Next::First => "a value or `]`",
            Next::Key => "a key in quotes",
            Next::FirstKey => "a key in quotes or `}`",
            Next::After => "`,` or the end",
        }
    }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    open: Open,
}

impl Scan<'_> {
    fn document(mut self) -> Result<(), JsonError> {
        let mut next = Next::Value;
        loop {
            self.skip_blanks();
            let Some(byte) = self.peek() else {
                return match next {
                    Next::After if self.open.depth == 0 => Ok(()),
                    _ => Err(self.wanted(next.wanted())),
                };
            };
            next = match (next, byte) {
                (Next::After, b',') if self.open.in_object() => self.step(Next::Key),
                (Next::After, b',') if self.open.in_list() => self.step(Next::Value),
                (Next::After | Next::FirstKey, b'}') if self.open.in_object() => self.leave(),
                (Next::After | Next::First, b']') if self.open.in_list() => self.leave(),
                (Next::Key | Next::FirstKey, b'"') => self.key()?,
                (Next::Value | Next::First, byte) => self.value(byte, next)?,
                _ => return Err(self.wanted(next.wanted())),
            };
        }
    }

    fn value(&mut self, byte: u8, next: Next) -> Result<Next, JsonError> {
        match byte {
            b'"' => self.string()?,
            b'{' => {
                self.open.enter(true, self.at)?;
                return Ok(self.step(Next::FirstKey));
            }
            b'[' => {
                self.open.enter(false, self.at)?;
                return Ok(self.step(Next::First));
            }
            b'-' | b'0'..=b'9' => self.number()?,
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            _ => return Err(self.wanted(next.wanted())),
        }
        Ok(Next::After)
    }

    fn key(&mut self) -> Result<Next, JsonError> {
        let at = self.at;
        self.string()?;
        // A raw NUL is refused in any string: this escape is the only way to write one.
        if self.bytes[at + 1..].starts_with(br"\u0000") {
            return Err(JsonError::Key { at });
        }
        self.skip_blanks();
        match self.peek() {
            Some(b':') => Ok(self.step(Next::Value)),
            _ => Err(self.wanted("`:`")),
        }
    }

    /// A string, from its first quote to behind its last.
    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            self.at += plain.unwrap_or(rest.len());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.wanted("an escape such as \\n instead of a control character")),
                None => return Err(self.wanted("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let at = self.at;
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return Err(self.wanted("an escape such as \\n or \\u000a")),
        }
        match self.unit()? {
            0xd800..=0xdbff => {
                let pair = self.bytes[self.at..].starts_with(br"\u");
                match pair && matches!(self.unit()?, 0xdc00..=0xdfff) {
                    true => Ok(()),
                    false => Err(JsonError::Surrogate { at }),
                }
            }
            0xdc00..=0xdfff => Err(JsonError::Surrogate { at }),
            _ => Ok(()),
        }
    }

    /// The number that an escape `\u…` names: one unit of UTF-16.
    fn unit(&mut self) -> Result<u16, JsonError> {
        let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let unit = digits
            .iter()
            .try_fold(0, |unit, byte| Some(unit << 4 | digit(byte)?));
        match unit.and_then(|unit| u16::try_from(unit).ok()) {
            Some(unit) if !digits.is_empty() => {
                self.at += 6;
                Ok(unit)
            }
            _ => Err(self.wanted("four hexadecimal digits after \\u")),
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let mut exponent = 0;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            let first = self.at;
            self.digits()?;
            exponent = self.at - first;
        }
        let number = &self.text[start..self.at];
        let plain = number.len() <= PLAIN_NUMBER && exponent <= 2;
        match plain || is_held(number) {
            true => Ok(()),
            false => Err(JsonError::Number { at: start }),
        }
    }

    /// Digits, at least one.
    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.bytes[self.at..];
        match rest.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 => Err(self.wanted("a digit")),
            count => {
                self.at += count;
                Ok(())
            }
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wanted(word));
        }
        self.at += word.len();
        Ok(())
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn step(&mut self, next: Next) -> Next {
        self.at += 1;
        next
    }

    fn leave(&mut self) -> Next {
        self.open.leave();
        self.step(Next::After)
    }

    fn wanted(&self, wanted: &'static str) -> JsonError {
        JsonError::Grammar { at: self.at, wanted }
    }
}

/// Does a 64-bit float hold it? Asked of two readers: near the bound they round differently.
fn is_held(number: &str) -> bool {
    number.parse::<f64>().is_ok_and(f64::is_finite) && serde_json::from_str::<f64>(number).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_reader_refuses_is_refused_with_the_way_out() {
        let table = [
            (r#""\ud83d""#, "byte 1 is half a surrogate pair"),
            (r#""\ude00\ud83d""#, "byte 1 is half a surrogate pair"),
            (r#""\ud83d\ud83d\ude00""#, "byte 1 is half a surrogate pair"),
            (r#""\ud83dx""#, "byte 1 is half a surrogate pair"),
            (r#""\ud83d\n""#, "byte 1 is half a surrogate pair"),
            (r#"{"a\uDEAD":1}"#, "byte 3 is half a surrogate pair"),
            (r#"[1,{"x":"a\udfff"}]"#, "byte 10 is half a surrogate pair"),
            ("1e400", "byte 0 is too large"),
            ("[0,-1E+400]", "byte 3 is too large"),
            ("1.8e308", "byte 0 is too large"),
            ("1e99999999999999999999", "byte 0 is too large"),
            (r#"{"\u0000*\u0000secret":1}"#, "byte 1 begins with"),
            (
                "[[[[[1]]]]]",
                "more than 4 brackets are open at byte 4 (limits.json_depth)",
            ),
            (
                r#"[{"a":[{"b":[]}]}]"#,
                "more than 4 brackets are open at byte 12",
            ),
        ];
        for (text, expected) in table {
            let error = check(text, 4).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let digits = "9".repeat(400);
        assert_eq!(check(&digits, 0), Err(JsonError::Number { at: 0 }));
    }

    #[test]
    fn what_every_reader_takes_is_taken() {
        let long = "9".repeat(300);
        let small = format!("0.{}1", "0".repeat(2000));
        let table = [
            r#""\ud83d\ude00 \uD83D\uDE00 é 😀 \u0000 \uffff""#,
            "1.7976931348623157e308",
            "-1e-400",
            "0e400",
            "18446744073709551616",
            &long,
            &small,
            r#" { "" : [ ] , "a\u0000" : [ [ { } ] ] } "#,
            r#""[[[[[[[[[[""#,
            "[[[[1]]],[[[2]]],{}]",
        ];
        for text in table {
            assert_eq!(check(text, 4), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_against_the_grammar_is_told_where() {
        let table = [
            ("", 0),
            (" ", 1),
            ("1 2", 2),
            ("{", 1),
            ("[1,]", 3),
            (r#"{"a":1,}"#, 7),
            (r#"{"a" 1}"#, 5),
            ("{1:2}", 1),
            ("]", 0),
            ("[1}", 2),
            (r#"{"a":1]"#, 6),
            ("01", 1),
            ("1.", 2),
            ("+1", 0),
            ("-", 1),
            ("1e", 2),
            (".5", 0),
            ("NaN", 0),
            ("-Infinity", 1),
            ("nul", 0),
            ("truE", 0),
            ("\"a", 2),
            ("\"a\nb\"", 2),
            (r#""\x""#, 1),
            (r#""\u12g4""#, 1),
            (r#""\u+123""#, 1),
            (r#""\u12"#, 1),
            (r#""\ud83d\u12""#, 7),
            ("\u{feff}1", 0),
            ("'a'", 0),
            ("[1]//", 3),
        ];
        for (text, expected) in table {
            match check(text, 4) {
                Err(JsonError::Grammar { at, .. }) => assert_eq!(at, expected, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn depth_counts_brackets_and_has_a_bound_of_its_own() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check("1", 0), Ok(()));
        assert_eq!(check("[]", 0), Err(JsonError::Depth { at: 0, most: 0 }));
        assert_eq!(check(&nested(MOST_DEPTH), usize::MAX), Ok(()));
        let most = MOST_DEPTH;
        assert_eq!(
            check(&nested(most + 1), usize::MAX),
            Err(JsonError::Depth { at: most, most })
        );
        // However much of it there is, no more than the first that is too many is looked at.
        assert_eq!(
            check(&"[".repeat(1 << 20), most),
            Err(JsonError::Depth { at: most, most })
        );
    }
}
