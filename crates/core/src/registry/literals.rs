//! Literal beginnings (or ends) of patterns: a name is looked up once per length that occurs.

use std::collections::{BTreeMap, HashMap};

use crate::channel::Realm;

/// Longer literals are cut to so many bytes: with more lengths than that, looking a name up would cost more than it spares.
pub(super) const LONGEST: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Literals {
    ids: BTreeMap<Realm, HashMap<Box<[u8]>, Vec<u32>>>,
    lengths: BTreeMap<usize, usize>,
}

impl Literals {
    pub(super) fn insert(&mut self, realm: Realm, literal: &[u8], id: u32) {
        *self.lengths.entry(literal.len()).or_default() += 1;
        let ids = self.ids.entry(realm).or_default();
        ids.entry(literal.into()).or_default().push(id);
    }

    pub(super) fn remove(&mut self, realm: Realm, literal: &[u8], id: u32) {
        let Some(of_realm) = self.ids.get_mut(&realm) else {
            return;
        };
        if let Some(ids) = of_realm.get_mut(literal) {
            // In the order in which they came: numbers only rise.
            if let Ok(at) = ids.binary_search(&id) {
                ids.remove(at);
            }
            if ids.is_empty() {
                of_realm.remove(literal);
            }
        }
        if of_realm.is_empty() {
            self.ids.remove(&realm);
        }
        if let Some(count) = self.lengths.get_mut(&literal.len()) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&literal.len());
            }
        }
    }

    pub(super) fn candidates<'n>(
        &self,
        realm: Realm,
        after: u32,
        literal: impl Fn(usize) -> Option<&'n [u8]>,
        out: &mut Vec<u32>,
    ) {
        let Some(of_realm) = self.ids.get(&realm) else {
            return;
        };
        for length in self.lengths.keys() {
            let Some(literal) = literal(*length) else { break };
            if let Some(ids) = of_realm.get(literal) {
                out.extend(&ids[ids.partition_point(|id| *id <= after)..]);
            }
        }
    }
}
