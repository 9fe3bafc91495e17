//! Why a command failed, for people, for scripts that read its output, and for the exit code.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::client::ClientError;
use crate::config::ConfigError;
use crate::logging;

use super::show::Paint;

/// The command could not do it.
const FAILED: u8 = 1;

/// The command was used in a way it cannot be, found out only after parsing.
const USAGE: u8 = 2;

/// `EX_CONFIG` of sysexits.h, which service managers know.
const CONFIGURATION: u8 = 78;

/// What scripts written for the old command look for on standard output.
const NOT_RUNNING: &str = "not running";

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    /// What standard output says as well.
    phrase: Option<&'static str>,
    /// What standard error says; nothing if nobody reads any more.
    message: Option<String>,
}

impl Failure {
    /// It could not be done.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            phrase: None,
            message: Some(message.into()),
        }
    }

    /// It was asked for in a way that cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            ..Self::new(message)
        }
    }

    /// The configuration is wrong.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self {
            code: CONFIGURATION,
            ..Self::new(message)
        }
    }

    /// Ends with this code; everything has been said.
    pub fn silent(code: u8) -> Self {
        Self {
            code,
            phrase: None,
            message: None,
        }
    }

    /// The same, with nothing on standard output: that is read as JSON.
    pub fn on_stderr_only(self) -> Self {
        Self { phrase: None, ..self }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// What went wrong, in one line; empty if everything has been said.
    pub fn message(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    /// Prints what is to be said and gives the exit code.
    pub fn report(self) -> ExitCode {
        // Where both streams are the same terminal, once is enough.
        let seen = io::stdout().is_terminal() && io::stderr().is_terminal();
        if let Some(phrase) = self.phrase.filter(|_| !seen) {
            // If nobody reads standard output, standard error still says it.
            let _ = writeln!(io::stdout(), "{phrase}");
        }
        if let Some(message) = self.message {
            let paint = Paint::for_stderr();
            logging::say(&format!("{} {message}", paint.red("comet:")));
        }
        ExitCode::from(self.code)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let phrase = matches!(error, ClientError::NotRunning { .. }).then_some(NOT_RUNNING);
        let code = if matches!(error, ClientError::BadAddress { .. }) {
            USAGE
        } else {
            FAILED
        };
        Self {
            code,
            phrase,
            message: Some(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::configuration(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // `comet dump | head` has seen enough: no error, and nobody to tell.
            io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::new(error.to_string()),
        }
    }
}
