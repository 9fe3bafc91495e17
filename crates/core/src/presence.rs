//! Who is on a channel.

use std::collections::HashMap;

use bytes::Bytes;

use crate::Time;
use crate::log::Log;
use crate::publication::Body;

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
    /// The end of the grace, if it has no connection.
    leaving: Option<Time>,
}

/// The members of one channel, and the news about them.
#[derive(Debug, Default)]
pub struct Presence {
    members: HashMap<Box<str>, Member>,
    /// Joins and leaves, within the live window only: they are read like messages, but they are no history.
    pub news: Log,
    /// The number last announced, while the channel is crowded.
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            grace: 5_000,
            announce: 100,
        }
    }
}

/// A crowded channel announces its number at most this often: a restart with 10,000 members must not become 10^8 frames.
const COUNT_INTERVAL: Time = 1_000;

impl Presence {
    /// A connection of `user` came. Returns what to announce.
    pub fn join(&mut self, user: &str, info: Option<Bytes>, now: Time, limits: &Limits) -> Option<Body> {
        if let Some(member) = self.members.get_mut(user) {
            member.connections += 1;
            member.leaving = None;
            if info.is_some() {
                member.info = info;
            }
            return None;
        }
        let member = Member {
            info: info.clone(),
            connections: 1,
            node: LOCAL_NODE,
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
            if member.connections == 0 {
                member.leaving = Some(now.saturating_add(limits.grace));
            }
        }
    }

    /// What has to be announced now, and when to ask again.
    pub fn due(&mut self, now: Time, limits: &Limits) -> (Vec<Body>, Option<Time>) {
        let gone: Vec<Box<str>> = self
            .members
            .iter()
            .filter(|(_, member)| member.leaving.is_some_and(|at| at <= now))
            .map(|(user, _)| user.clone())
            .collect();
        let mut bodies = Vec::new();
        for user in gone {
            self.members.remove(&user);
            bodies.extend(self.announce(Body::Leave { user }, now, limits));
        }
        if self.count_due.is_some_and(|at| at <= now) {
            self.count_due = None;
            let count = self.members.len() as u32;
            if count != self.announced {
                self.announced = count;
                bodies.push(Body::Members { count });
            }
        }
        let next = self
            .members
            .values()
            .filter_map(|member| member.leaving)
            .chain(self.count_due)
            .min();
        (bodies, next)
    }

    fn announce(&mut self, body: Body, now: Time, limits: &Limits) -> Option<Body> {
        if self.members.len() <= limits.announce {
            return Some(body);
        }
        self.count_due.get_or_insert(now.saturating_add(COUNT_INTERVAL));
        None
    }

    /// When [`Presence::due`] has something to say, at the earliest.
    pub fn deadline(&self) -> Option<Time> {
        self.members
            .values()
            .filter_map(|member| member.leaving)
            .chain(self.count_due)
            .min()
    }

    /// The members, those within their grace included.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().map(|(user, member)| (&**user, member))
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

    const LIMITS: Limits = Limits {
        grace: 5_000,
        announce: 2,
    };

    #[test]
    fn a_return_within_the_grace_announces_nothing() {
        let mut presence = Presence::default();
        assert!(presence.join("ann", None, 0, &LIMITS).is_some());
        assert!(
            presence.join("ann", None, 0, &LIMITS).is_none(),
            "a second connection of the same user"
        );
        presence.leave("ann", 10, &LIMITS);
        presence.leave("ann", 10, &LIMITS);
        assert_eq!(presence.due(5_009, &LIMITS), (vec![], Some(5_010)));
        assert!(presence.join("ann", None, 5_009, &LIMITS).is_none());
        assert_eq!(presence.due(9_999, &LIMITS), (vec![], None));
        presence.leave("ann", 10_000, &LIMITS);
        assert_eq!(
            presence.due(15_000, &LIMITS),
            (vec![Body::Leave { user: "ann".into() }], None)
        );
    }

    #[test]
    fn a_crowd_is_only_counted_once_a_second() {
        let mut presence = Presence::default();
        for user in ["a", "b"] {
            assert!(presence.join(user, None, 0, &LIMITS).is_some());
        }
        for user in 0..1_000 {
            assert!(presence.join(&user.to_string(), None, 100, &LIMITS).is_none());
        }
        assert_eq!(presence.due(1_099, &LIMITS), (vec![], Some(1_100)));
        assert_eq!(
            presence.due(1_100, &LIMITS),
            (vec![Body::Members { count: 1_002 }], None)
        );
    }
}
