//! From publishing to reading, one publication at a time: with the log, in memory, and the disk alone.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use cometserver::bench::{self, Address, Options};

use crate::{cell, median};

/// Bytes of one record of 100 B of payload on disk, about.
const RECORD: usize = 160;

/// Percentiles of each round.
#[derive(Default)]
struct Times {
    half: Vec<f64>,
    most: Vec<f64>,
}

impl Times {
    fn add(&mut self, half: f64, most: f64) {
        self.half.push(half);
        self.most.push(most);
    }

    fn print(&self, name: &str) {
        println!(
            "{name:<40} {:>22} {:>22}",
            cell(&self.half, 0),
            cell(&self.most, 0)
        );
    }
}

pub(crate) fn run(folder: &Path, address: &Address, rounds: usize, publications: u64) -> anyhow::Result<()> {
    let (mut raw, mut memory, mut fsync) = (Times::default(), Times::default(), Times::default());
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let (half, most) = bare(folder, publications)?;
        raw.add(half, most);
        for (times, durability) in [(&mut memory, "memory"), (&mut fsync, "fsync")] {
            let options = Options {
                subscribers: 1,
                publications,
                channel_prefix: Some(format!("{durability}-latency-{round}-")),
                ..Options::new(address.clone())
            };
            let report = bench::run(options, &mut |_| {})?;
            anyhow::ensure!(report.complete(), "something was lost: {report}");
            times.add(report.latency.p50_us, report.latency.p99_us);
        }
        let last = |figures: &[f64]| figures.last().copied().unwrap_or(f64::NAN);
        ratios.push(last(&fsync.most) / (last(&raw.most) + last(&memory.most)));
    }
    println!(
        "{:<40} {:>22} {:>22}",
        "publish to read, 100 B, one at a time", "p50 µs", "p99 µs"
    );
    raw.print("write + fdatasync alone");
    memory.print("memory");
    fsync.print("fsync");
    let ratio = median(&ratios).unwrap_or(f64::NAN);
    println!(
        "p99 of fsync / (p99 of write + fdatasync, p99 of memory): {} (median {ratio:.2})",
        cell(&ratios, 2)
    );
    Ok(())
}

/// p50 and p99 of one write and fdatasync at the end of a file, in µs.
fn bare(folder: &Path, count: u64) -> anyhow::Result<(f64, f64)> {
    let path = folder.join("raw");
    let mut file = File::create(&path)?;
    let bytes = [7; RECORD];
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(path)?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok((at(0.5), at(0.99)))
}
