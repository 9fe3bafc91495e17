//! No limit can be passed, and what is exactly at a limit is taken.

use cometserver::http::{HEADERS, Limits, Parse, Progress, parse};

use crate::read;

fn status(bytes: &str, limits: &Limits) -> u16 {
    let verdict = read(bytes.as_bytes(), &[], limits);
    verdict
        .refused
        .map_or(if verdict.accepted.is_empty() { 0 } else { 200 }, |reject| {
            reject.status
        })
}

#[test]
fn a_head_may_be_as_long_as_the_limit() {
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let limits = |head| Limits {
        head,
        ..Limits::default()
    };
    assert_eq!(status(request, &limits(request.len())), 200);
    assert_eq!(status(request, &limits(request.len() - 1)), 431);
    assert_eq!(status(&"a".repeat(20 << 10), &Limits::default()), 431);
    assert_eq!(status(&"\r\n".repeat(10 << 10), &Limits::default()), 431);
    assert_eq!(status(&"a".repeat(2 << 20), &limits(usize::MAX)), 431);
}

#[test]
fn there_may_be_as_many_headers_as_the_limit() {
    let request = |count| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count));
    let limits = |headers| Limits {
        headers,
        ..Limits::default()
    };
    assert_eq!(status(&request(3), &limits(4)), 200);
    assert_eq!(status(&request(4), &limits(4)), 431);
    assert_eq!(status(&request(127), &limits(usize::MAX)), 200);
    assert_eq!(status(&request(128), &limits(usize::MAX)), 431);
}

#[test]
fn a_body_may_be_as_long_as_the_limit() {
    let limits = |body| Limits {
        body,
        ..Limits::default()
    };
    let length = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    for request in [length, chunked] {
        assert_eq!(status(request, &limits(5)), 200);
        assert_eq!(status(request, &limits(4)), 413);
        // Before the body is here, too.
        assert_eq!(status(request.split_once("he").unwrap().0, &limits(1)), 413);
    }
}

#[test]
fn what_surrounds_chunks_is_bounded() {
    let chunked =
        |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let limits = Limits {
        body: 100_000,
        ..Limits::default()
    };
    assert_eq!(
        status(&chunked(&("1\r\na\r\n".repeat(10_000) + "0\r\n\r\n")), &limits),
        200
    );
    assert_eq!(status(&chunked(&"1\r\na\r\n".repeat(50_000)), &limits), 413);
    assert_eq!(
        status(
            &chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "a".repeat(252))),
            &limits
        ),
        200
    );
    assert_eq!(
        status(
            &chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "a".repeat(253))),
            &limits
        ),
        400
    );
    assert_eq!(status(&chunked(&"1".repeat(300)), &limits), 400);
    assert_eq!(
        status(
            &chunked(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(HEADERS))),
            &limits
        ),
        200
    );
    assert_eq!(
        status(
            &chunked(&format!("0\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1))),
            &limits
        ),
        431
    );
    assert_eq!(
        status(
            &chunked(&format!("0\r\nA: {}\r\n\r\n", "b".repeat(9 << 10))),
            &limits
        ),
        431
    );
}

#[test]
fn a_full_buffer_always_gets_a_verdict() {
    let limits = Limits {
        head: 64,
        headers: 4,
        body: 1000,
    };
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let worst = [
        "a".repeat(40_000),
        "\r\n".repeat(40_000),
        format!("{head}{}", "1\r\na\r\n".repeat(10_000)),
        format!("{head}{}", format!("1;{}\r\na\r\n", "e".repeat(250)).repeat(200)),
        format!(
            "{head}3e8\r\n{}\r\n0\r\n{}",
            "a".repeat(1000),
            "A: b\r\n".repeat(10_000)
        ),
        format!(
            "{head}3e8\r\n{}\r\n0\r\nA: {}",
            "a".repeat(1000),
            "b".repeat(50_000)
        ),
    ];
    for bytes in worst {
        let full = &bytes.as_bytes()[..limits.buffer_max()];
        let parsed = parse(full, &mut Progress::default(), &limits);
        assert!(
            !matches!(parsed, Ok(Parse::Incomplete { .. })),
            "{:?}",
            &bytes[..80]
        );
    }
}
