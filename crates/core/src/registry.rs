//! Who listens to what, exactly and by pattern; which shards a publication concerns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Time;
use crate::channel::{ChannelName, Realm};
use crate::log::Trimmed;
use crate::pattern::Pattern;

/// How long a pattern without listeners stays: whoever returns within this time is told of gaps exactly.
const LINGER: Time = 60_000;

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

    fn candidates<'n>(&self, realm: Realm, literal: impl Fn(usize) -> Option<&'n [u8]>, out: &mut Vec<u32>) {
        let Some(of_realm) = self.ids.get(&realm) else {
            return;
        };
        for length in self.lengths.keys() {
            let Some(literal) = literal(*length) else { break };
            if let Some(ids) = of_realm.get(literal) {
                out.extend(ids);
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
    /// Rises when the set of patterns changes: a channel's matches hold for one version.
    pub version: u64,
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
                        idle: None,
                    },
                );
                self.version += 1;
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
        let mut idle = std::mem::take(&mut self.idle);
        idle.retain(|(since, id)| {
            let still = self
                .entries
                .get(id)
                .is_some_and(|entry| entry.idle == Some(*since));
            if still && since.saturating_add(LINGER) <= now {
                self.remove(*id);
                return false;
            }
            still
        });
        self.idle = idle;
        self.idle
            .iter()
            .map(|(since, _)| since.saturating_add(LINGER))
            .min()
    }

    /// When [`Patterns::forget`] has something to do, at the earliest.
    pub fn deadline(&self) -> Option<Time> {
        self.idle.first().map(|(since, _)| since.saturating_add(LINGER))
    }

    fn remove(&mut self, id: u32) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_text.remove(&entry.pattern);
            let realm = entry.pattern.realm();
            self.literals(&entry.pattern)
                .remove(realm, literal(&entry.pattern), id);
            self.version += 1;
        }
    }

    fn literals(&mut self, pattern: &Pattern) -> &mut Literals {
        if by_suffix(pattern) {
            &mut self.suffixes
        } else {
            &mut self.prefixes
        }
    }

    /// The patterns that match a name.
    pub fn matching(&self, name: &ChannelName) -> Option<Arc<[u32]>> {
        if self.entries.is_empty() {
            return None;
        }
        let bytes = name.as_bytes();
        let mut ids = Vec::new();
        self.prefixes
            .candidates(name.realm(), |n| bytes.get(..n), &mut ids);
        self.suffixes.candidates(
            name.realm(),
            |n| bytes.len().checked_sub(n).map(|from| &bytes[from..]),
            &mut ids,
        );
        ids.retain(|id| {
            self.entries
                .get(id)
                .is_some_and(|entry| entry.pattern.matches(bytes))
        });
        ids.sort_unstable();
        (!ids.is_empty()).then(|| ids.into())
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
            let found = patterns.matching(&ChannelName::new(name).unwrap());
            found.map(|ids| ids.to_vec()).unwrap_or_default()
        };
        assert_eq!(find("a/b"), [ids[0], ids[1], ids[2], ids[3]]);
        assert_eq!(find("a/x/c"), [ids[0], ids[4], ids[5]]);
        assert_eq!(find("x"), [ids[0]]);
        patterns.unlisten(ids[0], 0, 5);
        assert_eq!(patterns.forget(5), Some(60_005));
        assert_eq!(patterns.forget(60_005), None);
        assert_eq!(patterns.matching(&ChannelName::new("x").unwrap()), None);
    }
}
