//! `start`: a server in the background, and the truth about whether it came up.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::{Address, Client};
use crate::config::Config;
use crate::data_folder::{self, Probe};

use super::daemon::Held;
use super::settings::Settings;
use super::show::Paint;
use super::{Failure, Outcome, configuration, daemon, serve};

/// How long a server may take until it listens, or says that it still reads what is on disk: a million publications take
/// it a second.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How often we look whether a server that somebody else is starting answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How much of what the log says about a failed start is shown.
const LOG_TAIL: u64 = 2 << 10;

pub(super) const EXAMPLES: &str = "\
comet start
comet start --listen 127.0.0.1:8080
comet start --data-dir ~/site/push --config ~/site/push.toml";

#[derive(Debug, clap::Args)]
pub(super) struct Start {}

impl Start {
    pub(super) fn run(self, settings: Settings) -> Outcome {
        settings.refuse_url("start")?;
        let loaded = settings.load()?;
        configuration::warn(&loaded);
        let config = &loaded.config;
        match data_folder::probe(&config.socket, &config.data_dir) {
            Probe::NotRunning => start(config, &settings),
            Probe::Answers => already_running(config, &settings),
            // It listens elsewhere than these settings say.
            Probe::LockedButSilent { .. } if settings.client()?.probe().is_ok() => {
                already_running(config, &settings)
            }
            Probe::LockedButSilent { holder } => {
                // It may only have lost its socket.
                daemon::signal(config, Signal::HUP);
                match wait_for_other(config, None) {
                    true => already_running(config, &settings),
                    false => Err(daemon::silent(holder.as_ref())),
                }
            }
            // The client says the same with both users' names. Starting another server would only hide it.
            Probe::Denied { .. } => match client(config).probe() {
                Err(error) => Err(error.into()),
                Ok(()) => already_running(config, &settings),
            },
            Probe::Other(error) => Err(Failure::new(error.to_string())),
        }
    }
}

fn start(config: &Config, settings: &Settings) -> Outcome {
    let log = serve::log_path(config);
    let log_length = log.metadata().map_or(0, |metadata| metadata.len());
    let mut child = spawn(settings)?;
    let pid = child.id();
    let report = child.stdout.take().map_or(Report::Nothing, report);
    let reason = match report.words() {
        Some(("ready", addresses)) => match client(config).probe() {
            Ok(()) => return started(pid, config, addresses),
            Err(error) => format!("the server says that it is ready, but {error}"),
        },
        Some(("error", reason)) => reason.to_owned(),
        _ => with_log(end(&mut child, &report), &log, log_length),
    };
    // Somebody else may have been faster; then all is well.
    if wait_for_other(config, Some(pid)) {
        return already_running(config, settings);
    }
    Err(Failure::new(format!("the server did not start: {reason}")))
}

fn spawn(settings: &Settings) -> Result<Child, Failure> {
    // Without /proc the system does not tell: then by the name by which we were called.
    let called = || std::env::args_os().next().map(PathBuf::from);
    let program = std::env::current_exe().or_else(|error| called().ok_or(error))?;
    let mut command = Command::new(program);
    command.args(["serve", "--detached"]).args(settings.as_args());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failure::from)
}

/// What the child said.
#[derive(Debug)]
enum Report {
    /// This, at last.
    Line(String),
    /// Nothing before it ended.
    Nothing,
    /// Nothing yet, and the time is up.
    Late,
}

impl Report {
    /// Its first word, and the rest.
    fn words(&self) -> Option<(&str, &str)> {
        match self {
            Self::Line(line) => line.split_once(' ').or(Some((line, ""))),
            Self::Nothing | Self::Late => None,
        }
    }
}

/// Waits for what the child says; whoever says that it is getting on has all the time again.
///
/// Only when it has also closed the pipe: then nothing in it waits for us any more, and nothing of ours is left there.
fn report(pipe: ChildStdout) -> Report {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody listens any more once the time was up.
            let _ = sender.send(line);
        }
    });
    let is_terminal = std::io::stderr().is_terminal();
    let mut report = None;
    loop {
        match receiver.recv_timeout(START_LIMIT) {
            Ok(line) => match line.strip_prefix("progress ") {
                Some(progress) if is_terminal => super::note(progress),
                Some(_) => {}
                None => report = Some(Report::Line(line)),
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => return report.unwrap_or(Report::Nothing),
            Err(mpsc::RecvTimeoutError::Timeout) => return report.unwrap_or(Report::Late),
        }
    }
}

/// How a child ended that did not say that it is ready.
fn end(child: &mut Child, report: &Report) -> String {
    if matches!(report, Report::Late) {
        // It neither listens nor ends; leaving it behind would make the next start fail in a stranger way.
        let _ = child.kill();
        let _ = child.wait();
        return format!(
            "it was not ready within {} s and was ended",
            START_LIMIT.as_secs()
        );
    }
    match child.wait() {
        Ok(status) => format!("it ended at once ({status})"),
        Err(error) => format!("it ended at once: {error}"),
    }
}

fn with_log(reason: String, log: &Path, log_length: u64) -> String {
    match added(log, log_length) {
        Some(text) => format!("{reason}; {} says:\n{text}", log.display()),
        None => reason,
    }
}

/// The end of what was written to a file since it was so long.
fn added(path: &Path, length: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.max(end.saturating_sub(LOG_TAIL))))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Waits as long as another process than ours holds the lock until its server answers; `false` if there is none.
fn wait_for_other(config: &Config, ours: Option<u32>) -> bool {
    let end = Instant::now() + START_LIMIT;
    loop {
        match Held::of(config) {
            held @ Held::By(_) if held.pid().is_none() || held.pid() != ours => {}
            _ => return false,
        }
        if client(config).probe().is_ok() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn client(config: &Config) -> Client {
    Client::new(Address::Unix(config.socket.clone()))
}

fn started(pid: u32, config: &Config, addresses: &str) -> Outcome {
    let paint = Paint::for_stdout();
    let mut text = format!("{}: running, pid {pid}\n", paint.green("started"));
    text.push_str(&format!("  socket    {}\n", config.socket.display()));
    for address in addresses.split_whitespace() {
        text.push_str(&format!("  browsers  http://{address}\n"));
    }
    super::print(text.as_bytes())
}

fn already_running(config: &Config, settings: &Settings) -> Outcome {
    let pid = daemon::pid_text(&Held::of(config), client(config).address());
    super::print(format!("already running{pid}\n").as_bytes())?;
    let own = settings.own();
    if !own.is_empty() {
        super::note(&format!(
            "comet: it goes on as it was started, without {}: `comet stop` first, or write it into its file and `comet reload`",
            own.join(", ")
        ));
    }
    Ok(ExitCode::SUCCESS)
}
