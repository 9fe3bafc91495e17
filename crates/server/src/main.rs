//! The `comet` command.

use std::process::ExitCode;

use cometserver::{cli, gateway};

fn main() -> ExitCode {
    if let Some(code) = gateway::take_over() {
        return code;
    }
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        // Usage errors exit with 2, help and version with 0.
        Err(error) => error.exit(),
    };
    match cli::run(invocation) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
