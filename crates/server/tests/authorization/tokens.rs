//! Tokens: what they allow, how they come, when they end.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cometserver_core::action::Action;
use cometserver_core::token::{self, Claims, LEEWAY};
use serde_json::{Value, json};

use crate::api_support::{
    GUARDED, OLDER_SECRET, TOKEN_SECRET, TestServer, WebSocket, claims, encode, now_seconds, signed,
};
use crate::{LISTEN, call, with_token};

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
        exp: Some(now_seconds() - LEEWAY - 1),
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
        exp: Some(until - LEEWAY),
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
        exp: Some(until - LEEWAY),
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
fn a_user_may_be_a_number_and_a_time_in_milliseconds_is_asked_about() {
    let server = TestServer::start(GUARDED);
    // Made by others: `{"sub":42,"comet":…}` and `{"sub":"anna","exp":1800000000000,"comet":…}`, for channel `a`.
    let number = concat!(
        "eyJhbGciOiJIUzI1NiJ9.",
        "eyJzdWIiOjQyLCJjb21ldCI6eyJjaGFubmVscyI6WyJhIl0sImFjdGlvbnMi",
        "Olsic3Vic2NyaWJlIiwicHVibGlzaCIsImhpc3RvcnkiXX19",
        ".JSVGxv-SBCmwMo9B5gk04C2TYY85roW26LVh9fXcMZ0"
    );
    let milliseconds = concat!(
        "eyJhbGciOiJIUzI1NiJ9.",
        "eyJzdWIiOiJhbm5hIiwiZXhwIjoxODAwMDAwMDAwMDAwLCJjb21ldCI6eyJj",
        "aGFubmVscyI6WyJhIl0sImFjdGlvbnMiOlsic3Vic2NyaWJlIiwicHVibGlzaCIsImhpc3RvcnkiXX19",
        ".JHD5TV8lf4einVHrCqwj7KXsou_sInF-ZSwcwAdA3Qk"
    );
    let mut client = server.public().bearing(number);
    assert_eq!(client.post("/v1/publish?channel=a", "1").status, 200);
    assert_eq!(
        client.get("/v1/history?channel=a").json()["publications"][0]["user"],
        "42"
    );
    let answer = server.public().bearing(milliseconds).get("/v1/poll?channel=a");
    assert_eq!(answer.problem_naming(401, "milliseconds?"), "unauthorized");
    // Clocks differ: a minute more is given, and the answer names the token's own time.
    let late = Claims {
        exp: Some(now_seconds() - LEEWAY + 30),
        ..claims(Some("anna"), &["a"], &[], &[Action::Subscribe])
    };
    let answer = with_token(&server, &late).get("/v1/poll?channel=a&wait_ms=0");
    assert_eq!(answer.status, 200);
    let mut socket = server.public().websocket("/v1/ws");
    let answer = socket.ask(&json!({"type": "authorize", "id": 1, "token": signed(&late)}));
    assert_eq!(answer["expires"], json!(late.exp));
}
