//! Prints all settings with their docs and defaults, as a file to start from.

use std::fmt::Write;

use super::Config;
use super::settings::{KeyEntry, Namespace, TokenEntry};
use super::table::{Row, Section};

/// Where comments are wrapped already: the doc comments of the table are kept line by line.
const BLANK: &str = "";

/// A file with every setting at its default, each with its documentation.
///
/// Reading it back gives [`Config::default`]. What has no default (keys, namespaces, …) stands there as a comment.
pub fn default_toml() -> String {
    let config = Config::default();
    let mut out = String::new();
    section(&mut out, BLANK, "", &config);
    for (name, part) in config.sections() {
        section(&mut out, &format!("[{name}]"), "", part);
    }
    section(&mut out, "[[keys]]", "# ", &KeyEntry::default());
    section(&mut out, "[[tokens]]", "# ", &TokenEntry::default());
    namespaces(&mut out);
    out
}

fn namespaces(out: &mut String) {
    line(out, BLANK);
    line(
        out,
        "# Rules for channels, in order: the first match wins. What an entry does not say is as below, whatever",
    );
    line(out, "# [namespace_default] says.");
    line(out, "# [[namespaces]]");
    line(out, BLANK);
    line(
        out,
        "# A pattern over channel names: * is any run of characters but /, ** any run at all, \\ escapes.",
    );
    line(out, "# match = \"news/**\"");
    Namespace::default()
        .rows()
        .iter()
        .for_each(|row| setting(out, "# ", row));
}

/// One section; `off` is `"# "` if all of it is to be commented out.
fn section(out: &mut String, heading: &str, off: &str, section: &dyn Section) {
    if !out.is_empty() {
        line(out, BLANK);
    }
    section
        .about()
        .iter()
        .for_each(|text| line(out, &format!("#{text}")));
    if !heading.is_empty() {
        line(out, &format!("{off}{heading}"));
    }
    section.rows().iter().for_each(|row| setting(out, off, row));
}

fn setting(out: &mut String, off: &str, row: &Row) {
    line(out, BLANK);
    row.doc.iter().for_each(|text| line(out, &format!("#{text}")));
    match (row.example, row.default) {
        ("", "") => {}
        ("", default) => line(out, &format!("{off}{} = {}", row.key, written(default))),
        (example, "[]") => line(out, &format!("# {} = [{example:?}]", row.key)),
        (example, _) => line(out, &format!("# {} = {}", row.key, written(example))),
    }
}

/// A value as TOML has it: whole numbers and words of logic as they are, everything else in quotes.
fn written(value: &str) -> String {
    let number = value.parse::<u64>().is_ok() && (value == "0" || !value.starts_with('0'));
    if number || matches!(value, "true" | "false" | "[]") {
        value.to_owned()
    } else {
        format!("{value:?}")
    }
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a String cannot fail");
}
