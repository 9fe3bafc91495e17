//! The environment: `COMETSERVER_<SECTION>_<KEY>`, and what else it tells us about folders.

use std::ffi::OsString;
use std::path::PathBuf;

use super::{Warning, suggest};

/// What every variable of ours begins with.
const PREFIX: &str = "COMETSERVER_";

/// The variable that names the file.
pub(super) const CONFIG_VARIABLE: &str = "COMETSERVER_CONFIG";

/// What the environment says, before any of it is given a meaning.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// The file to read.
    pub(super) file: Option<PathBuf>,
    /// Settings: the variable's name, the dotted key, the value if it is UTF-8.
    pub(super) settings: Vec<(String, String, Option<String>)>,
    /// `XDG_STATE_HOME`.
    pub(super) state_home: Option<PathBuf>,
    /// `HOME`.
    pub(super) home: Option<PathBuf>,
}

/// The name of the variable for a setting.
pub(super) fn variable(dotted: &str) -> String {
    format!("{PREFIX}{}", dotted.replace('.', "_").to_ascii_uppercase())
}

/// Sorts the variables. An empty one counts as not set: that is how compose files and unit files leave things out.
pub(super) fn read(
    variables: impl Iterator<Item = (OsString, OsString)>,
    known: &[String],
    warnings: &mut Vec<Warning>,
) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        if value.is_empty() {
            continue;
        }
        match name {
            "XDG_STATE_HOME" => environment.state_home = Some(value.into()),
            "HOME" => environment.home = Some(value.into()),
            CONFIG_VARIABLE => environment.file = Some(value.into()),
            _ if !name.starts_with(PREFIX) || is_injected(name) => {}
            _ => match known.iter().find(|key| variable(key) == name) {
                Some(key) => {
                    environment
                        .settings
                        .push((name.to_owned(), key.clone(), value.into_string().ok()))
                }
                None => {
                    let names: Vec<String> = known.iter().map(|key| variable(key)).collect();
                    let hint = suggest(name, &names);
                    warnings.push(Warning(format!("unknown variable {name} is ignored: {hint}")));
                }
            },
        }
    }
    // Their order in the environment means nothing; errors should not depend on it.
    environment.settings.sort();
    environment
}

/// Whether Kubernetes puts such a name into every container beside a service called `cometserver`.
fn is_injected(name: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}
