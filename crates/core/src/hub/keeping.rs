//! A stop in good order hands over what is in memory; the next start takes it up under a mark of its own.

use rustc_hash::FxHashMap;

use super::Hub;
use crate::Time;
use crate::channel::{Channel, ChannelId};
use crate::idempotency::Settled;
use crate::kept::{self, FORMER, Former, Head, Kept, Piece, TakeUpError};
use crate::publication::Publication;

/// So many channels, publications or keys are looked at in one hold of the lock.
const STRIDE: usize = 512;

/// Which channels have been handed over, and as which.
#[derive(Default)]
struct Named {
    places: FxHashMap<ChannelId, u32>,
    count: u32,
}

impl Named {
    fn note(&mut self, id: ChannelId) {
        self.places.insert(id, self.count);
        self.count += 1;
    }

    /// The place of a channel, which is handed over by its name alone if it was not yet.
    fn place<E>(
        &mut self,
        channel: &Channel,
        each: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<u32, E> {
        if let Some(place) = self.places.get(&channel.id) {
            return Ok(*place);
        }
        each(Piece::Channel(kept::Channel {
            name: channel.name.clone(),
            epoch: channel.epoch,
            history: None,
        }))?;
        self.note(channel.id);
        Ok(self.count - 1)
    }
}

impl Hub {
    /// From now on nothing is published in memory, nor deleted there: what [`Hub::keep`] hands over afterwards is all there
    /// was. What the store still commits is taken.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// Hands over what is in memory alone, after [`Hub::close`] and when the store has answered everything: histories and
    /// retained values with their positions, what patterns have lost, idempotency keys. Not the members: their connections
    /// are gone, and whoever watches them is told a gap. The lock is held for a moment at a time.
    ///
    /// # Errors
    /// The first that `each` returns; nothing is handed over after it.
    pub fn keep<E>(&self, mut each: impl FnMut(Piece) -> Result<(), E>) -> Result<(), E> {
        let (mut named, head) = (Named::default(), self.kept_head());
        each(Piece::Head(head))?;
        let mut after = Some(0);
        while let Some(from) = after {
            let (channels, next) = self.state_for_long().kept_channels(from, STRIDE);
            for (id, channel) in channels {
                each(Piece::Channel(channel))?;
                named.note(id);
            }
            after = next;
        }
        let mut after = Some(0);
        while let Some(from) = after {
            let (publications, next) = self.state_for_long().kept_publications(from, STRIDE);
            for (publication, keeps) in publications {
                let piece = kept_publication(&publication, &keeps, &mut named, &mut each)?;
                each(piece)?;
            }
            after = next;
        }
        let listened = self.state_for_long().kept_patterns();
        listened
            .into_iter()
            .try_for_each(|listened| each(Piece::Listened(listened)))?;
        let mut after = Some(0);
        while let Some(from) = after {
            let (keys, next) = self.state_for_long().keys.kept(from, STRIDE);
            for Settled {
                claim,
                since,
                receipt,
            } in keys
            {
                let mut places = Vec::with_capacity(receipt.places.len());
                for place in receipt.places.iter() {
                    places.push((named.place(&place.channel, &mut each)?, place.offset));
                }
                each(Piece::Key(kept::Key {
                    key: claim.scope.1,
                    digest: claim.digest,
                    time: since,
                    at: receipt.at,
                    places,
                }))?;
            }
            after = next;
        }
        Ok(())
    }

    /// Has nobody failed while changing what is in memory? If somebody has, it is not to be trusted over a restart.
    pub fn is_sound(&self) -> bool {
        !self.state().is_broken
    }

    fn kept_head(&self) -> Head {
        let state = self.state();
        Head {
            marks: self.marks,
            visible: state.visible,
            former: self.former.clone(),
            durabilities: state.durabilities,
            trimmed: state.trimmed,
            forgotten: state.forgotten(),
        }
    }

    /// Goes on with what was kept at a stop in good order, before anything else is done with this hub. Positions go on where
    /// they stopped, under the new mark; a cursor of the old one is known as far as the old one had come. One position more is
    /// taken for all members who left with the stop.
    ///
    /// # Errors
    /// [`TakeUpError`]; then nothing was taken up.
    pub fn take_up(&mut self, kept: Kept, now: Time) -> Result<(), TakeUpError> {
        let mut former = kept.head.former.clone();
        former.push(Former {
            mark: kept.head.marks.memory,
            until: kept.head.visible.memory,
        });
        if former.iter().any(|former| former.mark == self.marks.memory) {
            return Err(TakeUpError::SameMark);
        }
        former.drain(..former.len().saturating_sub(FORMER));
        self.state.get_mut().take_up(kept, now)?;
        self.former = former;
        Ok(())
    }
}

fn kept_publication<E>(
    publication: &Publication,
    keeps: &[(bool, bool)],
    named: &mut Named,
    each: &mut impl FnMut(Piece) -> Result<(), E>,
) -> Result<Piece, E> {
    let mut places = Vec::with_capacity(keeps.len());
    for (place, (in_history, is_value)) in publication.places.iter().zip(keeps) {
        places.push(kept::Place {
            channel: named.place(&place.channel, each)?,
            offset: place.offset,
            in_history: *in_history,
            is_value: *is_value,
        });
    }
    Ok(Piece::Publication(kept::Publication {
        source: publication.source,
        at: publication.at,
        time: publication.time,
        body: publication.body.clone(),
        places,
    }))
}
