//! Signals as bytes in a pipe: the main thread reads them when it has time.

use std::io;

use mio::Poll;

use super::{SIGNALS, StartError, system};

/// Signals as bytes in a pipe: the main thread reads them when it has time.
pub(super) struct Signals {
    stop: mio::net::UnixStream,
    hangup: mio::net::UnixStream,
}

impl Signals {
    pub(super) fn new(poll: &Poll) -> Result<Self, StartError> {
        let pipe = |signals: &[i32]| -> io::Result<mio::net::UnixStream> {
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
        };
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let stop = pipe(&[SIGTERM, SIGINT]).map_err(system("to catch signals"))?;
        let hangup = pipe(&[SIGHUP]).map_err(system("to catch signals"))?;
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
