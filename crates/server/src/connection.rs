//! One connection: what came in and is not a whole request yet, what could not be sent yet, and what it is for now.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;

use cometserver_core::Cursor;
use cometserver_core::broker::Fetch;
use cometserver_core::channel::ChannelId;
use cometserver_core::fanout::{ReaderId, Step, Target, Wants};
use cometserver_core::grant::Grant;
use cometserver_core::pattern::Pattern;
use cometserver_core::quota::Payer;
use mio::{Registry, Token};

mod bucket;
mod listing;
mod said;
mod waiting;
mod weight;

pub use bucket::Bucket;
pub use listing::{Listed, Listing};
pub use said::{Said, parts};
pub use waiting::{Voice, Waiting};

use crate::budget::Place;
use crate::http::Progress;
use crate::http::cors::Cors;
use crate::http::response::Terms;
use crate::listener::Socket;
use crate::memory::Rank;
use crate::metrics::Transport;
use crate::round::Share;
use crate::shared::Route;
use crate::visitor::Visitor;
use crate::websocket::Decoder;
use crate::wire::Format;

/// Pieces in one vectored write. More is rare, and the system's own bound is 1024.
const PIECES: usize = 64;

/// What a connection is for now.
pub enum State {
    /// Nothing has come yet: on a backend door it may become HTTP or the seed's protocol.
    Fresh,
    /// Between or within requests.
    Http,
    /// The seed's protocol; so many bytes have been searched for an end.
    Seed(usize),
    /// Its request waits for the store.
    Waiting(Box<Waiting>),
    /// A reader: a held poll, a stream, a WebSocket.
    Reading(Box<Subscriber>),
    /// Everything was sent; the peer may finish.
    Lingering,
}

/// How much of a request has come: each part has a deadline of its own, set once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// Nothing, or something that was not looked at yet.
    Request,
    /// The beginning of a head.
    Head,
    /// A head, and not all of its body.
    Body,
}

/// What a connection that reads has, besides its reader.
#[repr(C)]
pub struct Subscriber {
    // What every delivery looks at lies together, here and in [`Connection`]: ten thousand connections do not fit into the
    // processor's cache, and each line of it that is touched costs as much as the rest of the loop.
    /// When something was last sent.
    pub sent: u64,
    /// Its reader in the shard's fan-out.
    pub reader: ReaderId,
    /// How it is written to.
    pub format: Format,
    /// The place it takes in a budget, and for whom.
    pub route: Option<(Route, Payer)>,
    /// The place it takes behind a gateway.
    pub place: Option<Place>,
    /// What it may do.
    pub grant: Grant,
    /// How its request wants to be answered.
    pub terms: Terms,
    /// Who may read the answer.
    pub cors: Cors,
    /// Where it is a member, under which name.
    pub joined: Vec<ChannelId>,
    /// Its name as a member, and what it shows.
    pub member: Option<Box<Membership>>,
    /// The session it said to belong to.
    pub session: Option<Box<str>>,
    /// Polls and streams with a session: their places among the held ones of the server.
    pub held_as: Option<(u64, u64)>,
    /// When a poll is answered, or a stream ended, in the shard's milliseconds; `u64::MAX`: never.
    pub ends: u64,
    /// The stream has not given a cursor of its own yet, as one would hide what is still owed; until then this is the
    /// client's.
    pub unopened: Option<Unopened>,
    /// Polls: at most so many objects in the answer.
    pub limit: usize,
    /// Polls: nothing is read for it before, in the shard's milliseconds; 0: it has begun.
    pub reads_from: u64,
    /// Polls that found no place: when to come back, in milliseconds.
    pub retry: Option<u64>,
    /// Milliseconds after which a stream wants its first heartbeat; 0: that is past, or it wants none earlier.
    pub preamble: u32,
    /// The longest silence that it asked for, in milliseconds; 0: it asked for none.
    pub heartbeat: u32,
    /// Polls: answered 304 if there is nothing new.
    pub conditional: bool,
    /// Polls: the answer has begun, and is sent page by page.
    pub answering: bool,
    /// Polls: what the answer holds so far, while more of it comes from the store.
    pub gathered: Vec<Step>,
    /// The store has been asked for something, which is given up at this time, in the shard's milliseconds; 0: it was not.
    pub fetching: u64,
    /// What the store will be asked for when its turn comes, with its number among the shard's pages.
    pub fetch: Option<(u64, Box<Fetch>)>,
    /// It is in the queue of those that read on.
    pub queued: bool,
    /// When something was last heard from a client that is expected to go on saying that it is there, in the shard's
    /// milliseconds; 0: nothing is expected.
    pub heard: u64,
    /// Bytes that the kernel held for it, untaken, when its last heartbeat was due, and since when.
    pub untaken: (usize, u64),
    /// WebSocket only.
    pub socket: Option<Box<WebSocketState>>,
}

/// Where a client stands that is still owed what a cursor of its position would hide.
#[derive(Clone, Copy, Debug)]
pub struct Unopened {
    /// From where it goes on if it ends now.
    pub cursor: Cursor,
    /// It came with that cursor.
    pub is_known: bool,
}

impl Unopened {
    /// The cursor that the client came with, if any: to tell it again hides nothing.
    pub fn known(self) -> Option<Cursor> {
        self.is_known.then_some(self.cursor)
    }
}

/// A member's name and what it shows.
pub struct Membership {
    /// The user.
    pub user: Box<str>,
    /// JSON.
    pub info: Option<bytes::Bytes>,
}

/// What is to be said when a subscription has caught up. There is one for each announcement that is due.
pub struct Reply {
    /// The channel or pattern.
    pub target: Target,
    /// The command's `id`, as JSON.
    pub id: Option<Box<str>>,
    /// The command asked to see members.
    pub presence: bool,
}

/// What only a WebSocket has.
pub struct WebSocketState {
    /// Reads frames.
    pub decoder: Decoder,
    /// Subscriptions that have not caught up yet, in the order in which they will have: at most [`CATCHING_UP`].
    pub replies: VecDeque<Reply>,
    /// Channels whose members it sees.
    pub watched: Vec<ChannelId>,
    /// Its patterns, and what it was given of them.
    pub patterns: Vec<(Arc<Pattern>, Wants)>,
    /// What was said and not yet answered: answers are sent before more are made, and nothing is read meanwhile.
    pub said: VecDeque<Said>,
    /// Bytes of what was said.
    pub said_bytes: usize,
    /// A command that names many, and is not through with them.
    pub listing: Option<Box<Listing>>,
    /// Commands that wait for the store.
    pub waiting: Vec<Waiting>,
    /// What was said next has to wait for one of those.
    pub stalled: bool,
    /// What was said next asks for something, and has to wait for all of those.
    pub asks: bool,
}

/// So many subscriptions of a WebSocket may be catching up at a time before its next commands are looked at.
pub const CATCHING_UP: usize = 64;

/// So many of its commands may wait for the store: enough for a commit to carry many publications of one connection.
const IN_FLIGHT: usize = 64;

impl WebSocketState {
    /// Takes what was said next, if its turn has come.
    pub fn hear(&mut self) -> Option<Said> {
        if self.replies.len() >= CATCHING_UP {
            return None;
        }
        let next = self.said.front()?;
        // A command that asks would be told what was before a publication that was said before it. Whether it does is read
        // once: it may be long.
        if !self.waiting.is_empty() && !self.asks {
            self.asks = !next.goes_on();
        }
        let may = self.waiting.is_empty()
            || !self.asks
                && self.waiting.len() < IN_FLIGHT
                && self
                    .waiting
                    .iter()
                    .all(|waiting| waiting.question.is_publication());
        self.stalled = !may;
        if !may {
            return None;
        }
        self.asks = false;
        let next = self.said.pop_front();
        self.said_bytes -= next.as_ref().map_or(0, Said::bytes);
        next
    }

    /// Keeps what was said until its turn comes.
    pub fn keep(&mut self, said: Said) {
        self.said_bytes += said.bytes();
        self.said.push_back(said);
    }

    /// May the next thing that was said be looked at?
    fn may_hear(&self) -> bool {
        self.replies.len() < CATCHING_UP && (self.listing.is_some() || !self.said.is_empty() && !self.stalled)
    }
}

/// See the module.
#[repr(C)]
pub struct Connection {
    // First what every delivery looks at, see [`Subscriber`].
    /// The socket.
    pub socket: Socket,
    /// What it is for now.
    pub state: State,
    /// What it gets in this round.
    pub share: Share,
    /// What could not be sent yet, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// As what it is counted.
    pub counted: Transport,
    /// Which tenant of its place in the table it is.
    pub generation: u32,
    /// The door it came in through.
    pub door: usize,
    /// Who connected; not known of a Unix socket. On a proxied door that is the front web server.
    pub peer: Visitor,
    /// Whose the present request is, or the latest one.
    pub visitor: Visitor,
    /// Does the present request, or the latest one, show a key of the site's? A WebSocket: does its latest credential?
    pub shows_key: bool,
    /// Is it counted for that visitor's address?
    pub is_counted: bool,
    /// Why its request is to be refused: there are too many connections.
    pub refusal: Option<&'static str>,
    /// Why its present request is to be refused: its visitor has too many connections, or all visitors together have.
    pub crowded: Option<&'static str>,
    /// It came when all visitors held as much as they may, and none of them much: there is no room for its first request.
    pub came_late: bool,
    /// What came in and is not a whole request yet.
    pub input: Vec<u8>,
    /// How far that was understood.
    pub progress: Progress,
    /// What of a request is missing.
    pub awaits: Awaits,
    /// Bytes of it that are counted as waiting.
    pub counted_pending: usize,
    /// When something has to be done about it, in the shard's milliseconds.
    pub deadline: u64,
    /// When the timer wheel will come up with it.
    pub timer: u64,
    /// Since when the peer has taken nothing; 0: it does.
    pub stuck: u64,
    /// There may be something to read that was left alone.
    pub readable: bool,
    /// It is in the queue for another turn.
    pub unread: bool,
    /// Its last turn was so long that those come first who had short ones.
    pub is_busy: bool,
    /// Close when everything is sent.
    pub closing: bool,
    /// The peer has ended its side: behind what it sent there is an end to be read, and no other edge will tell.
    pub ending: bool,
    /// The peer will send nothing more.
    pub ended: bool,
    /// The shard is told when there is room to write.
    watched: bool,
    /// How fast it may publish.
    pub bucket: Bucket,
    /// What it makes the server hold, in bytes, as it was counted last.
    pub weighed: usize,
    /// Its place among the holders of its shard, if it is one.
    pub holds: Option<Rank>,
    /// How many of its commands or requests were refused since one was not.
    pub refusals: u32,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Everything is with the kernel.
    All,
    /// The rest is kept until the peer takes more.
    Part,
}

impl Connection {
    /// A socket that was just accepted.
    pub fn new(socket: Socket, generation: u32, door: usize, peer: Visitor, is_counted: bool) -> Self {
        Self {
            socket,
            generation,
            door,
            peer,
            visitor: peer,
            shows_key: false,
            is_counted,
            refusal: None,
            crowded: None,
            came_late: false,
            state: State::Fresh,
            input: Vec::new(),
            progress: Progress::default(),
            awaits: Awaits::Request,
            unsent: Vec::new(),
            sent: 0,
            counted_pending: 0,
            share: Share::default(),
            deadline: u64::MAX,
            timer: u64::MAX,
            stuck: 0,
            readable: false,
            unread: false,
            is_busy: false,
            closing: false,
            ending: false,
            ended: false,
            watched: false,
            counted: Transport::Http,
            bucket: Bucket::default(),
            weighed: 0,
            holds: None,
            refusals: 0,
        }
    }

    /// The address for which it is counted.
    pub fn counted_address(&self) -> Option<IpAddr> {
        self.visitor.address().filter(|_| self.is_counted)
    }

    /// Why its request is to be refused, if so.
    pub fn refused(&self) -> Option<&'static str> {
        self.refusal.or(self.crowded)
    }

    /// Is something waiting to be sent?
    pub fn is_blocked(&self) -> bool {
        self.sent < self.unsent.len()
    }

    /// Did a WebSocket client say something that was not answered yet, and may be?
    pub fn has_said(&self) -> bool {
        match &self.state {
            State::Reading(subscriber) => subscriber.socket.as_ref().is_some_and(|socket| socket.may_hear()),
            _ => false,
        }
    }

    /// Did whole requests come that were not looked at yet?
    pub fn has_requests(&self) -> bool {
        matches!(self.state, State::Http)
            && self.awaits == Awaits::Request
            && !self.closing
            && !self.input.is_empty()
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Its subscriber, if it reads.
    pub fn subscriber(&mut self) -> Option<&mut Subscriber> {
        match &mut self.state {
            State::Reading(subscriber) => Some(subscriber),
            _ => None,
        }
    }

    /// Does its reader wait for its turn to ask the store for the page with this number?
    pub fn wants_page(&self, number: u64) -> bool {
        match &self.state {
            State::Reading(subscriber) => subscriber.fetch.as_ref().is_some_and(|(of, _)| *of == number),
            _ => false,
        }
    }

    /// Takes out what the store is to be asked for, if its reader still waits for that.
    pub fn take_fetch(&mut self, number: u64) -> Option<Box<Fetch>> {
        let subscriber = self.subscriber()?;
        let fetch = subscriber.fetch.take_if(|(of, _)| *of == number);
        fetch.map(|(_, fetch)| fetch)
    }

    /// Has the store answered all of its requests?
    pub fn is_waiting_for_nothing(&self) -> bool {
        match &self.state {
            State::Waiting(_) => false,
            State::Reading(subscriber) => subscriber
                .socket
                .as_ref()
                .is_none_or(|socket| socket.waiting.is_empty()),
            _ => true,
        }
    }

    /// Takes out a request that waits for the store: an HTTP one leaves its connection between two requests.
    pub fn take_waiting(&mut self, wanted: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        match &mut self.state {
            State::Waiting(waiting) if wanted(waiting) => {
                match std::mem::replace(&mut self.state, State::Http) {
                    State::Waiting(waiting) => Some(*waiting),
                    _ => None,
                }
            }
            State::Reading(subscriber) => {
                let socket = subscriber.socket.as_mut()?;
                let at = socket.waiting.iter().position(wanted)?;
                socket.stalled = false;
                Some(socket.waiting.remove(at))
            }
            _ => None,
        }
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, bytes_sent: &mut u64) -> io::Result<Sent> {
        while self.is_blocked() {
            match self.socket.write(&self.unsent[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.sent += written;
                    *bytes_sent += written as u64;
                    self.stuck = 0;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Part),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        self.sent = 0;
        Ok(Sent::All)
    }

    /// Sends bytes, behind what waits; keeps what the kernel does not take.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, bytes: &[u8], bytes_sent: &mut u64) -> io::Result<Sent> {
        if self.flush(bytes_sent)? == Sent::Part {
            self.keep(bytes);
            return Ok(Sent::Part);
        }
        let written = write_some(|| self.socket.write(bytes))?;
        *bytes_sent += written as u64;
        if written == bytes.len() {
            return Ok(Sent::All);
        }
        self.keep(&bytes[written..]);
        Ok(Sent::Part)
    }

    /// Sends one slice; returns how many bytes the kernel took. Nothing is kept.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline]
    pub fn send_slice(&mut self, slice: &[u8]) -> io::Result<usize> {
        write_some(|| self.socket.write(slice))
    }

    /// Sends slices with as few calls as possible; returns how many bytes the kernel took. Nothing is kept.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send_slices<'a>(&mut self, mut slices: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        let Some(first) = slices.next() else { return Ok(0) };
        let Some(second) = slices.next() else {
            return write_some(|| self.socket.write(first));
        };
        let mut total = 0;
        let mut slices = [first, second].into_iter().chain(slices).peekable();
        while slices.peek().is_some() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            let mut length = 0;
            while count < PIECES
                && let Some(slice) = slices.next()
            {
                length += slice.len();
                pieces[count] = IoSlice::new(slice);
                count += 1;
            }
            let written = write_some(|| self.socket.write_vectored(&pieces[..count]))?;
            total += written;
            if written < length {
                break;
            }
        }
        Ok(total)
    }

    /// Begins, or ends, being told when there is room to write. A connection whose peer keeps up is not watched: the kernel
    /// would wake the shard whenever a peer on a Unix socket has read something.
    ///
    /// # Errors
    /// As the system says.
    pub fn watch_room(&mut self, registry: &Registry, token: Token, watch: bool) -> io::Result<()> {
        if self.watched == watch {
            return Ok(());
        }
        self.watched = watch;
        self.socket.watch_room(registry, token, watch)
    }

    /// Keeps bytes to be sent when the peer takes more.
    pub fn keep(&mut self, bytes: &[u8]) {
        if self.unsent.is_empty() {
            self.unsent.reserve_exact(bytes.len());
        }
        self.unsent.extend_from_slice(bytes);
    }
}

/// Bytes written, 0 if nothing fits now.
fn write_some(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
