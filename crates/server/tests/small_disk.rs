//! The real server on a real small disk: publishing into a short history never ends, and a full disk heals by itself.
#![allow(clippy::unwrap_used)] // the exception for tests does not know their helper functions

mod daemon_support;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use daemon_support::{Answer, Home, until};
use serde_json::{Value, json};

/// What is published at once on a connection.
const PORTION: usize = 100;

/// How many connections publish beside each other.
const PUBLISHERS: usize = 5;

/// A small disk in memory in place of the data folder, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said aloud, where that is not permitted.
    fn mount(at: PathBuf, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        let options = format!("size={mebibytes}m,mode=700");
        mount.args(["-t", "tmpfs", "-o", &options, "small"]).arg(&at);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        if !is_mounted {
            println!("skipped: mounting a small disk is not permitted here");
        }
        is_mounted.then_some(Self(at))
    }

    /// Somebody else takes all that is left of it.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        for size in [4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Publishes so many messages of 1 KiB to a channel, several at a time. How many were accepted?
fn publish_many(home: &Home, channel: &str, count: usize) -> usize {
    let body = json!({"channel": channel, "data": "x".repeat(1000)}).to_string();
    let head = "POST /v1/publish HTTP/1.1\r\nHost: comet\r\nContent-Length";
    let request = format!("{head}: {}\r\n\r\n{body}", body.len());
    let (mut stream, mut accepted) = (home.connect(), 0);
    let mut answers = Vec::new();
    for portion in 1..=count / PORTION {
        stream.write_all(request.repeat(PORTION).as_bytes()).unwrap();
        let of =
            |answers: &[u8], word: &[u8]| answers.windows(word.len()).filter(|part| *part == word).count();
        let mut seen = 0;
        while seen < PORTION {
            let mut bytes = [0; 64 << 10];
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0, "closed in portion {portion}");
            answers.extend_from_slice(&bytes[..read]);
            // An answer is whole with its body, which ends in a brace.
            seen = of(&answers, b"HTTP/1.1 ");
            if !answers.ends_with(b"}") {
                seen = 0;
            }
        }
        accepted += of(&answers, b"HTTP/1.1 200 ");
        answers.clear();
    }
    accepted
}

fn publish(home: &Home, channel: &str) -> Answer {
    let body = json!({"channel": channel, "data": "x".repeat(1000)}).to_string();
    home.http("POST", "/v1/publish", body)
}

/// Publishes to one channel after the other until the log refuses several times in a row. Which ones took it?
fn publish_until_full(home: &Home, prefix: &str) -> Vec<String> {
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0.. {
        let channel = format!("{prefix}/{number}");
        let answer = publish(home, &channel);
        if answer.status == 200 {
            taken.push(channel);
            refused = 0;
        } else {
            assert_eq!(answer.status, 503, "{answer:?}");
            refused += 1;
        }
        if refused == 10 {
            return taken;
        }
        assert!(number < 30_000, "the disk is never full");
    }
    unreachable!("it ends before")
}

fn history(home: &Home, channel: &str) -> Vec<Value> {
    let answer = home.http("GET", &format!("/v1/history?channel={channel}&limit=1000"), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["publications"].as_array().unwrap().clone()
}

fn log_bytes(home: &Home) -> u64 {
    let files = fs::read_dir(home.data().join("log")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

fn short_history_goes_on(mebibytes: u32) {
    let home = Home::new();
    let Some(_disk) = SmallDisk::mount(home.data(), mebibytes) else {
        return;
    };
    let server = home.serve(&[]);
    let accepted: usize = thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|_| scope.spawn(|| publish_many(&home, "news", 50_000 / PUBLISHERS)))
            .collect();
        publishers.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(accepted, 50_000);
    assert!(log_bytes(&home) < u64::from(mebibytes) << 20);
    let kept = history(&home, "news");
    assert_eq!(kept.len(), 100);
    assert_eq!(kept[99]["offset"], 50_000);
    drop(server);
    let _server = home.serve(&[]);
    assert_eq!(history(&home, "news"), kept);
}

#[test]
fn on_a_disk_of_8_mib_publishing_into_a_short_history_never_ends() {
    short_history_goes_on(8);
}

#[test]
fn on_a_disk_of_48_mib_publishing_into_a_short_history_never_ends() {
    short_history_goes_on(48);
}

#[test]
fn on_a_full_disk_deleting_works_and_makes_room_and_so_does_whoever_else_has_filled_it() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(home.data(), 8) else {
        return;
    };
    let server = home.serve(&[]);
    assert_eq!(publish_many(&home, "news", 1_000), 1_000);
    let ballast = disk.fill();
    let taken = publish_until_full(&home, "first");
    // Nothing is lost by that, nor by another start.
    assert!(taken.iter().all(|channel| history(&home, channel).len() == 1));
    let storage = home.ok(["storage"]);
    assert!(
        storage.contains("takes nothing") && storage.contains("make room or delete"),
        "{storage}"
    );
    assert!(
        storage.contains("of at most 7.0 MiB") && storage.contains("storage.max_size"),
        "{storage}"
    );
    drop(server);
    let _server = home.serve(&[]);
    assert!(taken.iter().all(|channel| history(&home, channel).len() == 1));

    deleted(&home, "news");
    for channel in &taken {
        deleted(&home, channel);
    }
    until("what was deleted makes room", || {
        (publish(&home, "second").status == 200).then_some(())
    });
    publish_until_full(&home, "third");
    fs::remove_file(ballast).unwrap();
    until("somebody has made room", || {
        (publish(&home, "fourth").status == 200).then_some(())
    });
    assert_eq!(publish_many(&home, "news", 20_000), 20_000);
    assert_eq!(history(&home, "news").len(), 100);
    assert!(is_well(&home));
}

/// A history is deleted for good.
fn deleted(home: &Home, channel: &str) {
    let answer = home.http("DELETE", &format!("/v1/history?channel={channel}"), "");
    assert_eq!(answer.status, 200, "{channel}: {answer:?}");
    assert_eq!(history(home, channel), Vec::<Value>::new());
}

fn is_well(home: &Home) -> bool {
    home.http("GET", "/health/ready", "").json()["status"] == "ready"
}
