//! What polls promise beyond delivery: entity tags, sessions, being sent away.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use support::{Answer, Door, TestServer, WebSocket};

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

#[test]
fn a_client_of_binary_frames_is_turned_away_in_one() {
    let server = TestServer::with(|config| config.held.ws_max = Some(1));
    let _held = server.websocket("channel=a");
    let mut turned_away = WebSocket::open(&server.place(Door::Tcp), "channel=a&format=binary");
    let head = turned_away.http.bytes(2).unwrap();
    assert_eq!(head[0], 0x82, "a whole binary frame");
    let content = turned_away.http.bytes(usize::from(head[1])).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&content[4..]).unwrap();
    assert_eq!(header["type"], "reconnect", "{header}");
}
