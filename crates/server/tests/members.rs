//! Who sees the members of a channel, and under which names they are there.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod support;

use serde_json::{Value, json};
use support::TestServer;

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
