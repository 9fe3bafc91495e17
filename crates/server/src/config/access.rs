//! Keys and token secrets: read, checked, and never shown.

use std::collections::HashSet;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Warning;
use super::settings::{KeyEntry, TokenEntry};
use super::values::{self, Action, Problem, Raw};

/// A key is guessed online only, so 16 characters are enough.
const MIN_KEY: usize = 16;

/// HS256 can be attacked offline; RFC 7518, 3.2: a key of the same size as the hash output or larger.
const MIN_TOKEN_SECRET: usize = 32;

/// Bytes that are compared or sign, and are never shown: not by `Debug`, not in an error.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The bytes. Compare them in constant time.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A key that allows actions on public listeners.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name, unique, for logs.
    pub name: String,
    /// At least 16 visible ASCII characters.
    pub secret: Secret,
    /// What it allows; never empty.
    pub actions: Vec<Action>,
}

/// A secret that signs tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenKey {
    /// Its name, unique, for logs.
    pub name: String,
    /// At least 32 bytes.
    pub secret: Secret,
}

impl Key {
    /// Checks an entry of the file and reads its secret.
    pub(super) fn resolve(entry: &KeyEntry, warnings: &mut Vec<Warning>) -> Result<Self, Problem> {
        let secret = secret(&entry.secret, entry.secret_file.as_deref(), warnings)?;
        // It travels in a header, where blanks and control characters would not survive.
        if secret.0.len() < MIN_KEY || !secret.0.iter().all(u8::is_ascii_graphic) {
            return Err(format!(
                "secret: expected at least {MIN_KEY} visible ASCII characters without blanks"
            ));
        }
        if entry.actions.is_empty() {
            return Err(
                "actions: expected at least one of publish, history, presence, admin, ops, subscribe".into(),
            );
        }
        Ok(Self {
            name: entry.name.clone(),
            secret,
            actions: entry.actions.clone(),
        })
    }
}

impl TokenKey {
    /// Checks an entry of the file and reads its secret.
    pub(super) fn resolve(entry: &TokenEntry, warnings: &mut Vec<Warning>) -> Result<Self, Problem> {
        let secret = secret(&entry.secret, entry.secret_file.as_deref(), warnings)?;
        if secret.0.len() < MIN_TOKEN_SECRET {
            return Err(format!("secret: expected at least {MIN_TOKEN_SECRET} bytes"));
        }
        Ok(Self {
            name: entry.name.clone(),
            secret,
        })
    }
}

/// Refuses a name or secret that appears twice: a log line or a revocation must mean one entry.
pub(super) fn check_unique<'a>(entries: impl Iterator<Item = (&'a str, &'a Secret)>) -> Result<(), Problem> {
    let (mut names, mut secrets) = (HashSet::new(), HashSet::new());
    for (name, secret) in entries {
        if name.is_empty() {
            return Err("name: expected a name for the logs".into());
        }
        if !names.insert(name) {
            return Err(format!(
                "name {name:?}: expected another name than an entry before it"
            ));
        }
        if !secrets.insert(secret) {
            return Err(format!(
                "secret of {name:?}: expected another secret than an entry before it"
            ));
        }
    }
    Ok(())
}

/// A secret written in the file itself.
pub(super) fn inline(raw: &Raw) -> Result<Secret, Problem> {
    values::text(raw).map(|text| Secret(text.into_bytes().into()))
}

fn secret(inline: &Secret, file: Option<&Path>, warnings: &mut Vec<Warning>) -> Result<Secret, Problem> {
    match (inline.0.is_empty(), file) {
        (true, Some(file)) => read_secret(file, warnings),
        (true, None) => Err("secret: expected a secret, or the file that holds it in secret_file".into()),
        (false, None) => Ok(inline.clone()),
        (false, Some(_)) => Err("secret: expected either secret or secret_file, not both".into()),
    }
}

fn read_secret(path: &Path, warnings: &mut Vec<Warning>) -> Result<Secret, Problem> {
    let mut bytes = std::fs::read(path).map_err(|error| format!("secret_file {path:?}: {error}"))?;
    // Editors and `echo` end a file with a newline that nobody means to be part of the secret.
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    warnings.extend(too_open(path));
    Ok(Secret(bytes.into()))
}

/// Warns about a file with secrets that everybody on the machine can read.
pub(super) fn too_open(path: &Path) -> Option<Warning> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        Warning(format!(
            "{path:?} holds secrets and can be read by everybody (mode {mode:04o}): chmod o-r it"
        ))
    })
}
