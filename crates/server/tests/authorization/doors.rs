//! Backend, monitoring and demo: what a door itself allows.

use crate::api_support::{Client, GUARDED, OPEN, TestServer};
use crate::{CALLS, call, comet};

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
fn a_demo_listens_to_this_machine_only() {
    for flag in ["--listen", "--ops-listen"] {
        let output = comet().args(["demo", flag, "0.0.0.0:0"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("this machine only"), "{said}");
    }
}
