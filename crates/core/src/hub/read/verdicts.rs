//! What was found out without the lock, for a page that begins with a publication too costly to compare within it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::channel::ChannelName;
use crate::hub::held::HOLD;
use crate::pattern::Pattern;

/// Does this pattern match this name? As far as that was asked.
#[derive(Default)]
pub(in crate::hub) struct Verdicts(HashMap<(Arc<Pattern>, ChannelName), bool>);

/// The work on a page in one hold of the lock.
pub(in crate::hub) struct Work<'v> {
    /// What is known before.
    pub(super) verdicts: &'v Verdicts,
    /// Steps done.
    pub(in crate::hub) steps: usize,
    /// At so many the page ends, once it has come any further.
    pub(super) until: usize,
    /// What has to be known first.
    pub(in crate::hub) unknown: Vec<(Arc<Pattern>, ChannelName)>,
}

impl<'v> Work<'v> {
    pub(in crate::hub) fn new(verdicts: &'v Verdicts) -> Self {
        Self {
            verdicts,
            steps: 0,
            until: HOLD,
            unknown: Vec::new(),
        }
    }
}

impl Verdicts {
    /// Compares, without the lock.
    pub(in crate::hub) fn learn(&mut self, unknown: Vec<(Arc<Pattern>, ChannelName)>) {
        for (pattern, name) in unknown {
            let matches = pattern.matches_name(&name);
            self.0.insert((pattern, name), matches);
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
        self.0.get(&(pattern.clone(), name.clone())).copied()
    }
}
