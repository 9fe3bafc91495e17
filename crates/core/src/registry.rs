//! Who listens to what, exactly and by pattern; which shards a publication concerns.

mod comparison;
mod literals;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::Time;
use crate::channel::ChannelName;
use crate::kept;
use crate::log::Trimmed;
use crate::pattern::Pattern;
use crate::quota::Payer;
use crate::tidy::{Table, Tidy};

pub use comparison::Comparison;
use literals::Literals;

/// How long a pattern without listeners stays: whoever returns within this time is told of gaps exactly.
const LINGER: Time = 60_000;

/// The same when more than half of the patterns that may be are there: nobody shall take them from others for long.
const LINGER_CROWDED: Time = 5_000;

/// So many new patterns are compared with a name one by one; of more, candidates are looked up.
const FEW: u32 = 32;

/// So many patterns are forgotten at a time.
const FORGOTTEN: usize = 128;

/// So many patterns can be looked up, or take note of something, in a step: see [`Pattern::steps`].
pub const COUNTED: usize = 4;

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
    idle: VecDeque<(Time, u32)>,
    /// How many have left.
    removed: u64,
    /// What all of them weigh, see [`Pattern::weight`].
    weight: usize,
    /// What they may weigh.
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

    /// All patterns, with what their channels have let go.
    pub fn kept(&self) -> Vec<kept::Listened> {
        let entries = self.entries.values().map(|entry| kept::Listened {
            realm: entry.pattern.realm(),
            text: entry.pattern.as_bytes().into(),
            trimmed: entry.trimmed,
        });
        entries.collect()
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
    /// pattern not known so far. None: with it, all would weigh more than `limit`, see [`Pattern::weight`].
    pub fn listen(
        &mut self,
        pattern: &Arc<Pattern>,
        shard: u8,
        (trimmed, trimmed_news): (Trimmed, Trimmed),
        limit: usize,
    ) -> Option<u32> {
        self.limit = limit;
        let weight = pattern.weight();
        let id = match self.by_text.get(pattern).copied() {
            Some(id) => id,
            None if !self.make_room(weight) => return None,
            None => {
                self.next += 1;
                self.weight += weight;
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
                self.idle.push_back((now, id));
            }
        }
    }

    /// Forgets patterns that nobody has listened to for a while, a bounded number of them. Returns when to ask again.
    pub fn forget(&mut self, now: Time) -> Option<Time> {
        for _ in 0..FORGOTTEN {
            let Some((since, id)) = self.idle.front().copied() else {
                break;
            };
            // It was listened to again in between: it is further behind, if nobody does now.
            if self.is_idle(since, id) {
                if since.saturating_add(self.linger()) > now {
                    break;
                }
                self.remove(id);
            }
            self.idle.pop_front();
        }
        self.idle.tidy();
        self.deadline()
    }

    /// Whoever has left gives way at once to a pattern of this weight. Is there room for it?
    fn make_room(&mut self, weight: usize) -> bool {
        for _ in 0..FORGOTTEN {
            if self.weight + weight <= self.limit {
                return true;
            }
            let Some((since, id)) = self.idle.pop_front() else {
                break;
            };
            if self.is_idle(since, id) {
                self.remove(id);
            }
        }
        self.weight + weight <= self.limit
    }

    fn is_idle(&self, since: Time, id: u32) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.idle == Some(since))
    }

    fn linger(&self) -> Time {
        if self.weight > self.limit / 2 {
            LINGER_CROWDED
        } else {
            LINGER
        }
    }

    /// When [`Patterns::forget`] has something to do, at the earliest.
    pub fn deadline(&self) -> Option<Time> {
        let linger = self.linger();
        self.idle.front().map(|(since, _)| since.saturating_add(linger))
    }

    fn remove(&mut self, id: u32) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_text.remove(&entry.pattern);
            let realm = entry.pattern.realm();
            self.literals(&entry.pattern)
                .remove(realm, literal(&entry.pattern), id);
            self.weight -= entry.pattern.weight();
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

    /// Has the name been compared with all patterns there are?
    pub fn is_current(&self, matches: &Matches) -> bool {
        matches.newest == self.next && matches.removed == self.removed
    }

    /// Brings a name's matches up to date: it is compared with the patterns that are new to it only, and those that have
    /// left are dropped. So what one client does to the table costs the others what it changed, not all there is. Returns
    /// the steps that took, see [`Pattern::steps`].
    ///
    /// # Errors
    /// It would take more than `most` steps: nothing has changed. These patterns may match as well, and have to be compared
    /// where nobody waits: see [`Patterns::comparison`].
    pub fn update(&self, name: &ChannelName, matches: &mut Matches, most: usize) -> Result<usize, Vec<u32>> {
        if self.is_current(matches) {
            return Ok(0);
        }
        let mut new = self.candidates(name, matches.newest);
        let length = name.as_bytes().len();
        let counted = (new.len() + matches.ids.as_ref().map_or(0, |ids| ids.len())) / COUNTED;
        let mut steps = counted;
        // No further than it takes to know.
        let mut comparisons = self.of(&new).map(|(_, pattern)| pattern.steps(length));
        while steps <= most {
            let Some(more) = comparisons.next() else { break };
            steps += more;
        }
        drop(comparisons);
        if steps > most {
            return Err(new);
        }
        new.retain(|id| {
            self.entries
                .get(id)
                .is_some_and(|entry| entry.pattern.matches_name(name))
        });
        self.put(matches, new, self.next, self.removed);
        Ok(steps)
    }

    /// What has to be compared with a name to bring its matches up to date, to be done without the table.
    pub fn comparison(&self, name: &ChannelName, matches: &Matches, candidates: &[u32]) -> Comparison {
        Comparison::new(
            name.clone(),
            (matches.newest, self.next),
            self.removed,
            self.of(candidates)
                .map(|(id, pattern)| (id, pattern.clone()))
                .collect(),
        )
    }

    /// Takes over what a comparison has found, unless somebody else was faster.
    pub fn compared(&self, matches: &mut Matches, comparison: Comparison) {
        let ((from, until), removed) = (comparison.span(), comparison.removed());
        if matches.newest == from {
            self.put(matches, comparison.found(), until, removed);
        }
    }

    /// Those of the patterns that are still there.
    fn of<'a>(&'a self, ids: &'a [u32]) -> impl Iterator<Item = (u32, &'a Arc<Pattern>)> {
        ids.iter()
            .filter_map(|id| Some((*id, &self.entries.get(id)?.pattern)))
    }

    /// These match as well, and all others up to `newest` do not; found when `removed` patterns had left.
    fn put(&self, matches: &mut Matches, mut new: Vec<u32>, newest: u32, removed: u64) {
        let is_there = |id: &u32| self.entries.contains_key(id);
        if removed != self.removed {
            new.retain(is_there);
        }
        let known = matches.ids.iter().flat_map(|ids| ids.iter());
        let dropped = matches.removed != self.removed && known.clone().any(|id| !is_there(id));
        if dropped || !new.is_empty() {
            let kept = known.copied().filter(|id| !dropped || is_there(id));
            let ids: Arc<[u32]> = kept.chain(new).collect();
            matches.ids = (!ids.is_empty()).then_some(ids);
        }
        (matches.newest, matches.removed) = (newest, self.removed);
    }

    /// The patterns after a number that a name may match, in order.
    fn candidates(&self, name: &ChannelName, after: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        if self.entries.is_empty() {
            return ids;
        }
        let bytes = name.as_bytes();
        if self.next - after <= FEW {
            ids.extend((after + 1..=self.next).filter(|id| self.entries.contains_key(id)));
        } else {
            self.prefixes
                .candidates(name.realm(), after, |n| bytes.get(..n), &mut ids);
            let end = |n| bytes.len().checked_sub(n).map(|from| &bytes[from..]);
            self.suffixes.candidates(name.realm(), after, end, &mut ids);
            ids.sort_unstable();
        }
        ids
    }
}

fn by_suffix(pattern: &Pattern) -> bool {
    pattern.literal_suffix().len() > pattern.literal_prefix().len()
}

/// What is looked up of a pattern: as much of its longer literal end as the table takes.
fn literal(pattern: &Pattern) -> &[u8] {
    if by_suffix(pattern) {
        let suffix = pattern.literal_suffix();
        &suffix[suffix.len().saturating_sub(literals::LONGEST)..]
    } else {
        let prefix = pattern.literal_prefix();
        &prefix[..prefix.len().min(literals::LONGEST)]
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
            patterns.update(&name, &mut found, usize::MAX).unwrap();
            found.ids.map(|ids| ids.to_vec()).unwrap_or_default()
        };
        assert_eq!(find("a/b"), [ids[0], ids[1], ids[2], ids[3]]);
        assert_eq!(find("a/x/c"), [ids[0], ids[4], ids[5]]);
        assert_eq!(find("x"), [ids[0]]);
        let mut found = Matches::default();
        let x = ChannelName::new("x").unwrap();
        patterns.update(&x, &mut found, usize::MAX).unwrap();
        patterns.unlisten(ids[0], 0, 5);
        assert_eq!(patterns.forget(5), Some(60_005));
        assert_eq!(patterns.forget(60_005), None);
        patterns.update(&x, &mut found, usize::MAX).unwrap();
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
                        patterns.listen(&pattern, 0, Default::default(), 9_999).unwrap(),
                        pattern,
                    ));
                }
            }
            let before = matches.newest;
            let looked = patterns.candidates(&name, before);
            assert!(looked.iter().all(|id| *id > before));
            // Where that is too much at a time it is compared elsewhere, and comes to the same.
            let mut elsewhere = matches.clone();
            if let Err(candidates) = patterns.update(&name, &mut elsewhere, 0) {
                let mut comparison = patterns.comparison(&name, &elsewhere, &candidates);
                comparison.run();
                patterns.compared(&mut elsewhere, comparison);
            } else {
                assert!(round > 2, "no pattern of that round may match");
            }
            patterns.update(&name, &mut matches, usize::MAX).unwrap();
            assert_eq!(matches.ids, elsewhere.ids);
            assert!(patterns.is_current(&elsewhere));
            let mut expected: Vec<u32> = all
                .iter()
                .filter(|(_, pattern)| pattern.matches_name(&name))
                .map(|(id, _)| *id)
                .collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(matches.ids.as_deref().unwrap_or_default(), expected);
            let kept = matches.ids.clone();
            patterns.update(&name, &mut matches, 0).unwrap();
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

    #[test]
    fn patterns_that_have_to_be_searched_for_count_as_several() {
        let mut patterns = Patterns::default();
        let mut listen = |text: &str| {
            let pattern = Arc::new(Pattern::new(text, 99).unwrap());
            patterns.listen(&pattern, 0, Default::default(), 20)
        };
        assert!(listen("**a**").is_some());
        assert!(listen("**b**").is_some());
        assert_eq!(listen("**c**"), None, "two weigh 16 of 20");
        for text in ["a/*", "b/*", "c/*", "d/*"] {
            assert!(listen(text).is_some());
        }
        assert_eq!(listen("e/*"), None);
        assert!(listen("**a**").is_some(), "it is there already");
    }
}
