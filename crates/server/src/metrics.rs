//! Counters without locks: every shard counts for itself, and whoever asks adds the shards up.
//!
//! No label may ever carry a channel, a user or an address: those are private, and without bound. A realm may be one,
//! because the operator names the realms.

mod exposition;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use exposition::{CONTENT_TYPE, Gauges};

/// The upper bounds of the histogram's buckets, in microseconds: 50 µs to 10 s, three a decade.
///
/// From what an idle machine does at its best to what a visitor would call broken.
pub const BUCKETS_MICROS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// The values that one label can have: a closed set, so that a family has a fixed number of samples.
pub trait Label: Copy + 'static {
    /// All values with their names, in the order of their discriminants.
    const ALL: &'static [(Self, &'static str)];

    /// The place among [`ALL`](Label::ALL).
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl Label for $name {
            const ALL: &'static [(Self, &'static str)] = &[$(($name::$variant, $text),)*];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// How bytes reach a client.
    Transport {
        /// Plain requests and answers, and connections that have not yet said what they want.
        Http = "http",
        /// A long poll.
        Poll = "poll",
        /// Server-sent events.
        Sse = "sse",
        /// JSON lines.
        Stream = "stream",
        /// WebSocket.
        WebSocket = "websocket",
        /// The wire protocol of the seed.
        Seed = "seed",
    }
}

label! {
    /// Where a publication comes in.
    Door {
        /// The HTTP API.
        Http = "http",
        /// A WebSocket command.
        WebSocket = "websocket",
        /// The wire protocol of the seed.
        Seed = "seed",
    }
}

label! {
    /// How something is subscribed to.
    Subscription {
        /// One channel, by its name.
        Exact = "exact",
        /// By a pattern.
        Pattern = "pattern",
    }
}

label! {
    /// Why a connection was ended by the server before its client wanted that.
    DropReason {
        /// It did not read for too long.
        Slow = "slow",
        /// It fell behind the live window.
        Window = "window",
        /// A ceiling of memory was reached.
        Ceiling = "ceiling",
        /// It held most when visitors held as much as `limits.memory` allows.
        Memory = "memory",
        /// It went over a limit of its own, such as a message size or rate.
        Limit = "limit",
        /// It broke its protocol.
        Protocol = "protocol",
        /// It said nothing in the time it had: a half-sent request, a ping without pong, a stream renewed no more, nothing
        /// acknowledged.
        Timeout = "timeout",
        /// Its token expired, or its key was taken away.
        Expired = "expired",
        /// The server is going away.
        Drain = "drain",
    }
}

label! {
    /// How a return with a cursor ended.
    Recovery {
        /// Everything after the cursor was still there.
        Complete = "complete",
        /// Something was gone, and the client was told.
        Gap = "gap",
    }
}

label! {
    /// Why a request or command was answered with an error: the codes of the native protocol.
    Refusal {
        /// Something missing or malformed.
        BadRequest = "bad_request",
        /// No cursor of this server.
        BadCursor = "bad_cursor",
        /// No token or key, or not a valid one.
        Unauthorized = "unauthorized",
        /// A token past its time.
        TokenExpired = "token_expired",
        /// The grant does not allow it.
        Forbidden = "forbidden",
        /// A page from elsewhere.
        OriginRefused = "origin_refused",
        /// No such path, or nothing retained.
        NotFound = "not_found",
        /// Another method is meant.
        MethodNotAllowed = "method_not_allowed",
        /// An idempotency key with another payload.
        Conflict = "conflict",
        /// A message over its limit.
        TooLarge = "too_large",
        /// A configuration with a mistake in it.
        BadConfiguration = "bad_configuration",
        /// A limit on numbers.
        LimitReached = "limit_reached",
        /// Later, please.
        Unavailable = "unavailable",
        /// The store has failed, or was too slow, in the middle of it.
        UnknownOutcome = "unknown_outcome",
    }
}

impl Refusal {
    /// The refusal with this code of the native protocol, if there is one.
    pub fn from_code(code: &str) -> Option<Refusal> {
        Refusal::ALL
            .iter()
            .find(|(_, name)| *name == code)
            .map(|(refusal, _)| *refusal)
    }
}

/// A number that is counted up, and for gauges down again.
///
/// What one shard adds another may take away (a connection moves): only the sum over all shards means something.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Cheapest once per round, not once per delivery.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes `n` away.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    /// Raises it to `n`, if that is more.
    pub fn rise(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One [`Count`] for each value of a label. `N` is the number of values.
#[derive(Debug)]
pub struct Family<L, const N: usize> {
    counts: [Count; N],
    label: PhantomData<L>,
}

impl<L: Label, const N: usize> Family<L, N> {
    /// The count of this value.
    pub fn of(&self, label: L) -> &Count {
        &self.counts[label.index()]
    }
}

impl<L: Label, const N: usize> Default for Family<L, N> {
    fn default() -> Self {
        const { assert!(N == L::ALL.len(), "one count for each value") };
        Family {
            counts: std::array::from_fn(|_| Count::default()),
            label: PhantomData,
        }
    }
}

/// How long things took, in the buckets of [`BUCKETS_MICROS`] and one for all that took longer.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Count; BUCKETS_MICROS.len() + 1],
    sum_micros: Count,
}

impl Histogram {
    /// Notes that `n` things took `micros` microseconds each.
    pub fn observe(&self, micros: u64, n: u64) {
        self.buckets[BUCKETS_MICROS.partition_point(|&bound| bound < micros)].add(n);
        self.sum_micros.add(micros.saturating_mul(n));
    }
}

/// What one shard counts.
///
/// Aligned to two cache lines, because processors fetch lines in pairs: no shard's counting slows another's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Open connections. One that changes its transport is taken from the old and added to the new.
    pub connections: Family<Transport, { Transport::ALL.len() }>,
    /// Connections ever accepted.
    pub connections_total: Count,
    /// Subscriptions that stand.
    pub subscriptions: Family<Subscription, { Subscription::ALL.len() }>,
    /// Publications accepted.
    pub publications: Family<Door, { Door::ALL.len() }>,
    /// Publications written to subscribers.
    pub deliveries: Family<Transport, { Transport::ALL.len() }>,
    /// Gaps that clients were told of.
    pub gaps: Count,
    /// Connections the server ended.
    pub drops: Family<DropReason, { DropReason::ALL.len() }>,
    /// Returns with a cursor.
    pub recoveries: Family<Recovery, { Recovery::ALL.len() }>,
    /// Bytes read from sockets.
    pub bytes_received: Count,
    /// Bytes written to sockets.
    pub bytes_sent: Count,
    /// Bytes that wait in the server for peers that take no more now.
    pub pending_bytes: Count,
    /// Requests and commands answered with an error.
    pub refused: Family<Refusal, { Refusal::ALL.len() }>,
    /// Requests held now: long polls, SSE, streams.
    pub holds: Count,
    /// Pages that readers had fetched from disk.
    pub cold_reads: Count,
    /// From the moment a publication is visible to the write of a round that carries it.
    pub publish_to_write: Histogram,
    /// Steps of the turn of a connection that had most, since the start.
    pub turn_longest_steps: Count,
    /// CPU time of the longest turn of a connection since the start, in nanoseconds.
    pub turn_longest_nanos: Count,
}

/// The counters of the whole server.
#[derive(Debug)]
pub struct Metrics {
    shards: Vec<ShardMetrics>,
    started_ms: u64,
}

impl Metrics {
    /// Counters for this many shards (at least one) of a server that was started at `started_ms` since 1970.
    pub fn new(shards: usize, started_ms: u64) -> Metrics {
        Metrics {
            shards: std::iter::repeat_with(ShardMetrics::default)
                .take(shards.max(1))
                .collect(),
            started_ms,
        }
    }

    /// The counters of one shard. Any thread may count here; it is fast if only the shard does.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard(&self, shard: usize) -> &ShardMetrics {
        &self.shards[shard]
    }

    fn most(&self, pick: impl Fn(&ShardMetrics) -> &Count) -> u64 {
        self.shards
            .iter()
            .map(|shard| pick(shard).get())
            .max()
            .unwrap_or(0)
    }

    fn total(&self, pick: impl Fn(&ShardMetrics) -> &Count) -> u64 {
        // Wrapping: a connection may be added on one shard and taken away on another, which then stands below zero.
        let sum = self
            .shards
            .iter()
            .fold(0u64, |sum, shard| sum.wrapping_add(pick(shard).get()));
        // Read while a connection moves, a sum can be below zero for a moment.
        if (sum as i64) < 0 { 0 } else { sum }
    }
}
