//! Who sends a request, as far as limits tell visitors apart: by their address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::http::Request;

/// The visitor whose request it is. Valid for one request: on a front web server's connection the next may be another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visitor {
    /// Known by an address in the form that [`Visitor::at`] gives it.
    Address(IpAddr),
    /// No address is known: a front web server has named none, or the request is the site's own.
    Unknown,
}

impl Visitor {
    /// The visitor at an address. Addresses that one visitor has at will are one: of IPv6 the first 64 bits count, and
    /// `::ffff:a.b.c.d` is the IPv4 address a.b.c.d.
    ///
    /// No other form is taken for IPv4: what a translator or a tunnel (64:ff9b::/96, 2002::/16) makes of an address is its
    /// operator's to say, and of 2002::/16 each visitor has a /48.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            v4 => v4,
        })
    }

    /// The visitor that the last proxy has named: the last entry of the last `X-Forwarded-For`. Whatever stands before it
    /// may be the visitor's own claim, so nothing else is ever looked at.
    pub fn forwarded(request: &Request<'_>) -> Self {
        let last = request.headers_all("x-forwarded-for").last();
        last.and_then(last_address).map_or(Self::Unknown, Self::at)
    }

    /// The address, if one is known.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Unknown => None,
        }
    }
}

/// The last address of a list, as different proxies write it: bare, in brackets, with a port, with a zone.
fn last_address(value: &[u8]) -> Option<IpAddr> {
    // What others have written before it need not even be text.
    let last = value.rsplit(|byte| *byte == b',').next()?;
    let last = std::str::from_utf8(last).ok()?.trim();
    let with_port = || last.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bare = last
        .strip_prefix('[')
        .and_then(|inside| inside.strip_suffix(']'))
        .unwrap_or(last);
    let without_zone = bare.split_once('%').map_or(bare, |(address, _)| address);
    without_zone.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Visitor {
        Visitor::at(address.parse().unwrap())
    }

    fn named(value: &str) -> Visitor {
        last_address(value.as_bytes()).map_or(Visitor::Unknown, Visitor::at)
    }

    #[test]
    fn addresses_of_one_visitor_are_one() {
        for (one, other) in [
            ("192.0.2.7", "::ffff:192.0.2.7"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
            ("64:ff9b::192.0.2.7", "64:ff9b::192.0.2.8"),
        ] {
            assert_eq!(at(one), at(other), "{one} and {other}");
        }
        for (one, other) in [
            ("192.0.2.7", "192.0.2.8"),
            ("::ffff:192.0.2.7", "::ffff:192.0.2.8"),
            ("2001:db8:1:2::1", "2001:db8:1:3::1"),
            ("::192.0.2.7", "192.0.2.7"),
        ] {
            assert_ne!(at(one), at(other), "{one} and {other}");
        }
    }

    #[test]
    fn the_last_entry_counts_however_it_is_written_and_nothing_else_does() {
        for value in [
            "192.0.2.7",
            " 192.0.2.7\t",
            "203.0.113.5,192.0.2.7",
            "unknown, 192.0.2.7:4711",
            "::ffff:192.0.2.7",
            "[::ffff:192.0.2.7]:80",
        ] {
            assert_eq!(named(value), at("192.0.2.7"), "{value:?}");
        }
        assert_eq!(
            last_address(b"\xff, 192.0.2.7"),
            Some("192.0.2.7".parse().unwrap())
        );
        for value in [
            "2001:db8::1",
            "[2001:db8::2]",
            "[2001:db8::3]:80",
            "2001:db8::4%eth0",
        ] {
            assert_eq!(named(value), at("2001:db8::"), "{value:?}");
        }
        for value in [
            "",
            "192.0.2.7,",
            "192.0.2.7, unknown",
            "192.0.2.7, unix:",
            "192.0.2.7, _hidden",
            "192.0.2",
            "192.0.2.7 192.0.2.8",
            "[192.0.2.7",
            "\"[2001:db8::1]\"",
        ] {
            assert_eq!(named(value), Visitor::Unknown, "{value:?}");
        }
    }
}
