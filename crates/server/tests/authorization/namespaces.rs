//! What a public namespace shows to everybody, and what it does not.

use cometserver_core::action::Action;
use serde_json::{Value, json};

use crate::api_support::{GUARDED, READER, TestServer, claims, encode, signed};
use crate::{call, with_token};

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
