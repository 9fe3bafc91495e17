//! Lists in what a client says, read no further than they may go.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{MAX_TAGS, RequestError};

/// Texts as a client lists them, one or several, not read yet: there may be more than anybody may name.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Names<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl<'a> Names<'a> {
    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_none_or(|raw| matches!(raw.get(), "null" | "[]"))
    }

    /// All of them, in their order. What is beyond `most` is not looked at.
    ///
    /// # Errors
    /// [`RequestError::TooMany`], or [`RequestError::Json`] if it is no list of texts.
    pub fn read(&self, most: usize) -> Result<Vec<Cow<'a, str>>, RequestError> {
        let Some(raw) = self.0 else { return Ok(Vec::new()) };
        let mut reader = ReadNames {
            names: Vec::new(),
            most,
            exceeded: false,
        };
        let read = serde_json::Deserializer::from_str(raw.get()).deserialize_any(&mut reader);
        if reader.exceeded {
            return Err(RequestError::TooMany(most));
        }
        read.map(|()| reader.names).map_err(RequestError::Json)
    }
}

/// Reads [`Names`], and stops at the first that is too many.
struct ReadNames<'a> {
    names: Vec<Cow<'a, str>>,
    most: usize,
    exceeded: bool,
}

impl<'a> ReadNames<'a> {
    fn add<E: de::Error>(&mut self, name: Cow<'a, str>) -> Result<(), E> {
        self.exceeded = self.names.len() >= self.most;
        if self.exceeded {
            return Err(E::custom("too many names"));
        }
        self.names.push(name);
        Ok(())
    }
}

impl<'a> Visitor<'a> for &mut ReadNames<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'a str) -> Result<(), E> {
        self.add(Cow::Borrowed(name))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<(), E> {
        self.add(Cow::Owned(name.to_owned()))
    }

    fn visit_seq<A: de::SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        while let Some(Name(name)) = list.next_element()? {
            self.add(name)?;
        }
        Ok(())
    }
}

/// Free pairs, sorted by name. What is beyond the most that are allowed is not looked at.
pub(super) fn tags(raw: &RawValue) -> Result<BTreeMap<String, String>, RequestError> {
    struct Tags {
        exceeded: bool,
    }
    impl<'de> Visitor<'de> for &mut Tags {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut tags = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                // It is a key of an object that is shown to all: see `json::check`.
                if name.starts_with('\0') {
                    return Err(de::Error::custom(
                        "a tag's name begins with U+0000, which some readers of JSON refuse",
                    ));
                }
                self.exceeded = tags.insert(name, value).is_none() && tags.len() > MAX_TAGS;
                if self.exceeded {
                    return Err(de::Error::custom("too many tags"));
                }
            }
            Ok(tags)
        }
    }
    let mut visitor = Tags { exceeded: false };
    let read = serde_json::Deserializer::from_str(raw.get()).deserialize_map(&mut visitor);
    if visitor.exceeded {
        return Err(RequestError::TooLarge(format!(
            "too many tags: at most {MAX_TAGS} are allowed"
        )));
    }
    Ok(read?)
}
