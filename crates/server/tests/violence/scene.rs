//! The channels of the play, what is promised of each, and the configuration that promises it.

use std::fmt::Write;

/// What must hold of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Everything acknowledged reaches everybody; no gap, ever.
    Durable,
    /// The same of everything that was shown; what was acknowledged may be lost by a kill, within the bound, and then whoever may
    /// have wanted it is told of a gap.
    Buffered,
    /// Durable, but with so little history that who is away is told of a gap.
    Short,
    /// As long as the server lives; a restart is a gap.
    Memory,
}

/// A channel of the play.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    pub(super) name: String,
    pub(super) promise: Promise,
}

/// Channels by number, in order of their promises.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) channels: Vec<Channel>,
    pub(super) room: Room,
}

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Everything.
    Plenty,
    /// So little on disk that the oldest of all channels goes.
    Tight,
    /// Everything, but bits of it are turned between two lives: then something is lost, and all who need it are told.
    Damaged,
    /// Nothing on disk: to try the harness itself, without kills.
    Memory,
}

/// How many channels get a publication now and then only.
const MANY: usize = 20;

/// How many channels nobody listens to by name; more than the hub may have.
const RARE: usize = 300;

/// The hub's bound: the many that are rare are forgotten and met again, all the time.
const MOST_CHANNELS: usize = 220;

/// What may wait for its commit in a buffered namespace: the bound of what a crash may take.
pub(super) const BUFFERED_BYTES: u64 = 256 << 10;

impl Scene {
    pub(super) fn new(room: Room) -> Self {
        let named = |count: usize, prefix: &'static str, promise| {
            (0..count).map(move |n| Channel {
                name: format!("{prefix}{n}"),
                promise,
            })
        };
        let channels = named(4, "kept/main/", Promise::Durable)
            .chain(named(2, "kept/last/", Promise::Durable))
            .chain(named(2, "kept/key/", Promise::Durable))
            .chain(named(MANY, "kept/many/", Promise::Durable))
            .chain(named(RARE, "rare/", Promise::Durable))
            .chain(named(3, "short/", Promise::Short))
            .chain(named(3, "buffered/", Promise::Buffered))
            .chain(named(3, "memory/", Promise::Memory));
        Self {
            channels: channels.collect(),
            room,
        }
    }

    /// The channels whose names begin so.
    pub(super) fn starting(&self, prefix: &str) -> Vec<u16> {
        let named = self.channels.iter().zip(0..);
        let named = named.filter(|(channel, _)| channel.name.starts_with(prefix));
        named.map(|(_, number)| number).collect()
    }

    pub(super) fn number(&self, name: &str) -> Option<u16> {
        let at = self.channels.iter().position(|channel| channel.name == name)?;
        u16::try_from(at).ok()
    }

    pub(super) fn name(&self, channel: u16) -> &str {
        &self.channels[usize::from(channel)].name
    }

    /// What is promised of it; in memory, without kills, nothing is lost either.
    pub(super) fn promise(&self, channel: u16) -> Promise {
        match (self.channels[usize::from(channel)].promise, self.room) {
            (Promise::Durable | Promise::Buffered, Room::Tight | Room::Damaged) => Promise::Short,
            (promise, _) => promise,
        }
    }

    /// Whether its position comes from the durable order.
    pub(super) fn is_durable(&self, channel: u16) -> bool {
        self.room != Room::Memory && self.promise(channel) != Promise::Memory
    }

    /// The configuration file.
    ///
    /// After a reload short histories are shorter still.
    pub(super) fn toml(&self, port: u16, threads: u64, shorter: bool) -> String {
        // What memory keeps is never forgotten to make room.
        let most = if self.room == Room::Memory {
            10_000
        } else {
            MOST_CHANNELS
        };
        let mut text = format!(
            r#"
threads = {threads}
[public]
listen = ["127.0.0.1:{port}"]
[limits]
message_size = "256KiB"
window = "1s"
window_bytes = "512KiB"
log_memory = "64MiB"
idempotency_keys = 3000000
channels = {most}
one_visitor = "100%"
all_visitors = "100%"
[held]
retry = "20ms"
heartbeat = "2s"
[shutdown]
drain = "1s"
"#
        );
        if self.room != Room::Memory {
            let size = if self.room == Room::Tight { "6MiB" } else { "48MiB" };
            text.push_str(&format!(
                "[storage]\nmax_size = \"{size}\"\nsegment_size = \"1MiB\"\nbuffered = \"{BUFFERED_BYTES}B\"\n"
            ));
        }
        let mut namespace = |pattern: &str, durability: &str, count: usize, bytes: &str, age: &str| {
            let durability = match (self.room, durability) {
                (Room::Memory, _) => "memory",
                // What is answered at once and what the ceiling or damage takes could not be told apart.
                (Room::Tight | Room::Damaged, "buffered") => "fsync",
                _ => durability,
            };
            let written = writeln!(
                text,
                "[[namespaces]]\nmatch = \"{pattern}\"\npublic = true\ndurability = \"{durability}\"\n\
                 history.count = {count}\nhistory.bytes = \"{bytes}\"\nhistory.age = \"{age}\""
            );
            written.expect("writing to a String cannot fail");
        };
        namespace("kept/**", "fsync", 100_000_000, "64GiB", "30d");
        namespace("rare/**", "fsync", 100_000_000, "64GiB", "30d");
        namespace("own/**", "fsync", 100_000_000, "64GiB", "30d");
        let (count, bytes) = if shorter { (12, "300KiB") } else { (40, "64KiB") };
        namespace("short/**", "fsync", count, bytes, "3s");
        namespace("buffered/**", "buffered", 100_000_000, "64GiB", "30d");
        namespace("memory/**", "memory", 100_000, "16MiB", "1h");
        text
    }
}
