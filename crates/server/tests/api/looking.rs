//! Who and what is there: presence, channels, health, metrics.

use serde_json::{Value, json};

use crate::api_support::{ODD, OPEN, TestServer, encode};
use crate::kept;

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
