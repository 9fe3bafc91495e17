//! How large things are, and what the log is given from outside.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cometserver_core::Time;

/// What the time is.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Sizes and times of a log.
#[derive(Clone)]
pub struct DiskOptions {
    /// A segment that is so long is not written to any more, in bytes.
    ///
    /// Large enough that few files are open at 4 GiB, small enough that copying one forward is soon done.
    pub segment: u64,
    /// About so many bytes are written and made safe at once.
    pub batch: usize,
    /// At most so many bytes wait to be written; beyond, nothing is taken.
    pub queue: usize,
    /// All segments together have about so many bytes at most: above, the channels with most give way.
    pub ceiling: u64,
    /// Dead records are not cleared away before there are so many bytes of them.
    pub garbage: u64,
    /// For how long a publication's idempotency key is in force.
    pub idempotency: Duration,
    /// So many channels of which nothing is kept, and that the hub does not have, are remembered.
    pub idle_channels: usize,
    /// For so long after the start no channel is forgotten with its segment: whoever had it is still on the way back.
    pub idle_grace: Duration,
    /// So many threads read.
    pub readers: usize,
    /// A fetch that has waited for so long is refused unread: whoever asked for it has given up.
    pub patience: Duration,
    /// For how long nothing is tried after the disk was full or failed.
    pub pause: Duration,
    /// What the time is, for age.
    pub clock: Clock,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            segment: 64 << 20,
            batch: 4 << 20,
            queue: 64 << 20,
            ceiling: 4 << 30,
            garbage: 64 << 20,
            idempotency: Duration::from_secs(300),
            idle_channels: 1_000_000,
            idle_grace: Duration::from_secs(600),
            readers: 2,
            // As long as a connection waits for a page.
            patience: Duration::from_secs(10),
            pause: Duration::from_secs(1),
            clock: steady_clock(),
        }
    }
}

/// The time at the start, and from there what has passed: whoever sets the clock does not make histories expire.
pub fn steady_clock() -> Clock {
    let began = Instant::now();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Arc::new(move || (since + began.elapsed()).as_millis() as Time)
}
