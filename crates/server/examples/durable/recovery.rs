//! Start to listening with many publications stored, and what they cost in memory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cometserver_core::namespace::{Bounds, Durability};

use crate::raw::Recorder;
use crate::{cell, door};

/// Bytes of a payload.
const PAYLOAD: usize = 100;

/// What a start has shown.
struct Started {
    listening: Duration,
    resident: u64,
    private: u64,
    peak: u64,
}

pub(crate) fn run(
    folder: &Path,
    comet: &Path,
    publications: u64,
    channels: u64,
    rounds: usize,
) -> anyhow::Result<()> {
    let full = folder.join("full");
    let empty = folder.join("empty");
    fs::create_dir_all(&full)?;
    fs::create_dir_all(&empty)?;
    let stored = fill(&full.join("log"), publications, channels as usize)?;
    let (mut times, mut without, mut memory, mut private, mut peak) =
        (vec![], vec![], vec![], vec![], vec![]);
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let (with, alone) = (start(&full, comet)?, start(&empty, comet)?);
        let each = |one: u64, other: u64| one.saturating_sub(other) as f64 / stored as f64;
        times.push(with.listening.as_secs_f64() * 1e3);
        without.push(alone.listening.as_secs_f64() * 1e3);
        memory.push(each(with.resident, alone.resident));
        private.push(each(with.private, alone.private));
        peak.push(each(with.peak, alone.peak));
    }
    println!("{stored} publications of {PAYLOAD} B in {channels} channels stored");
    println!("start to listening, ms               {}", cell(&times, 0));
    println!("the same with nothing stored, ms     {}", cell(&without, 0));
    println!("private bytes a publication          {}", cell(&private, 1));
    println!("resident bytes a publication         {}", cell(&memory, 1));
    println!("resident at the peak, a publication  {}", cell(&peak, 1));
    Ok(())
}

/// Publishes until there are so many; how many there are.
fn fill(log: &Path, publications: u64, channels: usize) -> anyhow::Result<u64> {
    let everything = Bounds {
        count: usize::MAX,
        bytes: usize::MAX,
        age: 30 * 24 * 3_600_000,
    };
    let (hub, disk) = door::open(log, Durability::Buffered, everything, Recorder::default())?;
    let text = "x".repeat(PAYLOAD);
    let mut stored = 0;
    while stored < publications {
        stored += door::publish(&hub, 256, &text, Duration::from_millis(500), channels)?.0;
        eprintln!("{stored} stored");
    }
    disk.shut_down();
    Ok(stored)
}

fn start(data: &Path, comet: &Path) -> anyhow::Result<Started> {
    let config = data.join("comet.toml");
    let namespace =
        "[namespace_default]\nhistory.count = 100000000\nhistory.bytes = \"64GiB\"\nhistory.age = \"30d\"\n";
    fs::write(&config, namespace)?;
    let begun = Instant::now();
    let child = Command::new(comet)
        .arg("serve")
        .arg("--config")
        .arg(&config)
        .arg("--data-dir")
        .arg(data)
        .stderr(Stdio::piped())
        .spawn();
    let mut server = Ended(child.context("the server's binary")?);
    let log = BufReader::new(server.0.stderr.take().context("its standard error is a pipe")?);
    for line in log.lines() {
        if line?.contains("\"listening\"") {
            let listening = begun.elapsed();
            let memory = |file: &str, name: &str| {
                let text = fs::read_to_string(format!("/proc/{}/{file}", server.0.id()))?;
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
                anyhow::Ok(kilobytes.context("memory is told by Linux only")? << 10)
            };
            return Ok(Started {
                listening,
                resident: memory("smaps_rollup", "Rss:")?,
                private: memory("smaps_rollup", "Private_Dirty:")?,
                peak: memory("status", "VmHWM:")?,
            });
        }
    }
    bail!("the server does not listen")
}

/// A server that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
