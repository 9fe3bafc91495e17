//! The command line: what can be asked, and who answers. Every group of commands is one file.
//!
//! The seven commands of the PHP CometServer (`start stop status write read dump help`) keep their names, their
//! arguments and the phrases that scripts look for; see each command.

mod amount;
mod bench;
mod cgi;
mod configuration;
mod daemon;
mod demo;
mod failure;
mod messages;
mod serve;
mod settings;
mod show;
mod start;
mod storage;
mod subscribe;
mod token;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::value::RawValue;

pub use failure::Failure;
use settings::{Server, Settings};

/// What a command came to.
type Outcome = Result<ExitCode, Failure>;

/// The commands as the help lists them. A test keeps it complete.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Server", &["start", "stop", "status", "serve", "reload", "demo"]),
    ("Keys", &["write", "read", "dump", "delete"]),
    ("Channels", &["publish", "subscribe", "history"]),
    (
        "Tools",
        &[
            "config",
            "token",
            "storage",
            "cgi",
            "bench",
            "completions",
            "version",
            "help",
        ],
    ),
];

/// Commands that take every setting as a flag of its own; so does `config check`, which says whether they would do.
const WITH_SETTINGS: [&str; 3] = ["start", "serve", "demo"];

const HEADING: Style = AnsiColor::Yellow.on_default().bold();
const LITERAL: Style = AnsiColor::Green.on_default();
const STYLES: Styles = Styles::styled()
    .header(HEADING)
    .usage(HEADING)
    .literal(LITERAL)
    .placeholder(AnsiColor::Cyan.on_default())
    .error(AnsiColor::Red.on_default().bold());

#[derive(Debug, Parser)]
#[command(
    name = "comet",
    version,
    about = "A push server: what a site's code writes, its visitors' browsers show at once",
    styles = STYLES,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_version_flag = false
)]
struct Cli {
    #[command(flatten)]
    server: Server,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server in the background
    #[command(after_help = examples(start::EXAMPLES))]
    Start(start::Start),
    /// Stop the server
    #[command(after_help = examples(daemon::STOP_EXAMPLES))]
    Stop,
    /// Tell whether the server is running
    #[command(after_help = examples(daemon::STATUS_EXAMPLES))]
    Status(daemon::Status),
    /// Run the server in the foreground
    #[command(after_help = examples(serve::EXAMPLES))]
    Serve(serve::Serve),
    /// Let the server read its configuration again
    #[command(after_help = examples(daemon::RELOAD_EXAMPLES))]
    Reload,
    /// Try it out: a server in a folder of its own, open to this machine only
    ///
    /// COMETSERVER_ variables are not read: what they say of another server is not for one that is open to everybody.
    #[command(after_help = examples(demo::EXAMPLES))]
    Demo(demo::Demo),
    /// Set the value of a key; whoever listens to it is told
    #[command(after_help = examples(values::WRITE_EXAMPLES))]
    Write(values::Write),
    /// Print the value of a key
    #[command(after_help = examples(values::READ_EXAMPLES))]
    Read(values::Read),
    /// Print all keys and values
    #[command(after_help = examples(values::DUMP_EXAMPLES))]
    Dump,
    /// Forget the value of a key, or a channel's whole history
    #[command(after_help = examples(values::DELETE_EXAMPLES))]
    Delete(values::Delete),
    /// Publish a message in a channel
    #[command(after_help = examples(messages::PUBLISH_EXAMPLES))]
    Publish(messages::Publish),
    /// Print messages as they come
    #[command(after_help = examples(subscribe::EXAMPLES))]
    Subscribe(subscribe::Subscribe),
    /// Print the messages that a channel has kept
    #[command(after_help = examples(messages::HISTORY_EXAMPLES))]
    History(messages::History),
    /// Connect a browser's request to the server, as a CGI program or with FastCGI: what a web server runs
    #[command(after_help = examples(cgi::EXAMPLES))]
    Cgi,
    /// Check the configuration, or print one to start from
    #[command(subcommand, after_help = examples(configuration::EXAMPLES))]
    Config(configuration::Config),
    /// Make and look into tokens, with which browsers subscribe
    #[command(subcommand, after_help = examples(token::EXAMPLES))]
    Token(token::Token),
    /// Show what the log on disk takes; check it, back it up, restore it
    #[command(after_help = examples(storage::EXAMPLES))]
    Storage(storage::Storage),
    /// Measure a server
    #[command(after_help = examples(bench::EXAMPLES))]
    Bench(bench::Bench),
    /// Print a script that completes this command in a shell
    #[command(after_help = examples(COMPLETIONS_EXAMPLES))]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

impl Command {
    /// Was JSON asked for? Then standard output has nothing else, whatever happens.
    fn prints_json(&self) -> bool {
        match self {
            Command::Publish(publish) => publish.json,
            Command::Subscribe(subscribe) => subscribe.json,
            Command::History(history) => history.json,
            Command::Storage(storage) => storage.prints_json(),
            Command::Bench(bench) => bench.json,
            _ => false,
        }
    }
}

const COMPLETIONS_EXAMPLES: &str = "\
comet completions bash > /etc/bash_completion.d/comet
comet completions fish > ~/.config/fish/completions/comet.fish";

/// A command line that makes sense.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    settings: Settings,
}

/// Parses a command line, the program's name first.
///
/// # Errors
/// A usage error, or a request for help or the version: let it print itself and exit.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(args)?;
    let Cli { server, command } = Cli::from_arg_matches(&matches)?;
    let mut settings = Settings::new(server)?;
    let mut inner = matches.subcommand();
    while let Some((_, matches)) = inner {
        settings.add_flags(matches);
        inner = matches.subcommand();
    }
    Ok(Invocation { command, settings })
}

/// Does what the command line asks for.
///
/// # Errors
/// The reason, with the exit code that belongs to it.
pub fn run(invocation: Invocation) -> Result<ExitCode, Failure> {
    let prints_json = invocation.command.prints_json();
    answer(invocation).map_err(|failure| match prints_json {
        true => failure.on_stderr_only(),
        false => failure,
    })
}

fn answer(Invocation { command, settings }: Invocation) -> Outcome {
    match command {
        Command::Start(start) => start.run(settings),
        Command::Stop => daemon::stop(&settings),
        Command::Status(status) => status.run(&settings),
        Command::Serve(serve) => serve.run(settings),
        Command::Reload => daemon::reload(&settings),
        Command::Demo(demo) => demo.run(settings),
        Command::Write(write) => write.run(&settings),
        Command::Read(read) => read.run(&settings),
        Command::Dump => values::dump(&settings),
        Command::Delete(delete) => delete.run(&settings),
        Command::Publish(publish) => publish.run(&settings),
        Command::Subscribe(subscribe) => subscribe.run(&settings),
        Command::History(history) => history.run(&settings),
        Command::Cgi => cgi::run(),
        Command::Config(config) => config.run(&settings),
        Command::Token(token) => token.run(&settings),
        Command::Storage(storage) => storage.run(&settings),
        Command::Bench(bench) => bench.run(&settings),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command_without_settings(), "comet", &mut script);
            print(&script)
        }
        Command::Version => print(concat!("comet ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
    }
}

/// Writes a line to standard error. What nobody reads any more need not be said, and ends nothing.
fn note(line: &str) {
    crate::logging::say(line);
}

/// Writes to standard output: all of it, or an error that says why not.
fn print(bytes: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes an answer of the server as it is, on a line. What is no JSON did not come from one, and is not printed.
fn print_json(body: &[u8]) -> Outcome {
    let value: &RawValue = values::parsed(body)?;
    print(format!("{}\n", value.get()).as_bytes())
}

fn command() -> clap::Command {
    let command = command_without_settings();
    let template = template(&command);
    let with_flags = |command: clap::Command, name| command.mut_subcommand(name, settings::with_flags);
    WITH_SETTINGS
        .into_iter()
        .fold(command, with_flags)
        .mut_subcommand("config", |config| with_flags(config, "check"))
        .help_template(template)
        .after_help(EXIT_CODES)
}

fn command_without_settings() -> clap::Command {
    Cli::command()
}

const EXIT_CODES: &str = "\
Every setting that `comet config default` prints is a flag of start, serve, demo and config check too: --limits-batch 10.
Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration; status: 3 if no server is running.";

/// The help of the command itself, its commands in groups.
fn template(command: &clap::Command) -> String {
    let mut template = String::from("{about}\n\n{usage-heading} {usage}\n");
    for (group, names) in GROUPS {
        template.push_str(&format!("\n{HEADING}{group}:{HEADING:#}\n"));
        for name in names {
            let about = match command.find_subcommand(name).and_then(clap::Command::get_about) {
                Some(about) => about.to_string(),
                None => "Print this, or all about one command".to_owned(),
            };
            template.push_str(&format!("  {LITERAL}{name:<12}{LITERAL:#} {about}\n"));
        }
    }
    template.push_str("\n{options}{after-help}");
    template
}

/// The examples of a command, as its help shows them.
fn examples(lines: &str) -> String {
    let mut text = format!("{HEADING}Examples:{HEADING:#}");
    for line in lines.lines() {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_command_once() {
        let listed: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        let command = command();
        let known = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .chain(["help"]);
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), known.collect());
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len());
    }
}
