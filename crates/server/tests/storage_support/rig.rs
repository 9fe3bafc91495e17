//! A log in a folder of its own, and what a test does with it.

#![allow(dead_code, reason = "each test uses its part")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cometserver::broker::disk::io::{Disk, DiskFile, Held, RealDisk};
use cometserver::broker::disk::{DiskLog, DiskOptions, LockError};
use cometserver_core::broker::{
    Broker, BrokerError, Committed, Delete, Deletion, Fetch, Outcome, Page, Submission, Want,
};
use cometserver_core::channel::ChannelName;
use cometserver_core::namespace::{Bounds, Durability, Namespace, Namespaces};
use cometserver_core::publication::{Body, Message};
use tempfile::TempDir;

/// How long a test waits for what must come: nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What time it is, for ages.
pub(crate) const NOW: u64 = 1_700_000_000_000;

pub(crate) type Answer = (u64, Result<Outcome, BrokerError>);

/// See the module.
pub(crate) struct Log {
    pub(crate) log: Arc<DiskLog>,
    pub(crate) time: Arc<Mutex<u64>>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    options: DiskOptions,
    pub(crate) namespaces: Namespaces,
    answers: Receiver<Vec<Committed>>,
    left_over: Vec<Answer>,
    _temporary: Option<TempDir>,
}

/// Every channel's history is bounded so.
pub(crate) fn bounded(count: usize, bytes: usize, age: u64) -> Namespaces {
    Namespaces::uniform(Namespace {
        history: Bounds { count, bytes, age },
        durability: Durability::Committed,
        ..Namespace::default()
    })
}

/// Nothing is trimmed.
pub(crate) fn unbounded() -> Namespaces {
    bounded(usize::MAX, 1 << 40, 1 << 50)
}

pub(crate) fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

impl Log {
    pub(crate) fn new(options: DiskOptions, namespaces: Namespaces) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("log");
        let mut log = Self::on(Arc::new(Unsynced), &folder, options, namespaces);
        log._temporary = Some(temporary);
        log
    }

    pub(crate) fn on(
        disk: Arc<dyn Disk>,
        folder: &Path,
        options: DiskOptions,
        namespaces: Namespaces,
    ) -> Self {
        let time = Arc::new(Mutex::new(NOW));
        let clock = time.clone();
        let options = DiskOptions {
            clock: Arc::new(move || *clock.lock().unwrap()),
            pause: Duration::ZERO,
            ..options
        };
        let (log, answers) = open(disk.clone(), folder, &options, &namespaces);
        Self {
            log,
            time,
            disk,
            folder: folder.to_owned(),
            options,
            namespaces,
            answers,
            left_over: Vec::new(),
            _temporary: None,
        }
    }

    /// Closes it, lets the test do something to its files, and opens it again.
    pub(crate) fn reopen_after(&mut self, between: impl FnOnce(&Path)) {
        self.log.shut_down();
        between(&self.folder);
        let (log, answers) = open(self.disk.clone(), &self.folder, &self.options, &self.namespaces);
        self.log = log;
        let answers = std::mem::replace(&mut self.answers, answers);
        self.left_over = answers
            .try_iter()
            .flatten()
            .map(|c| (c.ticket, c.result))
            .collect();
    }

    /// What was answered before it was opened again, and not asked for.
    pub(crate) fn left_over(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.left_over)
    }

    pub(crate) fn reopen(&mut self) {
        self.reopen_after(|_| {});
    }

    /// The next answers that come.
    pub(crate) fn answers(&mut self) -> Vec<Answer> {
        let batch = self.answers.recv_timeout(PATIENCE).expect("an answer");
        let answers = batch.into_iter();
        answers
            .map(|committed| (committed.ticket, committed.result))
            .collect()
    }

    /// Everything taken so far has been answered: the answers since the last call, in the order given.
    pub(crate) fn settle(&mut self) -> Vec<Answer> {
        // Behind everything taken: a deletion of something that is not there changes nothing.
        let last = 1 << 60;
        self.log
            .delete(Deletion {
                ticket: last,
                channel: name("behind everything"),
                what: Delete::Retained,
            })
            .unwrap();
        let mut all: Vec<Answer> = Vec::new();
        while all.last().is_none_or(|(ticket, _)| *ticket != last) {
            let batch = self
                .answers
                .recv_timeout(PATIENCE)
                .expect("everything is answered");
            all.extend(
                batch
                    .into_iter()
                    .map(|committed| (committed.ticket, committed.result)),
            );
        }
        all.pop();
        all
    }

    pub(crate) fn publish(&self, channels: &[&str], text: &str) {
        self.submit(
            |message| message.channels = channels.iter().map(|channel| name(channel)).collect(),
            text,
        );
    }

    pub(crate) fn retain(&self, channel: &str, text: &str) {
        self.submit(
            |message| {
                message.channels = vec![name(channel)];
                message.retain = true;
            },
            text,
        );
    }

    pub(crate) fn submit(&self, change: impl FnOnce(&mut Message), text: &str) {
        let mut message = Message::text(name("a"), text);
        change(&mut message);
        let channels = message.channels.clone();
        for channel in &channels {
            self.log.open(channel);
        }
        self.log
            .publish(Submission {
                ticket: 0,
                message: Arc::new(message),
                channels,
                time: *self.time.lock().unwrap(),
            })
            .unwrap();
    }

    pub(crate) fn delete(&self, channel: &str, what: Delete) {
        let channel = name(channel);
        self.log.open(&channel);
        self.log
            .delete(Deletion {
                ticket: 0,
                channel,
                what,
            })
            .unwrap();
    }

    pub(crate) fn fetch(&self, fetch: Fetch) -> Page {
        self.try_fetch(fetch).expect("readable")
    }

    pub(crate) fn try_fetch(&self, fetch: Fetch) -> Result<Page, BrokerError> {
        let (answer, wait) = channel();
        self.log
            .read(fetch, Box::new(move |page| answer.send(page).unwrap()));
        wait.recv_timeout(PATIENCE).expect("answered")
    }

    /// What a channel keeps after a position, whatever its length, with the gap told.
    pub(crate) fn history(&self, channel: &str, after: u64) -> (Vec<(u64, String)>, Option<u64>) {
        let until = self.log.position();
        let (mut from, mut found, mut gap) = (after, Vec::new(), None);
        loop {
            let page = self.fetch(Fetch {
                want: Want::Oldest,
                channels: vec![name(channel)],
                patterns: Vec::new(),
                after: from,
                until,
                limit: 100,
                bytes: 1 << 20,
            });
            found.extend(
                page.stored
                    .iter()
                    .map(|stored| (stored.position, text(&stored.body))),
            );
            let lost = page.lost.iter().map(|lost| lost.position);
            gap = page.gaps.iter().map(|(_, at)| *at).chain(lost).max().or(gap);
            if page.reached >= until {
                return (found, gap);
            }
            assert!(page.reached > from, "a page goes on");
            from = page.reached;
        }
    }

    pub(crate) fn texts(&self, channel: &str) -> Vec<String> {
        self.history(channel, 0)
            .0
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    pub(crate) fn value(&self, channel: &str) -> Option<String> {
        let page = self.fetch(Fetch {
            want: Want::Retained,
            channels: vec![name(channel)],
            until: self.log.position(),
            ..Fetch::default()
        });
        page.stored.first().map(|stored| text(&stored.body))
    }

    /// Waits until the log is as a test wants it: its keeper works when it has time.
    pub(crate) fn wait_until(&self, mut holds: impl FnMut(&DiskLog) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !holds(&self.log) {
            assert!(
                std::time::Instant::now() < deadline,
                "it never happened: {:?}",
                self.log.stats()
            );
            std::thread::yield_now();
        }
    }
}

fn open(
    disk: Arc<dyn Disk>,
    folder: &Path,
    options: &DiskOptions,
    namespaces: &Namespaces,
) -> (Arc<DiskLog>, Receiver<Vec<Committed>>) {
    let log = DiskLog::open_on(disk, folder, options.clone(), namespaces).expect("it can be opened");
    let (commit, answers) = channel();
    log.set_commit(move |batch| {
        let _ = commit.send(batch);
    });
    (log, answers)
}

pub(crate) fn text(body: &Body) -> String {
    match body {
        Body::Message { payload, .. } => String::from_utf8(payload.bytes().to_vec()).unwrap(),
        _ => panic!("only messages are stored"),
    }
}

/// The segment files of a folder, oldest first.
pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

/// The disk of this machine, which need not make anything safe: no test stops the machine.
pub(crate) struct Unsynced;

struct UnsyncedFile(Arc<dyn DiskFile>);

impl Disk for Unsynced {
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        RealDisk.make_folder(folder)
    }

    fn lock(&self, folder: &Path) -> Result<Held, LockError> {
        RealDisk.lock(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(folder)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(RealDisk.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(RealDisk.open(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for UnsyncedFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.allocate(length)
    }
}
