//! What a connection makes the server hold, in bytes.

use std::sync::Arc;

use cometserver_core::broker::Fetch;
use cometserver_core::channel::{ChannelId, ChannelName};
use cometserver_core::fanout::Step;
use cometserver_core::pattern::Pattern;

use super::{Connection, Reply, Said, State, Subscriber, Waiting, WebSocketState};

impl Connection {
    /// Bytes that it makes the server hold, itself included: what came and is not used yet, what could not be sent yet, and
    /// what its requests wait with. What its reader holds is not among them: see
    /// [`Fanout::weight`](cometserver_core::fanout::Fanout::weight). `largest` is how large a publication may be.
    pub fn weight(&self, largest: usize) -> usize {
        let state = match &self.state {
            State::Reading(subscriber) => subscriber.weight(largest),
            State::Waiting(waiting) => size_of::<Waiting>() + waiting.question.weight(largest),
            State::Fresh | State::Http | State::Seed(_) | State::Lingering => 0,
        };
        size_of::<Self>() + self.input.capacity() + self.unsent.capacity() + state
    }
}

impl Subscriber {
    fn weight(&self, largest: usize) -> usize {
        let member = self.member.as_ref().map_or(0, |member| {
            member.user.len() + member.info.as_ref().map_or(0, |info| info.len())
        });
        size_of::<Self>()
            + self.gathered.iter().map(Step::size).sum::<usize>()
            + self.joined.capacity() * size_of::<ChannelId>()
            + member
            + self.fetch.as_ref().map_or(0, |(_, fetch)| fetch_bytes(fetch))
            + self.socket.as_ref().map_or(0, |socket| socket.weight(largest))
    }
}

/// What a fetch takes besides the names and patterns in it, which its reader has anyway.
fn fetch_bytes(fetch: &Fetch) -> usize {
    size_of_val(fetch)
        + fetch.channels.capacity() * size_of::<ChannelName>()
        + fetch.patterns.capacity() * size_of::<Arc<Pattern>>()
}

impl WebSocketState {
    fn weight(&self, largest: usize) -> usize {
        let waiting = self
            .waiting
            .iter()
            .map(|waiting| waiting.question.weight(largest));
        size_of::<Self>()
            + self.decoder.held_bytes()
            + self.said_bytes
            + self.said.capacity() * size_of::<Said>()
            + self.replies.capacity() * size_of::<Reply>()
            + self.waiting.capacity() * size_of::<Waiting>()
            + self.watched.capacity() * size_of::<ChannelId>()
            + self.listing.as_ref().map_or(0, |listing| listing.weight())
            + waiting.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use cometserver_core::fanout::Target;
    use cometserver_core::grant::Grant;
    use cometserver_core::pattern::Pattern;

    use super::*;
    use crate::connection::CATCHING_UP;
    use crate::http::cors::Cors;
    use crate::http::response::Terms;
    use crate::websocket::Decoder;
    use crate::wire::Format;

    fn socket() -> WebSocketState {
        WebSocketState {
            decoder: Decoder::new(),
            replies: VecDeque::new(),
            watched: Vec::new(),
            patterns: Vec::new(),
            said: VecDeque::new(),
            said_bytes: 0,
            listing: None,
            waiting: Vec::new(),
            stalled: false,
            asks: false,
        }
    }

    fn subscriber(fetch: Option<(u64, Box<Fetch>)>) -> Subscriber {
        Subscriber {
            sent: 0,
            heard: 0,
            untaken: (0, 0),
            reader: 0,
            format: Format::Poll,
            route: None,
            place: None,
            grant: Grant::anonymous(),
            terms: Terms::CLOSE,
            cors: Cors::default(),
            joined: Vec::new(),
            member: None,
            session: None,
            held_as: None,
            ends: 0,
            unopened: None,
            limit: 1,
            reads_from: 0,
            retry: None,
            preamble: 0,
            heartbeat: 0,
            conditional: false,
            answering: false,
            gathered: Vec::new(),
            fetching: 0,
            fetch,
            queued: false,
            socket: None,
        }
    }

    #[test]
    fn what_a_reader_will_ask_the_store_for_counts() {
        let name = ChannelName::new("a").unwrap();
        let fetch = Fetch {
            channels: vec![name; 1000],
            ..Fetch::default()
        };
        let waits = subscriber(Some((1, Box::new(fetch)))).weight(1_000);
        assert!(waits >= subscriber(None).weight(1_000) + 1000 * size_of::<ChannelName>());
    }

    #[test]
    fn nothing_is_heard_while_as_many_subscriptions_catch_up_as_may() {
        let mut socket = socket();
        let target = Target::Pattern(Arc::new(Pattern::new(b"p", 10).unwrap()));
        for _ in 0..CATCHING_UP {
            // Whether it is to be told or not.
            socket.replies.push_back(Reply {
                target: target.clone(),
                id: None,
                presence: false,
            });
        }
        socket.keep(Said::Text("x".repeat(1000)));
        assert!(socket.hear().is_none());
        assert!(!socket.may_hear());
        let held = socket.weight(1_000);
        assert!(held >= 1000, "{held}");
        socket.replies.pop_front();
        assert!(socket.hear().is_some());
        assert_eq!((socket.weight(1_000) + 1000, socket.said_bytes), (held, 0));
    }
}
