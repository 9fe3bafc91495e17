//! JSON text that stays on one line, whatever its reader takes for the end of one.
//!
//! U+0085, U+2028 and U+2029 end a line for many readers of event streams and of JSON lines (Python's among them), though in
//! JSON they may stand as they are. They can only stand in strings, where an escape says the same.

/// What a byte of text is in a JSON string.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    /// Needs an escape.
    Escaped,
    /// The first byte of a character that may be one of the three.
    Suspect,
}

/// The class of each byte: one look instead of a comparison with each that matters.
static CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut control = 0;
    while control < 0x20 {
        classes[control] = Class::Escaped;
        control += 1;
    }
    classes[b'"' as usize] = Class::Escaped;
    classes[b'\\' as usize] = Class::Escaped;
    classes[NEXT_LINE as usize] = Class::Suspect;
    classes[SEPARATOR as usize] = Class::Suspect;
    classes
};

/// The first byte of U+0085, in UTF-8.
const NEXT_LINE: u8 = 0xc2;
/// The first byte of U+2028 and U+2029, in UTF-8.
const SEPARATOR: u8 = 0xe2;

/// The escape of the character that `text` begins with, and its length there, if it is one of the three.
fn line_break(text: &[u8]) -> Option<(&'static [u8; 6], usize)> {
    match text {
        [NEXT_LINE, 0x85, ..] => Some((br"\u0085", 2)),
        [SEPARATOR, 0x80, 0xa8, ..] => Some((br"\u2028", 3)),
        [SEPARATOR, 0x80, 0xa9, ..] => Some((br"\u2029", 3)),
        _ => None,
    }
}

/// Appends `text` as a JSON string without anything in it that ends a line.
pub fn json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    // Everything before `done` is written; `at` is looked at next.
    let (mut done, mut at) = (0, 0);
    while let Some(plain) = bytes[at..]
        .iter()
        .position(|byte| CLASSES[usize::from(*byte)] != Class::Plain)
    {
        at += plain;
        if CLASSES[usize::from(bytes[at])] == Class::Escaped {
            out.extend_from_slice(&bytes[done..at]);
            escape(bytes[at], out);
            done = at + 1;
        } else if let Some((escaped, length)) = line_break(&bytes[at..]) {
            out.extend_from_slice(&bytes[done..at]);
            out.extend_from_slice(escaped);
            done = at + length;
        }
        at = done.max(at + 1);
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

fn escape(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        control => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(control >> 4)]);
            out.push(HEX[usize::from(control & 15)]);
        }
    }
}

/// Appends valid JSON as it is, but on one line.
///
/// Line breaks between its tokens become spaces, the three characters in its strings become escapes. What has none of
/// those costs a copy and two looks at memory speed.
pub fn json_value(json: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(json.len());
    let mut done = 0;
    for at in memchr::memchr2_iter(NEXT_LINE, SEPARATOR, json) {
        if let Some((escaped, length)) = line_break(&json[at..]) {
            out.extend_from_slice(&json[done..at]);
            out.extend_from_slice(escaped);
            done = at + length;
        }
    }
    out.extend_from_slice(&json[done..]);
    // Raw line breaks in valid JSON are insignificant white space.
    for byte in &mut out[start..] {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
}

/// Appends a number.
pub fn json_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// What Python's `splitlines` ends a line at, the widest of all readers.
    const LINE_ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}',
    ];

    fn string(text: &str) -> String {
        let mut out = Vec::new();
        json_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn value(json: &str) -> String {
        let mut out = Vec::new();
        json_value(json.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_json_wants_it() {
        let text = "a\"b\\c\nd\re\tf\u{1}g é \u{2028}";
        assert_eq!(serde_json::from_str::<String>(&string(text)).unwrap(), text);
    }

    #[test]
    fn what_a_reader_may_take_for_the_end_of_a_line_is_escaped_and_its_neighbours_are_not() {
        assert_eq!(string("a\u{85}b\u{2028}\u{2029}"), r#""a\u0085b\u2028\u2029""#);
        assert_eq!(
            string("\u{84}\u{86}é…“\u{2027}\u{202a}🛰"),
            "\"\u{84}\u{86}é…“\u{2027}\u{202a}🛰\""
        );
        assert_eq!(
            value("{\"\u{2028}\":\n[\"\u{85}x\",\r\"\u{2029}\"]}"),
            r#"{"\u2028": ["\u0085x", "\u2029"]}"#
        );
        assert_eq!(
            value("\"\\\\\u{2028}\""),
            r#""\\\u2028""#,
            "behind a backslash that is one"
        );
        assert_eq!(value("\"\u{84}…“🛰\""), "\"\u{84}…“🛰\"");
    }

    /// Texts in which what matters is frequent.
    fn texts() -> impl Strategy<Value = String> {
        let characters = prop_oneof![
            proptest::sample::select(&LINE_ENDS[..]),
            proptest::sample::select(
                &[
                    '"', '\\', 'a', '\u{84}', '\u{2027}', '…', 'é', '\u{c2}', '\u{e2}', '\0', '\u{7f}'
                ][..]
            ),
            any::<char>(),
        ];
        prop::collection::vec(characters, 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_and_reads_back_as_it_was(text in texts()) {
            let json = string(&text);
            prop_assert!(!json.contains(LINE_ENDS), "{json:?}");
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn any_json_is_one_line_and_reads_back_as_it_was(key in texts(), text in texts()) {
            // serde_json leaves the three as they are, as most writers of JSON do.
            let given = serde_json::json!({key: [text, 1, null]});
            for json in [given.to_string(), serde_json::to_string_pretty(&given).unwrap().replace('\n', "\r\n")] {
                let line = value(&json);
                prop_assert!(!line.contains(LINE_ENDS), "{line:?}");
                prop_assert_eq!(&serde_json::from_str::<Value>(&line).unwrap(), &given);
            }
        }
    }
}
