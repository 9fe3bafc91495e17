//! `cgi`: what a web server runs for a browser's request. See [`crate::gateway`].

use super::Outcome;
use crate::gateway;

pub(super) const EXAMPLES: &str = "\
comet cgi
printf '#!/bin/sh\\nexec /opt/comet/comet cgi\\n' > ~/public_html/cgi-bin/push.cgi
spawn-fcgi -s ~/run/push.sock -n -- /opt/comet/comet cgi";

/// A web server starts it before arguments are looked at; here comes only who tries it by hand.
pub(super) fn run() -> Outcome {
    Ok(gateway::run())
}
