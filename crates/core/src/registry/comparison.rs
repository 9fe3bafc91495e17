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
    patterns: Vec<(u32, Arc<Pattern>)>,
    /// Those that match.
    found: Vec<u32>,
}

impl Comparison {
    pub(super) fn new(name: ChannelName, span: (u32, u32), patterns: Vec<(u32, Arc<Pattern>)>) -> Self {
        Self {
            name,
            span,
            patterns,
            found: Vec::new(),
        }
    }

    /// Compares. Returns the steps that it took, see [`Pattern::steps`].
    // Not inlined: so that what is done without the lock can be told apart where instructions are counted.
    #[inline(never)]
    pub fn run(&mut self) -> usize {
        let (name, length) = (&self.name, self.name.as_bytes().len());
        let matching = self.patterns.iter();
        let matching = matching.filter(|(_, pattern)| pattern.matches_name(name));
        self.found = matching.map(|(id, _)| *id).collect();
        self.patterns
            .iter()
            .map(|(_, pattern)| pattern.steps(length))
            .sum()
    }

    /// How many patterns there are to compare.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    pub(super) fn span(&self) -> (u32, u32) {
        self.span
    }

    pub(super) fn found(self) -> Vec<u32> {
        self.found
    }
}
