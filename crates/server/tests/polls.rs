//! What polls promise beyond delivery: entity tags, sessions, being sent away.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use support::{Answer, Door, TestServer};

/// A poll on the public port, with these headers, that is answered at once.
fn poll(server: &TestServer, query: &str, headers: &[(&str, &str)]) -> Answer {
    let mut http = server.place(Door::Tcp).connect();
    http.request("GET", &format!("/v1/poll?wait_ms=0&{query}"), headers, b"")
}

#[test]
fn a_poll_that_finds_nothing_new_is_told_the_tag_to_ask_about_next() {
    let server = TestServer::start();
    let tag = poll(&server, "channel=a", &[]).header("etag").unwrap().to_owned();
    let nothing = poll(&server, "channel=a", &[("If-None-Match", &tag)]);
    assert_eq!((nothing.status, nothing.header("etag")), (304, Some(&*tag)));
    server.publish("elsewhere", 1);
    let moved = poll(&server, "channel=a", &[("If-None-Match", &tag)]);
    assert_eq!(moved.status, 304);
    let cursor = server.now();
    assert_eq!(moved.header("etag"), Some(&*format!("\"{cursor}\"")));
}

#[test]
fn a_poll_that_names_its_cursor_gets_an_answer_whatever_tag_it_sends() {
    let server = TestServer::start();
    let tag = poll(&server, "channel=a", &[]).header("etag").unwrap().to_owned();
    for query in ["channel=a&cursor=now", "channel=a&cursor="] {
        let answer = poll(&server, query, &[("If-None-Match", &tag)]);
        assert_eq!(answer.status, 200, "{query}");
        assert_eq!(answer.json()["publications"].as_array().unwrap().len(), 0);
    }
}
