//! Who gives way when a ceiling is reached: the realm with the most, and in it the channel with the largest share, so that
//! one flood does not shorten everybody's window.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Every channel with a share, by the share under which it was listed. It is listed anew when its share has doubled, or is
    /// drawn when it has halved, so an append costs nothing here most of the time; and once only, so that a channel that fills
    /// and empties for ever leaves nothing behind.
    listed: BTreeSet<(usize, ChannelId)>,
}

/// The shares of all channels in one bounded resource, in bytes.
#[derive(Debug, Default)]
pub struct Shares {
    /// What a channel costs that has any share, besides what it keeps.
    overhead: usize,
    total: usize,
    realms: BTreeMap<Realm, RealmShare>,
}

impl Shares {
    /// No shares yet. Each channel that has one costs so many bytes more.
    pub fn with_overhead(overhead: usize) -> Self {
        Self {
            overhead,
            ..Self::default()
        }
    }

    /// All shares together, in bytes.
    pub fn total(&self) -> usize {
        self.total
    }

    /// A channel's share grew.
    pub fn grow(&mut self, realm: Realm, channel: ChannelId, share: &mut Share, by: usize) {
        let by = if share.bytes == 0 { by + self.overhead } else { by };
        self.total += by;
        share.bytes += by;
        let realm = self.realms.entry(realm).or_default();
        realm.total += by;
        if share.bytes > share.listed.saturating_mul(2) {
            realm.listed.remove(&(share.listed, channel));
            share.listed = share.bytes;
            realm.listed.insert((share.bytes, channel));
        }
    }

    /// A channel's share shrank.
    pub fn shrink(&mut self, realm: Realm, channel: ChannelId, share: &mut Share, by: usize) {
        let is_last = by > 0 && share.bytes == by + self.overhead;
        let by = if is_last { share.bytes } else { by };
        self.total -= by;
        share.bytes -= by;
        if let Some(realm) = self.realms.get_mut(&realm) {
            realm.total -= by;
            if share.bytes == 0 {
                realm.listed.remove(&(share.listed, channel));
            }
        }
        if share.bytes == 0 {
            share.listed = 0;
        }
    }

    /// How many channels are listed.
    pub fn listed(&self) -> usize {
        self.realms.values().map(|realm| realm.listed.len()).sum()
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
                .filter(|r| !r.listed.is_empty())
                .max_by_key(|r| r.total)?;
            let (listed, channel) = *realm.listed.last()?;
            match share(table, channel) {
                Some(share) if share.bytes * 2 < listed => {
                    realm.listed.pop_last();
                    share.listed = share.bytes;
                    if share.bytes > 0 {
                        realm.listed.insert((share.bytes, channel));
                    }
                }
                Some(_) => return Some(channel),
                None => {
                    debug_assert!(false, "who leaves has no share left, and is not listed");
                    realm.listed.pop_last();
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
            shares.shrink(*realm, channel, share, bytes);
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

    #[test]
    fn channels_that_fill_and_empty_ten_times_leave_nothing_behind() {
        let mut shares = Shares::default();
        let id = |slot| ChannelId { slot, generation: 0 };
        for _ in 0..10 {
            let mut own = vec![Share::default(); 100];
            for (slot, share) in own.iter_mut().enumerate() {
                for _ in 0..50 {
                    shares.grow(Realm(0), id(slot as u32), share, 7);
                }
            }
            assert_eq!(shares.listed(), 100, "each once");
            for (slot, share) in own.iter_mut().enumerate() {
                for _ in 0..50 {
                    shares.shrink(Realm(0), id(slot as u32), share, 7);
                }
            }
            assert_eq!((shares.listed(), shares.total()), (0, 0));
        }
    }
}
