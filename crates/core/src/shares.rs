//! Who gives way when a ceiling is reached: the realm with the most, and in it the channel with the largest share, so that
//! one flood does not shorten everybody's window.

use std::collections::{BTreeMap, BinaryHeap};

use crate::channel::{ChannelId, Realm};

/// A channel's share, and the last share under which it was listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    bytes: usize,
    listed: usize,
}

#[derive(Debug, Default)]
struct RealmShare {
    total: usize,
    /// Candidates by the share under which they were listed. A channel is listed anew when its share has doubled; what
    /// is out of date is found when it is drawn. So an append costs nothing here most of the time.
    heap: BinaryHeap<(usize, ChannelId)>,
}

/// The shares of all channels in one bounded resource, in bytes.
#[derive(Debug, Default)]
pub struct Shares {
    total: usize,
    realms: BTreeMap<Realm, RealmShare>,
}

impl Shares {
    /// All shares together, in bytes.
    pub fn total(&self) -> usize {
        self.total
    }

    /// A channel's share grew.
    pub fn grow(&mut self, realm: Realm, channel: ChannelId, share: &mut Share, by: usize) {
        self.total += by;
        share.bytes += by;
        let realm = self.realms.entry(realm).or_default();
        realm.total += by;
        if share.bytes > share.listed.saturating_mul(2) {
            share.listed = share.bytes;
            realm.heap.push((share.bytes, channel));
        }
    }

    /// A channel's share shrank.
    pub fn shrink(&mut self, realm: Realm, share: &mut Share, by: usize) {
        self.total -= by;
        share.bytes -= by;
        if let Some(realm) = self.realms.get_mut(&realm) {
            realm.total -= by;
        }
        if share.bytes == 0 {
            share.listed = 0;
        }
    }

    /// The channel that should give way first, within a factor of two. `share` looks up a channel's share in `table`.
    pub fn largest<T>(
        &mut self,
        table: &mut T,
        share: for<'a> fn(&'a mut T, ChannelId) -> Option<&'a mut Share>,
    ) -> Option<ChannelId> {
        loop {
            let realm = self
                .realms
                .values_mut()
                .filter(|r| !r.heap.is_empty())
                .max_by_key(|r| r.total)?;
            let (listed, channel) = realm.heap.pop()?;
            match share(table, channel) {
                // Gone, or listed anew since.
                None => {}
                Some(share) if share.listed != listed => {}
                Some(share) if share.bytes * 2 < listed => {
                    share.listed = share.bytes;
                    if share.bytes > 0 {
                        realm.heap.push((share.bytes, channel));
                    }
                }
                Some(_) => {
                    realm.heap.push((listed, channel));
                    return Some(channel);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_largest_share_of_the_largest_realm_gives_way_first() {
        let mut shares = Shares::default();
        let mut table: HashMap<ChannelId, (Realm, Share)> = HashMap::new();
        let id = |slot| ChannelId { slot, generation: 0 };
        for (slot, realm, bytes) in [(1, 0, 100), (2, 0, 900), (3, 1, 500), (4, 1, 700), (5, 1, 10)] {
            let entry = table.entry(id(slot)).or_insert((Realm(realm), Share::default()));
            for _ in 0..bytes {
                shares.grow(Realm(realm), id(slot), &mut entry.1, 1);
            }
        }
        assert_eq!(shares.total(), 2210);
        let mut taken = Vec::new();
        while let Some(channel) = shares.largest(&mut table, |t, id| t.get_mut(&id).map(|e| &mut e.1)) {
            let (realm, share) = table.get_mut(&channel).unwrap();
            let bytes = share.bytes;
            shares.shrink(*realm, share, bytes);
            taken.push(channel.slot);
        }
        assert_eq!(shares.total(), 0);
        assert_eq!(taken.len(), 5);
        assert_eq!(
            taken[..2],
            [4, 2],
            "realm 1 holds 1210 of 2210, then realm 0 holds 1000"
        );
    }
}
