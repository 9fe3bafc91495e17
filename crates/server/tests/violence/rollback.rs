//! The store goes back in time under live clients: whoever has seen more than it knows is told so, and nothing wrong.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::chance::Chance;
use super::listening::{Heard, Listening, Transport};
use super::scene::{Room, Scene};
use super::stage::Stage;
use super::wire::{Door, Http, encode};

const PATIENCE: Duration = Duration::from_secs(60);

/// Publications of each age, spread over the channels.
const EACH: u32 = 60;

/// After so many one client leaves, and comes back at the very end.
const EARLY: u32 = 10;

const CHANNELS: [&str; 3] = ["kept/main/0", "kept/main/1", "kept/main/2"];

/// How the store goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The folder was copied while nothing ran, and the copy is put back.
    Copy { killed: bool },
    /// `comet storage backup` while it runs, `comet storage restore` later.
    Backup,
    /// The disk is new and empty.
    Empty,
}

/// What a follower has heard, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Seen { channel: String, text: String },
    Gap,
}

/// One client that comes back whenever it is cut off.
struct Follower {
    name: String,
    heard: Arc<Mutex<(Vec<Item>, Option<String>)>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    fn start(name: &str, transport: Transport, door: &Door, query: &str, cursor: Option<String>) -> Self {
        let heard: Arc<Mutex<(Vec<Item>, Option<String>)>> = Arc::default();
        let end: Arc<AtomicBool> = Arc::default();
        let mut listening = Listening {
            transport,
            door: door.clone(),
            query: query.to_owned(),
            cursor,
        };
        let (items, over) = (heard.clone(), end.clone());
        let thread = thread::spawn(move || {
            let mut chance = Chance::new(5);
            while !over.load(Ordering::Relaxed) {
                let _ = listening.connection(&mut chance, &mut |heard| {
                    if let Heard::Object(object, cursor) = heard {
                        let mut items = items.lock().unwrap_or_else(PoisonError::into_inner);
                        items.0.extend(item(object));
                        items.1 = cursor.map(str::to_owned).or(items.1.take());
                    }
                    !over.load(Ordering::Relaxed)
                });
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            name: name.to_owned(),
            heard,
            end,
            thread: Some(thread),
        }
    }

    fn heard(&self) -> MutexGuard<'_, (Vec<Item>, Option<String>)> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has all of these.
    fn wait_for(&self, texts: &[String]) {
        let begun = Instant::now();
        let has = |text: &String| {
            self.heard()
                .0
                .iter()
                .any(|item| matches!(item, Item::Seen { text: seen, .. } if seen == text))
        };
        while !texts.iter().all(has) {
            let missing: Vec<&String> = texts.iter().filter(|text| !has(text)).collect();
            assert!(
                begun.elapsed() < PATIENCE,
                "{} never hears {missing:?}, but {:?}",
                self.name,
                self.heard().0
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it knows its place.
    fn wait_for_cursor(&self) -> String {
        let begun = Instant::now();
        loop {
            if let Some(cursor) = self.heard().1.clone() {
                return cursor;
            }
            assert!(begun.elapsed() < PATIENCE, "{} gets no cursor", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Its thread ends with its connection; nobody waits for a heartbeat.
        drop(self.thread.take());
    }
}

fn item(object: &Value) -> Option<Item> {
    match object["type"].as_str()? {
        "publication" => Some(Item::Seen {
            channel: object["channel"].as_str()?.to_owned(),
            text: object["data"].as_str()?.to_owned(),
        }),
        "gap" => Some(Item::Gap),
        _ => None,
    }
}

/// Publishes an age's publications, each acknowledged.
fn publish(stage: &Stage, age: &str, numbers: Range<u32>) -> Vec<String> {
    let mut http = Http::connect(&stage.backend, PATIENCE).unwrap();
    let each = numbers.map(|number| {
        let text = format!("{age}{number}");
        let path = format!("/v1/publish?channel={}", encode(CHANNELS[number as usize % 3]));
        let answer = http
            .request("POST", &path, "Content-Type: text/plain\r\n", text.as_bytes())
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        text
    });
    each.collect()
}

/// Plays the story of one way.
pub(super) fn story(way: Way, folder: &Path) {
    let scene = Scene::new(Room::Plenty);
    let mut stage = Stage::new(folder, &scene, 2);
    stage.start().unwrap();
    let query = format!(
        "retained=0&{}",
        CHANNELS.map(|name| format!("channel={}", encode(name))).join("&")
    );
    let pattern = format!("retained=0&pattern={}", encode("kept/main/*"));
    let followers = [
        ("sse", Transport::Sse, &query),
        ("stream", Transport::Stream, &query),
        ("poll", Transport::Poll, &query),
        ("websocket", Transport::WebSocket, &query),
        ("pattern over sse", Transport::Sse, &pattern),
        ("pattern over poll", Transport::Poll, &pattern),
    ];
    let followers = followers
        .map(|(name, transport, query)| Follower::start(name, transport, &stage.public, query, None));
    for follower in &followers {
        follower.wait_for_cursor();
    }
    let mut old = publish(&stage, "old", 0..EARLY);
    followers[0].wait_for(&old);
    let early = followers[0].wait_for_cursor();
    old.extend(publish(&stage, "old", EARLY..EACH));
    let saved = save(way, &mut stage);
    let gone = publish(&stage, "gone", 0..EACH);
    for follower in &followers {
        follower.wait_for(&old);
        follower.wait_for(&gone);
    }
    let late = followers[0].wait_for_cursor();
    let before: Vec<usize> = followers
        .iter()
        .map(|follower| follower.heard().0.len())
        .collect();
    put_back(way, &mut stage, &saved);
    // More than was lost, so that positions and offsets of the lost are given out again.
    let new = publish(&stage, "new", 0..3 * EACH);
    for (follower, before) in followers.iter().zip(before) {
        follower.wait_for(&new);
        let heard = follower.heard().0[before..].to_vec();
        check(&follower.name, &heard, &old, &new, true);
    }
    // Who comes only now, with a place that the lost had and the new have again, is told too.
    let latecomer = Follower::start("latecomer", Transport::Stream, &stage.public, &query, Some(late));
    latecomer.wait_for(&new[new.len() - 3..]);
    let heard = latecomer.heard().0.clone();
    check(&latecomer.name, &heard, &old, &new, true);
    // Who left before the copy has missed nothing that the store does not have.
    if way != Way::Empty {
        let early = Follower::start(
            "from before the copy",
            Transport::Stream,
            &stage.public,
            &query,
            Some(early),
        );
        early.wait_for(&new);
        let heard = early.heard().0.clone();
        check(&early.name, &heard, &old, &new, false);
        assert_eq!(heard.len(), old.len() - EARLY as usize + new.len(), "{heard:?}");
    }
    stage.stop().unwrap();
    assert_eq!(stage.panics(), Vec::<String>::new());
}

/// A gap before anything else; nothing that is gone; of what is kept and new the right order; all that is new.
fn check(who: &str, heard: &[Item], old: &[String], new: &[String], gap: bool) {
    let first = heard.iter().position(|item| *item == Item::Gap);
    let seen = heard.iter().position(|item| matches!(item, Item::Seen { .. }));
    if gap {
        assert!(
            first.is_some() && first < seen,
            "{who} is not told of a gap first: {heard:?}"
        );
    } else {
        assert_eq!(
            first, None,
            "{who} is told of a gap where nothing is missing: {heard:?}"
        );
    }
    let mut by_channel: HashMap<&str, Vec<&str>> = HashMap::new();
    for item in heard {
        if let Item::Seen { channel, text } = item {
            assert!(!text.starts_with("gone"), "{who} sees what is gone: {text}");
            by_channel.entry(channel).or_default().push(text);
        }
    }
    for (number, channel) in CHANNELS.iter().enumerate() {
        let of_channel = |texts: &[String]| {
            let mine = texts.iter().skip(number).step_by(3);
            mine.cloned().collect::<Vec<String>>()
        };
        let all = [of_channel(old), of_channel(new)].concat();
        let seen = by_channel.remove(channel).unwrap_or_default();
        assert!(
            seen.len() >= new.len() / 3
                && all.ends_with(&seen.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()),
            "{who} sees in {channel}: {seen:?}"
        );
    }
}

fn save(way: Way, stage: &mut Stage) -> PathBuf {
    let saved = stage.folder.join("saved");
    match way {
        Way::Copy { killed } => {
            if killed {
                stage.kill();
            } else {
                stage.stop().unwrap();
            }
            copy(&stage.data(), &saved);
            stage.start().unwrap();
        }
        Way::Backup => {
            let output = stage.run(&["storage", "backup", saved.to_str().unwrap()]);
            assert!(output.status.success(), "{output:?}");
        }
        Way::Empty => {}
    }
    saved
}

fn put_back(way: Way, stage: &mut Stage, saved: &Path) {
    stage.kill();
    match way {
        Way::Copy { .. } => {
            fs::remove_dir_all(stage.data()).unwrap();
            copy(saved, &stage.data());
        }
        Way::Backup => {
            let output = stage.run(&["storage", "restore", "--replace", saved.to_str().unwrap()]);
            assert!(output.status.success(), "{output:?}");
        }
        Way::Empty => fs::remove_dir_all(stage.data()).unwrap(),
    }
    stage.start().unwrap();
}

/// As `cp -r` does, but for sockets.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
