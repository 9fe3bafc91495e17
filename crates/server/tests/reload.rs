//! Other rules hold for those who are there already.

mod support;

use cometserver::shared::Mail;
use cometserver_core::namespace::{Namespace, Namespaces};
use cometserver_core::pattern::Pattern;
use std::sync::Arc;
use support::{Came, Door, TRANSPORTS, TestServer, Transport};

#[test]
fn who_may_not_listen_any_more_is_told_to_go_and_nobody_else_is() {
    let server = TestServer::start();
    // A poll is answered, and refused when it comes again.
    let lasting = TRANSPORTS
        .into_iter()
        .filter(|transport| *transport != Transport::Poll);
    let mut losers: Vec<_> = lasting
        .map(|transport| server.listen(Door::Tcp, transport, "channel=closed/a"))
        .collect();
    let mut stayers = TRANSPORTS.map(|transport| server.listen(Door::Tcp, transport, "channel=open/a"));
    let mut owners = TRANSPORTS.map(|transport| server.listen(Door::Backend, transport, "channel=closed/a"));

    let closed = Pattern::new("closed/**", 100).unwrap();
    let open = Namespace {
        public: true,
        ..Namespace::default()
    };
    server.shared.hub.set_namespaces(Namespaces {
        listed: vec![(closed, Arc::new(Namespace::default()))],
        fallback: Arc::new(open),
    });
    for mailbox in &server.shared.mailboxes {
        mailbox.send(Mail::Reloaded);
    }
    for loser in &mut losers {
        while let Came::Object(object) = loser.came() {
            assert_eq!(object["type"], "reconnect", "{object}");
        }
    }
    server.publish("closed/a", "for owners");
    server.publish("open/a", "for all");
    for owner in &mut owners {
        assert_eq!(owner.data(1), ["for owners"]);
    }
    for stayer in &mut stayers {
        assert_eq!(stayer.data(1), ["for all"]);
    }
}
