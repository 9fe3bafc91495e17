//! The request line and the headers: where they end, and whether we accept them.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use memchr::memchr;

use super::body::Framing;
use super::request::{Method, Request, Version, has_token};
use super::{HEADERS_MAX, Limits, Reject};

/// How HTTP/2 with prior knowledge introduces itself (RFC 9113, 3.4), up to its first empty line.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// The search for the end of a head in a growing buffer.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Where the line begins that is not finished yet.
    line: u32,
    /// No line feed before here that was not seen.
    searched: u32,
    /// A line that is not empty was seen. (RFC 9112, 2.2: empty lines before the request line are to be ignored.)
    begun: bool,
}

impl Scan {
    /// Goes on to the end of the buffer; gives the end of the head (after its empty line) if that is in it.
    pub(super) fn advance(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<usize>, Reject> {
        let seen = &buffer[..buffer.len().min(limits.clamped_head())];
        if !self.begun {
            self.check_first_byte(seen)?;
        }
        while let Some(found) = memchr(b'\n', &seen[self.searched as usize..]) {
            let feed = self.searched as usize + found;
            let line = self.line as usize;
            if feed == line || seen[feed - 1] != b'\r' {
                return Err(Reject::bad(
                    "every line of a request ends with CR LF; this one ends with a bare LF",
                ));
            }
            let is_empty = feed - line == 1;
            // Below HEAD_MAX, so it fits.
            self.line = (feed + 1) as u32;
            self.searched = self.line;
            if !is_empty {
                self.begun = true;
            } else if self.begun {
                return Ok(Some(feed + 1));
            } else {
                self.check_first_byte(seen)?;
            }
        }
        self.searched = seen.len() as u32;
        if seen.len() >= limits.clamped_head() {
            return Err(Reject::new(431, "the request line and the headers are too long"));
        }
        Ok(None)
    }

    /// Refuses at once what cannot become a request (a TLS handshake on a plain port): its line might never end.
    fn check_first_byte(&self, seen: &[u8]) -> Result<(), Reject> {
        match seen.get(self.line as usize) {
            Some(&(0x16 | 0x80)) => Err(Reject::bad(
                "this port speaks plain HTTP, and you speak TLS to it",
            )),
            Some(&byte) if byte != b'\r' && byte != b'\n' && !is_token_byte(byte) => {
                Err(Reject::bad("a request begins with a method such as GET"))
            }
            _ => Ok(()),
        }
    }
}

/// A head that was accepted.
#[derive(Debug)]
pub(super) struct Head<'a> {
    /// The request, still without its body.
    pub(super) request: Request<'a>,
    pub(super) framing: Framing,
    pub(super) expects_continue: bool,
}

/// Reads a head, its empty line included, that [`Scan`] has found.
pub(super) fn read<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Head<'a>, Reject> {
    let mut space = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut space[..limits.clamped_headers()]) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => {
            return Err(Reject::bad("the request line or a header is malformed"));
        }
        Err(error) => return Err(explain(error, bytes)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Reject::bad("the request line is malformed"));
    };
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let fields = Fields::read(parsed.headers, version)?;
    let method = if method == "CONNECT" {
        return Err(Reject::bad("this is not a proxy: CONNECT is refused"));
    } else {
        Method::read(method)
    };
    let target = Target::read(target, method)?;
    let request = Request {
        method,
        path: target.path,
        query: target.query,
        version,
        body: Cow::Borrowed(&[]),
        keep_alive: fields.keep_alive,
        host: target.authority.or(fields.host),
        headers: parsed.headers.to_vec(),
    };
    Ok(Head {
        request,
        framing: fields.framing,
        expects_continue: fields.expects_continue,
    })
}

fn explain(error: httparse::Error, bytes: &[u8]) -> Reject {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Reject::new(431, "too many header lines"),
        Error::HeaderName => Reject::bad(
            "a header line is not `Name: value` (white space before the colon and folded lines are refused)",
        ),
        Error::HeaderValue | Error::NewLine => Reject::bad("a header value holds a control character"),
        Error::Version
            if bytes
                .trim_ascii_start()
                .starts_with(HTTP2_PREFACE.trim_ascii_end()) =>
        {
            Reject::new(505, "HTTP/2 without TLS is not spoken here: use HTTP/1.1")
        }
        Error::Version if names_a_version(bytes) => Reject::new(505, "use HTTP/1.1"),
        _ => Reject::bad("the request line is not `METHOD /path HTTP/1.1`"),
    }
}

/// Whether the request line ends as one of any HTTP version does, and is merely not ours.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes
        .trim_ascii_start()
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    let Some((rest, &[b'H', b'T', b'T', b'P', b'/', major, b'.', minor])) = line.split_last_chunk::<8>()
    else {
        return false;
    };
    let is_ours = major == b'1' && (minor == b'0' || minor == b'1');
    rest.ends_with(b" ") && major.is_ascii_digit() && minor.is_ascii_digit() && !is_ours
}

/// The request target, taken apart.
struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Target<'a> {
    fn read(target: &'a str, method: Method) -> Result<Self, Reject> {
        if target == "*" {
            return match method {
                Method::Options => Ok(Self {
                    authority: None,
                    path: "*",
                    query: "",
                }),
                _ => Err(Reject::bad("the target `*` is for OPTIONS only")),
            };
        }
        let (authority, rest) = if target.starts_with('/') {
            (None, target)
        } else {
            let rest = strip_scheme(target)
                .ok_or_else(|| Reject::bad("the request target begins with `/`, `http://` or `https://`"))?;
            let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            if authority.is_empty() || !is_host(authority.as_bytes()) {
                return Err(Reject::bad("the host in the request target is malformed"));
            }
            (Some(authority), rest)
        };
        let (path, query) = match memchr(b'?', rest.as_bytes()) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, ""),
        };
        if !all_are(path, IN_PATH) || !all_are(query, IN_QUERY) {
            return Err(Reject::bad(
                "the request target holds a character that must be percent-encoded",
            ));
        }
        Ok(Self {
            authority,
            path: if path.is_empty() { "/" } else { path },
            query,
        })
    }
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    (scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")).then_some(rest)
}

/// What the headers say about the message itself.
struct Fields<'a> {
    host: Option<&'a str>,
    framing: Framing,
    expects_continue: bool,
    keep_alive: bool,
}

impl<'a> Fields<'a> {
    fn read(headers: &[httparse::Header<'a>], version: Version) -> Result<Self, Reject> {
        let (mut host, mut length, mut coding) = (None, None, None);
        let (mut expects, mut close, mut keep) = (false, false, false);
        for header in headers {
            let name = header.name;
            // The lengths first: of the ten headers of a browser, most are told apart by that alone.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => once(&mut host, header.value, "Host")?,
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !header.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Reject::new(417, "the only expectation met here is 100-continue"));
                    }
                    expects = true;
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    close |= has_token(header.value, "close");
                    keep |= has_token(header.value, "keep-alive");
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    once(&mut length, header.value, "Content-Length")?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    once(&mut coding, header.value, "Transfer-Encoding")?;
                }
                _ => {}
            }
        }
        Ok(Self {
            host: read_host(host, version)?,
            framing: read_framing(length, coding, version)?,
            // RFC 9110, 10.1.1: an HTTP/1.0 client does not know what 100 is.
            expects_continue: expects && version == Version::Http11,
            keep_alive: !close && (version == Version::Http11 || keep),
        })
    }
}

fn once<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8], name: &'static str) -> Result<(), Reject> {
    if slot.replace(value).is_some() {
        let mut reject = Reject::bad("");
        reject.detail = Cow::Owned(format!("more than one {name} header"));
        return Err(reject);
    }
    Ok(())
}

fn read_host(host: Option<&[u8]>, version: Version) -> Result<Option<&str>, Reject> {
    match host {
        None if version == Version::Http11 => Err(Reject::bad("HTTP/1.1 needs a Host header")),
        None => Ok(None),
        Some(host) => match str::from_utf8(host) {
            Ok(text) if is_host(host) => Ok(Some(text)),
            _ => Err(Reject::bad("the Host header is not a host with or without port")),
        },
    }
}

fn read_framing(length: Option<&[u8]>, coding: Option<&[u8]>, version: Version) -> Result<Framing, Reject> {
    match (length, coding) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => Err(Reject::bad("Content-Length together with Transfer-Encoding")),
        (Some(digits), None) => read_length(digits).map(Framing::Length),
        (None, Some(_)) if version == Version::Http10 => Err(Reject::bad(
            "HTTP/1.0 has no Transfer-Encoding: send Content-Length",
        )),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(coding)) => {
            let mut codings = coding.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            if codings.any(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"chunked")) {
                Err(Reject::bad(
                    "the only Transfer-Encoding accepted is `chunked`, once and alone",
                ))
            } else {
                Err(Reject::new(
                    501,
                    "the only Transfer-Encoding accepted is `chunked`",
                ))
            }
        }
    }
}

/// Digits and nothing else (no sign, no list). More than 64 bits hold is a length too, only too long for anybody.
fn read_length(digits: &[u8]) -> Result<u64, Reject> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Reject::bad("Content-Length is not a number"));
    }
    Ok(digits.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

/// Whether this is a host with or without port (RFC 3986, 3.2), without user name; empty is one too. Escapes (`%41`) are
/// refused: nobody sends them, and not everybody decodes them.
fn is_host(host: &[u8]) -> bool {
    let name = match memchr::memrchr(b':', host) {
        Some(colon) if !host[colon..].contains(&b']') => {
            if !host[colon + 1..].iter().all(u8::is_ascii_digit) || host.len() - colon > 6 {
                return false;
            }
            &host[..colon]
        }
        _ => host,
    };
    match name {
        [b'[', inside @ .., b']'] => {
            inside
                .iter()
                .all(|&byte| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.')
                && !inside.is_empty()
        }
        _ => name
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)),
    }
}

/// `tchar` of RFC 9110, 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a path may hold: RFC 3986, and what browsers and people send raw all the same (quotes, braces, bars, UTF-8).
/// No fragment: a client that sends one is broken, and front servers do not agree on what it then means.
const fn is_path_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e if !matches!(byte, b'#' | b'<' | b'>' | b'?' | b'^' | b'`')) || byte >= 0x80
}

/// As [`is_path_byte`], for the query.
const fn is_query_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e if !matches!(byte, b'"' | b'#' | b'<' | b'>')) || byte >= 0x80
}

/// What a byte of a target may be part of, a bit each: one look per byte, since every request has dozens of them.
const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;
static TARGET_BYTES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if is_path_byte(byte as u8) {
            table[byte] |= IN_PATH;
        }
        if is_query_byte(byte as u8) {
            table[byte] |= IN_QUERY;
        }
        byte += 1;
    }
    table
};

fn all_are(text: &str, part: u8) -> bool {
    text.bytes()
        .fold(part, |all, byte| all & TARGET_BYTES[byte as usize])
        != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_what_only_looks_like_one() {
        for host in [
            "",
            "a",
            "a.b-c_d",
            "a:1",
            "a:",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "xn--a.b",
            "a:65535",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b", "a,b", "a/b", "u@a", "a:b", "a:1:2", "::1", "[::1", "[]", "[x]", "a:123456", "%41", "é",
            "a\\b",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn every_byte_of_a_head_is_searched_once() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut scan = Scan::default();
        for end in 0..head.len() {
            assert_eq!(scan.advance(&head[..end], &Limits::default()), Ok(None));
            assert_eq!(scan.searched as usize, end);
        }
        assert_eq!(scan.advance(head, &Limits::default()), Ok(Some(head.len())));
    }
}
