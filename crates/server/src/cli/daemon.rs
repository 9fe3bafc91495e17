//! A server that runs already: `status`, `stop`, `reload`. All of them only look, or ask it.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Address, Client, ClientError, Path};
use crate::config::Config;
use crate::data_folder::{self, Holder};
use crate::platform;

use super::settings::Settings;
use super::show::Paint;
use super::{Failure, Outcome};

/// What the Linux Standard Base says `status` exits with when nothing runs.
const STOPPED: u8 = 3;

/// How long a server may take to end besides its drain time: it keeps what is in memory, which takes up to 30 s.
const END_MARGIN: Duration = Duration::from_secs(45);

/// How often we look whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) const STATUS_EXAMPLES: &str = "\
comet status
comet status --ready || echo 'not yet'
comet status --url http://127.0.0.1:8080";

pub(super) const STOP_EXAMPLES: &str = "\
comet stop
comet stop --data-dir ~/site/push";

pub(super) const RELOAD_EXAMPLES: &str = "\
comet reload
comet config check && comet reload";

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Ask whether it is ready for clients, not only whether it runs
    #[arg(long)]
    ready: bool,
}

impl Status {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        let client = settings.client()?;
        let held = Held::of_server(settings);
        let paint = Paint::for_stdout();
        let path = if self.ready {
            "/health/ready"
        } else {
            "/health/live"
        };
        match client.get(&Path::new(path)) {
            Ok(_) => {
                let ready = if self.ready { ", ready" } else { "" };
                let pid = pid_text(&held, client.address());
                let text = format!(
                    "{}{pid}{ready}\n  at {}\n{}",
                    paint.green("running"),
                    client.address(),
                    connections(&client)
                );
                super::print(text.as_bytes())
            }
            Err(ClientError::Http {
                status: 503, detail, ..
            }) => {
                let pid = pid_text(&held, client.address());
                let text = format!("{}{pid}, not ready: {detail}\n", paint.yellow("running"));
                super::print(text.as_bytes())?;
                Ok(ExitCode::FAILURE)
            }
            Err(ClientError::NotRunning { .. }) => match held {
                Held::By(holder) => Err(silent(holder.as_ref())),
                Held::Free | Held::Unknown => {
                    super::print(format!("{}\n", paint.yellow("not running")).as_bytes())?;
                    super::note(&format!("comet: nobody listens at {}", client.address()));
                    Ok(ExitCode::from(STOPPED))
                }
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// How many connections there are, and at how many visitors are turned away; empty where that is not shown.
fn connections(client: &Client) -> String {
    let health = client.get(&Path::new("/health/ready")).ok();
    let health = health.and_then(|answer| answer.json().ok());
    let figure = |name: &str| health.as_ref().and_then(|health| health[name].as_u64());
    match (figure("connections"), figure("connections_limit")) {
        (Some(now), Some(most)) => format!("  connections {now} of {most}\n"),
        _ => String::new(),
    }
}

/// Asks the server to stop and waits until it has.
pub(super) fn stop(settings: &Settings) -> Outcome {
    let client = settings.client()?;
    let pid = pid_text(&Held::of_server(settings), client.address());
    match client.call("POST", &Path::new("/v1/admin/stop"), None) {
        Ok(_) => {}
        Err(ClientError::NotRunning { .. }) => return nothing_to_stop(settings),
        // It may be gone before its answer is.
        Err(ClientError::Broken { .. }) if client.probe().is_err() => {}
        Err(error) => return Err(error.into()),
    }
    let drain = settings.load().map(|loaded| loaded.config.shutdown.drain);
    let limit = drain.unwrap_or(Config::default().shutdown.drain) + END_MARGIN;
    let end = Instant::now() + limit;
    let is_over = || {
        let is_silent = matches!(client.probe(), Err(ClientError::NotRunning { .. }));
        is_silent && !matches!(Held::of_server(settings), Held::By(_))
    };
    while !is_over() {
        if Instant::now() > end {
            let seconds = limit.as_secs();
            return Err(Failure::new(format!(
                "the server{pid} was asked to stop and still runs after {seconds} s: see its log, or kill it"
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
    super::print(format!("{}{pid}\n", Paint::for_stdout().green("stopped")).as_bytes())
}

fn nothing_to_stop(settings: &Settings) -> Outcome {
    match Held::of_server(settings) {
        Held::By(holder) => stop_by_lock(&settings.load()?.config, holder.as_ref()),
        Held::Free | Held::Unknown => {
            // All is well: scripts take what is on standard error for a failure.
            let client = settings.client()?;
            let text = format!("already stopped: nobody listens at {}\n", client.address());
            super::print(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Ends a server that has lost its socket: by a signal to the process that holds its folder.
fn stop_by_lock(config: &Config, holder: Option<&Holder>) -> Outcome {
    let Some(pid) = signal(config, Signal::TERM) else {
        return Err(silent(holder));
    };
    let limit = config.shutdown.drain + END_MARGIN;
    let end = Instant::now() + limit;
    while matches!(Held::of(config), Held::By(_)) {
        if Instant::now() > end {
            return Err(Failure::new(format!(
                "the server, pid {pid}, was told to stop and still runs after {} s: see its log, or kill it",
                limit.as_secs()
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
    super::print(format!("{}, pid {pid}\n", Paint::for_stdout().green("stopped")).as_bytes())
}

/// Sends a signal to the server that holds the folder. Returns its process id, if there is one, and it is ours to signal.
pub(super) fn signal(config: &Config, signal: Signal) -> Option<u32> {
    // At the kernel's word: a number in a file may be anybody's by now.
    let pid = data_folder::holding_process(&config.data_dir)?;
    let process = Pid::from_raw(i32::try_from(pid).ok()?)?;
    kill_process(process, signal).ok().map(|()| pid)
}

/// There is a server between its lock and its socket: it starts, or ends, or listens elsewhere.
pub(super) fn silent(holder: Option<&Holder>) -> Failure {
    let Some(holder) = holder else {
        return Failure::new(
            "a server holds the data folder but does not answer: it may be starting; try again",
        );
    };
    let socket = match holder.socket.as_os_str().is_empty() {
        true => String::new(),
        false => format!("; its socket is {}", holder.socket.display()),
    };
    Failure::new(format!(
        "pid {} on {} holds the data folder but does not answer: it may be starting or ending{socket}",
        holder.pid, holder.host,
    ))
}

/// Lets the server read its configuration again.
pub(super) fn reload(settings: &Settings) -> Outcome {
    let own = settings.own();
    if !own.is_empty() {
        return Err(Failure::usage(format!(
            "the server reads its own file again, and would go on without {}: write it into that file",
            own.join(", ")
        )));
    }
    let asked = settings
        .client()?
        .call("POST", &Path::new("/v1/admin/reload"), None);
    let answer = asked.map_err(|error| match error {
        ClientError::Http {
            code: Some(code),
            detail,
            ..
        } if code == "bad_configuration" => Failure::configuration(detail),
        error => error.into(),
    })?;
    let mut text = format!("{}\n", Paint::for_stdout().green("reloaded"));
    let answer = answer.json().unwrap_or_default();
    // What cannot change while it runs.
    let waiting = answer["needs_restart"].as_array().into_iter().flatten();
    for setting in waiting.filter_map(|setting| setting.as_str()) {
        text.push_str(&format!("  {setting} takes effect with the next start\n"));
    }
    match answer["ended"].as_u64().unwrap_or_default() {
        0 => {}
        1 => text.push_str("  1 connection ends: its key or token secret was removed\n"),
        ended => text.push_str(&format!(
            "  {ended} connections end: their keys or token secrets were removed\n"
        )),
    }
    super::print(text.as_bytes())
}

/// Who holds the data folder of the server that is meant.
#[derive(Debug)]
pub(super) enum Held {
    /// Nobody: no server runs there.
    Free,
    /// A server.
    By(Option<Holder>),
    /// The lock is not ours to look at, or the server is elsewhere.
    Unknown,
}

impl Held {
    pub(super) fn of(config: &Config) -> Self {
        match data_folder::holder(&config.data_dir) {
            Ok(None) => Self::Free,
            Ok(Some(holder)) => Self::By(holder),
            Err(_) => Self::Unknown,
        }
    }

    pub(super) fn of_server(settings: &Settings) -> Self {
        match (settings.url(), settings.load()) {
            (None, Ok(loaded)) => Self::of(&loaded.config),
            _ => Self::Unknown,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::By(Some(holder)) => Some(holder.pid),
            _ => None,
        }
    }
}

/// The process id as it follows a word: ", pid 17"; empty if it cannot be known.
pub(super) fn pid_text(held: &Held, socket: &Address) -> String {
    let pid = held.pid().or_else(|| listener_pid(socket));
    pid.map(|pid| format!(", pid {pid}")).unwrap_or_default()
}

/// Who listens on a socket, as the kernel knows it: for users that may connect but not look at the lock.
fn listener_pid(socket: &Address) -> Option<u32> {
    match socket {
        Address::Unix(path) => {
            platform::peer_credentials(&UnixStream::connect(path).ok()?)
                .ok()?
                .pid
        }
        Address::Http { .. } => None,
    }
}
