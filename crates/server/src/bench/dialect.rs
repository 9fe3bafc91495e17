//! The requests a load makes, in the dialect of the server that is measured.

use std::fmt;

use super::{MARKER, Options, Transport};

/// Whose dialect the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The native protocol.
    #[default]
    Comet,
    /// The floor (`examples/floor.rs`): the native paths, but a publication's body is the ready frame.
    Floor,
    /// nginx with nchan: `nchan_publisher` at `/pub/<channel>`, `nchan_subscriber` at `/sub/<channel>`.
    Nchan,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Comet => "comet",
            Target::Floor => "floor",
            Target::Nchan => "nchan",
        })
    }
}

/// Where a long poll goes on: what the last answer said.
#[derive(Debug, Default)]
pub(super) struct Resume {
    /// The cursor (Comet), or the `ETag` as it came (nchan). Empty: none yet.
    pub(super) tag: Vec<u8>,
    /// `Last-Modified` as it came. Empty: none.
    pub(super) modified: Vec<u8>,
}

/// The key of RFC 6455's own example: the floor answers it with a canned head, and we do not judge the answer.
const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The same requests again and again: everything that does not change is rendered once.
#[derive(Debug)]
pub(super) struct Dialect {
    target: Target,
    transport: Transport,
    prefix: String,
    /// `Host` and, with a token, `Authorization`, up to the empty line.
    subscribe_headers: String,
    publish_headers: String,
    /// A publication's payload; for the floor, its frame.
    body: Vec<u8>,
    batch: usize,
}

impl Dialect {
    pub(super) fn new(options: &Options, prefix: String) -> Self {
        let headers = |secret: &Option<String>| match secret {
            Some(secret) => format!("Host: localhost\r\nAuthorization: Bearer {secret}\r\n"),
            None => "Host: localhost\r\n".to_owned(),
        };
        let body = match options.target {
            Target::Floor => frame(options.transport, options.payload, options.frame.unwrap_or(0)),
            Target::Comet | Target::Nchan => payload(options.payload),
        };
        Dialect {
            target: options.target,
            transport: options.transport,
            prefix,
            subscribe_headers: headers(&options.token),
            publish_headers: headers(&options.key),
            body,
            batch: options.batch,
        }
    }

    pub(super) fn target(&self) -> Target {
        self.target
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// The request with which a subscriber begins. A long poll of ours is answered at once, with a cursor: from
    /// there nothing can be missed, however late the next request is read.
    pub(super) fn open(&self, channel: u32) -> String {
        let Dialect {
            prefix,
            subscribe_headers: headers,
            ..
        } = self;
        let path = match (self.target, self.transport) {
            (Target::Nchan, _) => format!("/sub/{prefix}{channel}"),
            (_, Transport::Sse) => format!("/v1/sse?channel={prefix}{channel}"),
            (_, Transport::Stream) => format!("/v1/stream?channel={prefix}{channel}"),
            (_, Transport::Ws) => format!("/v1/ws?channel={prefix}{channel}"),
            (Target::Comet, Transport::Poll) => format!("/v1/poll?channel={prefix}{channel}&wait_ms=0"),
            (Target::Floor, Transport::Poll) => format!("/v1/poll?channel={prefix}{channel}"),
        };
        let extra = match self.transport {
            Transport::Sse => "Accept: text/event-stream\r\n".to_owned(),
            Transport::Ws => format!(
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\n"
            ),
            Transport::Stream | Transport::Poll => String::new(),
        };
        format!("GET {path} HTTP/1.1\r\n{headers}{extra}\r\n")
    }

    /// The next turn of a long poll.
    pub(super) fn poll_again(&self, channel: u32, resume: &Resume, request: &mut Vec<u8>) {
        let prefix = self.prefix.as_bytes();
        let mut number = itoa::Buffer::new();
        let number = number.format(channel).as_bytes();
        let path: &[u8] = if self.target == Target::Nchan {
            b"GET /sub/"
        } else {
            b"GET /v1/poll?channel="
        };
        for part in [path, prefix, number] {
            request.extend_from_slice(part);
        }
        if self.target == Target::Comet {
            request.extend_from_slice(b"&cursor=");
            percent_encode(&resume.tag, request);
        }
        request.extend_from_slice(b" HTTP/1.1\r\n");
        request.extend_from_slice(self.subscribe_headers.as_bytes());
        if self.target == Target::Nchan && !resume.tag.is_empty() {
            let lines: [&[u8]; 5] = [
                b"If-None-Match: ",
                &resume.tag,
                b"\r\nIf-Modified-Since: ",
                &resume.modified,
                b"\r\n",
            ];
            lines.iter().for_each(|part| request.extend_from_slice(part));
        }
        request.extend_from_slice(b"\r\n");
    }

    /// The request that publishes once (or one batch) to a channel.
    pub(super) fn publish(&self, channel: u32, request: &mut Vec<u8>) {
        let Dialect {
            prefix,
            publish_headers: headers,
            ..
        } = self;
        let batch;
        let (path, body) = match self.target {
            Target::Nchan => (format!("/pub/{prefix}{channel}"), &self.body),
            Target::Comet if self.batch > 1 => {
                batch = self.batch_body(channel);
                ("/v1/batch".to_owned(), &batch)
            }
            Target::Comet | Target::Floor => (format!("/v1/publish?channel={prefix}{channel}"), &self.body),
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(body);
    }

    fn batch_body(&self, channel: u32) -> Vec<u8> {
        let mut body = b"{\"publications\":[".to_vec();
        for i in 0..self.batch {
            let comma = if i == 0 { "" } else { "," };
            body.extend_from_slice(
                format!("{comma}{{\"channel\":\"{}{channel}\",\"data\":", self.prefix).as_bytes(),
            );
            body.extend_from_slice(&self.body);
            body.push(b'}');
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// A JSON string of `size` bytes, quotes included, that holds the marker once.
fn payload(size: usize) -> Vec<u8> {
    let mut payload = vec![b'x'; size];
    payload[0] = b'"';
    payload[1] = MARKER;
    payload[size - 1] = b'"';
    payload
}

/// What the floor sends for one delivery: the payload, filled up to `wire` bytes with the framing included.
fn frame(transport: Transport, payload_size: usize, wire: usize) -> Vec<u8> {
    let framed = |size: usize| -> Vec<u8> {
        let body = payload(size);
        match transport {
            Transport::Sse => [b"data: ", body.as_slice(), b"\n\n"].concat(),
            Transport::Stream => [body.as_slice(), b"\n"].concat(),
            Transport::Ws => websocket_frame(&body),
            Transport::Poll => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                [head.as_bytes(), &body].concat()
            }
        }
    };
    let least = framed(payload_size);
    if wire <= least.len() {
        return least;
    }
    // The framing grows with the payload (length digits), so the first guess may be a few bytes long.
    let mut size = payload_size + wire - least.len();
    while size > payload_size && framed(size).len() > wire {
        size -= 1;
    }
    framed(size)
}

/// An unmasked text frame.
fn websocket_frame(body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match body.len() {
        short @ 0..=125 => frame.push(short as u8),
        medium @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(body);
    frame
}

fn percent_encode(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_of_the_floor_has_the_wanted_size_on_every_transport() {
        for transport in [Transport::Sse, Transport::Stream, Transport::Ws, Transport::Poll] {
            for wire in [200, 251, 333, 4_300] {
                let frame = frame(transport, 100, wire);
                assert_eq!(frame.len(), wire, "{transport:?} {wire}");
                assert_eq!(memchr::memchr_iter(MARKER, &frame).count(), 1);
            }
            assert!(frame(transport, 100, 0).len() >= 100);
        }
    }

    #[test]
    fn a_batch_is_valid_json_with_as_many_publications_as_asked_for() {
        let mut options = Options::new("127.0.0.1:1".parse().unwrap());
        options.batch = 3;
        let body = Dialect::new(&options, "b-".into()).batch_body(7);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["publications"].as_array().unwrap().len(), 3);
        assert_eq!(value["publications"][2]["channel"], "b-7");
        assert_eq!(value["publications"][2]["data"].as_str().unwrap().len(), 98);
    }

    #[test]
    fn a_cursor_is_given_back_percent_encoded() {
        let options = Options {
            transport: Transport::Poll,
            ..Options::new("127.0.0.1:1".parse().unwrap())
        };
        let resume = Resume {
            tag: b"a+/=".to_vec(),
            modified: Vec::new(),
        };
        let mut request = Vec::new();
        Dialect::new(&options, "b-".into()).poll_again(7, &resume, &mut request);
        assert!(request.starts_with(b"GET /v1/poll?channel=b-7&cursor=a%2B%2F%3D HTTP/1.1\r\n"));
        assert!(request.ends_with(b"\r\n\r\n"));
    }
}
