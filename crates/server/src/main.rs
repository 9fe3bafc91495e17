//! The `comet` command.

use std::process::ExitCode;

use cometserver::{cli, gateway, logging, platform};

fn main() -> ExitCode {
    platform::ignore_file_size_signal();
    if let Some(code) = gateway::take_over() {
        return code;
    }
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        // Usage errors exit with 2, help and version with 0.
        Err(error) => error.exit(),
    };
    let code = match cli::run(invocation) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    };
    logging::flush();
    code
}
