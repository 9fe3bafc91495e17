//! Query strings, form-urlencoded, to bytes and back: channels may be any bytes.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The pairs of a query string (`a=b&c`), decoded, in order. Empty pieces (`&&`) are skipped; a name without `=` has an
/// empty value. `+` is a space; a `%` without two hexadecimal digits stays what it is, as browsers do it (WHATWG URL, 5.1).
///
/// Nothing is copied where nothing is encoded.
pub fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    let mut rest = query.as_bytes();
    let pieces = std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = memchr(b'&', rest).unwrap_or(rest.len());
            let piece = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        None
    });
    pieces.map(|piece| match memchr(b'=', piece) {
        Some(at) => (decode(&piece[..at]), decode(&piece[at + 1..])),
        None => (decode(piece), Cow::Borrowed(&[][..])),
    })
}

/// Decodes one name or value.
pub fn decode(encoded: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr2(b'%', b'+', encoded) else {
        return Cow::Borrowed(encoded);
    };
    let mut decoded = Vec::with_capacity(encoded.len());
    decoded.extend_from_slice(&encoded[..first]);
    let mut rest = &encoded[first..];
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => match escaped(after) {
                Some(byte) => {
                    decoded.push(byte);
                    rest = &after[2..];
                }
                None => decoded.push(b'%'),
            },
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(decoded)
}

fn escaped(after: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
    u8::try_from(digit(0)? << 4 | digit(1)?).ok()
}

/// Appends `bytes` so that [`decode`] gives them back: letters, digits and `*-._` as they are, a space as `+`, the rest
/// as `%XX`.
pub fn encode(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}

/// Appends `name=value` to a query string, with `&` before it unless it is the first.
pub fn push_pair(query: &mut String, name: &str, value: &[u8]) {
    if !query.is_empty() && !query.ends_with(['?', '&']) {
        query.push('&');
    }
    encode(name.as_bytes(), query);
    query.push('=');
    encode(value, query);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs(query)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect()
    }

    #[test]
    fn a_channel_may_hold_every_character_there_is() {
        assert_eq!(
            decoded("channel=a%2Fb%3Fc+d%26e%25%C3%A9&x=%ff%00"),
            [
                (b"channel".to_vec(), "a/b?c d&e%é".into()),
                (b"x".to_vec(), vec![0xff, 0])
            ]
        );
    }

    #[test]
    fn what_is_malformed_stays_as_it_is() {
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(
            decoded("a=%&b=%4&c=%zz&d=%%41"),
            [pair("a", "%"), pair("b", "%4"), pair("c", "%zz"), pair("d", "%A")]
        );
        assert_eq!(
            decoded("&&a&=b&c==&"),
            [pair("a", ""), pair("", "b"), pair("c", "=")]
        );
        assert_eq!(decoded(""), []);
        // `to_digit` of a sign or of a character beyond ASCII is none.
        assert_eq!(decoded("a=%+1%é"), [pair("a", "% 1%é")]);
    }

    #[test]
    fn nothing_is_copied_where_nothing_is_encoded() {
        assert!(
            pairs("channel=news&limit=1")
                .all(|(name, value)| matches!((name, value), (Cow::Borrowed(_), Cow::Borrowed(_))))
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut query = String::new();
            for piece in &pieces {
                push_pair(&mut query, "a b", piece);
            }
            let back: Vec<_> = pairs(&query).map(|(name, value)| {
                assert_eq!(&*name, b"a b");
                value.into_owned()
            }).collect();
            prop_assert_eq!(back, pieces);
        }

        #[test]
        fn any_text_is_decoded_to_something(query in any::<String>()) {
            let longest = pairs(&query).map(|(name, value)| name.len() + value.len()).sum::<usize>();
            prop_assert!(longest <= query.len());
        }
    }
}
