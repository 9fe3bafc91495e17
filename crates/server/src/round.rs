//! The frames of one round: each publication encoded once per format, laid end to end.
//!
//! A connection that gets neighbouring frames is written with one plain write of one slice; that is nearly always so.

use cometserver_core::hub::Hub;
use cometserver_core::{Position, Publication};

use crate::wire::{Encoder, FORMATS, Format};

/// No frame.
const NONE: u32 = u32::MAX;

/// Room that a buffer keeps from round to round, in bytes.
const KEPT: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Frame {
    start: u32,
    end: u32,
    /// The cursor it carries.
    at: Position,
}

/// A run of neighbouring frames, from `first` up to before `end`; `next` names another run behind it.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: u32,
    end: u32,
    next: u32,
}

/// What one connection gets in this round. Empty between rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    first: u32,
    end: u32,
    /// Earlier runs, if the frames are not neighbours.
    runs: u32,
    last_run: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            first: NONE,
            end: NONE,
            runs: NONE,
            last_run: NONE,
        }
    }
}

impl Share {
    /// Does it get nothing?
    pub fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

#[derive(Debug, Default)]
struct Laid {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    /// The publication that was encoded last, by its sequence, and in which place.
    latest: Option<(u64, usize)>,
}

impl Laid {
    /// Encodes a publication behind the others.
    #[cold]
    fn lay(
        &mut self,
        format: Format,
        publication: &Publication,
        place: usize,
        hub: &Hub,
        encoder: &mut Encoder,
    ) {
        let start = self.bytes.len() as u32;
        let cursor = Some(hub.cursor(publication.at));
        encoder.publication(format, publication, place, cursor, &mut self.bytes);
        self.frames.push(Frame {
            start,
            end: self.bytes.len() as u32,
            at: publication.at,
        });
        self.latest = Some((publication.sequence(), place));
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct RoundFrames {
    laid: [Laid; FORMATS],
    runs: Vec<Run>,
}

impl RoundFrames {
    /// Gives a connection this publication.
    #[inline]
    pub fn give(
        &mut self,
        share: &mut Share,
        format: Format,
        publication: &Publication,
        place: usize,
        hub: &Hub,
        encoder: &mut Encoder,
    ) {
        let laid = &mut self.laid[format as usize];
        if laid.latest != Some((publication.sequence(), place)) {
            laid.lay(format, publication, place, hub, encoder);
        }
        let frame = laid.frames.len() as u32 - 1;
        if share.first == NONE {
            share.first = frame;
        } else if share.end != frame {
            self.begin_run(share, frame);
        }
        share.end = frame + 1;
    }

    /// The share goes on with a frame that is no neighbour of its last.
    fn begin_run(&mut self, share: &mut Share, frame: u32) {
        let run = self.runs.len() as u32;
        self.runs.push(Run {
            first: share.first,
            end: share.end,
            next: NONE,
        });
        match share.last_run {
            NONE => share.runs = run,
            last => self.runs[last as usize].next = run,
        }
        share.last_run = run;
        share.first = frame;
    }

    /// The bytes of a share whose frames are all neighbours, and how many frames those are; `None`: they are not, or there
    /// are none.
    #[inline]
    pub fn plain(&self, format: Format, share: &Share) -> Option<(&[u8], u32)> {
        if share.runs != NONE || share.first == NONE {
            return None;
        }
        let laid = &self.laid[format as usize];
        let (start, stop) = (
            laid.frames[share.first as usize].start,
            laid.frames[share.end as usize - 1].end,
        );
        Some((
            &laid.bytes[start as usize..stop as usize],
            share.end - share.first,
        ))
    }

    /// The byte slices of a share, in order.
    pub fn slices<'a>(&'a self, format: Format, share: &Share) -> impl Iterator<Item = &'a [u8]> {
        let laid = &self.laid[format as usize];
        self.runs_of(*share).map(move |(first, end)| {
            let (start, stop) = (
                laid.frames[first as usize].start,
                laid.frames[end as usize - 1].end,
            );
            &laid.bytes[start as usize..stop as usize]
        })
    }

    fn runs_of(&self, share: Share) -> impl Iterator<Item = (u32, u32)> {
        let mut next = share.runs;
        let earlier = std::iter::from_fn(move || {
            let run = self.runs.get(next as usize).filter(|_| next != NONE)?;
            next = run.next;
            Some((run.first, run.end))
        });
        earlier.chain((share.first != NONE).then_some((share.first, share.end)))
    }

    /// Have two shares the same frames? May say no of some that have.
    pub fn is_same(&self, one: &Share, other: &Share) -> bool {
        one == other && one.runs == NONE
    }

    /// How many frames a share has.
    pub fn count(&self, share: &Share) -> usize {
        self.runs_of(*share)
            .map(|(first, end)| (end - first) as usize)
            .sum()
    }

    /// After `written` bytes of a share went out: the position of the last frame of which any byte did (none: no byte did),
    /// the rest of that frame, and how many frames went out, that one included.
    pub fn after(
        &self,
        format: Format,
        share: &Share,
        mut written: usize,
    ) -> (Option<Position>, &[u8], usize) {
        let laid = &self.laid[format as usize];
        let mut position = None;
        let mut count = 0;
        for (first, end) in self.runs_of(*share) {
            for frame in &laid.frames[first as usize..end as usize] {
                if written == 0 {
                    return (position, &[], count);
                }
                let length = (frame.end - frame.start) as usize;
                position = Some(frame.at);
                count += 1;
                if written < length {
                    return (
                        position,
                        &laid.bytes[frame.start as usize + written..frame.end as usize],
                        count,
                    );
                }
                written -= length;
            }
        }
        (position, &[], count)
    }

    /// Bytes laid in this round so far, all formats together.
    pub fn bytes(&self) -> usize {
        self.laid.iter().map(|laid| laid.bytes.len()).sum()
    }

    /// The round is over.
    pub fn clear(&mut self) {
        for laid in &mut self.laid {
            laid.latest = None;
            laid.frames.clear();
            laid.bytes.clear();
            laid.bytes.shrink_to(KEPT);
        }
        self.runs.clear();
    }
}
