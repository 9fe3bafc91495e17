//! The opening handshake (RFC 6455, 4.2): from a request's header fields to the accept value, or a refusal.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// What a server appends to the key, so that nobody else can answer a handshake by accident (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The one version of the protocol that was ever finished.
pub const VERSION: &str = "13";

/// The length of `Sec-WebSocket-Accept`: 20 bytes in base64.
pub const ACCEPT_LEN: usize = 28;

/// A handshake to be answered 101.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept<'a> {
    /// The value of `Sec-WebSocket-Accept`: ASCII.
    pub key: [u8; ACCEPT_LEN],
    /// The subprotocol chosen, a token: the value of `Sec-WebSocket-Protocol`, which is left out if none was.
    pub protocol: Option<&'a str>,
}

impl Accept<'_> {
    /// Appends the whole head of the 101 response; frames may follow at once.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        );
        out.extend_from_slice(b"Sec-WebSocket-Accept: ");
        out.extend_from_slice(&self.key);
        if let Some(protocol) = self.protocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(protocol.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// A handshake to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Answer 400: this is no handshake; the text says why.
    #[error("{0}")]
    BadRequest(&'static str),
    /// Answer 426 with `Sec-WebSocket-Version: 13`.
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Refusal::BadRequest(_) => 400,
            Refusal::Version => 426,
        }
    }
}

/// Checks the header fields of an HTTP/1.1 `GET` and computes the answer.
///
/// `headers` are all fields of the request, names in any case, since a list such as `Connection` may come in several
/// lines. `choose` is asked for each subprotocol offered, in the client's order, and the first it takes is answered:
/// none may be, but a browser that offered some and gets none fails the connection. Method, HTTP version, `Host` and
/// `Origin` are for the caller to check.
///
/// # Errors
/// [`Refusal::Version`] for another version, [`Refusal::BadRequest`] for a field that is missing, doubled or odd.
pub fn check<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    mut choose: impl FnMut(&str) -> bool,
) -> Result<Accept<'a>, Refusal> {
    let (mut upgrade, mut connection) = (false, false);
    let (mut version, mut key, mut protocol) = (None, None, None);
    for (name, value) in headers {
        if name.eq_ignore_ascii_case("upgrade") {
            upgrade |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"websocket"));
        } else if name.eq_ignore_ascii_case("connection") {
            connection |= tokens(value).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        } else if name.eq_ignore_ascii_case("sec-websocket-version") {
            once(
                &mut version,
                value.trim_ascii(),
                "Sec-WebSocket-Version is given twice",
            )?;
        } else if name.eq_ignore_ascii_case("sec-websocket-key") {
            once(&mut key, value.trim_ascii(), "Sec-WebSocket-Key is given twice")?;
        } else if name.eq_ignore_ascii_case("sec-websocket-protocol") {
            for offered in tokens(value) {
                let offered = token(offered)
                    .ok_or(Refusal::BadRequest("Sec-WebSocket-Protocol is no list of tokens"))?;
                if protocol.is_none() && choose(offered) {
                    protocol = Some(offered);
                }
            }
        }
    }
    if !upgrade {
        return Err(Refusal::BadRequest("Upgrade: websocket is missing"));
    }
    if !connection {
        return Err(Refusal::BadRequest("Connection: Upgrade is missing"));
    }
    let version = version.ok_or(Refusal::BadRequest("Sec-WebSocket-Version is missing"))?;
    if version != VERSION.as_bytes() {
        return Err(Refusal::Version);
    }
    let key = key.ok_or(Refusal::BadRequest("Sec-WebSocket-Key is missing"))?;
    if !is_key(key) {
        return Err(Refusal::BadRequest("Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    Ok(Accept {
        key: accept(key),
        protocol,
    })
}

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`; a client compares it with what it got.
#[must_use]
pub fn accept(key: &[u8]) -> [u8; ACCEPT_LEN] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut value = [0; ACCEPT_LEN];
    STANDARD
        .encode_slice(digest, &mut value)
        .expect("20 bytes are 28 in base64");
    value
}

fn once<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8], doubled: &'static str) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::BadRequest(doubled)),
    }
}

/// The elements of a comma-separated list; empty ones are skipped (RFC 9110, 5.6.1).
fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// `bytes` as a token of RFC 9110, 5.6.2, which can be echoed in a header field.
fn token(bytes: &[u8]) -> Option<&str> {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if bytes.iter().all(legal) {
        str::from_utf8(bytes).ok()
    } else {
        None
    }
}

/// Whether these can be 16 bytes in base64. The two bits too many in the last letter are not looked at, as elsewhere.
fn is_key(key: &[u8]) -> bool {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(legal) && key[22..] == *b"=="
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn checked<'a>(headers: &[(&'a str, &'a str)]) -> Result<Accept<'a>, Refusal> {
        check(
            headers.iter().map(|(name, value)| (*name, value.as_bytes())),
            |offered| offered != "unknown",
        )
    }

    /// The good handshake with one field replaced, or removed.
    fn with<'a>(name: &str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
        let mut headers: Vec<(&str, &str)> = GOOD.to_vec();
        headers.retain_mut(|field| {
            field.1 = if field.0 == name {
                value.unwrap_or_default()
            } else {
                field.1
            };
            field.0 != name || value.is_some()
        });
        headers
    }

    #[test]
    fn the_example_of_the_standard_is_accepted() {
        let accept = checked(&GOOD).unwrap();
        assert_eq!(accept.key, *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut head = Vec::new();
        accept.write_head(&mut head);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn lists_in_any_case_and_in_several_lines_are_understood() {
        let headers = [
            ("CONNECTION", "keep-alive"),
            ("connection", "x ,, uPgRaDe"),
            ("upgrade", "h2c, WebSocket"),
            ("sec-websocket-version", " 13 "),
            ("SEC-WEBSOCKET-KEY", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert!(checked(&headers).is_ok());
    }

    #[test]
    fn the_first_known_subprotocol_is_chosen() {
        let offers = [
            ("Sec-WebSocket-Protocol", "unknown, b"),
            ("Sec-WebSocket-Protocol", "c"),
        ];
        let accept = checked(&[&GOOD[..], &offers].concat()).unwrap();
        assert_eq!(accept.protocol, Some("b"));
        let mut head = Vec::new();
        accept.write_head(&mut head);
        assert!(head.ends_with(b"\r\nSec-WebSocket-Protocol: b\r\n\r\n"));
        assert_eq!(
            checked(&[&GOOD[..], &[("Sec-WebSocket-Protocol", "unknown")]].concat())
                .unwrap()
                .protocol,
            None
        );
    }

    #[test]
    fn another_version_is_told_which_one_is_spoken() {
        for version in ["8", "14", "013", "13, 8", ""] {
            let refusal = checked(&with("Sec-WebSocket-Version", Some(version))).unwrap_err();
            assert_eq!(
                (refusal, refusal.status()),
                (Refusal::Version, 426),
                "{version:?}"
            );
        }
    }

    #[test]
    fn odd_and_missing_fields_are_bad_requests() {
        let bad = [
            with("Upgrade", None),
            with("Upgrade", Some("websocket2")),
            with("Connection", None),
            with("Connection", Some("keep-alive")),
            with("Sec-WebSocket-Version", None),
            with("Sec-WebSocket-Key", None),
            with("Sec-WebSocket-Key", Some("")),
            with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ=")),
            with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQAA")),
            with("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZ\r\nBub25jZQ==")),
            [&GOOD[..], &GOOD[3..]].concat(),
            [&GOOD[..], &GOOD[2..3]].concat(),
            [&GOOD[..], &[("Sec-WebSocket-Protocol", "a b")]].concat(),
        ];
        for headers in bad {
            let refusal = checked(&headers).unwrap_err();
            assert_eq!(refusal.status(), 400, "{headers:?}");
        }
    }
}
