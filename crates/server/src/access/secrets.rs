//! Keys and token secrets by number, and how much is open that was opened with each.
//!
//! A grant keeps the number only. Whoever holds one whose number is not known any more has lost what it was opened with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a secret is, as far as it matters to who has shown it: what differs in any of it is another secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A token secret, by its name: a token's `kid` says it.
    Token(String),
    /// A key, which may do this.
    Key(cometserver_core::action::Actions),
}

/// The secrets of a configuration, each with its number.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    known: Vec<Known>,
    /// The latest number that was given out.
    latest: u32,
}

#[derive(Clone)]
struct Known {
    /// From 1, and never given to another secret.
    number: u32,
    kind: Kind,
    bytes: Box<[u8]>,
    /// Held requests and WebSockets that were opened with it.
    open: Arc<AtomicUsize>,
}

impl Secrets {
    /// These secrets, in this order. One that was there `before` keeps its number and its count.
    pub(super) fn after<'a>(before: &Self, secrets: impl Iterator<Item = (Kind, &'a [u8])>) -> Self {
        let mut latest = before.latest;
        let known = secrets.map(|(kind, bytes)| {
            let same = |known: &&Known| known.kind == kind && *known.bytes == *bytes;
            before.known.iter().find(same).cloned().unwrap_or_else(|| {
                latest += 1;
                Known {
                    number: latest,
                    kind,
                    bytes: bytes.into(),
                    open: Arc::default(),
                }
            })
        });
        let known = known.collect();
        Self { known, latest }
    }

    /// The number of the secret at this place of the list.
    pub(super) fn number(&self, place: usize) -> u32 {
        self.known.get(place).map_or(0, |known| known.number)
    }

    /// Does what was obtained with this secret still hold? Nothing else than a secret can be taken away: 0 always does.
    pub(super) fn knows(&self, number: u32) -> bool {
        number == 0 || self.count(number).is_some()
    }

    /// Something was opened with this secret.
    pub(super) fn opened(&self, number: u32) {
        if let Some(open) = self.count(number) {
            open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is closed. Of a secret that is gone nobody asks.
    pub(super) fn closed(&self, number: u32) {
        if let Some(open) = self.count(number) {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How much is open that was opened with secrets which `next` does not have.
    pub(super) fn lost_by(&self, next: &Self) -> usize {
        let gone = self.known.iter().filter(|known| !next.knows(known.number));
        gone.map(|known| known.open.load(Ordering::Relaxed)).sum()
    }

    fn count(&self, number: u32) -> Option<&AtomicUsize> {
        let known = self.known.iter().find(|known| known.number == number)?;
        Some(&known.open)
    }
}

/// Says how many there are, and nothing of them.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.known.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(before: &Secrets, list: &[(&str, &str)]) -> Secrets {
        let list = list
            .iter()
            .map(|(name, bytes)| (Kind::Token((*name).to_owned()), bytes.as_bytes()));
        Secrets::after(before, list)
    }

    #[test]
    fn a_secret_keeps_its_number_as_long_as_it_is_there_and_nobody_gets_it_after() {
        let first = secrets(&Secrets::default(), &[("a", "1"), ("b", "2")]);
        assert_eq!([first.number(0), first.number(1), first.number(2)], [1, 2, 0]);
        first.opened(2);
        first.opened(2);
        let second = secrets(&first, &[("b", "2"), ("c", "3")]);
        assert_eq!([second.number(0), second.number(1)], [2, 3]);
        assert_eq!(
            first.lost_by(&second),
            0,
            "nothing was open of the one that is gone"
        );
        second.closed(2);
        let third = secrets(&second, &[("a", "1"), ("b", "changed")]);
        assert_eq!(second.lost_by(&third), 1);
        assert_eq!([third.number(0), third.number(1)], [4, 5]);
        assert!(third.knows(0) && third.knows(4) && !third.knows(1) && !third.knows(2));
        third.closed(2);
        assert_eq!(third.lost_by(&Secrets::default()), 0);
    }
}
