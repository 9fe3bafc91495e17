//! The wire protocol of the PHP CometServer this server succeeds: bytes in, requests out; no I/O.
//!
//! One request a connection: words joined by one space, ended by a space and NUL (a CR ends it too). One answer, ended
//! by a space and NUL, then the server closes. Keys and tokens are opaque bytes; whatever encoding a token has is
//! its clients' affair, except for [`Depth`], by which old and new clients still read the same text.
//!
//! Left out on purpose: the old daemon's quirks of storing the terminator as part of a value or looking it up as part
//! of a key. A request without a value is refused instead.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cometserver_core::publication::{Attributes, Body, Publication, Writer};
use memchr::memchr2;

/// Ends a request. The old daemon took either byte; only NUL is ever sent.
const TERMINATORS: (u8, u8) = (b'\0', b'\r');

/// How a method of HTTP begins, on a socket where both protocols arrive. The seed's commands are lower case.
const HTTP_METHODS: [&[u8]; 7] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
];

/// What the key that holds a key's last write time is called: the key and this.
const TIME_SUFFIX: &[u8] = b"-time";

/// The answer to a `write` or a `stop` that was carried out.
pub const DONE: &[u8] = b"ok \0";

/// The answer to a `read` of a key that holds nothing, and to a `dump` when there are no keys.
pub const NOTHING: &[u8] = b" \0";

/// The answer to [`Request::Unknown`].
pub const UNKNOWN_COMMAND: &[u8] =
    b"There is no valid command here: use write KEY TOKEN, read KEY, dump or stop, ended by a space and NUL \0";

/// The answer to [`Request::WriteWithoutValue`]; nothing was stored.
pub const VALUE_MISSING: &[u8] = b"Nothing was stored: write needs a key and a value, joined by one space \0";

/// The answer to [`Parsed::TooLarge`]; nothing was stored. Close after it.
pub const TOO_LARGE: &[u8] = b"Nothing was stored: the request is larger than this server allows \0";

/// Which of the two protocols of the backend socket a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detect {
    /// It begins with an HTTP method.
    Http,
    /// Anything else.
    Seed,
    /// It is still the beginning of an HTTP method (or empty): ask again with more bytes.
    Undecided,
}

/// Tells by the first bytes of a connection which protocol it speaks. Eight bytes always decide.
pub fn looks_like_http(prefix: &[u8]) -> Detect {
    if HTTP_METHODS.iter().any(|method| prefix.starts_with(method)) {
        Detect::Http
    } else if HTTP_METHODS.iter().any(|method| method.starts_with(prefix)) {
        Detect::Undecided
    } else {
        Detect::Seed
    }
}

/// What a connection asks for. Keys and tokens borrow from the buffer and never hold a terminator or a space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Store `token`, as it is, under `key`. Either may be empty.
    Write {
        /// The key's raw bytes.
        key: &'a [u8],
        /// The value as its writer encoded it.
        token: &'a [u8],
    },
    /// A `write` that lacks its value: answer [`VALUE_MISSING`].
    WriteWithoutValue,
    /// Give back the token under `key`, which may be empty.
    Read {
        /// The key's raw bytes.
        key: &'a [u8],
    },
    /// List all keys with their tokens, in the order of their first write.
    Dump,
    /// Stop the server.
    Stop,
    /// Anything else: answer [`UNKNOWN_COMMAND`].
    Unknown,
}

/// What a connection's bytes amount to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// No terminator yet: read on.
    Incomplete,
    /// No terminator within the limit: answer [`TOO_LARGE`] and close.
    TooLarge,
    /// A whole request, and how many bytes of the buffer it took, terminator included.
    Request(Request<'a>, usize),
}

/// Parses the request at the start of `buffer`, which may take `limit` bytes with its terminator.
///
/// The verdict does not depend on how the bytes were split on their way: only on the bytes.
pub fn parse(buffer: &[u8], limit: usize) -> Parsed<'_> {
    parse_from(buffer, 0, limit)
}

/// Like [`parse`], for a buffer whose first `searched` bytes were [`Parsed::Incomplete`] before.
///
/// A client that sends 16 MiB byte by byte would otherwise have the whole buffer searched for each of them.
pub fn parse_from(buffer: &[u8], searched: usize, limit: usize) -> Parsed<'_> {
    let allowed = &buffer[..buffer.len().min(limit)];
    let searched = searched.min(allowed.len());
    match memchr2(TERMINATORS.0, TERMINATORS.1, &allowed[searched..]) {
        Some(at) => {
            let end = searched + at;
            Parsed::Request(request(&allowed[..end]), end + 1)
        }
        None if buffer.len() >= limit => Parsed::TooLarge,
        None => Parsed::Incomplete,
    }
}

/// The words of a request, without its terminator. The last word is still followed by the space of `SP NUL`.
fn request(words: &[u8]) -> Request<'_> {
    // A command word that touches the terminator was never a command ("dump\0"), so the space is part of it.
    let (command, rest) = match split_word(words) {
        (command, Some(rest)) => (command, rest),
        (_, None) => return Request::Unknown,
    };
    match command {
        b"write" => write_request(rest),
        b"read" => Request::Read {
            key: split_word(rest).0,
        },
        b"dump" => Request::Dump,
        b"stop" => Request::Stop,
        _ => Request::Unknown,
    }
}

fn write_request(words: &[u8]) -> Request<'_> {
    match split_word(words) {
        // `write K \0`: what follows the key is the end of the request. An empty value has one space more.
        (_, None | Some(b"")) => Request::WriteWithoutValue,
        (key, Some(rest)) => Request::Write {
            key,
            token: split_word(rest).0,
        },
    }
}

/// The bytes before the first space, and those after it if there is one.
fn split_word(words: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b' ', words) {
        Some(at) => (&words[..at], Some(&words[at + 1..])),
        None => (words, None),
    }
}

/// The answer to a `read` of a key that holds `token`.
///
/// A CR or NUL would end the answer early for an old client; none comes over the old wire, so one that got in by
/// another door is percent-encoded.
pub fn token_reply(token: &[u8]) -> Vec<u8> {
    let mut reply = Vec::with_capacity(token.len() + 2);
    push_without_terminators(&mut reply, token);
    reply.extend_from_slice(b" \0");
    reply
}

/// Appends one of the keys with its token to the answer to a `dump`, in the order of their first write; [`NOTHING`] ends it.
///
/// The old daemon coloured it itself, also into a pipe; its clients print it as it comes.
pub fn dump_entry(index: usize, key: &[u8], token: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n \x1b[32;1m* index [");
    out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
    out.extend_from_slice(b"] - ");
    push_without_terminators(out, key);
    out.extend_from_slice(b"\x1b[0m: [");
    push_without_terminators(out, token);
    out.push(b']');
}

fn push_without_terminators(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'\0' | b'\r' => push_escape(out, byte),
            _ => out.push(byte),
        }
    }
}

/// Encodes as PHP's `urlencode` does: letters, digits and `-_.` stay, a space is `+`, all else is `%XX` in upper case.
///
/// The result is also what a query string wants on each side of a `=`.
pub fn urlencode(text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len() + text.len() / 4);
    for &byte in text {
        match byte {
            b' ' => encoded.push(b'+'),
            b'-' | b'_' | b'.' => encoded.push(byte),
            _ if byte.is_ascii_alphanumeric() => encoded.push(byte),
            _ => push_escape(&mut encoded, byte),
        }
    }
    encoded
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

/// Decodes as PHP's `urldecode` does: `+` is a space, `%XX` in either case a byte, any other `%` stays.
pub fn urldecode(encoded: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, escaped_byte(rest)) {
            (_, Some(byte)) => (byte, &rest[3..]),
            (b'+', None) => (b' ', after),
            (_, None) => (first, after),
        };
        text.push(byte);
        rest = after;
    }
    text
}

/// The byte that the escape at the start of `text` stands for, if there is an escape.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else { return None };
    let high = char::from(high).to_digit(16)?;
    let low = char::from(low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// How often the writer of a value encodes it before it reaches the old wire.
///
/// The old CLI encodes once. The old web class encodes, then hands it to the CLI. Each decodes as often when it reads,
/// so the two never agreed with each other; a server that keeps the text and the depth of its writer
/// can still give each of them what it expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth<'a> {
    /// The text came from a command line: encoded once.
    Cli,
    /// The text came from a web page: encoded twice.
    Web,
    /// An old client wrote this token over the old wire, at a depth that only it knows.
    Wire(&'a [u8]),
}

impl<'a> Depth<'a> {
    /// The depth of a publication's writer. Whatever else publishes does so for pages, and what reads on their behalf
    /// decodes twice.
    pub fn of(attributes: Option<&'a Attributes>) -> Self {
        match attributes.and_then(|attributes| attributes.writer.as_ref()) {
            Some(Writer::Cli) => Self::Cli,
            Some(Writer::Web) | None => Self::Web,
            Some(Writer::Token(token)) => Self::Wire(token),
        }
    }
}

/// The writer that a query parameter names: `cli` or `web`.
pub fn writer_from_name(name: &str) -> Option<Writer> {
    match name {
        "cli" => Some(Writer::Cli),
        "web" => Some(Writer::Web),
        _ => None,
    }
}

/// The token that an old client is given for a value: what the old daemon would hold.
pub fn token_for_old_reader<'a>(text: &[u8], depth: Depth<'a>) -> Cow<'a, [u8]> {
    match depth {
        Depth::Cli => Cow::Owned(urlencode(text)),
        Depth::Web => Cow::Owned(urlencode(&urlencode(text))),
        Depth::Wire(token) => Cow::Borrowed(token),
    }
}

/// The text that a new client of this depth reads from a token that came over the old wire: what the old one would.
pub fn text_for_reader(token: &[u8], reader: Depth<'_>) -> Vec<u8> {
    match reader {
        Depth::Cli => urldecode(token),
        Depth::Web => urldecode(&urldecode(token)),
        Depth::Wire(_) => token.to_vec(),
    }
}

/// Appends the token that came over the old wire as a member of an open object, in base64: it is any bytes. Only for those
/// who read on behalf of the site; nothing if there is none.
pub fn token_member(publication: &Publication, out: &mut Vec<u8>) {
    if let Body::Message { attributes, .. } = &publication.body
        && let Depth::Wire(token) = Depth::of(attributes.as_deref())
    {
        out.extend_from_slice(b",\"seed_token\":\"");
        out.extend_from_slice(BASE64_STANDARD.encode(token).as_bytes());
        out.push(b'"');
    }
}

/// The token behind the value of that member.
pub fn token_of_member(value: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(value).ok()
}

/// The best guess at the text behind a token that came over the old wire, for readers of no depth: browsers.
///
/// Decodes twice what can be the work of two encoders, else once. The guess is wrong only for the few texts whose single
/// encoding looks double, such as `+` alone or `a%20b`.
pub fn text_of_wire_token(token: &[u8]) -> Vec<u8> {
    let once = urldecode(token);
    if is_encoded_twice(token) {
        urldecode(&once)
    } else {
        once
    }
}

/// Whether every escape is `%2B` or `%25XX`, and nothing else needs one: the second encoder's input was encoded.
fn is_encoded_twice(token: &[u8]) -> bool {
    let mut rest = token;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', b'2', b'B', after @ ..] => after,
            [b'%', b'2', b'5', high, low, after @ ..] if is_upper_hex(*high) && is_upper_hex(*low) => after,
            [b'-' | b'_' | b'.', after @ ..] => after,
            [byte, after @ ..] if byte.is_ascii_alphanumeric() => after,
            _ => return false,
        };
    }
}

fn is_upper_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

/// The key whose last write time is asked for: `K` for `K-time`, by which the old web class saw that `K` had changed.
///
/// Only to be used when no key of the full name exists; the answer is unix seconds in decimal.
pub fn time_key(key: &[u8]) -> Option<&[u8]> {
    key.strip_suffix(TIME_SUFFIX).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1024;

    fn parsed(bytes: &[u8]) -> Request<'_> {
        match parse(bytes, LIMIT) {
            Parsed::Request(request, _) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_bytes_tell_http_from_the_old_protocol() {
        for method in [
            "GET /",
            "HEAD /",
            "POST /x",
            "PUT /",
            "DELETE /",
            "OPTIONS *",
            "PATCH /",
        ] {
            assert_eq!(looks_like_http(method.as_bytes()), Detect::Http, "{method}");
        }
        for start in ["", "G", "GET", "P", "PU", "OPTIONS"] {
            assert_eq!(looks_like_http(start.as_bytes()), Detect::Undecided, "{start}");
        }
        for other in [
            "w",
            "write k v \0",
            "get /",
            "GETS ",
            "TRACE /",
            "\0",
            "\x16\x03\x01",
            "PRI * ",
        ] {
            assert_eq!(looks_like_http(other.as_bytes()), Detect::Seed, "{other}");
        }
    }

    #[test]
    fn requests_of_the_old_client_are_understood() {
        assert_eq!(
            parsed(b"write k two+words \0"),
            Request::Write {
                key: b"k",
                token: b"two+words"
            }
        );
        assert_eq!(parsed(b"read k \0"), Request::Read { key: b"k" });
        assert_eq!(parsed(b"dump \0"), Request::Dump);
        assert_eq!(parsed(b"stop \0"), Request::Stop);
    }

    #[test]
    fn words_after_the_needed_ones_are_dropped() {
        assert_eq!(
            parsed(b"write k v w x \0"),
            Request::Write {
                key: b"k",
                token: b"v"
            }
        );
        assert_eq!(parsed(b"read k l \0"), Request::Read { key: b"k" });
        assert_eq!(parsed(b"dump all \0"), Request::Dump);
    }

    #[test]
    fn a_carriage_return_ends_a_request_and_never_becomes_part_of_it() {
        assert_eq!(
            parsed(b"write k v\r"),
            Request::Write {
                key: b"k",
                token: b"v"
            }
        );
        assert_eq!(
            parsed(b"write k v\0"),
            Request::Write {
                key: b"k",
                token: b"v"
            }
        );
        assert_eq!(parsed(b"read k\0"), Request::Read { key: b"k" });
    }

    #[test]
    fn an_empty_value_is_a_value_and_a_missing_one_is_refused() {
        assert_eq!(
            parsed(b"write k  \0"),
            Request::Write {
                key: b"k",
                token: b""
            }
        );
        assert_eq!(parsed(b"write   \0"), Request::Write { key: b"", token: b"" });
        for missing in [b"write k \0".as_slice(), b"write k\0", b"write \0"] {
            assert_eq!(parsed(missing), Request::WriteWithoutValue, "{missing:?}");
        }
    }

    #[test]
    fn anything_else_is_no_command() {
        for other in [
            b"dump\0".as_slice(),
            b"stop\0",
            b"DUMP \0",
            b"\0",
            b" \0",
            b"  \0",
            b"writ k v \0",
            b"read\0",
        ] {
            assert_eq!(parsed(other), Request::Unknown, "{other:?}");
        }
        let sentence = String::from_utf8(UNKNOWN_COMMAND.to_vec()).unwrap();
        assert!(sentence.contains("no valid command") && sentence.ends_with(" \0"));
    }

    #[test]
    fn a_request_without_end_is_too_large_at_the_limit() {
        assert_eq!(parse(b"write k vvv", 12), Parsed::Incomplete);
        assert_eq!(parse(b"write k vvvv", 12), Parsed::TooLarge);
        assert_eq!(parse(b"write k vvvv\0", 12), Parsed::TooLarge);
        assert!(matches!(parse(b"write k vvv\0", 12), Parsed::Request(_, 12)));
    }

    #[test]
    fn answers_end_with_a_space_and_nul() {
        for reply in [DONE, NOTHING, UNKNOWN_COMMAND, VALUE_MISSING, TOO_LARGE] {
            assert!(reply.ends_with(b" \0"));
            assert_eq!(memchr2(b'\0', b'\r', reply), Some(reply.len() - 1));
        }
        assert_eq!(token_reply(b"two+words"), b"two+words \0");
        assert_eq!(token_reply(b"a\rb\0"), b"a%0Db%00 \0");
    }

    #[test]
    fn a_dump_looks_as_the_old_daemon_wrote_it() {
        let mut reply = Vec::new();
        dump_entry(0, b"k", b"two+words", &mut reply);
        dump_entry(1, b"odd\rkey\0", b"v", &mut reply);
        assert_eq!(
            reply,
            b"\n \x1b[32;1m* index [0] - k\x1b[0m: [two+words]\n \x1b[32;1m* index [1] - odd%0Dkey%00\x1b[0m: [v]"
        );
    }

    #[test]
    fn encoding_is_that_of_php() {
        let text = "two words-_.~!*'()+%/\u{e9}\n\0";
        assert_eq!(
            urlencode(text.as_bytes()),
            b"two+words-_.%7E%21%2A%27%28%29%2B%25%2F%C3%A9%0A%00"
        );
        assert_eq!(urldecode(b"a+b%2bc%2Bd%zz%4%"), b"a b+c+d%zz%4%");
        assert_eq!(urldecode(b"%+1%%41"), b"% 1%A");
    }

    #[test]
    fn old_readers_get_the_depth_of_the_writer() {
        let text = b"50 % + 1";
        assert_eq!(*token_for_old_reader(text, Depth::Cli), *b"50+%25+%2B+1");
        assert_eq!(
            *token_for_old_reader(text, Depth::Web),
            *b"50%2B%2525%2B%252B%2B1"
        );
        assert_eq!(
            *token_for_old_reader(text, Depth::Wire(b"as it is")),
            *b"as it is"
        );
    }

    #[test]
    fn a_token_encoded_once_is_decoded_once_and_one_encoded_twice_twice() {
        for text in ["two words", "<b>50 %</b>", "plain", "\u{e9}t\u{e9} \u{1f600}", ""] {
            let once = urlencode(text.as_bytes());
            assert_eq!(text_of_wire_token(&once), text.as_bytes(), "once: {text}");
            assert_eq!(
                text_of_wire_token(&urlencode(&once)),
                text.as_bytes(),
                "twice: {text}"
            );
        }
    }

    #[test]
    fn the_time_of_a_key_is_asked_for_by_its_suffix() {
        assert_eq!(time_key(b"news-time"), Some(b"news".as_slice()));
        assert_eq!(time_key(b"a-time-time"), Some(b"a-time".as_slice()));
        assert_eq!(time_key(b"-time"), None);
        assert_eq!(time_key(b"news-times"), None);
    }

    /// Words as they come over the wire: no space, no terminator.
    fn word() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            any::<u8>().prop_filter("not a separator", |b| !b" \0\r".contains(b)),
            0..40,
        )
    }

    proptest! {
        #[test]
        fn any_bytes_survive_encoding_and_decoding(text: Vec<u8>) {
            let once = urlencode(&text);
            prop_assert!(once.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.+%".contains(b)));
            prop_assert_eq!(&urldecode(&once), &text);
            prop_assert_eq!(text_for_reader(&urlencode(&once), Depth::Web), &text[..]);
            // Whatever is encoded twice is recognised, so new readers get what an old web page wrote.
            prop_assert_eq!(text_of_wire_token(&urlencode(&once)), text);
        }

        #[test]
        fn what_is_written_is_read_whatever_the_split(key in word(), token in word(), pieces in prop::collection::vec(1usize..9, 0..12)) {
            let bytes = [b"write ".as_slice(), &key, b" ", &token, b" \0rest"].concat();
            let whole = parse(&bytes, LIMIT);
            prop_assert_eq!(whole, Parsed::Request(Request::Write { key: &key, token: &token }, bytes.len() - 4));

            let mut received = 0;
            for piece in pieces {
                let searched = received;
                received = (received + piece).min(bytes.len());
                match parse_from(&bytes[..received], searched, LIMIT) {
                    Parsed::Incomplete => prop_assert!(received < bytes.len() - 4),
                    other => {
                        prop_assert_eq!(other, whole);
                        break;
                    }
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_leak_a_terminator(bytes: Vec<u8>, limit in 0usize..64) {
            looks_like_http(&bytes);
            urldecode(&bytes);
            text_of_wire_token(&bytes);
            time_key(&bytes);
            prop_assert_eq!(token_reply(&bytes).iter().filter(|b| b"\0\r".contains(b)).count(), 1);
            if let Parsed::Request(request, consumed) = parse(&bytes, limit) {
                prop_assert!(consumed <= limit.min(bytes.len()));
                let words: &[&[u8]] = match &request {
                    Request::Write { key, token } => &[key, token],
                    Request::Read { key } => &[key],
                    _ => &[],
                };
                prop_assert!(words.iter().all(|word| !word.iter().any(|b| b"\0\r ".contains(b))));
            }
        }
    }
}
