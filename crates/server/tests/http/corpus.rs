//! Requests good and bad, with what we and what hyper make of them.

use proptest::prelude::*;

/// What we make of the bytes of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ours {
    /// So many requests, with these bodies, and nothing left.
    Takes(&'static [&'static str]),
    /// A request that is not all here.
    Waits,
    /// Refused with this status. Requests before it were taken.
    Refuses(u16),
}
use Ours::{Refuses, Takes, Waits};

/// What hyper makes of the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hyper {
    /// The same: takes the same requests, and no more.
    Agrees,
    /// It takes what we refuse: an intended difference.
    IsLaxer,
}
use Hyper::{Agrees, IsLaxer};

pub(crate) const ROWS: &[(&str, Ours, Hyper)] = &[
    // Good ones.
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Takes(&[""]), Agrees),
    ("GET / HTTP/1.0\r\n\r\n", Takes(&[""]), Agrees),
    ("\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n", Takes(&[""]), Agrees),
    (
        "BREW /pot HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        Takes(&[""]),
        Agrees,
    ),
    (
        "GET /a?b=c&d={\"e\"} HTTP/1.1\r\nHost: a\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET /{\"a\"}|?b={c}|^`é HTTP/1.1\r\nHost: a\r\n\r\n",
        Takes(&[""]),
        Agrees,
    ),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Takes(&[""]), Agrees),
    (
        "GET http://a:80/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        Takes(&[""]),
        Agrees,
    ),
    ("GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n", Takes(&[""]), Agrees),
    ("GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n", Takes(&[""]), Agrees),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        Takes(&["abc"]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t03 \r\n\r\nabc",
        Takes(&["abc"]),
        Agrees,
    ),
    (
        "POST / HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\naGET / HTTP/1.0\r\n\r\n",
        Takes(&["a", ""]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\nabc",
        Takes(&["abc"]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Takes(&["abc"]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0A ;c\r\nbcdefghijk\r\n00\r\nEtag: x\r\nA:\r\n\r\n",
        Takes(&["abcdefghijk"]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Takes(&[""]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Takes(&["abc", "x", ""]),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n1\r\nf\r\n0\r\n\r\n",
        Takes(&["abcdef"]),
        Agrees,
    ),
    // Not all here.
    ("GET / HTTP/1.1\r\nHost: a\r\n", Waits, Agrees),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
        Waits,
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc",
        Waits,
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        Waits,
        Agrees,
    ),
    // The request line.
    ("\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03\x03", Refuses(400), Agrees),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refuses(505), Agrees),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Refuses(505), Agrees),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refuses(505), Agrees),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET /\r\n\r\n", Refuses(400), Agrees),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET /a\0 HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    ("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    (
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "GET http://a%62/ HTTP/1.1\r\nHost: a\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    // Lines.
    ("GET / HTTP/1.1\nHost: a\n\n", Refuses(400), IsLaxer),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", Refuses(400), IsLaxer),
    ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), IsLaxer),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refuses(400), Agrees),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refuses(400), Agrees),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refuses(400), Agrees),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA\t: b\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refuses(400), Agrees),
    ("GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n", Refuses(400), Agrees),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\u{7f}\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nÄ: b\r\n\r\n", Refuses(400), Agrees),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", Refuses(400), IsLaxer),
    ("GET http://a/ HTTP/1.1\r\n\r\n", Refuses(400), IsLaxer),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refuses(400), IsLaxer),
    ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refuses(400), IsLaxer),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refuses(400), IsLaxer),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Refuses(400), IsLaxer),
    // Content-Length.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\na",
        Refuses(413),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\na",
        Refuses(413),
        Agrees,
    ),
    // Both, and Transfer-Encoding: the smuggler's tools.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Refuses(501),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        Refuses(501),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        Refuses(501),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    // A hidden second request is never taken for one.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\nGET /admin HTTP/1.1\r\nHost: admin\r\n\r\n",
        Takes(&["GET /admin HTTP/1.1\r\nHost: admin\r\n\r\n"]),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n Transfer-Encoding: chunked\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nSMUGGLED\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    // Chunks.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 1\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\0\r\na\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\na\r\n0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n0\r\n\r\n",
        Refuses(400),
        IsLaxer,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\na\r\n0\r\n\r\n",
        Refuses(413),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA b\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n",
        Refuses(400),
        Agrees,
    ),
    // Expect.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\na",
        Refuses(417),
        IsLaxer,
    ),
];

/// The bytes of a connection that begins as one or two of the rows and was then damaged in up to `damages` places.
pub(crate) fn damaged(damages: usize) -> impl Strategy<Value = Vec<u8>> {
    let row = || prop::sample::select(ROWS).prop_map(|row| row.0);
    let piece = prop::sample::select(PIECES);
    let damage = (any::<prop::sample::Index>(), 0usize..3, piece);
    (row(), row(), prop::collection::vec(damage, 0..=damages)).prop_map(|(first, second, damages)| {
        let mut bytes = [first.as_bytes(), second.as_bytes()].concat();
        for (at, remove, piece) in damages {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + remove);
            bytes.splice(at..end, piece.iter().copied());
        }
        bytes
    })
}

const PIECES: &[&[u8]] = &[
    b"",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc3\xa9",
    b":",
    b";",
    b",",
    b"0",
    b"1",
    b"3",
    b"a",
    b"f",
    b"/",
    b"?",
    b"#",
    b"*",
    b"@",
    b"[",
    b"\"",
    b"%",
    b"+",
    b"-",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 1\r\n",
    b"Connection: close\r\n",
    b"Host: b\r\n",
    b"HTTP/1.0",
    b"http://",
    b"Upgrade: x\r\n",
    b"Expect: 100-continue\r\n",
    b"0\r\n\r\n",
];
