//! Room for connections: what the host's limit of open files leaves, shared out by the role of a listener.
//!
//! A connection takes one descriptor, and so does each segment of the log. Visitors alone must never take the last ones: then
//! the site's own code, monitoring and the log's next segment would be shut out with them.

use crate::config::Config;
use crate::listener::Role;
use crate::platform;

/// Connections beyond the limits that are taken nevertheless, for as long as one request lasts: only who has read it can
/// refuse it in words that its client obeys. A browser's EventSource gives up for ever after a 503.
pub const SURPLUS: usize = 32;

/// Descriptors that only connections of the site's own code and of monitoring may take: as many PHP workers on one host.
const BACKEND: u64 = 128;

/// Descriptors that only connections of monitoring may take.
const OPS: u64 = 8;

/// Descriptors that are open for a moment: a static file, a backup, the configuration, a folder that is synced, a socket that
/// is accepted to be turned away, and those that a connection keeps until it is removed.
const PASSING: u64 = 24;

/// Descriptors of a server without listeners and threads: the standard ones, locks, the queue and signals of the main thread.
const BASE: u64 = 16;

/// Descriptors of a thread that serves connections: its event queue, and what wakes it.
const PER_THREAD: u64 = 2;

/// The room that the limit of open files leaves for connections. Each bound is on the number of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The limit of open files, in descriptors.
    pub descriptors: u64,
    /// At so many connections, 1 or more, no visitor is taken any more, whatever `limits.connections` says.
    pub visitors: usize,
    /// At so many no visitor is taken any more even to be refused in words.
    surplus: usize,
    /// At so many the site's own code gets no more either.
    backend: usize,
    /// At so many monitoring gets no more either.
    ops: usize,
    /// Descriptors that files may take.
    files: u64,
    /// Descriptors that files would take at most.
    files_wanted: u64,
}

impl Room {
    /// The room of a process that may have `descriptors` open, has `own` open for good, and whose log will open `segments`.
    ///
    /// Where there are few, each part is a fraction of what there is.
    pub fn of(descriptors: u64, own: u64, segments: u64) -> Self {
        let spare = descriptors.saturating_sub(own);
        let files_wanted = segments.saturating_add(PASSING);
        let files = files_wanted.min(spare / 4);
        let backend = BACKEND.min(spare / 4).max(1);
        let ops = OPS.min(spare / 16).max(1);
        let surplus = (SURPLUS as u64).min(spare / 8);
        let visitors = spare.saturating_sub(files + backend + ops + surplus).max(1);
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Self {
            descriptors,
            visitors: count(visitors),
            surplus: count(visitors + surplus),
            backend: count(visitors + surplus + backend),
            ops: count(visitors + surplus + backend + ops),
            files,
            files_wanted,
        }
    }

    /// The room that a server with this configuration would have, if its limit of open files were `descriptors`.
    pub fn expected(config: &Config, descriptors: u64) -> Self {
        Self::of(descriptors, expected_descriptors(config), segments(config))
    }

    /// The most connections at which a visitor is still taken, where the settings allow `limit`.
    pub fn visitors(&self, limit: usize) -> usize {
        self.visitors.min(limit)
    }

    /// Takes a listener of this role another connection, if `open` are open? What the settings allow does not count here.
    pub fn has_for(&self, role: Role, open: usize) -> bool {
        open < match role {
            Role::Public => self.visitors,
            Role::Backend => self.backend,
            Role::Ops => self.ops,
        }
    }

    /// Takes it another visitor only to refuse it in words, if `open` connections are open?
    pub fn has_for_surplus(&self, open: usize) -> bool {
        open < self.surplus
    }

    /// Sentences for the operator about settings that want more than there is; `connections` is `limits.connections`.
    pub fn complaints(&self, connections: usize) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.visitors < connections {
            complaints.push(format!(
                "limits.connections {connections}: the limit of open files, {}, leaves room for {} connections, visitors beyond them are turned away: raise it (ulimit -n, LimitNOFILE)",
                self.descriptors, self.visitors
            ));
        }
        if self.files < self.files_wanted {
            complaints.push(format!(
                "storage.segment_size: the log may open {} files, the limit of open files, {}, leaves room for {}: raise it (ulimit -n, LimitNOFILE), or the size of a segment",
                self.files_wanted, self.descriptors, self.files
            ));
        }
        complaints
    }
}

/// The segments that a log may have open: it takes a quarter more than `storage.max_size` until it is cleared away.
pub fn segments(config: &Config) -> u64 {
    if !config.is_durable() {
        return 0;
    }
    let (most, one) = (
        config.storage.max_size as u64,
        (config.storage.segment_size as u64).max(1),
    );
    (most.saturating_add(most / 4) / one).saturating_add(2)
}

/// The descriptors that a server with this configuration has open for good, its log aside: where the system does not tell.
pub fn expected_descriptors(config: &Config) -> u64 {
    let threads = config.threads.unwrap_or_else(platform::cores) as u64;
    let listeners = [&config.public.listen, &config.backend.listen, &config.ops.listen];
    let listeners: usize = listeners.iter().map(|addresses| addresses.len()).sum();
    BASE + PER_THREAD * threads + 2 + listeners as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_room_that_the_ones_before_it_cannot_take_and_files_have_theirs() {
        for descriptors in [40, 128, 256, 1024, 4096, 1 << 20, u64::MAX] {
            let room = Room::of(descriptors, 24, 82);
            assert!(room.visitors >= 1, "{room:?}");
            let next = |role| (0..).find(|open| !room.has_for(role, *open));
            if descriptors <= 4096 {
                assert_eq!(next(Role::Public), Some(room.visitors));
            }
            assert!(
                room.visitors <= room.surplus && room.surplus < room.backend && room.backend < room.ops,
                "{room:?}"
            );
            let all = (room.ops as u64).saturating_add(room.files).saturating_add(24);
            assert!(all <= descriptors, "{room:?}");
        }
        // Not even room for itself: somebody must be let in, or nobody can look at it.
        assert_eq!(Room::of(10, 24, 0).visitors, 1);
    }

    #[test]
    fn a_large_limit_is_left_to_the_settings_and_a_small_one_is_said() {
        let large = Room::of(1 << 20, 24, 82);
        assert_eq!(large.visitors(100_000), 100_000);
        assert_eq!(large.complaints(100_000), Vec::<String>::new());
        let small = Room::of(1024, 24, 82);
        assert!(small.visitors > 700 && small.visitors(100_000) == small.visitors);
        assert_eq!(small.visitors(10), 10);
        let said = small.complaints(100_000);
        assert!(said.len() == 1 && said[0].contains("1024") && said[0].contains(&small.visitors.to_string()));
        let tiny = Room::of(128, 24, 82).complaints(10);
        assert!(
            tiny.len() == 1 && tiny[0].contains("storage.segment_size"),
            "{tiny:?}"
        );
    }
}
