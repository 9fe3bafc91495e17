//! The composition root: builds the house from a configuration, listens, drains on shutdown.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Config;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The socket for the site's own code.
    pub backend: PathBuf,
    /// The socket for front web servers.
    pub public: Option<PathBuf>,
    /// Public TCP addresses, with the ports that were really bound.
    pub tcp: Vec<SocketAddr>,
}

/// Called once, when the server listens.
pub type Ready = Box<dyn FnOnce(&Addresses) + Send>;

/// How to run.
pub struct Options {
    /// Whether to serve the demo page.
    pub demo: bool,
    /// Whom to tell that the server listens.
    pub ready: Option<Ready>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is none in this build.
    #[error("this build has no server yet")]
    Missing,
}

/// Runs a server until it is stopped by a signal or a request.
///
/// # Errors
/// [`StartError`] if it could not begin to listen; nothing is left behind.
pub fn run(_config: Config, _options: Options) -> Result<(), StartError> {
    Err(StartError::Missing)
}
