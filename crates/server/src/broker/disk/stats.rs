//! Figures for the operator.

use super::shared::Shared;
use super::value;

/// How the log stands, and what has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Bytes of all segments.
    pub bytes: u64,
    /// Bytes of what is kept; the rest is cleared away in time.
    pub live_bytes: u64,
    /// Bytes that they have at most: the setting, or less on a smaller disk.
    pub ceiling: u64,
    /// Segments.
    pub segments: usize,
    /// Channels that are known.
    pub channels: usize,
    /// Publications kept, counted once for each of their channels.
    pub publications: usize,
    /// The newest position.
    pub position: u64,
    /// Bytes of payloads, names, attributes and keys that wait to be written.
    pub queued_bytes: usize,
    /// Fetches that wait to be read.
    pub queued_reads: usize,
    /// Batches written.
    pub batches: u64,
    /// Times the disk was asked to make something safe.
    pub syncs: u64,
    /// Times it could not.
    pub sync_failures: u64,
    /// Batches that were not stored, for whatever reason.
    pub write_failures: u64,
    /// Records and stretches of the log found damaged.
    pub damaged: u64,
    /// Publications trimmed because the log had reached its ceiling.
    pub trimmed_for_ceiling: u64,
    /// Bytes copied forward.
    pub copied_bytes: u64,
    /// Segments removed.
    pub removed_segments: u64,
    /// Channels and publications looked at in the index for what was to be read.
    pub looked: u64,
}

pub(super) fn of(shared: &Shared) -> DiskStats {
    let counters = &shared.counters;
    let (queued_bytes, queued_reads) = (shared.queue.payloads(), shared.reads.len());
    let ceiling = shared.sizes().ceiling;
    let index = shared.index();
    DiskStats {
        bytes: index.total,
        live_bytes: index.live,
        ceiling,
        segments: index.segments.len(),
        channels: index.len(),
        publications: index.publications,
        position: index.position,
        queued_bytes,
        queued_reads,
        batches: value(&counters.batches),
        syncs: value(&counters.syncs),
        sync_failures: value(&counters.sync_failures),
        write_failures: value(&counters.write_failures),
        damaged: value(&counters.damaged),
        trimmed_for_ceiling: value(&counters.trimmed_for_ceiling),
        copied_bytes: value(&counters.copied),
        removed_segments: value(&counters.removed),
        looked: value(&counters.looked),
    }
}
