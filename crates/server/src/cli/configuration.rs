//! `config`: check the configuration, or print one to start from.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::room::Room;
use crate::{config, memory, platform, server};

use super::amount::shown;
use super::settings::Settings;
use super::show::Paint;
use super::{Failure, Outcome};

/// What the server takes besides, in bytes: its code and threads, and what is on its way through them.
const BESIDES: u64 = 64 << 20;

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
    server::check(&loaded.config, &[]).map_err(Failure::configuration)?;
    let read = match &loaded.file {
        Some(path) => format!("{} and the environment", path.display()),
        None => "no file, the environment".to_owned(),
    };
    let paint = Paint::for_stdout();
    let text = format!(
        "{}: {read}\ndata folder {}\nsocket {}\n{}{}\n",
        paint.green("the configuration is right"),
        loaded.config.data_dir.display(),
        loaded.config.socket.display(),
        room(&loaded.config),
        sum(&loaded.config, platform::available_memory()),
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

/// What the settings allow in memory, added up, beside what there is.
fn sum(config: &config::Config, available: Option<u64>) -> String {
    let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    let visitors = bytes(memory::limit(config.limits.memory));
    let publications = bytes(config.limits.log_memory);
    let all = [visitors, publications, BESIDES]
        .iter()
        .fold(0, |sum: u64, part| sum.saturating_add(*part));
    let of = match available {
        Some(available) if available < all => {
            format!(", which is more than the {} that there are", shown(available))
        }
        Some(available) => format!(" of {}", shown(available)),
        None => String::new(),
    };
    format!(
        "memory {}{of}: {} for what visitors make it hold (limits.memory), {} for publications (limits.log_memory), about {} besides",
        shown(all),
        shown(visitors),
        shown(publications),
        shown(BESIDES),
    )
}

/// Says what is odd but harmless.
pub(super) fn warn(loaded: &config::Loaded) {
    let paint = Paint::for_stderr();
    for warning in &loaded.warnings {
        super::note(&format!("{} {warning}", paint.yellow("comet: warning:")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settings_allow_is_added_up_beside_what_there_is() {
        let mut config = config::Config::default();
        config.limits.memory = Some(128 << 20);
        config.limits.log_memory = 128 << 20;
        let enough = sum(&config, Some(1 << 30));
        assert!(
            enough.starts_with("memory 320.0 MiB of 1.0 GiB: 128.0 MiB for"),
            "{enough}"
        );
        let little = sum(&config, Some(256 << 20));
        assert!(
            little.contains("more than the 256.0 MiB that there are"),
            "{little}"
        );
        assert!(sum(&config, None).starts_with("memory 320.0 MiB: "));
    }
}
