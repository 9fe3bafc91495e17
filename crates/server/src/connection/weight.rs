//! What a connection makes the server hold, in bytes.

use cometserver_core::channel::ChannelId;
use cometserver_core::fanout::Step;

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
            + self.socket.as_ref().map_or(0, |socket| socket.weight(largest))
    }
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
    use cometserver_core::pattern::Pattern;

    use super::*;
    use crate::connection::CATCHING_UP;
    use crate::websocket::Decoder;

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
