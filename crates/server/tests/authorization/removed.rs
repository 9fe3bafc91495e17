//! A key or token secret that is taken out of the configuration ends what it opened, and nothing else.

use cometserver_core::action::Action;
use cometserver_core::token;
use serde_json::json;

use crate::api_support::{
    Client, GUARDED, OLDER_SECRET, READER, Stream, TOKEN_SECRET, TestServer, WebSocket, claims,
};

/// [`GUARDED`] without the table that has this secret.
fn without(secret: &str) -> String {
    let tables = GUARDED.split("\n[[").filter(|table| !table.contains(secret));
    tables.collect::<Vec<&str>>().join("\n[[")
}

/// A poll, an event stream, a stream and a WebSocket, in this order, all with this credential; the last is a member besides.
struct Held {
    poll: Client,
    sse: Stream,
    lines: Stream,
    socket: WebSocket,
}

impl Held {
    fn open(server: &TestServer, credential: &str) -> Self {
        let client = || server.public_socket().bearing(credential);
        let mut poll = client();
        poll.send("GET", "/v1/poll?channel=room/a&session=s", b"");
        let mut sse = client().stream("/v1/sse?channel=room/a");
        sse.block();
        let mut lines = client().stream("/v1/stream?channel=room/a");
        lines.object();
        let mut socket = client().websocket("/v1/ws?channel=room/a&presence=join");
        socket.next_of("cursor");
        Self {
            poll,
            sse,
            lines,
            socket,
        }
    }

    fn has_ended(mut self) {
        let answer = self.poll.answer("GET");
        assert_eq!((answer.status, &answer.json()["publications"]), (200, &json!([])));
        assert_eq!(self.sse.event().unwrap().0["type"], "reconnect");
        assert_eq!(self.sse.event(), None);
        while let Some(object) = self.lines.object() {
            assert_eq!(object["type"], "reconnect");
        }
        assert_eq!(self.socket.close_code(), 1008);
    }

    fn goes_on(mut self, server: &TestServer) {
        server.publish("room/a", "for whoever is left");
        let answer = self.poll.answer("GET").json();
        assert_eq!(answer["publications"][0]["data"], "for whoever is left");
        assert_eq!(self.sse.event().unwrap().0["type"], "publication");
        assert_eq!(self.lines.object().unwrap()["type"], "publication");
        self.socket.next_of("publication");
    }
}

fn token_of(name: &str, secret: &str, user: &str) -> String {
    let all = claims(Some(user), &[], &["**"], &Action::ALL);
    token::sign(&all, name, secret.as_bytes()).unwrap()
}

#[test]
fn what_a_removed_secret_opened_ends_on_every_transport_and_is_counted() {
    let credentials = [
        (OLDER_SECRET, token_of("two", OLDER_SECRET, "bob")),
        (READER, READER.to_owned()),
    ];
    for (secret, credential) in credentials {
        let server = TestServer::start_with(GUARDED, &[("presence.grace", "0s")]);
        let stays = Held::open(&server, &token_of("one", TOKEN_SECRET, "anna"));
        let goes = Held::open(&server, &credential);
        // Polls are held when others have heard of them.
        while server.stat("/subscriptions/exact") < 8 {
            std::thread::yield_now();
        }
        assert_eq!(server.reload(GUARDED)["ended"], 0, "nothing has changed");
        assert_eq!(server.reload(&without(secret))["ended"], 4, "{secret}");
        goes.has_ended();
        assert_eq!(server.stat("/subscriptions/exact"), 4);
        let refused = server
            .public()
            .bearing(&credential)
            .get("/v1/poll?channel=room/a");
        assert_eq!(refused.problem(401), "unauthorized");
        // Its member is gone as well, once what ends it was looked at.
        let members = || server.backend().get("/v1/presence?channel=room/a").json();
        while members()["count"] != 1 {
            std::thread::yield_now();
        }
        stays.goes_on(&server);
        // It comes back: as another one, of which nothing is open.
        assert_eq!(server.reload(GUARDED)["ended"], 0);
        assert_eq!(server.reload(&without(secret))["ended"], 0);
    }
}

#[test]
fn a_key_that_may_do_less_ends_what_it_opened() {
    let server = TestServer::start(GUARDED);
    let mut lines = server.public().bearing(READER).stream("/v1/stream?channel=a");
    lines.object();
    let less = GUARDED.replace(r#"["subscribe", "history", "presence"]"#, r#"["history"]"#);
    assert_eq!(server.reload(&less)["ended"], 1);
    assert_eq!(lines.object().unwrap()["type"], "reconnect");
}

#[test]
fn a_websocket_ends_with_the_secret_of_its_latest_token_only() {
    let server = TestServer::start(GUARDED);
    let open = |name, secret| {
        let token = token_of(name, secret, "anna");
        server
            .public()
            .websocket(&format!("/v1/ws?channel=a&token={token}"))
    };
    let renew = |socket: &mut WebSocket, name, secret| {
        let command = json!({"type": "authorize", "id": 1, "token": token_of(name, secret, "anna")});
        assert_eq!(socket.ask(&command)["type"], "authorized");
    };
    let mut saved = open("two", OLDER_SECRET);
    renew(&mut saved, "one", TOKEN_SECRET);
    let mut lost = open("one", TOKEN_SECRET);
    renew(&mut lost, "two", OLDER_SECRET);
    assert_eq!(server.reload(&without(OLDER_SECRET))["ended"], 1);
    assert_eq!(lost.close_code(), 1008);
    server.publish("a", "still here");
    saved.next_of("publication");
}

#[test]
fn what_a_reload_could_not_put_in_force_is_named_again_and_a_bad_file_ends_nothing() {
    let server = TestServer::start(GUARDED);
    let mut lines = server.public().bearing(READER).stream("/v1/stream?channel=a");
    lines.object();
    let waiting = without("none") + "[presence]\ngrace = \"1s\"\n";
    for _ in 0..2 {
        let answer = server.reload(&waiting);
        assert_eq!(answer["needs_restart"], json!(["presence.grace"]), "{answer}");
    }
    let bad = without(READER) + "[presence]\ngrace = \"soon\"\n";
    assert_eq!(server.reload(&bad)["code"], "bad_configuration");
    let origin = without(READER) + "[public]\norigins = [\"https://a/b\"]\n";
    assert_eq!(server.reload(&origin)["code"], "bad_configuration");
    server.publish("a", "still here");
    assert_eq!(lines.object().unwrap()["data"], "still here");
    assert_eq!(server.reload(GUARDED)["needs_restart"], json!([]));
}
