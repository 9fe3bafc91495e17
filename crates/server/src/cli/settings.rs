//! Which server is meant, and with which settings: the flags that all commands share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, error::ErrorKind};

use crate::client::{Address, Client};
use crate::config::{self, Config, ConfigError, Loaded, Sources};
use crate::data_folder::{self, Probe};

use super::Failure;

/// The variable with the key for `--url`, which a process list would show.
const KEY_VARIABLE: &str = "COMETSERVER_KEY";

/// Settings that are flags of every command.
const SHARED: [&str; 2] = ["data_dir", "socket"];

/// Flags of all commands. The variables of settings are read with the configuration, so the help names them as clap would.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which server")]
pub(super) struct Server {
    /// The data folder of the server [env: COMETSERVER_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// The socket of the server, if it is not comet.sock in the data folder [env: COMETSERVER_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<String>,
    /// A server elsewhere, by its address
    #[arg(long, global = true, value_name = "http://HOST:PORT", conflicts_with_all = ["socket", "data_dir"])]
    url: Option<String>,
    /// The key or token for --url
    #[arg(id = "server_key", long = "key", global = true, env = KEY_VARIABLE, hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
    /// The configuration file [env: COMETSERVER_CONFIG]
    #[arg(id = "settings_file", long = "config", global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting as in the configuration file; repeat it for more
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Which server, and all settings given by flags.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    url: Option<Address>,
    key: Option<String>,
    file: Option<PathBuf>,
    flags: Vec<(String, String)>,
    /// Where we were called: what is relative stays so, wherever the server goes.
    here: PathBuf,
}

impl Settings {
    pub(super) fn new(server: Server) -> Result<Self, clap::Error> {
        let usage = |text: String| super::command().error(ErrorKind::ValueValidation, text);
        let mut flags = Vec::new();
        for setting in server.set {
            match setting.split_once('=') {
                // As in the file: a text may have its quotes.
                Some((key, value)) => {
                    flags.push((key.trim().to_owned(), config::unquoted(value).to_owned()));
                }
                None => {
                    return Err(usage(format!(
                        "--set {setting}: expected a key, an equals sign and a value"
                    )));
                }
            }
        }
        flags.extend(server.data_dir.map(|value| ("data_dir".to_owned(), value)));
        flags.extend(server.socket.map(|value| ("socket".to_owned(), value)));
        let url = server.url.map(|url| Address::from_url(&url)).transpose();
        let url = url.map_err(|error| usage(format!("--url {error}")))?;
        Ok(Self {
            url,
            key: server.key,
            file: server.config,
            flags,
            here: std::env::current_dir().unwrap_or_default(),
        })
    }

    /// Takes the settings that were given as flags of their own; see [`with_flags`].
    pub(super) fn add_flags(&mut self, matches: &ArgMatches) {
        for key in config::dotted_keys() {
            let given = matches!(matches.try_contains_id(&key), Ok(true))
                && matches.value_source(&key) == Some(ValueSource::CommandLine);
            if given && !SHARED.contains(&key.as_str()) {
                let values = matches.get_many::<String>(&key).into_iter().flatten();
                self.flags
                    .extend(values.map(|value| (key.clone(), value.clone())));
            }
        }
    }

    /// The same with another file.
    pub(super) fn with_file(self, file: PathBuf) -> Self {
        Self {
            file: Some(file),
            ..self
        }
    }

    /// Adds settings that are weaker than what the command line says.
    pub(super) fn with_defaults(mut self, defaults: &[(&str, &str)]) -> Self {
        let given = |key: &str| self.flags.iter().any(|(known, _)| known == key);
        let missing = defaults.iter().filter(|(key, _)| !given(key));
        let missing: Vec<_> = missing
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.flags.splice(0..0, missing);
        self
    }

    /// The values given for a setting by a flag.
    pub(super) fn given(&self, key: &str) -> Option<&str> {
        self.flags
            .iter()
            .rev()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// The settings that the command line gives, besides where the server is.
    pub(super) fn own(&self) -> Vec<&str> {
        let keys = self.flags.iter().map(|(key, _)| key.as_str());
        keys.filter(|key| !SHARED.contains(key)).collect()
    }

    /// Where the command line says that the server is, if it names an address.
    pub(super) fn url(&self) -> Option<&Address> {
        self.url.as_ref()
    }

    /// The key for the address.
    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Refuses an address where only a server on this machine makes sense.
    pub(super) fn refuse_url(&self, command: &str) -> Result<(), Failure> {
        match &self.url {
            Some(_) => Err(Failure::usage(format!(
                "{command} works on this machine only: leave --url out"
            ))),
            None => Ok(()),
        }
    }

    /// Reads file, environment and flags. Reads them anew with every call.
    pub(super) fn load(&self) -> Result<Loaded, ConfigError> {
        let (file, flags) = (self.file.clone(), self.flags.clone());
        let env = environment();
        Config::load_from(&self.here, Sources { file, env, flags })
    }

    /// The settings without file and environment: for the demo, which must not open what another server keeps shut.
    pub(super) fn load_flags_only(&self) -> Result<Loaded, ConfigError> {
        Config::load(Sources {
            file: self.file.clone(),
            env: Vec::new(),
            flags: self.flags.clone(),
        })
    }

    /// A client of the server that is meant.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        if let Some(address) = &self.url {
            return Ok(Client::new(address.clone()).with_key(self.key.clone())?);
        }
        let socket = match self.given("socket") {
            // A mistake in the file must not keep anybody from a server that is named.
            Some(socket) => PathBuf::from(socket),
            None => socket_of(self.load()?.config),
        };
        let fits = data_folder::check_socket_path(&socket);
        fits.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Client::new(Address::Unix(socket)))
    }

    /// The flags that say all this to another process of ours.
    pub(super) fn as_args(&self) -> Vec<OsString> {
        let mut args = Vec::new();
        if let Some(file) = &self.file {
            args.extend(["--config".into(), file.clone().into_os_string()]);
        }
        for (key, value) in &self.flags {
            args.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        args
    }
}

/// The socket of the server that is meant: if nobody listens where the settings say, the one that the holder of the folder names.
fn socket_of(config: Config) -> PathBuf {
    // Who holds it is looked at first: that knocks at no door.
    let named = match data_folder::holder(&config.data_dir) {
        Ok(Some(Some(holder))) => holder.socket,
        _ => return config.socket,
    };
    if named == config.socket || named.as_os_str().is_empty() {
        return config.socket;
    }
    match data_folder::probe(&config.socket, &config.data_dir) {
        Probe::LockedButSilent { .. } => named,
        _ => config.socket,
    }
}

/// The environment without what is for the command and no setting.
fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name != KEY_VARIABLE)
        .collect()
}

/// Gives a command a flag for every setting. Most are hidden: `comet config default` explains them all.
pub(super) fn with_flags(command: clap::Command) -> clap::Command {
    let keys = config::dotted_keys()
        .into_iter()
        .filter(|key| !SHARED.contains(&key.as_str()));
    command.args(keys.map(|key| {
        // Clap wants names that live for ever; this happens once a process.
        let key: &'static str = key.leak();
        let arg = Arg::new(key)
            .action(ArgAction::Append)
            .value_name("VALUE")
            .help_heading("Settings");
        match key {
            "public.listen" => arg
                .long(long_flag(key))
                .alias("public-listen")
                .value_name("ADDRESS:PORT")
                .help("Let browsers connect to this address; repeat it for more"),
            "threads" => arg.long("threads").value_name("N").help(config::summary(key)),
            _ => arg
                .long(long_flag(key))
                .hide_short_help(true)
                .help(config::summary(key)),
        }
    }))
}

fn long_flag(key: &str) -> &'static str {
    config::flag(key).trim_start_matches('-').to_owned().leak()
}
