//! Who is let in where: the doors that ask for no key, and pages in a browser that knock there.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use cometserver::config::Config;
use cometserver::listener::{DoorAddress, Role};
use support::{Answer, Door, Place, TestServer};

/// With doors on TCP for the site's own code and for monitoring.
fn server(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.backend.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.ops.listen = vec!["127.0.0.1:0".parse().unwrap()];
        change(config);
    })
}

/// The TCP door of a role.
fn place(server: &TestServer, role: Role) -> Place {
    let mut doors = server.shared.doors.iter().filter(|door| door.role == role);
    let found = doors.find_map(|door| match door.address {
        DoorAddress::Tcp(address) => Some(Place::Tcp(address)),
        DoorAddress::Unix(_) => None,
    });
    found.unwrap()
}

/// A request with these headers and no others.
fn ask(place: &Place, request: &str, headers: &[&str]) -> Answer {
    let mut http = place.connect();
    http.send(format!("{request} HTTP/1.1\r\n{}\r\n\r\n", headers.join("\r\n")).as_bytes());
    http.answer()
}

#[test]
fn a_name_that_points_at_us_opens_no_door_that_asks_for_no_key() {
    let server = server(|_| {});
    let (backend, ops) = (place(&server, Role::Backend), place(&server, Role::Ops));
    let (name, page) = ("Host: evil.example:8081", "Origin: http://evil.example:8081");
    let publish = "POST /v1/publish?channel=a";
    for (place, request, headers) in [
        (&backend, publish, &[name, page, "Content-Length: 0"][..]),
        (&backend, "DELETE /v1/history?channel=a", &[name, page]),
        (&backend, "GET /v1/history?channel=a", &[name]),
        (&backend, "GET /health/live", &[name]),
    ] {
        let answer = ask(place, request, headers);
        assert_eq!(answer.status, 403, "{request}");
        assert_eq!(answer.json()["code"], "origin_refused", "{request}");
    }
    for host in ["Host: 127.0.0.1:8081", "Host: localhost", "Host: [::1]:1"] {
        assert_eq!(ask(&backend, publish, &[host, "Content-Length: 0"]).status, 200);
        assert_eq!(ask(&ops, "GET /metrics", &[host]).status, 200);
    }
    assert_eq!(
        ask(&ops, "GET /metrics", &[name]).status,
        200,
        "monitoring is asked by name"
    );
    // Names are what public doors are for, and no browser reaches a socket in the file system.
    for door in [Door::Tcp, Door::Unix, Door::Backend] {
        let answer = ask(&server.place(door), "GET /v1/history?channel=a", &[name]);
        assert_eq!(answer.status, 200, "{door:?}");
    }
}

#[test]
fn the_origins_of_public_doors_mean_nothing_where_no_key_is_asked_for() {
    let server = server(|config| config.public.origins = vec!["*".into(), "https://a.example".into()]);
    let page = "Origin: https://a.example";
    let publish = "POST /v1/publish?channel=a";
    let headers = ["Host: 127.0.0.1", page, "Content-Length: 0"];
    let backend = place(&server, Role::Backend);
    let answer = ask(&backend, publish, &headers);
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (403, Some("origin_refused"))
    );
    for (place, request) in [
        (&backend, "GET /v1/history?channel=a"),
        (&place(&server, Role::Ops), "GET /metrics"),
        (&server.place(Door::Backend), "GET /v1/history?channel=a"),
    ] {
        let answer = ask(place, request, &headers[..2]);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{request}");
    }
    let public = ask(&server.place(Door::Tcp), publish, &headers);
    assert_eq!(public.status, 200);
    assert_eq!(
        public.header("access-control-allow-origin"),
        Some("https://a.example")
    );
}

#[test]
fn a_page_of_another_site_that_says_no_origin_is_not_answered_where_no_key_is_asked_for() {
    let server = server(|config| config.namespace_default.public = true);
    let backend = place(&server, Role::Backend);
    let host = "Host: 127.0.0.1:8081";
    for request in [
        "GET /v1/poll?channel=a&wait_ms=0",
        "GET /v1/now",
        "GET /health/ready",
    ] {
        let answer = ask(&backend, request, &[host, "Sec-Fetch-Site: cross-site"]);
        assert_eq!(answer.status, 403, "{request}");
        for fine in ["none", "same-origin"] {
            let header = format!("Sec-Fetch-Site: {fine}");
            assert_eq!(
                ask(&backend, request, &[host, &header]).status,
                200,
                "{request} {fine}"
            );
        }
    }
    // Where visitors come in, pages of other sites are what it is for; and monitoring tells figures only.
    let tcp = Place::Tcp(server.addresses.tcp[0]);
    for place in [&tcp, &place(&server, Role::Ops)] {
        let answer = ask(place, "GET /health/live", &[host, "Sec-Fetch-Site: cross-site"]);
        assert_eq!(answer.status, 200);
    }
}
