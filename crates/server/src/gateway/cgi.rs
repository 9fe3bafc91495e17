//! One request, told in variables and on standard input, answered on standard output.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;

use super::place::Place;
use super::relay::{self, Visitor};

struct Cgi;

/// Answers the request of this process.
///
/// # Errors
/// The visitor has left, mostly.
pub(super) fn serve(place: &Place) -> io::Result<()> {
    let result = relay::serve(&mut Cgi, &|name: &str| std::env::var_os(name), place);
    match result {
        // Nobody to be told, and nothing for a log.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

impl Visitor for Cgi {
    fn read_body(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // Never more than is told: what follows is not ours.
        io::stdin().read(into)
    }

    fn awaited_body(&self) -> Option<BorrowedFd<'_>> {
        Some(rustix::stdio::stdin())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    fn watched(&self) -> (BorrowedFd<'_>, PollFlags) {
        (rustix::stdio::stdout(), PollFlags::empty())
    }

    fn has_left(&mut self, seen: PollFlags) -> bool {
        seen.intersects(PollFlags::ERR | PollFlags::HUP)
    }
}
