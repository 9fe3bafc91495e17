//! Where a server is: a Unix socket or an `http://` address; and why it cannot be reached.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::platform::MAX_SOCKET_PATH;

use super::ClientError;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Http {
        /// Host and port, as they are written in a URL.
        authority: String,
        /// What a front web server puts before our paths, without a slash at its end; mostly empty.
        base_path: String,
    },
}

impl Address {
    /// Parses `http://host[:port][/base]`.
    ///
    /// # Errors
    /// [`ClientError::BadAddress`] for everything else, `https` included: this client speaks no TLS.
    pub fn from_url(url: &str) -> Result<Self, ClientError> {
        let bad = |problem: &str| ClientError::BadAddress {
            given: url.to_owned(),
            problem: problem.to_owned(),
        };
        if url.starts_with("https://") {
            return Err(bad(
                "this command speaks no TLS: use http:// within the machine or through an ssh tunnel",
            ));
        }
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| bad("expected http://host:port"))?;
        let (authority, base_path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !visible(rest) || rest.contains(['?', '#']) {
            return Err(bad("expected http://host:port"));
        }
        // After the brackets of an IPv6 address, if any, a colon begins the port.
        let after_host = authority.rsplit(']').next().unwrap_or(authority);
        let authority = match after_host.split_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
            Some(_) => return Err(bad("expected a port from 1 to 65535 after the colon")),
            None => format!("{authority}:80"),
        };
        Ok(Self::Http {
            authority,
            base_path: base_path.trim_end_matches('/').to_owned(),
        })
    }

    /// What the `Host` header says.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "comet",
            Self::Http { authority, .. } => authority,
        }
    }

    /// What to put before a path.
    pub(super) fn base_path(&self) -> &str {
        match self {
            Self::Unix(_) => "",
            Self::Http { base_path, .. } => base_path,
        }
    }

    /// Why connecting failed.
    pub(super) fn explain(&self, error: &io::Error) -> ClientError {
        let address = self.to_string();
        match (self, error.kind()) {
            // A socket whose server died without removing it refuses; one that was never made is not found.
            (_, io::ErrorKind::ConnectionRefused) | (Self::Unix(_), io::ErrorKind::NotFound) => {
                ClientError::NotRunning { address }
            }
            (Self::Unix(path), io::ErrorKind::PermissionDenied) => denied(path),
            (Self::Unix(path), io::ErrorKind::InvalidInput) => ClientError::Broken {
                address,
                reason: match path.as_os_str().len() {
                    length if length > MAX_SOCKET_PATH => format!(
                        "the path is {length} bytes long, at most {MAX_SOCKET_PATH} are possible: name a shorter one \
                         with COMETSERVER_SOCKET or COMETSERVER_DATA_DIR"
                    ),
                    _ => error.to_string(),
                },
            },
            (_, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => ClientError::Timeout {
                address,
                after: super::CONNECT_TIMEOUT,
            },
            _ => ClientError::Broken {
                address,
                reason: error.to_string(),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Http { authority, base_path } => write!(f, "http://{authority}{base_path}"),
        }
    }
}

/// Names the socket, or the nearest folder above it that may be looked at, with its owner, and who we are.
fn denied(socket: &Path) -> ClientError {
    let found = socket
        .ancestors()
        .find_map(|path| Some((path, path.metadata().ok()?.uid())));
    let (path, owner) = match found {
        Some((path, uid)) => (path, user_name(uid)),
        None => (socket, "another user".to_owned()),
    };
    let user = user_name(rustix::process::geteuid().as_raw());
    ClientError::Denied {
        socket: path.display().to_string(),
        owner,
        user,
    }
}

fn user_name(uid: u32) -> String {
    crate::platform::user_name(uid).unwrap_or_else(|| format!("user {uid}"))
}
