//! `comet cgi`: connects a browser's request to the public socket, as a CGI program or a FastCGI responder.
//!
//! For hosts where a web server runs programs but proxies nowhere. A waiting visitor costs a small process here (CGI) or a
//! small thread (FastCGI), not an interpreter. It proves nothing about who asks: the visitor's own token
//! goes along. It does prove, by the server's key, that the site's own gateway asks: its places are its own then.

mod answer;
mod cgi;
mod fastcgi;
mod place;
mod relay;
mod request;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

pub use place::Place;
pub use request::{Asked, Refusal, Variables};

/// Was this process started by a web server, to answer a request or many? Then it does that, and this returns how it went.
///
/// To be asked before anything looks at the arguments: a web server may pass on as arguments what a visitor has written
/// behind the `?` (RFC 3875, 4.4).
pub fn take_over() -> Option<ExitCode> {
    let args: Vec<_> = std::env::args_os().collect();
    let rest = args.get(1..).unwrap_or_default();
    let variable = |name: &str| std::env::var_os(name);
    if variable("GATEWAY_INTERFACE").is_some() {
        return is_request(args.first().map(AsRef::as_ref), rest, variable).then(run);
    }
    let is_ours = rest.is_empty() || rest.len() == 1 && rest[0] == "cgi";
    (is_ours && fastcgi::is_listening()).then(run)
}

/// Answers the request, or the requests, for which a web server started this process.
pub fn run() -> ExitCode {
    let place = Place::find(
        |name| std::env::var_os(name),
        std::env::current_exe().ok().as_deref(),
    );
    let result = if fastcgi::is_listening() {
        fastcgi::serve(place)
    } else {
        cgi::serve(&place)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The web server's log. Nobody else is there to be told; that the visitor has left is no error.
            crate::logging::say(&format!("comet cgi: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Is this process the program that was requested, and not one that a requested program has started?
fn is_request(
    program: Option<&OsStr>,
    args: &[std::ffi::OsString],
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> bool {
    if args.is_empty() || args[0] == "cgi" {
        return true;
    }
    // What follows the `?` becomes arguments if there is no `=` in it.
    let query = variable("QUERY_STRING").unwrap_or_default();
    let could_be_arguments = !query.is_empty() && !query.as_encoded_bytes().contains(&b'=');
    let own = program.and_then(|program| Path::new(program).file_name());
    let is_script = ["SCRIPT_FILENAME", "SCRIPT_NAME", "PATH_TRANSLATED"]
        .iter()
        .any(|name| {
            let script = variable(name);
            script.is_some_and(|script| own.is_none() || Path::new(&script).file_name() == own)
        });
    could_be_arguments || is_script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(program: &str, args: &[&str], variables: &[(&str, &str)]) -> bool {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        is_request(Some(program.as_ref()), &args, |name| {
            let found = variables.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn what_a_visitor_writes_is_never_taken_for_a_command() {
        let script = ("SCRIPT_FILENAME", "/home/anna/cgi-bin/comet.cgi");
        for (args, query) in [
            (&["serve", "--data-dir", "/tmp/x"][..], "serve+--data-dir+/tmp/x"),
            (&["stop"], "stop"),
            (&["stop"], ""),
            (&["stop"], "channel=a"),
        ] {
            assert!(is(
                "/home/anna/cgi-bin/comet.cgi",
                args,
                &[script, ("QUERY_STRING", query)]
            ));
        }
        assert!(is("/opt/comet", &["stop"], &[("QUERY_STRING", "stop")]));
        assert!(is("/opt/comet", &["cgi"], &[script]), "from a wrapper");
        assert!(is("/opt/comet", &[], &[script]));
    }

    #[test]
    fn a_command_that_a_requested_script_runs_stays_a_command() {
        let script = ("SCRIPT_FILENAME", "/srv/www/publish.php");
        assert!(!is(
            "/opt/comet",
            &["publish", "news", "x"],
            &[script, ("QUERY_STRING", "")]
        ));
        assert!(!is("/opt/comet", &["start"], &[script, ("QUERY_STRING", "a=b")]));
    }
}
