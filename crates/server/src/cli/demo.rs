//! `demo`: a server to play with: in a folder of its own, on this machine only, open to everybody on it.

use std::fs::DirBuilder;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::server::{Addresses, Options};

use super::settings::Settings;
use super::show::Paint;
use super::{Failure, Outcome, serve};

/// Where browsers look first; any free port if it is taken.
const FIRST_CHOICE: &str = "127.0.0.1:8080";
const ANY_PORT: &str = "127.0.0.1:0";

/// The channel that the demo page listens to.
const CHANNEL: &str = "demo";

/// Everything is open to everybody who can connect, who is on this machine.
const OPEN: [(&str, &str); 5] = [
    // What it prints is for somebody who has just begun.
    ("log.level", "warn"),
    ("namespace_default.public", "true"),
    ("namespace_default.anonymous_publish", "true"),
    ("namespace_default.presence", "true"),
    ("namespace_default.anonymous_presence", "true"),
];

/// What is said at the start is for a newcomer: nothing of limits that no demo comes near, and no log but of trouble.
const QUIET: [(&str, &str); 2] = [("log.level", "warn"), ("limits.connections", "10000")];

pub(super) const EXAMPLES: &str = "\
comet demo
comet demo --listen 127.0.0.1:9000 --data-dir /tmp/demo";

#[derive(Debug, clap::Args)]
pub(super) struct Demo {}

impl Demo {
    pub(super) fn run(self, settings: Settings) -> Outcome {
        settings.refuse_url("demo")?;
        let folder = match settings.given("data_dir") {
            Some(_) => None,
            None => Some(TemporaryFolder::create()?),
        };
        let settings = settings
            .with_defaults(&OPEN)
            .with_defaults(&QUIET)
            .with_defaults(&[("public.listen", free_address())]);
        let settings = match folder.as_ref().and_then(|folder| folder.0.to_str()) {
            Some(path) => settings.with_defaults(&[("data_dir", path)]),
            None => settings,
        };
        let loaded = settings.load_flags_only()?;
        refuse_other_machines(&loaded.config)?;
        let data_dir = loaded.config.data_dir.clone();
        let is_passing = folder.is_some();
        let ready = move |addresses: &Addresses| welcome(addresses, &data_dir, is_passing);
        let ended = serve::serve(
            loaded.config,
            Options {
                demo: true,
                progress: serve::on_terminal(),
                ready: Some(Box::new(ready)),
                ..Options::default()
            },
        );
        drop(folder);
        ended
    }
}

/// Everybody who can connect may do everything: nobody else than this machine may.
fn refuse_other_machines(config: &Config) -> Result<(), Failure> {
    let all = [&config.public.listen, &config.backend.listen, &config.ops.listen];
    match all
        .into_iter()
        .flatten()
        .find(|address| !address.ip().is_loopback())
    {
        Some(address) => Err(Failure::usage(format!(
            "demo --listen {address}: expected an address of this machine only, such as 127.0.0.1:{}; \
             for others there is `comet serve`",
            address.port()
        ))),
        None => Ok(()),
    }
}

fn free_address() -> &'static str {
    match TcpListener::bind(FIRST_CHOICE) {
        Ok(_) => FIRST_CHOICE,
        Err(_) => ANY_PORT,
    }
}

/// A folder that is removed when the demo ends.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn create() -> Result<Self, Failure> {
        // The name must not be guessable: /tmp is everybody's.
        let random = getrandom::u32().map_err(|error| Failure::new(format!("no randomness: {error}")))?;
        let path = std::env::temp_dir().join(format!("comet-demo-{random:08x}"));
        let made = DirBuilder::new().mode(0o711).create(&path);
        made.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Left behind in /tmp at worst.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn welcome(addresses: &Addresses, data_dir: &Path, is_passing: bool) {
    let paint = Paint::for_stdout();
    let program = std::env::args().next().unwrap_or_else(|| "comet".to_owned());
    let text = welcome_text(&addresses.tcp, &program, data_dir, is_passing, paint);
    // A demo that nobody watches runs all the same.
    let _ = super::print(text.as_bytes());
}

fn welcome_text(
    tcp: &[SocketAddr],
    program: &str,
    data_dir: &Path,
    is_passing: bool,
    paint: Paint,
) -> String {
    let url = tcp
        .first()
        .map(|address| format!("http://{address}"))
        .unwrap_or_default();
    let folder = quoted(&data_dir.to_string_lossy());
    let end = match is_passing {
        true => "Ctrl-C ends it and deletes what was published; a crash does not.".to_owned(),
        false => format!("Ctrl-C ends it; what was published stays in {folder}."),
    };
    let things = [
        (
            "Open this page in a browser, best in two windows",
            format!("{url}/"),
        ),
        (
            "Send it a message with curl",
            format!("curl '{url}/v1/publish?channel={CHANNEL}' -d 'Hello from curl'"),
        ),
        (
            "Send it one through the Unix socket, which needs no port at all",
            format!(
                "{} write {CHANNEL} 'Hello from the shell' --data-dir {folder}",
                quoted(program)
            ),
        ),
    ];
    let mut text = format!(
        "\n  {} {url}\n",
        paint.bold(&paint.green("CometServer is running at"))
    );
    text.push_str(&format!(
        "  {}\n",
        paint.dim(&format!("It is open to this machine only. {end}"))
    ));
    for (number, (what, how)) in (1..).zip(things) {
        text.push_str(&format!(
            "\n  {} {what}\n     {}\n",
            paint.yellow(&format!("{number}.")),
            paint.cyan(&how)
        ));
    }
    text.push('\n');
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_says_what_becomes_of_what_was_published() {
        let address = [SocketAddr::from(([127, 0, 0, 1], 8080))];
        let said = |is_passing| {
            let folder = Path::new("/tmp/a b");
            welcome_text(&address, "comet", folder, is_passing, Paint::for_stdout())
        };
        assert!(said(true).contains("Ctrl-C ends it and deletes what was published; a crash does not."));
        assert!(said(false).contains("Ctrl-C ends it; what was published stays in '/tmp/a b'."));
        assert!(!said(false).contains("deletes"));
    }

    #[test]
    fn words_are_quoted_only_if_a_shell_would_mistake_them() {
        assert_eq!(quoted("/tmp/demo-1"), "/tmp/demo-1");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
