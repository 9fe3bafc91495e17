//! What holds for a channel: bounds of its history, rights that need no token, durability.

use std::sync::Arc;

use crate::Time;
use crate::channel::ChannelName;
use crate::pattern::Pattern;

/// Where a namespace's publications are kept, and when their publisher is answered. Never when subscribers see them:
/// what goes to disk is shown after its commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// In memory: visible and answered at once, gone with the process unless that stops in good order.
    #[default]
    Memory,
    /// In the broker's store: the publisher is answered at once, a crash may take back what nobody has seen.
    Buffered,
    /// In the broker's store: the publisher is answered when it is safe.
    Committed,
}

impl Durability {
    /// Is it in the broker's store?
    pub fn is_stored(self) -> bool {
        self != Self::Memory
    }
}

/// The bounds of one channel's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At most so many publications.
    pub count: usize,
    /// Together at most so many bytes of memory.
    pub bytes: usize,
    /// None older than so many milliseconds.
    pub age: Time,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            count: 100,
            bytes: 1 << 20,
            age: 3_600_000,
        }
    }
}

/// What holds for the channels of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Anybody may listen and read history.
    pub public: bool,
    /// Anybody may publish.
    pub anonymous_publish: bool,
    /// Members may join, and their coming and going is told.
    pub presence: bool,
    /// Anybody may join and see the members.
    pub anonymous_presence: bool,
    /// The bounds of each channel's history.
    pub history: Bounds,
    /// Where publications are kept.
    pub durability: Durability,
}

/// The configured namespaces, in order: the first whose pattern matches a channel's name holds for it.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// Patterns and what holds where they match.
    pub listed: Vec<(Pattern, Arc<Namespace>)>,
    /// What holds where none matches.
    pub fallback: Arc<Namespace>,
}

impl Namespaces {
    /// One namespace for everything.
    pub fn uniform(namespace: Namespace) -> Self {
        Self {
            listed: Vec::new(),
            fallback: Arc::new(namespace),
        }
    }

    /// The same, but everything is kept in memory.
    #[must_use]
    pub(crate) fn in_memory(mut self) -> Self {
        let namespaces = self.listed.iter_mut().map(|(_, namespace)| namespace);
        for namespace in namespaces.chain([&mut self.fallback]) {
            if namespace.durability.is_stored() {
                Arc::make_mut(namespace).durability = Durability::Memory;
            }
        }
        self
    }

    /// Whether a channel that this pattern matches may be in the store (or else, in memory). `true` also where that is only
    /// not known.
    pub fn may_hold(&self, pattern: &Pattern, stored: bool) -> bool {
        for (rule, namespace) in &self.listed {
            let apart = |one: &[u8], other: &[u8]| !one.starts_with(other) && !other.starts_with(one);
            if rule.realm() != pattern.realm() || apart(rule.literal_prefix(), pattern.literal_prefix()) {
                continue;
            }
            if namespace.durability.is_stored() == stored {
                return true;
            }
            // The first match wins: no rule after this one holds for anything that the pattern matches.
            if rule.covers(pattern) {
                return false;
            }
        }
        self.fallback.durability.is_stored() == stored
    }

    /// The namespace of a channel.
    pub fn of(&self, channel: &ChannelName) -> &Arc<Namespace> {
        self.listed
            .iter()
            .find(|(pattern, _)| pattern.matches_name(channel))
            .map_or(&self.fallback, |(_, namespace)| namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text, 100).unwrap()
    }

    #[test]
    fn what_a_pattern_may_find_in_memory_and_in_the_store() {
        let with = |durability| {
            Arc::new(Namespace {
                durability,
                ..Namespace::default()
            })
        };
        let namespaces = Namespaces {
            listed: vec![(pattern("scratch/**"), with(Durability::Memory))],
            fallback: with(Durability::Committed),
        };
        let holds = |text| {
            let pattern = pattern(text);
            [false, true].map(|stored| namespaces.may_hold(&pattern, stored))
        };
        assert_eq!(holds("news/*"), [false, true]);
        assert_eq!(holds("scratch/*"), [true, false], "the first match wins");
        assert_eq!(holds("scratch*"), [true, true], "`scratches` as well");
        assert_eq!(holds("**"), [true, true]);
        assert_eq!(holds("s*/a"), [true, true], "what is not known is taken for true");
    }
}
