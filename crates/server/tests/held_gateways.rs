//! Visitors behind gateways: few places, shared fairly, and given back at once when a page goes away.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Answer, DOORS, Door, Http, TestServer, Transport};

const LONG: Duration = Duration::from_secs(60);

/// Two places in PHP, one in CGI, and nobody's time is up by itself.
fn few_places() -> TestServer {
    TestServer::with(|config| {
        let held = &mut config.held;
        held.poll_hold = LONG;
        (held.bridge_max, held.drop_in_max, held.cgi_max) = (Some(2), Some(2), Some(1));
        (held.bridge_hold, held.drop_in_hold, held.cgi_hold) = (LONG, LONG, LONG);
        held.drop_in_min_hold = Duration::ZERO;
        held.retry = Duration::from_secs(3);
    })
}

/// A request that is held: the server has counted it among those behind gateways.
fn waiting(server: &TestServer, door: Door, target: &str) -> Http {
    let before = server.shared.gateways.held();
    let mut http = server.place(door).connect();
    http.ask("GET", target, &[("Comet-Gateway", &server.gateway_key())], b"");
    server.until("it is held", || server.shared.gateways.held() == before + 1);
    http
}

fn get(server: &TestServer, target: &str) -> Answer {
    get_at(server, Door::Tcp, target)
}

fn get_at(server: &TestServer, door: Door, target: &str) -> Answer {
    let key = server.gateway_key();
    let mut http = server.place(door).connect();
    http.request("GET", target, &[("Comet-Gateway", &key)], b"")
}

fn release(server: &TestServer, query: &str) -> Answer {
    server.request(Door::Tcp, "POST", &format!("/v1/release?{query}"), "")
}

#[test]
fn who_finds_no_place_takes_along_what_there_is_and_is_told_when_to_come_back() {
    let server = few_places();
    let _one = waiting(&server, Door::Tcp, "/v1/poll?channel=news&route=bridge");
    let _two = waiting(&server, Door::Tcp, "/v1/poll?channel=news&route=drop-in");
    let cursor = server.now();
    let nothing = get(
        &server,
        &format!("/v1/poll?channel=a&route=bridge&cursor={cursor}"),
    )
    .json();
    assert_eq!(nothing["publications"], json!([]));
    assert!(nothing["retry_ms"].as_u64() >= Some(3000), "{nothing}");
    server.publish("a", 1);
    let answer = get(
        &server,
        &format!("/v1/poll?channel=a&route=drop-in&cursor={cursor}"),
    )
    .json();
    assert_eq!(
        answer["publications"][0]["data"], 1,
        "no place is needed for that"
    );
    assert!(answer["retry_ms"].as_u64() >= Some(3000), "{answer}");
    // What it took is not given again.
    let cursor = answer["cursor"].as_str().unwrap();
    let next = get(&server, &format!("/v1/poll?channel=a&wait_ms=0&cursor={cursor}")).json();
    assert_eq!(next["publications"], json!([]));
    assert!(next.get("retry_ms").is_none(), "it did not want to wait");
}

#[test]
fn a_poll_with_an_etag_that_finds_no_place_is_told_when_to_come_back_too() {
    let server = few_places();
    let tag = get(&server, "/v1/poll?channel=a&wait_ms=0")
        .header("etag")
        .unwrap()
        .to_owned();
    let _one = waiting(&server, Door::Tcp, "/v1/poll?channel=news&route=cgi");
    let mut http = server.place(Door::Tcp).connect();
    let answer = http.request(
        "GET",
        "/v1/poll?channel=a&route=cgi",
        &[("If-None-Match", &tag), ("Comet-Gateway", &server.gateway_key())],
        b"",
    );
    assert_eq!(answer.status, 200, "a 304 could not say it");
    assert!(answer.json()["retry_ms"].is_u64());
}

#[test]
fn the_budget_of_gateways_holds_on_every_door_and_others_have_their_own() {
    let server = few_places();
    let mut all: Vec<Http> = [Door::Backend, Door::Unix]
        .map(|door| waiting(&server, door, "/v1/poll?channel=news&route=bridge"))
        .into();
    for door in DOORS {
        let target = "/v1/poll?channel=news&route=bridge&wait_ms=60000";
        let answer = get_at(&server, door, target).json();
        assert!(answer["retry_ms"].is_u64(), "{door:?}: {answer}");
    }
    all.push(waiting(&server, Door::Tcp, "/v1/poll?channel=news&route=cgi"));
    let mut direct = server.listen(Door::Tcp, Transport::Stream, "channel=news");
    server.publish("news", 1);
    for poll in &mut all {
        assert_eq!(poll.answer().json()["publications"][0]["data"], 1);
    }
    assert_eq!(direct.data(1), [1]);
    server.until("all places are free", || server.shared.gateways.held() == 0);
}

#[test]
fn a_place_comes_back_however_a_request_ends() {
    let server = few_places();
    let mut stream = waiting(&server, Door::Tcp, "/v1/sse?channel=news&route=cgi");
    let turned_away = get(&server, "/v1/sse?channel=news&route=cgi");
    assert_eq!(turned_away.status, 200);
    assert!(turned_away.text().starts_with("retry: "));
    drop(std::mem::replace(&mut stream, server.place(Door::Tcp).connect()));
    server.until("its visitor has left", || server.shared.gateways.held() == 0);
    for refused in [
        "/v1/poll?route=cgi",
        "/v1/poll?channel=a&route=cgi&limit=x",
        "/v1/sse?channel=a&route=tea",
    ] {
        assert_eq!(get(&server, refused).status, 400, "{refused}");
        assert_eq!(server.shared.gateways.held(), 0, "{refused}");
    }
    waiting(&server, Door::Tcp, "/v1/poll?channel=news&route=cgi");
}

#[test]
fn who_only_says_to_be_a_gateway_takes_no_place_of_a_true_ones() {
    let server = few_places();
    let target = "/v1/poll?channel=news&route=bridge";
    let pretend = |key: Option<&str>| {
        let mut http = server.place(Door::Tcp).connect();
        let shown: Vec<_> = key.map(|key| ("Comet-Gateway", key)).into_iter().collect();
        http.ask("GET", target, &shown, b"");
        http
    };
    let key = server.gateway_key();
    let wrong = format!("{}0", &key[1..]);
    let mut pretenders: Vec<Http> = vec![pretend(None), pretend(Some(&wrong))];
    server.until("they have all of theirs", || server.shared.gateways.held() == 2);
    for shown in [None, Some(""), Some(&key[..63]), Some("no key of ours")] {
        let answer = pretend(shown).answer().json();
        assert!(answer["retry_ms"].is_u64(), "{shown:?}: the same bound: {answer}");
    }
    // The site's own code needs no key: it came through its own door.
    let mut http = server.place(Door::Backend).connect();
    http.ask("GET", "/v1/poll?channel=news&route=drop-in", &[], b"");
    server.until("it is held", || server.shared.gateways.held() == 3);
    pretenders.extend([waiting(&server, Door::Unix, target), http]);
    assert!(
        get(&server, target).json()["retry_ms"].is_u64(),
        "those have a bound, too"
    );
    let waiting_as = |proved| server.metric("cometserver_gateway_holds", proved);
    assert_eq!((waiting_as("yes"), waiting_as("no")), (2.0, 2.0));
    server.publish("news", 1);
    for poll in &mut pretenders {
        assert_eq!(poll.answer().json()["publications"][0]["data"], 1);
    }
    server.until("all places are free", || server.shared.gateways.held() == 0);
}

#[test]
fn a_gateways_key_survives_a_restart() {
    let server = few_places();
    let key = server.gateway_key();
    let server = server.restart(|config| config.held.bridge_max = Some(1));
    assert_eq!(server.gateway_key(), key);
    let _true_one = waiting(&server, Door::Tcp, "/v1/poll?channel=news&route=bridge");
    let mut pretender = server.place(Door::Tcp).connect();
    pretender.ask("GET", "/v1/poll?channel=news&route=bridge", &[], b"");
    server.until("both wait", || server.shared.gateways.held() == 2);
}

#[test]
fn what_a_gateway_adds_behind_what_its_client_wrote_counts() {
    let server = few_places();
    let _full = waiting(&server, Door::Tcp, "/v1/poll?channel=a&route=cgi");
    let answer = get(&server, "/v1/poll?channel=a&route=bridge&route=cgi").json();
    assert!(answer["retry_ms"].is_u64(), "{answer}");
}

#[test]
fn a_route_makes_waiting_shorter_and_never_longer() {
    let server = TestServer::with(|config| {
        config.held.poll_hold = Duration::from_millis(50);
        config.held.bridge_hold = LONG;
        config.held.cgi_lifetime = Duration::from_millis(50);
    });
    let answer = get(&server, "/v1/poll?channel=news&route=bridge").json();
    assert_eq!(answer["publications"], json!([]));
    let mut stream = server.listen(Door::Tcp, Transport::Stream, "channel=news&route=cgi");
    assert_eq!(stream.next()["type"], "reconnect");
}

#[test]
fn a_poll_with_a_least_hold_collects_what_comes_meanwhile() {
    let least = Duration::from_millis(300);
    let server = TestServer::with(|config| config.held.drop_in_min_hold = least);
    let cursor = server.now();
    server.publish("news", 1);
    let began = Instant::now();
    let mut poll = waiting(
        &server,
        Door::Tcp,
        &format!("/v1/poll?channel=news&route=drop-in&cursor={cursor}"),
    );
    server.publish("news", 2);
    let answer = poll.answer().json();
    let data: Vec<&Value> = answer["publications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|publication| &publication["data"])
        .collect();
    assert_eq!(data, [&json!(1), &json!(2)]);
    assert!(began.elapsed() >= least);
    // Without anything to tell it waits on.
    let cursor = answer["cursor"].as_str().unwrap();
    let mut quiet = waiting(
        &server,
        Door::Tcp,
        &format!("/v1/poll?channel=news&route=drop-in&cursor={cursor}"),
    );
    server.until("its least hold is over", || began.elapsed() > least * 3);
    server.publish("news", 3);
    assert_eq!(quiet.answer().json()["publications"][0]["data"], 3);
}

#[test]
fn a_page_that_goes_away_gives_its_place_back_at_once() {
    let server = few_places();
    for transport in ["poll", "sse", "stream"] {
        let query = "channel=b&channel=a&session=mine&route=cgi";
        let mut held = waiting(&server, Door::Tcp, &format!("/v1/{transport}?{query}"));
        for other in [
            "channel=a&session=mine",
            "channel=a&channel=b&session=yours",
            "channel=a&channel=b&pattern=x*&session=mine",
        ] {
            assert_eq!(release(&server, other).json()["released"], 0, "{other}");
        }
        assert_eq!(server.shared.gateways.held(), 1);
        // The order of the channels tells nothing.
        let named = if transport == "sse" {
            ""
        } else {
            "channel=a&channel=b&"
        };
        let answer = release(&server, &format!("{named}session=mine"));
        assert_eq!((answer.status, &answer.json()["released"]), (200, &json!(1)));
        server.until("the place is free", || server.shared.gateways.held() == 0);
        let answer = if transport == "poll" {
            held.answer()
        } else {
            held.head()
        };
        assert_eq!(answer.status, 200, "{transport}");
    }
    assert_eq!(release(&server, "channel=a").status, 400, "whose?");
}

#[test]
fn nobody_releases_what_another_user_holds() {
    let server = few_places();
    let token = |user: &str| {
        let exp = support::seconds_now() + 600;
        let comet = json!({"channels": ["news"], "actions": ["subscribe"]});
        support::token(json!({"sub": user, "exp": exp, "comet": comet}))
    };
    let (anna, berta) = (token("anna"), token("berta"));
    let _held = waiting(
        &server,
        Door::Tcp,
        &format!("/v1/poll?channel=news&session=s&route=cgi&token={anna}"),
    );
    for other in [String::new(), format!("&token={berta}")] {
        let answer = release(&server, &format!("channel=news&session=s{other}")).json();
        assert_eq!(answer["released"], 0, "{other}");
    }
    let mut http = server.place(Door::Tcp).connect();
    let target = format!("/v1/release?channel=news&session=s&token={anna}");
    let foreign = http.request("POST", &target, &[("Origin", "https://evil.example")], b"");
    assert_eq!(foreign.status, 403, "not for pages of other origins");
    assert_eq!(server.shared.gateways.held(), 1);
    let own = release(&server, &format!("channel=news&session=s&token={anna}"));
    assert_eq!(own.json()["released"], 1);
}

#[test]
fn a_sessions_new_stream_behind_a_gateway_ends_its_older_one() {
    let server = TestServer::start();
    let mut older = server.listen(Door::Tcp, Transport::Stream, "channel=news&session=s&route=cgi");
    for _ in 0..4 {
        let newer = server.listen(Door::Tcp, Transport::Stream, "channel=news&session=s&route=cgi");
        assert_eq!(older.next()["type"], "reconnect");
        older = newer;
    }
    // Elsewhere two windows with a copied name would end each other's in turn.
    let mut one = server.listen(Door::Tcp, Transport::Stream, "channel=news&session=s");
    let mut two = server.listen(Door::Tcp, Transport::Stream, "channel=news&session=s");
    server.publish("news", 1);
    for stream in [&mut older, &mut one, &mut two] {
        assert_eq!(stream.data(1), [1]);
    }
}

#[test]
fn thirty_visitors_that_obey_all_get_a_place_now_and_then() {
    let server = TestServer::with(|config| {
        config.held.bridge_max = Some(3);
        config.held.bridge_hold = Duration::from_millis(100);
        config.held.retry = Duration::from_millis(20);
    });
    let place = server.place(Door::Unix);
    let visit = |_| {
        let mut http = place.connect();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = http
                .request("GET", "/v1/poll?channel=news&route=bridge", &[], b"")
                .json();
            match answer.get("retry_ms").and_then(Value::as_u64) {
                None => return true,
                Some(_) if Instant::now() > deadline => return false,
                Some(after) => std::thread::sleep(Duration::from_millis(after)),
            }
        }
    };
    let held: Vec<bool> = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..30).map(|n| scope.spawn(move || visit(n))).collect();
        visitors
            .into_iter()
            .map(|visitor| visitor.join().unwrap())
            .collect()
    });
    assert!(held.iter().all(|held| *held), "{held:?}");
}
