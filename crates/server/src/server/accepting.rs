//! Connections that wait at a door: taken, or turned away.

use std::io;
use std::time::{Duration, Instant};

use super::Server;

/// What to do when a connection could not be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// None waits.
    Return,
    /// It was about one connection, and of no concern to the others that wait.
    GoOn,
    /// It would be the same at once.
    Pause,
}

/// How many connections are accepted at a listener before others have their turn: a flood at one must not shut out another.
const BATCH: usize = 128;

/// How often it is said, at most, that connections cannot be accepted.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// How long accepting pauses when the system has nothing left for another connection: descriptors, memory.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// Takes the connections that wait at a listener, and deals them out; some for now, if there are many.
    pub(super) fn accept(&mut self, index: usize) {
        let Some(Some(listener)) = self.listeners.get(index) else {
            return;
        };
        for _ in 0..BATCH {
            match listener.accept() {
                Ok((socket, address)) => {
                    self.idle.came(Instant::now());
                    if let Err((socket, why)) = self.shared.admit(socket, index, address) {
                        self.shared
                            .metrics
                            .shard(0)
                            .drops
                            .of(crate::metrics::DropReason::Limit)
                            .add(1);
                        turn_away(&socket, why);
                    }
                }
                Err(error) => match after_failure(&error) {
                    Next::Return => return,
                    Next::GoOn => tracing::debug!(%error, "a connection was gone before it was accepted"),
                    Next::Pause => {
                        let now = Instant::now();
                        self.paused = Some(now + PAUSE);
                        if let Some(failures) = self.failures.count(now) {
                            say(&error, failures);
                        }
                        return;
                    }
                },
            }
        }
        self.more.push(index);
    }
}

/// Failures to accept, of which there can be many a second, and which of them are said.
#[derive(Debug, Default)]
pub(super) struct Failures {
    said: Option<Instant>,
    since: u64,
}

impl Failures {
    /// Counts one. Returns how many there were since they were said last, if they are to be said now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        let is_due = self.said.is_none_or(|said| now >= said + SAID_EVERY);
        is_due.then(|| {
            self.said = Some(now);
            std::mem::take(&mut self.since)
        })
    }
}

fn say(error: &io::Error, failures: u64) {
    if is_out_of_descriptors(error) {
        tracing::error!(
            %error,
            failures,
            "no file descriptors left: connections wait; raise the limit (ulimit -n, LimitNOFILE, fs.file-max) or lower limits.connections"
        );
    } else {
        tracing::error!(%error, failures, "connections cannot be accepted: they wait");
    }
}

/// Tells a client that there is no room, as far as one packet goes.
pub(super) fn turn_away(socket: &crate::listener::Socket, why: &str) {
    let mut out = Vec::new();
    let mut problem = crate::http::problem::Problem::new(503, "unavailable", why);
    problem.retry_after = Some(1);
    problem.answer(
        crate::http::response::Terms::CLOSE,
        &crate::http::cors::Cors::default(),
        &mut out,
    );
    // Whoever cannot take these few bytes at once is closed without them.
    let _ = socket.write(&out);
    socket.finish();
}

pub(super) fn after_failure(error: &io::Error) -> Next {
    use rustix::io::Errno;
    // Linux gives what the network has to say about a connection (see accept(2)), and a firewall's refusal.
    const OF_ONE: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::TIMEDOUT,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    if error.kind() == io::ErrorKind::WouldBlock {
        Next::Return
    } else if OF_ONE
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    {
        Next::GoOn
    } else {
        Next::Pause
    }
}

pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn of_many_failures_one_a_minute_is_said_with_their_number() {
        let start = Instant::now();
        let mut failures = Failures::default();
        let said: Vec<u64> = (0..1800)
            .filter_map(|tenth| failures.count(start + PAUSE * tenth))
            .collect();
        assert_eq!(said, [1, 600, 600]);
    }

    #[test]
    fn accepting_pauses_where_it_would_fail_again_at_once() {
        let next = |errno: Errno| after_failure(&io::Error::from(errno));
        assert_eq!(next(Errno::AGAIN), Next::Return);
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::HOSTUNREACH] {
            assert_eq!(next(errno), Next::GoOn, "{errno}");
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::INVAL,
            Errno::BADF,
        ] {
            assert_eq!(next(errno), Next::Pause, "{errno}");
        }
        assert_eq!(after_failure(&io::Error::other("anything else")), Next::Pause);
    }
}
