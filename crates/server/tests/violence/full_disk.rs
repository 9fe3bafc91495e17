//! A small disk is filled until the store refuses: reading and delivering go on, and what was acknowledged stays.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::scene::{Room, Scene};
use super::stage::Stage;
use super::wire::Http;

const PATIENCE: Duration = Duration::from_secs(60);

/// The whole disk.
const DISK: &str = "12m";

/// What somebody else has put on it, and takes away later.
const BALLAST: usize = 5 << 20;

/// Large enough to fill the disk soon, too small to be refused for its size.
const PAYLOAD: usize = 20_000;

const CHANNEL: &str = "kept/main/0";

/// A small disk in memory, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where that is not permitted.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "violence"])
            .arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Fills the disk, kills the server on it, starts it again, makes room.
pub(super) fn story(folder: &Path) {
    let at = folder.join("disk");
    let Some(_disk) = SmallDisk::mount(&at) else {
        println!("skipped: mounting a small disk is not permitted here");
        return;
    };
    let mut stage = Stage::new(&at, &Scene::new(Room::Plenty), 2);
    stage.start().unwrap();
    let ballast = at.join("ballast");
    fs::write(&ballast, vec![1; BALLAST]).unwrap();
    let mut listener = Http::connect(&stage.public, PATIENCE).unwrap();
    let path = format!("/v1/stream?retained=0&channel={CHANNEL}&channel=memory/0");
    assert_eq!(listener.open("GET", &path, "", b"").unwrap(), 200);

    let mut acked: Vec<(u32, u64)> = Vec::new();
    let mut next = 0;
    fill(&stage, &mut next, &mut acked);
    let full = acked.len();
    assert!(full > 50, "only {full} fitted on the disk");
    // Who reads and who publishes elsewhere is not concerned.
    assert_eq!(history(&stage), acked);
    let (status, answer) = publish(&stage, "memory/0", "still here");
    assert_eq!(status, 200, "{answer}");
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains("still here") {
        assert!(
            listener.piece(&mut heard).unwrap(),
            "the stream ended on a full disk"
        );
    }
    let lines = String::from_utf8_lossy(&heard).into_owned();
    let shown = lines.lines().filter(|line| line.contains(CHANNEL)).count();
    assert_eq!(shown, full, "not what was acknowledged was shown");

    // Killed and started on a disk without a single page left: nothing is lost, reading works, and it is said.
    let last_bytes = at.join("last-bytes");
    fill_up(&last_bytes);
    stage.kill();
    stage.start().unwrap();
    assert_eq!(history(&stage), acked);
    let (status, answer) = publish(&stage, CHANNEL, &text(next));
    next += 1;
    clear(status, &answer);
    fs::remove_file(&last_bytes).unwrap();
    // Perhaps there is a little room again; then it is used, and refused as clearly.
    fill(&stage, &mut next, &mut acked);
    assert_eq!(history(&stage), acked);

    // Somebody makes room: publishing goes on, without a restart.
    fs::remove_file(&ballast).unwrap();
    let begun = Instant::now();
    loop {
        let (status, answer) = publish(&stage, CHANNEL, &text(next));
        next += 1;
        if status == 200 {
            acked.push((next - 1, offset(&answer)));
            break;
        }
        clear(status, &answer);
        assert!(begun.elapsed() < PATIENCE, "there is room again, but: {answer}");
        thread::sleep(Duration::from_millis(50));
    }
    stage.kill();
    stage.start().unwrap();
    assert_eq!(history(&stage), acked);
    stage.stop().unwrap();
    assert_eq!(stage.panics(), Vec::<String>::new());
}

/// Takes all that is left of the disk.
fn fill_up(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

fn text(number: u32) -> String {
    format!("{number:07}{}", "x".repeat(PAYLOAD))
}

/// Publishes until the store refuses ten times in a row.
fn fill(stage: &Stage, next: &mut u32, acked: &mut Vec<(u32, u64)>) {
    let mut refused = 0;
    while refused < 10 {
        let (status, answer) = publish(stage, CHANNEL, &text(*next));
        *next += 1;
        if status == 200 {
            acked.push((*next - 1, offset(&answer)));
        } else {
            clear(status, &answer);
            refused += 1;
        }
        assert!(*next < 10_000, "the disk is never full");
    }
}

fn publish(stage: &Stage, channel: &str, text: &str) -> (u16, Value) {
    let mut http = Http::connect(&stage.backend, PATIENCE).unwrap();
    let path = format!("/v1/publish?channel={channel}");
    let answer = http
        .request("POST", &path, "Content-Type: text/plain\r\n", text.as_bytes())
        .unwrap();
    (answer.status, answer.json().unwrap())
}

fn offset(answer: &Value) -> u64 {
    answer["channels"][0]["offset"].as_u64().unwrap()
}

/// A refusal says that trying again is useful.
fn clear(status: u16, answer: &Value) {
    assert!(
        status == 503 && (answer["code"] == "unavailable" || answer["code"] == "unknown_outcome"),
        "not a clear refusal: {status} {answer}"
    );
    assert!(
        answer["detail"].as_str().is_some_and(|detail| detail.len() > 20),
        "{answer}"
    );
}

/// The whole history: number and offset.
fn history(stage: &Stage) -> Vec<(u32, u64)> {
    let mut http = Http::connect(&stage.backend, PATIENCE).unwrap();
    let (mut all, mut since) = (Vec::new(), "earliest".to_owned());
    loop {
        let path = format!("/v1/history?channel={CHANNEL}&since={since}&limit=1000");
        let answer = http.get(&path).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json().unwrap();
        let publications = answer["publications"].as_array().unwrap();
        if publications.is_empty() {
            return all;
        }
        all.extend(publications.iter().map(|publication| {
            let text = publication["data"].as_str().unwrap();
            (
                text[..7].parse::<u32>().unwrap(),
                publication["offset"].as_u64().unwrap(),
            )
        }));
        since = answer["cursor"].as_str().unwrap().to_owned();
    }
}
