//! Who is on a channel.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::Time;
use crate::log::{Log, Trimmed};
use crate::publication::Body;
use crate::quota::Payer;

/// The node that a member is connected to; one until there is a cluster.
pub const LOCAL_NODE: u16 = 0;

/// One member: a user, however many connections that user has.
#[derive(Clone, Debug)]
pub struct Member {
    /// What the member shows of itself, JSON.
    pub info: Option<Bytes>,
    /// Connections on this channel. 0: gone, but the grace has not passed yet.
    pub connections: u32,
    /// Which node answers for it.
    pub node: u16,
    /// Who answers for it: whoever it came with first.
    payer: Payer,
    /// The end of the grace, if it has no connection.
    leaving: Option<Time>,
}

/// The members of one channel, and the news about them.
#[derive(Debug, Default)]
pub struct Presence {
    /// By name: so the first of a crowd are found without looking at all.
    members: BTreeMap<Box<str>, Member>,
    /// Who goes when the grace has passed, in the order of that: each once, and not those who came back.
    leaving: BTreeSet<(Time, Box<str>)>,
    /// The hub comes to ask at this time.
    asked: Option<Time>,
    /// Joins and leaves, within the live window only: they are read like messages, but they are no history.
    pub news: Log,
    /// The number that follows from what was announced.
    announced: u32,
    /// A new number has to be announced, not before this time.
    count_due: Option<Time>,
}

/// The bounds of presence.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A return within so many milliseconds announces nothing.
    pub grace: Time,
    /// Above so many members only their number is announced, at most once a second.
    pub announce: usize,
    /// So many members may be kept, of all channels together, of which visitors may take a part. Those of the site's own
    /// code are not counted.
    pub members: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            grace: 5_000,
            announce: 100,
            members: 100_000,
        }
    }
}

/// A crowded channel announces its number at most this often: a restart with 10,000 members must not become 10^8 frames.
const COUNT_INTERVAL: Time = 1_000;

impl Presence {
    /// Nobody is there, and of earlier news so much is gone.
    pub fn new(trimmed: Trimmed) -> Self {
        Self {
            news: Log::new(trimmed),
            ..Self::default()
        }
    }

    /// A connection of `user` came. Returns what to announce.
    pub fn join(
        &mut self,
        (user, payer): (&str, Payer),
        info: Option<Bytes>,
        now: Time,
        limits: &Limits,
    ) -> Option<Body> {
        if let Some(member) = self.members.get_mut(user) {
            member.connections += 1;
            if let Some(at) = member.leaving.take() {
                self.leaving.remove(&(at, user.into()));
            }
            if info.is_some() {
                member.info = info;
            }
            return None;
        }
        let member = Member {
            info: info.clone(),
            connections: 1,
            node: LOCAL_NODE,
            payer,
            leaving: None,
        };
        self.members.insert(user.into(), member);
        self.announce(
            Body::Join {
                user: user.into(),
                info,
            },
            now,
            limits,
        )
    }

    /// A connection of `user` went; if it was the last one, the grace begins.
    pub fn leave(&mut self, user: &str, now: Time, limits: &Limits) {
        if let Some(member) = self.members.get_mut(user) {
            member.connections = member.connections.saturating_sub(1);
            if member.connections == 0 && member.leaving.is_none() {
                let at = now.saturating_add(limits.grace);
                member.leaving = Some(at);
                self.leaving.insert((at, user.into()));
            }
        }
    }

    /// What has to be announced now, and who answered for those who are gone, at most `most`: ask again for the others. The
    /// hub had been told to ask at `asked`.
    pub fn due(
        &mut self,
        asked: Time,
        (now, most): (Time, usize),
        limits: &Limits,
    ) -> (Vec<Body>, Vec<Payer>) {
        if self.asked == Some(asked) {
            self.asked = None;
        }
        let (mut bodies, mut gone) = (Vec::new(), Vec::new());
        while gone.len() < most && self.leaving.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, user)) = self.leaving.pop_first() else {
                break;
            };
            if self
                .members
                .get(&user)
                .is_some_and(|member| member.leaving == Some(at))
            {
                gone.extend(self.members.remove(&user).map(|member| member.payer));
                bodies.extend(self.announce(Body::Leave { user }, now, limits));
            }
        }
        if self.count_due.is_some_and(|at| at <= now) {
            self.count_due = None;
            let count = self.members.len() as u32;
            if count != self.announced {
                self.announced = count;
                bodies.push(Body::Members { count });
            }
        }
        (bodies, gone)
    }

    fn announce(&mut self, body: Body, now: Time, limits: &Limits) -> Option<Body> {
        if self.members.len() <= limits.announce && self.count_due.is_none() {
            self.announced = self.members.len() as u32;
            return Some(body);
        }
        self.count_due.get_or_insert(now.saturating_add(COUNT_INTERVAL));
        None
    }

    /// When to ask [`Presence::due`], if that is earlier than agreed so far.
    pub fn ask(&mut self) -> Option<Time> {
        let next = self
            .leaving
            .first()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(self.count_due)
            .min()?;
        if self.asked.is_some_and(|asked| asked <= next) {
            return None;
        }
        self.asked = Some(next);
        Some(next)
    }

    /// The first members by name, at most `limit`, in that order; those within their grace included.
    pub fn first(&self, limit: usize) -> Vec<(Box<str>, Member)> {
        self.members
            .iter()
            .take(limit)
            .map(|(user, member)| (user.clone(), member.clone()))
            .collect()
    }

    /// Is this user a member, be it within its grace?
    pub fn has(&self, user: &str) -> bool {
        self.members.contains_key(user)
    }

    /// How many members there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Nobody there, and nothing left to read?
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.news.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: (&str, Payer) = ("ann", Payer::SITE);

    const LIMITS: Limits = Limits {
        grace: 5_000,
        announce: 2,
        members: 100,
    };

    #[test]
    fn a_return_within_the_grace_announces_nothing() {
        let mut presence = Presence::default();
        assert!(presence.join(ANN, None, 0, &LIMITS).is_some());
        assert!(
            presence.join(ANN, None, 0, &LIMITS).is_none(),
            "a second connection of the same user"
        );
        presence.leave("ann", 10, &LIMITS);
        presence.leave("ann", 10, &LIMITS);
        assert_eq!(presence.ask(), Some(5_010));
        assert_eq!(presence.ask(), None, "agreed once");
        assert_eq!(presence.due(5_010, (5_009, 100), &LIMITS).0, vec![]);
        assert!(presence.join(ANN, None, 5_009, &LIMITS).is_none());
        assert_eq!(presence.due(5_010, (9_999, 100), &LIMITS).0, vec![]);
        presence.leave("ann", 10_000, &LIMITS);
        assert_eq!(
            presence.due(15_000, (15_000, 100), &LIMITS).0,
            vec![Body::Leave { user: "ann".into() }]
        );
    }

    #[test]
    fn a_crowd_is_only_counted_once_a_second() {
        let mut presence = Presence::default();
        for user in ["a", "b"] {
            assert!(presence.join((user, Payer::SITE), None, 0, &LIMITS).is_some());
        }
        for user in 0..1_000 {
            assert!(
                presence
                    .join((&user.to_string(), Payer::SITE), None, 100, &LIMITS)
                    .is_none()
            );
        }
        assert_eq!(presence.ask(), Some(1_100));
        assert_eq!(presence.due(1_099, (1_099, 100), &LIMITS).0, vec![]);
        assert_eq!(
            presence.due(1_100, (1_100, 100), &LIMITS).0,
            vec![Body::Members { count: 1_002 }]
        );
    }
}
