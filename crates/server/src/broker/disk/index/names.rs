//! Channels by name. The name itself is with the channel: the table has a keyed hash of it and the first of a chain.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use cometserver_core::channel::Realm;
use rustc_hash::FxBuildHasher;
use slab::Slab;

use super::{Channel, Slot};

const NONE: u32 = u32::MAX;

/// See the module. Hashed with a random key, so that nobody makes names that collide; the table then need not hash again.
#[derive(Default)]
pub(super) struct Names {
    first: HashMap<u64, Slot, FxBuildHasher>,
    hasher: RandomState,
}

impl Names {
    pub(super) fn find(&self, realm: Realm, name: &[u8], channels: &Slab<Channel>) -> Option<Slot> {
        let mut slot = *self.first.get(&self.hash(realm, name))?;
        while slot != NONE {
            let channel = &channels[slot as usize];
            if channel.name.realm() == realm && channel.name.as_bytes() == name {
                return Some(slot);
            }
            slot = channel.next;
        }
        None
    }

    pub(super) fn insert(&mut self, slot: Slot, channels: &mut Slab<Channel>) {
        let name = &channels[slot as usize].name;
        let hash = self.hash(name.realm(), name.as_bytes());
        channels[slot as usize].next = self.first.insert(hash, slot).unwrap_or(NONE);
    }

    pub(super) fn remove(&mut self, slot: Slot, channels: &mut Slab<Channel>) {
        let (name, next) = (&channels[slot as usize].name, channels[slot as usize].next);
        let hash = self.hash(name.realm(), name.as_bytes());
        let Some(&first) = self.first.get(&hash) else {
            return;
        };
        if first == slot {
            match next {
                NONE => self.first.remove(&hash),
                next => self.first.insert(hash, next),
            };
            return;
        }
        let mut before = first;
        while before != NONE {
            let following = channels[before as usize].next;
            if following == slot {
                channels[before as usize].next = next;
                return;
            }
            before = following;
        }
    }

    fn hash(&self, realm: Realm, name: &[u8]) -> u64 {
        self.hasher.hash_one((realm, name))
    }
}
