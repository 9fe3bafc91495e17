//! Keys, and nothing at all.

use serde_json::json;

use crate::api_support::{ADMIN, GUARDED, MONITOR, PUBLISHER, READER, TestServer, encode};
use crate::{CALLS, LISTEN, call};

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
