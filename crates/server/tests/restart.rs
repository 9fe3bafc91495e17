//! A restart that clients do not notice, in good order or by SIGKILL: the real server, over real sockets.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;
mod restart_support;
mod support;

use restart_support::{ENDS, End, Site, numbers, post};
use serde_json::{Value, json};
use support::{Listener, TRANSPORTS, Transport, encode};

#[test]
fn every_transport_goes_on_after_a_restart_once_and_in_order() {
    for end in ENDS {
        let mut site = Site::start();
        let queries = ["channel=news", "pattern=new*"];
        let cases = TRANSPORTS
            .into_iter()
            .flat_map(|transport| queries.map(|query| (transport, query)));
        let listeners: Vec<_> = cases
            .map(|(transport, query)| (transport, query, site.listen(transport, query)))
            .collect();
        site.publish_numbers("news", 0..30);
        let mut cut = Vec::new();
        for (index, (transport, query, mut listener)) in listeners.into_iter().enumerate() {
            // Each leaves at another place; what a poll has in hand is seen as well.
            let mut seen = listener.data(index * 3);
            let (cursor, in_hand) = listener.cut();
            seen.extend(in_hand.into_iter().map(|mut object| object["data"].take()));
            assert_eq!(seen, numbers(0..seen.len()), "{transport:?}");
            cut.push((transport, query, cursor, seen.len()));
        }
        site.restart(end);
        site.publish_numbers("news", 30..40);
        for (transport, query, cursor, seen) in cut {
            let mut listener = site.listen(transport, &format!("{query}&cursor={}", encode(&cursor)));
            assert_eq!(
                listener.data(40 - seen),
                numbers(seen..40),
                "{end:?} {transport:?} {query}"
            );
            let (cursor, in_hand) = listener.cut();
            assert_eq!(in_hand, Vec::<Value>::new());
            let poll = format!("/v1/poll?{query}&wait_ms=0&cursor={}", encode(&cursor));
            assert_eq!(
                site.get(&poll)["publications"],
                json!([]),
                "{end:?} {transport:?}"
            );
        }
    }
}

#[test]
fn a_stream_is_told_to_come_back_before_the_server_stops() {
    let mut site = Site::start();
    let mut listener = site.listen(Transport::Stream, "channel=news");
    site.publish_numbers("news", 0..3);
    site.restart(End::Stopped);
    let mut seen = Vec::new();
    let last = loop {
        let mut object = listener.next();
        match object["type"].as_str().unwrap() {
            "publication" => seen.push(object["data"].take()),
            _ => break object,
        }
    };
    assert_eq!(last["type"], "reconnect");
    site.publish_numbers("news", 3..5);
    let cursor = encode(last["cursor"].as_str().unwrap());
    let mut again = site.listen(Transport::Stream, &format!("channel=news&cursor={cursor}"));
    let missing = 5 - seen.len();
    seen.extend(again.data(missing));
    assert_eq!(seen, numbers(0..5));
}

#[test]
fn offsets_and_epochs_go_on() {
    for end in ENDS {
        let mut site = Site::start();
        let before = site.publish(&json!({"channel": "news", "data": 1}));
        site.restart(end);
        let after = site.publish(&json!({"channel": "news", "data": 2}));
        let (before, after) = (&before["channels"][0], &after["channels"][0]);
        assert_eq!(before["offset"], 1);
        assert_eq!(after["offset"], 2, "{end:?}");
        assert_eq!(before["epoch"], after["epoch"], "{end:?}");
        let history = site.get("/v1/history?channel=news");
        assert_eq!(history["gap"], false);
        assert_eq!(history["publications"].as_array().unwrap().len(), 2);
        assert_eq!(history["epoch"], before["epoch"]);
    }
}

#[test]
fn a_page_misses_nothing_between_its_rendering_and_its_subscription() {
    for end in ENDS {
        let mut site = Site::start();
        site.publish_numbers("news", 0..5);
        let page = site.now();
        site.publish_numbers("news", 5..8);
        site.restart(end);
        site.publish_numbers("news", 8..10);
        for transport in TRANSPORTS {
            let mut listener = site.listen(transport, &format!("channel=news&cursor={}", encode(&page)));
            assert_eq!(listener.data(5), numbers(5..10), "{end:?} {transport:?}");
        }
    }
}

#[test]
fn a_page_of_a_site_where_nothing_has_happened_yet_misses_nothing() {
    for end in ENDS {
        let mut site = Site::start();
        let page = site.now();
        site.restart(end);
        site.publish_numbers("news", 0..2);
        let mut listener = site.listen(Transport::Sse, &format!("channel=news&cursor={}", encode(&page)));
        assert_eq!(listener.data(2), numbers(0..2), "{end:?}");
    }
}

#[test]
fn retained_values_and_keys_survive() {
    for end in ENDS {
        let mut site = Site::start();
        site.publish(&json!({"channel": "price", "data": {"eur": 12}, "retain": true}));
        site.home.ok(["write", "motd", "Grüße, 100 %+"]);
        assert_eq!(site.home.seed("write old a%2520b \0"), b"ok \0");
        site.home.ok(["write", "gone", "1"]);
        site.home.ok(["delete", "gone"]);
        site.restart(end);
        let price = site.get("/v1/retained?channel=price");
        assert_eq!(price["data"], json!({"eur": 12}), "{end:?}");
        assert_eq!(site.home.ok(["read", "motd"]), "value: Grüße, 100 %+\n");
        // A client of the older protocol gets the very bytes that it wrote.
        assert_eq!(site.home.seed("read old \0"), b"a%2520b \0", "{end:?}");
        assert_eq!(site.home.ok(["read", "gone"]).trim_end(), "value:");
        let dump = site.home.ok(["dump"]);
        assert!(
            dump.contains("motd") && dump.contains("old") && !dump.contains("gone"),
            "{dump}"
        );
        let old_dump = String::from_utf8(site.home.seed("dump \0")).unwrap();
        assert!(
            old_dump.contains("[a%2520b]") && old_dump.contains("motd") && !old_dump.contains("gone"),
            "{old_dump}"
        );
        // Whoever begins to listen gets the value, on every transport.
        for transport in TRANSPORTS {
            let mut listener = Listener::open_unread(site.public(), transport, "channel=price&channel=motd");
            listener.read_first_cursor();
            let mut values: Vec<Value> = listener.data(2);
            values.sort_by_key(Value::to_string);
            assert_eq!(
                values,
                [json!("Grüße, 100 %+"), json!({"eur": 12})],
                "{end:?} {transport:?}"
            );
        }
        // And a value written now is the newer one.
        site.home.ok(["write", "motd", "new"]);
        assert_eq!(site.home.ok(["read", "motd"]), "value: new\n");
    }
}

#[test]
fn a_publication_repeated_after_the_restart_is_published_once() {
    for end in ENDS {
        let mut site = Site::start();
        let publication = json!({"channel": "orders", "data": 17, "idempotency_key": "order-17"});
        let first = site.publish(&publication);
        site.restart(end);
        let again = site.publish(&publication);
        assert_eq!(again["duplicate"], true, "{end:?} {again}");
        assert_eq!(again["channels"], first["channels"]);
        let other = json!({"channel": "orders", "data": 18, "idempotency_key": "order-17"});
        assert_eq!(post(&mut site.backend(), &other).0, 409);
        let history = site.get("/v1/history?channel=orders");
        assert_eq!(history["publications"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn what_was_answered_at_once_is_on_disk_when_the_server_has_stopped() {
    let mut site = Site::start();
    let mut http = site.backend();
    let answers: Vec<(u16, Value)> = (0..200)
        .map(|number| post(&mut http, &json!({"channel": "quick", "data": number})))
        .collect();
    let buffered = answers.iter().filter(|(status, _)| *status == 202).count();
    assert!(buffered > 0, "{:?}", answers[0]);
    for (status, answer) in answers.iter().filter(|(status, _)| *status == 202) {
        assert_eq!(
            *answer,
            json!({"channels": [{"channel": "quick"}], "buffered": true}),
            "{status}"
        );
    }
    site.restart(End::Stopped);
    let history = site.get("/v1/history?channel=quick&limit=1000");
    let kept = history["publications"].as_array().unwrap();
    let kept: Vec<Value> = kept.iter().map(|one| one["data"].clone()).collect();
    assert_eq!(kept, numbers(0..200));
}

#[test]
fn whoever_comes_back_for_what_is_answered_at_once_is_told_of_a_kill_and_nobody_else_is() {
    for end in ENDS {
        let mut site = Site::start();
        let mut reader = site.listen(Transport::Sse, "channel=quick");
        let empty = encode(&site.now());
        site.publish_numbers("quick", 0..3);
        site.publish_numbers("news", 0..3);
        // What has been shown is safe: only then it is known that nothing is lost but what was never shown.
        assert_eq!(reader.data(3), numbers(0..3));
        let page = encode(&site.now());
        site.restart(end);
        site.publish_numbers("quick", 3..4);
        site.publish_numbers("quick/first", 3..4);
        site.publish_numbers("news", 3..4);
        for transport in TRANSPORTS {
            for (query, channel) in [
                ("channel=quick", "quick"),
                ("channel=quick/first", "quick/first"),
                ("pattern=quick/*", "quick/first"),
            ] {
                let mut listener = site.listen(transport, &format!("{query}&cursor={page}"));
                if end == End::Killed {
                    let gap = listener.next();
                    assert_eq!(gap["type"], "gap", "{transport:?} {query}: {gap}");
                }
                let next = listener.next();
                assert_eq!(
                    (&next["channel"], &next["data"]),
                    (&json!(channel), &json!(3)),
                    "{transport:?} {query} {end:?}: {next}"
                );
            }
            let mut listener = site.listen(transport, &format!("channel=news&cursor={page}"));
            assert_eq!(listener.data(1), numbers(3..4), "{transport:?} {end:?}");
        }
        // Whoever has far to go is told once, where it was.
        let earliest = if end == End::Killed { 3 } else { 0 };
        for query in ["channel=quick&channel=news", "pattern=quick"] {
            let mut reader = site.listen(Transport::Sse, &format!("{query}&cursor={empty}"));
            let wanted = if query.starts_with("pattern") { 4 } else { 8 };
            let (mut seen, mut gaps) = (Vec::new(), Vec::new());
            while seen.len() < wanted {
                let next = reader.next();
                match &next["type"] {
                    kind if kind == "gap" => gaps.push(seen.len()),
                    _ => seen.push(next["data"].clone()),
                }
            }
            let at = if wanted == 4 { earliest } else { 2 * earliest };
            let expected = if end == End::Killed { vec![at] } else { Vec::new() };
            assert_eq!(gaps, expected, "{query} {end:?}: {seen:?}");
        }
        // From here on nothing is missing.
        let page = encode(&site.now());
        site.publish_numbers("quick/first", 4..5);
        for transport in TRANSPORTS {
            for query in ["channel=quick/first", "pattern=quick/*"] {
                let mut listener = site.listen(transport, &format!("{query}&cursor={page}"));
                assert_eq!(listener.data(1), numbers(4..5), "{transport:?} {query}");
            }
        }
    }
}

#[test]
fn what_is_kept_in_memory_is_gone_after_a_crash_and_said_to_be() {
    let mut site = Site::start();
    site.publish_numbers("passing", 0..3);
    site.publish_numbers("news", 0..3);
    let page = encode(&site.now());
    site.restart(End::Killed);
    site.publish_numbers("passing", 3..4);
    site.publish_numbers("news", 3..4);
    for transport in TRANSPORTS {
        let mut listener = site.listen(transport, &format!("channel=passing&cursor={page}"));
        let gap = listener.next();
        assert_eq!(gap["type"], "gap", "{gap}");
        assert_eq!(listener.data(1), numbers(3..4), "{transport:?}");
        // What is on disk knows nothing of that.
        let mut listener = site.listen(transport, &format!("channel=news&cursor={page}"));
        assert_eq!(listener.data(1), numbers(3..4), "{transport:?}");
    }
    assert_eq!(
        site.get("/v1/history?channel=passing")["publications"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn twenty_messages_of_one_second_reach_each_open_page_through_a_crash() {
    let mut site = Site::start();
    let publication = |number: usize| {
        // After a crash nobody knows what became of the last one: repeated under its key, it is there once.
        json!({"channel": "burst", "data": number, "idempotency_key": format!("burst-{number}")})
    };
    let mut pages: Vec<(Transport, Listener, Vec<Value>)> = TRANSPORTS
        .into_iter()
        .chain(TRANSPORTS)
        .map(|transport| (transport, site.listen(transport, "channel=burst"), Vec::new()))
        .collect();
    let mut http = site.backend();
    for number in 0..10 {
        assert_eq!(post(&mut http, &publication(number)).0, 200);
    }
    // Sent, and not answered when the server dies.
    let body = publication(10).to_string();
    http.ask("POST", "/v1/publish", &[], body.as_bytes());
    for (index, (_, listener, seen)) in pages.iter_mut().enumerate() {
        seen.extend(listener.data(index));
    }
    site.end(End::Killed);
    let cursors: Vec<(Transport, String, Vec<Value>)> = pages
        .into_iter()
        .map(|(transport, listener, mut seen)| {
            let (cursor, in_hand) = listener.cut();
            seen.extend(in_hand.into_iter().map(|mut object| object["data"].take()));
            (transport, cursor, seen)
        })
        .collect();
    site.begin();
    let mut http = site.backend();
    for number in 10..20 {
        let (status, answer) = post(&mut http, &publication(number));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["channels"][0]["offset"], number + 1);
    }
    for (transport, cursor, mut seen) in cursors {
        let query = format!("channel=burst&cursor={}", encode(&cursor));
        let mut listener = site.listen(transport, &query);
        let missing = 20 - seen.len();
        seen.extend(listener.data(missing));
        assert_eq!(seen, numbers(0..20), "{transport:?}");
        let (_, in_hand) = listener.cut();
        assert_eq!(in_hand, Vec::<Value>::new(), "{transport:?}");
    }
}
