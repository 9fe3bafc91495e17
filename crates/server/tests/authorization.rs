//! Who may do what: keys, tokens, public namespaces, doors, origins; and that no secret is ever shown.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use api_support::{
    ADMIN, Answer, Client, GUARDED, MONITOR, OLDER_SECRET, OPEN, PUBLISHER, READER, TOKEN_SECRET, TestServer,
    WebSocket, claims, encode, now_seconds, signed,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cometserver_core::action::Action;
use cometserver_core::token::{self, Claims};
use serde_json::{Value, json};

const LISTEN: [&str; 3] = ["/v1/poll", "/v1/sse", "/v1/stream"];

/// A call that needs a right, and the right.
const CALLS: &[(&str, &str, &str)] = &[
    ("POST", "/v1/publish?channel=private&kind=json", "publish"),
    ("DELETE", "/v1/retained?channel=private", "publish"),
    ("GET", "/v1/poll?channel=private&wait_ms=0", "subscribe"),
    ("GET", "/v1/history?channel=private", "history"),
    ("GET", "/v1/retained?channel=private", "history"),
    ("GET", "/v1/presence?channel=private", "presence"),
    ("DELETE", "/v1/history?channel=private", "admin"),
    ("GET", "/v1/channels", "admin"),
    ("POST", "/v1/admin/reload", "admin"),
    ("GET", "/v1/stats", "ops"),
    ("GET", "/metrics", "ops"),
];

fn call(client: &mut Client, method: &str, target: &str) -> Answer {
    client.call(method, target, if method == "POST" { b"1" } else { b"" })
}

/// A client that shows a token of `claims`.
fn with_token(server: &TestServer, claims: &Claims) -> Client {
    server.public().bearing(&signed(claims))
}

#[test]
fn nothing_is_allowed_on_public_doors_to_whoever_shows_nothing() {
    let server = TestServer::start(GUARDED);
    for mut client in [server.public(), server.public_socket()] {
        for (method, target, right) in CALLS {
            let answer = call(&mut client, method, target);
            assert_eq!(
                answer.problem_naming(401, &format!("`{right}`")),
                "unauthorized",
                "{method} {target}"
            );
        }
        assert_eq!(
            call(&mut client, "POST", "/v1/admin/stop").problem(401),
            "unauthorized"
        );
        for path in LISTEN {
            let answer = client.get(&format!("{path}?channel=private"));
            assert_eq!(answer.problem(401), "unauthorized", "{path}");
        }
    }
    for client in [server.public(), server.public_socket()] {
        let refused = client.try_websocket("/v1/ws?channel=private").err().unwrap();
        assert_eq!(refused.problem(401), "unauthorized");
    }
    // Each of a batch is refused for itself.
    let batch =
        json!({"publications": [{"channel": "private", "data": 1}, {"channel": "open/a", "data": 2}]});
    let results = server.public().post_json("/v1/batch", &batch).json()["results"].clone();
    assert_eq!(results[0]["error"]["code"], "unauthorized");
    assert_eq!(results[1]["channels"][0]["offset"], 1);
    assert_eq!(
        server.backend().get("/v1/history?channel=private").json()["offset"],
        0
    );
}

#[test]
fn a_key_allows_its_own_actions_and_no_other() {
    let server = TestServer::start(GUARDED);
    let keys = [
        (PUBLISHER, &["publish"][..]),
        (READER, &["subscribe", "history", "presence"]),
        (ADMIN, &["admin"]),
        (MONITOR, &["ops"]),
    ];
    for (key, actions) in keys {
        for header in [
            format!("Authorization: Bearer {key}"),
            format!("authorization: bearer {key}"),
            format!("X-API-Key: {key}"),
        ] {
            let mut client = server.public().with(&header);
            for (method, target, right) in CALLS {
                let answer = call(&mut client, method, target);
                if actions.contains(right) {
                    assert!(
                        answer.status < 300 || answer.status == 404,
                        "{header} {target}: {answer:?}"
                    );
                } else {
                    assert_eq!(
                        answer.problem_naming(403, right),
                        "forbidden",
                        "{header} {method} {target}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_key_that_is_almost_right_is_wrong() {
    let server = TestServer::start(GUARDED);
    let long = format!("{PUBLISHER}x");
    for wrong in [
        "x",
        &PUBLISHER[1..],
        &long,
        &PUBLISHER.to_uppercase(),
        "a.b.c",
        "..",
        "\"\"",
    ] {
        for header in ["Authorization: Bearer", "X-API-Key:"] {
            let mut client = server.public().with(&format!("{header} {wrong}"));
            let answer = client.post("/v1/publish?channel=a", "1");
            assert_eq!(answer.problem(401), "unauthorized", "{header} {wrong}");
            // What is shown and wrong is told even where nothing is needed: the mistake would show much later.
            assert_eq!(
                client.get("/v1/history?channel=public/a").problem(401),
                "unauthorized"
            );
        }
    }
    // Another scheme is not for us: a front web server's own password protection sends it.
    let mut basic = server.public().with("Authorization: Basic eDp5");
    assert_eq!(basic.get("/v1/history?channel=public/a").status, 200);
    assert_eq!(
        basic.get("/v1/history?channel=private").problem(401),
        "unauthorized"
    );
    // A key in an address would be in every log on the way.
    let target = format!("/v1/publish?channel=a&token={}", encode(PUBLISHER));
    assert_eq!(server.public().post(&target, "1").problem(401), "unauthorized");
}

#[test]
fn a_token_allows_its_actions_on_its_channels_and_patterns() {
    let server = TestServer::start(GUARDED);
    let every = claims(
        Some("alice"),
        &["exact"],
        &["mine/*"],
        &[Action::Subscribe, Action::Publish, Action::History],
    );
    let mut client = with_token(&server, &every);
    for (channel, allowed) in [
        ("exact", true),
        ("mine/x", true),
        ("mine/x/y", false),
        ("exac", false),
        ("other", false),
        ("public/a", false),
    ] {
        let channel_parameter = encode(channel);
        let answer = client.post(&format!("/v1/publish?channel={channel_parameter}&kind=json"), "1");
        if allowed {
            assert_eq!(answer.status, 200, "{channel}");
        } else {
            assert_eq!(answer.problem(403), "forbidden", "{channel}");
        }
        for call in ["history", "poll"] {
            let answer = client.get(&format!("/v1/{call}?channel={channel_parameter}&wait_ms=0"));
            if allowed || channel.starts_with("public/") {
                assert_eq!(answer.status, 200, "{call} {channel}");
            } else {
                assert_eq!(answer.problem(403), "forbidden", "{call} {channel}");
            }
        }
    }
    // All channels of a publication have to be allowed.
    let answer = client.post_json("/v1/publish", &json!({"channels": ["exact", "other"], "data": 1}));
    assert_eq!(answer.problem(403), "forbidden");
    // What it publishes carries its name.
    let history = client.get("/v1/history?channel=exact").json();
    assert_eq!(
        (&history["offset"], &history["publications"][0]["user"]),
        (&json!(1), &json!("alice"))
    );
    // Other actions on the same channels are others.
    assert_eq!(
        client
            .get("/v1/presence?channel=exact")
            .problem_naming(403, "presence"),
        "forbidden"
    );
    assert_eq!(
        client
            .delete("/v1/history?channel=exact")
            .problem_naming(403, "admin"),
        "forbidden"
    );
    assert_eq!(client.get("/v1/channels").problem(403), "forbidden");
    assert_eq!(client.post("/v1/admin/stop", "").problem(403), "forbidden");
    // No token runs the server, whatever it says.
    let all = claims(Some("root"), &[], &["**"], &Action::ALL);
    let mut client = with_token(&server, &all);
    assert_eq!(client.delete("/v1/history?channel=exact").status, 200);
    for (method, target) in [
        ("POST", "/v1/admin/stop"),
        ("POST", "/v1/admin/reload"),
        ("GET", "/metrics"),
        ("GET", "/v1/channels"),
    ] {
        assert_eq!(
            call(&mut client, method, target).problem(403),
            "forbidden",
            "{target}"
        );
    }
}

#[test]
fn a_token_that_names_nobody_is_a_token_all_the_same() {
    let server = TestServer::start(GUARDED);
    let mut token = claims(None, &["a"], &[], &[Action::Subscribe]);
    token.exp = None;
    let mut client = with_token(&server, &token);
    assert_eq!(client.get("/v1/poll?channel=a&wait_ms=0").status, 200);
    assert_eq!(
        client.get("/v1/poll?channel=b&wait_ms=0").problem(403),
        "forbidden",
        "another token would help"
    );
}

#[test]
fn a_token_is_taken_from_header_and_query_alike() {
    let server = TestServer::start(GUARDED);
    let token = signed(&claims(Some("alice"), &["a"], &[], &[Action::Subscribe]));
    for path in LISTEN {
        let target = format!("{path}?channel=a&wait_ms=0&token={token}");
        let mut client = server.public();
        client.send("GET", &target, b"");
        assert_eq!(client.head().status, 200, "{path}");
        let target = format!("{path}?channel=a&wait_ms=0");
        for header in [
            format!("Authorization: Bearer {token}"),
            format!("X-API-Key: {token}"),
        ] {
            let mut client = server.public().with(&header);
            client.send("GET", &target, b"");
            assert_eq!(client.head().status, 200, "{path} {header}");
        }
    }
    server
        .public()
        .websocket(&format!("/v1/ws?channel=a&token={token}"));
    // The header is what the site's code set; the query what the page's address happened to hold.
    let mut client = server.public().bearing("wrong");
    assert_eq!(
        client
            .get(&format!("/v1/poll?channel=a&token={token}"))
            .problem(401),
        "unauthorized"
    );
}

#[test]
fn a_token_that_is_not_good_is_told_why_on_every_transport() {
    let server = TestServer::start(GUARDED);
    let good = claims(Some("alice"), &["a"], &[], &[Action::Subscribe]);
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = part(&serde_json::to_value(&good).unwrap());
    let unsigned = |header: Value, signature: &str| format!("{}.{body}.{signature}", part(&header));
    let (head, signature) = signed(&good)
        .rsplit_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let expired = Claims {
        exp: Some(now_seconds() - 1),
        ..good.clone()
    };
    let early = Claims {
        nbf: Some(now_seconds() + 3600),
        ..good.clone()
    };
    let table = [
        (signed(&expired), "token_expired"),
        (signed(&early), "unauthorized"),
        (unsigned(json!({"alg": "none"}), ""), "unauthorized"),
        (unsigned(json!({"alg": "none"}), &signature), "unauthorized"),
        (unsigned(json!({"alg": "None", "kid": "one"}), ""), "unauthorized"),
        (unsigned(json!({"alg": "RS256"}), &signature), "unauthorized"),
        (format!("{head}."), "unauthorized"),
        (format!("{head}.{}", &signature[1..]), "unauthorized"),
        (
            token::sign(&good, "one", OLDER_SECRET.as_bytes()).unwrap(),
            "unauthorized",
        ),
        (
            token::sign(&good, "three", TOKEN_SECRET.as_bytes()).unwrap(),
            "unauthorized",
        ),
        (
            token::sign(&good, "one", b"another secret that nobody configured").unwrap(),
            "unauthorized",
        ),
    ];
    for (token, code) in &table {
        for path in LISTEN {
            let answer = server.public().get(&format!("{path}?channel=a&token={token}"));
            assert_eq!(answer.problem(401), *code, "{path} {token}");
            assert!(
                !answer.text().contains(&token[..20]),
                "the token is not given back"
            );
        }
        let refused = server
            .public()
            .try_websocket(&format!("/v1/ws?token={token}"))
            .err()
            .unwrap();
        assert_eq!(refused.problem(401), *code, "{token}");
        let answer = server
            .public()
            .bearing(token)
            .post("/v1/publish?channel=open/a", "1");
        assert_eq!(answer.problem(401), *code, "{token}");
    }
    let other = token::sign(&good, "two", OLDER_SECRET.as_bytes()).unwrap();
    assert_eq!(
        server
            .public()
            .get(&format!("/v1/poll?channel=a&wait_ms=0&token={other}"))
            .status,
        200,
        "both secrets count"
    );
}

#[test]
fn a_namespace_that_is_public_may_be_heard_by_anybody_and_no_more() {
    let server = TestServer::start(GUARDED);
    server.publish("public/a", "1");
    let mut client = server.public();
    for target in [
        "/v1/poll?channel=public/a&cursor=earliest",
        "/v1/history?channel=public/a",
        "/v1/presence?channel=public/a",
    ] {
        assert_eq!(client.get(target).status, 200, "{target}");
    }
    assert_eq!(
        client.get("/v1/retained?channel=public/a").problem(404),
        "not_found"
    );
    for (method, target) in [
        ("POST", "/v1/publish?channel=public/a"),
        ("DELETE", "/v1/retained?channel=public/a"),
        ("DELETE", "/v1/history?channel=public/a"),
        ("DELETE", "/v1/history?channel=open/a"),
        ("DELETE", "/v1/retained?channel=open/a"),
        ("GET", "/v1/presence?channel=open/a"),
        ("GET", "/v1/presence?channel=room/a"),
    ] {
        assert_eq!(
            call(&mut client, method, target).problem(401),
            "unauthorized",
            "{method} {target}"
        );
    }
    // One private channel among public ones refuses all.
    assert_eq!(
        client
            .get("/v1/poll?channel=public/a&channel=private")
            .problem(401),
        "unauthorized"
    );
    assert_eq!(client.post("/v1/publish?channel=open/a", "1").status, 200);
    // Presence has to be there before it can be allowed.
    let answer = client.get("/v1/stream?channel=open/a&presence=watch");
    assert_eq!(answer.problem_naming(403, "presence"), "forbidden");
}

#[test]
fn a_pattern_shows_only_what_is_public_to_whom_it_is_not_granted() {
    let server = TestServer::start(GUARDED);
    let token = signed(&claims(
        Some("alice"),
        &["private/named"],
        &["private/mine/**"],
        &[Action::Subscribe],
    ));
    for (credential, pattern, seen) in [
        (None, "**", &["public/a"][..]),
        (Some(&*token), "**", &["public/a"]),
        (Some(&token), "private/mine/*", &["private/mine/x"]),
        (
            Some(READER),
            "**",
            &["private/named", "private/mine/x", "public/a"],
        ),
    ] {
        let client = || match credential {
            Some(credential) => server.public().bearing(credential),
            None => server.public(),
        };
        let pattern = encode(pattern);
        let mut sse = client().stream(&format!("/v1/sse?pattern={pattern}&channel=public/end"));
        sse.block();
        let mut lines = client().stream(&format!("/v1/stream?pattern={pattern}&channel=public/end"));
        let start = lines.object().unwrap()["cursor"].as_str().unwrap().to_owned();
        let mut socket = client().websocket(&format!("/v1/ws?pattern={pattern}&channel=public/end"));
        let mut late = client().websocket("/v1/ws?channel=public/end");
        late.object();
        for channel in ["private/named", "private/mine/x", "public/a", "public/end"] {
            server.publish(channel, "1");
        }
        let mut expected: Vec<Value> = seen.iter().map(|name| json!(name)).collect();
        expected.push(json!("public/end"));
        for expected in &expected {
            assert_eq!(sse.event().unwrap().0["channel"], *expected);
            assert_eq!(lines.object().unwrap()["channel"], *expected);
            assert_eq!(socket.next_of("publication")["channel"], *expected);
        }
        // The same from what is kept.
        let target = format!("/v1/poll?pattern={pattern}&channel=public/end&cursor={start}");
        let poll = client().get(&target).json();
        let polled: Vec<_> = poll["publications"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["channel"].clone())
            .collect();
        assert_eq!(polled, expected);
        late.send(&json!({"type": "subscribe", "id": 1, "pattern": match &*pattern { "**" => "**", _ => "private/mine/*" }, "since": start}));
        let mut caught_up = Vec::new();
        loop {
            let object = late.object();
            match object["type"].as_str().unwrap() {
                "subscribed" => break,
                "publication" => caught_up.push(object["channel"].clone()),
                _ => {}
            }
        }
        caught_up.retain(|name| *name != json!("public/end"));
        assert_eq!(caught_up, expected[..expected.len() - 1]);
    }
}

#[test]
fn commands_on_a_websocket_need_the_same_rights_as_calls() {
    let server = TestServer::start(GUARDED);
    let commands = |id: u64| {
        [
            json!({"type": "subscribe", "id": id, "channel": "private"}),
            json!({"type": "publish", "id": id, "channel": "private", "data": 1}),
            json!({"type": "publish", "id": id, "channels": ["open/a", "private"], "data": 1}),
            json!({"type": "history", "id": id, "channel": "private"}),
            json!({"type": "presence", "id": id, "channel": "private"}),
        ]
    };
    let mut anonymous = server.public().websocket("/v1/ws");
    for command in commands(1) {
        assert_eq!(anonymous.ask(&command)["code"], "unauthorized", "{command}");
    }
    let mut alice =
        with_token(&server, &claims(Some("alice"), &["other"], &[], &Action::ALL)).websocket("/v1/ws");
    for command in commands(2) {
        assert_eq!(alice.ask(&command)["code"], "forbidden", "{command}");
    }
    assert_eq!(
        server.backend().get("/v1/history?channel=private").json()["offset"],
        0
    );
    assert_eq!(
        server.backend().get("/v1/history?channel=open/a").json()["offset"],
        0
    );
    assert_eq!(
        anonymous.ask(&json!({"type": "publish", "id": 3, "channel": "open/a", "data": 1}))["type"],
        "published"
    );
}

#[test]
fn a_token_ends_what_it_opened_on_every_transport() {
    let server = TestServer::start(GUARDED);
    let until = now_seconds() + 2;
    let token = Claims {
        exp: Some(until),
        ..claims(Some("alice"), &["a"], &[], &[Action::Subscribe])
    };
    let client = || with_token(&server, &token);
    let mut poll = client();
    poll.send("GET", "/v1/poll?channel=a", b"");
    let mut sse = client().stream("/v1/sse?channel=a");
    let mut lines = client().stream("/v1/stream?channel=a");
    let mut socket = client().websocket("/v1/ws?channel=a");
    // They wait for nothing else than their end.
    let answer = poll.answer("GET");
    assert_eq!((answer.status, &answer.json()["publications"]), (200, &json!([])));
    sse.block();
    let last = sse.event().unwrap().0;
    assert_eq!(
        (&last["type"], sse.event().is_none()),
        (&json!("reconnect"), true)
    );
    lines.object();
    assert_eq!(lines.object().unwrap()["type"], "reconnect");
    assert_eq!(lines.object(), None);
    assert_eq!(socket.close_code(), 1008);
    assert!(now_seconds() >= until, "not before");
    assert_eq!(server.stat("/drops_total/expired"), 3);
    assert_eq!(client().get("/v1/poll?channel=a").problem(401), "token_expired");
    assert_eq!(server.stat("/subscriptions/exact"), 0);
}

#[test]
fn a_websocket_goes_on_under_a_new_token() {
    let server = TestServer::start(GUARDED);
    let until = now_seconds() + 2;
    let short = Claims {
        exp: Some(until),
        ..claims(Some("alice"), &["a"], &[], &[Action::Subscribe])
    };
    let open = || -> WebSocket {
        let mut socket = with_token(&server, &short).websocket("/v1/ws?channel=a&pattern=public/*");
        socket.object();
        socket
    };
    let (mut renewed, mut left) = (open(), open());
    let authorize = |socket: &mut WebSocket, token: &str| {
        socket.ask(&json!({"type": "authorize", "id": 1, "token": token}))
    };
    let long = claims(
        Some("alice"),
        &["a", "b"],
        &[],
        &[Action::Subscribe, Action::Publish],
    );
    let answer = authorize(&mut renewed, &signed(&long));
    assert_eq!(
        answer,
        json!({"type": "authorized", "id": 1, "user": "alice", "expires": long.exp})
    );
    // What is not good, or covers less, changes nothing.
    assert_eq!(authorize(&mut renewed, "nonsense")["code"], "unauthorized");
    let expired = Claims {
        exp: Some(1),
        ..long.clone()
    };
    assert_eq!(
        authorize(&mut renewed, &signed(&expired))["code"],
        "token_expired"
    );
    let narrow = claims(Some("alice"), &["b"], &[], &[Action::Subscribe]);
    assert_eq!(authorize(&mut renewed, &signed(&narrow))["code"], "forbidden");
    // The other one ends at its time; this one has outlived it.
    assert_eq!(left.close_code(), 1008);
    assert!(now_seconds() >= until);
    server.publish("a", "still here");
    assert_eq!(renewed.next_of("publication")["data"], "still here");
    let published = renewed.ask(&json!({"type": "publish", "id": 2, "channel": "b", "data": 1}));
    assert_eq!(published["type"], "published");
}

#[test]
fn the_backend_door_asks_for_nothing_and_ignores_what_is_shown() {
    let server = TestServer::start(GUARDED);
    let mut nobody = server.backend();
    let mut liar = server.backend().bearing("nonsense");
    for client in [&mut nobody, &mut liar] {
        for (method, target, _) in CALLS {
            let answer = call(client, method, target);
            assert!(
                answer.status < 300 || answer.status == 404,
                "{method} {target}: {answer:?}"
            );
        }
    }
    let mut socket = server.backend().websocket("/v1/ws?pattern=**");
    socket.object();
    server.publish("private", "1");
    assert_eq!(socket.next_of("publication")["channel"], "private");
}

#[test]
fn a_door_for_monitoring_shows_health_and_metrics_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (ops, backend) = (free_port(), free_port());
    let (ops_address, backend_address) = (format!("127.0.0.1:{ops}"), format!("127.0.0.1:{backend}"));
    let flags = [
        ("ops.listen", &*ops_address),
        ("backend.listen", &*backend_address),
    ];
    let server = TestServer::start_with(OPEN, &flags);
    drop(folder);
    let mut client = Client::tcp(ops_address.parse().unwrap());
    for target in ["/health/live", "/health/ready", "/metrics", "/v1/stats"] {
        assert_eq!(client.get(target).status, 200, "{target}");
    }
    assert!(
        client.get("/health/ready").json()["connections"].is_u64(),
        "in detail"
    );
    assert!(
        server
            .public()
            .get("/health/ready")
            .json()
            .get("connections")
            .is_none()
    );
    for (method, target, right) in CALLS.iter().filter(|(_, _, right)| *right != "ops") {
        assert_eq!(
            call(&mut client, method, target).problem(403),
            "forbidden",
            "{right}: {method} {target}"
        );
    }
    assert_eq!(
        client.post("/v1/publish?channel=open/a", "1").problem(403),
        "forbidden"
    );
    assert_eq!(client.get("/v1/sse?channel=public/a").problem(403), "forbidden");
    assert_eq!(client.get("/v1/now").problem(403), "forbidden");
    let refused = Client::tcp(ops_address.parse().unwrap())
        .try_websocket("/v1/ws")
        .err()
        .unwrap();
    assert_eq!(refused.problem(403), "forbidden");
    // The public door shows metrics only if it is told to.
    assert_eq!(server.public().get("/metrics").problem(401), "unauthorized");
    let shown = TestServer::start_with(GUARDED, &[("public.ops", "true")]);
    assert_eq!(shown.public().get("/metrics").status, 200);
    assert_eq!(shown.public().get("/v1/channels").problem(401), "unauthorized");
    // A page that gave its own name our address is not from this machine.
    let tcp = || Client::tcp(backend_address.parse().unwrap());
    let raw = |host: &str, origin: &str| {
        let mut client = tcp();
        client.write(
            format!(
                "POST /v1/publish?channel=a HTTP/1.1\r\nHost: {host}\r\n{origin}Content-Length: 1\r\n\r\n1"
            )
            .as_bytes(),
        );
        client.answer("POST").status
    };
    assert_eq!(raw(&backend_address, ""), 200);
    assert_eq!(raw("localhost:1", ""), 200);
    assert_eq!(raw("[::1]", ""), 200);
    assert_eq!(raw("rebound.example", ""), 403);
    assert_eq!(
        raw("rebound.example:80", "Origin: http://rebound.example:80\r\n"),
        403
    );
    assert_eq!(
        raw(&backend_address, &format!("Origin: http://{backend_address}\r\n")),
        403
    );
    let mut reading = tcp();
    assert_eq!(
        reading.get("/v1/history?channel=private").problem(403),
        "origin_refused"
    );
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_page_of_another_origin_may_neither_act_nor_open_a_websocket() {
    let server = TestServer::start_with(OPEN, &[("public.origins", "https://friend.example")]);
    let foreign = || server.public().with("Origin: https://evil.example");
    assert_eq!(
        foreign().post("/v1/publish?channel=a", "1").problem(403),
        "origin_refused"
    );
    assert_eq!(
        foreign().post("/v1/batch", "{\"publications\":[]}").problem(403),
        "origin_refused"
    );
    assert_eq!(
        foreign().delete("/v1/history?channel=a").problem(403),
        "origin_refused"
    );
    for origin in [
        "https://evil.example",
        "null",
        "https://friend.example.evil.example",
        "http://friend.example",
        "https://comet.test.evil",
    ] {
        let refused = server
            .public()
            .with(&format!("Origin: {origin}"))
            .try_websocket("/v1/ws")
            .err()
            .unwrap();
        assert_eq!(
            refused.problem_naming(403, "public.origins"),
            "origin_refused",
            "{origin}"
        );
    }
    for origin in [
        "https://friend.example",
        "https://comet.test",
        "http://comet.test",
    ] {
        server
            .public()
            .with(&format!("Origin: {origin}"))
            .websocket("/v1/ws");
        let answer = server
            .public()
            .with(&format!("Origin: {origin}"))
            .post("/v1/publish?channel=a", "1");
        assert_eq!(answer.status, 200, "{origin}");
    }
    // A browser reaches the site's own socket only through a front web server that should not let it.
    assert_eq!(
        server
            .backend()
            .with("Origin: http://comet.test")
            .post("/v1/publish?channel=a", "1")
            .problem(403),
        "origin_refused"
    );
    assert_eq!(server.backend().get("/v1/history?channel=a").json()["offset"], 3);
}

#[test]
fn pages_of_other_origins_may_read_only_if_they_are_named() {
    let preflight = |server: &TestServer, origin: &str| {
        let mut client = server
            .public()
            .with(&format!("Origin: {origin}"))
            .with("Access-Control-Request-Method: POST");
        client.call("OPTIONS", "/v1/publish", b"")
    };
    let closed = TestServer::start(OPEN);
    let answer = closed
        .public()
        .with("Origin: https://any.example")
        .get("/v1/history?channel=a");
    assert!(
        !answer
            .headers
            .iter()
            .any(|(name, _)| name.starts_with("access-control")),
        "{answer:?}"
    );
    let answer = preflight(&closed, "https://any.example");
    assert!(
        !answer
            .headers
            .iter()
            .any(|(name, _)| name.starts_with("access-control")),
        "{answer:?}"
    );

    let named = TestServer::start_with(OPEN, &[("public.origins", "https://friend.example")]);
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    let answer = preflight(&named, "https://friend.example");
    assert_eq!(
        (answer.status, allowed(&answer).as_deref()),
        (204, Some("https://friend.example"))
    );
    assert!(
        answer
            .header("access-control-allow-methods")
            .unwrap()
            .contains("POST")
    );
    assert!(
        answer
            .header("access-control-allow-headers")
            .unwrap()
            .contains("authorization")
    );
    assert_eq!(allowed(&preflight(&named, "https://other.example")), None);
    let mut friend = named.public().with("Origin: https://friend.example");
    // The page may read what went wrong as well.
    for (target, status) in [
        ("/v1/history?channel=a", 200),
        ("/v1/history", 400),
        ("/v1/none", 404),
        ("/v1/poll?channel=a&wait_ms=0", 200),
    ] {
        let answer = friend.get(target);
        assert_eq!(
            (answer.status, allowed(&answer).as_deref()),
            (status, Some("https://friend.example")),
            "{target}"
        );
        assert_eq!(answer.header("vary"), Some("Origin"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    }
    let stream = named
        .public()
        .with("Origin: https://friend.example")
        .stream("/v1/sse?channel=a");
    assert_eq!(allowed(&stream.head).as_deref(), Some("https://friend.example"));

    let anybody = TestServer::start_with(OPEN, &[("public.origins", "*")]);
    let answer = anybody
        .public()
        .with("Origin: https://any.example")
        .get("/v1/now");
    assert_eq!(allowed(&answer).as_deref(), Some("https://any.example"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[test]
fn no_secret_is_shown_by_what_the_server_says_of_itself() {
    let server = TestServer::start(GUARDED);
    let settings = server.shared.settings();
    let debug = format!("{settings:?} {:?}", settings.config);
    let token = signed(&claims(Some("alice"), &["a"], &[], &[Action::Subscribe]));
    let mut client = server.public().bearing(&token[..token.len() - 2]);
    let mut said = vec![debug];
    for target in ["/v1/poll?channel=a", "/v1/publish", "/v1/none", "/metrics"] {
        said.push(client.get(target).text().to_owned());
    }
    for target in ["/v1/stats", "/metrics", "/health/ready", "/openapi.json"] {
        said.push(server.backend().get(target).text().to_owned());
    }
    for secret in [
        PUBLISHER,
        READER,
        ADMIN,
        MONITOR,
        TOKEN_SECRET,
        OLDER_SECRET,
        &token[..40],
    ] {
        for text in &said {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn a_demo_listens_to_this_machine_only() {
    for flag in ["--listen", "--ops-listen"] {
        let output = comet().args(["demo", flag, "0.0.0.0:0"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("this machine only"), "{said}");
    }
}

/// The program, in an environment of nobody.
fn comet() -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_comet"));
    command.env_clear();
    command
}

#[test]
fn no_secret_token_or_payload_is_ever_logged() {
    use std::io::{BufRead, BufReader, Read};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("comet.toml");
    std::fs::write(&file, GUARDED).unwrap();
    let mut server = comet()
        .arg("serve")
        .args(["--config", file.to_str().unwrap()])
        .args(["--data-dir", folder.path().join("data").to_str().unwrap()])
        .args(["--log-level", "trace"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("listening") {
        assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let socket = folder.path().join("data/public/comet.sock");
    let token = signed(&claims(Some("alice"), &["a"], &[], &[Action::Subscribe]));
    let payload = "payload-payload-payload";
    for credential in [
        PUBLISHER,
        READER,
        ADMIN,
        MONITOR,
        &token,
        "wrong-wrong-wrong-wrong",
    ] {
        let mut client = Client::unix(&socket).bearing(credential);
        client.post("/v1/publish?channel=a&kind=json", format!("\"{payload}\""));
        client.post("/v1/publish", payload);
        client.get(&format!("/v1/poll?channel=a&wait_ms=0&token={token}"));
        client.post("/v1/admin/reload", "");
    }
    let mut socket = Client::unix(&socket).websocket(&format!("/v1/ws?token={token}"));
    socket.object();
    socket.send(&json!({"type": "authorize", "id": 1, "token": "wrong-wrong-wrong-wrong"}));
    socket.next_of("error");
    assert_eq!(
        Client::unix(&folder.path().join("data/comet.sock"))
            .post("/v1/admin/stop", "")
            .status,
        200
    );
    log.read_to_string(&mut said).unwrap();
    assert!(server.wait().unwrap().success(), "{said}");
    assert!(said.contains("configuration read again"), "the log is on: {said}");
    for secret in [
        PUBLISHER,
        READER,
        ADMIN,
        MONITOR,
        TOKEN_SECRET,
        OLDER_SECRET,
        payload,
        &token[..40],
        "wrong-wrong",
    ] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

#[test]
fn how_many_are_there_is_told_only_to_whom_it_may_be() {
    let server = TestServer::start(GUARDED);
    let see = [Action::Subscribe, Action::Presence];
    let mut member = with_token(&server, &claims(Some("alice"), &["room/a"], &[], &see))
        .stream("/v1/stream?channel=room/a&presence=join");
    member.object();
    let plain = json!({"type": "subscribe", "id": 1, "channel": "room/a"});
    let watching = json!({"type": "subscribe", "id": 1, "channel": "room/a", "presence": "watch"});
    let asked = [
        (&see[..], &watching, "members", json!(1)),
        (&see[..], &plain, "members", Value::Null),
        (&see[..1], &plain, "members", Value::Null),
        (&see[..1], &watching, "code", json!("forbidden")),
    ];
    for (actions, subscribe, member, expected) in asked {
        let token = claims(Some("bob"), &["room/a"], &[], actions);
        let mut socket = with_token(&server, &token).websocket("/v1/ws");
        assert_eq!(socket.ask(subscribe)[member], expected, "{subscribe}");
    }
}
