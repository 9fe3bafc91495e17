//! The verdict on each row, however its bytes arrive.

use cometserver::http::{Limits, Method, Parse, Progress, Version, parse};
use proptest::prelude::*;

use crate::corpus::{Ours, ROWS, damaged};
use crate::read;

#[test]
fn each_row_gets_its_verdict() {
    for (bytes, ours, _) in ROWS {
        let verdict = read(bytes.as_bytes(), &[], &Limits::default());
        let bodies: Vec<_> = verdict.accepted.iter().map(|accepted| &*accepted.body).collect();
        let status = verdict.refused.as_ref().map(|reject| reject.status);
        match ours {
            Ours::Takes(expected) => {
                let expected: Vec<_> = expected.iter().map(|body| body.as_bytes()).collect();
                assert_eq!((bodies, status, verdict.left), (expected, None, 0), "{bytes:?}");
            }
            Ours::Waits => {
                assert_eq!(
                    (bodies.len(), status, verdict.left),
                    (0, None, bytes.len()),
                    "{bytes:?}"
                );
            }
            Ours::Refuses(expected) => assert_eq!(status, Some(*expected), "{bytes:?} {verdict:?}"),
        }
    }
}

#[test]
fn each_row_gets_the_same_verdict_byte_by_byte() {
    for (bytes, ..) in ROWS {
        let whole = read(bytes.as_bytes(), &[], &Limits::default());
        let cuts: Vec<_> = (0..bytes.len()).collect();
        let mut split = read(bytes.as_bytes(), &cuts, &Limits::default());
        split.left = whole.left;
        assert_eq!(split, whole, "{bytes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_verdict_does_not_depend_on_how_the_bytes_arrive(
        bytes in damaged(2),
        mut cuts in prop::collection::vec(0usize..300, 0..8),
        body in 0usize..40,
    ) {
        let limits = Limits { body, head: 120, headers: 4 };
        cuts.retain(|&cut| cut <= bytes.len());
        cuts.sort_unstable();
        prop_assert_eq!(read(&bytes, &cuts, &limits), read(&bytes, &[], &limits));
    }

    #[test]
    fn any_bytes_get_a_verdict(bytes in any::<Vec<u8>>(), begin in prop::sample::select(ROWS)) {
        let bytes = [begin.0.as_bytes(), &bytes].concat();
        read(&bytes, &[bytes.len() / 2], &Limits::default());
    }
}

#[test]
fn a_request_is_taken_apart() {
    let bytes =
        b"POST /v1/publish?channel=a%2Fb HTTP/1.1\r\nhost: Example:8080\r\nX-Twice: 1 \r\nx-twice:\t2\r\n\
        Connection: keep-alive, Upgrade\r\nX-Binary: \xff\r\nContent-Length: 2\r\n\r\nhi and more";
    let parsed = parse(bytes, &mut Progress::default(), &Limits::default()).unwrap();
    let Parse::Complete { request, consumed } = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(consumed, bytes.len() - " and more".len());
    assert_eq!((request.method, request.version), (Method::Post, Version::Http11));
    assert_eq!((request.path, request.query), ("/v1/publish", "channel=a%2Fb"));
    assert_eq!(request.host(), Some("Example:8080"));
    assert_eq!(request.header("X-TWICE"), Some(&b"1"[..]));
    assert_eq!(request.headers_all("x-twice").collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(
        (request.header("x-binary"), request.header_str("x-binary")),
        (Some(&b"\xff"[..]), None)
    );
    assert!(
        request.header_has_token("connection", "upgrade") && !request.header_has_token("connection", "up")
    );
    assert!(request.keep_alive);
    assert_eq!(&*request.body, b"hi");
}

#[test]
fn the_host_of_an_absolute_target_wins_over_the_header() {
    let bytes = b"GET http://real/ HTTP/1.1\r\nHost: other\r\n\r\n";
    let parsed = parse(bytes, &mut Progress::default(), &Limits::default()).unwrap();
    let Parse::Complete { request, .. } = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(request.host(), Some("real"));
}

#[test]
fn a_connection_is_kept_as_both_sides_of_the_version_expect() {
    let keeps = |rest: &str| {
        let bytes = format!("GET / {rest}\r\n\r\n");
        match parse(bytes.as_bytes(), &mut Progress::default(), &Limits::default()) {
            Ok(Parse::Complete { request, .. }) => request.keep_alive,
            other => panic!("{other:?}"),
        }
    };
    assert!(keeps("HTTP/1.1\r\nHost: a"));
    assert!(!keeps("HTTP/1.1\r\nHost: a\r\nConnection: Close"));
    assert!(!keeps(
        "HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive"
    ));
    assert!(!keeps("HTTP/1.0"));
    assert!(keeps("HTTP/1.0\r\nConnection: Keep-Alive"));
    assert!(!keeps("HTTP/1.0\r\nConnection: keep-alive, close"));
}

#[test]
fn continue_is_asked_for_once_and_only_where_a_body_is_missing() {
    let asks = |bytes: &str| {
        let mut progress = Progress::default();
        let mut ask = || match parse(bytes.as_bytes(), &mut progress, &Limits::default()) {
            Ok(Parse::Incomplete {
                wants_continue,
                needed,
            }) => Some((wants_continue, needed)),
            _ => None,
        };
        (ask(), ask())
    };
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(asks(head), (Some((true, 3)), Some((false, 3))));
    assert_eq!(asks(&format!("{head}abc")).0, None);
    assert_eq!(asks(&head.replace("HTTP/1.1", "HTTP/1.0")).0, Some((false, 3)));
    assert_eq!(
        asks(&head.replace("Content-Length: 3", "Transfer-Encoding: chunked")).0,
        Some((true, 1))
    );
}
