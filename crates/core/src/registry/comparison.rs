//! A name and the patterns that it has to be compared with, taken out of the table: nobody waits while that is done.

use std::sync::Arc;

use crate::channel::ChannelName;
use crate::pattern::Pattern;

/// See the module. Made by [`Patterns::comparison`](super::Patterns::comparison), and given back to
/// [`Patterns::compared`](super::Patterns::compared).
#[derive(Debug)]
pub struct Comparison {
    name: ChannelName,
    /// The newest pattern that the name had been compared with before, and will have been afterwards.
    span: (u32, u32),
    /// How many patterns had left before.
    removed: u64,
    patterns: Vec<(u32, Arc<Pattern>)>,
    /// Those that match.
    found: Vec<u32>,
}

impl Comparison {
    pub(super) fn new(
        name: ChannelName,
        span: (u32, u32),
        removed: u64,
        patterns: Vec<(u32, Arc<Pattern>)>,
    ) -> Self {
        Self {
            name,
            span,
            removed,
            patterns,
            found: Vec::new(),
        }
    }

    /// Compares. Returns the steps that it took, see [`Pattern::steps`].
    // Not inlined: so that what is done without the lock can be told apart where instructions are counted.
    #[inline(never)]
    pub fn run(&mut self) -> usize {
        let (name, length) = (&self.name, self.name.as_bytes().len());
        let mut steps = 0;
        // Let go here as well: that takes its time where there are many.
        for (id, pattern) in std::mem::take(&mut self.patterns) {
            steps += pattern.steps(length);
            if pattern.matches_name(name) {
                self.found.push(id);
            }
        }
        steps
    }

    /// How many patterns were found to match.
    pub fn matching(&self) -> usize {
        self.found.len()
    }

    pub(super) fn span(&self) -> (u32, u32) {
        self.span
    }

    pub(super) fn removed(&self) -> u64 {
        self.removed
    }

    pub(super) fn found(self) -> Vec<u32> {
        self.found
    }
}
