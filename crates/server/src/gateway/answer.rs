//! From the server's answer to what CGI wants: the status is a header, and the connection is not ours to talk about.

use super::request::Refusal;
use crate::http::problem::Problem;
use crate::http::response::reason;

/// The largest head of an answer.
const MAX_HEAD: usize = 32 << 10;

/// What is between a server and its client only.
const HOP_BY_HOP: &[&[u8]] = &[
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"upgrade",
    b"trailer",
];

/// When a browser tries again to open a stream, in milliseconds.
const RETRY: u32 = 3000;

/// The head of an answer, translated, and where its body begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Translated {
    pub(super) head: Vec<u8>,
    pub(super) body_at: usize,
    /// It is an event stream: comments may be put between its blocks.
    pub(super) is_stream: bool,
}

/// What came is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoAnswer;

/// Translates the head once it is whole; `None` if it is not yet.
pub(super) fn translate(bytes: &[u8]) -> Result<Option<Translated>, NoAnswer> {
    let Some(end) = memchr::memmem::find(&bytes[..bytes.len().min(MAX_HEAD)], b"\r\n\r\n") else {
        return match bytes.len() < MAX_HEAD {
            true => Ok(None),
            false => Err(NoAnswer),
        };
    };
    let mut lines = bytes[..end].split(|byte| *byte == b'\n');
    let first = lines.next().map(<[u8]>::trim_ascii).unwrap_or_default();
    let status = first
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| first.strip_prefix(b"HTTP/1.0 "));
    let status = status.ok_or(NoAnswer)?;
    let mut head = b"Status: ".to_vec();
    head.extend_from_slice(status);
    head.extend_from_slice(b"\r\n");
    let mut is_stream = false;
    for line in lines.map(<[u8]>::trim_ascii) {
        let colon = memchr::memchr(b':', line).ok_or(NoAnswer)?;
        let name = line[..colon].to_ascii_lowercase();
        if HOP_BY_HOP.contains(&&*name) {
            continue;
        }
        is_stream |= name == b"content-type" && is_events(&line[colon + 1..]);
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    Ok(Some(Translated {
        head,
        body_at: end + 4,
        is_stream: is_stream && status.starts_with(b"200"),
    }))
}

/// Is this the media type of an event stream, whatever its parameters?
fn is_events(media_type: &[u8]) -> bool {
    let end = memchr::memchr(b';', media_type).unwrap_or(media_type.len());
    media_type[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(b"text/event-stream")
}

/// The answer to a request that is not passed on.
pub(super) fn refused(refusal: &Refusal) -> Vec<u8> {
    problem(&Problem::new(refusal.status, refusal.code, refusal.detail))
}

/// The answer if no server answers. A browser's EventSource gives up for ever after an error: it gets a stream that ends.
pub(super) fn unavailable(is_sse: bool, detail: &str) -> Vec<u8> {
    if is_sse {
        let head =
            "Status: 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n";
        // No empty line behind it: an empty block makes some clients forget where they stand.
        return format!("{head}X-Accel-Buffering: no\r\n\r\nretry: {RETRY}\n").into_bytes();
    }
    let mut problem_details = Problem::new(503, "unavailable", detail);
    problem_details.retry_after = Some(RETRY / 1000);
    problem(&problem_details)
}

fn problem(problem: &Problem<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let terms = crate::http::response::Terms::CLOSE;
    problem.answer(terms, &crate::http::cors::Cors::default(), &mut out);
    match translate(&out) {
        Ok(Some(translated)) => [&translated.head, &out[translated.body_at..]].concat(),
        _ => format!("Status: {} {}\r\n\r\n", problem.status, reason(problem.status)).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_becomes_a_header_and_what_is_between_neighbours_is_left_out() {
        let answer = b"HTTP/1.1 304 Not Modified\r\nETag: \"c1\"\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nbody";
        let translated = translate(answer).unwrap().unwrap();
        assert_eq!(
            translated.head,
            b"Status: 304 Not Modified\r\nETag: \"c1\"\r\n\r\n"
        );
        assert_eq!(&answer[translated.body_at..], b"body");
        assert!(!translated.is_stream);
    }

    #[test]
    fn a_head_may_come_in_pieces_and_only_so_long() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n";
        for end in 0..answer.len() {
            assert_eq!(translate(&answer[..end]), Ok(None), "{end}");
        }
        assert!(translate(answer).unwrap().unwrap().is_stream);
        let plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        assert!(translate(plain).unwrap().unwrap().is_stream);
        let other = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-streams\r\n\r\n";
        assert!(!translate(other).unwrap().unwrap().is_stream);
        assert_eq!(translate(&vec![b'x'; MAX_HEAD]), Err(NoAnswer));
        assert_eq!(translate(b"SSH-2.0\r\n\r\n"), Err(NoAnswer));
        assert_eq!(translate(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Err(NoAnswer));
    }

    #[test]
    fn an_event_source_is_never_shown_an_error() {
        let text = String::from_utf8(unavailable(true, "down")).unwrap();
        assert!(text.starts_with("Status: 200 OK\r\n") && text.ends_with("\r\n\r\nretry: 3000\n"));
        let text = String::from_utf8(unavailable(false, "down")).unwrap();
        assert!(text.starts_with("Status: 503 Service Unavailable\r\n"), "{text}");
        assert!(text.contains("Retry-After: 3\r\n") && text.contains("\"detail\":\"down\""));
    }
}
