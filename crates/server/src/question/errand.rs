//! Errands: what takes longer than a shard may, done in a thread of its own, one at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cometserver_core::broker::{Broker, StoredChannel};
use cometserver_core::protocol::native;
use serde::Deserialize;
use serde_json::json;

use super::{Asker, Outcome, Progress, Question, Reply};
use crate::api::{self, Pair, Refused};
use crate::broker::disk::DiskLog;
use crate::broker::disk::backup::BackupError;
use crate::server;
use crate::shared::{Failed, Part, Shared};

/// How many channels are told of, if nobody says, and at the most.
const CHANNELS: (u64, u64) = (20, 1000);

/// How many channels are looked at before others have their turn at the log.
const PIECE: usize = 1000;

/// Begins an errand; `work` gives an object, open at its end.
fn begin(
    asker: &Asker<'_>,
    work: impl FnOnce(&Shared) -> Result<Vec<u8>, Failed> + Send + 'static,
) -> Result<Progress, Refused> {
    let shared = asker.shared.clone();
    if shared.errand.swap(true, Ordering::AcqRel) {
        return Err(Refused::unavailable(
            "another question of this kind is being answered",
        ));
    }
    let (connection, number) = (asker.connection, asker.number);
    let own = shared.clone();
    let run = move || {
        let result = work(&own);
        own.errand.store(false, Ordering::Release);
        own.answer(connection, number, Part::Done(result));
    };
    match std::thread::Builder::new().name("errand".into()).spawn(run) {
        Ok(_) => Ok(Progress::Waits(Question::Errand)),
        Err(error) => {
            shared.errand.store(false, Ordering::Release);
            Err(Refused::unavailable(error.to_string()))
        }
    }
}

/// The errand is done.
pub(super) fn done(result: Result<Vec<u8>, Failed>) -> Outcome {
    match result {
        Ok(open) => Ok(Reply::Object(200, open)),
        Err(failed) => Err(Refused::new(failed.status, failed.code, failed.detail)),
    }
}

fn log_of(asker: &Asker<'_>) -> Result<Arc<DiskLog>, Refused> {
    asker.shared.log.clone().ok_or_else(|| {
        Refused::not_found("nothing is kept on disk: every namespace says durability = \"memory\"")
    })
}

/// What the log on disk takes.
///
/// # Errors
/// There is none.
pub fn storage(parameters: &[Pair<'_>], asker: &Asker<'_>) -> Result<Progress, Refused> {
    let log = log_of(asker)?;
    let limit = api::number(parameters, "limit")?
        .unwrap_or(CHANNELS.0)
        .min(CHANNELS.1);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    begin(asker, move |shared| Ok(storage_object(&log, shared, limit)))
}

/// Copies the log to a folder that the request names.
///
/// # Errors
/// The request is none, or there is no log.
pub fn backup(body: &[u8], asker: &Asker<'_>) -> Result<Progress, Refused> {
    #[derive(Deserialize)]
    struct Wish {
        to: PathBuf,
    }
    let wish: Wish = serde_json::from_slice(body)
        .map_err(|error| Refused::bad(format!("the body is not {{\"to\":\"/a/folder\"}}: {error}")))?;
    if !wish.to.is_absolute() {
        return Err(Refused::bad(
            "`to` has to be an absolute path: the server has a working directory of its own",
        ));
    }
    let log = log_of(asker)?;
    begin(asker, move |_| match log.backup(&wish.to) {
        Ok(copied) => {
            let object = json!({"to": wish.to, "bytes": copied.bytes, "files": copied.segments});
            let mut open = object.to_string().into_bytes();
            open.pop();
            Ok(open)
        }
        Err(error) => {
            let (status, code) = match error {
                BackupError::NotEmpty { .. } => (400, "bad_request"),
                _ => (503, "unavailable"),
            };
            let detail = error.to_string();
            tracing::warn!("no backup was made: {detail}");
            Err(Failed { status, code, detail })
        }
    })
}

fn storage_object(log: &DiskLog, shared: &Shared, limit: usize) -> Vec<u8> {
    let stats = log.stats();
    let files: Vec<_> = server::files_of(log.folder())
        .into_iter()
        .map(|(name, bytes)| json!({"name": name, "bytes": bytes}))
        .collect();
    let object = json!({
        "folder": log.folder().to_string_lossy(),
        "bytes": stats.bytes,
        "live_bytes": stats.live_bytes,
        "max_size": shared.settings().config.storage.max_size,
        "ceiling": stats.ceiling,
        "publications": stats.publications,
        "known_channels": stats.channels,
        "position": stats.position,
        "queued_bytes": stats.queued_bytes,
        "damaged": stats.damaged,
        "trimmed": stats.trimmed_for_ceiling,
        "trouble": shared.trouble.now(),
        "files": files,
    });
    let mut open = object.to_string().into_bytes();
    open.pop();
    open.extend_from_slice(b",\"channels\":[");
    for (index, channel) in largest(log, limit).iter().enumerate() {
        open.extend_from_slice(if index > 0 { b",{" } else { b"{" });
        native::channel_member(channel.name.as_bytes(), &mut open);
        let rest = format!(
            ",\"publications\":{},\"bytes\":{},\"retained\":{}}}",
            channel.publications,
            channel.bytes,
            channel.retained != 0
        );
        open.extend_from_slice(rest.as_bytes());
    }
    open.push(b']');
    open
}

/// The channels with most, the largest first.
fn largest(log: &dyn Broker, limit: usize) -> Vec<StoredChannel> {
    // The smallest of those found so far on top; the epoch tells those of one size apart.
    let mut found: BinaryHeap<Reverse<(usize, u64, usize)>> = BinaryHeap::new();
    let mut channels: Vec<Option<StoredChannel>> = Vec::new();
    let mut next = Some(0).filter(|_| limit > 0);
    while let Some(after) = next {
        let (piece, more) = log.channels(after, PIECE);
        next = more;
        for channel in piece {
            if found.len() == limit {
                let Some(Reverse((least, ..))) = found.peek() else {
                    break;
                };
                if channel.bytes <= *least {
                    continue;
                }
                if let Some(Reverse((.., place))) = found.pop() {
                    found.push(Reverse((channel.bytes, channel.epoch, place)));
                    channels[place] = Some(channel);
                }
                continue;
            }
            found.push(Reverse((channel.bytes, channel.epoch, channels.len())));
            channels.push(Some(channel));
        }
    }
    let sorted = found.into_sorted_vec();
    let places = sorted.into_iter().map(|Reverse((.., place))| place);
    places.filter_map(|place| channels[place].take()).collect()
}
