//! Where a server listens: a TCP address or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A text that is no address.
#[derive(Debug, thiserror::Error)]
#[error("address {0:?}: expected 127.0.0.1:8080, http://127.0.0.1:8080 or unix:/path/to/comet.sock")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `HOST-IP:PORT`, the same with `http://` before it, `unix:PATH`, or a path that holds a `/`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        let bare = text
            .strip_prefix("http://")
            .map_or(text, |rest| rest.trim_end_matches('/'));
        let bare = bare
            .strip_prefix("localhost:")
            .map_or(bare.to_owned(), |port| format!("127.0.0.1:{port}"));
        match bare.parse() {
            Ok(address) => Ok(Address::Tcp(address)),
            Err(_) if text.contains('/') && !text.contains("://") => Ok(Address::Unix(text.into())),
            Err(_) => Err(AddressError(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form_people_type() {
        for text in [
            "127.0.0.1:80",
            "http://127.0.0.1:80",
            "http://127.0.0.1:80/",
            "localhost:80",
        ] {
            assert_eq!(
                text.parse::<Address>().unwrap().to_string(),
                "127.0.0.1:80",
                "{text}"
            );
        }
        for text in ["unix:/a/b.sock", "/a/b.sock"] {
            assert_eq!(
                text.parse::<Address>().unwrap().to_string(),
                "unix:/a/b.sock",
                "{text}"
            );
        }
        for text in ["", "unix:", "nowhere", "http://example.org:80/x", "127.0.0.1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
