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

/// How long accepting pauses when the system has nothing left for another connection: descriptors, memory.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// Takes every connection that waits at a listener, and deals it out.
    pub(super) fn accept(&mut self, index: usize) {
        let Some(Some(listener)) = self.listeners.get(index) else {
            return;
        };
        loop {
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
                        if is_out_of_descriptors(&error) {
                            tracing::error!(
                                "no file descriptors left: raise the limit (ulimit -n, LimitNOFILE) or lower limits.connections"
                            );
                        } else {
                            tracing::error!(%error, "connections cannot be accepted");
                        }
                        self.paused = Some(Instant::now() + PAUSE);
                        return;
                    }
                },
            }
        }
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
