//! hyper reads the same bytes: it may take more than we do, never less, and never another body.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use cometserver::http::Limits;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use proptest::prelude::*;

use crate::corpus::{Hyper, Ours, ROWS, damaged};
use crate::{Accepted, read};

/// A client that has sent everything, and swallows the answers.
struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut space: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(space.remaining()));
        space.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper takes, each with its whole body.
fn hyper_reads(bytes: &[u8]) -> Vec<Accepted> {
    let accepted = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        let accepted = &accepted;
        async move {
            let (head, body) = request.into_parts();
            let method = match head.method.as_str() {
                "GET" => "Get",
                "HEAD" => "Head",
                "POST" => "Post",
                "PUT" => "Put",
                "PATCH" => "Patch",
                "DELETE" => "Delete",
                "OPTIONS" => "Options",
                _ => "Other",
            };
            let target = format!(
                "{method} {}?{}",
                head.uri.path(),
                head.uri.query().unwrap_or_default()
            );
            if let Ok(body) = body.collect().await {
                accepted.borrow_mut().push(Accepted {
                    target,
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    {
        let mut connection = pin!(
            http1::Builder::new()
                .half_close(true)
                .serve_connection(Client(bytes), service)
        );
        // The client is always ready, so hyper is pending only when it lets others go first.
        let ends = |_| {
            connection
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        };
        assert!((0..10_000).any(ends), "hyper waits for something");
    }
    accepted.into_inner()
}

#[test]
fn hyper_agrees_but_for_the_intended_differences() {
    for (bytes, ours, hyper) in ROWS {
        let own = read(bytes.as_bytes(), &[], &Limits::default());
        let judge = hyper_reads(bytes.as_bytes());
        assert!(
            judge.starts_with(&own.accepted),
            "{bytes:?}\n  we: {own:?}\n  hyper: {judge:?}"
        );
        let is_laxer = judge.len() > own.accepted.len();
        assert_eq!(
            is_laxer,
            *hyper == Hyper::IsLaxer,
            "{bytes:?}\n  we: {own:?}\n  hyper: {judge:?}"
        );
        assert!(
            !is_laxer || matches!(ours, Ours::Refuses(_)),
            "{bytes:?}: we wait, hyper goes on"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hyper_takes_whatever_we_take(bytes in damaged(3)) {
        let own = read(&bytes, &[], &Limits::default());
        let judge = hyper_reads(&bytes);
        prop_assert!(
            judge.starts_with(&own.accepted),
            "{:?}\n  we: {:?}\n  hyper: {:?}", bytes.escape_ascii().to_string(), own, judge
        );
    }
}
