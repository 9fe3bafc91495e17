//! The HTTP API as docs/protocol.md tells it, call by call.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod api_support;

use api_support::{ODD, OPEN, TestServer, encode};
use serde_json::{Value, json};

/// What is kept of a channel, by the API.
fn kept(server: &TestServer, channel: &str) -> Vec<Value> {
    let target = format!("/v1/history?channel={}", encode(channel));
    let history = server.backend().get(&target).json();
    history["publications"].as_array().unwrap().clone()
}

#[test]
fn a_body_of_json_says_everything_about_a_publication() {
    let server = TestServer::start(OPEN);
    let before = server.backend().get("/v1/now").json()["cursor"].clone();
    let request = json!({
        "channel": ODD, "data": {"any": "json"}, "event": "price", "id": "mine-1", "retain": true,
        "idempotency_key": "order-17", "tags": {"a": "b", "c": "d"}, "kind": "json",
    });
    let answer = server.backend().post_json("/v1/publish", &request);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let receipt = answer.json();
    assert_eq!(receipt["channels"][0]["channel"], ODD);
    assert_eq!(receipt["channels"][0]["offset"], 1);
    assert!(receipt["channels"][0]["epoch"].is_string());
    assert_ne!(receipt["cursor"], before);
    assert_eq!(receipt.get("duplicate"), None);
    let seen = &kept(&server, ODD)[0];
    let time = seen["time"].as_u64().unwrap();
    let expected = json!({
        "type": "publication", "channel": ODD, "offset": 1, "time": time, "event": "price", "id": "mine-1",
        "tags": {"a": "b", "c": "d"}, "data": {"any": "json"},
    });
    assert_eq!(*seen, expected);
    assert!(
        time.abs_diff(api_support::now_seconds() * 1000) < 60_000,
        "milliseconds since 1970"
    );
}

#[test]
fn kinds_say_what_data_means() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    for (kind, data) in [
        ("json", json!([1, null])),
        ("text", json!("é\n")),
        ("binary", json!("/wA=")),
    ] {
        let answer = backend.post_json(
            "/v1/publish",
            &json!({"channel": "a", "kind": kind, "data": data}),
        );
        assert_eq!(answer.status, 200);
        let seen = kept(&server, "a").pop().unwrap();
        assert_eq!(seen["data"], data);
        let shown = if kind == "json" { Value::Null } else { json!(kind) };
        assert_eq!(seen["kind"], shown, "absent for JSON");
    }
}

#[test]
fn the_payload_is_the_whole_body_where_the_channel_is_in_the_query() {
    let server = TestServer::start(OPEN);
    let table: &[(&str, &[u8], Value, Value)] = &[
        ("", b"Hello", json!("SGVsbG8="), json!("binary")),
        (
            "application/x-www-form-urlencoded",
            b"a=b&c",
            json!("a=b&c"),
            json!("text"),
        ),
        ("text/plain; charset=utf-8", b"{1}", json!("{1}"), json!("text")),
        ("text/csv", "é".as_bytes(), json!("é"), json!("text")),
        ("application/json", b" {\"a\": 1} ", json!({"a": 1}), Value::Null),
        (
            "Application/JSON;charset=utf-8",
            b"null",
            Value::Null,
            Value::Null,
        ),
        ("application/ld+json", b"[]", json!([]), Value::Null),
        ("image/png", b"\xff\0", json!("/wA="), json!("binary")),
        ("text/plain", b"", json!(""), json!("text")),
    ];
    for (content_type, body, data, kind) in table {
        let mut backend = server.backend();
        if !content_type.is_empty() {
            backend = backend.with(&format!("Content-Type: {content_type}"));
        }
        let answer = backend.post("/v1/publish?channel=a", body);
        assert_eq!(answer.status, 200, "{content_type}: {:?}", answer.text());
        let seen = kept(&server, "a").pop().unwrap();
        assert_eq!((&seen["data"], &seen["kind"]), (data, kind), "{content_type}");
    }
    let mut backend = server.backend().with("Content-Type: text/plain");
    let target = "/v1/publish?channel=a&kind=json&event=e&id=i&retain=1&idempotency_key=k&exclude_session=s";
    assert_eq!(backend.post(target, "{\"wins\":\"kind\"}").status, 200);
    let seen = kept(&server, "a").pop().unwrap();
    assert_eq!(seen["data"], json!({"wins": "kind"}));
    assert_eq!((&seen["event"], &seen["id"]), (&json!("e"), &json!("i")));
    assert_eq!(
        backend.post(target, "{\"wins\":\"kind\"}").json()["duplicate"],
        true
    );
    assert_eq!(backend.get("/v1/retained?channel=a").json()["id"], "i");
}

#[test]
fn what_is_wrong_with_a_publication_is_named() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend().with("Content-Type: application/json");
    let table = [
        ("/v1/publish", "", "not a publish request"),
        ("/v1/publish", "[1]", "not a publish request"),
        ("/v1/publish", "{\"data\":1}", "`channel` is missing"),
        ("/v1/publish", "{\"channel\":\"\",\"data\":1}", "empty"),
        ("/v1/publish", "{\"channel\":\"a\"}", "`data` is missing"),
        (
            "/v1/publish",
            "{\"channel\":\"a\",\"data\":1,\"kind\":\"text\"}",
            "has to be a string",
        ),
        (
            "/v1/publish",
            "{\"channel\":\"a\",\"data\":\"%\",\"kind\":\"binary\"}",
            "base64",
        ),
        (
            "/v1/publish",
            "{\"channel\":\"a\",\"data\":1,\"kind\":\"xml\"}",
            "`kind` is one of",
        ),
        (
            "/v1/publish",
            "{\"channel\":\"a\",\"channels\":[\"b\"],\"data\":1}",
            "either",
        ),
        ("/v1/publish?channel=", "1", "empty"),
        ("/v1/publish?channel=a", "{", "JSON"),
        ("/v1/publish?channel=a&kind=xml", "1", "`kind` is one of"),
        ("/v1/publish?channel=a&kind=text", "\u{0}", ""),
    ];
    for (target, body, word) in table {
        let answer = backend.post(target, body);
        if word.is_empty() {
            assert_eq!(answer.status, 200, "{target} {body:?}");
        } else {
            assert_eq!(answer.problem_naming(400, word), "bad_request", "{target} {body}");
        }
    }
    let answer = server.backend().post("/v1/publish?channel=a&kind=text", b"\xff");
    assert_eq!(answer.problem_naming(400, "UTF-8"), "bad_request");
}

#[test]
fn a_publication_in_several_channels_is_one() {
    let server = TestServer::start(OPEN);
    let mut stream = server.public().stream("/v1/stream?channel=a&channel=b&channel=c");
    stream.object().unwrap();
    let request = json!({"channels": ["a", "b"], "data": 1});
    let receipt = server.backend().post_json("/v1/publish", &request).json();
    let names: Vec<_> = receipt["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["channel"])
        .collect();
    assert_eq!(names, ["a", "b"]);
    // From a shell the channel is repeated, as it is to listen.
    let receipt = server
        .backend()
        .post("/v1/publish?channel=b&channel=c&kind=json", "2")
        .json();
    let names: Vec<_> = receipt["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["channel"])
        .collect();
    assert_eq!(names, ["b", "c"]);
    server.publish("c", "last");
    let seen: Vec<Value> = (0..3).map(|_| stream.object().unwrap()["data"].clone()).collect();
    assert_eq!(seen, [json!(1), json!(2), json!("last")], "each once");
    assert_eq!(kept(&server, "b").len(), 2);
}

#[test]
fn a_batch_answers_for_each() {
    let server = TestServer::start(OPEN);
    let batch = json!({"publications": [
        {"channel": "a", "data": 1},
        {"data": 2},
        {"channel": "b", "data": "x", "kind": "text", "idempotency_key": "k"},
        {"channel": "b", "data": "y", "kind": "text", "idempotency_key": "k"},
        {"channel": "b", "data": "x", "kind": "text", "idempotency_key": "k"},
        7,
    ]});
    let answer = server.backend().post_json("/v1/batch", &batch);
    assert_eq!(answer.status, 200);
    let results = answer.json()["results"].as_array().unwrap().clone();
    assert_eq!(results.len(), 6);
    assert_eq!(results[0]["channels"][0]["offset"], 1);
    let error = &results[1]["error"];
    assert_eq!(
        (&error["code"], &error["status"]),
        (&json!("bad_request"), &json!(400))
    );
    assert!(error["detail"].as_str().unwrap().contains("`channel` is missing"));
    assert_eq!(results[2].get("duplicate"), None);
    assert_eq!(results[3]["error"]["code"], "conflict");
    assert_eq!(results[4]["duplicate"], true);
    assert_eq!(results[4]["channels"], results[2]["channels"]);
    assert_eq!(results[5]["error"]["code"], "bad_request");
    assert_eq!(kept(&server, "b").len(), 1);
    let answer = server.backend().post("/v1/batch", "[]");
    assert_eq!(answer.problem_naming(400, "batch"), "bad_request");
    let answer = server.backend().post("/v1/batch", "{\"publications\":[]}");
    assert_eq!(answer.json(), json!({"results": []}));
}

#[test]
fn an_idempotency_key_publishes_once() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    let request = json!({"channel": "a", "data": 1, "idempotency_key": "k"});
    let first = backend.post_json("/v1/publish", &request).json();
    let second = backend.post_json("/v1/publish", &request).json();
    assert_eq!(second["duplicate"], true);
    assert_eq!(
        (&first["channels"], &first["cursor"]),
        (&second["channels"], &second["cursor"])
    );
    let other = json!({"channel": "a", "data": 2, "idempotency_key": "k"});
    assert_eq!(backend.post_json("/v1/publish", &other).problem(409), "conflict");
    // A key is of its channel.
    let elsewhere = json!({"channel": "b", "data": 2, "idempotency_key": "k"});
    assert_eq!(
        backend
            .post_json("/v1/publish", &elsewhere)
            .json()
            .get("duplicate"),
        None
    );
    assert_eq!(kept(&server, "a").len(), 1);
}

#[test]
fn history_is_read_from_any_place_in_both_directions() {
    let server = TestServer::start(OPEN);
    let receipts: Vec<Value> = (1..=5).map(|n| server.publish("a", &n.to_string())).collect();
    server.publish("b", "elsewhere");
    let mut backend = server.backend();
    let mut data = |query: &str| -> (Vec<String>, Value) {
        let history = backend.get(&format!("/v1/history?channel=a{query}")).json();
        let list = history["publications"].as_array().unwrap();
        let list = list
            .iter()
            .map(|p| p["data"].as_str().unwrap().to_owned())
            .collect();
        (list, history)
    };
    let (all, history) = data("");
    assert_eq!(all, ["1", "2", "3", "4", "5"]);
    assert_eq!(
        (&history["channel"], &history["offset"], &history["gap"]),
        (&json!("a"), &json!(5), &json!(false))
    );
    assert_eq!(history["epoch"], receipts[0]["channels"][0]["epoch"]);
    let cursor = receipts[1]["cursor"].as_str().unwrap();
    assert_eq!(data(&format!("&since={cursor}")).0, ["3", "4", "5"]);
    assert_eq!(data("&reverse=1").0, ["5", "4", "3", "2", "1"]);
    assert_eq!(data("&reverse=1&limit=2").0, ["5", "4"]);
    assert_eq!(data("&since=now").0, [""; 0]);
    assert_eq!(data("&since=earliest").0.len(), 5);
    // Page by page with the cursor of the answer.
    let (first, page) = data("&limit=2");
    assert_eq!(first, ["1", "2"]);
    let (second, page) = data(&format!("&limit=2&since={}", page["cursor"].as_str().unwrap()));
    assert_eq!(second, ["3", "4"]);
    let (third, page) = data(&format!("&limit=2&since={}", page["cursor"].as_str().unwrap()));
    assert_eq!(third, ["5"]);
    assert_eq!(
        data(&format!("&since={}", page["cursor"].as_str().unwrap())).0,
        [""; 0]
    );
    // Nobody has published there.
    let (none, history) = {
        let history = server.backend().get("/v1/history?channel=none").json();
        (history["publications"].clone(), history)
    };
    assert_eq!(
        (none, &history["offset"], &history["gap"]),
        (json!([]), &json!(0), &json!(false))
    );
    for query in ["since=x&", "since=c1&"] {
        let answer = server.backend().get(&format!("/v1/history?{query}channel=a"));
        assert_eq!(answer.problem(400), "bad_cursor");
    }
    let answer = server.backend().get("/v1/history?channel=a&limit=many");
    assert_eq!(answer.problem_naming(400, "limit"), "bad_request");
    assert_eq!(
        server.backend().get("/v1/history").problem_naming(400, "channel"),
        "bad_request"
    );
}

#[test]
fn history_says_when_something_after_the_cursor_is_gone() {
    let server = TestServer::start(
        "[namespace_default]\npublic = true\nhistory.count = 2\n[limits]\nwindow = \"0ms\"\n",
    );
    let first = server.publish("a", "1")["cursor"].as_str().unwrap().to_owned();
    for n in 2..=5 {
        server.publish("a", &n.to_string());
    }
    let history = server
        .backend()
        .get(&format!("/v1/history?channel=a&since={first}"))
        .json();
    assert_eq!(history["gap"], true);
    assert_eq!(
        history["publications"].as_array().unwrap().len(),
        2,
        "what is kept"
    );
    let history = server.backend().get("/v1/history?channel=a").json();
    assert_eq!(history["gap"], false, "nobody claimed to have seen anything");
}

#[test]
fn history_gives_at_most_a_thousand_and_a_hundred_unless_asked() {
    let server = TestServer::start("[namespace_default]\nhistory.count = 2000\n");
    let publications: Vec<Value> = (0..1000).map(|n| json!({"channel": "a", "data": n})).collect();
    for _ in 0..2 {
        let answer = server
            .backend()
            .post_json("/v1/batch", &json!({"publications": publications}));
        assert_eq!(answer.status, 200);
    }
    let count = |query: &str| {
        let history = server
            .backend()
            .get(&format!("/v1/history?channel=a{query}"))
            .json();
        history["publications"].as_array().unwrap().len()
    };
    assert_eq!(
        (count(""), count("&limit=1"), count("&limit=5000")),
        (100, 1, 1000)
    );
}

#[test]
fn the_retained_value_is_shown_whole_or_bare_until_it_is_deleted() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    let target = format!("channel={}", encode(ODD));
    let missing = backend.get(&format!("/v1/retained?{target}"));
    assert_eq!(missing.problem_naming(404, "retain"), "not_found");
    let table: &[(&str, &[u8], &str)] = &[
        ("json", b"{\"a\" : 1}", "application/json"),
        ("text", "<b>é".as_bytes(), "text/plain; charset=utf-8"),
        ("binary", b"\xff\0", "application/octet-stream"),
    ];
    for (kind, body, content_type) in table {
        backend.post(&format!("/v1/publish?{target}&retain=1&kind={kind}"), body);
        let raw = backend.get(&format!("/v1/retained?{target}&raw=1"));
        assert_eq!(
            (raw.status, raw.header("content-type")),
            (200, Some(*content_type))
        );
        assert_eq!(raw.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(raw.body, *body, "byte for byte");
    }
    server.publish(ODD, "not retained");
    let object = backend.get(&format!("/v1/retained?{target}")).json();
    assert_eq!(
        (&object["type"], &object["offset"]),
        (&json!("publication"), &json!(3))
    );
    assert_eq!(object["data"], "/wA=");
    assert_eq!(
        backend.delete(&format!("/v1/retained?{target}")).json(),
        json!({"deleted": true})
    );
    assert_eq!(
        backend.delete(&format!("/v1/retained?{target}")).json(),
        json!({"deleted": false})
    );
    assert_eq!(
        backend.get(&format!("/v1/retained?{target}")).problem(404),
        "not_found"
    );
    assert_eq!(kept(&server, ODD).len(), 4, "the history stays");
}

#[test]
fn deleting_the_history_forgets_the_retained_value_too() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    backend.post("/v1/publish?channel=a&retain=1", "1");
    server.publish("a", "2");
    assert_eq!(
        backend.delete("/v1/history?channel=a").json(),
        json!({"deleted": 2})
    );
    assert_eq!(
        backend.delete("/v1/history?channel=a").json(),
        json!({"deleted": 0})
    );
    assert_eq!(
        backend.delete("/v1/history?channel=none").json(),
        json!({"deleted": 0})
    );
    assert_eq!(backend.get("/v1/retained?channel=a").status, 404);
    assert_eq!(kept(&server, "a").len(), 0);
    server.publish("a", "3");
    assert_eq!(kept(&server, "a")[0]["offset"], 3, "offsets go on");
}

#[test]
fn presence_lists_who_is_there() {
    let server = TestServer::start(OPEN);
    let empty = server.backend().get("/v1/presence?channel=a").json();
    assert_eq!((&empty["count"], &empty["members"]), (&json!(0), &json!([])));
    let info = encode("{\"name\":\"Alice\"}");
    let target = format!("/v1/stream?channel=a&presence=join&session=alice&info={info}");
    let mut alice = server.public().stream(&target);
    alice.object().unwrap();
    let mut again = server.public().stream(&target);
    again.object().unwrap();
    let mut watcher = server.public().stream("/v1/stream?channel=a&presence=watch");
    watcher.object().unwrap();
    let members = server.backend().get("/v1/presence?channel=a").json();
    let user = members["members"][0]["user"].as_str().unwrap();
    assert!(
        user.starts_with("anonymous-") && !user.contains("alice"),
        "{user}"
    );
    let expected = json!([{"user": user, "connections": 2, "info": {"name": "Alice"}}]);
    assert_eq!((&members["channel"], &members["count"]), (&json!("a"), &json!(1)));
    assert_eq!(members["members"], expected, "who only watches is nobody");
    assert!(members["cursor"].is_string());
}

#[test]
fn channels_are_listed_by_pattern_and_page_by_page() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    for name in ["x/1", "x/2", "x/2/deep", "y", ODD] {
        backend.post(
            &format!("/v1/publish?channel={}&retain=1&kind=text", encode(name)),
            "1234",
        );
    }
    server.publish("y", "5678");
    backend.delete("/v1/retained?channel=y");
    let mut stream = server.public().stream("/v1/stream?channel=x/1");
    stream.object().unwrap();
    let mut names = |query: &str| -> Vec<String> {
        let list = backend.get(&format!("/v1/channels?{query}")).json();
        let list = list["channels"].as_array().unwrap().clone();
        let mut names: Vec<_> = list
            .iter()
            .map(|c| c["channel"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), [ODD, "x/1", "x/2", "x/2/deep", "y"]);
    assert_eq!(names("pattern=x/*"), ["x/1", "x/2"]);
    assert_eq!(names("pattern=x/**"), ["x/1", "x/2", "x/2/deep"]);
    assert_eq!(names("retained=1"), [ODD, "x/1", "x/2", "x/2/deep"]);
    assert_eq!(names(&format!("pattern={}", encode(ODD))), [ODD]);
    let y = backend.get("/v1/channels?pattern=y").json()["channels"][0].clone();
    assert_eq!(
        (&y["offset"], &y["publications"], &y["retained"]),
        (&json!(2), &json!(2), &json!(false))
    );
    assert!(y["bytes"].as_u64().unwrap() >= 8, "{y}");
    assert_eq!((&y["listened"], &y["members"]), (&json!(false), &json!(0)));
    let x = backend.get("/v1/channels?pattern=x/1&values=1").json()["channels"][0].clone();
    assert_eq!(
        (&x["listened"], &x["value"]["data"]),
        (&json!(true), &json!("1234"))
    );
    assert_eq!(y.get("value"), None);
    // Page by page, each channel once.
    let (mut seen, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let page = backend.get(&format!("/v1/channels?limit=2&after={after}")).json();
        let list = page["channels"].as_array().unwrap();
        assert!(list.len() <= 2);
        seen.extend(list.iter().map(|c| c["channel"].as_str().unwrap().to_owned()));
        match &page["next"] {
            Value::Null => break,
            next => after = next.to_string(),
        }
    }
    seen.sort();
    assert_eq!(seen, [ODD, "x/1", "x/2", "x/2/deep", "y"]);
    assert_eq!(
        backend.get("/v1/channels?after=x").problem_naming(400, "after"),
        "bad_request"
    );
    assert_eq!(
        backend.get("/v1/channels?pattern=a%5C").problem(400),
        "bad_request"
    );
}

#[test]
fn now_is_where_a_page_begins() {
    let server = TestServer::start(OPEN);
    server.publish("a", "before");
    let cursor = server.public().get("/v1/now").json()["cursor"]
        .as_str()
        .unwrap()
        .to_owned();
    server.publish("a", "after");
    let answer = server
        .public()
        .get(&format!("/v1/poll?channel=a&cursor={cursor}"))
        .json();
    let data: Vec<_> = answer["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["data"])
        .collect();
    assert_eq!(data, ["after"]);
}

#[test]
fn the_channel_of_the_protocol_goes_through_every_call() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    let name = encode(ODD);
    let mut socket = server.public().websocket("/v1/ws");
    assert_eq!(
        socket.ask(&json!({"type": "subscribe", "id": 1, "channel": ODD}))["channel"],
        ODD
    );
    let mut sse = server.public().stream(&format!("/v1/sse?channel={name}"));
    sse.block().unwrap();
    assert_eq!(
        backend
            .post(&format!("/v1/publish?channel={name}&retain=1&kind=text"), "1")
            .status,
        200
    );
    assert_eq!(socket.next_of("publication")["channel"], ODD);
    assert_eq!(sse.event().unwrap().0["channel"], ODD);
    for call in ["history", "retained", "presence", "poll"] {
        let answer = backend
            .get(&format!("/v1/{call}?channel={name}&cursor=earliest"))
            .text()
            .to_owned();
        let channel = serde_json::to_string(ODD).unwrap();
        assert!(answer.contains(&channel), "{call}: {answer}");
    }
    assert_eq!(
        backend.delete(&format!("/v1/retained?channel={name}")).json(),
        json!({"deleted": true})
    );
    assert_eq!(
        backend.delete(&format!("/v1/history?channel={name}")).json(),
        json!({"deleted": 1})
    );
    // %20 is a space as well.
    let answer = backend.get("/v1/presence?channel=a/b?c%20d%26e%25%C3%A9").json();
    assert_eq!(answer["channel"], ODD);
}

#[test]
fn a_name_that_is_not_utf_8_is_shown_exactly_beside_what_can_be_read() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    let receipt = backend.post("/v1/publish?channel=a%FF&retain=1", "1").json();
    assert_eq!(receipt["channels"][0]["channel"], "a\u{fffd}");
    assert_eq!(receipt["channels"][0]["channel_base64"], "Yf8=");
    for call in ["history", "retained", "presence"] {
        let answer = backend.get(&format!("/v1/{call}?channel=a%FF")).json();
        assert_eq!(
            (&answer["channel"], &answer["channel_base64"]),
            (&json!("a\u{fffd}"), &json!("Yf8="))
        );
    }
    let poll = backend.get("/v1/poll?channel=a%FF&cursor=earliest").json();
    assert_eq!(poll["publications"][0]["channel_base64"], "Yf8=");
    let list = backend.get("/v1/channels").json();
    assert_eq!(list["channels"][0]["channel_base64"], "Yf8=");
    // What can be read is another channel.
    assert_eq!(kept(&server, "a\u{fffd}").len(), 0);
}

#[test]
fn health_and_stats_are_json() {
    let server = TestServer::start(OPEN);
    for mut client in [server.public(), server.public_socket(), server.backend()] {
        for path in ["/health/live", "/health/ready"] {
            let answer = client.get(path);
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("application/json"))
            );
            assert!(answer.json()["status"].is_string());
        }
    }
    server.publish("a", "1");
    let stats = server.backend().get("/v1/stats").json();
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["publications_total"]["http"], 1);
    assert_eq!(stats["channels"], 1);
    assert!(stats["log_bytes"].as_u64().unwrap() > 0);
    assert!(stats["connections"].is_object());
}

#[test]
fn metrics_are_the_text_format_of_prometheus_to_the_letter() {
    let server = TestServer::start_with(
        OPEN,
        &[("limits.log_memory", "1MiB"), ("limits.window_bytes", "1MiB")],
    );
    server.publish(ODD, "1");
    let answer = server.backend().get("/metrics");
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let text = answer.text();
    assert!(text.ends_with('\n'));
    assert!(!text.contains(ODD), "no label carries a channel");
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (mut family, mut families, mut samples) = (String::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(is_name(&family) && !families.contains(&family), "{line}");
            families.push(family.clone());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family, "TYPE follows HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix("\"}").expect("labels end")),
                None => (series, ""),
            };
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            assert!(name == family || base == Some(&*family), "{line} in {family}");
            if !labels.is_empty() {
                let (label, value) = labels.split_once("=\"").unwrap();
                assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
            }
            assert!(!samples.contains(&series), "{line} twice");
            samples.push(series);
        }
    }
    for wanted in [
        "cometserver_connections",
        "cometserver_trimmed_total",
        "cometserver_publish_to_write_seconds",
    ] {
        assert!(families.iter().any(|family| family == wanted), "{wanted}");
    }
    for family in &families {
        assert!(
            samples.iter().any(|series| series.starts_with(family.as_str())),
            "{family} has no sample"
        );
    }
}

#[test]
fn head_is_answered_as_get_without_the_body() {
    let server = TestServer::start(OPEN);
    server.backend().post("/v1/publish?channel=a&retain=1", "1");
    let mut backend = server.backend();
    for target in [
        "/v1/history?channel=a",
        "/v1/retained?channel=a",
        "/v1/now",
        "/openapi.json",
        "/v1/none",
        "/v1/history",
    ] {
        let get = backend.get(target);
        let head = backend.call("HEAD", target, b"");
        assert_eq!(
            (head.status, &head.headers),
            (get.status, &get.headers),
            "{target}"
        );
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()));
    }
    for target in ["/v1/poll?channel=a", "/v1/stream?channel=a"] {
        assert_eq!(backend.call("HEAD", target, b"").status, 200, "{target}");
    }
    assert_eq!(
        backend.get("/health/live").status,
        200,
        "the connection is still in step"
    );
}

#[test]
fn a_path_or_method_that_is_none_is_told_with_what_there_is() {
    let server = TestServer::start(OPEN);
    let mut backend = server.backend();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/publish/",
        "/v1//publish",
        "/V1/publish",
        "/demo/page.js",
    ] {
        assert_eq!(
            backend.get(path).problem_naming(404, "/openapi.json"),
            "not_found",
            "{path}"
        );
    }
    let table = [
        ("GET", "/v1/publish", "POST"),
        ("PUT", "/v1/batch", "POST"),
        ("POST", "/v1/history", "GET, HEAD, DELETE"),
        ("DELETE", "/v1/sse", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("HEAD", "/v1/admin/stop", "POST"),
        ("BREW", "/v1/now", "GET, HEAD"),
        ("OPTIONS", "/v1/now", "GET, HEAD"),
    ];
    for (method, path, allow) in table {
        let answer = backend.call(method, path, b"");
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
        if method != "HEAD" {
            assert_eq!(answer.problem(405), "method_not_allowed");
        }
    }
}

#[test]
fn a_base_path_of_a_front_web_server_is_taken_off() {
    let server = TestServer::start_with(OPEN, &[("public.base_path", "/push")]);
    for path in ["/push/v1/now", "/v1/now"] {
        assert_eq!(server.public().get(path).status, 200, "{path}");
    }
    for path in ["/pushv1/now", "/push", "/push/push/v1/now"] {
        assert_eq!(server.public().get(path).problem(404), "not_found", "{path}");
    }
}

#[test]
fn a_poll_is_asked_about_by_its_etag() {
    let server = TestServer::start(OPEN);
    server.publish("a", "1");
    let target = "/v1/poll?channel=a&wait_ms=0";
    let first = server.public().get(&format!("{target}&cursor=earliest"));
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{}\"", first.json()["cursor"].as_str().unwrap()));
    let mut client = server.public().with(&format!("If-None-Match: {tag}"));
    let nothing = client.get(target);
    assert_eq!((nothing.status, nothing.header("etag")), (304, Some(&*tag)));
    server.publish("a", "2");
    let second = client.get(target);
    assert_eq!(second.json()["publications"][0]["data"], "2");
    let answer = server.public().get("/v1/poll?channel=a&cursor=earliest&limit=1");
    assert_eq!(answer.json()["publications"].as_array().unwrap().len(), 1);
}

#[test]
fn a_number_that_is_none_is_refused_before_anything_is_held() {
    let server = TestServer::start(OPEN);
    let mut client = server.public();
    for (target, word) in [
        ("/v1/poll?channel=a&wait_ms=long", "wait_ms"),
        ("/v1/poll?channel=a&limit=x", "limit"),
        ("/v1/sse?channel=a&limit=x", "limit"),
        ("/v1/stream?channel=a&presence=x", "presence"),
        ("/v1/stream?channel=a&session=", "session"),
        ("/v1/stream?channel=a&info={", "info"),
        ("/v1/stream", "channel"),
    ] {
        let answer = client.get(target);
        assert_eq!(answer.problem_naming(400, word), "bad_request", "{target}");
    }
    let refused = server
        .public()
        .try_websocket("/v1/ws?channel=a&limit=x")
        .err()
        .unwrap();
    assert_eq!(refused.problem(400), "bad_request");
    assert_eq!(server.shared.held(), 0);
    assert_eq!(server.stat("/holds"), 0);
    assert_eq!(server.stat("/subscriptions/exact"), 0);
}

#[test]
fn a_channel_named_twice_is_listened_to_once() {
    let server = TestServer::start(OPEN);
    let mut stream = server
        .public()
        .stream("/v1/stream?channel=a&channel=a&pattern=*&pattern=*");
    stream.object().unwrap();
    let mut socket = server.public().websocket("/v1/ws");
    socket.ask(&json!({"type": "subscribe", "id": 1, "channels": ["a", "a"], "patterns": ["*", "*"]}));
    for data in ["1", "2"] {
        server.publish("a", data);
        assert_eq!(stream.object().unwrap()["data"], data);
        assert_eq!(socket.next_of("publication")["data"], data);
    }
    let receipt = server
        .backend()
        .post_json("/v1/publish", &json!({"channels": ["a", "a"], "data": 3}));
    assert_eq!(receipt.json()["channels"].as_array().unwrap().len(), 1);
    assert_eq!(stream.object().unwrap()["data"], 3);
    server.publish("a", "4");
    assert_eq!(stream.object().unwrap()["data"], "4");
}

#[test]
fn a_websocket_speaks_every_command_of_the_protocol() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws?session=me");
    assert_eq!(socket.object()["type"], "cursor", "the first object");
    let publish = json!({
        "type": "publish", "id": 1, "channel": "a", "data": {"n": 1}, "event": "e", "message_id": "mine", "retain": true,
        "tags": {"a": "b"},
    });
    let published = socket.ask(&publish);
    assert_eq!(
        (&published["type"], &published["channels"][0]["offset"]),
        (&json!("published"), &json!(1))
    );
    let before = published["cursor"].clone();
    socket
        .send(&json!({"type": "subscribe", "id": "s", "channel": "a", "presence": "join", "info": {"x": 1}}));
    let retained = socket.next_of("publication");
    assert_eq!(
        (&retained["id"], &retained["event"]),
        (&json!("mine"), &json!("e"))
    );
    assert_eq!(retained.get("cursor"), None, "it only catches up");
    let subscribed = socket.next_of("subscribed");
    assert_eq!(
        (&subscribed["id"], &subscribed["channel"], &subscribed["offset"]),
        (&json!("s"), &json!("a"), &json!(1))
    );
    assert_eq!(
        (&subscribed["epoch"], &subscribed["members"]),
        (&published["channels"][0]["epoch"], &json!(1))
    );
    let presence = socket.ask(&json!({"type": "presence", "id": 3, "channel": "a"}));
    assert_eq!(
        (&presence["type"], &presence["count"]),
        (&json!("presence"), &json!(1))
    );
    assert_eq!(presence["members"][0]["info"], json!({"x": 1}));
    // Not to itself, if it does not want that; but to others.
    let mut other = server.public().websocket("/v1/ws?channel=a&retained=0");
    other.object();
    socket.send(&json!({"type": "publish", "channel": "a", "data": 2, "echo": false}));
    socket.send(&json!({"type": "publish", "channel": "a", "data": 3}));
    assert_eq!(socket.next_of("publication")["data"], 3);
    assert_eq!(other.next_of("publication")["data"], 2);
    let history =
        socket.ask(&json!({"type": "history", "id": 4, "channel": "a", "since": before, "limit": 1}));
    assert_eq!(
        (&history["type"], &history["offset"]),
        (&json!("history"), &json!(3))
    );
    assert_eq!(history["publications"][0]["data"], 2);
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 5})),
        json!({"type": "pong", "id": 5})
    );
    let answer = socket.ask(&json!({"type": "unsubscribe", "id": 6, "channel": "a"}));
    assert_eq!(answer, json!({"type": "unsubscribed", "id": 6}));
    server.publish("a", "unseen");
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 7}))["type"],
        "pong",
        "nothing before it"
    );
    for (command, word) in [
        (json!({"type": "dance", "id": 8}), "`type`"),
        (json!({"type": "subscribe", "id": 8}), "`channel`"),
        (json!({"type": "history", "id": 8}), "`channel`"),
        (json!({"type": "publish", "id": 8, "channel": "a"}), "`data`"),
        (json!({"type": "authorize", "id": 8}), "`token`"),
    ] {
        let error = socket.ask(&command);
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("bad_request")),
            "{command}"
        );
        assert!(error["message"].as_str().unwrap().contains(word), "{error}");
    }
    let error = socket.ask(&json!({"type": "subscribe", "id": 9, "channel": "a", "since": "x"}));
    assert_eq!(error["code"], "bad_cursor");
    socket.send_frame(1, b"no JSON");
    assert_eq!(socket.next_of("error")["code"], "bad_request");
    assert_eq!(
        socket.ask(&json!({"type": "ping", "id": 10}))["type"],
        "pong",
        "the connection stays"
    );
}

#[test]
fn a_subscription_is_answered_once_under_its_own_id() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws");
    socket.object();
    socket.send(&json!({"type": "subscribe", "id": 1, "channel": "a"}));
    socket.send(&json!({"type": "unsubscribe", "id": 2, "channel": "a"}));
    socket.send(&json!({"type": "subscribe", "id": 3, "channel": "a"}));
    socket.send(&json!({"type": "subscribe", "id": 4, "channel": "b"}));
    let mut answers = Vec::new();
    while answers.last() != Some(&json!(4)) {
        answers.push(socket.object()["id"].clone());
    }
    let of_a = answers.iter().rposition(|id| *id == json!(3));
    assert!(
        of_a > answers.iter().position(|id| *id == json!(2)),
        "{answers:?}"
    );
}

#[test]
fn binary_frames_carry_payloads_as_they_are() {
    let server = TestServer::start(OPEN);
    let mut socket = server.public().websocket("/v1/ws?channel=a&format=binary");
    let mut object = || match socket.frame() {
        api_support::Frame::Binary(bytes) => {
            let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
            let head: Value = serde_json::from_slice(&bytes[4..4 + length]).unwrap();
            (head, bytes[4 + length..].to_vec())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(object().0["type"], "cursor");
    server.backend().post("/v1/publish?channel=a", b"\xff\0");
    let (head, payload) = object();
    assert_eq!(
        (&head["type"], &head["kind"], head.get("data")),
        (&json!("publication"), &json!("binary"), None)
    );
    assert!(head["cursor"].is_string());
    assert_eq!(payload, b"\xff\0");
    let mut publisher = server.public().websocket("/v1/ws?format=binary");
    let command = json!({"type": "publish", "channel": "a"}).to_string();
    let frame = [
        &u32::try_from(command.len()).unwrap().to_be_bytes()[..],
        command.as_bytes(),
        b"\0raw",
    ]
    .concat();
    publisher.send_frame(2, &frame);
    let (head, payload) = object();
    assert_eq!((&head["kind"], &payload[..]), (&json!("binary"), &b"\0raw"[..]));
    let command = json!({"type": "publish", "channel": "a", "data": "text", "kind": "text"});
    publisher.send(&command);
    assert_eq!(object().1, b"text", "text frames stay allowed");
}

/// One request over the old wire, and its answer.
fn old_wire(server: &TestServer, request: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(&server.addresses.backend).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn what_old_readers_need_is_not_shown_to_subscribers_and_cannot_be_claimed_by_tags() {
    let server = TestServer::start(OPEN);
    assert_eq!(old_wire(&server, b"write k a%2Bb \0"), b"ok \0");
    let mut backend = server.backend();
    let owned = backend.get("/v1/retained?channel=k").json();
    assert_eq!(
        owned["seed_token"], "YSUyQmI=",
        "a command line decodes it itself"
    );
    assert_eq!(owned.get("tags"), None);
    let listed = backend.get("/v1/channels?retained=1&values=1").json();
    assert_eq!(listed["channels"][0]["value"]["seed_token"], "YSUyQmI=");
    let shown = server.public().get("/v1/retained?channel=k").json();
    assert_eq!((shown.get("seed_token"), shown.get("tags")), (None, None));
    assert_eq!(kept(&server, "k")[0].get("seed_token"), None);

    let claimed = json!({
        "channel": "k", "kind": "text", "data": "a b", "retain": true,
        "tags": {"seed_token": "old", "seed_depth": "cli"},
    });
    assert_eq!(server.public().post_json("/v1/publish", &claimed).status, 200);
    assert_eq!(
        old_wire(&server, b"read k \0"),
        b"a%2Bb \0",
        "at the depth of a page"
    );
}
