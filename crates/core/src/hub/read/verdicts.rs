//! What was found out without the lock, for a page that begins with a publication too costly to compare within it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::channel::ChannelName;
use crate::hub::held::HOLD;
use crate::pattern::Pattern;

/// Does this pattern match this name? As far as that was asked. Both are told by where they are in memory, and kept, so that
/// nothing else comes to be there: a look costs the same however long they are. The same text elsewhere is another one, and
/// is compared again.
#[derive(Default)]
pub(in crate::hub) struct Verdicts(FxHashMap<(usize, usize), Verdict>);

struct Verdict {
    matches: bool,
    _kept: (Arc<Pattern>, ChannelName),
}

fn place(pattern: &Arc<Pattern>, name: &ChannelName) -> (usize, usize) {
    (Arc::as_ptr(pattern).addr(), name.as_bytes().as_ptr().addr())
}

/// The work on a page in one hold of the lock.
pub(in crate::hub) struct Work<'v> {
    /// What is known before.
    pub(super) verdicts: &'v Verdicts,
    /// Steps done.
    pub(in crate::hub) steps: usize,
    /// At so many the page ends, once it has come any further.
    pub(super) until: usize,
    /// The page has ended early, since others wait for the lock.
    pub(in crate::hub) gave_way: bool,
    /// What has to be known first.
    pub(in crate::hub) unknown: Vec<(Arc<Pattern>, ChannelName)>,
}

impl<'v> Work<'v> {
    pub(in crate::hub) fn new(verdicts: &'v Verdicts) -> Self {
        Self {
            verdicts,
            steps: 0,
            until: HOLD,
            gave_way: false,
            unknown: Vec::new(),
        }
    }
}

impl Verdicts {
    /// Compares, without the lock.
    pub(in crate::hub) fn learn(&mut self, unknown: Vec<(Arc<Pattern>, ChannelName)>) {
        for (pattern, name) in unknown {
            let matches = pattern.matches_name(&name);
            let at = place(&pattern, &name);
            let verdict = Verdict {
                matches,
                _kept: (pattern, name),
            };
            self.0.insert(at, verdict);
        }
    }

    pub(super) fn matches(&self, pattern: &Arc<Pattern>, name: &ChannelName) -> bool {
        let known = self.known(pattern, name);
        known.unwrap_or_else(|| pattern.matches_name(name))
    }

    /// The steps that it takes to compare each name with each pattern.
    pub(super) fn steps<'a>(
        &self,
        patterns: &[Arc<Pattern>],
        names: impl Iterator<Item = &'a ChannelName>,
    ) -> usize {
        let of = |name: &ChannelName, pattern| match self.known(pattern, name) {
            Some(_) => 1,
            None => pattern.steps(name.as_bytes().len()),
        };
        names
            .map(|name| patterns.iter().map(|pattern| of(name, pattern)).sum::<usize>())
            .sum()
    }

    fn known(&self, pattern: &Arc<Pattern>, name: &ChannelName) -> Option<bool> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&place(pattern, name)).map(|verdict| verdict.matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_known_of_what_was_compared_and_not_of_a_copy() {
        let pattern = Arc::new(Pattern::new("**a*b*", 100).unwrap());
        let text = "a".repeat(8_000);
        let [name, copy] = [(); 2].map(|()| ChannelName::new(&text).unwrap());
        let mut verdicts = Verdicts::default();
        let steps =
            |verdicts: &Verdicts, name| verdicts.steps(std::slice::from_ref(&pattern), std::iter::once(name));
        assert!(steps(&verdicts, &name) > 100);
        verdicts.learn(vec![(pattern.clone(), name.clone())]);
        assert_eq!(steps(&verdicts, &name), 1);
        assert!(!verdicts.matches(&pattern, &name));
        // To find out that it is the same would take as long as its name.
        assert!(steps(&verdicts, &copy) > 100);
        assert!(!verdicts.matches(&pattern, &copy));
    }
}
