//! History and retained values, and where a page begins.

use serde_json::{Value, json};

use crate::api_support::{ODD, OPEN, TestServer, encode};
use crate::kept;

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
