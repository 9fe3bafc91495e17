//! Drives the floor, nchan and this server with the same loads in one run, interleaved, and prints the ratios beside
//! their budget. `scripts/bench` starts the servers and calls this.
//!
//! Two noisy cores: only ratios within one round are comparable. So each round measures every server once, the ratio
//! is taken per round, and the table shows the median of the ratios and their spread.

mod rows;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, ValueEnum};
use cometserver::bench::{self, Address, Load, Options, Report, Target, Transport};
use rows::{Figure, Row, rows};

/// Measures servers side by side.
#[derive(Parser)]
enum Command {
    /// Lists the rows.
    Rows,
    /// Measures rows and prints the table.
    Table {
        /// `comet|floor|nchan,tcp=127.0.0.1:PORT,unix=PATH,pid=PID`; once per server.
        #[arg(long = "server", required = true)]
        servers: Vec<Server>,
        /// Rounds; memory is measured once.
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// Only this row; repeat for more.
        #[arg(long = "row")]
        rows: Vec<String>,
        /// Appends one JSON object a row.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Without the table's head.
        #[arg(long)]
        no_head: bool,
    },
    /// Runs a single fan-out over TCP and prints its report as JSON.
    Load {
        /// As for `table`.
        #[arg(long)]
        server: Server,
        /// How subscribers listen.
        #[arg(long, default_value = "sse")]
        transport: TransportName,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        subscribers: usize,
        /// Publications measured.
        #[arg(long, default_value_t = 100)]
        publications: u64,
        /// Seconds without any event after which the load gives up.
        #[arg(long, default_value_t = 120)]
        stall: u64,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum TransportName {
    Sse,
    Stream,
    Ws,
    Poll,
}

/// One running server.
#[derive(Clone)]
struct Server {
    target: Target,
    tcp: Option<Address>,
    unix: Option<Address>,
    pid: Option<u32>,
}

impl std::str::FromStr for Server {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split(',');
        let target = match parts.next() {
            Some("comet") => Target::Comet,
            Some("floor") => Target::Floor,
            Some("nchan") => Target::Nchan,
            _ => bail!("expected comet, floor or nchan first"),
        };
        let mut server = Server {
            target,
            tcp: None,
            unix: None,
            pid: None,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("tcp", address)) => server.tcp = Some(address.parse()?),
                Some(("unix", path)) => server.unix = Some(Address::Unix(path.into())),
                Some(("pid", pid)) => server.pid = Some(pid.parse()?),
                _ => bail!("{part}: expected tcp=, unix= or pid="),
            }
        }
        Ok(server)
    }
}

impl Server {
    /// The default options against this server; `None`: it does not listen there.
    fn options(&self, unix: bool) -> Option<Options> {
        let address = if unix { self.unix.clone() } else { self.tcp.clone() };
        Some(Options {
            target: self.target,
            pid: self.pid,
            ..Options::new(address?)
        })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Rows => rows().iter().for_each(|row| println!("{}", row.name)),
        Command::Load {
            server,
            transport,
            subscribers,
            publications,
            stall,
        } => {
            let mut options = server.options(false).context("the server needs tcp=")?;
            options.transport = match transport {
                TransportName::Sse => Transport::Sse,
                TransportName::Stream => Transport::Stream,
                TransportName::Ws => Transport::Ws,
                TransportName::Poll => Transport::Poll,
            };
            (options.subscribers, options.publications) = (subscribers, publications);
            options.stall = std::time::Duration::from_secs(stall);
            let report = bench::run(options, &mut |line| eprintln!("{line}"))?;
            println!("{}", report.to_json());
            return Ok(if report.complete() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Command::Table {
            servers,
            rounds,
            rows: names,
            json,
            no_head,
        } => {
            if !no_head {
                println!("{}", head(&servers));
            }
            let all = rows();
            if let Some(name) = names.iter().find(|name| all.iter().all(|row| row.name != **name)) {
                bail!("no row is called {name}; `compare rows` lists them");
            }
            for row in all
                .iter()
                .filter(|row| names.is_empty() || names.contains(&row.name))
            {
                let line = measure(row, &servers, rounds)?;
                println!("{}", line.text(row, &servers));
                if let Some(path) = &json {
                    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                    writeln!(file, "{}", line.json(row))?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the rounds of one row have shown.
#[derive(Default)]
struct Line {
    /// The floor's own figure in µs, one a round.
    floor: Vec<f64>,
    /// Per server but the floor: the figure of each round.
    servers: Vec<(Target, Vec<f64>)>,
    /// Each server's last report, whole.
    reports: serde_json::Map<String, serde_json::Value>,
    /// Runs in which deliveries were missing or doubled.
    lost: Vec<Target>,
}

fn measure(row: &Row, servers: &[Server], rounds: usize) -> anyhow::Result<Line> {
    let rounds = if row.figure == Figure::Memory { 1 } else { rounds };
    let floor = servers.iter().find(|server| server.target == Target::Floor);
    let frame = wire_bytes(row, servers)?;
    let mut line = Line::default();
    for round in 1..=rounds {
        let mut floor_us = None;
        if row.figure == Figure::Cpu
            && let Some(mut options) = floor.and_then(|floor| floor.options(row.unix))
        {
            row.baseline(&mut options);
            options.frame = frame;
            let report = drive(row, round, rounds, options)?;
            line.note(&report);
            floor_us = each(&report);
            line.floor.extend(floor_us);
        }
        for server in servers.iter().filter(|server| server.target != Target::Floor) {
            let Some(mut options) = server.options(row.unix) else {
                continue;
            };
            row.load(&mut options);
            if options.batch > 1 && server.target != Target::Comet {
                continue;
            }
            let report = drive(row, round, rounds, options.clone())?;
            line.note(&report);
            let figure = match row.figure {
                Figure::Cpu => each(&report).zip(floor_us).map(|(us, floor)| us / floor),
                Figure::CpuOfItself => {
                    row.baseline(&mut options);
                    let alone = drive(row, round, rounds, options)?;
                    each(&report)
                        .zip(each(&alone))
                        .map(|(with, without)| with / without)
                }
                Figure::Memory => report.memory.as_ref().map(|memory| memory.private_dirty),
                Figure::Lost => Some(report.expected.abs_diff(report.delivered) as f64),
            };
            line.add(server.target, figure);
        }
    }
    Ok(line)
}

/// How many bytes one delivery of ours has in this row, so that the floor sends as many.
fn wire_bytes(row: &Row, servers: &[Server]) -> anyhow::Result<Option<usize>> {
    /// About what our framing adds, if our server is not there to be asked.
    const FRAMING: usize = 150;
    let Some(ours) = servers.iter().find(|server| server.target == Target::Comet) else {
        let mut options = Options::new(Address::Unix(PathBuf::new()));
        row.load(&mut options);
        return Ok(Some(options.payload + FRAMING));
    };
    let Some(mut options) = ours.options(row.unix) else {
        return Ok(None);
    };
    row.load(&mut options);
    if options.load != Load::FanOut {
        return Ok(None);
    }
    (options.subscribers, options.channels, options.publications) = (10, 1, 10);
    (
        options.rate,
        options.batch,
        options.in_flight,
        options.slow_readers,
    ) = (None, 1, 1, 0);
    let report = drive(row, 0, 0, options)?;
    Ok(Some(report.wire_bytes.round() as usize))
}

fn drive(row: &Row, round: usize, rounds: usize, options: Options) -> anyhow::Result<Report> {
    let target = options.target;
    eprintln!("{}: round {round} of {rounds}: {target}", row.name);
    let say = &mut |line: &str| eprintln!("{}: {target}: {line}", row.name);
    bench::run(options, say).map_err(|error| anyhow!(error).context(format!("{}: {target}", row.name)))
}

fn each(report: &Report) -> Option<f64> {
    report.cpu.as_ref().map(|cpu| cpu.each_us)
}

impl Line {
    fn note(&mut self, report: &Report) {
        self.reports.insert(report.target.to_string(), report.to_json());
        if !report.complete() {
            self.lost.push(report.target);
        }
    }

    fn add(&mut self, target: Target, figure: Option<f64>) {
        if !self.servers.iter().any(|(other, _)| *other == target) {
            self.servers.push((target, Vec::new()));
        }
        let figures = self.servers.iter_mut().find(|(other, _)| *other == target);
        figures
            .into_iter()
            .for_each(|(_, figures)| figures.extend(figure));
    }

    fn of(&self, target: Target) -> &[f64] {
        self.servers
            .iter()
            .find(|(other, _)| *other == target)
            .map_or(&[], |(_, figures)| figures)
    }

    fn verdict(&self, row: &Row) -> &'static str {
        match median(self.of(Target::Comet)) {
            None => "-",
            Some(_) if self.lost.contains(&Target::Comet) => "LOST",
            Some(figure) if figure <= row.budget => "met",
            Some(_) => "MISSED",
        }
    }

    fn text(&self, row: &Row, servers: &[Server]) -> String {
        let digits = if row.figure == Figure::Memory || row.figure == Figure::Lost {
            0
        } else {
            2
        };
        let floor = median(&self.floor).map_or("-".into(), |us| format!("{us:.2} µs"));
        let mut text = format!("{:<20} {floor:>11}", row.name);
        for server in servers.iter().filter(|server| server.target != Target::Floor) {
            let figures = self.of(server.target);
            let lost = if self.lost.contains(&server.target) {
                " LOST"
            } else {
                ""
            };
            let cell = median(figures).map_or("-".into(), |m| {
                let (low, high) = spread(figures);
                format!("{m:.digits$} [{low:.digits$} - {high:.digits$}]{lost}")
            });
            text += &format!(" {cell:>24}");
        }
        text + &format!(
            " {:>8} {:>7}",
            format!("{:.digits$}", row.budget),
            self.verdict(row)
        )
    }

    fn json(&self, row: &Row) -> serde_json::Value {
        let summary = |figures: &[f64]| {
            let (low, high) = spread(figures);
            serde_json::json!({"median": median(figures), "min": low, "max": high, "rounds": figures})
        };
        let servers = self
            .servers
            .iter()
            .map(|(target, figures)| (target.to_string(), summary(figures)));
        let figure = match row.figure {
            Figure::Cpu => "CPU, multiple of the floor",
            Figure::CpuOfItself => "CPU, multiple of the same without slow readers",
            Figure::Memory => "private bytes a connection",
            Figure::Lost => "lost or doubled deliveries",
        };
        serde_json::json!({
            "row": row.name,
            "figure": figure,
            "budget": row.budget,
            "floor_us": if self.floor.is_empty() { serde_json::Value::Null } else { summary(&self.floor) },
            "servers": servers.collect::<serde_json::Map<_, _>>(),
            "lost": self.lost.iter().map(Target::to_string).collect::<Vec<_>>(),
            "last_reports": self.reports,
            "verdict": self.verdict(row),
        })
    }
}

fn head(servers: &[Server]) -> String {
    let mut text = format!("{:<20} {:>11}", "row", "floor");
    for server in servers.iter().filter(|server| server.target != Target::Floor) {
        text += &format!(" {:>24}", server.target.to_string());
    }
    text + &format!(" {:>8} {:>7}", "budget", "comet")
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

/// The least and the greatest.
fn spread(figures: &[f64]) -> (f64, f64) {
    let low = figures.iter().copied().fold(f64::INFINITY, f64::min);
    (low, figures.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}
