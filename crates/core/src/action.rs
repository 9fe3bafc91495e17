//! What somebody may do, and a small set of such things.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing a token or key may allow. A closed set: a new right is a new variant, never free text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Action {
    /// Listen to a channel.
    Subscribe,
    /// Send to a channel.
    Publish,
    /// Read what a channel keeps.
    History,
    /// See who is on a channel.
    Presence,
    /// Change what is kept: forget histories and retained values, list channels.
    Admin,
    /// Run the server: stop it, reload it, read its counters.
    Ops,
}

impl Action {
    /// Every action, in the order in which a set lists them.
    pub const ALL: [Action; 6] = [
        Action::Subscribe,
        Action::Publish,
        Action::History,
        Action::Presence,
        Action::Admin,
        Action::Ops,
    ];

    /// The word that stands for this action in tokens, keys and texts.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Subscribe => "subscribe",
            Action::Publish => "publish",
            Action::History => "history",
            Action::Presence => "presence",
            Action::Admin => "admin",
            Action::Ops => "ops",
        }
    }

    /// The action with this name (lower case, exact), if there is one.
    pub fn from_name(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of [`Action`]s in one byte.
///
/// In JSON a list of names. Reading ignores names this version does not know, so that a token made for a newer
/// server still works here, with the rights that exist here; an unknown name can never grant anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Actions(u8);

impl Actions {
    /// The set that allows nothing.
    pub const NONE: Actions = Actions(0);

    /// Whether `action` is in the set.
    pub const fn contains(self, action: Action) -> bool {
        self.0 & action.bit() != 0
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds `action`.
    pub fn insert(&mut self, action: Action) {
        self.0 |= action.bit();
    }

    /// The actions of the set, in the order of [`Action::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL
            .into_iter()
            .filter(move |&action| self.contains(action))
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut set = Actions::NONE;
        actions.into_iter().for_each(|action| set.insert(action));
        set
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Actions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Actions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Actions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of action names such as [\"subscribe\"]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Actions, A::Error> {
                let mut set = Actions::NONE;
                while let Some(name) = names.next_element::<std::borrow::Cow<'de, str>>()? {
                    if let Some(action) = Action::from_name(&name) {
                        set.insert(action);
                    }
                }
                Ok(set)
            }
        }

        deserializer.deserialize_seq(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_exactly_what_was_put_in() {
        for chosen in 0..1u8 << Action::ALL.len() {
            let wanted: Vec<Action> = Action::ALL
                .into_iter()
                .filter(|&action| chosen & (1 << action as u8) != 0)
                .collect();
            let set: Actions = wanted.iter().copied().collect();
            assert_eq!(set.iter().collect::<Vec<_>>(), wanted);
            for action in Action::ALL {
                assert_eq!(set.contains(action), wanted.contains(&action));
            }
            assert_eq!(set.is_empty(), wanted.is_empty());
        }
    }

    #[test]
    fn a_set_travels_as_a_list_of_names() {
        let set: Actions = [Action::Publish, Action::Subscribe, Action::Publish]
            .into_iter()
            .collect();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"["subscribe","publish"]"#);
        assert_eq!(serde_json::from_str::<Actions>(&text).unwrap(), set);
    }

    #[test]
    fn the_names_are_the_same_in_every_place() {
        for action in Action::ALL {
            assert_eq!(serde_json::to_value(action).unwrap(), action.name());
            assert_eq!(Action::from_name(action.name()), Some(action));
            assert_eq!(action.to_string(), action.name());
        }
        assert_eq!(Action::from_name("Subscribe"), None);
    }

    #[test]
    fn an_unknown_name_is_passed_over_and_grants_nothing() {
        let set: Actions = serde_json::from_str(r#"["teleport","publish","s\u0075bscribe",""]"#).unwrap();
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [Action::Subscribe, Action::Publish]
        );
        assert!(
            serde_json::from_str::<Actions>(r#"["teleport"]"#)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn something_that_is_no_list_of_names_is_refused() {
        for text in [r#""publish""#, "7", "[7]", "null", "{}", "[null]"] {
            assert!(serde_json::from_str::<Actions>(text).is_err(), "{text}");
        }
    }
}
