//! A client behind a socket that takes what it likes, and what it knows: a model of a connection over `Fanout`.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::{Arc, Mutex};

use cometserver_core::Time;
use cometserver_core::broker::Page;
use cometserver_core::channel::ChannelName;
use cometserver_core::cursor::Cursor;
use cometserver_core::fanout::{Begin, Fanout, Progress, ReaderId, Standing, Step, Target, Wants};
use cometserver_core::hub::{Hub, ReadLimits};
use cometserver_core::pattern::Pattern;
use cometserver_core::position::Position;
use cometserver_core::publication::Publication;

/// What a client listens to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    Channel(String),
    Pattern(String),
}

impl To {
    fn name(&self) -> ChannelName {
        let (To::Channel(text) | To::Pattern(text)) = self;
        ChannelName::new(text).unwrap()
    }

    fn pattern(&self) -> Arc<Pattern> {
        let (To::Channel(text) | To::Pattern(text)) = self;
        Arc::new(Pattern::new(text, 100).unwrap())
    }
}

/// Where a client wants to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Now,
    Earliest,
    Cursor(String),
}

impl Since {
    pub(crate) fn begin(&self, hub: &Hub) -> Begin {
        match self {
            Since::Now => Begin::Now,
            Since::Earliest => Begin::Earliest,
            Since::Cursor(text) => Begin::At(hub.resolve(&text.parse::<Cursor>().unwrap())),
        }
    }
}

/// One frame on the wire, with its cursor in text form if it carries one.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Cursor(String),
    Publication(Arc<Publication>, usize, Option<String>),
    Gap(To, bool, Option<String>),
    Subscribed(To, String),
    Unsubscribed(To),
}

impl Frame {
    pub(crate) fn cursor(&self) -> Option<&String> {
        match self {
            Frame::Cursor(text) => Some(text),
            Frame::Publication(_, _, text) | Frame::Gap(_, _, text) => text.as_ref(),
            Frame::Subscribed(_, text) => Some(text),
            Frame::Unsubscribed(_) => None,
        }
    }
}

fn to(target: &Target) -> To {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match target {
        Target::Channel(channel) => To::Channel(text(channel.name.as_bytes())),
        Target::Pattern(pattern) => To::Pattern(text(pattern.as_bytes())),
    }
}

/// What is fetched for a connection comes back through this, by the connection's number.
pub(crate) type Mailbox = Arc<Mutex<Vec<(u64, Page)>>>;

/// One connection; `outbox` is what the socket has not taken yet.
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) shard: usize,
    pub(crate) reader: ReaderId,
    pub(crate) fetching: bool,
    pub(crate) outbox: std::collections::VecDeque<Frame>,
    /// What a round told it, until it is flushed.
    pub(crate) round: Vec<(Arc<Publication>, usize)>,
}

/// A shard with its connections.
pub(crate) struct Shard {
    pub(crate) hub: Arc<Hub>,
    pub(crate) fanout: Fanout,
}

impl Shard {
    pub(crate) fn new(hub: &Arc<Hub>, number: u8) -> Self {
        hub.attach(number, Box::new(|| {}));
        Self {
            hub: hub.clone(),
            fanout: Fanout::new(hub.clone(), number),
        }
    }

    /// A connection begins.
    pub(crate) fn connect(
        &mut self,
        number: u64,
        shard: usize,
        session: Option<&str>,
        targets: &[To],
        (since, wants): (&Since, Wants),
        now: Time,
    ) -> Connection {
        let reader = self.fanout.open(number as u32, session);
        for target in targets {
            match target {
                To::Channel(_) => self.fanout.add(reader, &target.name(), wants, now).unwrap(),
                To::Pattern(_) => self.fanout.add_pattern(reader, &target.pattern(), wants).unwrap(),
            }
        }
        self.fanout.begin(reader, since.begin(&self.hub), wants.retained);
        let opening = match since {
            // What a cursor of another incarnation has lost is told first; a new cursor would hide it.
            Since::Cursor(text) => text.clone(),
            _ => self.hub.cursor(self.fanout.position(reader)).to_string(),
        };
        Connection {
            number,
            shard,
            reader,
            fetching: false,
            outbox: [Frame::Cursor(opening)].into(),
            round: Vec::new(),
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        connection: &mut Connection,
        target: &To,
        since: &Since,
        wants: Wants,
        now: Time,
    ) {
        let (reader, begin) = (connection.reader, since.begin(&self.hub));
        let standing = match target {
            To::Channel(_) => self.fanout.subscribe(reader, &target.name(), begin, wants, now),
            To::Pattern(_) => self
                .fanout
                .subscribe_pattern(reader, &target.pattern(), begin, wants),
        };
        if let Standing::Stands(target) = standing.unwrap() {
            let cursor = self.hub.cursor(self.fanout.position(reader)).to_string();
            connection
                .outbox
                .push_back(Frame::Subscribed(to(&target), cursor));
        }
    }

    pub(crate) fn unsubscribe(&mut self, connection: &mut Connection, target: &To, now: Time) {
        let reader = connection.reader;
        match target {
            To::Channel(_) => assert!(self.fanout.unsubscribe(reader, &target.name(), now).is_some()),
            To::Pattern(_) => assert!(self.fanout.unsubscribe_pattern(reader, &target.pattern(), now)),
        }
        connection.outbox.push_back(Frame::Unsubscribed(target.clone()));
    }

    /// Flushes what a round told: the socket takes `budget` frames; of the next one a part, if `partial`.
    pub(crate) fn flush(
        &mut self,
        connection: &mut Connection,
        before: Position,
        budget: usize,
        partial: bool,
    ) -> Vec<Frame> {
        let mut told: std::collections::VecDeque<_> = std::mem::take(&mut connection.round).into();
        if told.is_empty() {
            return Vec::new();
        }
        if !connection.outbox.is_empty() {
            self.fanout.stall(connection.reader, before);
            return Vec::new();
        }
        let mut last = before;
        let mut frame = |publication: Arc<Publication>, place| {
            last = publication.at;
            let cursor = self.hub.cursor(publication.at).to_string();
            Frame::Publication(publication, place, Some(cursor))
        };
        let mut delivered = Vec::new();
        for _ in 0..budget {
            let Some((publication, place)) = told.pop_front() else {
                break;
            };
            delivered.push(frame(publication, place));
        }
        let whole = told.is_empty();
        if partial && let Some((publication, place)) = told.pop_front() {
            connection.outbox.push_back(frame(publication, place));
        }
        if !whole {
            self.fanout.stall(connection.reader, last);
        }
        delivered
    }

    /// Reads on, if the socket has taken everything and nothing is being fetched. Returns whether it is live.
    pub(crate) fn read_on(&mut self, connection: &mut Connection, items: usize, mailbox: &Mailbox) -> bool {
        if connection.fetching || !connection.outbox.is_empty() {
            return false;
        }
        let mut steps = Vec::new();
        let limits = ReadLimits {
            items,
            bytes: 1 << 20,
        };
        let progress = self.fanout.next(connection.reader, limits, &mut steps);
        for step in steps {
            let text = |at: Option<Position>| at.map(|at| self.hub.cursor(at).to_string());
            connection.outbox.push_back(match step {
                Step::Publication(publication, place, at) => Frame::Publication(publication, place, text(at)),
                Step::Gap(target, presence, at) => Frame::Gap(to(&target), presence, text(at)),
                Step::Subscribed(target) => {
                    let position = self.fanout.position(connection.reader);
                    Frame::Subscribed(to(&target), self.hub.cursor(position).to_string())
                }
            });
        }
        match progress {
            Progress::More => false,
            Progress::Live => true,
            Progress::Cold(fetch) => {
                connection.fetching = true;
                let (mailbox, number) = (mailbox.clone(), connection.number);
                let fetched =
                    move |page: Result<Page, _>| mailbox.lock().unwrap().push((number, page.unwrap()));
                self.hub.fetch(fetch, Box::new(fetched));
                false
            }
        }
    }
}
