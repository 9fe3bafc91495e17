//! `serve`: the server in the foreground, and as the process that `start` leaves behind.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Config;
use crate::data_folder::DataFolder;
use crate::logging;
use crate::platform;
use crate::server::{self, Addresses, Options, Reading};

use super::settings::Settings;
use super::{Failure, Outcome, amount, configuration};

/// What a server in the background writes to, in the data folder.
const LOG: &str = "comet.log";

pub(super) const EXAMPLES: &str = "\
comet serve
comet serve --listen 127.0.0.1:8080
comet serve --config /etc/cometserver/comet.toml --log-level debug";

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Leave the caller and report on standard output: what `start` runs
    #[arg(long, hide = true)]
    detached: bool,
}

impl Serve {
    pub(super) fn run(self, settings: Settings) -> Outcome {
        settings.refuse_url("serve")?;
        let loaded = settings.load()?;
        if self.detached {
            return detached(loaded.config, settings);
        }
        configuration::warn(&loaded);
        serve(
            loaded.config,
            Options {
                reload: Some(reload(settings)),
                progress: on_terminal(),
                ..Options::default()
            },
        )
    }
}

/// How a running server reads its configuration again: from where it came.
fn reload(settings: Settings) -> server::Reload {
    Box::new(move || settings.load())
}

/// Runs a server to its end.
pub(super) fn serve(config: Config, options: Options) -> Outcome {
    logging::log_panics();
    match server::run(config, options) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::new(chain(&error))),
    }
}

/// Shows somebody who watches that the log is still being read; others have it in the log.
pub(super) fn on_terminal() -> Option<server::Progress> {
    std::io::stderr()
        .is_terminal()
        .then(|| -> server::Progress { Box::new(|progress| logging::say(&reading(progress))) })
}

/// The log of a server in the background.
pub(super) fn log_path(config: &Config) -> PathBuf {
    config.data_dir.join(LOG)
}

/// Leaves the caller completely, then runs, then reports: whoever waits for the report has nothing of us to wait for.
fn detached(config: Config, settings: Settings) -> Outcome {
    let report = Report::take_stdout()?;
    if let Err(failure) = leave(&config, report.fd()) {
        report.error(failure.message());
        return Err(failure);
    }
    let (ready, slow) = (report.clone(), report.clone());
    let options = Options {
        progress: Some(Box::new(move |progress| slow.progress(progress))),
        ready: Some(Box::new(move |addresses| ready.ready(addresses))),
        reload: Some(reopening(log_path(&config), reload(settings))),
        ..Options::default()
    };
    serve(config, options).inspect_err(|failure| report.error(failure.message()))
}

/// Opens the log anew with every reload, as whoever has moved it away expects.
fn reopening(path: PathBuf, reload: server::Reload) -> server::Reload {
    Box::new(move || {
        let opened = open_log(&path).and_then(|log| platform::redirect_std(Some(log.as_fd())));
        if let Err(error) = opened {
            tracing::error!(%error, "{}: the log goes on where it was", path.display());
        }
        reload()
    })
}

fn open_log(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    crate::plain_file::open(path, options.append(true).create(true).mode(0o600))
}

fn leave(config: &Config, report: i32) -> Result<(), Failure> {
    let folder = &config.data_dir;
    // What is too open is said by the server, in its log.
    DataFolder::create(folder, &mut Vec::new()).map_err(|error| Failure::new(error.to_string()))?;
    let said = |path: &Path, error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ": the data folder must belong to the user of the server",
            _ => "",
        };
        Failure::new(format!("{}: {error}{hint}", path.display()))
    };
    let path = log_path(config);
    let log = open_log(&path).map_err(|error| said(&path, error))?;
    platform::redirect_std(Some(log.as_fd())).map_err(|error| said(&path, error))?;
    // What is open when we detach must belong to nobody.
    drop(log);
    platform::detach(&[report], folder).map_err(|error| said(folder, error))
}

/// What is said of a log that is still being read.
pub(super) fn reading(reading: &Reading) -> String {
    let size = amount::shown(reading.bytes);
    format!("reading the log on disk, {size}: {} s so far", reading.seconds)
}

/// The pipe to `start`: takes lines of progress, then one that says what came of it, then is closed.
#[derive(Clone)]
struct Report {
    pipe: Arc<Mutex<Option<std::fs::File>>>,
    fd: i32,
}

impl Report {
    fn take_stdout() -> Result<Self, Failure> {
        let pipe: OwnedFd =
            rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).map_err(std::io::Error::from)?;
        let fd = pipe.as_raw_fd();
        Ok(Self {
            pipe: Arc::new(Mutex::new(Some(pipe.into()))),
            fd,
        })
    }

    fn fd(&self) -> i32 {
        self.fd
    }

    fn progress(&self, progress: &Reading) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = pipe.as_mut() {
            let _ = writeln!(pipe, "progress {}", reading(progress));
        }
    }

    fn ready(&self, addresses: &Addresses) {
        let tcp = addresses.tcp.iter().map(|address| format!(" {address}"));
        self.say(&format!("ready{}\n", tcp.collect::<String>()));
    }

    fn error(&self, text: &str) {
        self.say(&format!("error {}\n", text.replace('\n', " ")));
    }

    fn say(&self, line: &str) {
        // Who hears it may look into the log at once.
        logging::flush();
        // A second report has nobody to hear it: the pipe is gone with the first.
        let pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut pipe) = pipe {
            // `start` may have been interrupted; the server serves all the same.
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

/// An error with all its reasons, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        // Many errors already hold the text of their reason.
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text
}
