//! Who listens to what, exactly and by pattern; which shards a publication concerns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Time;
use crate::channel::{ChannelName, Realm};
use crate::log::Trimmed;
use crate::pattern::Pattern;
use crate::quota::Payer;
use crate::room::{Room, Table};

/// How long a pattern without listeners stays: whoever returns within this time is told of gaps exactly.
const LINGER: Time = 60_000;

/// The same when more than half of the patterns that may be are there: nobody shall take them from others for long.
const LINGER_CROWDED: Time = 5_000;

/// So many new patterns are compared with a name one by one; of more, candidates are looked up.
const FEW: u32 = 32;

/// A pattern that somebody listens to, or did a moment ago.
#[derive(Debug)]
pub struct Listened {
    /// The pattern.
    pub pattern: Arc<Pattern>,
    /// The shards with listeners, a bit each.
    pub shards: u64,
    /// The newest that a matching channel has let go.
    pub trimmed: Trimmed,
    /// The same of the news about members.
    pub trimmed_news: Trimmed,
    /// Who answers for it.
    pub payer: Payer,
    /// Since when nobody listens.
    idle: Option<Time>,
}

/// Literal beginnings (or ends) of patterns: a name is looked up once per length that occurs.
#[derive(Debug, Default)]
struct Literals {
    ids: BTreeMap<Realm, HashMap<Box<[u8]>, Vec<u32>>>,
    lengths: BTreeMap<usize, usize>,
}

impl Literals {
    fn insert(&mut self, realm: Realm, literal: &[u8], id: u32) {
        *self.lengths.entry(literal.len()).or_default() += 1;
        let ids = self.ids.entry(realm).or_default();
        ids.entry(literal.into()).or_default().push(id);
    }

    fn remove(&mut self, realm: Realm, literal: &[u8], id: u32) {
        let Some(of_realm) = self.ids.get_mut(&realm) else {
            return;
        };
        if let Some(ids) = of_realm.get_mut(literal) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                of_realm.remove(literal);
            }
        }
        if of_realm.is_empty() {
            self.ids.remove(&realm);
        }
        if let Some(count) = self.lengths.get_mut(&literal.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&literal.len());
            }
        }
    }

    fn candidates<'n>(
        &self,
        realm: Realm,
        after: u32,
        literal: impl Fn(usize) -> Option<&'n [u8]>,
        out: &mut Vec<u32>,
    ) {
        let Some(of_realm) = self.ids.get(&realm) else {
            return;
        };
        for length in self.lengths.keys() {
            let Some(literal) = literal(*length) else { break };
            if let Some(ids) = of_realm.get(literal) {
                // In the order in which they came: numbers only rise.
                out.extend(&ids[ids.partition_point(|id| *id <= after)..]);
            }
        }
    }
}

/// All patterns; equal ones are one entry.
#[derive(Debug, Default)]
pub struct Patterns {
    entries: FxHashMap<u32, Listened>,
    by_text: HashMap<Arc<Pattern>, u32>,
    prefixes: Literals,
    /// Patterns with a longer literal end than beginning, by that.
    suffixes: Literals,
    next: u32,
    /// Patterns nobody listens to, with the time since when; looked at lazily.
    idle: Vec<(Time, u32)>,
    /// How many have left.
    removed: u64,
    /// How many there may be.
    limit: usize,
}

/// Which patterns match a name, as far as it has been compared with them.
#[derive(Clone, Debug, Default)]
pub struct Matches {
    /// The newest pattern it has been compared with.
    newest: u32,
    /// How many patterns had left by then.
    removed: u64,
    /// Those that match, in order.
    pub ids: Option<Arc<[u32]>>,
}

impl Patterns {
    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A pattern by its text.
    pub fn find(&self, pattern: &Pattern) -> Option<&Listened> {
        self.entries.get(self.by_text.get(pattern)?)
    }

    /// How full its tables are.
    pub fn tables(&self) -> [Table; 2] {
        [
            Table::of("patterns", &self.entries),
            Table::of("pattern_texts", &self.by_text),
        ]
    }

    /// A pattern by its number.
    pub fn get(&self, id: u32) -> Option<&Listened> {
        self.entries.get(&id)
    }

    /// A pattern by its number, to change it.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Listened> {
        self.entries.get_mut(&id)
    }

    /// A shard has its first listener to this pattern. `trimmed`, of messages and of news about members, holds for a
    /// pattern not known so far. None: there are `limit` patterns already.
    pub fn listen(
        &mut self,
        pattern: &Arc<Pattern>,
        shard: u8,
        (trimmed, trimmed_news): (Trimmed, Trimmed),
        limit: usize,
    ) -> Option<u32> {
        self.limit = limit;
        if self.entries.len() >= limit && !self.by_text.contains_key(pattern) {
            // Whoever has left gives way at once.
            self.forget_after(0, Time::MAX);
        }
        let id = match self.by_text.get(pattern) {
            Some(id) => *id,
            None if self.entries.len() >= limit => return None,
            None => {
                self.next += 1;
                let id = self.next;
                self.literals(pattern)
                    .insert(pattern.realm(), literal(pattern), id);
                self.by_text.insert(pattern.clone(), id);
                self.entries.insert(
                    id,
                    Listened {
                        pattern: pattern.clone(),
                        shards: 0,
                        trimmed,
                        trimmed_news,
                        payer: Payer::NOBODY,
                        idle: None,
                    },
                );
                id
            }
        };
        let entry = self.entries.get_mut(&id)?;
        entry.shards |= 1 << shard;
        entry.idle = None;
        Some(id)
    }

    /// A shard has no listener to this pattern any more.
    pub fn unlisten(&mut self, id: u32, shard: u8, now: Time) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.shards &= !(1 << shard);
            if entry.shards == 0 && entry.idle.is_none() {
                entry.idle = Some(now);
                self.idle.push((now, id));
            }
        }
    }

    /// Forgets the patterns that nobody has listened to for a while. Returns when to ask again.
    pub fn forget(&mut self, now: Time) -> Option<Time> {
        self.forget_after(self.linger(), now);
        self.deadline()
    }

    fn linger(&self) -> Time {
        if self.entries.len() > self.limit / 2 {
            LINGER_CROWDED
        } else {
            LINGER
        }
    }

    fn forget_after(&mut self, linger: Time, now: Time) {
        let mut idle = std::mem::take(&mut self.idle);
        idle.retain(|(since, id)| {
            let still = self
                .entries
                .get(id)
                .is_some_and(|entry| entry.idle == Some(*since));
            if still && since.saturating_add(linger) <= now {
                self.remove(*id);
                return false;
            }
            still
        });
        idle.tidy();
        self.idle = idle;
    }

    /// When [`Patterns::forget`] has something to do, at the earliest.
    pub fn deadline(&self) -> Option<Time> {
        let linger = self.linger();
        self.idle.first().map(|(since, _)| since.saturating_add(linger))
    }

    fn remove(&mut self, id: u32) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_text.remove(&entry.pattern);
            let realm = entry.pattern.realm();
            self.literals(&entry.pattern)
                .remove(realm, literal(&entry.pattern), id);
            self.removed += 1;
            self.entries.tidy();
            self.by_text.tidy();
        }
    }

    fn literals(&mut self, pattern: &Pattern) -> &mut Literals {
        if by_suffix(pattern) {
            &mut self.suffixes
        } else {
            &mut self.prefixes
        }
    }

    /// Brings a name's matches up to date: it is compared with the patterns that are new to it only, and those that have
    /// left are dropped. So what one client does to the table costs the others what it changed, not all there is.
    pub fn update(&self, name: &ChannelName, matches: &mut Matches) {
        if matches.newest == self.next && matches.removed == self.removed {
            return;
        }
        let known = matches.ids.iter().flat_map(|ids| ids.iter());
        let dropped =
            matches.removed != self.removed && known.clone().any(|id| !self.entries.contains_key(id));
        let new = self.matching(name, matches.newest);
        if dropped || !new.is_empty() {
            let kept = known.copied().filter(|id| self.entries.contains_key(id));
            let ids: Arc<[u32]> = kept.chain(new).collect();
            matches.ids = (!ids.is_empty()).then_some(ids);
        }
        (matches.newest, matches.removed) = (self.next, self.removed);
    }

    /// The patterns after a number that match a name, in order.
    fn matching(&self, name: &ChannelName, after: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        if self.entries.is_empty() {
            return ids;
        }
        let bytes = name.as_bytes();
        if self.next - after <= FEW {
            ids.extend(after + 1..=self.next);
        } else {
            self.prefixes
                .candidates(name.realm(), after, |n| bytes.get(..n), &mut ids);
            let end = |n| bytes.len().checked_sub(n).map(|from| &bytes[from..]);
            self.suffixes.candidates(name.realm(), after, end, &mut ids);
        }
        ids.retain(|id| {
            self.entries
                .get(id)
                .is_some_and(|entry| entry.pattern.matches_name(name))
        });
        ids.sort_unstable();
        ids
    }
}

fn by_suffix(pattern: &Pattern) -> bool {
    pattern.literal_suffix().len() > pattern.literal_prefix().len()
}

fn literal(pattern: &Pattern) -> &[u8] {
    if by_suffix(pattern) {
        pattern.literal_suffix()
    } else {
        pattern.literal_prefix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_finds_its_patterns_by_beginning_and_by_end() {
        let mut patterns = Patterns::default();
        let mut listen = |text: &str| {
            let pattern = Arc::new(Pattern::new(text, 99).unwrap());
            patterns.listen(&pattern, 0, Default::default(), 99).unwrap()
        };
        let ids = ["**", "a/*", "a/b", "*/b", "a/**/c", "**c"].map(&mut listen);
        let again = listen("a/*");
        assert_eq!(again, ids[1], "equal patterns are one entry");
        let find = |name: &str| {
            let name = ChannelName::new(name).unwrap();
            let mut found = Matches::default();
            patterns.update(&name, &mut found);
            found.ids.map(|ids| ids.to_vec()).unwrap_or_default()
        };
        assert_eq!(find("a/b"), [ids[0], ids[1], ids[2], ids[3]]);
        assert_eq!(find("a/x/c"), [ids[0], ids[4], ids[5]]);
        assert_eq!(find("x"), [ids[0]]);
        let mut found = Matches::default();
        patterns.update(&ChannelName::new("x").unwrap(), &mut found);
        patterns.unlisten(ids[0], 0, 5);
        assert_eq!(patterns.forget(5), Some(60_005));
        assert_eq!(patterns.forget(60_005), None);
        patterns.update(&ChannelName::new("x").unwrap(), &mut found);
        assert_eq!(found.ids, None, "what has left is dropped");
    }

    #[test]
    fn a_name_is_compared_with_new_patterns_only() {
        let mut patterns = Patterns::default();
        let name = ChannelName::new("room/1").unwrap();
        let mut matches = Matches::default();
        let mut all = Vec::new();
        // Few new ones at a time, then many.
        for (round, count) in [1_u32, 5, 3, 200, 1, 100].into_iter().enumerate() {
            for n in 0..count {
                let text = ["room/*", "**", "*/1", "other/*"][n as usize % 4];
                let pattern = Arc::new(Pattern::new(text, 99).unwrap());
                let unique = Arc::new(Pattern::new(format!("**{round}x{n}"), 99).unwrap());
                for pattern in [pattern, unique] {
                    all.push((
                        patterns.listen(&pattern, 0, Default::default(), 999).unwrap(),
                        pattern,
                    ));
                }
            }
            let before = matches.newest;
            let looked = patterns.matching(&name, before);
            assert!(looked.iter().all(|id| *id > before));
            patterns.update(&name, &mut matches);
            let mut expected: Vec<u32> = all
                .iter()
                .filter(|(_, pattern)| pattern.matches_name(&name))
                .map(|(id, _)| *id)
                .collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(matches.ids.as_deref().unwrap_or_default(), expected);
            let kept = matches.ids.clone();
            patterns.update(&name, &mut matches);
            assert!(
                kept.zip(matches.ids.clone())
                    .is_none_or(|(a, b)| Arc::ptr_eq(&a, &b))
            );
        }
    }

    #[test]
    fn patterns_without_listeners_linger_shorter_where_there_are_many_and_give_way_at_the_limit() {
        let mut patterns = Patterns::default();
        let listen = |patterns: &mut Patterns, n: u32| {
            let pattern = Arc::new(Pattern::new(format!("{n}/*"), 99).unwrap());
            patterns.listen(&pattern, 0, Default::default(), 10)
        };
        let ids: Vec<u32> = (0..6).map(|n| listen(&mut patterns, n).unwrap()).collect();
        patterns.unlisten(ids[0], 0, 5);
        assert_eq!(patterns.deadline(), Some(5_005), "six of ten");
        patterns.unlisten(ids[1], 0, 6);
        assert_eq!(patterns.forget(5_005), Some(60_006), "five of ten");
        for n in 6..11 {
            listen(&mut patterns, n).unwrap();
        }
        assert_eq!(patterns.len(), 10);
        assert!(patterns.get(ids[1]).is_some());
        assert!(
            listen(&mut patterns, 11).is_some(),
            "the one without listeners gives way"
        );
        assert!(patterns.get(ids[1]).is_none());
        assert_eq!(listen(&mut patterns, 12), None);
    }
}
