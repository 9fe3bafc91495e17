//! `config`: check the configuration, or print one to start from.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config;
use crate::platform;
use crate::room::Room;

use super::Outcome;
use super::settings::Settings;
use super::show::Paint;

pub(super) const EXAMPLES: &str = "\
comet config default > comet.toml
comet config check comet.toml";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Config {
    /// Read file, environment and flags as a server would, and say what is wrong
    Check {
        /// The configuration file, as --config would name it
        file: Option<PathBuf>,
    },
    /// Print all settings with their defaults and what they mean
    Default,
}

impl Config {
    pub(super) fn run(self, settings: &Settings) -> Outcome {
        match self {
            Self::Default => super::print(config::default_toml().as_bytes()),
            Self::Check { file: None } => check(settings),
            Self::Check { file: Some(file) } => check(&settings.clone().with_file(file)),
        }
    }
}

fn check(settings: &Settings) -> Outcome {
    let loaded = settings.load()?;
    warn(&loaded);
    let read = match &loaded.file {
        Some(path) => format!("{} and the environment", path.display()),
        None => "no file, the environment".to_owned(),
    };
    let paint = Paint::for_stdout();
    let text = format!(
        "{}: {read}\ndata folder {}\nsocket {}\n{}",
        paint.green("the configuration is right"),
        loaded.config.data_dir.display(),
        loaded.config.socket.display(),
        room(&loaded.config),
    );
    super::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// How many connections a server that is started here has room for, and what the settings want in vain.
fn room(config: &crate::config::Config) -> String {
    let room = Room::expected(config, platform::descriptor_limit().raised());
    let mut text = format!(
        "connections at most {}\n",
        room.visitors(config.limits.connections)
    );
    for complaint in room.complaints(config.limits.connections) {
        text.push_str(&format!("  {complaint}\n"));
    }
    text
}

/// Says what is odd but harmless.
pub(super) fn warn(loaded: &config::Loaded) {
    let paint = Paint::for_stderr();
    for warning in &loaded.warnings {
        super::note(&format!("{} {warning}", paint.yellow("comet: warning:")));
    }
}
