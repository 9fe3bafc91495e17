//! Every limit is crossed: who crosses it is told which one, and nobody else notices.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use api_support::{Client, Frame, OPEN, PUBLISHER, Stream, TestServer};
use serde_json::{Value, json};

/// Somebody who listens all the while, and has to get what is published at the end.
struct Bystander<'a> {
    server: &'a TestServer,
    stream: Stream,
}

impl<'a> Bystander<'a> {
    fn new(server: &'a TestServer) -> Self {
        let mut stream = server.public().stream("/v1/stream?channel=bystander");
        stream.object().unwrap();
        Self { server, stream }
    }

    fn must_be_unharmed(mut self) {
        self.server.publish("bystander", "all well");
        assert_eq!(self.stream.object().unwrap()["data"], "all well");
    }
}

fn limited(flags: &[(&str, &str)]) -> TestServer {
    TestServer::start_with(OPEN, flags)
}

/// A limit too small for its neighbours needs smaller ones there.
const SMALL: [(&str, &str); 3] = [
    ("limits.message_size", "1KiB"),
    ("limits.window_bytes", "16KiB"),
    ("limits.log_memory", "1MiB"),
];

#[test]
fn a_payload_over_message_size_is_refused_in_every_form() {
    let server = limited(&SMALL);
    let bystander = Bystander::new(&server);
    let (fits, over) = ("x".repeat(1024), "x".repeat(1025));
    let word = "limits.message_size";
    let mut client = server.public();
    for (text, ok) in [(&fits, true), (&over, false)] {
        // JSON's quotes and base64's third are not counted twice: it is the payload that counts.
        let bodies = [
            ("/v1/publish?channel=a&kind=text", text.clone()),
            (
                "/v1/publish",
                json!({"channel": "a", "data": text, "kind": "text"}).to_string(),
            ),
        ];
        for (target, body) in bodies {
            let answer = client.post(target, body);
            if ok {
                assert_eq!(answer.status, 200, "{target}");
            } else {
                assert_eq!(answer.problem_naming(413, word), "too_large", "{target}");
            }
        }
    }
    let batch = json!({"publications": [{"channel": "a", "data": over}, {"channel": "a", "data": 1}]});
    let results = client.post_json("/v1/batch", &batch).json()["results"].clone();
    assert_eq!(results[0]["error"]["code"], "too_large");
    assert!(results[1]["channels"].is_array());
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    let error = socket.ask(&json!({"type": "publish", "id": 1, "channel": "a", "data": over}));
    assert_eq!(error["code"], "too_large");
    assert!(error["message"].as_str().unwrap().contains(word));
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 2}))["type"],
        "pong",
        "it stays open"
    );
    bystander.must_be_unharmed();
}

#[test]
fn what_is_far_too_long_is_not_even_read() {
    let server = limited(&SMALL);
    let bystander = Bystander::new(&server);
    let mut client = server.public();
    client.write(b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    assert_eq!(client.answer("POST").problem(413), "too_large");
    assert!(client.is_closed());
    let mut client = server.public();
    client.write(
        b"POST /v1/publish?channel=a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3B9ACA00\r\n",
    );
    assert_eq!(client.answer("POST").problem(413), "too_large");
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    socket.send_frame(1, &vec![b' '; 200_000]);
    assert_eq!(socket.frame(), Frame::Close(1009));
    bystander.must_be_unharmed();
}

#[test]
fn a_batch_over_its_limit_is_refused_whole() {
    let server = limited(&[("limits.batch", "2")]);
    let batch = |n| json!({"publications": vec![json!({"channel": "a", "data": 1}); n]});
    assert_eq!(server.public().post_json("/v1/batch", &batch(2)).status, 200);
    let answer = server.public().post_json("/v1/batch", &batch(3));
    assert_eq!(answer.problem_naming(413, "limits.batch"), "too_large");
    assert_eq!(server.backend().get("/v1/history?channel=a").json()["offset"], 2);
}

#[test]
fn a_name_over_channel_name_is_refused_wherever_it_is_given() {
    let server = limited(&[("limits.channel_name", "8B")]);
    let bystander_is_too_long = server.public().get("/v1/history?channel=bystander");
    assert_eq!(
        bystander_is_too_long.problem_naming(413, "limits.channel_name"),
        "too_large"
    );
    let mut client = server.backend();
    for (name, ok) in [("12345678", true), ("123456789", false)] {
        let body = json!({"channel": name, "data": 1}).to_string();
        let calls = [
            ("POST", "/v1/publish".to_owned(), &*body),
            ("POST", format!("/v1/publish?channel={name}"), "1"),
            ("GET", format!("/v1/poll?channel={name}&wait_ms=0"), ""),
            ("GET", format!("/v1/presence?channel={name}"), ""),
            ("DELETE", format!("/v1/history?channel={name}"), ""),
        ];
        for (method, target, body) in calls {
            let answer = client.call(method, &target, body.as_bytes());
            if ok {
                assert_eq!(answer.status, 200, "{target}");
            } else {
                assert_eq!(
                    answer.problem_naming(413, "limits.channel_name"),
                    "too_large",
                    "{target}"
                );
            }
        }
    }
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 1, "channel": "123456789"}))["code"],
        "too_large"
    );
    // Eight kibibytes are the end of it, whatever is configured.
    let server = limited(&[]);
    let name = "x".repeat(8 << 10);
    assert_eq!(
        server.public().get(&format!("/v1/history?channel={name}")).status,
        200
    );
    assert_eq!(
        server
            .public()
            .get(&format!("/v1/history?channel={name}x"))
            .problem(413),
        "too_large"
    );
}

#[test]
fn a_head_over_its_limit_is_refused_and_closed() {
    let server = limited(&[("limits.head", "1KiB")]);
    let bystander = Bystander::new(&server);
    let mut client = server.public();
    let answer = client.get(&format!("/v1/history?channel={}", "x".repeat(1024)));
    assert_eq!(answer.problem(431), "too_large");
    assert!(client.is_closed());
    let mut client = server.public().with(&format!("X-Much: {}", "x".repeat(2000)));
    assert_eq!(client.get("/v1/now").problem(431), "too_large");
    let many = "X: 1\r\n".repeat(100);
    let mut client = server.public().with(many.trim_end());
    assert_eq!(client.get("/v1/now").problem(431), "too_large");
    bystander.must_be_unharmed();
}

#[test]
fn a_connection_listens_to_so_many_channels_and_patterns() {
    let server = limited(&[("limits.subscriptions", "2"), ("limits.patterns", "1")]);
    let bystander = Bystander::new(&server);
    for (query, word) in [
        ("channel=a&channel=b&channel=c", "limits.subscriptions"),
        ("pattern=a*&pattern=b*", "limits.patterns"),
    ] {
        for path in ["/v1/poll", "/v1/sse", "/v1/stream"] {
            let answer = server.public().get(&format!("{path}?{query}"));
            assert_eq!(answer.problem_naming(429, word), "limit_reached", "{path}");
        }
        let refused = server
            .public()
            .try_websocket(&format!("/v1/ws?{query}"))
            .err()
            .unwrap();
        assert_eq!(refused.problem_naming(429, word), "limit_reached");
    }
    let mut socket = server.public().websocket("/v1/ws?channel=a&pattern=p*");
    socket.object();
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 1, "channel": "b"}))["type"],
        "subscribed"
    );
    for more in [
        json!({"channel": "c"}),
        json!({"pattern": "q*"}),
        json!({"channels": ["c", "d"]}),
    ] {
        let mut command = more;
        (command["type"], command["id"]) = (json!("subscribe"), json!(2));
        assert_eq!(socket.ask(&command)["code"], "limit_reached", "{command}");
    }
    // What it has it keeps, and what it gives up makes room.
    server.publish("p1", "1");
    assert_eq!(socket.next_of("publication")["channel"], "p1");
    socket.ask(&json!({"type": "unsubscribe", "id": 3, "channel": "a"}));
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 4, "channel": "c"}))["type"],
        "subscribed"
    );
    bystander.must_be_unharmed();
}

#[test]
fn the_server_has_so_many_patterns_and_a_pattern_so_many_bytes() {
    let server = limited(&[
        ("limits.patterns_total", "2"),
        ("limits.pattern_length", "4B"),
        ("limits.one_visitor", "100%"),
        ("limits.all_visitors", "100%"),
    ]);
    let bystander = Bystander::new(&server);
    let mut first = server.public().stream("/v1/stream?pattern=a*&pattern=b*");
    first.object();
    let answer = server.public().get("/v1/poll?wait_ms=0&pattern=c*");
    assert_eq!(
        answer.problem_naming(429, "limits.patterns_total"),
        "limit_reached"
    );
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 1, "pattern": "c*"}))["code"],
        "limit_reached"
    );
    // The same ones cost nothing.
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 2, "pattern": "a*"}))["type"],
        "subscribed"
    );
    server.publish("a", "1");
    assert_eq!(first.object().unwrap()["data"], "1");
    for target in ["/v1/poll?pattern=abcde&wait_ms=0", "/v1/channels?pattern=abcde"] {
        let answer = server.backend().get(target);
        assert_eq!(
            answer.problem_naming(413, "limits.pattern_length"),
            "too_large",
            "{target}"
        );
    }
    assert_eq!(server.stat("/subscriptions/pattern"), 3);
    bystander.must_be_unharmed();
}

#[test]
fn the_server_has_so_many_channels() {
    let server = limited(&[("limits.channels", "3")]);
    let bystander = Bystander::new(&server);
    server.publish("a", "1");
    server.publish("b", "1");
    let answer = server.public().post("/v1/publish?channel=c", "1");
    assert_eq!(answer.problem_naming(429, "limits.channels"), "limit_reached");
    let answer = server.public().get("/v1/poll?channel=c");
    assert_eq!(answer.problem_naming(429, "limits.channels"), "limit_reached");
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 1, "channel": "c"}))["code"],
        "limit_reached"
    );
    server.publish("a", "2");
    // One that nobody needs any more makes room at once.
    server.backend().delete("/v1/history?channel=a");
    server.publish("c", "1");
    bystander.must_be_unharmed();
}

#[test]
fn a_connection_publishes_so_fast_unless_it_shows_a_key() {
    let guarded =
        format!("{OPEN}\n[[keys]]\nname = \"k\"\nsecret = \"{PUBLISHER}\"\nactions = [\"publish\"]\n");
    let server = TestServer::start_with(&guarded, &[("limits.publish_rate", "2/s")]);
    let bystander = Bystander::new(&server);
    let batch = json!({"publications": vec![json!({"channel": "a", "data": 1}); 4]});
    let answer = server.public().post_json("/v1/batch", &batch).json();
    let codes: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["error"]["code"].clone())
        .collect();
    assert_eq!(
        codes,
        [
            Value::Null,
            Value::Null,
            json!("limit_reached"),
            json!("limit_reached")
        ]
    );
    assert!(
        answer["results"][2]["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("limits.publish_rate")
    );
    for mut client in [server.public().bearing(PUBLISHER), server.backend()] {
        let answer = client.post_json("/v1/batch", &batch).json();
        assert!(
            answer["results"]
                .as_array()
                .unwrap()
                .iter()
                .all(|result| result.get("error").is_none())
        );
    }
    bystander.must_be_unharmed();
}

#[test]
fn beyond_connections_visitors_are_turned_away_but_not_the_site_itself() {
    let server = limited(&[("limits.connections", "3")]);
    let bystander = Bystander::new(&server);
    let mut others = [server.public(), server.public_socket()];
    for client in &mut others {
        assert_eq!(client.get("/health/live").status, 200);
    }
    for mut client in [server.public(), server.public_socket()] {
        let answer = client.get("/health/live");
        assert_eq!(answer.problem_naming(503, "limits.connections"), "unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(client.is_closed());
    }
    assert_eq!(server.stat("/drops_total/limit"), 2);
    for client in &mut others {
        assert_eq!(client.get("/health/live").status, 200);
    }
    drop(others);
    let freed = || server.public().get("/health/live").status == 200;
    while !freed() {}
    bystander.must_be_unharmed();
}

#[test]
fn one_address_has_so_many_connections() {
    let server = limited(&[("limits.connections_per_address", "2")]);
    let bystander = Bystander::new(&server);
    let mut second = server.public();
    assert_eq!(second.get("/health/live").status, 200);
    let answer = server.public().get("/health/live");
    assert_eq!(
        answer.problem_naming(503, "limits.connections_per_address"),
        "unavailable"
    );
    // A front web server's socket is one address for everybody: it is not counted.
    let mut many: Vec<Client> = (0..4).map(|_| server.public_socket()).collect();
    for client in &mut many {
        assert_eq!(client.get("/health/live").status, 200);
    }
    bystander.must_be_unharmed();
}

#[test]
fn so_many_idempotency_keys_are_known_for_so_long() {
    let publish = |server: &TestServer, key: &str| {
        let request = json!({"channel": "a", "data": 1, "idempotency_key": key});
        server.public().post_json("/v1/publish", &request).json()["duplicate"] == true
    };
    let server = limited(&[
        ("limits.idempotency_keys", "2"),
        ("limits.one_visitor", "100%"),
        ("limits.all_visitors", "100%"),
    ]);
    let told: Vec<bool> = ["1", "2", "1", "3", "4", "1"]
        .iter()
        .map(|key| publish(&server, key))
        .collect();
    assert_eq!(
        told,
        [false, false, true, false, false, false],
        "the oldest is forgotten first"
    );
    let server = limited(&[("limits.idempotency_window", "0ms")]);
    assert_eq!([publish(&server, "1"), publish(&server, "1")], [false, false]);
    let long = "k".repeat(1025);
    let answer = server
        .public()
        .post(&format!("/v1/publish?channel=a&idempotency_key={long}"), "1");
    assert_eq!(answer.problem_naming(413, "idempotency_key"), "too_large");
}

#[test]
fn the_short_texts_of_a_message_are_short_and_its_tags_few() {
    let server = limited(&[]);
    let long = "x".repeat(1025);
    let tags: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!("x"))).collect();
    for more in [
        json!({"event": long}),
        json!({"id": long}),
        json!({"exclude_session": long}),
        json!({"tags": {"a": long}}),
        json!({"tags": tags}),
    ] {
        let mut request = json!({"channel": "a", "data": 1});
        request
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        assert_eq!(
            server.public().post_json("/v1/publish", &request).problem(413),
            "too_large"
        );
    }
    for name in ["event", "id", "exclude_session"] {
        let answer = server
            .public()
            .post(&format!("/v1/publish?channel=a&{name}={long}"), "1");
        assert_eq!(answer.problem_naming(413, name), "too_large");
    }
}

#[test]
fn all_logs_together_stay_within_log_memory_and_the_largest_gives_way() {
    let flags = [
        ("limits.message_size", "64KiB"),
        ("limits.window_bytes", "64KiB"),
        ("limits.log_memory", "1MiB"),
        ("namespace_default.durability", "memory"),
        ("namespace_default.history.count", "10000"),
        ("namespace_default.history.bytes", "1GiB"),
    ];
    let server = limited(&flags);
    let bystander = Bystander::new(&server);
    server.publish("quiet", "kept");
    let first = server.publish("loud", "first")["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(server.stat("/trimmed_total/default"), 0);
    let payload = "x".repeat(60_000);
    for _ in 0..40 {
        server.publish("loud", &payload);
    }
    assert!(server.stat("/log_bytes") <= 1 << 20);
    let trimmed = server.stat("/trimmed_total/default");
    assert!((20..=41).contains(&trimmed), "{trimmed}");
    let metrics = server.backend().get("/metrics");
    assert!(metrics.text().contains(&format!(
        "cometserver_trimmed_total{{realm=\"default\"}} {trimmed}\n"
    )));
    let quiet = server.backend().get("/v1/history?channel=quiet").json();
    assert_eq!(
        quiet["publications"][0]["data"], "kept",
        "the quiet channel keeps its own"
    );
    let loud = server
        .public()
        .get(&format!("/v1/poll?channel=loud&cursor={first}"))
        .json();
    assert_eq!(
        loud["publications"][0]["type"], "gap",
        "whoever missed something is told"
    );
    assert_eq!(loud["publications"][1]["type"], "publication");
    bystander.must_be_unharmed();
}

#[test]
fn the_live_window_stays_within_window_bytes() {
    let flags = [
        ("limits.message_size", "1KiB"),
        ("limits.window_bytes", "32KiB"),
        ("limits.log_memory", "1MiB"),
        ("limits.window", "1h"),
        ("namespace_default.history.count", "0"),
    ];
    let server = limited(&flags);
    let bystander = Bystander::new(&server);
    let first = server.publish("loud", "first")["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    let payload = "x".repeat(1000);
    for _ in 0..100 {
        server.publish("loud", &payload);
    }
    assert!(server.stat("/window_bytes") <= 32 << 10);
    assert!(server.stat("/trimmed_total/default") > 0);
    let loud = server
        .public()
        .get(&format!("/v1/poll?channel=loud&cursor={first}"))
        .json();
    assert_eq!(loud["publications"][0]["type"], "gap");
    bystander.must_be_unharmed();
}

#[test]
fn a_member_tells_so_much_about_itself() {
    let server = limited(&[("presence.member_info", "8B")]);
    let bystander = Bystander::new(&server);
    for path in ["/v1/poll", "/v1/sse", "/v1/stream"] {
        let answer = server
            .public()
            .get(&format!("{path}?channel=a&presence=join&info=%22123456789%22"));
        assert_eq!(answer.problem_naming(413, "presence.member_info"), "too_large");
    }
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    let mut subscribe =
        json!({"type": "subscribe", "id": 1, "channel": "a", "presence": "join", "info": "123456789"});
    assert_eq!(socket.ask(&subscribe)["code"], "too_large");
    subscribe["info"] = json!("123456");
    assert_eq!(socket.ask(&subscribe)["type"], "subscribed");
    assert_eq!(
        server.backend().get("/v1/presence?channel=a").json()["members"][0]["info"],
        "123456"
    );
    bystander.must_be_unharmed();
}

#[test]
fn held_requests_beyond_their_budget_are_told_when_to_come_back() {
    let flags = [
        ("held.poll.max", "1"),
        ("held.stream.max", "1"),
        ("held.ws.max", "1"),
        ("held.retry", "2s"),
    ];
    let server = limited(&flags);
    let mut poll = server.public();
    poll.send("GET", "/v1/poll?channel=a", b"");
    let mut lines = server.public().stream("/v1/stream?channel=a");
    lines.object();
    let mut socket = server.public().websocket("/v1/ws?channel=a");
    socket.object();
    // The poll that was sent is held: an answer to a second one shows it.
    let is_due = |after: &Value| (2000..=3000).contains(&after.as_u64().unwrap());
    let answer = loop {
        let answer = server.public().get("/v1/poll?channel=a&wait_ms=1").json();
        if answer.get("retry_ms").is_some() {
            break answer;
        }
    };
    assert!(is_due(&answer["retry_ms"]) && answer["publications"] == json!([]));
    let immediate = server.public().get("/v1/poll?channel=a&wait_ms=0").json();
    assert_eq!(
        immediate.get("retry_ms"),
        None,
        "what is answered at once takes no place"
    );
    let mut turned_away = server.public().stream("/v1/stream?channel=a");
    let object = turned_away.object().unwrap();
    assert!(
        object["type"] == "reconnect" && is_due(&object["after_ms"]),
        "{object}"
    );
    assert_eq!(turned_away.object(), None);
    let mut turned_away = server.public().websocket("/v1/ws?channel=a");
    let object = turned_away.object();
    assert!(
        object["type"] == "reconnect" && is_due(&object["after_ms"]),
        "{object}"
    );
    assert_eq!(turned_away.close_code(), 1013);
    // The site's own code has no budget.
    let mut own = server.backend().stream("/v1/stream?channel=a");
    own.object();
    server.publish("a", "1");
    assert_eq!(poll.answer("GET").json()["publications"][0]["data"], "1");
    assert_eq!(lines.object().unwrap()["data"], "1");
    assert_eq!(socket.next_of("publication")["data"], "1");
    assert_eq!(own.object().unwrap()["data"], "1");
}
