//! The test's own books: what was published in which order, and what each client may still expect to see.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::client::{Frame, Since, To};
use cometserver_core::position::Position;
use cometserver_core::publication::{Body, Publication};

/// One line: a message, or news about members.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) channels: Vec<String>,
    pub(crate) news: bool,
    pub(crate) retain: bool,
    pub(crate) excluded: Option<String>,
    /// Its position in the store, if it has one.
    pub(crate) durable: Option<u64>,
}

/// Everything that became visible, in that order.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<Line>,
    by_text: HashMap<String, usize>,
    /// So many lines lie before what positions of this start count.
    base: usize,
    /// Retained values of channels, as they were one after the other: lines, or none.
    values: HashMap<String, Vec<Option<usize>>>,
}

impl Ledger {
    pub(crate) fn enter(&mut self, text: Option<&str>, line: Line) {
        if let Some(text) = text {
            let before = self.by_text.insert(text.into(), self.lines.len());
            assert_eq!(before, None, "{text:?} is published twice");
        }
        for channel in line.channels.iter().filter(|_| line.retain) {
            self.values
                .entry(channel.clone())
                .or_default()
                .push(Some(self.lines.len()));
        }
        self.lines.push(line);
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The value of a channel is no longer there.
    pub(crate) fn forget_value(&mut self, channel: &str) {
        self.values.entry(channel.into()).or_default().push(None);
    }

    /// The values of a channel, one after the other; before the first there was none.
    pub(crate) fn values(&self, channel: &str) -> &[Option<usize>] {
        self.values.get(channel).map_or(&[], Vec::as_slice)
    }

    /// Was this published?
    pub(crate) fn has(&self, text: &str) -> bool {
        self.by_text.contains_key(text)
    }

    /// How many lines a position of this start covers that was stamped when something became visible.
    pub(crate) fn lines_at(&self, position: Position) -> usize {
        self.base + position.sequence() as usize
    }

    /// Memory begins anew, at this position.
    pub(crate) fn restart(&mut self, position: Position) {
        self.base = self.lines.len() - position.sequence() as usize;
    }

    /// The line of something that was shown: a message is known by its text, whatever else it says about itself.
    pub(crate) fn find(&self, publication: &Publication) -> usize {
        match &publication.body {
            Body::Message { payload, .. } => self.by_text[std::str::from_utf8(payload.bytes()).unwrap()],
            _ => self.lines_at(publication.at) - 1,
        }
    }
}

/// A channel's messages, or the news about its members.
type Stream = (String, bool);

/// What a client expects of a stream.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// Nothing before this line may come (again).
    low: usize,
    /// Everything from this line on must come.
    due: usize,
    /// A gap was told since the last that came. Who begins with the oldest kept is told of none before the first.
    gap: bool,
    /// These came as of another of their channels.
    elsewhere: BTreeSet<usize>,
}

/// A subscription, or the attempt at one.
#[derive(Clone, Debug)]
struct Listening {
    to: To,
    since: Since,
    due: usize,
    presence: bool,
    streams: BTreeMap<Stream, Expected>,
}

impl Listening {
    fn covers(&self, channel: &str) -> bool {
        match &self.to {
            To::Channel(name) => name == channel,
            // The patterns of this test are `something/*`.
            To::Pattern(text) => channel.starts_with(text.trim_end_matches('*')),
        }
    }

    fn expected(&mut self, channel: &str, news: bool) -> &mut Expected {
        let due = self.due;
        let gap = self.since == Since::Earliest;
        self.streams.entry((channel.into(), news)).or_insert(Expected {
            due,
            gap,
            ..Expected::default()
        })
    }
}

/// What a client knows, and remembers from one connection to the next.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) session: Option<String>,
    /// The cursor that it would come back with.
    pub(crate) cursor: Option<String>,
    /// All cursors it ever had, each with how many lines surely lie before it.
    pub(crate) cursors: Vec<(String, usize)>,
    active: Vec<Listening>,
    pending: Vec<Listening>,
    /// It has seen a frame with a cursor on the line before this one.
    seen: usize,
}

impl Peer {
    pub(crate) fn new(name: String, session: Option<String>) -> Self {
        Self {
            name,
            session,
            cursor: None,
            cursors: Vec::new(),
            active: Vec::new(),
            pending: Vec::new(),
            seen: 0,
        }
    }

    pub(crate) fn targets(&self) -> Vec<To> {
        self.active.iter().map(|listening| listening.to.clone()).collect()
    }

    pub(crate) fn pending(&self) -> Vec<(To, Since, bool)> {
        self.pending
            .iter()
            .map(|listening| (listening.to.clone(), listening.since.clone(), listening.presence))
            .collect()
    }

    pub(crate) fn listens(&self, to: &To) -> bool {
        self.active
            .iter()
            .chain(&self.pending)
            .any(|listening| listening.to == *to)
    }

    fn due(&self, since: &Since, ledger: &Ledger) -> usize {
        match since {
            Since::Now | Since::Earliest => ledger.len(),
            Since::Cursor(text) => {
                let known = self.cursors.iter().find(|(own, _)| own == text);
                known.map_or(ledger.len(), |(_, lines)| *lines)
            }
        }
    }

    /// It subscribes as it connects.
    pub(crate) fn listen(&mut self, to: To, since: &Since, presence: bool, ledger: &Ledger) {
        let due = self.due(since, ledger);
        self.active.push(Listening {
            to,
            since: since.clone(),
            due,
            presence,
            streams: BTreeMap::new(),
        });
    }

    /// It subscribes late, or again as `Subscribed` never came.
    pub(crate) fn attempt(&mut self, to: To, since: Since, presence: bool, ledger: &Ledger) {
        let due = self.due(&since, ledger);
        self.pending.retain(|listening| listening.to != to);
        self.pending.push(Listening {
            to,
            since,
            due,
            presence,
            streams: BTreeMap::new(),
        });
    }

    /// Nothing was delivered of its first connection: the next one begins as if it were the first.
    pub(crate) fn begin_again(&mut self, since: &Since, ledger: &Ledger) {
        let due = self.due(since, ledger);
        for listening in &mut self.active {
            listening.due = due;
            listening.streams.clear();
        }
    }

    /// A frame arrived: is it one that may come now?
    pub(crate) fn receive(&mut self, frame: &Frame, ledger: &Ledger) {
        match frame {
            Frame::Cursor(_) => {}
            Frame::Publication(publication, place, cursor) => {
                let shown = &publication.places[*place].channel.name;
                let shown = String::from_utf8(shown.as_bytes().to_vec()).unwrap();
                self.see(publication, &shown, cursor.as_deref(), ledger);
            }
            Frame::Gap(to, presence, cursor) => self.told_gap(to, *presence, cursor.is_some()),
            Frame::Subscribed(to, _) => {
                assert!(!self.pending.is_empty(), "{}: {to:?} was not pending", self.name);
                let listening = self.pending.remove(0);
                assert_eq!(listening.to, *to, "{}: subscribed in another order", self.name);
                self.active.push(listening);
            }
            Frame::Unsubscribed(to) => self.active.retain(|listening| listening.to != *to),
        }
        if let Some(cursor) = frame.cursor() {
            self.cursor = Some(cursor.clone());
        }
    }

    fn see(&mut self, publication: &Publication, shown: &str, cursor: Option<&str>, ledger: &Ledger) {
        let index = ledger.find(publication);
        let line = &ledger.lines[index];
        let name = &self.name;
        assert!(
            line.channels.iter().any(|c| c == shown),
            "{name}: {shown} is none of its channels"
        );
        assert_eq!(line.news, publication.body.is_presence());
        assert!(
            line.excluded.is_none() || line.excluded != self.session,
            "{name}: it is not for this session"
        );
        let session = self.session.clone();
        let beginning = cursor.is_none() && self.pending.first().is_none_or(|first| !first.covers(shown));
        let concerned: Vec<&mut Listening> = match cursor {
            Some(_) => self.active.iter_mut().collect(),
            // A retained value comes first, whatever is pending by now.
            None if beginning => {
                assert!(
                    line.retain,
                    "{name}: line {index} without a cursor, though nothing catches up"
                );
                self.active.iter_mut().collect()
            }
            None => vec![&mut self.pending[0]],
        };
        let mut wanted = false;
        for listening in concerned {
            for channel in &line.channels {
                if !listening.covers(channel) || line.news && !listening.presence {
                    continue;
                }
                // A retained value is shown as that of one channel, whatever else it was published in.
                if beginning && channel != shown {
                    continue;
                }
                wanted |= channel == shown;
                let to = listening.to.clone();
                let expected = listening.expected(channel, line.news);
                assert!(
                    index >= expected.low && !expected.elsewhere.contains(&index),
                    "{name}: line {index} of {to:?} comes twice, or too late: {expected:?}"
                );
                // Seen already, or as of another of its channels: that says nothing of what preceded it in this one.
                if channel != shown {
                    expected.elsewhere.insert(index);
                    continue;
                }
                if cursor.is_some() || !line.retain {
                    let missing = (expected.due.max(expected.low)..index).find(|at| {
                        let other = &ledger.lines[*at];
                        other.channels.contains(channel)
                            && !expected.elsewhere.contains(at)
                            && other.news == line.news
                            && (other.excluded.is_none() || other.excluded != session)
                    });
                    assert!(
                        missing.is_none() || expected.gap,
                        "{name}: line {index} of {to:?} comes, but {missing:?} did not, and no gap was told: {expected:?}"
                    );
                }
                expected.low = index + 1;
                expected.gap = false;
            }
        }
        assert!(wanted, "{name}: {shown} is not subscribed to");
        if let Some(cursor) = cursor {
            assert!(index >= self.seen, "{name}: line {index} after {}", self.seen);
            self.seen = index + 1;
            self.cursors.push((cursor.into(), index + 1));
        }
    }

    fn told_gap(&mut self, to: &To, presence: bool, main: bool) {
        // Without a cursor it is of what catches up, or that a source was lost.
        let catching_up = self.pending.iter_mut().take(usize::from(!main));
        let listenings = self.active.iter_mut().chain(catching_up);
        let mut concerned = false;
        for listening in listenings {
            let channels: Vec<String> = match to {
                To::Channel(channel) if listening.covers(channel) => vec![channel.clone()],
                To::Pattern(_) if listening.to == *to => CHANNELS.iter().map(|c| c.to_string()).collect(),
                _ => continue,
            };
            concerned = true;
            for channel in channels {
                listening.expected(&channel, presence).gap = true;
            }
        }
        assert!(
            concerned,
            "{}: a gap of {to:?}, which is not subscribed to",
            self.name
        );
    }

    /// Everything has been delivered: nothing may be missing.
    pub(crate) fn is_complete(&mut self, ledger: &Ledger) {
        assert!(
            self.pending.is_empty(),
            "{}: {:?} never came",
            self.name,
            self.pending
        );
        for listening in &mut self.active {
            for (index, line) in ledger.lines.iter().enumerate() {
                for channel in &line.channels {
                    if !listening.covers(channel)
                        || line.news && !listening.presence
                        || line.excluded.is_some() && line.excluded == self.session
                    {
                        continue;
                    }
                    let to = listening.to.clone();
                    let expected = listening.expected(channel, line.news);
                    assert!(
                        index < expected.due.max(expected.low)
                            || expected.gap
                            || expected.elsewhere.contains(&index),
                        "{}: line {index} of {to:?} never came: {expected:?}",
                        self.name
                    );
                }
            }
        }
    }
}

/// The channels of the model. Those with a slash are listened to by pattern.
pub(crate) const CHANNELS: [&str; 6] = ["a0", "a1", "d0", "d1", "p/m", "p/d"];
