//! Publications: what they say, one or many, and once under a key.

use serde_json::{Value, json};

use crate::api_support::{ODD, OPEN, TestServer, now_seconds};
use crate::kept;

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
        time.abs_diff(now_seconds() * 1000) < 60_000,
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
