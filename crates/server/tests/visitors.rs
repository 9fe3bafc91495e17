//! Who a visitor is to the limits: known by the address that can be believed on the listener, request by request.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use cometserver::config::{Config, Proxied};
use cometserver::server::{Options, Server};
use support::{Door, Http, TestServer};

const POLL: &str = "/v1/poll?channel=news";

/// So many connections of one address.
fn at_most(max: usize, change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.limits.connections_per_address = Some(max);
        change(config);
    })
}

fn all_proxied(config: &mut Config) {
    config.public.proxied = Proxied::All;
}

fn counted(server: &TestServer) -> usize {
    server.shared.addresses.lock().unwrap().values().sum()
}

/// A poll with these headers: held, or answered at once.
fn poll(server: &TestServer, door: Door, headers: &[(&str, &str)]) -> Http {
    let mut http = server.place(door).connect();
    http.ask("GET", POLL, headers, b"");
    http
}

/// The same, as a front web server passes it on.
fn poll_for(server: &TestServer, door: Door, forwarded: &str) -> Http {
    poll(server, door, &[("X-Forwarded-For", forwarded)])
}

fn is_turned_away(mut http: Http) -> bool {
    http.answer().json()["retry_ms"].is_u64()
}

#[test]
fn behind_a_front_web_server_the_last_forwarded_address_is_the_visitors() {
    let server = at_most(2, |_| {});
    let open = |forwarded: &str| poll_for(&server, Door::Unix, forwarded);
    let mut held = vec![open("10.0.0.1, 192.0.2.7"), open("192.0.2.7")];
    server.until("both are counted", || counted(&server) == 2);
    assert!(is_turned_away(open("192.0.2.9, 192.0.2.7")), "one too many");
    let lines = [
        ("X-Forwarded-For", "192.0.2.9"),
        ("x-forwarded-for", "192.0.2.7:1"),
    ];
    assert!(
        is_turned_away(poll(&server, Door::Unix, &lines)),
        "the last line counts"
    );
    let mut other = server.place(Door::Unix).connect();
    let refused = other.request("GET", "/v1/now", &[("X-Forwarded-For", "192.0.2.7")], b"");
    assert_eq!(refused.status, 503);
    held.push(open("192.0.2.7, 192.0.2.8"));
    server.until("another visitor has room", || counted(&server) == 3);
    held.clear();
    server.until("nobody is counted any more", || counted(&server) == 0);
}

#[test]
fn it_belongs_to_the_listener_whether_a_forwarded_address_is_believed() {
    let server = at_most(2, |_| {});
    let _held = [
        poll_for(&server, Door::Tcp, "192.0.2.7"),
        poll_for(&server, Door::Tcp, "192.0.2.8"),
    ];
    server.until("both are counted", || counted(&server) == 2);
    assert!(
        is_turned_away(poll_for(&server, Door::Tcp, "192.0.2.9")),
        "whatever it claims, it came from the same address"
    );
    let _other = poll_for(&server, Door::Unix, "127.0.0.9");
    server.until("that one is another", || counted(&server) == 3);
    // The same port, once it is said that a front web server stands before it.
    let server = at_most(1, all_proxied);
    let _held = ["192.0.2.7", "192.0.2.8"].map(|visitor| poll_for(&server, Door::Tcp, visitor));
    server.until("they are told apart", || counted(&server) == 2);
    assert!(is_turned_away(poll_for(&server, Door::Tcp, "192.0.2.7")));
    // And a socket before which nothing stands.
    let server = at_most(1, |config| config.public.proxied = Proxied::Listed(Vec::new()));
    let _held = [(); 3].map(|()| poll_for(&server, Door::Unix, "192.0.2.7"));
    server.until("all are held", || server.shared.held() == 3);
    assert_eq!(counted(&server), 0);
}

#[test]
fn addresses_of_one_visitor_are_counted_as_one() {
    let server = at_most(1, |_| {});
    let mut held = Vec::new();
    for (first, same, other) in [
        ("2001:db8:0:1::1", "[2001:db8:0:1:ffff::2]:443", "2001:db8:0:2::1"),
        ("::ffff:192.0.2.7", "192.0.2.7", "::ffff:192.0.2.8"),
    ] {
        for visitor in [first, other] {
            let before = counted(&server);
            held.push(poll_for(&server, Door::Unix, visitor));
            server.until(visitor, || counted(&server) == before + 1);
        }
        assert!(is_turned_away(poll_for(&server, Door::Unix, same)), "{same}");
    }
}

#[test]
fn who_has_no_usable_address_is_not_taken_for_one_visitor() {
    let server = at_most(1, |_| {});
    let claims = [
        "",
        "unknown",
        "unix:",
        "192.0.2.7, unknown",
        "192.0.2.7,",
        "999.1.1.1",
        "localhost",
    ];
    let mut held: Vec<Http> = claims
        .iter()
        .map(|claim| poll_for(&server, Door::Unix, claim))
        .collect();
    held.push(poll(&server, Door::Unix, &[]));
    let lines = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-For", "-")];
    held.push(poll(&server, Door::Unix, &lines));
    server.until("all are held", || server.shared.held() == held.len());
    assert_eq!(counted(&server), 0);
}

#[test]
fn a_connection_of_a_front_web_server_is_whose_request_it_carries() {
    let server = at_most(1, |_| {});
    let now = |http: &mut Http, visitor: &str| {
        let headers = [("X-Forwarded-For", visitor)];
        http.request("GET", "/v1/now", &headers, b"").status
    };
    let (mut one, mut two) = (
        server.place(Door::Unix).connect(),
        server.place(Door::Unix).connect(),
    );
    for visitor in ["192.0.2.7", "192.0.2.8", "[2001:db8::1]", "unknown", "192.0.2.7"] {
        // Both stay open: between requests they are nobody's.
        assert_eq!(
            (now(&mut one, visitor), now(&mut two, visitor)),
            (200, 200),
            "{visitor}"
        );
        assert_eq!(counted(&server), 0);
    }
    two.ask("GET", POLL, &[("X-Forwarded-For", "192.0.2.7")], b"");
    server.until("it is held", || counted(&server) == 1);
    assert_eq!(now(&mut one, "192.0.2.7"), 503);
    let mut one = server.place(Door::Unix).connect();
    assert_eq!(now(&mut one, "192.0.2.8"), 200);
    server.publish("news", 1);
    assert_eq!(two.answer().status, 200);
    assert_eq!(now(&mut one, "192.0.2.7"), 200);
    assert_eq!(counted(&server), 0);
}

#[test]
fn who_takes_no_answer_through_a_front_web_server_keeps_their_place() {
    let server = at_most(1, |config| config.limits.pending_bytes = 4 << 10);
    let mut publisher = server.place(Door::Backend).connect();
    for _ in 0..8 {
        let body = vec![b'x'; 512 << 10];
        let answer = publisher.request("POST", "/v1/publish?channel=large&kind=text", &[], &body);
        assert_eq!(answer.status, 200);
    }
    let mut slow = server.place(Door::Unix).connect();
    let headers = [("X-Forwarded-For", "192.0.2.7")];
    slow.ask("GET", "/v1/history?channel=large&since=earliest", &headers, b"");
    server.until("it is blocked", || {
        server.metric("cometserver_pending_bytes", "") > 0.0
    });
    server.until("it counts", || counted(&server) == 1);
    assert!(is_turned_away(poll_for(&server, Door::Unix, "192.0.2.7")));
    assert_eq!(slow.answer().status, 200);
    server.until("it has taken all", || counted(&server) == 0);
    let _next = poll_for(&server, Door::Unix, "192.0.2.7");
    server.until("it is held", || counted(&server) == 1);
}

#[test]
fn a_gateway_that_proves_itself_names_its_visitor_on_every_listener() {
    let server = at_most(1, |_| {});
    let key = server.gateway_key();
    let named =
        |key: &'static str, visitor: &'static str| [("Comet-Gateway", key), ("X-Forwarded-For", visitor)];
    let key: &'static str = key.leak();
    // A gateway keeps no connection, but one that did would be the next request's.
    let mut http = server.place(Door::Tcp).connect();
    server.until("it counts for whoever connected", || counted(&server) == 1);
    http.ask("GET", POLL, &named(key, "192.0.2.1, 192.0.2.7"), b"");
    server.until("it is held", || server.shared.held() == 1);
    assert!(is_turned_away(poll(
        &server,
        Door::Unix,
        &named(key, "192.0.2.7")
    )));
    let mut other = poll(&server, Door::Tcp, &named(key, "192.0.2.8"));
    server.until("another visitor is", || server.shared.held() == 2);
    assert!(
        is_turned_away(poll(&server, Door::Unix, &named("no-key", "192.0.2.8"))),
        "the socket is believed anyway"
    );
    let mut claims = poll(&server, Door::Tcp, &named("no-key", "192.0.2.9"));
    server.until("a visitor of its own is", || server.shared.held() == 3);
    assert!(
        is_turned_away(poll(&server, Door::Tcp, &named("no-key", "192.0.2.10"))),
        "it came from the same address"
    );
    server.publish("news", 1);
    for http in [&mut http, &mut other, &mut claims] {
        assert_eq!(http.answer().status, 200);
    }
    let again = http.request("GET", "/v1/now", &[], b"");
    assert_eq!(again.status, 503, "without the key it is whose connection it is");
    drop((http, other, claims));
    server.until("nobody is counted any more", || counted(&server) == 0);
}

#[test]
fn where_nobody_is_believed_no_gateway_is() {
    let server = at_most(1, |config| config.public.proxied = Proxied::Listed(Vec::new()));
    let key = server.gateway_key();
    let named = |visitor: &'static str| [("Comet-Gateway", key.as_str()), ("X-Forwarded-For", visitor)];
    let _one = poll(&server, Door::Tcp, &named("192.0.2.7"));
    server.until("it is held", || server.shared.held() == 1);
    assert!(is_turned_away(poll(&server, Door::Tcp, &named("192.0.2.8"))));
    let _unknown = [(); 2].map(|()| poll(&server, Door::Unix, &named("192.0.2.7")));
    server.until("those have no address", || server.shared.held() == 3);
}

#[test]
fn a_front_web_server_before_a_listener_that_does_not_exist_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = support::config(folder.path());
    let listed = "127.0.0.1:1".parse().unwrap();
    config.public.proxied = Proxied::Listed(vec![None, Some(listed)]);
    let options = Options {
        embedded: true,
        ..Options::default()
    };
    let error = Server::start(config, options).err().unwrap().to_string();
    assert!(
        error.contains("public.proxied \"127.0.0.1:1\"") && error.contains("public.listen"),
        "{error}"
    );
}
