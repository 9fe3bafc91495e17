//! A few anonymous visitors cannot exhaust what all share: the site's own code has room, and so has another visitor.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use std::fs;
use std::time::{Duration, Instant};

use api_support::{Client, OPEN, PUBLISHER, TOKEN_SECRET, TestServer, WebSocket, claims, encode, signed};
use cometserver_core::action::Action;
use serde_json::{Value, json};

/// A server with keys and tokens, whose every channel is public, with small tables.
fn server(flags: &[(&str, &str)]) -> TestServer {
    let toml = format!(
        "{OPEN}static_file = true\n\
         [[keys]]\nname = \"k\"\nsecret = \"{PUBLISHER}\"\nactions = [\"publish\", \"subscribe\"]\n\
         [[tokens]]\nname = \"one\"\nsecret = \"{TOKEN_SECRET}\"\n"
    );
    // Some ask again and again until there is room: how often is not bounded here.
    let flags: Vec<_> = [("limits.refusals", "1000000000")]
        .into_iter()
        .chain(flags.iter().copied())
        .collect();
    TestServer::start_with(&toml, &flags)
}

fn socket(client: Client) -> WebSocket {
    let mut socket = client.websocket("/v1/ws");
    socket.object();
    socket
}

/// Subscribes to what `names` says, each by a command of its own; how many were allowed, and the last refusal.
fn subscribe(
    socket: &mut WebSocket,
    member: &str,
    names: impl IntoIterator<Item = String>,
) -> (usize, Value) {
    let (mut allowed, mut refusal) = (0, Value::Null);
    for (id, name) in names.into_iter().enumerate() {
        let answer = socket.ask(&json!({"type": "subscribe", "id": id, member: name}));
        match answer["type"].as_str() {
            Some("subscribed") => allowed += 1,
            _ => {
                assert_eq!(answer["code"], "limit_reached", "{answer}");
                refusal = answer["message"].clone();
            }
        }
    }
    (allowed, refusal)
}

/// Asks again until the answer is yes: what is given back is given back by other threads.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn taken(server: &TestServer, table: &str) -> u64 {
    server.stat(&format!("/visitor_entries/{table}"))
}

fn long(n: usize) -> String {
    format!("{n} {}", "x".repeat(8_000))
}

#[test]
fn twenty_sockets_with_a_thousand_long_names_each_leave_room_for_the_site_and_for_others() {
    let server = server(&[("limits.log_memory", "64MiB"), ("limits.one_visitor", "5%")]);
    let mut open = Vec::new();
    let mut all = 0;
    for number in 0..20 {
        let mut socket = socket(server.public_from(2));
        // A thousand names in a few commands, whose answers come as far as they are allowed.
        let names = (0..1_000).map(|n| format!("{number} {}", long(n)));
        for name in names {
            let answer = socket.ask(&json!({"type": "subscribe", "id": 1, "channel": name}));
            if answer["type"] != "subscribed" {
                let text = answer["message"].as_str().unwrap();
                assert!(text.contains("limits.one_visitor"), "{text}");
                break;
            }
            all += 1;
        }
        open.push(socket);
    }
    assert!((150..250).contains(&all), "a twentieth of 32 MiB: {all}");
    let mut other = socket(server.public_from(3));
    assert_eq!(subscribe(&mut other, "channel", (0..20).map(long)).0, 20);
    for n in 0..100 {
        server.publish(&format!("site {}", long(n)), "x");
        let by_key = server.public_from(2).bearing(PUBLISHER).post(
            &format!("/v1/publish?channel={}", encode(format!("key {}", long(n)))),
            "x",
        );
        assert_eq!(by_key.status, 200);
    }
    assert!(server.stat("/visitor_refused_total/name_bytes") >= 20);
    drop(open);
    drop(other);
    until("all is given back", || {
        taken(&server, "name_bytes") == 0 && taken(&server, "channels") == 0
    });
}

#[test]
fn where_no_address_is_known_one_connection_cannot_take_all_and_all_of_them_leave_room() {
    let server = server(&[("limits.channels", "200"), ("limits.one_visitor", "10%")]);
    let names = |who: &str| (0..50).map(|n| format!("{who} {n}")).collect::<Vec<_>>();
    let mut first = socket(server.public_socket());
    assert_eq!(subscribe(&mut first, "channel", names("first")).0, 20);
    let mut second = socket(server.public_socket());
    assert_eq!(subscribe(&mut second, "channel", names("second")).0, 20);
    let mut others = Vec::new();
    for number in 0..10 {
        let mut other = socket(server.public_socket());
        subscribe(&mut other, "channel", names(&format!("other {number}")));
        others.push(other);
    }
    assert_eq!(taken(&server, "channels"), 100);
    let (_, refusal) = subscribe(&mut socket(server.public_socket()), "channel", names("last"));
    assert!(
        refusal.as_str().unwrap().contains("limits.all_visitors"),
        "{refusal}"
    );
    // Whom the site knows by a token is not turned away with them.
    let token = signed(&claims(Some("ann"), &[], &["**"], &[Action::Subscribe]));
    let mut ann = socket(server.public_socket().bearing(&token));
    assert_eq!(subscribe(&mut ann, "channel", names("ann")).0, 20);
    let mut again = socket(server.public_from(9).bearing(&token));
    assert_eq!(
        subscribe(&mut again, "channel", names("ann again")).0,
        0,
        "it is the same user"
    );
    for n in 0..80 {
        server.publish(&format!("site {n}"), "x");
    }
}

#[test]
fn every_transport_is_refused_what_its_visitor_may_have_no_more_of() {
    let server = server(&[("limits.channels", "400"), ("limits.one_visitor", "5%")]);
    let mut flood = socket(server.public_from(2));
    assert_eq!(
        subscribe(&mut flood, "channel", (0..40).map(|n| n.to_string())).0,
        20
    );
    for path in ["/v1/poll", "/v1/stream"] {
        let answer = server.public_from(2).get(&format!("{path}?channel=more"));
        assert_eq!(
            answer.problem_naming(429, "limits.one_visitor"),
            "limit_reached",
            "{path}"
        );
    }
    let refused = server
        .public_from(2)
        .try_websocket("/v1/ws?channel=more")
        .err()
        .unwrap();
    assert_eq!(refused.problem_naming(429, "limits.one_visitor"), "limit_reached");
    let mut turned_away = server.public_from(2).stream("/v1/sse?channel=more");
    assert_eq!(turned_away.event().unwrap().0["type"], "reconnect");
    let answer = server.public_from(2).post("/v1/publish?channel=more", "x");
    assert_eq!(answer.problem_naming(429, "limits.one_visitor"), "limit_reached");
    // What the site has published in, and what it has itself, it may still listen to.
    server.publish("news", "x");
    assert_eq!(subscribe(&mut flood, "channel", ["news".into(), "3".into()]).0, 2);
    let mut good = server.public_from(3).stream("/v1/stream?channel=more");
    good.object().unwrap();
    server.publish("more", "for the good one");
    assert_eq!(good.object().unwrap()["data"], "for the good one");
}

#[test]
fn five_hundred_sockets_with_twenty_patterns_each_leave_room_for_the_site_and_for_others() {
    let server = server(&[("limits.patterns_total", "1000"), ("limits.one_visitor", "5%")]);
    let patterns = |who: String| (0..20).map(move |n| format!("{who} {n}/*"));
    let mut open = Vec::new();
    let mut all = 0;
    for number in 0..60 {
        let mut socket = socket(server.public_from(2));
        all += subscribe(&mut socket, "pattern", patterns(number.to_string())).0;
        open.push(socket);
    }
    assert_eq!(all, 50);
    let mut good = socket(server.public_from(3));
    assert_eq!(subscribe(&mut good, "pattern", patterns("good".into())).0, 20);
    for last in 10..30 {
        for number in 0..3 {
            let mut socket = socket(server.public_from(last));
            subscribe(&mut socket, "pattern", patterns(format!("{last} {number}")));
            open.push(socket);
        }
    }
    assert_eq!(taken(&server, "patterns"), 500);
    let mut own = socket(server.backend());
    assert_eq!(subscribe(&mut own, "pattern", patterns("site".into())).0, 20);
    drop((open, good));
    until("all is given back", || taken(&server, "patterns") == 0);
}

#[test]
fn a_thousand_invented_names_leave_static_files_for_others_and_for_what_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&[
        ("static.dir", folder.path().to_str().unwrap()),
        ("static.max", "100"),
        ("limits.one_visitor", "20%"),
    ]);
    let ask = |last: u8, name: &str| {
        let answer = server
            .public_from(last)
            .get(&format!("/v1/poll?channel={}&wait_ms=0", encode(name)));
        assert_eq!(answer.status, 200);
    };
    let file = |name: &str| {
        use base64::Engine;
        let name = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(name);
        folder.path().join(name + ".comet.json").exists()
    };
    let count = || fs::read_dir(folder.path()).unwrap().count();
    for n in 0..300 {
        ask(2, &format!("invented {n}"));
    }
    until("the flood has its part", || taken(&server, "static_files") == 20);
    ask(3, "good");
    until("another visitor's file is there", || file("good"));
    for last in 10..20 {
        for n in 0..30 {
            ask(last, &format!("{last} {n}"));
        }
    }
    until("all visitors have their part", || {
        taken(&server, "static_files") == 50
    });
    for n in 0..70 {
        server.publish(&format!("site {n}"), "x");
        ask(4, &format!("site {n}"));
    }
    until("what is published has files", || {
        (0..70).all(|n| file(&format!("site {n}")))
    });
    assert!(
        count() <= 101 && taken(&server, "static_files") <= 30,
        "{}",
        count()
    );
    assert!(server.stat("/visitor_refused_total/static_files") > 0);
    // A name that the site publishes in later is an invented one no longer.
    let before = taken(&server, "static_files");
    let mut invented = (10..20).flat_map(|last| (0..30).map(move |n| format!("{last} {n}")));
    let invented = invented.find(|name| file(name)).unwrap();
    server.publish(&invented, "x");
    until("it is the site's", || {
        taken(&server, "static_files") == before - 1
    });
}

#[test]
fn one_visitor_is_a_member_so_often_and_leaves_room_for_others() {
    let server = server(&[
        ("presence.members", "100"),
        ("presence.grace", "100ms"),
        ("limits.one_visitor", "20%"),
    ]);
    let poll = |client: &mut Client, session: &str| {
        client.get(&format!(
            "/v1/poll?channel=room&wait_ms=0&presence=join&session={session}"
        ))
    };
    let mut client = server.public_from(2);
    let mut sockets = Vec::new();
    for n in 0..40 {
        let refused = server
            .public_from(2)
            .try_websocket(&format!("/v1/ws?channel=room&presence=join&session=s{n}"));
        match refused {
            Ok(socket) => sockets.push(socket),
            Err(answer) => {
                assert_eq!(answer.problem_naming(429, "presence.members"), "limit_reached");
            }
        }
    }
    assert_eq!(sockets.len(), 20);
    assert_eq!(
        poll(&mut client, "another").problem_naming(429, "limits.one_visitor"),
        "limit_reached"
    );
    // Refused as a member, it is no subscriber either.
    let mut plain = socket(server.public_from(2));
    let joined = plain.ask(&json!({"type": "subscribe", "id": 1, "channel": "room", "presence": "join"}));
    assert_eq!(joined["code"], "limit_reached", "{joined}");
    server.publish("room", "not for it");
    plain.send(&json!({"type": "ping", "id": 2}));
    assert_eq!(plain.object()["type"], "pong", "it was told nothing in between");
    assert_eq!(poll(&mut server.public_from(3), "good").status, 200);
    let own = server
        .backend()
        .get("/v1/poll?channel=room&wait_ms=0&presence=join&session=site");
    assert_eq!(own.status, 200);
    // With room for one more, both of two channels are refused, and the first is left again.
    sockets.pop();
    until("one place is free", || taken(&server, "members") == 19);
    let both = client.get("/v1/poll?channel=room&channel=other&wait_ms=0&presence=join&session=both");
    assert_eq!(both.problem_naming(429, "limits.one_visitor"), "limit_reached");
    until("it is free again", || poll(&mut client, "another").status == 200);
    drop(sockets);
    until("all is given back", || taken(&server, "members") == 0);
    assert_eq!(poll(&mut client, "another").status, 200);
}

#[test]
fn a_flood_of_idempotency_keys_forgets_the_floods_own() {
    let server = server(&[
        ("limits.idempotency_keys", "100"),
        ("limits.publish_rate", "100000/s"),
        ("limits.one_visitor", "20%"),
    ]);
    let publish = |client: &mut Client, key: &str| {
        let request = json!({"channel": "a", "data": 1, "idempotency_key": key});
        let answer = client.post_json("/v1/publish", &request);
        assert_eq!(answer.status, 200);
        answer.json()["duplicate"] == true
    };
    let (mut site, mut good, mut flood) = (server.backend(), server.public_from(3), server.public_from(2));
    for n in 0..20 {
        assert!(!publish(&mut site, &format!("site {n}")));
    }
    assert!(!publish(&mut good, "good"));
    for n in 0..500 {
        assert!(!publish(&mut flood, &format!("flood {n}")));
    }
    assert!(publish(&mut good, "good"));
    assert!(publish(&mut flood, "flood 499"));
    assert!(!publish(&mut flood, "flood 479"), "its part is twenty keys");
    for n in 0..20 {
        assert!(publish(&mut site, &format!("site {n}")), "{n}");
    }
    assert_eq!(taken(&server, "idempotency_keys"), 21);
}

#[test]
fn questions_leave_nothing_that_counts() {
    let server = server(&[("limits.channels", "100"), ("limits.one_visitor", "10%")]);
    let mut asker = server.public_from(2);
    let cursor = server.backend().get("/v1/now").json()["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    for n in 0..300 {
        for target in [
            format!("/v1/history?channel=h{n}&since={}", encode(&cursor)),
            format!("/v1/retained?channel=r{n}"),
            format!("/v1/presence?channel=p{n}"),
        ] {
            let answer = asker.get(&target);
            assert!(matches!(answer.status, 200 | 404), "{target}: {answer:?}");
        }
    }
    assert_eq!(taken(&server, "channels"), 0);
    for n in 0..60 {
        server.publish(&format!("site {n}"), "x");
    }
}

#[test]
fn one_visitor_cannot_hold_all_places_of_a_budget() {
    let server = server(&[("held.stream.max", "20")]);
    let open = |client: Client| {
        let mut stream = client.stream("/v1/stream?channel=a");
        let first = stream.object().unwrap();
        (first["type"] != "reconnect").then_some(stream)
    };
    let mut flood: Vec<_> = (0..30).filter_map(|_| open(server.public_from(2))).collect();
    assert_eq!(flood.len(), 10, "the first half is for whoever comes first");
    let good: Vec<_> = (0..10).filter_map(|_| open(server.public_from(3))).collect();
    assert_eq!(good.len(), 5, "a quarter of so few");
    let rest: Vec<_> = (10..20)
        .filter_map(|last| open(server.public_from(last)))
        .collect();
    assert_eq!((rest.len(), taken(&server, "held")), (5, 20));
    // A key takes a place as well, but nobody's part.
    drop(rest);
    until("the places are free", || taken(&server, "held") == 15);
    flood.extend((0..5).filter_map(|_| open(server.public_from(2).bearing(PUBLISHER))));
    assert_eq!((flood.len(), taken(&server, "held")), (15, 15));
    drop((flood, good));
    until("all is given back", || taken(&server, "held") == 0);
}

#[test]
fn what_one_visitor_has_waiting_for_the_disk_is_counted_and_given_back() {
    let server = server(&[]);
    let mut client = server.public_from(2);
    for n in 0..20 {
        assert_eq!(client.post("/v1/publish?channel=a", format!("{n}")).status, 200);
    }
    assert_eq!(taken(&server, "queued_bytes"), 0);
    assert_eq!(server.stat("/visitor_refused_total/queued_bytes"), 0);
}
