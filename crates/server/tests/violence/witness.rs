//! Who asks instead of listening: history and retained values, while it all happens and when it is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::chance::Chance;
use super::ledger::{Id, Ledger};
use super::scene::{Promise, Room};
use super::wire::{Door, Http, encode};

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks at random until the end.
pub(super) fn ask_around(ledger: &Arc<Ledger>, door: &Door, mut chance: Chance, end: &AtomicBool) {
    let kept: Vec<u16> = (0..ledger.scene.channels.len() as u16).collect();
    let mut since = vec!["earliest".to_owned()];
    while !end.load(Ordering::Relaxed) && !ledger.broken.load(Ordering::Relaxed) {
        let channel = *chance.of(&kept);
        let asked = if chance.one_in(2) && ledger.scene.name(channel).starts_with("kept/") {
            retained(ledger, door, channel)
        } else {
            let from = chance.of(&since).clone();
            let reverse = chance.one_in(3);
            page(ledger, door, channel, &from, chance.magnitude(1, 1_000), reverse).map(|page| {
                if since.len() > 20 {
                    since.remove(chance.below(20) as usize);
                }
                since.push(page.cursor);
            })
        };
        if asked.is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(chance.millis(0, 60));
    }
}

/// A part of a history.
pub(super) struct Page {
    pub(super) places: Vec<(u64, Id)>,
    pub(super) cursor: String,
    pub(super) gap: bool,
    /// The newest offset.
    pub(super) newest: u64,
}

/// Asks for a part of a history and looks for holes in it.
pub(super) fn page(
    ledger: &Ledger,
    door: &Door,
    channel: u16,
    since: &str,
    limit: u64,
    reverse: bool,
) -> io::Result<Page> {
    let name = ledger.scene.name(channel);
    let mut path = format!("/v1/history?channel={}&since={since}&limit={limit}", encode(name));
    if reverse {
        path.push_str("&reverse=1");
    }
    let answer = Http::connect(door, PATIENCE)?.get(&path)?;
    let json = answer.json()?;
    if answer.status != 200 {
        if answer.status != 503 {
            ledger.violation(format!("history of {name} since {since}: {}", answer.text()));
        }
        return Err(io::ErrorKind::NotFound.into());
    }
    let objects = json["publications"].as_array().into_iter().flatten();
    let found = objects.filter_map(|object| ledger.find(object, "the history"));
    let places: Vec<(u64, Id)> = found.map(|(id, offset)| (offset, id)).collect();
    let step = |pair: &[(u64, Id)]| {
        if reverse {
            pair[0].0 == pair[1].0 + 1
        } else {
            pair[0].0 + 1 == pair[1].0
        }
    };
    let holes = ledger.scene.room == Room::Damaged;
    if !holes && !places.windows(2).all(step) {
        ledger.violation(format!(
            "the history of {name} since {since} has holes: {places:?}"
        ));
    }
    let page = Page {
        places,
        cursor: json["cursor"].as_str().unwrap_or_default().to_owned(),
        gap: json["gap"] == true,
        newest: json["offset"].as_u64().unwrap_or(0),
    };
    if page.gap && ledger.scene.promise(channel) == Promise::Durable {
        ledger.violation(format!("the history of {name} since {since} has a gap: {json}"));
    }
    Ok(page)
}

/// The retained value must not be older than the newest that was acknowledged before it was asked for.
pub(super) fn retained(ledger: &Ledger, door: &Door, channel: u16) -> io::Result<()> {
    let least = newest_retained(ledger, channel, true);
    let name = ledger.scene.name(channel);
    let answer = Http::connect(door, PATIENCE)?.get(&format!("/v1/retained?channel={}", encode(name)))?;
    match answer.status {
        200 => {
            let Some((id, offset)) = ledger.find(&answer.json()?, "the retained value") else {
                return Ok(());
            };
            let may = ledger.scene.room == Room::Damaged;
            if !may && least.is_some_and(|(least, _)| offset < least) {
                ledger.violation(format!(
                    "{name} retains {id:?} at {offset}, acknowledged was {least:?}"
                ));
            }
        }
        404 if least.is_none() || ledger.scene.room == Room::Damaged => {}
        503 => return Err(io::ErrorKind::NotFound.into()),
        status => ledger.violation(format!(
            "retained value of {name}: {status} {}, want {least:?}",
            answer.text()
        )),
    }
    Ok(())
}

/// Of the publications that may be retained, the newest (that is acknowledged, or at all).
pub(super) fn newest_retained(ledger: &Ledger, channel: u16, acknowledged: bool) -> Option<(u64, Id)> {
    let records = ledger.records();
    let truth = &records.truth[usize::from(channel)];
    let history = truth.histories.get(&0)?;
    let entries = history.iter().enumerate().rev();
    let mut known = entries.filter_map(|(at, id)| id.map(|id| (at as u64 + 1, id)));
    known.find(|(_, id)| {
        let sent = &records.publishers[usize::from(id.publisher)][id.number as usize];
        sent.retain && (!acknowledged || sent.acked.is_some())
    })
}

/// A whole history, page by page.
pub(super) fn whole(ledger: &Ledger, door: &Door, channel: u16) -> io::Result<(Vec<(u64, Id)>, u64)> {
    let mut all: Vec<(u64, Id)> = Vec::new();
    let mut since = "earliest".to_owned();
    loop {
        let page = page(ledger, door, channel, &since, 1_000, false)?;
        if page.places.is_empty() {
            return Ok((all, page.newest));
        }
        all.extend(page.places);
        since = page.cursor;
    }
}
