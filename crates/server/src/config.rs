//! Everything that can be set: one struct, its defaults, its validation, and where each value comes from.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

mod access;
mod default_toml;
mod environment;
mod file;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod values;

use table::Section;
use values::{Problem, Raw};

pub use access::{Key, Secret, TokenKey};
pub use default_toml::default_toml;
pub use settings::{
    Backend, Config, Held, Limits, Log, Namespace, NamespaceRule, Ops, Presence, Public, Shutdown,
    StaticFiles, Storage,
};
pub(crate) use values::unquoted;
pub use values::{Action, Durability, LogFormat, LogLevel, Proxied};

/// What a reload takes over without a restart, whole sections or single settings; everything else is bound, opened or sized
/// at start.
const RELOADED: &[&str] = &[
    "exit_when_idle",
    "public.origins",
    "public.base_path",
    "limits.",
    "held.",
    "presence.member_info",
    "shutdown.",
    "namespace_default.",
];

/// Settings of those sections with which the hub is built, and which stay as they are until a restart.
const BUILT_IN: &[&str] = &[
    "limits.patterns_total",
    "limits.channels",
    "limits.log_memory",
    "limits.window",
    "limits.window_bytes",
    "limits.idempotency_keys",
    "limits.idempotency_window",
    "limits.one_visitor",
    "limits.all_visitors",
];

/// A log has at least so many files at its ceiling: the newest is being written, and only others can leave.
const SEGMENTS: usize = 4;

/// So many of the largest messages must fit into what visitors may make the server hold: one is written in up to twice its size,
/// and one more is being read.
const MESSAGES: usize = 4;

/// The data folder of a server that root runs.
const ROOT_DATA_DIR: &str = "/var/lib/cometserver";

/// Where settings come from, weakest first: defaults, file, environment, flags.
#[derive(Clone, Debug)]
pub struct Sources<E> {
    /// The file; without it, the one that `COMETSERVER_CONFIG` names; without that, none.
    pub file: Option<PathBuf>,
    /// The environment, as `std::env::vars_os` gives it.
    pub env: E,
    /// Dotted keys and values, such as `("limits.batch", "10")`. A list given twice adds up; of anything else the last counts.
    pub flags: Vec<(String, String)>,
}

/// A valid configuration and how it came about.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What is odd but harmless, to be logged.
    pub warnings: Vec<Warning>,
    /// The file that was read, as an absolute path, for the reload after the working directory has changed.
    pub file: Option<PathBuf>,
}

/// Something odd but harmless, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no configuration. Always the operator's to repair; a retry without a change is useless.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}: name another file with --config or COMETSERVER_CONFIG", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or says something that it cannot mean.
    #[error("{}:{line}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, its value, and what was expected.
        problem: String,
    },
    /// A variable, a flag, or several settings together are wrong.
    #[error("{setting}: {problem}")]
    Setting {
        /// The variable, flag or key with its value.
        setting: String,
        /// What was expected.
        problem: String,
    },
}

impl Config {
    /// Reads, merges and checks all settings.
    ///
    /// # Errors
    /// The first mistake found, with the file's line, the variable or the flag, and the way out.
    pub fn load<E>(sources: Sources<E>) -> Result<Loaded, ConfigError>
    where
        E: IntoIterator<Item = (OsString, OsString)>,
    {
        // Without a working directory (it was deleted) relative paths stay relative, and fail where they are opened.
        Self::load_from(&std::env::current_dir().unwrap_or_default(), sources)
    }

    /// The same with paths of the environment and the flags relative to `here`: for who has changed the working directory.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from<E>(here: &Path, sources: Sources<E>) -> Result<Loaded, ConfigError>
    where
        E: IntoIterator<Item = (OsString, OsString)>,
    {
        let mut warnings = Vec::new();
        let known = dotted_keys();
        let environment = environment::read(sources.env.into_iter(), &known, &mut warnings);
        let mut config = Self::default();
        let path = sources.file.or(environment.file);
        let file = path
            .filter(|path| !path.as_os_str().is_empty())
            .map(|path| here.join(path));
        if let Some(path) = &file {
            file::read(path, &mut config, &mut warnings)?;
        }
        for (name, key, value) in environment.settings {
            let value = value.ok_or_else(|| setting_error(&name, "expected UTF-8".into()))?;
            config.set(&name, &key, Raw::text(value).relative_to(here), &known)?;
        }
        for (key, value) in merged(sources.flags) {
            config.set(&flag(&key), &key, Raw::text(value).relative_to(here), &known)?;
        }
        config.resolve(environment.state_home, environment.home)?;
        config.check()?;
        Ok(Loaded {
            config,
            warnings,
            file,
        })
    }

    /// What a server that runs with these settings makes of `new` ones: those that it can take over, and of the others what
    /// it has. Returns these as well, by their dotted keys. `has_store`: it can keep something on disk.
    pub fn followed_by(&self, new: Self, has_store: bool) -> (Self, Vec<String>) {
        let mut waiting = self.waiting(&new);
        let mut config = new;
        for key in &waiting {
            config.take_dotted(key, self);
        }
        let limits = &mut config.limits;
        if limits.window_bytes < limits.message_size {
            // A message of that size fits into no window before that one grows, which is with the next start.
            limits.message_size = self.limits.message_size;
            waiting.push("limits.message_size".into());
        }
        if !has_store && config.is_durable() {
            // The log is opened, and read, before anything is served.
            let whose = match config.namespace_default.durability {
                Durability::Memory => "[[namespaces]] durability",
                _ => "namespace_default.durability",
            };
            waiting.push(whose.into());
        }
        (config, waiting)
    }

    /// The settings in which `new` differs and which a running server cannot take over.
    fn waiting(&self, new: &Self) -> Vec<String> {
        let values = |config: &Self| -> Vec<String> {
            config
                .sections()
                .iter()
                .fold(config.values(), |mut all, (_, section)| {
                    all.extend(section.values());
                    all
                })
        };
        let (old_values, new_values) = (values(self), values(new));
        let changed = dotted_keys()
            .into_iter()
            .zip(old_values.iter().zip(&new_values))
            .filter(|(_, (old, new))| old != new);
        let waits = |key: &String| {
            BUILT_IN.contains(&key.as_str()) || !RELOADED.iter().any(|prefix| key.starts_with(prefix))
        };
        changed.map(|(key, _)| key).filter(waits).collect()
    }

    /// Takes one setting from another configuration.
    fn take_dotted(&mut self, dotted: &str, from: &Self) {
        let Some((section, key)) = dotted.split_once('.') else {
            return self.take(dotted, from);
        };
        let theirs = from.sections();
        let theirs = theirs.iter().find(|(name, _)| *name == section);
        if let (Some(own), Some((_, theirs))) = (self.section_mut(section), theirs) {
            own.take(key, theirs.as_any());
        }
    }

    /// Is anything kept on disk?
    pub fn is_durable(&self) -> bool {
        let rules = self.namespaces.iter().map(|rule| &rule.namespace);
        rules
            .chain([&self.namespace_default])
            .any(|namespace| namespace.durability != Durability::Memory)
    }

    /// Every section with its name, in the order in which they are printed.
    fn sections(&self) -> [(&'static str, &dyn Section); 11] {
        [
            ("public", &self.public),
            ("backend", &self.backend),
            ("ops", &self.ops),
            ("limits", &self.limits),
            ("storage", &self.storage),
            ("held", &self.held),
            ("presence", &self.presence),
            ("static", &self.static_files),
            ("shutdown", &self.shutdown),
            ("log", &self.log),
            ("namespace_default", &self.namespace_default),
        ]
    }

    fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
        Some(match name {
            "public" => &mut self.public,
            "backend" => &mut self.backend,
            "ops" => &mut self.ops,
            "limits" => &mut self.limits,
            "storage" => &mut self.storage,
            "held" => &mut self.held,
            "presence" => &mut self.presence,
            "static" => &mut self.static_files,
            "shutdown" => &mut self.shutdown,
            "log" => &mut self.log,
            "namespace_default" => &mut self.namespace_default,
            _ => return None,
        })
    }

    fn assign_dotted(&mut self, dotted: &str, raw: &Raw) -> Option<Result<(), Problem>> {
        match dotted.split_once('.') {
            Some((section, key)) => self.section_mut(section)?.assign(key, raw),
            None => self.assign(dotted, raw),
        }
    }

    fn set(&mut self, shown: &str, key: &str, raw: Raw, known: &[String]) -> Result<(), ConfigError> {
        match self.assign_dotted(key, &raw) {
            Some(Ok(())) => Ok(()),
            Some(Err(problem)) => Err(setting_error(&format!("{shown} {raw}"), problem)),
            None => Err(setting_error(&format!("unknown key {key}"), suggest(key, known))),
        }
    }

    /// Fills in the paths that follow from others.
    fn resolve(&mut self, state_home: Option<PathBuf>, home: Option<PathBuf>) -> Result<(), ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            let is_root = rustix::process::geteuid().is_root();
            self.data_dir = default_data_dir(is_root, state_home, home).ok_or_else(|| {
                setting_error(
                    "data_dir",
                    "there is no home folder to put it into: set COMETSERVER_DATA_DIR".into(),
                )
            })?;
        }
        if self.socket.as_os_str().is_empty() {
            self.socket = self.data_dir.join("comet.sock");
        }
        if let Some(path) = self
            .public
            .socket
            .as_mut()
            .filter(|path| path.as_os_str().is_empty())
        {
            *path = self.data_dir.join("public/comet.sock");
        }
        Ok(())
    }

    /// Checks what no setting can say alone.
    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let pairs = [
            (
                "limits.window_bytes",
                limits.window_bytes,
                "limits.message_size",
                limits.message_size,
            ),
            (
                "limits.log_memory",
                limits.log_memory,
                "limits.window_bytes",
                limits.window_bytes,
            ),
            (
                "storage.max_size",
                self.storage.max_size,
                "four times storage.segment_size",
                self.storage.segment_size.saturating_mul(SEGMENTS),
            ),
        ];
        let pairs = pairs.into_iter().chain(limits.memory.map(|memory| {
            let least = limits.message_size.saturating_mul(MESSAGES);
            ("limits.memory", memory, "four times limits.message_size", least)
        }));
        for (key, value, least_key, least) in pairs {
            if value < least {
                let problem = format!("expected at least {least_key}, which is {least} bytes");
                return Err(setting_error(&format!("{key} of {value} bytes"), problem));
            }
        }
        if self.public.socket.as_ref() == Some(&self.socket) {
            let problem =
                "expected another path than socket: whoever connects there may publish and administer";
            return Err(setting_error(
                &format!("public.socket {:?}", self.socket),
                problem.into(),
            ));
        }
        let long = self
            .namespaces
            .iter()
            .find(|rule| rule.pattern.len() > limits.pattern_length);
        if let Some(rule) = long {
            let problem = format!(
                "expected at most limits.pattern_length, which is {} bytes",
                limits.pattern_length
            );
            return Err(setting_error(
                &format!("[[namespaces]] match {:?}", rule.pattern),
                problem,
            ));
        }
        check_namespace(&self.namespace_default)
            .map_err(|problem| setting_error("namespace_default", problem))
    }
}

/// The data folder if nobody names one; `None` without a home folder.
///
/// Relative paths in the variables are ignored, as the XDG base directory specification wants it.
pub fn default_data_dir(
    is_root: bool,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    if is_root {
        return Some(ROOT_DATA_DIR.into());
    }
    let state_home = state_home.filter(|path| path.is_absolute());
    let state = state_home.or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".local/state")));
    state.map(|state| state.join("cometserver"))
}

/// The name of the flag for a setting; that of the addresses for browsers, which everybody needs, is shorter.
pub fn flag(dotted: &str) -> String {
    match dotted {
        "public.listen" => "--listen".to_owned(),
        _ => format!("--{}", dotted.replace(['.', '_'], "-")),
    }
}

/// All settings by their dotted keys, top first, in the order of the table.
pub fn dotted_keys() -> Vec<String> {
    let config = Config::default();
    let top = config.rows().iter().map(|row| row.key.to_owned());
    let sections = config.sections();
    let inside = sections.iter().flat_map(|(name, section)| {
        section
            .rows()
            .iter()
            .map(move |row| format!("{name}.{}", row.key))
    });
    top.chain(inside).collect()
}

/// What a setting means, in one line: the first sentence of its documentation.
pub fn summary(dotted: &str) -> String {
    let config = Config::default();
    let (section, key) = dotted.split_once('.').unwrap_or(("", dotted));
    let sections = config.sections();
    let named = sections.iter().find(|(name, _)| *name == section);
    let (rows, key) = match named {
        Some((_, section)) => (section.rows(), key),
        None => (config.rows(), dotted),
    };
    let doc = rows
        .iter()
        .find(|row| row.key == key)
        .map_or(&[][..], |row| row.doc);
    let text = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    let sentence = text.split_inclusive(". ").next().unwrap_or_default();
    sentence.trim_end().trim_end_matches('.').to_owned()
}

fn check_namespace(namespace: &Namespace) -> Result<(), Problem> {
    if namespace.anonymous_presence && !namespace.presence {
        return Err("anonymous_presence: expected presence = true with it".into());
    }
    Ok(())
}

fn setting_error(setting: &str, problem: Problem) -> ConfigError {
    ConfigError::Setting {
        setting: setting.to_owned(),
        problem,
    }
}

/// Joins what is given twice: lists take comma-separated values, so for them both count; for all else the last does.
fn merged(flags: Vec<(String, String)>) -> Vec<(String, String)> {
    const LISTS: &[&str] = &[
        "public.listen",
        "public.proxied",
        "public.origins",
        "backend.listen",
        "ops.listen",
    ];
    let mut merged: Vec<(String, String)> = Vec::new();
    for (key, value) in flags {
        match merged.iter_mut().find(|(known, _)| *known == key) {
            Some((_, before)) if LISTS.contains(&key.as_str()) => *before = format!("{before},{value}"),
            Some((_, before)) => *before = value,
            None => merged.push((key, value)),
        }
    }
    merged
}

/// What to do about an unknown key: the nearest known one, or where to look.
fn suggest(unknown: &str, known: &[String]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let distance = |key: &str| strsim::damerau_levenshtein(key, unknown);
    let moved = known.iter().find(|key| last(key) == last(unknown));
    let near = known
        .iter()
        .min_by_key(|key| distance(key))
        .filter(|key| distance(key) <= 1 + unknown.len() / 5);
    // A misspelt section is reported before any key in it.
    let section = || {
        let mut names: Vec<&str> = known
            .iter()
            .filter_map(|key| Some(key.split_once('.')?.0))
            .collect();
        names.dedup();
        let nearest = names.into_iter().min_by_key(|name| distance(name))?;
        (distance(nearest) <= 2).then(|| format!("[{nearest}]"))
    };
    match near.or(moved).cloned().or_else(section) {
        Some(key) => format!("did you mean {key}?"),
        None => "comet config default prints all there are".into(),
    }
}
