//! `storage`: what the log on disk takes, whether it is whole, copies of it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cometserver_core::namespace::Namespaces;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::broker::disk::backup;
use crate::broker::disk::inspect::{Report, SegmentReport, inspect};
use crate::client::{Client, ClientError, Path as Target, Payload};
use crate::config::Config;
use crate::data_folder::DataFolder;
use crate::server::{log_folder, namespaces_of};
use crate::shared::wall_clock;

use super::daemon::{Held, pid_text};
use super::settings::Settings;
use super::show::{self, Paint};
use super::{Failure, Outcome, amount};

pub(super) const EXAMPLES: &str = "\
comet storage
comet storage --limit 100 --json
comet storage check && echo whole
comet storage backup /var/backups/comet-$(date +%F)
comet stop && comet storage restore /var/backups/comet-2026-11-22 --replace";

/// Files are listed one by one up to so many.
const FILES: usize = 8;

/// A copy of a large log takes its time; its server says nothing meanwhile.
const COPY_LIMIT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Storage {
    #[command(subcommand)]
    what: Option<What>,
    /// Show so many of the channels with most; only while the server runs
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Read everything in the log and say whether it is whole; exits with 1 if it is damaged
    ///
    /// Changes nothing, and may be done while the server runs.
    Check {
        /// The folder of a log or a backup; without it, the log in the data folder
        folder: Option<PathBuf>,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy the log as it is now, also while the server runs
    ///
    /// The copy is a log folder: `check` looks at it, `restore` reads it back. A running server makes it itself, so the folder
    /// above it must be one that its user can write to. Until it is complete its name ends in `.partial`.
    Backup {
        /// The folder for the copy, which must be empty or not there
        to: PathBuf,
    },
    /// Read a backup back; the server must be stopped
    ///
    /// Clients that have seen more than the backup holds are told of a gap when they come back.
    Restore {
        /// The folder of the backup
        from: PathBuf,
        /// Put the log that is there now aside, under another name in the data folder
        #[arg(long)]
        replace: bool,
        /// Take a damaged backup too: what cannot be read is lost
        #[arg(long)]
        accept_damage: bool,
    },
}

impl Storage {
    pub(super) fn prints_json(&self) -> bool {
        self.json || matches!(self.what, Some(What::Check { json: true, .. }))
    }

    pub(super) fn run(self, settings: &Settings) -> Outcome {
        match self.what {
            None => show(settings, self.limit, self.json),
            Some(What::Check { folder, json }) => check(settings, folder, json),
            Some(What::Backup { to }) => backup(settings, &to),
            Some(What::Restore {
                from,
                replace,
                accept_damage,
            }) => restore(settings, &from, replace, accept_damage),
        }
    }
}

/// What `GET /v1/storage` says, as much of it as is shown.
#[derive(Deserialize)]
struct Running {
    folder: String,
    bytes: u64,
    live_bytes: u64,
    max_size: u64,
    /// The same, or less on a smaller disk; servers of older versions do not say it.
    ceiling: Option<u64>,
    publications: u64,
    known_channels: u64,
    queued_bytes: u64,
    damaged: u64,
    trimmed: u64,
    trouble: Option<String>,
    files: Vec<File>,
    channels: Vec<Channel>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    bytes: u64,
}

#[derive(Deserialize)]
struct Channel {
    channel: String,
    channel_base64: Option<String>,
    publications: u64,
    bytes: u64,
    retained: bool,
}

fn show(settings: &Settings, limit: usize, json: bool) -> Outcome {
    let target = Target::new("/v1/storage").with("limit", limit.to_string());
    match settings.client()?.get(&target) {
        Ok(answer) if json => super::print_json(&answer.body),
        Ok(answer) => {
            let running = serde_json::from_slice(&answer.body);
            let running: Running = running.map_err(std::io::Error::from)?;
            super::print(shown(&running, Paint::for_stdout()).as_bytes())
        }
        Err(ClientError::NotRunning { .. }) if settings.url().is_none() => show_stopped(settings, json),
        Err(error) => Err(error.into()),
    }
}

fn shown(running: &Running, paint: Paint) -> String {
    let ceiling = running.ceiling.unwrap_or(running.max_size);
    let mut text = headline(&running.folder, running.bytes, Some(ceiling), paint);
    if ceiling < running.max_size {
        let _ = writeln!(
            text,
            "  {}      there is no room for storage.max_size, {}",
            paint.yellow("disk"),
            amount::shown(running.max_size)
        );
    }
    if let Some(trouble) = &running.trouble {
        let _ = writeln!(text, "  {} {trouble}", paint.red("takes nothing:"));
    }
    let kept = (running.live_bytes, running.publications, running.known_channels);
    text.push_str(&figures(running.bytes, kept));
    if running.queued_bytes > 0 {
        let _ = writeln!(text, "  waiting   {}", amount::shown(running.queued_bytes));
    }
    if running.damaged > 0 {
        let _ = writeln!(
            text,
            "  {}  {} parts since the start: comet storage check",
            paint.red("damaged"),
            running.damaged
        );
    }
    if running.trimmed > 0 {
        let _ = writeln!(
            text,
            "  {}   {} publications before their time: raise storage.max_size, or keep less",
            paint.yellow("ceiling"),
            running.trimmed
        );
    }
    let segments = running.files.iter().filter(|file| file.name.ends_with(".log"));
    text.push_str(&files(
        segments
            .map(|file| (file.name.as_str(), file.bytes, None))
            .collect(),
        paint,
    ));
    if !running.channels.is_empty() {
        let _ = writeln!(text, "\n  {}", paint.bold("   on disk  publications  channel"));
    }
    for channel in &running.channels {
        let name = show::exact_name(&channel.channel, channel.channel_base64.as_deref());
        let retained = if channel.retained { "  (has a value)" } else { "" };
        let _ = writeln!(
            text,
            "  {:>10}  {:>12}  {}{}",
            amount::shown(channel.bytes),
            channel.publications,
            show::on_one_line(&name),
            paint.dim(retained)
        );
    }
    text
}

fn headline(folder: &str, bytes: u64, most: Option<u64>, paint: Paint) -> String {
    let most = most.map_or_else(String::new, |most| format!(" of at most {}", amount::shown(most)));
    let size = paint.bold(&amount::shown(bytes));
    format!("{size}{most} in {}\n", show::on_one_line(folder.as_bytes()))
}

fn figures(bytes: u64, (live, publications, channels): (u64, u64, u64)) -> String {
    format!(
        "  kept      {} in {publications} publications of {channels} channels\n  to clear  {}\n",
        amount::shown(live),
        amount::shown(bytes.saturating_sub(live))
    )
}

/// The files of a log, with what of each is kept if that is known: all of them, or the oldest and newest if there are many.
fn files(files: Vec<(&str, u64, Option<u64>)>, paint: Paint) -> String {
    let mut text = format!("\n  {}\n", paint.bold("   on disk  file"));
    let left_out = files.len().saturating_sub(FILES);
    for (index, (name, bytes, live)) in files.iter().enumerate() {
        if left_out > 0 && index == FILES / 2 {
            let _ = writeln!(
                text,
                "  {:>10}  {}",
                "…",
                paint.dim(&format!("{left_out} more files"))
            );
        }
        if left_out > 0 && (FILES / 2..FILES / 2 + left_out).contains(&index) {
            continue;
        }
        let live = live.map_or_else(String::new, |live| format!("  ({} kept)", amount::shown(live)));
        let _ = writeln!(
            text,
            "  {:>10}  {name}{}",
            amount::shown(*bytes),
            paint.dim(&live)
        );
    }
    text
}

/// The log of a server that does not run.
fn show_stopped(settings: &Settings, json: bool) -> Outcome {
    let config = settings.load()?.config;
    let folder = log_folder(&config.data_dir);
    let report = look(&folder, &namespaces(&config)?)?;
    if json {
        return super::print(format!("{}\n", report_json(&folder, &report)).as_bytes());
    }
    let paint = Paint::for_stdout();
    let most = config.storage.max_size as u64;
    let mut text = headline(&folder.to_string_lossy(), report.bytes, Some(most), paint);
    let kept = (
        report.live_bytes,
        report.publications as u64,
        report.channels as u64,
    );
    text.push_str(&figures(report.bytes, kept));
    let names: Vec<String> = report
        .segments
        .iter()
        .map(|segment| file_name(&segment.path))
        .collect();
    let segments = names.iter().zip(&report.segments);
    let segments =
        segments.map(|(name, segment)| (name.as_str(), segment.file_bytes, Some(segment.live_bytes)));
    text.push_str(&files(segments.collect(), paint));
    let _ = writeln!(
        text,
        "\n  {}",
        paint.dim("No server runs here; one that does lists its channels too.")
    );
    super::print(text.as_bytes())
}

fn namespaces(config: &Config) -> Result<Namespaces, Failure> {
    namespaces_of(config).map_err(Failure::configuration)
}

fn look(folder: &Path, namespaces: &Namespaces) -> Result<Report, Failure> {
    if !folder.is_dir() {
        return Err(Failure::new(format!(
            "{}: there is no log: nothing was ever kept on disk here, or it is elsewhere (--data-dir)",
            folder.display()
        )));
    }
    inspect(folder, namespaces, wall_clock()).map_err(|error| Failure::new(error.to_string()))
}

fn check(settings: &Settings, folder: Option<PathBuf>, json: bool) -> Outcome {
    settings.refuse_url("storage check")?;
    let config = settings.load()?.config;
    let folder = folder.unwrap_or_else(|| log_folder(&config.data_dir));
    let report = look(&folder, &namespaces(&config)?)?;
    if json {
        super::print(format!("{}\n", report_json(&folder, &report)).as_bytes())?;
    } else {
        super::print(checked(&folder, &report, Paint::for_stdout()).as_bytes())?;
    }
    Ok(if is_whole(&report) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn is_whole(report: &Report) -> bool {
    report.damaged == 0 && report.segments.iter().all(|segment| segment.damage.is_empty())
}

/// What a log holds of what the namespaces keep now.
fn held(report: &Report) -> String {
    format!(
        "{} publications of {} channels",
        report.publications, report.channels
    )
}

fn checked(folder: &Path, report: &Report, paint: Paint) -> String {
    let verdict = match is_whole(report) {
        true => paint.green("whole"),
        false => paint.red("damaged"),
    };
    let mut text = format!(
        "{verdict}: {} files, {}, {} in {}\n",
        report.segments.len(),
        amount::shown(report.bytes),
        held(report),
        folder.display()
    );
    for segment in &report.segments {
        let name = file_name(&segment.path);
        for (from, to) in &segment.damage {
            let _ = writeln!(text, "  {name}: bytes {from} to {to} cannot be read");
        }
        if segment.torn > 0 {
            let _ = writeln!(
                text,
                "  {name}: {} at its end were not written completely, and are cut off at the next start; nothing that was confirmed as safe is in them",
                amount::shown(segment.torn)
            );
        }
    }
    if report.is_end_unknown {
        text.push_str(
            "  reach: it is missing or damaged, so that nobody knows whether something is missing at the end of the log\n",
        );
    }
    if !is_whole(report) {
        text.push_str("What cannot be read is lost, and clients that come back for it are told of a gap; everything else is served.\nA backup brings it back: comet storage restore DIR\n");
    }
    text
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn report_json(folder: &Path, report: &Report) -> Value {
    let segment = |segment: &SegmentReport| {
        let records = segment
            .records
            .iter()
            .map(|(kind, count)| (format!("{kind:?}"), json!(count)));
        json!({
            "name": file_name(&segment.path),
            "bytes": segment.file_bytes,
            "live_bytes": segment.live_bytes,
            "version": segment.version,
            "positions": segment.positions.map(|(first, last)| [first, last]),
            "records": records.collect::<serde_json::Map<_, _>>(),
            "damage": segment.damage.iter().map(|(from, to)| [from, to]).collect::<Vec<_>>(),
            "torn": segment.torn,
        })
    };
    json!({
        "folder": folder.to_string_lossy(),
        "whole": is_whole(report),
        "bytes": report.bytes,
        "live_bytes": report.live_bytes,
        "publications": report.publications,
        "known_channels": report.channels,
        "position": report.position,
        "damaged": report.damaged,
        "end_unknown": report.is_end_unknown,
        "files": report.segments.iter().map(segment).collect::<Vec<_>>(),
    })
}

fn backup(settings: &Settings, to: &Path) -> Outcome {
    let to = std::path::absolute(to)?;
    let client = settings.client()?;
    match client.probe() {
        Ok(()) => backup_running(client, &to),
        Err(ClientError::NotRunning { .. }) if settings.url().is_none() => {
            let config = settings.load()?.config;
            if let held @ Held::By(_) = Held::of(&config) {
                let pid = pid_text(&held, client.address());
                return Err(Failure::new(format!(
                    "a server holds the data folder{pid} but does not answer: try again when it runs or has ended"
                )));
            }
            let folder = log_folder(&config.data_dir);
            let copied = backup::backup(&folder, &to).map_err(|error| Failure::new(error.to_string()))?;
            backed_up(copied.bytes, copied.segments as u64, &to)
        }
        Err(error) => Err(error.into()),
    }
}

fn backup_running(client: Client, to: &Path) -> Outcome {
    let Some(text) = to.to_str() else {
        return Err(Failure::usage(format!(
            "{}: expected a path in UTF-8, as the server is asked in JSON",
            to.display()
        )));
    };
    let body = json!({ "to": text }).to_string();
    let payload = Payload {
        media_type: "application/json",
        bytes: body.as_bytes(),
    };
    let client = client.with_answer_timeout(COPY_LIMIT);
    let answer = client.call("POST", &Target::new("/v1/admin/backup"), Some(payload))?;
    let answer = answer.json()?;
    let number = |name: &str| answer[name].as_u64().unwrap_or_default();
    backed_up(number("bytes"), number("files"), to)
}

fn backed_up(bytes: u64, files: u64, to: &Path) -> Outcome {
    let text = format!(
        "{}: {} in {files} files\n  at {}\n",
        Paint::for_stdout().green("copied"),
        amount::shown(bytes),
        to.display()
    );
    super::print(text.as_bytes())
}

fn restore(settings: &Settings, from: &Path, replace: bool, accept_damage: bool) -> Outcome {
    settings.refuse_url("storage restore")?;
    let config = settings.load()?.config;
    let created = DataFolder::create(&config.data_dir, &mut Vec::new());
    // Held until the end: no server may begin with half of it.
    let _lock = created
        .and_then(|folder| folder.lock(&config.socket))
        .map_err(|error| Failure::new(error.to_string()))?;
    let folder = log_folder(&config.data_dir);
    let has_log = folder.read_dir().is_ok_and(|mut files| files.next().is_some());
    let aside = match (has_log, replace) {
        (true, false) => {
            return Err(Failure::new(format!(
                "{} is not empty: comet storage restore --replace puts it aside first",
                folder.display()
            )));
        }
        (true, true) => Some(free_name(&folder)?),
        (false, _) => None,
    };
    let restored = match &aside {
        Some(aside) => backup::replace(from, &folder, aside, accept_damage),
        None => backup::restore(from, &folder, accept_damage),
    };
    restored.map_err(|error| {
        let mut text = error.to_string();
        if matches!(error, backup::BackupError::Damaged { .. }) {
            text.push_str(", or take what is left with --accept-damage");
        }
        Failure::new(text)
    })?;
    // As a check counts them.
    let report = look(&folder, &namespaces(&config)?)?;
    let paint = Paint::for_stdout();
    let mut text = format!(
        "{}: {} in {}\n",
        paint.green("restored"),
        held(&report),
        folder.display()
    );
    if let Some(aside) = aside {
        let _ = writeln!(text, "  what was there is {}", aside.display());
    }
    super::print(text.as_bytes())
}

/// Another name for the log that is there, beside its own.
fn free_name(folder: &Path) -> Result<PathBuf, Failure> {
    let free = (1..).map(|number| folder.with_extension(format!("old-{number}")));
    let aside = free.take(1000).find(|path| !path.exists());
    aside.ok_or_else(|| Failure::new(format!("{}.old-*: remove some", folder.display())))
}
