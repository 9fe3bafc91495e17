//! The TOML file: every key finds its setting, or an error names its line.

use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::access::{Key, TokenKey, check_unique, too_open};
use super::settings::{KeyEntry, Namespace, NamespaceRule, TokenEntry};
use super::table::Section;
use super::values::{self, Problem, Raw};
use super::{Config, ConfigError, Warning, suggest};

/// A file beyond this is not ours; it bounds what a wrong path (a log, a device) costs.
const MAX_FILE: u64 = 16 << 20;

/// Fills `config` from the file at `path`.
pub(super) fn read(path: &Path, config: &mut Config, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let opened = std::fs::File::open(path).map_err(unreadable)?;
    opened
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err(unreadable(std::io::Error::other("is larger than 16MiB")));
    }
    let file = File { path, text: &text };
    let table = DeTable::parse(&text).map_err(|error| {
        // Not the error's own text: it quotes the line, and the line may hold a secret.
        file.error(
            error.span().map_or(0, |span| span.start),
            error.message().replace('\n', ", "),
        )
    })?;
    let inline_secrets = file.fill(table.get_ref(), config, warnings)?;
    if inline_secrets {
        warnings.extend(too_open(path));
    }
    Ok(())
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

/// Parses a value into the setting of that name; `None` if there is no such setting.
type Assign<'a> = dyn FnMut(&str, &Raw) -> Option<Result<(), Problem>> + 'a;

/// A key and its value, with the place in the file where the key is written.
type Entry<'t, 'i> = (usize, &'t str, &'t Spanned<DeValue<'i>>);

impl File<'_> {
    /// Returns whether a secret is written in the file itself.
    fn fill(
        &self,
        root: &DeTable<'_>,
        config: &mut Config,
        warnings: &mut Vec<Warning>,
    ) -> Result<bool, ConfigError> {
        let mut inline_secrets = false;
        for (at, key, value) in in_order(root) {
            match key {
                "keys" => {
                    for (at, table) in self.tables(at, key, value)? {
                        let mut entry = KeyEntry::default();
                        self.fill_entry("[[keys]]", table, &mut entry)?;
                        inline_secrets |= !entry.secret.expose().is_empty();
                        let key = Key::resolve(&entry, warnings)
                            .map_err(|e| self.entry_error(at, "keys", &entry.name, e))?;
                        config.keys.push(key);
                        let all = config.keys.iter().map(|key| (key.name.as_str(), &key.secret));
                        check_unique(all).map_err(|e| self.error(at, format!("[[keys]] {e}")))?;
                    }
                }
                "tokens" => {
                    for (at, table) in self.tables(at, key, value)? {
                        let mut entry = TokenEntry::default();
                        self.fill_entry("[[tokens]]", table, &mut entry)?;
                        inline_secrets |= !entry.secret.expose().is_empty();
                        let key = TokenKey::resolve(&entry, warnings)
                            .map_err(|e| self.entry_error(at, "tokens", &entry.name, e))?;
                        config.tokens.push(key);
                        let all = config.tokens.iter().map(|key| (key.name.as_str(), &key.secret));
                        check_unique(all).map_err(|e| self.error(at, format!("[[tokens]] {e}")))?;
                    }
                }
                "namespaces" => {
                    for (at, table) in self.tables(at, key, value)? {
                        config.namespaces.push(self.namespace(at, table)?);
                    }
                }
                _ => self.walk(
                    key,
                    (at, key, value),
                    &mut |path, raw| config.assign_dotted(path, raw),
                    &super::dotted_keys(),
                )?,
            }
        }
        Ok(inline_secrets)
    }

    fn namespace(&self, at: usize, table: &DeTable<'_>) -> Result<NamespaceRule, ConfigError> {
        let (mut pattern, mut namespace) = (None, Namespace::default());
        let mut known: Vec<String> = namespace.rows().iter().map(|row| row.key.to_owned()).collect();
        known.push("match".into());
        let mut assign = |path: &str, raw: &Raw| match path {
            "match" => Some(values::pattern(raw).map(|parsed| pattern = Some(parsed))),
            _ => namespace.assign(path, raw),
        };
        for entry in in_order(table) {
            self.walk(&format!("[[namespaces]] {}", entry.1), entry, &mut assign, &known)?;
        }
        let pattern = pattern.ok_or_else(|| {
            self.error(
                at,
                "[[namespaces]] match: expected a pattern over channel names such as news/*".into(),
            )
        })?;
        super::check_namespace(&namespace)
            .map_err(|e| self.error(at, format!("[[namespaces]] {pattern:?}: {e}")))?;
        Ok(NamespaceRule { pattern, namespace })
    }

    fn fill_entry(
        &self,
        shown: &str,
        table: &DeTable<'_>,
        section: &mut dyn Section,
    ) -> Result<(), ConfigError> {
        let known: Vec<String> = section.rows().iter().map(|row| row.key.to_owned()).collect();
        for entry in in_order(table) {
            let shown = format!("{shown} {}", entry.1);
            self.walk(&shown, entry, &mut |path, raw| section.assign(path, raw), &known)?;
        }
        Ok(())
    }

    /// Assigns one entry, or all that a table under it holds. `shown` is its name in error texts, `known` are all
    /// names that could be meant.
    fn walk(
        &self,
        shown: &str,
        entry: Entry<'_, '_>,
        assign: &mut Assign<'_>,
        known: &[String],
    ) -> Result<(), ConfigError> {
        let (at, path, value) = entry;
        let inside = format!("{path}.");
        let is_section = known.iter().any(|key| key.starts_with(&inside));
        match value.get_ref() {
            DeValue::Table(table) if is_section => {
                for (at, key, value) in in_order(table) {
                    let (shown, path) = (format!("{shown}.{key}"), format!("{path}.{key}"));
                    self.walk(&shown, (at, &path, value), assign, known)?;
                }
                return Ok(());
            }
            _ if is_section => return Err(self.error(at, format!("{shown}: expected a section, [{path}]"))),
            _ => {}
        }
        let raw = raw(value.get_ref()).relative_to(self.path.parent().unwrap_or(Path::new("")));
        match assign(path, &raw) {
            Some(Ok(())) => Ok(()),
            Some(Err(problem)) if path == "secret" => Err(self.error(at, format!("{shown}: {problem}"))),
            Some(Err(problem)) => Err(self.error(at, format!("{shown} {raw}: {problem}"))),
            None => Err(self.error(at, format!("unknown key {shown}: {}", suggest(path, known)))),
        }
    }

    /// The tables of an array of tables, with their places.
    fn tables<'t, 'i>(
        &self,
        at: usize,
        key: &str,
        value: &'t Spanned<DeValue<'i>>,
    ) -> Result<Vec<(usize, &'t DeTable<'i>)>, ConfigError> {
        let items = value.get_ref().as_array().map(|array| array.iter());
        let tables = items.and_then(|items| {
            items
                .map(|item| item.get_ref().as_table().map(|table| (item.span().start, table)))
                .collect()
        });
        tables.ok_or_else(|| self.error(at, format!("{key}: expected a section for each, [[{key}]]")))
    }

    fn entry_error(&self, at: usize, list: &str, name: &str, problem: Problem) -> ConfigError {
        self.error(at, format!("[[{list}]] {name:?}: {problem}"))
    }

    fn error(&self, at: usize, problem: String) -> ConfigError {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        ConfigError::File {
            path: self.path.to_owned(),
            line,
            problem,
        }
    }
}

/// The entries of a table as they stand in the file, so that the first mistake is reported first.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| (key.span().start, key.get_ref().as_ref(), value))
        .collect();
    entries.sort_by_key(|(at, ..)| *at);
    entries
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::Array(items) => match items.iter().map(|item| scalar(item.get_ref())).collect() {
            Some(items) => Raw::list(items),
            None => Raw::other("(a list of lists or tables)"),
        },
        DeValue::Table(_) => Raw::other("(a table)"),
        value => scalar(value).map_or(Raw::other("(a date)"), Raw::text),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
