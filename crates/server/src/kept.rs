//! What memory kept, in a file from a stop in good order to the next start.
//!
//! [`put_down`] writes `comet.memory` into the data folder; [`take_up`] reads it, makes sure that nobody takes it up again, and
//! only then lets the hub go on with it. Each start writes its mark into `comet.incarnation`: a file of any start but the last
//! is not taken up, so that a copy put back later is a gap, never silence. [`format`](mod@format) has the bytes, [`mod@file`] the file.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use cometserver_core::hub::Hub;

pub mod file;
pub mod format;

use file::{UNFINISHED, WriteError, Writer};

/// What memory kept, in the data folder.
pub const FILE: &str = "comet.memory";

/// The mark of the last start, in the data folder.
pub const INCARNATION_FILE: &str = "comet.incarnation";

/// Writing it may take so long: then whoever waits for the stop is not kept waiting any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far it has come is said so often.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// Lets a new hub go on with what the stop before left in the folder, if there is something. Whatever speaks against it is
/// logged: then all of memory is a gap, as after a crash. The mark of this start is in the folder afterwards.
pub fn take_up(hub: &mut Hub, folder: &Path, log_memory: usize, now: u64) {
    let path = folder.join(FILE);
    let last = file::read_incarnation(&folder.join(INCARNATION_FILE));
    let found = file::read(&path, log_memory as u64);
    let is_there = !matches!(found, Ok(None));
    let consumed = consume(folder, hub.marks().memory, is_there);
    let kept = match (found, consumed) {
        (Ok(None), Ok(())) => return,
        (Ok(None), Err(error)) => {
            tracing::warn!(%error, "the mark of this start could not be written to {INCARNATION_FILE}");
            return;
        }
        (_, Err(error)) => Err(format!("it could not be used up first: {error}")),
        (Err(error), Ok(())) => Err(error.to_string()),
        (Ok(Some(kept)), Ok(())) if last != Some(kept.head.marks.memory) => {
            Err("the server has been started since it was written".to_owned())
        }
        (Ok(Some(kept)), Ok(())) => Ok(kept),
    };
    let taken = kept.and_then(|kept| {
        let (channels, publications) = (kept.channels.len(), kept.publications.len());
        let taken = hub.take_up(kept, now).map_err(|error| error.to_string());
        taken.map(|()| (channels, publications))
    });
    match taken {
        Ok((channels, publications)) => {
            tracing::info!(channels, publications, "what was in memory goes on");
        }
        Err(why) => tracing::warn!(
            "{} is not taken up: {why}: readers of channels in memory are told a gap",
            path.display()
        ),
    }
}

/// Makes sure that nothing in the folder is ever taken up again, before anything is given out under the new mark.
fn consume(folder: &Path, mark: u32, is_there: bool) -> io::Result<()> {
    // What a stop left behind that was itself ended; nobody misses it.
    let _ = fs::remove_file(folder.join(UNFINISHED));
    let removed = match fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let written = file::write_incarnation(&folder.join(INCARNATION_FILE), mark);
    if is_there || written.is_ok() {
        file::sync_folder(folder)?;
    }
    removed.and(written)
}

/// Keeps what a closed hub has in memory for the next start, at most `log_memory` bytes of it. If that fails it is said, and
/// the next start tells a gap.
pub fn put_down(hub: &Hub, folder: &Path, log_memory: usize) {
    match write(hub, folder, log_memory as u64) {
        Ok(written) => {
            let file::Written {
                bytes,
                publications,
                keys_left,
            } = written;
            tracing::info!(
                publications,
                bytes,
                "what is in memory is kept for the next start"
            );
            if keys_left {
                tracing::warn!("not all idempotency keys fit: they would take more than limits.log_memory");
            }
        }
        Err(error) => tracing::warn!(
            %error,
            "what is in memory could not be kept in {}: the next start tells a gap",
            folder.join(FILE).display()
        ),
    }
}

fn write(hub: &Hub, folder: &Path, most: u64) -> Result<file::Written, WriteError> {
    let mut writer = Writer::create(folder, hub.marks().memory, most)?;
    let began = Instant::now();
    let mut said = began;
    let kept = hub.keep(|piece| {
        let passed = began.elapsed();
        if passed > PATIENCE {
            return Err(WriteError::Late);
        }
        if said.elapsed() > SAID_EVERY {
            said = Instant::now();
            tracing::info!(bytes = writer.bytes(), "keeping what is in memory");
        }
        writer.add(&piece)
    });
    match kept {
        // Keys come last.
        Err(WriteError::Full) if writer.has_only_keys_left() => {}
        kept => kept?,
    }
    writer.finish()
}
