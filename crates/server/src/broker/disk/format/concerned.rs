//! Which channels a loss may concern, as bytes.

use cometserver_core::channel::{ChannelName, Realm};
use cometserver_core::namespace::{Durability, Namespaces};
use cometserver_core::pattern::Pattern;

use super::bytes::{Bytes, put_slice, put_varint};

/// Channels told apart as namespaces are: the first rule whose pattern matches decides.
///
/// Written down whole, as the configuration may be another one when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Concerned {
    /// No channel.
    #[default]
    Nobody,
    /// Every channel.
    Everybody,
    /// The channels that these rules name.
    Some(Rules),
}

/// Patterns with whether they concern what they match, in order, and the same where none matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    listed: Vec<(Pattern, bool)>,
    fallback: bool,
}

const NOBODY: u8 = 0;
const EVERYBODY: u8 = 1;
const RULES: u8 = 2;

impl Concerned {
    /// The channels whose publishers are answered before their publications are safe.
    pub fn buffered(namespaces: &Namespaces) -> Self {
        let is_buffered = |durability| durability == Durability::Buffered;
        let fallback = is_buffered(namespaces.fallback.durability);
        let listed = namespaces.listed.iter();
        let mut listed: Vec<(Pattern, bool)> = listed
            .map(|(pattern, namespace)| (pattern.clone(), is_buffered(namespace.durability)))
            .collect();
        // A rule that says what is so without it.
        while listed.pop_if(|(_, own)| *own == fallback).is_some() {}
        match (listed.is_empty(), fallback) {
            (true, false) => Self::Nobody,
            (true, true) => Self::Everybody,
            (false, fallback) => Self::Some(Rules { listed, fallback }),
        }
    }

    /// Those of both; of two different sets more than that: all channels.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Nobody, one) | (one, Self::Nobody) => one.clone(),
            (one, other) if one == other => one.clone(),
            _ => Self::Everybody,
        }
    }

    /// Is the channel one of them?
    pub fn concerns(&self, name: &ChannelName) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::Some(rules) => rules
                .listed
                .iter()
                .find(|(pattern, _)| pattern.matches_name(name))
                .map_or(rules.fallback, |(_, own)| *own),
        }
    }

    /// May one of them be among the channels that this pattern matches? `true` also where that is only not known.
    pub fn may_concern(&self, pattern: &Pattern) -> bool {
        let rules = match self {
            Self::Nobody => return false,
            Self::Everybody => return true,
            Self::Some(rules) => rules,
        };
        for (rule, own) in &rules.listed {
            let apart = |one: &[u8], other: &[u8]| !one.starts_with(other) && !other.starts_with(one);
            if rule.realm() != pattern.realm() || apart(rule.literal_prefix(), pattern.literal_prefix()) {
                continue;
            }
            if *own || rule.covers(pattern) {
                return *own;
            }
        }
        rules.fallback
    }

    /// Appends the bytes of it.
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::Nobody => to.push(NOBODY),
            Self::Everybody => to.push(EVERYBODY),
            Self::Some(rules) => {
                to.extend_from_slice(&[RULES, u8::from(rules.fallback)]);
                put_varint(to, rules.listed.len() as u64);
                for (pattern, own) in &rules.listed {
                    to.push(u8::from(*own));
                    put_varint(to, u64::from(pattern.realm().0));
                    put_slice(to, pattern.as_bytes());
                }
            }
        }
    }

    /// Reads it; none if it makes no sense.
    pub(super) fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        match bytes.u8()? {
            NOBODY => return Some(Self::Nobody),
            EVERYBODY => return Some(Self::Everybody),
            RULES => {}
            _ => return None,
        }
        let fallback = bytes.u8()? != 0;
        let (mut listed, mut is_known) = (Vec::new(), true);
        for _ in 0..bytes.count()? {
            let own = bytes.u8()? != 0;
            let realm = Realm(u16::try_from(bytes.varint()?).ok()?);
            match Pattern::in_realm(realm, bytes.slice()?, usize::MAX) {
                Ok(pattern) => listed.push((pattern, own)),
                // One that this build does not take as a pattern: whom it concerns is not known.
                Err(_) => is_known = false,
            }
        }
        Some(match is_known {
            true => Self::Some(Rules { listed, fallback }),
            false => Self::Everybody,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cometserver_core::namespace::Namespace;

    use super::*;

    fn namespaces(listed: &[(&str, Durability)], fallback: Durability) -> Namespaces {
        let with = |durability| Namespace {
            durability,
            ..Namespace::default()
        };
        let pattern = |text: &str| Pattern::new(text, 64).unwrap();
        let mut namespaces = Namespaces::uniform(with(fallback));
        let listed = listed.iter();
        namespaces.listed = listed
            .map(|(text, durability)| (pattern(text), Arc::new(with(*durability))))
            .collect();
        namespaces
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    #[test]
    fn the_channels_of_buffered_namespaces_are_concerned_and_come_back() {
        let (buffered, committed) = (Durability::Buffered, Durability::Committed);
        let own = Concerned::buffered(&namespaces(
            &[
                ("a/safe/**", committed),
                ("a/**", buffered),
                ("b/**", Durability::Memory),
            ],
            committed,
        ));
        assert!(own.concerns(&name("a/1")) && !own.concerns(&name("a/safe/1")));
        assert!(!own.concerns(&name("b/1")) && !own.concerns(&name("c")));
        let may = |text: &str| own.may_concern(&Pattern::new(text, 64).unwrap());
        assert!(may("**") && may("a/*") && may("*/1"));
        assert!(!may("a/safe/*") && !may("b/**"));
        let mut bytes = Vec::new();
        own.put(&mut bytes);
        assert_eq!(Concerned::decode(&mut Bytes(&bytes)), Some(own.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(Concerned::decode(&mut Bytes(&bytes[..cut])), None);
        }
        assert_eq!(own.or(&Concerned::Nobody), own);
        assert_eq!(own.or(&own), own);
        let all = Concerned::buffered(&namespaces(&[("x", buffered)], buffered));
        assert_eq!(
            (&all, own.or(&all)),
            (&Concerned::Everybody, Concerned::Everybody)
        );
        let none = Concerned::buffered(&namespaces(&[("x", committed)], committed));
        assert_eq!(none, Concerned::Nobody);
    }
}
