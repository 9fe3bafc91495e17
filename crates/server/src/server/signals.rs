//! Signals as bytes in a pipe: the main thread reads them when it has time.

use std::io;

use mio::Poll;

use super::{SIGNALS, StartError, system};

/// The signal to reload, which ends nobody from now on.
pub(super) fn hangup(poll: &Poll) -> Result<mio::net::UnixStream, StartError> {
    pipe(poll, &[signal_hook::consts::SIGHUP]).map_err(system("to catch signals"))
}

fn pipe(poll: &Poll, signals: &[i32]) -> io::Result<mio::net::UnixStream> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
    }
    let mut read = mio::net::UnixStream::from_std(read);
    poll.registry()
        .register(&mut read, SIGNALS, mio::Interest::READABLE)?;
    Ok(read)
}

/// Signals as bytes in a pipe: the main thread reads them when it has time.
pub(super) struct Signals {
    stop: mio::net::UnixStream,
    hangup: mio::net::UnixStream,
}

impl Signals {
    /// Those to stop, beside the one to reload.
    pub(super) fn new(poll: &Poll, hangup: mio::net::UnixStream) -> Result<Self, StartError> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let stop = pipe(poll, &[SIGTERM, SIGINT]).map_err(system("to catch signals"))?;
        Ok(Self { stop, hangup })
    }

    /// Which came since the last time: one to stop, one to reload.
    pub(super) fn take(&mut self) -> (bool, bool) {
        use std::io::Read;
        let drained = |stream: &mut mio::net::UnixStream| {
            let mut bytes = [0; 64];
            let mut any = false;
            while let Ok(read) = stream.read(&mut bytes) {
                any |= read > 0;
                if read < bytes.len() {
                    break;
                }
            }
            any
        };
        (drained(&mut self.stop), drained(&mut self.hangup))
    }
}
