//! A server that could not run for a while: nobody is blamed for what it did not hear meanwhile.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;
mod support;

use std::thread;
use std::time::Duration;

use daemon_support::{Home, kill};
use rustix::process::Signal;
use support::{Place, WebSocket, websocket::Frame};

/// Longer than a client may be silent, with the heartbeat below.
const PAUSE: Duration = Duration::from_millis(3_300);

#[test]
fn after_a_pause_of_the_server_who_answers_its_pings_stays() {
    let home = Home::new();
    let server = home.serve(&["held.heartbeat=1s", "namespace_default.public=true"]);
    let mut socket = WebSocket::open(&Place::Unix(home.public_socket()), "channel=news");
    assert_eq!(socket.next()["type"], "cursor");
    kill(server.pid(), Signal::STOP);
    thread::sleep(PAUSE);
    kill(server.pid(), Signal::CONT);
    // It answers each ping that it reads, and reads on until it has answered one of after the pause.
    let asked = socket.pings + 2;
    while socket.pings < asked {
        match socket.frame() {
            Frame::Object(object) => assert_eq!(object["type"], "cursor"),
            other => panic!("it was given up: {other:?}"),
        }
    }
    assert_eq!(
        home.http("POST", "/v1/publish?channel=news", "still here").status,
        200
    );
    while socket.next()["type"] != "publication" {}
}
