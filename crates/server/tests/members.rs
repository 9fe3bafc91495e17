//! Who sees the members of a channel, and under which names they are there.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::{Value, json};
use support::{TestServer, WebSocket, seconds_now, token};

#[test]
fn subscribed_tells_the_number_of_members_to_who_asked_for_presence() {
    let server = TestServer::start();
    let _member = server.websocket("channel=a&presence=join");
    let mut socket = server.websocket("");
    let plain = socket.ask(json!({"type": "subscribe", "id": 1, "channel": "a"}));
    assert_eq!(plain["type"], "subscribed");
    assert_eq!(plain.get("members"), None, "{plain}");
    let mut watcher = server.websocket("");
    for (channel, members) in [("a", 1), ("b", 0)] {
        let command = json!({"type": "subscribe", "id": 2, "channel": channel, "presence": "watch"});
        assert_eq!(watcher.ask(command)["members"], members);
    }
    // Without an id as well, and a subscription that ended leaves nothing behind for the next one.
    socket.say(&json!({"type": "unsubscribe", "id": 3, "channel": "a"}));
    socket.say(&json!({"type": "subscribe", "channel": "a", "presence": "watch"}));
    assert_eq!(socket.expect("unsubscribed")["id"], 3);
    let unnamed = socket.expect("subscribed");
    assert_eq!(
        (&unnamed["members"], unnamed.get("id")),
        (&json!(1), None::<&Value>)
    );
}

/// A token of a user that allows these actions on everything below `private/`.
fn private(user: &str, actions: &[&str]) -> String {
    token(json!({
        "sub": user, "exp": seconds_now() + 600,
        "comet": {"patterns": ["private/**"], "actions": actions},
    }))
}

/// Only `public/**` is open to everybody.
fn guarded() -> TestServer {
    TestServer::with(|config| {
        let open = std::mem::take(&mut config.namespace_default);
        config.namespace_default.presence = true;
        config.namespaces.push(cometserver::config::NamespaceRule {
            pattern: "public/**".into(),
            namespace: open,
        });
    })
}

/// The type of the answer to another token.
fn authorize(socket: &mut WebSocket, token: &str) -> Value {
    socket.ask(json!({"type": "authorize", "id": "a", "token": token}))["type"].take()
}

#[test]
fn a_token_is_renewed_where_a_pattern_gives_only_what_is_public() {
    let server = guarded();
    let token = private("ann", &["subscribe"]);
    let mut socket = server.websocket(&format!("pattern=public/**&token={token}"));
    assert_eq!(authorize(&mut socket, &token), "authorized");
    let more = json!({"type": "subscribe", "id": 1, "patterns": ["**", "private/*"]});
    assert_eq!(socket.ask(more)["type"], "subscribed");
    socket.settle();
    assert_eq!(authorize(&mut socket, &token), "authorized");
    let other = private("ann", &["publish"]);
    assert_eq!(authorize(&mut socket, &other), "error", "private/* was covered");
    let less = json!({"type": "unsubscribe", "id": 2, "pattern": "private/*"});
    assert_eq!(socket.ask(less)["type"], "unsubscribed");
    assert_eq!(authorize(&mut socket, &other), "authorized");
}

#[test]
fn a_token_that_shows_no_members_does_not_replace_one_that_does() {
    let server = guarded();
    let all = private("ann", &["subscribe", "presence"]);
    let without = private("ann", &["subscribe"]);
    for query in ["channel=private/a", "pattern=private/*"] {
        let query = format!("{query}&presence=watch&token={all}");
        let mut socket = server.websocket(&query);
        assert_eq!(authorize(&mut socket, &without), "error", "{query}");
        assert_eq!(authorize(&mut socket, &all), "authorized", "{query}");
    }
    let mut socket = server.websocket(&format!("token={all}"));
    let watch = json!({"type": "subscribe", "id": 1, "channel": "private/a", "presence": "watch"});
    assert_eq!(socket.ask(watch)["type"], "subscribed");
    assert_eq!(authorize(&mut socket, &without), "error");
    socket.ask(json!({"type": "unsubscribe", "id": 2, "channel": "private/a"}));
    assert_eq!(authorize(&mut socket, &without), "authorized");
}

#[test]
fn a_member_does_not_become_somebody_else() {
    let server = guarded();
    let actions = ["subscribe", "presence"];
    let (ann, bob) = (private("ann", &actions), private("bob", &actions));
    let mut socket = server.websocket(&format!("channel=private/a&presence=join&token={ann}"));
    assert_eq!(authorize(&mut socket, &bob), "error");
    assert_eq!(authorize(&mut socket, &ann), "authorized");
    socket.ask(json!({"type": "unsubscribe", "id": 1, "channel": "private/a"}));
    assert_eq!(authorize(&mut socket, &bob), "authorized");
    socket.ask(json!({"type": "subscribe", "id": 2, "channel": "private/b", "presence": "join"}));
    let members = &server.get("/v1/presence?channel=private/b")["members"];
    assert_eq!(members[0]["user"], "bob", "{members}");
}

#[test]
fn the_name_of_an_anonymous_member_does_not_tell_its_session() {
    let server = TestServer::start();
    let session = "6d1f0b7a";
    let _member = server.websocket(&format!("channel=a&presence=join&session={session}"));
    let _same = server.websocket(&format!("channel=a&presence=join&session={session}"));
    let _other = server.websocket("channel=a&presence=join&session=other");
    let presence = server.get("/v1/presence?channel=a");
    assert!(!presence.to_string().contains(session), "{presence}");
    assert_eq!(
        presence["count"], 2,
        "a session is one member, over all its connections: {presence}"
    );
}
