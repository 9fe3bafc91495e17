//! What durability costs, beside the raw cost of the same writes on the same disk in the same run. `scripts/bench-durable`
//! builds everything, starts a server and calls this.
//!
//! - `door`: a hub with the log, in this process; publishers are closed loops, each with one publication under way. What was
//!   written and made safe is recorded call by call and repeated on a bare file: that is the raw cost.
//! - `http`: the same over HTTP keep-alive, one connection a publisher, against a running server.
//! - `latency`: from publishing to reading, against one write and fdatasync and the same server's memory.
//! - `recovery`: start to listening, and memory, with so many publications stored.

mod door;
mod latency;
mod raw;
mod recovery;

use std::path::PathBuf;

use clap::Parser;
use cometserver::bench::{self, Address, Load, Options};

/// Measures what durability costs.
#[derive(Parser)]
enum Command {
    /// Publications a second at the hub's door, and their raw cost.
    Door(Door),
    /// Publications a second over HTTP, in channels that begin with the name of their durability.
    Http {
        #[arg(long)]
        address: Address,
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        #[arg(long, default_value_t = 1500)]
        millis: u64,
    },
    /// From publishing to reading, one at a time.
    Latency {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        address: Address,
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        #[arg(long, default_value_t = 1000)]
        publications: u64,
    },
    /// Start to listening with so many publications stored, and their memory.
    Recovery {
        #[arg(long)]
        folder: PathBuf,
        /// The server's binary.
        #[arg(long)]
        comet: PathBuf,
        #[arg(long, default_value_t = 1_000_000)]
        publications: u64,
        #[arg(long, default_value_t = 1000)]
        channels: u64,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
}

const PUBLISHERS: [usize; 3] = [1, 16, 256];

const PAYLOADS: [usize; 2] = [100, 1024];

const DURABILITIES: [&str; 3] = ["memory", "buffered", "fsync"];

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Door(door) => door_rows(&door),
        Command::Http {
            address,
            rounds,
            millis,
        } => http_rows(&address, rounds, millis),
        Command::Latency {
            folder,
            address,
            rounds,
            publications,
        } => latency::run(&folder, &address, rounds, publications),
        Command::Recovery {
            folder,
            comet,
            publications,
            channels,
            rounds,
        } => recovery::run(&folder, &comet, publications, channels, rounds),
    }
}

/// All combinations, each once a round.
fn combinations() -> impl Iterator<Item = (usize, usize, &'static str)> {
    let pairs = PAYLOADS
        .iter()
        .flat_map(|payload| PUBLISHERS.iter().map(|publishers| (*publishers, *payload)));
    pairs.flat_map(|(publishers, payload)| {
        DURABILITIES
            .iter()
            .map(move |durability| (publishers, payload, *durability))
    })
}

/// How the door is measured.
#[derive(clap::Args)]
struct Door {
    /// On the disk that is to be measured.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// About so long a measurement, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    millis: u64,
    /// Only the rows whose name has this in it, such as `256 x 100 B fsync`.
    #[arg(long, default_value = "")]
    only: String,
    /// Each fdatasync, the raw ones as well, is replaced by sleeping for so many microseconds: what the log itself costs, where
    /// the disk is too noisy to show it.
    #[arg(long)]
    sync_micros: Option<u64>,
}

/// What was measured in one row, a round each.
#[derive(Default)]
struct DoorRow {
    rates: Vec<f64>,
    cpu: Vec<f64>,
    raws: Vec<f64>,
    ratios: Vec<f64>,
    batches: Vec<f64>,
}

fn door_rows(door: &Door) -> anyhow::Result<()> {
    let name = |publishers, payload, durability| format!("{publishers} x {payload} B {durability}");
    let mut rows: Vec<_> = combinations()
        .map(|row| (row, name(row.0, row.1, row.2), DoorRow::default()))
        .filter(|(_, name, _)| name.contains(&door.only))
        .collect();
    let sync = door.sync_micros.map(std::time::Duration::from_micros);
    for round in 1..=door.rounds {
        for ((publishers, payload, durability), name, row) in &mut rows {
            eprintln!("round {round} of {}: {name}", door.rounds);
            let load = door::Load {
                publishers: *publishers,
                payload: *payload,
                durability,
                millis: door.millis,
                sync,
            };
            let measured = door::measure(&door.folder, &load)?;
            row.rates.push(measured.per_second());
            row.cpu.push(measured.cpu_micros());
            if let Some(raw) = raw::repeat(&door.folder, &measured.steps, sync)? {
                let per_second = measured.publications as f64 / raw.as_secs_f64();
                row.raws.push(per_second);
                row.ratios.push(measured.per_second() / per_second);
                row.batches
                    .push(measured.publications as f64 / raw::syncs(&measured.steps) as f64);
            }
        }
    }
    println!(
        "{:<24} {:>26} {:>20} {:>26} {:>20} {:>10}",
        "at the hub's door", "publications/s", "CPU each, us", "raw, same batches/s", "ratio", "a batch"
    );
    for (_, name, row) in &rows {
        println!(
            "{name:<24} {:>26} {:>20} {:>26} {:>20} {:>10}",
            cell(&row.rates, 0),
            cell(&row.cpu, 1),
            cell(&row.raws, 0),
            cell(&row.ratios, 2),
            median(&row.batches).map_or("-".into(), |batch| format!("{batch:.1}"))
        );
    }
    Ok(())
}

fn http_rows(address: &Address, rounds: usize, millis: u64) -> anyhow::Result<()> {
    println!(
        "{:<24} {:>26} {:>26}",
        "over HTTP", "publications/s", "of memory's"
    );
    let mut rates = vec![Vec::new(); combinations().count()];
    for round in 1..=rounds {
        for (at, (publishers, payload, durability)) in combinations().enumerate() {
            let options = Options {
                load: Load::Publish,
                payload,
                in_flight: publishers,
                channels: 10,
                channel_prefix: Some(format!("{durability}-{round}-")),
                publications: u64::MAX >> 8,
                duration: Some(std::time::Duration::from_millis(millis)),
                warm_up: 10 * publishers as u64,
                ..Options::new(address.clone())
            };
            eprintln!("round {round} of {rounds}: {publishers} publishers, {payload} B, {durability}");
            let report = bench::run(options, &mut |_| {})?;
            rates[at].push(report.per_second());
        }
    }
    for (at, (publishers, payload, durability)) in combinations().enumerate() {
        let memory = at - at % DURABILITIES.len();
        let of_memory: Vec<f64> = rates[at]
            .iter()
            .zip(&rates[memory])
            .map(|(one, other)| one / other)
            .collect();
        println!(
            "{:<24} {:>26} {:>26}",
            format!("{publishers} x {payload} B {durability}"),
            cell(&rates[at], 0),
            cell(&of_memory, 2)
        );
    }
    Ok(())
}

/// Median and spread.
fn cell(figures: &[f64], digits: usize) -> String {
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let high = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    median(figures).map_or("-".into(), |median| {
        format!("{median:.digits$} [{low:.digits$} - {high:.digits$}]")
    })
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}
